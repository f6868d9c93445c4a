"""Processes as /proc shows them, and waiting for what has to come."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

SECONDS = 30
"""How long anything may take on a loaded machine; what takes longer never comes."""
LOOKS_APART = 0.05
TOLD_APART = ("State:", "voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:")


def wait_until(condition: Callable[[], T], *, seconds: float = SECONDS) -> T:
    """Return what the condition returns as soon as that is true, or at the end of the time."""
    end = time.monotonic() + seconds
    while not (answer := condition()) and time.monotonic() < end:
        time.sleep(0.02)
    return answer


def find_processes(token: str) -> list[int]:
    """Return the living processes with a word on their command line."""
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if token.encode() in (directory / "cmdline").read_bytes():
                found.append(int(directory.name))
    return found


def wait_for_none(token: str) -> list[int]:
    """Return what is left of the processes of a token, after a while at most."""
    wait_until(lambda: not find_processes(token))
    return find_processes(token)


def descendants(pid: int) -> list[int]:
    """Return the processes below one, parents first; a process that is gone has none.

    Left out is the launcher's witness, which does nothing for the payload (``native/witness.c``).
    """
    try:
        children = [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    children = [child for child in children if _name(child) != "vsbox-witness"]
    return [*children, *(below for child in children for below in descendants(child))]


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def group_members(group: int) -> list[int]:
    """Return the processes of a process group."""
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            after_name = (directory / "stat").read_text().rpartition(")")[2].split()
            if int(after_name[2]) == group:
                found.append(int(directory.name))
    return found


def state(pid: int) -> str:
    """Return the state's letter (proc_pid_stat(5)), or nothing for a process that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def _look(pid: int) -> list[str]:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return []
    return [line for line in lines if line.startswith(TOLD_APART)]


def are_idle(pids: Callable[[], Iterable[int]]) -> bool:
    """Tell whether all of them sleep and none of them ran between two looks."""
    before = {pid: _look(pid) for pid in pids()}
    time.sleep(LOOKS_APART)
    after = {pid: _look(pid) for pid in pids()}
    return before == after and all(look and look[0].split()[1] == "S" for look in after.values())
