"""The Python of a run: that of a box, of an environment, or the one that runs."""

from __future__ import annotations

import functools
import os
import sys
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from vsbox.errors import PolicyError, UsageError
from vsbox.launch.paths import resolve
from vsbox.plan.model import Interpreter, Tier
from vsbox.policy.grants import is_below


@dataclass(frozen=True)
class Environment:
    """The Python of a run: its path inside, what it runs from, where its prefix is, and mounts that put it there."""

    python: str
    interpreter: Interpreter
    prefix: str
    mounts: tuple[str, ...] = ()


def find_environment(packages: str | None, tier: Tier) -> Environment:
    """Return the Python of a box, of an environment, or the running one.

    Raises:
        UsageError: nothing there is any of these.
    """
    if packages is None:
        return _running_environment()
    root = resolve(packages)
    noted = Path(root, "sandbox", "interpreter.json")
    if noted.is_file():
        interpreter = msgspec.json.decode(noted.read_bytes(), type=Interpreter)
        if tier is Tier.NAMESPACES:
            return Environment(f"{root}/bin/python", interpreter, root, ("--ro-bind", f"{root}/inside", root))
        inside = f"{root}/inside"
        return Environment(f"{inside}/bin/python", _with_tree(interpreter, inside), inside)
    if not Path(root, "pyvenv.cfg").is_file():
        raise UsageError(f"cannot use the packages of {packages}: it is neither a box nor an environment")
    return _plain_environment(root)


def _with_tree(interpreter: Interpreter, *trees: str) -> Interpreter:
    return msgspec.structs.replace(interpreter, trees=tuple(dict.fromkeys((*trees, *interpreter.trees))))


@functools.lru_cache(maxsize=1)
def _running_environment() -> Environment:
    real = os.path.realpath(sys.executable)
    trees = {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix, os.path.dirname(os.path.dirname(real))}
    libraries = (sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"))
    return Environment(sys.executable, _interpreter(real, trees, libraries), sys.prefix)


def _interpreter(executable: str, trees: Iterable[str], libraries: Iterable[str] = ()) -> Interpreter:
    real = sorted({os.path.realpath(tree) for tree in trees} - {"/", "/usr"})
    outermost = tuple(tree for tree in real if not any(tree != other and is_below(tree, other) for other in real))
    known = tuple(sorted({path for path in libraries if path and os.path.isdir(path)}))
    return Interpreter(executable, sys.version, outermost, known)


def _plain_environment(root: str) -> Environment:
    """Read where an environment's base is.

    Security: the environment may lie where other code could write: nothing is granted for its sake that is no Python.

    Raises:
        PolicyError: it is not.
    """
    lines = Path(root, "pyvenv.cfg").read_text(encoding="utf-8", errors="replace").splitlines()
    settings = {key.strip(): value.strip() for key, _, value in (line.partition("=") for line in lines)}
    python = f"{root}/bin/python"
    real = os.path.realpath(python)
    home = os.path.realpath(settings.get("home", os.path.dirname(real)))
    bases = {os.path.dirname(home), os.path.dirname(os.path.dirname(real))} - {root, "/", "/usr"}
    for base in bases:
        if not any(Path(base).glob("lib*/py*/os.py")):
            raise PolicyError(
                f"cannot use the packages of {root}: they are said to run from {base}, which holds no Python",
                hint="look at bin/python and pyvenv.cfg there: has other code changed them?",
            )
    return Environment(python, _interpreter(real, {root, *bases}), root)
