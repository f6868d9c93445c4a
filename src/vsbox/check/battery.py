"""Make every attempt inside a box and outside, and judge the difference."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

from vsbox.box.layout import Layout
from vsbox.box.store import load_interpreter, map_words
from vsbox.check.attempts import ATTEMPTS, Attempt
from vsbox.check.canaries import CARELESS, VARIABLE, Canaries, make_canaries
from vsbox.check.program import NO_ANSWER, SECONDS_EACH, Answer, run_program
from vsbox.check.survivors import find_survivors
from vsbox.launch import executor
from vsbox.plan.receipt import Receipt
from vsbox.policy.grants import Access, grants_of, most_specific
from vsbox.policy.model import Aspect, Policy

SECONDS: Final = 180
"""For all attempts on one side."""
MODULES: Final = ("vsbox.check.calls", "vsbox.check.attempts", "vsbox.check.trial")
MAIN: Final = """
import os, shutil, tempfile
from vsbox.check.attempts import ATTEMPTS
from vsbox.check.trial import try_all
targets, names = given["targets"], set(given["names"])
own = targets["own"] or tempfile.mkdtemp(prefix="vsbox-check-", dir=given["home"] and os.environ.get("HOME"))
targets["own"] = own
try:
    try_all([(a.name, lambda a=a: a.function(targets)) for a in ATTEMPTS if a.name in names], given["seconds"])
finally:
    shutil.rmtree(own, ignore_errors=True)
"""
SURVIVE: Final = Attempt(
    "outlive the launcher", "lifetime", "fork(2), setsid(2), fork(2), and SIGKILL to the launcher", lambda _: None,
    control="the same processes without a launcher; their parent is killed",
)  # fmt: skip
TRACE: Final = Attempt(
    "leave a trace in files of yours", "files", "compared before and after all attempts", lambda _: None,
    opened_by=("victims", "write"), control="the same files, for the attempts outside",
)  # fmt: skip

Verdict = Literal["pass", "open by policy", "degraded", "not possible here", "FAILED"]


class Finding(msgspec.Struct, frozen=True):
    """One attempt: what came of it inside and outside.

    Outside is the control: where the attempt fails there too, that it fails inside proves little, and the verdict is
    ``not possible here``. ``tries`` and ``control`` say how it was made.
    """

    probe: str
    aspect: Aspect
    inside: str
    outside: str
    verdict: Verdict
    tries: str
    control: str
    inside_detail: str = ""
    outside_detail: str = ""

    @property
    def is_control(self) -> bool:
        """Whether the attempt works without the sandbox."""
        return self.outside == "ok"


def chosen(*, extended: bool) -> tuple[Attempt, ...]:
    """Return the attempts of the base battery, or all."""
    return tuple(attempt for attempt in ATTEMPTS if extended or not attempt.is_extended)


def run_battery(layout: Layout, policy: Policy, receipt: Receipt, *, extended: bool = False) -> tuple[Finding, ...]:
    """Make the attempts inside the box and outside of it.

    Raises:
        LauncherError: the box or the base interpreter did not run them.
    """
    attempts = chosen(extended=extended)
    base = [load_interpreter(layout).executable]
    box = [str(executor(layout.root)), *base]  # not the box's own python, which code inside may have changed
    with make_canaries(layout) as canaries:
        sides = {name: canaries.side(name) for name in ("inside", "outside")}
        before = {name: canaries.state(name) for name in sides}
        inside = dict(_run(box, sides["inside"], canaries, attempts, in_home=True))
        outside = dict(_run(base, sides["outside"], canaries, attempts, in_home=False))
        if extended:
            inside[TRACE.name] = _changes(canaries, before, "inside")
            outside[TRACE.name] = _changes(canaries, before, "outside")
    if extended:
        inside[SURVIVE.name] = find_survivors(box)
        outside[SURVIVE.name] = find_survivors(base, seconds=0.5, is_ours=True)
        attempts = (*attempts, TRACE, SURVIVE)
    open_names = _opened(attempts, map_words(policy).policy, sides["inside"])
    return tuple(
        _find(attempt, inside.get(attempt.name, NO_ANSWER), outside.get(attempt.name, NO_ANSWER), receipt,
              is_open=attempt.name in open_names)
        for attempt in attempts
    )  # fmt: skip


def _run(
    argv: list[str], targets: dict[str, Any], canaries: Canaries, attempts: tuple[Attempt, ...], *, in_home: bool
) -> Mapping[str, Answer]:
    given = {
        "targets": targets, "names": [attempt.name for attempt in attempts], "home": in_home, "seconds": SECONDS_EACH,
    }  # fmt: skip
    return run_program(
        [sys.executable, "-I", "-S", "-c", CARELESS, targets["key"], *argv, "-I", "-S"], MODULES, MAIN, given,
        seconds=SECONDS, cwd="/", pass_fds=canaries.descriptors,
        env={**os.environ, VARIABLE: targets["mark"], "LD_PRELOAD": ""},
    )  # fmt: skip


def _changes(canaries: Canaries, before: dict[str, Any], name: str) -> Answer:
    after = canaries.state(name)
    changed = {path.rstrip(":") for path in before[name] | after if before[name].get(path) != after.get(path)}
    if changed:
        return Answer("ok", f"{len(changed)} changed")
    return Answer("EROFS", "all are as they were")


def _opened(attempts: tuple[Attempt, ...], policy: Policy, targets: dict[str, Any]) -> set[str]:
    """Return the attempts on what the lists of the policy grant."""
    grants = grants_of(policy)
    found = set()
    for attempt in attempts:
        target, access = attempt.opened_by
        grant = most_specific(grants, targets[target]) if target else None
        if grant is not None and grant.access >= Access[access.upper()]:
            found.add(attempt.name)
    return found


def _find(attempt: Attempt, inside: Answer, outside: Answer, receipt: Receipt, *, is_open: bool) -> Finding:
    aspect = Aspect(attempt.aspect)
    verdict = judge(inside, outside, "open by policy" if is_open else receipt.row(aspect).state)
    return Finding(
        attempt.name, aspect, inside.result, outside.result, verdict, attempt.tries, attempt.control,
        inside.detail, outside.detail,
    )  # fmt: skip


def judge(inside: Answer, outside: Answer, state: str) -> Verdict:
    """Return the verdict on an attempt, given the state of its aspect in the receipt."""
    if inside.is_broken:
        return "FAILED"
    if not inside.is_ok:
        return "pass" if outside.is_ok else "not possible here"
    if state == "open by policy":
        return "open by policy"
    return "degraded" if state == "degraded" else "FAILED"
