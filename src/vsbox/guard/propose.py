"""The least policy that would let a watched run pass, as items a person can take or leave.

Security: code inside decides what is denied, and can say that it was what was not. So there is never a credential,
nor a place that the user's own tools execute from or take settings from, nor what the user has hidden. A directory
that holds a credential is not proposed as a whole.
"""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from vsbox.guard import credentials
from vsbox.guard.credentials import PACKAGES, SOURCES
from vsbox.guard.judge import OF_THE_KERNEL, parents
from vsbox.guard.records import CONTENT, NETWORK, READING, Record
from vsbox.plan.project import is_protected_name
from vsbox.policy.grants import is_below

OF_TOOLS: Final = frozenset(
    {"pip", "uv", "pypoetry", "pdm", "pipenv", "pre-commit", "virtualenv", "go-build", "yarn", "npm", "node"}
    | {"ms-playwright", "selenium", "huggingface", "torch", "puppeteer", "electron", "bazel", "ccache", "sccache"}
)
"""Caches of tools that execute, or install, what is in them."""
MADE_BY_PROGRAMS: Final = (".cache", ".local/state")
"""Hidden directories of a home that hold data and nothing that is obeyed."""
OF_COMMANDS: Final = frozenset({"bin", ".bin", "sbin"})
"""Directories of a home that hold commands, whatever ``PATH`` is at this moment."""
OBEYED: Final = frozenset({"R", "Desktop", "Library", "node_modules"})
"""Uppermost directories of a home that programs are loaded or started from."""
OF_THE_SYSTEM: Final = (
    "/etc", "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/boot", "/opt", "/run", "/snap", "/nix",
    "/gnu", "/dev", "/proc", "/sys", "/var/lib", "/var/spool", "/var/run", "/var/cron", "/var/mail", "/var/www",
)  # fmt: skip
"""Where programs, services and their settings are: nothing there is proposed for writing."""
EXECUTED: Final = (
    (("pyvenv.cfg",), "an environment"),
    (("conda-meta",), "an environment"),
    (("sandbox/sandbox.json",), "a box"),
    (("sandbox/exec",), "a box"),
    (("HEAD", "objects", "refs"), "a repository"),
    (("HEAD", "commondir"), "a repository"),
)
"""What a directory holds that is one of these, as ``native/project_scan.c`` finds them in a project: only there are
they kept read-only at each start, and without namespaces not all of that is. So no directory with one is proposed."""
MARKING: Final = frozenset({"pyvenv.cfg", "conda-meta", "sandbox", "HEAD"})
"""One name of each, by which it is noticed."""
MOST_LOOKED_AT: Final = 50_000
"""Entries of a directory that is to be proposed; one that holds more is not."""
MOST_IN_ALL: Final = 1_000_000
"""Entries of all directories: code inside decides how many there are to look through."""
OF_ONE_PROGRAM: Final = (".cache", ".config", ".local/share", ".local/state", ".local/lib")
"""Directories of a home whose children each belong to one program."""
ENOUGH: Final = 3
"""Neighbours that are all needed: so is what holds them."""
TOO_BROAD: Final = frozenset(
    {"/", "/home", "/root", "/etc", "/var", "/usr", "/opt", "/srv", "/tmp", "/var/tmp", "/run", "/dev", "/proc", "/sys"}
    | {"/mnt", "/media", "/var/lib", "/var/cache", "/boot", "/Users"}
)  # fmt: skip


@dataclass(frozen=True)
class Item:
    """One line of policy: ``key`` of ``sandbox.json``, what is added to it, and what needs it.

    ``instead_of``: entries of ``read_only_paths`` in it, which go.
    """

    key: Literal["allowed_paths", "read_only_paths", "network"]
    value: str
    needed_by: tuple[str, ...]
    instead_of: tuple[str, ...] = ()


@dataclass(frozen=True)
class Refused:
    """What is not proposed, and why."""

    target: str
    operation: str
    reason: str
    needed_by: tuple[str, ...]
    is_credential: bool = False


@dataclass(frozen=True)
class Proposal:
    """Items in the order of their paths, and what a person must decide without us."""

    items: tuple[Item, ...]
    refused: tuple[Refused, ...]


class NotSeenError(Exception):
    """A directory was not looked through to its end; the text says why."""


def names_below(directory: str) -> Iterator[str]:
    """Yield what is below a directory, what is near first; installed packages are passed over.

    No links are followed, but of one to a box, an environment or a repository the mark is told.

    Raises:
        NotSeenError: there is more than a number, or a part that cannot be read.
    """
    waiting, left = deque([directory]), MOST_LOOKED_AT
    while waiting:
        place = waiting.popleft()
        try:
            entries = list(os.scandir(place))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise NotSeenError(f"{place} cannot be read: {error.strerror}") from error
        left -= len(entries)
        if left < 0:
            raise NotSeenError(f"it holds more than {MOST_LOOKED_AT} files")
        for entry in entries:
            yield entry.path
            if entry.is_symlink():  # who may write here makes it lead elsewhere
                yield from filter(os.path.lexists, (f"{entry.path}/{mark}" for mark in MARKING))
            elif entry.is_dir(follow_symlinks=False) and entry.name.lower() not in PACKAGES:
                waiting.append(entry.path)


@dataclass(frozen=True)
class Disk:
    """What is asked of the disk, as functions of a path; tests bring their own."""

    is_directory: Callable[[str], bool] = os.path.isdir
    exists: Callable[[str], bool] = os.path.lexists
    real: Callable[[str], str] = os.path.realpath
    below: Callable[[str], Iterable[str]] = names_below


@dataclass
class Proposer:
    """Knows one box: where it is, whose home it is in, and what its user must not let be written.

    ``hidden``: what the policy hides; ``commands``: where the user's shell looks for commands; ``other_homes``: what
    ``HOME`` says besides; ``read_only``: what may be read already; ``has_exceptions``: it may stay read-only below what
    may be written.
    """

    box: str
    home: str
    own_paths: tuple[str, ...] = ()
    disk: Disk = field(default_factory=Disk)
    hidden: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    other_homes: tuple[str, ...] = ()
    read_only: tuple[str, ...] = ()
    has_exceptions: bool = True
    _seen: dict[tuple[str, str], str] = field(default_factory=dict, repr=False)
    _looked_at: int = 0

    def propose(self, denied: Iterable[Record]) -> Proposal:
        """Return what would let all of it pass."""
        denied = tuple(denied)
        changed = {record.target for record in denied if record.operation not in READING}
        wanted, refused = self._sorted(denied)
        written = self._merged(wanted["allowed_paths"], writes=True)
        read = {
            path: names
            for path, names in self._merged(wanted["read_only_paths"], writes=False).items()
            if not any(is_below(path, other) for other in written)
        }
        items = [
            *(
                replace(item, instead_of=self._taken_up_by(item.value, changed))
                for item in _items("allowed_paths", written)
            ),
            *_items("read_only_paths", read),
            *_items("network", wanted["network"]),
        ]
        return Proposal(tuple(items), tuple(refused))

    def _taken_up_by(self, directory: str, changed: set[str]) -> tuple[str, ...]:
        """Return what in a directory cannot stay read-only: it is to be changed, or there are no exceptions."""
        inner = (path for path in self.read_only if is_below(path, directory))
        return tuple(path for path in inner if path in changed or not self.has_exceptions)

    @property
    def _homes(self) -> tuple[str, ...]:
        return (self.home, *self.other_homes)

    def _sorted(self, denied: Iterable[Record]) -> tuple[dict[str, dict[str, set[str]]], Iterable[Refused]]:
        """Return what is needed, by the key of the policy and with who needs it, and what is not proposed."""
        wanted: dict[str, dict[str, set[str]]] = {"allowed_paths": {}, "read_only_paths": {}, "network": {}}
        refused: dict[tuple[str, str], Refused] = {}
        records = tuple(denied)
        ways = {parent for record in records for parent in parents(record.target) if record.operation != "look"}
        for record in records:
            if record.operation == "look" and record.target in ways:
                continue
            who = record.distribution or "your code"
            key, value = self._needed(record)
            reason = self._objection(record, key, value)
            if reason:
                known = refused.get((value, record.operation))
                names = tuple(sorted({who, *(known.needed_by if known else ())}))
                refused[value, record.operation] = Refused(value, record.operation, reason, names, reason == CREDENTIAL)
            else:
                wanted[key].setdefault(value, set()).add(who)
        return wanted, refused.values()

    def _needed(self, record: Record) -> tuple[str, str]:
        if record.rule == NETWORK:
            return "network", "host"
        if record.operation in READING:
            return "read_only_paths", record.target
        is_content = record.operation in CONTENT and self.disk.exists(record.target)
        return "allowed_paths", record.target if is_content else os.path.dirname(record.target)

    def _objection(self, record: Record, key: str, value: str) -> str:
        if record.operation == "call":
            return "a kernel interface that programs can do without: " + record.rule.removeprefix("system call: ")
        if key == "network":
            return ""
        if self.is_credential(record.target):
            return CREDENTIAL
        if record.rule.startswith("protected"):
            return "your own tools would execute it"
        return self._objection_to_path(record.operation, key, value)

    def _objection_to_path(self, operation: str, key: str, value: str) -> str:
        if not value.startswith("/"):
            return "what it is cannot be granted by a path"
        if value in TOO_BROAD or any(is_below(home, value) for home in self._homes):
            return "too broad: it holds much else of yours"
        if is_below(value, self.box):
            return (
                "the box itself: see packages in sandbox.json"
                if key == "allowed_paths"
                else "the outside half of the box"
            )
        if any(is_below(value, place) for place in OF_THE_KERNEL):
            return "the kernel's own, of which the sandbox has its part"
        if not value.isprintable():
            return "its name cannot be shown as it is"
        if any(is_below(value, place) for place in self.hidden):
            return "you have hidden it: hidden_paths in sandbox.json"
        if operation == "connect":
            return "what listens there works outside, on behalf of whoever asks"
        outside = self._objection_to_writing(value) if key == "allowed_paths" else ""
        return outside or self._objection_to_place(value)

    def _objection_to_place(self, value: str) -> str:
        if self.disk.real(value) != value:
            return (
                f"it goes through a symbolic link to {self.disk.real(value)}: name that in your program, and grant it"
            )
        if not self.disk.exists(value):
            return "it does not exist: make it first"
        return self._credential_below(value)

    def _objection_to_writing(self, value: str) -> str:
        """Say what speaks against writing there: code inside must not be able to leave what is executed outside."""
        outside = (self.box, *self.own_paths)
        if any(is_below(place, value) or is_below(value, place) for place in outside):
            return "it holds what runs outside: this box, or vsbox itself"
        if any(is_below(value, place) for place in OF_THE_SYSTEM):
            return "programs and settings of the system are there"
        if any(is_below(place, value) or is_below(value, place) for place in self.commands):
            return "your shell finds commands there"
        home = self._home_of(value)
        if value == home:
            return "too broad: it holds much else of its owner's"
        if any(is_protected_name(part) for part in value[len(home) :].split("/") if part):
            return "your own tools would execute it"
        above = next(filter(None, map(self._executed_in, [value, *reversed(parents(value))])), "")
        if above:
            return above
        rest = value[len(home) + 1 :] if home else ""
        parts = rest.split("/")
        if not OF_COMMANDS.isdisjoint(parts) or parts[0] in OBEYED:
            return "your own tools take settings and programs from there"
        kept = [place for place in MADE_BY_PROGRAMS if is_below(rest, place) and rest != place]
        program = rest[len(kept[0]) + 1 :].split("/", maxsplit=1)[0] if kept else ""
        if home and rest.startswith(".") and (not kept or program in OF_TOOLS):
            return "your own tools take settings and programs from there"
        return self._executed_below(value)

    def _executed_in(self, directory: str) -> str:
        key = directory, "in it"
        if key not in self._seen:
            self._seen[key] = self._marked(directory)
        return self._seen[key]

    def _marked(self, directory: str) -> str:
        """Say what the user's tools execute in a directory that is a box, an environment or a bare repository."""
        if directory.rpartition("/")[2].lower() in PACKAGES:
            return f"{directory} holds installed packages, which are executed outside"
        for marks, what in EXECUTED:
            if all(self.disk.exists(f"{directory.rstrip('/')}/{mark}") for mark in marks):
                return f"{directory} is {what}, whose files are executed outside"
        return ""

    def _executed_below(self, directory: str) -> str:
        """Say what the user's tools would execute below a directory, or that not all was seen."""
        if not self.disk.is_directory(directory):
            return ""
        return self._found_below(directory, self._is_executed, "it holds what your own tools would execute")

    def _is_executed(self, path: str) -> bool:
        directory, _, name = path.rpartition("/")
        if is_protected_name(name) or name.lower() in PACKAGES:
            return True
        return name in MARKING and bool(self._executed_in(directory))

    def _home_of(self, path: str) -> str:
        """Return whose home a path is in, or "" for none."""
        somebody = "/".join(path.split("/")[:3]) if path.startswith("/home/") else ""
        return next((home for home in (*self._homes, "/root", somebody) if home and is_below(path, home)), "")

    def _credential_below(self, directory: str) -> str:
        """Say what speaks against granting a directory as a whole: a credential in it, or that not all was seen."""
        if not self.disk.is_directory(directory):
            return ""
        place = self._credential_place_below(directory)
        if place:
            return f"{HOLDS_CREDENTIAL}: {place}"
        return self._found_below(directory, self._is_credential_below, HOLDS_CREDENTIAL)

    def _found_below(self, directory: str, is_found: Callable[[str], bool], what: str) -> str:
        key = directory, what
        if key not in self._seen:
            self._seen[key] = self._look_through(directory, is_found, what)
        return self._seen[key]

    def _look_through(self, directory: str, is_found: Callable[[str], bool], what: str) -> str:
        try:
            found = next(filter(is_found, self._counted(self.disk.below(directory))), None)
        except NotSeenError as error:
            return f"it was not looked through to its end: {error}"
        return "" if found is None else f"{what}: {found}"

    def _counted(self, paths: Iterable[str]) -> Iterator[str]:
        for path in paths:
            self._looked_at += 1
            if self._looked_at > MOST_IN_ALL:
                raise NotSeenError("too much was looked through already; learn from a part of it first")
            yield path

    def _is_credential_below(self, path: str) -> bool:
        return not path.endswith(SOURCES) and self.is_credential(path)

    def is_credential(self, path: str) -> bool:
        """Tell whether a path is, or is below, something that opens something else."""
        return any(credentials.is_credential(path, home) for home in self._homes)

    def _credential_place_below(self, directory: str) -> str:
        """Return a place of the table that a directory is above, or ""."""
        for pattern, home in itertools.product(credentials.PLACES, self._homes):
            whole = pattern.replace("~", home, 1)
            if whole == directory:
                return whole
            if "*" not in whole and is_below(whole, directory) and self.disk.exists(whole):
                return whole
        return ""

    def _merged(self, paths: dict[str, set[str]], *, writes: bool) -> dict[str, set[str]]:
        """Replace what belongs together by what holds it, as long as nothing else comes with it that matters."""
        found: dict[str, set[str]] = {}
        for path, names in paths.items():
            found.setdefault(self._program_directory(path, writes=writes), set()).update(names)
        grew = True
        while grew:
            grew = False
            beside: dict[str, list[str]] = {}
            for path in found:
                beside.setdefault(os.path.dirname(path), []).append(path)
            for parent, children in beside.items():
                if len(children) >= ENOUGH and not writes and self._may_stand_for(parent):
                    found[parent] = set().union(*(found.pop(child) for child in children)) | found.get(parent, set())
                    grew = True
        return {
            path: names
            for path, names in found.items()
            if not any(path != other and is_below(path, other) for other in found)
        }

    def _program_directory(self, path: str, *, writes: bool) -> str:
        for shared in OF_ONE_PROGRAM:
            base = f"{self.home}/{shared}"
            if is_below(path, base) and path != base:
                directory = f"{base}/{path[len(base) + 1 :].split('/', maxsplit=1)[0]}"
                if writes and self._objection_to_writing(directory):
                    continue
                if self.disk.is_directory(directory) and self._may_stand_for(directory):
                    return directory
        return path

    def _may_stand_for(self, directory: str) -> bool:
        shared = {f"{self.home}/{name}" for name in OF_ONE_PROGRAM} | {f"{self.home}/.local"}
        if directory in TOO_BROAD | shared or is_below(self.home, directory) or is_below(self.box, directory):
            return False
        if any(is_below(place, directory) or is_below(directory, place) for place in self.hidden):
            return False
        return not self.is_credential(directory) and not self._credential_below(directory)


CREDENTIAL: Final = "a credential, or a place of them"
HOLDS_CREDENTIAL: Final = f"it holds {CREDENTIAL}"


def _items(key: Literal["allowed_paths", "read_only_paths", "network"], found: dict[str, set[str]]) -> Iterator[Item]:
    for value in sorted(found):
        yield Item(key, value, tuple(sorted(found[value])))
