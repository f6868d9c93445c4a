"""One run whose standard streams are the caller's own: ``vsbox python``."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
from collections.abc import Iterator, Sequence
from typing import Final

from vsbox.launch import cell, paths
from vsbox.launch.arguments import check_timeout
from vsbox.launch.ending import End
from vsbox.launch.process import Running
from vsbox.policy.grants import is_below

PASSED: Final = ("TERM", "COLORTERM", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "LANG", "LC_ALL", "LC_CTYPE", "TZ")
"""Variables that say how to write to a terminal; nothing else of the caller's is passed on."""
HANDED_ON: Final = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")
"""Signals to this process that the payload gets. What the terminal sends to both of them, it gets once."""
TAKES_VALUE: Final = frozenset("WX")
ENDS_OPTIONS: Final = frozenset("cm")


def find_script(arguments: Sequence[str]) -> int | None:
    """Return which argument names the script that Python would run; None: there is none. Source: python(1)."""
    index = 0
    while index < len(arguments):
        word = arguments[index]
        if word == "-" or not word.startswith("-"):
            return None if word == "-" else index
        if word == "--check-hash-based-pycs":
            index += 1
        elif not word.startswith("--"):
            letter = next((letter for letter in word[1:] if letter in ENDS_OPTIONS | TAKES_VALUE), "")
            if letter in ENDS_OPTIONS:
                return None
            index += letter in TAKES_VALUE and word.endswith(letter)
        index += 1
    return None


def run_python(arguments: Sequence[str], wanted: cell.Wanted, *, timeout: float | None = None) -> End:
    """Run Python confined on the caller's standard streams, and return how it ended.

    The script that the arguments name may be read. Call it in the main thread: it takes the signals of ``HANDED_ON``.

    Raises:
        VsboxError: it cannot be done here, or not as asked.

    Security: as for :func:`vsbox.run`. What the standard streams are, the code inside may read or write; output is not
    counted.
    """
    check_timeout(timeout)
    words = list(arguments)
    index = find_script(words)
    if index is not None:
        words[index] = paths.resolve(words[index], cell.grants_to_write(wanted))
        if not _is_visible(words[index], wanted):
            wanted = dataclasses.replace(wanted, read=(*wanted.read, words[index]))
    variables = {name: os.environ[name] for name in PASSED if name in os.environ}
    with contextlib.ExitStack() as stack:
        prepared = cell.prepare(wanted, variables)
        stack.callback(prepared.close)
        started: list[Running] = []
        stack.enter_context(_signals_handed_on(started))
        argv = (prepared.environment.python, *words)
        running = cell.start(prepared, argv, wanted.limits, stdin=0, stdout=1, stderr=2, foreground=True)
        stack.callback(running.close)
        started.append(running)
        if prepared.exports:
            running.wait_for_directories(timeout)
            cell.watch_private_areas(running, wanted.limits.disk_bytes)
        return running.finish(timeout)


def _is_visible(path: str, wanted: cell.Wanted) -> bool:
    """Tell whether something is granted that holds the path: a rule of its own would make it read-only there."""
    granted = (*wanted.read, *wanted.write, *([wanted.workdir] if wanted.workdir else []))
    return any(is_below(path, place) for place in granted)


@contextlib.contextmanager
def _signals_handed_on(started: list[Running]) -> Iterator[None]:
    def hand_on(number: int, frame: object) -> None:  # noqa: ARG001 - signal's signature
        if not started:
            raise KeyboardInterrupt
        started[0].send_signal(number)

    known = [getattr(signal, name) for name in HANDED_ON if hasattr(signal, name)]
    numbers = [number for number in known if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, hand_on) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


__all__ = ["find_script", "run_python"]
