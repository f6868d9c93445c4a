"""``vsbox check``: the battery passes where the kernel confines, and fails where it does not."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cli_answers import refused

from processes import wait_until
from terminal import Terminal

if TYPE_CHECKING:
    from harness import Box, Person

PLAIN = ("--no-pip", "--mode", "enforce")
USER = pytest.mark.parametrize("person", ["user"], indirect=True)
ON_SHARED_MEMORY = {
    "multiprocessing: pools", "multiprocessing: locks, queues", "multiprocessing: shared_memory", "/dev/shm",
}  # fmt: skip
ON_LOCALHOST = {"asyncio: server", "localhost: TCP", "localhost: UDP"}
# What an ordinary user, a container or a kernel without some option cannot do without a sandbox either.
MAY_BE_IMPOSSIBLE = 35


def ask(box: Box, *options: str) -> tuple[int, dict]:
    done = box.person.vsbox("check", "--json", *options, box.root)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def rows(answer: dict, verdict: str) -> set[str]:
    return {finding["probe"] for finding in answer["findings"] if finding["verdict"] == verdict}


def states(answer: dict, state: str) -> set[str]:
    return {promise["name"] for promise in answer["contract"] if promise["state"] == state}


def left_over(person: Person) -> list[Path]:
    shared = (place.glob("vsbox-check-*") for place in (Path("/tmp"), Path("/dev/shm")))
    return [*person.home.glob(".vsbox-check-*"), *(path for found in shared for path in found)]


def test_everything_holds(person: Person, backend: str, make_box: Callable[..., Box]) -> None:
    """All attempts and the whole contract, in each tier, as root and as a user."""
    box = make_box(person, backend, *PLAIN)
    status, answer = ask(box, "--extended", "--contract")
    assert rows(answer, "FAILED") == rows(answer, "degraded") == set()
    assert {f["aspect"] for f in answer["findings"] if f["verdict"] == "open by policy"} == {"network"}
    assert len(rows(answer, "not possible here")) < MAY_BE_IMPOSSIBLE
    assert {"outlive the launcher", "leave a trace in files of yours", "signal another process"} <= rows(answer, "pass")
    assert states(answer, "does not work") == set()
    assert states(answer, "closed by policy") == (ON_SHARED_MEMORY if box.backend == "landlock" else set())
    assert (status, answer["failed"], answer["broken"]) == (0, 0, 0)


@USER
@pytest.mark.parametrize("backend", ["native", "landlock"])
def test_without_network_nothing_is_open(person: Person, backend: str, make_box: Callable[..., Box]) -> None:
    status, answer = ask(make_box(person, backend, "--network", "none"), "--contract")
    assert (status, rows(answer, "open by policy"), rows(answer, "FAILED")) == (0, set(), set())
    closed = ON_SHARED_MEMORY | ON_LOCALHOST if backend == "landlock" else set()
    assert states(answer, "closed by policy") == closed


REACHED_IN_LOG = {
    "read a file of yours", "change the policy", "signal another process", "list other processes",
    "connect to localhost", "connect to a UNIX socket", "connect to an abstract UNIX socket", "delete a file of yours",
    "leave a trace in files of yours", "share System V memory", "reopen standard input for writing",
}  # fmt: skip


@USER
def test_mode_log_opens_all(person: Person, make_box: Callable[..., Box]) -> None:
    """The control: the same attempts by the same launcher reach what nothing closes."""
    box = make_box(person, "native", "--mode", "log", "--no-pip")
    status, answer = ask(box, "--extended")
    inside = {finding["probe"]: finding["inside"] for finding in answer["findings"]}
    assert {inside[name] for name in REACHED_IN_LOG} == {"ok"}
    assert rows(answer, "open by policy") >= REACHED_IN_LOG
    assert {"see a secret variable", "use an inherited file", "gain privileges"} <= rows(answer, "pass")
    assert (status, rows(answer, "FAILED")) == (0, set())
    assert wait_until(lambda: not left_over(person))


@USER
def test_what_the_policy_grants_is_open(person: Person, make_box: Callable[..., Box]) -> None:
    box = make_box(person, "native", "--allow-read", str(person.home), "--no-pip")
    status, answer = ask(box)
    assert {"read a file of yours", "list your home"} <= rows(answer, "open by policy")
    assert {"write a file of yours", "truncate a file of yours", "connect to a UNIX socket"} <= rows(answer, "pass")
    assert status == 0


UNCONFINE = """
import sys
sys.path[:] = sys.argv[2].split(":")
from pathlib import Path
from vsbox.box.layout import Layout
from vsbox.box.store import load_policy, plan_and_facts
from vsbox.plan import steps
from vsbox.plan.encode import encode
layout = Layout(Path(sys.argv[1]))
plan = plan_and_facts(layout, load_policy(layout)).plan
dropped = (steps.Landlock, steps.Restrict, steps.Rule, steps.RuleStdio, steps.RuleOwnProc, steps.Seccomp)
layout.plan.write_bytes(encode(tuple(step for step in plan.steps if not isinstance(step, dropped))))
"""


@USER
@pytest.mark.parametrize("backend", ["landlock"])
def test_a_box_that_does_not_confine_is_found_out(own_box: Box) -> None:
    """Its receipt says that everything is enforced; its plan enforces nothing."""
    box = own_box
    box.person.run([sys.executable, "-c", UNCONFINE, str(box.root), ":".join(sys.path)], check=True)
    status, answer = ask(box)
    failed = rows(answer, "FAILED")
    assert {"read a file of yours", "list your home", "signal another process", "read the policy"} <= failed
    assert (status, answer["failed"]) == (1, len(failed))
    done = box.person.vsbox("check", box.root)
    assert done.returncode == 1
    assert "REACHED" in done.stdout


@USER
@pytest.mark.parametrize("backend", ["native"])
def test_what_code_inside_has_changed_cannot_answer(own_box: Box) -> None:
    """The box's own python is what code inside may have put there: attempts are made by the base one."""
    python = own_box.root / "inside" / "bin" / "python"
    python.unlink()
    own_box.person.write(python, "#!/bin/sh\nexec yes '[\"read a file of yours\", \"EACCES\", \"\"]'\n", mode=0o755)
    status, answer = ask(own_box)
    assert (status, len(rows(answer, "pass")) > 12) == (0, True)
    done = own_box.person.vsbox("check", "--contract", "--json", own_box.root)
    assert done.returncode == 1
    assert json.loads(done.stdout)["broken"] > 20


@USER
def test_verbose_says_how(person: Person, make_box: Callable[..., Box]) -> None:
    done = person.vsbox("check", "--verbose", make_box(person, "native", *PLAIN).root, check=True)
    told = done.stdout.split("\n\n")[1].splitlines()
    assert told[0] == "read a file of yours: pass"
    assert [line.split()[0] for line in told[1:]] == ["aspect", "tries", "inside", "outside", "control"]
    assert "ENOENT: [Errno 2] No such file or directory: '" in told[3]


@USER
def test_interactive_is_python_inside(terminal: Terminal, person: Person, make_box: Callable[..., Box]) -> None:
    root = make_box(person, "native", *PLAIN).root
    refused(person.vsbox("check", "--interactive", "--json", root), 2, "JSON")
    terminal.run("export PYTHON_BASIC_REPL=1")
    terminal.start(f"{sys.executable} -m vsbox check --interactive {root}")
    terminal.expect("0 failed")
    terminal.expect(">>> ")
    terminal.send("import sys, os; sys.prefix, os.path.exists(sys.prefix + '/sandbox')\n")
    terminal.expect(rf"\('{root}', False\)")
    terminal.send("exit(4)\n")
    terminal.prompt()
    assert terminal.run("echo $?") == "4\n"


def objects_of(person: Person) -> set[str]:
    """Keys of shared memory: uid is the eighth column (proc_sysvipc(5))."""
    lines = (line.split() for line in Path("/proc/sysvipc/shm").read_text().splitlines()[1:])
    return {line[0] for line in lines if line[7] == str(person.uid)}


def test_a_check_that_is_killed_leaves_nothing(person: Person, make_box: Callable[..., Box]) -> None:
    box = make_box(person, "native", "--no-pip")
    before = objects_of(person)
    argv = [sys.executable, "-m", "vsbox", "check", "--extended", str(box.root)]
    process = person.popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert wait_until(lambda: left_over(person) and objects_of(person) - before)
    time.sleep(0.1)
    process.kill()
    process.wait()
    assert wait_until(lambda: not left_over(person))
    assert wait_until(lambda: not objects_of(person) - before)
