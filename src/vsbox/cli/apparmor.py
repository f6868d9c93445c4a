"""``vsbox apparmor DIR``."""

from __future__ import annotations

import difflib
import os
import sys
from dataclasses import dataclass

import click
import msgspec

from vsbox.box.layout import Layout, open_box
from vsbox.box.quoting import quote_posix
from vsbox.box.store import load_policy, plan_and_facts
from vsbox.cli.output import print_json
from vsbox.host.apparmor import installed
from vsbox.host.facts import HostFacts
from vsbox.plan.apparmor import profile_text
from vsbox.plan.profile_names import installed_path, launcher_profile, payload_profile


@dataclass(frozen=True)
class Profiles:
    """The profiles of a box as they should be, and as they are."""

    root: str
    text: str
    installed: str | None
    facts: HostFacts

    @property
    def path(self) -> str:
        """Where they belong."""
        return installed_path(self.root)

    @property
    def commands(self) -> tuple[str, ...]:
        """What installs them, for a shell."""
        box, place = quote_posix(self.root), quote_posix(self.path)
        return (
            f"vsbox apparmor {box} 2>/dev/null | sudo tee {place} >/dev/null",
            f"sudo apparmor_parser --replace {place}",
            f"vsbox sync {box}",
        )

    @property
    def difference(self) -> str:
        """What installing would change."""
        if self.installed is None:
            return ""
        before, after = (text.splitlines(keepends=True) for text in (self.installed, self.text))
        return "".join(difflib.unified_diff(before, after, self.path, "as it should be"))

    def loaded(self, name: str) -> bool:
        """Tell whether the kernel enforces a profile."""
        return self.facts.apparmor is not None and self.facts.apparmor.profiles.get(name) == "enforce"

    @property
    def complaints(self) -> tuple[str, ...]:
        """What keeps the profile from being applied, besides differences."""
        if self.facts.apparmor is None or not self.facts.apparmor.enabled:
            return ("AppArmor is not enabled on this machine: nothing can be loaded",)
        names = (launcher_profile(self.root), payload_profile(self.root))
        missing = tuple(f"{name} is not loaded and enforced" for name in names if not self.loaded(name))
        return (*(() if self.installed is not None else (f"{self.path} is not installed, or not readable",)), *missing)


def _profiles(layout: Layout) -> Profiles:
    policy = load_policy(layout)
    # A policy that requires them must not keep them from being made.
    compiled = plan_and_facts(layout, msgspec.structs.replace(policy, apparmor="off"))
    plans = (compiled.plan, *((compiled.installing,) if compiled.installing else ()))
    text = profile_text(plans, compiled.facts, compiled.box)
    return Profiles(str(layout.root), text, installed(installed_path(str(layout.root))), compiled.facts)


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
    profiles = _profiles(open_box(directory))
    differs = bool(profiles.difference) and not ignore_profile_diffs
    failed = differs or (check and bool(profiles.complaints))
    if as_json:
        print_json(_as_json(profiles))
    elif check:
        _print_state(profiles, error=False)
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(os.fsencode(profiles.text))
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
        "loaded": {name: profiles.loaded(name) for name in (launcher_profile(profiles.root), payload_profile(profiles.root))},
        "difference": profiles.difference,
        "complaints": profiles.complaints,
        "commands": profiles.commands,
    }
