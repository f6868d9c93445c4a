"""Boxes for every test: as root and as an ordinary user, with namespaces and with Landlock alone.

``VSBOX_MUST_WORK`` (names separated by commas: namespaces, landlock, seccomp, user, shells, index)
turns a skip for want of that thing into a failure.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

VSBOX = [sys.executable, "-m", "vsbox"]
TEST_USER = "vsbox-test"
BACKENDS = ("native", "landlock")
MUST_WORK = frozenset(filter(None, os.environ.get("VSBOX_MUST_WORK", "").split(",")))
PASSED = ("PATH", "LANG", "PIP_", "SSL_CERT", "REQUESTS_CA_BUNDLE", "http_proxy", "https_proxy", "no_proxy")


def lacking(what: str, reason: str) -> None:
    """Skip for want of ``what``, or fail where it must work."""
    if what in MUST_WORK:
        pytest.fail(f"{what} must work here: {reason}")
    pytest.skip(reason)


@dataclass(frozen=True)
class Person:
    """Who runs vsbox: root, or a user with nothing special."""

    name: str
    uid: int
    gid: int
    home: Path

    @property
    def environment(self) -> dict[str, str]:
        passed = {k: v for k, v in os.environ.items() if k.startswith(PASSED)}
        return passed | {"HOME": str(self.home), "USER": self.name, "TERM": "xterm"}

    @property
    def credentials(self) -> dict[str, object]:
        """What subprocess needs to become this person."""
        if self.uid == os.geteuid():
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def popen(self, argv: list[str], **options: object) -> subprocess.Popen[str]:
        given = {"text": True, "errors": "surrogateescape", "cwd": self.home, "env": self.environment}
        return subprocess.Popen([os.fspath(a) for a in argv], **(given | self.credentials | options))  # type: ignore[call-overload]

    def run(self, argv: list[str], *, check: bool = False, **options: object) -> subprocess.CompletedProcess[str]:
        """Run a command as this person; output is captured, standard input is empty."""
        given = {
            "stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE,
            "text": True, "errors": "surrogateescape", "timeout": 300, "cwd": self.home, "env": self.environment,
        }  # fmt: skip
        if "input" in options:
            del given["stdin"]
        done = subprocess.run([os.fspath(a) for a in argv], check=False, **(given | self.credentials | options))  # type: ignore[call-overload]
        if check and done.returncode:
            pytest.fail(f"{argv} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def vsbox(self, *arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
        """Run the command line as this person."""
        return self.run([*VSBOX, *map(str, arguments)], **options)

    def directory(self, name: str = "d") -> Path:
        """Return a new directory of this person's, below their home and outside of /tmp."""
        path = Path(tempfile.mkdtemp(prefix=f"{name}-{os.getpid()}-", dir=self.home / "t"))
        if self.uid != os.geteuid():
            os.chown(path, self.uid, self.gid)
        return path

    def write(self, path: Path, text: str, *, mode: int = 0o644) -> Path:
        """Write a file that belongs to this person."""
        path.write_text(text)
        path.chmod(mode)
        if self.uid != os.geteuid():
            os.chown(path, self.uid, self.gid)
        return path


@dataclass(frozen=True)
class Box:
    """A box on disk and the person it belongs to."""

    root: Path
    person: Person
    backend: str
    options: tuple[str, ...] = field(default=())

    @property
    def bin(self) -> Path:
        return self.root / "bin"

    def python(self, code: str, *arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
        """Run Python code in the box."""
        return self.person.run([str(self.bin / "python"), "-c", code, *arguments], **options)

    def exec(self, *argv: str, **options: object) -> subprocess.CompletedProcess[str]:
        """Run any command in the box."""
        return self.person.run([str(self.root / "sandbox" / "exec"), *argv], **options)


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
