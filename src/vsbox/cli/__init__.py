"""The command line: one small file a command."""

from __future__ import annotations

import difflib
import io
import os
import signal
import sys
import traceback

import click

from vsbox import __version__
from vsbox.errors import UsageError, VsboxError

DEBUG = "VSBOX_DEBUG"
"""Set to 1: an error that nobody has thought of is shown with its traceback."""
COMMANDS = {
    "create": "vsbox.cli.create",
    "wrap": "vsbox.cli.wrap",
    "unwrap": "vsbox.cli.wrap",
    "exec": "vsbox.cli.exec_",
    "python": "vsbox.cli.python",
    "allow": "vsbox.cli.allow",
    "deny": "vsbox.cli.allow",
    "expose": "vsbox.cli.expose",
    "explain": "vsbox.cli.explain",
    "report": "vsbox.cli.report",
    "learn": "vsbox.cli.learn",
    "diff": "vsbox.cli.diff",
    "apparmor": "vsbox.cli.apparmor",
    "check": "vsbox.cli.check",
    "doctor": "vsbox.cli.doctor",
    "list": "vsbox.cli.running",
    "inspect": "vsbox.cli.running",
    "kill": "vsbox.cli.running",
    "sync": "vsbox.cli.sync",
    "completion": "vsbox.cli.completion",
}


PLANNED = ("run",)


def _refuse_slip(word: str) -> None:
    """Refuse to make a box whose name is almost a command: nobody means that without saying so."""
    if "/" in word or word.startswith("-"):
        return
    hint = f"to make a box of that name: vsbox create {word}"
    if word in PLANNED:
        raise UsageError(f"no command {word!r} in this version", hint=hint)
    close = difflib.get_close_matches(word, COMMANDS, n=1, cutoff=0.75)
    if close:
        raise UsageError(f"no command {word!r}: did you mean {close[0]!r}?", hint=hint)


class LazyGroup(click.Group):
    """Imports a command when it is asked for; what is no command is a directory to create."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the commands in the order people meet them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import and return one command."""
        if cmd_name not in COMMANDS:
            return None
        module = __import__(COMMANDS[cmd_name], fromlist=[cmd_name])
        command: click.Command = getattr(module, f"{cmd_name}_" if cmd_name in {"exec", "list"} else cmd_name)
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Let ``vsbox DIR`` mean ``vsbox create DIR``."""
        own = {"--help", "-h", "--version"}
        if args and args[0] not in COMMANDS and args[0] not in own:
            _refuse_slip(args[0])
            args = ["create", *args]
        return super().parse_args(ctx, args)


@click.command(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit status: 2 usage or policy error, 125 vsbox could not do it, 126/127 command not "
    "executable/not found, 128+N killed by signal N, otherwise the command's own.",
)
@click.version_option(__version__, prog_name="vsbox")
def cli() -> None:
    """Python environments that are sandboxes.

    \b
    Make one and use it like any other environment:
      vsbox myenv
      source myenv/bin/activate
      pip install requests
      python prog.py

    Its python, its pip and every command installed into it run confined by the kernel: they see the
    environment, the system's programs and the directory you stand in (read-only), and nothing else.
    """


class Ended(BaseException):
    """A signal asks to end: unwinds like KeyboardInterrupt, so that what is half-made goes."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number


def _end(number: int, frame: object) -> None:  # noqa: ARG001 - signal's signature
    raise Ended(number)


def print_error(error: BaseException) -> None:
    """Write an error and its next step to standard error."""
    click.echo(f"{click.style('vsbox:', fg='red')} {error}", err=True, color=color())
    hint = getattr(error, "hint", None)
    if hint:
        click.echo(f"       {hint}", err=True)


def color() -> bool | None:
    """Return False where nobody wants colours; None leaves it to whether it is a terminal."""
    return False if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" else None


def _let_print() -> None:
    """Names may hold what the encoding of a terminal, or no encoding, has: show that by its number."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def _print_unforeseen(error: Exception) -> None:
    """Say in one line what nobody has thought of; all of it to whoever asks."""
    if os.environ.get(DEBUG) == "1":
        traceback.print_exception(error)
    what = " ".join(f"{type(error).__name__}: {error}".split())
    print_error(VsboxError(f"cannot go on: {what}", hint=f"this is a fault of vsbox; where: {DEBUG}=1 vsbox ..."))


def main() -> None:
    """Run the command line and exit with the status that DESIGN §11 gives each outcome."""
    for name in ("SIGTERM", "SIGHUP"):  # the latter is not everywhere
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _end)
    _let_print()
    try:
        cli.main(standalone_mode=False, color=color())
    except VsboxError as error:
        print_error(error)
        sys.exit(error.exit_code)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except Ended as error:
        sys.exit(128 + error.signal_number)
    except (click.Abort, KeyboardInterrupt):
        click.echo("vsbox: interrupted", err=True)
        sys.exit(130)
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        print_error(OSError(f"cannot go on{where}: {error.strerror or error}"))
        sys.exit(VsboxError.exit_code)
    except Exception as error:  # the last resort: a traceback tells people nothing
        _print_unforeseen(error)
        sys.exit(VsboxError.exit_code)
