"""``vsbox expose DIR NAME``."""

from __future__ import annotations

import click
import msgspec

from vsbox.box.layout import open_box
from vsbox.box.store import change_policy, load_policy, locked
from vsbox.box.sync import RESERVED, VALID_NAME, list_names, sync_launchers
from vsbox.errors import UsageError


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path())
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
def expose(directory: str, names: tuple[str, ...]) -> None:
    """Give a command of the box DIR its launcher although it shadows one of yours.

    Commands that packages install become commands of the box by themselves, except where their name
    is that of a command you already have: a package could else answer when you type `git`.
    """
    layout = open_box(directory)
    policy = load_policy(layout)
    present = list_names(layout.inside / "bin")
    for name in names:
        if not VALID_NAME.fullmatch(name) or name in RESERVED:
            raise UsageError(f"cannot expose {name!r}: not a name that a launcher may have")
        if name not in present:
            raise UsageError(f"cannot expose {name}: the box has no such command")
    exposed = tuple(dict.fromkeys((*policy.exposed_commands, *names)))
    policy = msgspec.structs.replace(policy, exposed_commands=exposed)
    change_policy(layout, policy)
    with locked(layout):
        sync_launchers(layout, policy)
