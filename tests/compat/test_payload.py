"""Law 10: Python keeps working. Each probe of payload.py, in a plain environment and in boxes."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import payload
import pytest
from compat_environments import activated, run_until

from harness import PLAIN

if TYPE_CHECKING:
    from harness import Box, Person

HERE = Path(__file__).parent
SECONDS = 30


@pytest.fixture(scope="session")
def plain(person: Person) -> Iterator[Path]:
    """The bin directory of an environment that virtualenv made, for this person."""
    root = person.directory("plain")
    command = [sys.executable, "-m", "virtualenv", "-q", "-p", PLAIN, str(root / "env")]
    person.run(command, check=True)
    yield root / "env" / "bin"
    shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(scope="session")
def program(person: Person) -> Iterator[Path]:
    """payload.py where this person may read it."""
    place = person.directory("payload")
    for name in ("payload.py", "localhost.pem"):
        person.write(place / name, (HERE / name).read_text())
    yield place / "payload.py"
    shutil.rmtree(place, ignore_errors=True)


def box_for(name: str, person: Person, backend: str, make_box: Callable[..., Box]) -> Box:
    if backend == "landlock" and name in payload.SHARED_MEMORY:
        return make_box(person, backend, "--allow-degraded", "shared-memory")
    return make_box(person, backend)


@pytest.mark.parametrize("name", payload.PROBES)
def test_control_works_in_a_plain_environment(name: str, person: Person, plain: Path, program: Path) -> None:
    command = [str(plain / "python"), str(program), name]
    done = run_until(SECONDS, person, command, env=activated(person, plain), cwd=program.parent)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ok\n", "")


@pytest.mark.parametrize("name", payload.PROBES)
def test_works_in_a_box(
    name: str, person: Person, backend: str, program: Path, make_box: Callable[..., Box]
) -> None:
    box = box_for(name, person, backend, make_box)
    done = run_until(SECONDS, person, [str(box.bin / "python"), str(program), name], cwd=program.parent)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ok\n", "")


@pytest.mark.parametrize("name", sorted(payload.SHARED_MEMORY))
def test_closed_shared_memory_is_a_plain_error(
    name: str, person: Person, program: Path, make_box: Callable[..., Box]
) -> None:
    box = make_box(person, "landlock")
    done = run_until(SECONDS, person, [str(box.bin / "python"), str(program), name], cwd=program.parent)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(("PermissionError: [Errno 13]", "vsbox.SandboxPermissionError: [Errno 13]"))


ABSTRACT = """
import socket
server, client = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
server.bind("\\0vsbox-compat")
server.listen()
client.connect(server.getsockname())
print("ok")
"""


def test_abstract_sockets_work_where_the_network_is_ours(person: Person, make_box: Callable[..., Box]) -> None:
    """With the host's network they are the host's as well, and refused before Landlock ABI 9."""
    assert make_box(person, "native", "--network", "none").python(ABSTRACT).stdout == "ok\n"


def test_abstract_sockets_without_namespaces_are_a_plain_error(person: Person, make_box: Callable[..., Box]) -> None:
    done = make_box(person, "landlock").python(ABSTRACT)
    assert done.stderr.splitlines()[-1].startswith(("ConnectionRefusedError", "PermissionError"))


CHILD_READS_PROC = """
import subprocess
done = subprocess.run(["head", "-n", "1", "/proc/self/status"], capture_output=True, text=True)
print(done.stdout.strip() or done.stderr.strip())
"""


@pytest.mark.parametrize(("backend", "word"), [("native", "Name:\thead"), ("landlock", "Permission denied")])
def test_children_and_their_own_proc(
    backend: str, word: str, person: Person, make_box: Callable[..., Box]
) -> None:
    """Landlock grants the first process its own directory of /proc; those of its children are not there yet."""
    assert word in make_box(person, backend).python(CHILD_READS_PROC).stdout
