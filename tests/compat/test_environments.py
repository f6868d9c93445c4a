"""Environments inside of boxes, and boxes on every interpreter that this machine has."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from compat_environments import run_until

from harness import PLAIN, lacking

if TYPE_CHECKING:
    from harness import Box, Person

VERSIONS = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
MINORS = ("3.8", "3.9", "3.10", "3.11", "3.12", "3.13", "3.14")
SECONDS = 60


def minor_of(python: Path) -> str:
    """Return the version that an interpreter's own name tells, as ``3.11``."""
    return python.resolve().name.removeprefix("python")


def find_interpreters() -> Iterator[tuple[str, Path]]:
    """Return who may run which interpreter of this machine: what is below the home of root is root's only."""
    for path in sorted({PLAIN, os.path.realpath("/usr/bin/python3")}):
        if minor_of(Path(path)) in MINORS and os.access(path, os.X_OK):
            yield from (("root", Path(path)), ("user", Path(path)))
    for minor in MINORS if os.access(VERSIONS, os.R_OK | os.X_OK) else ():
        for path in sorted(VERSIONS.glob(f"{minor}.*/bin/python"))[-1:]:
            yield "root" if os.geteuid() == 0 else "user", path


each_interpreter = pytest.mark.parametrize(("person", "python"), [*find_interpreters()], indirect=["person"], ids=str)


def test_pip_answers(box: Box) -> None:
    module = box.exec("python", "-m", "pip", "--version")
    command = box.person.run([str(box.bin / "pip"), "--version"])
    assert re.match(rf"pip [\d.]+ from {re.escape(str(box.root))}/", module.stdout)
    assert command.stdout == module.stdout
    listed = box.person.run([str(box.bin / "pip"), "list", "--format=freeze"])
    assert "pip==" in listed.stdout
    assert (module.stderr, command.stderr, listed.stderr) == ("", "", "")
    assert box.person.run([str(box.bin / "pip"), "check"]).returncode == 0


MAKE_AND_USE_VENV = """
import os, subprocess, sys, tempfile
home = tempfile.mkdtemp(dir=os.path.expanduser("~")) + "/nested"
subprocess.run([sys.executable, "-m", "venv", *sys.argv[1:], home], check=True)
shown = subprocess.check_output([home + "/bin/python", "-c", "import sys; print(sys.prefix)"], text=True)
assert shown.strip() == home, shown
line = f". {home}/bin/activate && python -c 'import sys; print(sys.prefix)'"
script = subprocess.check_output(line, shell=True, text=True)
assert script.strip() == home, script
if not sys.argv[1:]:
    subprocess.run([home + "/bin/pip", "--version"], check=True, stdout=2)
print("ok")
"""


@pytest.mark.parametrize("options", [("--without-pip",), ("--without-pip", "--copies"), ("--without-pip", "--clear")])
def test_venv_inside_works(box: Box, options: tuple[str, ...]) -> None:
    done = box.python(MAKE_AND_USE_VENV, *options, timeout=SECONDS)
    assert (done.stdout, done.stderr) == ("ok\n", "")


def test_venv_inside_with_pip_works(box: Box) -> None:
    try:
        import ensurepip  # noqa: F401
    except ImportError:
        lacking("python", "this Python was packaged without ensurepip")
    done = box.python(MAKE_AND_USE_VENV, timeout=SECONDS)
    assert done.stdout == "ok\n", done.stderr


def _check_core(box: Box, version: str) -> None:
    shown = box.python("import sys; print('%d.%d' % sys.version_info[:2], sys.prefix)")
    assert shown.stdout.split() == [version, shown.stdout.split()[1]], shown.stderr
    assert shown.stdout.split()[1] in {str(box.root), str(box.root / "inside")}
    for name in ("pip", "pip3", f"pip{version}", "python", "python3", f"python{version}"):
        launcher = box.bin / name
        assert stat.S_ISREG(launcher.lstat().st_mode)
        assert launcher.samefile(box.root / "sandbox" / "exec")
        done = box.person.run([str(launcher), "--version"])
        assert done.returncode == 0, (name, done.stderr)
    works = "import ssl, sqlite3, ctypes, zlib, bz2, lzma, asyncio; print('ok')"
    assert box.python(works).stdout == "ok\n"


@each_interpreter
def test_interpreter_by_path(python: Path, person: Person, backend: str, make_box: Callable[..., Box]) -> None:
    _check_core(make_box(person, backend, "-p", str(python)), minor_of(python))


@each_interpreter
def test_interpreter_by_version(python: Path, person: Person, make_box: Callable[..., Box]) -> None:
    """Any interpreter of that version: which one is virtualenv's choice."""
    _check_core(make_box(person, "native", "-p", minor_of(python)), minor_of(python))


def test_interpreter_behind_a_link(person: Person, backend: str, place: Path, make_box: Callable[..., Box]) -> None:
    """As uv, pyenv and conda make them: below the home directory, reached through links."""
    (place / "alias").symlink_to(PLAIN)
    _check_core(make_box(person, backend, "-p", str(place / "alias"), fresh=True), minor_of(Path(PLAIN)))


def test_without_pip_there_is_none(person: Person, backend: str, make_box: Callable[..., Box]) -> None:
    box = make_box(person, backend, "--no-pip")
    assert not (box.bin / "pip").exists()
    assert box.exec("python", "-m", "pip").returncode == 1


def test_commands_are_found_in_the_box_first(box: Box) -> None:
    code = "import os, shutil; print(shutil.which('python'), os.environ['PATH'].split(':')[0])"
    found, first = box.python(code).stdout.split()
    assert Path(found).parent == Path(first)
    assert Path(first).parent in {box.root, box.root / "inside"}
    done = run_until(SECONDS, box.person, [str(box.root / "sandbox" / "exec"), "sh", "-c", "command -v python"])
    assert done.stdout.strip() == found
