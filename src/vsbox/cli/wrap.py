"""``vsbox wrap [VENV_DIR] [BWRAP_OPTS...]`` and ``vsbox unwrap [VENV_DIR]``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

KEYS = {
    "project": "project", "preset": "preset", "allow": "allowed_paths", "allow_read": "read_only_paths",
    "network": "network", "backend": "backend", "allow_degraded": "allow_degraded",
}  # fmt: skip
"""Which key of the policy an option sets."""


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("words", metavar="[VENV_DIR] [BWRAP_OPTS]...", nargs=-1, type=click.UNPROCESSED)
@click.option("--project", metavar="DIR", type=click.Path(), help="The project; else what holds VENV_DIR.")
@click.option("--preset", type=click.Choice(["project", "venv", "strict"]), default="project", show_default=True,
              help="project: the project can be written, packages only while something is installed.")
@click.option("--allow", multiple=True, metavar="PATH", help="Let code read and write PATH. Repeatable.")
@click.option("--allow-read", multiple=True, metavar="PATH", help="Let code read PATH. Repeatable.")
@click.option("--network", type=click.Choice(["host", "none"]), help="The host's network, or none.")
@click.option("--backend", type=click.Choice(["auto", "native", "bubblewrap", "landlock"]), default="auto",
              show_default=True, help="The mechanism; auto takes the strongest that works here.")
@click.option("--allow-degraded", multiple=True, metavar="ASPECT",
              help="Run even where this aspect cannot be enforced; the receipt says so. Repeatable.")
@click.option("-q", "--quiet", is_flag=True, help="Print errors only.")
@click.pass_context
def wrap(context: click.Context, /, words: tuple[str, ...], **options: Any) -> None:
    """Turn the environment VENV_DIR (default: .venv) into a sandbox, in place.

    \b
      vsbox wrap
      vsbox wrap .venv --allow ~/data
      vsbox wrap .venv --ro-bind ~/models ~/models --setenv DEBUG 1

    Its python, pip and commands stay where they are and run confined: they may change the project, except
    for what your own tools would execute there (.git, .envrc, editor folders, other environments), and see
    nothing else of yours. Options of bubblewrap are kept and hold for every start. `vsbox unwrap` undoes it.

    A box may be wrapped again: what is said then replaces what its sandbox.json says (paths are added), and no
    more.
    """
    from vsbox.box.create import directory_hint
    from vsbox.box.layout import Layout
    from vsbox.box.wrap import find_project
    from vsbox.box.wrap import wrap as wrap_environment
    from vsbox.cli.paths import resolve_grant
    from vsbox.policy.document import parse

    directory, bwrap = (words[0], words[1:]) if words and not words[0].startswith("-") else (".venv", words)
    document = {
        "venv_root": "/",
        "preset": options["preset"],
        "backend": options["backend"],
        "allowed_paths": [resolve_grant(path) for path in options["allow"]],
        "read_only_paths": [resolve_grant(path) for path in options["allow_read"]],
        "allow_degraded": list(options["allow_degraded"]),
        "bwrap_arguments": list(bwrap),
    }
    explicit = {key for key in options if context.get_parameter_source(key) is ParameterSource.COMMANDLINE}
    is_new = not Layout(Path(os.path.realpath(os.path.expanduser(directory)))).is_box()
    if options["project"] or (options["preset"] == "project" and (is_new or "preset" in explicit)):
        document["project"] = find_project(directory, options["project"])
    if options["network"]:
        document["network"] = options["network"]
    said = {key for option, key in KEYS.items() if option in explicit}
    if "preset" in said:
        said.add("project")
    if bwrap:
        said.add("bwrap_arguments")
    policy = parse(json.dumps(document).encode(), name="the options")
    wrapped = wrap_environment(directory, policy, frozenset(said))
    if options["quiet"]:
        return
    root = wrapped.layout.root
    what = "Wrapped" if wrapped.is_new else "Is a box already"
    click.echo(f"{what}, sandboxed with {wrapped.plan.receipt.tier}: {root}")
    if wrapped.policy.project:
        click.echo(f"  project: {wrapped.policy.project}")
    for path in wrapped.policy.read_only_paths:
        click.echo(f"  can be read: {path}")
    for held in wrapped.held_back:
        click.echo(f"  no launcher for {held.name!r}: {held.reason}", err=True)
    click.echo(f"  undo: vsbox unwrap {directory_hint(root)}")


@click.command()
@click.argument("directory", metavar="[VENV_DIR]", type=click.Path(), default=".venv")
def unwrap(directory: str) -> None:
    """Turn the box VENV_DIR (default: .venv) back into the environment that it was.

    What was installed meanwhile stays installed. The home directory of the box goes.
    """
    from vsbox.box.wrap import unwrap as unwrap_box

    click.echo(f"Not sandboxed any more: {unwrap_box(directory)}")
