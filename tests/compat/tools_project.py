"""A project as people have them: git, a src layout, an environment that is wrapped, tools installed into it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import PLAIN, VSBOX, lacking

if TYPE_CHECKING:
    from harness import Person

OPTIONS = ("index-url", "extra-index-url", "find-links", "cert", "trusted-host")
FILES = {
    ".gitignore": ".venv/\n*.egg-info/\n__pycache__/\n.*_cache/\n.coverage\n",
    "pyproject.toml": (
        '[project]\nname = "demo"\nversion = "1"\n[project.scripts]\ndemo = "demo:main"\n'
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
    ),
    "src/demo/__init__.py": (
        "def double(n: int) -> int:\n    return n * 2\n\n\ndef main() -> None:\n    print('demo', double(21))\n"
    ),
    "tests/test_demo.py": (
        "from demo import double\n\n\ndef test_two():\n    assert double(1) == 2\n\n\n"
        "def test_nothing():\n    assert double(0) == 0\n"
    ),
}
# Run by the person: files, a repository with one commit, an environment.
MAKE = r"""
import json, pathlib, subprocess, sys
for name, text in json.loads(sys.argv[1]).items():
    path = pathlib.Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
for words in ("init -q .", "config user.name you", "config user.email you@localhost", "add -A", "commit -qm first"):
    subprocess.run(["git", *words.split()], check=True)
subprocess.run([sys.executable, "-m", "venv", "--without-pip", ".venv"], check=True)
"""


def index_settings() -> dict[str, str]:
    """Return the pip settings of whoever runs the tests as variables, so that others use the same index."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    pairs = (line.partition("=") for line in listed.splitlines() if line.startswith("global."))
    settings = {name.rpartition(".")[2]: value.strip("'") for name, _, value in pairs}
    found = {f"PIP_{name.upper().replace('-', '_')}": settings[name] for name in OPTIONS if name in settings}
    return found | {name: value for name, value in os.environ.items() if name.startswith("PIP_")}


@dataclass(frozen=True)
class Tools:
    """A wrapped project and the person it belongs to."""

    root: Path
    person: Person
    backend: str

    @property
    def bin(self) -> Path:
        return self.root / ".venv" / "bin"

    @property
    def python(self) -> str:
        return str(self.bin / "python")

    @property
    def home(self) -> Path:
        return self.root / ".venv" / "home"

    @property
    def site(self) -> Path:
        (found,) = (self.root / ".venv" / "inside" / "lib").glob("python3*/site-packages")
        return found

    @property
    def environment(self) -> dict[str, str]:
        """Variables for every command: the index, so that plans do not change, and nothing written by mistake."""
        return self.person.environment | index_settings() | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"}

    def outside(self, *argv: object, **options: object) -> subprocess.CompletedProcess[str]:
        """Run a command as people do beside a box: git, a shell."""
        given = {"cwd": self.root, "env": self.environment} | options
        return self.person.run([str(word) for word in argv], **given)  # type: ignore[arg-type]

    def run(self, name: str, *arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
        """Run a command of the environment, confined."""
        return self.outside(self.bin / name, *arguments, **options)

    def good(self, name: str, *arguments: object, **options: object) -> str:
        """Run a command of the environment that must succeed; return what it prints."""
        done = self.run(name, *arguments, **options)
        assert done.returncode == 0, f"{name} {arguments}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def vsbox(self, command: str, *arguments: object) -> None:
        done = self.outside(*VSBOX, command, *arguments)
        assert done.returncode == 0, done.stderr

    def write(self, name: str, text: str, *, mode: int = 0o644) -> Path:
        return self.person.write(self.root / name, text, mode=mode)

    def policy(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.root / ".venv" / "sandbox" / "sandbox.json").read_text())
        return found

    def change_policy(self, **keys: object) -> None:
        """Edit sandbox.json as its owner does."""
        (self.root / ".venv" / "sandbox" / "sandbox.json").write_text(json.dumps(self.policy() | keys))


def settings_without_namespaces(tools: Tools) -> dict[str, object]:
    """Return what docs/how-to/tools-and-editors.md says a project needs in sandbox.json in the Landlock-only tier."""
    places = {"PYTEST_ADDOPTS": f"-o cache_dir={tools.home}/.cache/pytest"}
    return {"environment": {"set": places}, "allow_degraded": ["shared-memory"]}


def make_plain_project(person: Person, files: dict[str, str], backend: str = "") -> Tools:
    """Make a project with an environment as anybody has them."""
    tools = Tools(person.directory("tools"), person, backend)
    made = tools.outside(PLAIN, "-c", MAKE, json.dumps(files))
    assert made.returncode == 0, made.stderr
    return tools


def make_project(person: Person, backend: str, packages: tuple[str, ...]) -> Tools:
    """Make a project, wrap its environment, install the project itself and packages."""
    tools = make_plain_project(person, FILES, backend)
    wrapped = tools.outside(*VSBOX, "wrap", "-q", "--backend", backend)
    if wrapped.returncode and backend == "bubblewrap" and not Path("/usr/bin/bwrap").exists():
        lacking("bubblewrap", "bubblewrap is not installed")
    assert wrapped.returncode == 0, wrapped.stderr
    if backend == "landlock":
        tools.change_policy(**settings_without_namespaces(tools))
    done = tools.run("python", "-m", "pip", "install", "-q", "--no-compile", "-e", ".", *packages)
    if done.returncode and tools.outside(PLAIN, "-m", "pip", "download", "-q", "-d", tools.home, "idna").returncode:
        lacking("index", f"cannot reach a package index: {done.stderr.strip()[-200:]}")
    assert done.returncode == 0, done.stderr
    return tools
