"""Compiling for machines that we do not have: what is refused, what is allowed to be weaker, what the receipt says."""

from __future__ import annotations

import errno
import json

import msgspec
import pytest

from unit.machines import CONFINING, EVERY_PROBE, box, machine, policy, ubuntu
from vsbox.backends import choose
from vsbox.backends import landlock as landlock_backend
from vsbox.backends import native as native_backend
from vsbox.errors import CannotEnforceError
from vsbox.host import collect
from vsbox.host.facts import HostFacts
from vsbox.plan import landlock, steps
from vsbox.plan.compile import compile_plan
from vsbox.plan.model import Plan, Tier
from vsbox.policy.model import Aspect, Policy

ABIS = range(11)
EVERY_ASPECT = tuple(aspect.value for aspect in Aspect)

A = Aspect
LACKING_WITHOUT_NAMESPACES = {
    0: {A.FILES, A.SIGNALS, A.SHARED_MEMORY, A.DESCRIPTORS, A.LIFETIME},
    1: {A.SIGNALS, A.LIFETIME},
    2: {A.SIGNALS, A.LIFETIME},
    **{abi: {A.SIGNALS, A.LIFETIME} for abi in (3, 4, 5)},
    **{abi: set() for abi in (6, 7, 8, 9, 10)},
}
LACKING_WITH_NAMESPACES = {
    0: {A.DESCRIPTORS},
    **{abi: set() for abi in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10)},
}
TABLES = {Tier.LANDLOCK: LACKING_WITHOUT_NAMESPACES, Tier.NAMESPACES: LACKING_WITH_NAMESPACES}
CASES = [(tier, abi) for tier in CONFINING for abi in ABIS]


def compiled(facts: HostFacts, tier: Tier, wanted: Policy | None = None) -> Plan:
    return compile_plan(wanted or policy(), facts, box(), tier)


def lacking(facts: HostFacts, tier: Tier, **keys: object) -> set[Aspect]:
    """Return the aspects that nothing enforces, as the receipt of the weakest policy names them."""
    plan = compiled(facts, tier, policy(**({"allow_degraded": EVERY_ASPECT} | keys)))
    return {row.aspect for row in plan.receipt.rows if row.state == "degraded"} - {A.SHARED_MEMORY}


def only(plan: Plan, step: type[steps.Step]) -> list[steps.Step]:
    return [s for s in plan.steps if isinstance(s, step)]


# ---- every Landlock ABI ----


@pytest.mark.parametrize(("tier", "abi"), CASES)
def test_what_no_layer_enforces_is_refused(tier: Tier, abi: int) -> None:
    expected = TABLES[tier][abi]
    if not expected:
        assert compiled(machine(landlock=abi), tier).steps
        return
    with pytest.raises(CannotEnforceError) as caught:
        compiled(machine(landlock=abi), tier)
    named = str(caught.value).removeprefix("cannot enforce ").split(" with ")[0].split(", ")
    assert {Aspect(name) for name in named} == expected
    assert "allow_degraded" in (caught.value.hint or "")
    assert caught.value.exit_code == 125


@pytest.mark.parametrize(("tier", "abi"), CASES)
def test_allow_degraded_admits_it_and_the_receipt_says_so(tier: Tier, abi: int) -> None:
    expected = TABLES[tier][abi]
    admitted = policy(allow_degraded=[aspect.value for aspect in expected])
    receipt = compiled(machine(landlock=abi), tier, admitted).receipt
    assert {row.aspect for row in receipt.rows if row.state == "degraded"} == expected
    for aspect in expected:
        assert receipt.row(aspect).layers == ()
        assert receipt.row(aspect).advice


@pytest.mark.parametrize(
    ("tier", "abi", "missing"),
    [(t, a, m) for t, table in TABLES.items() for a in (0, 1, 4) for m in table[a]],
)
def test_each_has_to_be_named(tier: Tier, abi: int, missing: Aspect) -> None:
    others = [aspect.value for aspect in TABLES[tier][abi] - {missing}]
    with pytest.raises(CannotEnforceError, match=missing.value):
        compiled(machine(landlock=abi), tier, policy(allow_degraded=others))


@pytest.mark.parametrize("abi", [1, 5])
def test_an_old_landlock_without_the_broker_closes_no_socket_of_the_host(abi: int) -> None:
    facts = machine(landlock=abi, probes={"seccomp_listener": "EINVAL"})
    assert lacking(facts, Tier.NAMESPACES) == {A.UNIX_SOCKETS, A.ABSTRACT_SOCKETS}
    assert lacking(facts, Tier.NAMESPACES, network="none") == {A.UNIX_SOCKETS}


@pytest.mark.parametrize("tier", CONFINING)
def test_what_is_enforced_is_never_called_degraded(tier: Tier) -> None:
    """Naming an aspect permits less; it does not switch anything off, but for shared memory."""
    plan = compiled(machine(), tier, policy(allow_degraded=EVERY_ASPECT))
    degraded = {row.aspect for row in plan.receipt.rows if row.state == "degraded"}
    assert degraded == ({A.SHARED_MEMORY} if tier is Tier.LANDLOCK else set())


@pytest.mark.parametrize(("tier", "abi"), CASES)
def test_the_plan_uses_every_right_of_the_abi_and_no_other(tier: Tier, abi: int) -> None:
    plan = compiled(machine(landlock=abi), tier, policy(allow_degraded=EVERY_ASPECT))
    rulesets = only(plan, steps.Landlock)
    if abi == 0:
        assert not rulesets
        assert not only(plan, steps.Rule)
        return
    (ruleset,) = rulesets
    assert isinstance(ruleset, steps.Landlock)
    assert ruleset.handled_fs == landlock.known_fs(abi)
    assert ruleset.scoped == landlock.known_scopes(abi)
    for rule in plan.steps:
        if isinstance(rule, (steps.Rule, steps.RuleOwnProc, steps.RuleStdio, steps.Script)):
            assert rule.access & ~ruleset.handled_fs == 0


RIGHTS_BY_ABI = {0: 0, 1: 13, 2: 14, 3: 15, 4: 15, 5: 16, 6: 16, 7: 16, 8: 16, 9: 17, 10: 17}


@pytest.mark.parametrize("abi", ABIS)
def test_the_tables_are_the_kernels(abi: int) -> None:
    """Source: the number of rights that include/uapi/linux/landlock.h has at each ABI."""
    assert landlock.known_fs(abi) == (1 << RIGHTS_BY_ABI[abi]) - 1
    assert landlock.known_net(abi) == (0 if abi < 4 else 3 if abi < 10 else 15)
    assert landlock.known_scopes(abi) == (3 if abi >= 6 else 0)


@pytest.mark.parametrize("abi", ABIS)
@pytest.mark.parametrize("network", ["host", "none"])
def test_landlock_closes_the_network_only_when_asked(abi: int, network: str) -> None:
    wanted = policy(network=network, allow_degraded=EVERY_ASPECT)
    plan = compiled(machine(landlock=abi), Tier.LANDLOCK, wanted)
    handled = [step.handled_net for step in only(plan, steps.Landlock) if isinstance(step, steps.Landlock)]
    expected = landlock.known_net(abi) if network == "none" else 0
    assert handled == ([] if abi == 0 else [expected])


# ---- receipts ----


@pytest.mark.parametrize("tier", CONFINING)
def test_a_receipt_has_every_aspect_once(tier: Tier) -> None:
    receipt = compiled(machine(), tier).receipt
    assert [row.aspect for row in receipt.rows] == [aspect for aspect in Aspect if aspect is not Aspect.PROJECT]
    assert receipt.tier == tier.value


@pytest.mark.parametrize("tier", CONFINING)
@pytest.mark.parametrize(("network", "state"), [("host", "open by policy"), ("none", "enforced")])
def test_the_network_is_open_only_by_policy(tier: Tier, network: str, state: str) -> None:
    row = compiled(machine(), tier, policy(network=network)).receipt.row(A.NETWORK)
    assert row.state == state
    assert bool(row.layers) is (state == "enforced")


@pytest.mark.parametrize("tier", CONFINING)
def test_enforced_means_some_layer_does_it(tier: Tier) -> None:
    for row in compiled(machine(), tier, policy(preset="strict")).receipt.rows:
        assert row.state == "enforced"
        assert row.layers


def test_a_receipt_is_json() -> None:
    receipt = compiled(machine(), Tier.LANDLOCK).receipt
    assert json.loads(msgspec.json.encode(receipt))["tier"] == "landlock"
    assert msgspec.json.decode(msgspec.json.encode(receipt), type=type(receipt)) == receipt


def test_shared_memory_is_given_when_named() -> None:
    closed = compiled(machine(), Tier.LANDLOCK)
    opened = compiled(machine(), Tier.LANDLOCK, policy(allow_degraded=["shared-memory"]))
    rules = [{s.path for s in only(plan, steps.Rule) if isinstance(s, steps.Rule)} for plan in (closed, opened)]
    assert "/dev/shm" not in rules[0]
    assert "/dev/shm" in rules[1]
    assert opened.receipt.row(A.SHARED_MEMORY).state == "degraded"
    assert "shared-memory" in closed.receipt.row(A.SHARED_MEMORY).note


# ---- machines that lack one thing ----


@pytest.mark.parametrize("probe", ["seccomp_listener", "pidfd_getfd"])
def test_without_a_broker_metadata_cannot_be_closed(probe: str) -> None:
    facts = machine(probes={probe: "EBUSY"}, landlock=7)
    assert lacking(facts, Tier.LANDLOCK) == {A.METADATA, A.UNIX_SOCKETS}
    with pytest.raises(CannotEnforceError, match="metadata, unix-sockets"):
        compiled(facts, Tier.LANDLOCK)


def test_without_a_broker_nothing_is_supervised() -> None:
    facts = machine(probes={"seccomp_listener": "EINVAL"})
    plan = compiled(facts, Tier.LANDLOCK, policy(allow_degraded=["metadata", "unix-sockets"]))
    (seccomp,) = only(plan, steps.Seccomp)
    assert isinstance(seccomp, steps.Seccomp)
    assert seccomp.listener == 0
    assert not only(plan, steps.Writable)


def test_without_a_list_of_children_nothing_can_be_outlived_for_sure() -> None:
    facts = machine(probes={"proc_children": "ENOENT"})
    assert lacking(facts, Tier.LANDLOCK) == {A.LIFETIME}
    assert compiled(facts, Tier.NAMESPACES).receipt.row(A.LIFETIME).state == "enforced"


def test_landlock_9_closes_sockets_without_a_broker() -> None:
    facts = machine(probes={"seccomp_listener": "EBUSY"}, landlock=9)
    assert lacking(facts, Tier.LANDLOCK) == {A.METADATA}


def test_namespaces_need_a_broker_for_sockets_only() -> None:
    """A read-only mount does not stop connect(2); from ABI 9 on Landlock does."""
    probes = {"seccomp_listener": "EBUSY", "pidfd_getfd": "ENOSYS"}
    assert lacking(machine(probes=probes), Tier.NAMESPACES) == {A.UNIX_SOCKETS}
    plan = compiled(machine(probes={**probes, "landlock": "9"}), Tier.NAMESPACES)
    assert not only(plan, steps.Writable)
    assert all(getattr(s, "listener", 0) == 0 for s in plan.steps)


def test_a_machine_without_cgroup_namespaces_still_has_the_others() -> None:
    (with_it,) = only(compiled(machine(), Tier.NAMESPACES), steps.Namespaces)
    facts = machine(probes={"cgroup_namespace": "EINVAL"})
    (without,) = only(compiled(facts, Tier.NAMESPACES), steps.Namespaces)
    assert isinstance(with_it, steps.Namespaces)
    assert isinstance(without, steps.Namespaces)
    assert with_it.flags ^ without.flags == 0x02000000


@pytest.mark.parametrize("name", ["x86_64", "aarch64"])
@pytest.mark.parametrize("tier", CONFINING)
def test_both_architectures(name: str, tier: Tier) -> None:
    plan = compiled(machine(machine=name), tier)
    (seccomp,) = only(plan, steps.Seccomp)
    assert isinstance(seccomp, steps.Seccomp)
    assert len(seccomp.program) % 8 == 0


def test_the_filters_of_two_architectures_differ() -> None:
    programs = {
        step.program
        for name in ("x86_64", "aarch64")
        for step in compiled(machine(machine=name), Tier.NAMESPACES).steps
        if isinstance(step, steps.Seccomp)
    }
    assert len(programs) == 2


@pytest.mark.parametrize("name", ["riscv64", "i686", "armv7l", "ppc64le", ""])
@pytest.mark.parametrize("tier", CONFINING)
def test_an_unknown_architecture_is_refused_as_such(name: str, tier: Tier) -> None:
    with pytest.raises(CannotEnforceError, match=name or "architecture"):
        compiled(machine(machine=name), tier)


# ---- the choice of a backend ----

NEEDED_ONLY_WITHOUT_NAMESPACES = {"seccomp_listener", "pidfd_getfd", "proc_children"}

ADVICE = [
    ("EPERM", "unprivileged_userns_clone"),
    ("ENOSPC", "max_user_namespaces"),
    ("EACCES", "apparmor_restrict_unprivileged_userns"),
    ("EINVAL", "CONFIG_USER_NS"),
]


def test_auto_takes_the_strongest() -> None:
    choice = choose("auto", machine())
    assert choice.backend is native_backend.BACKEND
    assert choice.passed_over == ()


@pytest.mark.parametrize(("answer", "advice"), ADVICE)
def test_without_user_namespaces_auto_takes_landlock_and_says_why(answer: str, advice: str) -> None:
    choice = choose("auto", machine(probes={"user_namespace": answer}))
    assert choice.backend is landlock_backend.BACKEND
    ((name, (missing,)), (other, _)) = choice.passed_over
    assert (name, other) == ("native", "bubblewrap")
    assert answer in missing.what
    assert advice in missing.remedy


@pytest.mark.parametrize(("answer", "advice"), ADVICE)
def test_native_by_name_refuses_with_the_advice(answer: str, advice: str) -> None:
    with pytest.raises(CannotEnforceError) as caught:
        choose("native", machine(probes={"user_namespace": answer}))
    assert f"user namespaces ({answer})" in str(caught.value)
    assert "landlock" not in str(caught.value)
    assert advice in (caught.value.hint or "")


def test_without_a_user_namespace_native_lacks_that_alone() -> None:
    """The rest was tried in one. Advice for what fails in one would lead astray."""
    ((_, missing), _) = choose("auto", ubuntu()).passed_over
    assert [item.what for item in missing] == ["user namespaces (EACCES)"]


def test_ubuntu_gets_landlock() -> None:
    choice = choose("auto", ubuntu())
    assert choice.backend.tier is Tier.LANDLOCK
    assert "apparmor" in choice.passed_over[0][1][0].remedy


def test_errors_have_the_names_that_advice_goes_by() -> None:
    assert collect._named(f"-{errno.EOPNOTSUPP}") == "EOPNOTSUPP"
    assert collect._named(f"-{errno.EPERM}") == "EPERM"


@pytest.mark.parametrize(("answer", "advice"), [("ENOSYS", "5.13"), ("EOPNOTSUPP", "lsm=")])
def test_without_landlock_the_advice_names_the_kernel_setting(answer: str, advice: str) -> None:
    with pytest.raises(CannotEnforceError, match=answer) as caught:
        choose("landlock", machine(landlock=answer))
    assert advice in (caught.value.hint or "")


def test_nothing_at_all_names_both() -> None:
    facts = machine(landlock="ENOSYS", probes={"user_namespace": "EPERM"})
    with pytest.raises(CannotEnforceError) as caught:
        choose("auto", facts)
    for part in ("native lacks user namespaces (EPERM)", "landlock lacks Landlock (ENOSYS)"):
        assert part in str(caught.value)
    assert "doctor" in (caught.value.hint or "")


@pytest.mark.parametrize("probe", sorted(set(EVERY_PROBE) - NEEDED_ONLY_WITHOUT_NAMESPACES - {"cgroup_namespace"}))
def test_native_needs_each_of_its_probes(probe: str) -> None:
    with pytest.raises(CannotEnforceError, match="EXDEV"):
        choose("native", machine(probes={probe: "EXDEV"}))


@pytest.mark.parametrize("probe", ["seccomp", "openat2", "close_range"])
def test_what_both_need_leaves_neither(probe: str) -> None:
    with pytest.raises(CannotEnforceError, match=r"native lacks .*; landlock lacks "):
        choose("auto", machine(probes={probe: "ENOSYS"}))


@pytest.mark.parametrize("probe", sorted(EVERY_PROBE))
def test_what_was_never_probed_does_not_work(probe: str) -> None:
    facts = machine()
    fewer = {name: answer for name, answer in facts.probes.items() if name != probe}
    assert not msgspec.structs.replace(facts, probes=fewer).works(probe)


@pytest.mark.parametrize("system", ["Darwin", "Windows", "FreeBSD"])
@pytest.mark.parametrize("backend", ["auto", "native", "landlock"])
def test_other_systems_are_refused_by_name(system: str, backend: str) -> None:
    facts = HostFacts(system, "arm64", "25.0", 501, "/Users/ada")
    with pytest.raises(CannotEnforceError, match="lacks Linux"):
        choose(backend, facts)


def test_facts_are_json() -> None:
    assert msgspec.json.decode(msgspec.json.encode(machine()), type=HostFacts) == machine()
