"""Real packages from the configured index: installed, used, upgraded and removed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness import lacking

if TYPE_CHECKING:
    from harness import Box, Person

pytestmark = [pytest.mark.index, pytest.mark.slow]

WHEELS = ("requests", "pandas", "pytest", "black", "ruff")
SDIST = "markupsafe"
with_packages = pytest.mark.parametrize(
    ("person", "installed"), [("user", "native"), ("user", "landlock"), ("root", "native")], indirect=True
)
OPTIONS = ("index-url", "extra-index-url", "find-links", "cert", "trusted-host")

PROGRAM = """
import http.server, json, os, threading
import pandas, requests

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps([{"city": c, "n": n} for c, n in (("A", 1), ("B", 2), ("A", 4))]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass

server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
session = requests.Session()
session.trust_env = False
rows = session.get("http://127.0.0.1:%d/" % server.server_port, timeout=10).json()
frame = pandas.DataFrame(rows).groupby("city").sum()
frame.to_csv(os.path.expanduser("~/out.csv"))
print(pandas.read_csv(os.path.expanduser("~/out.csv")).to_dict("list"))
"""


def _index_settings() -> dict[str, str]:
    """Return the settings of whoever runs the tests as variables, so that others use the same index."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    settings = {}
    for line in listed.stdout.splitlines():
        name, _, value = line.partition("=")
        option = name.rpartition(".")[2]
        if name.startswith("global.") and option in OPTIONS:
            settings[f"PIP_{option.upper().replace('-', '_')}"] = value.strip("'")
    return settings | {name: value for name, value in os.environ.items() if name.startswith("PIP_")}


class Installed:
    """A box with real packages, and the settings that its pip is called with."""

    def __init__(self, box: Box) -> None:
        self.box = box
        self.environment = box.person.environment | _index_settings()
        self.place = box.person.directory("work")

    def run(self, name: str, *arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
        options = {"cwd": self.place, "env": self.environment} | options
        return self.box.person.run([str(self.box.bin / name), *arguments], **options)

    def pip(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run("pip", *arguments, "--disable-pip-version-check", "-q")


def _reach_index(person: Person) -> None:
    place = person.directory("reach")
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(place), "idna"]
    done = person.run(command, env=person.environment | _index_settings())
    if done.returncode:
        lacking("index", f"cannot reach a package index: {done.stderr.strip()[-200:]}")


@pytest.fixture(scope="module")
def installed(request: pytest.FixtureRequest, make_box: Callable[..., Box], person: Person) -> Installed:
    """A box with the packages, in the tier that is asked for."""
    _reach_index(person)
    old = {key: os.environ.get(key) for key in _index_settings()}
    os.environ.update(_index_settings())
    try:
        made = Installed(make_box(person, request.param, "--mode", "enforce", fresh=True))
    finally:
        for key, value in old.items():
            os.environ.pop(key) if value is None else os.environ.__setitem__(key, value)
    done = made.pip("install", *WHEELS, SDIST, "--no-binary", SDIST)
    assert done.returncode == 0, done.stderr
    return made


@with_packages
def test_install_makes_launchers(installed: Installed) -> None:
    for name in ("pytest", "black", "ruff", "py.test"):
        assert (installed.box.bin / name).samefile(installed.box.root / "sandbox" / "exec"), name


@with_packages
def test_compiled_sdist_works(installed: Installed) -> None:
    code = "import markupsafe._speedups as s; print(s.__file__.endswith('.so'))"
    assert installed.run("python", "-c", code).stdout == "True\n"


@with_packages
def test_pytest_runs(installed: Installed) -> None:
    person = installed.box.person
    text = "def test_good(tmp_path):\n    (tmp_path / 'f').write_text('x')\n\ndef test_bad():\n    assert 1 == 2\n"
    person.write(installed.place / "test_small.py", text)
    done = installed.run("pytest", "-q", "test_small.py", "-p", "no:cacheprovider")
    assert done.returncode == 1
    assert "1 failed, 1 passed" in done.stdout


@with_packages
def test_black_and_ruff_run(installed: Installed) -> None:
    person = installed.box.person
    person.write(installed.place / "good.py", "x = 1\n")
    person.write(installed.place / "bad.py", "import os\nx  =  1\n")
    for command in (("black", "--check"), ("ruff", "check", "--no-cache")):
        assert installed.run(*command, "good.py").returncode == 0, command
        done = installed.run(*command, "bad.py")
        assert done.returncode == 1, (command, done.stderr)
        assert "bad.py" in done.stdout + done.stderr


@with_packages
def test_a_real_program_runs(installed: Installed) -> None:
    installed.box.person.write(installed.place / "prog.py", PROGRAM)
    done = installed.run("python", "prog.py")
    assert done.stdout == "{'city': ['A', 'B'], 'n': [5, 2]}\n", done.stderr


@with_packages
def test_files_of_the_owner_stay_out_of_reach(installed: Installed) -> None:
    """The program above can do its work; this is what it cannot do beside it."""
    secret = installed.box.person.write(installed.box.person.directory("secret") / "s", "secret")
    code = f"print(open({str(secret)!r}).read())"
    assert installed.box.person.run([sys.executable, "-c", code]).stdout == "secret\n"
    last = installed.run("python", "-c", code).stderr.splitlines()[-1]
    assert last.startswith(("vsbox.SandboxFileNotFoundError", "vsbox.SandboxPermissionError"))


@with_packages
def test_upgrade_runs_the_new_version_and_uninstall_removes(installed: Installed) -> None:
    for version in ("24.1.0", "24.2.0"):
        assert installed.pip("install", f"black=={version}").returncode == 0
        assert f"black, {version}" in installed.run("black", "--version").stdout
    assert installed.pip("uninstall", "-y", "black", "ruff").returncode == 0
    for name in ("black", "blackd", "ruff"):
        assert not os.path.lexists(installed.box.bin / name), name
    assert (installed.box.bin / "pytest").exists()


def test_an_editable_project_of_a_grant_installs(person: Person, make_box: Callable[..., Box]) -> None:
    _reach_index(person)
    place: Path = person.directory("project")
    person.write(place / "pyproject.toml", (
        '[project]\nname = "small"\nversion = "1"\n[project.scripts]\nsmall = "small:main"\n'
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
        '[tool.setuptools]\npy-modules = ["small"]\n'
    ))  # fmt: skip
    person.write(place / "small.py", "def main():\n    print('small')\n")
    made = Installed(make_box(person, "native", "--allow", str(place), fresh=True))
    done = made.run("pip", "install", "-q", "--disable-pip-version-check", "-e", str(place))
    assert done.returncode == 0, done.stderr
    assert made.run("small").stdout == "small\n"
