"""What a plan means for one path, and for a system call: what may be done, and which rule says so."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from vsbox.host.facts import HostFacts
from vsbox.plan import steps, system
from vsbox.plan.landlock import WRITE_FILE
from vsbox.plan.model import BoxFacts, Plan, Tier
from vsbox.plan.project import is_protected_name
from vsbox.plan.steps import BIND_WRITABLE
from vsbox.policy.grants import Access, grants_of, is_below, most_specific
from vsbox.policy.model import Policy
from vsbox.policy.presets import with_preset
from vsbox.seccomp import allowed_calls, reason, verdicts

NOT_GRANTED: Final = "nothing grants it"


@dataclass(frozen=True)
class Decision:
    """What may be done at a path, by which rule; ``shown`` is the path that the rule names."""

    path: str
    access: Access
    rule: str
    shown: str = ""


@dataclass(frozen=True)
class Verdict:
    """What the filter of a plan answers to a system call, and why; see :func:`vsbox.seccomp.verdicts`."""

    name: str
    answer: str
    reason: str


def judge_syscalls(plan: Plan, policy: Policy, machine: str) -> tuple[Verdict, ...] | None:
    """Return the verdict on every system call, as the program itself gives it; None where there is no filter."""
    program = next((step.program for step in plan.steps if isinstance(step, steps.Seccomp)), None)
    if program is None:
        return None
    allowed = allowed_calls(policy.syscalls)
    answers = sorted(verdicts(program, machine).items())
    return tuple(Verdict(name, answer, reason(name, answer, allowed)) for name, answer in answers)


def _from_mounts(plan: Plan, path: str) -> tuple[str, Access] | None:
    found: tuple[str, Access] | None = None
    for step in plan.steps:
        match step:
            case steps.Bind(target=target, flags=flags):
                access = Access.WRITE if flags & BIND_WRITABLE else Access.READ
            case steps.Tmpfs(target=target) if target != "/":
                access = Access.WRITE
            case steps.Proc(target=target):
                access = Access.READ
            case steps.Mask(path=target):
                access = Access.HIDDEN
            case _:
                continue
        if is_below(path, target):
            found = (target, access)  # later mounts cover earlier ones
    return found


def _from_rules(plan: Plan, path: str) -> tuple[str, Access] | None:
    """Landlock adds up: of all rules that hold a path, the most generous counts."""
    found: tuple[str, Access] | None = None
    for step in plan.steps:
        if isinstance(step, steps.Rule) and is_below(path, step.path):
            access = Access.WRITE if step.access & WRITE_FILE else Access.READ
            if found is None or access > found[1]:
                found = (step.path, access)
        elif isinstance(step, steps.Project) and is_below(path, step.path):
            found = (step.path, Access.WRITE)
    return found


def _rule_for(place: str, path: str, policy: Policy, box: BoxFacts, facts: HostFacts) -> str:
    grant = most_specific(grants_of(policy), path)
    if grant is not None and grant.path == place:
        return f"sandbox.json, {grant.rule}"
    if is_below(place, box.home):
        return "the box's own home"
    if place == policy.project:
        return f"sandbox.json, project: {place}"
    if is_below(place, box.root):
        return f"the environment itself (packages: {with_preset(policy).packages})"
    if place in box.interpreter.trees:
        return "the box's Python runs from there"
    if place in facts.index.paths:
        return "your package index settings name it"
    if place in {"/tmp", "/var/tmp", "/dev/shm"}:
        return "private to each run"
    if any(is_below(place, tree) for tree in (*system.TREES, *system.ETC)):
        return "part of the system that programs read"
    return "kernel interface that programs read"


def _is_outside_half(path: str, box: BoxFacts) -> bool:
    """Tell whether this is what code inside does not see: it sees ``inside`` in the box's place."""
    outside = ("bin", "sandbox", "pyvenv.cfg", ".gitignore")
    return any(is_below(path, f"{box.root}/{name}") for name in outside)


def _is_protected(path: str, policy: Policy) -> bool:
    """Tell whether the name of a path in the project protects it, unless a line of policy is about just this path."""
    if policy.project is None or path == policy.project or not is_below(path, policy.project):
        return False
    below = PurePosixPath(path).relative_to(policy.project).parts
    own_line = any(grant.path == path for grant in grants_of(policy))
    return not own_line and any(is_protected_name(part) for part in below)


def decide(path: str, plan: Plan, policy: Policy, box: BoxFacts, facts: HostFacts) -> Decision:
    """Return what code inside may do at ``path``; the working directory of a start is not counted."""
    namespaces = plan.receipt.tier == Tier.NAMESPACES.value
    if _is_outside_half(path, box):
        return Decision(path, Access.HIDDEN, "the outside half of the box, which code inside never writes")
    if _is_protected(path, policy):
        return Decision(path, Access.READ, "protected in the project: your own tools would execute it", path)
    found = _from_mounts(plan, path) if namespaces else _from_rules(plan, path)
    if found is None:
        return Decision(path, Access.HIDDEN, NOT_GRANTED)
    place, access = found
    return Decision(path, access, _rule_for(place, path, policy, box, facts), place)
