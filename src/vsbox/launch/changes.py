"""What a run would have changed in a directory that it left as it is: a patch to look at, applied in full or in part.

``captured.py`` reads it. Security: code inside chose every name, link and content. Nothing of the directory is
followed when changes are applied; and what the user's own tools would execute there (``.git``, ``.envrc`` …) is applied
only when that is said.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import secrets
import stat
from collections.abc import Callable, Collection, Iterable
from pathlib import PurePosixPath
from typing import Final, Literal

import msgspec

from vsbox.errors import ConflictError, UsageError, VsboxError
from vsbox.launch import paths
from vsbox.launch.arguments import path_of, paths_of
from vsbox.launch.files import DIRECTORY, MAKE, Changes, check_name, identity_of, opened_directory, text_of
from vsbox.launch.protected import Protected
from vsbox.plan.steps import printable

MOST_LINES: Final = 20_000
BLOCKED: Final = (-1,)


class Change(msgspec.Struct, frozen=True):
    """One path: what it is to be, and what it was when the run began.

    ``kind`` is ``file`` (``content``), ``link`` (``target``), ``directory`` or ``deleted``; ``before`` the identity of
    what was there (mode, size, time of change in ns, inode), or nothing.
    ``is_protected``: whether the user's own tools would execute it unasked.
    """

    path: str
    kind: Literal["file", "link", "directory", "deleted"]
    mode: int = 0o644
    content: bytes = b""
    target: str = ""
    before: tuple[int, ...] | None = None
    old_content: bytes | None = None
    is_protected: bool = False


class ChangeSet(msgspec.Struct, frozen=True):
    """Every change of one run, parents before children. ``method``: how it was kept apart."""

    changes: tuple[Change, ...]
    method: Literal["overlay", "copy"]
    is_complete: bool = True
    """Whether all that changed was read; else nothing of it is applied."""
    directory: tuple[int, int] | None = None
    """Device and inode of the directory that the run saw; applied to no other, if known."""

    def __bool__(self) -> bool:
        """Tell whether there is anything."""
        return bool(self.changes)

    @property
    def files(self) -> Changes:
        """The paths, as a :class:`Result` lists them."""
        real = [(text_of(change.path), change) for change in self.changes if change.kind != "directory"]
        return Changes(
            tuple(sorted(path for path, c in real if c.before is None and c.kind != "deleted")),
            tuple(sorted(path for path, c in real if c.before is not None and c.kind != "deleted")),
            tuple(sorted(path for path, c in real if c.kind == "deleted")),
            self.is_complete,
            tuple(sorted(path for path, c in real if c.is_protected and c.kind != "deleted")),
        )

    def patch(self, paths: Iterable[str] | None = None) -> str:
        """Return a unified diff; what is no text is only named."""
        wanted = None if paths is None else set(paths)
        shown = (c for c in self.changes if wanted is None or not wanted.isdisjoint({c.path, text_of(c.path)}))
        return "".join(map(_patch, shown))

    def apply(
        self, directory: str | os.PathLike[str], *, only: Iterable[str] | None = None, allow_protected: bool = False
    ) -> tuple[str, ...]:
        """Carry the changes out in a directory; return the paths.

        Raises:
            ConflictError: something there is not what it was any more, or is protected; nothing is changed.
            PolicyError: the directory is named through a link that code inside could have made.
            UsageError: ``only`` names what is no change, or there is no such directory.
            VsboxError: the system refuses one of them (a full disk); those before it, in this order, are applied.
        """
        chosen = self._choose(only)
        if not self.is_complete:
            raise ConflictError("cannot apply these changes: not all of them could be read", hint="raise disk_bytes?")
        real = paths.resolve(path_of("directory", directory))
        try:
            root = paths.open_resolved(real, DIRECTORY)
        except OSError as error:
            raise UsageError(f"cannot apply to {real}: {error.strerror}") from error
        paths.remember_written([real])  # the links among these changes were made by code inside
        try:
            status = os.fstat(root)
            if self.directory not in {None, (status.st_dev, status.st_ino)}:
                raise ConflictError(f"cannot apply to {os.fspath(directory)}: it is not the directory that the run saw")
            gone = {change.path for change in chosen if change.kind == "deleted"}
            protected = protected_after(chosen, lambda path: _identity(root, path) not in {None, BLOCKED})
            for change in chosen:
                if (change.is_protected or change.path in protected) and not allow_protected:
                    raise ConflictError(
                        f"cannot apply {printable(change.path)}: your own tools would execute it",
                        hint="look at it; then allow_protected=True, or only=[...] without it",
                    )
                before = None if _is_made_way_for(change, gone) else _identity(root, change.path)
                if before != change.before:
                    raise ConflictError(
                        f"cannot apply {printable(change.path)}: it has changed since",
                        hint="run it again on what is there now",
                    )
                if not _is_open(root, change.path):
                    raise ConflictError(f"cannot apply {printable(change.path)}: you may not write to its directory")
                if change.kind == "deleted" and not _is_emptied(root, change, gone):
                    raise ConflictError(f"cannot apply {printable(change.path)}: there is more in it that is to stay")
            _carry_out_all(root, chosen)
        finally:
            os.close(root)
        return tuple(change.path for change in chosen)

    def _choose(self, only: Iterable[str] | None) -> tuple[Change, ...]:
        if only is None:
            return self.changes
        known = {text_of(change.path): change.path for change in self.changes}  # as ``files`` has them
        wanted = {known.get(name, name) for name in paths_of("only", only)}
        unknown = wanted - {change.path for change in self.changes}
        if unknown:
            raise UsageError(f"cannot apply {min(unknown)}: nothing changed there")
        ways = {str(parent) for path in wanted for parent in PurePosixPath(path).parents}
        made = {c.path for c in self.changes if c.kind == "directory" and c.path in ways}
        return tuple(c for c in self.changes if c.path in wanted or c.path in made)


def protected_after(
    changes: Iterable[Change], was_there: Callable[[str], bool], linked: Collection[str] = ()
) -> Protected:
    """Return what is protected in a tree after these changes."""
    made = {change.path for change in changes if change.kind != "deleted"}
    gone = {change.path for change in changes if change.kind == "deleted"}
    return Protected(lambda path: path in made or (path not in gone and was_there(path)), linked)


# ---- patches ----


def _lines(data: bytes) -> list[str] | None:
    if b"\0" in data:
        return None
    try:
        lines = data.decode().split("\n")
    except UnicodeDecodeError:
        return None
    return [f"{line}\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])


def _patch(change: Change) -> str:
    name = printable(change.path)
    if change.kind == "directory":
        return f"directory {name}{_mode(change, 0o755)}\n"
    if change.kind == "link":
        replaces = change.before is not None and not stat.S_ISLNK(change.before[0])
        return (f"removed {name}\n" if replaces else "") + f"link {name} -> {printable(change.target)}\n"
    mode = _mode(change, 0o644)
    head = f"mode{mode} {name}\n" if mode and change.kind == "file" else ""
    if change.before is not None and change.before[0] == stat.S_IFDIR:
        return f"removed {name}/\n"
    new = _lines(change.content)
    old = None if change.before is not None and change.old_content is None else _lines(change.old_content or b"")
    if change.kind == "deleted" and old is None:
        return f"removed {name}\n"
    if new is None:
        return f"{head}binary {name} ({len(change.content)} bytes)\n"
    if old is None:  # text is shown, whatever was there
        return f"removed {name}\n{_patch(msgspec.structs.replace(change, before=None, old_content=None))}"
    before = "/dev/null" if change.before is None else f"a/{name}"
    after = "/dev/null" if change.kind == "deleted" else f"b/{name}"
    lines = _difference(old, new, before, after)
    text = "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)
    if text or (head and change.before is not None):
        return head + text
    return f"{'removed' if change.kind == 'deleted' else 'new'} {name} (empty, mode {change.mode:o})\n"


def _mode(change: Change, usual: int) -> str:
    """Return what is to be said of the permissions: nothing where they stay, or are what new files have."""
    before = usual if change.before is None or stat.S_ISDIR(change.before[0]) else stat.S_IMODE(change.before[0])
    return "" if before == change.mode else f" {before:o} -> {change.mode:o}"


def _difference(old: list[str], new: list[str], before: str, after: str) -> Iterable[str]:
    """Return a unified diff. What is long is replaced as a whole: code inside can make a comparison take hours."""
    if len(old) + len(new) <= MOST_LINES:
        return difflib.unified_diff(old, new, before, after)
    head = (f"--- {before}\n", f"+++ {after}\n", f"@@ -1,{len(old)} +1,{len(new)} @@\n")
    return (*head, *(f"-{line}" for line in old), *(f"+{line}" for line in new))


# ---- carrying out ----


def _identity(root: int, path: str) -> tuple[int, ...] | None:
    """Return what identifies what is at a path; None for nothing, ``BLOCKED`` where the way there is no directory."""
    parts = PurePosixPath(path).parts
    try:
        with opened_directory(root, parts[:-1]) as directory:
            return identity_of(os.lstat(parts[-1], dir_fd=directory))
    except FileNotFoundError:
        return None
    except OSError:
        return BLOCKED


def _is_made_way_for(change: Change, gone: set[str]) -> bool:
    """Tell whether something is to be made where nothing is by then, since another change removes what is there."""
    path = PurePosixPath(change.path)
    return change.kind != "deleted" and not gone.isdisjoint(map(str, (path, *path.parents)))


def _is_open(root: int, path: str) -> bool:
    """Tell whether the directory that something is in can be written, or is not there yet."""
    try:
        with opened_directory(root, PurePosixPath(path).parts[:-1]) as directory:
            return os.access(".", os.W_OK | os.X_OK, dir_fd=directory)
    except OSError:
        return True


def _is_emptied(root: int, change: Change, gone: set[str]) -> bool:
    """Tell whether all that is in a directory that is to be removed is removed as well."""
    if change.before is None or change.before[0] != stat.S_IFDIR:
        return True
    try:
        with opened_directory(root, PurePosixPath(change.path).parts) as directory:
            return all(f"{change.path}/{name}" in gone for name in os.listdir(directory))
    except OSError:
        return False


def _carry_out_all(root: int, chosen: tuple[Change, ...]) -> None:
    done = 0
    try:
        for change in chosen:
            _carry_out(root, change)
            done += 1
    except OSError as error:
        cause = f"cannot apply {printable(chosen[done].path)}: {error.strerror}"
        raise VsboxError(cause, hint=f"{done} of {len(chosen)} changes are applied") from error


def _carry_out(root: int, change: Change) -> None:
    path = check_name(change.path)
    if change.kind == "directory":
        with opened_directory(root, path.parts, make=True):
            return
    with opened_directory(root, path.parts[:-1], make=change.kind != "deleted") as directory:
        if change.kind == "deleted":
            is_directory = change.before is not None and change.before[0] == stat.S_IFDIR
            (os.rmdir if is_directory else os.unlink)(path.name, dir_fd=directory)
            return
        temporary = f".vsbox-{secrets.token_hex(8)}"
        try:
            if change.kind == "link":
                os.symlink(change.target, temporary, dir_fd=directory)
            else:
                with os.fdopen(os.open(temporary, MAKE, change.mode, dir_fd=directory), "wb") as file:
                    file.write(change.content)
                    os.fchmod(file.fileno(), change.mode)  # type: ignore[attr-defined,unused-ignore]
            os.rename(temporary, path.name, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=directory)
            raise
