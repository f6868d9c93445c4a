"""The AppArmor profile of a box, installed as vsbox says, on machines that have AppArmor.

Each is one boot, in which ``guest_apparmor.py`` tries everything; the tests look at what it found.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from vm import apparmor, visiting
from vm.scenarios import Profiled, profiled

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1500)]
GUEST = Path(__file__).with_name("guest_apparmor.py")


@dataclass(frozen=True)
class Visit:
    """A machine and what was found there."""

    scenario: Profiled
    found: dict[str, Any]

    @property
    def profile(self) -> str:
        """The launcher's."""
        found = re.search(r"vsbox\.[0-9a-f]{16}", self.found["required without"]["stderr"])
        assert found
        return found[0]


def visit(scenario: Profiled) -> Visit:
    """Boot the machine and try everything in it."""
    suites = {scenario.suite} | ({apparmor.SUITE} if scenario.policy else set())
    kernel = visiting.find(scenario.kernel, needs=all(map(apparmor.is_there, suites)))
    asked = {"backend": scenario.backend, "pip": scenario.ci, "root": scenario.ci}
    return Visit(scenario, visiting.look(kernel, scenario.setting(), GUEST, asked, seconds=1400))


@pytest.fixture(scope="module", params=profiled(), ids=lambda scenario: scenario.name)
def visited(request: pytest.FixtureRequest) -> Visit:
    """Each machine, booted once."""
    return visit(request.param)


def refused(answer: dict[str, Any], what: str) -> bool:
    message, _, hint = answer["stderr"].partition("\n")
    return answer["status"] == 125 and answer["stdout"] == "" and what in message and "vsbox apparmor" in hint


def test_without_a_profile_a_box_is_made_and_none_is_entered(visited: Visit) -> None:
    found = visited.found
    assert f"sandboxed with {visited.scenario.before}:" in found["made"]["stdout"]
    assert found["without"]["read what was granted before"] == "ok"
    assert "payload" not in found["without"]["label"]
    assert found["check without"]["status"] == 1
    assert "is not installed" in found["check without"]["stdout"]


def test_where_it_is_required_nothing_starts_without_it(visited: Visit) -> None:
    assert refused(visited.found["required without"], "which sandbox.json requires: it is not loaded and enforced")


def test_the_commands_that_are_printed_install_it(visited: Visit) -> None:
    for name in ("installed", "installed later"):
        assert [answer["status"] for answer in visited.found[name]] == [0, 0, 0], visited.found[name]
    assert visited.found["check with"] == visited.found["check with"] | {"status": 0, "stderr": ""}
    assert visited.found["check with"]["stdout"].endswith(" is as it should be\n")


def test_launcher_and_payload_have_the_labels_that_they_should(visited: Visit) -> None:
    expected = visited.scenario.label.replace("{}", visited.profile)
    assert visited.found["with"]["label"] == expected
    assert visited.found["next program"]["stdout"].strip() == expected
    assert visited.found["launcher"][0] == f"{visited.profile} (enforce)"
    assert visited.found["launcher"][1] == "-15"


def test_the_receipt_says_so(visited: Visit) -> None:
    receipt = json.loads(visited.found["receipt"]["stdout"])["receipt"]
    assert receipt["tier"] == visited.scenario.tier
    named = {row["aspect"] for row in receipt["rows"] if "apparmor" in row["layers"]}
    assert named == {"files", "processes", "signals", "privileges"}


def test_python_works_under_it(visited: Visit) -> None:
    work = visited.found["work"]
    assert work["status"] == 0, work
    assert json.loads(work["stdout"]) == {
        "localhost": "hello", "socketpair": "x", "unix": "connected", "pools": [2, 4] * 3, "asyncio": "hello\n",
        "script": "made here", "deleted": 10000, "killed": -15, "sqlite": 1, "neighbour": 7,
    }  # fmt: skip
    if not visited.scenario.policy:  # a file that a confined caller opened is looked at again
        assert visited.found["redirected"] == "redirected\n"
    if visited.scenario.ci:
        assert visited.found["pip"]["stdout"].startswith("pip ")


def test_a_watched_run_works_under_it(visited: Visit) -> None:
    assert (visited.found["reported"]["status"], visited.found["reported"]["stdout"]) == (0, "1\n")


def test_it_is_entered_by_root_too(visited: Visit) -> None:
    if not visited.scenario.ci:
        pytest.skip("tried on one machine")
    assert visited.found["root"]["status"] == 0, visited.found["root"]
    assert re.search(r"^vsbox\.[0-9a-f]{16}\.payload \(enforce\)$", visited.found["root"]["stdout"], re.MULTILINE)


def test_vsbox_check_passes_under_it(visited: Visit) -> None:
    answer = visited.found["battery"]
    assert answer["status"] == 0, answer
    assert json.loads(answer["stdout"])["failed"] == 0


def test_it_denies_what_the_other_layers_show(visited: Visit) -> None:
    """The policy grants it, the profile is from before: seen, and not opened. With the profile made anew it is."""
    found = visited.found
    assert found["with"]["read what was granted before"] == found["later"]["read what was granted before"] == "ok"
    assert found["later"]["write what was granted before"] == "ok"
    assert found["later"]["see what was granted later"] == "ok"
    for what in ("read what was granted later", "write what was granted later"):
        assert (found["later"][what], found["after"][what]) == ("EACCES", "ok")


def test_differences_are_shown_and_can_be_ignored(visited: Visit) -> None:
    later, ignoring = visited.found["check later"], visited.found["check ignoring"]
    assert (later["status"], ignoring["status"]) == (1, 0)
    added = [line for line in later["stdout"].splitlines() if re.match(r"\+ .*/\.late", line)]
    assert added


def test_what_is_granted_later_is_said_to_be_denied(visited: Visit) -> None:
    said = visited.found["granted later"]["stderr"]
    assert "AppArmor denies it until its profile is made anew: vsbox apparmor" in said
    assert visited.found["granted"]["stderr"] == ""


def test_a_profile_that_only_complains_is_not_taken_for_one(visited: Visit) -> None:
    assert refused(visited.found["start complaining"], "cannot enforce the AppArmor profile")


def test_a_profile_that_was_unloaded_is_missed(visited: Visit) -> None:
    found = visited.found
    assert found["unloaded"]["status"] == 0
    if visited.scenario.policy:  # the launcher's is missed first: it opens user namespaces
        assert (found["start unloaded"]["status"], found["start unloaded"]["stdout"]) == (125, "")
    else:
        assert refused(found["start unloaded"], "it is not loaded")
    assert found["start without"]["read what was granted before"] == "ok"
    assert "payload" not in found["start without"]["label"]
