"""No limits by the kernel: for mode ``log``, which reports, and for the guard alone. Never chosen by ``auto``.

Security: nothing is enforced. The launcher still gives the payload no capability, a short list of variables and
standard streams only.
"""

from __future__ import annotations

from typing import Final

from vsbox.backends.interface import Backend, Missing, missing_machine, missing_probes
from vsbox.host.facts import HostFacts
from vsbox.plan.model import Tier

NEEDED: Final = {"openat2": "openat2(2)", "close_range": "close_range(2)"}


def missing(facts: HostFacts) -> tuple[Missing, ...]:
    """Return what this machine does not offer for it."""
    return missing_machine(facts) or missing_probes(facts, NEEDED)


BACKEND: Final = Backend("none", Tier.NONE, "no limits by the kernel: a report, or the guard alone", missing)
