"""Interpreters below a home directory, as uv, pyenv and conda install them: visible, and nothing beside them is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness import Person, lacking

LAYOUTS = {
    "uv": (".local/share/uv/python/cpython-{v}-linux-x86_64-gnu", ".local/share/uv/python/cpython-alias"),
    "pyenv": (".pyenv/versions/{v}", None),
    "conda": ("miniconda3/envs/work", None),
}
REPORT = """
import json, os, sys, sysconfig, ssl, ctypes, sqlite3
print(json.dumps({"base": sys.base_prefix, "prefix": sys.prefix, "beside": os.path.exists(sys.argv[1])}))
"""


def base_python() -> Path:
    """Debian's Python, which runs from wherever its library lies beside it."""
    python = Path(os.path.realpath("/usr/bin/python3"))
    if not python.exists():
        lacking("python", "no /usr/bin/python3 to copy")
    return python


def plant_interpreter(home: Path, place: str) -> Path:
    python = base_python()
    prefix = home / place.format(v="3.11.99")
    (prefix / "bin").mkdir(parents=True)
    shutil.copy2(python, prefix / "bin" / python.name)
    (prefix / "bin" / "python3").symlink_to(python.name)
    ignore = shutil.ignore_patterns("test", "__pycache__", "dist-packages", "idlelib", "tkinter")
    shutil.copytree(f"/usr/lib/{python.name}", prefix / "lib" / python.name, symlinks=True, ignore=ignore)
    return prefix


@pytest.fixture(params=LAYOUTS)
def planted(request: pytest.FixtureRequest, person: Person):  # type: ignore[no-untyped-def]
    """A fake home below the person's own, an interpreter in it, and the name to ask for."""
    place, alias = LAYOUTS[request.param]
    home = person.directory("interp")
    prefix = plant_interpreter(home, place)
    asked = prefix
    if alias:
        asked = home / alias
        asked.symlink_to(prefix.name)
    (prefix.parent / "secret").write_text("canary")
    if person.uid != os.geteuid():
        subprocess.run(["chown", "-R", f"{person.uid}:{person.gid}", home], check=True)
    yield home, prefix, asked / "bin" / "python3"
    shutil.rmtree(home, ignore_errors=True)


def test_an_interpreter_below_the_home_runs_and_nothing_else_shows(person: Person, backend: str, planted) -> None:  # type: ignore[no-untyped-def]
    home, prefix, python = planted
    made = person.vsbox("-q", "--backend", backend, "-p", python, home / "env")
    assert made.returncode == 0, made.stderr
    answer = person.run([home / "env/bin/python", "-c", REPORT, prefix.parent / "secret"], cwd="/")
    assert answer.returncode == 0, answer.stderr
    report = json.loads(answer.stdout)
    assert report["base"] == str(prefix)
    assert report["prefix"].startswith(str(home / "env"))
    readable = person.run([home / "env/bin/python", "-c", f"open({str(prefix.parent / 'secret')!r})"], cwd="/")
    assert readable.returncode == 1
    assert "Error: [Errno" in readable.stderr
    control = person.run([sys.executable, "-c", f"open({str(prefix.parent / 'secret')!r})"], cwd="/")
    assert control.returncode == 0
    pip = person.run([home / "env/bin/pip", "--version"], cwd="/")
    assert pip.returncode == 0, pip.stderr


def test_a_missing_interpreter_is_named(person: Person) -> None:
    answer = person.vsbox("-p", "9.99", person.directory("none") / "env")
    assert answer.returncode == 125
    assert "9.99" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_vanished_interpreter_is_named(person: Person) -> None:
    home = person.directory("gone")
    prefix = plant_interpreter(home, "pythons/one")
    if person.uid != os.geteuid():
        subprocess.run(["chown", "-R", f"{person.uid}:{person.gid}", home], check=True)
    made = person.vsbox("-q", "-p", prefix / "bin/python3", home / "env")
    assert made.returncode == 0, made.stderr
    shutil.rmtree(prefix)
    answer = person.run([home / "env/bin/python", "-c", "pass"])
    assert answer.returncode == 125
    assert "is gone" in answer.stderr
    assert "vsbox --clear" in answer.stderr
