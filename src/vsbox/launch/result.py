"""What a run came to: values only, every one of them JSON."""

from __future__ import annotations

import enum
import signal
from typing import Final

import msgspec

from vsbox.errors import RunError
from vsbox.launch.changes import ChangeSet
from vsbox.launch.files import Changes
from vsbox.plan.receipt import Receipt


class Outcome(str, enum.Enum):
    """Why a run ended."""

    EXITED = "exited"
    SIGNALED = "signaled"
    TIMEOUT = "timeout"
    CPU = "cpu"
    MEMORY = "memory"
    PROCESSES = "processes"
    OUTPUT = "output"
    DISK = "disk"
    SYSCALL = "syscall"
    CANCELLED = "cancelled"


class Usage(msgspec.Struct, frozen=True):
    """What a run used, all its processes together.

    ``peak_memory_bytes`` is memory that was resident at one time, as far as it was looked at; ``processes`` the most
    processes and threads at one time.
    """

    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_memory_bytes: int = 0
    processes: int = 0


class LimitHit(msgspec.Struct, frozen=True):
    """The limit that ended a run: its name in :class:`~vsbox.launch.limits.Limits`, its value, and what was used."""

    name: str
    limit: float
    used: float


class Violation(msgspec.Struct, frozen=True):
    """A system call that the filter refused: its name, why it is closed, the program that made it."""

    call: str
    reason: str
    program: str
    pid: int


class Result(msgspec.Struct, frozen=True):
    """What a run came to.

    ``returncode`` is what the code exited with, or ``-N`` for signal N as in :mod:`subprocess`; None when a limit or
    a cancellation ended it. ``changes``: with ``changes="capture"``, what it did not do
    to ``workdir`` yet. ``stdout`` and ``stderr`` are text, ``stdout_bytes`` and ``stderr_bytes`` lossless.
    """

    outcome: Outcome
    returncode: int | None
    stdout_bytes: bytes
    stderr_bytes: bytes
    files: Changes
    usage: Usage
    receipt: Receipt
    limit: LimitHit | None = None
    violations: tuple[Violation, ...] = ()
    changes: ChangeSet | None = None

    @property
    def ok(self) -> bool:
        """Whether it exited with status 0."""
        return self.outcome is Outcome.EXITED and self.returncode == 0

    @property
    def stdout(self) -> str:
        """Standard output as text; what is not UTF-8 is replaced."""
        return self.stdout_bytes.decode("utf-8", "replace")

    @property
    def stderr(self) -> str:
        """Standard error as text; what is not UTF-8 is replaced."""
        return self.stderr_bytes.decode("utf-8", "replace")

    @property
    def signal_name(self) -> str | None:
        """The name of the signal that ended it, like ``SIGSEGV``."""
        if self.returncode is None or self.returncode >= 0:
            return None
        try:
            return signal.Signals(-self.returncode).name
        except ValueError:
            return f"signal {-self.returncode}"

    def describe(self) -> str:
        """Return in a sentence how it ended."""
        if self.limit is not None:
            limit, used = _figure(self.limit.limit), _figure(self.limit.used)
            return f"{SENTENCES[self.outcome]}: {self.limit.name} {limit}, used {used}"
        if self.outcome is Outcome.EXITED:
            return f"exited with status {self.returncode}"
        if self.outcome is Outcome.SIGNALED:
            return f"killed by {self.signal_name}"
        return SENTENCES[self.outcome]

    def check(self) -> Result:
        """Return the result itself.

        Raises:
            RunError: it did not exit with status 0.
        """
        if self.ok:
            return self
        said = self.stderr.strip().splitlines()
        raise RunError(f"the code {self.describe()}", hint=said[-1] if said else None, result=self)

    def to_json(self) -> bytes:
        """Return it as JSON; output as text, and as Base64 under ``stdout_bytes`` and ``stderr_bytes``."""
        return msgspec.json.encode({"stdout": self.stdout, "stderr": self.stderr, **msgspec.to_builtins(self)})


SENTENCES: Final = {
    Outcome.EXITED: "exited",
    Outcome.SIGNALED: "was killed by a signal",
    Outcome.TIMEOUT: "ran for too long",
    Outcome.CPU: "used too much processor time",
    Outcome.MEMORY: "used too much memory",
    Outcome.PROCESSES: "started too many processes",
    Outcome.OUTPUT: "wrote too much output",
    Outcome.DISK: "filled its disk",
    Outcome.SYSCALL: "made a system call that nothing may make",
    Outcome.CANCELLED: "was cancelled",
}


def _figure(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"
