"""Ways around the guard: each is stopped by the kernel, and the table says which ones the guard stops by itself.

The guard explains what the kernel denies, so those marked ``kernel`` are no holes; they are here so that nobody
comes to believe that they were stopped by it.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness import PLAIN
from vsbox.guard import install as guard_install

if TYPE_CHECKING:
    from harness import Box, Person

PAIRS = [("user", "native"), ("user", "landlock"), ("root", "native")]

BEGIN = """
import gc, os, subprocess, sys
secret, site, work = sys.argv[1:4]
READ = "import sys; print(open(sys.argv[1]).read())"
def child(*options, **variables):
    environment = dict(os.environ, **variables)
    done = subprocess.run([sys.executable, *options, secret], capture_output=True, env=environment)
    print(done.stdout.decode())
    print(done.stderr.decode(), file=sys.stderr)
def refused():
    try:
        open(secret).close()
    except OSError as error:
        return error
    print("not refused: the guard is not there")
    sys.exit(9)
def frames(error):
    trace = error.__traceback__
    while trace is not None:
        yield trace.tb_frame
        trace = trace.tb_next
def show():
    print(open(secret).read())
"""

READING = {
    "opened": ("guard", "show()"),
    "opened by os": ("guard", "print(os.read(os.open(secret, os.O_RDONLY), 99))"),
    "opened by bytes": ("guard", "print(open(os.fsencode(secret)).read())"),
    "opened with dots": ("guard", "print(open(os.path.dirname(secret) + '/x/../secret').read())"),
    "opened through an own link": ("guard", "os.symlink(secret, work + '/link'); print(open(work + '/link').read())"),
    "opened through a link and dots": (
        "guard",
        "os.mkdir(work + '/x'); os.symlink(secret, work + '/link'); print(open(work + '/x/../link').read())",
    ),
    "opened through an own link by its bare name": (
        "guard",
        "os.chdir(work); os.symlink(secret, 'link'); print(open('link').read())",
    ),
    "opened through the root of a process": ("guard", "print(open('/proc/self/root' + secret).read())"),
    "opened from a directory that is gone": (
        "guard",
        "os.mkdir(work + '/gone'); os.chdir(work + '/gone'); os.rmdir(os.getcwd()); print(open(secret).read())",
    ),
    "opened without arguments of a program": ("guard", "sys.argv = [5]; print(open(secret).read())"),
    "python -I": ("guard", "child('-I', '-c', READ)"),
    "python -E -s": ("guard", "child('-E', '-s', '-c', READ)"),
    "python -S": ("kernel", "child('-S', '-c', READ)"),
    "python -I -S": ("kernel", "child('-I', '-S', '-c', READ)"),
    "a program": ("kernel", "print(subprocess.run(['/bin/cat', secret], stdout=subprocess.PIPE).stdout)"),
    "another program in place": ("kernel", "os.execv('/bin/cat', ['cat', secret])"),
    "spawned program": ("kernel", "os.waitpid(os.posix_spawn('/bin/cat', ['cat', secret], {}), 0)"),
    "shell": ("kernel", "os.system('exec cat ' + secret)"),
    "system call": (
        "kernel",
        (
            "import ctypes; fd = ctypes.CDLL(None).open(os.fsencode(secret), 0); "
            "print(os.read(fd, 99) if fd >= 0 else 'no')"
        ),
    ),
    "from an allowed directory up": (
        "kernel",
        (
            "d = os.open(work, os.O_RDONLY); name = os.path.relpath(secret, os.path.realpath(work));\n"
            "print(os.read(os.open(name, os.O_RDONLY, dir_fd=d), 99))"
        ),
    ),
    "relative to the working directory": ("guard", "print(open(os.path.relpath(secret)).read())"),
    "database": (
        "guard",
        "import sqlite3; c = sqlite3.connect(secret + '.db'); print(c.execute('select mark from marks').fetchall())",
    ),
    "database by a name": (
        "guard",
        (
            "import sqlite3; c = sqlite3.connect('file:' + secret + '.db?mode=ro', uri=True)\n"
            "print(c.execute('select mark from marks').fetchall())"
        ),
    ),
    "removed by a descriptor": (
        "guard",
        (
            "d, w = os.open(os.path.dirname(secret), os.O_RDONLY | os.O_PATH), os.open(work, os.O_RDONLY)\n"
            "os.rename(os.path.basename(secret), 'moved', src_dir_fd=d, dst_dir_fd=w)\n"
            "print(open(work + '/moved').read())"
        ),
    ),
    "database attached": (
        "kernel",
        (
            "import sqlite3; c = sqlite3.connect(':memory:'); c.execute('attach ? as other', (secret + '.db',))\n"
            "print(c.execute('select mark from other.marks').fetchall())"
        ),
    ),
}
SHADOW = """
os.makedirs(work + "/shadow")
with open(work + "/shadow/NAME.py", "w") as file:
    file.write("import sys\\nsys.addaudithook = lambda hook: None\\ndef start(): pass\\ndef install(*a): pass\\n")
child("-c", READ, PYTHONPATH=work + "/shadow")
"""
BEFORE = """
path = site + "/AAA.pth"
with open(path, "w") as file:
    file.write("import sys; sys.addaudithook = lambda hook: None\\n")
try:
    child("-c", READ)
finally:
    os.remove(path)
"""
SHADOWED = ("_sandbox_hook", "json", "_thread")
CHANGING = {
    **{f"module {name} in front": ("guard", SHADOW.replace("NAME", name)) for name in SHADOWED},
    "an earlier .pth": ("kernel", BEFORE),
    "audit hooks replaced": ("guard", "sys.addaudithook = sys.audit = lambda *a: None\nshow()"),
    "open replaced by another": ("guard", "import _io, _pyio\nprint(_pyio.open(secret).read())"),
    "code of functions": (
        "guard",
        ("def harmless(*a, **k): return None\n"
        ""
        "functions = [o for o in gc.get_objects() if type(o) is type(refused)]\n"
        "for function in [f for f in functions if 'guard' in f.__code__.co_filename]:\n"
        "    try:\n        function.__code__ = harmless.__code__\n    except Exception: pass\nshow()"),
    ),
    "code of functions in frames": (
        "guard",
        ("def harmless(*a, **k): return None\nchanged = 0\n"
        "for frame in frames(refused()):\n    for value in [*frame.f_globals.values(), *frame.f_locals.values()]:\n"
        "        if type(value) is type(refused) and value.__code__.co_filename != '<string>':\n"
        "            try:\n                value.__code__ = harmless.__code__\n"
        "            except Exception: pass\nshow()"),
    ),
    "globals of a frame": (
        "kernel",
        ("for frame in list(frames(refused())):\n    if 'SandboxPermissionError' in frame.f_globals:\n"
        ""
        "        for name in ('SandboxPermissionError', 'SandboxFileNotFoundError'):\n"
        "            frame.f_globals[name] = ZeroDivisionError\n"
        "        frame.f_globals['Guard'].deny = lambda *a: None\nshow()"),
    ),
    "table in a frame": (
        "kernel",
        ("for frame in list(frames(refused())):\n    for value in frame.f_locals.values():\n"
        "        if type(value) is dict and 'os.listdir' in value:\n"
        "            value['open'] = lambda *a: None\nshow()"),
    ),
    "grants in a frame": (
        "kernel",
        ("for frame in list(frames(refused())):\n    grants = getattr(frame.f_locals.get('self'), 'grants', None)\n"
        "    if grants:\n        grants.places['/'] = 2\nshow()"),
    ),
    "table by the collector": (
        "kernel",
        ("refused()\nfor value in gc.get_objects():\n"
        "    if type(value) is dict and 'os.listdir' in value and 'open' in value:\n"
        "        value['open'] = lambda *a: None\nshow()"),
    ),
    "cells by the collector": (
        "kernel",
        ("refused()\nnames = ('hook', 'look_closer')\n"
        "for f in [o for o in gc.get_objects() if type(o) is type(refused) and o.__name__ in names]:\n"
        "    for cell in f.__closure__ or ():\n        if type(cell.cell_contents) is frozenset:\n"
        "            cell.cell_contents = frozenset()\n"
        "        elif type(cell.cell_contents) is dict:\n"
        "            cell.cell_contents = dict.fromkeys(cell.cell_contents, print)\n"
        "show()"),
    ),
    "files deleted in the run": (
        "guard",
        ("for name in os.listdir(site):\n    if name.startswith('_sandbox'):\n"
        "        try: os.remove(site + '/' + name)\n"
        "        except OSError: pass\nshow()"),
    ),
    "files deleted before another Python": (
        "kernel",
        ("for name in os.listdir(site):\n    if name.startswith('_sandbox'):\n"
        "        try: os.remove(site + '/' + name)\n"
        "        except OSError: pass\nchild('-c', READ)"),
    ),
}  # fmt: skip
ATTACKS = READING | CHANGING


@dataclass(frozen=True)
class Canary:
    """A file beside everything that is granted, and the word in it."""

    path: Path
    mark: str


@pytest.fixture
def canary(place: Path, person: Person) -> Canary:
    mark = f"canary{secrets.token_hex(8)}"
    (place / "outside").mkdir()
    (place / "outside" / "x").mkdir()
    (place / "stand").mkdir()
    made = Canary(place / "outside" / "secret", mark)
    person.write(made.path, mark)
    code = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('create table marks (mark)'); "
    code += "c.execute('insert into marks values (?)', sys.argv[2:]); c.commit()"
    for path in (place / "outside", place / "outside" / "x", place / "stand"):
        os.chown(path, person.uid, person.gid)
    person.run([PLAIN, "-c", code, f"{made.path}.db", mark], check=True)
    return made


@pytest.fixture(scope="module")
def boxes(make_box: Callable[..., Box]) -> Iterator[Callable[..., Box]]:
    """A function that returns a box that these tests may harm; ``sync`` mends it."""
    made: dict[tuple[int, str], Box] = {}

    def get(person: Person, backend: str) -> Box:
        key = (person.uid, backend)
        if key not in made:
            made[key] = make_box(person, backend, "--no-pip", fresh=True)
        return made[key]

    yield get
    made.clear()


def site_of(box: Box) -> Path:
    (found,) = (box.root / "inside").glob("lib/python3*/site-packages")
    return found


def make_work(box: Box) -> Path:
    work = box.root / "home" / "work"
    shutil.rmtree(work, ignore_errors=True)
    box.person.run(["/bin/mkdir", str(work)], check=True)
    return work


@pytest.mark.parametrize(("person", "backend"), PAIRS, indirect=True)
@pytest.mark.parametrize("name", ATTACKS)
def test_no_way_around_the_guard_leads_past_the_kernel(
    person: Person, backend: str, boxes: Callable[..., Box], canary: Canary, name: str
) -> None:
    box = boxes(person, backend)
    site = box.root / site_of(box).relative_to(box.root / "inside") if backend == "native" else site_of(box)
    make_work(box)
    work = box.root / "home" / "work"
    argv = [str(box.bin / "python"), "-c", BEGIN + ATTACKS[name][1], str(canary.path), str(site), str(work)]
    done = person.run(argv, cwd=canary.path.parent.parent / "stand")
    if name.startswith("files deleted") and backend == "landlock":
        after = person.run(argv, cwd=canary.path.parent.parent / "stand")
        assert after.returncode == 125
        person.vsbox("sync", box.root, check=True)
    assert canary.mark not in done.stdout + done.stderr
    assert done.returncode != 9
    assert done.returncode != 125, done.stderr
    assert canary.path.read_text() == canary.mark


@pytest.fixture(scope="module")
def alone(make_box: Callable[..., Box]) -> Callable[[Person], tuple[Box, dict[str, bytes]]]:
    ""
    """A function that returns a box, and files of a guard that believes that no kernel confines it."""
    made: dict[int, tuple[Box, dict[str, bytes]]] = {}

    def get(person: Person) -> tuple[Box, dict[str, bytes]]:
        if person.uid not in made:
            box = make_box(person, "landlock", "--no-pip", fresh=True)
            site = site_of(box)
            config = json.loads((site / "_sandbox.json").read_text()) | {"tier": "none"}
            (code,) = (box.root / "sandbox").glob("guard-*")
            files = {path.name: path.read_bytes() for path in site.glob("_sandbox*")}
            files |= {
                "_sandbox.json": json.dumps(config).encode(),
                "_sandbox_hook.bin": guard_install._join(code.read_bytes(), config),
            }
            made[person.uid] = box, files
        return made[person.uid]

    return get


@pytest.mark.parametrize("person", ["user"], indirect=True)
@pytest.mark.parametrize("name", ATTACKS)
def test_the_table_says_what_the_guard_stops_alone(
    person: Person, alone: Callable[[Person], tuple[Box, dict[str, bytes]]], canary: Canary, name: str
) -> None:
    box, files = alone(person)
    for file, data in files.items():
        person.write(site_of(box) / file, "").write_bytes(data)
    work = make_work(box)
    python = str(box.root / "inside" / "bin" / "python")
    argv = [python, "-c", BEGIN + ATTACKS[name][1], str(canary.path), str(site_of(box)), str(work)]
    done = person.run(argv, cwd=canary.path.parent.parent / "stand")
    assert done.returncode != 9
    said = any(word in done.stdout + done.stderr for word in ("sandbox grants no", "guard cannot be changed"))
    found = "kernel" if canary.mark in done.stdout else "guard" if said else "neither"
    assert found == ATTACKS[name][0], done.stderr[-800:]


@pytest.mark.parametrize("person", ["user"], indirect=True)
@pytest.mark.parametrize("name", [name for name in READING if READING[name][0] == "guard"])
def test_what_the_guard_stops_would_work_without_it(
    person: Person, alone: Callable[[Person], tuple[Box, dict[str, bytes]]], canary: Canary, name: str
) -> None:
    box, _ = alone(person)
    work = make_work(box)
    argv = [PLAIN, "-c", BEGIN + READING[name][1], str(canary.path), str(site_of(box)), str(work)]
    done = person.run(argv, cwd=canary.path.parent.parent / "stand")
    assert canary.mark in done.stdout, done.stderr[-800:]
