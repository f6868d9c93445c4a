"""A static program without an interpreter, from the box's home and from its packages, meets the same limits."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from harness import lacking

SOURCE = Path(__file__).parent / "escape_native.c"
DONE = {"done"}
EPERM = {"EPERM"}
# name: (namespaces, Landlock alone, without a sandbox as root, as a user)
EXPECTED = {
    "open": ({"ENOENT"}, {"EACCES"}, DONE, DONE),
    "write": ({"ENOENT"}, {"EACCES"}, DONE, DONE),
    "openat2": ({"ENOSYS"}, {"ENOSYS"}, DONE, DONE),
    "chmod": ({"ENOENT"}, EPERM, DONE, DONE),
    "connect": ({"ENOENT"}, {"EACCES"}, DONE, DONE),
    "kill": ({"ESRCH"}, EPERM, DONE, DONE),
    "tgkill": ({"ESRCH"}, EPERM, DONE, DONE),
    "ptrace": (EPERM, EPERM, DONE, DONE | EPERM),
    "clone-user": (EPERM, EPERM, DONE, DONE | EPERM),
    "clone-user-high": (EPERM, EPERM, DONE, DONE | EPERM),
    "clone3-user": ({"ENOSYS"}, {"ENOSYS"}, DONE, DONE | EPERM),
    "unshare-user": (EPERM, EPERM, DONE, DONE | EPERM),
    "unshare-time": (EPERM, EPERM, DONE, DONE | EPERM),
    "tiocsti-high": (EPERM, EPERM, {"ENOTTY"}, {"ENOTTY"}),
    "setuid-file": (EPERM, EPERM, DONE, DONE),
    "setuid-tmpfile": (EPERM, EPERM, DONE, DONE),
    "setuid-high": (EPERM, EPERM, DONE, DONE),
    "new-privileges": (EPERM, EPERM, DONE, DONE),
    "unknown-call": ({"ENOSYS"}, {"ENOSYS"}, {"ENOSYS"}, {"ENOSYS"}),
    "x32": ({"ENOSYS"}, {"ENOSYS"}, {"done", "ENOSYS"}, {"done", "ENOSYS"}),
    "x32-ptrace": ({"ENOSYS"}, {"ENOSYS"}, {"done", "ENOSYS"}, {"done", "ENOSYS", "EPERM"}),
    "int80": ({"Bad system call"}, {"Bad system call"}, {"done", "Segmentation fault"}, {"done", "Segmentation fault"}),
}
X86_ONLY = {"x32", "x32-ptrace", "int80"}
COMPILER = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """The program, compiled once, static where the C library can be."""
    if COMPILER is None:
        lacking("sanitizers", "no C compiler")
    target = tmp_path_factory.mktemp("compiled") / "attack"
    command = [COMPILER, "-O1", "-o", target, SOURCE]
    if subprocess.run([*command, "-static"], check=False, capture_output=True).returncode:
        subprocess.run(command, check=True)
    return target


def place(program, person, target):
    """Copy the program to where a package or code inside could have left it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(program, target)
    os.chown(target, person.uid, person.gid)
    return target


def attack(canaries, person, command, own):
    own.mkdir(exist_ok=True)
    os.chown(own, person.uid, person.gid)
    outside = canaries.directory()
    done = person.run([*command, outside / "secret", outside, str(canaries.facts["pid"]), own], timeout=60)
    assert done.returncode == 0, done.stderr
    return dict(line.split(" ", 1) for line in done.stdout.splitlines())


def wrong(results, column):
    skipped = set() if platform.machine() == "x86_64" else X86_ONLY
    assert set(results) == set(EXPECTED) - skipped
    return {name: result for name, result in results.items() if result not in EXPECTED[name][column]}


def test_without_a_sandbox(canaries, box, program):
    copy = place(program, box.person, box.root / "home" / "attack-outside")
    signals = canaries.signals()
    results = attack(canaries, box.person, [copy], box.root / "home" / "own-c")
    assert wrong(results, 2 if box.person.uid == 0 else 3) == {}
    assert canaries.signals() > signals


@pytest.mark.parametrize("where", ["home", "packages", "shell", "python"])
def test_inside(canaries, box, program, where):
    prefix = box.root / "inside" if box.backend == "landlock" else box.root
    places = {"packages": ("inside/lib/attack-c", prefix / "lib" / "attack-c")}
    on_disk, name = places.get(where, (f"home/attack-{where}", box.root / "home" / f"attack-{where}"))
    place(program, box.person, box.root / on_disk)
    starter = box.root / "sandbox" / "exec"
    commands = {
        "shell": [starter, "/bin/sh", "-c", '"$@"', "sh", name],
        "python": [box.bin / "python", "-c", "import os, sys; os.execv(sys.argv[1], sys.argv[1:])", name],
    }
    signals = canaries.signals()
    results = attack(canaries, box.person, commands.get(where, [starter, name]), box.root / "home" / "own-c")
    assert wrong(results, 1 if box.backend == "landlock" else 0) == {}
    assert canaries.signals() == signals
