"""After runs in a project: what the host would execute and was not there before goes into quarantine.

The launcher notes each run in ``sandbox/runs`` (``native/project.c``) and asks for this when something has
appeared, or when a record is left of a run whose launcher was killed. Bytecode that was written meanwhile
is removed: Python makes it anew.

Security: other runs of the box may still change the project. So everything is done relative to open
directories, and no symbolic link is followed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from vsbox.box.layout import Layout
from vsbox.plan.project import is_protected_name
from vsbox.policy.grants import grants_of
from vsbox.policy.model import Policy

MAX_DEPTH = 100
DIRECTORY = os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY | os.O_NOFOLLOW  # type: ignore[attr-defined,unused-ignore]


@dataclass
class Tidied:
    """What was done: where each quarantined path is now, links put back, directories of bytecode removed."""

    quarantined: dict[str, Path] = field(default_factory=dict)
    restored: list[str] = field(default_factory=list)
    bytecode: int = 0


@dataclass(frozen=True)
class _Run:
    """An ended run: what was there as it began, with the text of what is a link, and when that was."""

    record: Path
    before: dict[str, str]
    since_ns: int


@dataclass(frozen=True)
class _Found:
    """Something below the project, by the open directory that holds it."""

    directory: int
    name: str
    path: str
    link: str
    is_bytecode: bool


def _ended_runs(layout: Layout) -> Iterator[_Run]:
    directory = layout.sandbox / "runs"
    for record in sorted(directory.glob("[0-9]*")) if directory.is_dir() else ():
        with record.open("rb+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # type: ignore[attr-defined,unused-ignore]
            except OSError:
                continue
            texts = [os.fsdecode(text) for text in file.read().split(b"\0")]
            pairs = zip(texts[::2], texts[1::2], strict=False)
            yield _Run(record, dict(pairs), os.fstat(file.fileno()).st_mtime_ns)


def _link_text(directory: int, name: str) -> str:
    try:
        return os.readlink(name, dir_fd=directory)
    except OSError:
        return ""


def _is_environment(directory: int, name: str) -> bool:
    try:
        os.stat(f"{name}/pyvenv.cfg", dir_fd=directory, follow_symlinks=False)
    except OSError:
        return False
    return True


def _find(directory: int, path: str, skip: frozenset[str], depth: int = 0) -> Iterator[_Found]:
    with os.scandir(directory) as entries:
        listed = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_directory in listed:
        below = f"{path}/{name}"
        if below in skip:
            continue
        if is_protected_name(name) or (is_directory and (depth >= MAX_DEPTH or _is_environment(directory, name))):
            yield _Found(directory, name, below, _link_text(directory, name), is_bytecode=False)
        elif name == "__pycache__":
            yield _Found(directory, name, below, "", is_bytecode=True)
        elif is_directory:
            with contextlib.suppress(OSError), _opened(name, directory) as child:
                yield from _find(child, below, skip, depth + 1)


@contextlib.contextmanager
def _opened(name: str, directory: int | None = None) -> Iterator[int]:
    descriptor = os.open(name, DIRECTORY, dir_fd=directory)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _is_younger(found: _Found, since_ns: int) -> bool:
    """Tell whether bytecode was written since; nothing inside can set the time of a change of status."""
    try:
        with _opened(found.name, found.directory) as directory:
            changes = [os.fstat(directory).st_ctime_ns]
            with os.scandir(directory) as entries:
                changes += [entry.stat(follow_symlinks=False).st_ctime_ns for entry in entries]
    except OSError:
        return True  # no directory: nothing that Python made
    return max(changes) >= since_ns


def _remove(found: _Found) -> None:
    mode = os.stat(found.name, dir_fd=found.directory, follow_symlinks=False).st_mode
    if stat.S_ISDIR(mode):
        shutil.rmtree(found.name, dir_fd=found.directory)
    else:
        os.unlink(found.name, dir_fd=found.directory)


def _quarantine(found: _Found, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.rename(found.name, place, src_dir_fd=found.directory)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        source = Path(f"/proc/self/fd/{found.directory}") / found.name
        if source.is_symlink() or not source.is_dir():
            shutil.copy2(source, place, follow_symlinks=False)
        else:
            shutil.copytree(source, place, symlinks=True)
        _remove(found)


def _restore_links(run: _Run, tidied: Tidied) -> None:
    for path, text in run.before.items():
        if not text or os.path.lexists(path):
            continue
        with contextlib.suppress(OSError), _opened(os.path.dirname(path)) as directory:  # noqa: PTH120
            os.symlink(text, os.path.basename(path), dir_fd=directory)  # noqa: PTH119
            tidied.restored.append(path)


def _tidy_after(run: _Run, project: str, skip: frozenset[str], place: Path, tidied: Tidied) -> None:
    with _opened(project) as top:
        for found in _find(top, project, skip):
            if found.is_bytecode and _is_younger(found, run.since_ns):
                _remove(found)
                tidied.bytecode += 1
            elif not found.is_bytecode and run.before.get(found.path) != found.link:
                target = place / os.path.relpath(found.path, project)
                _quarantine(found, target)
                tidied.quarantined[found.path] = target
    _restore_links(run, tidied)


def tidy(layout: Layout, policy: Policy) -> Tidied:
    """Clean up after every run that has ended.

    Raises:
        OSError: something could not be moved; the record of its run stays, and the next start tries again.
    """
    tidied = Tidied()
    if policy.project is None:
        return tidied
    skip = frozenset({str(layout.root), *(grant.path for grant in grants_of(policy))})
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    for run in _ended_runs(layout):
        place = layout.sandbox / "quarantine" / f"{stamp}-{run.record.name}"
        _tidy_after(run, policy.project, skip, place, tidied)
        run.record.unlink(missing_ok=True)
    return tidied
