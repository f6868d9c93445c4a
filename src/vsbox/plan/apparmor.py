"""AppArmor profiles of a box, as text: one for its launchers, one that what they start cannot leave.

A profile is loaded by root and holds for every start. So it says what a plan grants, plan for installing included,
and where a start may be shown its working directory. A script that lies elsewhere has to be granted.

Security: rules of AppArmor add up, and a ``deny`` is final. Where something granted lies below something that is
not, below something that is, the mounts alone decide. Names are those of the mount namespace that the process is in;
what lies outside of it has the name that it has there (``attach_disconnected``). Files that an unconfined caller
opened and handed over are not looked at again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import Final, Literal

import msgspec

from vsbox.errors import PolicyError
from vsbox.host.facts import HostFacts
from vsbox.plan import landlock, steps, system
from vsbox.plan.compilation import WORKDIR_MODES
from vsbox.plan.model import BoxFacts, Plan
from vsbox.plan.profile_names import launcher_profile, payload_profile
from vsbox.plan.steps import BIND_DEVICE, BIND_WRITABLE, printable
from vsbox.policy.grants import is_below

ESCAPED: Final = {"\\": "\\\\", '"': '\\"'} | {character: f"\\{character}" for character in "?*[]{}^"}
"""Source: apparmor.d(5), globbing; the test reads from the compiled automaton what each of them matches."""

Right = Literal["hidden", "read", "device", "write"]
RIGHTS: Final[dict[Right, str]] = {"hidden": "mrwlkx", "read": "mrix", "device": "rwk", "write": "mrwlkix"}
GENEROUS: Final[tuple[Right, ...]] = ("hidden", "read", "device", "write")
FLAGS: Final = "flags=(attach_disconnected, mediate_deleted)"
CAPABILITIES: Final = (
    "chown", "dac_override", "dac_read_search", "fowner", "kill", "net_admin", "setgid", "setpcap", "setuid",
    "sys_admin", "sys_chroot", "sys_ptrace", "sys_resource",
)  # fmt: skip
"""Of the launcher, nearly all of them in namespaces that it made itself."""
OPENED: Final = ("user_namespace", "bind", "pivot_root", "proc", "network_namespace", "cgroup_namespace")
"""What is tried in a user namespace."""
STREAM_SOCKETS: Final = ("stream", "seqpacket")
SKIPPED: Final = ("/var", "/lost+found")
ELSEWHERE_IN_VAR: Final = ("lib", "local", "opt", "www")


def quote(path: str, pattern: str = "") -> str:
    """Return a path as a quoted word of the profile language that means it literally, then a pattern as it is.

    Raises:
        PolicyError: it holds a control character, which would end a line or cannot be written.
    """
    if any(character < " " or character == "\x7f" for character in path):
        raise PolicyError(
            f"cannot name {path!r} in an AppArmor profile: it holds a control character", hint="rename it"
        )
    return '"' + "".join(ESCAPED.get(character, character) for character in path) + pattern + '"'


def with_launcher_profile(facts: HostFacts, root: str) -> HostFacts:
    """Return the facts as they will be once the launcher's profile is loaded, where AppArmor restricts user namespaces.

    Ubuntu does, and answers EACCES. A plan made before that is another one than those made afterwards.
    """
    known = facts.apparmor
    is_restricted = facts.probes.get("user_namespace") == "EACCES" and _version(facts) >= (4, 0)
    if not is_restricted or not known or known.profiles.get(launcher_profile(root)) == "enforce":
        return facts
    return msgspec.structs.replace(facts, probes=facts.probes | dict.fromkeys(OPENED, "ok"))


def profile_text(plans: Iterable[Plan], facts: HostFacts, box: BoxFacts) -> str:
    """Return both profiles: the launcher's, and what the payload may do under any of these plans.

    Raises:
        PolicyError: a path cannot be named.
    """
    plans = tuple(plans)
    lines = [
        "# AppArmor profiles of a box, made by vsbox. What is changed here is lost when they are made anew:",
        f"# vsbox apparmor {printable(box.root)}",
        *_abi(facts),
        "",
        *_launcher(facts, box),
        "",
        *_payload(plans, facts, box),
    ]
    return "\n".join(lines) + "\n"


def _version(facts: HostFacts) -> tuple[int, ...]:
    text = facts.apparmor.abi if facts.apparmor else ""
    return tuple(int(part) for part in text.split(".")) if text else ()


def _abi(facts: HostFacts) -> Iterator[str]:
    """Which features rules are written for; without it the compiler takes those of the kernel."""
    if facts.apparmor and facts.apparmor.abi:
        yield f"abi <abi/{facts.apparmor.abi}>,"


def _launcher(facts: HostFacts, box: BoxFacts) -> Iterator[str]:
    payload = payload_profile(box.root)
    attached = quote(box.root, "/{bin/*,sandbox/{exec,verify,inner,tidy}}")
    yield f"profile {launcher_profile(box.root)} {attached} {FLAGS} {{"
    yield "  # No cage: it makes the namespaces and limits of what it starts, and starts vsbox itself."
    yield "  file mrwlk /{**,},"
    yield "  ix /**,"
    yield "  network,"
    yield "  unix,"
    yield "  dbus,"
    yield "  signal,"
    yield "  ptrace,"
    yield "  mount,"
    yield "  umount,"
    yield "  pivot_root,"
    if _version(facts) >= (4, 0):
        yield "  userns,"
    yield from (f"  capability {capability}," for capability in CAPABILITIES)
    yield "  # Under no_new_privs, in addition to this one (&)."
    yield f"  change_profile -> {{,&}}{payload},"
    yield "}"


def _payload(plans: tuple[Plan, ...], facts: HostFacts, box: BoxFacts) -> Iterator[str]:
    name = payload_profile(box.root)
    own = (name, f"{launcher_profile(box.root)}//&{name}")
    granted = _granted(plans)
    yield f"profile {name} {FLAGS} {{"
    yield "  # No capability, no mount, no other profile, no user namespace: nothing here allows them."
    yield "  # What others do to it is for their profiles to say."
    yield f"  signal send peer={{{','.join(own)}}},"
    yield "  signal receive,"
    yield f"  ptrace read peer={{{','.join(own)}}},"
    yield "  ptrace (readby, tracedby),"
    yield from (f"  {line}" for line in _network(plans, own))
    yield ""
    yield "  # The directories on the way to what is granted."
    for parent in sorted({str(parent) for path in granted for parent in PurePosixPath(path).parents}):
        yield f"  {quote(parent.rstrip('/') + '/')} r,"
    elsewhere = tuple(_elsewhere(plans, facts))
    if elsewhere:
        yield ""
        yield "  # Wherever a command may be started, since it is shown its working directory."
        yield from (f"  {line}" for line in elsewhere)
    yield ""
    yield "  # What is granted."
    for path in sorted(granted, key=lambda path: path.split("/")):
        if granted[path] != "hidden":
            yield f"  {_named(path, granted, facts)} {RIGHTS[granted[path]]},"
    if any(isinstance(step, steps.RuleOwnProc) for plan in plans for step in plan.steps):
        yield '  owner "/proc/[0-9]*/{,**}" r,'
    yield ""
    yield "  # What is granted less than what holds it."
    yield f"  deny {quote(box.root, '/sandbox/{,**}')} wl,"
    yield from (f"  {line}" for line in _denied(granted, facts))
    yield "}"


def _network(plans: tuple[Plan, ...], own: tuple[str, str]) -> Iterator[str]:
    """With a network namespace its own localhost stays; without, the families are those of the filter."""
    offline = all(plan.receipt.tier == "landlock" and _has_no_network(plan) for plan in plans)
    if not offline:
        yield from (f"network {family} {kind}," for family in ("inet", "inet6") for kind in ("stream", "dgram"))
        yield from (f"network netlink {kind}," for kind in ("dgram", "raw"))
    yield "unix (create, bind, listen, accept, getattr, setattr, getopt, setopt, shutdown),"
    yield from (f'unix (connect, send, receive) peer=(label="{label}"),' for label in own)
    yield "# Streams that are handed over: these stay connected."
    yield from (f"unix (send, receive) type={kind}," for kind in STREAM_SOCKETS)


def _has_no_network(plan: Plan) -> bool:
    return any(isinstance(step, steps.Landlock) and step.handled_net for step in plan.steps)


# ---- files ----


def _granted(plans: tuple[Plan, ...]) -> dict[str, Right]:
    """Return what may be done where, by path: of the plans the most generous, of one plan the last word."""
    result: dict[str, Right] = {}
    for plan in plans:
        rules = _mounted(plan) if plan.receipt.tier == "namespaces" else _ruled(plan)
        for path, right in dict(rules).items():
            known = result.get(path, "hidden")
            result[path] = max(known, right, key=GENEROUS.index)
    return result


def _mounted(plan: Plan) -> Iterator[tuple[str, Right]]:
    for step in plan.steps:
        match step:
            case steps.Bind(target=path, flags=flags):
                yield path, "device" if flags & BIND_DEVICE else "write" if flags & BIND_WRITABLE else "read"
            case steps.Tmpfs(target=path) | steps.Overlay(target=path) if path != "/":
                yield path, "write"
            case steps.Proc(target=path):
                yield path, "read"
            case steps.Devpts(target=path):
                yield path, "device"
            case steps.Mask(path=path):
                yield path, "hidden"


def _ruled(plan: Plan) -> Iterator[tuple[str, Right]]:
    for step in plan.steps:
        match step:
            case steps.Rule(path=path, access=access):
                makes, writes = access & landlock.MAKE_REG, access & landlock.WRITE_FILE
                yield path, "write" if makes or (writes and not access & landlock.IOCTL_DEV) else (
                    "device" if writes else "read"
                )
            case steps.Project(path=path):
                yield path, "write"


def _named(path: str, granted: dict[str, Right], facts: HostFacts) -> str:
    """Name a path with what is below it; the files that are known to be some have nothing there."""
    is_file = facts.path(path).kind in {"file", "device"} and not any(
        other != path and is_below(other, path) for other in granted
    )
    return quote(path) if is_file else quote(path, "{,/,/**}")


def _denied(granted: dict[str, Right], facts: HostFacts) -> Iterator[str]:
    for path in sorted(granted, key=lambda path: path.split("/")):
        right = granted[path]
        above = (granted.get(str(parent)) for parent in PurePosixPath(path).parents)
        holder = next((found for found in above if found), "hidden")
        below = {granted[other] for other in granted if other != path and is_below(other, path)}
        if right == "hidden" and below <= {"hidden"}:
            yield f"deny {_named(path, granted, facts)} {RIGHTS['hidden']},"
        elif right == "read" and holder == "write" and below <= {"read", "hidden"}:
            yield f"deny {_named(path, granted, facts)} wl,"


def _elsewhere(plans: tuple[Plan, ...], facts: HostFacts) -> Iterator[str]:
    """What ``choose_working_directory`` of the launcher may show: no home, nothing hidden in one, not the system's."""
    mode = max((step.mode for plan in plans for step in plan.steps if isinstance(step, steps.Workdir)), default=0)
    if mode == WORKDIR_MODES["none"]:
        return
    rights = RIGHTS["write" if mode == WORKDIR_MODES["write"] else "read"]
    private = {path: kind for path, kind in system.PRIVATE_PLACES if kind != system.PRIVATE_SELF}
    homes = [
        f"{path}/*"
        for path, kind in private.items()
        if kind == system.PRIVATE_HOMES and (path == "/home" or facts.path(path).kind == "directory")
    ]
    yield from (f'"{home}/[^.]{{,**}}" {rights},' for home in homes)
    for home in sorted({facts.home, *(path for path, kind in private.items() if kind == system.PRIVATE_HOME)}):
        if str(PurePosixPath(home).parent) not in private:
            yield f"{quote(home, '/[^.]{,**}')} {rights},"
    yield f'"/var/{{{",".join(ELSEWHERE_IN_VAR)}}}/{{,**}}" {rights},'
    for path, fact in sorted(facts.paths.items()):
        if PurePosixPath(path).parent != PurePosixPath("/") or path in {"/", *SKIPPED, *system.TREES, *private}:
            continue
        if fact.kind == "directory" and fact.real == path and path not in system.PRIVATE_TO_EACH_RUN:
            is_shown = (path, system.PRIVATE_SELF) not in system.PRIVATE_PLACES
            yield f"{quote(path, '/{,**}' if is_shown else '/*/{,**}')} {rights},"
