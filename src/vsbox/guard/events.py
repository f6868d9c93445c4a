"""What the launcher tells of a watched run, as values: a system call, or a note of the guard in a Python process.

The format is that of ``native/observer.c``. Notes come from inside and can be forged: they add to what the kernel
has seen, and hide nothing of it.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from vsbox.guard.records import MOST_NAMES
from vsbox.plan.observed import HEAD, NONE, OBSERVED, name_of_call, operation_of
from vsbox.seccomp.rules import FIXED_RULES, matches

NOTE_PREFIX: Final = "/.vsbox-observer/"
HIDES: Final = "hide"
UNSEEN: Final = "what it touches"
"""A process that lets nobody look at its memory (``prctl(PR_SET_DUMPABLE)``, a program that may not be read)."""
FIELD, ITEM = "\x1f", "\x1e"
NOTED: Final = frozenset(
    {"spawn", "read", "write", "list", "enter", "open", "load", "execute", "connect", "resolve"}
    | {"create", "rename", "link", "remove", "change", "truncate"}
)
"""What the guard tells of. What else a note says was made up."""
INTERNET: Final = frozenset({2, 10})
"""AF_INET, AF_INET6: a socket of these is asked about where there is no network."""
UNIX_PATH_AT: Final = 2
"""In a ``sockaddr_un``, after the family."""


@dataclass(frozen=True)
class Owner:
    """On whose behalf something happens: an installed distribution ("" for none), where, and those further out."""

    distribution: str = ""
    where: str = ""
    chain: tuple[str, ...] = ()


NOBODY: Final = Owner()


@dataclass(frozen=True)
class Touch:
    """One thing that a process did or tried: ``operation`` on ``target``, a path, an address, a host or a call.

    ``owner`` is who the guard says it was for; ``library`` the innermost library of a package on the calling stack.
    """

    time: float
    pid: int
    parent: int
    program: str
    operation: str
    target: str
    owner: Owner | None = None
    library: str = ""


@dataclass(frozen=True)
class Spawn:
    """The guard says on whose behalf a process is about to start another program."""

    pid: int
    owner: Owner


def _texts(packet: bytes) -> Iterator[bytes]:
    at = HEAD.size
    while at + 2 <= len(packet):
        (length,) = struct.unpack_from("<H", packet, at)
        yield packet[at + 2 : at + 2 + length]
        at += 2 + length


def _address(data: bytes) -> str:
    """Return a socket address as people write it; "" for one that says nothing."""
    if len(data) < UNIX_PATH_AT:
        return ""
    (family,) = struct.unpack_from("<H", data)
    if family == 1:  # AF_UNIX
        path = data[UNIX_PATH_AT:]
        return os.fsdecode(b"@" + path[1:] if path[:1] == b"\0" else path.split(b"\0")[0])
    size, at = {2: (4, 4), 10: (16, 8)}.get(family, (0, 0))  # AF_INET, AF_INET6
    if not size or len(data) < at + size:
        return ""
    kind = socket.AF_INET if family == 2 else socket.AF_INET6
    host = socket.inet_ntop(kind, data[at : at + size])
    return f"{host} port {int.from_bytes(data[2:4], 'big')}"


def _note(time: float, pid: int, parent: int, program: str, text: str) -> Touch | Spawn | None:
    fields = text.split(FIELD)
    if len(fields) != 5 or fields[0] not in NOTED:
        return None
    operation, target, distribution, where, chain = fields
    owner = Owner(distribution[:200], where, tuple(filter(None, chain.split(ITEM)))[:MOST_NAMES])
    if operation == "spawn":
        return Spawn(pid, owner)
    return Touch(time, pid, parent, program, operation, target, owner)


def decode(packet: bytes, machine: str) -> Iterator[Touch | Spawn]:
    """Yield what one packet of the launcher says; nothing for one that is cut short."""
    if len(packet) < HEAD.size:
        return
    _, number, _, pid, parent, unseen, time_ns, *arguments, name = HEAD.unpack_from(packet)
    first, other, address, last = [*_texts(packet), b"", b"", b"", b""][:4]
    path, second, library = map(os.fsdecode, (first, other, last))
    program = name.split(b"\0")[0].decode(errors="replace")
    time = time_ns / 1e9
    if path.startswith(NOTE_PREFIX):
        note = _note(time, pid, parent, program, path[len(NOTE_PREFIX) :])
        if note is not None:
            yield note
        return
    if unseen:
        yield Touch(time, pid, parent, program, HIDES, UNSEEN, None, library)
        return
    call = name_of_call(number, machine)
    operation = operation_of(call, tuple(arguments), machine)
    entry = OBSERVED.get(call)
    if call == "socket" and arguments[0] in INTERNET:
        yield Touch(time, pid, parent, program, "connect", "the network", None, library)
        return
    refused = any(matches(rule, tuple(arguments)) for rule in FIXED_RULES.get(call, ()))  # told of where nothing is
    if entry is None or operation == "call" or refused:
        yield Touch(time, pid, parent, program, "call", call, None, library)
    if entry is None or operation == "call":
        return
    targets = [_address(address)] if entry.address != NONE else [path, second] if entry.second != NONE else [path]
    if call == "bind":  # of a port nothing is said
        targets = [target for target in targets if target.startswith("/")]
    for target in filter(None, targets):
        yield Touch(time, pid, parent, program, operation, target, None, library)
