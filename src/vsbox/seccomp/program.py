"""Turn what a policy asks of seccomp into the program the kernel runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from vsbox.seccomp import bpf, rules
from vsbox.seccomp.allowed import ALLOWED, KNOWN, errno_unlisted
from vsbox.seccomp.syscalls import Architecture, architecture

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

# linux/seccomp.h
RET_KILL_PROCESS = 0x8000_0000
RET_ERRNO = 0x0005_0000
RET_USER_NOTIF = 0x7FC0_0000
RET_ALLOW = 0x7FFF_0000

# Calls with argument rules run the filter each time, the others are answered from a bitmap when
# the kernel is 5.11 or later (seccomp_cache_prepare). These two are in every open() of Python.
_HOT = ("openat", "ioctl")


@dataclass(frozen=True)
class FilterSpec:
    """What one filter lets through."""

    machine: str
    """As ``uname -m`` prints it; arm64 counts as aarch64."""

    box_id: int
    """64 bits. ``prctl(PROBE_OPTION, box_id)`` fails with PROBE_ERRNO under this filter."""

    families: frozenset[str]
    """Socket families that socket() may create: of "unix", "inet", "inet6", "netlink"."""

    unix_types: frozenset[str] = frozenset(rules.UNIX_TYPES)
    """Types of AF_UNIX sockets that may be created: of "stream", "dgram", "seqpacket"."""

    allowed: frozenset[str] | None = ALLOWED
    """Calls that are let through unless something below refuses them; None: all that nothing refuses."""

    supervised: frozenset[str] = frozenset()
    """Calls that a supervisor answers, where neither a refusal nor an argument rule did."""

    supervisor: bool = False
    """Whether there is one for calls by their arguments too: ioctl(TIOCGPTPEER), limits and scheduling of other
    processes. open() may then truncate only what it opens for writing, so that truncate() is all that is left to judge.
    """

    observed: frozenset[str] = frozenset()
    """Calls that the supervisor only hears of, for a report."""

    tells_refusals: bool = False
    """Whether the supervisor hears of calls that are refused with anything but ENOSYS. It gives the answer itself."""

    refusal: Literal["errno", "report", "none"] = "errno"
    """What becomes of what is refused: an errno; it goes on and the supervisor hears of it; it goes on."""

    ipc_denied: bool = False
    """Whether SysV IPC and POSIX message queues are refused: for where no namespace holds them."""

    xattrs_denied: bool = False
    """Whether no file has extended attributes: for where only Landlock, which ignores them, keeps files apart."""

    def __post_init__(self) -> None:
        """Raise ValueError for a value outside its vocabulary."""
        architecture(self.machine)
        if not 0 <= self.box_id < 1 << 64:
            message = f"invalid box_id {self.box_id}: not 64 bits"
            raise ValueError(message)
        _check_names("families", self.families, rules.FAMILIES)
        _check_names("unix_types", self.unix_types, rules.UNIX_TYPES)
        # Names of either architecture: a policy that supervises open() is as right on aarch64.
        _check_names("allowed", self.allowed or frozenset(), KNOWN)
        _check_names("supervised", self.supervised, KNOWN)
        _check_names("observed", self.observed, KNOWN)


class _Verdict(NamedTuple):
    rules: tuple[rules.Rule, ...]
    action: int
    """The answer where no rule matched."""


def build_filter(spec: FilterSpec) -> bytes:
    """Return the filter of *spec* as an array of ``struct sock_filter``.

    The answer is the first of: kill the process for a foreign instruction set; ENOSYS for a number
    without a name here, x32 calls and -1 among them; the refusal of the call; the errno of one that
    is not on the list; its argument rules; the supervisor; allow.

    Security: a filter sees registers only. It cannot restrict paths, addresses, or anything else
    behind a pointer. Calls a supervisor answers are checked before the kernel reads their memory,
    which another thread may change in between (seccomp_unotify(2), "caveats"). The probe
    proves nothing to an outsider: a process can set a filter of its own that answers it. It may
    only serve to leave out confining a second time, where the first filter still holds.
    """
    arch = architecture(spec.machine)
    assembler = bpf.Assembler()
    labels = {
        arch.table[name]: _assemble_verdict(assembler, verdict)
        for name, verdict in _judge(spec, arch).items()
    }
    unknown = assembler.ret(RET_ERRNO | rules.ENOSYS if spec.refusal == "errno" else RET_ALLOW)
    dispatch = _assemble_search(assembler, _find_ranges(labels, unknown))
    for name in reversed(_HOT):
        number = arch.table[name]
        dispatch = assembler.branch(bpf.IF_EQUAL, number, labels[number], dispatch)
    native = assembler.load(bpf.NR_OFFSET, dispatch)
    foreign = assembler.ret(RET_KILL_PROCESS if spec.refusal == "errno" else RET_ALLOW)
    entry = assembler.branch(bpf.IF_EQUAL, arch.audit_arch, native, foreign)
    return assembler.finish(assembler.load(bpf.ARCH_OFFSET, entry))


def verdicts(program: bytes, machine: str) -> dict[str, str]:
    """Say what a filter answers to each call of an architecture.

    "allow", "errno NAME", "supervised", or "arguments" where it depends on them; what no rule refuses of those is
    supervised if the call is, and allowed otherwise.
    """
    arch = architecture(machine)
    return {name: _ask(program, arch, number) for name, number in arch.table.items()}


def _ask(program: bytes, arch: Architecture, number: int) -> str:
    executed = list(bpf.trace(program, arch=arch.audit_arch, nr=number))
    looked_at = {step.k for step in executed if step.code == bpf.LOAD}
    return "arguments" if looked_at - {bpf.NR_OFFSET, bpf.ARCH_OFFSET} else _ACTION_NAMES[executed[-1].k]


def refused_calls(spec: FilterSpec) -> dict[str, int]:
    """Return the errno of each call that is refused whatever its arguments are: by a rule, or for want of a listing."""
    refused = _refused(spec)
    if spec.allowed is not None:
        unlisted = architecture(spec.machine).table.keys() - spec.allowed - refused.keys()
        refused |= {name: errno_unlisted(name) for name in unlisted}
    return refused


def told_refusals(spec: FilterSpec) -> dict[str, int]:
    """Return those of them that the supervisor hears of. Of what answers ENOSYS libraries try something else."""
    known = architecture(spec.machine).table
    if not spec.tells_refusals:
        return {}
    if spec.refusal == "report":
        return {name: errno for name, errno in refused_calls(spec).items() if name in known and name not in _UNSEEN}
    told = {name: errno for name, errno in refused_calls(spec).items() if name in known and errno != rules.ENOSYS}
    return told | {"socket": rules.EACCES}  # of closed families: the filter asks about no other


def _judge(spec: FilterSpec, arch: Architecture) -> dict[str, _Verdict]:
    refused = refused_calls(spec)
    told = told_refusals(spec)
    by_argument = _argument_rules(spec)

    def judge_call(name: str) -> _Verdict:
        probe = by_argument[name] if name == "prctl" else ()  # a launcher inside asks whatever the list is
        if spec.refusal == "none":
            return _Verdict(probe, RET_ALLOW)
        if name in told and name in refused:
            return _Verdict(probe, RET_USER_NOTIF)
        if name in refused:
            return _Verdict(probe, RET_ERRNO | refused[name])
        action = RET_USER_NOTIF if name in spec.supervised | spec.observed else RET_ALLOW
        if name in _BY_ADDRESS and name in spec.observed:
            return _Verdict(_BY_ADDRESS[name], RET_ALLOW)
        return _Verdict(by_argument.get(name, ()), action)

    return {name: judge_call(name) for name in arch.table}


def _refused(spec: FilterSpec) -> dict[str, int]:
    tables = [*rules.REFUSALS]
    tables += [rules.IPC_REFUSAL] if spec.ipc_denied else []
    tables += [rules.XATTR_REFUSAL] if spec.xattrs_denied else []
    return {name: errno for table in tables for name, errno in table.by_name().items()}


def _argument_rules(spec: FilterSpec) -> dict[str, tuple[rules.Rule, ...]]:
    by_argument = {
        **rules.FIXED_RULES,
        "socket": rules.socket_rules(spec.families, spec.unix_types, tells_closed=spec.tells_refusals),
        "socketpair": rules.socketpair_rules(spec.families, spec.unix_types),
        "prctl": rules.probe_rules(spec.box_id),
        **({**rules.TRUNCATION_RULES, **rules.PROCESS_RULES} if spec.supervisor else {}),
        "ioctl": (
            *rules.FIXED_RULES["ioctl"],
            *(rules.terminal_rules() if spec.supervisor else ()),
        ),
    }
    if spec.refusal == "errno":
        return by_argument
    told = {name: _told(every) for name, every in by_argument.items() if name != "prctl"}
    return by_argument | told | {"ioctl": (rules.TERMINAL_INJECTION, *told["ioctl"])}


def _told(refusals: tuple[rules.Rule, ...]) -> tuple[rules.Rule, ...]:
    return tuple(rules.Rule(None, rule.conditions) for rule in refusals)


_UNSEEN = frozenset({"clone3", "openat2"})  # flags and mode are behind a pointer: callers fall back to what is seen
_BY_ADDRESS = {"sendto": (rules.Rule(None, (rules.has_bits(4, rules.WORD),)),)}  # of a connected socket it has none

_ACTION_NAMES: Mapping[int, str] = {
    RET_ALLOW: "allow",
    RET_USER_NOTIF: "supervised",
    **{RET_ERRNO | errno: f"errno {name}" for errno, name in rules.ERRNO_NAMES.items()},
}


def _assemble_verdict(assembler: bpf.Assembler, verdict: _Verdict) -> bpf.Label:
    label = assembler.ret(verdict.action)
    for rule in reversed(verdict.rules):
        label = _assemble_rule(assembler, rule, otherwise=label)
    return label


def _assemble_rule(
    assembler: bpf.Assembler, rule: rules.Rule, *, otherwise: bpf.Label
) -> bpf.Label:
    action = RET_USER_NOTIF if rule.errno is None else RET_ERRNO | rule.errno
    label = assembler.ret(action)
    for condition in reversed(rule.conditions):
        label = _assemble_condition(assembler, condition, yes=label, no=otherwise)
    return label


def _assemble_condition(
    assembler: bpf.Assembler, condition: rules.Condition, *, yes: bpf.Label, no: bpf.Label
) -> bpf.Label:
    if condition.negated:
        yes, no = no, yes
    if not condition.values:
        return no
    offset = bpf.arg_offset(condition.arg, high=condition.high)
    if condition.values == (0,):
        test = assembler.branch(bpf.IF_ANY_BIT, condition.mask, no, yes)
        return assembler.load(offset, test)
    test = no
    for value in reversed(condition.values):
        test = assembler.branch(bpf.IF_EQUAL, value, yes, test)
    if condition.mask != rules.WORD:
        test = assembler.mask(condition.mask, test)
    return assembler.load(offset, test)


def _find_ranges(
    labels: Mapping[int, bpf.Label], unknown: bpf.Label
) -> Sequence[tuple[int, bpf.Label]]:
    """Return where each run of numbers with one label starts, from 0 to the last word."""
    ranges = [(0, labels.get(0, unknown))]
    for number in range(1, max(labels) + 2):
        label = labels.get(number, unknown)
        if label != ranges[-1][1]:
            ranges.append((number, label))
    return ranges


def _assemble_search(
    assembler: bpf.Assembler, ranges: Sequence[tuple[int, bpf.Label]]
) -> bpf.Label:
    if len(ranges) == 1:
        return ranges[0][1]
    middle = len(ranges) // 2
    upper = _assemble_search(assembler, ranges[middle:])
    lower = _assemble_search(assembler, ranges[:middle])
    return assembler.branch(bpf.IF_AT_LEAST, ranges[middle][0], upper, lower)


def _check_names(field: str, names: frozenset[str], known: Iterable[str]) -> None:
    if unknown := sorted(names.difference(known)):
        message = f"unknown name in {field} of a filter: {', '.join(unknown)}"
        raise ValueError(message)
