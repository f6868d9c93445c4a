"""Namespaces by ``bwrap``, Landlock and seccomp by our own launcher inside of it.

Where only ``bwrap`` may make user namespaces (an AppArmor profile names it), this is what works.
"""

from __future__ import annotations

from typing import Final

from vsbox.backends.interface import FOR_EVERY_BACKEND, Backend, Missing, missing_machine, missing_probes
from vsbox.host.facts import HostFacts
from vsbox.plan.bubblewrap import through_bubblewrap
from vsbox.plan.model import Tier

INSTALL: Final = "apt-get install bubblewrap"
NEEDED_OPTIONS: Final = (
    "args", "as-pid-1", "cap-drop", "dev", "die-with-parent", "disable-userns", "perms", "remount-ro", "size",
    "unshare-cgroup-try",
)  # fmt: skip
"""All of 0.8.0 (February 2023)."""


def missing(facts: HostFacts) -> tuple[Missing, ...]:
    """Return what this machine does not offer for it."""
    if elsewhere := missing_machine(facts):
        return elsewhere
    lacking = missing_probes(facts, FOR_EVERY_BACKEND)
    found = facts.bubblewrap
    if found is None:
        return (Missing("bubblewrap", INSTALL), *lacking)
    unknown = sorted(set(NEEDED_OPTIONS) - set(found.options))
    if unknown:
        without = ", ".join(f"--{name}" for name in unknown)
        what = f"bubblewrap 0.8 or newer ({found.program} is {found.version} without {without})"
        return (Missing(what, INSTALL), *lacking)
    if found.answer != "ok":
        return (Missing(f"a bubblewrap that works here ({found.answer})", _remedy(facts, found.answer)), *lacking)
    return lacking


REMEDIES: Final = (
    ("setuid mode", "make it an ordinary program, since with set-user-id it limits no size: chmod u-s /usr/bin/bwrap"),
    ("uid map", "load the AppArmor profile bwrap-userns-restrict"),
    ("RTM_NEWADDR", "load the AppArmor profile bwrap-userns-restrict"),
    ("mount proc", "run the container with an unmasked /proc (docker run --security-opt systempaths=unconfined)"),
)  # fmt: skip
"""What bwrap says, and what helps; the first that fits."""
NO_NAMESPACE: Final = ("No permissions to create", "Creating new namespace failed")
"""What bwrap says for want of a user namespace, whatever the cause: the launcher's own attempt tells causes apart."""
BY_OWN_ATTEMPT: Final = {
    "EPERM": "sysctl -w kernel.unprivileged_userns_clone=1",
    "ENOSPC": "sysctl -w user.max_user_namespaces=15000",
    "EACCES": "load the AppArmor profile bwrap-userns-restrict",
}


def _remedy(facts: HostFacts, answer: str) -> str:
    if answer.startswith(NO_NAMESPACE):
        return BY_OWN_ATTEMPT.get(facts.probes.get("user_namespace", ""), "")
    return next((remedy for text, remedy in REMEDIES if text in answer), "")


BACKEND: Final = Backend(
    "bubblewrap", Tier.NAMESPACES, "namespaces by bwrap, Landlock and seccomp by the own launcher", missing,
    through_bubblewrap,
)
