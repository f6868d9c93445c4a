"""Activation scripts, sourced by the shells they are for."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from harness import require_program
from vsbox.box.activation import render_activation
from vsbox.box.quoting import quote_csh, quote_fish, quote_posix

if TYPE_CHECKING:
    from collections.abc import Callable

SCRIPTS = {
    "activate",
    "activate_sandboxed",
    "activate.fish",
    "activate_sandboxed.fish",
    "activate.csh",
    "activate_sandboxed.csh",
    "Activate.ps1",
    "Activate_sandboxed.ps1",
}
HOSTILE_NAMES = (
    "plain",
    "two words",
    "it's",
    'dou"ble',
    "$HOME ${x} $(id)",
    "`id`",
    "back\\slash\\",
    "bang!bang!!",
    "line\nbreak",
    "percent%s%n",
    "glob*?[a]{b,c}~#;&|<>()",
    "-dash=^",
    "é中\U0001f40d",
    "@ROOT@ @PROMPT@",
    "caf\udce9",
    'all \'of\\ "them"\n$`!%\udcff',
)
WATCHED = ("PATH", "PYTHONHOME", "VIRTUAL_ENV", "VIRTUAL_ENV_PROMPT", "SHOWN")
PATH = "/usr/bin:/bin"


class Shell(NamedTuple):
    """How to say the same few things in each shell."""

    name: str
    argv: tuple[str, ...]
    quote: Callable[[str], str]
    suffix: str = ""
    setup: str = "PS1='P> '\n"
    source: str = ". {}\n"
    snapshot: str = 'SHOWN="$PS1" {env} -0 > {file}\n'
    always_tested: bool = True


KNOWN_SHELLS = (
    Shell("bash", ("bash", "--norc"), quote_posix),
    Shell("bash-strict", ("bash", "--norc"), quote_posix, setup="set -eu\nset +h\nPS1='P> '\n"),
    Shell("dash", ("dash",), quote_posix),
    Shell("dash-strict", ("dash",), quote_posix, setup="set -eu\nPS1='P> '\n"),
    Shell("zsh", ("zsh", "-f"), quote_posix),
    Shell(
        "zsh-strict",
        ("zsh", "-f"),
        quote_posix,
        setup="set -eu\nPS1='P> '\n"
        "setopt rcquotes globsubst shwordsplit warncreateglobal noclobber\n",
    ),
    Shell(
        "ksh",
        ("ksh",),
        quote_posix,
        setup="set -eu\nPS1='P> '\n",
        snapshot='export SHOWN="$PS1"\n{env} -0 > {file}\nunset SHOWN\n',
        always_tested=False,
    ),
    Shell("mksh", ("mksh",), quote_posix, setup="set -eu\nPS1='P> '\n", always_tested=False),
    Shell(
        "fish",
        ("fish", "--no-config"),
        quote_fish,
        suffix=".fish",
        setup='function fish_prompt\n  echo -n "P$status> "\nend\n',
        source="source {}\n",
        snapshot="set -gx SHOWN (false; fish_prompt | string collect)\n"
        "{env} -0 > {file}\nset -e SHOWN\n",
    ),
    Shell(
        "tcsh",
        ("tcsh", "-f"),
        quote_csh,
        suffix=".csh",
        setup="set prompt = 'P> '\n",
        source="source {}\n",
        snapshot='setenv SHOWN "${{prompt:q}}"\n{env} -0 > {file}\nunsetenv SHOWN\n',
    ),
    Shell(
        "tcsh-strict",
        ("tcsh", "-f", "-e"),
        quote_csh,
        suffix=".csh",
        setup="set backslash_quote\nset noclobber\nset prompt = 'P> '\n",
        source="source {}\n",
        snapshot='setenv SHOWN "${{prompt:q}}"\n{env} -0 > {file}\nunsetenv SHOWN\n',
    ),
    Shell(
        "bsd-csh",
        ("bsd-csh", "-f"),
        quote_csh,
        suffix=".csh",
        setup="set prompt = 'P> '\n",
        source="source {}\n",
        snapshot='setenv SHOWN "${{prompt:q}}"\n{env} -0 > {file}\nunsetenv SHOWN\n',
        always_tested=False,
    ),
)

SHELLS = tuple(shell for shell in KNOWN_SHELLS if shell.always_tested or shutil.which(shell.argv[0]))
each_shell = pytest.mark.parametrize("shell", SHELLS, ids=lambda shell: shell.name)
each_lax_shell = pytest.mark.parametrize(
    "shell",
    # The activation script of CPython's venv does not stand all strict modes.
    [shell for shell in SHELLS if shell.name in {"bash", "dash", "zsh", "fish"}],
    ids=lambda shell: shell.name,
)


def make_box(root: Path, *, marker: str = "box", summary: bytes | None = None) -> Path:
    """Make what activation needs of a box; its python prints the marker."""
    (root / "bin").mkdir(parents=True)
    (root / "sandbox").mkdir()
    for name, content in render_activation(root, prompt=root.name).items():
        (root / "bin" / name).write_bytes(content)
    write_program(root / "bin" / "python", f"echo {marker}")
    if summary is not None:
        (root / "sandbox" / "summary.txt").write_bytes(summary)
    return root


def write_program(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


class Session:
    """A shell script under construction, run in a clean environment."""

    def __init__(self, shell: Shell, directory: Path, **env: str) -> None:
        self.shell = shell
        self.directory = directory
        self.env = {"PATH": PATH, "HOME": str(directory), "LC_ALL": "C.UTF-8", **env}
        self.script = shell.setup
        self.program = require_program(shell.argv[0])

    def source(self, root: Path, script: str = "activate") -> Session:
        path = self.shell.quote(f"{root}/bin/{script}{self.shell.suffix}")
        return self.do(self.shell.source.format(path))

    def snapshot(self, name: str) -> Session:
        file = self.shell.quote(str(self.directory / name))
        return self.do(self.shell.snapshot.format(env=require_program("env"), file=file))

    def do(self, line: str) -> Session:
        self.script += line.rstrip("\n") + "\n"
        return self

    def run(self) -> bytes:
        """Return what it printed, after checking that nothing complained."""
        file = self.directory / "script"
        file.write_bytes(os.fsencode(self.script))
        result = subprocess.run(
            [self.program, *self.shell.argv[1:], str(file)],
            env=self.env,
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=60,
        )
        assert (result.stderr, result.returncode) == (b"", 0)
        return result.stdout

    def environment(self, name: str) -> dict[str, str]:
        """Return the whole environment at a snapshot."""
        entries = (self.directory / name).read_bytes().split(b"\0")[:-1]
        return dict(os.fsdecode(entry).split("=", 1) for entry in entries)

    def state(self, name: str) -> dict[str, str]:
        """Return what activation may change, as it was at a snapshot."""
        environment = self.environment(name)
        return {key: environment[key] for key in WATCHED if key in environment}


def shown(root: Path) -> str:
    return "".join(c if c.isprintable() and c not in "$`\\%!" else "?" for c in root.name)


def prompt_of(shell: Shell, root: Path | None = None) -> str:
    """Return the prompt to expect; fish's fails before it is drawn, to see the status arrive."""
    plain = "P1> " if shell.name == "fish" else "P> "
    return plain if root is None else f"({shown(root)}) {plain}"


@each_shell
@pytest.mark.parametrize("name", HOSTILE_NAMES)
@pytest.mark.parametrize(
    "before", [{}, {"PYTHONHOME": "/opt/o'ther $home"}], ids=["", "PYTHONHOME"]
)
def test_activate_and_deactivate(
    shell: Shell, name: str, before: dict[str, str], tmp_path: Path
) -> None:
    root = make_box(tmp_path / name)
    session = Session(shell, tmp_path, **before).snapshot("0")
    session.source(root).snapshot("1").do("python").do("deactivate").snapshot("2")

    assert session.run() == b"box\n"
    assert session.state("0") == {"PATH": PATH, "SHOWN": prompt_of(shell), **before}
    assert session.state("1") == {
        "PATH": f"{root}/bin:{PATH}",
        "SHOWN": prompt_of(shell, root),
        "VIRTUAL_ENV": str(root),
        "VIRTUAL_ENV_PROMPT": name,
    }
    assert session.state("2") == session.state("0")


@each_shell
@pytest.mark.parametrize("name", ["plain", HOSTILE_NAMES[-1]])
def test_sourcing_twice_is_sourcing_once(shell: Shell, name: str, tmp_path: Path) -> None:
    root = make_box(tmp_path / name)
    session = Session(shell, tmp_path, PYTHONHOME="/opt").snapshot("0").source(root).snapshot("1")
    session.source(root).snapshot("2").do("deactivate").snapshot("3").run()

    assert session.state("2") == session.state("1")
    assert session.state("3") == session.state("0")


@each_shell
def test_second_box_replaces_the_first(shell: Shell, tmp_path: Path) -> None:
    first = make_box(tmp_path / "one !", marker="one")
    second = make_box(tmp_path / "two '", marker="two")
    session = Session(shell, tmp_path).snapshot("0").source(first).do("python")
    session.source(second).do("python").snapshot("1").do("deactivate").snapshot("2")

    assert session.run() == b"one\ntwo\n"
    assert session.state("1")["PATH"] == f"{second}/bin:{PATH}"
    assert session.state("1")["SHOWN"] == prompt_of(shell, second)
    assert session.state("2") == session.state("0")


@each_shell
def test_nothing_is_left_behind(shell: Shell, tmp_path: Path) -> None:
    root = make_box(tmp_path / "box", summary=b"text\n")
    session = Session(shell, tmp_path).snapshot("0").source(root, "activate_sandboxed")
    session.do("deactivate").snapshot("1").do("set")
    printed = session.run().decode(errors="surrogateescape")

    ignored = {"_", "A__z", "SHLVL"}
    before, after = (
        {k: v for k, v in session.environment(n).items() if k not in ignored} for n in "01"
    )
    assert after == before
    # Names only: the text of the last command is a variable's value in some shells.
    names = {re.split(r"[=\s]", line)[0] for line in printed.splitlines()}
    assert names & {"HOME", "home"}
    assert not [n for n in names if n.lower().startswith(("_old_", "_vsbox_", "virtual_"))]


@each_shell
def test_deactivate_nondestructive_can_be_repeated(shell: Shell, tmp_path: Path) -> None:
    root = make_box(tmp_path / "box")
    session = Session(shell, tmp_path).snapshot("0").source(root)
    session.do("deactivate nondestructive").do("deactivate nondestructive").snapshot("1")
    session.source(root).do("python").do("deactivate").snapshot("2")

    assert session.run() == b"box\n"
    assert session.state("1") == session.state("2") == session.state("0")


@each_shell
def test_environment_inherited_from_the_parent_shell_comes_back(
    shell: Shell, tmp_path: Path
) -> None:
    inherited = {
        "VIRTUAL_ENV": "/some/venv",
        "VIRTUAL_ENV_PROMPT": "some",
        # As exported by a parent's `set -a` or PowerShell: not to be restored from.
        "_OLD_VIRTUAL_PYTHONHOME": "/stale",
        "_OLD_VIRTUAL_PS1": "stale",
        "_VSBOX_ACTIVE": "1",
    }
    root = make_box(tmp_path / "box")
    session = Session(shell, tmp_path, **inherited).snapshot("0").source(root).snapshot("1")
    session.do("deactivate").snapshot("2").run()

    assert session.state("1")["VIRTUAL_ENV"] == str(root)
    assert session.state("2") == session.state("0")


@each_shell
@pytest.mark.parametrize("value", ["1", ""])
def test_prompt_can_be_left_alone(shell: Shell, value: str, tmp_path: Path) -> None:
    root = make_box(tmp_path / "box")
    session = Session(shell, tmp_path, VIRTUAL_ENV_DISABLE_PROMPT=value).source(root)
    session.snapshot("1").do("deactivate").snapshot("2").run()

    assert session.state("1")["SHOWN"] == prompt_of(shell, None if value else root)
    assert session.state("2")["SHOWN"] == prompt_of(shell)


@pytest.mark.parametrize(
    ("shell", "expanded"),
    [("bash", '"${PS1@P}"'), ("zsh", '"${(%%)PS1}"'), ("zsh-strict", '"${(%%)PS1}"')],
)
def test_prompt_text_is_not_executed(shell: str, expanded: str, tmp_path: Path) -> None:
    dialect = next(candidate for candidate in SHELLS if candidate.name == shell)
    root = make_box(tmp_path / "$(touch ran)`touch ran`%n\\u!")
    session = Session(dialect, tmp_path)
    session.do("setopt promptsubst" if dialect.argv[0] == "zsh" else "shopt -s promptvars")
    output = session.source(root).do(f"printf '%s' {expanded}").run()

    assert output == b"(?(touch ran)?touch ran??n?u?) P> "
    assert not (tmp_path / "ran").exists()


@each_shell
def test_nothing_is_looked_up_on_path(shell: Shell, tmp_path: Path) -> None:
    root = make_box(tmp_path / "box", summary=b"text\n")
    traps = tmp_path / "traps"
    traps.mkdir()
    commands = "[ test printf print cat hash true command deactivate alias string env sed tr"
    for name in commands.split():
        write_program(traps / name, f"echo trapped {name}")
        write_program(root / "bin" / name, f"echo trapped {name}")
        # The empty entry of PATH: there some shells report a command by its bare name.
        write_program(tmp_path / name, f"echo trapped {name}")
    session = Session(shell, tmp_path, PATH=f":{traps}", VIRTUAL_ENV="/other")
    session.source(root, "activate_sandboxed").source(root, "activate_sandboxed").do("deactivate")

    assert session.run() == b"text\ntext\n"


SUMMARY = "reads   /usr \\n $(id) %s\n\n  \twrites 'here' é\n-n\n".encode() + b"caf\xe9\n"


@each_shell
@pytest.mark.parametrize("name", ["plain", HOSTILE_NAMES[-1]])
def test_sandboxed_twin_prints_the_summary(shell: Shell, name: str, tmp_path: Path) -> None:
    root = make_box(tmp_path / name, summary=SUMMARY)
    session = Session(shell, tmp_path).source(root, "activate_sandboxed").do("python")

    assert session.run() == SUMMARY + b"box\n"


@each_shell
def test_sandboxed_twin_without_a_summary_activates(shell: Shell, tmp_path: Path) -> None:
    root = make_box(tmp_path / "box")

    assert (
        Session(shell, tmp_path).source(root, "activate_sandboxed").do("python").run() == b"box\n"
    )


def test_summary_without_a_last_newline_is_printed_whole(tmp_path: Path) -> None:
    for shell in (shell for shell in SHELLS if shell.name in {"bash", "fish"}):
        root = make_box(tmp_path / shell.name, summary=b"one\ntwo")
        assert Session(shell, tmp_path).source(root, "activate_sandboxed").run() == b"one\ntwo\n"


@each_shell
def test_empty_path_does_not_become_the_current_directory(shell: Shell, tmp_path: Path) -> None:
    root = make_box(tmp_path / "box")
    session = Session(shell, tmp_path, PATH="").source(root).snapshot("1").do("python")

    assert session.run() == b"box\n"
    # The others put something of their own there.
    if shell.argv[0] in {"bash", "dash", "ksh", "mksh"}:
        assert session.state("1")["PATH"] == f"{root}/bin"


@pytest.mark.parametrize("shell", ["bash", "dash", "zsh"])
def test_unset_variables_stay_unset(shell: str, tmp_path: Path) -> None:
    dialect = next(candidate for candidate in SHELLS if candidate.name == shell)
    root = make_box(tmp_path / "box")
    session = Session(dialect, tmp_path).do("set -eu; unset PATH PS1").source(root).do("python")
    session.do('echo "${PS1-unset}"').do("deactivate").do('echo "${PATH-unset} ${PS1-unset}"')

    assert session.run() == b"box\nunset\nunset unset\n"


@pytest.fixture(scope="module")
def plain_venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment made by CPython's own venv."""
    root = tmp_path_factory.mktemp("plain") / "venv"
    command = [sys.executable, "-m", "venv", "--without-pip", str(root)]
    subprocess.run(command, check=True, capture_output=True)
    return root


@each_lax_shell
def test_box_replaces_a_plain_environment(shell: Shell, plain_venv: Path, tmp_path: Path) -> None:
    root = make_box(tmp_path / "box")
    session = Session(shell, tmp_path, PYTHONHOME="/opt").snapshot("0").source(plain_venv)
    session.source(root).snapshot("1").do("deactivate").snapshot("2").run()

    assert session.state("1")["PATH"] == f"{root}/bin:{PATH}"
    assert session.state("1")["SHOWN"] == prompt_of(shell, root)
    assert session.state("2") == session.state("0")


@each_lax_shell
def test_plain_environment_replaces_a_box(shell: Shell, plain_venv: Path, tmp_path: Path) -> None:
    root = make_box(tmp_path / "box")
    session = Session(shell, tmp_path, PYTHONHOME="/opt").snapshot("0").source(root)
    session.source(plain_venv).snapshot("1").do("deactivate").snapshot("2").run()

    assert session.state("1")["PATH"] == f"{plain_venv}/bin:{PATH}"
    assert session.state("2") == session.state("0")


def test_box_replaces_a_plain_environment_in_csh(plain_venv: Path, tmp_path: Path) -> None:
    shell = next(shell for shell in SHELLS if shell.name == "tcsh")
    root = make_box(tmp_path / "box")
    session = Session(shell, tmp_path).snapshot("0").source(plain_venv).source(root)
    session.snapshot("1").do("deactivate").snapshot("2").run()

    assert session.state("1")["PATH"] == f"{root}/bin:{PATH}"
    assert session.state("2") == session.state("0")


# What is rendered, without a shell.


def test_scripts_are_named_as_users_expect() -> None:
    assert set(render_activation("/box", prompt="box")) == SCRIPTS


def test_scripts_name_nothing_that_code_inside_can_write() -> None:
    for script in render_activation("/box", prompt="box").values():
        assert b"/inside" not in script
        assert b"/home" not in script


@pytest.mark.parametrize(
    ("root", "message"),
    [
        ("/a:b/box", "cannot activate /a:b/box: a colon in its path breaks PATH"),
        ("box", "cannot activate box: its path is not absolute"),
        ("", "cannot activate : its path is not absolute"),
        ("/a\0b", "cannot quote '/a\\x00b' for a POSIX shell: it contains a NUL character"),
    ],
)
def test_roots_that_no_shell_can_activate_are_refused(root: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        render_activation(root, prompt="box")


def test_prompt_that_no_variable_can_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="it contains a NUL character"):
        render_activation("/box", prompt="a\0b")


def test_path_objects_are_accepted() -> None:
    assert render_activation(Path("/box"), prompt="b") == render_activation("/box", prompt="b")


def test_powershell_refuses_alone_what_only_it_cannot_represent() -> None:
    scripts = render_activation("/caf\udce9", prompt="box")

    refusal = b"throw 'cannot activate: the path of this box is not valid Unicode'\n"
    assert scripts["Activate.ps1"] == scripts["Activate_sandboxed.ps1"] == refusal
    assert b"VIRTUAL_ENV='/caf\xe9'" in scripts["activate"]


def test_powershell_golden() -> None:
    scripts = render_activation("/o'brien/é $x`", prompt="my $(box)")
    lines = scripts["Activate.ps1"].decode("ascii").splitlines()

    assert "$env:VIRTUAL_ENV = ('/o''brien/' + [char]0x00E9 + ' $x`')" in lines
    assert "$env:VIRTUAL_ENV_PROMPT = 'my $(box)'" in lines
    assert "        Write-Host -NoNewline -Object '(my ?(box)) '" in lines
    assert scripts["Activate_sandboxed.ps1"].startswith(scripts["Activate.ps1"])
