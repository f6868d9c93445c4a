"""The ``bwrap`` of this machine, found out by letting it make a sandbox.

Security: it is run outside, so it is taken from places that no policy may grant for writing (they
count among ``HostFacts.own_paths``), never from ``$PATH``: an environment may hold a command of that name.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Final

from vsbox.host.facts import BubblewrapFact

PROGRAMS: Final = ("/usr/bin/bwrap", "/bin/bwrap")
SECONDS: Final = 20
INSIDE: Final = "/tmp/vsbox-launcher"


def places() -> tuple[str, ...]:
    """Return where it is looked for, and where links lead from there."""
    return (*PROGRAMS, *map(os.path.realpath, PROGRAMS))


def probe(launcher: Path) -> BubblewrapFact | None:
    """Return what ``bwrap`` there is and whether it can do what boxes need; none: not installed."""
    program = next((path for path in PROGRAMS if os.access(path, os.X_OK)), None)
    if program is None:
        return None
    program = os.path.realpath(program)
    version = _run(program, "--version").stdout.split()[-1:] or ["unknown"]
    options = tuple(re.findall(r"^\s+--([a-z0-9-]+)", _run(program, "--help").stdout, re.MULTILINE))
    entry = ("--ro-bind", str(launcher), INSIDE, "--remount-ro", "/", "--", INSIDE, "arrived")
    answer = _try(program, *MAKES_ROOT, *entry)
    own = _try(program, "--cap-add", "ALL", "--dev-bind", "/", "/", "--", str(launcher), "mount")
    return BubblewrapFact(program, version[0], answer, options, lets_mount=own == "ok")


NAMESPACES: Final = (
    "--unshare-user", "--unshare-pid", "--as-pid-1", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try",
    "--unshare-net", "--die-with-parent",
)  # fmt: skip
MAKES_ROOT: Final = (
    "--disable-userns", "--cap-drop", "ALL", "--ro-bind", "/", "/", "--proc", "/proc", "--remount-ro", "/proc",
    "--dev", "/dev", "--perms", "1777", "--size", "4096", "--tmpfs", "/tmp",
)  # fmt: skip
"""A little of every kind of thing that a box has."""


def _try(program: str, *argv: str) -> str:
    """Make a sandbox; the launcher inside says that it arrived."""
    uid, gid = os.geteuid(), os.getegid()  # type: ignore[attr-defined,unused-ignore]
    made = _run(program, *NAMESPACES, "--uid", str(uid), "--gid", str(gid), *argv)
    if made.returncode == 0 and made.stdout == "arrived\n":
        return "ok"
    lines = made.stderr.strip().removeprefix("bwrap: ").splitlines()
    return lines[0] if lines else f"status {made.returncode}"


def _run(*argv: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", env={}, cwd="/",
            timeout=SECONDS, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(argv, 1, "", str(error))
