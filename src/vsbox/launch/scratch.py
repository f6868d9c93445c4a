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

import msgspec

from vsbox.host.collect import look_at
from vsbox.host.facts import PathFact
from vsbox.launch.files import DIRECTORY, open_locked_directory, remove_tree

SECONDS_TO_LOCK: Final = 60
"""Between making a directory and locking it there is a moment."""
SCRATCH: Final = "vsbox-run-"
STAND_IN: Final = "X" * 8
"""For what :mod:`tempfile` makes up."""


class Scratch:
    """A directory that is private to one run. ``named``: what plans call it, since they are kept; it is as long."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.named = f"{path[: -len(STAND_IN)]}{STAND_IN}"

    def actual(self, path: str) -> str:
        """Return a path of a plan as it is on the disk."""
        return path.replace(self.named, self.path, 1)

    def look_at(self, path: str) -> PathFact:
        """Return what is at a path of a plan, as it would be under that name."""
        fact = look_at(self.actual(path))
        return msgspec.structs.replace(fact, real=fact.real.replace(self.path, self.named, 1))


def make_scratch(stack: contextlib.ExitStack) -> Scratch:
    """Make a directory for what is private to a run where nothing can be mounted."""
    scratch, lock = make_locked(stack, os.path.realpath(tempfile.gettempdir()), SCRATCH)
    for name in ("home", "tmp", "work"):
        os.mkdir(name, 0o700, dir_fd=lock)
    return Scratch(scratch)


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
