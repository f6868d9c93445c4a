"""Environments that probes run in."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from harness import Person

def activated(person: Person, directory: Path) -> dict[str, str]:
    """Return the environment in which ``directory`` of commands is the active one."""
    path = f"{directory}:{person.environment['PATH']}"
    return person.environment | {"VIRTUAL_ENV": str(directory.parent), "PATH": path}


def run_until(seconds: float, person: Person, argv: list[str], **options: object) -> subprocess.CompletedProcess[str]:
    """Run a command; one that hangs is killed and becomes a failed test."""
    try:
        return person.run(argv, timeout=seconds, **options)
    except subprocess.TimeoutExpired as error:
        pytest.fail(f"{argv} still ran after {seconds} s: {error.stdout!r} {error.stderr!r}")
