"""Limits of a run, and a meter of what its processes use.

What the kernel counts for all processes together it counts in a control group (``group.py``). Where there is none,
:class:`Meter` looks at the processes, some sixty times a second at first and then ten: at resident memory rather than
address space, which numerical libraries reserve without using it.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from vsbox.errors import UsageError
from vsbox.launch.arguments import MOST_SECONDS, items_of


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a run may use; None: no limit. Sizes in bytes, times in seconds.

    ``cpu_seconds``, ``memory_bytes`` (resident), ``processes`` (with threads), ``output_bytes`` (standard output and
    error together) and ``disk_bytes`` (each private area: working directory, ``/tmp``, ``/var/tmp``, ``/dev/shm``)
    count all processes together, ``open_files`` and ``file_bytes`` each. ``idle_seconds``: nothing written and no
    processor time used for so long. ``required`` names limits that must be exact: enforced by the kernel for all
    processes together, where the machine offers that, or the run is refused.
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
        for name, kind, least, most in FIELDS:
            value = getattr(self, name)
            if value is None and name not in {"disk_bytes", "output_bytes"}:
                continue
            is_number = isinstance(value, kind) and not isinstance(value, bool)
            if not is_number or not least <= value <= most:
                raise UsageError(f"bad limit {name}: {value!r} is no number from {least} to {most}")
        known = [name for name, _, _, _ in FIELDS]
        for name in items_of("required", self.required):
            if name not in known:
                raise UsageError(f"no limit {name!r}", hint=f"known: {', '.join(known)}")
            if getattr(self, name) is None:
                raise UsageError(f"cannot require {name}: it is not set")


def limits_of(given: object) -> Limits:
    """Return limits as a caller gives them; None is the usual ones.

    Raises:
        UsageError: they are something else.
    """
    if given is None:
        return USUAL
    if not isinstance(given, Limits):
        raise UsageError(f"bad limits: {type(given).__name__}", hint="vsbox.Limits(...)")
    return given


MOST: Final = 1 << 62
"""The kernel counts to 2**63, and some of it is to spare."""
FIELDS: Final = (
    ("cpu_seconds", (int, float), 0.001, MOST_SECONDS), ("idle_seconds", (int, float), 0.001, MOST_SECONDS),
    ("memory_bytes", int, 4096, MOST), ("processes", int, 1, MOST), ("open_files", int, 1, MOST),
    ("file_bytes", int, 4096, MOST), ("disk_bytes", int, 4096, MOST), ("output_bytes", int, 1, MOST),
)  # fmt: skip
USUAL: Final = Limits()
WATCHED: Final = ("cpu_seconds", "idle_seconds")
"""Limits that nothing but looking at the processes can hold for all of them together."""
EXACT_BY_GROUP: Final = {"memory_bytes": "memory", "processes": "pids"}
"""Limits that a control group makes exact, and by which controller."""
TICKS: Final = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
BYTES_OF_ENTRY: Final = 4096
SECONDS_OF_LOOK: Final = 0.03
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


def _thread_of_zombie(pid: int) -> int:
    """Return a thread that goes on after the first one of its process has ended: memory and descriptors are told of it.

    Source: proc(5): there is a directory ``/proc/TID`` for each thread, which is not listed.
    """
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            if _read(f"/proc/{thread}/stat").rpartition(b")")[2].split()[:1] not in ([b"Z"], [b"X"], []):
                return int(thread)
    return pid


def _exact_memory(pids: list[int]) -> int:
    """Return memory of which each page counts once. Source: proc_pid_smaps(5), ``smaps_rollup``."""
    total = 0
    for pid in pids:
        fields = _fields(f"/proc/{pid}/smaps_rollup")
        if b"Pss_Anon" not in fields:
            total += _used_memory(pid)
        else:
            total += sum(fields.get(key, 0) for key in (b"Pss_Anon", b"Pss_Shmem", b"SwapPss"))
            total += _fields(f"/proc/{pid}/status").get(b"VmPTE", 0)
    return total


def _fields(path: str) -> dict[bytes, int]:
    """Return the lines ``Name: NUMBER kB`` of a file of proc, in bytes."""
    found = {}
    for line in _read(path).splitlines():
        name, _, value = line.partition(b":")
        if value.endswith(b" kB"):
            found[name] = int(value[:-3]) << 10
    return found


def _resident(pid: int) -> int:
    """Return resident memory that is no file's. Source: proc_pid_statm(5)."""
    words = _read(f"/proc/{pid}/statm").split()
    return (int(words[1]) - int(words[2])) * PAGE if len(words) > 2 else 0


def _used_memory(pid: int) -> int:
    """Return the same with what is shared, swapped out, or holds page tables. Source: proc_pid_status(5)."""
    fields = _fields(f"/proc/{pid}/status")
    return sum(fields.get(key, 0) for key in (b"RssAnon", b"RssShmem", b"VmSwap", b"VmPTE"))


def all_tasks() -> int:
    """Return how many processes and threads this machine has, of all users. Source: proc_loadavg(5)."""
    words = _read("/proc/loadavg").split()
    return int(words[3].rpartition(b"/")[2]) if len(words) > 3 else 0


def _open_files(pids: list[int]) -> Iterator[str]:
    """Yield a name in /proc of each file that processes have open."""
    for pid in pids:
        with contextlib.suppress(OSError):
            for name in os.listdir(f"/proc/{pid}/fd"):
                yield f"/proc/{pid}/fd/{name}"


def _memory_files(pids: list[int]) -> int:
    """Return what files of memfd_create(2) hold that are open, whether they are mapped or not."""
    sizes: dict[tuple[int, int], int] = {}
    for path in _open_files(pids):
        with contextlib.suppress(OSError):
            if os.readlink(path).startswith("/memfd:"):
                status = os.stat(path)
                sizes[status.st_dev, status.st_ino] = status.st_blocks * 512  # type: ignore[attr-defined,unused-ignore]
    return sum(sizes.values())


def _nameless_files(pids: list[int], device: int) -> int:
    """Return what regular files of a file system hold that are open and have no name any more."""
    sizes: dict[int, int] = {}
    for path in _open_files(pids):
        with contextlib.suppress(OSError):
            status = os.stat(path)
            if status.st_dev == device and status.st_nlink == 0 and stat.S_ISREG(status.st_mode):
                sizes[status.st_ino] = status.st_blocks * 512  # type: ignore[attr-defined,unused-ignore]
    return sum(sizes.values())


def _whole_memory(pids: list[int], limit: int) -> int:
    """Return what processes use; of a memory file what is mapped counts once where that decides."""
    memory = sum(map(_used_memory, pids))
    if memory > limit:
        memory = _exact_memory(pids)
    files = _memory_files(pids)
    if memory + files <= limit:
        return memory + files
    mapped = sum(_fields(f"/proc/{pid}/status").get(b"RssShmem", 0) for pid in pids)
    return max(memory, memory + files - mapped)


class Meter:
    """Looks at the processes below a launcher; what the launcher and its init use counts for nothing.

    ``witnesses``: processes of the launcher's own that are children of init.
    """

    def __init__(self, launcher: int, *, witnesses: int = 0) -> None:
        self._launcher = launcher
        self._witnesses = witnesses
        self._own: dict[tuple[int, bytes], int] = {}
        self._ended = 0

    def inits(self) -> list[int]:
        """Return the launcher's children: one, init, as long as there is something inside."""
        return _children(self._launcher)

    def payload(self) -> list[int]:
        """Return the processes of the payload: below init, which is the launcher's child."""
        return [pid for init in self.inits() for pid in descendants(init)]

    def sample(self, memory_limit: int | None = None) -> Sample:
        """Look once. ``memory_limit``: what is shared is counted as well, and once where that decides."""
        ticks, tasks = 0, 0
        pids = []
        own: dict[tuple[int, bytes], int] = {}
        inits = self.inits()
        for pid in (*inits, *(pid for init in inits for pid in descendants(init))):
            fields = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
            if len(fields) < 20:
                continue
            if pid in inits:  # of those that it waited for
                ticks += sum(map(int, fields[13:15]))
                continue
            ticks += sum(map(int, fields[11:15]))
            own[pid, fields[19]] = sum(map(int, fields[11:13]))
            tasks += int(fields[17])
            pids.append(_thread_of_zombie(pid) if fields[0] == b"Z" and int(fields[17]) > 1 else pid)
        memory = sum(map(_resident, pids)) if memory_limit is None else _whole_memory(pids, memory_limit)
        return Sample(max(ticks, self._seen(own)) / TICKS, memory, max(tasks - self._witnesses, 0))

    def _seen(self, own: dict[tuple[int, bytes], int]) -> int:
        """Return the time of all that were ever seen. Nobody counts that of one whose parent ignores SIGCHLD."""
        self._ended += sum(ticks for process, ticks in self._own.items() if process not in own)
        self._own = own
        return self._ended + sum(own.values())


def count_bytes(directory: Path, *, to_copy: bool = False) -> Iterator[int]:
    """Yield what was counted so far of the bytes that all below a directory takes up, links not followed.

    What is empty takes up something as well (``BYTES_OF_ENTRY``), since there are only so many inodes. ``to_copy``:
    what a copy would, in which holes are filled.
    """
    total = 0
    waiting = [str(directory)]
    while waiting:
        with contextlib.suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    status = entry.stat(follow_symlinks=False)
                    blocks = status.st_blocks * 512  # type: ignore[attr-defined,unused-ignore]
                    total += max(blocks, status.st_size if to_copy else 0, BYTES_OF_ENTRY)
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                yield total


class DiskMeter:
    """Counts what a directory of the host holds, a little at each look: code inside may make more than one can see."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._device = directory.stat().st_dev
        self._counting = count_bytes(directory)
        self._so_far, self._complete = 0, 0

    def look(self, pids: list[int]) -> int:
        """Return what it was when all of it had been counted, or what has been counted since, if that is more.

        ``pids``: processes whose open files count as well where they have no name any more.
        """
        return self._named() + _nameless_files(pids, self._device)

    def _named(self) -> int:
        latest = time.monotonic() + SECONDS_OF_LOOK
        for self._so_far in self._counting:  # noqa: B020 - it goes on where it was
            if time.monotonic() > latest:
                return max(self._complete, self._so_far)
        self._complete, self._so_far, self._counting = self._so_far, 0, count_bytes(self._directory)
        return self._complete
