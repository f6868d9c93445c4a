"""``vsbox learn DIR -- COMMAND``."""

from __future__ import annotations

import contextlib
import difflib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from vsbox.box.layout import Layout
    from vsbox.box.runs import Run
    from vsbox.guard.propose import Item, Proposal, Refused
    from vsbox.policy.model import Policy


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("directory", metavar="DIR", type=click.Path())
@click.argument("command", metavar="-- COMMAND [ARGUMENT]...", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "--log",
    "preview",
    is_flag=True,
    help="Block nothing, so that the command gets to its end; what it writes to your files is forgotten.",
)
@click.option("--apply", is_flag=True, help="Change sandbox.json.")
@click.option("-i", "--interactive", is_flag=True, help="Ask about each line, then change sandbox.json.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def learn(
    directory: str, command: tuple[str, ...], *, preview: bool, apply: bool, interactive: bool, as_json: bool
) -> None:
    """Run COMMAND in the box DIR, watch what it is denied, and propose the least policy that lets it pass.

    \b
      vsbox learn myenv -- python prog.py
      vsbox learn --log myenv -- pytest
      vsbox learn --interactive myenv -- python prog.py

    COMMAND runs under the present policy, and so may end at the first thing that it is denied; with --log nothing is
    denied: run only what you trust that way. What is ended by Ctrl-C is learned from as well. The proposal is a
    diff of sandbox.json. Credentials are never part of it. With --json, what COMMAND prints goes to standard error.
    Exit status: COMMAND's own.
    """
    from vsbox.box.layout import open_box
    from vsbox.box.store import change_policy, load_policy
    from vsbox.errors import UsageError

    words = command[1:] if command[:1] == ("--",) else command
    if not words:
        raise UsageError("no command given", hint="vsbox learn DIR -- COMMAND [ARGUMENT ...]")
    if interactive and _nobody_answers():
        raise UsageError("cannot ask about each line: standard input has no answers", hint="vsbox learn --apply")
    layout = open_box(directory)
    status, proposal = _watch(layout, words, preview=preview, aside=as_json)
    items = proposal.items
    if as_json:
        from vsbox.cli.output import print_json

        print_json({"status": status, "items": items, "refused": proposal.refused})
    else:
        _print_refused(proposal.refused)
    policy = load_policy(layout)
    if interactive:
        items = tuple(item for item in items if _is_wanted(item))
    changed = with_items(policy, items)
    if not as_json:
        _print_diff(policy, changed)
    if items and (apply or interactive):
        change_policy(layout, changed)
        click.echo(f"vsbox: changed {layout.policy}", err=True)
    elif items and not as_json:
        click.echo("vsbox: to take it over, run it again with --apply or --interactive", err=True)
    sys.exit(status)


def _nobody_answers() -> bool:
    """Tell whether standard input is closed or /dev/null."""
    try:
        return os.path.samestat(os.fstat(0), os.stat(os.devnull))
    except OSError:
        return True


@contextlib.contextmanager
def _interrupts_left_to_command() -> Iterator[None]:
    """Let Ctrl-C, which a terminal sends to both, end the command alone: servers are always ended so."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:  # the command has it ignored too, as after nohup
        yield
        return
    signal.signal(signal.SIGINT, lambda *_: None)  # not SIG_IGN, which the command would inherit
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _watch(layout: Layout, words: Sequence[str], *, preview: bool, aside: bool) -> tuple[int, Proposal]:
    """Run a command, watched; return its status and what would let it pass.

    ``aside``: what it prints goes to standard error.
    """
    from vsbox.box.runs import watched
    from vsbox.box.store import load_policy, plan_and_facts
    from vsbox.guard.propose import Proposer
    from vsbox.host.collect import own_paths, user_home
    from vsbox.plan.model import Tier

    options = {"stdout": 2} if aside else {}
    with _interrupts_left_to_command():
        status, runs = watched(layout, words, mode="preview" if preview else "1", **options)
    denied = [record for run in runs for record in run.records if record.verdict != "allowed"]
    warn_of_unreadable(runs)
    policy = load_policy(layout)
    home = user_home()
    said = os.path.realpath(os.environ.get("HOME") or home)
    proposer = Proposer(
        str(layout.root), home, own_paths(), hidden=policy.hidden_paths, commands=_commands(),
        other_homes=() if said in {"/", home} else (said,), read_only=policy.read_only_paths,
        has_exceptions=plan_and_facts(layout, policy).plan.receipt.tier == Tier.NAMESPACES.value,
    )  # fmt: skip
    return status, proposer.propose(denied)


def warn_of_unreadable(runs: Sequence[Run]) -> None:
    """Say that a report is not all that there was."""
    unreadable = sum(run.unreadable for run in runs)
    if unreadable:
        click.echo(f"vsbox: lines of the report that are none: {unreadable}; what they said is not known", err=True)


def _commands() -> tuple[str, ...]:
    """Return where the user's shell looks for commands."""
    return tuple({os.path.realpath(path) for path in os.environ.get("PATH", "").split(":") if path.startswith("/")})


def with_items(policy: Policy, items: Sequence[Item]) -> Policy:
    """Return the policy with these lines."""
    import msgspec

    from vsbox.cli.allow import with_path, without

    for item in items:
        if item.key == "network":
            policy = msgspec.structs.replace(policy, network="host")
        else:
            policy = with_path(policy, item.key, item.value)
        for path in item.instead_of:
            policy = without(policy, path)
    return policy


def _is_wanted(item: Item) -> bool:
    from vsbox.errors import UsageError
    from vsbox.plan.steps import printable

    asked = printable(f"{item.key}: {item.value} (needed by {', '.join(item.needed_by)})")
    try:
        return click.confirm(asked, default=False, err=True)
    except click.Abort as error:
        if isinstance(error.__context__, EOFError):
            raise UsageError("cannot ask about each line: no answer came", hint="vsbox learn --apply") from None
        raise


def _print_refused(refused: Sequence[Refused]) -> None:
    from vsbox.plan.steps import printable

    for entry in sorted(refused, key=lambda entry: not entry.is_credential):
        color = "red" if entry.is_credential else "yellow"
        word = click.style("warning:" if entry.is_credential else "not proposed:", fg=color)
        said = f"{entry.operation} {entry.target} by {', '.join(entry.needed_by)}: {entry.reason}"
        click.echo(f"{word} {printable(said)}", err=True)


def _print_diff(before: Policy, after: Policy) -> None:
    from vsbox.plan.steps import printable
    from vsbox.policy.document import render

    old, new = (list(map(printable, render(policy).decode().split("\n"))) for policy in (before, after))
    name = "sandbox.json"
    colors = {"+": "green", "-": "red", "@": "cyan"}
    lines = list(difflib.unified_diff(old, new, name, f"{name} (proposed)", lineterm=""))
    for line in lines:
        click.secho(line, fg=colors.get(line[:1]))
    if not lines:
        click.echo("vsbox: the policy lets it pass as it is, or nothing more can be proposed", err=True)
