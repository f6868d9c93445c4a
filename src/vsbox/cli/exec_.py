"""``vsbox exec DIR -- COMMAND``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from vsbox.policy.model import Policy


@click.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("directory", metavar="DIR", type=click.Path())
@click.argument("command", metavar="-- COMMAND [ARGUMENT]...", nargs=-1, type=click.UNPROCESSED)
@click.option("--report", is_flag=True,
              help="Watch what COMMAND and all that it starts touch; say in the end what was denied.")
@click.option("--dry-run", is_flag=True,
              help="Leave the directory you stand in as it is, and print as a patch what COMMAND would have changed.")
@click.option("--timeout", type=float, metavar="SECONDS", help="With --dry-run: end it after so long.")
def exec_(
    directory: str, command: tuple[str, ...], *, report: bool, dry_run: bool, timeout: float | None
) -> None:
    """Run any command in the box DIR.

    \b
      vsbox exec myenv -- make test
      vsbox exec myenv -- sh -c 'id; ls /'
      vsbox exec --report myenv -- python prog.py
      vsbox exec --dry-run myenv -- python fix_everything.py

    COMMAND is looked up in the box first, then in the system's directories. Its exit status is ours.
    """
    from vsbox.box.layout import open_box
    from vsbox.errors import UsageError
    from vsbox.launch import replace_self

    words = command[1:] if command[:1] == ("--",) else command
    if not words:
        raise UsageError("no command given", hint="vsbox exec DIR -- COMMAND [ARGUMENT ...]")
    if timeout is not None and not dry_run:
        raise UsageError("--timeout goes with --dry-run", hint="timeout(1) does it for others")
    if dry_run:
        sys.exit(_dry_run(open_box(directory).root, words, timeout))
    if report:
        os.environ["VSBOX_REPORT"] = "1"
    replace_self(open_box(directory).root, words)


def _dry_run(root: Path, words: tuple[str, ...], timeout: float | None) -> int:
    """Run a command on a view of the working directory; print what it would have changed and return its status."""
    from vsbox.box.layout import open_box
    from vsbox.box.store import load_policy
    from vsbox.launch.api import run
    from vsbox.launch.paths import remember_written
    from vsbox.launch.result import Outcome
    from vsbox.policy.grants import grants_of, is_below
    from vsbox.policy.presets import with_preset

    policy = with_preset(load_policy(open_box(root)))
    here = os.getcwd()  # as the kernel tells it
    grants_of(policy)  # refuses what no box may name
    _check_dry_run(policy, here)
    granted = (path for path in policy.allowed_paths if not is_below(path, here))  # what is below is in the view
    remember_written(["/"])  # a policy goes through no link, whoever made it
    result = run(
        list(words), packages=root, workdir=here, mount_point=here, changes="capture", timeout=timeout,
        network=policy.network or "none", read=(*policy.read_only_paths, *granted),
        hidden=policy.hidden_paths,
        env={name: os.environ[name] for name in ("TERM", "LANG", "TZ") if name in os.environ} | policy.environment.set,
        stdout=lambda data: os.write(1, data), stderr=lambda data: os.write(2, data),
    )  # fmt: skip
    if result.changes is not None:
        _print_patch(result.changes.patch(), len(result.changes.changes))
    if result.outcome is Outcome.EXITED:
        return result.returncode or 0
    click.echo(f"vsbox: the command {result.describe()}", err=True)
    return 124 if result.outcome is Outcome.TIMEOUT else 128 - (result.returncode or -9)


def _check_dry_run(policy: Policy, here: str) -> None:
    """Refuse what a view of the working directory would show though the box does not.

    Raises:
        UsageError: it is a private place, or the policy has words that runs without a box do not know.
    """
    from vsbox.errors import UsageError
    from vsbox.host.collect import user_home
    from vsbox.plan.system import is_private_place
    from vsbox.policy.grants import is_below

    if is_private_place(here, user_home()):
        cause = "code inside would see all of it"
        raise UsageError(f"cannot show what changes in {here}: {cause}", hint="stand in a project's directory")
    hidden = [path for path in policy.hidden_paths if is_below(path, here) or is_below(here, path)]
    words = ["hidden_paths"] if hidden else []
    words += [name for name in ("syscalls", "bwrap_arguments", "devices") if getattr(policy, name)]
    if words:
        raise UsageError(
            f"cannot show what would change: {words[0]} in sandbox.json means nothing without the box",
            hint="vsbox exec runs it for real; vsbox.run(changes='capture') says what may be done in Python",
        )


def _shown(line: str) -> str:
    """Return what a terminal shows as it is: code inside chose what is in it."""
    return "".join(c if c.isprintable() or c == "\t" else repr(c)[1:-1] for c in line)


def _print_patch(text: str, count: int) -> None:
    colors = {"+": "green", "-": "red", "@": "cyan"}
    for line in text.removesuffix("\n").split("\n") if text else ():
        click.secho(_shown(line), fg=colors.get(line[:1]))
    click.echo(f"vsbox: changes: {count}, none of them made" if count else "vsbox: nothing would be changed", err=True)
