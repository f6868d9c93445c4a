"""``vsbox report DIR``."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable
from pathlib import Path
from shlex import quote

import click
import msgspec

from vsbox.box.layout import Layout, open_box
from vsbox.box.runs import Run, load_runs
from vsbox.box.store import write_atomically
from vsbox.cli.output import print_bytes, print_json
from vsbox.errors import BoxError, UsageError
from vsbox.guard.page import render_page
from vsbox.guard.records import Record, Records, advice, by_owner, forget, is_full, is_obstructed, read_records
from vsbox.plan.guard import RECORDS
from vsbox.plan.steps import printable
from vsbox.policy.grants import is_below

NOBODY = "your code"


def _places(layout: Layout) -> tuple[Path, ...]:
    return layout.home / RECORDS, layout.installs / RECORDS


def _when(record: Record) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.time))


def _print_denied(records: tuple[Record, ...], box: str) -> None:
    """By package, most denied first; what was denied more than once is said once."""
    for owner, own in by_owner(records):
        click.secho(printable(owner or NOBODY), bold=True)
        same: dict[tuple[str, str], list[Record]] = {}
        for record in own:
            same.setdefault((record.operation, record.target), []).append(record)
        for (operation, target), found in same.items():
            last = found[-1]
            often = f", {len(found)} times, last" if len(found) > 1 else ","
            alone = "on a command line" if last.layer == "guard" else f"by {last.program}"
            where = f"at {last.where}" if last.where else alone
            word = "" if last.verdict == "denied" else " (not blocked)"
            click.echo(f"  {printable(operation)} {printable(target)}{word}")
            click.echo(f"    {printable(where)}{often} {_when(last)}")
            click.echo(f"    {printable(advice(last, box))}")


def _print_touched(records: Iterable[Record]) -> None:
    """By package: what it was let touch."""
    touched: dict[str, dict[str, set[str]]] = {}
    for record in records:
        touched.setdefault(record.distribution, {}).setdefault(record.operation, set()).add(record.target)
    for owner in sorted(touched):
        click.secho(f"{printable(owner or NOBODY)}, allowed", bold=True)
        for operation in sorted(touched[owner]):
            for target in sorted(touched[owner][operation]):
                click.echo(f"  {printable(operation)} {printable(target)}")


def _merge(notes: Records, runs: tuple[Run, ...]) -> Records:
    """Return everything in the order in which it happened."""
    every = [*notes.records, *(record for run in runs for record in run.records)]
    unreadable = notes.unreadable + sum(run.unreadable for run in runs)
    return Records(tuple(sorted(every, key=lambda record: record.time)), unreadable)


def _as_json(layout: Layout, found: Records, runs: tuple[Run, ...]) -> dict[str, object]:
    box = str(layout.root)
    records = [msgspec.structs.replace(record, allow=advice(record, box)) for record in found.records]
    return {
        "box": box,
        "records": records,
        "unreadable": found.unreadable,
        "runs": [(run.name, run.head) for run in runs],
    }


def write_page(name: str, page: bytes) -> None:
    """Write to a file, which is replaced as a whole and through no link, or into what is no file.

    Raises:
        BoxError: it cannot be written.
    """
    path = Path(name)
    try:
        if name == "-" or _is_standard_output(path):
            print_bytes(page)
        elif _is_written_into(path):
            with path.open("wb", buffering=0) as file:
                file.write(page)
        else:
            write_atomically(path, page)
    except OSError as error:
        raise BoxError(f"cannot write {name}: {error.strerror}", hint="name another file") from error


def _is_standard_output(path: Path) -> bool:
    """Tell whether it is the own one by another name, which another user may have opened."""
    try:
        return is_below(str(path.parent), "/dev") and os.path.samestat(path.stat(), os.fstat(1))
    except OSError:
        return False


def _is_written_into(path: Path) -> bool:
    """Tell whether a path is a device, a pipe or a descriptor: to replace it would take it from everybody.

    Raises:
        BoxError: it is a disk, a socket or a directory.
    """
    if is_below(os.path.realpath(path.parent), "/dev") or is_below(os.path.realpath(path.parent), "/proc"):
        return True
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    if stat.S_ISCHR(mode) or stat.S_ISFIFO(mode):
        return True
    if not stat.S_ISREG(mode):
        raise BoxError(f"cannot write {path}: it is neither a file nor a pipe", hint="name another file")
    return False


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path())
@click.option("--last", is_flag=True, help="Only the last run that was watched.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--html", metavar="FILE", help="Write a page that needs nothing but itself; - is standard output.")
@click.option("--clear", is_flag=True, help="Forget what is shown, after showing it.")
def report(directory: str, *, last: bool, as_json: bool, html: str | None, clear: bool) -> None:
    """Show what was denied in the box DIR, to which installed package, and what would allow it.

    \b
      vsbox report myenv
      vsbox report myenv --html denied.html

    The guard in each Python process of a box notes what it denies; code inside can forge such a note, or remove it. Of
    runs that were watched (`vsbox exec --report`, VSBOX_REPORT=1, mode log, `vsbox learn`) the launcher keeps what the
    kernel saw, of every program, where code inside cannot reach; then what was allowed is shown as well.
    """
    if html == "":
        raise UsageError("cannot write a page: its file has no name", hint="name one; - is standard output")
    if html == "-" and as_json:
        raise UsageError("cannot print a page and JSON to one standard output", hint="name a file: --html FILE")
    layout = open_box(directory)
    runs, damaged = load_runs(layout)
    runs = runs[-1:] if last else runs
    found = _merge(Records((), 0) if last else read_records(_places(layout)), runs)
    if html is not None:
        page = render_page(
            str(layout.root), found, [(run.head.started, run.head.command, run.head.mode) for run in runs]
        )
        write_page(html, page.encode("utf-8", "backslashreplace"))
    if as_json:
        print_json(_as_json(layout, found, runs))
    elif html is None:
        _print(found, str(layout.root))
    if found.unreadable and not as_json:
        click.echo(f"vsbox: lines that are none: {found.unreadable}; what they said is not shown", err=True)
    for path in damaged:
        click.echo(f"vsbox: {printable(str(path))} is no report: its first line cannot be read", err=True)
    if any(is_full(place) for place in _places(layout)):
        click.echo("vsbox: the notes are full, nothing is added", err=True)
        click.echo(f"       vsbox report --clear {quote(directory)}", err=True)
    if clear:
        shown = [layout.runs / f"{run.name}.jsonl" for run in runs]
        forget(shown if last else (*_places(layout), *shown, *damaged))
    for place in filter(is_obstructed, _places(layout)):
        click.echo(f"vsbox: {place} is no file: code inside put it there, and nothing is noted", err=True)
        remedy = f"rm -rf {quote(str(place))}" if clear else f"vsbox report --clear {quote(directory)}"
        click.echo(f"       {remedy}", err=True)


def _print(found: Records, box: str) -> None:
    denied = tuple(record for record in found.records if record.verdict != "allowed")
    if denied:
        _print_denied(denied, box)
    else:
        click.echo("nothing was denied")
    _print_touched(record for record in found.records if record.verdict == "allowed")
