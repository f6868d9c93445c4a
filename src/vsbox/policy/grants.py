"""Grants: which path may be touched, how, and by which line of policy."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from vsbox.errors import PolicyError
from vsbox.policy.model import Policy


class Access(enum.IntEnum):
    """Ordered from strict to generous, so that ``min`` settles a tie."""

    HIDDEN = 0
    READ = 1
    WRITE = 2


LISTS: Final = (
    ("allowed_paths", Access.WRITE),
    ("read_only_paths", Access.READ),
    ("hidden_paths", Access.HIDDEN),
)


@dataclass(frozen=True)
class Grant:
    """One path, what may be done below it, and the rule that says so."""

    path: str
    access: Access
    rule: str


def is_below(path: str, parent: str) -> bool:
    """Tell whether ``path`` is ``parent`` or below it, by components; both absolute and normal."""
    return path == parent or path.startswith(parent.rstrip("/") + "/")


def check_path(path: str, *, key: str) -> str:
    """Return ``path`` when a policy may name it: absolute, normal, no NUL.

    Raises:
        PolicyError: for anything else; symlinks are the compiler's to refuse, it sees the disk.
    """
    if not path.startswith("/"):
        raise PolicyError(
            f"bad path {path!r} in {key}: it is not absolute",
            hint="write it in full, or use `vsbox allow BOX PATH`, which does",
        )
    if "\0" in path:
        raise PolicyError(f"bad path {path!r} in {key}: it holds a NUL byte")
    if path.startswith("//") or str(PurePosixPath(path)) != path or ".." in PurePosixPath(path).parts:
        raise PolicyError(
            f"bad path {path!r} in {key}: it is not normal",
            hint="leave out '.', '..', '//' and a final '/'",
        )
    return path


def grants_of(policy: Policy) -> tuple[Grant, ...]:
    """Return what the lists of a policy grant: sorted, one grant a path, the strictest of equals."""
    found: dict[str, Grant] = {}
    if policy.project is not None:
        project = check_path(policy.project, key="project")
        found[project] = Grant(project, Access.WRITE, f"project: {project}")
    for key, access in LISTS:
        for path in getattr(policy, key):
            grant = Grant(check_path(path, key=key), access, f"{key}: {path}")
            known = found.get(path)
            if known is None or grant.access < known.access:
                found[path] = grant
    return tuple(sorted(found.values(), key=lambda grant: grant.path.split("/")))


def most_specific(grants: Iterable[Grant], path: str) -> Grant | None:
    """Return the grant that decides about ``path``: the longest that holds it, strictest of equals."""
    holding = [grant for grant in grants if is_below(path, grant.path)]
    return max(holding, key=lambda grant: (len(grant.path), -grant.access), default=None)
