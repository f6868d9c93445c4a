"""vsbox on other kernels and on machines that withhold what it builds on, each in a virtual machine of its own.

Every scenario is one boot, in which ``guest.py`` tries everything; the tests look at what it found.
``VSBOX_VM_SCENARIOS`` chooses the scenarios. See docs/how-to/test-on-other-kernels.md.
"""

from __future__ import annotations

import errno
import json
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness import lacking
from vm import apparmor, kernels, machine, visiting
from vm.scenarios import Refusal, Scenario, chosen

pytestmark = [pytest.mark.vm, pytest.mark.timeout(900)]
GUEST = Path(__file__).with_name("guest.py")
NO_CONTROL = {
    "read /etc/shadow", "set the kernel's core_pattern", "type into the terminal", "use bpf", "hold a capability",
    "make a user namespace",
}  # fmt: skip
"""Attempts of ``vsbox check`` that fail outside as well, everywhere or where namespaces are withheld."""


@dataclass(frozen=True)
class Visit:
    """A scenario and what was found there."""

    scenario: Scenario
    found: dict[str, Any]

    @property
    def doctor(self) -> dict[str, Any]:
        return dict(json.loads(self.found["doctor"]["stdout"]))

    @property
    def laws(self) -> dict[str, Any]:
        return self.of_a_box("laws")

    def of_a_box(self, what: str) -> dict[str, Any]:
        if not self.scenario.has_box:
            pytest.skip("no box can be made here, as it must be")
        assert what in self.found, "no box was made"
        return dict(self.found[what])


def visit(scenario: Scenario) -> Visit:
    """Boot the machine and try everything in it."""
    kernel = visiting.find(scenario.kernel, needs=not scenario.policy or apparmor.is_there())
    if scenario.systemd and not machine.SYSTEMD.exists():
        lacking("vm", "there is no systemd: apt-get install systemd libpam-systemd dbus-user-session")
    asked = {
        "backends": [*scenario.lacking], "degraded": scenario.degraded, "delegated": scenario.delegated,
        "systemd": scenario.systemd,
    }  # fmt: skip
    return Visit(scenario, visiting.look(kernel, scenario.setting(), GUEST, asked, seconds=800))


@pytest.fixture(scope="module", params=chosen(), ids=lambda scenario: scenario.name)
def visited(request: pytest.FixtureRequest) -> Visit:
    """Each scenario, booted once."""
    return visit(request.param)


def assert_refused(answer: dict[str, Any], refusal: Refusal) -> None:
    """The launcher's status, what is missing on the first line, what helps on the second."""
    message, _, hint = answer["stderr"].partition("\n")
    assert answer["status"] == 125, answer
    assert refusal.message in message
    assert refusal.advice in hint


def test_it_is_the_machine_that_was_meant(visited: Visit) -> None:
    kernel = kernels.find(visited.scenario.kernel)
    assert kernel is not None
    assert (visited.found["kernel"], visited.found["uid"]) == (kernel.release, machine.UID)


def test_doctor_tells_what_there_is_and_which_backend_is_used(visited: Visit) -> None:
    doctor, scenario = visited.doctor, visited.scenario
    answer = doctor["probes"]["landlock"]
    assert answer == scenario.landlock if scenario.landlock else answer.isdigit()
    assert doctor["uses"] == (scenario.uses or None)
    assert visited.found["doctor"]["status"] == (0 if scenario.uses else 1)


def test_doctor_advises_what_helps(visited: Visit) -> None:
    backends = {backend["name"]: backend for backend in visited.doctor["backends"]}
    for name, refusal in visited.scenario.lacking.items():
        said = [f"{item['what']}: {item['remedy']}" for item in backends[name]["missing"]]
        said += [f"cannot enforce: needed: {gap['advice']}" for gap in backends[name]["cannot_enforce"]]
        assert any(refusal.advice in line for line in said), (name, said)


def test_backends_that_do_not_work_are_refused(visited: Visit) -> None:
    for name, refusal in visited.scenario.lacking.items():
        assert_refused(visited.found["backends"][name], refusal)


def test_a_box_is_made_or_refused_and_what_is_given_up_is_named(visited: Visit) -> None:
    made, scenario = visited.found["made"], visited.scenario
    if scenario.refused:
        assert_refused(made, scenario.refused)
        made = visited.found.get("made degraded")
    if scenario.has_box:
        assert made["status"] == 0, made
        assert f"sandboxed with {scenario.tier}:" in made["stdout"]
    for aspect in scenario.degraded:
        assert f"not enforced, as allowed: {aspect} (" in made["stderr"]


def test_attempts_fail_inside_and_succeed_outside(visited: Visit) -> None:
    outside, inside = visited.laws["outside"], visited.laws["inside"]
    power, status = "make a user namespace", inside.pop("status")
    assert {name: answer for name, answer in inside.items() if answer == "ok"} == {}
    assert {name for name, answer in outside.items() if answer != "ok"} <= {"status", power}
    capabilities = {name: value for name, value in status.items() if name.startswith("Cap")}
    assert {int(value, 16) for value in capabilities.values()} == {0}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert (outside["status"]["NoNewPrivs"], outside["status"]["Seccomp"]) == ("0", "0")


def test_vsbox_check_passes_and_its_control_holds(visited: Visit) -> None:
    answer = visited.of_a_box("check")
    assert answer["status"] == 0, answer
    result = json.loads(answer["stdout"])
    assert (result["failed"], result["tier"]) == (0, visited.scenario.tier)
    given_up = {finding["aspect"] for finding in result["findings"] if finding["verdict"] == "degraded"}
    assert given_up <= set(visited.scenario.degraded)
    without_control = {finding["probe"] for finding in result["findings"] if finding["outside"] != "ok"}
    assert without_control <= NO_CONTROL


def test_nothing_survives_the_launcher(visited: Visit) -> None:
    found = visited.of_a_box("survivors")
    assert {side["said"] for side in found.values()} == {"started"}
    assert found["outside"]["left"], "the control: a process outside survives"
    if "lifetime" not in visited.scenario.degraded:
        assert found["inside"]["left"] == []


def has_group(scenario: Scenario) -> bool:
    return scenario.delegated or scenario.systemd


if any(map(has_group, chosen())):  # else there is nothing to skip

    @pytest.mark.parametrize("visited", list(filter(has_group, chosen())), indirect=True, ids=lambda s: s.name)
    def test_limits_are_the_groups(visited: Visit) -> None:
        """A control group limits by itself, the control; and runs whose limits must be exact have one."""
        limits = visited.found["limits"]
        assert limits["memory"]["status"] == -signal.SIGKILL, limits
        assert limits["forks"]["stdout"] == f"7 {errno.EAGAIN}\n"
        assert limits["runs"]["status"] == 0, limits["runs"]
        runs = json.loads(limits["runs"]["stdout"])
        assert {name: found[0] for name, found in runs.items()} == {
            "memory": "memory", "processes": "processes", "nothing": "exited",
        }, runs  # fmt: skip
        assert runs["memory"][1] <= 65 << 20
