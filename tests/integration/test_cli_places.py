"""A box that was moved or copied, and odd working directories and scripts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cli_answers import refused

if TYPE_CHECKING:
    from harness import Box, Person


def test_a_moved_box_says_so(own_box: Box) -> None:
    moved = own_box.root.with_name("moved")
    own_box.root.rename(moved)
    said = refused(own_box.person.run([str(moved / "bin" / "python"), "-c", "print(1)"]), 125, str(own_box.root))
    assert "move it back" in said
    moved.rename(own_box.root)
    assert own_box.python("print(1)").stdout == "1\n"


@pytest.mark.parametrize("links", [True, False])
def test_a_copied_box_says_so(links: bool, own_box: Box) -> None:
    copied = own_box.root.with_name("copied")
    own_box.person.run(["cp", "-a" if links else "-r", str(own_box.root), str(copied)], check=True)
    refused(own_box.person.run([str(copied / "bin" / "python"), "-c", "print(1)"]), 125, str(own_box.root))
    assert own_box.python("print(1)").stdout == "1\n"


def test_a_launcher_elsewhere_is_no_way_in(mended_box: Box, place: Path) -> None:
    mended_box.person.run(["cp", str(mended_box.bin / "python"), str(place / "python")], check=True)
    done = mended_box.person.run([str(place / "python"), "-c", "print(1)"])
    assert done.returncode == 125
    assert done.stdout == ""
    assert done.stderr.startswith("vsbox: ")


def test_a_box_behind_a_link_is_the_box(mended_box: Box, place: Path) -> None:
    (place / "link").symlink_to(mended_box.root)
    (place / "x").symlink_to(mended_box.bin / "python")
    for command in (place / "link/bin/python", place / "x"):
        shown = mended_box.person.run([str(command), "-c", "import sys; print(sys.prefix)"])
        assert shown.stdout.startswith(str(mended_box.root))


def test_a_directory_as_a_stream_is_refused(mended_box: Box) -> None:
    for redirection in ("< /", "3< / <&3"):
        line = f'"$0" -c "print(1)" {redirection}'
        done = mended_box.person.run(["bash", "-c", line, str(mended_box.bin / "python")])
        refused(done, 125, "directory")


@pytest.mark.parametrize("name", ["two words", "new\nline", "quote'\"", "caf\udce9", "$x", "-dash"])
def test_working_directories_and_scripts_with_odd_names(name: str, box: Box, place: Path) -> None:
    directory = place / name
    box.person.run(["mkdir", "--", str(directory)])
    code = "import os, sys; print(ascii(os.getcwd()), ascii(sys.argv[0]))"
    script = box.person.write(directory / f"{name}.py", code)
    run = str(box.bin / "python")
    for cwd, given in ((directory, f"./{script.name}"), (directory, str(script)), (box.person.home, str(script))):
        done = box.person.run([run, given], cwd=cwd)
        assert (done.stdout, done.stderr) == (f"{str(cwd)!a} {given!a}\n", "")


def test_a_working_directory_that_is_gone(box: Box, place: Path) -> None:
    command = 'mkdir gone && cd gone && rmdir ../gone && "$0" -c "print(1)"'
    done = box.person.run(["bash", "-c", command, str(box.bin / "python")], cwd=place)
    assert (done.returncode, done.stdout) == (0, "1\n")


def test_the_launcher_without_arguments_or_box_refuses(person: Person) -> None:
    import vsbox

    launcher = Path(vsbox.__file__).parent / "launch" / "vsbox-launcher"
    done = person.run([str(launcher)])
    assert done.returncode in (2, 125)
    assert done.stderr
