"""``vsbox sync DIR``."""

from __future__ import annotations

import click

from vsbox.box.__main__ import sync_box
from vsbox.box.layout import open_box
from vsbox.box.tidy import settle


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path())
def sync(directory: str) -> None:
    """Make plan and launchers of the box DIR anew.

    This happens by itself after an install and after an edit of sandbox.json; by hand it is needed
    when a plan was damaged or vsbox was reinstalled.
    """
    layout = open_box(directory)
    settle(layout)
    sync_box(layout)
