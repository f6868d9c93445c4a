"""Waiting for a thread from asyncio, to its end."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any


async def settle(future: asyncio.Future[Any]) -> None:
    """Wait until a future is done, however often that is cancelled; the loop goes on meanwhile.

    For a caller that has been cancelled and raises that afterwards. The thread may wait for the loop in turn, in a
    callback, so it is never joined before.
    """
    while not future.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait({future})
    if not future.cancelled():
        future.exception()  # asked for, so that asyncio reports none that nobody has asked for
