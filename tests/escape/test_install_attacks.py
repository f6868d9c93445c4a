"""Installations in a wrapped project: who gets to write packages, and what the code that is installed can do then.

Each attack is first run unconfined, in a project with a plain environment, where it succeeds.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from project_attacks import Project, make_control, make_environment, remove, wrap
from virtualenv.seed.wheels.embed import get_embed_wheel

from harness import BACKENDS, PLAIN, Person
from processes import find_processes

RIGHTS = "packages can be written"
PROBE = f"""
import os, sysconfig
path = os.path.join(sysconfig.get_path("purelib"), "probe")
try:
    open(path, "w").close()
    os.unlink(path)
    print("{RIGHTS}", flush=True)
except OSError as error:
    print(error, flush=True)
"""
PLANTED = PROBE.replace(RIGHTS, f"planted: {RIGHTS}")
CONSOLE = "import sys\nfrom pip._internal.cli.main import main\nsys.exit(main())\n"
INSTALL = ("-m", "pip", "--disable-pip-version-check", "-q", "install", "--no-index", "--no-deps")


one_tier = pytest.mark.parametrize("backend", BACKENDS[:1], indirect=True)
"""For what is decided before any tier comes into it."""


def add_command(project: Project, name: str, code: str) -> None:
    """Put a script into an environment that is not wrapped yet."""
    python = project.root / ".venv" / "bin" / "python"
    project.person.write(project.root / ".venv" / "bin" / name, f"#!{python}\n{code}", mode=0o755)


@pytest.fixture(scope="module")
def projects() -> Iterator[dict[tuple[int, str], Project]]:
    """Projects by person and backend; ``plain`` has an environment that is not wrapped."""
    made: dict[tuple[int, str], Project] = {}
    yield made
    remove(made.values())


def make_plain(person: Person) -> Project:
    """Return a project with an environment of pip and of tools that tell whether they may write packages."""
    project = make_control(person)
    environment = make_environment(person, project.root / ".venv")
    wheel = get_embed_wheel("pip", f"{sys.version_info[0]}.{sys.version_info[1]}")
    assert wheel
    (site,) = environment.glob("lib/python3*/site-packages")
    person.run([PLAIN, "-m", "zipfile", "-e", str(wheel.path), str(site)], check=True)
    add_command(project, "pip", CONSOLE)
    for name in ("uv", "poetry", "pdm", "hatch"):
        add_command(project, name, PROBE)
    return project


def lend(projects: dict[tuple[int, str], Project], person: Person, backend: str) -> Project:
    """Return the project of a person and a backend, made when first asked for."""
    key = (person.uid, backend)
    if key not in projects:
        project = make_plain(person)
        projects[key] = project if backend == "plain" else wrap(project, backend)
    return projects[key]


@pytest.fixture
def project(projects: dict[tuple[int, str], Project], person: Person, backend: str) -> Iterator[Project]:
    """A wrapped project that tests share, as new for each but for its packages."""
    made = lend(projects, person, backend)
    yield made
    made.reset()


@pytest.fixture
def control(projects: dict[tuple[int, str], Project], person: Person) -> Iterator[Project]:
    """The same project with a plain environment."""
    made = lend(projects, person, "plain")
    yield made
    made.reset()


def run(project: Project, name: str, *words: object, **options: object) -> subprocess.CompletedProcess[str]:
    """Run a command of the environment, standing in the project's docs."""
    argv = [str(project.root / ".venv" / "bin" / name), *map(str, words)]
    return project.person.run(argv, **{"cwd": project.root / "docs", **options})  # type: ignore[arg-type]


# ---- who gets to write packages ----

MODULES = ("pip", "ensurepip", "easy_install", "uv", "poetry", "pdm", "flit", "hatch", "pipenv", "pip3", "uv1",
           "distutils")
FILES = ("sitecustomize.py", "usercustomize.py", "probe.py", "-m", "bin/pip", "bin/uv", "pip.py")


def plant(project: Project) -> None:
    """Leave the probe where Python might look first, under every name, as code inside could."""
    modules = [f"{module}/__{part}__.py" for module in MODULES for part in ("init", "main")]
    for name in (*FILES, *modules):
        project.write(f"docs/{name}", f"#!{project.root}/.venv/bin/python\n{PLANTED}").chmod(0o755)


def winners(project: Project, lines: list[str], **options: object) -> list[str]:
    """Return the lines, after ``python``, with which something that was planted can write packages."""
    plant(project)
    shown = {line: run(project, "python", *line.split(), **{"input": PLANTED, **options}).stdout for line in lines}
    return [line for line, text in shown.items() if f"planted: {RIGHTS}" in text]


PIP_LINES = [
    "-m pip --version", "-mpip --version", "-Impip --version", "-B -E -m pip --version", "-X utf8 -m pip --version",
    "-Xutf8 -W ignore -mpip --version", "-W error::probe.X -m pip --version",
]  # fmt: skip
OTHER_LINES = [
    "probe.py -m pip", "pip install", "pip.py install", "bin/pip install", "-c __import__('probe') -m pip",
    "-m probe -m pip", "-m probe pip install", "-Bc __import__('probe') -mpip", "-X importtime probe.py -m pip",
]  # fmt: skip


def test_a_pip_in_the_working_directory_is_not_the_one_that_runs(project: Project, control: Project) -> None:
    assert "-m pip --version" in winners(control, PIP_LINES[:1])
    assert winners(project, PIP_LINES) == []
    assert run(project, "python", "-m", "pip", "--version").stdout.startswith("pip ")


def test_variables_of_the_caller_bring_no_code_into_an_installation(project: Project, control: Project) -> None:
    asked = {"PYTHONPATH": str(control.root / "docs")}
    assert winners(control, ["-c 1"], env=control.person.environment | asked)
    names = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONUSERBASE", "PYTHONPLATLIBDIR")
    asked = dict.fromkeys(names, str(project.root / "docs")) | {"PYTHONBREAKPOINT": "probe", "PYTHONINSPECT": ""}
    environment = project.person.environment | asked
    assert winners(project, PIP_LINES[:1], env=environment) == []
    assert run(project, "pip", "--version", env=environment).stdout.startswith("pip ")


def test_what_is_not_an_installer_writes_no_packages(project: Project, control: Project) -> None:
    assert winners(control, OTHER_LINES) == OTHER_LINES
    assert winners(project, OTHER_LINES) == []


@one_tier
def test_standard_input_is_no_installer(project: Project, control: Project) -> None:
    """``python - -m pip``: the words behind the dash are the program's own."""
    lines = ["-", "- -m pip", "-B - -m pip", "-- probe.py -m pip", "-- -m pip"]
    assert winners(control, lines) == lines
    assert winners(project, lines) == []


@one_tier
@pytest.mark.parametrize("option", ["-s", "-E"])
def test_other_installers_are_not_taken_from_the_working_directory(
    option: str, project: Project, control: Project
) -> None:
    """``-E`` switches off PYTHONSAFEPATH, which Pythons before 3.11 do not know at all."""
    names = [name for name in MODULES if name not in {"pip", "distutils"}]
    lines = [f"{option} -m {name} {'sync' if name[:2] == 'uv' else 'install'}" for name in names]
    assert winners(control, lines) == lines
    assert winners(project, lines) == []


@one_tier
def test_a_program_of_the_project_is_no_installer_whatever_its_name_is(project: Project) -> None:
    """``vsbox exec .venv ./bin/pip``: what counts is the box's own pip."""
    plant(project)
    shown = {}
    for name in ("uv", "./bin/pip", "bin/uv", str(project.root / "docs" / "bin" / "pip")):
        done = project.person.run([str(project.sandbox / "exec"), name, "sync"], cwd=project.root / "docs")
        assert done.stdout, done.stderr
        shown[name] = done.stdout
    assert [name for name, text in shown.items() if RIGHTS in text] == ["uv"]


RUNNERS = [
    "uv run x", "uv -q run x", "uv --directory . run x", "uv --project . run x", "uv --color never run x",
    "uv --directory sync run x", "uv --config-file uv.toml tool run x", "pdm -p add run x", "poetry run x",
    "poetry -C . run x", "poetry --directory . run x", "pdm run x", "pdm -c pdm.toml run x", "hatch run x",
    "hatch -e test run x", "hatch env run x",
]  # fmt: skip


@one_tier
def test_a_tool_that_runs_a_program_installs_nothing(project: Project) -> None:
    """Whatever options stand before the subcommand, with values of their own."""
    installing = ["uv sync", "uv --directory . sync", "poetry -C . install", "pdm -p . add x"]
    shown = {line: run(project, *line.split()).stdout for line in (*installing, *RUNNERS)}
    assert all(shown.values())
    assert [line for line, text in shown.items() if RIGHTS in text] == installing


CHILDREN = """
import subprocess, sys
for argv in ([sys.executable, "-m", "pip"], [sys.prefix + "/bin/pip"], [sys.prefix + "/bin/uv"], ["pip"],
             [os.environ.get("VIRTUAL_ENV", sys.prefix) + "/bin/python", "-mpip"], ["pip3.11"]):
    try:
        subprocess.run(argv + sys.argv[2:])
    except OSError as error:
        print(error)
"""


def test_a_child_that_calls_pip_has_no_more_than_its_parent(project: Project) -> None:
    wheel = make_wheel(project, "child", {"child.py": ""})
    done = project.attack(CHILDREN, *INSTALL[2:], str(wheel))
    assert any(text in done.stderr for text in ("Read-only file system", "Permission denied", "Could not write"))
    assert RIGHTS not in done.stdout
    assert run(project, "python", "-c", "import child").returncode == 1
    installed = run(project, "python", *INSTALL, wheel)
    assert run(project, "python", "-c", "import child").returncode == 0, installed.stderr


@pytest.mark.parametrize("how", ["policy", "BWRAP_ARGS"])
def test_a_search_path_that_the_policy_sets_does_not_hold_in_an_installation(how: str, project: Project) -> None:
    """PYTHONPATH=src is a common setting, and code inside writes there."""
    plant(project)
    docs, path, environment = project.root / "docs", project.sandbox / "sandbox.json", project.person.environment
    old = path.read_text()
    if how == "policy":
        project.person.write(path, json.dumps(json.loads(old) | {"environment": {"set": {"PYTHONPATH": str(docs)}}}))
    else:
        environment = environment | {"BWRAP_ARGS": f"--setenv PYTHONPATH {docs}"}
    ran = run(project, "python", "-c", "import probe", env=environment, cwd="/")
    done = run(project, "python", "-m", "pip", "--version", env=environment)
    project.person.write(path, old)
    assert "Read-only" in ran.stdout or "Permission" in ran.stdout
    assert done.stdout.startswith("pip "), done.stdout


# ---- settings that code inside left ----

INDEX = "[global]\nindex-url = file:///evil\n"
SETTINGS = {
    ".config/pip/pip.conf": INDEX, ".pip/pip.conf": INDEX, "pip.conf": INDEX, ".netrc": "default login evil\n",
    ".pydistutils.cfg": "[install]\nprefix = /evil\n",
}  # fmt: skip
LEAVE = """
import json
for place in sys.argv[3:]:
    for name, text in json.loads(sys.argv[2]).items():
        path = place + "/" + name
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            write(path, text)
        except OSError:
            pass
"""


def test_settings_that_code_inside_left_do_not_count(project: Project, control: Project, place: Path) -> None:
    """In its home, in the project, in the environment, in the home of installations."""
    root = project.environment
    control.attack(LEAVE, json.dumps(SETTINGS), str(place))
    home = control.person.environment | {"HOME": str(place)}
    home.pop("PIP_CONFIG_FILE", None)
    assert "evil" in run(control, "python", "-m", "pip", "config", "list", env=home).stdout
    places = [root / "home", project.root, root, root / "inside", root / "installs"]
    project.attack(LEAVE, json.dumps(SETTINGS), *map(str, places))
    assert (root / "home" / ".netrc").exists()
    done = run(project, "python", "-m", "pip", "config", "list", cwd=project.root)
    assert "evil" not in done.stdout + done.stderr
    assert build(project, f"note([n for n in {list(SETTINGS)} if os.path.exists(os.path.expanduser('~/' + n))])") == []


# ---- what a package does while it is built ----

BACKEND = """
import glob, json, os, shutil, subprocess, sys, tarfile, zipfile
FACTS = json.load(open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "facts.json")))

def note(found):
    with open(FACTS["report"], "w") as file:
        json.dump(found, file)

def get_requires_for_build_wheel(settings=None):
    return []

def build_wheel(directory, settings=None, metadata=None):
    exec(FACTS["code"], globals())
    path = os.path.join(directory, "evil-1-py3-none-any.whl")
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("evil_built.py", "")
        wheel.writestr("evil-1.dist-info/METADATA", "Metadata-Version: 2.1\\nName: evil\\nVersion: 1\\n")
        wheel.writestr("evil-1.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr("evil-1.dist-info/RECORD", "evil_built.py,,\\n")
    return os.path.basename(path)
"""
PYPROJECT = (
    '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    '[project]\nname = "evil"\nversion = "1"\n'
)


def make_sdist(project: Project, code: str, **facts: object) -> Path:
    """Make a source distribution whose build runs code; it needs no other package to be built."""
    facts |= {"code": code, "report": str(project.root / "docs" / "report.json")}
    files = {"pyproject.toml": PYPROJECT, "backend.py": BACKEND, "facts.json": json.dumps(facts)}
    path = project.write("docs/evil-1.tar.gz")
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(f"evil-1/{name}")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return path


def build(project: Project, code: str, env: dict[str, str] | None = None, **facts: object) -> object:
    """Install a package whose build runs code, and return what that noted; in a control the build alone."""
    sdist = make_sdist(project, code, **facts)
    options = {"env": env or project.person.environment}
    if project.box:
        done = run(project, "python", *INSTALL, "--force-reinstall", sdist, **options)
    else:
        program = "import sys; sys.path.insert(0, 'evil-1'); import backend; backend.build_wheel('.')"
        run(project, "python", "-c", f"import tarfile; tarfile.open({str(sdist)!r}).extractall('.')", **options)
        done = run(project, "python", "-c", program, **options)
    report = project.root / "docs" / "report.json"
    assert report.exists(), done.stdout + done.stderr
    return json.loads(report.read_text())


VICTIMS = (
    "{root}/.venv/bin/python", "{root}/.venv/bin/pip", "{root}/.git/config", "{root}/.git/hooks/pre-commit",
    "{root}/other/bin/python", "{root}/other/bin/activate", "{root}/.envrc", "{root}/docs/.git/config",
    "{home}/victim", "{beside}/victim",
)  # fmt: skip
BOX_VICTIMS = (
    "{root}/.venv/bin/activate", "{root}/.venv/sandbox/exec", "{root}/.venv/sandbox/sandbox.json",
    "{root}/.venv/sandbox/interpreter.json", "{root}/.venv/sandbox/verify", "{root}/.venv/sandbox/pip/pip/__main__.py",
    "{root}/.venv/sandbox/pip/pip/_internal/__init__.py", "{root}/.venv/pyvenv.cfg",
)  # fmt: skip
OVERWRITE = """
for path in FACTS["victims"]:
    for step in (
        lambda: os.path.islink(path) or os.chmod(path, 0o777),
        lambda: os.write(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW), b"evil"),
        lambda: os.unlink(path),
        lambda: os.makedirs(os.path.dirname(path), exist_ok=True),
        lambda: os.write(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW), b"evil"),
    ):
        try:
            step()
        except OSError:
            pass
note(None)
"""
"""No step follows a link: an environment's python is one, and leads to the machine's own."""


def victims(project: Project, home: Path) -> list[Path]:
    """Return files that nothing may change, made where they are missing."""
    names = {"root": project.root, "home": home, "beside": project.root.parent}
    found = [Path(name.format(**names)) for name in (*VICTIMS, *(BOX_VICTIMS if project.box else ()))]
    if not (project.root / "other").exists():
        make_environment(project.person, project.root / "other")
    for path in (project.root / ".envrc", home / "victim", project.root.parent / "victim"):
        project.person.write(path, "mine")
    own = (project.root.parent, home)
    assert all(any(Path(os.path.realpath(path.parent)).is_relative_to(top) for top in own) for path in found)
    return found


def state(path: Path) -> tuple[object, ...] | None:
    """Return what would change with a file; a link is what it says."""
    if not os.path.lexists(path):
        return None
    return path.lstat().st_mode, os.readlink(path) if path.is_symlink() else path.read_bytes()


def changed_by_a_build(project: Project, home: Path) -> list[Path]:
    paths = victims(project, home)
    before = {path: state(path) for path in paths}
    build(project, OVERWRITE, victims=list(map(str, paths)))
    return [path for path in paths if state(path) != before[path]]


def test_a_build_changes_nothing_that_runs_outside(person: Person, backend: str, place: Path) -> None:
    """With namespaces it may break the environment inside, its own: so each has a project for itself."""
    control, project = make_plain(person), wrap(make_plain(person), backend)
    plain, confined = changed_by_a_build(control, place), changed_by_a_build(project, place)
    expected = victims(control, place)
    remove([control, project])
    assert plain == expected
    assert confined == []


LOOK = """
found = {"environment": dict(os.environ), "read": []}
for path in FACTS["secrets"]:
    try:
        found["read"].append((path, open(path).read() if os.path.isfile(path) else os.listdir(path)))
    except OSError:
        pass
note(found)
"""


def test_a_build_reads_no_secret(project: Project, control: Project, place: Path) -> None:
    for each in (control, project):
        mark = "canary-of-a-secret"
        paths = [place / ".netrc", place / ".ssh" / "id", each.root.parent / "secret", each.root / ".env"]
        (place / ".ssh").mkdir(exist_ok=True)
        os.chown(place / ".ssh", each.person.uid, each.person.gid)
        for path in paths:
            each.person.write(path, mark)
        secrets = [*map(str, paths), str(each.root / ".git" / "config"), str(place)]
        passed = {"HOME": str(place), "AWS_SECRET_ACCESS_KEY": mark, "GITHUB_TOKEN": mark, "UV_PUBLISH_TOKEN": mark}
        found = build(each, LOOK, each.person.environment | passed, secrets=secrets)
        assert isinstance(found, dict)
        if each is control:
            assert [path for path, _ in found["read"]] == secrets
            assert found["environment"]["GITHUB_TOKEN"] == mark
        else:
            assert mark not in json.dumps(found)
            assert [path for path, text in found["read"] if text] == []


DAEMON = """
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", FACTS["token"]], start_new_session=True,
                 stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
note(None)
"""


def test_a_build_leaves_no_process_behind(project: Project, control: Project, token: str) -> None:
    build(control, DAEMON, token=f"{token}-control")
    assert find_processes(f"{token}-control")
    build(project, DAEMON, token=f"{token}-inside")
    assert find_processes(f"{token}-inside") == []


# ---- what a wheel brings ----


def make_wheel(
    project: Project, name: str, files: dict[str, str], scripts: tuple[str, ...] = (), record: tuple[str, ...] = ()
) -> Path:
    """Make a wheel by hand in the project's docs."""
    info = f"{name}-1.dist-info"
    points = "[console_scripts]\n" + "".join(f"{script} = {name}:main\n" for script in scripts)
    files = files | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": points,
    }
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in (*files, *record))
    path = project.write(f"docs/{name}-1-py3-none-any.whl")
    with zipfile.ZipFile(path, "w") as wheel:
        for file, text in files.items():
            wheel.writestr(file, text)
    return path


def pip(project: Project, *words: object) -> subprocess.CompletedProcess[str]:
    """Run pip of the environment with a wheel that lies in the project."""
    return run(project, "python", "-m", "pip", "--disable-pip-version-check", "-q", *words)


def commands(project: Project) -> dict[str, object]:
    """Return what is in the environment's directory of commands, as it is outside."""
    return {path.name: state(path) for path in (project.root / ".venv" / "bin").iterdir()}


SHADOWS = sorted(name for name in ("head", "grep", "env", "su", "git", "ls") if shutil.which(name))
RESERVED = ["activate", "activate.fish", "vsbox"]


def test_commands_of_a_wheel_take_no_name_of_the_users(project: Project, control: Project) -> None:
    shown = {}
    for each in (control, project):
        before = commands(each)
        scripts = (*SHADOWS, *RESERVED, "harmless")
        wheel = make_wheel(each, "shadows", {"shadows.py": "def main(): print('ran')\n"}, scripts)
        assert pip(each, "install", "--no-index", wheel).returncode == 0
        after = commands(each)
        shown[each] = sorted(name for name in after if after[name] != before.get(name))
        assert run(each, "harmless").stdout == "ran\n"
        pip(each, "uninstall", "-y", "shadows")
    assert shown[control] == sorted((*SHADOWS, *RESERVED, "harmless"))
    assert shown[project] == ["harmless"]
    assert "harmless" not in commands(project)


def test_files_of_a_wheel_come_and_go_in_the_environment_alone(project: Project, control: Project) -> None:
    """RECORD names what an uninstallation removes."""
    names = ("bin/activate", "bin/deactivate", "sandbox/exec", "pyvenv.cfg.evil")
    for each in (control, project):
        each.write(".venv/bin/deactivate", "mine")
        paths = {name: each.root / ".venv" / name for name in names}
        before = {name: state(path) for name, path in paths.items()}
        data = {f"data-1.data/data/{name}": "evil" for name in names if name != "bin/deactivate"}
        record = ("../../../bin/deactivate", "../../../sandbox/sandbox.json", "../../../../.git/config")
        wheel = make_wheel(each, "data", {"data.py": "", **data}, record=record)
        assert pip(each, "install", "--no-index", wheel).returncode == 0
        changed = {name for name, path in paths.items() if state(path) != before[name]}
        pip(each, "uninstall", "-y", "data")
        changed |= {name for name, path in paths.items() if state(path) != before[name]}
        (each.root / ".venv" / "bin" / "deactivate").unlink(missing_ok=True)
        assert changed == (set(names) if each is control else set())
        assert (each.root / ".git" / "config").exists()
        assert each is control or run(each, "python", "-c", "print(1)").stdout == "1\n"
