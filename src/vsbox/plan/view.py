"""The root of a preview: the whole disk, read-only; what the user would change is an overlay that is forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Final

from vsbox.plan import steps
from vsbox.plan.compilation import Compilation
from vsbox.plan.guard import guard_places
from vsbox.plan.root import ROOT_BYTES, device_steps, namespaces_of
from vsbox.plan.steps import BIND_OPTIONAL, BIND_PLAIN, BIND_VIEW, Step
from vsbox.policy.grants import Access, is_below

OWN: Final = frozenset({"/proc", "/dev", "/tmp"})
"""Directories that each run has for itself."""
VIEW: Final = BIND_PLAIN | BIND_OPTIONAL | BIND_VIEW


def view_steps(c: Compilation) -> Iterator[Step]:
    """Yield the namespaces, which are those of an ordinary start but for the network, and every mount."""
    yield steps.Namespaces(namespaces_of(c))
    yield steps.Tmpfs("/", ROOT_BYTES, 0o755)
    for path, fact in sorted(c.facts.paths.items()):
        if PurePosixPath(path).parent != PurePosixPath("/") or path in {"/", *OWN}:
            continue
        if fact.real != path:
            yield steps.Symlink(path, fact.real)
        elif fact.kind == "directory":
            yield steps.Bind(path, path, VIEW)
    yield steps.ReadOnly()
    yield steps.Proc("/proc")
    yield from (step for step in device_steps(c) if not (isinstance(step, steps.Symlink) and step.path == "/etc/mtab"))
    yield from (steps.Tmpfs(path, c.policy.limits.tmp_bytes, 0o1777) for path in ("/tmp", "/var/tmp"))
    yield from (steps.Overlay(path, path) for path in _changeable(c))
    yield steps.Overlay(c.box.inside, c.box.root)
    yield steps.Overlay(c.home_source, c.box.home)
    yield from (steps.Bind(source, target, 0) for source, target in guard_places(c.box, c.box.root))
    yield steps.SealUserns()
    yield steps.Pivot()


def _changeable(c: Compilation) -> list[str]:
    """Return the directories whose changes are forgotten: the home, and what the policy lets be written."""
    granted = (grant.path for grant in c.grants if grant.access is Access.WRITE)
    wanted = [path for path in (c.facts.home, *granted) if c.facts.path(path).kind == "directory" and path != "/"]
    tops = [path for path in wanted if not any(path != other and is_below(path, other) for other in wanted)]
    return sorted(set(tops))
