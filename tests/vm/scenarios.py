"""The machines that vsbox is tried on, and what it must say and do there: data, one entry a machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from vm import apparmor
from vm.machine import Setting

ALLOWED = "network, unix, signal, ptrace, mqueue, mount, umount, pivot_root, change_profile, file rwlkm /{**,}"
UBUNTU_23_10 = f"""abi <abi/4.0>,
profile session flags=(attach_disconnected) {{ {ALLOWED}, ix /**, capability, audit deny userns, }}
"""
UBUNTU_24_04 = f"""abi <abi/4.0>,
profile session flags=(attach_disconnected) {{ {ALLOWED}, ix /**, userns, audit deny capability, }}
"""
"""There, creating a user namespace takes an unconfined process to a profile such as this one."""
BWRAP_ALLOWED = f"""abi <abi/4.0>,
profile session flags=(attach_disconnected) {{
    {ALLOWED}, ix /**, px /usr/bin/bwrap -> bwrap, userns, audit deny capability,
}}
profile bwrap flags=(attach_disconnected, mediate_deleted) {{
    {ALLOWED}, pix /** -> &bwrap//&unpriv_bwrap, userns, capability,
}}
profile unpriv_bwrap flags=(attach_disconnected, mediate_deleted) {{
    {ALLOWED}, pix /** -> &unpriv_bwrap, userns, audit deny capability,
}}
"""
"""The same with AppArmor's bwrap-userns-restrict: bwrap may make namespaces, what it starts has no power in them."""


PROFILES_ATTACH = f"""abi <abi/4.0>,
profile session flags=(attach_disconnected) {{ {ALLOWED}, pix /**, userns, audit deny capability, }}
"""
"""As on Ubuntu 24.04, and a program with a profile of its own gets that, as it would from no profile."""


@dataclass(frozen=True)
class Refusal:
    """Parts of what is said: what is missing, and what helps."""

    message: str
    advice: str


@dataclass(frozen=True)
class Scenario:
    """A machine and what is expected of it.

    ``landlock``: what the probe answers, empty for "a number"; ``uses``: the backend that is chosen, empty for none;
    ``refused``: why boxes with the default policy are not made; ``degraded``: aspects given up so that there is one;
    ``lacking``: by backend, why it is not to be had; ``ci``: one of the few that are always tried.
    """

    name: str
    kernel: str
    landlock: str
    uses: str
    parameters: str = ""
    sysctls: Mapping[str, str] = field(default_factory=dict)
    policy: str = ""
    delegated: bool = False
    systemd: bool = False
    refused: Refusal | None = None
    degraded: tuple[str, ...] = ()
    lacking: Mapping[str, Refusal] = field(default_factory=dict)
    ci: bool = False

    @property
    def has_box(self) -> bool:
        """Whether there is a box whose laws can be tried."""
        return self.refused is None or bool(self.degraded)

    @property
    def tier(self) -> str:
        """What boxes say that they are sandboxed with."""
        return "landlock" if self.uses == "landlock" else "namespaces"

    def setting(self) -> Setting:
        """Return the machine, with its policy compiled."""
        compiled = apparmor.compiled(self.policy) if self.policy else b""
        return Setting(
            parameters=self.parameters, sysctls=self.sysctls, profiles=compiled,
            profile="session" if self.policy else "", delegated=self.delegated, systemd=self.systemd,
        )  # fmt: skip


NOTHING = "cannot confine anything on this machine"
NO_CLONE = Refusal("user namespaces (EPERM)", "sysctl -w kernel.unprivileged_userns_clone=1")
NO_COUNT = Refusal("user namespaces (ENOSPC)", "sysctl -w user.max_user_namespaces=15000")
NO_POWER = Refusal("user namespaces (EACCES)", "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0")
BWRAP_NO_CLONE = Refusal("a bubblewrap that works here (No permissions", NO_CLONE.advice)
BWRAP_NO_COUNT = Refusal("a bubblewrap that works here (Creating new namespace failed", NO_COUNT.advice)
BWRAP_NO_POWER = Refusal("a bubblewrap that works here (", "load the AppArmor profile bwrap-userns-restrict")
OLD_LANDLOCK = Refusal("cannot enforce signals, lifetime with landlock", "needed: Linux 6.12: a kernel with a newer")
NO_MOUNT_SETATTR = Refusal("bind mounts in a user namespace (ENOSYS)", "Linux 5.12 or newer")
NO_CLOSE_RANGE = Refusal("close_range(2) (EINVAL)", "Linux 5.11 or newer")
NOT_BUILT_IN = Refusal("Landlock (ENOSYS)", "Linux 5.13 or newer")
OFF = Refusal("Landlock (EOPNOTSUPP)", "boot with landlock in the list of the kernel parameter lsm=")
NO_DESCRIPTORS = Refusal("cannot enforce descriptors with namespaces", "needed: Landlock: Linux 5.13 or newer, and")

SCENARIOS = (
    Scenario(
        "5.10", "5.10", "ENOSYS", "", refused=Refusal(NOTHING, NO_MOUNT_SETATTR.advice),
        lacking={"native": NO_MOUNT_SETATTR, "bubblewrap": NO_CLOSE_RANGE, "landlock": NOT_BUILT_IN},
    ),
    Scenario("6.1", "6.1", "2", "native", delegated=True, lacking={"landlock": OLD_LANDLOCK}, ci=True),
    Scenario(
        "6.1-no-userns", "6.1", "2", "landlock", sysctls={"kernel.unprivileged_userns_clone": "0"},
        refused=OLD_LANDLOCK, degraded=("signals", "lifetime"), lacking={"native": NO_CLONE},
    ),
    Scenario("6.12", "6.12", "6", "native"),
    Scenario("newest", "newest", "", "native"),
    Scenario(
        "userns-denied", "6.12", "6", "landlock", policy=UBUNTU_23_10,
        lacking={"native": NO_POWER, "bubblewrap": BWRAP_NO_POWER},
    ),
    Scenario(
        "userns-powerless", "6.12", "6", "landlock", policy=UBUNTU_24_04,
        lacking={"native": NO_POWER, "bubblewrap": BWRAP_NO_POWER}, ci=True,
    ),
    Scenario("bwrap-allowed", "6.12", "6", "bubblewrap", policy=BWRAP_ALLOWED, lacking={"native": NO_POWER}),
    Scenario(
        "unprivileged-clone-0", "6.12", "6", "landlock", sysctls={"kernel.unprivileged_userns_clone": "0"},
        lacking={"native": NO_CLONE, "bubblewrap": BWRAP_NO_CLONE}, ci=True,
    ),
    Scenario(
        "max-userns-0", "6.12", "6", "landlock", sysctls={"user.max_user_namespaces": "0"},
        lacking={"native": NO_COUNT, "bubblewrap": BWRAP_NO_COUNT},
    ),
    Scenario(
        "landlock-off", "6.12", "EOPNOTSUPP", "native", parameters="lsm=lockdown,yama,apparmor",
        refused=NO_DESCRIPTORS, degraded=("descriptors",), lacking={"landlock": OFF},
    ),
    Scenario(
        "neither", "6.12", "EOPNOTSUPP", "", parameters="lsm=lockdown,yama", sysctls={"user.max_user_namespaces": "0"},
        refused=Refusal(NOTHING, NO_COUNT.advice),
        lacking={"native": NO_COUNT, "bubblewrap": BWRAP_NO_COUNT, "landlock": OFF},
    ),
    Scenario("cgroup-delegated", "6.12", "6", "native", delegated=True),
    Scenario("cgroup-systemd", "6.12", "6", "native", systemd=True, parameters="fstab=0"),
)  # fmt: skip


@dataclass(frozen=True)
class Profiled:
    """A machine where the AppArmor profile of a box is installed, as vsbox says.

    ``suite``: of Debian, whose compiler of profiles is there; ``before``: the tier without the profile;
    ``label``: what code inside has then, with the name of the launcher's profile as ``{}``.
    """

    name: str
    kernel: str
    suite: str = apparmor.SUITE
    backend: str = "auto"
    policy: str = ""
    before: str = "namespaces"
    tier: str = "namespaces"
    label: str = "{}.payload (enforce)"
    ci: bool = False

    def setting(self) -> Setting:
        """Return the machine."""
        compiled = apparmor.compiled(self.policy) if self.policy else b""
        profile = "session" if self.policy else ""
        return Setting(root=apparmor.installation(self.suite), sudo=True, profiles=compiled, profile=profile)


PROFILED = (
    Profiled("apparmor", "6.12", ci=True),
    Profiled("apparmor-debian-12", "6.1", suite="bookworm"),
    Profiled("apparmor-newest", "newest"),
    # no_new_privs is set before the payload is there: init restricts its own signals
    Profiled(
        "apparmor-landlock", "6.12", backend="landlock", before="landlock", tier="landlock",
        label="{}//&{}.payload (enforce)",
    ),
    Profiled("apparmor-bubblewrap", "6.12", backend="bubblewrap", label="{}//&{}.payload (enforce)"),
    Profiled("apparmor-ubuntu", "6.12", policy=PROFILES_ATTACH, before="landlock"),
)  # fmt: skip


def _wanted() -> list[str]:
    """Return what ``VSBOX_VM_SCENARIOS`` names: ``ci`` (the default), ``all``, or names with commas."""
    names = (os.environ.get("VSBOX_VM_SCENARIOS") or "ci").split(",")
    known = {scenario.name for scenario in (*SCENARIOS, *PROFILED)} | {"ci", "all"}
    unknown = sorted(set(names) - known)
    if unknown:
        raise SystemExit(f"no scenario {', '.join(unknown)}; there are: {', '.join(sorted(known))}")
    return names


def _is_named(scenario: Scenario | Profiled, names: list[str]) -> bool:
    return scenario.name in names or "all" in names or ("ci" in names and scenario.ci)


def chosen() -> tuple[Scenario, ...]:
    """Return the scenarios that are to be tried."""
    return named(_wanted())


def named(names: list[str]) -> tuple[Scenario, ...]:
    """Return scenarios by name, by ``ci`` or by ``all``."""
    return tuple(scenario for scenario in SCENARIOS if _is_named(scenario, names))


def profiled(names: list[str] | None = None) -> tuple[Profiled, ...]:
    """Return the machines where profiles are installed: those named, or that are to be tried."""
    return tuple(scenario for scenario in PROFILED if _is_named(scenario, _wanted() if names is None else names))
