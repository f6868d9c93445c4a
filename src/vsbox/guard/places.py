"""Open what code inside may have rearranged, without following any link on the way."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from vsbox.errors import BoxError

DIRECTORY: Final = (
    os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
)
FILE: Final = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)


@contextlib.contextmanager
def opened_below(root: Path, relative: str) -> Iterator[int]:
    """Open a directory below another.

    Raises:
        BoxError: there is none.
    """
    descriptor = _open_below(root, relative)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _open_below(root: Path, relative: str) -> int:
    descriptor = -1
    try:
        descriptor = os.open(root, DIRECTORY)
        for part in relative.split("/"):
            outer, descriptor = descriptor, os.open(part, DIRECTORY, dir_fd=descriptor)
            os.close(outer)
    except OSError as error:
        if descriptor >= 0:
            os.close(descriptor)
        raise BoxError(
            f"cannot open {root}/{relative}: {error.strerror}",
            hint="code inside broke its environment; anew, without packages and $HOME: vsbox --clear DIR",
        ) from error
    return descriptor


def read_regular(name: str | Path, most_bytes: int, *, directory: int | None = None) -> bytes | None:
    """Return what a file holds, up to a limit; None for what is no regular file, or not there."""
    try:
        descriptor = os.open(name, FILE, dir_fd=directory)
    except OSError:
        return None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):  # first: Python makes no file object of a directory
        os.close(descriptor)
        return None
    with os.fdopen(descriptor, "rb") as file:
        return file.read(most_bytes)
