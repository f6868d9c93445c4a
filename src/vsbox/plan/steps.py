"""The steps of a plan: frozen values that the launcher carries out in order.

``CODE`` is the number and the order of fields is the encoding, both shared with
``native/vsbox.h``. ``describe`` is what ``vsbox explain --plan`` prints.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypeAlias

BIND_WRITABLE = 1
BIND_DEVICE = 2
BIND_OPTIONAL = 4
BIND_PLAIN = 8


@dataclass(frozen=True)
class Step:
    """One thing that the launcher does."""

    CODE: ClassVar[int]

    def describe(self) -> str:
        """Return one line for people."""
        fields = " ".join(str(value) for value in vars(self).values())
        return f"{type(self).__name__.lower()} {fields}".rstrip()


@dataclass(frozen=True)
class Root(Step):
    """The box."""

    CODE: ClassVar[int] = 1
    path: str


@dataclass(frozen=True)
class Owner(Step):
    """The user the plan was made for."""

    CODE: ClassVar[int] = 2
    uid: int


@dataclass(frozen=True)
class Kernel(Step):
    """The release the plan was made on."""

    CODE: ClassVar[int] = 3
    release: str


@dataclass(frozen=True)
class Compiler(Step):
    """The command that makes plans and launchers anew."""

    CODE: ClassVar[int] = 4
    argv: tuple[str, ...]


@dataclass(frozen=True)
class Watch(Step):
    """A file whose change makes the plan stale."""

    CODE: ClassVar[int] = 5
    path: str
    device: int
    inode: int
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class Commands(Step):
    """State of ``inside/bin`` when launchers were last made."""

    CODE: ClassVar[int] = 6
    mtime_ns: int


@dataclass(frozen=True)
class Alias(Step):
    """A launcher that starts something else than its own name."""

    CODE: ClassVar[int] = 7
    name: str
    program: str


@dataclass(frozen=True)
class Bin(Step):
    """Where the payload finds the box's commands."""

    CODE: ClassVar[int] = 8
    path: str


@dataclass(frozen=True)
class Namespaces(Step):
    """New namespaces, as clone(2) flags."""

    CODE: ClassVar[int] = 9
    flags: int

    def describe(self) -> str:
        """Return the flags in hexadecimal, as strace prints unknown ones."""
        return f"namespaces {self.flags:#x}"


@dataclass(frozen=True)
class Tmpfs(Step):
    """A private, empty filesystem in memory; the first one is the new root."""

    CODE: ClassVar[int] = 10
    target: str
    size: int
    mode: int

    def describe(self) -> str:
        """Return target, size and mode."""
        return f"tmpfs {self.target} size={self.size} mode={self.mode:o}"


@dataclass(frozen=True)
class Directory(Step):
    """An empty directory in a private filesystem."""

    CODE: ClassVar[int] = 11
    path: str


@dataclass(frozen=True)
class Symlink(Step):
    """A symbolic link in a private filesystem."""

    CODE: ClassVar[int] = 12
    path: str
    text: str

    def describe(self) -> str:
        """Return the link as ls prints it."""
        return f"symlink {self.path} -> {self.text}"


@dataclass(frozen=True)
class Bind(Step):
    """A path of the host, shown inside; read-only unless ``BIND_WRITABLE``."""

    CODE: ClassVar[int] = 13
    source: str
    target: str
    flags: int

    def describe(self) -> str:
        """Return mode and path, the source only where it differs."""
        mode = "rw" if self.flags & BIND_WRITABLE else "ro"
        origin = "" if self.source == self.target else f" from {self.source}"
        return f"bind {mode} {self.target}{origin}"


@dataclass(frozen=True)
class Proc(Step):
    """A fresh, read-only proc of the new PID namespace."""

    CODE: ClassVar[int] = 14
    target: str


@dataclass(frozen=True)
class Devpts(Step):
    """Private pseudo-terminals."""

    CODE: ClassVar[int] = 15
    target: str


@dataclass(frozen=True)
class Mask(Step):
    """A path covered by nothing."""

    CODE: ClassVar[int] = 16
    path: str


@dataclass(frozen=True)
class Pivot(Step):
    """The new root becomes ``/``, read-only; the old one is gone."""

    CODE: ClassVar[int] = 17


@dataclass(frozen=True)
class Loopback(Step):
    """The loopback interface of a new network namespace, up."""

    CODE: ClassVar[int] = 18


@dataclass(frozen=True)
class SealUserns(Step):
    """No further user namespace: ``user.max_user_namespaces`` of the new one is 0."""

    CODE: ClassVar[int] = 19


@dataclass(frozen=True)
class Payload(Step):
    """From here on the payload's own process does the steps."""

    CODE: ClassVar[int] = 20


@dataclass(frozen=True)
class Keyring(Step):
    """A fresh session keyring."""

    CODE: ClassVar[int] = 21


@dataclass(frozen=True)
class Rlimit(Step):
    """A resource limit of setrlimit(2), never above the caller's."""

    CODE: ClassVar[int] = 22
    resource: int
    soft: int
    hard: int


@dataclass(frozen=True)
class Landlock(Step):
    """A Landlock ruleset: all that it handles is denied unless a rule allows it."""

    CODE: ClassVar[int] = 23
    handled_fs: int
    handled_net: int
    scoped: int
    flags: int

    def describe(self) -> str:
        """Return the masks in hexadecimal, as the kernel's header has them."""
        return f"landlock fs={self.handled_fs:#x} net={self.handled_net:#x} scoped={self.scoped:#x}"


@dataclass(frozen=True)
class Rule(Step):
    """What the ruleset allows below a path."""

    CODE: ClassVar[int] = 24
    path: str
    access: int

    def describe(self) -> str:
        """Return path and rights."""
        return f"rule {self.path} {self.access:#x}"


@dataclass(frozen=True)
class RuleOwnProc(Step):
    """What the ruleset allows below the payload's own directory of proc."""

    CODE: ClassVar[int] = 25
    access: int


@dataclass(frozen=True)
class RuleStdio(Step):
    """Standard streams may be opened again, in the mode that they have."""

    CODE: ClassVar[int] = 26
    access: int


@dataclass(frozen=True)
class Restrict(Step):
    """The ruleset takes force."""

    CODE: ClassVar[int] = 27


@dataclass(frozen=True)
class Seccomp(Step):
    """A seccomp filter; ``listener`` nonzero: its supervised calls go to the broker."""

    CODE: ClassVar[int] = 28
    program: bytes
    listener: int

    def describe(self) -> str:
        """Return the length; ``vsbox explain --syscalls`` has the verdicts."""
        suffix = " with broker" if self.listener else ""
        return f"seccomp {len(self.program) // 8} instructions{suffix}"


@dataclass(frozen=True)
class Pass(Step):
    """An environment variable passed on; a trailing ``*`` makes it a prefix."""

    CODE: ClassVar[int] = 29
    name: str


@dataclass(frozen=True)
class Set(Step):
    """An environment variable set."""

    CODE: ClassVar[int] = 30
    name: str
    value: str


@dataclass(frozen=True)
class Workdir(Step):
    """The caller's working directory, unless private: 0 not shown, 1 read-only, 2 writable."""

    CODE: ClassVar[int] = 31
    mode: int
    access: int


@dataclass(frozen=True)
class Script(Step):
    """The script named on a Python command line, read-only."""

    CODE: ClassVar[int] = 32
    access: int


@dataclass(frozen=True)
class Private(Step):
    """Where the working directory is never shown (``enum privacy`` of the launcher)."""

    CODE: ClassVar[int] = 33
    path: str
    kind: int


@dataclass(frozen=True)
class Writable(Step):
    """A tree whose metadata and sockets the broker serves."""

    CODE: ClassVar[int] = 34
    path: str


@dataclass(frozen=True)
class Home(Step):
    """``$HOME`` inside, also the directory of last resort."""

    CODE: ClassVar[int] = 35
    path: str


@dataclass(frozen=True)
class ReadOnly(Step):
    """Every mount so far becomes read-only, for ``BIND_PLAIN`` ones the only restriction."""

    CODE: ClassVar[int] = 36


Steps: TypeAlias = tuple[Step, ...]
