"""The directory of the host that holds what is private to a run where nothing can be mounted."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import shutil
import stat
import tempfile
import time
from pathlib import Path
from typing import Final

from vsbox.errors import UsageError
from vsbox.launch.files import DIRECTORY, open_locked_directory, remove_tree
from vsbox.launch.limits import count_bytes

SECONDS_TO_LOCK: Final = 60
"""Between making a directory and locking it there is a moment."""
SCRATCH: Final = "vsbox-run-"


def make_scratch(stack: contextlib.ExitStack) -> str:
    """Make a directory of the host for what is private; locked, so that it is known to be in use."""
    sweep()
    scratch = tempfile.mkdtemp(prefix=SCRATCH, dir=os.path.realpath(tempfile.gettempdir()))
    try:
        lock = os.open(scratch, DIRECTORY)
    except BaseException:
        os.rmdir(scratch)
        raise
    stack.callback(os.close, lock)
    stack.callback(remove_tree, scratch, lock)
    fcntl.flock(lock, fcntl.LOCK_EX)  # type: ignore[attr-defined,unused-ignore]
    for name in ("home", "tmp", "work"):
        os.mkdir(name, 0o700, dir_fd=lock)
    return scratch


@functools.lru_cache(maxsize=1)
def sweep() -> None:
    """Remove what programs that were killed left behind; once in the life of a process."""
    for path in Path(tempfile.gettempdir()).glob(f"{SCRATCH}*"):
        with contextlib.suppress(OSError):
            if path.lstat().st_mtime > time.time() - SECONDS_TO_LOCK:
                continue
            lock = open_locked_directory(str(path), own=True)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # type: ignore[attr-defined,unused-ignore]
                remove_tree(str(path), lock)
            finally:
                os.close(lock)


def copy_into(source: str, target: str, most_bytes: int) -> None:
    """Copy a directory for a run that may change it.

    Raises:
        UsageError: it is larger than the private areas may be.
    """
    if any(total > most_bytes for total in count_bytes(Path(source), to_copy=True)):
        raise UsageError(f"cannot copy {source}: it is larger than {most_bytes} bytes", hint="raise limits.disk_bytes")
    try:
        shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True, ignore=_special)
    except (OSError, shutil.Error, RecursionError) as error:
        raise UsageError(f"cannot copy {source}: not all of it can be read") from error


def _special(directory: str, names: list[str]) -> set[str]:
    """Return pipes, sockets and devices: a copy of one is another one, and opening one may wait for ever."""
    copied = {stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK}
    return {name for name in names if stat.S_IFMT(os.lstat(os.path.join(directory, name)).st_mode) not in copied}
