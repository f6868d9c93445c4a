"""``vsbox python``: one confined run on the caller's own streams."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness import VSBOX
from processes import find_processes, wait_for_none
from terminal import Terminal
from vsbox.launch.foreground import find_script

if TYPE_CHECKING:
    from harness import Person

TIERS = ("native", "landlock")
READ = "import sys; print(open(sys.argv[1]).read())"


@pytest.fixture(params=TIERS)
def run(request: pytest.FixtureRequest, person: Person) -> Callable[..., subprocess.CompletedProcess[str]]:
    """A function that runs ``vsbox python`` in each tier."""
    return lambda *words, **options: person.vsbox("python", "--backend", request.param, *words, **options)


@pytest.mark.parametrize(
    ("words", "index"),
    [
        ("prog.py", 0), ("-I prog.py -c", 1), ("-X dev -W error prog.py", 4), ("-Xdev prog.py", 1), ("-BW error p", 2),
        ("--check-hash-based-pycs always p", 2), ("-c pass", None), ("-Bc pass", None), ("-m module", None),
        ("- x", None), ("", None), ("-i", None), ("-V", None),
    ],
)  # fmt: skip
def test_the_script_is_found_as_python_finds_it(words: str, index: int | None) -> None:
    assert find_script(words.split()) == index


def test_code_runs_confined(run, person: Person, place: Path) -> None:
    secret = person.write(place / "secret", "kept")
    done = run("-c", READ, secret)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(("FileNotFoundError", "PermissionError"))
    assert run("--read", place, "-c", READ, secret).stdout == "kept\n"


def test_streams_are_the_callers_and_the_status_is_the_codes(run, person: Person, place: Path) -> None:
    code = "import sys; print(*sys.argv[1:], sys.stdin.read()); sys.stderr.write('e'); sys.exit(7)"
    person.write(place / "prog.py", code)
    done = run("prog.py", "--network", "-h", input="typed", cwd=place)
    assert (done.returncode, done.stdout, done.stderr) == (7, "--network -h typed\n", "e")
    assert run(input="print(6 * 7)").stdout == "42\n"


def test_writing_takes_a_grant(run, person: Person, place: Path) -> None:
    code = "import os, sys; open(os.path.join(sys.argv[1], 'new'), 'w').write('x')"
    assert run("--read", place, "-c", code, place).returncode == 1
    assert not (place / "new").exists()
    assert run("--write", place, "-c", code, place).returncode == 0
    assert (place / "new").read_text() == "x"
    (place / "new").unlink()
    assert run("--workdir", place, "-c", code, ".").returncode == 0
    assert (place / "new").read_text() == "x"


@pytest.mark.parametrize("person", ["user"], indirect=True)
def test_no_link_is_followed_where_code_inside_may_write(run, person: Person, place: Path) -> None:
    secret = person.write(place / "secret", "kept")
    work = person.directory("work")
    (work / "data").symlink_to(secret)
    (work / "prog.py").symlink_to(secret)
    try:
        for words in (("--read", work / "data", "-c", READ, secret), (work / "prog.py",)):
            done = run("--workdir", work, *words)
            assert done.returncode == 2, done.stderr
            assert "code inside could have made" in done.stderr
    finally:
        shutil.rmtree(work)


def test_limits_end_it_and_say_so(run) -> None:
    began = time.monotonic()
    done = run("--timeout", "0.5", "-c", "import time; time.sleep(60)")
    assert (done.returncode, time.monotonic() - began < 20) == (124, True)
    assert "ran for too long" in done.stderr
    done = run("--memory", "64M", "-c", "x = b'x' * (1 << 28); import time; time.sleep(60)")
    assert done.returncode == 137
    assert "too much memory" in done.stderr


@pytest.mark.parametrize("person", ["user"], indirect=True)
def test_death_by_a_signal_is_passed_on(run) -> None:
    assert run("-c", "import os; os.kill(os.getpid(), 11)").returncode == 139
    assert run("-c", "import os; os.kill(os.getpid(), 15)").returncode == -15


@pytest.mark.parametrize("person", ["user"], indirect=True)
def test_packages_of_a_box(person: Person, make_box) -> None:
    root = make_box(person, "native").root
    done = person.vsbox("python", "--packages", root, "-c", "import sys; print(sys.prefix)")
    assert done.stdout == f"{root}\n"


DIRECTORY_AS_INPUT = """
import os, sys
from vsbox.launch.cell import Wanted, prepare, start
from vsbox.launch.limits import Limits
prepared = prepare(Wanted(backend=sys.argv[1]), {})
code = "cd /proc/self/fd/0 && cat shadow"
running = start(prepared, ("/bin/sh", "-c", code), Limits(), stdin=os.open("/etc", os.O_RDONLY))
print(running.finish(20), running.stdout.kept)
"""


@pytest.mark.parametrize("tier", ["native", "landlock"])
def test_a_directory_as_input_opens_no_disk(tier: str) -> None:
    done = subprocess.run([sys.executable, "-c", DIRECTORY_AS_INPUT, tier], capture_output=True, text=True, check=False)
    assert "standard stream 0 is a directory" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("person", ["user"], indirect=True)
@pytest.mark.parametrize(
    "words",
    [
        ["--memory", "3x"], ["--workdir", "/etc/passwd"], ["/nonexistent/prog.py"],
        ["--timeout", "inf"], ["--timeout", "nan"], ["--timeout", "1e12"],
    ],
)  # fmt: skip
def test_nonsense_is_refused(person: Person, words: list[str]) -> None:
    done = person.vsbox("python", *words, "-c", "print('ran')")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


HANDLING = """
import signal, sys, time
def end(number, _):
    print("handled", flush=True)
    sys.exit(5)
signal.signal(signal.SIGTERM, end)
print("started", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("tier", TIERS)
def test_signals_reach_the_code_and_nothing_survives(person: Person, tier: str, token: str) -> None:
    command = [*VSBOX, "python", "--backend", tier, "-c", HANDLING, token]
    process = person.start(command)
    process.terminate()
    assert (process.stdout.read(), process.wait(20)) == ("handled\n", 5)
    process = person.start(command)
    process.send_signal(signal.SIGKILL)
    process.wait(20)
    process.stdout.close()
    assert wait_for_none(token) == []


@pytest.mark.parametrize("person", ["user"], indirect=True)
@pytest.mark.parametrize("tier", TIERS)
def test_a_prompt_on_a_terminal(terminal: Terminal, tier: str) -> None:
    terminal.run("export PYTHON_BASIC_REPL=1")
    terminal.start(f"{sys.executable} -m vsbox python --backend {tier}")
    terminal.expect(">>> ")
    terminal.send("import os; os.isatty(0) and os.isatty(1)\n")
    terminal.expect(r"True\r\n>>> ")
    terminal.send("import time; time.sleep(60)\n")
    terminal.press("\x03")
    assert terminal.expect(">>> ").count("KeyboardInterrupt") == 1
    terminal.send("\x1a")
    terminal.prompt()
    terminal.send("fg\n")
    terminal.send("print('back')\n")
    terminal.expect("back")
    terminal.send("exit(3)\n")
    terminal.prompt()
    assert terminal.run("echo $?") == "3\n"


@pytest.mark.parametrize("person", ["user"], indirect=True)
def test_ctrl_c_ends_an_unprepared_program(terminal: Terminal, token: str) -> None:
    command = f"{sys.executable} -m vsbox python -c 'import time; print(\"started\"); time.sleep(60)' {token}"
    terminal.start(f"for i in 1 2; do {command}; done; echo after")
    terminal.expect("started")
    terminal.press("\x03")
    shown = terminal.prompt()
    assert shown.count("KeyboardInterrupt") == 1
    assert "after" not in shown.splitlines()
    assert not find_processes(token)
