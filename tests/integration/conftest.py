"""Boxes that a test may break, and tools for a person."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness import lacking

if TYPE_CHECKING:
    from harness import Box, Person


@pytest.fixture
def own_box(person: Person, backend: str, make_box: Callable[..., Box]) -> Iterator[Box]:
    """A box that the test may break."""
    box = make_box(person, backend, "--no-pip", fresh=True)
    yield box
    shutil.rmtree(box.root.parent, ignore_errors=True)


@pytest.fixture
def mended_box(person: Person, backend: str, make_box: Callable[..., Box]) -> Iterator[Box]:
    """A box whose policy and plan the test may break; it gets them back."""
    box = make_box(person, backend, "--no-pip", "--mode", "enforce")
    files = [box.root / "sandbox" / name for name in ("sandbox.json", "plan")]
    before = [path.read_bytes() for path in files]
    yield box
    for path, content in zip(files, before, strict=True):
        if path.read_bytes() != content:
            path.write_bytes(content)


@pytest.fixture
def plain_box(person: Person, make_box: Callable[..., Box]) -> Iterator[Box]:
    """A box that the test may break, in one tier only: what is tested does not differ."""
    box = make_box(person, "native", "--no-pip", fresh=True)
    yield box
    shutil.rmtree(box.root.parent, ignore_errors=True)


@pytest.fixture(scope="module")
def uv(person: Person) -> Iterator[Path]:
    """The program uv, installed for this person."""
    place = person.directory("uv")
    done = person.run([sys.executable, "-m", "pip", "install", "-q", "--target", str(place), "uv"])
    if done.returncode:
        lacking("index", f"uv cannot be installed: {done.stderr}")
    yield place / "bin" / "uv"
    shutil.rmtree(place, ignore_errors=True)
