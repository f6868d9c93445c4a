"""Paths as people type them on the command line."""

from __future__ import annotations

import os

from vsbox.errors import PolicyError


def resolve_grant(path: str) -> str:
    """Return the absolute, link-free form of a path that a person grants now, in full view.

    Raises:
        PolicyError: it does not exist, or JSON cannot hold its name.
    """
    real = os.path.realpath(os.path.expanduser(path))  # bytes survive in strings
    if not os.path.exists(real):
        raise PolicyError(f"cannot grant {path}: it does not exist", hint="create it first")
    try:
        real.encode("utf-8")
    except UnicodeEncodeError:
        raise PolicyError(
            f"cannot grant {path!r}: its name is not UTF-8, which sandbox.json cannot hold",
            hint="rename it, or grant the directory above it",
        ) from None
    return real
