"""Hold what a run touched against its policy: allowed, or denied, by which rule."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from vsbox.guard.events import HIDES
from vsbox.guard.hook.grants import Grants
from vsbox.guard.hook.words import is_own_host
from vsbox.guard.records import CONTENT, NETWORK, READING
from vsbox.plan.project import is_protected_name
from vsbox.policy.grants import is_below
from vsbox.seccomp import ALLOWED, reason

PASSING: Final = frozenset({"look", "enter", "list"})
"""Not worth a line where it is allowed."""
NETWORKING: Final = frozenset({"connect", "resolve"})
OF_THE_KERNEL: Final = ("/proc", "/dev", "/sys")
OF_PROCESS: Final = re.compile(r"/proc/(?:self|thread-self|(\d+))(?:/task/\d+)?(?:/([^/]+)|\Z)")
OF_ITS_OWN: Final = frozenset(
    {"auxv", "cwd", "environ", "exe", "fd", "fdinfo", "io", "map_files", "maps", "mem", "ns", "numa_maps", "pagemap"}
    | {"personality", "root", "smaps", "smaps_rollup", "stack", "syscall", "timers"}
)
"""What of a process is for those who may trace it: from a box, no process outside."""
OTHERS: Final = "of a process outside the box"
SHARED: Final = ("/dev/shm", "/dev/pts")
"""What is there before the run is somebody else's; what the run makes there is its own."""
MOST_PROCESSES: Final = 100_000
MOST_PARENTS: Final = 100


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
        self._grants: Any = Grants(self.config, set())  # type: ignore[no-untyped-call] # of code for Python 3.8
        for path, level in self.shown.items():
            self._grants.places.setdefault(path, level)
        self._granted = tuple(f"{path.rstrip('/')}/" for path in (*self.config["granted"], *self.shown))
        self._root = str(self.config["root"])
        self._tier = str(self.config["tier"])
        self._hides = self._tier == "namespaces"
        self._shared = frozenset(f"{place}/{name}" for place in SHARED for name in _names_in(place))
        self._records = frozenset(self.config["records"])
        self._processes: set[int] = set()
        self._ways = {
            parent for path, level in self._grants.places.items() if level for parent in parents(path)
        }  # fmt: skip

    def judge(self, operation: str, target: str, pid: int = 0) -> Verdict:
        """Return the verdict on one touch by a process of the run."""
        if pid and len(self._processes) < MOST_PROCESSES:
            self._processes.add(pid)
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
        level = 1 if operation in READING else 2
        if path in self._records:
            return ALLOWED_QUIETLY
        of_kernel = self._judge_kernel(operation, path, level)
        if of_kernel is not None:
            return of_kernel
        of_entry = level == 2 and not (operation in CONTENT and os.path.lexists(path))
        asked = os.path.dirname(path) if of_entry else path
        is_busy = of_entry and self._hides and self._grants.places.get(path) == 1  # a mount of its own
        if self._grants.level(asked) >= level and not is_busy and not self._is_protected(path, level):
            if operation == "execute":
                return ALLOWED_KEPT if os.path.lexists(self._outside(path)) else ALLOWED_QUIETLY
            own = is_below(path, self._root) and not is_below(path, f"{self._root}/home")
            is_interesting = path.startswith(self._granted) and operation not in PASSING and not own
            return ALLOWED_KEPT if is_interesting and not self._is_own_litter(path) else ALLOWED_QUIETLY
        if self._is_no_denial(operation, path, asked, level):
            return ALLOWED_QUIETLY
        return Verdict(denied=True, kept=True, rule=self._rule(path, level))

    def _judge_kernel(self, operation: str, path: str, level: int) -> Verdict | None:
        """Judge what the policy does not speak of: the kernel's files, which with namespaces are the sandbox's own."""
        if not any(is_below(path, place) for place in OF_THE_KERNEL):
            return None
        process = OF_PROCESS.match(path)
        if process:
            if self._hides or not process[1] or self._is_of_run(int(process[1])):
                return ALLOWED_QUIETLY
            is_told = process[2] in OF_ITS_OWN and operation not in {"look", "enter"}
            return self._foreign(path, level, OTHERS) if is_told else None
        if self._hides:
            return ALLOWED_QUIETLY if level == 1 or is_below(path, "/dev") else None
        shared = next((place for place in SHARED if path.startswith(f"{place}/")), "")
        if shared and self._tier == "none":
            entry = "/".join(path.split("/")[:4])
            return self._foreign(path, level, f"of others: {entry}") if entry in self._shared else ALLOWED_QUIETLY
        return None

    def _foreign(self, path: str, level: int, rule: str) -> Verdict:
        is_there = os.access(path, os.R_OK if level == 1 else os.W_OK)
        return Verdict(denied=True, kept=True, rule=rule) if is_there else ALLOWED_QUIETLY

    def _is_of_run(self, number: int) -> bool:
        """Tell whether a process is one of the run, or descends from one; ``number`` may be a thread's."""
        for _ in range(MOST_PARENTS):
            if number in self._processes:
                return True
            try:
                status = Path(f"/proc/{number}/status").read_text(errors="replace")
            except OSError:
                return False
            ids = dict(re.findall(r"^(Tgid|PPid):\s+(\d+)$", status, re.MULTILINE))
            if int(ids.get("Tgid", 0)) in self._processes:
                return True
            number = int(ids.get("PPid", 0))
            if number <= 1:
                return False
        return False

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
        if operation in {"look", "enter"} and not self._hides:
            return True
        if operation in PASSING and self._tier != "landlock" and path in self._ways:
            return True
        if operation in {"look", "enter"}:
            return not os.path.lexists(path)
        return not os.access(asked, os.R_OK if level == 1 else os.W_OK)

    def _is_protected(self, path: str, level: int) -> bool:
        if level < 2 or self.project is None or not is_below(path, self.project):
            return False
        if path in self._grants.places and path != self.project:
            return False
        return any(is_protected_name(part) for part in path[len(self.project) :].split("/") if part)

    def _rule(self, path: str, level: int) -> str:
        if self._is_protected(path, level):
            return "protected in the project: your own tools would execute it"
        hidden = next((place for place in self.config["withheld"] if is_below(path, place)), None)
        if hidden is not None:
            return f"hidden_paths: {hidden}"
        return f"not granted in {self._root}/sandbox/sandbox.json"


def _names_in(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


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
