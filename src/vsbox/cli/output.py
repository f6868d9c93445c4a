"""Tables and JSON for people and scripts; rich is imported only when something is drawn."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import click
import msgspec

from vsbox.errors import VsboxError


def print_json(value: object) -> None:
    """Print a value as indented JSON."""
    click.echo(json.dumps(msgspec.to_builtins(value), indent=2))


def print_bytes(data: bytes) -> None:
    """Write to standard output what may be in no encoding.

    Raises:
        VsboxError: it is closed.
    """
    if sys.stdout is None:
        raise VsboxError("cannot print: standard output is closed", hint="leave it open, or name a file")
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, error: bool = False) -> None:
    """Print a table: colours on a terminal, plain lines elsewhere; ``error``: to standard error."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(stderr=error)
    if not console.is_terminal:
        console = Console(stderr=error, width=160, no_color=True)
    table = Table(title=Text(title), title_justify="left", title_style="bold", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, style=STYLES.get(cell.split(" ", 1)[0], "")) for cell in row))
    console.print(table)


STYLES: dict[str, Any] = {
    "enforced": "green",
    "denied": "green",
    "pass": "green",
    "ok": "green",
    "degraded": "yellow",
    "open": "yellow",
    "REACHED": "bold red",
    "FAILED": "bold red",
    "missing": "red",
    "works": "green",
    "closed": "yellow",
    "does": "bold red",
}
