"""What options of ``bwrap`` put into the new root beside the grants: checks and steps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Final

import msgspec

from vsbox.errors import CannotEnforceError, PolicyError
from vsbox.host.facts import HostFacts
from vsbox.plan import landlock, steps
from vsbox.plan.model import BoxFacts
from vsbox.plan.steps import BIND_DEVICE, BIND_OPTIONAL, BIND_WRITABLE, Step
from vsbox.policy.bwrap_options import Mapped, Mount
from vsbox.policy.grants import Access, Grant, is_below
from vsbox.policy.model import Policy

TMPFS_BYTES: Final = 4 << 30


def without_missing(mapped: Mapped, facts: HostFacts) -> Policy:
    """Return the policy without the grants that may be missing, and are."""
    missing = {path for path in mapped.optional_paths if facts.path(path).kind == "missing"}
    return msgspec.structs.replace(
        mapped.policy,
        allowed_paths=tuple(path for path in mapped.policy.allowed_paths if path not in missing),
        read_only_paths=tuple(path for path in mapped.policy.read_only_paths if path not in missing),
    )


def check_mounts(
    mapped: Mapped, facts: HostFacts, box: BoxFacts, grants: tuple[Grant, ...], *, namespaces: bool
) -> None:
    """Refuse mounts that would open what grants may not.

    Raises:
        PolicyError: a source that is missing, a link, the box, or vsbox itself, or that a grant restricts.
        CannotEnforceError: there are no namespaces to mount in.
    """
    if mapped.only_namespaces and not namespaces:
        options = ", ".join(mapped.only_namespaces)
        raise CannotEnforceError(
            f"cannot use {options} without namespaces: code inside sees the disk as it is",
            hint="name the same path twice, as a grant does, or use a machine with user namespaces",
        )
    for mount in mapped.mounts:
        if mount.kind == "bind":
            _check_source(mount, facts, box, grants)


def _check_source(mount: Mount, facts: HostFacts, box: BoxFacts, grants: tuple[Grant, ...]) -> None:
    what = f"cannot use {mount.option} {mount.source} {mount.target}"
    fact = facts.path(mount.source)
    if fact.kind == "missing" and not mount.optional:
        raise PolicyError(f"{what}: {mount.source} does not exist")
    if fact.real != mount.source:
        raise PolicyError(f"{what}: it goes through a symbolic link to {fact.real}", hint="name the real path")
    if _overlap(mount.source, box.root):
        raise PolicyError(f"{what}: it holds the box {box.root}, or is in it", hint="name what is needed of it")
    for grant in grants:
        if is_below(grant.path, mount.source) and grant.access < mount.access:
            raise PolicyError(f"{what}: it would open {grant.path} under another name", hint=f"see {grant.rule}")
    if mount.access is Access.WRITE:
        for path in facts.own_paths:
            if _overlap(path, mount.source):
                raise PolicyError(f"{what}: vsbox itself runs from {path}", hint="use --ro-bind")


def _overlap(one: str, other: str) -> bool:
    return is_below(one, other) or is_below(other, one)


def check_project(mapped: Mapped, project: str | None) -> None:
    """Refuse a second name for the project: what is protected there is so under its own name.

    Raises:
        PolicyError: naming both.
    """
    for mount in mapped.mounts:
        writable = mount.kind == "bind" and mount.access is Access.WRITE
        if project and writable and _overlap(mount.source, project):
            raise PolicyError(
                f"cannot use {mount.option} {mount.source} {mount.target}: it would open the project {project} "
                "under another name, with what is protected in it",
                hint="use --ro-bind",
            )


def _step(mount: Mount, facts: HostFacts) -> Step:
    match mount.kind:
        case "tmpfs":
            return steps.Tmpfs(mount.target, TMPFS_BYTES if mount.size is None else mount.size, mount.mode)
        case "directory":
            return steps.Directory(mount.target)
        case "symlink":
            return steps.Symlink(mount.target, mount.source)
        case "bind":
            device = BIND_DEVICE if mount.device or facts.path(mount.source).kind == "device" else 0
            flags = device | (BIND_WRITABLE if mount.access is Access.WRITE else 0)
            return steps.Bind(mount.source, mount.target, flags | (BIND_OPTIONAL if mount.optional else 0))


def own_root_steps(mapped: Mapped, facts: HostFacts, bound: frozenset[str]) -> Iterator[Step]:
    """Return the steps of what lies in the root itself, before anything of the host is mounted there."""
    places = _places(mapped, bound)
    for mount in mapped.mounts:
        if not _is_below_any(mount.target, places):
            yield _step(mount, facts)


def bound_steps(mapped: Mapped, facts: HostFacts, bound: frozenset[str]) -> dict[str, Step]:
    """Return the steps of what is mounted among the grants, by path: the most specific covers the less specific."""
    places = _places(mapped, bound)
    return {mount.target: _step(mount, facts) for mount in mapped.mounts if _is_below_any(mount.target, places)}


def _places(mapped: Mapped, bound: frozenset[str]) -> frozenset[str]:
    return bound | {other.target for other in mapped.mounts if other.kind == "bind"}


def _is_below_any(path: str, places: frozenset[str]) -> bool:
    return path in places or any(str(parent) in places for parent in PurePosixPath(path).parents)


def rules(mapped: Mapped, facts: HostFacts) -> Iterator[tuple[str, int]]:
    """Return the Landlock rules of what may be written."""
    for mount in mapped.mounts:
        if mount.optional and facts.path(mount.source).kind == "missing":
            continue
        if mount.device:
            yield mount.target, landlock.DEVICE
        elif mount.access is Access.WRITE:
            yield mount.target, landlock.WRITE


def writable_places(mapped: Mapped, facts: HostFacts) -> Iterator[str]:
    """Return the trees that the broker serves."""
    return (path for path, access in rules(mapped, facts) if access == landlock.WRITE)
