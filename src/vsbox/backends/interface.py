"""What a backend tells about itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from vsbox.host.facts import HostFacts
from vsbox.plan.model import Plan, Tier
from vsbox.seccomp import MACHINES

FOR_EVERY_BACKEND: Final = {
    "seccomp": "seccomp filters",
    "openat2": "openat2(2)",
    "close_range": "close_range(2)",
}
"""Probes that have to work, and what they try."""
REMEDIES: Final[Mapping[tuple[str, str], str]] = {
    ("openat2", "ENOSYS"): "Linux 5.6 or newer",
    ("close_range", "ENOSYS"): "Linux 5.11 or newer",
    ("close_range", "EINVAL"): "Linux 5.11 or newer, for CLOSE_RANGE_CLOEXEC",
}
"""What helps, by probe and answer."""


@dataclass(frozen=True)
class Missing:
    """Something this machine does not offer, and the command that adds it where there is one."""

    what: str
    remedy: str = ""


def missing_machine(facts: HostFacts) -> tuple[Missing, ...]:
    """Return what no backend for Linux can do without: the system, and a processor that we can filter for."""
    if facts.system != "Linux":
        return (Missing("Linux"),)
    if facts.machine not in MACHINES:
        return (Missing(f"a processor whose system calls are known (this one: {facts.machine})"),)
    return ()


def missing_probes(
    facts: HostFacts, needed: Mapping[str, str], remedies: Mapping[tuple[str, str], str] = REMEDIES
) -> tuple[Missing, ...]:
    """Return what did not work when tried; ``needed``: probes and what they are, ``remedies``: by probe and answer."""
    return tuple(
        Missing(f"{what} ({answer})", remedies.get((probe, answer), ""))
        for probe, what in needed.items()
        if (answer := facts.probes.get(probe, "not probed")) != "ok"
    )


def as_compiled(plan: Plan, facts: HostFacts) -> Plan:  # noqa: ARG001 - others translate for a machine
    """Return the plan: the launcher carries it out as it is."""
    return plan


@dataclass(frozen=True)
class Backend:
    """One mechanism: its name in policies, the tier it compiles for, what it lacks on a machine, how it takes plans."""

    name: str
    tier: Tier
    summary: str
    missing: Callable[[HostFacts], tuple[Missing, ...]]
    translate: Callable[[Plan, HostFacts], Plan] = as_compiled
