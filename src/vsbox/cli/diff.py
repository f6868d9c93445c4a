"""``vsbox diff DIST==A DIST==B``."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from vsbox.box.layout import Layout
    from vsbox.guard.compare import Difference, Touched

IMPORT: Final = """\
import importlib, importlib.metadata, sys
if sys.argv[1]:
    found = [importlib.metadata.distribution(sys.argv[1])]
else:
    found = [d for d in importlib.metadata.distributions() if "file://" in (d.read_text("direct_url.json") or "")]
files = [file for distribution in found for file in distribution.files or []]
tops = {f.parts[0].removesuffix(".py") for f in files if f.suffix == ".py" and ".." not in f.parts}
tops |= {f.parts[0].split(".")[0] for f in files if f.suffix == ".so" and ".." not in f.parts}
for name in sorted(n for n in tops if n.isidentifier() and n != "tests"):
    importlib.import_module(name)
"""
PHASES: Final = ("install", "import", "run")


@dataclass(frozen=True)
class Requirement:
    """What pip is asked for, and the name in it; a path has none, and what is installed from it says its own."""

    text: str
    name: str


def _parse(text: str) -> Requirement:
    import re

    from vsbox.errors import UsageError

    path = Path(os.path.expanduser(text))  # a user whom nobody knows is part of a name
    if text and (path.suffix in {".whl", ".gz", ".zip"} or path.is_dir()):
        if not path.exists():
            raise UsageError(f"cannot compare {text}: there is no such file")
        return Requirement(str(path.resolve()), "")
    found = re.fullmatch(r"([A-Za-z0-9][A-Za-z0-9._-]*)(\[[^\]]*\])?\s*(==|>=|<=|~=|<|>|$).*", text)
    if not found:
        hint = "vsbox diff requests==2.31 requests==2.32"
        raise UsageError(f"cannot compare {text!r}: it names no distribution", hint=hint)
    return Requirement(text, found[1])


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("-p", "--python", metavar="PYTHON", help="Interpreter: a version (3.12), a name or a path.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Print the differences only.")
@click.argument("first", metavar="DIST==A")
@click.argument("second", metavar="DIST==B")
@click.argument("command", metavar="[-- COMMAND [ARGUMENT]...]", nargs=-1, type=click.UNPROCESSED)
def diff(first: str, second: str, command: tuple[str, ...], *, python: str | None, as_json: bool, quiet: bool) -> None:
    """Compare what two versions of a distribution touch when they are installed, imported and run.

    \b
      vsbox diff requests==2.31.0 requests==2.32.3
      vsbox diff ./before.whl ./after.whl -- python -m thing --version

    Each is installed into a box of its own, which is thrown away, its modules are imported, and COMMAND is run in it.
    Listed is what only one of them does: programs executed, files of yours asked for, files left in $HOME, hosts.
    Exit status: 0 they do the same, 1 they differ, 125 neither could be installed, imported or run.
    """
    words = command[1:] if command[:1] == ("--",) else command
    wanted = (_parse(first), _parse(second))
    touched: list[frozenset[Touched]] = []
    failed: list[dict[str, int]] = []
    from vsbox.guard.compare import compare

    with contextlib.ExitStack() as stack:
        place = _place_for_boxes(stack)
        for number, requirement in enumerate(wanted):
            if not quiet:
                click.echo(f"vsbox: installing, importing {requirement.text}", err=True)
            failed.append({})
            touched.append(frozenset(_observe(place / str(number), requirement, words, python, failed[-1])))
    found = compare(touched[0], touched[1], PHASES)
    if as_json:
        from vsbox.cli.output import print_json

        print_json({"first": first, "second": second, "difference": found})
    else:
        _print(found, first, second)
    _refuse_what_failed(failed)
    sys.exit(1 if found.added or found.removed else 0)


def _refuse_what_failed(failed: list[dict[str, int]]) -> None:
    """End with an error where neither came to its end in a phase: what they do after that nobody has seen.

    Raises:
        VsboxError: naming the phase.
    """
    from vsbox.errors import VsboxError

    for phase in PHASES:
        statuses = [each[phase] for each in failed if phase in each]
        if len(statuses) == len(failed):
            cause = f"{phase} failed for both, with status {' and '.join(map(str, statuses))}"
            raise VsboxError(f"cannot compare all of it: {cause}", hint="see the messages above")


def _place_for_boxes(stack: contextlib.ExitStack) -> Path:
    """Return a directory that goes in the end, where boxes may be: /tmp is private inside."""
    from vsbox.errors import VsboxError
    from vsbox.host.collect import user_home
    from vsbox.launch.scratch import make_locked

    home = os.environ.get("HOME") or user_home()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path(home, ".cache")) / "vsbox"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        place, _ = make_locked(stack, os.path.realpath(cache), "diff-")
    except OSError as error:
        cause = f"cannot make boxes in {cache}: {error.strerror}"
        raise VsboxError(cause, hint="name a directory of yours: XDG_CACHE_HOME=DIR vsbox diff ...") from error
    return Path(place)


def _observe(
    place: Path, requirement: Requirement, words: tuple[str, ...], python: str | None, failed: dict[str, int]
) -> Iterator[Touched]:
    from vsbox.box.create import create
    from vsbox.errors import VsboxError
    from vsbox.guard.compare import normalize
    from vsbox.policy.model import Policy

    work = place / "work"
    work.mkdir(parents=True)
    source = requirement.text
    local: tuple[str, ...] = ()
    if Path(source).is_dir():  # a build writes beside its sources
        local = (shutil.copytree(source, str(place / "source"), symlinks=True),)
        source = local[0]
    readable = (source,) if source.startswith("/") and not local else ()
    policy = Policy(venv_root="/", allowed_paths=local, read_only_paths=readable)
    made = create(str(place / "box"), policy, python=python)
    pip = ("python", "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-input", source)
    phases = {"install": pip, "import": ("python", "-c", IMPORT, requirement.name)} | ({"run": words} if words else {})
    root = str(made.layout.root)
    names = {f"{root}/home": "$HOME", f"{root}/inside": "$VIRTUAL_ENV", root: "$VIRTUAL_ENV"}
    names |= {str(work): ".", **(dict.fromkeys((*local, *readable), "the file"))}
    for phase, argv in phases.items():
        status, records = _run(made.layout, argv, work)
        if phase == "install" and status:
            cause = f"pip ended with {status}"
            raise VsboxError(f"cannot install {requirement.text}: {cause}", hint="see the message above")
        yield from normalize(phase, records, names)
        if status:
            from vsbox.guard.compare import Touched as Seen

            failed[phase] = status
            yield Seen(phase, "exit", str(status), "allowed")


def _run(layout: Layout, argv: tuple[str, ...], work: Path) -> tuple[int, list[Any]]:
    from vsbox.box.runs import watched
    from vsbox.cli.learn import warn_of_unreadable

    status, runs = watched(layout, argv, mode="1", cwd=work, stdin=subprocess.DEVNULL, stdout=sys.stderr.fileno())
    warn_of_unreadable(runs)
    return status, [record for run in runs for record in run.records]


def _print(found: Difference, first: str, second: str) -> None:
    from vsbox.cli.output import print_table
    from vsbox.plan.steps import printable

    if not found.added and not found.removed:
        click.echo(f"{first} and {second} touch the same: {found.common} things")
        return
    rows = [(f"only {first}", *_row(item)) for item in found.removed]
    rows += [(f"only {second}", *_row(item)) for item in found.added]
    print_table(
        f"{first} and {second}: {found.common} things in common",
        ("which", "when", "what", "target", ""),
        [tuple(map(printable, row)) for row in rows],
    )


def _row(item: Touched) -> tuple[str, ...]:
    return item.phase, item.operation, item.target, "" if item.verdict == "allowed" else item.verdict
