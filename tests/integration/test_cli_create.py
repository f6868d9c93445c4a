"""Making a box: where it may be, what it may be called, and what a creation leaves that does not reach its end."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cli_answers import SECONDS, VSBOX, names_in, refused

if TYPE_CHECKING:
    from harness import Box, Person


def test_create_says_where_and_how(person: Person, place: Path) -> None:
    done = person.vsbox("--no-pip", place / "env")
    assert done.returncode == 0
    assert str(place / "env") in done.stdout
    assert f"source {place}/env/bin/activate" in done.stdout
    assert done.stderr == ""
    assert names_in(place) == ["env"]


def test_create_by_name_and_relative(person: Person, place: Path) -> None:
    assert person.vsbox("create", "-q", "--no-pip", "env", cwd=place).returncode == 0
    assert person.run([str(place / "env/bin/python"), "-c", "print(1)"]).stdout == "1\n"


def test_create_makes_missing_parents(person: Person, place: Path) -> None:
    assert person.vsbox("-q", "--no-pip", place / "a" / "b" / "env").returncode == 0
    assert person.run([str(place / "a/b/env/bin/python"), "-c", "print(1)"]).stdout == "1\n"


def test_create_takes_an_empty_directory(person: Person, place: Path) -> None:
    person.run(["mkdir", str(place / "env")])
    assert person.vsbox("-q", "--no-pip", place / "env").returncode == 0
    assert (place / "env" / "bin" / "python").exists()


def test_create_leaves_a_full_directory_alone(person: Person, place: Path) -> None:
    person.run(["mkdir", str(place / "env")])
    person.write(place / "env" / "mine", "mine")
    for options in ((), ("--clear",)):
        refused(person.vsbox("-q", *options, place / "env"), 125, "not empty", str(place / "env"))
    assert names_in(place / "env") == ["mine"]


def test_create_refuses_a_file(person: Person, place: Path) -> None:
    person.write(place / "env", "mine")
    refused(person.vsbox("-q", place / "env"), 125, "not a directory")
    assert (place / "env").read_text() == "mine"


def test_create_refuses_a_second_time_and_clears_on_demand(person: Person, plain_box: Box) -> None:
    mark = plain_box.root / "home" / "mark"
    person.write(mark, "x")
    refused(person.vsbox("-q", plain_box.root), 125, "--clear")
    assert mark.exists()
    assert person.vsbox("-q", "--no-pip", "--clear", plain_box.root).returncode == 0
    assert not mark.exists()
    assert plain_box.python("print(1)").stdout == "1\n"


def test_clear_that_fails_keeps_the_old_box(person: Person, plain_box: Box) -> None:
    mark = plain_box.root / "home" / "mark"
    person.write(mark, "x")
    refused(person.vsbox("-q", "--clear", "-p", "3.99", plain_box.root), 125, "3.99")
    assert mark.exists()
    assert plain_box.python("print(1)").stdout == "1\n"
    assert names_in(plain_box.root.parent) == ["env"]


@pytest.mark.parametrize("python", ["3.99", "/nonexistent/python", "/etc/passwd"])
def test_create_without_such_an_interpreter(python: str, person: Person, place: Path) -> None:
    done = person.vsbox("-q", "--no-pip", "-p", python, place / "env")
    refused(done, 125, python, "-p 3.12")
    assert names_in(place) == []


def test_create_where_writing_is_not_allowed(person: Person) -> None:
    done = person.vsbox("-q", "--no-pip", "/proc/vsbox-test-env")
    refused(done, 125, "/proc/")


@pytest.mark.parametrize("person", ["user"], indirect=True)
def test_create_in_a_read_only_directory(person: Person, place: Path) -> None:
    place.chmod(0o555)
    refused(person.vsbox("-q", "--no-pip", place / "env"), 125, str(place), "ermission denied")
    assert names_in(place) == []


@pytest.mark.parametrize("directory", ["/", "~", "~/"])
def test_create_refuses_places_nobody_means(directory: str, person: Person) -> None:
    refused(person.vsbox("-q", directory), 2, "directory of its own")


HOME_PLACES = {"native": "{root}", "landlock": "{root}/inside"}
GOOD_NAMES = (
    "two words", "it's", "it's two", "é中", "a&b;c|d", "-dash", "#hash", "(paren)", "star*", "tilde~", "percent%s",
    "a" * 150,
)  # fmt: skip


@pytest.mark.parametrize(("name", "backend"), [*((name, "native") for name in GOOD_NAMES), ("it's two", "landlock")])
def test_boxes_with_odd_names_work(name: str, backend: str, person: Person, place: Path) -> None:
    root = place / name
    done = person.vsbox("-q", "--backend", backend, root)
    assert (done.returncode, done.stderr) == (0, "")
    shown = person.run([str(root / "bin" / "python"), "-c", "import sys; print(sys.prefix)"])
    assert shown.stdout == HOME_PLACES[backend].format(root=root) + "\n"
    pip = person.run([str(root / "bin" / "pip"), "--version"])
    assert (pip.returncode, pip.stderr) == (0, "")
    assert person.vsbox("exec", root, "--", "python", "-c", "print(1)").stdout == "1\n"


BAD_NAMES = ("new\nline", 'quote"', "dollar$", "back`tick", "colon:", "back\\slash", "caf\udce9", "\x7f")


@pytest.mark.parametrize("name", BAD_NAMES)
def test_boxes_with_names_that_scripts_cannot_carry_are_refused(name: str, person: Person, place: Path) -> None:
    said = refused(person.vsbox("-q", "--no-pip", place / name), 2, "choose a path")
    assert "\n".join(said.splitlines()[1:]).isprintable()
    assert names_in(place) == []


def test_create_without_home(person: Person, place: Path) -> None:
    environment = {k: v for k, v in person.environment.items() if k not in {"HOME", "USER"}}
    done = person.vsbox("-q", "--no-pip", place / "env", env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    shown = person.run([str(place / "env/bin/python"), "-c", "import os; print(os.environ['HOME'])"], env={})
    assert shown.stdout == f"{place}/env/home\n"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_create_with_closed_streams(closed: str, person: Person, place: Path) -> None:
    command = ["bash", "-c", f'"$@" {closed}', "bash", *VSBOX, "--no-pip", str(place / "env")]
    assert person.run(command).returncode == 0
    assert person.run([str(place / "env/bin/python"), "-c", "print(1)"]).stdout == "1\n"


# ---- a creation that does not reach its end ----


def _start_create(person: Person, root: Path) -> subprocess.Popen[str]:
    process = person.popen([*VSBOX, "-q", str(root)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    end = time.monotonic() + SECONDS
    while not any(root.parent.iterdir()):
        assert time.monotonic() < end
        assert process.poll() is None
        time.sleep(0.001)
    return process


@pytest.mark.parametrize("delay", [0, 0.1, 0.2])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_creation_leaves_nothing(number: int, delay: float, person: Person, place: Path) -> None:
    process = _start_create(person, place / "env")
    time.sleep(delay)
    process.send_signal(number)
    _, said = process.communicate(timeout=SECONDS)
    assert "Traceback" not in said
    if process.returncode == 0:
        pytest.skip("it was done before the signal came")
    assert process.returncode in (128 + number, -number), said
    assert names_in(place) == []


@pytest.mark.parametrize("delay", [0, 0.05, 0.2])
def test_a_killed_creation_stands_in_nobodys_way(delay: float, person: Person, place: Path) -> None:
    process = _start_create(person, place / "env")
    time.sleep(delay)
    process.kill()
    process.communicate()
    left = names_in(place)
    assert all(name == "env" or name.startswith(".vsbox-") for name in left), left
    done = person.vsbox("-q", *(["--clear"] if "env" in left else []), place / "env")
    assert (done.returncode, done.stderr) == (0, "")
    assert person.run([str(place / "env/bin/python"), "-c", "print(1)"]).stdout == "1\n"
    assert names_in(place) == ["env"]


FULL_DISK = """
mount -t tmpfs -o size=$2,mode=777 none "$1" || exit 99
shift 2
"$@"
echo "status $?"
ls -A "$OLDPWD"
"""


@pytest.mark.parametrize("size", ["64k", "512k", "2m", "6m"])
def test_a_full_disk_leaves_nothing(size: str, person: Person, place: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    disk = place / "disk"
    disk.mkdir()
    become = ["setpriv", f"--reuid={person.uid}", f"--regid={person.gid}", "--clear-groups"]
    command = ["unshare", "-m", "sh", "-c", FULL_DISK.replace("$OLDPWD", str(disk)), "sh", str(disk), size]
    made = subprocess.run(
        [*command, *become, *VSBOX, "-q", str(disk / "env")],
        capture_output=True, text=True, env=person.environment, cwd="/", timeout=SECONDS, check=False,
    )  # fmt: skip
    if made.returncode == 99:
        pytest.skip("mounting is not allowed here")
    assert made.stdout == "status 125\n", made.stderr
    assert "Traceback" not in made.stderr
    assert made.stderr.startswith("vsbox: ")
    assert "No space left" in made.stderr
