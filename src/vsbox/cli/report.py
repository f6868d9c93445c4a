"""``vsbox report DIR``."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import click

from vsbox.box.layout import Layout, open_box
from vsbox.box.store import write_atomically
from vsbox.cli.output import print_json
from vsbox.errors import BoxError
from vsbox.guard.page import render_page
from vsbox.guard.records import Record, advice, forget, is_full, read_records
from vsbox.plan.guard import RECORDS
from vsbox.plan.steps import printable

NOBODY = "your code"


def _places(layout: Layout) -> tuple[Path, ...]:
    return layout.home / RECORDS, layout.installs / RECORDS


def _when(record: Record) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.time))


def _print(records: tuple[Record, ...], box: str) -> None:
    """By package, most denied first; what was denied more than once is said once."""
    owners = Counter(record.distribution for record in records)
    for owner, _ in owners.most_common():
        click.secho(printable(owner or NOBODY), bold=True)
        same: dict[tuple[str, str], list[Record]] = {}
        for record in records:
            if record.distribution == owner:
                same.setdefault((record.operation, record.target), []).append(record)
        for (operation, target), found in same.items():
            last = found[-1]
            often = f", {len(found)} times, last" if len(found) > 1 else ","
            where = f"at {last.where}" if last.where else "on a command line"
            click.echo(f"  {operation} {printable(target)}")
            click.echo(f"    {printable(where)}{often} {_when(last)}")
            click.echo(f"    {printable(advice(last, box))}")


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--html", type=click.Path(dir_okay=False), help="Write a page that needs nothing but itself.")
@click.option("--clear", is_flag=True, help="Forget what was noted, after showing it.")
def report(directory: str, *, as_json: bool, html: str | None, clear: bool) -> None:
    """Show what was denied in the box DIR, to which installed package, and what would allow it.

    \b
      vsbox report myenv
      vsbox report myenv --html denied.html

    The guard in each Python process of a box notes it there. Code inside can forge such a note or remove it, and
    what programs other than Python were denied is not among them: a report is for finding out, not for proof.
    """
    layout = open_box(directory)
    found = read_records(_places(layout))
    if html is not None:
        page = render_page(str(layout.root), found)
        try:
            write_atomically(Path(html), page.encode("utf-8", "backslashreplace"))  # through no link left there
        except OSError as error:
            raise BoxError(f"cannot write {html}: {error.strerror}", hint="name another file") from error
    elif as_json:
        print_json({"box": str(layout.root), "records": found.records, "unreadable": found.unreadable})
    elif not found.records:
        click.echo("nothing was denied")
    else:
        _print(found.records, str(layout.root))
    if found.unreadable and not as_json:
        click.echo(f"vsbox: lines of the notes that are none: {found.unreadable}", err=True)
    if any(is_full(place) for place in _places(layout)):
        click.echo(f"vsbox: the notes are full, nothing is added\n       vsbox report --clear {directory}", err=True)
    if clear:
        forget(_places(layout))
