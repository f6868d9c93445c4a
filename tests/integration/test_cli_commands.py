"""The other commands: each does what it says, and says what is wrong with how it was called."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cli_answers import Done, names_in, refused

if TYPE_CHECKING:
    from harness import Box, Person

WRONG_USE = ((), ("-x",), ("--backend", "none", "d"), ("a", "b"), ("exec",), ("allow",), ("--network", "x", "d"))


@pytest.mark.parametrize("arguments", WRONG_USE)
def test_usage_errors(arguments: tuple[str, ...], person: Person, place: Path) -> None:
    done = person.vsbox("create", *arguments, cwd=place) if not arguments else person.vsbox(*arguments, cwd=place)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "Usage:" in done.stderr
    assert names_in(place) == []


def test_help_and_version(person: Person) -> None:
    for arguments in (("--help",), ("-h",), ("--version",), ("create", "--help"), ("exec", "-h")):
        done = person.vsbox(*arguments)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout


def test_exec_runs_anything_with_its_status(box: Box) -> None:
    person = box.person
    assert person.vsbox("exec", box.root, "--", "sh", "-c", "echo $0-$1; exit 3", "a", "b").stdout == "a-b\n"
    assert person.vsbox("exec", box.root, "--", "sh", "-c", "exit 3").returncode == 3
    assert person.vsbox("exec", box.root, "python", "-c", "print(1)").stdout == "1\n"
    assert person.vsbox("exec", box.root, "--", "sh", "-c", "kill -9 $$").returncode == -9
    assert person.vsbox("exec", box.root, "--", "cat", input="x").stdout == "x"
    assert person.vsbox("exec", box.root, "--", "env").stdout.count("VIRTUAL_ENV=") == 1


def test_exec_of_nothing_or_nobody(box: Box, place: Path) -> None:
    person = box.person
    refused(person.vsbox("exec", box.root), 2, "no command")
    refused(person.vsbox("exec", box.root, "--", "no-such-command"), 127, "no-such-command")
    refused(person.vsbox("exec", box.root, "--", "/etc/passwd"), 126, "/etc/passwd")
    refused(person.vsbox("exec", place / "nowhere", "--", "true"), 125, "does not exist")
    refused(person.vsbox("exec", place, "--", "true"), 125, "not a box")


@pytest.mark.parametrize("command", ["exec", "allow", "deny", "expose", "sync", "explain", "check"])
def test_commands_on_what_is_no_box(command: str, person: Person, place: Path) -> None:
    rest = {"exec": ["--", "true"], "allow": ["/usr"], "deny": ["/usr"], "expose": ["x"]}.get(command, [])
    refused(person.vsbox(command, place, *rest), 125, "not a box", "make one")


def _install_command(box: Box, name: str) -> Done[str]:
    code = (
        "import os, sys\npath = os.environ['VIRTUAL_ENV'] + '/bin/' + sys.argv[1]\n"
        "open(path, 'w').write('#!/bin/sh\\necho mine\\n')\nos.chmod(path, 0o755)"
    )
    return box.python(code, name)


def test_commands_get_launchers_by_themselves(own_box: Box) -> None:
    assert _install_command(own_box, "tool").stderr == ""
    assert own_box.person.run([str(own_box.bin / "tool")]).stdout == "mine\n"
    code = "import os; os.unlink(os.environ['VIRTUAL_ENV'] + '/bin/tool')"
    assert own_box.python(code).returncode == 0
    assert not (own_box.bin / "tool").exists()


def test_shadowing_commands_wait_for_expose(own_box: Box) -> None:
    person = own_box.person
    done = _install_command(own_box, "ls")
    assert "vsbox expose" in done.stderr
    assert not (own_box.bin / "ls").exists()
    assert person.vsbox("expose", own_box.root, "ls").returncode == 0
    assert person.run([str(own_box.bin / "ls")]).stdout == "mine\n"
    refused(person.vsbox("expose", own_box.root, "nosuch"), 2, "nosuch")
    refused(person.vsbox("expose", own_box.root, "../x"), 2, "../x")
    refused(person.vsbox("expose", own_box.root, "shell"), 2, "shell")


@pytest.mark.parametrize("name", ["new\nline", "-dash", "caf\udce9", "q'uote", "\x1b[31m"])
def test_commands_with_odd_names_get_no_launcher(name: str, plain_box: Box) -> None:
    before = names_in(plain_box.bin)
    done = _install_command(plain_box, name)
    assert done.returncode == 0
    assert all(line.isprintable() for line in done.stderr.splitlines())
    assert len(done.stderr.splitlines()) <= 2
    assert names_in(plain_box.bin) == before


def test_sync_mends_a_plan_and_launchers(own_box: Box) -> None:
    (own_box.root / "sandbox" / "plan").write_bytes(b"junk")
    (own_box.bin / "python3").unlink()
    refused(own_box.python("print(1)"), 125, "vsbox sync")
    done = own_box.person.vsbox("sync", own_box.root)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert own_box.python("print(1)").stdout == "1\n"
    assert own_box.person.run([str(own_box.bin / "python3"), "-c", "print(1)"]).stdout == "1\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str, person: Person) -> None:
    done = person.vsbox("completion", shell)
    assert (done.returncode, done.stderr) == (0, "")
    assert "_VSBOX_COMPLETE" in done.stdout
    if shell == "bash":
        assert person.run(["bash", "-n"], input=done.stdout).stderr == ""
