"""What the launcher asks of Python: ``python -I -m vsbox.box compile|sync BOX``.

Started outside, with standard input closed and standard output going to standard error.
"""

from __future__ import annotations

import sys

from vsbox.box.layout import Layout, open_box
from vsbox.box.store import load_policy, locked, store
from vsbox.box.sync import VALID_NAME, refresh_launcher, sync_launchers
from vsbox.errors import VsboxError
from vsbox.host.collect import watch

MOST_NOTICES = 20


def compile_box(layout: Layout) -> None:
    """Make the plan anew after the policy or the machine changed; of many starts at once, one does it."""
    before = watch(str(layout.plan))
    with locked(layout):
        if watch(str(layout.plan)) != before:
            return
        refresh_launcher(layout)
        store(layout, load_policy(layout))


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


ACTIONS = {"compile": compile_box, "sync": sync_box}


def main(argv: list[str]) -> int:
    """Carry out one action; return the exit status."""
    try:
        action, root = argv
        ACTIONS[action](open_box(root))
    except (VsboxError, OSError) as error:
        hint = getattr(error, "hint", None)
        sys.stderr.write(f"vsbox: {error}\n" + (f"       {hint}\n" if hint else ""))
        return error.exit_code if isinstance(error, VsboxError) else VsboxError.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
