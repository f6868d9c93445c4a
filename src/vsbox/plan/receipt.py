"""The receipt: per aspect what was asked, what is in force, and which layer does it."""

from __future__ import annotations

from typing import Literal

import msgspec

from vsbox.policy.model import Aspect

State = Literal["enforced", "open by policy", "degraded", "cannot enforce"]


class Row(msgspec.Struct, frozen=True):
    """One aspect. ``advice`` says what would enforce it where nothing does."""

    aspect: Aspect
    asked: str
    state: State
    layers: tuple[str, ...] = ()
    note: str = ""
    advice: str = ""


class Receipt(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a plan puts in force; ``tier`` names the mechanism that carries it.

    ``changes``: of a run whose changes are captured, how they are kept apart.
    """

    tier: str
    rows: tuple[Row, ...]
    changes: Literal["overlay", "copy"] | None = None

    def row(self, aspect: Aspect) -> Row:
        """Return the row of an aspect."""
        return next(row for row in self.rows if row.aspect is aspect)
