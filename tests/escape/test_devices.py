"""The devices that code inside is shown are the host's: it uses them, and changes nothing about them."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness import BACKENDS, PLAIN, ROOT_BY_BWRAP, Box, Person, lacking

CHANGES = """
import json, os, stat
def outcome(action):
    try:
        action()
    except OSError as error:
        return os.strerror(error.errno)
    return "done"
def changes(target, status):
    times = (status.st_atime_ns, status.st_mtime_ns)
    return {
        "mode": outcome(lambda: os.chmod(target, stat.S_IMODE(status.st_mode))),
        "owner": outcome(lambda: os.chown(target, status.st_uid, status.st_gid)),
        "times": outcome(lambda: os.utime(target, ns=times)),
    }
paths = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"]
found = {path: changes(path, os.stat(path)) for path in paths}
found["stream"] = changes(0, os.fstat(0))
found["use"] = {
    "null": outcome(lambda: open("/dev/null", "w").close()), "zero": outcome(lambda: open("/dev/zero", "rb").read(1)),
    "stream": outcome(lambda: os.write(0, b"written")),
}
print(json.dumps(found))
"""
USED = {"null": "done", "zero": "done", "stream": "done"}


def changed(found: dict[str, dict[str, str]]) -> set[str]:
    """Return the devices of which something could be set, to what it was."""
    return {name for name, answers in found.items() if name != "use" and "done" in answers.values()}


@pytest.fixture(params=["null", "terminal"])
def stream(request: pytest.FixtureRequest, person: Person) -> Iterator[int]:
    """A device of this person's, as a standard stream."""
    if request.param == "null":
        descriptors = [os.open("/dev/null", os.O_RDWR)]
    else:
        *descriptors, terminal = os.openpty()
        os.fchown(terminal, person.uid, person.gid)
        descriptors.insert(0, terminal)
    yield descriptors[0]
    for descriptor in descriptors:
        os.close(descriptor)


def found_by(person: Person, python: str, stream: int) -> dict[str, dict[str, str]]:
    pipes = {"stdin": stream, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    out, err = person.popen([python, "-c", CHANGES], **pipes).communicate(timeout=60)
    assert err == ""
    return dict(json.loads(out))


def test_without_a_box_their_owner_may_change_them(person: Person, stream: int) -> None:
    """The control."""
    found = found_by(person, PLAIN, stream)
    assert ("/dev/full" in changed(found)) == (person.uid == 0)
    assert "stream" in changed(found) or (person.uid and not os.isatty(stream))


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_a_box_changes_none(person: Person, box: Box, stream: int) -> None:
    found = found_by(person, str(box.bin / "python"), stream)
    assert changed(found) == set()
    assert found["use"] == USED


USES = """
import json, os, sys
def outcome(flags):
    try:
        os.close(os.open(sys.argv[1], flags))
    except OSError as error:
        return os.strerror(error.errno)
    return "done"
print(json.dumps([outcome(os.O_RDONLY), outcome(os.O_WRONLY)]))
"""


@pytest.mark.parametrize("backend", [*BACKENDS, ROOT_BY_BWRAP])
def test_one_that_is_granted_for_reading_is_not_written(
    person: Person, backend: str, make_box: Callable[..., Box], place: Path
) -> None:
    """A mount that is read-only does not keep from it."""
    if os.geteuid() != 0:
        lacking("root", "to make a device takes root")
    device = place / "null"
    os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    device.chmod(0o666)
    box = make_box(person, backend, "--no-pip", "--allow-read", str(device), fresh=True)
    outside, inside = (person.run([str(p), "-c", USES, str(device)]) for p in (PLAIN, box.bin / "python"))
    assert (json.loads(outside.stdout), json.loads(inside.stdout)) == (["done"] * 2, ["done", "Permission denied"])


@pytest.mark.parametrize("backend", ["native", "landlock"])
@pytest.mark.parametrize("person", ["root", "user"], indirect=True)
def test_a_run_changes_none(person: Person, backend: str) -> None:
    code = f"import sys, vsbox; print(vsbox.run(sys.argv[1], backend={backend!r}).stdout, end='')"
    done = person.run([sys.executable, "-c", code, CHANGES])
    assert changed(json.loads(done.stdout)) == set(), done.stderr
