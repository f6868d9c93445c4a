"""Reports of watched runs, kept in ``sandbox/runs`` where code inside cannot reach: one file a run, JSON lines."""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec

from vsbox.box.layout import Layout
from vsbox.errors import BoxError
from vsbox.guard.records import LATEST, MOST_RECORDS, Record, decode_record
from vsbox.launch import executor

MOST_BYTES: Final = 16 << 20
"""Of one report: code inside decides what there is to tell."""
KEPT: Final = 20
"""Runs of a box; the oldest go first."""


class Head(msgspec.Struct, frozen=True, tag="run", tag_field="kind"):
    """The first line: what was run, when, in which mode."""

    started: Annotated[float, msgspec.Meta(ge=0, le=LATEST)]
    command: str
    mode: str
    variant: str = ""


class Run(msgspec.Struct, frozen=True):
    """One report: its file's name, what was run, what it touched, and how many lines cannot be read."""

    name: str
    head: Head
    records: tuple[Record, ...]
    unreadable: int = 0


class Writer:
    """Writes one report, a line as it comes."""

    def __init__(self, layout: Layout, head: Head) -> None:
        layout.runs.mkdir(mode=0o700, exist_ok=True)
        _forget_oldest(layout)
        stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(head.started))
        self.path = layout.runs / f"{stamp}-{os.getpid()}.jsonl"
        self._file = self.path.open("xb", buffering=0)
        self._count = self._bytes = 0
        self._write(head)

    @property
    def has_room(self) -> bool:
        """Whether another record would be kept."""
        return self._count < MOST_RECORDS and self._bytes < MOST_BYTES

    def _write(self, value: object) -> None:
        line = msgspec.json.encode(value) + b"\n"
        self._bytes += len(line)
        self._file.write(line)

    def add(self, record: Record) -> None:
        """Write a record, as long as there is room."""
        if self.has_room:
            self._count += 1
            self._write(record)


def _forget_oldest(layout: Layout) -> None:
    for path in _paths(layout)[: 1 - KEPT or None]:
        path.unlink(missing_ok=True)


def load_run(path: Path) -> Run | None:
    """Return a report; None where its first line cannot be read."""
    first, *lines = path.read_bytes().split(b"\n")
    lines = lines[:-1]  # the last may be cut short
    try:
        head = msgspec.json.decode(first, type=Head)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    records = tuple(filter(None, map(decode_record, lines)))
    return Run(path.stem, head, records, len(lines) - len(records))


def _paths(layout: Layout) -> list[Path]:
    """Return the files of all reports, oldest first.

    Raises:
        BoxError: they cannot be listed.
    """
    try:
        names = os.listdir(layout.runs)  # glob is silent about what it cannot read
    except FileNotFoundError:
        return []
    except OSError as error:
        hint = f"what it is: ls -ld {shlex.quote(str(layout.runs))}"
        raise BoxError(f"cannot read the reports in {layout.runs}: {error.strerror}", hint=hint) from error
    return sorted(layout.runs / name for name in names if name.endswith(".jsonl"))


def load_runs(layout: Layout) -> tuple[tuple[Run, ...], tuple[Path, ...]]:
    """Return the reports that are kept, oldest first, and the files that are none.

    Raises:
        BoxError: they cannot be listed.
    """
    loaded = [(path, load_run(path)) for path in _paths(layout)]
    return tuple(run for _, run in loaded if run is not None), tuple(path for path, run in loaded if run is None)


def watched(layout: Layout, argv: Sequence[str], *, mode: str, **options: Any) -> tuple[int, tuple[Run, ...]]:
    """Run a command in the box and return its status and the reports of what it did.

    ``mode``: what ``VSBOX_REPORT`` is set to. Other options are those of :func:`subprocess.run`.

    Raises:
        BoxError: it ended without a report.
    """
    before = set(_paths(layout))
    environment = os.environ | {"VSBOX_REPORT": mode, "VSBOX_QUIET": "1"}
    done = subprocess.run([str(executor(layout.root)), *argv], env=environment, check=False, **options)
    runs = [load_run(path) for path in _paths(layout) if path not in before]
    found = tuple(run for run in runs if run is not None and run.head.variant)
    if not found:
        raise BoxError(f"cannot report on {argv[0]}: it did not run", hint="see the message above")
    return done.returncode if done.returncode >= 0 else 128 - done.returncode, found
