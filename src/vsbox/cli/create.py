"""``vsbox [create] DIR``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from vsbox.policy.model import Policy


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path())
@click.option("-p", "--python", metavar="PYTHON", help="Interpreter: a version (3.12), a name or a path.")
@click.option("--no-pip", is_flag=True, help="Do not install pip.")
@click.option("--clear", is_flag=True, help="Replace the box that is there.")
@click.option("--allow", multiple=True, metavar="PATH", help="Let code read and write PATH. Repeatable.")
@click.option("--allow-read", multiple=True, metavar="PATH", help="Let code read PATH. Repeatable.")
@click.option("--network", type=click.Choice(["host", "none"]), help="The host's network, or none.")
@click.option("--preset", type=click.Choice(["venv", "strict"]), default="venv", show_default=True,
              help="venv: network, packages writable. strict: no network, packages read-only, nothing of yours.")
@click.option("--mode", type=click.Choice(["enforce", "log"]), default="enforce", show_default=True,
              help="enforce blocks. log blocks nothing and reports what would be: no sandbox.")
@click.option("--backend", type=click.Choice(["auto", "native", "bubblewrap", "landlock"]), default="auto",
              show_default=True,
              help="native: namespaces, Landlock, seccomp. bubblewrap: namespaces by bwrap. landlock: no namespaces.")
@click.option("--no-os-sandbox", is_flag=True, help="The audit hook alone, which code can get around: no sandbox.")
@click.option("--allow-degraded", multiple=True, metavar="ASPECT",
              help="Run even where this aspect cannot be enforced; the receipt says so. Repeatable.")
@click.option("-q", "--quiet", is_flag=True, help="Print errors only.")
def create(directory: str, **options: Any) -> None:
    """Make an environment that is a sandbox.

    \b
      vsbox myenv
      vsbox -p 3.12 --allow ~/data --allow-read ~/models myenv

    What code inside may touch stands in DIR/sandbox/sandbox.json, which is yours to edit; a change
    takes effect at the next start. `vsbox explain DIR` shows it with what enforces it.
    """
    from vsbox.box.create import create as make
    from vsbox.box.create import directory_hint

    created = make(
        directory,
        _policy(options),
        python=options["python"],
        pip=not options["no_pip"],
        clear=options["clear"],
    )
    if options["quiet"]:
        return
    root = created.layout.root
    version = created.interpreter.version.split()[0]
    click.echo(f"Python {version}, {describe_tier(created.plan.receipt.tier)}: {root}")
    click.echo(f"  source {directory_hint(root / 'bin' / 'activate')}")
    for row in created.plan.receipt.rows:
        if row.state == "degraded":
            click.echo(f"  not enforced, as allowed: {row.aspect.value} ({row.asked})", err=True)
    for held in created.synced.held_back:
        click.echo(f"  no launcher for {held.name!r}: {held.reason}", err=True)


def describe_tier(tier: str) -> str:
    """Return how a box confines, in a word or two."""
    return "not confined by the kernel" if tier == "none" else f"sandboxed with {tier}"


def _policy(options: dict[str, Any]) -> Policy:
    """Build the policy that the options describe; a path that is missing is an error here."""
    from vsbox.cli.paths import resolve_grant
    from vsbox.policy.document import parse

    document = {
        "venv_root": "/",
        "preset": options["preset"],
        "mode": options["mode"],
        "os_sandbox": not options["no_os_sandbox"],
        "backend": options["backend"],
        "allowed_paths": [resolve_grant(path) for path in options["allow"]],
        "read_only_paths": [resolve_grant(path) for path in options["allow_read"]],
        "allow_degraded": list(options["allow_degraded"]),
    }
    if options["network"]:
        document["network"] = options["network"]
    return parse(json.dumps(document).encode(), name="the options")
