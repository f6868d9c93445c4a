"""Steps that build the new root of the namespaces tier: what is mounted, from general to specific."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Final

from vsbox.plan import mounts, steps, system
from vsbox.plan.compilation import PIP, PIP_CACHE, WORKDIR_MODES, Compilation
from vsbox.plan.guard import guard_places
from vsbox.plan.steps import BIND_DEVICE, BIND_OPTIONAL, BIND_PLAIN, BIND_WRITABLE, PROJECT_HIDE, Step
from vsbox.policy.grants import Access, Grant, is_below

# clone(2)
CLONE_NEWNS: Final = 0x00020000
CLONE_NEWCGROUP: Final = 0x02000000
CLONE_NEWUTS: Final = 0x04000000
CLONE_NEWIPC: Final = 0x08000000
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWPID: Final = 0x20000000
CLONE_NEWNET: Final = 0x40000000

ROOT_BYTES: Final = 16 << 20


def namespaces_of(c: Compilation) -> int:
    """Return the namespaces of every start, as clone(2) flags."""
    flags = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS
    return flags | (CLONE_NEWCGROUP if c.facts.works("cgroup_namespace") else 0)


def root_steps(c: Compilation) -> Iterator[Step]:
    """Yield the namespaces and every mount, in the launcher's order."""
    yield steps.Namespaces(namespaces_of(c) | (CLONE_NEWNET if c.situation.offline else 0))
    if c.mapped.only_bubblewrap:
        yield steps.BubblewrapArguments(c.mapped.only_bubblewrap)
    if c.mapped.hostname is not None:
        yield steps.Hostname(c.mapped.hostname)
    yield steps.Tmpfs("/", ROOT_BYTES, 0o755)
    yield from system_tree_steps(c)
    yield steps.ReadOnly()
    yield steps.Proc("/proc")
    masked = (*system.MASKED, *(system.MASKED_FROM_ROOT if c.facts.uid == 0 else ()))
    yield from (steps.Mask(path, BIND_OPTIONAL) for path in masked)
    yield from device_steps(c)
    yield steps.Tmpfs("/tmp", c.policy.limits.tmp_bytes, 0o1777)
    yield steps.Directory("/run")
    yield steps.Tmpfs("/var/tmp", c.policy.limits.tmp_bytes, 0o1777)
    binds = _binds(c)
    yield from mounts.own_root_steps(c.mapped, c.facts, frozenset(binds))
    yield steps.Workdir(WORKDIR_MODES[c.policy.working_directory or "none"], 0)
    for path in sorted(binds, key=lambda path: path.split("/")):
        yield binds[path]
    if c.installing and c.policy.pip_cache and c.facts.index.cache:
        yield steps.Overlay(c.facts.index.cache, PIP_CACHE)
    if c.policy.project:
        yield steps.Project(c.policy.project, PROJECT_HIDE if c.installing else 0, 0)
    yield steps.Script(0)
    if c.situation.offline:
        yield steps.Loopback()
    yield steps.SealUserns()
    yield steps.Pivot()


def hidden_steps(c: Compilation) -> Iterator[Step]:
    """Yield what a policy hides, for where nothing is mounted."""
    yield from (steps.Mask(grant.path, BIND_OPTIONAL) for grant in c.grants if grant.access is Access.HIDDEN)


def system_tree_steps(c: Compilation) -> Iterator[Step]:
    """Yield what is seen of the system: its trees, small files of /etc, what the kernel says of processors."""
    for path in (*system.TREES, *c.etc, *system.KERNEL_VIEWS):
        fact = c.facts.path(path)
        if fact.kind == "missing":
            continue
        if fact.real != path and _is_system(c, fact.real):
            yield steps.Symlink(path, fact.real)
        else:
            yield steps.Bind(fact.real, path, BIND_PLAIN)


def _is_system(c: Compilation, path: str) -> bool:
    """Tell whether a path is in a tree that is shown as a whole."""
    return any(is_below(path, tree) for tree in system.TREES if c.facts.path(tree).real == tree)


def device_steps(c: Compilation) -> Iterator[Step]:
    """Yield the few devices that programs need, terminals and shared memory of its own."""
    for name in system.DEVICES:
        if c.facts.path(f"/dev/{name}").kind == "device":
            yield steps.Bind(f"/dev/{name}", f"/dev/{name}", BIND_DEVICE)
    yield steps.Devpts("/dev/pts")
    yield steps.Tmpfs("/dev/shm", c.policy.limits.shm_bytes, 0o1777)
    for path, text in system.DEVICE_LINKS:
        yield steps.Symlink(path, text)


def _binds(c: Compilation) -> dict[str, Step]:
    """Parents before children, so that the more specific mount covers the less specific."""
    binds: dict[str, Step] = {}
    packages = BIND_WRITABLE if c.packages_writable else 0
    binds[c.box.root] = steps.Bind(c.box.inside, c.box.root, packages)
    binds[c.box.home] = steps.Bind(c.home_source, c.box.home, BIND_WRITABLE)
    if c.installing:
        binds[PIP] = steps.Bind(c.box.pip, PIP, 0)
    binds = grant_steps(c, binds)
    # The way to these is not pinned: moved away, they are missed at the next start, which fails.
    return binds | {target: steps.Bind(source, target, 0) for source, target in guard_places(c.box, c.box.root)}


def grant_steps(c: Compilation, own: Mapping[str, Step] = MappingProxyType({})) -> dict[str, Step]:
    """Return by path what the interpreter runs from, processors and grants, beside what is the box's ``own``."""
    binds: dict[str, Step] = {path: steps.Bind(path, path, BIND_OPTIONAL) for path in c.support_paths()}
    binds |= own
    for path in c.gpu_views():
        binds[path] = steps.Bind(path, path, 0)
    for path in c.gpus():
        binds[path] = steps.Bind(path, path, BIND_DEVICE)
    for grant in c.grants:
        binds[grant.path] = _bind_grant(c, grant)
    binds |= mounts.bound_steps(c.mapped, c.facts, frozenset(binds))
    for path in _pinned(c, set(binds)):
        binds[path] = steps.Bind(path, path, BIND_WRITABLE)
    return binds


def _pinned(c: Compilation, bound: set[str]) -> set[str]:
    """Return the directories between a writable grant and something less writable below it.

    A mount point cannot be renamed, but what holds it can: moved away and rebuilt, it would
    give code inside the place of the box, or of what is hidden, at the next start. So each
    directory on the way becomes a mount point as well.
    """
    return {
        str(parent)
        for path in bound
        for parent in PurePosixPath(path).parents
        if str(parent) not in bound and c.is_writable(parent)
    }


def _bind_grant(c: Compilation, grant: Grant) -> Step:
    if grant.access is Access.HIDDEN:
        return steps.Mask(grant.path, 0 if c.is_writable(PurePosixPath(grant.path).parent) else BIND_OPTIONAL)
    device = BIND_DEVICE if c.facts.path(grant.path).kind == "device" else 0
    return steps.Bind(
        grant.path, grant.path, device | (BIND_WRITABLE if grant.access is Access.WRITE else 0)
    )
