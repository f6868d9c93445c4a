"""What the launcher asks of Python: ``python -I -m vsbox.box compile|sync|tidy|observe BOX [WORD]...``.

Started outside, with standard input closed (``observe``: what the launcher tells of a run) and standard output going
to standard error.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from vsbox.box.layout import Layout, open_box
from vsbox.box.store import load_policy, locked, plan_path, store, store_variant
from vsbox.box.sync import VALID_NAME, refresh_launcher, sync_launchers
from vsbox.box.tidy import tidy
from vsbox.errors import BoxError, CannotEnforceError, PolicyError, VsboxError
from vsbox.host.collect import watch
from vsbox.plan.steps import printable
from vsbox.policy.model import Policy
from vsbox.policy.overrides import OVERRIDES, with_overrides

MOST_NOTICES = 20


def compile_box(layout: Layout, variant: str = "") -> None:
    """Make the plan anew after the policy or the machine changed; of many starts at once, one does it."""
    plan = plan_path(layout, variant)
    before = watch(str(plan))
    with locked(layout):
        if watch(str(plan)) != before:
            return
        refresh_launcher(layout)
        policy = load_policy(layout)
        if variant:
            _store_what_is_asked(layout, policy, variant)
        else:
            store(layout, policy)


def _store_what_is_asked(layout: Layout, policy: Policy, variant: str) -> None:
    try:
        store_variant(layout, with_overrides(policy, os.environ), variant)
    except (PolicyError, CannotEnforceError) as error:
        names = ", ".join(name for name in OVERRIDES if name in os.environ)
        raise type(error)(f"{error} (asked for by {names})", hint=error.hint) from error


def sync_box(layout: Layout) -> None:
    """Make launchers follow a change of ``inside/bin`` and say what was held back."""
    with locked(layout):
        refresh_launcher(layout)
        policy = load_policy(layout)
        synced = sync_launchers(layout, policy)
        store(layout, policy)
    # What a person may have wanted first, curiosities last.
    notices = sorted(synced.held_back, key=lambda held: VALID_NAME.fullmatch(held.name) is None)
    for held in notices[:MOST_NOTICES]:
        sys.stderr.write(
            f"vsbox: no launcher for {held.name!r}: {held.reason}\n"
            f"       to have it all the same: vsbox expose {layout.root} {held.name!r}\n"
        )
    if len(synced.held_back) > MOST_NOTICES:
        sys.stderr.write(f"vsbox: and {len(synced.held_back) - MOST_NOTICES} more that got no launcher\n")


def tidy_box(layout: Layout) -> None:
    """Clean up after runs in a project and say what was found."""
    with locked(layout):
        tidied = tidy(layout)
    notices = [
        f"your own tools would execute {printable(path)}, which appeared during a run\n"
        f"       it is now {printable(place)}; if it is yours, move it back"
        for path, place in tidied.quarantined.items()
    ]
    notices += [f"the link {printable(path)} was changed during a run and put back" for path in tidied.restored]
    notices += [
        f"{printable(path)} was replaced from outside during a run, and from then on could be changed inside\n"
        "       look at it before your tools do"
        for path in tidied.replaced
    ]
    for notice in notices[:MOST_NOTICES]:
        sys.stderr.write(f"vsbox: {notice}\n")
    if len(notices) > MOST_NOTICES:
        sys.stderr.write(f"vsbox: and {len(notices) - MOST_NOTICES} more\n")
    if tidied.failed:
        path, reason = next(iter(tidied.failed.items()))
        raise BoxError(
            f"cannot take away {printable(path)}, which your own tools would execute: {reason}",
            hint="look at it and remove it yourself; nothing starts in this project before",
        )


def observe_box(layout: Layout, *words: str) -> None:
    """Write the report of a run while it goes on."""
    from vsbox.box.watch import watch_run

    watch_run(layout, *words)


ACTIONS: dict[str, Callable[..., None]] = {
    "compile": compile_box, "sync": sync_box, "tidy": tidy_box, "observe": observe_box,
}  # fmt: skip


def main(argv: list[str]) -> int:
    """Carry out one action; return the exit status."""
    try:
        action, root, *words = argv
        ACTIONS[action](open_box(root), *(words if action in {"compile", "observe"} else ()))
    except (VsboxError, OSError) as error:
        hint = getattr(error, "hint", None)
        sys.stderr.write(f"vsbox: {error}\n" + (f"       {hint}\n" if hint else ""))
        return error.exit_code if isinstance(error, VsboxError) else VsboxError.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
