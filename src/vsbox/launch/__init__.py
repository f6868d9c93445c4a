"""Start commands of a box through its launcher."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from vsbox.errors import BoxError


def executor(root: Path) -> Path:
    """Return the launcher that starts any command in the box at ``root``."""
    path = root / "sandbox" / "exec"
    if not path.is_file():
        raise BoxError(f"cannot use {root}: it is not a box", hint=f"make one: vsbox {root}")
    return path


def replace_self(root: Path, argv: Sequence[str]) -> NoReturn:
    """Become ``argv`` running in the box: same process, so signals and status are the caller's."""
    program = executor(root)
    os.execv(program, [str(program), *argv])  # noqa: S606 - the launcher, absolute, no shell


def run(root: Path, argv: Sequence[str], *, timeout: float) -> subprocess.CompletedProcess[str]:
    """Run ``argv`` in the box and collect its output as text.

    Raises:
        subprocess.TimeoutExpired: it ran for more than ``timeout`` seconds and was killed.
    """
    return subprocess.run(
        [str(executor(root)), *argv],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout,
        check=False,
    )
