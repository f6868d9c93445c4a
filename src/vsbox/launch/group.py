"""A control group for one run: what the kernel counts for all its processes together.

Source: https://docs.kernel.org/admin-guide/cgroup-v2.html and cgroup-v1/memory.html. Version 1 is used by root alone,
where version 2 has no such controller.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from vsbox.launch.limits import Limits
from vsbox.policy.grants import is_below

MOUNTS: Final = Path("/proc/self/mountinfo")
MOST: Final = 2**63 - 1
"""The kernel takes a figure modulo 2**64."""
_NUMBERS = itertools.count()


@dataclass
class Group:
    """Directories of one run: one of version 2, or one a controller of version 1; ``controllers``: what they limit."""

    directories: tuple[Path, ...] = ()
    controllers: frozenset[str] = frozenset()
    version: int = 0
    _before: dict[str, int] = field(default_factory=dict)

    @property
    def word(self) -> str:
        """What the launcher is told: the directories that it joins."""
        return ":".join(map(str, self.directories))

    def _number(self, name: str, key: str = "") -> int:
        for directory in self.directories:
            with contextlib.suppress(OSError, ValueError, StopIteration):
                text = (directory / name).read_text(encoding="ascii")
                if not key:
                    return int(text)
                return next(int(line.split()[1]) for line in text.splitlines() if line.split()[0] == key)
        return 0

    def memory_kills(self) -> int:
        """Return how often the kernel killed for want of memory."""
        return self._number("memory.events", "oom_kill") or self._number("memory.oom_control", "oom_kill")

    def refused_forks(self) -> int:
        """Return how often a process or thread was refused."""
        return self._number("pids.events", "max")

    def peak_memory(self) -> int:
        """Return the most memory that was in use, page cache included; 0 where the kernel does not say."""
        return self._number("memory.peak") or self._number("memory.max_usage_in_bytes")

    def close(self) -> None:
        """Remove the directories; the processes have ended."""
        for directory in self.directories:
            for _ in range(50):
                if _is_removed(directory):
                    break
                time.sleep(0.01)  # the last of its processes is about to go
        self.directories = ()


def _is_removed(directory: Path) -> bool:
    try:
        directory.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _mounts() -> dict[str, tuple[Path, str]]:
    """Return where version 2 ("") and each controller of version 1 is mounted, and which part of the tree is there."""
    found: dict[str, tuple[Path, str]] = {}
    with contextlib.suppress(OSError):
        for line in MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines():
            before, _, after = line.partition(" - ")
            words, kind = before.split(), after.split()
            if len(kind) > 2 and kind[0] == "cgroup2":
                found.setdefault("", (Path(words[4]), words[3]))
            elif len(kind) > 2 and kind[0] == "cgroup":
                for name in {"memory", "pids"} & set(kind[2].split(",")):
                    found.setdefault(name, (Path(words[4]), words[3]))
    return found


def _own(controller: str) -> str | None:
    """Return this process's group in a tree. Source: cgroups(7), /proc/PID/cgroup."""
    for line in Path("/proc/self/cgroup").read_text(encoding="utf-8", errors="replace").splitlines():
        number, names, path = line.split(":", 2)
        if (controller == "" and number == "0" and not names) or (controller and controller in names.split(",")):
            return path
    return None


def _place(mounts: dict[str, tuple[Path, str]], controller: str) -> Path | None:
    own = _own(controller)
    if controller not in mounts or own is None:
        return None
    mount, shown = mounts[controller]
    return mount / os.path.relpath(own, shown) if is_below(own, shown) else mount


def _name() -> str:
    return f"vsbox-{os.getpid()}-{next(_NUMBERS)}"


def _write(path: Path, value: str | int) -> None:
    if isinstance(value, int):
        value = min(value, MOST)
    path.write_text(str(value), encoding="ascii")


def _make_v2(place: Path, limits: Limits, wanted: frozenset[str]) -> Group | None:
    """Make a group below the one that this process is in, or beside it: where that is ours to divide (delegated)."""
    for parent in (place, place.parent):
        with contextlib.suppress(OSError):
            if wanted <= set((parent / "cgroup.controllers").read_text(encoding="ascii").split()):
                _pass_on(parent, wanted)
                return _make_below(parent, limits, wanted)
    return None


def _pass_on(parent: Path, wanted: frozenset[str]) -> None:
    """Let the groups below have these controllers."""
    words = " ".join(f"+{name}" for name in sorted(wanted))
    try:
        _write(parent / "cgroup.subtree_control", words)
    except OSError as error:
        if error.errno != errno.EBUSY or not _move_aside(parent):
            raise
        _write(parent / "cgroup.subtree_control", words)


def _make_below(parent: Path, limits: Limits, wanted: frozenset[str]) -> Group:
    directory = parent / _name()
    directory.mkdir()
    group = Group((directory,), wanted, 2)
    try:
        # pids alone can be passed on by a group that holds processes, and what is below can then hold none
        if (directory / "cgroup.type").read_text(encoding="ascii").strip() != "domain":
            _write(parent / "cgroup.subtree_control", " ".join(f"-{name}" for name in sorted(wanted)))
            raise OSError(errno.EOPNOTSUPP, "not a group for processes", str(directory))
        _set_v2(directory, limits)
    except OSError:
        group.close()
        raise
    return group


def _move_aside(parent: Path) -> bool:
    """Move this process into a group of its own below ``parent``, if nobody else is there; tell whether it was done.

    A group whose controllers are passed on may hold no process ("no internal processes").
    """
    own = str(os.getpid())
    if (parent / "cgroup.procs").read_text(encoding="ascii").split() != [own]:
        return False
    aside = parent / f"vsbox-self-{own}"
    aside.mkdir(exist_ok=True)
    _write(aside / "cgroup.procs", own)
    return True


def _set_v2(directory: Path, limits: Limits) -> None:
    if limits.memory_bytes is not None:
        _write(directory / "memory.max", limits.memory_bytes)
        with contextlib.suppress(OSError):
            _write(directory / "memory.swap.max", 0)
            _write(directory / "memory.oom.group", 1)
    if limits.processes is not None:
        _write(directory / "pids.max", limits.processes + OWN_TASKS)


OWN_TASKS: Final = 8
"""Of the launcher: itself, init, a witness, connections that the broker makes. They count, and the limit is the
payload's; its passing is seen by looking."""


def _make_v1(mounts: dict[str, tuple[Path, str]], limits: Limits, wanted: frozenset[str]) -> Group | None:
    made: list[Path] = []
    try:
        for controller in sorted(wanted):
            parent = _place(mounts, controller)
            if parent is None:
                raise FileNotFoundError(controller)
            directory = parent / _name()
            directory.mkdir()
            made.append(directory)
            if controller == "memory":
                _write(directory / "memory.limit_in_bytes", limits.memory_bytes or MOST)
                with contextlib.suppress(OSError):
                    _write(directory / "memory.memsw.limit_in_bytes", limits.memory_bytes or MOST)
            else:
                _write(directory / "pids.max", (limits.processes or 0) + OWN_TASKS)
    except OSError:
        Group(tuple(made)).close()
        return None
    return Group(tuple(made), wanted, 1)


def make_group(limits: Limits) -> Group:
    """Return a group that enforces what of the limits a group can; an empty one where none can be made."""
    wanted = frozenset(
        controller
        for name, controller in (("memory_bytes", "memory"), ("processes", "pids"))
        if getattr(limits, name) is not None
    )
    if not wanted or not MOUNTS.exists():
        return Group()
    mounts = _mounts()
    with contextlib.suppress(OSError):
        place = _place(mounts, "")
        if place is not None and place.name == f"vsbox-self-{os.getpid()}":
            place = place.parent
        group = _make_v2(place, limits, wanted) if place is not None else None
        if group is not None:
            return group
    if os.geteuid() == 0:  # type: ignore[attr-defined,unused-ignore]
        group = _make_v1(mounts, limits, wanted)
        if group is not None:
            return group
    return Group()
