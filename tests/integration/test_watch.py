"""Runs that are watched: what programs below Python are denied, mode log, previews, and the guard alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from planted import extension, wheel

from harness import Box, Person

PAIRS = [("user", "native"), ("user", "landlock"), ("root", "native"), ("user", "bubblewrap")]
everyone = pytest.mark.parametrize(("person", "backend"), PAIRS, indirect=True)
by_user = pytest.mark.parametrize("person", ["user"], indirect=True)
both = pytest.mark.parametrize("person", ["root", "user"], indirect=True)

TATTLER = """
import subprocess
from tattler import quiet
def by_shell(path):
    return subprocess.run(["sh", "-c", 'cat "$1"; :', "sh", path], stderr=subprocess.DEVNULL).returncode
def by_python(path):
    try:
        open(path)
    except OSError:
        pass
"""


@pytest.fixture(scope="module")
def tattler(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return extension(tmp_path_factory.mktemp("extension"))


@pytest.fixture
def stand(place: Path, person: Person) -> Path:
    """Where commands start: granted for reading."""
    (place / "stand").mkdir()
    os.chown(place / "stand", person.uid, person.gid)
    return place / "stand"


@pytest.fixture
def canary(place: Path, person: Person) -> Path:
    """A file that nothing grants."""
    (place / "private").mkdir()
    os.chown(place / "private", person.uid, person.gid)
    return person.write(place / "private" / "canary", "a canary\n")


@pytest.fixture(scope="module")
def boxes(make_box: Callable[..., Box]) -> Iterator[Callable[..., Box]]:
    """Boxes of this module by person, backend and options."""
    made: dict[tuple[object, ...], Box] = {}

    def get(person: Person, backend: str, *options: str) -> Box:
        key = (person.uid, backend, options)
        if key not in made:
            made[key] = make_box(person, backend, *options, fresh=True)
        shutil.rmtree(made[key].root / "sandbox" / "runs", ignore_errors=True)
        return made[key]

    yield get
    for box in made.values():
        shutil.rmtree(box.root.parent, ignore_errors=True)


def watched(box: Box, cwd: Path, *argv: object, **environment: str) -> subprocess.CompletedProcess[str]:
    words = [str(box.root / "sandbox" / "exec"), *map(str, argv)]
    return box.person.run(words, cwd=cwd, env=box.person.environment | {"VSBOX_REPORT": "1"} | environment)


def report(box: Box, *options: str) -> list[dict[str, Any]]:
    done = box.person.vsbox("report", "--json", *options, box.root, check=True)
    found: list[dict[str, Any]] = json.loads(done.stdout)["records"]
    return found


def told(box: Box, target: Path, verdict: str = "denied") -> list[dict[str, Any]]:
    return [r for r in report(box, "--last") if r["target"] == str(target) and r["verdict"] == verdict]


# ---- below Python ----


@everyone
def test_what_a_shell_and_an_extension_are_denied_is_their_packages(
    person: Person, backend: str, boxes: Callable[..., Box], stand: Path, canary: Path, tattler: bytes
) -> None:
    box = boxes(person, backend)
    made = wheel(person, stand, "tattler", "3.1", TATTLER, quiet__so=tattler)
    pip = [box.bin / "pip", "install", "-q", "--disable-pip-version-check", "--no-index", "--force-reinstall", made]
    person.run(pip, cwd=stand, check=True)
    for function in ("by_shell", "quiet.look", "by_python"):
        done = watched(box, stand, "python", "-c", f"import tattler; tattler.{function}({str(canary)!r})")
        assert done.returncode == 0, done.stderr
        found = told(box, canary)
        assert [r["distribution"] for r in found] == ["tattler 3.1"], (function, report(box, "--last"))
        assert found[0]["allow"] == f"vsbox allow --read {box.root} {canary}"
        assert "tattler 3.1" in done.stderr
        assert str(canary) in done.stderr
    assert found[0]["where"].endswith("/site-packages/tattler/__init__.py:8")


@everyone
def test_a_program_alone_is_watched(
    person: Person, backend: str, boxes: Callable[..., Box], stand: Path, canary: Path
) -> None:
    box = boxes(person, backend)
    done = watched(box, stand, "sh", "-c", f"cat {canary}; echo x > {canary.parent}/new; cat own; echo done")
    assert done.stdout == "done\n"
    assert [(r["operation"], r["program"]) for r in told(box, canary)] == [("read", "cat")]
    assert [r["operation"] for r in told(box, canary.parent / "new")] == ["write"]
    assert not (canary.parent / "new").exists()


@everyone
def test_a_watched_run_is_as_confined(
    person: Person, backend: str, boxes: Callable[..., Box], stand: Path, canary: Path
) -> None:
    """The same attempts with and without: what is denied is denied, what works works."""
    box = boxes(person, backend)
    code = (
        "import asyncio, ctypes, json, multiprocessing, os, socket, sqlite3, subprocess, sys, tempfile, threading\n"
        "def attempt(f):\n    try:\n        return repr(f())[:40]\n    except BaseException as e:\n"
        "        return type(e).__name__.replace('Sandbox', '') + str(getattr(e, 'errno', ''))\n"
        "c = sys.argv[1]\n"
        "print(json.dumps([attempt(f) for f in (\n"
        "  lambda: os.open(c, os.O_RDONLY), lambda: os.listdir(os.path.dirname(c)), lambda: os.open(c, os.O_WRONLY),\n"
        "  lambda: os.chmod(c, 0o600), lambda: os.utime(c), lambda: os.truncate(c, 0), lambda: os.rename(c, c + '2'),\n"
        "  lambda: os.symlink('a', os.path.dirname(c) + '/l'), lambda: os.chmod('/usr/bin/env', 0o755),\n"
        "  lambda: ctypes.CDLL(None, use_errno=True).ptrace(16, os.getppid(), 0, 0),\n"
        "  lambda: ctypes.CDLL(None, use_errno=True).unshare(0x10000000),\n"
        "  lambda: ctypes.CDLL(None, use_errno=True).mount(b'a', b'/tmp', b'tmpfs', 0, 0),\n"
        "  lambda: open('/proc/sys/kernel/core_pattern', 'w'),\n"
        "  lambda: subprocess.run(['sh', '-c', 'exit 3']).returncode,\n"
        "  lambda: tempfile.NamedTemporaryFile().write(b'x'),\n"
        "  lambda: sqlite3.connect(':memory:').execute('select 1').fetchone(),\n"
        "  lambda: asyncio.run(asyncio.sleep(0)), lambda: os.access('/usr/bin/env', os.X_OK),\n"
        "  lambda: os.stat('/none').st_size, lambda: open(os.path.expanduser('~/own'), 'w').write('x'),\n"
        "  lambda: socket.create_server(('127.0.0.1', 0)).getsockname()[0],\n"
        ")]))"
    )
    words = [str(box.bin / "python"), "-c", code, str(canary)]
    plain = person.run(words, cwd=stand)
    seen = person.run(words, cwd=stand, env=person.environment | {"VSBOX_REPORT": "1"})
    assert seen.returncode == plain.returncode == 0, seen.stderr
    assert json.loads(seen.stdout.splitlines()[-1]) == json.loads(plain.stdout.splitlines()[-1])
    assert canary.read_text() == "a canary\n"


@everyone
def test_forged_notes_hide_nothing(
    person: Person, backend: str, boxes: Callable[..., Box], stand: Path, canary: Path
) -> None:
    """Code inside may speak as the guard does; what the kernel saw is told all the same."""
    box = boxes(person, backend)
    note = "/.vsbox-observer/" + "\x1f".join(("read", "/somewhere/else", "innocent 1", "x.py:1", ""))
    code = f"import os; os.access({note!r}, 0); os.access('/.vsbox-observer/rubbish', 0); os.system('cat {canary}')"
    watched(box, stand, "python", "-S", "-c", code)
    assert told(box, canary)
    for operation in ("resolve", "connect", "read", "look", "call", "execute", "write"):
        note = "/.vsbox-observer/" + "\x1f".join((operation, str(canary), "innocent 1", "x.py:1", ""))
        code = f"import os; os.access({note!r}, 0)\ntry:\n    open({str(canary)!r})\nexcept OSError:\n    pass"
        watched(box, stand, "python", "-S", "-c", code)
        assert told(box, canary), operation


@by_user
def test_nothing_is_watched_that_nobody_asked_for(person: Person, boxes: Callable[..., Box], stand: Path) -> None:
    box = boxes(person, "native")
    box.python("print(1)", cwd=stand)
    assert not (box.root / "sandbox" / "runs").exists()
    assert box.python("import os; print(os.access('/.vsbox-observer', 0))", cwd=stand).stdout == "False\n"


@both
def test_reports_are_out_of_reach_of_code_inside(person: Person, boxes: Callable[..., Box], stand: Path) -> None:
    box = boxes(person, "landlock")
    watched(box, stand, "true")
    (run,) = (box.root / "sandbox" / "runs").iterdir()
    for code in (f"open({str(run)!r}).read()", f"open({str(run)!r}, 'a')", f"import os; os.remove({str(run)!r})"):
        assert "Error" in box.python(code, cwd=stand).stderr
    assert run.exists()


@by_user
def test_twenty_reports_are_kept(person: Person, boxes: Callable[..., Box], stand: Path) -> None:
    box = boxes(person, "native")
    watched(box, stand, "true")
    runs = box.root / "sandbox" / "runs"
    (first,) = runs.iterdir()
    for number in range(25):
        person.write(runs / f"20200101-0000{number:02}-1.jsonl", first.read_text())
    watched(box, stand, "true")
    kept = sorted(path.name for path in runs.iterdir())
    assert len(kept) == 20
    assert first.name in kept


@by_user
def test_signals_end_a_watched_run_as_ever(person: Person, boxes: Callable[..., Box], stand: Path, token: str) -> None:
    box = boxes(person, "native")
    environment = person.environment | {"VSBOX_REPORT": "1"}
    code = (
        "import time\nprint('started', flush=True)\n"
        "try:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    print('heard')"
    )
    process = box.start(code, token, cwd=stand, env=environment, stderr=subprocess.PIPE)
    process.send_signal(2)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "heard\n")
    assert "nothing was denied" in err


@by_user
def test_a_killed_launcher_leaves_no_reporter(
    person: Person, boxes: Callable[..., Box], stand: Path, token: str
) -> None:
    from processes import wait_for_none

    box = boxes(person, "native")
    environment = person.environment | {"VSBOX_REPORT": "1", "TOKEN": token}
    process = box.start("import time\nprint('started', flush=True)\ntime.sleep(60)", token, cwd=stand, env=environment)
    process.kill()
    process.wait()
    assert not wait_for_none(token)
    assert not wait_for_none(f"observe\0{box.root}")


# ---- mode log ----


@both
def test_mode_log_blocks_nothing_and_tells_all(
    person: Person, boxes: Callable[..., Box], stand: Path, canary: Path
) -> None:
    box = boxes(person, "native", "--mode", "log")
    code = (
        "import subprocess, sys\nprint(open(sys.argv[1]).read(), end='')\n"
        "subprocess.run(['sh', '-c', 'cat \"$1\"; echo new > \"$1-new\"', 'sh', sys.argv[1]])\n"
        "import ctypes; print(ctypes.CDLL(None).unshare(0x40000))"
    )
    done = box.python(code, str(canary), cwd=stand)
    assert done.stdout.splitlines() == ["a canary", "0"] or done.stdout.splitlines() == ["a canary", "a canary", "0"]
    assert canary.with_name("canary-new").read_text() == "new\n"
    lines = done.stderr.splitlines()
    assert sum(line.startswith(f"vsbox: would deny: read {canary} by your code") for line in lines) == 1
    assert sum(line.startswith(f"vsbox: would deny: write {canary}-new") for line in lines) == 1
    assert any("would be denied in" in line for line in lines)
    assert told(box, canary, "would deny")
    (run,) = (box.root / "sandbox" / "runs").iterdir()
    assert all(json.loads(line) for line in run.read_text().splitlines())


@both
def test_mode_log_tells_of_the_kernels_files(person: Person, boxes: Callable[..., Box], stand: Path) -> None:
    """Another process of one's own, a setting that is only opened; and nothing of the run's own processes."""
    box = boxes(person, "native", "--mode", "log")
    code = (
        "import os, subprocess, sys\n"
        "try:\n    open(f'/proc/{sys.argv[1]}/environ').close()\nexcept OSError:\n    assert os.geteuid() == 0\n"
        "child = subprocess.Popen(['sleep', '60'])\n"
        "for path in ('/proc/self/environ', f'/proc/{os.getpid()}/maps', f'/proc/{child.pid}/environ'):\n"
        "    open(path).close()\nchild.kill()\n"
        "if os.geteuid() == 0:\n    os.close(os.open('/proc/sys/kernel/core_pattern', os.O_WRONLY))\n"
    )
    other = person.popen(["sleep", "60"])
    try:
        done = box.python(code, str(other.pid), cwd=stand)
    finally:
        other.kill()
        other.wait()
    assert done.returncode == 0, done.stderr
    assert "vsbox allow" not in person.vsbox("report", "--last", box.root).stdout
    found = {r["target"] for r in report(box, "--last") if r["verdict"] == "would deny"}
    expected = {f"/proc/{other.pid}/environ"} | ({"/proc/sys/kernel/core_pattern"} if person.uid == 0 else set())
    assert {target for target in found if target.startswith("/proc/")} == expected


@both
def test_mode_log_lets_refused_calls_pass_and_names_them(
    person: Person, boxes: Callable[..., Box], stand: Path
) -> None:
    box = boxes(person, "native", "--mode", "log")
    done = box.exec("unshare", "--user", "true", cwd=stand)
    assert "would deny: call unshare" in done.stderr
    control = person.run(["unshare", "--user", "true"])
    assert done.returncode == control.returncode


@by_user
def test_mode_log_keeps_what_is_no_policy(person: Person, boxes: Callable[..., Box], stand: Path) -> None:
    """Nothing leaks in, no power, whatever the mode."""
    box = boxes(person, "native", "--mode", "log")
    code = (
        "import os; print(os.environ.get('SECRET'), sorted(os.listdir('/proc/self/fd'))[:3])\n"
        "print(open('/proc/self/status').read())"
    )
    done = box.python(code, cwd=stand, env=person.environment | {"SECRET": "x"})
    assert done.stdout.startswith("None ")
    assert "CapEff:\t0000000000000000" in done.stdout
    assert "NoNewPrivs:\t1" in done.stdout


@by_user
def test_mode_log_says_on_a_terminal_that_it_is_no_sandbox(
    person: Person, boxes: Callable[..., Box], stand: Path
) -> None:
    box = boxes(person, "native", "--mode", "log")
    line = f"{box.bin}/python -c pass"
    done = person.run(["script", "-qec", line, "/dev/null"], cwd=stand)
    assert "nothing is blocked in" in done.stdout
    assert "nothing is blocked" not in box.python("pass", cwd=stand).stderr


# ---- previews ----


@pytest.mark.parametrize(
    ("person", "backend"), [("root", "native"), ("user", "native"), ("user", "bubblewrap")], indirect=True
)
def test_a_preview_forgets_what_it_lets_pass(
    person: Person, backend: str, boxes: Callable[..., Box], stand: Path, canary: Path
) -> None:
    box = boxes(person, backend)
    code = (
        "import os, sys\nc = sys.argv[1]\nprint(open(c).read(), end='')\n"
        "open(c, 'w').write('changed')\nprint(open(c).read())\n"
        "os.mkdir(c + '-d'); open(os.path.expanduser('~/left'), 'w')"
    )
    done = watched(box, stand, "python", "-c", code, canary, VSBOX_REPORT="preview")
    assert done.stdout == "a canary\nchanged\n", done.stderr
    assert canary.read_text() == "a canary\n"
    assert sorted(canary.parent.iterdir()) == [canary]
    assert not (box.root / "home" / "left").exists()
    assert {r["operation"] for r in told(box, canary, "would deny")} >= {"read", "write"}


# ---- the guard alone ----


@both
def test_the_guard_alone_denies_in_python_only(
    person: Person, boxes: Callable[..., Box], stand: Path, canary: Path
) -> None:
    box = boxes(person, "native", "--no-os-sandbox")
    box.person.write(stand / "own", "own")
    done = box.python("import sys; print(open('own').read()); open(sys.argv[1])", str(canary), cwd=stand)
    assert done.stdout == "own\n"
    assert f"vsbox allow --read {box.root} {canary}" in done.stderr
    assert box.exec("cat", str(canary), cwd=stand).stdout == "a canary\n"
    assert box.person.vsbox("explain", box.root).stdout.count("the guard in Python denies") > 5


@by_user
def test_the_guard_alone_says_so_on_a_terminal(person: Person, boxes: Callable[..., Box], stand: Path) -> None:
    box = boxes(person, "native", "--no-os-sandbox")
    done = person.run(["script", "-qec", f"{box.bin}/python -c pass", "/dev/null"], cwd=stand)
    assert done.stdout.count("is not confined by the kernel") == 1
    assert box.python("pass", cwd=stand).stderr == ""


STEPS_AROUND = {
    "another program": "import subprocess; subprocess.run(['cat', c])",
    "python -S": "import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', f'print(open({c!r}).read())'])",
    "ctypes": (
        "import ctypes, os; l = ctypes.CDLL(None); f = l.open(c.encode(), 0); b = ctypes.create_string_buffer(99);"
        " l.read(f, b, 99); print(b.value.decode())"
    ),
}
"""Documented in docs/explanation/security-model.md: what the guard alone does not stop."""
RESISTED = {
    "its variable": "import os; os.environ['VSBOX_SHOWN'] = 'write /'; print(open(c).read())",
    "its variable for a child": (
        "import os, subprocess, sys; subprocess.run([sys.executable, '-c', f'print(open({c!r}).read())'],"
        " env=dict(os.environ, VSBOX_SHOWN='read /\\n'))"
    ),
    "-I": "import subprocess, sys; subprocess.run([sys.executable, '-I', '-c', f'print(open({c!r}).read())'])",
    "a link": "import os; os.symlink(c, os.path.expanduser('~/l')); print(open(os.path.expanduser('~/l')).read())",
    "dots": "import os; print(open(os.path.expanduser('~/../../') + os.path.relpath(c, '/')).read())",
}


@by_user
@pytest.mark.parametrize("code", STEPS_AROUND.values(), ids=STEPS_AROUND)
def test_what_gets_around_the_guard_alone(
    person: Person, boxes: Callable[..., Box], stand: Path, canary: Path, code: str
) -> None:
    """The kernel stops each of these in an ordinary box: the control."""
    alone, confined = boxes(person, "native", "--no-os-sandbox"), boxes(person, "native")
    whole = f"import sys; c = sys.argv[1]; {code}"
    assert "a canary" in alone.python(whole, str(canary), cwd=stand).stdout
    assert "a canary" not in confined.python(whole, str(canary), cwd=stand).stdout


@by_user
@pytest.mark.parametrize("code", RESISTED.values(), ids=RESISTED)
def test_what_the_guard_alone_resists(
    person: Person, boxes: Callable[..., Box], stand: Path, canary: Path, code: str
) -> None:
    box = boxes(person, "native", "--no-os-sandbox")
    (box.root / "home" / "l").unlink(missing_ok=True)
    done = box.python(f"import sys; c = sys.argv[1]; {code}", str(canary), cwd=stand)
    assert "a canary" not in done.stdout
    assert "Error" in done.stderr


@by_user
def test_both_switches_report_without_blocking(
    person: Person, make_box: Callable[..., Box], stand: Path, canary: Path
) -> None:
    box = make_box(person, "native", "--no-pip", "--mode", "log", "--no-os-sandbox")
    done = box.python("import sys; print(open(sys.argv[1]).read())", str(canary), cwd=stand)
    assert done.stdout == "a canary\n\n"
    assert f"would deny: read {canary}" in done.stderr


# ---- networks ----


@pytest.mark.parametrize(("person", "backend"), [("user", "native"), ("root", "landlock")], indirect=True)
def test_a_denied_connection_is_told(person: Person, backend: str, boxes: Callable[..., Box], stand: Path) -> None:
    box = boxes(person, backend, "--network", "none")
    code = (
        "import socket\ntry:\n    socket.create_connection(('192.0.2.1', 9), 2)\n"
        "except OSError as e:\n    print(e.errno)"
    )
    target = "192.0.2.1 port 9" if backend == "native" else "the network"
    for option in ((), ("-S",)):
        done = watched(box, stand, "python", *option, "-c", code)
        assert done.stdout.strip(), done.stderr
        found = {(r["operation"], r["target"], r["allow"]) for r in report(box, "--last") if r["verdict"] == "denied"}
        assert found == {("connect", target, '"network": "host" in sandbox.json')}


@pytest.mark.parametrize(("person", "backend"), [("user", "native"), ("user", "landlock")], indirect=True)
def test_the_status_is_the_commands_though_nobody_reads_what_is_told(box: Box, person: Person) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    variables = {**person.environment, "VSBOX_REPORT": "1"}
    argv = [str(box.bin / "python"), "-c", "exit(7)"]
    process = person.popen(argv, env=variables, stdin=subprocess.DEVNULL, stderr=writing)
    os.close(writing)
    assert process.wait(60) == 7
