"""Law 6: nothing survives, nothing is left behind; and many starts at once."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness import PLAIN
from processes import SECONDS, descendants, find_processes, state, wait_for_none, wait_until

if TYPE_CHECKING:
    from harness import Box, Person


DAEMONS = """
import os, signal, subprocess, sys, time
token, (ready, announce) = sys.argv[1], os.pipe()
os.set_inheritable(announce, True)
sleep = (
    "import os, signal, sys, time; [signal.signal(n, signal.SIG_IGN) for n in (1, 15)]; "
    "os.write(int(sys.argv[2]), b'.'); time.sleep(300)"
)
arguments = [sys.executable, "-c", sleep, token, str(announce)]
def start(**options):
    subprocess.Popen(arguments, stdin=-3, stdout=-3, stderr=-3, close_fds=False, **options)
def daemonise():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            start(start_new_session=True)
        os._exit(0)
start()
start(start_new_session=True)
daemonise()
line = 'setsid nohup "$@" </dev/null >/dev/null 2>&1 &'
subprocess.run(["sh", "-c", line, "sh", *arguments], close_fds=False)
for _ in range(4):
    os.read(ready, 1)
os.write(1, b"started\\n")
if sys.argv[2:] == ["wait"]:
    time.sleep(300)
"""
"""Four processes that outlive their parents in as many ways, each of which says when it is on its own."""


def mounts() -> list[str]:
    return Path("/proc/self/mountinfo").read_text().splitlines()


# ---- nothing survives ----


def test_control_daemons_survive_a_plain_python(person: Person, token: str) -> None:
    assert person.run([PLAIN, "-c", DAEMONS, token]).stdout == "started\n"
    assert wait_until(lambda: len(find_processes(token)) == 4)
    for pid in find_processes(token):
        os.kill(pid, signal.SIGKILL)
    assert wait_for_none(token) == []


def test_daemons_end_with_the_command(box: Box, token: str) -> None:
    done = box.python(DAEMONS, token)
    assert (done.returncode, done.stdout, done.stderr) == (0, "started\n", "")
    assert wait_for_none(token) == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGSEGV])
def test_a_signal_to_the_launcher_leaves_no_process(number: int, box: Box, token: str) -> None:
    before = mounts()
    process = box.start(DAEMONS, token, "wait")
    assert len(find_processes(token)) > 4
    process.send_signal(number)
    assert process.wait(SECONDS) == -number
    assert wait_for_none(token) == []
    assert mounts() == before


def test_killing_init_leaves_no_process(box: Box, token: str) -> None:
    process = box.start(DAEMONS, token, "wait")
    init = descendants(process.pid)[0]
    os.kill(init, signal.SIGKILL)
    assert process.wait(SECONDS) != 0
    assert wait_for_none(token) == []


def test_killing_the_payload_leaves_no_process(box: Box, token: str) -> None:
    process = box.start(DAEMONS, token, "wait")
    payload = descendants(process.pid)[1]
    os.kill(payload, signal.SIGKILL)
    assert process.wait(SECONDS) == -signal.SIGKILL
    assert wait_for_none(token) == []


def test_killing_launcher_and_init_while_stopped_leaves_no_process(box: Box, token: str) -> None:
    process = box.start(DAEMONS, token, "wait")
    init = descendants(process.pid)[0]
    process.send_signal(signal.SIGSTOP)
    os.kill(init, signal.SIGSTOP)
    process.kill()
    process.wait(SECONDS)
    if box.backend == "landlock":  # the kernel may have done so already: the group is orphaned and has stopped members
        with contextlib.suppress(ProcessLookupError):
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
    process = box.start(CHAINS, token, "wait")
    keepers = descendants(process.pid)[:2]
    process.kill()
    process.wait(SECONDS)
    assert wait_until(lambda: not any(state(pid).strip("Z") for pid in keepers))
    assert find_processes(token) == []


def test_no_zombie_stays(box: Box, token: str) -> None:
    code = (
        "import os, time\nfor _ in range(20):\n    if os.fork() == 0:\n        os.fork() or time.sleep(0.05)\n"
        "        os._exit(0)\n    os.wait()\nos.write(1, b'started\\n')\ntime.sleep(60)\n"
    )
    process = box.start(code, token)
    between = 2 if box.backend == "bubblewrap" else 1  # init, which bwrap watches over
    assert wait_until(lambda: len(descendants(process.pid)) == between + 1), descendants(process.pid)
    process.kill()
    process.wait(SECONDS)


# ---- nothing is left ----


def _names(directory: str | Path) -> set[str]:
    return {path.name for path in Path(directory).iterdir()}


LEAVE_FILES = """
import sys, tempfile
for directory in (None, *sys.argv[2:]):
    tempfile.NamedTemporaryFile(prefix=sys.argv[1], dir=directory, delete=False)
    tempfile.mkdtemp(prefix=sys.argv[1], dir=directory)
"""
SHARED_PLACES = ("/tmp", "/var/tmp", "/dev/shm")


def names_in_shared_places() -> set[str]:
    return {f"{place}/{name}" for place in SHARED_PLACES for name in _names(place)}


def test_nothing_is_left_on_disk(box: Box, place: Path, token: str) -> None:
    """Other tests make files called vsbox there as well, but theirs go away."""
    before = names_in_shared_places()
    assert box.python(LEAVE_FILES, token, cwd=place).returncode == 0
    assert box.exec("sh", "-c", "echo x > x 2>/dev/null; mkdir -p .git 2>/dev/null; true", cwd=place).returncode == 0
    assert wait_until(lambda: not [name for name in names_in_shared_places() - before if "vsbox" in name])
    assert not [name for name in names_in_shared_places() if token in name]
    assert not _names(place)


def test_control_a_plain_python_leaves_files(person: Person, place: Path, token: str) -> None:
    assert person.run([PLAIN, "-c", LEAVE_FILES, token, str(place)]).returncode == 0
    left = [Path(name) for name in names_in_shared_places() if token in name]
    for path in left:
        path.rmdir() if path.is_dir() else path.unlink()
    assert (len(left), len(_names(place))) == (2, 2)


@pytest.mark.parametrize("backend", ["native"], indirect=True)
def test_temporary_files_do_not_come_back(box: Box) -> None:
    """Without namespaces temporary files are in BOX/home/tmp, which stays."""
    assert box.python("open('/tmp/mark', 'w')").returncode == 0
    assert box.python("import os; print(os.path.exists('/tmp/mark'))").stdout == "False\n"


# ---- streams ----


def test_closing_output_early_is_seen(box: Box) -> None:
    code = "import os, time; os.write(1, b'x'); os.close(1); os.close(2); time.sleep(60)"
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


def is_broken(pipe: int) -> bool:
    try:
        os.write(pipe, b"x")
    except BrokenPipeError:
        return True
    return False


def test_a_writer_learns_that_the_payload_is_gone(box: Box) -> None:
    """The launcher must not hold the reading end of a pipe that the payload closed. It lets go while that starts."""
    code = "import os, time; os.close(0); print('started', flush=True); time.sleep(300)"
    read, write = os.pipe()
    process = box.start(code, stdin=read)
    os.close(read)
    try:
        assert wait_until(lambda: is_broken(write))
    finally:
        os.close(write)
        process.kill()
        process.wait()


# ---- many at once ----


def start_many(commands: list[list[str]], person: Person) -> list[tuple[int, str]]:
    with tempfile.TemporaryFile("w+") as errors:
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": errors}
        started = [person.popen(command, **streams) for command in commands]
        answers = [(process.communicate(timeout=120)[0], process.returncode) for process in started]
        errors.seek(0)
        assert errors.read() == ""
    return [(status, shown) for shown, status in answers]


def test_two_hundred_starts_at_once_in_one_box(box: Box) -> None:
    commands = [[str(box.bin / "python"), "-c", f"print({n}); raise SystemExit({n % 7})"] for n in range(200)]
    assert start_many(commands, box.person) == [(n % 7, f"{n}\n") for n in range(200)]


def test_twenty_boxes_at_once(person: Person, backend: str, place: Path) -> None:
    roots = [place / f"box{n}" for n in range(20)]
    commands = [[sys.executable, "-m", "vsbox", "-q", "--no-pip", "--backend", backend, str(root)] for root in roots]
    assert start_many(commands, person) == [(0, "")] * 20
    code = "import sys; print(sys.prefix, sys.argv[1])"
    commands = [[str(root / "bin" / "python"), "-c", code, str(n)] for n, root in enumerate(roots)]
    inside = "/inside" if backend == "landlock" else ""
    assert start_many(commands, person) == [(0, f"{root}{inside} {n}\n") for n, root in enumerate(roots)]


@pytest.mark.parametrize("name", ["sandbox.json", "interpreter.json"])
def test_starts_while_the_plan_is_made_anew(name: str, box: Box) -> None:
    os.utime(box.root / "sandbox" / name)
    commands = [[str(box.bin / "python"), "-c", f"print({n})"] for n in range(20)]
    assert start_many(commands, box.person) == [(0, f"{n}\n") for n in range(20)]
    assert sorted(p.name for p in (box.root / "sandbox").iterdir() if p.name.startswith((".", "plan"))) == ["plan"]


def test_commands_that_come_and_go_at_once_keep_launchers_right(person: Person, make_box: Callable[..., Box]) -> None:
    box = make_box(person, "native", fresh=True)
    code = (
        "import os, sys\nn = int(sys.argv[1])\npath = os.environ['VIRTUAL_ENV'] + '/bin/tool%d' % n\n"
        "open(path, 'w').write('#!/bin/sh\\necho tool\\n')\nos.chmod(path, 0o755)\n"
    )
    commands = [[str(box.bin / "python"), "-c", code, str(n)] for n in range(15)]
    assert start_many(commands, person) == [(0, "")] * 15
    assert sorted(p.name for p in box.bin.glob("tool*")) == sorted(f"tool{n}" for n in range(15))
    assert [p.name for p in box.bin.iterdir() if p.name.startswith(".")] == []
    assert person.run([str(box.bin / "tool7")]).stdout == "tool\n"
