"""Time two commands side by side: A B A B, so that whatever else the machine does hits both."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Argv = Sequence[str]


class RunFailedError(Exception):
    """A command that is measured must succeed."""


@dataclass(frozen=True)
class Comparison:
    """What one case measured: times in milliseconds, and the quartiles of the pairwise ratios."""

    bare_ms: float
    ms: float
    low: float
    median: float
    high: float
    rounds: int


def time_once(argv: Argv, environment: dict[str, str]) -> float:
    """Return the seconds from before posix_spawn to after waitpid."""
    null = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
    silent = (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)
    start = time.monotonic_ns()
    pid = os.posix_spawn(argv[0], list(argv), environment, file_actions=[null, silent])
    _, status = os.waitpid(pid, 0)
    elapsed = time.monotonic_ns() - start
    if status:
        raise RunFailedError(f"{' '.join(argv)[:200]} ended with {os.waitstatus_to_exitcode(status)}")
    return elapsed / 1e9


def compare(
    bare: Argv,
    other: Argv,
    environment: dict[str, str],
    *,
    rounds: int,
    clean: Callable[[], None] = lambda: None,
) -> Comparison:
    """Run both ``rounds`` times in turn, once more before that to warm caches; ``clean`` is not timed."""
    pairs: list[tuple[float, float]] = []
    for number in range(-1, rounds):
        times = []
        order = (bare, other) if number % 2 else (other, bare)
        for argv in order:
            clean()
            times.append(time_once(argv, environment))
        if number >= 0:
            pairs.append((times[0], times[1]) if order[0] is bare else (times[1], times[0]))
    clean()
    ratios = [b / a for a, b in pairs]
    low, median, high = statistics.quantiles(ratios, n=4, method="inclusive") if rounds > 1 else ratios * 3
    bare_ms, ms = (statistics.median(column) * 1000 for column in zip(*pairs, strict=True))
    return Comparison(bare_ms, ms, low, median, high, rounds)
