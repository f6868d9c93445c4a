"""What a box's AppArmor profiles are called, where they are installed, and whether they are in force."""

from __future__ import annotations

import os
from typing import Final

from vsbox.host.facts import HostFacts
from vsbox.plan.encode import fnv1a64

PLACE: Final = "/etc/apparmor.d"
"""Where profiles are kept, and loaded from when the machine starts."""


def launcher_profile(root: str) -> str:
    """Return the name of the profile of a box's launchers: the same as long as the box is at this place."""
    return f"vsbox.{fnv1a64(os.fsencode(root)):016x}"


def payload_profile(root: str) -> str:
    """Return the name of the profile of what they start."""
    return f"{launcher_profile(root)}.payload"


def installed_path(root: str) -> str:
    """Return the file that both profiles are installed in."""
    return f"{PLACE}/{launcher_profile(root)}"


def is_loaded(facts: HostFacts, root: str) -> bool:
    """Tell whether the kernel would enforce the payload's profile of a box."""
    return facts.apparmor is not None and facts.apparmor.profiles.get(payload_profile(root)) == "enforce"
