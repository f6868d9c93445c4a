"""What a policy's list of system calls becomes: the filter of the plan, its broker, the receipt."""

from __future__ import annotations

import msgspec
import pytest

from unit.machines import CONFINING, box, debian, machine, policy
from vsbox.errors import CannotEnforceError, PolicyError
from vsbox.host.facts import HostFacts
from vsbox.plan import steps
from vsbox.plan.compile import compile_plan
from vsbox.plan.explain import judge_syscalls
from vsbox.plan.model import Plan, Tier
from vsbox.policy.model import Aspect
from vsbox.seccomp import ALLOWED, rules, simulate, verdicts
from vsbox.seccomp.syscalls import X86_64

TIERS = pytest.mark.parametrize("tier", CONFINING)
NETWORKED = ["read", "socket", "connect", "sendmsg"]
NEWEST = 10


def compiled(tier: Tier, *, facts: HostFacts | None = None, **keys: object) -> Plan:
    return compile_plan(policy(**keys), facts or debian(), box(), tier)


def unfiltered(**keys: object) -> Plan:
    return compiled(Tier.NAMESPACES, facts=machine(landlock=NEWEST), syscalls=[], **keys)


def filter_of(plan: Plan) -> steps.Seccomp:
    [step] = [step for step in plan.steps if isinstance(step, steps.Seccomp)]
    return step


def through(plan: Plan) -> set[str]:
    """Return the calls that are not answered with an errno."""
    said = verdicts(filter_of(plan).program, "x86_64")
    return {name for name, verdict in said.items() if not verdict.startswith("errno")}


def ask(program: bytes, name: str, *args: int) -> int:
    return simulate(program, arch=X86_64.audit_arch, nr=X86_64.table[name], args=args)


# ---- lists ----


@TIERS
def test_without_a_list_the_built_in_one_counts(tier: Tier) -> None:
    here = ALLOWED & X86_64.table.keys()
    closed = {name for table in (rules.IPC_REFUSAL, rules.XATTR_REFUSAL) for name in table.by_name()}
    assert through(compiled(tier)) == (here if tier is Tier.NAMESPACES else here - closed)


@TIERS
def test_a_list_is_what_gets_through(tier: Tier) -> None:
    ending = {"exit", "exit_group", "rt_sigreturn", "restart_syscall"}
    plan = compiled(tier, syscalls=["read", "openat", "sendmsg"])
    assert through(plan) == {"read", "openat", "sendmsg", "prctl"} | ending  # prctl: the launcher's question only


@TIERS
def test_a_plan_ends_with_its_filter(tier: Tier) -> None:
    """The launcher closes the door on set-up right before it."""
    assert isinstance(compiled(tier).steps[-1], steps.Seccomp)


@TIERS
@pytest.mark.parametrize("names", [["opne"], ["ptrace"], ["read", "io_uring_setup"], ["@all"]])
def test_wrong_lists_are_refused(tier: Tier, names: list[str]) -> None:
    with pytest.raises(PolicyError) as caught:
        compiled(tier, syscalls=names)
    assert caught.value.exit_code == 2
    assert caught.value.hint


def test_the_receipt_points_to_the_list() -> None:
    row = compiled(Tier.NAMESPACES, syscalls=NETWORKED).receipt.row(Aspect.SYSCALLS)
    assert (row.state, row.layers) == ("enforced", ("seccomp",))
    assert "list" in row.note
    assert not compiled(Tier.NAMESPACES).receipt.row(Aspect.SYSCALLS).note


# ---- the broker ----


def test_connections_are_supervised_if_they_are_listed() -> None:
    assert filter_of(compiled(Tier.NAMESPACES, syscalls=NETWORKED)).listener == 1
    assert filter_of(compiled(Tier.NAMESPACES, syscalls=["read"])).listener == 0


@TIERS
def test_the_launcher_must_be_able_to_hand_the_listener_over(tier: Tier) -> None:
    """Else a start would end without a word."""
    with pytest.raises(PolicyError, match="sendmsg") as caught:
        compiled(tier, syscalls=["read", "connect"])
    assert "add sendmsg" in (caught.value.hint or "")


def test_datagrams_stay_closed_where_connections_are_not_listed() -> None:
    """They reach sockets of the host by path without connecting."""
    names = ["socket", "sendto", "sendmsg"]
    program = filter_of(compiled(Tier.NAMESPACES, syscalls=names)).program
    wide = filter_of(compiled(Tier.NAMESPACES, facts=machine(landlock=9), syscalls=names)).program
    assert program != wide
    assert filter_of(compiled(Tier.NAMESPACES, syscalls=[*names, "connect"])).program != wide
    for filtered, expected in ((program, 0x0005_000D), (wide, 0x7FFF_0000)):
        assert ask(filtered, "socket", 1, 2, 0) == expected
    assert ask(program, "socket", 1, 1, 0) == 0x7FFF_0000


def test_limits_of_others_stay_supervised_under_a_list() -> None:
    program = filter_of(compiled(Tier.LANDLOCK, syscalls=["prlimit64", "sendmsg"])).program
    assert ask(program, "prlimit64", 0) == 0x7FFF_0000
    assert ask(program, "prlimit64", 1) == 0x7FC0_0000


# ---- no filter ----


def test_an_empty_list_means_no_filter() -> None:
    plan = unfiltered()
    assert not [step for step in plan.steps if isinstance(step, (steps.Seccomp, steps.Writable))]
    filtered = compiled(Tier.NAMESPACES, facts=machine(landlock=NEWEST)).steps
    assert plan.steps == tuple(step for step in filtered if not isinstance(step, steps.Seccomp))


@pytest.mark.parametrize(
    ("aspect", "state", "layers"),
    [
        (Aspect.SYSCALLS, "open by policy", ()),
        (Aspect.TERMINAL, "open by policy", ()),
        (Aspect.KEYRING, "open by policy", ("keyctl",)),
        (Aspect.PRIVILEGES, "enforced", ("capabilities", "no_new_privs", "namespaces")),
        (Aspect.PROCESSES, "enforced", ("namespaces", "landlock")),
        (Aspect.UNIX_SOCKETS, "enforced", ("landlock",)),
        (Aspect.NETWORK, "open by policy", ()),
        (Aspect.FILES, "enforced", ("namespaces", "landlock")),
    ],
)
def test_the_receipt_says_what_is_in_force(aspect: Aspect, state: str, layers: tuple[str, ...]) -> None:
    row = unfiltered().receipt.row(aspect)
    assert (row.state, row.layers) == (state, layers)


def test_no_row_names_a_filter_that_is_not_there() -> None:
    receipt = unfiltered(allow_degraded=["network"], network="none").receipt
    assert not [row for row in receipt.rows if any("seccomp" in layer for layer in row.layers)]


def test_what_is_left_open_is_said() -> None:
    receipt = unfiltered().receipt
    assert "set-user-id" in receipt.row(Aspect.PRIVILEGES).note
    assert "keys" in receipt.row(Aspect.KEYRING).asked
    assert "terminal" in receipt.row(Aspect.TERMINAL).asked


@pytest.mark.parametrize(("abi", "state"), [(6, "open by policy"), (8, "open by policy"), (9, "enforced")])
def test_sockets_of_the_host_are_open_without_the_filter_before_landlock_knows_them(abi: int, state: str) -> None:
    receipt = compiled(Tier.NAMESPACES, facts=machine(landlock=abi), syscalls=[]).receipt
    assert receipt.row(Aspect.UNIX_SOCKETS).state == state


def test_no_network_needs_the_filter() -> None:
    """A network namespace does not hold sockets to the machine's host."""
    with pytest.raises(CannotEnforceError, match="cannot enforce network"):
        unfiltered(network="none")
    row = unfiltered(network="none", allow_degraded=["network"]).receipt.row(Aspect.NETWORK)
    assert (row.state, row.layers) == ("degraded", ())
    assert "vsock" in row.note


def test_without_namespaces_the_filter_cannot_be_switched_off() -> None:
    everything = [aspect.value for aspect in Aspect]
    with pytest.raises(CannotEnforceError, match="without a filter of system calls") as caught:
        compiled(Tier.LANDLOCK, facts=machine(landlock=NEWEST), syscalls=[], allow_degraded=everything)
    assert caught.value.exit_code == 125
    assert "leave syscalls out" in (caught.value.hint or "")


# ---- explained ----


@TIERS
def test_each_verdict_has_its_reason(tier: Tier) -> None:
    judged = judge_syscalls(compiled(tier), policy(), "x86_64")
    assert judged is not None
    by_name = {verdict.name: verdict for verdict in judged}
    assert by_name.keys() == X86_64.table.keys()
    assert all(verdict.answer and verdict.reason for verdict in judged)
    assert by_name["ptrace"].answer == "errno EPERM"
    assert by_name["ptrace"].reason == "reads or changes other processes"
    assert by_name["vmsplice"].reason == "not on the list"
    assert by_name["clone"].answer == "arguments"
    assert by_name["connect"].answer == "supervised"
    closed = {Tier.NAMESPACES: "allow", Tier.LANDLOCK: "errno EPERM"}[tier]
    assert by_name["shmget"].answer == closed


def test_verdicts_of_a_list_of_ones_own() -> None:
    wanted = policy(syscalls=["read", "vmsplice"])
    judged = judge_syscalls(compile_plan(wanted, debian(), box(), Tier.NAMESPACES), wanted, "x86_64")
    assert judged is not None
    said = {verdict.name: (verdict.answer, verdict.reason) for verdict in judged}
    assert said["vmsplice"] == ("allow", "the list of the policy names it")
    assert said["write"] == ("errno ENOSYS", "not on the list")
    assert said["getxattr"] == ("errno EOPNOTSUPP", "not on the list")


def test_no_verdicts_without_a_filter() -> None:
    assert judge_syscalls(unfiltered(), policy(syscalls=[]), "x86_64") is None


def test_an_absent_list_and_an_empty_one_are_two_things() -> None:
    """An empty tuple is no default: rendering and reading keeps the difference."""
    for wanted in (policy(), policy(syscalls=[]), policy(syscalls=["read"])):
        again = msgspec.json.decode(msgspec.json.encode(wanted), type=type(wanted))
        assert again.syscalls == wanted.syscalls
