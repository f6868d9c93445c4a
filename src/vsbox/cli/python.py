"""``vsbox python [OPTIONS] [ARGUMENT]...``."""

from __future__ import annotations

import os
import re
import signal
import sys
from typing import TYPE_CHECKING, Any

import click

from vsbox.errors import UsageError

if TYPE_CHECKING:
    from vsbox.launch.ending import End

UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def size(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """Return a number of bytes; K, M, G and T are powers of 1024."""
    if value is None:
        return None
    found = re.fullmatch(r"([0-9]+)([KMGT]?)(?:i?B)?", value, re.IGNORECASE | re.ASCII)
    number = int(found[1]) * UNITS[found[2].upper()] if found else 0
    if not 4096 <= number < 1 << 63:
        raise click.BadParameter(f"{value!r} is no size: 512M, 2G", ctx, param)
    return number


class OptionsFirst(click.Command):
    """Takes its own options up to the first word that is none of them; the rest is Python's."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put ``--`` where Python's arguments begin."""
        flags = {name: isinstance(p, click.Option) and p.is_flag for p in self.get_params(ctx) for name in p.opts}
        index = 0
        while index < len(args) and (name := args[index].partition("=")[0]).startswith("-") and name in flags:
            index += 1 if flags[name] or "=" in args[index] else 2
        rest = args[index + 1 :] if args[index : index + 1] == ["--"] else args[index:]
        return super().parse_args(ctx, [*args[:index], "--", *rest])


@click.command("python", cls=OptionsFirst)
@click.option("--packages", type=click.Path(), metavar="DIR",
              help="A box or an environment whose Python and packages are used. Default: those vsbox runs on.")
@click.option("--network", type=click.Choice(["none", "host"]), default="none", show_default=True)
@click.option("--read", multiple=True, metavar="PATH", help="Let code read PATH. Repeatable.")
@click.option("--write", multiple=True, metavar="PATH", help="Let code read and write PATH. Repeatable.")
@click.option("--workdir", type=click.Path(), metavar="DIR",
              help="Start in DIR, which code may change. Default: a private directory that goes with the run.")
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS",
              help="End it after so long (exit status 124).")
@click.option("--memory", callback=size, metavar="BYTES", help="End it when it uses more: 512M, 2G (exit status 137).")
@click.option("--backend", type=click.Choice(["auto", "native", "landlock"]), default="auto", show_default=True)
@click.argument("arguments", metavar="[ARGUMENT]...", nargs=-1, type=click.UNPROCESSED)
def python(arguments: tuple[str, ...], **options: Any) -> None:
    """Run Python confined once, without a box.

    \b
      vsbox python prog.py --option
      vsbox python -c 'print(1)'
      vsbox python --network host --write out --timeout 60 -m package
      vsbox python

    ARGUMENTS are Python's; options of vsbox come before them. Code inside sees the script that is
    named, the packages and the system's programs, no network, nothing else of yours.
    """
    from vsbox.launch.cell import Wanted
    from vsbox.launch.foreground import run_python
    from vsbox.launch.limits import Limits
    from vsbox.launch.paths import follow, resolve

    workdir = None if options["workdir"] is None else _directory(options["workdir"])
    written = tuple(follow(path)[0] for path in (*filter(None, [workdir]), *options["write"]))
    wanted = Wanted(
        packages=options["packages"],
        workdir=workdir,
        mount_point=workdir or "/mnt",
        network=options["network"],
        read=tuple(resolve(path, written) for path in options["read"]),
        write=tuple(resolve(path, written) for path in options["write"]),
        limits=Limits(memory_bytes=options["memory"]),
        backend=options["backend"],
    )
    sys.exit(_status(run_python(arguments, wanted, timeout=options["timeout"])))


def _directory(path: str) -> str:
    from pathlib import Path

    from vsbox.launch.paths import resolve

    real = resolve(path)
    if not Path(real).is_dir():
        raise UsageError(f"cannot use {path} as the working directory: it is not a directory")
    return real


def _status(end: End) -> int:
    """Return the exit status: the code's own, 124 for a timeout, 128 and the signal for a death by it."""
    from vsbox.launch.result import Outcome, describe

    if end.limit is not None:
        click.echo(f"vsbox: the code {describe(end.outcome, end.returncode, end.limit)}", err=True)
    if end.outcome is Outcome.TIMEOUT:
        return 124
    if end.returncode is None:
        return 137
    _end_by(-end.returncode)
    return end.returncode if end.returncode >= 0 else 128 - end.returncode


def _end_by(number: int) -> None:
    """End by the signal that ended the code: a shell stops its loop for SIGINT, not for exit status 130."""
    if number in {signal.SIGINT, signal.SIGTERM}:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
