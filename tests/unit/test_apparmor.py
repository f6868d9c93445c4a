"""AppArmor: profiles as reviewed text, names and quoting, when a plan enters one, what is refused.

``VSBOX_REWRITE_GOLDEN=1`` writes ``golden_apparmor/*.txt`` anew; read the difference before you keep it.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from harness import lacking
from unit.machines import CONFINING, DATA, ROOT, box, debian, directory, machine, policy, ubuntu
from unit.test_compile_plans import DISK as NESTED
from unit.test_compile_plans import GRANTS, PROJECT
from vsbox.errors import CannotEnforceError, PolicyError
from vsbox.host.facts import AppArmorFact, HostFacts
from vsbox.plan import steps
from vsbox.plan.apparmor import profile_text, quote, with_launcher_profile
from vsbox.plan.compile import compile_plan
from vsbox.plan.model import Plan, Tier
from vsbox.plan.profile_names import installed_path, is_loaded, launcher_profile, payload_profile
from vsbox.policy.model import Aspect, Policy

GOLDEN = Path(__file__).parent / "golden_apparmor"
PARSER = "/usr/sbin/apparmor_parser"
TOP = {path: directory(path) for path in ("/home", "/data", "/etc", "/opt", "/srv", "/var", "/tmp", "/lost+found")}
BOTH = pytest.mark.parametrize("tier", CONFINING)


def with_apparmor(facts: HostFacts, *, mode: str = "", abi: str = "3.0") -> HostFacts:
    """A machine with AppArmor; ``mode``: of the profiles of the box, if they are loaded."""
    answers = dict.fromkeys((launcher_profile(ROOT), payload_profile(ROOT)), mode or "-2")
    fact = AppArmorFact(enabled=True, abi=abi, profiles=answers)
    return msgspec.structs.replace(facts, apparmor=fact, paths=facts.paths | TOP | NESTED)


def plans(wanted: Policy, facts: HostFacts, tier: Tier) -> tuple[Plan, ...]:
    installs = (False, True) if wanted.preset == "project" else (False,)
    return tuple(compile_plan(wanted, facts, box(), tier, installing=installing) for installing in installs)


SITUATIONS = {
    "default": (policy(), debian(), "3.0", Tier.NAMESPACES),
    "grants": (GRANTS, debian(), "3.0", Tier.NAMESPACES),
    "strict": (policy(preset="strict"), debian(), "4.0", Tier.NAMESPACES),
    "project": (PROJECT, debian(), "4.0", Tier.NAMESPACES),
    "landlock": (policy(allowed_paths=(DATA,), network="none"), ubuntu(), "4.0", Tier.LANDLOCK),
}


def text_of(name: str) -> str:
    wanted, facts, abi, tier = SITUATIONS[name]
    facts = with_apparmor(facts, abi=abi)
    return profile_text(plans(wanted, facts, tier), facts, box())


@pytest.mark.parametrize("name", SITUATIONS)
def test_golden(name: str) -> None:
    text, path = text_of(name), GOLDEN / f"{name}.txt"
    if os.environ.get("VSBOX_REWRITE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert text == path.read_text()


def test_no_golden_is_left_over() -> None:
    assert {path.stem for path in GOLDEN.glob("*.txt")} == set(SITUATIONS)


def parser() -> str:
    if not Path(PARSER).exists():
        lacking("apparmor", "there is no apparmor_parser: apt-get install apparmor")
    return PARSER


def parse(text: str, *options: str) -> subprocess.CompletedProcess[str]:
    argv = [parser(), "--skip-kernel-load", "--skip-cache", *options]
    return subprocess.run(argv, input=text, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", SITUATIONS)
def test_the_compiler_of_profiles_takes_them(name: str) -> None:
    text = text_of(name)
    if not Path("/etc/apparmor.d/abi/4.0").exists():  # Debian 12: rules about user namespaces are not known
        text = text.replace("abi <abi/4.0>", "abi <abi/3.0>").replace("  userns,\n", "")
    done = parse(text)
    assert done.returncode == 0, done.stderr


def test_the_compiler_refuses_what_is_wrong() -> None:
    """The control."""
    assert parse(text_of("default").replace("pivot_root,", "pivot_roots,")).returncode != 0


# ---- quoting ----


def meaning_of(quoted: str) -> str:
    """Return the one path that a rule about this word matches, as the compiler's automaton spells it."""
    done = parse(f"profile x {{ {quoted} r, }}\n", "--dump=dfa-states")
    assert done.returncode == 0, (quoted, done.stderr)
    edges = re.findall(r"^\{(\d+)\} perms|^    (?:. )?(.+?) -> \{(\d+)\}", done.stderr + done.stdout, re.MULTILINE)
    following: dict[str, list[tuple[str, str]]] = {}
    state = ""
    for begins, character, target in edges:
        if begins:
            state = begins
        else:
            following.setdefault(state, []).append((character.split()[-1], target))
    path, state, found = [], "1", bytearray()
    while state in following:
        assert len(following[state]) == 1, (quoted, following)
        assert state not in path
        path.append(state)
        number, state = following[state][0]
        found.append(int(number, 16))
    return os.fsdecode(bytes(found))


NAMES = st.text(
    st.characters(min_codepoint=0x20, max_codepoint=0x2FFF, exclude_characters="\x7f/", exclude_categories=("Cs",)),
    min_size=1,
    max_size=12,
).filter(lambda name: name not in {".", ".."})


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(NAMES)
@example("two words")
@example('quote " and \\ and \\" and \\\\')
@example("?*[a-z]{b,c}^!#,@{HOME}")
@example("]}[{*?^")
@example("# include <x>")
@example("é中🐍")
@example("a' $(id) `id` %s")
def test_a_quoted_path_means_itself_and_nothing_else(name: str) -> None:
    assert meaning_of(quote(f"/{name}")) == f"/{name}"


@pytest.mark.parametrize("name", ["a\nb", "a\tb", "\x7f", "a\rb", "\x00"])
def test_control_characters_are_refused(name: str) -> None:
    with pytest.raises(PolicyError, match="control character"):
        quote(f"/{name}")


# ---- names ----


def test_names_depend_on_the_place_only() -> None:
    assert re.fullmatch(r"vsbox\.[0-9a-f]{16}", launcher_profile(ROOT))
    assert payload_profile(ROOT) == f"{launcher_profile(ROOT)}.payload"
    assert installed_path(ROOT) == f"/etc/apparmor.d/{launcher_profile(ROOT)}"
    assert launcher_profile(ROOT) != launcher_profile(f"{ROOT}2")


# ---- what a plan does with it ----


def entered(plan: Plan) -> list[str]:
    return [step.profile for step in plan.steps if isinstance(step, steps.Apparmor)]


@BOTH
@pytest.mark.parametrize(
    ("mode", "wanted", "expected"),
    [
        ("enforce", "auto", True), ("enforce", "required", True), ("enforce", "off", False),
        ("", "auto", False), ("complain", "auto", False),
    ],
)  # fmt: skip
def test_it_is_entered_where_it_is_enforced_and_wanted(tier: Tier, mode: str, wanted: str, *, expected: bool) -> None:
    plan = compile_plan(policy(apparmor=wanted), with_apparmor(machine(), mode=mode), box(), tier)
    assert entered(plan) == ([payload_profile(ROOT)] if expected else [])
    layers = {row.aspect for row in plan.receipt.rows if "apparmor" in row.layers}
    assert layers == ({Aspect.FILES, Aspect.PROCESSES, Aspect.SIGNALS, Aspect.PRIVILEGES} if expected else set())


def test_it_comes_before_all_that_the_payload_does_to_itself() -> None:
    plan = compile_plan(policy(), with_apparmor(machine(), mode="enforce"), box(), Tier.NAMESPACES)
    kinds = [type(step) for step in plan.steps]
    assert kinds.index(steps.Apparmor) < kinds.index(steps.Namespaces) < kinds.index(steps.Payload)


@pytest.mark.parametrize("mode", ["", "complain"])
def test_required_and_not_enforced_is_refused_with_the_command_that_helps(mode: str) -> None:
    with pytest.raises(CannotEnforceError, match="not loaded and enforced") as caught:
        compile_plan(policy(apparmor="required"), with_apparmor(machine(), mode=mode), box(), Tier.NAMESPACES)
    assert caught.value.hint == f"how to load it: vsbox apparmor {ROOT}"


def test_required_where_there_is_no_apparmor_is_refused() -> None:
    with pytest.raises(CannotEnforceError, match="this machine has no AppArmor"):
        compile_plan(policy(apparmor="required"), machine(), box(), Tier.NAMESPACES)


def test_it_fills_no_gap() -> None:
    """One profile holds for all runs of a box, so it alone does not keep their signals apart."""
    facts = with_apparmor(ubuntu(landlock=4), mode="enforce")
    with pytest.raises(CannotEnforceError, match="signals"):
        compile_plan(policy(), facts, box(), Tier.LANDLOCK)


def test_a_profile_of_another_box_is_none() -> None:
    fact = AppArmorFact(enabled=True, profiles={payload_profile(f"{ROOT}2"): "enforce"})
    assert not is_loaded(machine(apparmor=fact), ROOT)


@pytest.mark.parametrize("keys", [{"mode": "log"}, {"mode": "preview"}, {"os_sandbox": False}])
def test_what_is_not_confined_enters_none(keys: dict[str, object]) -> None:
    tier = Tier.NAMESPACES if keys.get("mode") == "preview" else Tier.NONE
    plan = compile_plan(policy(**keys), with_apparmor(machine(), mode="enforce"), box(), tier)
    assert entered(plan) == []


# ---- Ubuntu's restriction of user namespaces ----


def test_profiles_are_made_for_what_the_launchers_profile_opens() -> None:
    before = with_apparmor(ubuntu(), abi="4.0")
    assert with_launcher_profile(before, ROOT).works("user_namespace", "bind", "pivot_root")


@pytest.mark.parametrize(
    "facts",
    [
        with_apparmor(ubuntu(), abi="3.0"),
        with_apparmor(ubuntu(), abi="4.0", mode="enforce"),
        with_apparmor(machine(probes={"user_namespace": "EPERM"}), abi="4.0"),
        ubuntu(),
    ],
)
def test_else_they_are_made_for_the_machine_as_it_is(facts: HostFacts) -> None:
    assert with_launcher_profile(facts, ROOT) == facts
