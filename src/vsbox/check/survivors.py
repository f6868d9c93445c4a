"""What is left of a process tree whose parent is killed with SIGKILL."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Sequence
from typing import Final

from vsbox.check.program import Answer

SECONDS_TO_START: Final = 30.0
SECONDS_TO_END: Final = 5.0
DAEMON: Final = """
import os, signal, time
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    for number in (1, 2, 15):
        signal.signal(number, signal.SIG_IGN)
    os.write(1, b"%d\\n" % os.getpid())
    time.sleep(20)
    os._exit(0)
time.sleep(20)
"""
"""A process that has left its parent, group and session. It ends by itself, whoever it is that cannot end it."""


def find_survivors(argv: Sequence[str], *, seconds: float = SECONDS_TO_END, is_ours: bool = False) -> Answer:
    """Start Python with a process that leaves it, kill it, and tell whether that process lives: ``ok``.

    All hold the other end of a pipe: it is closed when the last of them is gone. ``is_ours``: what lives is ended then.
    """
    process = subprocess.Popen(
        [*argv, "-I", "-S", "-c", DAEMON], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        cwd="/",
    )  # fmt: skip
    assert process.stdout is not None  # noqa: S101 - for the type checker
    pipe = process.stdout.fileno()
    try:
        daemon = _read_line(pipe)
        process.kill()
        process.wait()
        if not daemon:
            return Answer("crashed", "it did not start")
        if _is_closed(pipe, seconds):
            return Answer("ESRCH", "all were gone when the launcher had been killed")
        if is_ours and daemon.strip().isdigit() and int(daemon) > 1:  # no group, and not all
            with contextlib.suppress(OSError):
                os.kill(int(daemon), signal.SIGKILL)  # type: ignore[attr-defined,unused-ignore]
        return Answer("ok", "a process lived on")
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def _read_line(pipe: int) -> bytes:
    if select.select([pipe], [], [], SECONDS_TO_START)[0]:
        return os.read(pipe, 64)
    return b""


def _is_closed(pipe: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:  # whoever goes on writing does not hold this up
        if not select.select([pipe], [], [], left)[0]:
            return False
        if not os.read(pipe, 64):
            return True
    return False
