"""Which layer enforces which aspect, and what follows where none can: the table of DESIGN §5."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from vsbox.errors import CannotEnforceError
from vsbox.host.facts import HostFacts
from vsbox.plan.model import Tier
from vsbox.plan.profile_names import is_loaded
from vsbox.plan.receipt import Receipt, Row
from vsbox.policy.model import Aspect, Policy

Answer = tuple[str, ...]
"""The layers that enforce; none: nobody does."""


@dataclass(frozen=True)
class Situation:
    """What decides about enforcement."""

    tier: Tier
    facts: HostFacts
    policy: Policy

    @property
    def namespaces(self) -> bool:
        """Whether the plan builds its own root."""
        return self.tier is Tier.NAMESPACES

    @property
    def confines(self) -> bool:
        """Whether the kernel is to enforce the policy; else it is only reported, or left to the guard."""
        return self.policy.mode == "enforce" and self.policy.os_sandbox

    @property
    def observed(self) -> bool:
        """Whether the launcher hears of what code touches."""
        return self.policy.report or (self.policy.mode != "enforce" and self.policy.os_sandbox)

    @property
    def abi(self) -> int:
        """The Landlock ABI."""
        return self.facts.landlock_abi

    @property
    def broker(self) -> bool:
        """Whether the launcher can answer supervised system calls."""
        return self.filtered and self.facts.works("seccomp_listener", "pidfd_getfd")

    @property
    def filtered(self) -> bool:
        """Whether there is a filter of system calls."""
        return self.policy.syscalls != ()

    @property
    def profiled(self) -> bool:
        """Whether what is started enters an AppArmor profile."""
        wanted = self.policy.apparmor != "off" and self.confines
        return wanted and is_loaded(self.facts, self.policy.venv_root)

    @property
    def offline(self) -> bool:
        """Whether the policy asks for no network."""
        return self.policy.network == "none"


def _layers(*pairs: tuple[str, bool]) -> Answer:
    return tuple(name for name, holds in pairs if holds)


def _files(s: Situation) -> Answer:
    return _layers(("namespaces", s.namespaces), ("landlock", s.abi > 0))


def _truncate(s: Situation) -> Answer:
    broker = not s.namespaces and s.broker
    return _layers(("namespaces", s.namespaces), ("landlock", s.abi >= 3 and not broker), ("seccomp broker", broker))


def _metadata(s: Situation) -> Answer:
    return _layers(("namespaces", s.namespaces), ("seccomp broker", not s.namespaces and s.broker))


def _processes(s: Situation) -> Answer:
    return _layers(("namespaces", s.namespaces), ("landlock", s.abi > 0), ("seccomp", s.filtered))


def _signals(s: Situation) -> Answer:
    return _layers(("namespaces", s.namespaces), ("landlock", s.abi >= 6))


def _ipc(s: Situation) -> Answer:
    return _layers(("namespaces", s.namespaces), ("seccomp", not s.namespaces))


def _shared_memory(s: Situation) -> Answer:
    shared = not s.namespaces and Aspect.SHARED_MEMORY in s.policy.allow_degraded
    return () if shared else _files(s)


def _network(s: Situation) -> Answer:
    if not s.filtered:  # sockets to virtual machines and their host know no network namespace
        return ()
    return _layers(
        ("namespaces", s.namespaces),
        ("seccomp", not s.namespaces),
        ("landlock", not s.namespaces and s.abi >= 4),
    )


def _unix_sockets(s: Situation) -> Answer:
    return _layers(("landlock", s.abi >= 9), ("seccomp broker", s.abi < 9 and s.broker))


def _abstract_sockets(s: Situation) -> Answer:
    own_network = s.namespaces and s.offline
    return _layers(
        ("namespaces", own_network),
        ("landlock", s.abi >= 6),
        ("seccomp broker", s.abi < 9 and s.broker and not own_network),
    )


def _descriptors(s: Situation) -> Answer:
    return _layers(("close_range", s.abi > 0), ("landlock", s.abi > 0))


def _lifetime(s: Situation) -> Answer:
    subreaper = not s.namespaces and s.abi >= 6 and s.facts.works("proc_children")
    return _layers(("namespaces", s.namespaces), ("subreaper", subreaper), ("landlock", subreaper))


def _keyring(s: Situation) -> Answer:
    return _layers(("keyctl", True), ("seccomp", s.filtered))


def _privileges(s: Situation) -> Answer:
    return ("capabilities", "no_new_privs", "seccomp" if s.filtered else "namespaces")


def _filter(s: Situation) -> Answer:
    return _layers(("seccomp", s.filtered))


def _always(*layers: str) -> Callable[[Situation], Answer]:
    return lambda _: layers


@dataclass(frozen=True)
class Aspects:
    """One row of the table: the aspect, what is asked, who answers, what to advise."""

    aspect: Aspect
    asked: str
    answer: Callable[[Situation], Answer]
    advice: str = "run `vsbox doctor`"


UNFILTERED: Final = {
    Aspect.KEYRING: "kernel keys of the user can be reached by their numbers",
    Aspect.SYSCALLS: "every kernel interface",
    Aspect.TERMINAL: "input can be typed into the terminal, where the system lets anyone do so",
    Aspect.UNIX_SOCKETS: "UNIX sockets of the host in directories that can be seen",
}
"""What is open where the policy asks for no filter of system calls."""

NEWER_LANDLOCK: Final = "a kernel with a newer Landlock, or user namespaces (`vsbox doctor` says how)"

TABLE: Final = (
    Aspects(Aspect.FILES, "only what is granted", _files),
    Aspects(Aspect.PROJECT, "nothing left in the project that the host would execute unasked", _files),
    Aspects(Aspect.TRUNCATE, "no truncating beyond grants", _truncate, f"Linux 6.2: {NEWER_LANDLOCK}"),
    Aspects(Aspect.METADATA, "no chmod, chown, utime, xattr beyond grants", _metadata),
    Aspects(Aspect.PROCESSES, "no other process visible or traceable", _processes),
    Aspects(Aspect.SIGNALS, "no signal to other processes", _signals, f"Linux 6.12: {NEWER_LANDLOCK}"),
    Aspects(Aspect.IPC, "no System V IPC or message queue of the host", _ipc),
    Aspects(Aspect.SHARED_MEMORY, "no shared memory of the host", _shared_memory),
    Aspects(Aspect.NETWORK, "no network", _network),
    Aspects(Aspect.UNIX_SOCKETS, "no UNIX socket of the host", _unix_sockets, NEWER_LANDLOCK),
    Aspects(Aspect.ABSTRACT_SOCKETS, "no abstract UNIX socket of the host", _abstract_sockets,
            f"Linux 6.12: {NEWER_LANDLOCK}"),
    Aspects(Aspect.KEYRING, "no kernel key of the session", _keyring),
    Aspects(Aspect.DESCRIPTORS, "only standard streams, not reopened for writing", _descriptors,
            "Landlock: Linux 5.13 or newer, and landlock in the list of the kernel parameter lsm="),
    Aspects(Aspect.ENVIRONMENT, "only listed variables", _always("execve")),
    Aspects(Aspect.PRIVILEGES, "no capability, no new privilege, no user namespace", _privileges),
    Aspects(Aspect.SYSCALLS, "no rare or dangerous kernel interface", _filter),
    Aspects(Aspect.TERMINAL, "no input injected into the terminal", _filter),
    Aspects(Aspect.LIFETIME, "nothing outlives the launcher",
            _lifetime,
            f"Linux 6.12: {NEWER_LANDLOCK}"),
)  # fmt: skip


BY_PROFILE: Final = frozenset({Aspect.FILES, Aspect.PROCESSES, Aspect.SIGNALS, Aspect.PRIVILEGES})
"""What an AppArmor profile enforces once more; never alone, since it is the same for all runs of a box."""


def _judge(entry: Aspects, situation: Situation) -> Row:
    if entry.aspect is Aspect.NETWORK and not situation.offline:
        return Row(entry.aspect, "the host's network", "open by policy")
    layers = entry.answer(situation)
    by_landlock = entry.aspect is Aspect.UNIX_SOCKETS and layers
    if entry.aspect in UNFILTERED and not situation.filtered and not by_landlock:
        return Row(entry.aspect, UNFILTERED[entry.aspect], "open by policy", layers)
    if layers and situation.profiled and entry.aspect in BY_PROFILE:
        layers = (*layers, "apparmor")
    if layers:
        return Row(entry.aspect, entry.asked, "enforced", layers, note=_note(entry.aspect, situation))
    allowed = entry.aspect in situation.policy.allow_degraded
    advice = entry.advice if situation.filtered else "a filter of system calls: leave syscalls out of sandbox.json"
    note = _note(entry.aspect, situation)
    return Row(entry.aspect, entry.asked, "degraded" if allowed else "cannot enforce", note=note, advice=advice)


def _note(aspect: Aspect, situation: Situation) -> str:
    if not situation.filtered:
        return {
            Aspect.NETWORK: "a namespace closes everything but sockets to virtual machines and their host (vsock)",
            Aspect.PRIVILEGES: "set-user-id programs can be left in writable directories, for others to start",
        }.get(aspect, "")
    if aspect is Aspect.SYSCALLS and situation.policy.syscalls:
        return "by the list in sandbox.json: vsbox explain --syscalls"
    if situation.namespaces:
        return ""
    return {
        Aspect.PROJECT: "nothing new can be made in directories that hold something protected",
        Aspect.FILES: "size, dates and link target of any path can be read, content cannot",
        Aspect.SHARED_MEMORY: "/dev/shm is closed: multiprocessing locks need allow_degraded shared-memory",
        Aspect.NETWORK: "localhost is closed as well" if situation.offline else "",
        Aspect.PROCESSES: "that a process number exists can be seen, nothing about it",
    }.get(aspect, "")


def _concerned(situation: Situation) -> tuple[Aspects, ...]:
    return tuple(entry for entry in TABLE if entry.aspect is not Aspect.PROJECT or situation.policy.project)


def lacking(situation: Situation) -> tuple[Row, ...]:
    """Return the rows of aspects that nothing enforces and that the policy does not give up."""
    rows = (_judge(entry, situation) for entry in _concerned(situation))
    return tuple(row for row in rows if row.state == "cannot enforce")


OF_EVERY_START: Final = {Aspect.ENVIRONMENT: ("execve",)}
"""What the launcher does whatever the mode is."""
STILL_SO: Final = {
    Aspect.PRIVILEGES: "no capability and no_new_privs all the same, but user namespaces are open",
    Aspect.DESCRIPTORS: "descriptors from 3 up are closed all the same, but streams can be reopened for writing",
    Aspect.KEYRING: "a session keyring of its own, but keys of the user can be reached by their numbers",
}


def _receipt_without_enforcement(situation: Situation) -> Receipt:
    """Return the receipt of a start that the kernel does not confine."""
    reported = "all is let pass and reported"
    if situation.policy.mode == "preview":
        reported = "all is let pass and reported, changes are forgotten"
    asked = reported if situation.observed else "the guard in Python denies, which code can get around"
    rows = [
        Row(entry.aspect, entry.asked, "enforced", OF_EVERY_START[entry.aspect])
        if entry.aspect in OF_EVERY_START
        else Row(entry.aspect, asked, "open by policy", note=STILL_SO.get(entry.aspect, ""))
        for entry in _concerned(situation)
    ]
    return Receipt(situation.tier.value, tuple(rows))


def judge(situation: Situation) -> Receipt:
    """Return the receipt of a plan.

    Raises:
        CannotEnforceError: an aspect has no layer and ``allow_degraded`` does not name it.
    """
    if not situation.confines:
        return _receipt_without_enforcement(situation)
    gaps = lacking(situation)
    if gaps:
        names = ", ".join(row.aspect.value for row in gaps)
        raise CannotEnforceError(
            f"cannot enforce {names} with {situation.tier.value} on this machine: "
            + "; ".join(row.asked for row in gaps),
            hint=f"needed: {gaps[0].advice}; or name it in allow_degraded of sandbox.json",
        )
    return Receipt(situation.tier.value, tuple(_judge(entry, situation) for entry in _concerned(situation)))
