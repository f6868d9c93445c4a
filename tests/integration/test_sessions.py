"""Sessions: how they are closed, interrupted, cancelled and left, whatever happens at the same time."""

from __future__ import annotations

import subprocess
import sys

import pytest

from vsbox import Sandbox, SessionError

tiers = pytest.mark.parametrize("tier", ["native", "landlock"])


def _run_host(code: str, tier: str) -> str:
    """Return what a program of its own prints, which may hang."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, tier], capture_output=True, text=True, timeout=30, check=False
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
