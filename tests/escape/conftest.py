"""Canaries: what code inside must neither read nor change, and a process that must not be reached."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from escape_attacks import Attack
from project_attacks import Project, make_control, remove, shared

from harness import Person

HERE = Path(__file__).parent
RUNNER = (HERE / "escape_runner.py").read_text()
CANARY = (HERE / "escape_canary.py").read_text()
VICTIMS = (
    "victim", "victim-open", "victim-truncate", "victim-rename", "victim-replace", "victim-replaced", "victim-unlink",
    "victim-move", "victim-link", "victim-xattr",
)  # fmt: skip
KEY_NUMBERS = {"x86_64": (248, 250), "aarch64": (217, 219)}[os.uname().machine]

# Becomes the command after it took on what a careless caller hands over: a key, descriptors at 3 and at 600.
CARELESS = f"""
import ctypes, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
outside, mark, key_name, *argv = sys.argv[1:]
assert libc.syscall({KEY_NUMBERS[1]}, 1, None) > 0
assert libc.syscall({KEY_NUMBERS[0]}, b"user", key_name.encode(), mark.encode(), len(mark), -3) > 0
held = [os.open(outside, os.O_RDONLY), os.open(outside + "/secret", os.O_RDWR)]
sockets = [socket.socket(), socket.socket(socket.AF_UNIX)]
held += [sock.fileno() for sock in sockets]
for high, fd in zip((600, 601, 602, 603), held):
    os.dup2(fd, high)
for low, high in zip((3, 4, 5, 6), (600, 601, 602, 603)):
    os.dup2(high, low)
os.environ["AWS_SECRET_ACCESS_KEY"] = os.environ["GITHUB_TOKEN"] = os.environ["SSH_AUTH_SOCK"] = mark
os.environ["DBUS_SESSION_BUS_ADDRESS"] = mark
os.environ["LD_PRELOAD"] = "/nonexistent/" + mark
os.execv(argv[0], argv)
"""


@dataclass
class Canaries:
    """What lies outside of every box of one person."""

    person: object
    mark: str
    home_file: Path
    process: subprocess.Popen[str]
    facts: dict[str, object]
    socket_directory: Path
    made: list[Path] = field(default_factory=list)

    def directory(self) -> Path:
        """Return a new directory of files to attack."""
        place = self.person.directory("escape-outside")
        self.made.append(place)
        self.person.write(place / "secret", self.mark)
        for name in VICTIMS:
            self.person.write(place / name, self.mark)
        os.setxattr(place / "victim-xattr", "user.vsbox", b"x")
        self.person.write(place / "program", "#!/bin/sh\nexit 0\n", mode=0o755)
        (place / "victim-directory").mkdir()
        for name in ("stream.sock", "dgram.sock"):
            os.link(self.socket_directory / name, place / name)
        for path in (place, place / "victim-directory"):
            os.chown(path, self.person.uid, self.person.gid)
            path.chmod(0o755)
        return place

    def targets(self, outside: Path, own: Path) -> dict[str, object]:
        """Return the names that attacks use."""
        return self.facts | {
            "outside": str(outside), "secret": str(outside / "secret"), "victim": str(outside / "victim"),
            "own": str(own), "home": str(self.person.home), "home_file": str(self.home_file),
            "mark": self.mark, "key_name": f"vsbox-{self.mark}",
        }  # fmt: skip

    def signals(self) -> int:
        """Return how many signals reached the process outside so far."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def run(self, attacks: Iterable[Attack], outside: Path, own: Path, prefix: list[str], **options) -> dict[str, str]:
        """Run attacks by a command that takes Python code as its next argument; return how each ended."""
        table = json.dumps([(attack.name, attack.code) for attack in attacks])
        targets = self.targets(outside, own)
        argv = [sys.executable, "-c", CARELESS, outside, self.mark, targets["key_name"]]
        done = self.person.run([*argv, *prefix, RUNNER, table, json.dumps(targets)], timeout=120, **options)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture(scope="session", autouse=True)
def tidy(person) -> Iterator[None]:
    """Take away the directories that these tests made."""
    yield
    for path in (person.home / "t").glob(f"escape-*-{os.getpid()}-*"):
        shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def canaries(person, tidy) -> Iterator[Canaries]:
    mark = f"canary{secrets.token_hex(8)}"
    place = person.directory("escape-canary")
    process = person.popen(
        [sys.executable, "-c", CANARY, place, mark],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
        env=person.environment | {"CANARY_SECRET": mark},
    )  # fmt: skip
    facts = json.loads(process.stdout.readline())
    home_file = person.write(person.home / f".{mark}", mark)
    made = Canaries(person, mark, home_file, process, facts, place)
    yield made
    process.stdin.close()
    process.wait(timeout=20)
    home_file.unlink()
    for path in made.made:
        shutil.rmtree(path, ignore_errors=True)


# ---- projects; some tests have others under these names ----


@pytest.fixture(scope="module")
def projects() -> Iterator[dict[tuple[int, str], Project]]:
    """Projects by person and backend."""
    made: dict[tuple[int, str], Project] = {}
    yield made
    remove(made.values())


@pytest.fixture
def project(projects: dict[tuple[int, str], Project], person: Person, backend: str) -> Iterator[Project]:
    """A wrapped project that tests share, as new for each."""
    yield from shared(projects, person, backend)


@pytest.fixture
def control(projects: dict[tuple[int, str], Project], person: Person) -> Iterator[Project]:
    """The same project without a box."""
    yield from shared(projects, person, "plain")


@pytest.fixture
def fresh(person: Person) -> Iterator[Callable[[], Project]]:
    """A function that makes projects for one test alone, not wrapped yet."""
    made: list[Project] = []

    def make() -> Project:
        made.append(make_control(person))
        return made[-1]

    yield make
    remove(made)
