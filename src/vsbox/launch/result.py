"""What a run came to: values only, every one of them JSON."""

from __future__ import annotations

import enum
import signal
from typing import Any, Final

import msgspec

from vsbox.errors import RunError
from vsbox.launch.changes import ChangeSet
from vsbox.launch.files import Changes, text_of
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
    """The limit that ended a run: its name in :class:`~vsbox.launch.limits.Limits`, its value, and what was used.

    ``answer``: the inside of a session has said what it never says, in ``used`` bytes.
    """

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
        return name_of_signal(self.returncode)

    def describe(self) -> str:
        """Return in a sentence how it ended."""
        return describe(self.outcome, self.returncode, self.limit)

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
        fields = _as_text(msgspec.to_builtins(self))
        return msgspec.json.encode({"stdout": self.stdout, "stderr": self.stderr, **fields})


def _as_text(value: Any) -> Any:
    """Return a value whose names can be encoded: those of files may be any bytes."""
    if isinstance(value, str):
        return text_of(value)
    if isinstance(value, dict):
        return {key: _as_text(item) for key, item in value.items()}
    return [_as_text(item) for item in value] if isinstance(value, (list, tuple)) else value


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


def name_of_signal(returncode: int | None) -> str | None:
    """Return the name of the signal that a return code below 0 stands for."""
    if returncode is None or returncode >= 0:
        return None
    try:
        return signal.Signals(-returncode).name
    except ValueError:
        return f"signal {-returncode}"


def describe(outcome: Outcome, returncode: int | None, limit: LimitHit | None) -> str:
    """Return in a sentence how a run ended."""
    if limit is not None:
        return f"{SENTENCES[outcome]}: {limit.name} {_figure(limit.limit)}, used {_figure(limit.used)}"
    if outcome is Outcome.EXITED:
        return f"exited with status {returncode}"
    if outcome is Outcome.SIGNALED:
        return f"killed by {name_of_signal(returncode)}"
    return SENTENCES[outcome]


def _figure(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"
