"""Mechanisms that carry a plan out: one file each, and the choice among them.

``auto`` takes the strongest that probing shows to work on this machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from vsbox.backends import bubblewrap, landlock, native, unconfined
from vsbox.backends.interface import Backend, Missing
from vsbox.errors import CannotEnforceError
from vsbox.host.facts import HostFacts

BACKENDS: Final[tuple[Backend, ...]] = (native.BACKEND, bubblewrap.BACKEND, landlock.BACKEND)
"""Strongest first."""


@dataclass(frozen=True)
class Choice:
    """A backend and, of those that were not taken, what each lacks."""

    backend: Backend
    passed_over: tuple[tuple[str, tuple[Missing, ...]], ...]


def choose(name: str, facts: HostFacts) -> Choice:
    """Return the backend to use: the one named, or for ``auto`` the first that confines and lacks nothing.

    Raises:
        CannotEnforceError: it lacks something on this machine, which the message names.
    """
    passed_over: list[tuple[str, tuple[Missing, ...]]] = []
    for backend in (*BACKENDS, unconfined.BACKEND):
        if backend.name == "none" != name or name not in {"auto", backend.name}:
            continue
        missing = backend.missing(facts)
        if not missing:
            return Choice(backend, tuple(passed_over))
        passed_over.append((backend.name, missing))
    reasons = "; ".join(
        f"{backend} lacks {', '.join(item.what for item in missing)}"
        for backend, missing in passed_over
    )
    hints = [item.remedy for _, missing in passed_over for item in missing if item.remedy]
    what = "confine anything" if name == "auto" else f"use backend {name}"
    raise CannotEnforceError(
        f"cannot {what} on this machine: {reasons}",
        hint=f"{hints[0]} (details: vsbox doctor)" if hints else "details: vsbox doctor",
    )
