"""Sessions: how they are closed, interrupted, cancelled and left, whatever happens at the same time."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from vsbox import Sandbox, SessionError

tiers = pytest.mark.parametrize("tier", ["native", "landlock"])


def _run_host(code: str, *arguments: str) -> str:
    """Return what a program of its own prints, which may hang."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


# ---- closing ----

CLOSED_BY_CALLBACK = """
import sys, vsbox
box = vsbox.Sandbox(backend=sys.argv[1], on_stdout=lambda data: box.close())
box.open()
reply = box.run("import time; print('a'); time.sleep(60)")
print(reply.outcome.value, reply.alive, box.alive)
"""
CLOSED_BY_SIGNAL = """
import signal, sys, vsbox
box = vsbox.Sandbox(backend=sys.argv[1]).open()
signal.signal(signal.SIGALRM, lambda *_: box.close())
signal.setitimer(signal.ITIMER_REAL, 0.3)
reply = box.run("import time; time.sleep(60)")
print(reply.outcome.value, reply.alive, box.alive)
"""


@tiers
@pytest.mark.parametrize("host", [CLOSED_BY_CALLBACK, CLOSED_BY_SIGNAL], ids=["callback", "signal"])
def test_a_call_may_be_closed_by_its_own_thread(tier: str, host: str) -> None:
    assert _run_host(host, tier) == "cancelled False False\n"


def test_a_call_within_a_call_is_refused() -> None:
    def call(_: bytes) -> None:
        with pytest.raises(SessionError, match="within a call"):
            box.run("1")

    with Sandbox(on_stdout=call) as box:
        assert box.run("print(1)").ok


# ---- cancelling ----


@tiers
@pytest.mark.parametrize("pause", [0.0, 0.0005, 0.02])
def test_a_start_that_is_cancelled_twice_leaves_nothing(
    tier: str, pause: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    async def talk() -> None:
        async with Sandbox(backend=tier) as box:
            await box.run("1")

    async def start(seconds: float) -> None:
        task = asyncio.ensure_future(talk())
        await asyncio.sleep(seconds)
        task.cancel()
        await asyncio.sleep(pause)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(talk())
    before = _left()
    for number in range(8):
        asyncio.run(start(0.004 * number + 0.001))
    assert _left() == before
    assert not list(tmp_path.iterdir())


def _left() -> tuple[int, int, int]:
    """Return how many descriptors, children and threads this process has."""
    children = [text for path in Path("/proc/self/task").glob("*/children") for text in path.read_text().split()]
    return len(os.listdir("/proc/self/fd")), len(children), threading.active_count()


CALLBACK_THAT_WAITS = """
import asyncio, sys, vsbox
async def main():
    loop = asyncio.get_running_loop()
    def show(piece):
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result()
    code = "import os, time\\nwhile True: os.write(1, b'x'); time.sleep(0.0001)"
    async def talk():
        if sys.argv[2] == "run":
            await vsbox.arun(code, backend=sys.argv[1], stdout=show)
        async with vsbox.Sandbox(backend=sys.argv[1], on_stdout=show) as box:
            await box.run(code)
    task = asyncio.ensure_future(talk())
    await asyncio.sleep(0.5)
    task.cancel(); await asyncio.sleep(0); task.cancel()
    print(type((await asyncio.gather(task, return_exceptions=True))[0]).__name__)
asyncio.run(main())
"""


@tiers
@pytest.mark.parametrize("kind", ["run", "session"])
def test_a_callback_that_waits_for_the_loop_does_not_stop_a_cancellation(tier: str, kind: str) -> None:
    assert _run_host(CALLBACK_THAT_WAITS, tier, kind) == "CancelledError\n"
