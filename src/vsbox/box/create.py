"""Make a box: beside its final place first, then one rename. Killed at any point, nothing is half-made."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from vsbox.box.activation import render_activation
from vsbox.box.environment import grow_environment
from vsbox.box.layout import TASKS, Layout, check_name
from vsbox.box.staging import refuse_while_others_write, remove_tree, staging_beside
from vsbox.box.store import save_policy, store, write_atomically
from vsbox.box.sync import Synced, sync_launchers
from vsbox.box.tidy import settle
from vsbox.box.tree import exchange
from vsbox.errors import BoxError, UsageError, VsboxError
from vsbox.host.collect import find_launcher, user_home
from vsbox.plan.model import Interpreter, Plan
from vsbox.policy.model import Policy


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
    path = os.path.expanduser(directory)  # says nothing of a user whom nobody knows
    if path.startswith("~"):
        raise UsageError(f"cannot make a box at {directory}: whose home is that?", hint=f"or do you mean ./{path}?")
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


def outfit(layout: Layout, root: Path, interpreter: Interpreter) -> None:
    """Give a directory that holds ``inside`` all else that makes a box; ``root`` is where it will be."""
    (layout.inside / "inside").symlink_to(".")
    (layout.inside / "home").mkdir()
    for directory in (layout.bin, layout.sandbox, layout.home / "tmp"):
        directory.mkdir(parents=True)
    layout.home.chmod(0o700)
    shutil.copyfile(layout.inside / "pyvenv.cfg", layout.root / "pyvenv.cfg")
    (layout.root / "lib").symlink_to("inside/lib")
    (layout.root / ".gitignore").write_text("*\n")
    shutil.copyfile(find_launcher(), layout.launcher)
    layout.launcher.chmod(0o755)
    for name in TASKS:
        shutil.copy2(layout.launcher, layout.sandbox / name)
    write_atomically(layout.sandbox / "interpreter.json", msgspec.json.encode(interpreter))
    for name, content in render_activation(str(root), prompt=root.name).items():
        (layout.bin / name).write_bytes(content)


def _grow(staging: Path, root: Path, python: str | None, *, pip: bool) -> Interpreter:
    layout = Layout(staging)
    interpreter = grow_environment(layout.inside, python, pip=pip)
    _name_public_place(layout.inside, root)
    outfit(layout, root, interpreter)
    for name in render_activation(str(root), prompt=root.name):
        shutil.copyfile(layout.bin / name, layout.inside / "bin" / name)
    return interpreter


def _put_in_place(staging: Path, root: Path, finish: Callable[[], Created]) -> Created:
    """Rename the new box into place, finish it there, and take it away again if that fails."""
    replaces = os.path.lexists(root) and not _is_empty_directory(root)
    if replaces:
        exchange(root, staging)
    else:
        staging.rename(root)
    try:
        return finish()
    except BaseException:
        if replaces:
            exchange(root, staging)
        else:
            remove_tree(root)
        raise


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
    refuse_while_others_write(root)
    if clear and Layout(root).is_box():
        settle(Layout(root))

    with staging_beside(root) as staging:
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
