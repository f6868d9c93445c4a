"""``vsbox list``, ``vsbox inspect`` and ``vsbox kill``: boxes that run now."""

from __future__ import annotations

import json
import os
import shlex
import time

import click
import msgspec

from vsbox.errors import UsageError
from vsbox.host.running import Run, end, running
from vsbox.plan.steps import printable

SECONDS_TO_END = 10
MOST_OF_COMMAND = 80


def _chosen(which: tuple[str, ...]) -> list[Run]:
    """Return the runs that are meant: by process id of the launcher, or all of a box."""
    runs = list(running())
    chosen: dict[int, Run] = {}
    for word in which:
        root = os.path.realpath(os.path.expanduser(word))
        found = [run for run in runs if str(run.pid) == word or run.box == root]
        if not found:
            raise UsageError(f"nothing runs under {word!r}", hint="what runs: vsbox list")
        chosen |= {run.pid: run for run in found}
    return list(chosen.values())


def _age(run: Run) -> str:
    seconds = max(0, int(time.time() - run.started))
    hours, minutes = seconds // 3600, seconds // 60 % 60
    return f"{hours}:{minutes:02}:{seconds % 60:02}"


def _shortened(text: str) -> str:
    return text if len(text) <= MOST_OF_COMMAND else f"{text[:MOST_OF_COMMAND]}..."


def _table(runs: list[Run]) -> None:
    rows = [("PID", "AGE", "PROCESSES", "MEMORY", "BOX", "COMMAND")]
    rows += [
        (str(run.pid), _age(run), str(len(run.processes)), f"{run.memory_bytes >> 20} MiB", printable(run.box),
         _shortened(printable(shlex.join(run.command))))
        for run in runs
    ]  # fmt: skip
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        click.echo("  ".join((*cells, row[-1])))


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(*, as_json: bool) -> None:
    """Show the boxes that run now.

    Memory is what is resident, of all processes in the box together; what they share counts for each.
    """
    runs = list(running())
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(runs)))
    elif runs:
        _table(runs)
    else:
        click.echo("No box runs.", err=True)


@click.command()
@click.argument("which", metavar="PID|DIR", nargs=1)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def inspect(which: str, *, as_json: bool) -> None:
    """Show what runs in a box and what is in force for it."""
    from vsbox.box.layout import open_box

    runs = _chosen((which,))
    receipt = json.loads((open_box(runs[0].box).sandbox / "receipt.json").read_bytes())
    if as_json:
        click.echo(json.dumps({"runs": msgspec.to_builtins(runs), "receipt": receipt}))
        return
    _table(runs)
    click.echo(f"\nSandboxed with {receipt['tier']} (as of the last plan):")
    for row in receipt["rows"]:
        layers = f" by {', '.join(row['layers'])}" if row["layers"] else ""
        click.echo(f"  {row['aspect']:17} {row['state']}{layers}")


@click.command()
@click.argument("which", metavar="PID|DIR...", nargs=-1, required=True)
@click.option("-f", "--force", is_flag=True, help="At once, without asking (SIGKILL).")
def kill(which: tuple[str, ...], *, force: bool) -> None:
    """End what runs in a box: one run by its process id, or all runs of the box DIR.

    It is asked to end (SIGTERM) and given ten seconds; then it is ended with everything in it.
    """
    asked = [run for run in _chosen(which) if end(run, force=force)]
    deadline = time.monotonic() + SECONDS_TO_END
    while asked and time.monotonic() < deadline:
        left = {run.pid for run in running()}
        asked = [run for run in asked if run.pid in left]
        time.sleep(0.05 if asked else 0)
    for run in asked:
        end(run, force=True)
