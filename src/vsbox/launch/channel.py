"""The channel of a session: packets to and from the inside, each after its length."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from typing import Final

from vsbox.launch.process import Running
from vsbox.launch.reply import MOST_ANSWER_BYTES
from vsbox.launch.result import LimitHit, Outcome

LENGTH: Final = struct.Struct("<I")
CHUNK_BYTES: Final = 1 << 16
MOST_BYTES_AT_ONCE: Final = 1 << 18


class Channel:
    """Served by the loop of a run.

    ``take`` is called with each packet that comes, ``sent`` when all of a request has gone. A packet that would be too
    large ends the run.
    """

    def __init__(
        self, running: Running, end: socket.socket, *, take: Callable[[memoryview], None], sent: Callable[[], None]
    ) -> None:
        self._running = running
        self._reader = end
        self._writer = end.dup()  # a selector knows a descriptor once
        self._take, self._sent = take, sent
        self._incoming = bytearray()
        self._outgoing = memoryview(b"")
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        running.watch(end.fileno(), self._receive)

    @property
    def is_sending(self) -> bool:
        """Whether a part of the request is still here."""
        return bool(self._outgoing)

    def send(self, request: bytes) -> None:
        """Send a request, as far as the inside takes it; the loop does the rest."""
        self._outgoing = memoryview(LENGTH.pack(len(request)) + request)
        self._feed()
        if self._outgoing:
            self._running.watch(self._writer.fileno(), self._feed, writing=True)

    def drop(self) -> None:
        """Send no more of the request."""
        self._outgoing = memoryview(b"")
        self._running.forget(self._writer.fileno())

    def _feed(self) -> None:
        try:
            self._outgoing = self._outgoing[self._writer.send(self._outgoing[:CHUNK_BYTES]) :]
        except BlockingIOError:
            return
        except OSError:
            self._outgoing = memoryview(b"")
        if not self._outgoing:
            self._running.forget(self._writer.fileno())
            self._sent()

    def _receive(self) -> None:
        try:
            data = self._reader.recv(MOST_BYTES_AT_ONCE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._running.forget(self._reader.fileno())
            return
        self._incoming += data
        while len(self._incoming) >= LENGTH.size:
            (size,) = LENGTH.unpack_from(self._incoming)
            if size > MOST_ANSWER_BYTES:
                self._running.end(Outcome.OUTPUT, LimitHit("output_bytes", MOST_ANSWER_BYTES, size))
                return
            if len(self._incoming) < LENGTH.size + size:
                return
            with memoryview(self._incoming) as whole, whole[LENGTH.size : LENGTH.size + size] as packet:
                self._take(packet)
            del self._incoming[: LENGTH.size + size]

    def close(self) -> None:
        """Close both ends."""
        self._reader.close()
        self._writer.close()
