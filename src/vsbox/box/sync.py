"""Launchers follow what is in ``inside/bin``: by name only, no file there is ever opened.

Security: names come from code inside. One that would shadow a command of the user's PATH is held
back, since an activated box comes first there: a wheel that ships ``git`` or ``sudo`` would else
answer when the user means theirs.
"""

from __future__ import annotations

import contextlib
import filecmp
import os
import re
import shutil
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vsbox.box.layout import TASKS, Layout, made_anew
from vsbox.errors import BoxError
from vsbox.host.collect import find_launcher
from vsbox.policy.model import Policy

VALID_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}", re.ASCII)
PYTHON_NAME: Final = re.compile(r"(python|pip|pypy|easy_install|wheel)[0-9.]*", re.ASCII)
MOST_COMMANDS: Final = 4000
OWN_LAUNCHERS: Final = ("python-sandboxed", "shell")
RESERVED: Final = frozenset({*OWN_LAUNCHERS, "vsbox"})
TRUSTED: Final = frozenset({"sudo", "su", "doas", "pkexec", "ssh", "gpg", "bwrap"})
"""Commands that people give passwords to, or power: held back also where they are not installed yet."""
ACTIVATION: Final = re.compile(r"activate(_sandboxed)?(\..*)?|deactivate.*", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True)
class HeldBack:
    """A command that got no launcher, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Synced:
    """What a synchronisation did."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    held_back: tuple[HeldBack, ...]


def list_names(directory: Path) -> tuple[str, ...]:
    """Return the names of files and links in a directory that code inside controls.

    Raises:
        BoxError: it is not there, or a link in its place, which is not followed.
    """
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)  # type: ignore[attr-defined,unused-ignore]
    except OSError as error:
        raise BoxError(
            f"cannot list the commands of {directory.parent.parent}: {error.strerror}; launchers stay as they are",
            hint=f"code inside broke its environment; {made_anew(directory.parent.parent)}",
        ) from error
    try:
        with os.scandir(descriptor) as entries:
            return tuple(sorted(entry.name for entry in entries if not entry.is_dir(follow_symlinks=False)))
    finally:
        os.close(descriptor)


def _is_installed_by_python(command: Path) -> bool:
    """Tell whether a package of the Python that shares the command's prefix lists it among its files."""
    listed = f"/{command.parent.name}/{command.name},"
    for packages in ("site-packages", "dist-packages"):
        for record in command.parent.parent.glob(f"lib/python3*/{packages}/*.dist-info/RECORD"):
            with contextlib.suppress(OSError, UnicodeDecodeError):
                if listed in record.read_text(encoding="utf-8"):
                    return True
    return False


def _belongs_to_python(command: Path) -> bool:
    """Tell whether a command of the user's is itself a tool of some Python installation.

    Shadowing those is what activating an environment means: its ``pytest`` comes before another.
    """
    if command.parent.name == "shims":
        return True
    real = Path(os.path.realpath(command))
    if any((real.parent.parent / mark).exists() for mark in ("pyvenv.cfg", "conda-meta")):
        return True
    try:
        with real.open("rb") as file:
            first = file.readline(256)
    except OSError:
        return False
    if first.startswith(b"#!"):
        return b"python" in first
    return _is_installed_by_python(real)


def find_shadowed(name: str, search: Iterable[str], own_bin: Path) -> Path | None:
    """Return the command of the user's that a launcher called ``name`` would hide, if any."""
    for directory in search:
        if not directory.startswith("/") or os.path.realpath(directory) == str(own_bin):
            continue
        command = Path(directory) / name
        try:
            mode = command.stat().st_mode
        except OSError:
            continue
        if stat.S_ISREG(mode) and mode & 0o111:
            return None if _belongs_to_python(command) else command
    return None


def _reason_to_hold_back(name: str, layout: Layout, policy: Policy, search: tuple[str, ...]) -> str | None:
    if not VALID_NAME.fullmatch(name):
        return "its name is not one a shell command has"
    if name in RESERVED:
        return "its name is vsbox's own"
    if name in policy.exposed_commands or PYTHON_NAME.fullmatch(name):
        return None
    if name in TRUSTED:
        return "it has the name of a command that is trusted with passwords or power"
    shadowed = find_shadowed(name, search, layout.bin)
    return f"it would shadow {shadowed}" if shadowed else None


def _is_launcher(path: Path, launcher: Path) -> bool:
    """Tell whether a file of ``bin`` is ours: a hard link, or a copy where there are no hard links."""
    status, known = path.lstat(), launcher.lstat()
    if (status.st_dev, status.st_ino) == (known.st_dev, known.st_ino):
        return True
    return stat.S_ISREG(status.st_mode) and filecmp.cmp(path, launcher, shallow=False)


def _make(layout: Layout, path: Path) -> None:
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    try:
        os.link(layout.launcher, temporary)
    except OSError:
        shutil.copy2(layout.launcher, temporary)
    os.replace(temporary, path)
    temporary.unlink(missing_ok=True)  # rename(2) does nothing when both are links of one file


def check_launchers(layout: Layout) -> None:
    """Make sure that what calls itself a box is one: each command in its ``bin`` is the launcher that we know.

    Raises:
        BoxError: it is not ours, or something else is among its commands.
    """
    if not filecmp.cmp(find_launcher(), layout.launcher, shallow=False):
        raise BoxError(
            f"cannot take {layout.root} for a box: its launcher is not that of this version",
            hint=f"if another version of vsbox made it: vsbox sync {layout.root}",
        )
    for path in layout.bin.iterdir():
        if not ACTIVATION.fullmatch(path.name) and not _is_launcher(path, layout.launcher):
            raise BoxError(f"cannot take {layout.root} for a box: {path} is not a launcher", hint="remove it")


def refresh_launcher(layout: Layout) -> None:
    """Bring a box that an older vsbox made to the launcher of this one, all its names included."""
    newest = find_launcher()
    if filecmp.cmp(newest, layout.launcher, shallow=False):
        return
    names = [path for path in layout.bin.iterdir() if _is_launcher(path, layout.launcher)]
    temporary = layout.sandbox / ".exec.new"
    shutil.copyfile(newest, temporary)
    temporary.chmod(0o755)
    os.replace(temporary, layout.launcher)
    for path in (*names, *(layout.sandbox / name for name in TASKS)):
        _make(layout, path)


def sync_launchers(layout: Layout, policy: Policy) -> Synced:
    """Give every command of ``inside/bin`` its launcher and take away those of commands that left."""
    search = tuple(os.environ.get("PATH", "").split(":"))
    held_back: list[HeldBack] = []
    wanted = set(OWN_LAUNCHERS)
    names = list_names(layout.inside / "bin")
    held_back += [HeldBack(name, f"a box has at most {MOST_COMMANDS} commands") for name in names[MOST_COMMANDS:]]
    for name in names[:MOST_COMMANDS]:
        if ACTIVATION.fullmatch(name) or name in OWN_LAUNCHERS:
            continue
        reason = _reason_to_hold_back(name, layout, policy, search)
        if reason:
            held_back.append(HeldBack(name, reason))
        else:
            wanted.add(name)
    present = {entry.name for entry in layout.bin.iterdir() if _is_launcher(entry, layout.launcher)}
    # Python's own names stay even where code inside removed them: an activated shell would else find the host's.
    kept = {name for name in present if PYTHON_NAME.fullmatch(name)}
    added, removed = sorted(wanted - present), sorted(present - wanted - kept)
    for name in added:
        _make(layout, layout.bin / name)
    for name in removed:
        (layout.bin / name).unlink(missing_ok=True)
    return Synced(tuple(added), tuple(removed), tuple(held_back))
