"""What the command line says of what goes wrong: one line, a next step, a status; never a traceback unasked."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vsbox import cli
from vsbox.cli.output import print_bytes
from vsbox.errors import VsboxError


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    whole = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")} | environment
    argv = [sys.executable, "-m", "vsbox", *words]
    return subprocess.run(argv, env=whole, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)


@pytest.mark.parametrize("first", ["", "~nosuchuser/x.whl", "~nosuchuser/x"])
def test_what_names_no_distribution(first: str) -> None:
    done = run("diff", first, "y==1")
    assert done.returncode == 2
    assert done.stderr.startswith("vsbox: cannot compare")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["create", "wrap"])
def test_a_home_of_nobody(command: str) -> None:
    done = run(command, "~nosuchuser/x")
    assert done.returncode in {2, 125}
    assert done.stderr.startswith(f"vsbox: cannot {'make a box at' if command == 'create' else ''}")
    assert "RuntimeError" not in done.stderr


def test_a_cache_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = run("diff", "x==1", "y==1", XDG_CACHE_HOME=str(tmp_path / "file"))
    assert done.returncode == 125
    assert "cannot make boxes in" in done.stderr
    assert "XDG_CACHE_HOME" in done.stderr


def test_a_closed_standard_output_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(VsboxError, match="standard output is closed"):
        print_bytes(b"x")


def test_a_name_that_the_encoding_lacks_is_shown_all_the_same() -> None:
    code = (
        "import vsbox.cli.output as o, vsbox.cli as c\n"
        "c.cli.main = lambda **_: o.print_table('t', ('a',), [('pr\\xfcf',)])\nc.main()"
    )
    environment = {"PATH": os.environ["PATH"], "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "pr\\xfcf" in done.stdout


@pytest.mark.parametrize(("asked", "shown"), [("", False), ("1", True)])
def test_what_nobody_thought_of_is_one_line(
    asked: str, shown: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: object) -> None:
        raise LookupError("a\nb")

    monkeypatch.setattr(cli.cli, "main", fail)
    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)
    monkeypatch.setenv("VSBOX_DEBUG", asked)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 125
    said = capsys.readouterr().err
    assert ("Traceback" in said) == shown
    assert said.splitlines()[-2:] == [
        "vsbox: cannot go on: LookupError: a b", "       this is a fault of vsbox; where: VSBOX_DEBUG=1 vsbox ...",
    ]  # fmt: skip


COLORS = [("NO_COLOR", "1", False), ("TERM", "dumb", False), ("TERM", "xterm", None)]


@pytest.mark.parametrize(("name", "value", "wanted"), COLORS)
def test_colours_are_not_for_everybody(
    name: str, value: str, wanted: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv(name, value)
    assert cli.color() is wanted
