"""Streams, paths, exit statuses and what a command inherits: as with the plain interpreter."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from compat_environments import run_until

from harness import PLAIN

if TYPE_CHECKING:
    from harness import Person

SECONDS = 30


STATUSES = {
    "pass": (0, ""),
    "raise SystemExit(3)": (3, ""),
    "raise SystemExit(255)": (255, ""),
    "raise SystemExit(-1)": (255, ""),
    "import sys; sys.exit('text')": (1, "text\n"),
    "import os; os._exit(7)": (7, ""),
    "raise ValueError('x')": (1, "ValueError: x\n"),
    "syntax error": (1, "SyntaxError: invalid syntax\n"),
    "import os; os.kill(os.getpid(), 9)": (-9, ""),
    "import os; os.abort()": (-6, ""),
    "import os, signal; signal.signal(15, signal.SIG_DFL); os.kill(os.getpid(), 15)": (-15, ""),
    "import os; os.execvp('sh', ['sh', '-c', 'exit 9'])": (9, ""),
}


@pytest.mark.parametrize("code", STATUSES)
def test_exit_statuses_pass_through(code: str, person: Person, python: str) -> None:
    status, last = STATUSES[code]
    done = run_until(SECONDS, person, [python, "-c", code])
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr[-len(last) :] == last
    assert bool(done.stderr) == bool(last)


ERRORS = {
    ("-c",): 2,
    ("--no-such-option",): 2,
    ("/nonexistent.py",): 2,
    ("-m", "no_such_module"): 1,
}


@pytest.mark.parametrize("arguments", ERRORS)
def test_wrong_command_lines_end_as_in_python(arguments: tuple[str, ...], person: Person, python: str) -> None:
    done = run_until(SECONDS, person, [python, *arguments])
    assert done.returncode == ERRORS[arguments]
    assert done.stderr
    assert "vsbox:" not in done.stderr


def test_binary_streams_pass_unchanged(person: Person, python: str) -> None:
    data = bytes(range(256)) * 40_000
    copy = "import sys, shutil; shutil.copyfileobj(sys.stdin.buffer, sys.stdout.buffer)"
    done = run_until(SECONDS, person, [python, "-c", copy], input=data, text=False, errors=None)
    assert done.returncode == 0
    assert done.stdout == data
    assert done.stderr == b""


SHELL_LINES = {
    "echo 'print(6*7)' | {python} -": "42\n",
    "{python} - < prog.py": "from prog\n",
    "{python} - a b <<'E'\nimport sys\nprint(sys.argv)\nE": "['-', 'a', 'b']\n",
    "{python} < prog.py": "from prog\n",
    "{python} prog.py": "from prog\n",
    "{python} ./prog.py": "from prog\n",
    "{python} $PWD/prog.py": "from prog\n",
    "cd / && {python} $OLDPWD/prog.py": "from prog\n",
    "cd .. && {python} $(basename $OLDPWD)/prog.py": "from prog\n",
    "{python} -m prog": "from prog\n",
    "{python} -m package": "from package\n",
    "{python} package": "from package\n",
    "{python} -c 'import prog'": "from prog\n",
    "{python} uses.py": "from prog\nfrom uses\n",
    "ln -sf {python} link && ./link prog.py": "from prog\n",
    "ln -sf link second; ln -sf {python} link && ./second -c 'print(1)'": "1\n",
    "cp prog.py 'with space.py' && {python} 'with space.py'": "from prog\n",
    "{python} -c 'print(1)' | {python} -c 'print(input())' | cat": "1\n",
    "{python} -c 'print(open(0).read())' <<< here": "here\n\n",
    "echo x | {python} -c 'print(open(\"/dev/stdin\").read())'": "x\n\n",
    "{python} -c 'print(open(\"/dev/stdin\").read())' < data": "data\n\n",
    "{python} -c 'open(\"/dev/stdout\", \"w\").write(\"hi\")' | cat": "hi",
    "{python} -c 'open(\"/dev/stderr\", \"w\").write(\"hi\")' 2>&1 | cat": "hi",
    "{python} -c 'open(\"/dev/fd/1\", \"w\").write(\"hi\")' | cat": "hi",
    "{python} -c 'open(\"/dev/stdout\", \"w\").write(\"hi\")' > out; cat out": "hi",
    "{python} -c 'print(1)' > out; {python} -c 'print(2)' >> out; cat out": "1\n2\n",
    "umask 027; {python} -c 'import os; print(oct(os.umask(0)))'": "0o27\n",
    "nice -n 5 {python} -c 'import os; print(os.nice(0))'": "5\n",
    "ulimit -n 77; {python} -c 'import resource as r; print(r.getrlimit(r.RLIMIT_NOFILE)[0])'": "77\n",
    "{python} -c 'print(\"e\")' 2>/dev/null >&2; echo $?": "0\n",
    "yes | {python} -c 'print(input())'": "y\n",
    "{python} -c 'while True: print(1)' 2>/dev/null | head -n 1": "1\n",
    "{python} -c 'print(1)' & wait $!; echo $?": "1\n0\n",
    "for i in 1 2 3; do {python} -c \"print($i)\"; done": "1\n2\n3\n",
    "printf 'a\\nb\\n' | while read l; do {python} -c 'print(1)' </dev/null; done": "1\n1\n",
    "timeout 0.5 {python} -c 'import time; time.sleep(30)'; echo $?": "124\n",
    "(exec {python} -c 'print(1)')": "1\n",
    "(exec -a other {python} -c 'print(1)')": "1\n",
    "env -i {python} -c 'print(1)'": "1\n",
    "PYTHONPATH=$PWD; cd /; PYTHONPATH=$OLDPWD {python} -c 'print(1)'": "1\n",
}


@pytest.mark.parametrize("line", SHELL_LINES)
def test_shell_lines_do_what_they_always_did(line: str, person: Person, python: str, place: Path) -> None:
    person.write(place / "prog.py", "print('from prog')\n")
    person.write(place / "uses.py", "import prog\nprint('from uses')\n")
    person.write(place / "data", "data\n")
    (place / "package").mkdir()
    person.write(place / "package" / "__main__.py", "print('from package')\n")
    command = ["bash", "-c", line.replace("{python}", python)]
    done = run_until(SECONDS, person, command, cwd=place)
    assert (done.stdout, done.stderr) == (SHELL_LINES[line], "")


def test_the_working_directory_is_the_same(person: Person, python: str, place: Path) -> None:
    done = run_until(SECONDS, person, [python, "-c", "import os; print(os.getcwd())"], cwd=place)
    assert done.stdout == f"{place}\n"


def test_a_script_in_tmp_runs(person: Person, python: str) -> None:
    script = Path("/tmp") / f"vsbox-compat-{os.getpid()}.py"
    person.write(script, "import sys; print(sys.argv[0])\n")
    try:
        done = run_until(SECONDS, person, [python, str(script)])
        relative = run_until(SECONDS, person, [python, script.name], cwd="/tmp")
    finally:
        script.unlink()
    assert (done.stdout, done.stderr) == (f"{script}\n", "")
    assert (relative.stdout, relative.stderr) == (f"{script.name}\n", "")


def test_many_and_long_arguments_arrive(person: Person, python: str) -> None:
    long, many = "x" * 131_000, [str(n) for n in range(10_000)]
    count = "import sys; print(len(sys.argv), len(sys.argv[1]), sys.argv[-1])"
    done = run_until(SECONDS, person, [python, "-c", count, long, *many])
    assert done.stdout == "10002 131000 9999\n"


def test_arguments_arrive_as_they_are(person: Person, python: str) -> None:
    odd = ["", " ", "a\nb", "'\"", "$HOME", "*", "\udcff", "é", "--", "-x", "\\"]
    done = run_until(SECONDS, person, [python, "-c", "import sys; print(ascii(sys.argv[1:]))", *odd])
    assert done.stdout == f"{odd!a}\n"


def test_the_limit_on_arguments_is_the_kernels(person: Person, python: str) -> None:
    with pytest.raises(OSError, match="too long"):
        run_until(SECONDS, person, [python, "-c", "pass", "x" * 200_000])
    limit = resource.getrlimit(resource.RLIMIT_STACK)[0]
    done = run_until(SECONDS, person, [python, "-c", "import os; print(os.sysconf('SC_ARG_MAX'))"])
    assert int(done.stdout) == (os.sysconf("SC_ARG_MAX") if limit > 0 else int(done.stdout))


def test_start_prints_nothing_of_its_own(person: Person, python: str) -> None:
    done = run_until(SECONDS, person, [python, "-c", "pass"])
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_obstacle(closed: str, person: Person, python: str, place: Path) -> None:
    code = f"open('{place}/done', 'w').write('x')" if python == PLAIN else "import os; os._exit(6)"
    done = run_until(SECONDS, person, ["bash", "-c", f'"$0" -c "{code}" {closed}; echo $?', python], cwd=place)
    assert done.stdout == ("0\n" if python == PLAIN else "6\n")


def test_output_streams_while_running(person: Person, python: str) -> None:
    code = "import sys; print('first', flush=True); input(); print('second')"
    with person.popen([python, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "first\n"
        process.stdin.write("\n")
        process.stdin.close()
        assert process.stdout.read() == "second\n"
    assert process.returncode == 0


def test_the_same_python_inside(person: Person, python: str) -> None:
    done = run_until(SECONDS, person, [python, "-c", "import sys; print(sys.version)"])
    assert done.stdout == run_until(SECONDS, person, [PLAIN, "-c", "import sys; print(sys.version)"]).stdout
    assert done.stdout.strip() == sys.version
