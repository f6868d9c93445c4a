"""Files of a run: put in before it starts, and what it made of them, told by comparing.

Directories are reached through descriptors that the launcher handed over, or below a directory that was made for
the run. Security: code inside made the names and links in them. Nothing is followed: every directory on the way is
opened with ``O_NOFOLLOW``, from the one above it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Final

import msgspec

from vsbox.errors import UsageError
from vsbox.launch import arguments
from vsbox.launch.protected import Protected, linked_place

DIRECTORY: Final = (
    os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
)
READ: Final = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
MAKE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
HANDLE: Final = getattr(os, "O_PATH", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
MOST_ENTRIES: Final = 200_000
MOST_DEPTH: Final = 128


class Changes(msgspec.Struct, frozen=True):
    """Files of the working directory that a run made, changed and removed: paths relative to it, sorted."""

    created: tuple[str, ...] = ()
    modified: tuple[str, ...] = ()
    deleted: tuple[str, ...] = ()
    is_complete: bool = True
    """Whether all of the directory was looked at; else there may be more, and what is ``deleted`` may be there."""
    protected: tuple[str, ...] = ()
    """Of those made and changed, what the user's own tools would execute unasked: ``.git``, environments …"""

    def __bool__(self) -> bool:
        """Tell whether anything changed."""
        return bool(self.created or self.modified or self.deleted)


def text_of(name: str) -> str:
    """Return a name as text that every encoder takes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def check_name(name: str) -> PurePosixPath:
    """Return a relative path as it may be given for a file of a run.

    Raises:
        UsageError: it is absolute, empty, or leads out.
    """
    arguments.text_of("name of a file", name)
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or not path.parts:
        raise UsageError(f"bad name of a file {name!r}: it is not a path below the working directory")
    return path


@contextlib.contextmanager
def opened_directory(
    root: int, parts: tuple[str, ...], *, make: bool = False, search: bool = False
) -> Iterator[int]:
    """Open a directory below another, from one to the next; ``make`` what is missing; ``search``: it is not listed."""
    flags = DIRECTORY | (getattr(os, "O_PATH", 0) if search else 0)
    descriptor = os.dup(root)
    try:
        for part in parts:
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, 0o755, dir_fd=descriptor)
            inner = os.open(part, flags, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        yield descriptor
    finally:
        os.close(descriptor)


Content = bytes | str | os.PathLike[str]


def put_file(root: int, name: str, data: bytes, *, mode: int = 0o644) -> None:
    """Write a file below a directory; what is there under that name is replaced."""
    path = check_name(name)
    with opened_directory(root, path.parts[:-1], make=True) as directory:
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISDIR(os.lstat(path.name, dir_fd=directory).st_mode):
                os.unlink(path.name, dir_fd=directory)
        with os.fdopen(os.open(path.name, MAKE, mode, dir_fd=directory), "wb") as file:
            file.write(data)


def get_file(root: int, name: str, most_bytes: int) -> bytes:
    """Return what a regular file below a directory holds.

    Raises:
        OSError: there is none, or it is larger than ``most_bytes``.
    """
    path = check_name(name)
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(opened_directory(root, path.parts[:-1]))
        file = stack.enter_context(os.fdopen(os.open(path.name, READ, dir_fd=directory), "rb"))
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", name)
        if status.st_size > most_bytes:
            raise OSError(errno.EFBIG, f"larger than {most_bytes} bytes", name)
        return file.read(most_bytes)


class Walk:
    """Every entry below a directory, links as links: its path, relative, and its status, parents before children.

    ``is_complete`` says afterwards whether all could be seen. Security: code inside made the tree. It goes down
    ``MOST_DEPTH`` directories, each of which takes a descriptor while it is in there, and no further.
    ``make_readable``: a tree of ours that nobody uses any more; what the mode of a directory or file hides is opened.
    ``directory``: the one that holds the entry which was yielded last, open until the next. ``closed``: directories
    that were not looked into.
    """

    def __init__(self, root: int, prefix: str = "", *, make_readable: bool = False) -> None:
        self.is_complete = True
        self.directory = root
        self.closed: set[str] = set()
        self._root, self._prefix, self._opens = root, prefix, make_readable

    def __iter__(self) -> Iterator[tuple[str, os.stat_result]]:
        """Look anew."""
        levels: list[tuple[int, str, list[str]]] = []
        try:
            self._enter(levels, os.dup(self._root), self._prefix)
            while levels:
                directory, prefix, names = levels[-1]
                if not names:
                    os.close(levels.pop()[0])
                    continue
                name = names.pop()
                try:
                    status = os.lstat(name, dir_fd=directory)
                except OSError:
                    self.is_complete = False
                    continue
                path, self.directory = f"{prefix}{name}", directory
                if self._opens and stat.S_ISREG(status.st_mode) and not status.st_mode & stat.S_IRUSR:
                    _change_mode(name, status, 0o400, directory)
                yield path, status
                if stat.S_ISDIR(status.st_mode):
                    self._go_down(levels, name, f"{path}/", status)
        finally:
            for directory, _, _ in levels:
                os.close(directory)

    def _go_down(
        self, levels: list[tuple[int, str, list[str]]], name: str, prefix: str, status: os.stat_result
    ) -> None:
        above = levels[-1][0]
        if self._opens and status.st_mode & stat.S_IRWXU != stat.S_IRWXU:
            _change_mode(name, status, 0o700, above)
        try:
            if len(levels) >= MOST_DEPTH:
                raise OSError(errno.ENAMETOOLONG, "too deep", prefix)
            inner = os.open(name, DIRECTORY, dir_fd=above)
        except OSError:
            self.is_complete = False
            self.closed.add(prefix[:-1])
        else:
            self._enter(levels, inner, prefix)

    def _enter(self, levels: list[tuple[int, str, list[str]]], directory: int, prefix: str) -> None:
        levels.append((directory, prefix, []))
        try:
            if self._opens:
                os.fchmod(directory, stat.S_IMODE(os.fstat(directory).st_mode) | 0o700)  # type: ignore[attr-defined,unused-ignore]
            levels[-1][2].extend(sorted(os.listdir(directory), reverse=True))
        except OSError:
            self.is_complete = False


def _change_mode(name: str, status: os.stat_result, more: int, directory: int) -> None:
    """Open what is no link, in a tree that nobody uses any more."""
    with contextlib.suppress(OSError):
        handle = os.open(name, HANDLE, dir_fd=directory)
        try:
            found = os.fstat(handle)
            if (found.st_dev, found.st_ino) == (status.st_dev, status.st_ino):
                _change_mode_of(handle, stat.S_IMODE(found.st_mode) | more)
        finally:
            os.close(handle)


def _change_mode_of(handle: int, mode: int) -> None:
    """Change the mode of the very object that a descriptor is of, opened for whatever. Source: open(2), ``O_PATH``."""
    os.chmod(f"/proc/self/fd/{handle}", mode)


def open_locked_directory(name: str, directory: int | None = None, *, own: bool = False) -> int:
    """Open a directory of ours, not a link to one, whatever its mode, and let its owner do everything with it.

    Raises:
        OSError: it is something else, or with ``own`` somebody else's.

    Security: code inside may put something else under that name at any moment, so the name is used once.
    """
    handle = os.open(name, HANDLE | getattr(os, "O_DIRECTORY", 0), dir_fd=directory)
    try:
        if own and os.fstat(handle).st_uid != os.geteuid():  # type: ignore[attr-defined,unused-ignore]
            raise OSError(errno.EPERM, "not ours", name)
        _change_mode_of(handle, 0o700)
        return os.open(f"/proc/self/fd/{handle}", DIRECTORY & ~getattr(os, "O_NOFOLLOW", 0))
    finally:
        os.close(handle)


def remove_tree(path: str, root: int) -> None:
    """Remove a directory of ours that code inside has filled, whatever its modes and depth.

    ``root``: a descriptor of it, from when it was made. A directory is moved to the top before it is looked into, so
    that depth costs nothing. What cannot be removed stays, without an error.

    Security: code inside may have renamed it and put a link, or another directory, in its place: nothing is done to
    either but that the link is removed, since the name is ours; the tree is removed where it is.
    """
    with contextlib.suppress(OSError):
        os.fchmod(root, 0o700)  # type: ignore[attr-defined,unused-ignore]
        waiting = os.listdir(root)
        while waiting:
            waiting += _take_apart(root, waiting.pop())
    with contextlib.suppress(OSError):
        if stat.S_ISLNK(os.lstat(path).st_mode):
            os.unlink(path)
        now = os.readlink(f"/proc/self/fd/{root}")
        if os.path.samestat(os.lstat(now), os.fstat(root)):
            os.rmdir(now)


def _take_apart(root: int, name: str) -> list[str]:
    """Remove what is at the top of a tree; return the directories that were below it, and are at the top now."""
    moved: list[str] = []
    with contextlib.suppress(OSError):
        if _is_removed(name, root):
            return moved
        inner = open_locked_directory(name, root)
        try:
            for below in os.listdir(inner):
                if not _is_removed(below, inner):
                    os.close(open_locked_directory(below, inner))  # to move a directory is to write into it
                    new = secrets.token_hex(16)
                    os.rename(below, new, src_dir_fd=inner, dst_dir_fd=root)
                    moved.append(new)
        finally:
            os.close(inner)
        os.rmdir(name, dir_fd=root)
    return moved


def _is_removed(name: str, directory: int) -> bool:
    """Remove a file, a link or an empty directory; false for a directory that holds something."""
    try:
        if stat.S_ISDIR(os.lstat(name, dir_fd=directory).st_mode):
            os.rmdir(name, dir_fd=directory)
        else:
            os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def identity_of(status: os.stat_result) -> tuple[int, ...]:
    """Return what tells that an entry is what it was: mode, size, time of change, inode; of a directory the inode."""
    if stat.S_ISDIR(status.st_mode):
        return stat.S_IFDIR, status.st_ino
    return status.st_mode, status.st_size, status.st_mtime_ns, status.st_ino


def mark_of(status: os.stat_result) -> tuple[int, ...]:
    """Return what tells any change of a file: code inside can set the other times, not that of a change of status."""
    return status.st_mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


class Snapshot(dict[str, "tuple[int, ...]"]):
    """Path -> what tells a change: type, size, times, inode. ``is_complete``: nothing was left out.

    ``linked``: where links lead that are protected by their names.
    """

    def __init__(self) -> None:
        self.is_complete = True
        self.directories: set[str] = set()
        self.linked: set[str] = set()

    def holds(self, path: str) -> bool:
        """Tell whether there was something."""
        return path in self or path in self.directories


def snapshot(root: int) -> Snapshot:
    """Return the files below a directory, so that a later look tells what has changed."""
    found = Snapshot()
    walk = Walk(root)
    for number, (path, status) in enumerate(walk):
        if number >= MOST_ENTRIES:
            found.is_complete = False
            return found
        if stat.S_ISDIR(status.st_mode):
            found.directories.add(path)
        else:
            found[path] = mark_of(status)
        if stat.S_ISLNK(status.st_mode) and (place := linked_place(root, path)):
            found.linked.add(place)
    found.is_complete = walk.is_complete
    return found


def compare(before: Snapshot, after: Snapshot) -> Changes:
    """Return what changed between two looks.

    A repository is one also since a directory is there that git asks for: its HEAD counts as protected then.
    """
    is_complete = before.is_complete and after.is_complete
    if (before, before.directories) == (after, after.directories):
        return Changes(is_complete=is_complete)

    def names(paths: set[str]) -> tuple[str, ...]:
        return tuple(sorted(map(text_of, paths)))

    created = after.keys() - before.keys()
    changed = {path for path in before.keys() & after.keys() if before[path] != after[path]}
    protected = Protected(after.holds, before.linked | after.linked)
    grown = {os.path.dirname(path) for path in after.directories - before.directories}
    suspects = created | changed | {os.path.join(path, "HEAD") for path in grown} & after.keys()
    return Changes(
        names(created), names(changed), names(before.keys() - after.keys()), is_complete,
        names({path for path in suspects if path in protected}),
    )  # fmt: skip
