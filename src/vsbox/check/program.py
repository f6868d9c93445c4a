"""Run a table of functions in a box or outside of it: the modules that hold it are sent along as text."""

from __future__ import annotations

import json
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import msgspec

from vsbox.errors import LauncherError
from vsbox.plan.steps import printable

LOADER: Final = """
import json, sys, types
program = json.load(sys.stdin)
for name, source in program["modules"]:
    module = sys.modules[name] = types.ModuleType(name)
    exec(compile(source, name, "exec"), module.__dict__)
exec(program["main"], {"given": program["given"]})
"""
"""What is behind its standard input is a file, so that it can be tried to reopen that for writing."""
SECONDS_EACH: Final = 10
MOST_BYTES: Final = 4 << 20
"""Of answers; what code inside has changed could print without end."""


class Answer(msgspec.Struct, frozen=True):
    """What came of one row: ``ok``, the name of an errno, ``timed out``, ``crashed``; and what was said about it."""

    result: str
    detail: str = ""

    @property
    def is_ok(self) -> bool:
        """Whether the function came to its end."""
        return self.result == "ok"

    @property
    def is_broken(self) -> bool:
        """Whether this says nothing about what was tried."""
        return self.result in {"crashed", "timed out"}


NO_ANSWER: Final = Answer("crashed", "the box ended before it was tried, or took too long")


def _source(name: str) -> tuple[str, str]:
    if name in {"vsbox", "vsbox.check"}:
        return name, "__path__ = []"
    return name, Path(str(import_module(name).__file__)).read_text(encoding="utf-8")


def run_program(
    argv: Sequence[str], modules: Sequence[str], main: str, given: object, *, seconds: float, **options: Any
) -> Mapping[str, Answer]:
    """Run ``main`` after these modules and return the answers that it prints; ``argv`` takes Python's arguments.

    Raises:
        LauncherError: it did not run at all.
    """
    document = {"modules": [_source(name) for name in ("vsbox", "vsbox.check", *modules)], "main": main, "given": given}
    with tempfile.TemporaryFile() as file:
        file.write(json.dumps(document).encode())
        file.flush()
        with open(f"/proc/self/fd/{file.fileno()}", "rb") as stdin:  # read-only, as a careful caller would
            process = subprocess.Popen(
                [*argv, "-c", LOADER], stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options
            )
        try:
            output = _collect(process, time.monotonic() + seconds)
        finally:
            process.kill()
            process.wait()
    answers, rest = _read(output)
    if not answers:
        raise LauncherError(f"cannot run the attempts: {printable(rest) or process.returncode}")
    return answers


def _collect(process: subprocess.Popen[bytes], deadline: float) -> bytes:
    """Return what is printed before the end, the deadline, or the most that is believed."""
    found = bytearray()
    with process.stdout as pipe:  # type: ignore[union-attr]
        while len(found) < MOST_BYTES and select.select([pipe], [], [], max(deadline - time.monotonic(), 0))[0]:
            piece = os.read(pipe.fileno(), 1 << 16)
            if not piece:
                process.wait()
                break
            found += piece
    return bytes(found)


def _read(output: bytes) -> tuple[dict[str, Answer], str]:
    """Read what came from inside: the answers, and the last line that is none."""
    found: dict[str, Answer] = {}
    rest = ""
    for line in output.splitlines():
        try:
            name, result, detail = msgspec.json.decode(line, type=tuple[str, str, str])
        except (msgspec.MsgspecError, UnicodeDecodeError):
            rest = line.decode(errors="replace").strip() or rest
            continue
        found.setdefault(name, Answer(printable(result[:100]), printable(detail[:1000])))
    return found, rest[:1000]
