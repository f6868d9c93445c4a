"""Law 6: nothing survives, nothing is left behind; and many starts at once."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

# Terminals, stops and deaths are watched from outside on a loaded machine: what was only late gets another chance.
pytestmark = pytest.mark.flaky(reruns=2)

if TYPE_CHECKING:
    from harness import Box, Person

PLAIN = os.path.realpath(sys.executable)
SECONDS = 20

DAEMONS = """
import os, signal, subprocess, sys, time
token = sys.argv[1]
sleep = "import signal, time; [signal.signal(n, signal.SIG_IGN) for n in (1, 15)]; time.sleep(300)"
def start(**options):
    subprocess.Popen([sys.executable, "-c", sleep, token], stdin=-3, stdout=-3, stderr=-3, **options)
def daemonise():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            start(start_new_session=True)
        os._exit(0)
    os.wait()
start()
start(start_new_session=True)
daemonise()
line = 'setsid nohup "$0" -c "$1" "$2" </dev/null >/dev/null 2>&1 &'
subprocess.run(["sh", "-c", line, sys.executable, sleep, token])
time.sleep(0.3)
os.write(1, b"started\\n")
if sys.argv[2:] == ["wait"]:
    time.sleep(300)
"""


def find_processes(token: str) -> list[int]:
    """Return the living processes with a word on their command line."""
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if token.encode() in (directory / "cmdline").read_bytes():
                found.append(int(directory.name))
    return found


def wait_for_none(token: str) -> list[int]:
    """Return what is left of the processes of a token, after a while at most."""
    end = time.monotonic() + 8
    while (found := find_processes(token)) and time.monotonic() < end:
        time.sleep(0.02)
    return found


def descendants(pid: int) -> list[int]:
    """Return the processes below one, parents first; a process that is gone has none."""
    try:
        children = [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return [*children, *(below for child in children for below in descendants(child))]


def mounts() -> list[str]:
    return Path("/proc/self/mountinfo").read_text().splitlines()


@pytest.fixture
def token() -> Iterator[str]:
    """A word for command lines, by which processes are found; whoever is left over is killed."""
    word = f"token-{secrets.token_hex(8)}"
    yield word
    for pid in find_processes(word):
        os.kill(pid, signal.SIGKILL)


def _start(box: Box, code: str, *arguments: str, **options: object) -> subprocess.Popen[str]:
    command = [str(box.bin / "python"), "-c", code, *arguments]
    process = box.person.popen(command, stdout=subprocess.PIPE, **options)
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    return process


# ---- nothing survives ----


def test_control_daemons_survive_a_plain_python(person: Person, token: str) -> None:
    command = [PLAIN, "-c", DAEMONS, token]
    assert person.run(command).stdout == "started\n"
    left = find_processes(token)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert len(left) == 4
    assert wait_for_none(token) == []


def test_daemons_end_with_the_command(box: Box, token: str) -> None:
    done = box.python(DAEMONS, token)
    assert (done.returncode, done.stdout, done.stderr) == (0, "started\n", "")
    assert wait_for_none(token) == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGSEGV])
def test_a_signal_to_the_launcher_leaves_no_process(number: int, box: Box, token: str) -> None:
    before = mounts()
    process = _start(box, DAEMONS, token, "wait")
    assert len(find_processes(token)) > 4
    process.send_signal(number)
    assert process.wait(SECONDS) == -number
    assert wait_for_none(token) == []
    assert mounts() == before


def test_killing_init_leaves_no_process(box: Box, token: str) -> None:
    process = _start(box, DAEMONS, token, "wait")
    init = descendants(process.pid)[0]
    os.kill(init, signal.SIGKILL)
    assert process.wait(SECONDS) != 0
    assert wait_for_none(token) == []


def test_killing_the_payload_leaves_no_process(box: Box, token: str) -> None:
    process = _start(box, DAEMONS, token, "wait")
    payload = descendants(process.pid)[1]
    os.kill(payload, signal.SIGKILL)
    assert process.wait(SECONDS) == -signal.SIGKILL
    assert wait_for_none(token) == []


def test_killing_launcher_and_init_while_stopped_leaves_no_process(box: Box, token: str) -> None:
    process = _start(box, DAEMONS, token, "wait")
    init = descendants(process.pid)[0]
    process.send_signal(signal.SIGSTOP)
    os.kill(init, signal.SIGSTOP)
    process.kill()
    process.wait(SECONDS)
    if box.backend == "landlock":
        os.kill(init, signal.SIGCONT)
    assert wait_for_none(token) == []


def test_code_inside_cannot_outlive_by_killing_its_keeper(box: Box, token: str) -> None:
    kill = (
        "for pid in {os.getppid(), 1} - {0}:\n    for n in (9, 15, 19):\n        try:\n            os.kill(pid, n)\n"
        "        except OSError:\n            pass\nos._exit(4)\n"
    )
    done = box.python(DAEMONS + kill, token, timeout=60)
    assert (done.returncode, done.stdout) == (4, "started\n")
    assert wait_for_none(token) == []


CHAINS = """
import os, sys, time
end = time.time() + 15
for _ in range(8):
    if os.fork() == 0:
        os.setsid()
        while time.time() < end:
            if os.fork():
                os._exit(0)
        os._exit(0)
os.write(1, b"started\\n")
if sys.argv[2:] == ["wait"]:
    time.sleep(30)
"""
"""Eight processes, at any time no more, each of which forks and dies at once: a list of them is old when it is read."""


def test_chains_of_forks_end_with_the_command(box: Box, token: str) -> None:
    assert box.python(CHAINS, token, timeout=60).stdout == "started\n"
    assert find_processes(token) == []


def test_a_killed_launcher_ends_chains_of_forks(box: Box, token: str) -> None:
    process = _start(box, CHAINS, token, "wait")
    process.kill()
    process.wait(SECONDS)
    assert wait_for_none(token) == []


def test_no_zombie_stays(box: Box, token: str) -> None:
    code = (
        "import os, time\nfor _ in range(20):\n    if os.fork() == 0:\n        os.fork() or time.sleep(0.05)\n"
        "        os._exit(0)\n    os.wait()\nos.write(1, b'started\\n')\ntime.sleep(60)\n"
    )
    process = _start(box, code, token)
    time.sleep(0.5)
    below = descendants(process.pid)
    process.kill()
    process.wait(SECONDS)
    assert len(below) == 2


# ---- nothing is left ----


def _names(directory: str | Path) -> set[str]:
    return {path.name for path in Path(directory).iterdir()}


@pytest.fixture
def work(person: Person) -> Iterator[Path]:
    made = person.directory("work")
    yield made
    shutil.rmtree(made, ignore_errors=True)


def test_nothing_is_left_on_disk(box: Box, work: Path) -> None:
    before = _names("/tmp"), _names("/var/tmp"), _names("/dev/shm")
    code = (
        "import tempfile\nopen(tempfile.gettempdir() + '/left-by-vsbox-test', 'w')\n"
        "tempfile.mkdtemp(prefix='left-by-vsbox-test')\n"
        "tempfile.NamedTemporaryFile(prefix='left-by-vsbox-test', delete=False)"
    )
    assert box.python(code, cwd=work).returncode == 0
    assert box.exec("sh", "-c", "echo x > x 2>/dev/null; mkdir -p .git 2>/dev/null; true", cwd=work).returncode == 0
    after = _names("/tmp"), _names("/var/tmp"), _names("/dev/shm")
    new = {name for old, now in zip(before, after, strict=True) for name in now - old}
    assert not [name for name in new if "vsbox" in name]
    assert not _names(work)


def test_control_a_plain_python_leaves_files(person: Person, work: Path) -> None:
    code = f"import tempfile; tempfile.mkdtemp(prefix='left-by-vsbox-test', dir={str(work)!r})"
    assert person.run([PLAIN, "-c", code]).returncode == 0
    assert _names(work)


def test_temporary_files_do_not_come_back(box: Box) -> None:
    if box.backend != "native":
        pytest.skip("without namespaces /tmp inside is BOX/home/tmp, which stays")
    assert box.python("open('/tmp/mark', 'w')").returncode == 0
    assert box.python("import os; print(os.path.exists('/tmp/mark'))").stdout == "False\n"


# ---- streams ----


def test_closing_output_early_is_seen(box: Box) -> None:
    code = "import os, time; os.write(1, b'x'); os.close(1); os.close(2); time.sleep(3)"
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with box.person.popen([str(box.bin / "python"), "-c", code], **streams) as process:
        assert process.stdout is not None
        assert process.stdout.read() == "x"
        assert process.poll() is None
        process.kill()


def test_a_reader_that_leaves_is_noticed(box: Box) -> None:
    code = (
        "import os\ntry:\n    while True: print('y' * 1000)\n"
        "except BrokenPipeError:\n    os.write(2, b'noticed'); os._exit(8)"
    )
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = box.person.popen([str(box.bin / "python"), "-c", code], **streams)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == "noticed"
    assert process.wait(SECONDS) == 8


def test_a_writer_learns_that_the_payload_is_gone(box: Box) -> None:
    """The launcher must not hold the reading end of a pipe that the payload closed."""
    code = "import os, time; os.close(0); print('started', flush=True); time.sleep(2)"
    read, write = os.pipe()
    process = _start(box, code, stdin=read)
    os.close(read)
    try:
        with pytest.raises(BrokenPipeError):
            os.write(write, b"x")
    finally:
        os.close(write)
        process.kill()
        process.wait()


# ---- many at once ----


def _start_many(commands: list[list[str]], person: Person) -> list[tuple[int, str]]:
    with tempfile.TemporaryFile("w+") as errors:
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": errors}
        started = [person.popen(command, **streams) for command in commands]
        answers = [(process.communicate(timeout=120)[0], process.returncode) for process in started]
        errors.seek(0)
        assert errors.read() == ""
    return [(status, shown) for shown, status in answers]


def test_two_hundred_starts_at_once_in_one_box(box: Box) -> None:
    commands = [[str(box.bin / "python"), "-c", f"print({n}); raise SystemExit({n % 7})"] for n in range(200)]
    assert _start_many(commands, box.person) == [(n % 7, f"{n}\n") for n in range(200)]


def test_twenty_boxes_at_once(person: Person, backend: str, work: Path) -> None:
    roots = [work / f"box{n}" for n in range(20)]
    commands = [[sys.executable, "-m", "vsbox", "-q", "--no-pip", "--backend", backend, str(root)] for root in roots]
    assert _start_many(commands, person) == [(0, "")] * 20
    code = "import sys; print(sys.prefix, sys.argv[1])"
    commands = [[str(root / "bin" / "python"), "-c", code, str(n)] for n, root in enumerate(roots)]
    inside = "/inside" if backend == "landlock" else ""
    assert _start_many(commands, person) == [(0, f"{root}{inside} {n}\n") for n, root in enumerate(roots)]


@pytest.mark.parametrize("name", ["sandbox.json", "interpreter.json"])
def test_starts_while_the_plan_is_made_anew(name: str, box: Box) -> None:
    os.utime(box.root / "sandbox" / name)
    commands = [[str(box.bin / "python"), "-c", f"print({n})"] for n in range(20)]
    assert _start_many(commands, box.person) == [(0, f"{n}\n") for n in range(20)]
    assert sorted(p.name for p in (box.root / "sandbox").iterdir() if p.name.startswith((".", "plan"))) == ["plan"]


def test_commands_that_come_and_go_at_once_keep_launchers_right(person: Person, make_box: Callable[..., Box]) -> None:
    box = make_box(person, "native", fresh=True)
    code = (
        "import os, sys\nn = int(sys.argv[1])\npath = os.environ['VIRTUAL_ENV'] + '/bin/tool%d' % n\n"
        "open(path, 'w').write('#!/bin/sh\\necho tool\\n')\nos.chmod(path, 0o755)\n"
    )
    commands = [[str(box.bin / "python"), "-c", code, str(n)] for n in range(15)]
    assert _start_many(commands, person) == [(0, "")] * 15
    assert sorted(p.name for p in box.bin.glob("tool*")) == sorted(f"tool{n}" for n in range(15))
    assert [p.name for p in box.bin.iterdir() if p.name.startswith(".")] == []
    assert person.run([str(box.bin / "tool7")]).stdout == "tool\n"
