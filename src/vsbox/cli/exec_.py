"""``vsbox exec DIR -- COMMAND``."""

from __future__ import annotations

import os

import click


@click.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("directory", metavar="DIR", type=click.Path())
@click.argument("command", metavar="-- COMMAND [ARGUMENT]...", nargs=-1, type=click.UNPROCESSED)
@click.option("--report", is_flag=True,
              help="Watch what COMMAND and all that it starts touch; say in the end what was denied.")
def exec_(directory: str, command: tuple[str, ...], *, report: bool) -> None:
    """Run any command in the box DIR.

    \b
      vsbox exec myenv -- make test
      vsbox exec myenv -- sh -c 'id; ls /'
      vsbox exec --report myenv -- python prog.py

    COMMAND is looked up in the box first, then in the system's directories. Its exit status is ours.
    """
    from vsbox.box.layout import open_box
    from vsbox.errors import UsageError
    from vsbox.launch import replace_self

    words = command[1:] if command[:1] == ("--",) else command
    if not words:
        raise UsageError("no command given", hint="vsbox exec DIR -- COMMAND [ARGUMENT ...]")
    if report:
        os.environ["VSBOX_REPORT"] = "1"
    replace_self(open_box(directory).root, words)
