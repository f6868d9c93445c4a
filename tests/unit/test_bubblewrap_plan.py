"""The backend bubblewrap on machines that we do not have; plans as reviewed text.

``VSBOX_REWRITE_GOLDEN=1`` writes ``golden_bubblewrap/*.txt`` anew.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from unit.machines import DATA, HOME, OWN, ROOT, box, debian, directory, machine, policy, ubuntu
from unit.test_compile_plans import rendered, with_paths
from vsbox.backends import bubblewrap as backend
from vsbox.backends import choose
from vsbox.errors import CannotEnforceError, PolicyError
from vsbox.host.facts import BubblewrapFact, HostFacts, PathFact
from vsbox.plan import steps
from vsbox.plan.bubblewrap import through_bubblewrap
from vsbox.plan.compile import compile_plan
from vsbox.plan.model import Plan, Tier
from vsbox.plan.steps import BIND_DEVICE, BIND_OPTIONAL, BIND_WRITABLE
from vsbox.policy.model import Policy

GOLDEN = Path(__file__).parent / "golden_bubblewrap"
FOUND = BubblewrapFact("/usr/bin/bwrap", "0.8.0", "ok", (*backend.NEEDED_OPTIONS, "bind"))
PATHS = {
    path: directory(path) for path in ("/srv/models", "/srv/scratch", f"{DATA}/cache", f"{DATA}/private", HOME)
}


def with_bwrap(facts: HostFacts, **changes: object) -> HostFacts:
    return msgspec.structs.replace(
        with_paths(facts, PATHS), gid=1000, bubblewrap=msgspec.structs.replace(FOUND, **changes)
    )


def compiled(given: Policy, *, tier: Tier = Tier.NAMESPACES) -> Plan:
    return compile_plan(given, with_bwrap(debian()), box(), tier)


def words(*given: str, **keys: object) -> Policy:
    return policy(bwrap_arguments=given, **keys)


OPTIONS = words(
    "--bind", DATA, DATA, "--tmpfs", f"{DATA}/cache", "--ro-bind", "/srv/models", "/models",
    "--bind", "/srv/scratch", "/scratch", "--size", "65536", "--perms", "0700", "--tmpfs", "/srv",
    "--dir", "/srv/empty", "--symlink", "/models", "/opt/models", "--setenv", "A", "1", "--unsetenv", "TZ",
    "--hostname", "inside", "--chdir", "/scratch", "--unshare-net", "--uid", "0",
    "--ro-bind-try", "/gone", "/gone", "--bind-try", "/missing", "/elsewhere",
)  # fmt: skip
SITUATIONS = {"default": policy(), "options": OPTIONS, "strict": policy(preset="strict")}


def test_it_makes_the_root_only_where_it_must() -> None:
    allowing = with_bwrap(debian(), lets_mount=True)

    def made(given: Policy, facts: HostFacts) -> list[int]:
        plan = through_bubblewrap(compile_plan(given, facts, box(), Tier.NAMESPACES), facts)
        return [step.makes_root for step in plan.steps if isinstance(step, steps.Bubblewrap)]

    assert made(policy(), allowing) == [0]
    assert made(policy(), with_bwrap(debian())) == [1]
    assert made(words("--uid", "0"), allowing) == [1], "words for bwrap itself"
    assert made(words("--hostname", "inside"), allowing) == [0], "words that are steps"




@pytest.mark.parametrize("name", SITUATIONS)
def test_golden(name: str) -> None:
    facts = with_bwrap(debian())
    text = rendered(through_bubblewrap(compile_plan(SITUATIONS[name], facts, box(), Tier.NAMESPACES), facts))
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("VSBOX_REWRITE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()


def test_the_plan_is_the_native_one_with_a_program() -> None:
    native = compiled(policy())
    plan = through_bubblewrap(native, with_bwrap(debian()))
    added = [step for step in plan.steps if step not in native.steps]
    assert added == [steps.Bubblewrap("/usr/bin/bwrap", 1)]
    assert [step for step in plan.steps if step not in added] == list(native.steps)
    assert plan.receipt.tier == native.receipt.tier
    for row, before in zip(plan.receipt.rows, native.receipt.rows, strict=True):
        assert row.state == before.state
        assert [layer.replace("bubblewrap", "namespaces") for layer in row.layers] == list(before.layers)


def test_overlays_need_a_newer_one() -> None:
    plan = Plan((steps.Namespaces(0), steps.Overlay("/a", "/b")), compiled(policy()).receipt)
    with pytest.raises(CannotEnforceError, match=r"0\.8\.0 has no overlays"):
        through_bubblewrap(plan, with_bwrap(debian()))
    allowing = with_bwrap(debian(), lets_mount=True)
    assert steps.Overlay("/a", "/b") in through_bubblewrap(plan, allowing).steps
    newer = with_bwrap(debian(), version="0.11.0", options=(*FOUND.options, "tmp-overlay"))
    assert steps.Overlay("/a", "/b") in through_bubblewrap(plan, newer).steps


def test_without_bubblewrap_there_is_no_plan() -> None:
    with pytest.raises(CannotEnforceError, match="not installed"):
        through_bubblewrap(compiled(policy()), debian())


# ---- the choice ----


def test_ubuntu_takes_bubblewrap_where_it_may_make_namespaces() -> None:
    choice = choose("auto", with_bwrap(ubuntu()))
    assert choice.backend is backend.BACKEND
    assert choice.backend.tier is Tier.NAMESPACES


def test_auto_takes_native_first() -> None:
    assert choose("auto", with_bwrap(machine())).backend.name == "native"


NO_PERMISSION = (
    "No permissions to create new namespace, likely because the kernel does not allow non-privileged user namespaces."
)
DENIED = "Creating new namespace failed: Permission denied"
TOO_MANY = "Creating new namespace failed: nesting depth or /proc/sys/user/max_*_namespaces exceeded (ENOSPC)"


def without_namespaces(errno: str, answer: str) -> HostFacts:
    return with_bwrap(machine(probes={"user_namespace": errno}), answer=answer)


LACKING: list[tuple[HostFacts, str, str]] = [
    (machine(), "bubblewrap", "apt-get install bubblewrap"),
    (with_bwrap(machine(), version="0.4.1", options=("bind", "args")), "(/usr/bin/bwrap is 0.4.1", "apt-get"),
    (with_bwrap(machine(), answer="setting up uid map: Permission denied"), "uid map", "bwrap-userns-restrict"),
    (with_bwrap(machine(), answer="loopback: Failed RTM_NEWADDR: Operation not permitted"), "RTM_NEWADDR", "profile"),
    (with_bwrap(machine(), answer="The --size option is not permitted in setuid mode"), "setuid mode", "chmod u-s"),
    (with_bwrap(machine(), answer="Can't mount proc on /newroot/proc"), "mount proc", "unmasked"),
    (without_namespaces("EPERM", NO_PERMISSION), "No permissions", "unprivileged_userns_clone=1"),
    (without_namespaces("EACCES", NO_PERMISSION), "No permissions", "bwrap-userns-restrict"),
    (without_namespaces("EACCES", DENIED), "denied", "bwrap-userns-restrict"),
    (without_namespaces("ENOSPC", TOO_MANY), "ENOSPC", "max_user_namespaces"),
    (with_bwrap(machine(probes={"openat2": "ENOSYS"})), "openat2(2) (ENOSYS)", "Linux 5.6"),
    (with_bwrap(machine(probes={"close_range": "EINVAL"})), "close_range(2) (EINVAL)", "Linux 5.11"),
    (with_bwrap(machine(probes={"seccomp": "EINVAL"})), "seccomp filters (EINVAL)", ""),
    (msgspec.structs.replace(with_bwrap(machine()), machine="riscv64"), "riscv64", ""),
    (msgspec.structs.replace(with_bwrap(machine()), system="Darwin"), "Linux", ""),
]


@pytest.mark.parametrize(("facts", "what", "remedy"), LACKING)
def test_what_is_missing_is_said_with_its_remedy(facts: HostFacts, what: str, remedy: str) -> None:
    first = backend.missing(facts)[0]
    assert what in first.what
    assert remedy in first.remedy


def test_nothing_is_missing_where_it_works() -> None:
    assert backend.missing(with_bwrap(machine())) == ()
    assert backend.missing(with_bwrap(ubuntu())) == ()


# ---- mounts ----

STEPS: list[tuple[str, steps.Step]] = [
    ("--bind /srv/scratch /s", steps.Bind("/srv/scratch", "/s", BIND_WRITABLE)),
    ("--ro-bind /srv/models /m", steps.Bind("/srv/models", "/m", 0)),
    ("--bind-try /missing /s", steps.Bind("/missing", "/s", BIND_WRITABLE | BIND_OPTIONAL)),
    ("--dev-bind /dev/null /dev/also", steps.Bind("/dev/null", "/dev/also", BIND_WRITABLE | BIND_DEVICE)),
    ("--dev-bind /srv/scratch /srv/scratch", steps.Bind("/srv/scratch", "/srv/scratch", BIND_WRITABLE | BIND_DEVICE)),
    ("--size 4096 --tmpfs /s", steps.Tmpfs("/s", 4096, 0o755)),
    ("--dir /s", steps.Directory("/s")),
    ("--symlink a /s", steps.Symlink("/s", "a")),
    ("--hostname h", steps.Hostname("h")),
    ("--chdir /s", steps.Chdir("/s")),
    ("--unsetenv TZ", steps.Unset("TZ")),
    ("--uid 0 --gid 5", steps.BubblewrapArguments(("--uid", "0", "--gid", "5"))),
]


@pytest.mark.parametrize(("text", "step"), STEPS)
def test_an_option_becomes_a_step(text: str, step: steps.Step) -> None:
    assert step in compiled(words(*text.split())).steps


def test_an_optional_grant_that_is_missing_is_left_out() -> None:
    plan = compiled(words("--bind-try", "/missing", "/missing"))
    assert not any("/missing" in step.describe() for step in plan.steps)
    with pytest.raises(PolicyError, match="/missing: it does not exist"):
        compiled(words("--bind", "/missing", "/missing"))


def test_a_private_directory_comes_before_the_working_directory_that_may_lie_in_it() -> None:
    plan = compiled(words("--tmpfs", HOME)).steps
    assert plan.index(steps.Tmpfs(HOME, 4 << 30, 0o755)) < plan.index(steps.Workdir(1, 0))


def test_a_private_directory_in_a_grant_covers_it() -> None:
    plan = compiled(words("--tmpfs", f"{DATA}/cache", "--bind", DATA, DATA)).steps
    assert plan.index(steps.Bind(DATA, DATA, BIND_WRITABLE)) < plan.index(steps.Tmpfs(f"{DATA}/cache", 4 << 30, 0o755))


def test_a_private_directory_in_another_mount_is_there_too() -> None:
    plan = compiled(words("--bind", "/srv/scratch", "/s", "--tmpfs", "/s/t")).steps
    assert plan.index(steps.Bind("/srv/scratch", "/s", BIND_WRITABLE)) < plan.index(steps.Tmpfs("/s/t", 4 << 30, 0o755))


def test_what_may_be_written_has_a_rule_and_the_broker() -> None:
    plan = compiled(words("--bind", "/srv/scratch", "/s", "--ro-bind", "/srv/models", "/m"))
    assert "/s" in {step.path for step in plan.steps if isinstance(step, steps.Rule)}
    assert "/m" not in {step.path for step in plan.steps if isinstance(step, steps.Rule)}
    assert steps.Writable("/s") in plan.steps


REFUSED: list[tuple[dict[str, object], str, str]] = [
    ({}, "--ro-bind /gone /x", "does not exist"),
    ({}, "--ro-bind /bin /x", "symbolic link"),
    ({}, f"--ro-bind {HOME} /x", "it holds the box"),
    ({}, f"--ro-bind {ROOT}/bin /x", "is in it"),
    ({}, f"--bind {OWN} /x", "vsbox itself runs from"),
    ({"hidden_paths": [f"{DATA}/private"]}, f"--ro-bind {DATA} /x", "under another name"),
    ({"read_only_paths": [f"{DATA}/private"]}, f"--bind {DATA} /x", "under another name"),
    ({"preset": "project", "project": DATA}, f"--bind {DATA}/cache /x", "the project"),
]


@pytest.mark.parametrize(("keys", "text", "message"), REFUSED)
def test_a_mount_opens_no_more_than_a_grant_could(keys: dict[str, object], text: str, message: str) -> None:
    own = {OWN: PathFact("directory", OWN), ROOT: directory(ROOT), f"{ROOT}/bin": directory(f"{ROOT}/bin")}
    facts = with_paths(with_bwrap(debian()), own)
    with pytest.raises(PolicyError) as caught:
        compile_plan(words(*text.split(), **keys), facts, box(), Tier.NAMESPACES)
    assert message in str(caught.value)


def test_less_than_a_grant_is_fine() -> None:
    compiled(words("--ro-bind", DATA, "/x", read_only_paths=[f"{DATA}/private"]))
    compiled(words("--ro-bind", f"{DATA}/cache", "/x", preset="project", project=DATA))


NEED_NAMESPACES = ("--ro-bind /srv/models /x", "--tmpfs /x", "--dir /x", "--symlink a /x", "--hostname h")


@pytest.mark.parametrize("text", NEED_NAMESPACES)
def test_without_namespaces_there_is_nothing_to_mount_in(text: str) -> None:
    with pytest.raises(CannotEnforceError, match=text.split(maxsplit=1)[0]):
        compiled(words(*text.split()), tier=Tier.LANDLOCK)


def test_grants_work_without_namespaces() -> None:
    plan = compiled(words("--bind", DATA, DATA, "--setenv", "A", "1", "--unshare-net"), tier=Tier.LANDLOCK)
    assert DATA in {step.path for step in plan.steps if isinstance(step, steps.Rule)}
    assert steps.Set("A", "1") in plan.steps
