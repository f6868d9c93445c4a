"""``vsbox completion SHELL``."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell.

    \b
      vsbox completion bash > ~/.local/share/bash-completion/completions/vsbox
    """
    from vsbox.cli import cli

    kind = get_completion_class(shell)
    if kind is not None:
        click.echo(kind(cli, {}, "vsbox", "_VSBOX_COMPLETE").source())
