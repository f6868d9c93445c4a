"""A launcher started from inside, a box inside a box, and filters that payloads stack."""

from __future__ import annotations

import pytest

READ = "import sys; print(open(sys.argv[1]).read())"
FAKE_FILTER = """
import ctypes, os, struct, sys
root, secret = sys.argv[1:]
libc = ctypes.CDLL(None, use_errno=True)
number = {"x86_64": 157, "aarch64": 167}[os.uname().machine]
program = b"".join(struct.pack("HBBI", *i) for i in (
    (0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x50000 | 4004), (0x06, 0, 0, 0x7FFF0000)))
buffer = ctypes.create_string_buffer(program)
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
filter_ = Program(4, ctypes.addressof(buffer))
assert libc.prctl(38, 1, 0, 0, 0) == 0 or ctypes.get_errno()
assert libc.prctl(22, 2, ctypes.byref(filter_), 0, 0) == 0
os.execv(root + "/bin/python", [root + "/bin/python", "-c", "import sys; print(open(sys.argv[1]).read())", secret])
"""
START = """
import subprocess, sys
done = subprocess.run(sys.argv[1:], capture_output=True, text=True, timeout=30)
print(done.returncode, done.stdout, done.stderr)
"""


def test_own_launcher_from_inside_stays_confined(canaries, box):
    outside = canaries.directory()
    python = str(box.bin / "python")
    assert "42" in box.python(START, python, "-c", "print(6 * 7)").stdout
    for options in ([], ["-I", "-S", "-E"]):
        done = box.python(START, python, *options, "-c", READ, str(outside / "secret"))
        assert canaries.mark not in done.stdout
        assert "PermissionError" in done.stdout or "FileNotFoundError" in done.stdout


@pytest.fixture
def inner(person, backend, make_box):
    """A box that itself may read nothing special."""
    return make_box(person, backend)


@pytest.mark.parametrize("code", [None, FAKE_FILTER], ids=["plain", "faked probe"])
def test_a_box_inside_a_box(canaries, person, backend, make_box, inner, code):
    outside = canaries.directory()
    outer = make_box(person, backend, "--allow-read", str(inner.root))
    command = [str(inner.bin / "python"), "-c", READ, str(outside / "secret")]
    arguments = (START, *command) if code is None else (code, str(inner.root), str(outside / "secret"))
    done = outer.python(*arguments)
    assert canaries.mark not in done.stdout + done.stderr


def test_the_inner_box_of_another_grants_nothing_more(canaries, person, backend, make_box):
    """A launcher with more rights than the box it is started from."""
    outside = canaries.directory()
    rich = make_box(person, backend, "--allow", str(outside))
    poor = make_box(person, backend, "--allow-read", str(rich.root))
    assert rich.python(READ, str(outside / "secret")).stdout == f"{canaries.mark}\n"
    for command in ([str(rich.bin / "python"), "-c", READ], [str(rich.root / "sandbox" / "exec"), "/bin/cat"]):
        done = poor.python(START, *command, str(outside / "secret"))
        assert canaries.mark not in done.stdout + done.stderr


def test_a_stacked_filter_does_not_open(canaries, box):
    outside = canaries.directory()
    done = box.python(FAKE_FILTER, str(box.root), str(outside / "secret"))
    assert canaries.mark not in done.stdout + done.stderr
