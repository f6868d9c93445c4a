"""Signals sent to a command, from outside and from within; the plain interpreter is the control."""

from __future__ import annotations

import os
import select
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness import PLAIN
from processes import SECONDS, descendants, state

if TYPE_CHECKING:
    from harness import Person

SLEEPING = "import time; print('started', flush=True); time.sleep(60)"
HANDLING = """
import os, signal, time
def handle(number, frame):
    os.write(1, b"handled %d\\n" % number)
    os._exit(5)
signal.signal({number}, handle)
os.write(1, b"started\\n")
while True:
    time.sleep(0.05)
"""


FATAL = ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGQUIT", "SIGALRM", "SIGKILL", "SIGINT", "SIGXCPU", "SIGRTMIN")


@pytest.mark.parametrize("name", FATAL)
def test_fatal_signals_end_it_with_their_own_status(name: str, person: Person, place: Path, python: str) -> None:
    process = person.start([python, "-c", SLEEPING], cwd=place, stderr=subprocess.STDOUT)
    process.send_signal(getattr(signal, name))
    shown, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == -getattr(signal, name)
    assert ("KeyboardInterrupt" in shown) == (name == "SIGINT")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGUSR1", "SIGINT", "SIGQUIT", "SIGWINCH", "SIGRTMIN"])
def test_handlers_run_for_signals_sent_to_the_command(name: str, person: Person, place: Path, python: str) -> None:
    number = int(getattr(signal, name))
    code = HANDLING.replace("{number}", str(number))
    process = person.start([python, "-c", code], cwd=place)
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
    process = person.start([python, "-c", code], cwd=place)
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


KILLED_BY_TIMEOUT = {
    "timeout {seconds} {python} -c '{sleeping}'; echo $?": "started\n124\n",
    "timeout -s KILL {seconds} {python} -c '{sleeping}'; echo $?": "started\n137\n",
    "timeout -k 0.2 {seconds} {python} -c 'import signal; signal.signal(15, 1); {sleeping}'; echo $?": "started\n137\n",
    "timeout --foreground {seconds} {python} -c '{sleeping}'; echo $?": "started\n124\n",
}


@pytest.mark.parametrize("line", KILLED_BY_TIMEOUT)
def test_timeout_ends_it(line: str, person: Person, place: Path, python: str) -> None:
    """On a loaded machine a short time ends before the program has started: then it gets a longer one."""
    for seconds in (0.3, 2, 15):
        filled = line.format(python=python, seconds=seconds, sleeping=SLEEPING.replace("'", '"'))
        shown = person.run(["bash", "-c", filled], cwd=place).stdout
        if "started" in shown:
            break
    assert shown == KILLED_BY_TIMEOUT[line]


TOOLS = {
    "nohup {python} -c 'print(1)' 2>/dev/null | cat": "1\n",
    "setsid -w {python} -c 'print(1)'": "1\n",
    "{python} -c 'import os; os.kill(os.getpid(), 9)'; echo $?": "137\n",
    "{python} -c '{sleeping}' > out & until grep -q started out; do :; done; kill $!; wait $!; echo $?": "143\n",
}


@pytest.mark.parametrize("line", TOOLS)
def test_tools_that_send_signals_work(line: str, person: Person, place: Path, python: str) -> None:
    filled = line.format(python=python, sleeping=SLEEPING.replace("'", '"'))
    done = person.run(["bash", "-c", filled], cwd=place, timeout=SECONDS)
    assert done.stdout == TOOLS[line]


GROUP_SIGNALS = (signal.SIGUSR1, signal.SIGINT, signal.SIGTERM, signal.SIGCONT, signal.SIGRTMIN)
COUNTING = """
import os, signal, sys
number, last = int(sys.argv[1]), signal.SIGRTMAX
signal.pthread_sigmask(signal.SIG_BLOCK, {number, last})
os.write(1, b"started\\n")
while signal.sigwait({number, last}) == number:
    os.write(1, b"met\\n")
"""


@pytest.mark.parametrize("number", GROUP_SIGNALS, ids=lambda number: number.name)
def test_a_signal_to_the_group_arrives_once(number: signal.Signals, person: Person, python: str) -> None:
    """SIGRTMAX to the command alone comes last: signals of lower numbers go first wherever both are pending."""
    process = person.start([python, "-c", COUNTING, str(int(number))], start_new_session=True)
    os.killpg(process.pid, number)
    assert process.stdout is not None
    assert process.stdout.readline() == "met\n"
    process.send_signal(signal.SIGRTMAX)
    rest = process.stdout.read()  # communicate() would lose what came together with the first line
    assert process.wait(SECONDS) == 0
    assert rest.count("met\n") == 0


def test_kill_stop_and_cont_of_the_command(person: Person, place: Path, python: str) -> None:
    code = "import sys\nprint('started', flush=True)\nfor line in sys.stdin:\n    print(line, end='', flush=True)\n"
    # A group of its own: SIGTSTP stops nobody in an orphaned one, which is what CI may run the tests in.
    streams = {"stdin": subprocess.PIPE, "preexec_fn": os.setpgrp}
    with person.start([python, "-c", code], cwd=place, **streams) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.send_signal(signal.SIGTSTP)
        assert os.WIFSTOPPED(os.waitpid(process.pid, os.WUNTRACED)[1])
        payload = [process.pid, *descendants(process.pid)][-1]
        assert state(payload) == "T"
        process.stdin.write("a\n")
        process.stdin.flush()
        assert not select.select([process.stdout], [], [], 0)[0]
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
