"""What the command line says, and what it works on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness import Box

Done = subprocess.CompletedProcess
VSBOX = [sys.executable, "-m", "vsbox"]
SECONDS = 60


def refused(done: Done[str], status: int, *words: str) -> str:
    """Check that a command said why it did nothing, in one line and a hint, and return what it said."""
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    lines = done.stderr.splitlines()
    assert lines
    assert lines[0].startswith("vsbox: "), done.stderr
    assert len([line for line in lines if line.startswith("vsbox: ")]) == 1, done.stderr
    assert all(line.startswith("       ") for line in lines[1:]), done.stderr
    assert len(lines) <= 3, done.stderr
    for word in words:
        assert word in done.stderr
    return done.stderr


def edit(box: Box, **changes: object) -> None:
    """Change sandbox.json as its owner would in an editor."""
    path = box.root / "sandbox" / "sandbox.json"
    box.person.write(path, json.dumps(json.loads(path.read_text()) | changes))


def names_in(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir())
