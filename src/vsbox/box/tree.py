"""Trees of files: a second one of the same content, and two that change places in one step."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import stat
import sys
from pathlib import Path

from vsbox.errors import BoxError

AT_FDCWD = -100
RENAME_EXCHANGE = 2


def clone(source: Path, target: Path, *, leave_out: frozenset[str] = frozenset()) -> None:
    """Make ``target`` a tree of the same names, content, modes and times as ``source``.

    Files become hard links of the same file, which costs no space and keeps all they have; one that has
    further names already is copied, since those may belong to somebody else: uv links what it installs
    into the user's cache. ``leave_out`` are names at the top.

    Raises:
        BoxError: there is something that is neither file, directory nor link.
        OSError: nothing of ``source`` was changed.
    """
    target.mkdir()
    with os.scandir(source) as entries:
        for entry in entries:
            if entry.name not in leave_out:
                _clone_entry(entry, target / entry.name)
    _give(target, source.stat())
    shutil.copystat(source, target)


def _clone_entry(entry: os.DirEntry[str], target: Path) -> None:
    status = entry.stat(follow_symlinks=False)
    if stat.S_ISDIR(status.st_mode):
        clone(Path(entry.path), target)
    elif not (stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode)):
        raise BoxError(f"cannot take over {entry.path}: it is neither file, directory nor link")
    elif status.st_nlink > 1 or not _link(entry.path, target):
        shutil.copy2(entry.path, target, follow_symlinks=False)
        _give(target, status)


def _give(target: Path, status: os.stat_result) -> None:
    """Give a copy to the owner of the original; nobody but root can, and nobody else has to."""
    if sys.platform != "win32" and os.geteuid() == 0:
        os.chown(target, status.st_uid, status.st_gid, follow_symlinks=False)


def _link(source: str, target: Path) -> bool:
    """Make a hard link, unless the filesystem or the file's owner does not allow it."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno in {errno.EPERM, errno.EXDEV, errno.EMLINK, errno.EOPNOTSUPP}:
            return False
        raise
    return True


def exchange(first: Path, second: Path) -> None:
    """Let two paths change places at once: renameat2(2) with RENAME_EXCHANGE.

    Raises:
        OSError: nothing happened; EINVAL where the filesystem cannot do it.
    """
    if sys.platform != "linux":
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    library = ctypes.CDLL(None, use_errno=True)
    if library.renameat2(AT_FDCWD, os.fsencode(first), AT_FDCWD, os.fsencode(second), RENAME_EXCHANGE) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(first))
