"""``vsbox allow DIR PATH`` and ``vsbox deny DIR PATH``."""

from __future__ import annotations

import os

import click
import msgspec

from vsbox.box.layout import Layout, open_box
from vsbox.box.profiles import profiles_of
from vsbox.box.store import change_policy, load_policy
from vsbox.cli.paths import resolve_grant
from vsbox.plan import steps
from vsbox.plan.model import Plan
from vsbox.policy.grants import Access, grants_of, is_below, most_specific
from vsbox.policy.model import Policy

LISTS = ("allowed_paths", "read_only_paths", "hidden_paths")


def without(policy: Policy, path: str) -> Policy:
    """Return the policy with no line about exactly this path."""
    lists = {key: tuple(p for p in getattr(policy, key) if p != path) for key in LISTS}
    return msgspec.structs.replace(policy, **lists)


def with_path(policy: Policy, key: str, path: str) -> Policy:
    """Return the policy with this path in one list and in no other."""
    rest = without(policy, path)
    return msgspec.structs.replace(rest, **{key: (*getattr(rest, key), path)})


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path())
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@click.option("-r", "--read", is_flag=True, help="Reading only.")
def allow(directory: str, paths: tuple[str, ...], *, read: bool) -> None:
    """Let code in the box DIR read and write PATH (a file or a directory).

    Links are resolved now: what is granted is where PATH leads at this moment.
    """
    layout = open_box(directory)
    policy = load_policy(layout)
    key = "read_only_paths" if read else "allowed_paths"
    for path in paths:
        policy = with_path(policy, key, resolve_grant(path))
    _say_if_denied(layout, change_policy(layout, policy))


def _say_if_denied(layout: Layout, plan: Plan) -> None:
    """Tell that AppArmor goes on denying what is granted now: its profile is changed by root alone."""
    if any(isinstance(step, steps.Apparmor) for step in plan.steps) and profiles_of(layout).difference:
        click.echo(f"vsbox: AppArmor denies it until its profile is made anew: vsbox apparmor {layout.root}", err=True)


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path())
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
def deny(directory: str, paths: tuple[str, ...]) -> None:
    """Take PATH away from code in the box DIR.

    A path that was granted is no longer; one below something granted is hidden.
    """
    layout = open_box(directory)
    policy = load_policy(layout)
    for given in paths:
        literal = os.path.abspath(os.path.expanduser(given))
        policy = _denied(policy, literal if literal in _named(policy) else os.path.realpath(literal))
    change_policy(layout, policy)


def _named(policy: Policy) -> set[str]:
    return {path for key in LISTS for path in getattr(policy, key)}


def _denied(policy: Policy, path: str) -> Policy:
    rest = without(policy, path)
    hidden = tuple(other for other in rest.hidden_paths if not is_below(other, path))
    rest = msgspec.structs.replace(rest, hidden_paths=hidden)
    above = most_specific(grants_of(rest), path)
    if above is not None and above.access is not Access.HIDDEN and is_below(path, above.path):
        return with_path(rest, "hidden_paths", resolve_grant(path))
    return rest
