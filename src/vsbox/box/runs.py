"""Reports of watched runs, kept in ``sandbox/runs`` where code inside cannot reach: one file a run, JSON lines."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from vsbox.box.layout import Layout
from vsbox.errors import BoxError
from vsbox.guard.records import MOST_RECORDS, Record
from vsbox.launch import executor

MOST_BYTES: Final = 16 << 20
"""Of one report: code inside decides what there is to tell."""
KEPT: Final = 20
"""Runs of a box; the oldest go first."""


class Head(msgspec.Struct, frozen=True, tag="run", tag_field="kind"):
    """The first line: what was run, when, in which mode."""

    started: float
    command: str
    mode: str
    variant: str = ""


class Run(msgspec.Struct, frozen=True):
    """One report: its file's name, what was run, and what it touched."""

    name: str
    head: Head
    records: tuple[Record, ...]


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
    for path in sorted(layout.runs.glob("*.jsonl"))[: 1 - KEPT or None]:
        path.unlink(missing_ok=True)


def load_run(path: Path) -> Run | None:
    """Return a report; None where its first line cannot be read."""
    lines = path.read_bytes().splitlines()
    try:
        head = msgspec.json.decode(lines[0], type=Head)
    except (IndexError, msgspec.MsgspecError):
        return None
    records = []
    for line in lines[1:]:
        with contextlib.suppress(msgspec.MsgspecError):  # the last may be cut short
            records.append(msgspec.json.decode(line, type=Record))
    return Run(path.stem, head, tuple(records))


def load_runs(layout: Layout) -> Iterator[Run]:
    """Yield the reports that are kept, oldest first."""
    for path in sorted(layout.runs.glob("*.jsonl")) if layout.runs.is_dir() else ():
        run = load_run(path)
        if run is not None:
            yield run


def watched(layout: Layout, argv: Sequence[str], *, mode: str, **options: Any) -> tuple[int, tuple[Run, ...]]:
    """Run a command in the box and return its status and the reports of what it did.

    ``mode``: what ``VSBOX_REPORT`` is set to. Other options are those of :func:`subprocess.run`.

    Raises:
        BoxError: it ended without a report.
    """
    before = {path.name for path in layout.runs.glob("*.jsonl")} if layout.runs.is_dir() else set()
    environment = os.environ | {"VSBOX_REPORT": mode, "VSBOX_QUIET": "1"}
    done = subprocess.run([str(executor(layout.root)), *argv], env=environment, check=False, **options)
    runs = [load_run(path) for path in sorted(layout.runs.glob("*.jsonl")) if path.name not in before]
    found = tuple(run for run in runs if run is not None and run.head.variant)
    if not found:
        raise BoxError(f"cannot report on {argv[0]}: it did not run", hint="see the message above")
    return done.returncode if done.returncode >= 0 else 128 - done.returncode, found
