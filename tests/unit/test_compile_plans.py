"""Plans: reviewed text for invented machines, determinism, and the grants that are refused.

``VSBOX_REWRITE_GOLDEN=1`` writes ``golden/*.txt`` anew; read the difference before you keep it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from unit.machines import (
    CONFINING,
    DATA,
    HOME,
    OWN,
    ROOT,
    box,
    debian,
    directory,
    machine,
    policy,
    regular,
    ubuntu,
    unmerged,
)  # fmt: skip
from vsbox.errors import CannotEnforceError, PolicyError, VsboxError
from vsbox.host.facts import HostFacts, PathFact
from vsbox.plan import steps
from vsbox.plan.compile import compile_plan
from vsbox.plan.encode import encode
from vsbox.plan.model import BoxFacts, Plan, Tier
from vsbox.policy.model import Policy

GOLDEN = Path(__file__).parent / "golden"
BOTH = pytest.mark.parametrize("tier", CONFINING)


def rendered(plan: Plan) -> str:
    """One line a step, then one a row; the length of the filter is not a matter of the plan."""
    passed = "pass " + " ".join(s.name for s in plan.steps if isinstance(s, steps.Pass))
    others = [step for step in plan.steps if not isinstance(step, steps.Pass)]
    lines = [re.sub(r"\d+ instructions", "filter", step.describe()) for step in others]
    lines += [passed, ""]
    for row in plan.receipt.rows:
        by = f" by {', '.join(row.layers)}" if row.layers else ""
        lines.append(f"{row.aspect.value}: {row.asked}: {row.state}{by}".rstrip())
    return "\n".join(lines) + "\n"


GRANTS = policy(
    allowed_paths=(DATA,),
    read_only_paths=(f"{DATA}/models",),
    hidden_paths=(f"{DATA}/models/private",),
    environment={"pass": ("MY_*",), "set": {"LANG": "C.UTF-8"}},
    limits={"cpu_seconds": 60, "open_files": 256},
)
FLAT = policy(allowed_paths=(DATA,), read_only_paths=("/home/ada/models",), limits={"cpu_seconds": 60})
DISK = {
    path: directory(path)
    for path in (f"{DATA}/models", f"{DATA}/models/private", "/home/ada/models")
}


def with_paths(facts: HostFacts, paths: dict[str, PathFact]) -> HostFacts:
    return msgspec.structs.replace(facts, paths=facts.paths | paths)


PROJECT = policy(preset="project", project=DATA)
UV = "/home/ada/.local/share/uv/python/cpython-3.12"
SITUATIONS: dict[str, tuple[Policy, HostFacts, BoxFacts, Tier]] = {
    "debian-default": (policy(), debian(), box(), Tier.NAMESPACES),
    "debian-grants": (GRANTS, with_paths(debian(), DISK), box(), Tier.NAMESPACES),
    "debian-strict": (policy(preset="strict"), debian(), box(), Tier.NAMESPACES),
    "debian-project": (PROJECT, with_paths(debian(), DISK), box(), Tier.NAMESPACES),
    "debian-project-landlock": (PROJECT, with_paths(debian(), DISK), box(), Tier.LANDLOCK),
    "debian-landlock": (FLAT, with_paths(debian(), DISK), box(), Tier.LANDLOCK),
    "ubuntu-apparmor-rule": (policy(), ubuntu(), box(), Tier.LANDLOCK),
    "ubuntu-strict": (policy(preset="strict"), ubuntu(), box(), Tier.LANDLOCK),
    "ubuntu-old-landlock": (
        policy(allow_degraded=["signals", "lifetime", "shared-memory"]),
        ubuntu(landlock=4),
        box(),
        Tier.LANDLOCK,
    ),
    "unmerged-usr": (policy(), unmerged(), box(trees=("/usr/local/python",)), Tier.NAMESPACES),
    "unmerged-usr-landlock": (policy(), unmerged(), box(), Tier.LANDLOCK),
    "uv-python": (
        policy(),
        with_paths(debian(), {UV: directory(UV)}),
        box(trees=(UV,)),
        Tier.NAMESPACES,
    ),
}


@pytest.mark.parametrize("name", [*SITUATIONS, "debian-project-install", "debian-project-landlock-install"])
def test_golden(name: str) -> None:
    situation = SITUATIONS[name.removesuffix("-install")]
    text = rendered(compile_plan(*situation, installing=name.endswith("-install")))
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("VSBOX_REWRITE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()


def test_no_golden_is_left_over() -> None:
    assert {path.stem.removesuffix("-install") for path in GOLDEN.glob("*.txt")} == set(SITUATIONS)


# ---- order and determinism ----


@pytest.mark.parametrize("name", SITUATIONS)
def test_the_same_input_gives_the_same_bytes(name: str) -> None:
    first, second = (encode(compile_plan(*SITUATIONS[name]).steps) for _ in range(2))
    assert first == second


DIGEST = """
import hashlib, sys
sys.path.insert(0, sys.argv[1])
from unit.test_compile_plans import SITUATIONS
from vsbox.plan.compile import compile_plan
from vsbox.plan.encode import encode
for name in SITUATIONS:
    print(name, hashlib.sha256(encode(compile_plan(*SITUATIONS[name]).steps)).hexdigest())
"""


def digests(**environment: str) -> str:
    tests = str(Path(__file__).parents[1])
    answer = subprocess.run(
        [sys.executable, "-c", DIGEST, tests], env=environment, capture_output=True, text=True, check=True
    )
    return answer.stdout


def test_neither_hash_seed_nor_environment_change_a_plan() -> None:
    quiet = digests(PYTHONHASHSEED="1")
    loud = digests(PYTHONHASHSEED="2", HOME="/nowhere", TMPDIR="/x", PIP_INDEX_URL="file:///y", LANG="C")
    assert quiet == loud
    assert len(quiet.splitlines()) == len(SITUATIONS)


def test_the_order_in_which_grants_are_written_does_not_matter() -> None:
    facts = with_paths(debian(), DISK | {"/d": directory("/d")})
    plans = {
        compile_plan(policy(allowed_paths=paths), facts, box(), Tier.NAMESPACES).steps
        for paths in ((DATA, "/d"), ("/d", DATA), ("/d", DATA, "/d"))
    }
    assert len(plans) == 1


def positions(plan: Plan, step: type[steps.Step]) -> list[int]:
    return [i for i, s in enumerate(plan.steps) if isinstance(s, step)]


@pytest.mark.parametrize("name", SITUATIONS)
def test_restrictions_come_in_the_only_safe_order(name: str) -> None:
    """Landlock forbids mounts, seccomp forbids what the steps before it need."""
    plan = compile_plan(*SITUATIONS[name])
    (payload,), (restrict,), (seccomp,) = (
        positions(plan, kind) for kind in (steps.Payload, steps.Restrict, steps.Seccomp)
    )
    assert payload < restrict < seccomp == len(plan.steps) - 1
    mounts = (steps.Namespaces, steps.Tmpfs, steps.Bind, steps.Proc, steps.Mask, steps.Pivot)
    assert all(i < payload for kind in mounts for i in positions(plan, kind))
    assert all(payload < i < restrict for i in positions(plan, steps.Rule))


@pytest.mark.parametrize("name", SITUATIONS)
def test_a_landlock_plan_mounts_nothing(name: str) -> None:
    plan = compile_plan(*SITUATIONS[name])
    namespaced = plan.receipt.tier == "namespaces"
    for kind in (steps.Namespaces, steps.Tmpfs, steps.Bind, steps.Pivot, steps.SealUserns):
        assert bool(positions(plan, kind)) is namespaced


def test_parents_are_mounted_before_children() -> None:
    plan = compile_plan(*SITUATIONS["debian-grants"])
    targets = [getattr(s, "target", None) or getattr(s, "path", None) for s in plan.steps]
    order = [targets.index(path) for path in (DATA, f"{DATA}/models")]
    mask = max(i for i, s in enumerate(plan.steps) if isinstance(s, steps.Mask))
    assert order == sorted(order)
    assert plan.steps[mask] == steps.Mask(f"{DATA}/models/private", steps.BIND_OPTIONAL)
    assert mask > order[-1]


@BOTH
def test_the_policy_and_the_launchers_are_never_shown_writable(tier: Tier) -> None:
    """Law 1: nothing outside of inside/ and home/ is writable."""
    plan = compile_plan(policy(), debian(), box(), tier)
    written = {s.source for s in plan.steps if isinstance(s, steps.Bind) and s.flags & steps.BIND_WRITABLE}
    if tier is Tier.LANDLOCK:
        written = {s.path for s in plan.steps if isinstance(s, steps.Rule) and s.access & 2}
    assert {path for path in written if not path.startswith("/dev/")} == {f"{ROOT}/inside", f"{ROOT}/home"}


@BOTH
def test_strict_packages_are_read_only(tier: Tier) -> None:
    plan = compile_plan(policy(preset="strict"), debian(), box(), tier)
    for step in plan.steps:
        if isinstance(step, steps.Bind) and step.source == f"{ROOT}/inside":
            assert not step.flags & steps.BIND_WRITABLE
        if isinstance(step, steps.Rule) and step.path in {f"{ROOT}/inside", ROOT}:
            assert not step.access & 2


@BOTH
def test_what_the_policy_sets_wins(tier: Tier) -> None:
    wanted = policy(environment={"set": {"HOME": "/elsewhere", "X": "1"}})
    plan = compile_plan(wanted, debian(), box(), tier)
    found = [(s.name, s.value) for s in plan.steps if isinstance(s, steps.Set)]
    assert ("HOME", "/elsewhere") in found
    assert len(found) == len(dict(found))


# ---- grants that are refused ----

LINK = {"/home/ada/link": PathFact("directory", "/home/ada/.ssh")}
THROUGH = {"/home/ada/link/x": PathFact("file", "/home/ada/.ssh/x")}
HELD = {OWN: directory(OWN), "/home/ada/.local": directory("/home/ada/.local")}
INSIDE = {f"{ROOT}/sandbox": directory(f"{ROOT}/sandbox"), f"{ROOT}/inside/x": directory(f"{ROOT}/inside/x")}
LISTS = ("allowed_paths", "read_only_paths", "hidden_paths")

REFUSED = [
    ("/home/ada/none", LISTS, {}, "it does not exist"),
    ("/home/ada/link", LISTS, LINK, "symbolic link to /home/ada/.ssh"),
    ("/home/ada/link/x", LISTS, THROUGH, "symbolic link to /home/ada/.ssh/x"),
    (ROOT, LISTS, {ROOT: directory(ROOT)}, "inside the box|holds the box"),
    (f"{ROOT}/sandbox", LISTS, INSIDE, "inside the box"),
    (f"{ROOT}/inside/x", LISTS, INSIDE, "inside the box"),
    ("/", LISTS[:2], {"/": directory("/")}, "holds the box|vsbox itself"),
    (OWN, LISTS[:1], HELD, "vsbox itself runs from"),
    ("/home/ada/.local", LISTS[:1], HELD, "vsbox itself runs from"),
    ("/home", LISTS[:1], {"/home": directory("/home")}, "vsbox itself|holds the box"),
]


@BOTH
@pytest.mark.parametrize(
    ("path", "key", "paths", "cause"),
    [(path, key, paths, cause) for path, keys, paths, cause in REFUSED for key in keys],
)
def test_refused(path: str, key: str, paths: dict[str, PathFact], cause: str, tier: Tier) -> None:
    with pytest.raises(PolicyError, match=cause) as caught:
        compile_plan(policy(**{key: (path,)}), machine(paths=paths), box(), tier)
    assert path in str(caught.value)
    assert caught.value.exit_code == 2


@BOTH
@pytest.mark.parametrize("paths", [{}, HELD], ids=["plain", "held"])
def test_what_is_beside_is_granted(tier: Tier, paths: dict[str, PathFact]) -> None:
    """The control: the same machine and a grant that nothing speaks against."""
    plan = compile_plan(policy(allowed_paths=(DATA,)), machine(paths=paths), box(), tier)
    targets = {getattr(s, "target", getattr(s, "path", None)) for s in plan.steps}
    assert DATA in targets


def test_reading_where_vsbox_is_installed_is_harmless() -> None:
    assert compile_plan(policy(read_only_paths=(OWN,)), machine(paths=HELD), box(), Tier.LANDLOCK).steps


def test_an_ancestor_of_the_box_cannot_be_written_without_namespaces() -> None:
    facts = machine(own_paths=())
    with pytest.raises(PolicyError, match="holds the box"):
        compile_plan(policy(allowed_paths=(HOME,)), facts, box(), Tier.LANDLOCK)


def test_an_ancestor_with_namespaces_leaves_the_box_covered() -> None:
    facts = machine(own_paths=())
    plan = compile_plan(policy(allowed_paths=(HOME,)), facts, box(), Tier.NAMESPACES)
    binds = [s.target for s in plan.steps if isinstance(s, steps.Bind)]
    assert binds.index(HOME) < binds.index(ROOT)


@pytest.mark.parametrize("access", LISTS[:1])
def test_a_box_deeper_in_what_is_writable_is_refused(access: str) -> None:
    """A directory between the grant and the box could be renamed, and another box put in its place."""
    deep = f"{HOME}/project/env"
    facts = machine(own_paths=())
    wanted = policy(venv_root=deep, **{access: (HOME,)})
    plan_or_error: Plan | VsboxError
    try:
        plan_or_error = compile_plan(wanted, facts, box(root=deep), Tier.NAMESPACES)
    except PolicyError as error:
        plan_or_error = error
    pinned = isinstance(plan_or_error, Plan) and any(
        getattr(step, "target", None) == f"{HOME}/project" for step in plan_or_error.steps
    )
    assert isinstance(plan_or_error, PolicyError) or pinned


@pytest.mark.parametrize(
    "lists",
    [
        {"hidden_paths": (DATA,)},
        {"allowed_paths": (DATA,), "hidden_paths": (f"{DATA}/models",)},
        {"allowed_paths": (DATA,), "read_only_paths": (f"{DATA}/models",)},
        {"read_only_paths": (DATA,), "hidden_paths": (f"{DATA}/models",)},
    ],
)
def test_landlock_cannot_subtract(lists: dict[str, tuple[str, ...]]) -> None:
    facts = machine(paths=DISK)
    with pytest.raises(CannotEnforceError, match="no deny rules"):
        compile_plan(policy(**lists), facts, box(), Tier.LANDLOCK)
    assert compile_plan(policy(**lists), facts, box(), Tier.NAMESPACES).steps


def test_landlock_can_add_below() -> None:
    wanted = policy(read_only_paths=(DATA,), allowed_paths=(f"{DATA}/models",))
    plan = compile_plan(wanted, machine(paths=DISK), box(), Tier.LANDLOCK)
    rules = {s.path: s.access & 2 for s in plan.steps if isinstance(s, steps.Rule)}
    assert (rules[DATA], rules[f"{DATA}/models"]) == (0, 2)


@BOTH
def test_a_policy_of_another_box_is_refused(tier: Tier) -> None:
    with pytest.raises(PolicyError, match="venv_root"):
        compile_plan(policy(venv_root="/elsewhere"), machine(), box(), tier)


@BOTH
@pytest.mark.parametrize("spelling", ["//home/ada/.local", "//", "//home"])
def test_no_spelling_gets_around_a_refusal(spelling: str, tier: Tier) -> None:
    """POSIX lets ``//x`` mean ``/x``; as text it is below nothing."""
    facts = machine(paths={spelling: PathFact("directory", spelling)})
    with pytest.raises(PolicyError):
        compile_plan(policy(allowed_paths=(spelling,)), facts, box(), tier)


@BOTH
def test_many_grants(tier: Tier) -> None:
    paths = [f"/data/{i}" for i in range(2000)]
    facts = machine(paths={path: directory(path) for path in paths})
    plan = compile_plan(policy(allowed_paths=paths), facts, box(), tier)
    assert len(encode(plan.steps)) > 2000 * 20


@BOTH
@pytest.mark.parametrize("name", ["a b", "a\nb", 'a"b', "a'b", "é", "$x", "\udcff"])
def test_odd_names_are_carried(name: str, tier: Tier) -> None:
    path = f"/data/{name}"
    wanted = msgspec.structs.replace(policy(), allowed_paths=(path,))
    plan = compile_plan(wanted, machine(paths={path: regular(path)}), box(), tier)
    assert os.fsencode(path) + b"\0" in encode(plan.steps)
