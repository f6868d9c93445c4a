"""Environments of every kind become boxes in place, go on working, and come back byte for byte."""

from __future__ import annotations

import filecmp
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from wrapped import (
    MAKERS,
    NATIVE,
    READ,
    SECRET,
    Answers,
    Project,
    Tree,
    answers,
    differences,
    do,
    is_original,
    is_working_box,
    make_project,
    make_wheel,
    reads_the_secret,
    tree,
)

from harness import PLAIN, lacking

if TYPE_CHECKING:
    from harness import Person

KINDS = [*MAKERS, pytest.param("uv", marks=pytest.mark.index)]
LINE = "import sys; open(sys.argv[1], 'a').write(sys.argv[2])"  # adds a line to a file


def uv_maker(uv: Path) -> tuple[str, ...]:
    return str(uv), "venv", "-q", "--offline", "-p", PLAIN


@pytest.fixture
def project(person: Person, place: Path) -> Project:
    """A project with a plain environment."""
    return make_project(person, place)


@pytest.fixture(scope="module")
def shared(person: Person) -> Iterator[Project]:
    """A project with a wrapped environment, for tests that only look."""
    place = person.directory("shared")
    made = make_project(person, place)
    assert made.wrap(*NATIVE).returncode == 0
    yield made
    shutil.rmtree(place, ignore_errors=True)


# ---- every kind of environment ----


@dataclass(frozen=True)
class Look:
    """What an environment answered and held at a time, what was beside it, and whether it read a secret."""

    answers: Answers
    tree: Tree
    names: list[str]
    leaks: bool


@dataclass(frozen=True)
class Story:
    """An environment as it was made, as a box, and when it was given back; status and complaints of both commands."""

    made: Look
    boxed: Look
    given_back: Look
    said: tuple[tuple[int, str], ...]


@pytest.fixture(scope="module", params=KINDS)
def story(request: pytest.FixtureRequest, person: Person) -> Iterator[Story]:
    """An environment of each kind is made, wrapped and unwrapped."""
    maker = uv_maker(request.getfixturevalue("uv")) if request.param == "uv" else ()
    place = person.directory("story")
    project = make_project(person, place, request.param, maker)

    def look() -> Look:
        return Look(answers(project), tree(project.environment), project.names(), reads_the_secret(project))

    made = look()
    wrapped = project.wrap(*NATIVE)
    boxed = look()
    unwrapped = project.unwrap()
    yield Story(made, boxed, look(), tuple((done.returncode, done.stderr) for done in (wrapped, unwrapped)))
    shutil.rmtree(place, ignore_errors=True)


def test_it_is_wrapped_and_unwrapped_without_a_word_of_complaint(story: Story) -> None:
    assert story.said == ((0, ""), (0, ""))


def test_everything_works_as_before(story: Story) -> None:
    assert {status for status, *_ in story.made.answers.values()} == {0}
    assert story.boxed.answers == story.made.answers


def test_it_is_confined(story: Story) -> None:
    assert (story.made.leaks, story.boxed.leaks, story.given_back.leaks) == (True, False, True)


def test_unwrapping_gives_back_every_byte(story: Story) -> None:
    assert differences(story.made.tree, story.boxed.tree)
    assert not differences(story.made.tree, story.given_back.tree)
    assert story.given_back.answers == story.made.answers


def test_nothing_is_left_beside_it(story: Story) -> None:
    assert story.made.names == story.boxed.names == story.given_back.names


def test_pip_of_the_environment_works(person: Person, place: Path) -> None:
    project = make_project(person, place, "virtualenv")
    assert project.wrap(*NATIVE).returncode == 0
    assert "demo==1" in project.run("python", "-m", "pip", "list", "--format=freeze").stdout
    assert project.run("pip", "uninstall", "-q", "-y", "demo").returncode == 0
    assert project.python("import demo").returncode == 1


# ---- each backend ----


def test_wrapped_with_each_backend(project: Project, backend: str) -> None:
    if backend == "bubblewrap" and not Path("/usr/bin/bwrap").exists():
        lacking("bubblewrap", "bubblewrap is not installed")
    before, names = tree(project.environment), project.names()
    done = project.wrap("--backend", backend)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Wrapped, sandboxed with ")
    assert f"  project: {project.root}\n" in done.stdout
    assert f"  can be read: {project.outside}\n" in done.stdout
    assert {status for status, *_ in answers(project).values()} == {0}
    assert not reads_the_secret(project)
    assert project.unwrap().returncode == 0
    assert is_original(project, before)
    assert project.names() == names


@pytest.mark.parametrize("name", ["with space", "ümläut", "quote'd", "-dash", "deep/er"])
def test_names_of_all_kinds(name: str, person: Person, place: Path) -> None:
    do(person, "mkdir", "-p", place / name)
    project = make_project(person, place / name)
    before = tree(project.environment)
    assert project.wrap(*NATIVE).returncode == 0
    assert project.python("import sys, outer; print(sys.prefix)").stdout == f"{project.environment}\n"
    assert not reads_the_secret(project)
    assert project.unwrap().returncode == 0
    assert is_original(project, before)


def test_the_project_is_where_a_link_to_the_environment_is(project: Project) -> None:
    """A link goes on leading to the environment, which is wrapped where it is."""
    link = project.outside / ".venv"
    link.symlink_to(project.environment)
    assert project.wrap(*NATIVE, cwd=project.outside).returncode == 0
    assert project.policy["project"] == str(project.outside)
    assert link.is_symlink()
    assert is_working_box(project)
    assert project.unwrap(cwd=project.outside).returncode == 0
    assert reads_the_secret(project)


# ---- all ways lead to the confined interpreter ----

WAYS = {
    "bin/python": ("python", "-c", READ),
    "bin/python3": ("python3", "-c", READ),
    "bin/python-sandboxed": ("python-sandboxed", "-c", READ),
    "a console script": ("reader",),
    "bin/shell": ("shell", "-c", f"python -c '{READ}' \"$0\""),
    "sys.executable": ("python", "-c", f"import os, sys; os.execv(sys.executable, ['p', '-c', {READ!r}, sys.argv[1]])"),
    "activate": ("/bin/bash", "-c", f". .venv/bin/activate; python -c '{READ}' \"$0\""),
    "activate, the console script": ("/bin/sh", "-c", '. .venv/bin/activate; reader "$0"'),
    "$VIRTUAL_ENV": ("/bin/bash", "-c", f". .venv/bin/activate; \"$VIRTUAL_ENV/bin/python\" -c '{READ}' \"$0\""),
    "sandbox/exec": ("{environment}/sandbox/exec", "python", "-c", READ),
}  # fmt: skip
NEW_WAYS = {"bin/python-sandboxed", "bin/shell", "sandbox/exec"}
"""Ways that plain environments have not."""


@pytest.fixture(scope="module")
def two(person: Person) -> Iterator[tuple[Project, Project]]:
    """A plain environment as the control, and a wrapped one; both with a console script that reads a file."""
    places = [person.directory("two") for _ in "ab"]
    plain, boxed = (make_project(person, place) for place in places)
    for made in (plain, boxed):
        person.write(made.environment / "bin" / "reader", f"#!{made.environment}/bin/python\n{READ}\n", mode=0o755)
    assert boxed.wrap(*NATIVE).returncode == 0
    yield plain, boxed
    for place in places:
        shutil.rmtree(place, ignore_errors=True)


def harmless(project: Project) -> Path:
    """A file that code in a box may read: so what failed did for the right reason."""
    return project.person.write(project.root / "harmless.txt", "harmless")


@pytest.mark.parametrize("way", WAYS)
def test_every_way_leads_to_the_confined_interpreter(way: str, two: tuple[Project, Project]) -> None:
    for project in two:
        argv = [word.replace("{environment}", str(project.environment)) for word in WAYS[way]]
        if project is two[1]:
            done = project.run(*argv, project.secret)
            assert SECRET not in done.stdout
            assert "No such file or directory" in done.stderr
            assert str(project.secret) in done.stderr
            assert "harmless" in project.run(*argv, harmless(project)).stdout
        elif way not in NEW_WAYS:
            assert project.run(*argv, project.secret).stdout == f"{SECRET}\n"


def test_variables_of_activation_are_those_of_before(two: tuple[Project, Project]) -> None:
    line = '. .venv/bin/activate; echo "$VIRTUAL_ENV"; command -v python demo tool; deactivate; echo "$VIRTUAL_ENV"'
    plain, boxed = (p.run("/bin/bash", "-c", line).stdout.replace(str(p.root), "PROJECT") for p in two)
    assert plain == boxed
    assert plain.splitlines()[0] == "PROJECT/.venv"


def test_no_interpreter_is_in_bin(shared: Project) -> None:
    """Whatever in ``bin`` is not an activation script is the launcher; the environment had a link to Python there."""
    launcher = shared.environment / "sandbox" / "exec"
    commands = [path for path in (shared.environment / "bin").iterdir() if "activate" not in path.name.lower()]
    assert {"python", "python3", "demo", "tool", "pip-tool", "pipdemo"} <= {path.name for path in commands}
    for path in commands:
        assert not path.is_symlink()
        assert filecmp.cmp(path, launcher, shallow=False), path
    assert not filecmp.cmp(launcher, PLAIN, shallow=False)


def test_the_place_is_still_an_environment_for_tools_outside(shared: Project) -> None:
    """Editors look for pyvenv.cfg and lib/; what they find is what was there."""
    assert (shared.environment / "pyvenv.cfg").read_text().startswith("home = ")
    assert (shared.site / "demo" / "__init__.py").is_file()


def test_an_editable_install_can_be_read_and_not_written(shared: Project) -> None:
    target = shared.outside / "src" / "outer.py"
    done = shared.python(LINE, target, "#")
    assert done.returncode == 1
    assert "Read-only file system" in done.stderr or "PermissionError" in done.stderr
    assert shared.run(PLAIN, "-c", LINE, target, "#").returncode == 0
    assert shared.policy["read_only_paths"] == [str(shared.outside)]


def test_an_editable_install_without_metadata_can_be_read(project: Project) -> None:
    """``setup.py develop`` and older versions of pip leave a line in easy-install.pth and an .egg-link only."""
    older = project.outside.with_name("older")
    do(project.person, "mkdir", older)
    project.person.write(older / "old.py", "")
    project.person.write(project.site / "easy-install.pth", f"{older}\n")
    project.person.write(project.site / "old.egg-link", f"{older}\n.")
    assert project.python("import old").returncode == 0
    assert project.wrap(*NATIVE).returncode == 0
    assert project.python("import old").returncode == 0


# ---- wrapped again ----


def box_state(project: Project) -> Tree:
    """The box without times, and without what is made anew each time: plans are for files as they are now."""
    found = tree(project.environment)
    anew = {"sandbox/lock", "sandbox/plan", "sandbox/plan.install"}
    return {path: (*about[:4], *about[5:]) for path, about in found.items() if path not in anew}


def test_wrapping_again_changes_nothing(project: Project) -> None:
    words = ("--backend", "native", "--allow", project.outside.with_name("given"), "--setenv", "A", "1")
    do(project.person, "mkdir", words[3])
    assert project.wrap(*words).returncode == 0
    for again in ((), words, (".venv", "-q"), ()):
        before = box_state(project)
        assert project.wrap(*again).returncode == 0
        assert not differences(before, box_state(project))
    assert is_working_box(project)


def test_the_same_command_again_keeps_what_editable_installs_need(project: Project) -> None:
    words = (*NATIVE, "--allow-read", project.outside.parent / "secret.txt")
    assert project.wrap(*words).returncode == 0
    before = project.policy
    assert project.python("import outer").returncode == 0
    assert project.wrap(*words).returncode == 0
    assert project.policy == before
    assert project.python("import outer").returncode == 0


@pytest.fixture(scope="module")
def changing(person: Person) -> Iterator[Project]:
    """A wrapped environment with something said for every key, wrapped again by several tests."""
    place = person.directory("changing")
    project = make_project(person, place)
    for name in ("read", "write", "other"):
        do(person, "mkdir", place / name)
    words = ("--allow", place / "write", "--network", "none", "--setenv", "A", "1")
    assert project.wrap(*NATIVE, *words).returncode == 0
    yield project
    shutil.rmtree(place, ignore_errors=True)


AGAIN: dict[str, tuple[tuple[str, ...], set[str]]] = {
    "allow": (("--allow", "{place}/other"), {"allowed_paths"}),
    "allow-read": (("--allow-read", "{place}/read"), {"read_only_paths"}),
    "network": (("--network", "host"), {"network"}),
    "backend": (("--backend", "landlock", "--unsetenv", "A"), {"backend", "bwrap_arguments"}),
    "degraded": (("--allow-degraded", "shared-memory"), {"allow_degraded"}),
    "project": (("--project", "{place}/other"), {"project"}),
    "bwrap": (("--setenv", "B", "2"), {"bwrap_arguments"}),
    "preset": (("--preset", "venv"), {"preset", "project"}),
}


@pytest.mark.parametrize("said", AGAIN)
def test_wrapping_again_changes_what_is_said_and_no_more(said: str, changing: Project) -> None:
    words, keys = AGAIN[said]
    before = changing.policy
    done = changing.wrap("-q", *(word.replace("{place}", str(changing.root.parent)) for word in words))
    assert done.returncode == 0, done.stderr
    after = changing.policy
    assert {key for key in {*before, *after} if before.get(key) != after.get(key)} == keys
    assert not reads_the_secret(changing)


@pytest.mark.parametrize("first", [("--preset", "venv"), ("--project", "{project}")])
def test_wrapping_again_needs_no_project_to_be_named(first: tuple[str, ...], person: Person, place: Path) -> None:
    """In a home there is no project to find; the first time has settled that."""
    project = make_project(person, place)
    at_home = {"env": person.environment | {"HOME": str(project.root)}, "cwd": project.root}
    words = [word.replace("{project}", str(project.outside)) for word in first]
    assert project.wrap(*NATIVE, *words, **at_home).returncode == 0
    done = project.wrap("-q", "--network", "none", **at_home)
    assert (done.returncode, done.stderr) == (0, "")
    assert project.policy["network"] == "none"


# ---- hard links to a cache ----


def cached(project: Project, cache: Path) -> Path:
    """Link a module of the environment to a cache, as uv does."""
    do(project.person, "ln", project.site / "demo" / "__init__.py", cache)
    return project.site / "demo" / "__init__.py"


def test_code_inside_does_not_change_the_cache_that_packages_are_linked_from(project: Project) -> None:
    cache = project.root.parent / "cached.py"
    module = cached(project, cache)
    assert project.python(LINE, module, "# control\n").returncode == 0
    content = cache.read_text()
    assert content.endswith("# control\n")
    before = tree(project.environment)
    assert project.wrap(*NATIVE, "--preset", "venv").returncode == 0
    assert project.python(LINE, module, "# poison\n").returncode == 0
    assert module.read_text().endswith("# poison\n")
    assert project.unwrap().returncode == 0
    assert list(differences(before, tree(project.environment))) == [str(module.relative_to(project.environment))]
    assert cache.read_text() == content


@pytest.mark.index
def test_what_uv_linked_from_its_cache_is_not_shared(uv: Path, person: Person, place: Path) -> None:
    project = make_project(person, place, maker=uv_maker(uv))
    wheel, cache = make_wheel(person, place), place / "cache"
    command = [uv, "pip", "install", "-q", "--offline", "--no-index", "--cache-dir", cache, "--link-mode", "hardlink"]
    do(person, *command, "-p", project.environment / "bin" / "python", wheel)
    module = project.site / "linked.py"
    (kept,) = (path for path in cache.rglob("linked.py") if path.samefile(module))
    before = tree(project.environment)
    assert project.wrap(*NATIVE, "--preset", "venv").returncode == 0
    assert project.python(LINE, module, "# poison\n").returncode == 0
    assert kept.read_text() == "VALUE = 1\n"
    do(project.person, PLAIN, "-c", "import os, sys; os.truncate(sys.argv[1], 10)", module)
    assert project.unwrap().returncode == 0
    assert list(differences(before, tree(project.environment))) == ["lib/" + str(module).partition("/lib/")[2]]
