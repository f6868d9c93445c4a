"""Make a box: beside its final place first, then one rename. Killed at any point, nothing is half-made."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from vsbox.box.activation import render_activation
from vsbox.box.layout import Layout, check_name
from vsbox.box.store import save_policy, store, write_atomically
from vsbox.box.sync import Synced, sync_launchers
from vsbox.errors import BoxError, InterpreterError, UsageError, VsboxError
from vsbox.host.collect import find_launcher, user_home
from vsbox.plan.model import Interpreter, Plan
from vsbox.policy.grants import is_below
from vsbox.policy.model import Policy

OLDEST = (3, 8)
SECONDS_TO_SETTLE = 5


@dataclass(frozen=True)
class Created:
    """A new box."""

    layout: Layout
    interpreter: Interpreter
    plan: Plan
    synced: Synced


def resolve_new_root(directory: str) -> Path:
    """Return the absolute, link-free place of a new box.

    Raises:
        UsageError: scripts or JSON could not name it, or it is a place nobody means.
    """
    path = Path(directory).expanduser()
    root = Path(os.path.realpath(path))
    check_name(root)
    if root.parent == root or str(root) == user_home():
        raise UsageError(f"cannot make a box at {root}: choose a directory of its own")
    return root


def _is_empty_directory(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _check_target(root: Path, *, clear: bool) -> None:
    if not os.path.lexists(root) or _is_empty_directory(root):
        return
    if not root.is_dir():
        raise BoxError(f"cannot make a box at {root}: it is not a directory")
    if not Layout(root).is_box():
        raise BoxError(
            f"cannot make a box at {root}: it is not empty and not a box",
            hint="choose another directory, or empty this one yourself",
        )
    if not clear:
        raise BoxError(
            f"cannot make a box at {root}: there is one already",
            hint=f"start over with: vsbox --clear {directory_hint(root)}",
        )


def directory_hint(root: Path) -> str:
    """Return a path as a person would type it in a shell."""
    return shlex.quote(str(root))


def _grow_environment(target: Path, python: str | None, *, pip: bool) -> Interpreter:
    """Make the environment of ``inside`` with virtualenv and return its base Python.

    The base is named by its real file: alias links below a home directory stay out of the box.

    Security: this runs the base interpreter, which is the host's, on a directory that nobody
    inside has ever written to.
    """
    import virtualenv

    def plan(candidate: str, *options: str) -> virtualenv.run.Session:
        arguments = ["--activators", "", "--no-periodic-update", "--no-vcs-ignore", "-p", candidate]
        return virtualenv.session_via_cli([*arguments, *options, str(target)], setup_logging=False)

    try:
        info = _find_interpreter(python, plan)
        real = os.path.realpath(info.system_executable or info.executable)
        seeded = pip and _can_seed(real, plan)
        plan(real, *([] if seeded else ["--no-seed"])).run()
        if pip and not seeded:
            _install_pip(target)
    except (RuntimeError, SystemExit, ValueError) as error:
        if "No space left on device" in str(error):
            raise BoxError(f"cannot write {target.parent}: No space left on device") from error
        cause = (str(error).strip().splitlines() or ["no reason given"])[-1]
        raise InterpreterError(
            f"cannot make an environment with {python or 'this Python'}: {cause}",
            hint="name an interpreter by version, name or path: vsbox -p 3.12 DIR",
        ) from error
    return _interpreter_of(info)


def _find_interpreter(python: str | None, plan: Callable[..., Any]) -> Any:
    """Return virtualenv's knowledge of the base interpreter that was asked for."""
    failure: Exception | None = None
    for candidate in _candidates(python):
        try:
            info = plan(candidate, "--no-seed").interpreter
        except RuntimeError as error:
            failure = failure or error
            continue
        if tuple(info.version_info[:2]) < OLDEST:
            raise InterpreterError(
                f"cannot use {info.executable}: it is Python {info.version_str}",
                hint="boxes take Python 3.8 and newer",
            )
        return info
    raise RuntimeError(str(failure) or "no such interpreter")


def _can_seed(python: str, plan: Callable[..., Any]) -> bool:
    """Tell whether virtualenv brings pip for this Python; newer releases leave old ones out."""
    try:
        plan(python)
    except RuntimeError:
        return False
    return True


def _install_pip(target: Path) -> None:
    """Install the pip that came with the base Python; the environment is still only ours."""
    program = [str(target / "bin" / "python"), "-I", "-m", "ensurepip", "--default-pip"]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"it has no pip: {done.stderr.strip().splitlines()[-1:]}")


def _candidates(python: str | None) -> Iterator[str]:
    """What a person may have meant: what they said, else a pyenv version that no shim answers for."""
    yield python or sys.executable
    if python and re.fullmatch(r"(python)?3(\.\d+){0,2}", python):
        versions = Path(os.environ.get("PYENV_ROOT") or Path(user_home(), ".pyenv")) / "versions"
        wanted = python.removeprefix("python")
        found = versions.glob(f"{wanted}*/bin/python") if versions.is_dir() else ()
        yield from map(str, sorted(found, key=_version_key, reverse=True))


def _version_key(path: Path) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", path.parent.parent.name)]


def _interpreter_of(info: object) -> Interpreter:
    executable = os.path.realpath(getattr(info, "system_executable"))  # noqa: B009 - untyped library
    prefixes = {getattr(info, name, None) for name in ("system_prefix", "system_exec_prefix")}
    stdlib = {getattr(info, "system_stdlib", None), getattr(info, "system_stdlib_platform", None)}
    home = user_home()
    trees = set()
    for path in sorted(os.path.realpath(path) for path in (prefixes | stdlib) if path):
        if is_below(home, path) or path == "/":
            continue  # a prefix that is the home itself: its standard library is granted below
        trees.add(path)
    trees = {tree for tree in trees if not any(tree != other and is_below(tree, other) for other in trees)}
    if not any(is_below(executable, tree) for tree in trees):
        trees.add(executable)
    libraries = sorted(os.path.realpath(path) for path in stdlib if path)
    return Interpreter(executable, str(getattr(info, "version_str", "")), tuple(sorted(trees)), tuple(libraries))


def _name_public_place(inside: Path, root: Path) -> None:
    """Make the scripts that came with the environment name the box, not the staging directory.

    Only what virtualenv just wrote is touched; nobody inside has run yet.
    """
    raw = (os.fsencode(inside), os.fsencode(root))
    quoted = (os.fsencode(shlex.quote(str(inside))[1:-1]), os.fsencode(shlex.quote(str(root))[1:-1]))
    for script in (inside / "bin").iterdir():
        if script.is_symlink() or not script.is_file():
            continue
        content = script.read_bytes()
        if content.startswith(b"\x7fELF"):
            continue
        for staged, public in (raw, quoted):
            content = content.replace(staged, public)
        script.write_bytes(content)


def _grow(staging: Path, root: Path, python: str | None, *, pip: bool) -> Interpreter:
    layout = Layout(staging)
    interpreter = _grow_environment(layout.inside, python, pip=pip)
    _name_public_place(layout.inside, root)
    (layout.inside / "inside").symlink_to(".")
    (layout.inside / "home").mkdir()
    for directory in (layout.bin, layout.sandbox, layout.home / "tmp"):
        directory.mkdir(parents=True)
    (layout.home).chmod(0o700)
    shutil.copyfile(layout.inside / "pyvenv.cfg", staging / "pyvenv.cfg")
    (staging / "lib").symlink_to("inside/lib")
    (staging / ".gitignore").write_text("*\n")
    shutil.copyfile(find_launcher(), layout.launcher)
    layout.launcher.chmod(0o755)
    shutil.copy2(layout.launcher, layout.sandbox / "verify")
    write_atomically(layout.sandbox / "interpreter.json", msgspec.json.encode(interpreter))
    for name, content in render_activation(str(root), prompt=root.name).items():
        (layout.bin / name).write_bytes(content)
        (layout.inside / "bin" / name).write_bytes(content)
    return interpreter


def _remove(tree: Path) -> None:
    """Remove a tree in which threads of virtualenv may still be writing when we were interrupted."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            thread.join(timeout=SECONDS_TO_SETTLE)
    for _ in range(100):
        shutil.rmtree(tree, ignore_errors=True)
        time.sleep(0.02)
        if not tree.exists():
            return


@contextlib.contextmanager
def _staging(root: Path) -> Iterator[Path]:
    """A private directory beside the box; removed unless it was moved into place."""
    root.parent.mkdir(parents=True, exist_ok=True)
    staging = root.parent / f".{root.name}.vsbox-{secrets.token_hex(4)}"
    try:
        staging.mkdir(mode=0o755)
        yield staging
    finally:
        _remove(staging)


def _put_in_place(staging: Path, root: Path, finish: Callable[[], Created]) -> Created:
    """Rename the new box into place, finish it there, and take it away again if that fails."""
    old = None
    if os.path.lexists(root) and not _is_empty_directory(root):
        old = root.parent / f"{staging.name}-old"
        root.rename(old)
    try:
        staging.rename(root)
        created = finish()
    except BaseException:
        shutil.rmtree(root, ignore_errors=True)
        if old:
            old.rename(root)
        raise
    if old:
        shutil.rmtree(old, ignore_errors=True)
    return created


def create(
    directory: str, policy: Policy, *, python: str | None = None, pip: bool = True, clear: bool = False
) -> Created:
    """Make a box at ``directory``; ``policy.venv_root`` is filled in.

    Raises:
        UsageError, PolicyError, InterpreterError, BoxError, CannotEnforceError: nothing was made,
            and with ``clear`` the old box is still there.
        OSError: the same, for instance for a full disk.
    """
    root = resolve_new_root(directory)
    policy = msgspec.structs.replace(policy, venv_root=str(root))
    _check_target(root, clear=clear)

    with _staging(root) as staging:
        interpreter = _grow(staging, root, python, pip=pip)
        save_policy(Layout(staging), policy)

        def finish() -> Created:
            layout = Layout(root)
            synced = sync_launchers(layout, policy)
            return Created(layout, interpreter, store(layout, policy), synced)

        return _put_in_place(staging, root, finish)


def describe_failure(error: OSError) -> VsboxError:
    """Return an OSError as an error of ours: what failed, which file, the cause."""
    where = f" {error.filename}" if error.filename else ""
    return BoxError(f"cannot write{where}: {error.strerror or error}")
