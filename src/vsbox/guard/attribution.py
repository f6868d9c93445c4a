"""On whose behalf a process below Python works: who started it, and whose library the calling thread is in."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from vsbox.errors import BoxError
from vsbox.guard.events import NOBODY, Owner, Spawn, Touch
from vsbox.guard.places import opened_below, read_regular
from vsbox.guard.records import MOST_NAMES

MOST_BYTES: Final = 4 << 20
MOST_BYTES_OF_ALL: Final = 64 << 20
MOST_LINES_OF_ALL: Final = 500_000
MOST_METADATA: Final = 64 << 10
MOST_DISTRIBUTIONS: Final = 2000
MOST_PROCESSES: Final = 20_000
"""Code inside writes these files and starts the processes; the launcher waits for whoever reads of them."""


class Distributions:
    """Which installed distribution a file of an environment belongs to, by their RECORD; read when first asked.

    Security: code inside may have written any of it. Nothing is followed, run or taken for more than a name.
    """

    def __init__(self, environment: Path, packages: str, prefix: str) -> None:
        """``environment``: outside; ``packages``: relative to it; ``prefix``: where code inside sees it."""
        self._environment = environment
        self._packages = packages
        self._prefix = prefix.rstrip("/") + "/"
        self._known: dict[str, str] | None = None

    def of(self, path: str) -> str:
        """Return "name version", or "" for a file that belongs to none."""
        if not path.startswith(self._prefix):
            return ""
        if self._known is None:
            self._known = self._read()
        return self._known.get(path[len(self._prefix) :], "")

    def _read(self) -> dict[str, str]:
        known: dict[str, str] = {}
        bytes_left, lines_left = MOST_BYTES_OF_ALL, MOST_LINES_OF_ALL
        try:
            with opened_below(self._environment, self._packages) as directory:
                entries = sorted(name for name in os.listdir(directory) if name.endswith(".dist-info"))
        except (BoxError, OSError):
            return known
        for entry in entries[:MOST_DISTRIBUTIONS]:
            try:
                with opened_below(self._environment, f"{self._packages}/{entry}") as directory:
                    record = read_regular("RECORD", MOST_BYTES, directory=directory)
                    about = read_regular("METADATA", MOST_METADATA, directory=directory)
            except (BoxError, OSError):
                continue
            name = _name_of(about or b"") or " ".join(entry.removesuffix(".dist-info").rsplit("-", 1))[:200]
            lines = (record or b"").decode(errors="replace").split("\n", lines_left)[:lines_left]
            bytes_left, lines_left = bytes_left - len(record or b""), lines_left - len(lines)
            if bytes_left < 0 or lines_left <= 0:
                break
            for line in filter(None, lines):
                path = line.rstrip("\r").rsplit(",", 2)[0].strip('"')
                known[os.path.normpath(f"{self._packages}/{path}")] = name
        return known


def _name_of(metadata: bytes) -> str:
    """Return "name version" as a METADATA file says, like the guard inside does."""
    found: dict[str, str] = {}
    for line in metadata.decode(errors="replace").splitlines():
        key, colon, value = line.partition(":")
        if not line:
            break
        if colon and key in {"Name", "Version"}:
            found[key] = value.strip()[:100]
    return " ".join(filter(None, (found.get("Name"), found.get("Version"))))


def _forget_oldest(owners: dict[int, Owner]) -> None:
    if len(owners) >= MOST_PROCESSES:
        del owners[next(iter(owners))]


class Attribution:
    """Follows the processes of one run."""

    def __init__(self, distributions: Distributions) -> None:
        self._distributions = distributions
        self._noted: dict[int, Owner] = {}
        self._owners: dict[int, Owner] = {}

    def hear(self, spawn: Spawn) -> None:
        """Remember for whom a process starts the next one."""
        _forget_oldest(self._noted)
        self._noted[spawn.pid] = spawn.owner

    def owner_of(self, touch: Touch) -> Owner:
        """Return on whose behalf it was; what the guard says itself comes first."""
        if touch.pid not in self._owners:
            _forget_oldest(self._owners)
            inherited = self._owners.get(touch.parent, NOBODY)
            self._owners[touch.pid] = self._noted.get(touch.parent, inherited)
        if touch.operation == "execute":
            self._execute(touch)
        owner = self._owners[touch.pid]
        if touch.owner is not None:
            return touch.owner
        library = self._distributions.of(touch.library) if touch.library else ""
        if not library:
            return owner
        further = tuple(name for name in owner.chain if name != library)
        return Owner(library, touch.library, (library, *further)[:MOST_NAMES])

    def _execute(self, touch: Touch) -> None:
        """A process becomes another program: that of a distribution is its own, unless somebody asked for it."""
        if touch.pid in self._noted:
            self._owners[touch.pid] = self._noted.pop(touch.pid)
        name = self._distributions.of(touch.target)
        if name and not self._owners[touch.pid].distribution:
            self._owners[touch.pid] = Owner(name, touch.target, (name,))
