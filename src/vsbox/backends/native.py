"""Namespaces, Landlock and seccomp, by our own launcher."""

from __future__ import annotations

from typing import Final

from vsbox.backends.interface import FOR_EVERY_BACKEND, Backend, Missing, missing_machine, missing_probes
from vsbox.backends.interface import REMEDIES as REMEDIES_FOR_EVERY_BACKEND
from vsbox.host.facts import HostFacts
from vsbox.plan.model import Tier

REMEDIES: Final = {
    **REMEDIES_FOR_EVERY_BACKEND,
    ("user_namespace", "EPERM"): "sysctl -w kernel.unprivileged_userns_clone=1",
    ("user_namespace", "ENOSPC"): "sysctl -w user.max_user_namespaces=15000",
    ("user_namespace", "EACCES"): "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or for one box its "
    "AppArmor profile: vsbox apparmor DIR",
    ("user_namespace", "EINVAL"): "a kernel built with CONFIG_USER_NS",
    ("bind", "ENOSYS"): "Linux 5.12 or newer, for mount_setattr(2)",
    ("proc", "EPERM"): "run the container with an unmasked /proc (docker run --security-opt systempaths=unconfined)",
}
IN_A_USER_NAMESPACE: Final = {
    "bind": "bind mounts in a user namespace",
    "pivot_root": "changing the root in a user namespace",
    "proc": "a fresh /proc in a user namespace",
    "network_namespace": "network namespaces",
}
"""Tried in one: where there is none, the answers say nothing more."""


def missing(facts: HostFacts) -> tuple[Missing, ...]:
    """Return what this machine does not offer for it."""
    inside = IN_A_USER_NAMESPACE if facts.works("user_namespace") else {}
    needed = {"user_namespace": "user namespaces", **inside, **FOR_EVERY_BACKEND}
    return missing_machine(facts) or missing_probes(facts, needed, REMEDIES)


BACKEND: Final = Backend(
    "native", Tier.NAMESPACES, "namespaces, Landlock and seccomp by the own launcher", missing
)
