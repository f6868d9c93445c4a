"""The policy: one vocabulary on every system, read from ``sandbox.json``."""

from __future__ import annotations

import enum
from typing import Annotated, Literal

import msgspec

Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*(?![\s\S])", max_length=128)]
VariableName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]*(?![\s\S])")]
VariablePattern = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]*\*?(?![\s\S])")]
AnyVariable = Annotated[str, msgspec.Meta(pattern=r"^([A-Za-z_][A-Za-z0-9_]*\*?|\*)(?![\s\S])")]
VariableValue = Annotated[str, msgspec.Meta(pattern=r"^[^\x00]*(?![\s\S])")]
Count = Annotated[int, msgspec.Meta(ge=1, le=(1 << 63) - 1)]
Bytes = Annotated[int, msgspec.Meta(ge=4096, le=(1 << 63) - 1)]


class Aspect(str, enum.Enum):
    """Something a sandbox restricts. ``allow_degraded`` and the receipt use these names."""

    FILES = "files"
    PROJECT = "project"
    TRUNCATE = "truncate"
    METADATA = "metadata"
    PROCESSES = "processes"
    SIGNALS = "signals"
    IPC = "ipc"
    SHARED_MEMORY = "shared-memory"
    NETWORK = "network"
    UNIX_SOCKETS = "unix-sockets"
    ABSTRACT_SOCKETS = "abstract-sockets"
    KEYRING = "keyring"
    DESCRIPTORS = "descriptors"
    ENVIRONMENT = "environment"
    PRIVILEGES = "privileges"
    SYSCALLS = "syscalls"
    TERMINAL = "terminal"
    LIFETIME = "lifetime"


class Environment(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Environment variables beyond the built-in list: names passed on, values set; ``unset`` ones are not passed on."""

    pass_: tuple[VariablePattern, ...] = msgspec.field(default=(), name="pass")
    unset: tuple[AnyVariable, ...] = ()
    set: dict[VariableName, VariableValue] = {}


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Resource limits; sizes in bytes, times in seconds. Absent: the caller's own limit."""

    tmp_bytes: Bytes = 4 << 30
    shm_bytes: Bytes = 2 << 30
    cpu_seconds: Count | None = None
    file_bytes: Bytes | None = None
    open_files: Count | None = None
    processes: Count | None = None


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What code in a box may do.

    ``allowed_paths`` may be read and written, ``read_only_paths`` read, ``hidden_paths`` neither,
    even below a path that is allowed: the most specific path wins, and of equals the strictest.
    ``mode`` log blocks nothing and reports what would be; ``preview`` does so on a view of the disk whose
    changes are forgotten. Without ``os_sandbox`` the guard alone denies, which is no boundary. ``report``: every
    run is watched, and what it touched is kept for ``vsbox report``.
    ``project`` may be written except for what the host would execute there. ``packages`` may be written
    always, never, or while something is installed. ``syscalls`` replaces the built-in list of system calls
    that are let through; empty: no filter. ``bwrap_arguments`` are options of bubblewrap, which other
    backends take as far as they have the same idea. ``pip_cache``:
    installations read the user's own cache. ``apparmor``: whether the box's AppArmor profile is
    entered where it is loaded, has to be, or is not. Keys that are absent take the value of the preset.
    """

    venv_root: str
    schema: str | None = msgspec.field(default=None, name="$schema")
    preset: Literal["venv", "strict", "project"] = "venv"
    mode: Literal["enforce", "log", "preview"] = "enforce"
    os_sandbox: bool = True
    report: bool = False
    allowed_paths: tuple[str, ...] = ()
    read_only_paths: tuple[str, ...] = ()
    hidden_paths: tuple[str, ...] = ()
    project: str | None = None
    network: Literal["host", "none"] | None = None
    packages: Literal["write", "read", "install"] | None = None
    working_directory: Literal["none", "read", "write"] | None = None
    backend: Literal["auto", "native", "bubblewrap", "landlock"] = "auto"
    bwrap_arguments: tuple[VariableValue, ...] = ()
    syscalls: tuple[str, ...] | None = None
    pip_cache: bool = False
    apparmor: Literal["auto", "required", "off"] = "auto"
    devices: tuple[Literal["gpu"], ...] = ()
    environment: Environment = Environment()
    limits: Limits = Limits()
    exposed_commands: tuple[Name, ...] = ()
    allow_degraded: tuple[Aspect, ...] = ()
