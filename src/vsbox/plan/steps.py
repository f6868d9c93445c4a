"""The steps of a plan: frozen values that the launcher carries out in order.

``CODE`` is the number and the order of fields is the encoding, both shared with
``native/vsbox.h``. ``describe`` is what ``vsbox explain --plan`` prints.
"""

from __future__ import annotations

from typing import ClassVar, TypeAlias

import msgspec

BIND_WRITABLE = 1
BIND_DEVICE = 2
BIND_OPTIONAL = 4
BIND_PLAIN = 8
BIND_VIEW = 16
PROJECT_HIDE = 1


def printable(text: str) -> str:
    """Return text on one line, control characters made visible."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


class Step(msgspec.Struct, frozen=True):
    """One thing that the launcher does."""

    CODE: ClassVar[int]

    def describe(self) -> str:
        """Return one line for people."""
        return printable(self._text())

    def _text(self) -> str:
        fields = " ".join(map(str, msgspec.structs.astuple(self)))
        return f"{type(self).__name__.lower()} {fields}".rstrip()


class Root(Step, frozen=True):
    """The box."""

    CODE: ClassVar[int] = 1
    path: str


class Owner(Step, frozen=True):
    """The user the plan was made for."""

    CODE: ClassVar[int] = 2
    uid: int


class Kernel(Step, frozen=True):
    """The release the plan was made on."""

    CODE: ClassVar[int] = 3
    release: str


class Compiler(Step, frozen=True):
    """The command that makes plans and launchers anew."""

    CODE: ClassVar[int] = 4
    argv: tuple[str, ...]


class Watch(Step, frozen=True):
    """A file whose change makes the plan stale."""

    CODE: ClassVar[int] = 5
    path: str
    device: int
    inode: int
    size: int
    mtime_ns: int


class Commands(Step, frozen=True):
    """State of ``inside/bin`` when launchers were last made."""

    CODE: ClassVar[int] = 6
    mtime_ns: int


class Alias(Step, frozen=True):
    """A launcher that starts something else than its own name."""

    CODE: ClassVar[int] = 7
    name: str
    program: str


class Bin(Step, frozen=True):
    """Where the payload finds the box's commands."""

    CODE: ClassVar[int] = 8
    path: str


class Namespaces(Step, frozen=True):
    """New namespaces, as clone(2) flags."""

    CODE: ClassVar[int] = 9
    flags: int

    def _text(self) -> str:
        return f"namespaces {self.flags:#x}"


class Tmpfs(Step, frozen=True):
    """A private, empty filesystem in memory; the first one is the new root."""

    CODE: ClassVar[int] = 10
    target: str
    size: int
    mode: int

    def _text(self) -> str:
        return f"tmpfs {self.target} size={self.size} mode={self.mode:o}"


class Directory(Step, frozen=True):
    """An empty directory in a private filesystem."""

    CODE: ClassVar[int] = 11
    path: str


class Symlink(Step, frozen=True):
    """A symbolic link in a private filesystem."""

    CODE: ClassVar[int] = 12
    path: str
    text: str

    def _text(self) -> str:
        return f"symlink {self.path} -> {self.text}"


class Bind(Step, frozen=True):
    """A path of the host, shown inside; read-only unless ``BIND_WRITABLE``."""

    CODE: ClassVar[int] = 13
    source: str
    target: str
    flags: int

    def _text(self) -> str:
        mode = "rw" if self.flags & BIND_WRITABLE else "ro"
        origin = "" if self.source == self.target else f" from {self.source}"
        return f"bind {mode} {self.target}{origin}"


class Proc(Step, frozen=True):
    """A fresh, read-only proc of the new PID namespace."""

    CODE: ClassVar[int] = 14
    target: str


class Devpts(Step, frozen=True):
    """Private pseudo-terminals."""

    CODE: ClassVar[int] = 15
    target: str


class Mask(Step, frozen=True):
    """A path covered by nothing; ``flags``: ``BIND_OPTIONAL``, then it may be missing."""

    CODE: ClassVar[int] = 16
    path: str
    flags: int


class Pivot(Step, frozen=True):
    """The new root becomes ``/``, read-only; the old one is gone."""

    CODE: ClassVar[int] = 17


class Loopback(Step, frozen=True):
    """The loopback interface of a new network namespace, up."""

    CODE: ClassVar[int] = 18


class SealUserns(Step, frozen=True):
    """No further user namespace: ``user.max_user_namespaces`` of the new one is 0."""

    CODE: ClassVar[int] = 19


class Payload(Step, frozen=True):
    """From here on the payload's own process does the steps."""

    CODE: ClassVar[int] = 20


class Keyring(Step, frozen=True):
    """A session keyring that holds nothing; joined by the launcher, outside."""

    CODE: ClassVar[int] = 21


class Rlimit(Step, frozen=True):
    """A resource limit of setrlimit(2), never above the caller's."""

    CODE: ClassVar[int] = 22
    resource: int
    soft: int
    hard: int


class Landlock(Step, frozen=True):
    """A Landlock ruleset: all that it handles is denied unless a rule allows it.

    ``if_needed`` are rights of ``handled_fs`` that mounts decide about already: the launcher handles them
    only where a standard stream is a file opened for writing only.
    """

    CODE: ClassVar[int] = 23
    handled_fs: int
    handled_net: int
    scoped: int
    flags: int
    if_needed: int

    def _text(self) -> str:
        return f"landlock fs={self.handled_fs:#x} net={self.handled_net:#x} scoped={self.scoped:#x}"


class Rule(Step, frozen=True):
    """What the ruleset allows below a path."""

    CODE: ClassVar[int] = 24
    path: str
    access: int

    def _text(self) -> str:
        return f"rule {self.path} {self.access:#x}"


class RuleOwnProc(Step, frozen=True):
    """What the ruleset allows below the payload's own directory of proc."""

    CODE: ClassVar[int] = 25
    access: int


class RuleStdio(Step, frozen=True):
    """Standard streams may be opened again, in the mode that they have."""

    CODE: ClassVar[int] = 26
    access: int


class Restrict(Step, frozen=True):
    """The ruleset takes force."""

    CODE: ClassVar[int] = 27


class Seccomp(Step, frozen=True):
    """The last restriction: a seccomp filter; ``listener`` nonzero: its supervised calls go to the broker.

    Absent where the policy asks for no filter: the launcher then closes descriptors and drops capabilities at the
    end of the plan, as it does else before this step.
    """

    CODE: ClassVar[int] = 28
    program: bytes
    listener: int

    def _text(self) -> str:
        suffix = " with broker" if self.listener else ""
        return f"seccomp {len(self.program) // 8} instructions{suffix}"


class Pass(Step, frozen=True):
    """An environment variable passed on; a trailing ``*`` makes it a prefix."""

    CODE: ClassVar[int] = 29
    name: str


class Set(Step, frozen=True):
    """An environment variable set."""

    CODE: ClassVar[int] = 30
    name: str
    value: str


class Workdir(Step, frozen=True):
    """The caller's working directory, unless private: 0 not shown, 1 read-only, 2 writable."""

    CODE: ClassVar[int] = 31
    mode: int
    access: int


class Script(Step, frozen=True):
    """The script named on a Python command line, read-only."""

    CODE: ClassVar[int] = 32
    access: int


class Private(Step, frozen=True):
    """Where the working directory is never shown (``enum privacy`` of the launcher)."""

    CODE: ClassVar[int] = 33
    path: str
    kind: int


class Writable(Step, frozen=True):
    """A tree whose metadata and sockets the broker serves."""

    CODE: ClassVar[int] = 34
    path: str


class Home(Step, frozen=True):
    """``$HOME`` inside, also the directory of last resort."""

    CODE: ClassVar[int] = 35
    path: str


class ReadOnly(Step, frozen=True):
    """Every mount so far becomes read-only, for ``BIND_PLAIN`` ones the only restriction."""

    CODE: ClassVar[int] = 36


class Project(Step, frozen=True):
    """A writable tree in which what the host would execute is protected, with ``PROJECT_HIDE`` not even seen."""

    CODE: ClassVar[int] = 37
    path: str
    flags: int
    access: int


class Protect(Step, frozen=True):
    """A name that is protected in the project; a trailing ``*`` makes it a prefix."""

    CODE: ClassVar[int] = 38
    pattern: str


class Installer(Step, frozen=True):
    """A command that takes the plan for installing: always, or if the first of these words to be given has ``+``."""

    CODE: ClassVar[int] = 39
    words: tuple[str, ...]


class Unset(Step, frozen=True):
    """An environment variable not passed on after all; a trailing ``*`` makes it a prefix."""

    CODE: ClassVar[int] = 40
    name: str


class Chdir(Step, frozen=True):
    """Where the command starts, wherever the caller stands."""

    CODE: ClassVar[int] = 41
    path: str


class Hostname(Step, frozen=True):
    """What the machine is called inside."""

    CODE: ClassVar[int] = 42
    name: str


class Bubblewrap(Step, frozen=True):
    """The ``bwrap`` that makes the namespaces in the launcher's place; ``makes_root`` (0 or 1): and the new root."""

    CODE: ClassVar[int] = 43
    program: str
    makes_root: int


class BubblewrapArguments(Step, frozen=True):
    """What it is told besides."""

    CODE: ClassVar[int] = 44
    words: tuple[str, ...]


class Overlay(Step, frozen=True):
    """A directory of the host as it is, with changes that are forgotten when the run ends."""

    CODE: ClassVar[int] = 45
    source: str
    target: str


class Same(Step, frozen=True):
    """A file that code inside could change must be as it is outside, or nothing starts."""

    CODE: ClassVar[int] = 46
    source: str
    target: str


class Observed(Step, frozen=True):
    """A system call that a report tells of: its number, who answers it, which arguments are paths or an address.

    ``vsbox.plan.observed`` says what the numbers mean.
    """

    CODE: ClassVar[int] = 47
    number: int
    answer: int
    path: int
    directory: int
    second: int
    second_directory: int
    address: int
    follow: int


class Unconfined(Step, frozen=True):
    """Nothing is enforced: it is reported, or left to the guard. ``notice`` is said on a terminal."""

    CODE: ClassVar[int] = 48
    notice: str


class Export(Step, frozen=True):
    """A directory inside that is handed to the program that asked for the run, open."""

    CODE: ClassVar[int] = 49
    path: str


class Changes(Step, frozen=True):
    """A directory of the host as it is; what changes is kept apart, up to a size, and handed over like an export."""

    CODE: ClassVar[int] = 50
    source: str
    target: str
    size: int


class Wait(Step, frozen=True):
    """The payload starts when the program that asked for the run says so: it puts files in first."""

    CODE: ClassVar[int] = 51


class Apparmor(Step, frozen=True):
    """The AppArmor profile that the payload's process enters before all else, and never leaves."""

    CODE: ClassVar[int] = 52
    profile: str


Steps: TypeAlias = tuple[Step, ...]
