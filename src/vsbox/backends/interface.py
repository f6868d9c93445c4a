"""What a backend tells about itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vsbox.host.facts import HostFacts
from vsbox.plan.model import Plan, Tier


@dataclass(frozen=True)
class Missing:
    """Something this machine does not offer, and the command that adds it where there is one."""

    what: str
    remedy: str = ""


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
