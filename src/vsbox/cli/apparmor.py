"""``vsbox apparmor DIR``."""

from __future__ import annotations

import os
import sys

import click

from vsbox.box.layout import open_box
from vsbox.box.profiles import Profiles, profiles_of
from vsbox.cli.output import print_bytes, print_json
from vsbox.plan.profile_names import launcher_profile, payload_profile


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path())
@click.option("--check", is_flag=True, help="Only say whether what is installed is in force and as it should be.")
@click.option("--ignore-profile-diffs", is_flag=True, help="Differences do not count: exit status 0.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def apparmor(directory: str, *, check: bool, ignore_profile_diffs: bool, as_json: bool) -> None:
    """Print AppArmor profiles for the box DIR, and how to install them.

    The profiles go to standard output; the commands that install them, and how they differ from what is
    installed, to standard error. Nothing is changed. One profile is for the launchers of the box, and lets
    them make user namespaces where those are restricted; the other is for what they start.

    Exit status 1: what is installed differs; with --check also: it is not installed, or not in force.
    """
    profiles = profiles_of(open_box(directory))
    differs = bool(profiles.difference) and not ignore_profile_diffs
    failed = differs or (check and bool(profiles.complaints))
    if as_json:
        print_json(_as_json(profiles))
    elif check:
        _print_state(profiles, error=False)
    else:
        print_bytes(os.fsencode(profiles.text))
        _print_state(profiles, error=True)
        click.echo("\nTo install them:", err=True)
        for command in profiles.commands:
            click.echo(f"  {command}", err=True)
    sys.exit(1 if failed else 0)


def _print_state(profiles: Profiles, *, error: bool) -> None:
    for complaint in profiles.complaints:
        click.echo(complaint, err=error)
    if profiles.difference:
        click.echo(profiles.difference, err=error, nl=False)
    elif profiles.installed is not None:
        click.echo(f"{profiles.path} is as it should be", err=error)


def _as_json(profiles: Profiles) -> dict[str, object]:
    return {
        "path": profiles.path,
        "text": profiles.text,
        "launcher": launcher_profile(profiles.root),
        "payload": payload_profile(profiles.root),
        "installed": profiles.installed is not None,
        "loaded": profiles.loaded,
        "difference": profiles.difference,
        "complaints": profiles.complaints,
        "commands": profiles.commands,
    }
