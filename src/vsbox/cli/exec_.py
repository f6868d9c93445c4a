"""``vsbox exec DIR -- COMMAND``."""

from __future__ import annotations

import click


@click.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("directory", metavar="DIR", type=click.Path())
@click.argument("command", metavar="-- COMMAND [ARGUMENT]...", nargs=-1, type=click.UNPROCESSED)
def exec_(directory: str, command: tuple[str, ...]) -> None:
    """Run any command in the box DIR.

    \b
      vsbox exec myenv -- make test
      vsbox exec myenv -- sh -c 'id; ls /'

    COMMAND is looked up in the box first, then in the system's directories. Its exit status is ours.
    """
    from vsbox.box.layout import open_box
    from vsbox.errors import UsageError
    from vsbox.launch import replace_self

    words = command[1:] if command[:1] == ("--",) else command
    if not words:
        raise UsageError("no command given", hint="vsbox exec DIR -- COMMAND [ARGUMENT ...]")
    replace_self(open_box(directory).root, words)
