"""What a run would have changed in a directory that it left as it is: a patch to look at, applied in full or in part.

It is read from the upper half of an overlay, or by comparing a copy with the original. Security: code inside chose
every name, link and content. Nothing of the directory is followed, neither when it is read nor when changes are
applied; and what the user's own tools would execute there (``.git``, ``.envrc`` …) is applied only when that is said.
"""

from __future__ import annotations

import contextlib
import difflib
import itertools
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import BinaryIO, Final, Literal

import msgspec

from vsbox.errors import ConflictError, UsageError
from vsbox.launch.files import DIRECTORY, MOST_ENTRIES, Changes, Walk, check_name, opened_directory, text_of
from vsbox.plan.project import is_protected_name

OPAQUE: Final = "user.overlay.opaque"
CHUNK_BYTES: Final = 1 << 20
MOST_LINES: Final = 20_000
MOST_OLD_BYTES: Final = 4 << 20
"""Of a file as it was, to be shown."""
ENVIRONMENT: Final = "pyvenv.cfg"
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
        return any(is_protected_name(part) or part == ENVIRONMENT for part in PurePosixPath(self.path).parts)


class ChangeSet(msgspec.Struct, frozen=True):
    """Every change of one run, parents before children. ``method``: how it was kept apart."""

    changes: tuple[Change, ...]
    method: Literal["overlay", "copy"]
    is_complete: bool = True
    """Whether all that changed was read; else nothing of it is applied."""

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
        if not self.is_complete:
            raise ConflictError("cannot apply these changes: not all of them could be read", hint="raise disk_bytes?")
        root = os.open(os.path.realpath(directory), DIRECTORY)
        try:
            gone = {change.path for change in chosen if change.kind == "deleted"}
            for change in chosen:
                if change.is_protected and not allow_protected:
                    raise ConflictError(
                        f"cannot apply {_visible(change.path)}: your own tools would execute it",
                        hint="look at it; then allow_protected=True, or only=[...] without it",
                    )
                before = None if change.path in gone and change.kind != "deleted" else _identity(root, change.path)
                if before != change.before:
                    raise ConflictError(
                        f"cannot apply {_visible(change.path)}: it has changed since",
                        hint="run it again on what is there now",
                    )
                if change.kind == "deleted" and not _is_emptied(root, change, gone):
                    raise ConflictError(f"cannot apply {_visible(change.path)}: there is more in it that is to stay")
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
        made = {c.path for c in self.changes if c.kind == "directory" and c.path in ways}
        return tuple(c for c in self.changes if c.path in wanted or c.path in made)


# ---- patches ----


def _lines(data: bytes) -> list[str] | None:
    if b"\0" in data:
        return None
    try:
        lines = data.decode().split("\n")
    except UnicodeDecodeError:
        return None
    return [f"{line}\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])


def _visible(text: str) -> str:
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _patch(change: Change) -> str:
    name = _visible(change.path)
    if change.kind == "directory":
        return f"directory {name}{_mode(change, 0o755)}\n"
    if change.kind == "link":
        return f"link {name} -> {_visible(change.target)}\n"
    mode = _mode(change, 0o644)
    head = f"mode{mode} {name}\n" if mode and change.kind == "file" else ""
    if change.before is not None and change.before[0] == stat.S_IFDIR:
        return f"removed {name}/\n"
    old, new = _lines(change.old_content or b""), _lines(change.content)
    if old is None or new is None or (change.before is not None and change.old_content is None):
        return f"{head}{'removed' if change.kind == 'deleted' else 'binary'} {name} ({len(change.content)} bytes)\n"
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


def _open_file(root: int, path: str) -> BinaryIO | None:
    """Open a regular file; None for anything else."""
    parts = PurePosixPath(path).parts
    try:
        with opened_directory(root, parts[:-1]) as directory:
            file = os.fdopen(os.open(parts[-1], READ, dir_fd=directory), "rb")
    except OSError:
        return None
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    return None


def _content(root: int, path: str, most: int) -> bytes | None:
    """Return what a file holds; None for one that is larger, cannot be read, or is none."""
    file = _open_file(root, path)
    if file is None:
        return None
    with file:
        try:
            data = file.read(most + 1) if os.fstat(file.fileno()).st_size <= most else None
        except OSError:
            return None
    return data if data is not None and len(data) <= most else None


def _is_same(one: int, other: int, path: str) -> bool:
    """Tell whether two files hold the same, without holding either."""
    with contextlib.ExitStack() as stack:
        files = [_open_file(root, path) for root in (one, other)]
        for file in files:
            stack.callback(file.close if file else int)
        if None in files:
            return False
        pieces = (file.read(CHUNK_BYTES) for file in itertools.cycle(filter(None, files)))
        for piece, its_other in zip(pieces, pieces):  # noqa: B905 - the same iterator twice
            if piece != its_other or not piece:
                return piece == its_other
    return False


def _link(root: int, path: str) -> str:
    parts = PurePosixPath(path).parts
    with opened_directory(root, parts[:-1]) as directory:
        return os.readlink(parts[-1], dir_fd=directory)


def _is_opaque(root: int, path: str) -> bool:
    try:
        with opened_directory(root, PurePosixPath(path).parts) as directory:
            return bool(os.getxattr(directory, OPAQUE) == b"y")  # type: ignore[attr-defined,unused-ignore]
    except OSError:
        return False


def _is_kept(status: os.stat_result) -> bool:
    """Tell whether something is more than a pipe, a socket or a device."""
    return any(is_kind(status.st_mode) for is_kind in (stat.S_ISREG, stat.S_ISDIR, stat.S_ISLNK))


class _Reader:
    """Compares what a run has left with what was there. Nothing of the run is alive, and what it left is ours.

    Holds no more than ``most_bytes`` of what is new, as much of what was, and ``MOST_ENTRIES`` changes.
    """

    def __init__(self, upper: int, lower: int, most_bytes: int) -> None:
        self.upper, self.lower = upper, lower
        self.found: list[Change] = []
        self.is_complete = True
        self._room = self._room_for_old = most_bytes

    def walk(self, root: int) -> Iterator[tuple[str, os.stat_result]]:
        """Yield what is below one of both."""
        walk = Walk(root, make_readable=root == self.upper)
        for number, entry in enumerate(walk):
            if number >= MOST_ENTRIES or len(self.found) >= MOST_ENTRIES:
                self.is_complete = False
                return
            yield entry
        self.is_complete &= walk.is_complete

    def _old(self, path: str) -> bytes | None:
        content = _content(self.lower, path, min(MOST_OLD_BYTES, self._room_for_old))
        self._room_for_old -= len(content or b"")
        return content

    def remove(self, path: str) -> None:
        """Note the removal of whatever is at a path, what is in it first."""
        status = _status(self.lower, path)
        if status is None:
            return
        if stat.S_ISDIR(status.st_mode):
            self.remove_below(path)
        self.remove_alone(path, status)

    def remove_alone(self, path: str, status: os.stat_result) -> None:
        """Note the removal of a file, a link or a directory that is empty by then."""
        old = self._old(path) if stat.S_ISREG(status.st_mode) else None
        self.found.append(Change(path, "deleted", before=_identity(self.lower, path), old_content=old))

    def remove_below(self, path: str, *, unless: int | None = None) -> None:
        """Note the removal of what is in a directory; ``unless`` there is something of that name below this one."""
        with contextlib.suppress(OSError), opened_directory(self.lower, PurePosixPath(path).parts) as directory:
            walk = Walk(directory, f"{path}/")
            below = list(itertools.islice(walk, MOST_ENTRIES))
            self.is_complete &= walk.is_complete and len(below) < MOST_ENTRIES
            for name, status in reversed(below):
                if unless is None or _status(unless, name) is None:
                    self.remove_alone(name, status)

    def make(self, path: str, status: os.stat_result) -> None:
        """Note what an entry stands for, unless it is as it was, or nothing to keep."""
        before = _identity(self.lower, path)
        is_directory = stat.S_ISDIR(status.st_mode)
        if is_directory and before is not None and before[0] == stat.S_IFDIR:
            return
        if not _is_kept(status):
            return
        if before is not None and (before[0] == stat.S_IFDIR) != is_directory:
            self.remove(path)
            before = None
        if is_directory:
            self.found.append(Change(path, "directory", 0o755))
        elif stat.S_ISLNK(status.st_mode):
            self._make_link(path, before)
        else:
            self._make_file(path, status, before)

    def _make_link(self, path: str, before: tuple[int, ...] | None) -> None:
        target = _link(self.upper, path)
        with contextlib.suppress(OSError):
            if before is not None and stat.S_ISLNK(before[0]) and _link(self.lower, path) == target:
                return
        self.found.append(Change(path, "link", 0o777, target=target, before=before))

    def _make_file(self, path: str, status: os.stat_result, before: tuple[int, ...] | None) -> None:
        mode = stat.S_IMODE(status.st_mode) & 0o777
        looks_same = before is not None and before[:2] == (stat.S_IFREG | mode, status.st_size)
        if looks_same and _is_same(self.upper, self.lower, path):
            return
        content = _content(self.upper, path, self._room)
        if content is None:
            self.is_complete = False
            return
        self._room -= len(content)
        old = self._old(path) if before is not None else None
        self.found.append(Change(path, "file", mode, content, before=before, old_content=old))


def read_overlay(upper: int, original: str, most_bytes: int) -> ChangeSet:
    """Return what the upper half of an overlay says. Source: https://docs.kernel.org/filesystems/overlayfs.html."""
    lower = os.open(original, DIRECTORY)
    try:
        reader = _Reader(upper, lower, most_bytes)
        for path, status in reader.walk(upper):
            if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:  # type: ignore[attr-defined,unused-ignore]
                reader.remove(path)
                continue
            if stat.S_ISDIR(status.st_mode) and _is_opaque(upper, path):
                reader.remove_below(path, unless=upper)
            reader.make(path, status)
    finally:
        os.close(lower)
    return ChangeSet(tuple(reader.found), "overlay", reader.is_complete)


def read_copy(copy: int, original: str, most_bytes: int) -> ChangeSet:
    """Return how a copy of a directory differs from it."""
    lower = os.open(original, DIRECTORY)
    try:
        reader = _Reader(copy, lower, most_bytes)
        there = dict(reader.walk(copy))
        gone = [(path, status) for path, status in reader.walk(lower) if path not in there and _is_kept(status)]
        leaves = {path for path, status in there.items() if not stat.S_ISDIR(status.st_mode)}
        for path, status in reversed(gone):
            if leaves.isdisjoint(map(str, PurePosixPath(path).parents)):  # else it goes with what it was in
                reader.remove_alone(path, status)
        for path, status in there.items():
            reader.make(path, status)
    finally:
        os.close(lower)
    return ChangeSet(tuple(reader.found), "copy", reader.is_complete)


# ---- carrying out ----


def _is_emptied(root: int, change: Change, gone: set[str]) -> bool:
    """Tell whether all that is in a directory that is to be removed is removed as well."""
    if change.before is None or change.before[0] != stat.S_IFDIR:
        return True
    with opened_directory(root, PurePosixPath(change.path).parts) as directory:
        return all(f"{change.path}/{name}" in gone for name in os.listdir(directory))


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
