"""What the compiler takes and gives."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import msgspec

from vsbox.plan.receipt import Receipt
from vsbox.plan.steps import Steps


class Tier(str, enum.Enum):
    """How a plan confines."""

    NAMESPACES = "namespaces"
    LANDLOCK = "landlock"
    NONE = "none"


class Interpreter(msgspec.Struct, frozen=True):
    """The base Python of a box: ``trees`` are the directories it runs from, ``libraries`` the standard library.

    ``packages`` is where an environment of it has its packages, relative to its prefix.

    The library gets a rule of its own in the Landlock-only tier: the kernel climbs from a file to the
    first rule that decides, and imports open many files.
    """

    executable: str
    version: str
    trees: tuple[str, ...]
    libraries: tuple[str, ...] = ()
    packages: str = ""


class BoxFacts(msgspec.Struct, frozen=True):
    """A box as the compiler sees it; ``commands_mtime_ns`` is the state of ``inside/bin``."""

    root: str
    interpreter: Interpreter
    commands_mtime_ns: int = 0

    @property
    def inside(self) -> str:
        """The environment that code inside sees as the box."""
        return f"{self.root}/inside"

    @property
    def home(self) -> str:
        """``$HOME`` inside."""
        return f"{self.root}/home"

    @property
    def installs(self) -> str:
        """``$HOME`` while packages are installed: settings that other code left in its home do not count then."""
        return f"{self.root}/installs"

    @property
    def guard(self) -> str:
        """The files of the guard that code inside has never been able to change."""
        return f"{self.root}/sandbox/guard"

    @property
    def pip(self) -> str:
        """The directory of a pip that code inside has never been able to change."""
        return f"{self.root}/sandbox/pip"


@dataclass(frozen=True)
class Plan:
    """Steps for the launcher and the receipt for people."""

    steps: Steps
    receipt: Receipt
