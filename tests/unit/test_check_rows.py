"""Attempts and promises: the tables, how each row is tried, and what is made of the answers."""

from __future__ import annotations

import ast
import os
import signal
import time
from pathlib import Path

import msgspec
import pytest

from vsbox.check import attempts, calls, promises, trial
from vsbox.check.attempts import ATTEMPTS
from vsbox.check.battery import SURVIVE, TRACE, judge
from vsbox.check.contract import judge as judge_promise
from vsbox.check.program import NO_ANSWER, Answer, _read
from vsbox.check.promises import PROMISES, Promise
from vsbox.plan.receipt import Receipt, Row
from vsbox.policy.model import Aspect, Limits, Policy
from vsbox.seccomp.syscalls import architecture

OK, DENIED = Answer("ok"), Answer("EACCES", "[Errno 13] Permission denied")


@pytest.mark.parametrize("table", [(*ATTEMPTS, SURVIVE, TRACE), PROMISES])
def test_names_are_unique(table) -> None:
    names = [row.name for row in table]
    assert len(names) == len(set(names))


def test_every_attempt_is_about_an_aspect_and_says_how() -> None:
    assert {attempt.aspect for attempt in (*ATTEMPTS, SURVIVE)} == {
        aspect.value for aspect in Aspect if aspect is not Aspect.PROJECT
    }
    assert all(attempt.tries and attempt.control for attempt in ATTEMPTS)
    assert {promise.aspect for promise in PROMISES} <= {"", *Aspect}


@pytest.mark.parametrize("module", [attempts, calls, promises, trial])
def test_what_runs_inside_is_python_3_8(module) -> None:
    ast.parse(Path(str(module.__file__)).read_text(), feature_version=(3, 8))


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_numbers_are_those_of_the_filter(machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    scope: dict[str, dict[str, int]] = {}
    exec(compile(Path(str(calls.__file__)).read_text(), "calls", "exec"), scope)
    known = architecture(machine).table
    assert {name: known.get(name) for name in scope["NUMBERS"]} == scope["NUMBERS"]


# ---- one row ----


def raises(error: BaseException):
    def function() -> None:
        raise error

    return function


@pytest.mark.parametrize(
    ("function", "result"),
    [
        (lambda: None, "ok"),
        (raises(PermissionError(13, "no")), "EACCES"),
        (raises(KeyError("NAME")), "ENOENT"),
        (raises(TimeoutError("timed out")), "ETIMEDOUT"),
        (raises(ModuleNotFoundError("numpy")), "not installed"),
        (raises(ZeroDivisionError()), "crashed"),
        (raises(SystemExit(0)), "crashed"),
        (lambda: os._exit(0), "crashed"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "crashed"),
        (lambda: os.kill(os.getpid(), signal.SIGSYS), "SIGSYS"),
        (lambda: os.write(1, b"noise"), "ok"),
    ],
)
def test_what_a_row_does_to_itself_is_its_answer(function, result: str) -> None:
    assert trial.try_aside(function, 20)[0] == result


def test_a_row_that_hangs_is_ended_with_what_it_started() -> None:
    reader, writer = os.pipe()

    def hang() -> None:
        os.fork()
        time.sleep(60)

    assert trial.try_aside(hang, 0.2) == ("timed out", "after 0.2 seconds")
    os.close(writer)
    assert os.read(reader, 1) == b""  # nobody holds the other end
    os.close(reader)


def test_a_process_that_goes_on_holds_up_nobody() -> None:
    began = time.monotonic()
    assert trial.try_aside(lambda: None if os.fork() else time.sleep(60), 20)[0] == "ok"
    assert time.monotonic() - began < 10


def test_only_answers_are_read_from_what_comes_from_inside() -> None:
    output = b'noise\n["a", "ok", ""]\n["a", "EPERM", "a second answer"]\n["b", "x\\u001b[2J", "y"]\n[1]\n\xff\n{}\n'
    answers, rest = _read(output)
    assert answers == {"a": Answer("ok"), "b": Answer("x\\x1b[2J", "y")}
    assert rest == "{}"


# ---- verdicts ----


@pytest.mark.parametrize(
    ("inside", "outside", "state", "verdict"),
    [
        (DENIED, OK, "enforced", "pass"),
        (DENIED, OK, "open by policy", "pass"),
        (DENIED, DENIED, "enforced", "not possible here"),
        (DENIED, Answer("crashed"), "enforced", "not possible here"),
        (OK, OK, "enforced", "FAILED"),
        (OK, DENIED, "enforced", "FAILED"),
        (OK, OK, "open by policy", "open by policy"),
        (OK, OK, "degraded", "degraded"),
        (NO_ANSWER, OK, "enforced", "FAILED"),
        (Answer("timed out"), OK, "enforced", "FAILED"),
    ],
)
def test_verdict(inside: Answer, outside: Answer, state: str, verdict: str) -> None:
    assert judge(inside, outside, state) == verdict


LOCKS = Promise("locks", "how", lambda: None, "shared-memory")
CLOSED = Receipt("landlock", (Row(Aspect.SHARED_MEMORY, "asked", "enforced", note="/dev/shm is closed"),))
PRIVATE = Receipt("namespaces", (Row(Aspect.SHARED_MEMORY, "asked", "enforced"),))
PLAIN = Policy(venv_root="/")
LISTED = msgspec.structs.replace(PLAIN, syscalls=("read",))
LIMITED = msgspec.structs.replace(PLAIN, limits=Limits(processes=5))


@pytest.mark.parametrize(
    ("inside", "outside", "policy", "receipt", "state"),
    [
        (OK, None, PLAIN, PRIVATE, "works"),
        (DENIED, OK, PLAIN, CLOSED, "closed by policy"),
        (DENIED, OK, PLAIN, PRIVATE, "does not work"),
        (DENIED, DENIED, PLAIN, PRIVATE, "not possible here"),
        (Answer("crashed", "IndexError"), OK, PLAIN, CLOSED, "does not work"),
        (Answer("not installed", "sqlite3"), OK, PLAIN, PRIVATE, "does not work"),
        (DENIED, OK, LISTED, PRIVATE, "closed by policy"),
        (Answer("EAGAIN"), OK, LIMITED, PRIVATE, "closed by policy"),
        (Answer("EAGAIN"), OK, PLAIN, PRIVATE, "does not work"),
        (NO_ANSWER, OK, PLAIN, PRIVATE, "does not work"),
    ],
)
def test_promise(inside: Answer, outside: Answer | None, policy: Policy, receipt: Receipt, state: str) -> None:
    assert judge_promise(LOCKS, inside, outside, policy, receipt).state == state
