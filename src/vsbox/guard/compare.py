"""What two versions of a distribution touch, compared: the question of whoever reviews an upgrade."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from vsbox.guard.records import Record
from vsbox.policy.grants import is_below

RANDOM: Final = re.compile(r"(?<=/)(pip-[a-z-]+-|tmp)[a-z0-9_]{8}(?=/|$)")
"""What :mod:`tempfile` makes up, for itself and for pip."""
ADDRESS: Final = re.compile(r"^[0-9a-fA-F:.]+ port ")
PYTHON: Final = re.compile(r"/python3(\.[0-9]+)?(?=$|/)")


@dataclass(frozen=True, order=True)
class Touched:
    """One thing, said so that it is the same in any environment and at any time."""

    phase: str
    operation: str
    target: str
    verdict: str


@dataclass(frozen=True)
class Difference:
    """What only the first does, what only the second does, and how much is common."""

    removed: tuple[Touched, ...]
    added: tuple[Touched, ...]
    common: int


def _normal(target: str, names: Mapping[str, str]) -> str:
    for path, name in names.items():
        if is_below(target, path):
            target = name + target[len(path) :]
            break
    target = RANDOM.sub(r"\1*", target)
    return PYTHON.sub("/python", ADDRESS.sub("port ", target))


def normalize(phase: str, records: Iterable[Record], names: Mapping[str, str]) -> frozenset[Touched]:
    """Return what was touched; ``names``: what to call directories that are only these runs' own, longest first."""
    found = {Touched(phase, record.operation, _normal(record.target, names), record.verdict) for record in records}
    read = {item.target for item in found if item.operation == "read"}
    return frozenset(item for item in found if item.operation != "look" or item.target not in read)


def compare(first: Iterable[Touched], second: Iterable[Touched], phases: Sequence[str]) -> Difference:
    """Return what differs, in the order of the phases."""
    one, other = set(first), set(second)

    def ordered(touched: set[Touched]) -> tuple[Touched, ...]:
        return tuple(sorted(touched, key=lambda item: (phases.index(item.phase), item)))

    return Difference(ordered(one - other), ordered(other - one), len(one & other))
