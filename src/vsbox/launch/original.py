"""What a directory held as a run on a view of it began: what tells a change, and a copy where there is no overlay.

Security: another run may be changing the directory all the while. Nothing is followed, no pipe is waited for and no
lease, and nothing is copied but what lies in the directory.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Final

from vsbox.errors import UsageError, VsboxError
from vsbox.launch.files import DIRECTORY, MAKE, MOST_ENTRIES, READ, Walk, identity_of, mark_of, opened_directory
from vsbox.launch.limits import BYTES_OF_ENTRY, count_bytes
from vsbox.launch.protected import linked_place

CHUNK_BYTES: Final = 1 << 20


class Original:
    """A directory, open, and what identifies each entry that it held: what a change of it is told by, later.

    ``closed``: directories that could not be listed. ``copied``: the entries of a copy as it was made.
    ``is_complete``: there were not too many. ``linked``: where links lead that are protected by their names.
    """

    def __init__(self, directory: int) -> None:
        self.directory = directory
        self.entries: dict[str, tuple[int, ...]] = {}
        self.closed: set[str] = set()
        self.copied: dict[str, tuple[int, ...]] = {}
        self.is_complete = True
        self.linked: set[str] = set()

    def note(self, path: str, status: os.stat_result) -> None:
        """Note an entry as it is."""
        self.entries[path] = identity_of(status)
        if stat.S_ISLNK(status.st_mode) and (place := linked_place(self.directory, path)):
            self.linked.add(place)


def note_entries(original: Original) -> None:
    """Note what a directory holds."""
    walk = Walk(original.directory)
    original.closed = walk.closed
    for number, (path, status) in enumerate(walk):
        if number >= MOST_ENTRIES:
            original.is_complete = False
            return
        original.note(path, status)


def copy_into(original: Original, name: str, target: str, most_bytes: int) -> None:
    """Copy a directory for a run that may change it, and note what it held as it was copied.

    Raises:
        UsageError: it is larger than the private areas may be, or not all of it can be read.
        VsboxError: there is no room for it.
    """
    large = f"cannot copy {name}: it is larger than {most_bytes} bytes"
    if any(total > most_bytes for total in count_bytes(Path(name), to_copy=True)):
        raise UsageError(large, hint="raise limits.disk_bytes")
    root = os.open(target, DIRECTORY)
    try:
        _Copying(original, root, most_bytes).perform()
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise UsageError(large, hint="raise limits.disk_bytes") from error
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise VsboxError(f"cannot copy {name}: {error.strerror}", hint=f"make room in {target}") from error
        raise UsageError(f"cannot copy {name}: not all of it can be read ({error.strerror})") from error
    finally:
        os.close(root)


class _Copying:
    """Regular files, links and directories; a copy of a pipe, a socket or a device would be another one."""

    def __init__(self, original: Original, target: int, room: int) -> None:
        self._original, self._target, self._room = original, target, room

    def perform(self) -> None:
        """Copy all, or raise OSError."""
        directories = [("", os.fstat(self._original.directory))]
        walk = Walk(self._original.directory)
        for path, status in walk:
            self._original.note(path, status)
            *above, name = path.split("/")
            with opened_directory(self._target, tuple(above)) as target:
                self._copy(path, name, status, walk.directory, target)
            if stat.S_ISDIR(status.st_mode):
                directories.append((path, status))
        if not walk.is_complete:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        for path, status in reversed(directories):  # what is in it first, for it may be closed to ourselves then
            with opened_directory(self._target, tuple(filter(None, path.split("/")))) as target:
                _make_alike(target, status)

    def _copy(self, path: str, name: str, status: os.stat_result, source: int, target: int) -> None:
        spent = 0
        if stat.S_ISDIR(status.st_mode):
            os.mkdir(name, 0o700, dir_fd=target)
        elif stat.S_ISLNK(status.st_mode):
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
        elif stat.S_ISREG(status.st_mode):
            spent = self._copy_file(path, name, source, target)
        else:
            return
        self._room -= max(spent, BYTES_OF_ENTRY)
        self._original.copied[path] = mark_of(os.lstat(name, dir_fd=target))

    def _copy_file(self, path: str, name: str, source: int, target: int) -> int:
        with os.fdopen(os.open(name, READ, dir_fd=source), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "not a regular file any more", path)
            self._original.entries[path] = identity_of(status)
            spent = 0
            with os.fdopen(os.open(name, MAKE, 0o600, dir_fd=target), "wb") as copy:
                while piece := file.read(CHUNK_BYTES):
                    spent += len(piece)
                    if spent > self._room:
                        raise OSError(errno.EFBIG, "no room for it", path)
                    copy.write(piece)
                copy.flush()
                _make_alike(copy.fileno(), status)
        return spent


def _make_alike(descriptor: int, status: os.stat_result) -> None:
    os.fchmod(descriptor, stat.S_IMODE(status.st_mode) & 0o777)  # type: ignore[attr-defined,unused-ignore]
    os.utime(descriptor, ns=(status.st_atime_ns, status.st_mtime_ns))
