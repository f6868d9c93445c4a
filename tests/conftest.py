"""Boxes for every test: as root and as an ordinary user, with namespaces and with Landlock alone."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import BACKENDS, TEST_USER, Box, Person, lacking


def _make_user() -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(TEST_USER)
    except KeyError:
        subprocess.run(["useradd", "--create-home", TEST_USER], check=False, capture_output=True)
    try:
        return pwd.getpwnam(TEST_USER)
    except KeyError:
        return None


def _can_run_vsbox(person: Person) -> bool:
    return person.vsbox("--version").returncode == 0


@pytest.fixture(scope="session", params=["root", "user"])
def person(request: pytest.FixtureRequest) -> Person:
    """Root (where the tests run as root) and an ordinary user."""
    if request.param == "root":
        if os.geteuid() != 0:
            lacking("root", "the tests do not run as root")
        entry = pwd.getpwuid(0)
    elif os.geteuid() != 0:
        entry = pwd.getpwuid(os.geteuid())
    else:
        made = _make_user()
        if made is None:
            lacking("user", f"cannot make the user {TEST_USER}")
        assert made is not None
        entry = made
    who = Person(entry.pw_name, entry.pw_uid, entry.pw_gid, Path(entry.pw_dir))
    place = who.home / "t"
    place.mkdir(exist_ok=True)
    if who.uid != os.geteuid():
        os.chown(place, who.uid, who.gid)
    if not _can_run_vsbox(who):
        lacking("user", f"{sys.executable} and vsbox cannot be read by {who.name}: install both outside of /root")
    return who


@pytest.fixture(scope="session")
def make_box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """A function that makes a box for a person: ``make_box(person, backend, *options)``. Shared by equal calls."""
    made: dict[tuple[object, ...], Box] = {}
    places: list[Path] = []

    def make(person: Person, backend: str, *options: str, fresh: bool = False) -> Box:
        key = (person.uid, backend, options)
        if key in made and not fresh:
            return made[key]
        place = person.directory("box")
        places.append(place)
        root = place / "env"
        answer = person.vsbox("-q", "--backend", backend, *options, root)
        if answer.returncode:
            pytest.fail(f"cannot make a box: {answer.stderr}")
        box = Box(root, person, backend, options)
        if not fresh:
            made[key] = box
        return box

    yield make
    for place in places:
        shutil.rmtree(place, ignore_errors=True)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """Each tier."""
    return str(request.param)


@pytest.fixture
def box(person: Person, backend: str, make_box) -> Box:  # type: ignore[no-untyped-def]
    """A box with default policy, shared by tests that do not change it."""
    return make_box(person, backend)
