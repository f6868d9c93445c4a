"""Sessions for asyncio: a thread of its own for each."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from vsbox.errors import SessionError
from vsbox.launch import files as trees
from vsbox.launch.limits import Limits
from vsbox.launch.reply import Reply
from vsbox.launch.session import SECONDS_TO_INTERRUPT, Sandbox
from vsbox.launch.settle import settle
from vsbox.plan.receipt import Receipt

T = TypeVar("T")


class AsyncSandbox:
    """The same for asyncio: every method is awaited.

    A cancelled call interrupts the code; a session whose code does not heed that is ended.
    """

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._threads = ThreadPoolExecutor(max_workers=1, thread_name_prefix="vsbox-session")
        self._closing: Future[None] | None = None

    def _submit(self, function: Callable[..., T], *arguments: Any, **options: Any) -> Future[T]:
        if self._closing is not None:
            raise SessionError("cannot use a session that is not open")
        return self._threads.submit(function, *arguments, **options)

    async def _do(self, function: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.wrap_future(self._submit(function, *arguments))

    async def open(self) -> None:
        """Start; ``async with`` does it. Cancelling it ends what has been started before it returns."""
        try:
            await self._do(self._sandbox.open)
        except BaseException as error:
            self._close_soon()
            if not isinstance(error, GeneratorExit):  # nothing can be awaited then
                await self._closed()
            raise

    def _close_soon(self) -> Future[None]:
        """Let the thread close it after what it does now; nothing that is cancelled here keeps it from that."""
        if self._closing is None:
            self._closing = self._threads.submit(self._sandbox.close)
            self._threads.shutdown(wait=False)
        return self._closing

    async def _closed(self) -> None:
        await settle(asyncio.wrap_future(self._close_soon()))
        self._threads.shutdown(wait=True)  # the thread is at its end

    async def run(self, code: str, *, timeout: float | None = None, limits: Limits | None = None) -> Reply:
        """Run code and return what it came to. Cancelling it ends the code, and no other call's, before it returns."""
        interrupted = threading.Event()
        call = self._submit(self._sandbox._run_until, interrupted, code, timeout=timeout, limits=limits)  # noqa: SLF001
        try:
            return await asyncio.wrap_future(call)
        except asyncio.CancelledError:
            if not call.cancel():  # it has begun
                await self._stop(call, interrupted)
            raise

    async def _stop(self, call: Future[Reply], interrupted: threading.Event) -> None:
        """Interrupt a call; if it does not heed that in time, end the session."""
        self._sandbox._interrupt(interrupted)  # noqa: SLF001 - its other half
        loop = asyncio.get_running_loop()
        late = loop.call_later(SECONDS_TO_INTERRUPT, self._cancel, call)
        try:
            await settle(asyncio.wrap_future(call))
        finally:
            late.cancel()

    def _cancel(self, call: Future[Reply] | None = None) -> None:
        """End the session, unless it is for a call that has ended."""
        running = self._sandbox._running  # noqa: SLF001
        if running is not None and not (call is not None and call.done()):
            running.cancel()

    def interrupt(self) -> None:
        """Raise KeyboardInterrupt in the code that runs."""
        self._sandbox.interrupt()

    async def put(self, name: str, data: trees.Content) -> None:
        """Write a file below the working directory."""
        await self._do(self._sandbox.put, name, data)

    async def get(self, name: str) -> bytes:
        """Return what a file below the working directory holds."""
        return await self._do(self._sandbox.get, name)

    async def list(self) -> tuple[str, ...]:
        """Return every file below the working directory."""
        return await self._do(self._sandbox.list)

    @property
    def alive(self) -> bool:
        """Whether it can be used."""
        return self._sandbox.alive

    @property
    def receipt(self) -> Receipt:
        """What is enforced, and by which layer."""
        return self._sandbox.receipt

    @property
    def pid(self) -> int:
        """The launcher's process id."""
        return self._sandbox.pid

    async def close(self) -> None:
        """End it with everything inside."""
        self._cancel()
        closing = asyncio.wrap_future(self._close_soon())
        try:
            await asyncio.wait({closing})
        except asyncio.CancelledError:
            await self._closed()
            raise
        await self._closed()
        closing.result()
