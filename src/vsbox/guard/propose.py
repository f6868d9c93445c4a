"""The least policy that would let a watched run pass, as items a person can take or leave.

Security: never a credential. What looks like one is listed with a warning; a directory that holds one is not
proposed as a whole.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, Literal

from vsbox.guard.judge import parents
from vsbox.guard.records import CONTENT, NETWORK, READING, Record
from vsbox.policy.grants import is_below

CREDENTIALS: Final = (
    # below a home
    "~/.ssh", "~/.gnupg", "~/.aws", "~/.azure", "~/.kube", "~/.docker", "~/.config/gcloud", "~/.config/gh",
    "~/.config/glab-cli", "~/.config/hub", "~/.config/op", "~/.config/rclone", "~/.config/doctl", "~/.config/heroku",
    "~/.config/git/credentials", "~/.config/containers/auth.json", "~/.config/pip", "~/.config/uv",
    "~/.config/pypoetry",
    "~/.config/age", "~/.config/sops", "~/.config/Bitwarden*", "~/.config/KeePass*", "~/.config/keepassxc",
    "~/.netrc", "~/.pypirc", "~/.npmrc", "~/.yarnrc*", "~/.git-credentials", "~/.pgpass", "~/.my.cnf", "~/.s3cfg",
    "~/.boto",
    "~/.databrickscfg", "~/.snowflake", "~/.vault-token", "~/.terraform.d", "~/.terraformrc", "~/.oci", "~/.ibmcloud",
    "~/.cargo/credentials*", "~/.gem/credentials", "~/.m2/settings.xml", "~/.gradle/gradle.properties", "~/.kaggle",
    "~/.huggingface", "~/.cache/huggingface/token", "~/.cache/huggingface/stored_tokens", "~/.openai", "~/.anthropic",
    "~/.password-store", "~/.local/share/keyrings", "~/.local/share/kwalletd", "~/.keychain", "~/.pki", "~/.putty",
    "~/.*_history", "~/.local/share/fish/fish_history",
    # browsers and mail
    "~/.mozilla", "~/.thunderbird", "~/.config/google-chrome*", "~/.config/chromium", "~/.config/BraveSoftware",
    "~/.config/microsoft-edge*", "~/.config/opera*", "~/.config/vivaldi*", "~/.librewolf", "~/.var/app", "~/snap",
    "~/.config/Signal", "~/.config/Slack", "~/.config/discord", "~/.electrum", "~/.bitcoin", "~/.ethereum",
    # of the machine
    "/etc/shadow*", "/etc/gshadow*", "/etc/sudoers*", "/etc/ssl/private", "/etc/ssh", "/run/secrets", "/run/user",
    "/var/run/secrets", "/var/run/docker.sock", "/run/docker.sock", "/etc/kubernetes", "/etc/letsencrypt", "/root/.ssh",
)  # fmt: skip
"""Patterns of places; ``~`` is any home."""
CREDENTIAL_NAMES: Final = (
    "id_rsa*", "id_ed25519*", "id_ecdsa*", "id_dsa*", "*.pem", "*.key", "*.p12", "*.pfx", "*.kdbx", "*.jks",
    "*.keystore",
    "credential*", "*credentials*", "secret*", "*secrets*", "*.secret", "token", "*.token", "*_token", "tokens*",
    "*passwd*", "*password*", ".env", ".env.*", "*.ovpn", "auth.json", "wallet.dat", ".netrc", ".pypirc",
)  # fmt: skip
"""Names that say it themselves, wherever they are."""
CREDENTIAL_DIRECTORIES: Final = frozenset({".ssh", ".gnupg", ".aws", ".kube", ".docker", "secrets", "keyrings"})
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
    """One line of policy: ``key`` of ``sandbox.json``, what is added to it, and what needs it."""

    key: Literal["allowed_paths", "read_only_paths", "network"]
    value: str
    needed_by: tuple[str, ...]


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


@dataclass(frozen=True)
class Disk:
    """What is asked of the disk, as functions of a path; tests bring their own."""

    is_directory: Callable[[str], bool] = os.path.isdir
    exists: Callable[[str], bool] = os.path.lexists
    real: Callable[[str], str] = os.path.realpath


@dataclass
class Proposer:
    """Knows one box: where it is, whose home it is in, and what its user must not let be written."""

    box: str
    home: str
    own_paths: tuple[str, ...] = ()
    disk: Disk = field(default_factory=Disk)

    def propose(self, denied: Iterable[Record]) -> Proposal:
        """Return what would let all of it pass."""
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
        written = self._merged(wanted["allowed_paths"], writes=True)
        read = {
            path: names
            for path, names in self._merged(wanted["read_only_paths"], writes=False).items()
            if not any(is_below(path, other) for other in written)
        }
        items = [
            *_items("allowed_paths", written),
            *_items("read_only_paths", read),
            *_items("network", wanted["network"]),
        ]
        return Proposal(tuple(items), tuple(refused.values()))

    def _needed(self, record: Record) -> tuple[str, str]:
        if record.rule == NETWORK:
            return "network", "host"
        if record.operation in READING:
            return "read_only_paths", record.target
        is_content = record.operation in CONTENT and self.disk.exists(record.target)
        return "allowed_paths", record.target if is_content else os.path.dirname(record.target)  # noqa: PTH120 - any text

    def _objection(self, record: Record, key: str, value: str) -> str:
        if record.operation == "call":
            return "a kernel interface that programs can do without: " + record.rule.removeprefix("system call: ")
        if key == "network":
            return ""
        if self.is_credential(record.target):
            return CREDENTIAL
        if record.rule.startswith("protected"):
            return "your own tools would execute it"
        if not value.startswith("/"):
            return "what it is cannot be granted by a path"
        if value in TOO_BROAD or is_below(self.home, value):
            return "too broad: it holds much else of yours"
        if is_below(value, self.box):
            return (
                "the box itself: see packages in sandbox.json"
                if key == "allowed_paths"
                else "the outside half of the box"
            )
        if key == "allowed_paths" and any(
            is_below(o, value) or is_below(value, o) for o in (self.box, *self.own_paths)
        ):
            return "it holds what runs outside: this box, or vsbox itself"
        if self.disk.real(value) != value:
            return (
                f"it goes through a symbolic link to {self.disk.real(value)}: name that in your program, and grant it"
            )
        if not self.disk.exists(value):
            return "it does not exist: make it first"
        return ""

    def is_credential(self, path: str) -> bool:
        """Tell whether a path is, or is below, something that opens something else."""
        names = path.split("/")
        if any(fnmatch.fnmatch(name.lower(), pattern) for name in names[-1:] for pattern in CREDENTIAL_NAMES):
            return True
        if not CREDENTIAL_DIRECTORIES.isdisjoint(names):
            return True
        return any(self._matches(path, pattern) for pattern in CREDENTIALS)

    def _matches(self, path: str, pattern: str) -> bool:
        for home in (self.home, "/root", "/".join(path.split("/")[:3])) if pattern.startswith("~/") else ("",):
            whole = pattern.replace("~", home, 1)
            depth = whole.count("/") + 1
            if fnmatch.fnmatch("/".join(path.split("/")[:depth]), whole):
                return True
        return False

    def _holds_credential(self, directory: str) -> bool:
        """Tell whether a directory is above a place of the table. Names in it are not looked at: there may be many."""
        for pattern in CREDENTIALS:
            whole = pattern.replace("~", self.home, 1)
            fixed = whole.split("*", maxsplit=1)[0]
            if is_below(fixed, directory) and ("*" in whole or self.disk.exists(whole)):
                return True
        return False

    def _merged(self, paths: dict[str, set[str]], *, writes: bool) -> dict[str, set[str]]:
        """Replace what belongs together by what holds it, as long as nothing else comes with it that matters."""
        found: dict[str, set[str]] = {}
        for path, names in paths.items():
            found.setdefault(self._program_directory(path), set()).update(names)
        grew = True
        while grew:
            grew = False
            beside: dict[str, list[str]] = {}
            for path in found:
                beside.setdefault(os.path.dirname(path), []).append(path)  # noqa: PTH120
            for parent, children in beside.items():
                if len(children) >= ENOUGH and not writes and self._may_stand_for(parent):
                    found[parent] = set().union(*(found.pop(child) for child in children)) | found.get(parent, set())
                    grew = True
        return {
            path: names
            for path, names in found.items()
            if not any(path != other and is_below(path, other) for other in found)
        }

    def _program_directory(self, path: str) -> str:
        for shared in OF_ONE_PROGRAM:
            base = f"{self.home}/{shared}"
            if is_below(path, base) and path != base:
                directory = f"{base}/{path[len(base) + 1 :].split('/', maxsplit=1)[0]}"
                if self.disk.is_directory(directory) and self._may_stand_for(directory):
                    return directory
        return path

    def _may_stand_for(self, directory: str) -> bool:
        shared = {f"{self.home}/{name}" for name in OF_ONE_PROGRAM} | {f"{self.home}/.local"}
        if directory in TOO_BROAD | shared or is_below(self.home, directory) or is_below(self.box, directory):
            return False
        return not self.is_credential(directory) and not self._holds_credential(directory)


CREDENTIAL: Final = "a credential, or a place of them"


def _items(key: Literal["allowed_paths", "read_only_paths", "network"], found: dict[str, set[str]]) -> Iterator[Item]:
    for value in sorted(found):
        yield Item(key, value, tuple(sorted(found[value])))
