"""Wrap an environment in place, and give it back as it was.

The new shape is made beside the old one and the two change places in one step (renameat2(2)), so killed at
any point the environment is the old one or the new one. What is made beside shares the files by hard links.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import msgspec

from vsbox.box.create import outfit, staging_beside
from vsbox.box.environment import find_interpreter
from vsbox.box.layout import Layout, check_name, open_box
from vsbox.box.store import (
    change_policy,
    check_policy,
    load_policy,
    locked,
    save_policy,
    store,
    store_unproven,
)
from vsbox.box.sync import HeldBack, check_launchers, sync_launchers
from vsbox.box.tree import clone, exchange
from vsbox.errors import BoxError, UsageError
from vsbox.host.collect import user_home
from vsbox.host.running import running
from vsbox.plan.model import Plan
from vsbox.policy.grants import is_below
from vsbox.policy.model import Policy

ADDED = frozenset({"inside", "home"})
"""What the inner half has at its top that an environment has not."""
PROJECT_MARKS = (
    ".git", ".hg", ".svn", ".jj", "pyproject.toml", "setup.py", "setup.cfg", "requirements.txt", "Pipfile", "tox.ini",
    "noxfile.py", "environment.yml", "uv.lock", "poetry.lock", "Makefile", "manage.py",
)  # fmt: skip
HOMES_OF_ENVIRONMENTS = frozenset({".virtualenvs", "virtualenvs", ".venvs", "venvs", "envs", ".envs", "environments"})
SHARED_PLACES = frozenset(
    {"/", "/home", "/root", "/tmp", "/var", "/var/tmp", "/opt", "/srv", "/mnt", "/media", "/usr", "/etc"}
)


@dataclass(frozen=True)
class Wrapped:
    """A wrapped environment; ``is_new`` unless it was a box already."""

    layout: Layout
    policy: Policy
    plan: Plan
    held_back: tuple[HeldBack, ...]
    is_new: bool


def find_project(directory: str, named: str | None) -> str:
    """Return the project of an environment: the directory named, or the one that holds the environment.

    Raises:
        UsageError: it is a home, a shared place, or a directory of environments: nobody means all of it.
    """
    lexical = os.path.abspath(os.path.expanduser(directory))  # noqa: PTH100, PTH111 - `.venv` may be a link
    project = os.path.realpath(named or os.path.dirname(lexical))  # noqa: PTH120
    problem = _why_no_project(Path(project), Path(os.path.realpath(lexical)))
    if problem:
        raise UsageError(
            f"cannot take {project} for the project of {directory}: {problem}",
            hint="name it: vsbox wrap --project DIR, or wrap without one: vsbox wrap --preset venv",
        )
    return project


def _why_no_project(project: Path, environment: Path) -> str | None:
    if not project.is_dir():
        return "it is not a directory"
    if is_below(str(project), str(environment)):
        return "it is in the environment itself"
    if str(project) in SHARED_PLACES:
        return "it is a place that others share"
    named_home = os.environ.get("HOME") or "/"
    homes = {user_home(), os.path.realpath(named_home)} - {"/"}
    if any(is_below(home, str(project)) for home in homes):
        return "it is your home directory, or holds it"
    if any(is_below(str(project), home) and _is_hidden_below(project, home) for home in homes):
        return "it is in a hidden directory of your home"
    named = os.path.realpath(os.environ.get("WORKON_HOME") or "/")
    if project.name.lower() in HOMES_OF_ENVIRONMENTS or str(project) == named:
        return "it is a directory of environments"
    if any((project / mark).exists() for mark in PROJECT_MARKS):
        return None
    others = [path.parent.name for path in project.glob("*/pyvenv.cfg") if path.parent != environment]
    return f"it is a directory of environments ({', '.join(sorted(others)[:3])})" if others else None


def _is_hidden_below(project: Path, home: str) -> bool:
    return any(part.startswith(".") for part in project.relative_to(home).parts)


def _check_environment(root: Path) -> None:
    if not root.is_dir():
        raise BoxError(f"cannot wrap {root}: it does not exist", hint=f"make an environment there: vsbox {root}")
    if (root / "conda-meta").exists():
        hint = f"make a box with its Python: vsbox -p {root}/bin/python DIR"
        raise BoxError(f"cannot wrap {root}: it is a conda environment", hint=hint)
    if not (root / "pyvenv.cfg").is_file() or not os.path.lexists(root / "bin" / "python"):
        raise BoxError(f"cannot wrap {root}: it is not a virtual environment", hint=f"make a box instead: vsbox {root}")
    for name in ADDED:
        if os.path.lexists(root / name):
            raise BoxError(f"cannot wrap {root}: it holds {name!r}, a name that a box needs", hint="move it elsewhere")


def _settings(root: Path) -> dict[str, str]:
    """Read ``pyvenv.cfg``, once, before code inside has ever run confined."""
    lines = (root / "pyvenv.cfg").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    pairs = (line.partition("=") for line in lines)
    return {key.strip().lower(): value.strip() for key, _, value in pairs}


def _base_python(root: Path) -> str:
    """Return the interpreter that the environment was made from, without running the environment.

    Raises:
        BoxError: it is gone.
    """
    real = Path(os.path.realpath(root / "bin" / "python"))
    settings = _settings(root)
    home = Path(settings.get("home", "/"))
    version = ".".join(settings.get("version", settings.get("version_info", "")).split(".")[:2])
    named = [settings[key] for key in ("base-executable", "executable") if key in settings]
    outside = [] if is_below(str(real), str(root)) else [str(real)]
    for candidate in (*outside, *named, str(home / f"python{version}"), str(home / "python3"), str(home / "python")):
        if os.access(candidate, os.X_OK) and not is_below(os.path.realpath(candidate), str(root)):
            return candidate
    raise BoxError(
        f"cannot wrap {root}: the Python that it was made from is not in {home} any more",
        hint="make the environment anew, then wrap it",
    )


def _editable_places(root: Path, project: str | None) -> Iterator[str]:
    """Return directories that editable installs point to and that nothing else shows.

    Source: https://packaging.python.org/en/latest/specifications/direct-url-data-structure/
    """
    for path in root.glob("lib*/python3*/site-packages/*.dist-info/direct_url.json"):
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            url = urlsplit(document["url"])
            is_editable = document["dir_info"]["editable"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        place = os.path.realpath(unquote(url.path))
        shown = project is not None and is_below(place, project)
        if is_editable and url.scheme == "file" and not shown and os.path.isdir(place):  # noqa: PTH112
            yield place


def with_editable_places(policy: Policy, root: Path) -> Policy:
    """Return the policy with what editable installs need to be read."""
    known = (*policy.allowed_paths, *policy.read_only_paths)
    home = user_home()
    places = sorted({
        place
        for place in _editable_places(root, policy.project)
        if not any(is_below(place, path) for path in known) and not is_below(home, place)
    })  # fmt: skip
    return msgspec.structs.replace(policy, read_only_paths=(*policy.read_only_paths, *places))


def wrap(directory: str, policy: Policy, said: frozenset[str] = frozenset()) -> Wrapped:
    """Turn the environment at ``directory`` into a box; ``policy.venv_root`` is filled in.

    A box stays as it is, apart from launchers that are missing and from the keys of its policy that were ``said``.

    Raises:
        VsboxError, OSError: the environment is as it was.
    """
    root = Path(os.path.realpath(os.path.expanduser(directory)))  # noqa: PTH111
    check_name(root)
    if Layout(root).is_box():
        return _wrap_again(open_box(root), {key: getattr(policy, key) for key in said})
    _check_environment(root)
    policy = with_editable_places(msgspec.structs.replace(policy, venv_root=str(root)), root)
    interpreter = find_interpreter(_base_python(root))
    with staging_beside(root) as staging:
        layout = Layout(staging)
        clone(root, layout.inside)
        times = layout.inside.stat()
        outfit(layout, root, interpreter)
        os.utime(layout.inside, ns=(times.st_atime_ns, times.st_mtime_ns))
        save_policy(layout, policy)
        check_policy(layout, policy, root)
        synced = sync_launchers(layout, policy)
        store_unproven(layout, policy, root)
        exchange(root, staging)
        try:
            plan = store(Layout(root), policy)
        except BaseException:
            exchange(root, staging)
            raise
    return Wrapped(Layout(root), policy, plan, synced.held_back, is_new=True)


def _wrap_again(layout: Layout, changes: dict[str, object]) -> Wrapped:
    check_launchers(layout)
    before = load_policy(layout)
    policy = msgspec.structs.replace(before, **changes)
    if policy != before:
        change_policy(layout, policy)
    with locked(layout):
        plan = store(layout, policy)
        synced = sync_launchers(layout, policy)
    return Wrapped(layout, policy, plan, synced.held_back, is_new=False)


def unwrap(directory: str) -> Path:
    """Turn a box back into the environment that code inside saw; return its place.

    Raises:
        BoxError: it is no box, something runs in it, or its quarantine holds what nobody has looked at.
        OSError: the box is as it was.
    """
    layout = open_box(directory)
    root = layout.root
    if any(run.box == str(root) for run in running()):
        raise BoxError(f"cannot unwrap {root}: something runs in it", hint=f"end it: vsbox kill {root}")
    quarantine = layout.sandbox / "quarantine"
    if quarantine.is_dir() and any(quarantine.iterdir()):
        raise BoxError(
            f"cannot unwrap {root}: its quarantine is not empty",
            hint=f"look through {quarantine}, move away what is yours, and remove the rest",
        )
    with locked(layout), staging_beside(root) as staging:
        staging.rmdir()
        clone(layout.inside, staging, leave_out=ADDED)
        exchange(root, staging)
    return root
