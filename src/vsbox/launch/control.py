"""The socket between a run and its launcher: what the launcher says, and what it is told."""

from __future__ import annotations

import array
import os
import socket
import struct
from typing import Final, NamedTuple

from vsbox.launch.result import Violation
from vsbox.plan.observed import HEAD, name_of_call
from vsbox.seccomp import ALLOWED, reason

MESSAGE: Final = struct.Struct("<ii")
FAILED, EXITED, KILLED, SIGNAL, OBSERVED, EXPORTED, GO, KILL = 1, 4, 5, 6, 7, 8, 9, 10
"""``enum message_kind`` of ``native/vsbox.h``."""
PACKET_BYTES: Final = 16 << 10
MOST_VIOLATIONS: Final = 100


class Said(NamedTuple):
    """The launcher's last word: FAILED and why, EXITED and the status, or KILLED and the signal."""

    kind: int
    value: int
    text: str


class Control:
    """What the launcher has said so far.

    ``directories`` and ``changes`` are descriptors that it has handed over, ``exports`` in all; ``violations`` calls
    that the filter refused; ``last`` its last word. ``theirs`` is its end, to be closed once it is started.
    """

    def __init__(self, exports: int) -> None:
        self.directories: list[int] = []
        self.changes: int | None = None
        self.violations: list[Violation] = []
        self.last: Said | None = None
        self._exports = exports
        self._ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)  # type: ignore[attr-defined,unused-ignore]
        self._ours.setblocking(False)

    def fileno(self) -> int:
        """Return the descriptor that can be read when there is something to hear."""
        return self._ours.fileno()

    @property
    def has_directories(self) -> bool:
        """Whether all are there, or none will come any more."""
        return len(self.directories) + (self.changes is not None) >= self._exports or self.last is not None

    def tell(self, kind: int, value: int = 0) -> None:
        """Send a message; raises OSError where nobody hears it."""
        self._ours.send(MESSAGE.pack(kind, value) + b"\0")

    def hear(self) -> bool:
        """Take one packet; tell whether there may be more."""
        space = socket.CMSG_SPACE(array.array("i", [0]).itemsize)  # type: ignore[attr-defined,unused-ignore]
        try:
            packet, ancillary, _, _ = self._ours.recvmsg(PACKET_BYTES, space, getattr(socket, "MSG_CMSG_CLOEXEC", 0))  # type: ignore[attr-defined,unused-ignore]
        except (BlockingIOError, ConnectionResetError):
            return True
        if len(packet) < MESSAGE.size:
            return False
        kind, value = MESSAGE.unpack_from(packet)
        if kind == EXPORTED:
            self._take_directory(value, ancillary)
        elif kind == OBSERVED:
            self._note(packet)
        elif kind in {FAILED, EXITED, KILLED}:
            self.last = Said(kind, value, packet[MESSAGE.size :].split(b"\0")[0].decode(errors="replace"))
        return True

    def hear_all(self) -> None:
        """Take what has been said so far. That our last word was not read is told once, before what is left."""
        while self.last is None:
            try:
                if not self._ours.recv(1, socket.MSG_PEEK):
                    return
            except ConnectionResetError:
                continue
            except OSError:
                return
            self.hear()

    def _take_directory(self, value: int, ancillary: list[tuple[int, int, bytes]]) -> None:
        descriptors = array.array("i")
        for _, _, data in ancillary:
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
        if value < 0 and descriptors:
            self.changes = descriptors[0]
        else:
            self.directories += descriptors

    def _note(self, packet: bytes) -> None:
        if len(packet) < HEAD.size or len(self.violations) >= MOST_VIOLATIONS:
            return
        _, number, _, pid, _, _, _, *_, name = HEAD.unpack_from(packet)
        call = name_of_call(number, os.uname().machine)  # type: ignore[attr-defined,unused-ignore]
        program = name.split(b"\0")[0].decode(errors="replace")
        self.violations.append(Violation(call, reason(call, "errno EPERM", ALLOWED), program, pid))

    def close(self) -> None:
        """Close the socket and what came through it."""
        self._ours.close()
        for descriptor in (*self.directories, *(() if self.changes is None else (self.changes,))):
            os.close(descriptor)
        self.directories, self.changes = [], None
