"""The plan for the backend ``bubblewrap``: the same steps, with ``bwrap`` to make the namespaces.

Where what ``bwrap`` starts may mount, the inner stage makes the new root like the backend ``native``: ``bwrap``
itself takes a seventh of a millisecond for each mount. Else ``bwrap`` makes it. The launcher then turns the steps
into arguments when it starts (``native/arguing.c``), since what they come to depends on that moment: the working
directory, what is there of the optional, the state of a project.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from vsbox.errors import CannotEnforceError
from vsbox.host.facts import BubblewrapFact, HostFacts
from vsbox.plan import steps
from vsbox.plan.model import Plan
from vsbox.plan.receipt import Receipt, Row
from vsbox.plan.steps import Step, Steps


def _with_program(plan: Steps, found: BubblewrapFact) -> Iterator[Step]:
    has_words = any(isinstance(step, steps.BubblewrapArguments) for step in plan)
    makes_root = has_words or not found.lets_mount
    for step in plan:
        if isinstance(step, steps.Overlay) and makes_root and "tmp-overlay" not in found.options:
            raise CannotEnforceError(
                f"cannot show {step.source} with changes that are forgotten: bwrap {found.version} has no overlays",
                hint="leave out pip_cache and SANDBOX_USE_PIP_CACHE, or use bubblewrap 0.11 or newer",
            )
        if isinstance(step, steps.Namespaces):
            yield steps.Bubblewrap(found.program, int(makes_root))
        yield step


def _layers(row: Row) -> Row:
    layers = tuple("bubblewrap" if layer == "namespaces" else layer for layer in row.layers)
    return msgspec.structs.replace(row, layers=layers)


def through_bubblewrap(plan: Plan, facts: HostFacts) -> Plan:
    """Return a plan for namespaces that ``bwrap`` makes.

    Raises:
        CannotEnforceError: there is no bubblewrap, or an older one than the plan needs.

    Security: if ``bwrap`` makes the new root, the inner stage compares what it has mounted with what the launcher
    saw outside before anything runs. ``bwrap``'s own filters are not used, ours is loaded inside.
    """
    if facts.bubblewrap is None:
        raise CannotEnforceError("cannot use bubblewrap: it is not installed", hint="apt-get install bubblewrap")
    receipt = Receipt(plan.receipt.tier, tuple(map(_layers, plan.receipt.rows)))
    return Plan(tuple(_with_program(plan.steps, facts.bubblewrap)), receipt)
