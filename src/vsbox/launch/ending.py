"""How a run ended, from what its launcher said last, its limits, and what it used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NoReturn

from vsbox.errors import LauncherError
from vsbox.launch.control import FAILED, KILLED, Said
from vsbox.launch.group import Group
from vsbox.launch.limits import Limits
from vsbox.launch.result import LimitHit, Outcome, Usage

NEARLY: Final = 0.9
"""Of the processor time that is allowed: what was counted when the kernel sent SIGXCPU; code inside can send it too."""
SIGXCPU, SIGXFSZ, SIGSYS = 24, 25, 31
"""On both architectures that there is a launcher for."""

Disks = Callable[[], tuple[float, float]]
"""Tells how much of the private areas is used, and how much there is, in bytes."""


@dataclass(frozen=True)
class End:
    """How a run ended."""

    outcome: Outcome
    returncode: int | None
    limit: LimitHit | None
    usage: Usage


def memory_end(limits: Limits, group: Group, usage: Usage) -> End | None:
    """Return the end of a run whose group was killed for memory: as a whole by version 2, launcher included."""
    if limits.memory_bytes is None or not group.memory_kills():
        return None
    return End(Outcome.MEMORY, None, LimitHit("memory_bytes", limits.memory_bytes, limits.memory_bytes), usage)


def disk_hit(limits: Limits, disks: Disks | None) -> LimitHit | None:
    """Return the limit of the private areas, if they are full."""
    used, size = disks() if disks is not None else (0.0, 1.0)
    return LimitHit("disk_bytes", limits.disk_bytes, used) if used >= size else None


def judge_end(
    said: Said, limits: Limits, group: Group, usage: Usage, *, cpu_seconds: float, disks: Disks | None
) -> End:
    """Say how a run ended that nobody outside has ended; ``cpu_seconds`` is what counts against the limit.

    Raises:
        LauncherError: the launcher could not do it; the payload did not run.
    """
    if said.kind == FAILED:
        raise_said(said.text)
    if said.kind == KILLED:
        outcome, hit = _judge_signal(said.value, limits, cpu_seconds)
        return End(outcome, None if hit else -said.value, hit, usage)
    full = disk_hit(limits, disks) if said.value else None
    if full is not None:
        return End(Outcome.DISK, None, full, usage)
    if said.value and limits.processes is not None and group.refused_forks():
        return End(Outcome.PROCESSES, None, LimitHit("processes", limits.processes, limits.processes), usage)
    return End(Outcome.EXITED, said.value, None, usage)


def _judge_signal(number: int, limits: Limits, cpu_seconds: float) -> tuple[Outcome, LimitHit | None]:
    enough = NEARLY if number == SIGXCPU else 1
    if limits.cpu_seconds is not None and cpu_seconds >= limits.cpu_seconds * enough:
        return Outcome.CPU, LimitHit("cpu_seconds", limits.cpu_seconds, cpu_seconds)
    if number == SIGXFSZ and limits.file_bytes is not None:
        return Outcome.DISK, LimitHit("file_bytes", limits.file_bytes, limits.file_bytes)
    return Outcome.SYSCALL if number == SIGSYS else Outcome.SIGNALED, None


def raise_said(text: str) -> NoReturn:
    """Raise what the launcher said, in its own words."""
    first, _, hint = text.removeprefix("vsbox: ").partition("\n")
    raise LauncherError(first, hint=hint.strip() or None)
