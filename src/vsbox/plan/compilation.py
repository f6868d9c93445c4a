"""What one compilation is about: policy, machine, box, tier; and what its parts must agree on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import Final

from vsbox.host.facts import HostFacts
from vsbox.plan import landlock, mounts, system
from vsbox.plan.aspects import Situation
from vsbox.plan.model import BoxFacts, Tier
from vsbox.policy.bwrap_options import apply_bwrap_arguments
from vsbox.policy.grants import Access, grants_of, is_below
from vsbox.policy.model import Policy
from vsbox.policy.presets import with_preset
from vsbox.seccomp import allowed_calls

PIP: Final = "/run/vsbox/pip"
PIP_CACHE: Final = "/run/vsbox/pip-cache"
WORKDIR_MODES: Final = {"none": 0, "read": 1, "write": 2}
# Landlock asks for the right to truncate at every open, as an option, and climbs to the root where a rule
# lacks it: a third of the price of opening a file. It may be given where something else refuses to truncate:
# read-only mounts, or the filter (O_TRUNC without writing) and the broker (truncate(2)).
READ_EARLY: Final = landlock.READ | landlock.TRUNCATE
METADATA_CALLS: Final = frozenset(
    {
        "chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "fchown", "lchown", "fchownat",
        "utime", "utimes", "futimesat", "utimensat", "file_setattr", "truncate", "inotify_add_watch",
    }
)  # fmt: skip
SOCKET_CALLS: Final = frozenset({"connect"})


class Compilation:
    """One compilation; ``installing``: for while packages may be written."""

    def __init__(self, policy: Policy, facts: HostFacts, box: BoxFacts, tier: Tier, *, installing: bool) -> None:
        self.mapped = apply_bwrap_arguments(
            with_preset(policy), policy.bwrap_arguments, uid=facts.uid, gid=facts.gid
        )
        self.policy = mounts.without_missing(self.mapped, facts)
        self.installing = installing
        self.packages_writable = self.policy.packages == "write" or (self.policy.packages == "install" and installing)
        self.etc = system.ETC
        self.home_source = box.installs if installing else box.home
        self.facts = facts
        self.box = box
        self.situation = Situation(tier, facts, self.policy)
        self.tells_refusals = False
        self.tier = tier
        self.namespaces = tier is Tier.NAMESPACES
        self.landlock_only = tier is Tier.LANDLOCK
        self.allowed_calls = allowed_calls(self.policy.syscalls)
        self.grants = grants_of(self.policy)
        self.by_path = {grant.path: grant for grant in self.grants}
        self.prefix = box.root if self.namespaces else box.inside
        self.home = box.home if self.namespaces else self.home_source
        self.pip = PIP if self.namespaces else box.pip
        self.known_fs = landlock.known_fs(landlock.NEWEST_ABI if tier is Tier.NONE else facts.landlock_abi)
        self.read = READ_EARLY if self.namespaces or self.situation.broker else landlock.READ

    def supervised_calls(self) -> frozenset[str]:
        """Return the system calls that the broker answers."""
        if not self.situation.broker or not self.situation.confines:
            return frozenset()
        sockets = SOCKET_CALLS if self.watches_sockets() else frozenset()
        return sockets & self.allowed_calls if self.namespaces else METADATA_CALLS | sockets

    def watches_sockets(self) -> bool:
        """Tell whether connections to UNIX sockets are the broker's: before Landlock knew their paths."""
        return self.situation.confines and self.situation.broker and self.facts.landlock_abi < 9

    def is_writable(self, path: PurePosixPath) -> bool:
        """Tell whether the most specific grant that holds ``path`` allows writing."""
        holding = (self.by_path.get(str(parent)) for parent in (path, *path.parents))
        nearest = next((grant for grant in holding if grant), None)
        return nearest is not None and nearest.access is Access.WRITE

    def support_paths(self) -> Iterator[str]:
        """What the interpreter runs from and where the index settings point to."""
        yield from self._uncovered(self.box.interpreter.trees)
        yield from self._uncovered(
            path for path in self.facts.index.paths if self.facts.path(path).kind != "missing"
        )

    def _uncovered(self, paths: Iterable[str]) -> Iterator[str]:
        covered = [
            path for path in system.TREES if self.facts.path(path).kind == "directory"
        ]
        covered += [path for path in self.etc if self.facts.path(path).kind != "missing"]
        for path in paths:
            if not any(is_below(path, tree) for tree in covered):
                yield path

    def gpus(self) -> tuple[str, ...]:
        """Return the device nodes of graphics processors that code inside may use."""
        return self.facts.gpus if "gpu" in self.policy.devices else ()

    def gpu_views(self) -> tuple[str, ...]:
        """Return what the kernel tells about these processors."""
        here = (path for path in system.GPU_VIEWS if self.facts.path(path).kind == "directory")
        return tuple(here) if self.gpus() else ()

    def writable_trees(self, packages: str) -> Iterator[str]:
        """Yield every tree that may be written; ``packages``: where the environment is seen."""
        if self.packages_writable:
            yield packages
        yield self.home
        for grant in self.grants:
            by_children = grant.path == self.policy.project and self.landlock_only
            if grant.access is Access.WRITE and not by_children:
                yield grant.path
