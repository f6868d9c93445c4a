"""Sessions for asyncio: a thread of its own for each."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from vsbox.launch import files as trees
from vsbox.launch.limits import Limits
from vsbox.launch.reply import Reply
from vsbox.launch.session import SECONDS_TO_INTERRUPT, Sandbox
from vsbox.plan.receipt import Receipt

T = TypeVar("T")


class AsyncSandbox:
    """The same for asyncio: every method is awaited.

    A cancelled call interrupts the code; a session whose code does not heed that is ended.
    """

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._threads = ThreadPoolExecutor(max_workers=1, thread_name_prefix="vsbox-session")

    async def _do(self, function: Callable[..., T], *arguments: Any, **options: Any) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, functools.partial(function, *arguments, **options))

    async def open(self) -> None:
        """Start; ``async with`` does it."""
        opening = asyncio.ensure_future(self._do(self._sandbox.open))
        try:
            await asyncio.shield(opening)
        except BaseException:
            await asyncio.wait({opening})  # it is not to be interrupted: what it has made is closed
            await asyncio.shield(self._do(self._sandbox.close))
            self._threads.shutdown(wait=False)
            raise

    async def run(self, code: str, *, timeout: float | None = None, limits: Limits | None = None) -> Reply:
        """Run code and return what it came to."""
        task = asyncio.ensure_future(self._do(self._sandbox.run, code, timeout=timeout, limits=limits))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self._sandbox.interrupt()
            done, _ = await asyncio.wait({task}, timeout=SECONDS_TO_INTERRUPT)
            if not done:
                running = self._sandbox._running  # noqa: SLF001 - its other half
                if running is not None:
                    running.cancel()
                await asyncio.wait({task})
            raise

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
        running = self._sandbox._running  # noqa: SLF001
        if running is not None:
            running.cancel()
        try:
            await asyncio.shield(self._do(self._sandbox.close))
        finally:
            self._threads.shutdown(wait=True)
