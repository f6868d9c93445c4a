"""What the guard is told of a plan: where reading and writing is granted, as paths inside.

The guard (``vsbox/guard/hook/``) explains denials, so it must know the policy as the kernel will enforce it:
all of it is taken from the steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from vsbox.plan import landlock, steps
from vsbox.plan.model import BoxFacts, Plan, Tier
from vsbox.plan.steps import BIND_WRITABLE
from vsbox.policy.grants import grants_of
from vsbox.policy.model import Policy
from vsbox.policy.presets import with_preset

RECORDS: Final = ".vsbox-denied.jsonl"
"""In the home of a box: what the guard has denied, a line each. Written by code inside, read by reports only."""
FILES: Final = ("_sandbox.pth", "_sandbox_hook.py", "_sandbox_hook.bin", "_sandbox.json")
"""What starts the guard, in site-packages."""
START_FILE: Final = "_sandbox.start"
"""The same for Pythons that know it (PEP 829)."""
START_FILES_SINCE: Final = (3, 15)


def guard_files(box: BoxFacts) -> tuple[str, ...]:
    """Return the names of the guard's files for this box's Python."""
    version = tuple(int(part) for part in box.interpreter.version.split(".")[:2] if part.isdigit())
    return (*FILES, START_FILE) if version >= START_FILES_SINCE else FILES


def guard_places(box: BoxFacts, prefix: str) -> Iterator[tuple[str, str]]:
    """Yield where each file of the guard is, outside and inside."""
    for name in guard_files(box):
        yield f"{box.guard}/{name}", f"{prefix}/{box.interpreter.packages}/{name}"


def _grants(plan: Plan) -> Iterator[tuple[str, str]]:
    """Yield (list, path) in the order of the steps: of one path the last counts."""
    for step in plan.steps:
        match step:
            case steps.Bind():
                yield "write" if step.flags & BIND_WRITABLE else "read", step.target
            case steps.Tmpfs():
                yield "read" if step.target == "/" else "write", step.target
            case steps.Overlay():
                yield "write", step.target
            case steps.Proc() | steps.Devpts():
                yield "read", step.target
            case steps.Project():
                yield "write", step.path
            case steps.Mask():
                yield "hidden", step.path
            case steps.Rule() if plan.receipt.tier != Tier.NAMESPACES.value:
                yield "write" if step.access & landlock.WRITE_FILE else "read", step.path
            case _:
                pass


def guard_config(policy: Policy, box: BoxFacts, plan: Plan, tier: Tier) -> dict[str, Any]:
    """Return the configuration of the guard: text, lists of text and nothing else, so that every Python can read it."""
    own = {inside for _, inside in guard_places(box, box.root)}
    places = {path: kind for kind, path in _grants(plan) if path not in {"/", *own}}
    kinds = ("read", "write", "hidden")
    lists = {kind: tuple(sorted(path for path in places if places[path] == kind)) for kind in kinds}
    whole = with_preset(policy)
    prefix = box.root if tier is Tier.NAMESPACES else box.inside
    if tier is not Tier.NAMESPACES:
        lists["read"] = ("/proc", *lists["read"])
    homes = (box.home,) if tier is Tier.NAMESPACES else (box.home, box.installs)
    return {
        "root": box.root,
        "tier": tier.value,
        "mode": policy.mode,
        "granted": tuple(sorted({*(grant.path for grant in grants_of(policy)), box.home})),
        "network": whole.network or "host",
        "packages": (f"{prefix}/{box.interpreter.packages}",),
        "records": tuple(f"{home}/{RECORDS}" for home in homes),
        "withheld": policy.hidden_paths,
        **lists,
    }
