"""The command line: what each command does, and clear refusal of everything that makes no sense."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from vsbox.plan.encode import fnv1a64

if TYPE_CHECKING:
    from harness import Box, Person

Done = subprocess.CompletedProcess
VSBOX = [sys.executable, "-m", "vsbox"]
SECONDS = 60
HEADER = 32
HOME_PLACES = {"native": "{root}", "landlock": "{root}/inside"}


@pytest.fixture
def place(person: Person) -> Iterator[Path]:
    made = person.directory("cli")
    yield made
    subprocess.run(["chmod", "-R", "u+rwX", str(made)], check=False)
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def own_box(person: Person, backend: str, make_box: Callable[..., Box]) -> Iterator[Box]:
    """A box that the test may break."""
    box = make_box(person, backend, "--no-pip", fresh=True)
    yield box
    shutil.rmtree(box.root.parent, ignore_errors=True)


@pytest.fixture
def mended_box(person: Person, backend: str, make_box: Callable[..., Box]) -> Iterator[Box]:
    """A box whose policy and plan the test may break; it gets them back."""
    box = make_box(person, backend, "--no-pip", "--mode", "enforce")
    files = [box.root / "sandbox" / name for name in ("sandbox.json", "plan")]
    before = [path.read_bytes() for path in files]
    yield box
    for path, content in zip(files, before, strict=True):
        if path.read_bytes() != content:
            path.write_bytes(content)


@pytest.fixture
def plain_box(person: Person, make_box: Callable[..., Box]) -> Iterator[Box]:
    """A box that the test may break, in one tier only: what is tested does not differ."""
    box = make_box(person, "native", "--no-pip", fresh=True)
    yield box
    shutil.rmtree(box.root.parent, ignore_errors=True)


def refused(done: Done[str], status: int, *words: str) -> str:
    """Check that a command said why it did nothing, in one line and a hint, and return what it said."""
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    lines = done.stderr.splitlines()
    assert lines
    assert lines[0].startswith("vsbox: "), done.stderr
    assert len([line for line in lines if line.startswith("vsbox: ")]) == 1, done.stderr
    assert all(line.startswith("       ") for line in lines[1:]), done.stderr
    assert len(lines) <= 3, done.stderr
    for word in words:
        assert word in done.stderr
    return done.stderr


def edit(box: Box, **changes: object) -> None:
    """Change sandbox.json as its owner would in an editor."""
    path = box.root / "sandbox" / "sandbox.json"
    box.person.write(path, json.dumps(json.loads(path.read_text()) | changes))


def names_in(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir())


# ---- create ----


def test_create_says_where_and_how(person: Person, place: Path) -> None:
    done = person.vsbox("--no-pip", place / "env")
    assert done.returncode == 0
    assert str(place / "env") in done.stdout
    assert f"source {place}/env/bin/activate" in done.stdout
    assert done.stderr == ""
    assert names_in(place) == ["env"]


def test_create_by_name_and_relative(person: Person, place: Path) -> None:
    assert person.vsbox("create", "-q", "--no-pip", "env", cwd=place).returncode == 0
    assert person.run([str(place / "env/bin/python"), "-c", "print(1)"]).stdout == "1\n"


def test_create_makes_missing_parents(person: Person, place: Path) -> None:
    assert person.vsbox("-q", "--no-pip", place / "a" / "b" / "env").returncode == 0
    assert person.run([str(place / "a/b/env/bin/python"), "-c", "print(1)"]).stdout == "1\n"


def test_create_takes_an_empty_directory(person: Person, place: Path) -> None:
    person.run(["mkdir", str(place / "env")])
    assert person.vsbox("-q", "--no-pip", place / "env").returncode == 0
    assert (place / "env" / "bin" / "python").exists()


def test_create_leaves_a_full_directory_alone(person: Person, place: Path) -> None:
    person.run(["mkdir", str(place / "env")])
    person.write(place / "env" / "mine", "mine")
    for options in ((), ("--clear",)):
        refused(person.vsbox("-q", *options, place / "env"), 125, "not empty", str(place / "env"))
    assert names_in(place / "env") == ["mine"]


def test_create_refuses_a_file(person: Person, place: Path) -> None:
    person.write(place / "env", "mine")
    refused(person.vsbox("-q", place / "env"), 125, "not a directory")
    assert (place / "env").read_text() == "mine"


def test_create_refuses_a_second_time_and_clears_on_demand(person: Person, plain_box: Box) -> None:
    mark = plain_box.root / "home" / "mark"
    person.write(mark, "x")
    refused(person.vsbox("-q", plain_box.root), 125, "--clear")
    assert mark.exists()
    assert person.vsbox("-q", "--no-pip", "--clear", plain_box.root).returncode == 0
    assert not mark.exists()
    assert plain_box.python("print(1)").stdout == "1\n"


def test_clear_that_fails_keeps_the_old_box(person: Person, plain_box: Box) -> None:
    mark = plain_box.root / "home" / "mark"
    person.write(mark, "x")
    refused(person.vsbox("-q", "--clear", "-p", "3.99", plain_box.root), 125, "3.99")
    assert mark.exists()
    assert plain_box.python("print(1)").stdout == "1\n"
    assert names_in(plain_box.root.parent) == ["env"]


@pytest.mark.parametrize("python", ["3.99", "/nonexistent/python", "/etc/passwd"])
def test_create_without_such_an_interpreter(python: str, person: Person, place: Path) -> None:
    done = person.vsbox("-q", "--no-pip", "-p", python, place / "env")
    refused(done, 125, python, "-p 3.12")
    assert names_in(place) == []


def test_create_where_writing_is_not_allowed(person: Person) -> None:
    done = person.vsbox("-q", "--no-pip", "/proc/vsbox-test-env")
    refused(done, 125, "/proc/")


def test_create_in_a_read_only_directory(person: Person, place: Path) -> None:
    if person.uid == 0:
        pytest.skip("root may write everywhere")
    place.chmod(0o555)
    refused(person.vsbox("-q", "--no-pip", place / "env"), 125, str(place), "ermission denied")
    assert names_in(place) == []


@pytest.mark.parametrize("directory", ["/", "~", "~/"])
def test_create_refuses_places_nobody_means(directory: str, person: Person) -> None:
    refused(person.vsbox("-q", directory), 2, "directory of its own")


GOOD_NAMES = (
    "two words", "it's", "it's two", "é中", "a&b;c|d", "-dash", "#hash", "(paren)", "star*", "tilde~", "percent%s",
    "a" * 150,
)  # fmt: skip


@pytest.mark.parametrize(("name", "backend"), [*((name, "native") for name in GOOD_NAMES), ("it's two", "landlock")])
def test_boxes_with_odd_names_work(name: str, backend: str, person: Person, place: Path) -> None:
    root = place / name
    done = person.vsbox("-q", "--backend", backend, root)
    assert (done.returncode, done.stderr) == (0, "")
    shown = person.run([str(root / "bin" / "python"), "-c", "import sys; print(sys.prefix)"])
    assert shown.stdout == HOME_PLACES[backend].format(root=root) + "\n"
    pip = person.run([str(root / "bin" / "pip"), "--version"])
    assert (pip.returncode, pip.stderr) == (0, "")
    assert person.vsbox("exec", root, "--", "python", "-c", "print(1)").stdout == "1\n"


BAD_NAMES = ("new\nline", 'quote"', "dollar$", "back`tick", "colon:", "back\\slash", "caf\udce9", "\x7f")


@pytest.mark.parametrize("name", BAD_NAMES)
def test_boxes_with_names_that_scripts_cannot_carry_are_refused(name: str, person: Person, place: Path) -> None:
    said = refused(person.vsbox("-q", "--no-pip", place / name), 2, "choose a path")
    assert "\n".join(said.splitlines()[1:]).isprintable()
    assert names_in(place) == []


def test_create_with_mode_log_or_without_kernel_is_refused(person: Person, place: Path) -> None:
    refused(person.vsbox("-q", "--no-os-sandbox", place / "env"), 2, "--no-os-sandbox")
    refused(person.vsbox("-q", "--no-pip", "--mode", "log", place / "env"), 125, "mode")
    assert names_in(place) == []


WRONG_USE = ((), ("-x",), ("--backend", "none", "d"), ("a", "b"), ("exec",), ("allow",), ("--network", "x", "d"))


@pytest.mark.parametrize("arguments", WRONG_USE)
def test_usage_errors(arguments: tuple[str, ...], person: Person, place: Path) -> None:
    done = person.vsbox("create", *arguments, cwd=place) if not arguments else person.vsbox(*arguments, cwd=place)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "Usage:" in done.stderr
    assert names_in(place) == []


def test_help_and_version(person: Person) -> None:
    for arguments in (("--help",), ("-h",), ("--version",), ("create", "--help"), ("exec", "-h")):
        done = person.vsbox(*arguments)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout


def test_create_without_home(person: Person, place: Path) -> None:
    environment = {k: v for k, v in person.environment.items() if k not in {"HOME", "USER"}}
    done = person.vsbox("-q", "--no-pip", place / "env", env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    shown = person.run([str(place / "env/bin/python"), "-c", "import os; print(os.environ['HOME'])"], env={})
    assert shown.stdout == f"{place}/env/home\n"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_create_with_closed_streams(closed: str, person: Person, place: Path) -> None:
    command = ["bash", "-c", f'"$@" {closed}', "bash", *VSBOX, "--no-pip", str(place / "env")]
    assert person.run(command).returncode == 0
    assert person.run([str(place / "env/bin/python"), "-c", "print(1)"]).stdout == "1\n"


# ---- a creation that does not reach its end ----


def _start_create(person: Person, root: Path) -> subprocess.Popen[str]:
    process = person.popen([*VSBOX, "-q", str(root)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    end = time.monotonic() + SECONDS
    while not any(root.parent.iterdir()):
        assert time.monotonic() < end
        assert process.poll() is None
        time.sleep(0.001)
    return process


@pytest.mark.parametrize("delay", [0, 0.1, 0.2])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_creation_leaves_nothing(number: int, delay: float, person: Person, place: Path) -> None:
    process = _start_create(person, place / "env")
    time.sleep(delay)
    process.send_signal(number)
    _, said = process.communicate(timeout=SECONDS)
    assert "Traceback" not in said
    if process.returncode == 0:
        pytest.skip("it was done before the signal came")
    assert process.returncode in (128 + number, -number), said
    assert names_in(place) == []


@pytest.mark.parametrize("delay", [0, 0.05, 0.2])
def test_a_killed_creation_stands_in_nobodys_way(delay: float, person: Person, place: Path) -> None:
    process = _start_create(person, place / "env")
    time.sleep(delay)
    process.kill()
    process.communicate()
    left = names_in(place)
    assert all(name == "env" or name.startswith(".env.vsbox-") for name in left), left
    done = person.vsbox("-q", *(["--clear"] if "env" in left else []), place / "env")
    assert (done.returncode, done.stderr) == (0, "")
    assert person.run([str(place / "env/bin/python"), "-c", "print(1)"]).stdout == "1\n"


FULL_DISK = """
mount -t tmpfs -o size=$2,mode=777 none "$1" || exit 99
shift 2
"$@"
echo "status $?"
ls -A "$OLDPWD"
"""


@pytest.mark.parametrize("size", ["64k", "512k", "2m", "6m"])
def test_a_full_disk_leaves_nothing(size: str, person: Person, place: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    disk = place / "disk"
    disk.mkdir()
    become = ["setpriv", f"--reuid={person.uid}", f"--regid={person.gid}", "--clear-groups"]
    command = ["unshare", "-m", "sh", "-c", FULL_DISK.replace("$OLDPWD", str(disk)), "sh", str(disk), size]
    made = subprocess.run(
        [*command, *become, *VSBOX, "-q", str(disk / "env")],
        capture_output=True, text=True, env=person.environment, cwd="/", timeout=SECONDS, check=False,
    )  # fmt: skip
    if made.returncode == 99:
        pytest.skip("mounting is not allowed here")
    assert made.stdout == "status 125\n", made.stderr
    assert "Traceback" not in made.stderr
    assert made.stderr.startswith("vsbox: ")
    assert "No space left" in made.stderr


# ---- sandbox.json ----

BROKEN = {
    "{": (2, "cannot read"),
    "": (2, "cannot read"),
    "[]": (2, "cannot read"),
    "null": (2, "cannot read"),
    '{"venv_root": 1}': (2, "venv_root"),
    "\x00\x01": (2, "cannot read"),
    "[" * 100_000: (2, "cannot read"),
}


@pytest.mark.parametrize("text", BROKEN, ids=lambda text: repr(text[:20]))
def test_broken_policy_is_refused_and_mended(text: str, mended_box: Box) -> None:
    path = mended_box.root / "sandbox" / "sandbox.json"
    good = path.read_text()
    mended_box.person.write(path, text)
    status, word = BROKEN[text]
    for _ in range(2):
        refused(mended_box.python("print(1)"), status, word, "sandbox.json")
    refused(mended_box.person.vsbox("allow", mended_box.root, "/usr"), status, word)
    mended_box.person.write(path, good)
    assert mended_box.python("print(1)").stdout == "1\n"


def test_missing_policy_is_refused(own_box: Box) -> None:
    (own_box.root / "sandbox" / "sandbox.json").unlink()
    done = own_box.python("print(1)")
    assert done.returncode in (2, 125)
    refused(done, done.returncode, "sandbox.json")


WRONG = {
    "typo": ({"allowed_path": []}, "did you mean 'allowed_paths'"),
    "other": ({"zzz": 1}, "known keys"),
    "mode": ({"mode": "allow"}, "mode"),
    "network": ({"network": "some"}, "network"),
    "type": ({"allowed_paths": "/usr"}, "allowed_paths"),
    "root": ({"venv_root": "/elsewhere"}, "venv_root"),
    "relative": ({"allowed_paths": ["data"]}, "not absolute"),
    "dots": ({"allowed_paths": ["/usr/../etc"]}, "not normal"),
    "slash": ({"allowed_paths": ["/usr/"]}, "not normal"),
    "empty": ({"allowed_paths": [""]}, "not absolute"),
    "nul": ({"allowed_paths": ["/usr\0"]}, "NUL"),
    "missing": ({"allowed_paths": ["/nonexistent"]}, "does not exist"),
    "everything": ({"allowed_paths": ["/"]}, "holds the box"),
    "degraded": ({"allow_degraded": ["all"]}, "allow_degraded"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_policies_are_refused(name: str, mended_box: Box) -> None:
    changes, word = WRONG[name]
    edit(mended_box, **changes)
    refused(mended_box.python("print(1)"), 2, word)


def test_a_grant_through_a_link_is_refused(mended_box: Box, place: Path) -> None:
    (place / "real").mkdir()
    (place / "link").symlink_to("real")
    edit(mended_box, allowed_paths=[str(place / "link")])
    refused(mended_box.python("print(1)"), 2, "symbolic link", str(place / "real"))


def test_a_grant_of_the_box_itself_is_refused(mended_box: Box) -> None:
    for name in ("", "/bin", "/sandbox", "/inside"):
        edit(mended_box, allowed_paths=[f"{mended_box.root}{name}"])
        refused(mended_box.python("print(1)"), 2, "box")


def test_a_grant_that_vanished_is_refused_and_denied(own_box: Box, place: Path) -> None:
    gone, kept = place / "gone", place / "kept"
    own_box.person.run(["mkdir", str(gone), str(kept)])
    assert own_box.person.vsbox("allow", own_box.root, gone, kept).returncode == 0
    code = f"import os; print(os.listdir({str(kept)!r}))"
    assert own_box.python(code).stdout == "[]\n"
    gone.rmdir()
    said = refused(own_box.python(code), own_box.python(code).returncode, str(gone))
    assert own_box.python(code).returncode in (2, 125)
    assert "vsbox " in said.splitlines()[1]
    assert own_box.person.vsbox("deny", own_box.root, gone).returncode == 0
    assert own_box.python(code).stdout == "[]\n"


def test_a_grant_that_became_a_link_is_refused(own_box: Box, place: Path) -> None:
    granted, secret = place / "granted", place / "secret"
    own_box.person.run(["mkdir", str(granted), str(secret)])
    own_box.person.write(secret / "s", "secret")
    assert own_box.person.vsbox("allow", own_box.root, granted).returncode == 0
    code = f"import os; print(os.listdir({str(granted)!r}))"
    assert own_box.python(code).stdout == "[]\n"
    granted.rmdir()
    granted.symlink_to(secret)
    done = own_box.python(code)
    refused(done, done.returncode, str(granted))
    assert done.returncode in (2, 125)


@pytest.mark.slow
def test_ten_thousand_grants(mended_box: Box, place: Path) -> None:
    many = [place / f"{n:05}" for n in range(10_000)]
    for path in many:
        path.mkdir()
    if mended_box.person.uid != os.geteuid():
        subprocess.run(["chown", "-R", str(mended_box.person.uid), str(place)], check=True)
    edit(mended_box, allowed_paths=[str(path) for path in many])
    code = f"open('{many[0]}/f', 'w'); open('{many[9999]}/f', 'w'); print('ok')"
    for _ in range(2):
        done = mended_box.python(code, timeout=SECONDS)
        assert (done.stdout, done.stderr) == ("ok\n", "")


# ---- allow, deny ----


@pytest.mark.parametrize("name", ["plain", "two words\nnew line'\"", "é$x`y`"])
def test_allow_and_deny_take_effect_at_the_next_start(name: str, mended_box: Box, place: Path) -> None:
    person, data = mended_box.person, place / name
    person.run(["mkdir", str(data)])
    person.write(data / "f", "data")
    code = f"p = {str(data)!r}; print(open(p + '/f').read()); open(p + '/new', 'w')"
    assert mended_box.python(code).returncode == 1
    assert person.vsbox("allow", "--read", mended_box.root, data).returncode == 0
    done = mended_box.python(code)
    assert done.stdout == "data\n"
    assert re.search(r"\[Errno (13|30)\]", done.stderr)
    assert person.vsbox("allow", mended_box.root, data).returncode == 0
    assert mended_box.python(code).returncode == 0
    assert (data / "new").exists()
    assert person.vsbox("deny", mended_box.root, data).returncode == 0
    assert mended_box.python(code).stdout == ""


@pytest.mark.parametrize("above", ["/tmp", "/var/tmp"])
def test_a_grant_below_a_private_place_works(above: str, mended_box: Box) -> None:
    person = mended_box.person
    made = person.run(["mktemp", "-d", "-p", above, "vsbox-grant.XXXXXX"]).stdout.strip()
    try:
        done = person.vsbox("allow", mended_box.root, made)
        assert (done.returncode, done.stderr) == (0, "")
        shown = mended_box.python(f"open({made!r} + '/f', 'w'); import os; print(os.listdir({made!r}))")
        assert (shown.stdout, shown.stderr) == ("['f']\n", "")
        assert (Path(made) / "f").exists()
    finally:
        shutil.rmtree(made)


def test_options_of_create_grant_as_well(person: Person, backend: str, place: Path) -> None:
    write, read = place / "write", place / "read"
    person.run(["mkdir", str(write), str(read)])
    options = ("--backend", backend, "--no-pip", "--allow", write, "--allow-read", read)
    assert person.vsbox("-q", *options, place / "env").returncode == 0
    run = f"{place}/env/bin/python"
    assert person.run([run, "-c", f"open('{write}/f', 'w')"]).returncode == 0
    assert person.run([run, "-c", f"import os; os.listdir('{read}')"]).returncode == 0
    assert person.run([run, "-c", f"open('{read}/f', 'w')"]).returncode == 1
    policy = json.loads((place / "env/sandbox/sandbox.json").read_text())
    assert policy["allowed_paths"] == [str(write)]
    assert policy["read_only_paths"] == [str(read)]


def test_a_grant_is_where_a_link_leads_now(plain_box: Box, place: Path) -> None:
    plain_box.person.run(["mkdir", str(place / "real")])
    (place / "link").symlink_to("real")
    assert plain_box.person.vsbox("allow", plain_box.root, "link", cwd=place).returncode == 0
    policy = json.loads((plain_box.root / "sandbox/sandbox.json").read_text())
    assert policy["allowed_paths"] == [str(place / "real")]


def test_deny_below_a_grant(own_box: Box, place: Path) -> None:
    person = own_box.person
    person.run(["mkdir", str(place / "private")])
    person.write(place / "private" / "f", "x")
    person.write(place / "public", "y")
    assert person.vsbox("allow", own_box.root, place).returncode == 0
    done = person.vsbox("deny", own_box.root, place / "private")
    if own_box.backend == "landlock":
        refused(done, 125, "Landlock has no deny rules")
        return
    assert done.returncode == 0
    code = f"import os; print(open('{place}/public').read(), os.path.exists('{place}/private/f'))"
    assert own_box.python(code).stdout == "y False\n"


def test_allow_that_cannot_be_changes_nothing(plain_box: Box, place: Path) -> None:
    before = (plain_box.root / "sandbox/sandbox.json").read_bytes()
    for path in ("/nonexistent", "/", plain_box.root, plain_box.root / "bin"):
        refused(plain_box.person.vsbox("allow", plain_box.root, path), 2, str(path))
    named = place / "caf\udce9"
    named.mkdir()
    refused(plain_box.person.vsbox("allow", plain_box.root, named), 2, "UTF-8")
    assert (plain_box.root / "sandbox/sandbox.json").read_bytes() == before
    assert plain_box.python("print(1)").stdout == "1\n"


# ---- exec, expose, sync, completion ----


def test_exec_runs_anything_with_its_status(box: Box) -> None:
    person = box.person
    assert person.vsbox("exec", box.root, "--", "sh", "-c", "echo $0-$1; exit 3", "a", "b").stdout == "a-b\n"
    assert person.vsbox("exec", box.root, "--", "sh", "-c", "exit 3").returncode == 3
    assert person.vsbox("exec", box.root, "python", "-c", "print(1)").stdout == "1\n"
    assert person.vsbox("exec", box.root, "--", "sh", "-c", "kill -9 $$").returncode == -9
    assert person.vsbox("exec", box.root, "--", "cat", input="x").stdout == "x"
    assert person.vsbox("exec", box.root, "--", "env").stdout.count("VIRTUAL_ENV=") == 1


def test_exec_of_nothing_or_nobody(box: Box, place: Path) -> None:
    person = box.person
    refused(person.vsbox("exec", box.root), 2, "no command")
    refused(person.vsbox("exec", box.root, "--", "no-such-command"), 127, "no-such-command")
    refused(person.vsbox("exec", box.root, "--", "/etc/passwd"), 126, "/etc/passwd")
    refused(person.vsbox("exec", place / "nowhere", "--", "true"), 125, "does not exist")
    refused(person.vsbox("exec", place, "--", "true"), 125, "not a box")


@pytest.mark.parametrize("command", ["exec", "allow", "deny", "expose", "sync", "explain", "check"])
def test_commands_on_what_is_no_box(command: str, person: Person, place: Path) -> None:
    rest = {"exec": ["--", "true"], "allow": ["/usr"], "deny": ["/usr"], "expose": ["x"]}.get(command, [])
    refused(person.vsbox(command, place, *rest), 125, "not a box", "make one")


def _install_command(box: Box, name: str) -> Done[str]:
    code = (
        "import os, sys\npath = os.environ['VIRTUAL_ENV'] + '/bin/' + sys.argv[1]\n"
        "open(path, 'w').write('#!/bin/sh\\necho mine\\n')\nos.chmod(path, 0o755)"
    )
    return box.python(code, name)


def test_commands_get_launchers_by_themselves(own_box: Box) -> None:
    assert _install_command(own_box, "tool").stderr == ""
    assert own_box.person.run([str(own_box.bin / "tool")]).stdout == "mine\n"
    code = "import os; os.unlink(os.environ['VIRTUAL_ENV'] + '/bin/tool')"
    assert own_box.python(code).returncode == 0
    assert not (own_box.bin / "tool").exists()


def test_shadowing_commands_wait_for_expose(own_box: Box) -> None:
    person = own_box.person
    done = _install_command(own_box, "ls")
    assert "vsbox expose" in done.stderr
    assert not (own_box.bin / "ls").exists()
    assert person.vsbox("expose", own_box.root, "ls").returncode == 0
    assert person.run([str(own_box.bin / "ls")]).stdout == "mine\n"
    refused(person.vsbox("expose", own_box.root, "nosuch"), 2, "nosuch")
    refused(person.vsbox("expose", own_box.root, "../x"), 2, "../x")
    refused(person.vsbox("expose", own_box.root, "shell"), 2, "shell")


@pytest.mark.parametrize("name", ["new\nline", "-dash", "caf\udce9", "q'uote", "\x1b[31m"])
def test_commands_with_odd_names_get_no_launcher(name: str, plain_box: Box) -> None:
    before = names_in(plain_box.bin)
    done = _install_command(plain_box, name)
    assert done.returncode == 0
    assert all(line.isprintable() for line in done.stderr.splitlines())
    assert len(done.stderr.splitlines()) <= 2
    assert names_in(plain_box.bin) == before


def test_sync_mends_a_plan_and_launchers(own_box: Box) -> None:
    (own_box.root / "sandbox" / "plan").write_bytes(b"junk")
    (own_box.bin / "python3").unlink()
    refused(own_box.python("print(1)"), 125, "vsbox sync")
    done = own_box.person.vsbox("sync", own_box.root)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert own_box.python("print(1)").stdout == "1\n"
    assert own_box.person.run([str(own_box.bin / "python3"), "-c", "print(1)"]).stdout == "1\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str, person: Person) -> None:
    done = person.vsbox("completion", shell)
    assert (done.returncode, done.stderr) == (0, "")
    assert "_VSBOX_COMPLETE" in done.stdout
    if shell == "bash":
        assert person.run(["bash", "-n"], input=done.stdout).stderr == ""


# ---- the plan ----


def _checksummed(plan: bytes) -> bytes:
    """Return a changed plan with the checksum that fits, so that the decoder looks at what was changed."""
    body = plan[HEADER:]
    return plan[:16] + struct.pack("<QQ", len(body), fnv1a64(body)) + body


IS_CONFINED = (
    "import sys\ntry:\n    open(sys.argv[1]).read()\nexcept OSError:\n    print('confined')\nelse:\n    print('OPEN')\n"
)


def _start_with_plan(box: Box, plan: bytes, secret: Path) -> Done[str]:
    path = box.root / "sandbox" / "plan"
    path.write_bytes(plan)
    return box.python(IS_CONFINED, str(secret), timeout=20)


@pytest.fixture
def secret(person: Person) -> Iterator[Path]:
    directory = person.directory("secret")
    yield person.write(directory / "secret", "secret")
    shutil.rmtree(directory)


def test_control_the_secret_is_there(person: Person, secret: Path) -> None:
    assert person.run([sys.executable, "-c", IS_CONFINED, str(secret)]).stdout == "OPEN\n"


def test_a_flipped_byte_is_refused(mended_box: Box, secret: Path) -> None:
    plan = (mended_box.root / "sandbox" / "plan").read_bytes()
    chosen = random.Random(7)
    for position in chosen.sample(range(len(plan)), 100):
        changed = bytearray(plan)
        changed[position] ^= 1 << chosen.randrange(8)
        done = _start_with_plan(mended_box, bytes(changed), secret)
        refused(done, 125, "plan")
    assert _start_with_plan(mended_box, plan, secret).stdout == "confined\n"


@pytest.mark.parametrize("length", [0, 1, 8, 31, 32, 33, 40, 100, -1, -8])
def test_a_truncated_plan_is_refused(length: int, mended_box: Box, secret: Path) -> None:
    plan = (mended_box.root / "sandbox" / "plan").read_bytes()
    refused(_start_with_plan(mended_box, plan[:length], secret), 125, "plan")
    if length > HEADER:
        refused(_start_with_plan(mended_box, _checksummed(plan[:length]), secret), 125, "plan")


def test_a_plan_with_more_behind_it_is_refused(mended_box: Box, secret: Path) -> None:
    plan = (mended_box.root / "sandbox" / "plan").read_bytes()
    for extra in (b"\0", b"x" * 100, plan):
        refused(_start_with_plan(mended_box, plan + extra, secret), 125, "plan")
        refused(_start_with_plan(mended_box, _checksummed(plan + extra), secret), 125, "plan")


def test_a_plan_that_others_may_write_is_refused(own_box: Box, secret: Path) -> None:
    path = own_box.root / "sandbox" / "plan"
    for mode in (0o666, 0o664, 0o646):
        path.chmod(mode)
        refused(own_box.python("print(1)"), 125, "others may write")
    path.chmod(0o644)
    assert own_box.python("print(1)").stdout == "1\n"


def test_a_plan_that_is_a_link_is_refused(own_box: Box) -> None:
    path = own_box.root / "sandbox" / "plan"
    path.rename(path.with_name("real"))
    path.symlink_to("real")
    refused(own_box.python("print(1)"), 125, "plan")


def test_a_plan_of_another_user_is_refused(own_box: Box) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    path = own_box.root / "sandbox" / "plan"
    os.chown(path, 12345, 12345)
    refused(own_box.python("print(1)"), 125, "uid")


def test_a_box_of_another_user_is_refused(own_box: Box) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    for directory in (own_box.root, *own_box.root.parents):
        if directory == Path("/") or directory.stat().st_mode & 0o001:
            continue
        if directory not in (own_box.root, own_box.root.parent, own_box.person.home / "t"):
            pytest.skip(f"{directory} is closed to others")
        directory.chmod(stat.S_IMODE(directory.stat().st_mode) | 0o055)
    command = [str(own_box.bin / "python"), "-c", "print(1)"]
    done = subprocess.run(
        command, user=23456, group=23456, extra_groups=[], capture_output=True, text=True, cwd="/", check=False
    )
    refused(done, 125, "vsbox DIR")


# ---- the box's place ----


def test_a_moved_box_says_so(own_box: Box) -> None:
    moved = own_box.root.with_name("moved")
    own_box.root.rename(moved)
    said = refused(own_box.person.run([str(moved / "bin" / "python"), "-c", "print(1)"]), 125, str(own_box.root))
    assert "move it back" in said
    moved.rename(own_box.root)
    assert own_box.python("print(1)").stdout == "1\n"


@pytest.mark.parametrize("links", [True, False])
def test_a_copied_box_says_so(links: bool, own_box: Box) -> None:
    copied = own_box.root.with_name("copied")
    own_box.person.run(["cp", "-a" if links else "-r", str(own_box.root), str(copied)], check=True)
    refused(own_box.person.run([str(copied / "bin" / "python"), "-c", "print(1)"]), 125, str(own_box.root))
    assert own_box.python("print(1)").stdout == "1\n"


def test_a_launcher_elsewhere_is_no_way_in(mended_box: Box, place: Path) -> None:
    mended_box.person.run(["cp", str(mended_box.bin / "python"), str(place / "python")], check=True)
    done = mended_box.person.run([str(place / "python"), "-c", "print(1)"])
    assert done.returncode == 125
    assert done.stdout == ""
    assert done.stderr.startswith("vsbox: ")


def test_a_box_behind_a_link_is_the_box(mended_box: Box, place: Path) -> None:
    (place / "link").symlink_to(mended_box.root)
    (place / "x").symlink_to(mended_box.bin / "python")
    for command in (place / "link/bin/python", place / "x"):
        shown = mended_box.person.run([str(command), "-c", "import sys; print(sys.prefix)"])
        assert shown.stdout.startswith(str(mended_box.root))


def test_a_directory_as_a_stream_is_refused(mended_box: Box) -> None:
    for redirection in ("< /", "3< / <&3"):
        line = f'"$0" -c "print(1)" {redirection}'
        done = mended_box.person.run(["bash", "-c", line, str(mended_box.bin / "python")])
        refused(done, 125, "directory")


@pytest.mark.parametrize("name", ["two words", "new\nline", "quote'\"", "caf\udce9", "$x", "-dash"])
def test_working_directories_and_scripts_with_odd_names(name: str, box: Box, place: Path) -> None:
    directory = place / name
    box.person.run(["mkdir", "--", str(directory)])
    code = "import os, sys; print(ascii(os.getcwd()), ascii(sys.argv[0]))"
    script = box.person.write(directory / f"{name}.py", code)
    run = str(box.bin / "python")
    for cwd, given in ((directory, f"./{script.name}"), (directory, str(script)), (box.person.home, str(script))):
        done = box.person.run([run, given], cwd=cwd)
        assert (done.stdout, done.stderr) == (f"{str(cwd)!a} {given!a}\n", "")


def test_a_working_directory_that_is_gone(box: Box, place: Path) -> None:
    command = 'mkdir gone && cd gone && rmdir ../gone && "$0" -c "print(1)"'
    done = box.person.run(["bash", "-c", command, str(box.bin / "python")], cwd=place)
    assert (done.returncode, done.stdout) == (0, "1\n")


def test_the_launcher_without_arguments_or_box_refuses(person: Person) -> None:
    import vsbox

    launcher = Path(vsbox.__file__).parent / "launch" / "vsbox-launcher"
    done = person.run([str(launcher)])
    assert done.returncode in (2, 125)
    assert done.stderr
