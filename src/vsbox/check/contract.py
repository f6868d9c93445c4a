"""Keep the promises to Python programs in a box, under its own policy; what fails there is tried outside as well."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from vsbox.box.layout import Layout
from vsbox.box.store import load_interpreter
from vsbox.check.program import NO_ANSWER, Answer, run_program
from vsbox.check.promises import PROMISES, Promise
from vsbox.launch import executor
from vsbox.plan.receipt import Receipt
from vsbox.policy.model import Aspect, Policy

SECONDS: Final = 300
SECONDS_EACH: Final = 40
MODULES: Final = ("vsbox.check.trial", "vsbox.check.promises")
MAIN: Final = """
from vsbox.check.promises import PROMISES
from vsbox.check.trial import try_all
try_all([(p.name, p.function) for p in PROMISES if p.name in given["names"]], given["seconds"])
"""
REFUSED: Final = frozenset({"EPERM", "EACCES", "ENOSYS", "EAFNOSUPPORT", "EPROTONOSUPPORT"})
"""What the kernel answers where a policy closes something."""
LIMITS: Final = {"EAGAIN": "processes", "EMFILE": "open_files", "EFBIG": "file_bytes", "ENOSPC": "tmp_bytes"}
"""What passing a limit of the policy is answered with."""

State = Literal["works", "does not work", "closed by policy", "not installed", "not possible here"]


class Kept(msgspec.Struct, frozen=True):
    """One promise: whether it is kept, and how it was tried; ``detail``: the exception, or what closes it."""

    name: str
    state: State
    how: str
    detail: str = ""


def run_contract(layout: Layout, policy: Policy, receipt: Receipt) -> tuple[Kept, ...]:
    """Keep every promise in the box.

    Raises:
        LauncherError: the box did not run.
    """
    names = [promise.name for promise in PROMISES]
    box, base = [str(executor(layout.root)), "python"], [load_interpreter(layout).executable]
    inside = _run(box, names)
    failed = [name for name in names if not inside.get(name, NO_ANSWER).is_ok]
    outside = _run(base, failed) if failed else {}
    return tuple(
        judge(promise, inside.get(promise.name, NO_ANSWER), outside.get(promise.name), policy, receipt)
        for promise in PROMISES
    )


def _run(argv: list[str], names: list[str]) -> dict[str, Answer]:
    given = {"names": names, "seconds": SECONDS_EACH}
    return dict(run_program(argv, MODULES, MAIN, given, seconds=SECONDS, cwd="/"))


def judge(promise: Promise, inside: Answer, outside: Answer | None, policy: Policy, receipt: Receipt) -> Kept:
    """Return whether a promise is kept, given what came of it inside, and outside where that was tried."""
    if inside.is_ok:
        return Kept(promise.name, "works", promise.how, inside.detail)
    if inside.result == "not installed" and promise.name.startswith("numpy"):
        return Kept(promise.name, "not installed", promise.how, inside.detail)
    closed = _closed_by(promise, inside, policy, receipt)
    if closed:
        return Kept(promise.name, "closed by policy", promise.how, closed)
    if outside is not None and not outside.is_ok:
        return Kept(promise.name, "not possible here", promise.how, f"outside: {outside.detail or outside.result}")
    return Kept(promise.name, "does not work", promise.how, inside.detail or inside.result)


def _closed_by(promise: Promise, inside: Answer, policy: Policy, receipt: Receipt) -> str:
    """Return what of the policy closes it, in words; empty: nothing does."""
    limit = LIMITS.get(inside.result)
    if limit is not None and getattr(policy.limits, limit, None) is not None:
        return f"limits.{limit} in sandbox.json ({inside.result})"
    if inside.result not in REFUSED:
        return ""
    if promise.aspect and (note := receipt.row(Aspect(promise.aspect)).note):
        return note
    return f"syscalls in sandbox.json ({inside.result})" if policy.syscalls else ""
