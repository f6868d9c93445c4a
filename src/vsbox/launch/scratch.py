"""The directory of the host that holds what is private to a run where nothing can be mounted."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import stat
import tempfile
import time
from pathlib import Path
from typing import Final

from vsbox.launch.files import DIRECTORY, remove_tree

SECONDS_TO_LOCK: Final = 60
"""Between making a directory and locking it there is a moment."""
SCRATCH: Final = "vsbox-run-"


def make_scratch(stack: contextlib.ExitStack) -> str:
    """Make a directory of the host for what is private; locked, so that it is known to be in use."""
    sweep()
    scratch = os.path.realpath(tempfile.mkdtemp(prefix=SCRATCH))
    stack.callback(remove_tree, scratch)
    lock = os.open(scratch, DIRECTORY)
    stack.callback(os.close, lock)
    fcntl.flock(lock, fcntl.LOCK_EX)  # type: ignore[attr-defined,unused-ignore]
    for name in ("home", "tmp", "work"):
        os.mkdir(f"{scratch}/{name}", 0o700)
    return scratch


@functools.lru_cache(maxsize=1)
def sweep() -> None:
    """Remove what programs that were killed left behind; once in the life of a process."""
    for path in Path(tempfile.gettempdir()).glob(f"{SCRATCH}*"):
        with contextlib.suppress(OSError):
            status = path.lstat()
            is_own = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()  # type: ignore[attr-defined,unused-ignore]
            if not is_own or status.st_mtime > time.time() - SECONDS_TO_LOCK:
                continue
            path.chmod(0o700)
            lock = os.open(path, DIRECTORY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # type: ignore[attr-defined,unused-ignore]
                remove_tree(str(path))
            finally:
                os.close(lock)
