"""A developer's day with a wrapped environment: their own project, their own habits, and no trace afterwards."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from compat.tools_project import FILES, Tools, make_plain_project
from harness import VSBOX
from integration.wrapped import differences, tree

if TYPE_CHECKING:
    from harness import Person

pytestmark = [pytest.mark.index, pytest.mark.slow]

BEFORE = ("pytest", "ruff", "numpy")
"""What is installed, as ever, before anybody thinks of a sandbox."""


@pytest.fixture
def project(person: Person) -> Iterator[Tools]:
    made = make_plain_project(person, FILES)
    done = made.outside(made.bin / "python", "-m", "ensurepip", "--default-pip")
    assert done.returncode == 0, done.stderr
    made.good("pip", "install", "-q", "-e", ".", *BEFORE)
    yield made
    shutil.rmtree(made.root, ignore_errors=True)


def status(project: Tools) -> str:
    """Return what git says has changed."""
    return project.outside("git", "status", "--porcelain").stdout


def change_a_source(project: Tools) -> Path:
    source = project.root / "src" / "demo" / "__init__.py"
    project.write("src/demo/__init__.py", source.read_text().replace("n * 2", "n + n"))
    return source


@pytest.mark.parametrize(("person", "backend"), [("user", "native"), ("root", "bubblewrap")], indirect=["person"])
def test_a_day(project: Tools, backend: str) -> None:
    before = tree(project.root / ".venv")
    project.vsbox("wrap", "-q", "--backend", backend)
    assert status(project) == ""

    assert "2 passed" in project.good("pytest", "-q")
    assert project.good("ruff", "check", "src", "tests") == "All checks passed!\n"
    assert project.good("demo") == "demo 42\n"
    numbers = "import numpy as np; print(np.linalg.inv(np.eye(3) * 2)[0, 0], np.arange(1e6).sum())"
    assert project.good("python", "-c", numbers) == "0.5 499999500000.0\n"
    assert status(project) == ""

    source = change_a_source(project)
    project.write("tests/test_more.py", "from demo import double\n\n\ndef test_three():\n    assert double(3)==6\n")
    assert "3 passed" in project.good("pytest", "-q")
    assert project.good("ruff", "format", "tests").startswith("1 file reformatted")
    assert "double(3) == 6" in (project.root / "tests" / "test_more.py").read_text()
    assert status(project).split() == ["M", str(source.relative_to(project.root)), "??", "tests/test_more.py"]
    assert project.outside("git", "add", "-A").returncode == 0
    assert project.outside("git", "commit", "-qm", "more").returncode == 0
    assert status(project) == ""

    project.good("pip", "install", "-q", "idna")
    assert project.good("python", "-c", "import idna; print(idna.encode('a').decode())") == "a\n"
    project.good("pip", "uninstall", "-qy", "idna")
    assert status(project) == ""

    done = project.outside(*VSBOX, "unwrap")
    assert done.returncode == 0, done.stderr
    assert differences(before, tree(project.root / ".venv")) == {}
    assert status(project) == ""
    assert "3 passed" in project.good("pytest", "-q")
