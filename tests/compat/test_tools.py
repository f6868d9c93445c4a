"""Tools and editors in a wrapped project: what docs/how-to/tools-and-editors.md says of each, done for real."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tools_clients import SECONDS, DebugClient, connect, free_port, run_notebook, value_at_breakpoint
from tools_project import Tools, make_project

from harness import PLAIN

if TYPE_CHECKING:
    from harness import Person

pytestmark = [pytest.mark.index, pytest.mark.slow]

SOME = ("pytest", "pytest-xdist", "pytest-cov", "ruff", "debugpy")
KERNELS = ("ipykernel", "numpy")
MORE = ("mypy", "tox", "nox", "pre-commit", "pip-tools")
INSTALLED = {"native": SOME + KERNELS + MORE, "landlock": SOME + KERNELS, "bubblewrap": SOME}
everywhere = pytest.mark.parametrize(
    ("person", "tools"), [("user", "native"), ("user", "landlock"), ("root", "bubblewrap")], indirect=True
)
with_kernels = pytest.mark.parametrize(("person", "tools"), [("user", "native"), ("user", "landlock")], indirect=True)
with_all = pytest.mark.parametrize(("person", "tools"), [("user", "native")], indirect=True)


@pytest.fixture(scope="module")
def tools(request: pytest.FixtureRequest, person: Person) -> Iterator[Tools]:
    """A wrapped project with its tools, for the backend that is asked for."""
    made = make_project(person, request.param, INSTALLED[request.param])
    yield made
    shutil.rmtree(made.root, ignore_errors=True)


@pytest.fixture
def extensions(person: Person) -> Iterator[Path]:
    """A directory like ~/.vscode/extensions: hidden in the person's home, with programs that an editor starts."""
    path = Path(tempfile.mkdtemp(prefix=".editor-", dir=person.home))
    os.chown(path, person.uid, person.gid)
    yield path
    shutil.rmtree(path)


# ---- the project's own tools ----


@everywhere
def test_the_project_itself_is_installed_and_followed(tools: Tools) -> None:
    assert tools.good("demo") == "demo 42\n"
    source = tools.root / "src" / "demo" / "__init__.py"
    text = source.read_text()
    source.write_text(text.replace("'demo'", "'edited'"))
    try:
        assert tools.good("demo") == "edited 42\n"
    finally:
        source.write_text(text)


@everywhere
def test_pytest_runs_in_parallel_and_measures_coverage(tools: Tools) -> None:
    shown = tools.good("pytest", "-q", "-n", "2", "--cov=demo")
    assert "2 passed" in shown
    assert re.search(r"src/demo/__init__\.py +4 +1 +75%", shown), shown


@everywhere
def test_ruff_finds_and_rewrites(tools: Tools) -> None:
    path = tools.write("src/demo/odd.py", "import os\nx  =  1\n")
    try:
        assert "F401" in tools.run("ruff", "check").stdout
        tools.good("ruff", "check", "-q", "--fix")
        tools.good("ruff", "format")
        assert path.read_text() == "x = 1\n"
    finally:
        path.unlink()


@with_all
def test_mypy_checks_and_keeps_a_cache(tools: Tools) -> None:
    path = tools.write("src/demo/wrong.py", "from demo import double\n\ndouble('x')\n")
    try:
        assert "wrong.py:3: error" in tools.run("mypy", "--strict", "src").stdout
    finally:
        path.unlink()
    assert "no issues" in tools.good("mypy", "--strict", "src")
    assert (tools.root / ".mypy_cache").is_dir()


POOL = """
import multiprocessing, pickle
from dataclasses import dataclass

@dataclass
class Item:
    n: int

def twice(item):
    return Item(item.n * 2)

if __name__ == "__main__":
    for method in ("fork", "spawn", "forkserver"):
        with multiprocessing.get_context(method).Pool(2) as pool:
            print(method, [item.n for item in pool.map(twice, [Item(1), Item(2)])])
"""


@everywhere
def test_classes_of_a_script_are_pickled_to_workers(tools: Tools) -> None:
    tools.write("src/pool.py", POOL)
    assert tools.good("python", "src/pool.py") == "fork [2, 4]\nspawn [2, 4]\nforkserver [2, 4]\n"


@with_kernels
def test_numpy_computes_with_its_threads(tools: Tools) -> None:
    code = "import numpy; a = numpy.ones((300, 300)); print(int((a @ a).sum()))"
    assert tools.good("python", "-c", code) == "27000000\n"


@pytest.mark.parametrize(("person", "tools"), [("user", "landlock")], indirect=True)
def test_a_build_needs_its_directory_beforehand_without_namespaces(tools: Tools) -> None:
    """Nothing new can be made directly in a directory that holds something protected."""
    wheel = ("-m", "pip", "wheel", "-q", "--no-deps", "-w", tools.root / "src", ".")
    assert "could not create 'build" in tools.run("python", *wheel).stderr
    (tools.root / "build").mkdir()
    os.chown(tools.root / "build", tools.person.uid, tools.person.gid)
    tools.good("python", *wheel)
    assert [path.name for path in (tools.root / "src").glob("*.whl")] == ["demo-1-py3-none-any.whl"]


# ---- tools that make environments ----


@with_all
def test_tox_keeps_its_environments_in_the_home_of_the_box(tools: Tools) -> None:
    tools.write("tox.ini", "[tox]\nenvlist = py\n[testenv]\nskip_install = true\n"
                'commands = python -c "import sys; print(sys.prefix)"\n')  # fmt: skip
    assert f"{tools.home}/.tox/py" in tools.good("tox", "-q")
    assert not (tools.root / ".tox").exists()


NOXFILE = """
import os
import nox

nox.options.envdir = os.environ.get("NOX_ENVDIR", ".nox")

@nox.session
def prefix(session):
    session.run("python", "-c", "import sys; print(sys.prefix)")
"""


@with_all
def test_nox_keeps_its_environments_where_the_noxfile_says(tools: Tools) -> None:
    tools.write("noxfile.py", NOXFILE)
    assert f"{tools.home}/.nox/prefix" in tools.good("nox", "-db", "virtualenv")
    assert not (tools.root / ".nox").exists()


@with_all
def test_pip_tools_compile_what_pip_then_installs(tools: Tools) -> None:
    tools.write("requirements.in", "idna\n")
    tools.good("pip-compile", "-q", "--strip-extras", "requirements.in")
    assert "\nidna==" in (tools.root / "requirements.txt").read_text()
    tools.good("python", "-m", "pip", "install", "-q", "-r", "requirements.txt")
    assert tools.good("python", "-c", "import idna; print(1)") == "1\n"


# ---- git ----


@everywhere
def test_git_inside_reads_and_does_not_write(tools: Tools) -> None:
    shown = tools.good("shell", "-c", "git log --oneline --format=%s; git status --short; git diff --stat")
    assert shown.startswith("first\n")
    refused = tools.run("shell", "-c", "git commit --allow-empty -m inside")
    assert refused.returncode
    assert "Read-only file system" in refused.stderr or "Permission denied" in refused.stderr
    assert tools.outside("git", "commit", "-q", "--allow-empty", "-m", "outside").returncode == 0


HOOK = """#!/bin/sh
git diff --cached --name-only --diff-filter=d -z | xargs -0r .venv/bin/pre-commit run --files
"""
HOOKS = """
repos:
- repo: local
  hooks:
  - {id: ruff, name: ruff, entry: ruff check, language: system, types: [python]}
"""


@with_all
def test_a_hook_of_git_runs_pre_commit_confined(tools: Tools) -> None:
    """The hook is its owner's: ``pre-commit install`` cannot write it. Named files it checks without a stash."""
    assert "Read-only file system" in tools.run("pre-commit", "install").stdout
    tools.write(".pre-commit-config.yaml", HOOKS)
    tools.write(".git/hooks/pre-commit", HOOK, mode=0o755)
    path = tools.write("src/demo/hooked.py", "import os\n")
    tools.outside("git", "add", path)
    refused = tools.outside("git", "commit", "-qm", "unused import")
    assert refused.returncode
    assert "F401" in refused.stdout + refused.stderr
    path.write_text("x = 1\n")
    tools.outside("git", "add", path)
    accepted = tools.outside("git", "commit", "-qm", "hooked")
    assert accepted.returncode == 0, accepted.stdout + accepted.stderr


# ---- editors ----

INFO = "import json, sys\nprint(json.dumps([sys.version_info[:2], sys.prefix, sys.flags.isolated]))\n"
MARKERS = """
import runpy, sys
print(">>>")
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
print("<<<")
"""


@everywhere
def test_an_editor_probes_the_interpreter_with_scripts_of_its_own(tools: Tools, extensions: Path) -> None:
    script = tools.person.write(extensions / "interpreterInfo.py", INFO)
    tools.person.write(extensions / "packaging_tool.py", "import interpreterInfo\n")
    prefix = f"{tools.root}/.venv" + ("/inside" if tools.backend == "landlock" else "")
    for place in (tools.root, "/"):
        version, found, isolated = json.loads(tools.good("python", "-I", script, cwd=place))
        assert [found, isolated] == [prefix, 1]
    assert json.loads(tools.good("python", "-c", INFO)) == [version, prefix, 0]
    listed = json.loads(tools.good("python", "-m", "pip", "list", "--format", "json"))
    assert {"pytest", "demo"} <= {package["name"] for package in listed}


@with_all
def test_a_script_that_runs_another_of_its_directory_needs_the_grant(tools: Tools, extensions: Path) -> None:
    """As get_output_via_markers.py runs interpreterInfo.py: only the first is named on the command line of Python."""
    inner = tools.person.write(extensions / "interpreterInfo.py", INFO)
    outer = tools.person.write(extensions / "get_output_via_markers.py", MARKERS)
    assert tools.run("python", "-I", outer, inner).stderr.splitlines()[-1].startswith("vsbox.SandboxFileNotFoundError")
    tools.vsbox("allow", "--read", ".venv", extensions)
    try:
        assert tools.good("python", "-I", outer, inner).splitlines()[2] == "<<<"
    finally:
        tools.vsbox("deny", ".venv", extensions)


BOXED = """#!/bin/sh
for pipe in "$TEST_RUN_PIPE" "$RUN_TEST_IDS_PIPE"; do
    [ -e "$pipe" ] && BWRAP_ARGS="$BWRAP_ARGS --bind $pipe $pipe"
done
export BWRAP_ARGS
exec {python} "$@"
"""
PLUGIN = """
import os
def pytest_runtest_logreport(report):
    if report.when == "call":
        with open(os.environ["TEST_RUN_PIPE"], "w") as pipe:
            pipe.write(report.outcome + "\\n")
"""


@everywhere
def test_results_of_tests_reach_an_editor_through_its_pipe(tools: Tools, extensions: Path) -> None:
    """As vscode_pytest reports: a plug-in of the editor's, a pipe named anew for each run, a variable that says it."""
    plugins, pipe = extensions / "plugins", extensions / "pipe"
    assert tools.outside("sh", "-c", 'mkdir "$0" && mkfifo "$1"', plugins, pipe).returncode == 0
    tools.person.write(plugins / "editor_plugin.py", PLUGIN)
    boxed = tools.person.write(extensions / "python", BOXED.replace("{python}", tools.python), mode=0o755)
    environment = tools.policy().get("environment", {})
    tools.change_policy(environment=environment | {"pass": ["TEST_RUN_PIPE", "RUN_TEST_IDS_PIPE"]})
    tools.vsbox("allow", "--read", ".venv", plugins)
    told = tools.environment | {"PYTHONPATH": str(plugins), "TEST_RUN_PIPE": str(pipe)}
    words = ["-m", "pytest", "-q", "-p", "editor_plugin", "tests/test_demo.py::test_two"]
    try:
        with os.fdopen(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)) as reader:
            assert str(pipe) in tools.run("python", *words, env=told).stdout  # it cannot open the pipe
            done = tools.outside(boxed, *words, env=told)
            assert (done.returncode, reader.read()) == (0, "passed\n"), done.stdout + done.stderr
    finally:
        tools.change_policy(environment=environment)
        tools.vsbox("deny", ".venv", plugins)


PROGRAM = "import os\nx = 41\nx += 1\nprint('value', x)\n"


@everywhere
def test_a_debugger_attaches_over_localhost(tools: Tools) -> None:
    program = tools.write("src/program.py", PROGRAM)
    port = free_port()
    debugpy = ["-Xfrozen_modules=off", "-m", "debugpy", "--listen", f"127.0.0.1:{port}", "--wait-for-client"]
    process = tools.person.popen([tools.python, *debugpy, str(program)], cwd=tools.root, stdout=subprocess.PIPE)
    try:
        with connect(port) as stream, stream.makefile("rb") as reader, stream.makefile("wb") as writer:
            client = DebugClient(reader, writer)
            assert value_at_breakpoint(client, "attach", {}, program, 4, "x") == "42"
            assert process.communicate(timeout=SECONDS)[0] == "value 42\n"
    finally:
        process.kill()
        process.wait()


@with_all
def test_a_debugger_of_an_editor_launches_the_program(tools: Tools, extensions: Path) -> None:
    """The adapter lies in the editor's directory, and both it and what it starts run in the box."""
    program = tools.write("src/program.py", PROGRAM)
    copied = tools.outside("cp", "-r", tools.site / "debugpy", extensions)
    assert copied.returncode == 0, copied.stderr
    adapter = extensions / "debugpy" / "adapter"
    assert tools.run("python", adapter, "--help").returncode
    tools.vsbox("allow", "--read", ".venv", extensions)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": False, "errors": None}
    process = tools.person.popen([tools.python, str(adapter)], cwd=tools.root, **pipes)
    try:
        client = DebugClient(process.stdout, process.stdin)  # type: ignore[arg-type]
        start: dict[str, object] = {"program": str(program), "python": [tools.python], "console": "internalConsole"}
        assert value_at_breakpoint(client, "launch", start, program, 4, "x") == "42"
        while client.event("output")["category"] != "stdout":
            pass
        client.event("terminated")
    finally:
        process.kill()
        process.wait()
        tools.vsbox("deny", ".venv", extensions)


KERNEL = ("/bin/sh", "-c", 'exec "$0" -m ipykernel_launcher -f /dev/stdin < "$1"')
CODE = "import sys; print(sys.prefix)\ntry:\n    open({secret!r}); print('read')\nexcept OSError: print('no')"


@with_kernels
def test_a_notebook_outside_starts_and_interrupts_a_kernel(tools: Tools, extensions: Path) -> None:
    """The connection file comes by standard input; the same kernel with the plain interpreter is the control."""
    secret = tools.person.write(extensions / "secret", "x")
    code = CODE.replace("{secret!r}", repr(str(secret)))
    client = ["/usr/bin/env", f"PYTHONPATH={tools.site}", "PYTHONDONTWRITEBYTECODE=1", PLAIN]

    def answers(python: str) -> list[str]:
        kernel = [*KERNEL, python, "{connection_file}"]
        done = run_notebook(tools.person, client, extensions / "runtime", code, kernel)
        return done.stdout.split() or [done.stderr]

    prefix = f"{tools.root}/.venv" + ("/inside" if tools.backend == "landlock" else "")
    assert answers(tools.python) == [prefix, "no", "sleeping", "KeyboardInterrupt"]
    assert answers(PLAIN)[1:] == ["read", "sleeping", "KeyboardInterrupt"]


@with_all
def test_a_notebook_server_inside_has_kernels_in_the_same_box(tools: Tools) -> None:
    """``jupyter run`` starts a kernel as a server does, and is its client."""
    program = tools.write("src/cell.py", "import os; print(os.environ['HOME'])\n")
    assert tools.good("jupyter-run", program) == f"{tools.home}\n"
