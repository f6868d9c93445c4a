"""A wrapped project when more happens at once: other runs, a killed launcher, the host at work, somebody who swaps.

Each attack is first run unconfined, or against what nothing protects, where it succeeds.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from project_attacks import Project, make_environment, wrap

from harness import Box, Person, require_program
from processes import SECONDS, wait_for_none, wait_until

PLANT = "repository('docs/.git')"
WAITING = "print('started', flush=True); sys.stdin.readline()\n"


def go_on(process: subprocess.Popen[str]) -> str:
    """Let a started attack do its work; return what it said on standard error once it has ended."""
    return process.communicate("\n", timeout=SECONDS)[1]


# ---- runs at once ----


def test_a_run_does_not_vouch_for_what_another_left(project: Project, control: Project) -> None:
    """The second starts while the first's file is there, and makes it anew when that was taken away."""
    control.attack(PLANT)
    assert control.executes("docs")
    first = project.start(PLANT + "\n" + WAITING)
    second = project.start(WAITING + "os.path.exists('docs/.git') and sys.exit('still there')\n" + PLANT)
    go_on(first)
    assert "still there" not in go_on(second)
    assert not project.executes("docs")


def test_boxes_of_one_project_do_not_vouch_for_each_other(fresh: Callable[[], Project], backend: str) -> None:
    project = wrap(fresh(), backend)
    other = wrap(Project(project.root, project.person), backend, "env2")
    first = project.start(PLANT + "\n" + WAITING)
    second = other.start(WAITING + PLANT)
    go_on(first)
    go_on(second)
    assert not project.executes("docs")


@pytest.mark.parametrize("person", ["root"], indirect=True)  # nobody else may enter a namespace of process numbers
def test_runs_with_one_process_number(project: Project, person: Person) -> None:
    """Containers that share a project: launchers have the same number, each in its own namespace."""
    apart = [require_program("unshare"), "--pid", "--fork", "--mount-proc", project.python, "-c"]
    streams = {"cwd": project.root, "stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    first = person.start([*apart, f"import os, sys\n{WAITING}os.makedirs('docs/x/.git')"], **streams)
    second = person.start([*apart, f"import os, sys\n{WAITING}"], **streams)
    go_on(second)
    go_on(first)
    assert not (project.root / "docs" / "x" / ".git").exists()
    assert project.quarantined()


def test_what_two_runs_make_at_once_is_all_found(project: Project) -> None:
    runs = [project.start(f"{WAITING}os.mkdir('docs/{n}'); repository('docs/{n}/.git')") for n in range(3)]
    for run in runs:
        assert run.stdin is not None
        run.stdin.write("\n")
        run.stdin.flush()
    for run in runs:
        run.communicate(timeout=SECONDS)
    assert not [n for n in range(3) if (project.root / f"docs/{n}/.git").exists()]
    assert list((project.sandbox / "runs").iterdir()) == []


SWAPPER = """
import threading, time
outside = sys.argv[2]
os.mkdir('docs/d'); os.mkdir('docs/d/x'); os.symlink(outside, 'docs/l')
libc = __import__('ctypes').CDLL(None)
end = time.monotonic() + 2
print('started', flush=True)
while time.monotonic() < end:
    libc.renameat2(-100, b'docs/d', -100, b'docs/l', 2)
"""


def test_a_directory_swapped_for_a_link_while_others_tidy(project: Project, person: Person) -> None:
    outside = person.directory("escape-outside")
    for name in ("x/.git", ".envrc", "__pycache__"):
        (outside / name).mkdir(parents=True)
    subprocess.run(["chown", "-R", f"{person.uid}:{person.gid}", outside], check=True)
    argv = [project.python, "-c", "import os, sys" + SWAPPER, "", str(outside)]
    swapping = person.start(argv, cwd=project.root, stderr=subprocess.PIPE)
    while swapping.poll() is None:
        project.attack("os.makedirs('docs/e', exist_ok=True); write('docs/e/.envrc')")
    assert project.quarantined()
    assert sorted(os.listdir(outside)) == [".envrc", "__pycache__", "x"]
    assert (outside / "x" / ".git").exists()
    shutil.rmtree(outside)


def test_what_outlives_the_payload_leaves_nothing(project: Project, token: str) -> None:
    code = """
import time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        while True:
            os.makedirs('docs/new/.git', exist_ok=True)
    os._exit(0)
while not os.path.exists('docs/new'):
    time.sleep(0.01)
"""
    project.attack(code, token)
    assert wait_for_none(token) == []
    assert not (project.root / "docs" / "new" / ".git").exists()


# ---- killed ----


def kill_a_run(project: Project, code: str = PLANT) -> None:
    """Kill a launcher, and wait until all behind it has gone."""
    run = project.start(code + "\n" + WAITING)
    run.kill()
    run.communicate(timeout=SECONDS)
    assert project.box
    assert wait_until(lambda: str(project.root) not in project.person.vsbox("list", "--json").stdout)


def test_the_start_after_a_killed_one_cleans_up(project: Project) -> None:
    kill_a_run(project)
    assert project.executes("docs")  # it is there until then: the control
    done = project.attack("print(os.path.exists('docs/.git'))")
    assert done.stdout == "False\n"
    assert "docs/.git" in done.stderr
    assert not project.executes("docs")


COMMANDS: dict[str, Callable[[Project], list[object]]] = {
    "sync": lambda project: ["sync", project.environment],
    "wrap": lambda project: ["wrap", project.environment, "--preset", "venv"],
    "unwrap": lambda project: ["unwrap", project.environment],
    "clear": lambda project: ["--clear", project.environment],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_forgets_a_killed_run(command: str, fresh: Callable[[], Project]) -> None:
    """What is left is taken away or named, or the next start does it."""
    project = wrap(fresh(), "native")
    kill_a_run(project)
    done = project.person.vsbox(*COMMANDS[command](project), cwd=project.root)
    told = "docs/.git" in done.stdout + done.stderr + project.attack("").stderr
    assert told
    assert not project.executes("docs")


# ---- the host at work ----


def test_a_protected_file_that_the_host_replaces_stays_protected(project: Project, control: Project) -> None:
    """`git pull` and editors write a new file and rename it over the old one."""
    name = ".pre-commit-config.yaml"
    code = f"{WAITING}write('{name}', 'evil')"
    for each in (control, project):
        each.write(name, "old")
        run = each.start(code)
        each.write("new", "new").rename(each.root / name)
        said = go_on(run)
    assert (control.root / name).read_text() == "evil"
    assert not (project.root / name).exists() or (project.root / name).read_text() == "new" or name in said


def test_a_protected_directory_that_the_host_replaces_stays_protected(
    fresh: Callable[[], Project], backend: str
) -> None:
    project = wrap(fresh(), backend)
    run = project.start(f"{WAITING}repository('docs/r'); shutil.copy('docs/r/config', '.git/config')")
    shutil.copytree(project.root / ".git", project.root / "copy")
    shutil.rmtree(project.root / ".git")
    (project.root / "copy").rename(project.root / ".git")
    subprocess.run(["chown", "-R", f"{project.person.uid}:{project.person.gid}", project.root / ".git"], check=True)
    assert not project.executes()
    go_on(run)
    assert not project.executes()


# ---- what cleaning up must not do ----


def test_cleaning_up_moves_nothing_that_was_there(project: Project) -> None:
    """A pyvenv.cfg makes a directory an environment: one that holds the user's repository is not moved away for it."""
    project.write("docs/vendor/lib/.git/config", "mine")
    project.attack("write('docs/vendor/pyvenv.cfg')")
    assert (project.root / "docs" / "vendor" / "lib" / ".git" / "config").exists()


def test_cleaning_up_leaves_deep_directories_alone(project: Project) -> None:
    deep = "docs/" + "d/" * 110 + "mine"
    project.write(deep, "mine")
    project.attack("write('demo/.envrc')")
    assert project.quarantined()
    assert (project.root / deep).read_text() == "mine"


def test_a_link_is_not_put_back_outside_of_the_project(project: Project, person: Person) -> None:
    """Its parent is a link to another directory meanwhile."""
    outside = person.directory("escape-outside")
    (outside / "b").mkdir()
    os.chown(outside / "b", person.uid, person.gid)
    project.write("docs/a/b/c")
    (project.root / "docs/a/b/.env").symlink_to("../shared")
    os.lchown(project.root / "docs/a/b/.env", person.uid, person.gid)
    project.attack("os.rename('docs/a', 'docs/moved'); os.symlink(sys.argv[2], 'docs/a')", str(outside))
    assert (project.root / "docs/a/b").exists()
    assert os.listdir(outside / "b") == []
    shutil.rmtree(outside)


def test_what_was_quarantined_never_overwrites(project: Project) -> None:
    for text in ("one", "two"):
        project.attack(f"os.makedirs('docs/new', exist_ok=True); write('docs/new/.env', '{text}')")
    kept = sorted(path.read_text() for path in (project.sandbox / "quarantine").rglob("*-.env"))
    assert kept == ["one", "two"]


@pytest.mark.parametrize("kind", ["os.mkfifo('docs/.git')", "os.makedirs('docs/.git'); os.mkfifo('docs/.git/f')"])
def test_quarantine_on_another_filesystem(kind: str, control: Project, person: Person) -> None:
    """The environment lies elsewhere: what is taken away is copied there."""
    memory = Path("/dev/shm") / control.root.parent.name
    if os.stat("/dev/shm").st_dev == control.root.stat().st_dev:
        pytest.skip("there is no second filesystem")
    shutil.copytree(control.root, memory)
    subprocess.run(["chown", "-R", f"{person.uid}:{person.gid}", memory], check=True)
    environment = make_environment(person, control.root / "env")
    answer = person.vsbox("wrap", environment, "--project", memory)
    try:
        assert answer.returncode == 0, answer.stderr
        project = Project(memory, person, Box(environment, person, "native"))
        done = project.attack(kind + "; repository('docs/z/.git'); repository('docs/b/.git')")
        left = [name for name in ("z/.git", "b/.git", ".git") if os.path.lexists(memory / "docs" / name)]
        assert left == [], done.stderr
    finally:
        shutil.rmtree(memory)


# ---- size ----


def test_twenty_thousand_directories(fresh: Callable[[], Project]) -> None:
    project = wrap(fresh(), "native")
    code = """
for a in range(100):
    for b in range(200):
        os.makedirs(f'docs/{a}/{b}')
os.mkdir('docs/99/199/.git')
"""
    done = project.attack(code)
    assert "docs/99/199/.git" in done.stderr
    assert not (project.root / "docs/99/199/.git").exists()
    assert project.attack("print(1)").stdout == "1\n"


def test_long_paths_do_not_lock_the_user_out(project: Project) -> None:
    code = "os.chdir('docs')\nfor _ in range(30):\n    os.mkdir('d' * 250); os.chdir('d' * 250)\n"
    project.attack(code)
    done = project.attack("print(1)")
    assert (done.stdout, done.stderr) == ("1\n", "")
