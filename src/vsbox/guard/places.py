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
    descriptor = os.open(root, DIRECTORY)
    try:
        for part in relative.split("/"):
            inner = os.open(part, DIRECTORY, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        yield descriptor
    except OSError as error:
        raise BoxError(
            f"cannot open {root}/{relative}: {error.strerror}",
            hint="code inside broke its environment; anew, without packages and $HOME: vsbox --clear DIR",
        ) from error
    finally:
        os.close(descriptor)


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
