"""What guards have noted of denials, read outside for a report.

Security: code inside writes these files and may forge what it likes, as long as it is a line of this form. So they
are opened without following links, read up to a limit, and shown as text; nothing is decided by them.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec

from vsbox.guard.places import read_regular
from vsbox.seccomp import ALLOWED, reason
from vsbox.seccomp.allowed import KNOWN

MOST_BYTES: Final = 4 << 20
FULL_BYTES: Final = 1 << 20
"""``hook/reports.py``, MOST_BYTES"""
MOST_RECORDS: Final = 20_000

LATEST: Final = 4_102_444_800.0
"""The year 2100: what says it is from later than that was made up, and no calendar can show it."""

MOST_NAMES: Final = 50
"""Of a chain; whoever writes a record cuts it to that, or the record could not be read again."""

Verdict = Literal["denied", "would deny", "allowed"]
Short = Annotated[str, msgspec.Meta(max_length=200)]
Long = Annotated[str, msgspec.Meta(max_length=8200)]


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One thing that code in a box touched, or tried to.

    ``time``: seconds since 1970. ``verdict``: whether it was denied, would have been where nothing is blocked, or
    allowed. ``distribution``: "name version" of the
    innermost installed package at work, or "" for code that belongs to none, at ``where`` (file:line); ``chain``: all
    of them, innermost first. ``rule`` is what denies, ``allow`` what would allow it, ``layer`` who noticed.
    """

    time: Annotated[float, msgspec.Meta(ge=0, le=LATEST)]
    pid: int
    verdict: Verdict
    chain: Annotated[tuple[Short, ...], msgspec.Meta(max_length=MOST_NAMES)]
    operation: Short
    target: Long
    distribution: Short
    where: Long
    program: Long
    rule: Long
    allow: Long
    layer: Short


READING: Final = frozenset({"read", "list", "look", "enter", "open", "execute", "load"})
CONTENT: Final = frozenset({"write", "change", "truncate", "connect"})
"""What takes a grant of the file itself; all else changes the directory that holds it."""
NETWORK: Final = "this box has no network"


def advice(record: Record, box: str) -> str:
    """Return what would allow it, as typed in a shell. People paste it: so it is made here, and not the record's."""
    if record.verdict == "allowed":
        return ""
    if record.operation == "call":
        unlisted = record.target in KNOWN and reason(record.target, "errno EPERM", ALLOWED) == "not on the list"
        return f'"syscalls": ["@builtin", "{record.target}"] in sandbox.json' if unlisted else "nothing does"
    if record.rule == NETWORK:
        return '"network": "host" in sandbox.json'
    if record.target.startswith(("/proc/", "/sys/")):
        return "nothing does"
    if record.operation in READING and not (record.operation == "open" and not os.path.lexists(record.target)):
        return f"vsbox allow --read {shlex.quote(box)} {shlex.quote(record.target)}"
    is_there = record.operation in CONTENT and os.path.lexists(record.target)
    granted = record.target if is_there else os.path.dirname(record.target)
    return f"vsbox allow {shlex.quote(box)} {shlex.quote(granted)}"


@dataclass(frozen=True)
class Records:
    """The records of a box, oldest first, and how many lines were none."""

    records: tuple[Record, ...]
    unreadable: int


def _lines(path: Path) -> Iterator[bytes]:
    yield from (read_regular(path, MOST_BYTES) or b"").splitlines()


def decode_record(line: bytes) -> Record | None:
    """Return the record that a line is; None for what is none."""
    try:
        return msgspec.json.decode(line, type=Record)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def read_records(paths: Iterable[Path]) -> Records:
    """Return what these files hold; a file that is not there holds nothing."""
    read = [decode_record(line) for path in paths for line in _lines(path)]
    found = sorted(filter(None, read), key=lambda record: record.time)
    return Records(tuple(found[-MOST_RECORDS:]), read.count(None))


def by_owner(records: Iterable[Record]) -> list[tuple[str, list[Record]]]:
    """Return the records of each distribution, who has most of them first. Code inside may make up many names."""
    own: dict[str, list[Record]] = {}
    for record in records:
        own.setdefault(record.distribution, []).append(record)
    return sorted(own.items(), key=lambda item: -len(item[1]))


def is_full(path: Path) -> bool:
    """Tell whether the guard adds nothing to a file any more."""
    try:
        state = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(state.st_mode) and state.st_size >= FULL_BYTES


def is_obstructed(path: Path) -> bool:
    """Tell whether something else is where the guard has its file, so that nothing is noted."""
    try:
        return not stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def forget(paths: Iterable[Path]) -> None:
    """Remove the files, and what code inside has put in their place, as far as it lets itself be removed."""
    for path in paths:
        _remove(path)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except (IsADirectoryError, PermissionError):  # the latter on other systems
        if not stat.S_ISDIR(path.lstat().st_mode):
            raise
        with contextlib.suppress(RecursionError):
            shutil.rmtree(path, ignore_errors=True)
