"""One boot of a machine, in which a program of ours tries everything."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from harness import lacking
from vm import kernels, machine

UNFETCHED = "kernel or AppArmor's compiler was not fetched: cd tests && python -m vm fetch"


def find(name: str, *, needs: bool = True) -> kernels.Kernel:
    """Return a kernel; ``needs``: whether whatever else the machine takes is there."""
    if missing := machine.lacks():
        lacking("vm", f"there is no {missing}")
    kernel = kernels.find(name)
    if kernel is None or not needs:
        lacking("vm", UNFETCHED)
    assert kernel is not None
    return kernel


def look(kernel: kernels.Kernel, setting: machine.Setting, guest: Path, asked: dict[str, Any], *, seconds: int) -> Any:
    """Boot, give the program what is asked, and return what it found."""
    argv = [sys.executable, f"{machine.CONTROL}/guest.py", json.dumps(asked)]
    done = machine.run(kernel, setting, argv, files={"guest.py": guest.read_bytes()}, seconds=seconds)
    assert done.returncode == 0, f"{guest.name} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return json.loads(done.stdout)
