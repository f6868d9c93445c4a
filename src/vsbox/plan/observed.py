"""System calls that a report tells of: which of their arguments is a path, and what they do to it.

The launcher sends each call to Python outside (``native/observer.c``), which takes the operation from here.
Argument numbers are those of the man pages.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from vsbox.plan import steps
from vsbox.seccomp import FilterSpec, told_refusals
from vsbox.seccomp.rules import FIXED_RULES
from vsbox.seccomp.syscalls import architecture

NONE: Final = 255
BROKER: Final = 5000
"""``native/vsbox.h``: ARGUMENT_NONE, ANSWER_BROKER."""


class Observed(NamedTuple):
    """A call: its operation; where a path is, and the directory that it starts from; the same of a second path."""

    operation: str
    path: int = NONE
    directory: int = NONE
    second: int = NONE
    second_directory: int = NONE
    address: int = NONE
    follow: bool = True
    flags: int = NONE
    """Of open(2): the argument that says whether it reads or writes."""


def _entry(
    operation: str, path: int, directory: int = NONE, second: int = NONE, second_directory: int = NONE
) -> Observed:
    return Observed(operation, path, directory, second, second_directory, follow=False)


OBSERVED: Final[dict[str, Observed]] = {
    "open": Observed("open", 0, flags=1),
    "openat": Observed("open", 1, 0, flags=2),
    "creat": Observed("write", 0),
    "execve": Observed("execute", 0),
    "execveat": Observed("execute", 1, 0),
    "stat": Observed("look", 0),
    "access": Observed("look", 0),
    "newfstatat": Observed("look", 1, 0),
    "faccessat": Observed("look", 1, 0),
    "faccessat2": Observed("look", 1, 0),
    "statx": Observed("look", 1, 0),
    "lstat": _entry("look", 0),
    "chdir": Observed("enter", 0),
    "mkdir": _entry("create", 0),
    "mkdirat": _entry("create", 1, 0),
    "mknod": _entry("create", 0),
    "mknodat": _entry("create", 1, 0),
    "symlink": _entry("create", 1),
    "symlinkat": _entry("create", 2, 1),
    "link": _entry("link", 0, NONE, 1),
    "linkat": _entry("link", 1, 0, 3, 2),
    "rename": _entry("rename", 0, NONE, 1),
    "renameat": _entry("rename", 1, 0, 3, 2),
    "renameat2": _entry("rename", 1, 0, 3, 2),
    "unlink": _entry("remove", 0),
    "unlinkat": _entry("remove", 1, 0),
    "rmdir": _entry("remove", 0),
    "truncate": Observed("truncate", 0),
    "chmod": Observed("change", 0),
    "fchmodat": Observed("change", 1, 0),
    "fchmodat2": Observed("change", 1, 0),
    "chown": Observed("change", 0),
    "lchown": _entry("change", 0),
    "fchownat": Observed("change", 1, 0),
    "utime": Observed("change", 0),
    "utimes": Observed("change", 0),
    "futimesat": Observed("change", 1, 0),
    "utimensat": Observed("change", 1, 0),
    "setxattr": Observed("change", 0),
    "lsetxattr": _entry("change", 0),
    "removexattr": Observed("change", 0),
    "lremovexattr": _entry("change", 0),
    "connect": Observed("connect", address=1),
    "sendto": Observed("connect", address=4),
    "bind": Observed("create", address=1, follow=False),
}  # fmt: skip
CALL: Final = Observed("call")
"""What the filter refuses, and of which its name is all there is to tell."""
JUDGED_BY_ARGUMENTS: Final = frozenset({*FIXED_RULES, "socket", "socketpair"})
"""Calls that are refused with some arguments: where that is let pass, the launcher hears of just these."""

O_ACCMODE, O_CREAT, O_TRUNC, O_PATH = 0o3, 0o100, 0o1000, 0o10000000
O_DIRECTORY: Final = {"x86_64": 0o200000, "aarch64": 0o40000}


HEAD: Final = struct.Struct("<iIIIIIQ6Q32s")
"""What the launcher sends of each call first (``struct observation`` in ``native/broker.h``): kind, number, thread,
process, parent, whether its memory was not seen, Unix time in ns, arguments, name of the program."""
_NAMES: Final[dict[str, dict[int, str]]] = {}


def name_of_call(number: int, machine: str) -> str:
    """Return the name of a system call."""
    if machine not in _NAMES:
        _NAMES[machine] = {number: name for name, number in architecture(machine).table.items()}
    return _NAMES[machine].get(number, f"call {number}")


def observed_steps(spec: FilterSpec) -> Iterator[steps.Observed]:
    """Yield every call that the filter of ``spec`` sends to the launcher to be told of, and who answers it."""
    numbers = architecture(spec.machine).table
    refused = told_refusals(spec)
    names = spec.observed | refused.keys()
    if spec.refusal == "report":
        names |= JUDGED_BY_ARGUMENTS
    for name in sorted(names & numbers.keys()):
        is_refused = name in refused and spec.refusal == "errno"
        call = CALL if is_refused else OBSERVED.get(name, CALL)
        answer = refused[name] if is_refused else BROKER if name in spec.supervised else 0
        yield steps.Observed(
            numbers[name],
            answer,
            call.path,
            call.directory,
            call.second,
            call.second_directory,
            call.address,
            int(call.follow),
        )


def operation_of(name: str, arguments: tuple[int, ...], machine: str) -> str:
    """Return what a call with these arguments does."""
    call = OBSERVED.get(name, CALL)
    if call.flags == NONE:
        return call.operation
    flags = arguments[call.flags]
    if flags & O_PATH:
        return "look"
    if flags & O_ACCMODE or flags & (O_CREAT | O_TRUNC):
        return "write"
    return "list" if flags & O_DIRECTORY.get(machine, 0) else "read"
