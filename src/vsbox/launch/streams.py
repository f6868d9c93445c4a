"""Output of a run, and the pipes it comes through."""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import termios
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

F_SETPIPE_SZ: Final = 1031
USUAL_BYTES: Final = 1 << 16
MOST_BYTES: Final = 1 << 20
"""Of a pipe, where nobody has set another limit. Source: pipe(7)."""

Sink = Callable[[bytes], object] | int | None
"""What is done with output: None keeps it, a descriptor is given to the payload as it is."""


@dataclass
class Output:
    """A stream of the payload: kept up to a number of bytes, or given to a function as it comes."""

    sink: Sink = None
    kept: bytearray = field(default_factory=bytearray)

    def take(self, data: bytes, room: int) -> None:
        """Take a piece, of which ``room`` bytes may still be kept."""
        if callable(self.sink):
            self.sink(data)
        else:
            self.kept += data[: max(room, 0)]


class Pipes:
    """Descriptors that one run has opened: those it keeps, and those handed to the launcher, closed once it has."""

    def __init__(self) -> None:
        self._ours: list[int] = []
        self._handed: list[int] = []

    def to_read(self) -> tuple[int, int]:
        """Return a pipe: the end that is read here, and the one handed over."""
        ours, theirs = os.pipe()
        self._ours.append(ours)
        self._handed.append(theirs)
        return ours, theirs

    def to_write(self, size: int) -> tuple[int, int]:
        """Return a pipe: the end that is written here, and the one handed over.

        It holds ``size`` bytes if it may. Then all is written before the start, and no child that another thread forks
        meanwhile keeps it open.
        """
        theirs, ours = os.pipe()
        self._ours.append(ours)
        self._handed.append(theirs)
        os.set_blocking(ours, False)  # type: ignore[attr-defined,unused-ignore]
        if size > USUAL_BYTES:
            with contextlib.suppress(OSError):  # more than this user may have
                fcntl.fcntl(ours, F_SETPIPE_SZ, min(size, MOST_BYTES))  # type: ignore[attr-defined,unused-ignore]
        return ours, theirs

    def above_streams(self, descriptor: int) -> int:
        """Return a descriptor to hand over whose place no standard stream of a child takes.

        Where the caller has closed its own standard streams, as daemons do, what it opens gets their numbers.
        """
        if not 0 <= descriptor <= 2:
            return descriptor
        above: int = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)  # type: ignore[attr-defined,unused-ignore]
        self._handed.append(above)
        return above

    def close_handed(self) -> None:
        """Close what the launcher has now."""
        while self._handed:
            os.close(self._handed.pop())

    def close_one(self, descriptor: int) -> None:
        """Close one that was kept."""
        self._ours.remove(descriptor)
        os.close(descriptor)

    def close(self) -> None:
        """Close all that are left."""
        self.close_handed()
        while self._ours:
            os.close(self._ours.pop())


def bytes_in(pipe: int) -> int:
    """Return how many bytes can be read from a pipe now."""
    count = array.array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, count)  # type: ignore[attr-defined,unused-ignore]
    return count[0]
