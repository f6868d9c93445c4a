"""Installing into a wrapped environment: packages are written by installers alone, and what they bring works.

Wheels and source distributions are made by hand; what needs an index is marked so. The control is the same environment
without a box.
"""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from virtualenv.seed.wheels.embed import get_embed_wheel

from harness import BACKENDS, PLAIN, lacking
from processes import SECONDS, find_processes

if TYPE_CHECKING:
    from harness import Person

CONSOLE = "import sys\nfrom pip._internal.cli.main import main\nsys.exit(main())\n"
SHOW = """
import json, os
try:
    repository = open(".git/config").read()
except OSError:
    repository = None
print(json.dumps([dict(os.environ), repository, os.listdir(os.environ["HOME"])]))
"""
OFFLINE = ("--disable-pip-version-check", "-q", "--no-index")
WRITE = "import demo; open(demo.__file__, 'a').close(); print('written')"
one_person_each_tier = pytest.mark.parametrize(
    ("person", "backend"), [("user", name) for name in BACKENDS], indirect=True
)


@dataclass(frozen=True)
class Project:
    """A project with an environment in it."""

    root: Path
    person: Person

    @property
    def environment(self) -> Path:
        return self.root / ".venv"

    @property
    def bin(self) -> Path:
        return self.environment / "bin"

    def run(self, name: str, *words: object, **options: object) -> subprocess.CompletedProcess[str]:
        """Run a command of the environment, standing in the project."""
        given = {"cwd": self.root} | options
        return self.person.run([str(self.bin / name), *map(str, words)], **given)  # type: ignore[arg-type]

    def python(self, code: str) -> subprocess.CompletedProcess[str]:
        return self.run("python", "-c", code)

    def install(self, *words: object) -> None:
        """Install something with pip; it must succeed."""
        done = self.run("pip", "install", *OFFLINE, *words)
        assert done.returncode == 0, done.stdout + done.stderr

    def uninstall(self, *names: str) -> None:
        self.run("pip", "uninstall", "-q", "-y", *names)


def add_command(project: Project, name: str, code: str) -> None:
    """Put a script into an environment that is not wrapped yet."""
    project.person.write(project.bin / name, f"#!{project.bin}/python\n{code}", mode=0o755)


def make_project(person: Person) -> Project:
    project = Project(person.directory("installs"), person)
    person.run(["mkdir", str(project.root / ".git")], check=True)
    person.write(project.root / ".git" / "config", "mine")
    person.run([PLAIN, "-m", "venv", "--without-pip", str(project.environment)], check=True)
    wheel = get_embed_wheel("pip", f"{sys.version_info[0]}.{sys.version_info[1]}")
    assert wheel
    (site,) = project.environment.glob("lib/python3*/site-packages")
    person.run([PLAIN, "-m", "zipfile", "-e", str(wheel.path), str(site)], check=True)
    for name in ("pip", "pip3"):
        add_command(project, name, CONSOLE)
    for name in ("uv", "poetry", "pdm"):
        add_command(project, name, SHOW)
    person.write(project.root / "pyproject.toml", "[project]\nname = 'of-the-project'\nversion = '1'\n")
    make_demo(project, 1)
    return project


def wrap(project: Project, backend: str, **options: object) -> Project:
    """Wrap the environment."""
    done = project.person.vsbox("wrap", "-q", "--backend", backend, project.environment, cwd=project.root, **options)
    assert done.returncode == 0, done.stderr
    return project


def make_demo(project: Project, version: int) -> Path:
    """Make a wheel with a module and a command that say their version."""
    info = f"demo-{version}.dist-info"
    files = {
        "demo.py": f"def main():\n    print('demo', {version}){' ' * version}\n",  # each of its own size
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: demo\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[console_scripts]\ndemo = demo:main\ndemo-{version} = demo:main\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in files)
    path = project.person.write(project.root / f"demo-{version}-py3-none-any.whl", "")
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


@pytest.fixture(scope="module")
def projects() -> Iterator[dict[tuple[int, str], Project]]:
    """Projects by person and backend; ``plain`` is not wrapped."""
    made: dict[tuple[int, str], Project] = {}
    yield made
    for project in made.values():
        shutil.rmtree(project.root)


@pytest.fixture
def project(projects: dict[tuple[int, str], Project], person: Person, backend: str) -> Iterator[Project]:
    """A wrapped project that tests share; whoever installs something there removes it."""
    key = (person.uid, backend)
    if key not in projects:
        projects[key] = wrap(make_project(person), backend)
    yield projects[key]
    if list(projects[key].environment.glob("inside/lib/python3*/site-packages/demo.py")):
        projects[key].uninstall("demo")


@pytest.fixture
def control(projects: dict[tuple[int, str], Project], person: Person) -> Project:
    key = (person.uid, "plain")
    if key not in projects:
        projects[key] = make_project(person)
    return projects[key]


@pytest.fixture
def fresh(person: Person) -> Iterator[Project]:
    made = make_project(person)
    yield made
    shutil.rmtree(made.root)


# ---- who writes packages ----


def test_packages_are_read_only_but_for_installers(project: Project, control: Project) -> None:
    for each in (project, control):
        each.install("demo-1-py3-none-any.whl")
    assert control.python(WRITE).stdout == "written\n"
    done = project.python(WRITE)
    assert done.stdout == ""
    assert "Read-only file system" in done.stderr or "Permission denied" in done.stderr


WAYS = (
    ("pip",), ("pip3",), ("python", "-m", "pip"), ("python3", "-I", "-W", "ignore", "-mpip"),
    ("pip", "--no-color", "--retries", "0"),
)  # fmt: skip


@one_person_each_tier
def test_every_way_to_call_pip_installs(project: Project) -> None:
    for name, *words in WAYS:
        done = project.run(name, *words, "install", *OFFLINE, "--force-reinstall", "demo-1-py3-none-any.whl")
        assert done.returncode == 0, f"{name} {words}: {done.stderr}"
    assert project.run("demo").stdout == "demo 1\n"
    argv = ["exec", project.environment, "pip", "uninstall", "-q", "-y", "demo"]
    assert project.person.vsbox(*argv, cwd=project.root).returncode == 0
    assert project.python("import demo").returncode == 1


@one_person_each_tier
def test_the_pip_that_runs_is_the_one_that_code_inside_has_never_written(project: Project, control: Project) -> None:
    shown = project.run("pip", "--version").stdout
    assert shown.startswith("pip ")
    assert str(project.environment / "lib") not in shown
    assert str(control.environment / "lib") in control.run("pip", "--version").stdout


INSTALLING = ("uv pip install x", "uv sync", "uv add x", "poetry install", "pdm add x")


def test_other_installers_get_what_pip_gets(project: Project) -> None:
    """A home of their own without what code inside left, and no repository."""
    project.python("import os; open(os.environ['HOME'] + '/left', 'w').close()")
    _, repository, home = json.loads(project.run("uv", "run").stdout)
    assert (repository, "left" in home) == ("mine", True)
    for line in INSTALLING:
        _, repository, home = json.loads(project.run(*line.split()).stdout)
        assert (repository, "left" in home) == (None, False), line


# ---- what an installation brings ----


def test_commands_come_change_and_go_with_their_package(project: Project) -> None:
    make_demo(project, 2)
    project.install("demo-1-py3-none-any.whl")
    assert (project.bin / "demo").samefile(project.environment / "sandbox" / "exec")
    assert project.run("demo").stdout == "demo 1\n"
    project.install("demo-2-py3-none-any.whl")
    assert project.run("demo").stdout == "demo 2\n"
    assert project.run("demo-2").stdout == "demo 2\n"
    assert not (project.bin / "demo-1").exists()
    project.uninstall("demo")
    assert not (project.bin / "demo").exists()
    assert project.run("pip", "--version").returncode == 0


BACKEND = """
import os, subprocess, sysconfig, zipfile

def get_requires_for_build_wheel(settings=None):
    return []

def build_wheel(directory, settings=None, metadata=None):
    name = "native" + sysconfig.get_config_var("EXT_SUFFIX")
    include = "-I" + sysconfig.get_path("include")
    subprocess.run(["cc", "-shared", "-fPIC", include, "native.c", "-o", name], check=True)
    path = os.path.join(directory, "native-1-py3-none-any.whl")
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.write(name)
        wheel.writestr("native-1.dist-info/METADATA", "Metadata-Version: 2.1\\nName: native\\nVersion: 1\\n")
        wheel.writestr("native-1.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr("native-1.dist-info/RECORD", name + ",,\\n")
    return os.path.basename(path)
"""
SOURCE = """
#include <Python.h>
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "native", 0, -1, 0};
PyMODINIT_FUNC PyInit_native(void)
{
    PyObject *made = PyModule_Create(&module);
    PyModule_AddIntConstant(made, "ANSWER", 42);
    return made;
}
"""
PYPROJECT = (
    '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    '[project]\nname = "native"\nversion = "1"\n'
)


def make_sdist(project: Project) -> Path:
    """Make a source distribution of a C extension whose build needs a compiler and Python's headers alone."""
    path = project.person.write(project.root / "native-1.tar.gz", "")
    files = {"pyproject.toml": PYPROJECT, "backend.py": BACKEND, "native.c": SOURCE}
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(f"native-1/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return path


@one_person_each_tier
def test_an_extension_in_c_is_compiled(project: Project, control: Project) -> None:
    make_sdist(control)
    if control.run("pip", "install", *OFFLINE, "native-1.tar.gz").returncode:
        lacking("compiler", "no C compiler, or no headers of Python")
    make_sdist(project)
    project.install("native-1.tar.gz")
    assert project.python("import native; print(native.ANSWER)").stdout == "42\n"
    project.uninstall("native")


# ---- settings ----


@one_person_each_tier
def test_settings_of_the_index_come_along_and_secrets_do_not(fresh: Project, backend: str, place: Path) -> None:
    settings = {
        "PIP_INDEX_URL": "https://index.invalid/simple", "UV_INDEX_URL": "https://uv.invalid/simple",
        "NO_PROXY": "one.invalid,two.invalid", "HTTPS_PROXY": "http://proxy.invalid:1", "UV_NO_CACHE": "1",
        "PIP_CONFIG_FILE": str(place / "pip.conf"), "REQUESTS_CA_BUNDLE": str(place / "ca.pem"),
    }  # fmt: skip
    secrets = {"AWS_SECRET_ACCESS_KEY": "x", "UV_PUBLISH_TOKEN": "x", "TWINE_PASSWORD": "x", "SSH_AUTH_SOCK": "/x"}
    fresh.person.write(place / "pip.conf", f"[global]\nfind-links = {place}/wheels\n")
    fresh.person.write(place / "ca.pem", "certificates")
    fresh.person.run(["mkdir", str(place / "wheels")], check=True)
    shutil.copy(make_demo(fresh, 3), place / "wheels")
    environment = fresh.person.environment | settings | secrets
    project = wrap(fresh, backend, env=environment)
    shown, _, _ = json.loads(project.run("uv", "sync", env=environment).stdout)
    assert {name: shown.get(name) for name in settings} == settings
    assert not secrets.keys() & shown.keys()
    assert f"{place}/wheels" in project.run("pip", "config", "list", env=environment).stdout
    found = {name: value for name, value in environment.items() if name not in {"PIP_FIND_LINKS", "PIP_INDEX_URL"}}
    done = project.run("pip", "install", *OFFLINE, "demo==3", env=found)
    assert done.returncode == 0, done.stderr
    assert project.run("demo").stdout == "demo 3\n"
    assert project.python(f"print(open({str(place / 'ca.pem')!r}).read())").stdout == "certificates\n"


# ---- killed ----

DELAYS = (0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9)


@one_person_each_tier
def test_an_installation_that_was_killed_leaves_a_box_that_starts(project: Project, token: str) -> None:
    (project.root / token).mkdir()
    wheel = shutil.copy(make_demo(project, 1), project.root / token)
    argv = [str(project.bin / "pip"), "install", *OFFLINE, "--force-reinstall", str(wheel)]
    killed = 0
    for delay in DELAYS:
        process = project.person.popen(argv, cwd=project.root, stderr=subprocess.DEVNULL)
        try:
            process.wait(delay)
        except subprocess.TimeoutExpired:
            process.kill()
            killed += process.wait(SECONDS) != 0
        assert project.python("print('starts')").stdout == "starts\n"
        assert find_processes(token) == []
    assert killed
    project.install("--force-reinstall", wheel)
    assert project.run("demo").stdout == "demo 1\n"
    shutil.rmtree(project.root / token)


# ---- uv ----


@pytest.mark.index
@one_person_each_tier
def test_uv_outside_does_not_install_unconfined(uv: Path, project: Project, control: Project) -> None:
    for each in (control, project):
        argv = [str(uv), "pip", "install", "--offline", "--no-index", "--python", str(each.bin / "python")]
        done = each.person.run([*argv, "demo-1-py3-none-any.whl"], cwd=each.root)
        assert (done.returncode == 0) == (each is control), done.stderr
    assert "install uv into the box" in done.stderr
    assert project.python("import demo").returncode == 1
    control.uninstall("demo")


UV_RUN = {
    "named": ("--no-project", "--python", "{python}"), "by its path": ("--no-project", "{python}", "-c"),
    "of the project": (),
}  # fmt: skip


@pytest.mark.index
@pytest.mark.parametrize("how", UV_RUN)
@pytest.mark.parametrize(("person", "backend"), [("user", BACKENDS[0])], indirect=True)
def test_uv_run_outside_ends_confined_or_refuses(how: str, uv: Path, project: Project, place: Path) -> None:
    """In a shell where the box is active: what is read is no other Python's business."""
    secret = project.person.write(place / "secret", "a secret")
    code = f"print(open({str(secret)!r}).read())"
    control = [str(uv), "run", "--offline", "--no-project", "--python", PLAIN, "python", "-c", code]
    assert project.person.run(control, cwd=project.root).stdout == "a secret\n"
    words = [word.format(python=project.bin / "python") for word in UV_RUN[how]]
    program = [code] if how == "by its path" else ["python", "-c", code]
    path = f"{project.bin}:{project.person.environment['PATH']}"
    active = project.person.environment | {"VIRTUAL_ENV": str(project.environment), "PATH": path}
    done = project.person.run([str(uv), "run", "--offline", *words, *program], cwd=project.root, env=active)
    assert "a secret" not in done.stdout
    assert done.returncode != 0


@pytest.mark.index
@one_person_each_tier
def test_uv_inside_installs_and_runs(fresh: Project, backend: str) -> None:
    project = wrap(fresh, backend)
    done = project.run("pip", "install", "-q", "--force-reinstall", "uv")
    if done.returncode:
        lacking("index", f"uv cannot be installed: {done.stderr}")
    words = ("pip", "install", "-q", "--offline", "--no-index", "demo-1-py3-none-any.whl")
    done = project.run("uv", *words)
    assert done.returncode == 0, done.stderr
    assert project.run("demo").stdout == "demo 1\n"
    done = project.run("uv", "--directory", ".", "run", "--offline", "--no-project", "python", "-c", WRITE)
    assert done.stdout == ""
    assert "Read-only file system" in done.stderr or "Permission denied" in done.stderr
