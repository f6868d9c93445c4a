"""Limits of a run, and a meter of what its processes use.

What the kernel counts for all processes together it counts in a control group (``group.py``). Where there is none,
:class:`Meter` looks at the processes, ten to fifty times a second: at resident memory rather than address space, which
numerical libraries reserve without using it.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

import msgspec

from vsbox.errors import UsageError


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a run may use; None: no limit. Sizes in bytes, times in seconds.

    ``cpu_seconds``, ``memory_bytes`` (resident), ``processes`` (with threads), ``output_bytes`` (standard output and
    error together) and ``disk_bytes`` (the private working directory and ``/tmp``, each) count all processes together,
    ``open_files`` and ``file_bytes`` each. ``idle_seconds``: nothing written and no processor time used for so long.
    ``required`` names limits that must be exact: enforced by the kernel for all processes together, where the machine
    offers that, or the run is refused.
    """

    cpu_seconds: float | None = None
    idle_seconds: float | None = None
    memory_bytes: int | None = None
    processes: int | None = None
    open_files: int | None = None
    file_bytes: int | None = None
    disk_bytes: int = 1 << 30
    output_bytes: int = 64 << 20
    required: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what is no limit.

        Raises:
            UsageError: naming the field.
        """
        for name, kind, least in FIELDS:
            value = getattr(self, name)
            if value is None and name not in {"disk_bytes", "output_bytes"}:
                continue
            is_number = isinstance(value, kind) and not isinstance(value, bool)
            if not is_number or not value >= least or value == float("inf"):
                raise UsageError(f"bad limit {name}: {value!r} is no number from {least} on")
        for name in self.required:
            if name not in {field for field, _, _ in FIELDS}:
                raise UsageError(f"no limit {name!r}", hint=f"known: {', '.join(field for field, _, _ in FIELDS)}")
            if getattr(self, name) is None:
                raise UsageError(f"cannot require {name}: it is not set")


FIELDS: Final = (
    ("cpu_seconds", (int, float), 0.001), ("idle_seconds", (int, float), 0.001), ("memory_bytes", int, 4096),
    ("processes", int, 1), ("open_files", int, 1), ("file_bytes", int, 4096), ("disk_bytes", int, 4096),
    ("output_bytes", int, 1),
)  # fmt: skip
WATCHED: Final = ("cpu_seconds", "idle_seconds")
"""Limits that nothing but looking at the processes can hold for all of them together."""
EXACT_BY_GROUP: Final = {"memory_bytes": "memory", "processes": "pids"}
"""Limits that a control group makes exact, and by which controller."""
TICKS: Final = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
PAGE: Final = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


class Sample(msgspec.Struct, frozen=True):
    """What all processes of a run use at a moment; ``cpu_seconds`` with those that have ended and were waited for."""

    cpu_seconds: float
    memory_bytes: int
    tasks: int


def _read(path: str) -> bytes:
    with contextlib.suppress(OSError), open(path, "rb") as file:
        return file.read()
    return b""


def _children(pid: int) -> list[int]:
    """Return the children of every thread of a process. Source: proc_pid_task_tid_children(5)."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            found += map(int, _read(f"/proc/{pid}/task/{thread}/children").split())
    return found


def descendants(pid: int) -> list[int]:
    """Return every process below one."""
    found: list[int] = []
    waiting = _children(pid)
    while waiting:
        child = waiting.pop()
        found.append(child)
        waiting += _children(child)
    return found


def _exact_memory(pids: list[int]) -> int:
    """Return memory of which each page counts once. Source: proc_pid_smaps(5), ``smaps_rollup``."""
    total = 0
    for pid in pids:
        fields = dict(
            line.split(b":")[:2] for line in _read(f"/proc/{pid}/smaps_rollup").splitlines()[1:] if b":" in line
        )
        if b"Pss_Anon" not in fields:
            total += _resident(pid)
        else:
            total += sum(int(fields[key].split()[0]) << 10 for key in (b"Pss_Anon", b"Pss_Shmem") if key in fields)
    return total


def _resident(pid: int) -> int:
    """Return resident memory that is no file's. Source: proc_pid_statm(5)."""
    words = _read(f"/proc/{pid}/statm").split()
    return (int(words[1]) - int(words[2])) * PAGE if len(words) > 2 else 0


class Meter:
    """Looks at the processes below a launcher; what the launcher and its init use counts for nothing."""

    def __init__(self, launcher: int) -> None:
        self._launcher = launcher

    def payload(self) -> list[int]:
        """Return the processes of the payload: below init, which is the launcher's child."""
        return [pid for init in _children(self._launcher) for pid in descendants(init)]

    def sample(self, memory_limit: int | None = None) -> Sample:
        """Look once. ``memory_limit``: shared pages are told apart only where it seems to be passed."""
        cpu, tasks = 0.0, 0
        pids = []
        inits = _children(self._launcher)
        for pid in (*inits, *(found := [pid for init in inits for pid in descendants(init)])):
            fields = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
            if len(fields) < 18:
                continue
            if pid in inits:  # of those that it waited for
                cpu += sum(map(int, fields[13:15])) / TICKS
                continue
            cpu += sum(map(int, fields[11:15])) / TICKS
            tasks += int(fields[17])
            pids.append(pid)
        del found
        memory = sum(map(_resident, pids))
        if memory_limit is not None and memory > memory_limit:
            memory = _exact_memory(pids)
        return Sample(cpu, memory, tasks)


def used_bytes(directory: Path, most: int) -> int:
    """Return what the files below a directory take up, links not followed; stops counting above ``most``."""
    total = 0
    waiting = [str(directory)]
    while waiting and total <= most:
        with contextlib.suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    total += entry.stat(follow_symlinks=False).st_blocks * 512  # type: ignore[attr-defined,unused-ignore]
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
    return total
