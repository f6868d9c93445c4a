"""Job control on a real terminal with bash as the parent; the plain interpreter is the control."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from processes import descendants, find_processes, state, wait_for_none, wait_until
from terminal import Terminal

if TYPE_CHECKING:
    from harness import Box, Person

SAY = "import os, signal, sys, time\nsay = lambda *words: os.write(1, (' '.join(map(str, words)) + '\\n').encode())\n"
"""os.write: a handler that prints while the program prints is an error of Python's own."""
COUNTING = SAY + """
signal.signal(signal.SIGCONT, lambda *_: say("continued"))
seen = 0
while True:
    try:
        say("interrupted", seen) if seen else say("started")
        time.sleep(60)
        break
    except KeyboardInterrupt:
        seen += 1
"""
"""It speaks within the try: whoever has read a word may interrupt at once."""
ASKING = SAY + """
signal.signal(signal.SIGCONT, lambda *_: say("continued"))
say("started")
say("got", sys.stdin.readline().strip())
"""
SLEEPING = "import time; print('started', flush=True); time.sleep(60)"


# ---- Ctrl-C and Ctrl-\ ----


def test_ctrl_c_raises_keyboard_interrupt_once(terminal: Terminal, person: Person, place: Path, python: str) -> None:
    person.write(place / "count.py", COUNTING)
    terminal.start(f"{python} count.py")
    terminal.expect("started")
    for n in (1, 2, 3):
        terminal.press("\x03")
        terminal.expect(rf"interrupted {n}\r\n")
        assert "interrupted" not in terminal.settle()
    terminal.press("\x1c")
    terminal.prompt()
    assert terminal.run("echo $?") == "131\n"


def test_ctrl_c_ends_an_unprepared_program(terminal: Terminal, python: str) -> None:
    terminal.start(f'{python} -c "{SLEEPING}"')
    terminal.expect("started")
    terminal.press("\x03")
    shown = terminal.prompt()
    assert shown.count("KeyboardInterrupt") == 1
    assert shown.rstrip("\n").endswith("KeyboardInterrupt")
    assert terminal.run("echo $?") == "130\n"


def test_ctrl_c_ends_a_loop_of_the_shell(terminal: Terminal, python: str) -> None:
    """bash goes on after a command that exits 130 and stops after one that SIGINT killed."""
    terminal.start(f"for i in 1 2 3; do {python} -c \"{SLEEPING}\"; done; echo after")
    terminal.expect("started")
    terminal.press("\x03")
    assert not {"started", "after"} & set(terminal.prompt().splitlines())


def test_ctrl_c_reaches_a_whole_pipeline(terminal: Terminal, python: str) -> None:
    terminal.start(f'{python} -c "{SLEEPING}" | cat')
    terminal.expect("started")
    terminal.press("\x03")
    assert "KeyboardInterrupt" in terminal.prompt()
    assert terminal.run("echo ${PIPESTATUS[*]}") == "130 130\n"


def test_ctrl_c_reaches_children_once(terminal: Terminal, person: Person, place: Path, python: str) -> None:
    parent = (
        "import signal, subprocess, sys\nsignal.signal(signal.SIGINT, lambda *_: None)\n"
        "subprocess.run([sys.executable, 'count.py'])\n"
    )
    person.write(place / "count.py", COUNTING)
    person.write(place / "parent.py", parent)
    terminal.start(f"{python} parent.py")
    terminal.expect("started")
    terminal.press("\x03")
    terminal.expect("interrupted 1\r\n")
    assert "interrupted" not in terminal.settle()
    terminal.press("\x1c")
    terminal.prompt()
    assert terminal.run("echo $?") == "131\n"


# ---- job control ----


def test_ctrl_z_stops_and_fg_goes_on(terminal: Terminal, person: Person, place: Path, python: str) -> None:
    person.write(place / "ask.py", ASKING)
    terminal.start(f"{python} ask.py")
    terminal.expect("started")
    for _ in range(3):
        terminal.press("\x1a")
        assert "Stopped" in terminal.prompt()
        assert "Stopped" in terminal.run("jobs")
        terminal.start("fg")
        terminal.expect("continued\r\n")
    terminal.send("hello\n")
    assert terminal.prompt() == "got hello\n"
    assert terminal.run("jobs; echo $?") == "0\n"


def test_going_on_is_told_once(terminal: Terminal, person: Person, place: Path, python: str) -> None:
    person.write(place / "ask.py", ASKING)
    terminal.start(f"{python} ask.py")
    terminal.expect("started")
    terminal.press("\x1a")
    terminal.prompt()
    terminal.start("fg")
    terminal.expect("continued\r\n")
    assert terminal.settle() == ""
    terminal.send("hello\n")
    assert terminal.prompt() == "got hello\n"


def test_bg_goes_on_in_the_background(terminal: Terminal, person: Person, place: Path, python: str, token: str) -> None:
    loop = SAY + "say('started')\nwhile not os.path.exists('stop'):\n    time.sleep(0.05)\nsay('ended')\n"
    person.write(place / "loop.py", loop)
    terminal.start(f"{python} loop.py {token}")
    terminal.expect("started")
    terminal.send("\x1a")
    assert "Stopped" in terminal.prompt()
    payload = next(pid for pid in find_processes(token) if not descendants(pid))
    assert state(payload) == "T"
    terminal.run("bg")
    assert wait_until(lambda: state(payload) == "S")
    terminal.start("wait %1; echo status $?")
    person.write(place / "stop", "")
    assert {"ended", "status 0"} <= set(terminal.prompt().splitlines())


def test_a_background_command_that_reads_stops(terminal: Terminal, person: Person, place: Path, python: str) -> None:
    person.write(place / "ask.py", ASKING)
    terminal.start(f"{python} ask.py &")
    terminal.expect("started")
    assert wait_until(lambda: "Stopped" in terminal.run("jobs"))
    terminal.start("fg")
    terminal.expect("continued\r\n")
    terminal.send("x\n")
    terminal.expect("got x")


def test_suspending_twice_from_within(terminal: Terminal, person: Person, place: Path, python: str) -> None:
    code = SAY + "for n in (1, 2):\n    os.kill(os.getpid(), signal.SIGTSTP)\n    say('on', n)\n"
    person.write(place / "twice.py", code)
    shown = [terminal.run(f"{python} twice.py")]
    while "Stopped" in shown[-1]:
        shown.append(terminal.run("fg"))
    assert re.findall(r"Stopped|on \d", "".join(shown)) == ["Stopped", "on 1", "Stopped", "on 2"]
    assert terminal.run("jobs") == ""


# ---- the terminal ----


def test_size_and_changes_of_size(terminal: Terminal, person: Person, place: Path, python: str) -> None:
    code = SAY + (
        "show = lambda *_: say(tuple(os.get_terminal_size()))\n"
        "signal.signal(signal.SIGWINCH, show)\nshow()\nwhile True:\n    time.sleep(1)\n"
    )
    person.write(place / "size.py", code)
    terminal.resize(40, 100)
    terminal.start(f"unset COLUMNS LINES; {python} size.py")
    terminal.expect(r"\(100, 40\)\r\n")
    terminal.resize(50, 90)
    terminal.expect(r"\(90, 50\)\r\n")
    terminal.press("\x1c")
    terminal.prompt()


def test_streams_are_terminals(terminal: Terminal, python: str) -> None:
    code = "import os, sys; print([os.isatty(n) for n in (0, 1, 2)], os.isatty(os.open('/dev/tty', os.O_RDWR)))"
    assert terminal.run(f'{python} -c "{code}"') == "[True, True, True] True\n"


def test_passwords_are_read_from_the_terminal(terminal: Terminal, python: str) -> None:
    terminal.start(f"{python} -c \"import getpass; print(getpass.getpass('Secret: ').upper())\" </dev/null")
    terminal.expect("Secret: ")
    terminal.send("abc\n")
    assert terminal.prompt() == "\nABC\n"


def test_an_interactive_interpreter(terminal: Terminal, python: str) -> None:
    terminal.start(f"{python} -q")
    terminal.expect(">>> ")
    terminal.send("6 * 7\n")
    terminal.expect(r"42\r\n")
    terminal.press("\x03")
    terminal.expect("KeyboardInterrupt")
    terminal.expect(">>> ")
    terminal.press("\x04")
    terminal.prompt()


def test_the_terminal_is_left_as_it_was(terminal: Terminal, python: str) -> None:
    before = terminal.run("stty -g")
    terminal.run(f"{python} -c pass")
    assert terminal.run("stty -g") == before


def test_hanging_up_ends_it(person: Person, place: Path, python: str, token: str) -> None:
    made = Terminal(person, place)
    made.start(f'{python} -c "{SLEEPING}" {token}')
    made.expect("started")
    assert find_processes(token)
    made.hang_up()
    assert wait_for_none(token) == []


# ---- the box's shell ----


@pytest.fixture
def shell(person: Person, backend: str, make_box: Callable[..., Box]) -> str:
    return str(make_box(person, backend).bin / "shell")


def test_shell_runs_a_command(person: Person, shell: str, place: Path) -> None:
    done = person.run([shell, "-c", "python -c 'import sys; print(sys.prefix)'; exit 3"], cwd=place)
    assert done.stdout.startswith(str(Path(shell).parent.parent))
    assert (done.returncode, done.stderr) == (3, "")


def test_shell_has_job_control(terminal: Terminal, person: Person, shell: str, place: Path) -> None:
    person.write(place / "count.py", COUNTING)
    terminal.start(f"{shell} --norc --noprofile --noediting")
    terminal.expect(r"[#$] ")
    terminal.send("PS1='inside> '\n")
    terminal.expect("inside> ")
    terminal.send("python count.py\n")
    terminal.expect("started")
    terminal.press("\x03")
    terminal.expect("interrupted 1")
    terminal.press("\x1a")
    assert "job control" not in terminal.expect("Stopped.*inside> ")
    terminal.send("jobs\n")
    terminal.expect("Stopped.*inside> ")
    terminal.send("fg\n")
    terminal.expect("continued\r\n")
    terminal.press("\x03")
    terminal.expect("interrupted 2")
    terminal.press("\x1c")
    terminal.expect("Quit.*inside> ")
    terminal.send("exit 7\n")
    terminal.prompt()
    assert terminal.run("echo $?") == "7\n"
