"""Boxes that run at this moment, found in /proc: a launcher is known by the file that it executes.

Nothing is registered anywhere, so nothing can be stale.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

INIT_NAME: Final = "vsbox-init"
CREDENTIALS: Final = re.compile(r"(://)[^/@\s]+@")


class Run(msgspec.Struct, frozen=True):
    """One start of a box that has not ended: the launcher's process id, what runs in it, since when (Unix time)."""

    pid: int
    box: str
    command: tuple[str, ...]
    started: float
    processes: tuple[int, ...]
    memory_bytes: int


def _box_of(pid: int) -> str | None:
    """Return the box whose launcher a process executes."""
    try:
        link = os.readlink(f"/proc/{pid}/exe")  # the kernel's own marks are text
        program = Path(link.removesuffix(" (deleted)"))
        known = (program.parent.parent / "sandbox" / "exec").stat()
        mine = Path(f"/proc/{pid}/exe").stat()
    except OSError:
        return None
    is_launcher = program.parent.name in {"bin", "sandbox"} and program.name not in {"verify", "tidy", "inner"}
    replaced = link.endswith(" (deleted)")  # by a newer one since it was started
    same = replaced or (known.st_dev, known.st_ino) == (mine.st_dev, mine.st_ino)
    return str(program.parent.parent) if is_launcher and same else None


def _status(pid: int) -> dict[str, str]:
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def _started(pid: int) -> float:
    """Return when a process started. Source: proc_pid_stat(5), field 22, in clock ticks since boot."""
    fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    since_boot = int(fields[19]) / os.sysconf("SC_CLK_TCK")  # type: ignore[attr-defined,unused-ignore]
    boot = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)  # type: ignore[attr-defined,unused-ignore]
    return float(boot + since_boot)


def _command(pid: int) -> tuple[str, ...]:
    words = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    return tuple(CREDENTIALS.sub(r"\1***@", os.fsdecode(word)) for word in words)


def running() -> Iterator[Run]:
    """Return every run of a box that this user may see, the oldest first."""
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    statuses = {pid: status for pid in pids if (status := _status(pid))}
    children: dict[int, list[int]] = {}
    for pid, status in statuses.items():
        children.setdefault(int(status["PPid"]), []).append(pid)
    runs = []
    for pid, status in statuses.items():
        box = None if status.get("Name") == INIT_NAME else _box_of(pid)
        if box is None or _box_of(int(status["PPid"])) == box:
            continue
        inside = tuple(sorted(_descendants(pid, children)))
        memory = sum(int(statuses[child].get("VmRSS", "0").split()[0]) for child in inside) * 1024
        with contextlib.suppress(OSError):  # it has just ended
            runs.append(Run(pid, box, _command(pid), _started(pid), inside, memory))
    yield from sorted(runs, key=lambda run: (run.started, run.pid))


def _descendants(pid: int, children: dict[int, list[int]]) -> Iterator[int]:
    for child in children.get(pid, ()):
        yield child
        yield from _descendants(child, children)


def end(run: Run, *, force: bool) -> bool:
    """Ask a run to end (SIGTERM, which the launcher hands on), or end it with all inside; tell whether it was there.

    By a descriptor of the process, looked at once more: its number may be another's by now.
    """
    try:
        descriptor = os.pidfd_open(run.pid)  # type: ignore[attr-defined,unused-ignore]
    except ProcessLookupError:
        return False
    try:
        if _box_of(run.pid) != run.box:
            return False
        number = signal.SIGKILL if force else signal.SIGTERM  # type: ignore[attr-defined,unused-ignore]
        signal.pidfd_send_signal(descriptor, number)  # type: ignore[attr-defined,unused-ignore]
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True
