"""What a run would have changed in a directory that it left as it is: a patch to look at, applied in full or in part.

It is read from the upper half of an overlay, or by comparing a copy with the original. Security: code inside chose
every name, link and content. Nothing of the directory is followed, neither when it is read nor when changes are
applied; and what the user's own tools would execute there (``.git``, ``.envrc`` …) is applied only when that is said.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import Final, Literal

import msgspec

from vsbox.errors import ConflictError, UsageError
from vsbox.launch.files import DIRECTORY, Changes, check_name, opened_directory, Walk
from vsbox.plan.project import is_protected_name

OPAQUE: Final = "user.overlay.opaque"
MOST_BYTES: Final = 1 << 30
READ: Final = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
MAKE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)


class Change(msgspec.Struct, frozen=True):
    """One path: what it is to be, and what it was when that was found out.

    ``kind`` is ``file`` (``content``), ``link`` (``target``), ``directory`` or ``deleted``; ``before`` the identity of
    what is there now (mode, size, time of change in ns, inode), or nothing.
    """

    path: str
    kind: Literal["file", "link", "directory", "deleted"]
    mode: int = 0o644
    content: bytes = b""
    target: str = ""
    before: tuple[int, ...] | None = None
    old_content: bytes | None = None

    @property
    def is_protected(self) -> bool:
        """Whether the user's own tools would execute it unasked."""
        return any(is_protected_name(part) for part in PurePosixPath(self.path).parts)


class ChangeSet(msgspec.Struct, frozen=True):
    """Every change of one run, parents before children. ``method``: how it was kept apart."""

    changes: tuple[Change, ...]
    method: Literal["overlay", "copy"]

    def __bool__(self) -> bool:
        """Tell whether there is anything."""
        return bool(self.changes)

    @property
    def files(self) -> Changes:
        """The paths, as a :class:`Result` lists them."""
        real = [change for change in self.changes if change.kind != "directory"]
        return Changes(
            tuple(sorted(c.path for c in real if c.before is None and c.kind != "deleted")),
            tuple(sorted(c.path for c in real if c.before is not None and c.kind != "deleted")),
            tuple(sorted(c.path for c in real if c.kind == "deleted")),
        )

    def patch(self, paths: Iterable[str] | None = None) -> str:
        """Return a unified diff; what is no text is only named."""
        wanted = None if paths is None else set(paths)
        return "".join(_patch(change) for change in self.changes if wanted is None or change.path in wanted)

    def apply(
        self, directory: str | os.PathLike[str], *, only: Iterable[str] | None = None, allow_protected: bool = False
    ) -> tuple[str, ...]:
        """Carry the changes out in a directory; return the paths.

        Raises:
            ConflictError: something there is not what it was any more, or is protected; nothing is changed.
            UsageError: ``only`` names what is no change.
        """
        chosen = self._choose(only)
        root = os.open(os.path.realpath(directory), DIRECTORY)
        try:
            for change in chosen:
                if change.is_protected and not allow_protected:
                    raise ConflictError(
                        f"cannot apply {change.path}: your own tools would execute it",
                        hint="look at it; then allow_protected=True, or only=[...] without it",
                    )
                if _identity(root, change.path) != change.before:
                    raise ConflictError(
                        f"cannot apply {change.path}: it has changed since", hint="run it again on what is there now"
                    )
            for change in chosen:
                _carry_out(root, change)
        finally:
            os.close(root)
        return tuple(change.path for change in chosen)

    def _choose(self, only: Iterable[str] | None) -> tuple[Change, ...]:
        if only is None:
            return self.changes
        wanted = set(only)
        unknown = wanted - {change.path for change in self.changes}
        if unknown:
            raise UsageError(f"cannot apply {min(unknown)}: nothing changed there")
        ways = {str(parent) for path in wanted for parent in PurePosixPath(path).parents}
        return tuple(c for c in self.changes if c.path in wanted or (c.kind == "directory" and c.path in ways))


# ---- patches ----


def _lines(data: bytes) -> list[str] | None:
    if b"\0" in data:
        return None
    try:
        return data.decode().splitlines(keepends=True)
    except UnicodeDecodeError:
        return None


def _visible(text: str) -> str:
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _patch(change: Change) -> str:
    name = _visible(change.path)
    if change.kind == "directory":
        return ""
    if change.kind == "link":
        return f"link {name} -> {_visible(change.target)}\n"
    old, new = _lines(change.old_content or b""), _lines(change.content)
    if old is None or new is None or (change.before is not None and change.old_content is None):
        return f"{'removed' if change.kind == 'deleted' else 'binary'} {name} ({len(change.content)} bytes)\n"
    before = "/dev/null" if change.before is None else f"a/{name}"
    after = "/dev/null" if change.kind == "deleted" else f"b/{name}"
    lines = list(difflib.unified_diff(old, new, before, after))
    text = "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)
    return text or f"{'removed' if change.kind == 'deleted' else 'new'} {name} (empty, mode {change.mode:o})\n"


# ---- reading ----


def _status(root: int, path: str) -> os.stat_result | None:
    parts = PurePosixPath(path).parts
    try:
        with opened_directory(root, parts[:-1]) as directory:
            return os.lstat(parts[-1], dir_fd=directory)
    except OSError:
        return None


def _identity(root: int, path: str) -> tuple[int, ...] | None:
    status = _status(root, path)
    if status is None:
        return None
    if stat.S_ISDIR(status.st_mode):
        return (stat.S_IFDIR, status.st_ino)
    return status.st_mode, status.st_size, status.st_mtime_ns, status.st_ino


def _content(root: int, path: str) -> bytes | None:
    parts = PurePosixPath(path).parts
    try:
        with contextlib.ExitStack() as stack:
            directory = stack.enter_context(opened_directory(root, parts[:-1]))
            file = stack.enter_context(os.fdopen(os.open(parts[-1], READ, dir_fd=directory), "rb"))
            return file.read(MOST_BYTES) if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else None
    except OSError:
        return None


def _link(root: int, path: str) -> str:
    parts = PurePosixPath(path).parts
    with opened_directory(root, parts[:-1]) as directory:
        return os.readlink(parts[-1], dir_fd=directory)


def _made(root: int, lower: int, path: str, status: os.stat_result) -> Change | None:
    """Return the change that an entry stands for; None for one that is as it was, or nothing to keep."""
    before = _identity(lower, path)
    mode = stat.S_IMODE(status.st_mode) & 0o777
    if stat.S_ISDIR(status.st_mode):
        return (
            None if before is not None and before[0] == stat.S_IFDIR else Change(path, "directory", mode, before=before)
        )
    if stat.S_ISLNK(status.st_mode):
        target = _link(root, path)
        with contextlib.suppress(OSError):
            if before is not None and stat.S_ISLNK(before[0]) and _link(lower, path) == target:
                return None
        return Change(path, "link", 0o777, target=target, before=before)
    if not stat.S_ISREG(status.st_mode):
        return None
    new, old = _content(root, path) or b"", _content(lower, path) if before is not None else None
    if before is not None and new == old and stat.S_IMODE(before[0]) == mode:
        return None
    return Change(path, "file", mode, new, before=before, old_content=old)


def _removed(lower: int, path: str) -> Iterator[Change]:
    """Yield the removal of whatever is at a path, what is in it first."""
    status = _status(lower, path)
    if status is None:
        return
    if stat.S_ISDIR(status.st_mode):
        with contextlib.suppress(OSError), opened_directory(lower, PurePosixPath(path).parts) as directory:
            for below, _ in reversed(list(Walk(directory, f"{path}/"))):
                yield Change(below, "deleted", before=_identity(lower, below), old_content=_content(lower, below))
    yield Change(path, "deleted", before=_identity(lower, path), old_content=_content(lower, path))


def _is_opaque(root: int, path: str) -> bool:
    try:
        with opened_directory(root, PurePosixPath(path).parts) as directory:
            return bool(os.getxattr(directory, OPAQUE) == b"y")  # type: ignore[attr-defined,unused-ignore]
    except OSError:
        return False


def read_overlay(upper: int, original: str) -> ChangeSet:
    """Return what the upper half of an overlay says. Source: https://docs.kernel.org/filesystems/overlayfs.html."""
    found: list[Change] = []
    lower = os.open(original, DIRECTORY)
    try:
        for path, status in Walk(upper, make_readable=True):
            if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:  # type: ignore[attr-defined,unused-ignore]
                found += _removed(lower, path)
                continue
            if stat.S_ISDIR(status.st_mode) and _is_opaque(upper, path):
                found += _gone_below(upper, lower, path)
            change = _made(upper, lower, path, status)
            if change is not None:
                if change.before is not None and change.before[0] == stat.S_IFDIR and change.kind != "directory":
                    found += _removed(lower, path)
                    change = msgspec.structs.replace(change, before=None)
                found.append(change)
    finally:
        os.close(lower)
    return ChangeSet(tuple(found), "overlay")


def _gone_below(upper: int, lower: int, path: str) -> Iterator[Change]:
    """What of a directory that was made anew is not in it any more."""
    with contextlib.suppress(OSError), opened_directory(lower, PurePosixPath(path).parts) as directory:
        for below, status in reversed(list(Walk(directory, f"{path}/"))):
            if _status(upper, below) is None:
                old = None if stat.S_ISDIR(status.st_mode) else _content(lower, below)
                yield Change(below, "deleted", before=_identity(lower, below), old_content=old)


def read_copy(copy: int, original: str) -> ChangeSet:
    """Return how a copy of a directory differs from it."""
    found: list[Change] = []
    lower = os.open(original, DIRECTORY)
    try:
        there = dict(Walk(copy, make_readable=True))
        gone = [path for path, _ in Walk(lower) if path not in there]
        found += [
            Change(path, "deleted", before=_identity(lower, path), old_content=_content(lower, path))
            for path in reversed(gone)
        ]
        made = (_made(copy, lower, path, status) for path, status in there.items())
        found += [change for change in made if change is not None]
    finally:
        os.close(lower)
    return ChangeSet(tuple(found), "copy")


# ---- carrying out ----


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
        if change.kind == "link":
            os.symlink(change.target, temporary, dir_fd=directory)
        else:
            with os.fdopen(os.open(temporary, MAKE, change.mode, dir_fd=directory), "wb") as file:
                file.write(change.content)
                os.fchmod(file.fileno(), change.mode)  # type: ignore[attr-defined,unused-ignore]
        try:
            os.rename(temporary, path.name, src_dir_fd=directory, dst_dir_fd=directory)
        except OSError:
            os.unlink(temporary, dir_fd=directory)
            raise
