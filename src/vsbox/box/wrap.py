"""Wrap an environment in place, and give it back as it was.

The new shape is made beside the old one and the two change places in one step (renameat2(2)), so killed at
any point the environment is the old one or the new one. What is made beside shares the files by hard links.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import msgspec

from vsbox.box.create import outfit
from vsbox.box.environment import find_interpreter
from vsbox.box.layout import Layout, check_name, open_box
from vsbox.box.staging import refuse_while_others_write, remove_stale, staging_beside
from vsbox.box.store import (
    change_policy,
    load_interpreter,
    load_policy,
    locked,
    prepare,
    save_policy,
    store,
    store_unproven,
)
from vsbox.box.sync import HeldBack, check_launchers, sync_launchers
from vsbox.box.tidy import settle
from vsbox.box.tree import clone, exchange
from vsbox.errors import BoxError, UsageError
from vsbox.guard.install import take_guard
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
SHARED_PLACES = frozenset({
    "/", "/home", "/root", "/tmp", "/var", "/var/tmp", "/var/lib", "/var/log", "/var/cache", "/var/spool", "/opt",
    "/srv", "/mnt", "/media", "/dev/shm",
})  # fmt: skip
SYSTEM_TREES = (
    "/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/run", "/sbin", "/sys", "/usr",
)  # fmt: skip
WORKSHOPS = ("/dev/shm/", "/run/user/", "/usr/src/", "/usr/local/src/")
"""Where people work, below these trees all the same."""


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
    lexical = os.path.abspath(os.path.expanduser(directory))  # `.venv` may be a link
    project = os.path.realpath(named or os.path.dirname(lexical))
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
    if any(is_below(str(project), tree) for tree in SYSTEM_TREES) and not str(project).startswith(WORKSHOPS):
        return "it is a directory of the system"
    if any(is_below(home, str(project)) for home in _homes_of_others()):
        return "it is, or holds, the home directory of another user"
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
    others = [path.parent.name for path in project.glob("*/pyvenv.cfg") if path.parent.resolve() != environment]
    return f"it is a directory of environments ({', '.join(sorted(others)[:3])})" if others else None


def _homes_of_others() -> Iterator[str]:
    own = user_home()
    for entry in pwd.getpwall():  # type: ignore[attr-defined,unused-ignore]
        if entry.pw_dir not in {own, "/", ""} and is_below(entry.pw_dir, "/home"):
            yield os.path.realpath(entry.pw_dir)


def _is_hidden_below(project: Path, home: str) -> bool:
    return any(part.startswith(".") for part in project.relative_to(home).parts)


def _check_environment(root: Path) -> None:
    if os.path.lexists(root) and not root.is_dir():
        raise BoxError(f"cannot wrap {root}: it is not a directory", hint="name the environment itself")
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


def _editable_places(root: Path) -> Iterator[str]:
    """Return the directories that editable installs point to.

    Source: https://packaging.python.org/en/latest/specifications/direct-url-data-structure/
    """
    for path in root.glob("lib*/python3*/site-packages/*.dist-info/direct_url.json"):
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            url = urlsplit(document["url"])
            is_editable = document["dir_info"]["editable"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if is_editable and url.scheme == "file":
            yield unquote(url.path)


def _named_places(root: Path) -> Iterator[str]:
    """Return what ``.pth`` and ``.egg-link`` files name: editable installs of older tools.

    Source: https://docs.python.org/3/library/site.html
    """
    packages = "lib*/python3*/site-packages"
    for path in (*root.glob(f"{packages}/*.pth"), *root.glob(f"{packages}/*.egg-link")):
        with contextlib.suppress(OSError):
            lines = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
            yield from (line.strip() for line in lines if line.startswith("/"))


def with_editable_places(policy: Policy, root: Path) -> Policy:
    """Return the policy with what editable installs need to be read and nothing shows yet; never private places."""
    known = (*policy.allowed_paths, *policy.read_only_paths, *filter(None, [policy.project]), str(root))
    home = user_home()
    places = sorted({
        place
        for place in map(os.path.realpath, (*_editable_places(root), *_named_places(root)))
        if os.path.isdir(place)
        and not any(is_below(place, path) for path in known)
        and not is_below(home, place)
        and not (is_below(place, home) and _is_hidden_below(Path(place), home))
    })  # fmt: skip
    outermost = [place for place in places if not any(is_below(place, other) for other in places if other != place)]
    return msgspec.structs.replace(policy, read_only_paths=(*policy.read_only_paths, *outermost))


def wrap(directory: str, policy: Policy, said: frozenset[str] = frozenset()) -> Wrapped:
    """Turn the environment at ``directory`` into a box; ``policy.venv_root`` is filled in.

    A box stays as it is, apart from launchers that are missing and from the keys of its policy that were ``said``;
    paths are added to those that it has.

    Raises:
        VsboxError, OSError: the environment is as it was.
    """
    root = Path(os.path.realpath(os.path.expanduser(directory)))
    check_name(root)
    with _one_at_a_time(root):
        remove_stale(root.parent)
        if Layout(root).is_box():
            return _wrap_again(open_box(root), {key: getattr(policy, key) for key in said})
        _check_environment(root)
        return _wrap_environment(root, policy)


@contextlib.contextmanager
def _one_at_a_time(root: Path) -> Iterator[None]:
    """Keep another command from wrapping, or unwrapping, what stands at ``root`` meanwhile."""
    try:
        descriptor = os.open(root, os.O_RDONLY | os.O_CLOEXEC)  # type: ignore[attr-defined,unused-ignore]
    except OSError:  # what is wrong with it is said by whoever looks at it
        yield
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # type: ignore[attr-defined,unused-ignore]
        yield
    finally:
        os.close(descriptor)


def _wrap_environment(root: Path, policy: Policy) -> Wrapped:
    policy = with_editable_places(msgspec.structs.replace(policy, venv_root=str(root)), root)
    interpreter = find_interpreter(_base_python(root))
    refuse_while_others_write(root)
    with staging_beside(root) as staging:
        layout = Layout(staging)
        clone(root, layout.inside)
        times = layout.inside.stat()
        outfit(layout, root, interpreter)
        os.utime(layout.inside, ns=(times.st_atime_ns, times.st_mtime_ns))
        save_policy(layout, policy)
        prepare(layout, policy, root)
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
    settle(layout)
    before = load_policy(layout)
    for key in ("allowed_paths", "read_only_paths"):
        if key in changes:
            changes[key] = tuple(dict.fromkeys((*getattr(before, key), *changes[key])))  # type: ignore[misc]
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
    root = Path(os.path.realpath(os.path.expanduser(directory)))
    if root in remove_stale(root.parent) and not Layout(root).is_box():
        return root  # a command that was killed got that far
    layout = open_box(directory)
    check_launchers(layout)
    settle(layout)
    if any(run.box == str(root) for run in running()):
        raise BoxError(f"cannot unwrap {root}: something runs in it", hint=f"end it: vsbox kill {root}")
    quarantine = layout.sandbox / "quarantine"
    if quarantine.is_dir() and any(quarantine.iterdir()):
        raise BoxError(
            f"cannot unwrap {root}: its quarantine is not empty",
            hint=f"look through {quarantine}, move away what is yours, and remove the rest",
        )
    refuse_while_others_write(root)
    with _one_at_a_time(root), locked(layout), staging_beside(root) as staging:
        staging.rmdir()
        clone(layout.inside, staging, leave_out=ADDED)
        take_guard(layout.sandbox / "guard", staging, load_interpreter(layout).packages)
        exchange(root, staging)
    return root
