"""Landlock and seccomp without namespaces: plain containers, Ubuntu's user-namespace rule."""

from __future__ import annotations

from typing import Final

from vsbox.backends.interface import FOR_EVERY_BACKEND, Backend, Missing, missing_machine, missing_probes
from vsbox.host.facts import HostFacts
from vsbox.plan.model import Tier

REMEDIES: Final = {
    "ENOSYS": "Linux 5.13 or newer with CONFIG_SECURITY_LANDLOCK",
    "EOPNOTSUPP": "boot with landlock in the list of the kernel parameter lsm=",
}


def missing(facts: HostFacts) -> tuple[Missing, ...]:
    """Return what this machine does not offer for it."""
    if elsewhere := missing_machine(facts):
        return elsewhere
    answer = facts.probes.get("landlock", "not probed")
    without = () if facts.landlock_abi else (Missing(f"Landlock ({answer})", REMEDIES.get(answer, "")),)
    return (*without, *missing_probes(facts, FOR_EVERY_BACKEND))


BACKEND: Final = Backend(
    "landlock", Tier.LANDLOCK, "Landlock and seccomp, no namespaces", missing
)
