"""Everything found out about a machine, as one JSON-able value.

Tests feed the compiler facts of machines that they do not have.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Kind = Literal["directory", "file", "device", "other", "missing"]


class PathFact(msgspec.Struct, frozen=True):
    """What a path is, links followed, and where it really leads (``real == path``: no link in it)."""

    kind: Kind
    real: str


class Watched(msgspec.Struct, frozen=True):
    """A file whose change makes plans stale; ``inode`` 0 when it is absent."""

    path: str
    device: int = 0
    inode: int = 0
    size: int = 0
    mtime_ns: int = 0


class IndexSettings(msgspec.Struct, frozen=True):
    """The user's own package index settings: what ``pip`` inside needs to find the same packages.

    ``paths`` are the files and directories that these settings name, ``cache`` is pip's own if there is one.
    """

    config_file: str | None = None
    paths: tuple[str, ...] = ()
    cache: str | None = None


class BubblewrapFact(msgspec.Struct, frozen=True):
    """The ``bwrap`` of this machine; ``answer``: ``"ok"``, or why it cannot make a sandbox here.

    ``lets_mount``: what it starts may mount, so that it need not make the new root itself.
    """

    program: str
    version: str
    answer: str
    options: tuple[str, ...] = ()
    lets_mount: bool = False


class AppArmorFact(msgspec.Struct, frozen=True):
    """AppArmor on this machine; ``abi``: the newest whose features rules may use, empty where there is no compiler.

    ``profiles`` are those that were asked for: ``"enforce"``, ``"complain"``, or an errno as a negative number.
    """

    enabled: bool
    abi: str = ""
    profiles: dict[str, str] = {}


class HostFacts(msgspec.Struct, frozen=True):
    """One machine as one user sees it.

    ``probes`` maps what was tried to ``"ok"``, a number or the name of an errno.
    """

    system: str
    machine: str
    kernel: str
    uid: int
    home: str
    probes: dict[str, str] = {}
    paths: dict[str, PathFact] = {}
    watched: tuple[Watched, ...] = ()
    index: IndexSettings = IndexSettings()
    own_paths: tuple[str, ...] = ()
    gpus: tuple[str, ...] = ()
    compiler: tuple[str, ...] = ()
    gid: int = 0
    bubblewrap: BubblewrapFact | None = None
    apparmor: AppArmorFact | None = None

    @property
    def landlock_abi(self) -> int:
        """The Landlock ABI, 0 without Landlock."""
        answer = self.probes.get("landlock", "")
        return int(answer) if answer.isdigit() else 0

    def works(self, *probes: str) -> bool:
        """Tell whether every probe named succeeded."""
        return all(self.probes.get(probe) == "ok" for probe in probes)

    def path(self, path: str) -> PathFact:
        """Return what is known of ``path``; a path never looked at counts as missing."""
        return self.paths.get(path, PathFact("missing", path))
