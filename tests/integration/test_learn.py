"""``vsbox learn`` and ``vsbox diff``: a policy from a run, and what two versions touch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from planted import wheel

from harness import VSBOX, Box, Person

PAIRS = [("user", "native"), ("user", "landlock"), ("root", "native")]
everyone = pytest.mark.parametrize(("person", "backend"), PAIRS, indirect=True)
by_user = pytest.mark.parametrize(("person", "backend"), [("user", "native")], indirect=True)


@pytest.fixture
def project(place: Path, person: Person) -> Path:
    """Data, a program that reads and writes it, and a key beside."""
    for name in ("data", "out", "keys", "stand"):
        (place / name).mkdir()
        os.chown(place / name, person.uid, person.gid)
    for name in "abc":
        person.write(place / "data" / name, name)
    person.write(place / "keys" / "server.pem", "a key")
    code = (
        "import sys\nroot = sys.argv[1]\n"
        "text = ''.join(open(f'{root}/data/{n}').read() for n in 'abc')\n"
        "open(f'{root}/out/result', 'w').write(text)\nprint(text)\n"
    )
    person.write(place / "stand" / "prog.py", code)
    attack = code + "try:\n    print(open(f'{root}/keys/server.pem').read())\nexcept OSError:\n    sys.exit(9)\n"
    person.write(place / "stand" / "attack.py", attack)
    return place


def learn(box: Box, project: Path, script: str, *options: str, **more: Any) -> subprocess.CompletedProcess[str]:
    command = ("--", "python", script, project)
    return box.person.vsbox("learn", *options, box.root, *command, cwd=project / "stand", **more)


def policy(box: Box) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((box.root / "sandbox" / "sandbox.json").read_text())
    return found


def run(box: Box, project: Path, script: str) -> subprocess.CompletedProcess[str]:
    return box.person.run([str(box.bin / "python"), script, str(project)], cwd=project / "stand")


@everyone
def test_a_learned_policy_passes_and_an_attack_does_not(own_box: Box, project: Path, backend: str) -> None:
    """Learned step by step where previews are not to be had, at one go where they are."""
    assert run(own_box, project, "prog.py").returncode == 1
    preview = ("--log",) if backend == "native" else ()
    for _ in range(1 if preview else 6):
        done = learn(own_box, project, "prog.py", *preview, "--apply")
        if done.returncode == 0:
            break
    assert done.returncode == 0, done.stderr
    learned = policy(own_box)
    assert f"{project}/out" in " ".join(learned["allowed_paths"])
    assert set(learned["allowed_paths"]) | set(learned["read_only_paths"]) <= {
        f"{project}/data", f"{project}/out", *(f"{project}/data/{n}" for n in "abc"), f"{project}/out/result",
    }  # fmt: skip
    second = run(own_box, project, "prog.py")
    assert (second.returncode, second.stdout) == (0, "abc\n"), second.stderr
    assert (project / "out" / "result").read_text() == "abc"
    third = run(own_box, project, "attack.py")
    assert third.returncode == 9
    assert "a key" not in third.stdout


@by_user
def test_a_preview_writes_nothing_and_changes_no_policy(own_box: Box, project: Path) -> None:
    before = policy(own_box)
    done = learn(own_box, project, "attack.py", "--log")
    assert done.returncode == 0
    assert "a key" in done.stdout
    assert not (project / "out" / "result").exists()
    assert policy(own_box) == before
    assert f'+    "{project}/data"' in done.stdout
    assert f"warning: read {project}/keys/server.pem by your code: a credential" in done.stderr
    assert "server.pem" not in done.stdout.replace("a key", "")


@everyone
def test_another_box_is_never_opened_for_writing(own_box: Box, project: Path, backend: str) -> None:
    """Nor an environment, nor a repository: what is left there would be executed outside."""
    person, before = own_box.person, policy(own_box)
    places = ("victim/sandbox/exec", "victim/bin/python", "venv/pyvenv.cfg", "venv/bin/activate", "repo/.git/config")
    for name in places:
        for directory in reversed((project / name).relative_to(project).parents[:-1]):
            (project / directory).mkdir(exist_ok=True)
            os.chown(project / directory, person.uid, person.gid)
        person.write(project / name, "")
    code = (
        "import sys\n"
        "for name in ('victim/bin/python', 'victim/sandbox/new', 'venv/bin/activate', 'venv/new', 'repo/new'):\n"
        "    try:\n        open(f'{sys.argv[1]}/{name}', 'a')\n    except OSError:\n        pass\n"
    )
    person.write(project / "stand" / "evil.py", code)
    done = learn(own_box, project, "evil.py", "--apply", *(("--log",) if backend == "native" else ()))
    assert done.returncode == 0, done.stderr
    assert policy(own_box)["allowed_paths"] == before["allowed_paths"] == []
    assert "victim is a box, whose files are executed outside" in done.stderr
    assert "venv is an environment" in done.stderr


@by_user
def test_item_by_item(own_box: Box, project: Path) -> None:
    done = learn(own_box, project, "prog.py", "--log", "--interactive", input="n\ny\n")
    assert done.returncode == 0, done.stderr
    assert policy(own_box)["allowed_paths"] == []
    assert policy(own_box)["read_only_paths"] == [f"{project}/data"]


@by_user
def test_as_json(own_box: Box, project: Path) -> None:
    done = learn(own_box, project, "attack.py", "--log", "--json")
    document = json.loads(done.stdout)
    assert document["status"] == 0
    assert "a key" in done.stderr
    assert {item["value"] for item in document["items"]} == {f"{project}/data", f"{project}/out"}
    assert [entry["target"] for entry in document["refused"] if entry["is_credential"]] == [
        f"{project}/keys/server.pem"
    ]


@by_user
@pytest.mark.parametrize("options", [(), ("--json",)])
def test_what_is_ended_by_ctrl_c_is_learned_from(own_box: Box, project: Path, options: tuple[str, ...]) -> None:
    person, said = own_box.person, project / "stand" / "said"
    code = (
        "import sys, time\ntry:\n    open(sys.argv[1])\nexcept OSError:\n    pass\n"
        "print('started', file=sys.stderr, flush=True)\ntime.sleep(60)"
    )
    command = ("--", "python", "-c", code, project / "data" / "a")
    argv = [*VSBOX, "learn", *options, own_box.root, *command]
    with said.open("w") as errors:
        process = person.popen(
            [str(word) for word in argv], cwd=project / "stand", start_new_session=True, stdout=subprocess.PIPE,
            stderr=errors,
        )  # fmt: skip
        deadline = time.monotonic() + 60
        while "started" not in said.read_text() and time.monotonic() < deadline:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        shown, _ = process.communicate(timeout=60)
    assert process.returncode == 130, said.read_text()
    assert f"{project}/data/a" in shown
    assert policy(own_box)["read_only_paths"] == []


@by_user
def test_nobody_to_ask_is_a_usage_error(own_box: Box, project: Path) -> None:
    done = learn(own_box, project, "prog.py", "--interactive", stdin=subprocess.DEVNULL)
    assert done.returncode == 2
    assert "cannot ask" in done.stderr
    ended = learn(own_box, project, "prog.py", "--log", "--interactive", input="y\n")
    assert ended.returncode == 2
    assert policy(own_box)["allowed_paths"] == []


@by_user
def test_a_status_is_passed_on_and_a_missing_command_said(own_box: Box, project: Path) -> None:
    assert own_box.person.vsbox("learn", own_box.root, "--", "sh", "-c", "exit 7").returncode == 7
    assert own_box.person.vsbox("learn", own_box.root, "--", "none-such").returncode == 127
    assert own_box.person.vsbox("learn", own_box.root).returncode == 2
    assert own_box.person.vsbox("learn", project, "--", "true").returncode == 125


@pytest.mark.parametrize(("person", "backend"), [("user", "landlock")], indirect=True)
def test_a_preview_without_namespaces_is_refused(own_box: Box, project: Path) -> None:
    done = learn(own_box, project, "prog.py", "--log")
    assert done.returncode == 125
    assert "user namespaces" in done.stderr


ROUNDS = """
import os, sys
place = sys.argv[1] + "/out/"
text = open(place + "conf").read()
with open(place + "conf.tmp", "w") as file:
    file.write(text + "x")
os.replace(place + "conf.tmp", place + "conf")
print(os.listdir(place))
"""


@everyone
def test_rounds_come_to_an_end(own_box: Box, project: Path, person: Person) -> None:
    """What was learned to be read is to be written in the next round, and replaced in the one after."""
    person.write(project / "out" / "conf", "c")
    person.write(project / "stand" / "rounds.py", ROUNDS)
    for _ in range(5):
        done = learn(own_box, project, "rounds.py", "--apply")
        if done.returncode == 0:
            break
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, "['conf']"), done.stderr
    assert run(own_box, project, "rounds.py").stdout == "['conf']\n"
    assert (project / "out" / "conf").read_text() == "cxx"
    assert f"{project}/out/conf" not in policy(own_box)["read_only_paths"]


LISTENS = """
import os, socket, sys
path = sys.argv[1] + "/out/app.sock"
with socket.socket(socket.AF_UNIX) as server:
    server.bind(path)
    print("bound")
os.unlink(path)
"""


@everyone
def test_a_socket_that_is_made_and_a_directory_that_is_listed(own_box: Box, project: Path, person: Person) -> None:
    person.write(project / "stand" / "listens.py", LISTENS)
    denied = run(own_box, project, "listens.py")
    assert f"vsbox allow {own_box.root} {project}/out" in denied.stderr.replace("'", ""), denied.stderr
    assert learn(own_box, project, "listens.py", "--apply").returncode == 1
    assert policy(own_box)["allowed_paths"] == [f"{project}/out"]
    assert run(own_box, project, "listens.py").stdout == "bound\n"
    done = person.vsbox("learn", "--apply", own_box.root, "--", "ls", f"{project}/data", cwd=project / "stand")
    assert done.returncode != 0
    assert f"{project}/data" in policy(own_box)["read_only_paths"]


@by_user
def test_a_name_that_a_terminal_obeys_is_shown_as_text(own_box: Box, project: Path, person: Person) -> None:
    (project / "data" / "\x1b]0;x\x07.pem").touch()
    person.write(project / "stand" / "lists.py", "import os, sys; os.listdir(sys.argv[1] + '/data')")
    said = learn(own_box, project, "lists.py").stderr
    assert ".pem" in said
    assert "\x1b" not in said


# ---- diff ----

QUIET = "VERSION = 1\n"
NOSY = (
    "import os, subprocess\ntry:\n    open({path!r})\nexcept OSError:\n    pass\n"
    "subprocess.run(['uname'], stdout=subprocess.DEVNULL)\nopen(os.path.expanduser('~/.left'), 'w')\n"
)


@pytest.mark.parametrize("person", ["user", "root"], indirect=True)
def test_an_upgrade_that_does_more_is_found_out(person: Person, place: Path) -> None:
    secret = person.write(place / "secret.txt", "canary")
    before = wheel(person, place, "thing", "1.0", QUIET)
    after = wheel(person, place, "thing", "1.1", NOSY.format(path=str(secret)))
    done = person.vsbox("diff", "--json", before, after, "--", "python", "-c", "import thing", cwd=place)
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)["difference"]
    added = {(t["phase"], t["operation"], t["target"], t["verdict"]) for t in found["added"]}
    assert ("import", "read", str(secret), "denied") in added
    assert ("import", "execute", "/usr/bin/uname", "allowed") in added
    assert ("import", "write", "$HOME/.left", "allowed") in added
    assert ("run", "read", str(secret), "denied") in added
    assert not found["removed"]
    table = person.vsbox("diff", "-q", before, after, cwd=place)
    assert f"only {after}" in table.stdout.replace("\n", "") or "only" in table.stdout


@pytest.mark.parametrize("person", ["user"], indirect=True)
def test_the_same_twice_is_the_same_and_nothing_stays(person: Person, place: Path) -> None:
    made = wheel(person, place, "thing", "1.0", QUIET)
    done = person.vsbox("diff", "-q", made, made, cwd=place)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "touch the same" in done.stdout
    assert not list((person.home / ".cache" / "vsbox").glob("diff-*"))


@pytest.mark.parametrize("person", ["user"], indirect=True)
def test_directories_of_sources_are_compared_and_left_as_they_are(person: Person, place: Path) -> None:
    """Whatever they are called; and what a comparison that was killed has left goes with the next."""
    for name, code in (("one", QUIET), ("two[b]", NOSY.format(path="/none"))):
        person.run(["mkdir", str(place / name)])
        setup = "from setuptools import setup; setup(name='thing', py_modules=['thing'])"
        person.write(place / name / "setup.py", setup)
        person.write(place / name / "thing.py", code)
    left = person.home / ".cache" / "vsbox" / "diff-killed"
    person.run(["mkdir", "-p", str(left / "0" / "work")])
    os.utime(left, (0, 0))
    done = person.vsbox("diff", "--json", "./one", "./two[b]", cwd=place)
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)["difference"]
    assert ("import", "write", "$HOME/.left") in {(t["phase"], t["operation"], t["target"]) for t in found["added"]}
    assert not [t for t in (*found["added"], *found["removed"]) if t["operation"] == "exit"]
    assert {path.name for path in place.rglob("*")} == {"one", "two[b]", "setup.py", "thing.py"}
    assert not left.exists()


@pytest.mark.parametrize("person", ["user"], indirect=True)
def test_what_cannot_be_compared(person: Person, place: Path) -> None:
    made = wheel(person, place, "thing", "1.0", QUIET)
    assert person.vsbox("diff", "--not-a-thing", made, cwd=place).returncode in {2, 125}
    assert person.vsbox("diff", "./missing.whl", made, cwd=place).returncode == 2
    broken = person.write(place / "broken-1.0-py3-none-any.whl", "no wheel")
    done = person.vsbox("diff", broken, made, cwd=place)
    assert done.returncode == 125
    assert "cannot install" in done.stderr
    for words in (("pyhton",), ("python", "-c", "raise SystemExit(3)")):
        done = person.vsbox("diff", "-q", made, made, "--", *words, cwd=place)
        assert done.returncode == 125, done.stderr
        assert "run failed for both" in done.stderr
    assert not list((person.home / ".cache" / "vsbox").glob("diff-*"))


@pytest.mark.index
@pytest.mark.parametrize("person", ["user"], indirect=True)
def test_versions_from_the_index(person: Person, place: Path) -> None:
    done = person.vsbox("diff", "six==1.15.0", "six==1.16.0", cwd=place)
    assert done.returncode in {0, 1}, done.stderr


def test_help_teaches(make_box: Callable[..., Box]) -> None:
    for command in ("learn", "diff", "report"):
        done = subprocess.run([*VSBOX, command, "--help"], capture_output=True, text=True, check=True)
        assert f"vsbox {command} " in done.stdout
