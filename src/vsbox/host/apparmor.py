"""AppArmor on this machine: whether it is there, what its rules may use, what becomes of who asks for a profile.

An ordinary user may not read the list of loaded profiles; so a child of the launcher asks the kernel for each.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Final

from vsbox.host.facts import AppArmorFact

ENABLED: Final = Path("/sys/module/apparmor/parameters/enabled")
ABIS: Final = Path("/etc/apparmor.d/abi")
NEWEST_ABI: Final = (4, 0)
"""The newest one that the rules were tried with."""
SECONDS: Final = 20


def _known_abi() -> str:
    """Return the newest ABI that this machine's compiler of profiles has a file for."""
    names = [path.name for path in ABIS.glob("*.*") if re.fullmatch(r"\d+\.\d+", path.name)]
    versions = [tuple(map(int, name.split("."))) for name in names]
    known = [version for version in versions if version <= NEWEST_ABI]
    return ".".join(map(str, max(known))) if known else ""


def is_enabled() -> bool:
    """Tell whether the kernel enforces profiles."""
    try:
        return ENABLED.read_text().strip() == "Y"
    except OSError:
        return False


def probe(launcher: Path, profiles: tuple[str, ...]) -> AppArmorFact:
    """Return what is known, and of each profile its mode, or the number of the errno that asking for it gave."""
    if not is_enabled():
        return AppArmorFact(enabled=False, abi=_known_abi())
    done = subprocess.run(
        [launcher, "profiles", *profiles], capture_output=True, text=True, env={}, timeout=SECONDS, check=False
    )
    answers = done.stdout.splitlines()
    return AppArmorFact(enabled=True, abi=_known_abi(), profiles=dict(zip(profiles, answers, strict=False)))


def installed(path: str) -> str | None:
    """Return the text of profiles that are installed, if they are and may be read."""
    try:
        return Path(path).read_bytes().decode(errors="surrogateescape")
    except OSError:
        return None
