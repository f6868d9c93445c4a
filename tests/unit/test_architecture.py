"""What the tree promises: one direction of imports, a pure core, one encoding on both sides."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import lacking
from unit.machines import EVERY_PROBE
from vsbox.plan import compilation, encode, steps, system
from vsbox.seccomp import PROBE_ERRNO, PROBE_OPTION

PROJECT = Path(__file__).parents[2]
SOURCE = PROJECT / "src" / "vsbox"
NATIVE = PROJECT / "native"
MODULES = sorted(SOURCE.rglob("*.py"))

RANKS = {
    "errors": 0, "policy": 1, "seccomp": 1, "host": 2, "plan": 3, "backends": 4, "launch": 5,
    "box": 6, "guard": 6, "network": 6, "check": 6, "cli": 7, "__main__": 8,
}  # fmt: skip
PURE = ("policy", "plan", "seccomp")
PURE_MODULES = ("vsbox.errors", "vsbox.host.facts")
IMPURE_IMPORTS = frozenset(
    {"subprocess", "ctypes", "socket", "shutil", "tempfile", "platform", "pwd", "io", "time", "random"}
)
OS_ALLOWED = frozenset({"fsencode", "fsdecode", "PathLike"})
SYS_ALLOWED = frozenset({"byteorder", "maxsize"})
FORBIDDEN_NAMES = frozenset({"utils", "util", "helpers", "helper", "common", "manager", "managers"})


def module_id(path: Path) -> str:
    return str(path.relative_to(SOURCE.parent))


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imported(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in it, type checking included."""
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                is_module = (SOURCE.parent / whole.replace(".", "/")).with_suffix(".py").exists()
                yield whole if is_module else str(node.module)


def package(module: str) -> str | None:
    """The part of vsbox that a module belongs to; None for the root and for what is not ours."""
    names = module.split(".")
    return names[1] if names[0] == "vsbox" and len(names) > 1 else None


def own_package(path: Path) -> str | None:
    relative = path.relative_to(SOURCE).with_suffix("")
    return None if relative.name == "__init__" and len(relative.parts) == 1 else relative.parts[0]


def edges() -> Iterator[tuple[Path, str, str]]:
    for path in MODULES:
        here = own_package(path)
        for module in imported(path):
            there = package(module)
            if here and there and here != there:
                yield path, here, there


def pure_files() -> list[Path]:
    return [path for path in MODULES if own_package(path) in PURE]


# ---- imports ----


def test_every_package_has_a_place() -> None:
    assert {own_package(path) for path in MODULES} - {None} <= set(RANKS)


def test_imports_point_one_way() -> None:
    wrong = [f"{module_id(p)}: {a} -> {b}" for p, a, b in edges() if RANKS[b] > RANKS[a]]
    assert not wrong


def test_packages_of_one_rank_form_no_cycle() -> None:
    beside = {(a, b) for _, a, b in edges() if RANKS[a] == RANKS[b]}
    assert not {pair for pair in beside if pair[::-1] in beside}


def test_seccomp_knows_no_policy() -> None:
    assert not {there for _, here, there in edges() if here == "seccomp"} - {"errors"}


def test_the_root_imports_nothing_of_ours() -> None:
    """What type checkers read is not imported."""
    body = [node for node in parse(SOURCE / "__init__.py").body if not isinstance(node, ast.If)]
    found = [node.module for node in body if isinstance(node, ast.ImportFrom)]
    assert found == ["__future__", "typing"]
    assert not [node for node in body if isinstance(node, ast.Import)]


def test_the_direction_test_can_fail(tmp_path: Path) -> None:
    """The control: what the tests above look for is found in a file that has it."""
    bad = tmp_path / "bad.py"
    bad.write_text("def f():\n    from vsbox.cli import main\n    import subprocess\n")
    assert list(imported(bad)) == ["vsbox.cli", "subprocess"]
    assert RANKS["policy"] < RANKS[package("vsbox.cli") or ""]


# ---- purity ----


@pytest.mark.parametrize("path", pure_files(), ids=module_id)
def test_pure_modules_import_only_pure_ones(path: Path) -> None:
    for module in imported(path):
        assert module.split(".")[0] not in IMPURE_IMPORTS, module
        if module.startswith("vsbox"):
            assert package(module) in PURE or module in PURE_MODULES, module


@pytest.mark.parametrize("path", pure_files(), ids=module_id)
def test_pure_modules_do_not_look_at_the_machine(path: Path) -> None:
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            allowed = {"os": OS_ALLOWED, "sys": SYS_ALLOWED}.get(node.value.id)
            assert allowed is None or node.attr in allowed, f"{node.value.id}.{node.attr}"
        if isinstance(node, ast.ImportFrom) and node.module in {"os", "sys", "pathlib"}:
            names = {alias.name for alias in node.names}
            assert names <= OS_ALLOWED | SYS_ALLOWED | {"PurePosixPath", "PurePath"}, names
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in {"open", "print", "input", "exec", "eval"}


def test_facts_are_values_only() -> None:
    assert set(imported(SOURCE / "host" / "facts.py")) == {"__future__", "typing", "msgspec"}


def test_only_host_looks(tmp_path: Path) -> None:
    """Backends decide from facts; probing anywhere else would give two truths."""
    for path in (SOURCE / "backends").glob("*.py"):
        assert not {"os", "subprocess", "ctypes", "platform"} & set(imported(path)), path


# ---- names and documentation ----


@pytest.mark.parametrize("path", MODULES, ids=module_id)
def test_every_module_says_what_it_is(path: Path) -> None:
    assert (ast.get_docstring(parse(path)) or "").strip()


def test_no_module_is_a_drawer() -> None:
    assert not [p for p in SOURCE.rglob("*") if p.stem.lower() in FORBIDDEN_NAMES]


def test_every_error_has_its_exit_code_in_the_tree() -> None:
    from vsbox import errors

    tree = {
        name: int(code)
        for name, code in re.findall(r"(\w+Error) +(\d+) ", errors.__doc__ or "")
    }
    classes = {
        name: value.exit_code
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.VsboxError)
    }
    assert tree == classes


# ---- one encoding on both sides ----


def c_text(name: str) -> str:
    text = (NATIVE / name).read_text(encoding="utf-8")
    return re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)


def c_enum(name: str) -> dict[str, int]:
    """Return an enumeration of vsbox.h with the values that C gives it."""
    found = re.search(rf"enum {name} {{(.*?)}};", c_text("vsbox.h"), re.DOTALL)
    assert found, name
    values: dict[str, int] = {}
    following = 0
    for entry in filter(None, (part.strip() for part in found[1].split(","))):
        constant, _, value = (word.strip() for word in entry.partition("="))
        values[constant] = int(value, 0) if value else following
        following = values[constant] + 1
    return values


def c_define(name: str) -> str:
    found = re.search(rf"^#define {name} (.+)$", c_text("vsbox.h"), re.MULTILINE)
    assert found, name
    return found[1].strip()


def c_signatures() -> dict[str, str]:
    return dict(re.findall(r'\[(OP_\w+)\] = "([sib*]*)"', c_text("plan.c")))


def step_classes() -> list[type[steps.Step]]:
    """The steps of the module; tests elsewhere may have made others."""
    return [step for step in steps.Step.__subclasses__() if step.__module__ == steps.__name__]


def field_kinds(step: type[steps.Step]) -> str:
    return "".join(kind(type_) for name, type_ in step.__annotations__.items() if name != "CODE")


def op_name(step: type[steps.Step]) -> str:
    return "OP_" + re.sub(r"(?<!^)(?=[A-Z])", "_", step.__name__).upper()


def kind(annotation: object) -> str:
    return {"str": "s", "int": "i", "bytes": "b", "tuple[str, ...]": "s*"}[str(annotation)]


def test_the_steps_are_the_ops() -> None:
    ops = c_enum("op")
    assert ops.pop("OP_COUNT") == len(ops) + 1
    assert {op_name(step): step.CODE for step in step_classes()} == ops


@pytest.mark.parametrize("step", step_classes(), ids=op_name)
def test_fields_are_the_signature(step: type[steps.Step]) -> None:
    assert field_kinds(step) == c_signatures()[op_name(step)]


def test_every_op_is_handled_by_the_launcher() -> None:
    sources = "".join(c_text(p.name) for p in NATIVE.glob("*.c") if p.name != "plan.c")
    assert not [op for op in c_signatures() if not re.search(rf"\b{op}\b", sources)]


def test_bind_flags_agree() -> None:
    ours = {name: value for name, value in vars(steps).items() if name.startswith("BIND_")}
    assert ours == c_enum("bind_flags")


def test_working_directory_modes_agree() -> None:
    ours = {f"WORKDIR_{name.upper()}": value for name, value in compilation.WORKDIR_MODES.items()}
    assert ours == c_enum("workdir_mode")


def test_privacy_kinds_agree() -> None:
    names = {"PRIVATE_SELF", "PRIVATE_TREE", "PRIVATE_HOME", "PRIVATE_HOMES", "PRIVATE_OWN", "PRIVATE_BELOW"}
    assert {name: getattr(system, name) for name in names} == c_enum("privacy")


def test_the_probe_agrees() -> None:
    assert int(c_define("PROBE_OPTION"), 0) == PROBE_OPTION
    assert int(c_define("PROBE_ERRNO"), 0) == PROBE_ERRNO


def test_invented_machines_answer_every_probe() -> None:
    """A probe that machines.py does not know would count as failed in every test."""
    printed = re.findall(r'(?:probe_child|print_result)\("(\w+)"', c_text("probe.c"))
    assert set(printed) == {*EVERY_PROBE, "landlock"}


def test_the_format_agrees() -> None:
    assert c_define("PLAN_MAGIC") == f'"{encode.MAGIC.decode()}"'
    assert int(c_define("PLAN_VERSION")) == encode.VERSION


def test_exit_codes_agree() -> None:
    from vsbox import errors

    codes = dict(re.findall(r"(EXIT_\w+) = (\d+)", c_text("vsbox.h")))
    assert int(codes["EXIT_OWN_FAILURE"]) == errors.VsboxError.exit_code
    assert int(codes["EXIT_USAGE"]) == errors.UsageError.exit_code == errors.PolicyError.exit_code


# ---- what is installed ----

TEMPLATES = ("activate", "activate.fish", "activate.csh", "Activate.ps1")
LOADED = "import sys, json; old = set(sys.modules); import vsbox; print(json.dumps(sorted(set(sys.modules) - old)))"


def test_importing_loads_nothing_else() -> None:
    answer = subprocess.run([sys.executable, "-I", "-c", LOADED], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in json.loads(answer.stdout)}
    assert "vsbox" in loaded
    assert loaded - {"vsbox"} <= sys.stdlib_module_names


def test_a_command_loads_only_what_it_needs() -> None:
    code = "import sys; from vsbox.cli import main; print(*sys.modules)"
    answer = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert not {"virtualenv", "rich", "hatchling", "asyncio"} & set(answer.stdout.split())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel, built from a copy: the build hook compiles into the source tree."""
    place = tmp_path_factory.mktemp("wheel")
    tree = place / "tree"
    ignored = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "vsbox-launcher", "tests")
    shutil.copytree(PROJECT, tree, ignore=ignored)
    commands = (
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", place],
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", place, "."],
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", place, "."],
    )
    for command in commands:
        built = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False, timeout=300)
        if built.returncode == 0:
            return next(place.glob("*.whl"))
    if re.search(r"No matching distribution|Connection|Temporary failure", built.stderr):
        lacking("index", f"no hatchling here and none from the index: {built.stderr[-300:]}")
    pytest.fail(built.stderr[-2000:])


def test_the_wheel_holds_what_is_needed_and_no_more(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {info.filename: info.external_attr >> 16 for info in archive.infolist()}
    package_files = {name for name in names if name.startswith("vsbox/")}
    source = wheel.parent / "tree" / "src"
    expected = {str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()}
    assert package_files == expected | {"vsbox/launch/vsbox-launcher"}
    assert names["vsbox/launch/vsbox-launcher"] & 0o111 == 0o111
    assert {f"vsbox/box/templates/{name}" for name in TEMPLATES} <= package_files
    assert not [name for name in names if name.startswith(("tests", "bench", "native"))]


def test_the_wheel_says_that_it_is_typed(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        assert "vsbox/py.typed" in archive.namelist()


def test_the_wheel_is_for_this_machine_only(wheel: Path) -> None:
    assert not wheel.name.endswith("-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        metadata = next(name for name in archive.namelist() if name.endswith(".dist-info/WHEEL"))
        assert "Root-Is-Purelib: false" in archive.read(metadata).decode()


def test_the_wheel_carries_its_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        assert [name for name in archive.namelist() if name.endswith("/LICENSE")]
