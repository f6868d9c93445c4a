"""Options of ``bwrap`` as policy: what people know by heart means the same whatever carries it out.

Words are bwrap's own (bwrap(1)), each an element of ``bwrap_arguments``; in ``BWRAP_ARGS`` they are
split as a shell does. What names one path for source and destination becomes a grant and works with
every backend; other mounts, symbolic links and the host name need namespaces; a few options only
``bwrap`` has. Descriptors, capabilities and filters of one's own are refused by name.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Final, Literal

import msgspec

from vsbox.errors import PolicyError
from vsbox.policy.grants import Access, check_path, grants_of, is_below
from vsbox.policy.model import Policy, VariableName, VariableValue

KEY: Final = "bwrap_arguments"
TMPFS_MODE: Final = 0o755
OWN_TMPFS: Final = {"/tmp": "tmp_bytes", "/var/tmp": "tmp_bytes", "/dev/shm": "shm_bytes"}
"""Every box has one there; the limit that says its size."""

Kind = Literal["bind", "tmpfs", "directory", "symlink"]


@dataclass(frozen=True)
class Mount:
    """Something in the new root beside the grants; of a symbolic link ``source`` is its text."""

    kind: Kind
    target: str
    option: str
    source: str = ""
    access: Access = Access.WRITE
    device: bool = False
    optional: bool = False
    size: int | None = None
    mode: int = TMPFS_MODE


@dataclass(frozen=True)
class Mapped:
    """A policy with the words taken in, and what a policy cannot say.

    ``mounts``, in order, and ``hostname`` need namespaces. ``optional_paths`` are grants that may be
    missing. ``directory`` is where commands start. ``only_bubblewrap`` are words for ``bwrap`` itself.
    """

    policy: Policy
    mounts: tuple[Mount, ...] = ()
    optional_paths: frozenset[str] = frozenset()
    hostname: str | None = None
    directory: str | None = None
    only_bubblewrap: tuple[str, ...] = ()

    @property
    def only_namespaces(self) -> tuple[str, ...]:
        """The options among the words that need namespaces."""
        hostname = ("--hostname",) if self.hostname is not None else ()
        return (*dict.fromkeys(mount.option for mount in self.mounts), *hostname)

    @property
    def sources(self) -> tuple[str, ...]:
        """The paths of the host that ``mounts`` name."""
        return tuple(mount.source for mount in self.mounts if mount.kind == "bind")


@dataclass
class _Reading:
    """What the words so far come to."""

    policy: Policy
    uid: int
    gid: int
    mounts: list[Mount] = field(default_factory=list)
    optional: set[str] = field(default_factory=set)
    hostname: str | None = None
    directory: str | None = None
    only: list[str] = field(default_factory=list)
    size: int | None = None
    mode: int | None = None

    def change(self, **keys: object) -> None:
        self.policy = msgspec.structs.replace(self.policy, **keys)

    def change_environment(self, *, unset: tuple[str, ...], set_: dict[str, str]) -> None:
        environment = msgspec.structs.replace(self.policy.environment, unset=unset, set=set_)
        self.change(environment=environment)

    def take_modifiers(self) -> dict[str, Any]:
        taken = {"size": self.size, "mode": TMPFS_MODE if self.mode is None else self.mode}
        self.size = self.mode = None
        return taken


Effect = Callable[[_Reading, str, tuple[str, ...]], None]


def _path(option: str, text: str) -> str:
    """Return a path as policies write it; bwrap lets ``/a//b/`` pass."""
    normal = str(PurePosixPath("/" + text.lstrip("/"))) if text.startswith("/") else text
    try:
        return check_path(normal, key=f"{KEY}, {option}")
    except PolicyError as error:
        raise PolicyError(str(error), hint="write it in full, without '..'") from error


def _grant(reading: _Reading, path: str, access: Access) -> None:
    """The last word counts, as with bwrap; what is hidden stays so."""
    lists = {"allowed_paths": Access.WRITE, "read_only_paths": Access.READ}
    for key, meaning in lists.items():
        paths = tuple(known for known in getattr(reading.policy, key) if known != path)
        reading.change(**{key: (*paths, path) if meaning is access else paths})


def _bind(reading: _Reading, option: str, words: tuple[str, ...]) -> None:
    source, target = (_path(option, word) for word in words)
    access = Access.READ if "ro-" in option else Access.WRITE
    optional = option.endswith("-try")
    if is_below(source, "/proc") or (is_below(source, "/sys") and access is Access.WRITE):
        raise PolicyError(f"cannot use {option} {source}: there are all processes and settings of the host")
    if source == target and not option.startswith("--dev-"):
        _grant(reading, source, access)
        if optional:
            reading.optional.add(source)
        else:
            reading.optional.discard(source)
        return
    device = option.startswith("--dev-")
    reading.mounts.append(
        Mount("bind", target, option, source, access=access, device=device, optional=optional)
    )


def _tmpfs(reading: _Reading, option: str, words: tuple[str, ...]) -> None:
    target, modifiers = _path(option, words[0]), reading.take_modifiers()
    limit = OWN_TMPFS.get(target)
    if limit is None:
        reading.mounts.append(Mount("tmpfs", target, option, **modifiers))
    elif modifiers["size"] is not None:
        limits = msgspec.structs.replace(reading.policy.limits, **{limit: max(4096, modifiers["size"])})
        reading.change(limits=limits)


def _directory(reading: _Reading, option: str, words: tuple[str, ...]) -> None:
    reading.take_modifiers()
    reading.mounts.append(Mount("directory", _path(option, words[0]), option, access=Access.READ))


def _symlink(reading: _Reading, option: str, words: tuple[str, ...]) -> None:
    if not words[0]:
        raise PolicyError(f"bad {option} in {KEY}: a link needs a text")
    reading.mounts.append(Mount("symlink", _path(option, words[1]), option, words[0], access=Access.READ))


def _setenv(reading: _Reading, option: str, words: tuple[str, ...]) -> None:
    name, value = words
    _convert(option, name, VariableName)
    _convert(option, value, VariableValue)
    environment = reading.policy.environment
    reading.change_environment(unset=environment.unset, set_={**environment.set, name: value})


def _unsetenv(reading: _Reading, option: str, words: tuple[str, ...]) -> None:
    _convert(option, words[0], VariableName)
    environment = reading.policy.environment
    kept = {name: value for name, value in environment.set.items() if name != words[0]}
    reading.change_environment(unset=tuple(dict.fromkeys((*environment.unset, words[0]))), set_=kept)


def _clearenv(reading: _Reading, _option: str, _words: tuple[str, ...]) -> None:
    """Of the caller's nothing, of the box's what makes it one: PATH, HOME, VIRTUAL_ENV."""
    reading.change_environment(unset=("*",), set_={})


def _share_net(reading: _Reading, _option: str, _words: tuple[str, ...]) -> None:
    reading.change(network="host")


def _unshare_net(reading: _Reading, _option: str, _words: tuple[str, ...]) -> None:
    reading.change(network="none")


def _number(option: str, text: str, base: int, most: int) -> int:
    digits = "01234567" if base == 8 else "0123456789"
    if not text or text.strip(digits) or len(text) > 20 or int(text, base) > most:
        raise PolicyError(f"bad {option} in {KEY}: {text!r} is not {'an octal mode' if base == 8 else 'a number'}")
    return int(text, base)


def _perms(reading: _Reading, option: str, words: tuple[str, ...]) -> None:
    reading.mode = _number(option, words[0], 8, 0o7777)


def _size(reading: _Reading, option: str, words: tuple[str, ...]) -> None:
    reading.size = _number(option, words[0], 10, (1 << 63) - 1)


def _hostname(reading: _Reading, option: str, words: tuple[str, ...]) -> None:
    if not 0 < len(words[0].encode(errors="surrogateescape")) <= 64:
        raise PolicyError(f"bad {option} in {KEY}: a host name has 1 to 64 bytes")
    reading.hostname = words[0]


def _chdir(reading: _Reading, option: str, words: tuple[str, ...]) -> None:
    reading.directory = _path(option, words[0])


def _identity(reading: _Reading, option: str, words: tuple[str, ...]) -> None:
    own = reading.uid if option == "--uid" else reading.gid
    if _number(option, words[0], 10, (1 << 32) - 2) != own:
        reading.only += [option, words[0]]


def _already_so(_reading: _Reading, _option: str, _words: tuple[str, ...]) -> None:
    """Every box has it."""


def _only_at(place: str) -> Effect:
    def effect(_reading: _Reading, option: str, words: tuple[str, ...]) -> None:
        if _path(option, words[0]) != place:
            raise PolicyError(f"cannot use {option} {words[0]}: a box has its own at {place} only")

    return effect


def _for_bubblewrap(reading: _Reading, option: str, words: tuple[str, ...]) -> None:
    reading.only += [option, *words]


def _refused(reason: str) -> Effect:
    def effect(_reading: _Reading, option: str, _words: tuple[str, ...]) -> None:
        raise PolicyError(f"cannot use {option} in {KEY}: {reason}", hint="leave it out")

    return effect


DESCRIPTOR: Final = _refused("it takes a descriptor, and a start passes none on")
NAMESPACE: Final = _refused("namespaces are made anew for each start")
OWN_FILTER: Final = _refused("the filter is vsbox's own; its list is the key syscalls of sandbox.json")
NO_OVERLAY: Final = _refused("what it shows depends on layers, which no grant can name")

OPTIONS: Final[dict[str, tuple[int, Effect]]] = {
    "--bind": (2, _bind),
    "--bind-try": (2, _bind),
    "--dev-bind": (2, _bind),
    "--dev-bind-try": (2, _bind),
    "--ro-bind": (2, _bind),
    "--ro-bind-try": (2, _bind),
    "--tmpfs": (1, _tmpfs),
    "--dir": (1, _directory),
    "--symlink": (2, _symlink),
    "--perms": (1, _perms),
    "--size": (1, _size),
    "--setenv": (2, _setenv),
    "--unsetenv": (1, _unsetenv),
    "--clearenv": (0, _clearenv),
    "--share-net": (0, _share_net),
    "--unshare-net": (0, _unshare_net),
    "--unshare-all": (0, _unshare_net),
    "--hostname": (1, _hostname),
    "--chdir": (1, _chdir),
    "--uid": (1, _identity),
    "--gid": (1, _identity),
    "--proc": (1, _only_at("/proc")),
    "--dev": (1, _only_at("/dev")),
    **dict.fromkeys(
        (
            "--unshare-user", "--unshare-user-try", "--unshare-ipc", "--unshare-pid", "--unshare-uts",
            "--unshare-cgroup", "--unshare-cgroup-try", "--disable-userns", "--assert-userns-disabled",
            "--as-pid-1", "--die-with-parent", "--new-session",
        ),
        (0, _already_so),
    ),
    "--cap-drop": (1, _already_so),
    "--exec-label": (1, _for_bubblewrap),
    "--file-label": (1, _for_bubblewrap),
    "--cap-add": (1, _refused("code in a box has no capabilities, whoever starts it")),
    "--remount-ro": (1, _refused("grants say what can be written: read_only_paths, --ro-bind")),
    "--chmod": (2, _refused("modes of files outside are not changed; --perms gives one to a new --tmpfs")),
    "--mqueue": (1, _refused("message queues of POSIX are closed in a box")),
    "--lock-file": (1, _refused("nothing would hold the lock: pid 1 in a box is vsbox's")),
    "--argv0": (1, _refused("a command has its own name")),
    "--level-prefix": (0, _refused("messages are vsbox's")),
    "--help": (0, _refused("see bwrap --help")),
    "--version": (0, _refused("see vsbox doctor")),
    **dict.fromkeys(("--seccomp", "--add-seccomp-fd"), (1, OWN_FILTER)),
    **dict.fromkeys(("--userns", "--userns2", "--pidns"), (1, NAMESPACE)),
    **dict.fromkeys(
        ("--args", "--sync-fd", "--block-fd", "--userns-block-fd", "--info-fd", "--json-status-fd"), (1, DESCRIPTOR)
    ),
    **dict.fromkeys(("--bind-fd", "--ro-bind-fd", "--file", "--bind-data", "--ro-bind-data"), (2, DESCRIPTOR)),
    **dict.fromkeys(("--overlay-src", "--tmp-overlay", "--ro-overlay"), (1, NO_OVERLAY)),
    "--overlay": (3, NO_OVERLAY),
}  # fmt: skip
"""Each option of bwrap up to 0.11: how many words follow it, and what it comes to."""


def _convert(option: str, value: str, type_: Any) -> None:
    try:
        msgspec.convert(value, type_)
    except msgspec.ValidationError as error:
        raise PolicyError(f"bad {option} in {KEY}: {value!r}: {error}") from error


def _options(words: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
    at = 0
    while at < len(words):
        option = words[at]
        if option not in OPTIONS:
            close = difflib.get_close_matches(option, OPTIONS, n=1)
            hint = f"did you mean {close[0]}?" if close else "bwrap --help lists them; commands do not belong there"
            raise PolicyError(f"unknown option {option!r} in {KEY}", hint=hint)
        arity = OPTIONS[option][0]
        values = words[at + 1 : at + 1 + arity]
        if len(values) < arity:
            raise PolicyError(f"bad {option} in {KEY}: it takes {arity} words, and {len(values)} follow")
        yield option, values
        at += 1 + arity


def _check_targets(mapped: Mapped) -> None:
    root = mapped.policy.venv_root
    for mount in mapped.mounts:
        if mount.target in {"/", "/dev"} or is_below(mount.target, "/proc"):
            raise PolicyError(f"cannot use {mount.option} at {mount.target}: a box has its own there")
        if is_below(mount.target, root):
            raise PolicyError(
                f"cannot use {mount.option} at {mount.target}: the box {root} is there", hint="choose another place"
            )


def apply_bwrap_arguments(policy: Policy, words: tuple[str, ...], *, uid: int, gid: int) -> Mapped:
    """Take words for ``bwrap`` into a policy; ``uid`` and ``gid`` are the caller's, whom a box keeps.

    Raises:
        PolicyError: an unknown option, a word too few, a bad value, or what no box may have.

    Security: grants that come of it pass the same checks as others, when the policy is compiled;
    mounts do as well (their sources, and that they do not cover the box).
    """
    reading = _Reading(msgspec.structs.replace(policy, bwrap_arguments=()), uid, gid)
    for option, values in _options(words):
        for value in values:
            if "\0" in value:
                raise PolicyError(f"bad {option} in {KEY}: a word holds a NUL byte")
        OPTIONS[option][1](reading, option, values)
    grants = {grant.path for grant in grants_of(reading.policy)}
    mapped = Mapped(
        reading.policy,
        tuple(reading.mounts),
        frozenset(reading.optional & grants),
        reading.hostname,
        reading.directory,
        tuple(reading.only),
    )
    _check_targets(mapped)
    return mapped


def backend_for(mapped: Mapped) -> str:
    """Return the backend that a policy names, or ``bubblewrap`` where only that takes the words.

    Raises:
        PolicyError: it names another one.
    """
    named = mapped.policy.backend
    if not mapped.only_bubblewrap or named == "bubblewrap":
        return named
    if named == "auto":
        return "bubblewrap"
    options = ", ".join(word for word in mapped.only_bubblewrap if word.startswith("--"))
    raise PolicyError(
        f"cannot use {options} with backend {named}: only bubblewrap has it",
        hint='leave it out, or set "backend": "bubblewrap" in sandbox.json',
    )
