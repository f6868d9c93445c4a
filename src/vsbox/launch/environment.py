"""The Python of a run: that of a box, of an environment, or the one that runs."""

from __future__ import annotations

import functools
import glob
import os
import stat
import sys
import sysconfig
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

import msgspec

from vsbox.errors import PolicyError, UsageError
from vsbox.launch.files import READ
from vsbox.launch.paths import WRITTEN, open_resolved, resolve
from vsbox.plan.model import Interpreter, Tier
from vsbox.policy.grants import is_below

MOST_BYTES: Final = 1 << 16
"""Of a file that says where an environment runs from."""
PARTS: Final = ("lib", "lib64", "bin", "include", "share", "libexec", "etc", "ssl")
"""What a Python consists of, below its prefix; the first two may hold its library."""

@dataclass(frozen=True)
class Environment:
    """The Python of a run: its path inside, what it runs from, where its prefix is, and mounts that put it there."""

    python: str
    interpreter: Interpreter
    prefix: str
    mounts: tuple[str, ...] = ()


def find_environment(packages: str | None, tier: Tier, written: Iterable[str] = ()) -> Environment:
    """Return the Python of a box, of an environment, or the running one.

    Security: a box or an environment may lie where code inside could write, so what its files name is granted only
    where it is a Python, and of that only what Pythons consist of. ``written``: places as in ``paths.resolve``.

    Raises:
        UsageError: nothing there is any of these.
        PolicyError: what it is said to run from is no Python, or code inside may have made it one.
    """
    if packages is None:
        return _running_environment()
    places = {*WRITTEN, *written}
    root = resolve(packages, places)
    noted = _read(f"{root}/sandbox/interpreter.json")
    if noted is not None:
        return _of_box(root, noted, tier, places)
    settings = _read(f"{root}/pyvenv.cfg")
    if settings is None:
        raise UsageError(f"cannot use the packages of {packages}: it is neither a box nor an environment")
    return _plain_environment(root, settings.decode("utf-8", "replace"), places)


def _read(path: str) -> bytes | None:
    """Return what a small regular file holds, None where there is none."""
    try:
        descriptor = open_resolved(path, READ)
    except OSError:
        return None
    try:
        return os.read(descriptor, MOST_BYTES) if stat.S_ISREG(os.fstat(descriptor).st_mode) else None
    finally:
        os.close(descriptor)


def _of_box(root: str, noted: bytes, tier: Tier, written: Collection[str]) -> Environment:
    try:
        said = msgspec.json.decode(noted, type=Interpreter)
    except msgspec.MsgspecError as error:
        raise PolicyError(
            f"cannot use the packages of {root}: its interpreter.json is damaged", hint=f"vsbox sync {root}"
        ) from error
    trees = [part for tree in said.trees for part in _parts(root, tree, written)]
    libraries = tuple(path for path in said.libraries if any(is_below(path, tree) for tree in (*trees, "/usr")))
    interpreter = msgspec.structs.replace(said, trees=tuple(trees), libraries=libraries)
    if tier is Tier.NAMESPACES:
        return Environment(f"{root}/bin/python", interpreter, root, ("--ro-bind", f"{root}/inside", root))
    inside = f"{root}/inside"
    with_packages = msgspec.structs.replace(interpreter, trees=tuple(dict.fromkeys((inside, *trees))))
    return Environment(f"{inside}/bin/python", with_packages, inside)


def _parts(root: str, tree: str, written: Collection[str]) -> tuple[str, ...]:
    """Return what of a tree is granted for the sake of an environment: of a prefix, the directories of a Python."""
    if is_below(tree, "/usr"):
        return (tree,)
    real = tree.startswith("/") and os.path.realpath(tree) == tree
    if real and not any(is_below(place, tree) for place in written):
        if _is_program(tree) or _is_library(tree):
            return (tree,)
        parts = tuple(f"{tree}/{name}" for name in PARTS)
        if any(_is_library(found) for part in parts[:2] for found in glob.glob(f"{glob.escape(part)}/py*")):
            return tuple(part for part in parts if os.path.isdir(part) and not os.path.islink(part))
    raise PolicyError(
        f"cannot use the packages of {root}: they are said to run from {tree}, which holds no Python, "
        "or one that code inside could have made",
        hint="look at bin/python and pyvenv.cfg there: has other code changed them?",
    )


def _is_program(path: str) -> bool:
    return os.path.basename(path).startswith(("python", "pypy")) and os.path.isfile(path) and os.access(path, os.X_OK)


def _is_library(path: str) -> bool:
    return all(os.path.isfile(f"{path}/{name}") for name in ("os.py", "encodings/__init__.py"))


@functools.lru_cache(maxsize=1)
def _running_environment() -> Environment:
    real = os.path.realpath(sys.executable)
    trees = {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix, os.path.dirname(os.path.dirname(real))}
    libraries = (sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"))
    directory, name = os.path.split(sys.executable)  # as it was called: ".." may lead through what is not there inside
    python = os.path.join(os.path.realpath(directory), name)
    if not any(is_below(python, os.path.realpath(tree)) for tree in (*trees, "/usr")):
        python = real  # a link to it, from a place that is not there inside
    return Environment(python, _interpreter(real, trees, libraries), os.path.realpath(sys.prefix))


def _interpreter(executable: str, trees: Iterable[str], libraries: Iterable[str] = ()) -> Interpreter:
    real = sorted({os.path.realpath(tree) for tree in trees} - {"/", "/usr"})
    outermost = tuple(tree for tree in real if not any(tree != other and is_below(tree, other) for other in real))
    known = tuple(sorted({path for path in libraries if path and os.path.isdir(path)}))
    return Interpreter(executable, sys.version, outermost, known)


def _plain_environment(root: str, text: str, written: Collection[str]) -> Environment:
    settings = {key.strip(): value.strip() for key, _, value in (line.partition("=") for line in text.splitlines())}
    python = f"{root}/bin/python"
    real = os.path.realpath(python)
    home = os.path.realpath(settings.get("home", os.path.dirname(real)))
    bases = {os.path.dirname(home), os.path.dirname(os.path.dirname(real))} - {root}
    parts = (part for base in sorted(bases) for part in _parts(root, base, written))
    return Environment(python, _interpreter(real, {root, *parts}), root)
