"""Signals and job control on a real terminal with bash as the parent; the plain interpreter is the control."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
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
PROMPT = "@ready@ "
SECONDS = 20


class Terminal:
    """A bash that believes it sits at a terminal, and what it has shown so far."""

    def __init__(self, person: Person, cwd: Path) -> None:
        self.master, slave = pty.openpty()
        if person.uid != os.geteuid():
            os.fchown(slave, person.uid, person.gid)
        self.shown = ""
        environment = person.environment | {"PS1": PROMPT, "HISTFILE": "", "INPUTRC": os.devnull}
        command = ["setsid", "--ctty", "bash", "--norc", "--noprofile", "--noediting", "-i"]
        streams = {"stdin": slave, "stdout": slave, "stderr": slave}
        self.bash = person.popen(command, env=environment, cwd=cwd, **streams)
        os.close(slave)
        self.expect(re.escape(PROMPT))
        self.run("stty -echo")

    def _read(self, seconds: float) -> None:
        if not select.select([self.master], [], [], seconds)[0]:
            raise AssertionError(f"nothing came; shown so far: {self.shown!r}")
        try:
            self.shown += os.read(self.master, 65536).decode(errors="replace")
        except OSError:
            raise AssertionError(f"the terminal was closed; shown so far: {self.shown!r}") from None

    def expect(self, pattern: str) -> str:
        """Return what was shown up to and with the pattern, which must come."""
        end = time.monotonic() + SECONDS
        while not (found := re.search(pattern, self.shown, re.DOTALL)):
            self._read(max(0, end - time.monotonic()))
        text, self.shown = self.shown[: found.end()], self.shown[found.end() :]
        return text.replace("\r\n", "\n")

    def send(self, text: str) -> None:
        os.write(self.master, text.encode())

    def press(self, key: str) -> None:
        """Send a control key once the program had time to get from its last word to its next wait."""
        time.sleep(0.15)
        self.send(key)

    def start(self, command: str) -> None:
        self.send(command + "\n")

    def prompt(self) -> str:
        """Return what was shown before the next prompt."""
        return self.expect(re.escape(PROMPT)).removesuffix(PROMPT)

    def run(self, command: str) -> str:
        self.start(command)
        return self.prompt()

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def close(self) -> None:
        self.bash.kill()
        os.close(self.master)
        self.bash.wait()


@pytest.fixture(params=["plain", "native", "landlock"])
def python(request: pytest.FixtureRequest, person: Person, make_box: Callable[..., Box]) -> str:
    """The interpreter as a control, and that of a box in each tier."""
    if request.param == "plain":
        return PLAIN
    return str(make_box(person, request.param).bin / "python")


@pytest.fixture
def place(person: Person) -> Iterator[Path]:
    made = person.directory("signals")
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def terminal(person: Person, place: Path) -> Iterator[Terminal]:
    made = Terminal(person, place)
    yield made
    made.close()


SAY = "import os, signal, sys, time\nsay = lambda *words: os.write(1, (' '.join(map(str, words)) + '\\n').encode())\n"
"""os.write: a handler that prints while the program prints is an error of Python's own."""
COUNTING = SAY + """
signal.signal(signal.SIGCONT, lambda *_: say("continued"))
seen = 0
while True:
    try:
        if not seen:
            say("started")
        time.sleep(20)
        break
    except KeyboardInterrupt:
        seen += 1
        say("interrupted", seen)
"""
HANDLING = SAY + """
def handle(number, frame):
    say("handled", int(number))
    os._exit(5)
for number in {numbers}:
    signal.signal(number, handle)
say("started")
while True:
    time.sleep(0.05)
"""
ASKING = SAY + """
signal.signal(signal.SIGCONT, lambda *_: say("continued"))
say("started")
say("got", sys.stdin.readline().strip())
"""
SLEEPING = "import time; print('started', flush=True); time.sleep(30)"


# ---- Ctrl-C and Ctrl-\ ----


def test_ctrl_c_raises_keyboard_interrupt_once(terminal: Terminal, person: Person, place: Path, python: str) -> None:
    person.write(place / "count.py", COUNTING)
    terminal.start(f"{python} count.py")
    terminal.expect("started")
    for n in (1, 2, 3):
        terminal.press("\x03")
        terminal.expect(rf"interrupted {n}\r\n")
        time.sleep(0.2)
        assert "interrupted" not in terminal.shown
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
    assert "started" not in terminal.prompt()


def test_ctrl_c_reaches_a_whole_pipeline(terminal: Terminal, python: str) -> None:
    terminal.start(f'{python} -c "{SLEEPING}" | cat')
    terminal.expect("started")
    terminal.press("\x03")
    assert "KeyboardInterrupt" in terminal.prompt()
    assert terminal.run("echo ${PIPESTATUS[*]}").split()[0] in {"130", "0"}


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
    time.sleep(0.2)
    assert "interrupted" not in terminal.shown
    terminal.press("\x1c")
    terminal.prompt()
    assert terminal.run("echo $?") == "131\n"


# ---- signals sent to the command ----


def _started(person: Person, argv: list[str], cwd: Path) -> subprocess.Popen[str]:
    process = person.popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=cwd)
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    return process


FATAL = ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGQUIT", "SIGALRM", "SIGKILL", "SIGINT", "SIGXCPU", "SIGRTMIN")


@pytest.mark.parametrize("name", FATAL)
def test_fatal_signals_end_it_with_their_own_status(name: str, person: Person, place: Path, python: str) -> None:
    process = _started(person, [python, "-c", SLEEPING], place)
    process.send_signal(getattr(signal, name))
    shown, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == -getattr(signal, name)
    assert ("KeyboardInterrupt" in shown) == (name == "SIGINT")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGUSR1", "SIGINT", "SIGQUIT", "SIGWINCH", "SIGRTMIN"])
def test_handlers_run_for_signals_sent_to_the_command(name: str, person: Person, place: Path, python: str) -> None:
    number = int(getattr(signal, name))
    code = HANDLING.replace("{numbers}", f"[{number}]")
    process = _started(person, [python, "-c", code], place)
    process.send_signal(number)
    shown, _ = process.communicate(timeout=SECONDS)
    assert shown == f"handled {number}\n"
    assert process.returncode == 5


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_ignored_signals_stay_ignored(name: str, person: Person, place: Path, python: str) -> None:
    """An ignored signal is inherited through exec, as nohup needs it."""
    code = "import signal; print(signal.getsignal(signal." + name + ") == signal.SIG_IGN)"
    line = f"trap '' {name.removeprefix('SIG')}; \"$0\" -c '{code}'"
    assert person.run(["bash", "-c", line, python], cwd=place).stdout == "True\n"


def test_blocked_signals_and_dispositions_are_inherited(person: Person, place: Path, python: str) -> None:
    code = "import signal; print(sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, []))))"
    plain = person.run([PLAIN, "-c", code], cwd=place).stdout
    assert person.run([python, "-c", code], cwd=place).stdout == plain
    start = f"os.execv({python!r}, ['python', '-c', {code!r}])"
    held = f"import os, signal; signal.pthread_sigmask(signal.SIG_BLOCK, [10]); {start}"
    assert person.run([PLAIN, "-c", held], cwd=place).stdout == "[10]\n"
    states = "print([line for line in open('/proc/self/status') if line[:6] in ('SigBlk', 'SigIgn', 'SigCgt')])"
    assert person.run([python, "-c", states]).stdout == person.run([PLAIN, "-c", states]).stdout


def test_a_stubborn_program_outlives_sigterm_and_falls_to_sigkill(person: Person, place: Path, python: str) -> None:
    code = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SLEEPING
    process = _started(person, [python, "-c", code], place)
    process.terminate()
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    process.kill()
    assert process.wait(SECONDS) == -signal.SIGKILL


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGPIPE])
def test_a_crash_shows_as_a_crash(number: int, person: Person, place: Path, python: str) -> None:
    code = f"import os, signal; signal.signal({int(number)}, signal.SIG_DFL); os.kill(os.getpid(), {int(number)})"
    done = person.run([python, "-c", code], cwd=place, timeout=SECONDS)
    assert (done.returncode, done.stdout, done.stderr) == (-number, "", "")
    assert not list(place.iterdir())


def test_a_real_segmentation_fault(person: Person, place: Path, python: str) -> None:
    done = person.run([python, "-c", "import ctypes; ctypes.string_at(0)"], cwd=place, timeout=SECONDS)
    assert done.returncode == -signal.SIGSEGV


TIMEOUTS = {
    "timeout 0.4 {python} -c '{sleeping}'; echo $?": "started\n124\n",
    "timeout -s KILL 0.4 {python} -c '{sleeping}'; echo $?": "started\n137\n",
    "timeout -k 0.4 0.4 {python} -c 'import signal; signal.signal(15, 1); {sleeping}'; echo $?": "started\n137\n",
    "timeout --foreground 0.4 {python} -c '{sleeping}'; echo $?": "started\n124\n",
    "nohup {python} -c 'print(1)' 2>/dev/null | cat": "1\n",
    "setsid -w {python} -c 'print(1)'": "1\n",
    "{python} -c '{sleeping}' & sleep 0.4; kill $!; wait $!; echo $?": "started\n143\n",
    "{python} -c 'import os; os.kill(os.getpid(), 9)'; echo $?": "137\n",
}


@pytest.mark.parametrize("line", TIMEOUTS)
def test_tools_that_send_signals_work(line: str, person: Person, place: Path, python: str) -> None:
    filled = line.format(python=python, sleeping=SLEEPING.replace("'", '"'))
    done = person.run(["bash", "-c", filled], cwd=place, timeout=SECONDS)
    assert done.stdout == TIMEOUTS[line]


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGINT, signal.SIGTERM, signal.SIGCONT])
def test_a_signal_to_the_group_arrives_once(request, number: int, person: Person, place: Path, python: str) -> None:
    """Process managers signal the group; the payload is in it and must not get the launcher's copy as well."""
    code = SAY + (
        f"signal.signal({int(number)}, lambda *_: say('handled'))\nsay('started')\n"
        "end = time.time() + 0.7\nwhile time.time() < end:\n    time.sleep(0.05)\n"
    )
    process = person.popen([python, "-c", code], stdout=subprocess.PIPE, cwd=place, start_new_session=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    os.killpg(process.pid, number)
    handled = process.communicate(timeout=SECONDS)[0]
    if "landlock" in request.node.name:  # a documented limit: init keeps out of the group, and nobody is its witness
        assert handled in {"handled\n", "handled\nhandled\n"}
    else:
        assert handled == "handled\n"


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
    time.sleep(0.3)
    terminal.send("hello\n")
    assert terminal.prompt() == "got hello\n"


def test_bg_goes_on_in_the_background(terminal: Terminal, person: Person, place: Path, python: str) -> None:
    loop = SAY + "say('started')\nwhile not os.path.exists('stop'):\n    time.sleep(0.05)\nsay('ended')\n"
    person.write(place / "loop.py", loop)
    terminal.start(f"{python} loop.py")
    terminal.expect("started")
    terminal.press("\x1a")
    assert "Stopped" in terminal.prompt()
    terminal.run("touch stop")
    time.sleep(0.3)
    assert "ended" not in terminal.shown
    terminal.run("bg")
    terminal.start("wait %1; echo status $?")
    shown = terminal.expect(r"status \d+")
    assert "ended" in shown
    assert shown.endswith("status 0")


def test_a_background_command_that_reads_stops(terminal: Terminal, person: Person, place: Path, python: str) -> None:
    person.write(place / "ask.py", ASKING)
    terminal.start(f"{python} ask.py &")
    terminal.expect("started")
    end = time.monotonic() + SECONDS
    while "Stopped" not in terminal.run("jobs"):
        assert time.monotonic() < end
        time.sleep(0.1)
    terminal.start("fg")
    terminal.expect("continued\r\n")
    terminal.send("x\n")
    terminal.expect("got x")


def test_kill_stop_and_cont_of_the_command(person: Person, place: Path, python: str) -> None:
    code = "import sys\nprint('started', flush=True)\nfor line in sys.stdin:\n    print(line, end='', flush=True)\n"
    # A group of its own: SIGTSTP stops nobody in an orphaned one, which is what CI may run the tests in.
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "preexec_fn": os.setpgrp}
    with person.popen([python, "-c", code], cwd=place, **streams) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        process.send_signal(signal.SIGTSTP)
        assert os.WIFSTOPPED(os.waitpid(process.pid, os.WUNTRACED)[1])
        process.stdin.write("a\n")
        process.stdin.flush()
        assert not select.select([process.stdout], [], [], 0.5)[0]
        process.send_signal(signal.SIGCONT)
        assert process.stdout.readline() == "a\n"
        process.send_signal(signal.SIGSTOP)
        assert os.WIFSTOPPED(os.waitpid(process.pid, os.WUNTRACED)[1])
        process.send_signal(signal.SIGCONT)
        process.stdin.write("b\n")
        process.stdin.close()
        assert process.stdout.readline() == "b\n"
    assert process.returncode == 0


def test_a_program_that_stops_itself_is_seen_and_goes_on(person: Person, place: Path, python: str) -> None:
    code = "import os, signal; os.kill(os.getpid(), signal.SIGSTOP); print('on')"
    with person.popen([python, "-c", code], cwd=place, stdout=subprocess.PIPE) as process:
        assert os.WIFSTOPPED(os.waitpid(process.pid, os.WUNTRACED)[1])
        process.send_signal(signal.SIGCONT)
        assert process.communicate(timeout=SECONDS)[0] == "on\n"
    assert process.returncode == 0


def test_suspending_twice_from_within(request, terminal: Terminal, person: Person, place: Path, python: str) -> None:
    code = SAY + "for n in (1, 2):\n    os.kill(os.getpid(), signal.SIGTSTP)\n    say('on', n)\n"
    person.write(place / "twice.py", code)
    assert "Stopped" in terminal.run(f"{python} twice.py")
    assert "on 1\n" in (shown := terminal.run("fg"))
    if "landlock" in request.node.name:  # a documented limit: a stop right after a continue may be undone by it
        assert "on 2\n" in (shown if "Stopped" not in shown else terminal.run("fg"))
        return
    assert "Stopped" in shown
    assert "on 2\n" in terminal.run("fg")
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


def test_hanging_up_ends_it(person: Person, place: Path, python: str) -> None:
    made = Terminal(person, place)
    made.start(f"echo $$; {python} -c \"import os; print('pid', os.getpid()); {SLEEPING}\" {place}/token")
    made.expect("started")
    os.close(made.master)
    made.bash.wait(SECONDS)
    assert wait_for_none(f"{place}/token") == []


def wait_for_none(token: str) -> list[int]:
    """Return the processes with a word on their command line, once none is left or after a while."""
    end = time.monotonic() + 8
    while (found := find_processes(token)) and time.monotonic() < end:
        time.sleep(0.05)
    return found


def find_processes(token: str) -> list[int]:
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if token.encode() in (directory / "cmdline").read_bytes():
                found.append(int(directory.name))
    return found


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
