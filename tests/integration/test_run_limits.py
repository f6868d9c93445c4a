"""Limits of runs, as root and as a user, in both tiers: each ends with its own cause; nothing is left of any run."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from harness import Person
from processes import wait_for_none

DRIVER = str(Path(__file__).with_name("run_driver.py"))
tiers = pytest.mark.parametrize("tier", ["native", "landlock"])
people = pytest.mark.parametrize("person", ["root", "user"], indirect=True)

CAUSES = {
    "sleeper": ("timeout", "timeout"), "idle": ("timeout", "idle_seconds"), "ignored SIGTERM": ("timeout", "timeout"),
    "busy loop": ("cpu", "cpu_seconds"), "busy children": ("cpu", "cpu_seconds"),
    "memory hog": ("memory", "memory_bytes"), "hog in children": ("memory", "memory_bytes"),
    "fork bomb": ("processes", "processes"), "threads": ("processes", "processes"),
    "disk filler": ("disk", "disk_bytes"), "disk filler that goes on": ("disk", "disk_bytes"),
    "output flood": ("output", "output_bytes"), "error flood": ("output", "output_bytes"),
}  # fmt: skip


def drive(person: Person, case: str, tier: str, **environment: str) -> dict[str, Any]:
    done = person.run([sys.executable, DRIVER, case, tier], env=person.environment | environment)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@people
@tiers
def test_each_limit_ends_a_run_with_its_cause(person: Person, tier: str) -> None:
    found = drive(person, "limits", tier)
    assert {name: (row["outcome"], row["limit"]) for name, row in found.items()} == CAUSES
    assert all(row["returncode"] is None for row in found.values())
    for name in ("sleeper", "idle", "ignored SIGTERM"):
        assert 0.5 <= found[name]["used"] < 0.5 + 1.0, found[name]
    assert found["busy loop"]["cpu"] < 0.5 + 1.0
    assert found["memory hog"]["peak"] < 2 * 200 << 20
    assert all(row["wall"] < 30 for row in found.values()), found


@people
@tiers
def test_a_daemon_does_not_outlive_the_run(person: Person, tier: str) -> None:
    assert drive(person, "daemons", tier) == {"stdout": "end\n", "left": []}


@people
@tiers
def test_nothing_is_held_afterwards(person: Person, tier: str) -> None:
    """``RUNS=2000 python tests/integration/run_driver.py leaks native`` does it for long."""
    found = drive(person, "leaks", tier, RUNS="80", TMPDIR=str(person.directory("tmp")))
    assert found["after"] == found["before"], found
    assert all(found["done"].values())


@pytest.mark.parametrize("person", ["user"], indirect=True)
@tiers
def test_threads_may_run_at_once(person: Person, tier: str) -> None:
    assert drive(person, "threads", tier)["found"] == list(range(24))


@pytest.mark.parametrize("person", ["user"], indirect=True)
@tiers
def test_a_hundred_sessions_at_once(person: Person, tier: str) -> None:
    assert drive(person, "hundred", tier)["values"] == [2 * number for number in range(100)]


@people
@tiers
def test_a_program_that_is_killed_leaves_no_run(person: Person, tier: str) -> None:
    from processes import find_processes, wait_until

    process = person.popen([sys.executable, DRIVER, "killed", tier], stdout=-1)
    assert process.stdout is not None
    token = process.stdout.readline().strip()
    assert wait_until(lambda: find_processes(token)), "the run did not start"
    process.kill()
    process.wait()
    assert not wait_for_none(token)
