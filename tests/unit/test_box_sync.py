"""Launchers follow inside/bin by name; a name that would hide a command of the user's is held back."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import msgspec
import pytest

from harness import Person
from unit.machines import policy
from vsbox.box.layout import Layout
from vsbox.box.sync import Synced, find_shadowed, list_names, sync_launchers
from vsbox.errors import BoxError

ELF = b"\x7fELF\x02\x01\x01" + bytes(57)
SHELL = b"#!/bin/sh\nexit 0\n"
PYTHON = b"#!/usr/bin/python3\nprint()\n"
ENV_PYTHON = b"#!/usr/bin/env python3\nprint()\n"


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """A box on disk with nothing in it; the launcher need not run."""
    found = Layout(tmp_path / "env")
    for directory in (found.bin, found.sandbox, found.inside / "bin", found.home):
        directory.mkdir(parents=True)
    found.launcher.write_bytes(ELF)
    found.launcher.chmod(0o755)
    return found


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH of one directory."""
    directory = tmp_path / "path"
    directory.mkdir()
    monkeypatch.setenv("PATH", str(directory))
    return directory


def install(layout: Layout, *names: str) -> None:
    for name in names:
        (layout.inside / "bin" / name).write_bytes(SHELL)


def command(directory: Path, name: str, content: bytes = SHELL, *, mode: int = 0o755) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    found = directory / name
    found.write_bytes(content)
    found.chmod(mode)
    return found


def sync(layout: Layout, *exposed: str) -> Synced:
    return sync_launchers(layout, policy(venv_root=str(layout.root), exposed_commands=exposed))


def launchers(layout: Layout) -> set[str]:
    inode = layout.launcher.stat().st_ino
    return {entry.name for entry in layout.bin.iterdir() if entry.lstat().st_ino == inode}


def held(synced: Synced) -> dict[str, str]:
    return {item.name: item.reason for item in synced.held_back}


OWN = {"python-sandboxed", "shell"}

# ---- following ----


@pytest.mark.usefixtures("path")
def test_commands_come_and_go(layout: Layout) -> None:
    install(layout, "pytest", "python", "python3.12", "pip", "2to3", "g++", "a_b-c.d")
    assert set(sync(layout).added) == OWN | {"pytest", "python", "python3.12", "pip", "2to3", "g++", "a_b-c.d"}
    (layout.inside / "bin" / "pytest").unlink()
    install(layout, "black")
    assert sync(layout) == Synced(("black",), ("pytest",), ())
    assert sync(layout) == Synced((), (), ())
    assert launchers(layout) == OWN | {"black", "python", "python3.12", "pip", "2to3", "g++", "a_b-c.d"}


@pytest.mark.usefixtures("path")
def test_launchers_are_links_of_one_file_and_nothing_is_left(layout: Layout) -> None:
    install(layout, "pytest")
    for _ in range(2):
        sync(layout)
        assert {entry.name for entry in layout.bin.iterdir()} == OWN | {"pytest"}
    assert (layout.bin / "pytest").samefile(layout.launcher)


@pytest.mark.usefixtures("path")
def test_activation_scripts_are_left_alone(layout: Layout) -> None:
    names = ("activate", "activate.fish", "Activate.ps1", "activate_sandboxed", "deactivate.bat")
    install(layout, *names)
    for name in names:
        (layout.bin / name).write_text("ours")
    synced = sync(layout)
    assert launchers(layout) == OWN
    assert not synced.held_back
    assert {(layout.bin / name).read_text() for name in names} == {"ours"}


@pytest.mark.usefixtures("path")
def test_only_links_of_the_launcher_are_ever_removed(layout: Layout) -> None:
    (layout.bin / "mine").write_text("x")
    sync(layout)
    assert (layout.bin / "mine").read_text() == "x"


@pytest.mark.usefixtures("path")
def test_something_else_in_the_launchers_place_is_replaced(layout: Layout) -> None:
    """Whatever stands there, what runs is the launcher."""
    install(layout, "pytest")
    (layout.bin / "pytest").symlink_to("/bin/true")
    sync(layout)
    assert "pytest" in launchers(layout)


@pytest.mark.usefixtures("path")
def test_a_half_made_launcher_of_a_killed_run_does_not_stop_the_next(layout: Layout) -> None:
    install(layout, "pytest")
    (layout.bin / ".pytest.new").write_text("half")
    sync(layout)
    assert {entry.name for entry in layout.bin.iterdir()} == OWN | {"pytest"}


# ---- names ----

BAD = ["-rf", ".hidden", "a b", "a\nb", "é", "a$b", "a;b", "a'b", "x" * 129, "[", "a:b", "_x", "a\n"]


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("name", BAD)
def test_names_no_shell_command_has_are_held_back(layout: Layout, name: str) -> None:
    install(layout, name)
    synced = sync(layout)
    assert held(synced) == {name: "its name is not one a shell command has"}
    assert launchers(layout) == OWN


@pytest.mark.usefixtures("path")
def test_a_name_that_is_not_utf8_is_held_back(layout: Layout) -> None:
    install(layout, os.fsdecode(b"a\xff"))
    assert launchers(layout) == OWN or held(sync(layout))


@pytest.mark.usefixtures("path")
def test_names_of_vsbox_are_not_taken_by_packages(layout: Layout) -> None:
    install(layout, "vsbox", "shell", "python-sandboxed")
    assert "vsbox" in held(sync(layout, "vsbox"))
    assert launchers(layout) == OWN


def test_exposing_does_not_make_a_bad_name_good(layout: Layout, path: Path) -> None:
    """The policy cannot name it, and if it could the name would still be checked."""
    install(layout, "a b")
    wanted = msgspec.structs.replace(policy(venv_root=str(layout.root)), exposed_commands=("a b",))
    assert held(sync_launchers(layout, wanted))


@pytest.mark.usefixtures("path")
def test_directories_are_no_commands(layout: Layout) -> None:
    (layout.inside / "bin" / "sub").mkdir()
    sync(layout)
    assert launchers(layout) == OWN


@pytest.mark.usefixtures("path")
def test_links_are_commands_by_name_and_never_followed(layout: Layout, tmp_path: Path) -> None:
    (layout.inside / "bin" / "tool").symlink_to(tmp_path / "nowhere")
    (layout.inside / "bin" / "loop").symlink_to("loop")
    sync(layout)
    assert launchers(layout) == OWN | {"tool", "loop"}
    assert not (layout.bin / "tool").is_symlink()


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("target", ["/usr/bin", "../../elsewhere", "bin"])
def test_a_link_in_the_place_of_the_directory_is_not_followed(layout: Layout, target: str) -> None:
    shutil.rmtree(layout.inside / "bin")
    (layout.inside / "bin").symlink_to(target)
    with pytest.raises(BoxError, match="launchers stay as they are"):
        list_names(layout.inside / "bin")
    before = launchers(layout)
    with pytest.raises(BoxError):
        sync(layout)
    assert launchers(layout) == before


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.write_text(""), os.mkfifo], ids=["gone", "file", "fifo"])
def test_no_directory_takes_no_launcher_away(layout: Layout, make: object) -> None:
    install(layout, "tool")
    sync(layout)
    shutil.rmtree(layout.inside / "bin")
    make(layout.inside / "bin")  # type: ignore[operator]
    with pytest.raises(BoxError, match="launchers stay as they are"):
        sync(layout)
    assert "tool" in launchers(layout)


@pytest.mark.usefixtures("path")
def test_files_in_the_box_are_never_opened(layout: Layout) -> None:
    """A FIFO would hold whoever opens it for ever."""
    os.mkfifo(layout.inside / "bin" / "tool")
    sync(layout)
    assert "tool" in launchers(layout)


# ---- shadowing ----


@pytest.mark.parametrize("content", [ELF, SHELL, b"#!/usr/bin/perl\n", b"#!/bin/bash\n# python\n", b""])
def test_a_command_of_the_users_is_not_hidden(layout: Layout, path: Path, content: bytes) -> None:
    found = command(path, "git", content)
    install(layout, "git", "mine")
    assert held(sync(layout)) == {"git": f"it would shadow {found}"}
    assert launchers(layout) == OWN | {"mine"}


@pytest.mark.parametrize("content", [PYTHON, ENV_PYTHON])
def test_a_python_script_of_the_users_may_be(layout: Layout, path: Path, content: bytes) -> None:
    command(path, "pytest", content)
    install(layout, "pytest")
    assert not held(sync(layout))


def test_a_shim_may_be(layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command(tmp_path / "shims", "pytest", b"#!/usr/bin/env bash\n")
    monkeypatch.setenv("PATH", str(tmp_path / "shims"))
    install(layout, "pytest")
    assert not held(sync(layout))


@pytest.mark.parametrize("content", [ELF, PYTHON])
def test_a_link_into_an_environment_may_be(layout: Layout, path: Path, tmp_path: Path, content: bytes) -> None:
    other = tmp_path / "tools" / "ruff"
    command(other / "bin", "ruff", content)
    (other / "pyvenv.cfg").write_text("")
    (path / "ruff").symlink_to(other / "bin" / "ruff")
    install(layout, "ruff")
    assert not held(sync(layout))


def test_a_link_elsewhere_may_not(layout: Layout, path: Path, tmp_path: Path) -> None:
    command(tmp_path / "opt" / "bin", "ruff", ELF)
    (path / "ruff").symlink_to(tmp_path / "opt" / "bin" / "ruff")
    install(layout, "ruff")
    assert "ruff" in held(sync(layout))


def test_python_beside_it_does_not_make_a_command_pythons(layout: Layout, path: Path) -> None:
    """~/.local/bin and /usr/local/bin hold a python3 on many machines, and everything else besides."""
    command(path, "python3", ELF)
    command(path, "kubectl", ELF)
    install(layout, "kubectl")
    assert "kubectl" in held(sync(layout))


@pytest.mark.parametrize("name", ["python", "python3", "python3.12", "pip", "pip3", "pip3.12", "pypy3", "wheel"])
def test_python_and_pip_are_what_a_box_is_for(layout: Layout, path: Path, name: str) -> None:
    command(path, name, ELF)
    install(layout, name)
    assert not held(sync(layout))
    assert name in launchers(layout)


@pytest.mark.parametrize("name", ["pythonx", "pip-audit", "python3-config", "xpython", "pip\n"])
def test_names_that_only_begin_like_them_are_not(layout: Layout, path: Path, name: str) -> None:
    command(path, name, ELF)
    install(layout, name)
    assert name in held(sync(layout))


def test_exposed_means_the_user_wants_it(layout: Layout, path: Path) -> None:
    command(path, "git", ELF)
    install(layout, "git", "tar")
    command(path, "tar", ELF)
    assert set(held(sync(layout, "git"))) == {"tar"}
    assert "git" in launchers(layout)
    assert "git" in held(sync(layout))
    assert "git" not in launchers(layout)


@pytest.mark.parametrize("mode", [0o644, 0o000])
def test_what_cannot_be_executed_is_no_command(layout: Layout, path: Path, mode: int) -> None:
    command(path, "git", ELF, mode=mode)
    install(layout, "git")
    assert not held(sync(layout))


def test_a_directory_on_the_path_is_no_command(layout: Layout, path: Path) -> None:
    (path / "git").mkdir()
    install(layout, "git")
    assert not held(sync(layout))


@pytest.mark.parametrize("value", ["", ":", ".", "relative", "/none", "/none::relative:."])
def test_odd_search_paths(layout: Layout, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("PATH", value)
    install(layout, "git")
    assert not held(sync(layout))


def test_no_search_path_at_all(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PATH")
    install(layout, "git")
    assert not held(sync(layout))


def test_the_activated_box_does_not_shadow_itself(layout: Layout, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{layout.bin}:{path}")
    install(layout, "tool")
    sync(layout)
    assert sync(layout) == Synced((), (), ())
    assert "tool" in launchers(layout)


def test_an_activated_box_does_not_hide_what_it_shadows(
    layout: Layout, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{layout.bin}:{path}")
    command(path, "git", ELF)
    install(layout, "git")
    assert "git" in held(sync(layout))


def test_the_first_command_on_the_path_decides(tmp_path: Path) -> None:
    command(tmp_path / "a", "tool", PYTHON)
    command(tmp_path / "b", "tool", ELF)
    search = [str(tmp_path / "a"), str(tmp_path / "b")]
    assert find_shadowed("tool", search, tmp_path) is None
    assert find_shadowed("tool", search[::-1], tmp_path) == tmp_path / "b" / "tool"


FIND_SHADOWED = """
import sys
from pathlib import Path
from vsbox.box.sync import find_shadowed
print(find_shadowed("git", [sys.argv[1]], Path("/nonexistent")))
"""


@pytest.mark.parametrize("person", ["user"], indirect=True)
def test_a_command_that_cannot_be_read_is_the_users(person: Person, place: Path) -> None:
    """Root would read it all the same."""
    find = [sys.executable, "-c", FIND_SHADOWED, str(place)]
    made = command(place, "git", PYTHON, mode=0o111)
    assert person.run(find).stdout == f"{made}\n"
    made.chmod(0o755)
    assert person.run(find).stdout == "None\n"
