"""Reads what a run has done to its view of a directory: from the upper half of an overlay, or from a copy.

Security: code inside chose every name, link and content of what is read, and what it is compared with may have been
changed meanwhile, by the user and by other runs. Nothing is followed.
"""

from __future__ import annotations

import bisect
import contextlib
import itertools
import os
import stat
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import BinaryIO, Final, Literal

import msgspec

from vsbox.launch.changes import Change, ChangeSet, protected_after
from vsbox.launch.files import MOST_ENTRIES, READ, Walk, identity_of, mark_of, opened_directory
from vsbox.launch.original import CHUNK_BYTES, Original

OPAQUE: Final = "user.overlay.opaque"
MOST_OLD_BYTES: Final = 4 << 20
"""Of a file as it was, to be shown."""
UNSEEN: Final = (0,)
"""Stands for what was not there, or not to be seen, as the run began: nothing is like it."""


def _status(root: int, path: str) -> os.stat_result | None:
    parts = PurePosixPath(path).parts
    try:
        with opened_directory(root, parts[:-1]) as directory:
            return os.lstat(parts[-1], dir_fd=directory)
    except OSError:
        return None


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


def _content(root: int, path: str, most: int, identity: tuple[int, ...] | None = None) -> bytes | None:
    """Return what a file holds; None for one that is larger, cannot be read, is none, or not the one that was meant."""
    file = _open_file(root, path)
    if file is None:
        return None
    with file:
        try:
            status = os.fstat(file.fileno())
            is_meant = identity is None or identity == identity_of(status)
            data = file.read(most + 1) if is_meant and status.st_size <= most else None
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


def _is_kept(mode: int) -> bool:
    """Tell whether something is more than a pipe, a socket or a device."""
    return any(is_kind(mode) for is_kind in (stat.S_ISREG, stat.S_ISDIR, stat.S_ISLNK))


class _Reader:
    """Compares what a run has left with what was there. Nothing of the run is alive, and what it left is ours.

    Holds no more than ``most_bytes`` of what is new, as much of what was, and ``MOST_ENTRIES`` changes.
    """

    def __init__(self, upper: int, original: Original, most_bytes: int) -> None:
        self.upper, self.lower = upper, original.directory
        self.found: list[Change] = []
        self.is_complete = original.is_complete
        self._entries, self._closed, self._linked = original.entries, original.closed, original.linked
        self._sorted = sorted(original.entries)
        self._removed: set[str] = set()
        self._room = self._room_for_old = most_bytes

    def walk(self) -> Iterator[tuple[str, os.stat_result]]:
        """Yield what the run has left."""
        walk = Walk(self.upper, make_readable=True)
        for number, entry in enumerate(walk):
            if number >= MOST_ENTRIES or len(self.found) >= MOST_ENTRIES:
                self.is_complete = False
                return
            yield entry
        self.is_complete &= walk.is_complete

    def _old(self, path: str, before: tuple[int, ...]) -> bytes | None:
        """Return what a file held as the run began, if it is still there."""
        if not stat.S_ISREG(before[0]):
            return None
        content = _content(self.lower, path, min(MOST_OLD_BYTES, self._room_for_old), before)
        self._room_for_old -= len(content or b"")
        return content

    def _is_as_it_was(self, path: str) -> bool:
        """Tell whether the original is what it was when the run began."""
        status = _status(self.lower, path)
        return status is not None and identity_of(status) == self._entries.get(path)

    def remove(self, path: str) -> None:
        """Note the removal of whatever was at a path, what was in it first."""
        if path in self._entries:
            self.remove_below(path)
            self.remove_alone(path)
        elif _status(self.lower, path) is not None:
            self.found.append(Change(path, "deleted", before=UNSEEN))

    def remove_alone(self, path: str) -> None:
        """Note the removal of a file, a link or a directory that is empty by then."""
        if path not in self._removed:
            self._removed.add(path)
            before = self._entries[path]
            self.found.append(Change(path, "deleted", before=before, old_content=self._old(path, before)))

    def remove_below(self, path: str, *, unless: int | None = None) -> None:
        """Note the removal of what was in a directory; ``unless`` there is something of that name below this one."""
        if path in self._closed and unless is not None:
            self.is_complete = False
        start = bisect.bisect_left(self._sorted, f"{path}/")
        end = bisect.bisect_left(self._sorted, f"{path}0")  # what follows a slash
        for name in reversed(self._sorted[start:end]):
            if unless is None or _status(unless, name) is None:
                self.remove_alone(name)

    def make(self, path: str, status: os.stat_result) -> None:
        """Note what an entry stands for, unless it is as it was; of what is not kept, that nothing else is there."""
        before = self._entries.get(path)
        is_directory = stat.S_ISDIR(status.st_mode)
        if is_directory and before is not None and stat.S_ISDIR(before[0]):
            return
        if not _is_kept(status.st_mode):
            if before is not None and _is_kept(before[0]):
                self.remove(path)
            return
        if before is not None and stat.S_ISDIR(before[0]) != is_directory:
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
            if self._is_as_it_was(path) and _link(self.lower, path) == target:
                return
        self.found.append(Change(path, "link", 0o777, target=target, before=before))

    def _make_file(self, path: str, status: os.stat_result, before: tuple[int, ...] | None) -> None:
        mode = stat.S_IMODE(status.st_mode) & 0o777
        looks_same = before is not None and before[:2] == (stat.S_IFREG | mode, status.st_size)
        if looks_same and self._is_as_it_was(path) and _is_same(self.upper, self.lower, path):
            return
        content = _content(self.upper, path, self._room)
        if content is None:
            self.is_complete = False
            return
        self._room -= len(content)
        old = None if before is None else self._old(path, before)
        self.found.append(Change(path, "file", mode, content, before=before, old_content=old))

    def result(self, method: Literal["overlay", "copy"]) -> ChangeSet:
        """Return what was noted."""
        status = os.fstat(self.lower)
        protected = protected_after(self.found, self._entries.__contains__, self._linked)
        changes = (
            msgspec.structs.replace(change, is_protected=True) if change.path in protected else change
            for change in self.found
        )
        return ChangeSet(tuple(changes), method, self.is_complete, (status.st_dev, status.st_ino))


def read_overlay(upper: int, original: Original, most_bytes: int) -> ChangeSet:
    """Return what the upper half of an overlay says. Source: https://docs.kernel.org/filesystems/overlayfs.html."""
    reader = _Reader(upper, original, most_bytes)
    for path, status in reader.walk():
        if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:  # type: ignore[attr-defined,unused-ignore]
            reader.remove(path)
            continue
        if stat.S_ISDIR(status.st_mode) and _is_opaque(upper, path):
            reader.remove_below(path, unless=upper)
        reader.make(path, status)
    return reader.result("overlay")


def read_copy(copy: int, original: Original, most_bytes: int) -> ChangeSet:
    """Return how a copy of a directory differs from what it was as it was made."""
    reader = _Reader(copy, original, most_bytes)
    there = dict(reader.walk())
    leaves = {path for path, status in there.items() if not stat.S_ISDIR(status.st_mode)}
    for path in reversed(original.copied):
        if path not in there and leaves.isdisjoint(map(str, PurePosixPath(path).parents)):
            reader.remove_alone(path)  # else it goes with what it was in
    for path, status in there.items():
        if original.copied.get(path) != mark_of(status):
            reader.make(path, status)
    return reader.result("copy")
