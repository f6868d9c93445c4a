"""Whatever stops ``vsbox wrap`` or ``vsbox unwrap``, there is the old environment or the new one, and it is whole."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from wrapped import (
    NATIVE,
    READ,
    SECRET,
    WRITE_ANY,
    Project,
    Tree,
    Trial,
    differences,
    do,
    is_original,
    is_working_box,
    make_project,
    reads_the_secret,
    tree,
)

import vsbox
from harness import PLAIN, VSBOX
from processes import SECONDS

if TYPE_CHECKING:
    from harness import Box, Person

DELAYS = 25
STEPS = 7
AS_USER = pytest.mark.parametrize("person", ["user"], indirect=True)
AS_ROOT = pytest.mark.parametrize("person", ["root"], indirect=True)

@pytest.fixture
def project(person: Person, place: Path) -> Project:
    """A project with a plain environment."""
    return make_project(person, place)


@pytest.fixture(scope="module")
def plain(person: Person) -> Iterator[tuple[Project, Tree, list[str]]]:
    """A project that nothing changes: what is refused leaves it as it was."""
    place = person.directory("plain")
    made = make_project(person, place)
    yield made, tree(made.root), made.names()
    shutil.rmtree(place, ignore_errors=True)


# ---- killed ----


@AS_USER
@pytest.mark.parametrize("command", ["wrap", "unwrap"])
def test_killed_at_any_time_it_leaves_the_old_or_the_new(command: str, project: Project) -> None:
    trial = Trial(project, command)
    whole, _ = trial.measure()
    for number in range(DELAYS):
        trial.prepare()
        streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = project.person.popen([*VSBOX, *trial.words], cwd=project.root, **streams)
        time.sleep(whole * number / DELAYS)
        process.kill()
        process.wait(SECONDS)
        trial.look(f"after {number}/{DELAYS} of {whole:.2f} s")
    assert not trial.problems, "\n".join(trial.problems)


@AS_USER
@pytest.mark.parametrize("command", ["wrap", "unwrap"])
def test_killed_at_any_step_it_leaves_the_old_or_the_new(command: str, project: Project) -> None:
    trial = Trial(project, command)
    _, steps = trial.measure()
    for number in range(STEPS):
        trial.prepare()
        last = 1 + steps * number // STEPS
        assert trial.step(signal.SIGKILL, last).returncode == -signal.SIGKILL
        trial.look(f"at step {last} of {steps}")
    assert not trial.problems, "\n".join(trial.problems)


@AS_USER
def test_packages_cannot_be_written_through_what_a_killed_wrap_leaves(project: Project) -> None:
    """In preset project packages are read-only; while the old environment is removed, its files are links of them."""
    trial = Trial(project, "wrap")
    _, steps = trial.measure()
    package = project.site / "demo" / "__init__.py"
    assert project.python(WRITE_ANY, package).stdout == "written\n"
    for last in range(steps * 2 // 3, steps, steps // 24):
        trial.step(signal.SIGKILL, last)
        assert project.python(WRITE_ANY, package).stdout == ""
        assert not trial.shared_and_writable(), f"at step {last} of {steps}"
        for path in trial.left_over():
            shutil.rmtree(path)
        assert project.unwrap().returncode == 0


@AS_USER
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_leaves_the_environment_as_it_was(number: signal.Signals, project: Project) -> None:
    trial = Trial(project, "wrap")
    for last in (1, 20, 60):
        done = trial.step(number, last)
        assert done.returncode == 128 + number, done.stderr
        assert is_original(project, trial.before)
        assert project.names() == trial.names


# ---- refused: everything stays as it was ----

REFUSED: dict[str, tuple[str, int, str]] = {
    "no such directory": ("nowhere", 125, "it does not exist"),
    "a file": ("pyproject.toml", 125, "pyproject.toml"),
    "not an environment": ("{outside} --preset venv", 125, "not a virtual environment"),
    "unknown option of bwrap": (".venv --ro-bnd /a /b", 2, "did you mean --ro-bind?"),
    "unknown option of bwrap, .venv unsaid": ("--unshare-nett", 2, "did you mean --unshare-net?"),
    "too few words": (".venv --ro-bind /a", 2, "takes 2 words"),
    "only bwrap has it": ("--backend native .venv --uid 4321", 2, "--uid with backend native"),
    "only bwrap has it, without namespaces": ("--backend landlock .venv --gid 77", 2, "--gid with backend landlock"),
    "no box may have it": (".venv --cap-add CAP_SYS_ADMIN", 2, "--cap-add"),
    "everything bound": (".venv --bind / /", 2, "/"),
    "a grant that is not there": (".venv --allow nowhere", 2, "cannot grant"),
    "unknown preset": ("--preset nope", 2, "nope"),
    "a project that is not there": ("--project nowhere", 2, "not a directory"),
    "the environment as project": ("--project .venv", 2, "in the environment"),
    "home": ("--project {home}", 2, "for the project of"),
    "what holds the home": ("--project {home}/..", 2, "for the project of"),
    "a hidden directory of the home": ("--project {hidden}", 2, "hidden directory"),
    "what holds vsbox": (f"--project {Path(vsbox.__file__).parent.parent}", 2, "vsbox"),
}
SYSTEM = (
    "/", "/etc", "/usr", "/home", "/root", "/tmp", "/var", "/opt", "/bin", "/proc", "/sys", "/dev", "/run",
    "/boot", "/etc/ssl", "/usr/lib", "/usr/local", "/var/lib",
)  # fmt: skip


def refuse(plain: tuple[Project, Tree, list[str]], words: list[str], status: int, reason: str) -> None:
    """See that a command is refused for a reason, and that nothing has changed."""
    project, before, names = plain
    done = project.wrap(*words)
    unchanged = not differences(before, tree(project.root)) and project.names() == names
    if done.returncode == 0:
        project.unwrap()
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.startswith(("vsbox: ", "Usage: "))
    assert reason in done.stderr
    assert unchanged


@pytest.mark.parametrize("what", REFUSED)
def test_it_is_refused_and_nothing_changes(what: str, plain: tuple[Project, Tree, list[str]]) -> None:
    words, status, reason = REFUSED[what]
    project = plain[0]
    hidden = project.person.home / f".hidden-{os.getpid()}"
    places = {"outside": project.outside, "home": project.person.home, "hidden": hidden}
    hidden.mkdir(exist_ok=True)
    try:
        refuse(plain, words.format_map(places).split(), status, reason)
    finally:
        hidden.rmdir()


@pytest.mark.parametrize("directory", SYSTEM)
def test_a_directory_of_the_system_is_no_project(directory: str, plain: tuple[Project, Tree, list[str]]) -> None:
    """What a link leads to is named: /usr/bin for /bin. The control: directories of a person's are projects."""
    refuse(plain, ["--project", directory], 2, directory)


def test_a_home_is_no_project_unless_another_is_named(project: Project) -> None:
    at_home = {"env": project.person.environment | {"HOME": str(project.root)}}
    before = tree(project.environment)
    done = project.wrap(*NATIVE, **at_home)
    assert done.returncode == 2
    assert "it is your home directory" in done.stderr
    assert "--project DIR" in done.stderr
    assert is_original(project, before)
    assert project.wrap(*NATIVE, "--project", project.outside, **at_home).returncode == 0
    assert project.policy["project"] == str(project.outside)


@AS_USER
def test_where_nothing_can_be_written_nothing_changes(project: Project) -> None:
    before = tree(project.root)
    project.root.chmod(0o555)
    done = project.wrap(project.environment, *NATIVE, cwd=project.person.home)
    project.root.chmod(0o755)
    assert done.returncode == 125
    assert "Permission denied" in done.stderr
    assert not differences(before, tree(project.root))


@AS_USER
def test_it_does_not_matter_where_one_stands(project: Project) -> None:
    before = tree(project.environment)
    for directory in ("/", "/usr", project.outside):
        done = project.wrap(project.environment, *NATIVE, cwd=directory)
        assert (done.returncode, done.stderr) == (0, "")
        assert project.unwrap(project.environment, cwd=directory).returncode == 0
        assert is_original(project, before)


def spoil_with_fifo(project: Project) -> None:
    os.mkfifo(project.environment / "share" / "fifo")


def spoil_with_name(project: Project) -> None:
    (project.environment / "inside").mkdir()


def spoil_base(project: Project) -> None:
    for name in ("python", "python3"):
        (project.environment / "bin" / name).unlink(missing_ok=True)
        (project.environment / "bin" / name).symlink_to("/nonexistent/bin/python3")
    (project.environment / "pyvenv.cfg").write_text("home = /nonexistent/bin\nversion = 3.11.0\n")


def spoil_with_conda(project: Project) -> None:
    (project.environment / "conda-meta").mkdir()


def spoil_launcher(project: Project) -> None:
    """What calls itself wrapped: a magic comment, a launcher that is none, a policy that allows."""
    do(project.person, "mkdir", project.environment / "sandbox")
    trap = f"#!/bin/sh\n# vsbox: wrapped\ntouch {project.root}/executed\n"
    for name in ("sandbox/exec", "sandbox/verify"):
        project.person.write(project.environment / name, trap, mode=0o755)
    policy = f'{{"venv_root": "{project.environment}", "allowed_paths": ["{project.secret.parent}"]}}'
    project.person.write(project.environment / "sandbox" / "sandbox.json", policy)


SPOILT: dict[Callable[[Project], None], str] = {
    spoil_with_fifo: "neither file, directory nor link",
    spoil_with_name: "a name that a box needs",
    spoil_base: "is not in /nonexistent/bin any more",
    spoil_with_conda: "conda environment",
    spoil_launcher: "its launcher is not that of this version",
}


@pytest.mark.parametrize("spoil", SPOILT, ids=lambda spoil: spoil.__name__)
def test_what_cannot_be_taken_over_is_left_alone(spoil: Callable[[Project], None], project: Project) -> None:
    spoil(project)
    before = tree(project.root)
    done = project.wrap(*NATIVE)
    assert done.returncode == 125
    assert SPOILT[spoil] in done.stderr
    assert not differences(before, tree(project.root))


def test_a_planted_policy_and_a_magic_comment_count_for_nothing(project: Project) -> None:
    spoil_launcher(project)
    for name in ("exec", "verify"):
        (project.environment / "sandbox" / name).unlink()
    assert reads_the_secret(project)
    assert project.wrap(*NATIVE).returncode == 0
    assert is_working_box(project)
    assert project.policy["allowed_paths"] == []


@pytest.mark.parametrize("command", ["wrap", "unwrap"])
def test_a_link_in_what_only_looks_like_a_box_is_not_written_through(command: str, project: Project) -> None:
    """The true launcher is no secret, so code may leave it there too; the control writes through the link."""
    sandbox = project.environment / "sandbox"
    spoil_launcher(project)
    shutil.copyfile(Path(vsbox.__file__).parent / "launch" / "vsbox-launcher", sandbox / "exec")
    (sandbox / "lock").symlink_to(project.secret)
    inside = project.environment / "inside" / "bin"
    do(project.person, "mkdir", "-p", inside)
    for path in (project.environment / "bin").iterdir():
        path.rename(inside / path.name)
    do(project.person, PLAIN, "-c", "import sys; open(sys.argv[1], 'a').write('.')", sandbox / "lock")  # the control
    project.person.vsbox(command, cwd=project.root)
    assert project.secret.read_text() == f"{SECRET}."


# ---- in use ----


def test_a_program_goes_on_while_its_environment_is_wrapped_and_unwrapped(project: Project) -> None:
    """It had started unconfined and stays so; what it imports later is still there."""
    code = "import sys; print('started', flush=True)\n"
    code += "for name in sys.stdin: print(__import__(name.strip()).__file__, flush=True)\n"
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with project.person.start([str(project.environment / "bin" / "python"), "-c", code], **streams) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for action, module in ((project.wrap, "demo"), (project.unwrap, "outer")):
            assert action().returncode == 0
            process.stdin.write(f"{module}\n")
            process.stdin.flush()
            assert module in process.stdout.readline()
        process.stdin.close()
    assert process.returncode == 0


def test_unwrapping_is_refused_while_something_runs(project: Project) -> None:
    assert project.wrap(*NATIVE).returncode == 0
    code = "import sys; print('started', flush=True); sys.stdin.read()"
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with project.person.start([str(project.environment / "bin" / "python"), "-c", code], **streams):
        done = project.unwrap()
        assert done.returncode == 125
        assert "something runs in it" in done.stderr
        assert "vsbox kill" in done.stderr
        assert is_working_box(project)
    assert project.unwrap().returncode == 0


def test_unwrapping_is_refused_while_the_quarantine_holds_something(project: Project) -> None:
    before = tree(project.environment)
    assert project.wrap(*NATIVE).returncode == 0
    assert "appeared during a run" in project.python("open('.envrc', 'w').write('mine')").stderr
    done = project.unwrap()
    assert done.returncode == 125
    assert "its quarantine is not empty" in done.stderr
    assert is_working_box(project)
    (found,) = (project.environment / "sandbox" / "quarantine").rglob("*-.envrc")
    assert found.read_text() == "mine"
    shutil.rmtree(found.parent)
    assert project.unwrap().returncode == 0
    assert is_original(project, before)


@pytest.mark.parametrize("directory", [".venv", "nowhere"])
def test_what_is_no_box_is_not_unwrapped(directory: str, plain: tuple[Project, Tree, list[str]]) -> None:
    project, before, _ = plain
    done = project.unwrap(directory)
    assert done.returncode == 125
    assert done.stderr.startswith(f"vsbox: cannot use {directory}: ")
    assert not differences(before, tree(project.root))


def test_a_box_that_was_made_as_one_stays_one_when_wrapped(person: Person, make_box: Callable[..., Box]) -> None:
    box = make_box(person, "native", "--no-pip", fresh=True)
    policy = box.root / "sandbox" / "sandbox.json"
    before = policy.read_bytes()
    done = person.vsbox("wrap", box.root)
    assert done.returncode == 0
    assert done.stdout.startswith("Is a box already")
    assert policy.read_bytes() == before
    shutil.rmtree(box.root.parent)


def test_a_box_that_was_made_as_one_is_unwrapped_to_an_environment(
    person: Person, place: Path, make_box: Callable[..., Box]
) -> None:
    box = make_box(person, "native", "--no-pip", fresh=True)
    person.write(place / "secret", SECRET)
    command = [str(box.bin / "python"), "-c", READ, str(place / "secret")]
    assert person.run(command).returncode == 1
    names = sorted(os.listdir(box.root.parent))
    assert person.vsbox("unwrap", box.root).returncode == 0
    assert person.run(command).stdout == f"{SECRET}\n"
    assert box.python("import sys; print(sys.prefix)").stdout == f"{box.root}\n"
    assert sorted(os.listdir(box.root.parent)) == names
    shutil.rmtree(box.root.parent)


# ---- unusual trees ----


def test_directories_that_cannot_be_written_leave_nothing_behind(project: Project) -> None:
    directory = project.environment / "share" / "odd" / "fixed"
    do(project.person, "mkdir", directory)
    project.person.write(directory / "file", "content")
    directory.chmod(0o555)
    before, names = tree(project.environment), project.names()
    assert project.wrap(*NATIVE).returncode == 0
    assert project.names() == names
    assert project.unwrap().returncode == 0
    assert project.names() == names
    assert is_original(project, before)


@AS_ROOT
def test_what_belongs_to_others_still_does(project: Project) -> None:
    """The superuser can wrap what is not all theirs: directories, and files with a second name, too."""
    odd = project.environment / "share" / "odd"
    os.link(odd / "big", project.root.parent / "second name")
    for path in (odd, odd / "big", odd / ".hidden", odd / "relative"):
        os.chown(path, 12345, 12346, follow_symlinks=False)
    before = tree(project.environment)
    assert project.wrap(*NATIVE).returncode == 0
    assert project.unwrap().returncode == 0
    assert not differences(before, tree(project.environment))
