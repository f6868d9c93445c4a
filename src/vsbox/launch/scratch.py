"""Directories of the host that are there for one process, and go with it: also where it is killed."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import tempfile
import time
from pathlib import Path
from typing import Final

from vsbox.launch.files import DIRECTORY, open_locked_directory, remove_tree

SECONDS_TO_LOCK: Final = 60
"""Between making a directory and locking it there is a moment."""
SCRATCH: Final = "vsbox-run-"


def make_scratch(stack: contextlib.ExitStack) -> str:
    """Make a directory for what is private to a run where nothing can be mounted."""
    scratch, lock = make_locked(stack, os.path.realpath(tempfile.gettempdir()), SCRATCH)
    for name in ("home", "tmp", "work"):
        os.mkdir(name, 0o700, dir_fd=lock)
    return scratch


def make_locked(stack: contextlib.ExitStack, place: str, prefix: str) -> tuple[str, int]:
    """Make a directory, and return it with a descriptor of it; locked, so that it is known to be in use.

    Removed in the end, whatever code inside has put there, or by the next process that makes one.
    """
    sweep(place, prefix)
    scratch = tempfile.mkdtemp(prefix=prefix, dir=place)
    try:
        lock = os.open(scratch, DIRECTORY)
    except BaseException:
        os.rmdir(scratch)
        raise
    stack.callback(os.close, lock)
    stack.callback(remove_tree, scratch, lock)
    fcntl.flock(lock, fcntl.LOCK_EX)  # type: ignore[attr-defined,unused-ignore]
    return scratch, lock


@functools.cache
def sweep(place: str, prefix: str) -> None:
    """Remove what programs that were killed left behind; once in the life of a process."""
    for path in Path(place).glob(f"{prefix}*"):
        with contextlib.suppress(OSError):
            if path.lstat().st_mtime > time.time() - SECONDS_TO_LOCK:
                continue
            lock = open_locked_directory(str(path), own=True)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # type: ignore[attr-defined,unused-ignore]
                remove_tree(str(path), lock)
            finally:
                os.close(lock)
