"""Files of a run: put in before it starts, and what it made of them, told by comparing.

Directories are reached through descriptors that the launcher handed over, or below a directory that was made for
the run. Security: code inside made the names and links in them. Nothing is followed: every directory on the way is
opened with ``O_NOFOLLOW``, from the one above it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Final

import msgspec

from vsbox.errors import UsageError
from vsbox.plan.project import is_protected_name

DIRECTORY: Final = (
    os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
)
MOST_FILES: Final = 200_000
Snapshot = Mapping[str, tuple[int, ...]]
"""Path -> what tells a change: type, size, times, inode."""


class Changes(msgspec.Struct, frozen=True):
    """Files of the working directory that a run made, changed and removed: paths relative to it, sorted."""

    created: tuple[str, ...] = ()
    modified: tuple[str, ...] = ()
    deleted: tuple[str, ...] = ()

    @property
    def protected(self) -> tuple[str, ...]:
        """Those that the user's own tools would execute unasked (``.git``, ``.envrc`` …): look at them first."""
        parts = ((path, path.split("/")) for path in (*self.created, *self.modified))
        return tuple(path for path, names in parts if any(map(is_protected_name, names)))

    def __bool__(self) -> bool:
        """Tell whether anything changed."""
        return bool(self.created or self.modified or self.deleted)


def check_name(name: str) -> PurePosixPath:
    """Return a relative path as it may be given for a file of a run.

    Raises:
        UsageError: it is absolute, empty, or leads out.
    """
    path = PurePosixPath(name)
    if not name or "\0" in name or path.is_absolute() or ".." in path.parts or not path.parts:
        raise UsageError(f"bad name of a file {name!r}: it is not a path below the working directory")
    return path


@contextlib.contextmanager
def opened_directory(root: int, parts: tuple[str, ...], *, make: bool = False) -> Iterator[int]:
    """Open a directory below another, from one to the next; ``make`` what is missing."""
    descriptor = os.dup(root)
    try:
        for part in parts:
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, 0o755, dir_fd=descriptor)
            inner = os.open(part, DIRECTORY, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        yield descriptor
    finally:
        os.close(descriptor)


Content = bytes | str | os.PathLike[str]


def content_of(given: Content) -> bytes:
    """Return what is to be in a file: bytes, text, or what another file holds."""
    if isinstance(given, str):
        return given.encode()
    if isinstance(given, os.PathLike):
        with open(given, "rb") as file:
            return file.read()
    return bytes(given)


def put_file(root: int, name: str, data: bytes, *, mode: int = 0o644) -> None:
    """Write a file below a directory; what is there under that name is replaced."""
    path = check_name(name)
    with opened_directory(root, path.parts[:-1], make=True) as directory:
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISDIR(os.lstat(path.name, dir_fd=directory).st_mode):
                os.unlink(path.name, dir_fd=directory)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
        with os.fdopen(os.open(path.name, flags, mode, dir_fd=directory), "wb") as file:
            file.write(data)


def get_file(root: int, name: str, most_bytes: int) -> bytes:
    """Return what a regular file below a directory holds.

    Raises:
        OSError: there is none, or it is larger than ``most_bytes``.
    """
    path = check_name(name)
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(opened_directory(root, path.parts[:-1]))
        file = stack.enter_context(os.fdopen(os.open(path.name, flags, dir_fd=directory), "rb"))
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", name)
        if status.st_size > most_bytes:
            raise OSError(errno.EFBIG, f"larger than {most_bytes} bytes", name)
        return file.read(most_bytes)


def walk(root: int, prefix: str = "") -> Iterator[tuple[str, os.stat_result]]:
    """Yield every entry below a directory, links as links: its path, relative, and its status."""
    try:
        names = sorted(os.listdir(root))
    except OSError:
        return
    for name in names:
        try:
            status = os.lstat(name, dir_fd=root)
        except OSError:
            continue
        path = f"{prefix}{name}"
        yield path, status
        if stat.S_ISDIR(status.st_mode):
            try:
                inner = os.open(name, DIRECTORY, dir_fd=root)
            except OSError:
                continue
            try:
                yield from walk(inner, f"{path}/")
            finally:
                os.close(inner)


def _mark(status: os.stat_result) -> tuple[int, ...]:
    return status.st_mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def snapshot(root: int) -> dict[str, tuple[int, ...]]:
    """Return the files below a directory, so that a later look tells what has changed."""
    found: dict[str, tuple[int, ...]] = {}
    for path, status in walk(root):
        if len(found) >= MOST_FILES:
            break
        if not stat.S_ISDIR(status.st_mode):
            found[path] = _mark(status)
    return found


def compare(before: Snapshot, after: Snapshot, *, without: frozenset[str] = frozenset()) -> Changes:
    """Return what changed between two looks; ``without``: paths that do not count."""

    def names(paths: set[str]) -> tuple[str, ...]:
        return tuple(sorted(os.fsencode(path).decode("utf-8", "backslashreplace") for path in paths - without))

    common = before.keys() & after.keys()
    changed = {path for path in common if before[path] != after[path]}
    return Changes(names(set(after) - set(before)), names(changed), names(set(before) - set(after)))
