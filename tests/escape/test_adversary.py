"""Ways out found by reading the product as an adversary would, each tried for real on canaries."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

REMOVE_PYTHON = """
import os, sys
where = os.path.join(sys.prefix, "bin")
for name in os.listdir(where):
    if name.startswith(("python", "pip")):
        os.unlink(os.path.join(where, name))
"""
RENAME_BIN = "import os, sys; w = os.path.join(sys.prefix, 'bin'); os.rename(w, w + '-gone')"


@pytest.mark.parametrize("attack", [REMOVE_PYTHON, RENAME_BIN], ids=["remove", "rename"])
def test_python_of_an_active_box_never_becomes_the_hosts(person, backend, make_box, attack):
    """Code inside removes the box's own python: the next name on PATH is the host's, unconfined."""
    box = make_box(person, backend, fresh=True)
    ask = ["/bin/sh", "-c", f". {box.bin}/activate; for n in python python3 pip; do command -v $n; done"]
    mine = [str(box.bin / name) for name in ("python", "python3", "pip")]
    assert person.run(ask).stdout.split() == mine
    box.python(attack)
    box.exec("/bin/true")
    assert person.run(ask).stdout.split() == mine


def test_a_directory_above_the_box_cannot_be_moved_away(person, backend, make_box):
    """Law 1: a write grant above the box lets code inside put its own box in the old one's place."""
    base = person.directory("escape-above")
    (base / "middle").mkdir()
    os.chown(base / "middle", person.uid, person.gid)
    root = base / "middle" / "env"
    made = person.vsbox("-q", "--backend", backend, "--allow", base, root)
    if made.returncode:
        assert made.returncode == 2
        assert "holds the box" in made.stderr
        return
    code = (
        "import os, sys\n"
        "base, root = sys.argv[1:]\n"
        "os.rename(base + '/middle', base + '/moved'); os.makedirs(root + '/bin')\n"
        "open(root + '/bin/python', 'w').write('#!/bin/sh\\necho ESCAPED\\n'); os.chmod(root + '/bin/python', 0o755)\n"
    )
    person.run([root / "bin" / "python", "-c", code, base, root])
    assert "ESCAPED" not in person.run([root / "bin" / "python", "-c", "pass"]).stdout


def refuses_restriction(person, backend, base, below):
    """Landlock has no deny rules: without namespaces such a policy is refused as a whole."""
    if backend != "landlock":
        return False
    root = person.directory("escape-refused") / "env"
    made = person.vsbox("--backend", backend, "--allow", base, "--allow-read", below, root)
    assert made.returncode == 125
    assert "Landlock has no deny rules" in made.stderr
    return True


MOVE_PARENT = "import os, sys; os.rename(sys.argv[1] + '/a', sys.argv[1] + '/b')"
MOVE_AND_DECOY = MOVE_PARENT + "; os.mkdir(sys.argv[1] + '/a'); open(sys.argv[1] + '/a/hidden', 'w').close()"


@pytest.mark.parametrize("move", [MOVE_PARENT, MOVE_AND_DECOY], ids=["move", "decoy"])
def test_a_hidden_path_stays_hidden_when_its_parent_moves(canaries, person, backend, make_box, move):
    base = canaries.directory()
    (base / "a").mkdir()
    os.chown(base / "a", person.uid, person.gid)
    person.write(base / "a" / "hidden", canaries.mark)
    if refuses_restriction(person, backend, base, base / "a" / "hidden"):
        return
    box = make_box(person, backend, "--allow", str(base), fresh=True)
    person.vsbox("deny", box.root, base / "a" / "hidden", check=True)
    read = "import sys; print(open(sys.argv[1]).read())"
    assert canaries.mark not in box.python(read, str(base / "a" / "hidden")).stdout
    box.python(move, str(base))
    for name in ("a", "b"):
        assert canaries.mark not in box.python(read, str(base / name / "hidden")).stdout


def test_a_read_only_path_stays_so_when_its_parent_moves(canaries, person, backend, make_box):
    base = canaries.directory()
    (base / "a" / "fixed").mkdir(parents=True)
    if refuses_restriction(person, backend, base, base / "a" / "fixed"):
        return
    for path in (base / "a", base / "a" / "fixed"):
        os.chown(path, person.uid, person.gid)
    person.write(base / "a" / "fixed" / "file", "original")
    box = make_box(person, backend, "--allow", str(base), "--allow-read", str(base / "a" / "fixed"), fresh=True)
    write = "import sys; open(sys.argv[1], 'w').write('changed')"
    assert box.python(write, str(base / "a" / "fixed" / "file")).returncode == 1
    box.python(MOVE_PARENT + "; os.makedirs(sys.argv[1] + '/a/fixed')", str(base))
    for name in ("a", "b"):
        box.python(write, str(base / name / "fixed" / "file"))
    found = [path.read_text() for path in base.glob("*/fixed/file")]
    assert "original" in found


def test_what_the_outside_half_imports_cannot_be_granted_for_writing(person, backend):
    """The grant is below the directory that vsbox runs from, not above it."""
    library = Path(ctypes.__file__).parent
    site = next(path for path in sys.path if path.endswith("site-packages"))
    for place in (site, library):
        root = person.directory("escape-grant") / "env"
        made = person.vsbox("-q", "--backend", backend, "--allow", place, root)
        assert made.returncode == 2, place


@pytest.fixture
def bystander(person):
    """A process of the person's outside, with nothing special about it."""
    process = person.popen(["/bin/sleep", "60"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    yield process
    process.kill()
    process.wait()


TOUCH = """
import ctypes, os, resource, sys
pid = int(sys.argv[1])
libc = ctypes.CDLL(None)
for attempt in (
    lambda: resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0)),
    lambda: os.setpriority(os.PRIO_PROCESS, pid, 7),
    lambda: os.sched_setaffinity(pid, {min(os.sched_getaffinity(0))}),
    lambda: os.sched_setscheduler(pid, os.SCHED_BATCH, os.sched_param(0)),
):
    try:
        attempt()
    except OSError:
        pass
"""


STATE = """
import os, resource, sys
pid = int(sys.argv[1])
print(resource.prlimit(pid, resource.RLIMIT_CORE), os.getpriority(os.PRIO_PROCESS, pid), os.sched_getaffinity(pid),
      os.sched_getscheduler(pid))
"""


def test_limits_and_priority_of_others_stay(box, bystander):
    """prlimit(2) of RLIMIT_CPU kills as surely as a signal; Landlock's scope does not cover it."""
    plain, pid = box.root / "inside" / "bin" / "python", str(bystander.pid)

    def state():
        return box.person.run([plain, "-c", STATE, pid], check=True).stdout

    before = state()
    box.python(TOUCH, pid)
    assert state() == before
    box.person.run([plain, "-c", TOUCH, pid], check=True)
    assert state() != before


WATCH = """
import ctypes, os, select, sys
libc = ctypes.CDLL(None, use_errno=True)
fd = libc.inotify_init1(0)
if libc.inotify_add_watch(fd, os.fsencode(sys.argv[1]), 0xFFF) < 0:
    sys.exit(os.strerror(ctypes.get_errno()))
print("watching", flush=True)
sys.stdin.readline()
if select.select([fd], [], [], 5)[0]:
    print(os.read(fd, 65536))
"""


def watched_names(person, python, directory):
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    process = person.popen([python, "-c", WATCH, directory], **pipes)
    if process.stdout.readline():
        (directory / "opened-by-the-user").touch()
    text, _ = process.communicate("\n", timeout=60)
    return text


def test_names_in_a_closed_directory_are_not_watched(canaries, box):
    """inotify(7) needs no right that Landlock knows, and tells the names of files as the user opens them."""
    outside = canaries.directory()
    assert "opened-by-the-user" in watched_names(box.person, box.root / "inside" / "bin" / "python", outside)
    assert "opened-by-the-user" not in watched_names(box.person, box.bin / "python", outside)


def test_extended_attributes_outside_are_not_read(canaries, box):
    """Browsers and indexers keep addresses and tags there."""
    outside = canaries.directory()
    os.setxattr(outside / "secret", "user.origin", canaries.mark.encode())
    code = "import os, sys; print(os.listxattr(sys.argv[1]), os.getxattr(sys.argv[1], 'user.origin'))"
    plain = box.root / "inside" / "bin" / "python"
    assert canaries.mark in box.person.run([plain, "-c", code, outside / "secret"]).stdout
    assert canaries.mark not in box.python(code, str(outside / "secret")).stdout


def test_a_socket_below_a_read_only_grant_is_not_connected_to(canaries, person, backend, make_box):
    """Read-only mounts and read rules say nothing about connect(2), and a socket is a way to write."""
    outside = canaries.directory()
    code = (
        "import socket, sys\n"
        "for kind, name in ((socket.SOCK_STREAM, 'stream'), (socket.SOCK_DGRAM, 'dgram')):\n"
        "    try:\n"
        "        s = socket.socket(socket.AF_UNIX, kind); s.connect(f'{sys.argv[1]}/{name}.sock'); print('connected')\n"
        "    except OSError: pass\n"
    )
    control = person.run([sys.executable, "-c", code, outside])
    assert control.stdout == "connected\nconnected\n"
    granted = make_box(person, backend, "--allow-read", str(outside))
    assert granted.python(code, str(outside)).stdout == ""
    assert make_box(person, backend).python(code, str(outside), cwd=outside).stdout == ""


@pytest.mark.parametrize("name", ["kpageflags", "kpagecount", "vmallocinfo", "slabinfo", "pagetypeinfo", "sched_debug"])
def test_kernel_internals_in_proc_are_not_read(box, name):
    done = box.python("import sys; print(open(sys.argv[1], 'rb').read(64))", f"/proc/{name}")
    assert done.returncode == 1


def test_a_failure_of_the_payload_is_told(box):
    done = box.exec("/nonexistent/command")
    assert done.returncode == 127
    assert "/nonexistent/command" in done.stderr


def test_a_writable_working_directory_above_the_box(person, backend, make_box):
    """The policy asks for it; where it would open the box's own policy, it must not be granted."""
    box = make_box(person, backend, fresh=True)
    policy = box.root / "sandbox" / "sandbox.json"
    policy.write_bytes(policy.read_bytes().rstrip()[:-1] + b', "working_directory": "write"}')
    before = policy.read_bytes()
    code = (
        "import os, sys\n"
        "for name in sys.argv[1:]:\n"
        "    try: open(name, 'a').write(' ')\n"
        "    except OSError: pass\n"
    )
    shown = {name: (box.bin / name).read_bytes() for name in ("activate", "activate.fish")}
    for cwd in (box.root.parent, box.root, box.root / "sandbox", box.bin):
        box.python(code, str(policy), *(str(box.bin / name) for name in shown), cwd=cwd)
        assert policy.read_bytes() == before
        assert {name: (box.bin / name).read_bytes() for name in shown} == shown
