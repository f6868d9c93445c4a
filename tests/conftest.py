"""Boxes for every test: as root and as an ordinary user, with namespaces and with Landlock alone."""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness import BACKENDS, PLAIN, ROOT_BY_BWRAP, TEST_USER, Box, Person, lacking
from processes import find_processes
from terminal import Terminal


def pytest_configure() -> None:
    """Commands must not inherit what nohup, or the ``&`` of a script, ignores: a handler is reset by exec."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Machines that boot take minutes: first, so that no worker waits for them in the end."""
    items.sort(key=lambda item: item.get_closest_marker("vm") is None)


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
        by_bwrap = backend == ROOT_BY_BWRAP
        backend = "bubblewrap" if by_bwrap else backend
        answer = person.vsbox("-q", "--backend", backend, *options, root)
        if answer.returncode and backend == "bubblewrap" and not Path("/usr/bin/bwrap").exists():
            lacking("bubblewrap", "bubblewrap is not installed")
        if answer.returncode:
            pytest.fail(f"cannot make a box: {answer.stderr}")
        box = Box(root, person, backend, options)
        if by_bwrap:
            box.let_bwrap_make_the_root("/usr/bin/bwrap")
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


@pytest.fixture(params=["plain", *BACKENDS])
def tier(request: pytest.FixtureRequest) -> str:
    """Each tier, and ``plain`` for no box."""
    return str(request.param)


@pytest.fixture
def python(tier: str, person: Person, make_box: Callable[..., Box]) -> str:
    """The interpreter as a control, and that of a box in each tier."""
    return PLAIN if tier == "plain" else str(make_box(person, tier).bin / "python")


@pytest.fixture
def place(person: Person) -> Iterator[Path]:
    """A directory of this person's that no policy names."""
    made = person.directory("place")
    yield made
    subprocess.run(["chmod", "-R", "u+rwX", str(made)], check=False)
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def token() -> Iterator[str]:
    """A word for command lines, by which processes are found; whoever is left over is killed."""
    word = f"token-{secrets.token_hex(8)}"
    yield word
    for pid in find_processes(word):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def terminal(person: Person, place: Path) -> Iterator[Terminal]:
    """A person's bash in ``place``."""
    made = Terminal(person, place)
    yield made
    made.close()
