"""Landlock and seccomp without namespaces: plain containers, Ubuntu's user-namespace rule."""

from __future__ import annotations

from typing import Final

from vsbox.backends.interface import Backend, Missing
from vsbox.host.facts import HostFacts
from vsbox.plan.model import Tier
from vsbox.seccomp import MACHINES

REMEDIES: Final = {
    "ENOSYS": "Linux 5.13 or newer with CONFIG_SECURITY_LANDLOCK",
    "EOPNOTSUPP": "boot with landlock in the list of the kernel parameter lsm=",
}


def missing(facts: HostFacts) -> tuple[Missing, ...]:
    """Return what this machine does not offer for it."""
    if facts.system != "Linux":
        return (Missing("Linux"),)
    if facts.machine not in MACHINES:
        return (Missing(f"a processor whose system calls are known (this one: {facts.machine})"),)
    lacking = []
    if not facts.landlock_abi:
        answer = facts.probes.get("landlock", "not probed")
        lacking.append(Missing(f"Landlock ({answer})", REMEDIES.get(answer, "")))
    lacking += [
        Missing(f"{what} ({facts.probes.get(probe, 'not probed')})")
        for probe, what in (
            ("seccomp", "seccomp filters"),
            ("openat2", "openat2(2)"),
            ("close_range", "close_range(2)"),
        )
        if not facts.works(probe)
    ]
    return tuple(lacking)


BACKEND: Final = Backend(
    "landlock", Tier.LANDLOCK, "Landlock and seccomp, no namespaces", missing
)
