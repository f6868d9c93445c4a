"""A wrapped project: code inside writes the project and leaves nothing there that the host would execute unasked.

Each attack is first run unconfined, in a project without a box, where it succeeds.
"""

from __future__ import annotations

import json
import os
import pwd
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from project_attacks import (
    BYTECODE,
    GIT_ATTACKS,
    KINDS,
    LONG,
    NESTED,
    PRESENT,
    TRY,
    WAYS,
    Project,
    fingerprint,
    make_environment,
    wrap,
)

from harness import PLAIN
from vsbox.plan.project import PROTECTED, is_protected_name

# ---- what git executes ----

@pytest.mark.parametrize("name", GIT_ATTACKS)
def test_git_status_executes_nothing_that_was_left(name: str, project: Project, control: Project) -> None:
    code, place = GIT_ATTACKS[name]
    control.attack(code)
    assert control.executes(place)
    done = project.attack(code)
    assert not project.executes(place), done.stderr


def test_a_repository_at_the_end_of_the_longest_path(project: Project, control: Project) -> None:
    executes = control.executes(control.attack(LONG, str(control.root)).stdout.rstrip())
    assert executes
    executes = project.executes(project.attack(LONG, str(project.root)).stdout.rstrip() or "docs")
    assert not executes


def move_repository(project: Project, how: str) -> None:
    """Let the repository's data lie in the project under another name."""
    (project.root / ".git").rename(project.root / "docs" / "data")
    if how == "a link":
        (project.root / ".git").symlink_to("docs/data")
        os.lchown(project.root / ".git", project.person.uid, project.person.gid)
    else:
        project.write(".git", "gitdir: docs/data\n")


@pytest.mark.parametrize("how", ["a file", "a link"])
def test_a_repository_whose_data_lies_elsewhere_in_the_project(
    how: str, backend: str, fresh: Callable[[], Project]
) -> None:
    """`git init --separate-git-dir`, and directories of worktrees beside a ``.bare``."""
    control, project = fresh(), fresh()
    move_repository(control, how)
    move_repository(project, how)
    project = wrap(project, backend)
    code = "repository('demo/r'); shutil.copy('demo/r/config', 'docs/data/config')"
    control.attack(code)
    assert control.executes()
    project.attack(code)
    assert not project.executes()


def test_hooks_that_the_repository_names(backend: str, fresh: Callable[[], Project]) -> None:
    """core.hooksPath is how projects share hooks."""
    control, project = fresh(), fresh()
    for each in (control, project):
        each.git("config", "core.hooksPath", "docs/hooks")
        each.write("docs/hooks/pre-commit", "#!/bin/sh\n").chmod(0o755)
    project = wrap(project, backend)
    code = "write('docs/hooks/pre-commit', '#!/bin/sh\\ntouch ' + canary + '\\n', 0o755)"
    for each in (control, project):
        each.attack(code)
        each.git("commit", "--allow-empty", "-qm", "y")
    assert control.canary.exists()
    assert not project.canary.exists()


def test_what_is_in_quarantine_is_not_executed_either(project: Project) -> None:
    """A person looks at it, as the message says, in a shell whose prompt asks git."""
    project.attack(NESTED)
    repositories = [path.parent for path in (project.sandbox / "quarantine").rglob(".git")]
    assert project.quarantined()
    assert not [path for path in repositories if project.executes(os.path.relpath(path, project.root))]


# ---- names ----

NAMES = [name.replace("*", "x") if name.endswith("*") else name for name in PROTECTED]
UNKNOWN = (
    # the host executes, or takes over programs from: by the tools' own documentation
    ".githooks", ".envrc.local", "mise.local.toml", ".helix", ".vim", ".lazy.lua", ".pdbrc", ".gdbinit",
    ".pdm-python", ".python-versions", ".yarnrc.yml", ".npmrc", ".cargo",
    ".gemini", ".codex", ".opencode", "opencode.json", ".kiro", ".roo", ".windsurf", ".continue", ".cursorrules",
)  # fmt: skip
PLANT = """
failed = []
for name in sys.argv[2:]:
    path = os.path.join("docs/new", name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    write(path)
"""


def left(project: Project, names: list[str]) -> list[str]:
    return [name for name in names if os.path.lexists(project.root / "docs" / "new" / name)]


def test_no_name_on_the_list_is_left(project: Project, control: Project) -> None:
    names = [form for name in NAMES for form in (name, name.upper(), name.title())]
    control.attack(PLANT, *names)
    assert left(control, names) == names
    done = project.attack(PLANT, *names)
    assert left(project, names) == []
    assert "docs/new" in done.stderr


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_other_tools_execute_is_on_the_list(name: str) -> None:


    assert any(is_protected_name(part) for part in name.split("/"))


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_of_any_kind_is_left(kind: str, project: Project) -> None:
    done = project.attack("os.mkdir('docs/new');" + KINDS[kind])
    assert "docs/new/.git" in done.stderr
    assert os.listdir(project.root / "docs" / "new") == []
    again = project.attack("print(1)")
    assert (again.stdout, again.stderr) == ("1\n", "")


# ---- what is there already ----

def populate(project: Project) -> None:
    for name in (*PRESENT, "docs/sub/env/pyvenv.cfg"):
        project.write(name, "mine")


def test_what_is_there_cannot_be_changed_by_any_means(project: Project, control: Project) -> None:
    """Nothing comes into the tree but what is not protected: no placeholder, and git sees no change."""
    attempts = json.dumps([(way, path) for path in PRESENT for way in WAYS])
    populate(project)
    before = {name: found for name, found in fingerprint(project.root).items() if "/x" not in name}
    done = project.attack(TRY, attempts)
    assert json.loads(done.stdout) == [], done.stderr
    after = fingerprint(project.root)
    assert {name: after.get(name) for name in before} == before
    assert {Path(name).name for name in set(after) - set(before)} <= {"other", "swap"}
    populate(control)
    plain = control.attack(TRY, json.dumps([(way, PRESENT[0]) for way in WAYS]))
    assert [way for way, _ in json.loads(plain.stdout)] == list(WAYS[:9])


def test_a_run_that_does_nothing_changes_nothing(project: Project) -> None:
    populate(project)
    before, status = fingerprint(project.root), project.git("status", "--porcelain", "--ignored").stdout
    done = project.attack("import demo")
    assert (done.returncode, done.stderr) == (0, "")
    assert fingerprint(project.root) == before
    assert project.git("status", "--porcelain", "--ignored").stdout == status


# ---- bytecode ----

def imports_poison(project: Project) -> bool:
    """Tell whether the host's Python, which imports the untouched sources, is not alone with them."""
    project.canary.unlink(missing_ok=True)
    done = project.person.run([PLAIN, "-B", "-c", "import demo; demo.X"], cwd=project.root)
    return done.returncode != 0 or project.canary.exists()


@pytest.mark.parametrize("name", BYTECODE)
def test_bytecode_beside_untouched_sources_is_not_left(name: str, project: Project, control: Project) -> None:
    code = BYTECODE[name]
    control.attack(code)
    assert imports_poison(control)
    project.attack(code)
    assert not imports_poison(project)


def test_bytecode_goes_to_the_box(project: Project) -> None:
    environment = {k: v for k, v in project.person.environment.items() if k != "PYTHONDONTWRITEBYTECODE"}
    assert project.box
    project.attack("import demo", env=environment)
    assert not (project.root / "demo" / "__pycache__").exists()
    assert list((project.box.root / "home").rglob("demo/__init__.*.pyc"))


# ---- environments ----


def test_environments_beside_a_box_are_not_writable(fresh: Callable[[], Project], backend: str) -> None:
    """One directory for them, in the project: what lies between the project and the box is protected as well."""
    project = fresh()
    project.write("envs/.envrc", "mine")
    make_environment(project.person, project.root / "envs" / "other")
    project = wrap(project, backend, "envs/main", "--project", str(project.root))
    before = fingerprint(project.root / "envs" / "other")
    project.attack("write('envs/.envrc', 'x')")
    project.attack("write('envs/other/bin/python', 'x')")
    project.attack("write('envs/other/bin/new', 'x')")
    project.attack("repository('envs/new/.git')")
    assert fingerprint(project.root / "envs" / "other") == before
    assert (project.root / "envs" / ".envrc").read_text() == "mine"
    assert not project.executes("envs/new")


def test_directories_on_the_way_to_a_grant_stay_protected(fresh: Callable[[], Project]) -> None:
    project = fresh()
    project.write("docs/.envrc", "mine")
    project.write("docs/data/x")
    project = wrap(project, "native", ".venv", "--allow-read", str(project.root / "docs" / "data"))
    project.attack("write('docs/.envrc', 'x')")
    project.attack("repository('docs/new/.git')")
    assert (project.root / "docs" / ".envrc").read_text() == "mine"
    assert not project.executes("docs/new")


def test_a_link_to_the_environment_cannot_be_replaced(fresh: Callable[[], Project], backend: str) -> None:
    """The box lies elsewhere, and the project has a link to it by which the user starts its Python."""
    project = fresh()
    environment = make_environment(project.person, project.root.parent / "env")
    (project.root / "env").symlink_to(environment)
    os.lchown(project.root / "env", project.person.uid, project.person.gid)
    project = wrap(project, backend, "env")
    project.attack("os.unlink('env'); os.makedirs('env/bin'); write('env/bin/python', 'evil', 0o755)")
    assert (project.root / "env").is_symlink()


def test_a_grant_of_what_holds_the_project_does_not_open_it(fresh: Callable[[], Project], backend: str) -> None:
    """The box lies elsewhere: with Landlock alone nothing can be subtracted, so that is refused."""
    project = fresh()
    place = project.person.directory("escape-environment")
    environment = make_environment(project.person, place / "env")
    options = ["--project", project.root, "--allow", project.root.parent, "--backend", backend]
    if project.person.vsbox("wrap", environment, *options).returncode == 0:
        argv = [str(environment / "bin" / "python"), "-c", "open('.git/config', 'a').write('# x')"]
        project.person.run(argv, cwd=project.root)
    assert "# x" not in (project.root / ".git" / "config").read_text()


# ---- roots ----


ROOTS = ("/", "/home", "/tmp", "/etc", "/usr", "~", "~/..", "~/.config", "/etc/ssl", "/usr/local", "/var/lib", "/boot",
         "/dev", "/run", "/proc", "other home")  # fmt: skip


@pytest.mark.parametrize("root", ROOTS)
def test_a_dangerous_project_is_refused(root: str, fresh: Callable[[], Project]) -> None:
    project = fresh()
    environment = make_environment(project.person, project.root / ".venv")
    homes = [entry.pw_dir for entry in pwd.getpwall() if entry.pw_dir.startswith(("/home/", "/root"))]
    other = next((home for home in homes if home != str(project.person.home)), "/root")
    named = other if root == "other home" else root.replace("~", str(project.person.home))
    if not os.path.isdir(named):
        pytest.skip(f"no {named} here")
    done = project.person.vsbox("wrap", environment, "--project", named)
    assert done.returncode != 0
    assert not (environment / "sandbox").exists()


# ---- the outside half ----

MODULES = ("vsbox.py", "sitecustomize.py", "usercustomize.py", "pip/__init__.py", "json.py", "click.py", "bin/python")
SETTINGS = (".env", ".bashrc", ".profile", "pip.conf", ".config/pip/pip.conf", ".pip/pip.conf", "setup.cfg")
PLANT_MODULES = """
home = os.environ["HOME"] if sys.argv[2] == "home" else "docs"
for name in sys.argv[3:]:
    os.makedirs(os.path.dirname(home + "/" + name), exist_ok=True)
    write(home + "/" + name, "open(%r, 'w')\\n" % canary, 0o755)
"""


def use_outside_half(project: Project) -> None:
    """Let vsbox do all it does outside by itself, with the person standing in the project."""
    assert project.box
    docs, root = project.root / "docs", project.box.root
    os.utime(project.sandbox / "sandbox.json", (1, 1))
    for command in (["sync", root], ["explain", root], ["wrap", root], ["list"]):
        project.person.run([sys.executable, "-I", "-m", "vsbox", *map(str, command)], cwd=docs)
    assert project.person.run([project.python, "-c", "print(1)"], cwd=docs).stdout == "1\n"
    project.attack("write('docs/.envrc')")


def test_the_outside_half_takes_nothing_from_where_code_inside_writes(project: Project, control: Project) -> None:
    control.attack(PLANT_MODULES, "docs", *MODULES)
    control.person.run([sys.executable, "-m", "vsbox", "list"], cwd=control.root / "docs")
    assert control.canary.exists()
    for place in ("docs", "home"):
        project.attack(PLANT_MODULES, place, *MODULES, *SETTINGS)
    use_outside_half(project)
    assert not project.canary.exists()


def test_the_outside_half_follows_no_link_in_the_home_of_the_box(project: Project, place: Path) -> None:
    code = """
home = os.environ["HOME"]
for name in ("tmp", ".cache", ".config", ".local", ".bashrc"):
    if os.path.isdir(home + "/" + name):
        shutil.rmtree(home + "/" + name)
    os.symlink(sys.argv[2], home + "/" + name)
"""
    assert project.box
    project.attack(code, str(place))
    assert os.readlink(project.box.root / "home" / ".config") == str(place)
    use_outside_half(project)
    assert os.listdir(place) == []
    for path in (project.box.root / "home").iterdir():
        if path.is_symlink():
            path.unlink()


# ---- policy ----


def test_no_policy_means_no_start(project: Project) -> None:
    kept = (project.sandbox / "sandbox.json").read_bytes()
    for text in (None, "", "{}", '{"venv_root": "/"}', "["):
        (project.sandbox / "sandbox.json").unlink(missing_ok=True)
        if text is not None:
            project.person.write(project.sandbox / "sandbox.json", text)
        done = project.attack("print('ran')")
        assert (done.stdout, done.returncode != 0) == ("", True)
    (project.sandbox / "sandbox.json").write_bytes(kept)
    assert project.attack("print('ran')").stdout == "ran\n"


def test_wrapping_again_keeps_what_was_said(fresh: Callable[[], Project]) -> None:
    project = wrap(fresh(), "native", ".venv", "--network", "none", "--setenv", "MARK", "1")
    before = (project.sandbox / "sandbox.json").read_text()
    assert project.box
    assert project.person.vsbox("wrap", project.box.root).returncode == 0
    assert (project.sandbox / "sandbox.json").read_text() == before
    assert project.attack("print(os.environ['MARK'])").stdout == "1\n"
