"""After runs in a project: what the host would execute and was not there before goes into quarantine.

The launcher looks through the project (``native/project.c``) and leaves in ``sandbox/runs`` what is to be done:
``NAME.todo`` beside the record ``NAME`` of a run that has ended. Bytecode that was written meanwhile is removed:
Python makes it anew.

Security: other runs may still change the project. So everything is done relative to open directories, no symbolic
link is followed, and nothing that is taken away keeps a name that a tool looks for.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from vsbox.box.layout import Layout
from vsbox.errors import BoxError

PATH_ONLY: Final = getattr(os, "O_PATH", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
LONGEST_NAME: Final = 200


@dataclass
class Tidied:
    """What was done: where each quarantined path is now, links put back, what the host replaced, bytecode removed."""

    quarantined: dict[str, str] = field(default_factory=dict)
    restored: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    bytecode: int = 0
    failed: dict[str, str] = field(default_factory=dict)


@contextlib.contextmanager
def _opened(name: str, directory: int | None = None) -> Iterator[int]:
    """Open a directory for reaching what is in it; it need not be readable."""
    descriptor = os.open(name, PATH_ONLY | os.O_DIRECTORY, dir_fd=directory)  # type: ignore[attr-defined,unused-ignore]
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _holder_of(path: str) -> Iterator[tuple[int, str]]:
    """Open what holds a path, one component after another, and return it with the last component."""
    *parents, name = path.lstrip("/").split("/")
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(_opened("/"))
        for parent in parents:
            directory = stack.enter_context(_opened(parent, directory))
        yield directory, name


def _open_up(directory: int, name: str) -> None:
    """Let the owner change a directory that code inside has made read-only."""
    with contextlib.suppress(OSError), _opened(name, directory) as descriptor:
        mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
        os.chmod(f"/proc/self/fd/{descriptor}", mode | stat.S_IRWXU)


@dataclass
class _Quarantine:
    """Where the leavings of one run go, under flat numbered names; what cannot go there is renamed where it is."""

    place: Path
    taken: int = 0

    def take(self, directory: int, name: str) -> str:
        """Take something away; return where it is now, absolute, or the new name that it has beside its old one."""
        self.taken += 1
        self.place.mkdir(parents=True, exist_ok=True)
        kept = self.place / f"{self.taken:04d}-{name.encode()[:LONGEST_NAME].decode(errors='ignore')}"
        try:
            os.rename(name, kept, src_dir_fd=directory)
            return str(kept)
        except PermissionError:
            _open_up(directory, ".")
            _open_up(directory, name)
        except FileNotFoundError:
            raise
        except OSError:  # another filesystem, a full disk
            pass
        with contextlib.suppress(OSError):
            os.rename(name, kept, src_dir_fd=directory)
            return str(kept)
        aside = f"vsbox-quarantined-{self.place.name}-{self.taken:04d}"
        os.rename(name, aside, src_dir_fd=directory, dst_dir_fd=directory)
        return aside


def _remove(directory: int, name: str, quarantine: _Quarantine) -> None:
    """Remove bytecode; where that fails half-way, the rest goes into quarantine."""
    try:
        shutil.rmtree(name, dir_fd=directory)
    except OSError:
        quarantine.take(directory, name)


def _restore(directory: int, name: str, text: str, quarantine: _Quarantine) -> str | None:
    """Put a link back; return where that is now which had taken its place."""
    with contextlib.suppress(OSError):
        if os.readlink(name, dir_fd=directory) == text:
            return None
    with contextlib.suppress(FileNotFoundError):
        moved = quarantine.take(directory, name)
        os.symlink(text, name, dir_fd=directory)
        return moved
    os.symlink(text, name, dir_fd=directory)
    return None


def _do(action: str, path: str, text: str, quarantine: _Quarantine, tidied: Tidied) -> None:
    with _holder_of(path) as (directory, name):
        moved = None
        if action == "take":
            moved = quarantine.take(directory, name)
        elif action == "remove":
            _remove(directory, name, quarantine)
            tidied.bytecode += 1
        elif action == "restore":
            moved = _restore(directory, name, text, quarantine)
            tidied.restored.append(path)
        elif action == "report":
            tidied.replaced.append(path)
        if moved:
            tidied.quarantined[path] = os.path.join(os.path.dirname(path), moved)


def _read_actions(todo: Path) -> Iterator[tuple[str, str, str]]:
    fields = [os.fsdecode(text) for text in todo.read_bytes().split(b"\0")]
    yield from zip(fields[::3], fields[1::3], fields[2::3], strict=False)


def tidy(layout: Layout) -> Tidied:
    """Do what is to be done after runs that have ended.

    What fails does not keep the rest from being done; its path is in ``failed`` with the reason, and the record of the
    run stays, so that the next start tries again.
    """
    tidied = Tidied()
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    for todo in sorted((layout.sandbox / "runs").glob("[0-9a-f]*.todo")):
        quarantine = _Quarantine(layout.sandbox / "quarantine" / f"{stamp}-{todo.stem}")
        failed: dict[str, str] = {}
        for action, path, text in _read_actions(todo):
            try:
                _do(action, path, text, quarantine, tidied)
            except OSError as error:  # noqa: PERF203 - what fails must not keep the rest from being done
                if not isinstance(error, FileNotFoundError):  # gone by itself
                    failed[path] = error.strerror or str(error)
        if quarantine.taken:
            _write_index(quarantine.place, tidied)
        if not failed:
            todo.with_suffix("").unlink(missing_ok=True)
            todo.unlink(missing_ok=True)
        tidied.failed |= failed
    return tidied


def _write_index(place: Path, tidied: Tidied) -> None:
    here = {Path(now).name: path for path, now in tidied.quarantined.items() if is_in(now, place)}
    (place / "index.json").write_text(json.dumps(here, indent=2) + "\n", encoding="utf-8")


def is_in(path: str, place: Path) -> bool:
    """Tell whether a path is directly in a place."""
    return Path(path).parent == place


def settle(layout: Layout) -> None:
    """See to runs that were killed, before the box is changed so that nobody knows of them any more.

    Raises:
        BoxError: something that they left could not be taken away.
    """
    if not (layout.sandbox / "tidy").exists() or not any((layout.sandbox / "runs").glob("[0-9a-f]*")):
        return
    answer = subprocess.run(
        [str(layout.sandbox / "tidy")], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd="/", check=False
    )
    if answer.returncode:
        raise BoxError(
            f"cannot clean up after a run of {layout.root} that was killed",
            hint="see the message above, then try again",
        )
