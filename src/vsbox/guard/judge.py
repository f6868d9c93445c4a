"""Hold what a run touched against its policy: allowed, or denied, by which rule."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from vsbox.guard.events import HIDES
from vsbox.guard.hook import Guard, is_own_host
from vsbox.guard.records import CONTENT, NETWORK
from vsbox.plan.project import is_protected_name
from vsbox.policy.grants import is_below
from vsbox.seccomp import ALLOWED, reason

READING: Final = frozenset({"read", "list", "look", "enter", "execute", "load", "open"})
PASSING: Final = frozenset({"look", "enter", "list"})
"""Not worth a line where it is allowed."""
NETWORKING: Final = frozenset({"connect", "resolve"})
QUIET_BELOW: Final = ("/proc/", "/dev/", "/sys/")


@dataclass(frozen=True)
class Verdict:
    """``denied``: the policy does not let it pass, by ``rule``. ``kept``: worth a line in a report."""

    denied: bool
    kept: bool
    rule: str = ""


ALLOWED_QUIETLY: Final = Verdict(denied=False, kept=False)
ALLOWED_KEPT: Final = Verdict(denied=False, kept=True)


@dataclass
class Judge:
    """The policy of one start.

    ``config`` is what the guard is told (``vsbox/plan/guard.py``), ``shown`` what only this start grants: paths and
    what may be done there (1 reading, 2 writing). Existence and permission are asked of the disk, outside: what is
    not there, or not this user's to read anyway, is no denial of ours.
    """

    config: Mapping[str, Any]
    shown: Mapping[str, int] = field(default_factory=dict)
    project: str | None = None

    def __post_init__(self) -> None:
        """Take what the start shows into what is granted."""
        self._guard: Any = Guard(self.config)  # type: ignore[no-untyped-call]
        for path, level in self.shown.items():
            self._guard.places.setdefault(path, level)
        self._granted = tuple(f"{path.rstrip('/')}/" for path in (*self.config["granted"], *self.shown))
        self._root = str(self.config["root"])
        self._hides = self.config["tier"] == "namespaces"
        self._ways = {
            parent for path, level in self._guard.places.items() if level for parent in parents(path)
        }  # fmt: skip

    def judge(self, operation: str, target: str) -> Verdict:
        """Return the verdict on one touch."""
        if operation == HIDES:
            return ALLOWED_KEPT
        if operation == "call":
            return Verdict(denied=True, kept=True, rule=f"system call: {reason(target, 'errno EPERM', ALLOWED)}")
        if operation == "resolve" or (operation == "connect" and not target.startswith("/")):
            return self._judge_network(target)
        return self._judge_path(operation, target)

    def _judge_network(self, target: str) -> Verdict:
        host = target.split(" port ", maxsplit=1)[0]
        if target.startswith("@"):
            return ALLOWED_QUIETLY
        if is_own_host(host):  # type: ignore[no-untyped-call]
            return ALLOWED_QUIETLY
        offline = self.config["network"] == "none"
        return Verdict(denied=True, kept=True, rule=NETWORK) if offline else ALLOWED_KEPT

    def _judge_path(self, operation: str, path: str) -> Verdict:
        if path.startswith(QUIET_BELOW) or ".vsbox-denied" in path:
            return ALLOWED_QUIETLY
        level = 1 if operation in READING else 2
        of_entry = level == 2 and not (operation in CONTENT and os.path.lexists(path))
        asked = os.path.dirname(path) if of_entry else path  # noqa: PTH120 - any text
        if self._guard.level(asked) >= level and not self._is_protected(path, level):
            if operation == "execute":
                return ALLOWED_KEPT if os.path.lexists(self._outside(path)) else ALLOWED_QUIETLY
            own = is_below(path, self._root) and not is_below(path, f"{self._root}/home")
            is_interesting = path.startswith(self._granted) and operation not in PASSING and not own
            return ALLOWED_KEPT if is_interesting and not self._is_own_litter(path) else ALLOWED_QUIETLY
        if self._is_no_denial(operation, path, asked, level):
            return ALLOWED_QUIETLY
        return Verdict(denied=True, kept=True, rule=self._rule(path, level))

    def _outside(self, path: str) -> str:
        """Return where a path inside is, of the environment, which code inside sees as the box."""
        home = f"{self._root}/home"
        if self._hides and is_below(path, self._root) and not is_below(path, home):
            return f"{self._root}/inside{path[len(self._root) :]}"
        return path

    def _is_own_litter(self, path: str) -> bool:
        return is_below(path, f"{self._root}/home/.cache") or is_below(path, f"{self._root}/home/tmp")

    def _is_no_denial(self, operation: str, path: str, asked: str, level: int) -> bool:
        if is_below(path, self._root):
            return level == 1
        if operation in PASSING and (not self._hides or path in self._ways):
            return True
        if operation in {"look", "enter"}:
            return not os.path.lexists(path)
        return not os.access(asked, os.R_OK if level == 1 else os.W_OK)

    def _is_protected(self, path: str, level: int) -> bool:
        if level < 2 or self.project is None or not is_below(path, self.project):
            return False
        if path in self._guard.places and path != self.project:
            return False
        return any(is_protected_name(part) for part in path[len(self.project) :].split("/") if part)

    def _rule(self, path: str, level: int) -> str:
        if self._is_protected(path, level):
            return "protected in the project: your own tools would execute it"
        hidden = next((place for place in self.config["hidden"] if is_below(path, place)), None)
        if hidden is not None:
            return f"hidden_paths: {hidden}"
        return f"not granted in {self._root}/sandbox/sandbox.json"


def parents(path: str) -> list[str]:
    """Return the directories on the way to a path, from the root on."""
    parts = path.rstrip("/").split("/")
    return ["/".join(parts[:count]) or "/" for count in range(1, len(parts))]


Kind = Literal["denied", "would deny", "allowed"]


def kind_of(verdict: Verdict, *, blocks: bool) -> Kind:
    """Return the word of a record."""
    if not verdict.denied:
        return "allowed"
    return "denied" if blocks else "would deny"
