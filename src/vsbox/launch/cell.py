"""What a run needs before it starts: a policy made of its arguments, a plan for this machine, private directories."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from vsbox.backends import choose
from vsbox.errors import CannotEnforceError, UsageError
from vsbox.host.collect import collect, look_at
from vsbox.host.facts import HostFacts
from vsbox.launch.arguments import text_of
from vsbox.launch.environment import Environment, find_environment
from vsbox.launch.files import DIRECTORY
from vsbox.launch.group import Group, make_group
from vsbox.launch.limits import EXACT_BY_GROUP, PAGE, WATCHED, DiskMeter, Limits, all_tasks
from vsbox.launch.original import Original, copy_into, note_entries
from vsbox.launch.paths import open_resolved, remember_written
from vsbox.launch.process import Command, Running
from vsbox.launch.protected import linked_place
from vsbox.launch.scratch import Scratch, make_scratch
from vsbox.launch.streams import Sink
from vsbox.plan.cell import CELL_ROOT, HOME, Cell, compile_cell
from vsbox.plan.encode import encode, renamed
from vsbox.plan.environment import search_path
from vsbox.plan.model import Tier
from vsbox.plan.project import is_protected_name
from vsbox.plan.receipt import Receipt
from vsbox.plan.system import candidates
from vsbox.policy.grants import check_path, is_below
from vsbox.policy.model import Aspect, Policy
from vsbox.policy.model import Limits as KernelLimits

Packages = str | os.PathLike[str] | None
Network = Literal["none", "host"]
SPARE_TASKS: Final = 16
"""Above a limit of processes, so that the meter sees it passed and the kernel stops what outruns it."""
MOST_PLANS: Final = 16
MOST_PROTECTED: Final = 1000
"""Names in a working directory, each of which takes a mount."""
BACKENDS: Final = ("native", "landlock")
NETWORKS: Final = ("none", "host")


@functools.lru_cache(maxsize=1)
def machine_facts() -> HostFacts:
    """Return what this machine is; looked at once in the life of a process."""
    return collect(candidates())


def facts_for(paths: Iterable[str]) -> HostFacts:
    """Return the facts with what is at these paths now."""
    facts = machine_facts()
    return msgspec.structs.replace(facts, paths=facts.paths | {path: look_at(path) for path in paths})


@functools.cache
def choose_tier(backend: str) -> Tier:
    """Return the tier of a backend, the strongest for ``auto``.

    Raises:
        CannotEnforceError: it does not work here.
    """
    facts = machine_facts()
    if backend != "auto":
        return choose(backend, facts).backend.tier
    problems = []
    for name in BACKENDS:
        try:
            return choose(name, facts).backend.tier
        except CannotEnforceError as error:  # noqa: PERF203 - there are two
            problems.append(error)
    raise problems[0]


@dataclass(frozen=True)
class Wanted:
    """The arguments of a run that make its policy; paths absolute and free of links."""

    packages: str | None = None
    workdir: str | None = None
    mount_point: str = "/mnt"
    capture: bool = False
    workdir_access: Literal["read", "write"] = "write"
    cwd: str | None = None
    network: Network = "none"
    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    mounts: tuple[tuple[str, str, bool], ...] = ()
    limits: Limits = field(default_factory=Limits)
    backend: str = "auto"
    allow_degraded: tuple[str, ...] = ()
    waits: bool = False

    def __post_init__(self) -> None:
        """Take text for what it is, and not for what it says of itself: plans are kept by that."""
        for name in ("mount_point", "cwd", "network", "backend"):
            value = getattr(self, name)
            if isinstance(value, str):
                object.__setattr__(self, name, str.__str__(value))


@dataclass
class Prepared:
    """A run that is ready to start: its plan, its environment, and directories to remove in the end."""

    plan: int
    receipt: Receipt
    tier: Tier
    environment: Environment
    variables: dict[str, str]
    workdir: str
    group: Group
    exports: int
    scratch: str | None = None
    host_workdir: str | None = None
    stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    original: Original | None = None

    def close(self) -> None:
        """Remove what was made for the run."""
        self.stack.close()


class _Plans:
    """Encoded plans in memory, by what they were compiled from; a start gets a descriptor of its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[str, tuple[int, Receipt]] = OrderedDict()

    def get(self, key: str | None, make: Callable[[], tuple[bytes, Receipt]]) -> tuple[int, Receipt]:
        """Return a descriptor, the caller's to close, and the receipt; None: nothing will ask for the same again."""
        if key is None:
            encoded, receipt = make()
            return _memory_file(encoded), receipt
        with self._lock:
            if key not in self._known:
                encoded, receipt = make()
                self._known[key] = (_memory_file(encoded), receipt)
            self._known.move_to_end(key)
            descriptor, receipt = self._known[key]
            own = os.dup(descriptor)
            while len(self._known) > MOST_PLANS:
                os.close(self._known.popitem(last=False)[1][0])
            return own, receipt

    def renew_lock(self) -> None:
        """Forget that another thread had it: in a child, there is none."""
        self._lock = threading.Lock()


def _renamed(descriptor: int, scratch: Scratch) -> int:
    """Return the plan with the name that the directory has, in place of one that is closed."""
    with os.fdopen(descriptor, "rb") as file:
        kept = os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0)  # type: ignore[attr-defined,unused-ignore]
    return _memory_file(renamed(kept, scratch.named, scratch.path))


def _memory_file(data: bytes) -> int:
    descriptor: int = os.memfd_create("vsbox-plan", os.MFD_CLOEXEC)  # type: ignore[attr-defined,unused-ignore]
    os.write(descriptor, data)
    return descriptor


PLANS: Final = _Plans()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=PLANS.renew_lock)


def protected_names(directory: str) -> list[str]:
    """Return what lies in a directory that the user's own tools would execute: environments as well.

    A link cannot be mounted on: what it leads to in there is returned in its place.

    Raises:
        UsageError: there is more of it than can be mounted in good time: an earlier run may have made it.
    """
    descriptor = os.open(directory, DIRECTORY)
    try:
        with os.scandir(directory) as entries:
            names = {e.name: e.is_symlink() for e in entries}
        links = {linked_place(descriptor, name) for name, is_link in names.items() if is_link}
    finally:
        os.close(descriptor)
    real = {name for name, is_link in names.items() if not is_link}
    own = {name for name in real if is_protected_name(name) or os.path.lexists(f"{directory}/{name}/pyvenv.cfg")}
    found = sorted(own | {place for place in links if place and os.path.lexists(f"{directory}/{place}")})
    if len(found) > MOST_PROTECTED:
        raise UsageError(
            f"cannot use {directory} as the working directory: more than {MOST_PROTECTED} names in it are protected",
            hint=f"{found[0]} is one of them; take another directory, or capture its changes",
        )
    return found


def _policy(
    wanted: Wanted, environment: Environment, scratch: str | None, tier: Tier, protected: Iterable[str]
) -> Policy:
    words = [*environment.mounts]
    write = list(wanted.write)
    read = list(wanted.read)
    if wanted.workdir is not None and not wanted.capture:
        if wanted.workdir == wanted.mount_point:
            (write if wanted.workdir_access == "write" else read).append(wanted.workdir)
        else:
            option = "--bind" if wanted.workdir_access == "write" else "--ro-bind"
            words += [option, wanted.workdir, wanted.mount_point]
    for name in protected:
        words += ["--ro-bind", f"{wanted.workdir}/{name}", f"{wanted.mount_point}/{name}"]
    for source, target, writable in wanted.mounts:
        words += ["--bind" if writable else "--ro-bind", source, check_path(target, key="mounts")]
    if scratch is not None:
        write.append(scratch)
    limits = wanted.limits
    others = 0 if tier is Tier.NAMESPACES else all_tasks()  # the kernel counts all of a user, also those outside
    kernel = KernelLimits(
        tmp_bytes=limits.disk_bytes,
        shm_bytes=limits.disk_bytes,
        cpu_seconds=None if limits.cpu_seconds is None else int(limits.cpu_seconds) + 1,
        file_bytes=limits.file_bytes,
        open_files=limits.open_files,
        processes=None if limits.processes is None else limits.processes + SPARE_TASKS + others,
    )
    document: dict[str, Any] = {
        "venv_root": CELL_ROOT, "preset": "strict", "network": wanted.network, "allowed_paths": sorted(set(write)),
        "read_only_paths": sorted(set(read)), "hidden_paths": sorted(set(wanted.hidden)), "bwrap_arguments": words,
        "allow_degraded": list(wanted.allow_degraded), "limits": msgspec.to_builtins(kernel),
    }  # fmt: skip
    return msgspec.convert(document, Policy)


def grants_to_write(wanted: Wanted) -> tuple[str, ...]:
    """Return what of the host code inside may write to."""
    workdir = wanted.workdir if wanted.workdir_access == "write" and not wanted.capture else None
    return (*filter(None, [workdir]), *wanted.write, *(source for source, _, writable in wanted.mounts if writable))


def prepare(wanted: Wanted, variables: Mapping[str, str]) -> Prepared:
    """Make a run ready.

    Raises:
        VsboxError: it cannot be done here, or not as asked.
    """
    _check(wanted)
    tier = choose_tier(wanted.backend)
    environment = find_environment(wanted.packages, tier, grants_to_write(wanted))
    stack = contextlib.ExitStack()
    try:
        return _prepare(wanted, variables, tier, environment, stack)
    except BaseException:
        stack.close()
        raise


def _check(wanted: Wanted) -> None:
    if wanted.backend not in ("auto", *BACKENDS):
        raise UsageError(f"no backend {wanted.backend!r} for runs", hint=f"auto, {', '.join(BACKENDS)}")
    if wanted.network not in NETWORKS:
        raise UsageError(f"bad network {wanted.network!r}", hint=", ".join(NETWORKS))
    if wanted.workdir is not None and not os.path.isdir(wanted.workdir):
        raise UsageError(f"cannot use {wanted.workdir} as the working directory: it is not a directory")
    for name in wanted.allow_degraded:
        if name not in list(Aspect):
            raise UsageError(f"no aspect {name!r} in allow_degraded", hint=", ".join(aspect.value for aspect in Aspect))
    point = text_of("mount_point", wanted.mount_point)
    if point[:1] != "/" or point[1:2] in {"", "/"} or os.path.normpath(point) != point:
        raise UsageError(f"bad mount_point {point!r}: it is no absolute path without '.', '..', '//' and a final '/'")
    if wanted.cwd is not None:
        text_of("cwd", wanted.cwd)
    for path in wanted.hidden if wanted.capture and wanted.workdir is not None else ():
        if is_below(path, wanted.workdir or ""):
            raise UsageError(f"cannot hide {path}: it is in the directory whose changes are kept apart")


def _prepare(
    wanted: Wanted, variables: Mapping[str, str], tier: Tier, environment: Environment, stack: contextlib.ExitStack
) -> Prepared:
    namespaces = tier is Tier.NAMESPACES
    scratch = None if namespaces else make_scratch(stack)
    scratch_path, scratch_name = (None, None) if scratch is None else (scratch.path, scratch.named)
    source, asked = wanted.workdir, wanted
    if scratch is not None:
        wanted, source = _without_namespaces(wanted, scratch.named), None if wanted.capture else source
    original = _original(asked, scratch_path, stack)
    workdir, capture = wanted.mount_point, wanted.capture
    protects = namespaces and wanted.workdir is not None and not capture
    protected = protected_names(wanted.workdir or "") if protects else []
    cell = Cell(
        environment.interpreter,
        workdir=workdir,
        source=source,
        access="capture" if capture else wanted.workdir_access,
        cwd=wanted.cwd,
        scratch=scratch_name,
        disk_bytes=wanted.limits.disk_bytes,
        waits=wanted.waits,
    )
    below = (f"{source}/{name}" for name in protected)
    mounted = (*(mount[0] for mount in wanted.mounts), *environment.mounts[1:])
    named = (*wanted.write, *wanted.read, *wanted.hidden)
    look, actual = (look_at, str) if scratch is None else (scratch.look_at, scratch.actual)
    seen = {path: look(path) for path in (*named, *below, *mounted, *filter(None, (source, cell.scratch)))}

    def make() -> tuple[bytes, Receipt]:
        interpreter = environment.interpreter
        facts = facts_for((*interpreter.trees, *interpreter.libraries))
        facts = msgspec.structs.replace(facts, paths=facts.paths | seen)
        policy = _policy(wanted, environment, scratch_name, tier, protected)
        plan = compile_cell(policy, cell, facts, tier)
        return encode(plan.steps), plan.receipt

    is_of_a_moment = scratch is not None and wanted.limits.processes is not None  # what the machine has running
    made_from = (tier, wanted, cell, environment.mounts, protected, seen)
    descriptor, receipt = PLANS.get(None if is_of_a_moment else repr(made_from), make)
    if scratch is not None:
        descriptor = _renamed(descriptor, scratch)
    stack.callback(os.close, descriptor)
    remember_written(map(actual, grants_to_write(wanted)))
    group = _group(wanted.limits, namespaces=namespaces)
    stack.callback(group.close)
    home = HOME if scratch is None else f"{scratch.path}/home"
    exports = len(cell.exported) + capture if namespaces else 0
    if asked.capture:
        receipt = msgspec.structs.replace(receipt, changes="overlay" if namespaces else "copy")
    on_host = None if capture or (namespaces and source is None) else source or workdir
    return Prepared(
        descriptor, receipt, tier, environment, _variables(environment, home, namespaces=namespaces, asked=variables),
        actual(workdir), group, exports, scratch_path, on_host and actual(on_host), stack, original,
    )  # fmt: skip


def _original(wanted: Wanted, scratch: str | None, stack: contextlib.ExitStack) -> Original | None:
    """Return what a directory that is to stay as it is holds at this moment; copied where nothing can be mounted."""
    if wanted.workdir is None or not wanted.capture:
        return None
    original = Original(open_resolved(wanted.workdir, DIRECTORY))
    stack.callback(os.close, original.directory)
    if scratch is None:
        note_entries(original)
    else:
        copy_into(original, wanted.workdir, f"{scratch}/work", wanted.limits.disk_bytes)
    return original


def _without_namespaces(wanted: Wanted, scratch: str) -> Wanted:
    """Return what is asked where code inside sees the disk as it is: things are where they are."""
    if any(source != target for source, target, _ in wanted.mounts):
        raise CannotEnforceError(
            "cannot mount a directory under another name: that takes namespaces", hint="see: vsbox doctor"
        )
    workdir = wanted.workdir or f"{scratch}/work"
    if wanted.mount_point not in {"/mnt", workdir}:
        raise CannotEnforceError(
            f"cannot show the working directory as {wanted.mount_point}: that takes namespaces",
            hint="leave mount_point out: it is seen where it is",
        )
    if wanted.capture and wanted.workdir is not None:
        workdir = f"{scratch}/work"
    return dataclasses.replace(
        wanted, mount_point=workdir, workdir=None if wanted.capture else wanted.workdir, capture=False
    )


def _group(limits: Limits, *, namespaces: bool) -> Group:
    """Return the control group of a run.

    Raises:
        CannotEnforceError: a limit is required to be exact, and can only be watched here.
    """
    watched = {name for name in limits.required if name in WATCHED or (name == "disk_bytes" and not namespaces)}
    group = Group() if watched else make_group(limits)
    for name in limits.required:
        if name not in watched and EXACT_BY_GROUP.get(name, "") in {"", *group.controllers}:
            continue
        group.close()
        controller = EXACT_BY_GROUP.get(name)
        cause = "it can only be watched"
        if controller:
            cause = f"there is no control group with the controller {controller} to be had"
        raise CannotEnforceError(
            f"cannot enforce {name} exactly: {cause}",
            hint="delegate a group (systemd-run --user --scope -p Delegate=yes ...), or do not require it",
        )
    return group


def _variables(environment: Environment, home: str, *, namespaces: bool, asked: Mapping[str, str]) -> dict[str, str]:
    temporary = "/tmp" if namespaces else home.removesuffix("home") + "tmp"
    return {
        "PATH": search_path(f"{environment.prefix}/bin"),
        "HOME": home,
        "TMPDIR": temporary,
        "LANG": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        **asked,
    }


def start(
    prepared: Prepared,
    argv: tuple[str, ...],
    limits: Limits,
    *,
    stdin: bytes | int = b"",
    stdout: Sink = None,
    stderr: Sink = None,
    kept: int = -1,
    foreground: bool = False,
) -> Running:
    """Start a prepared run."""
    witnesses = 0 if prepared.tier is Tier.NAMESPACES else 1
    command = Command(prepared.plan, argv, prepared.variables, stdin, kept, foreground, witnesses)
    running = Running(
        command, limits=limits, group=prepared.group, exports=prepared.exports, stdout=stdout, stderr=stderr
    )
    if prepared.scratch is not None:
        meter = DiskMeter(Path(prepared.scratch))
        running.watch_disks(lambda: (float(meter.look(running.payload())), float(limits.disk_bytes)))
    return running


def watch_private_areas(running: Running, disk_bytes: int) -> None:
    """Look at the file systems that the launcher handed over: their size is the limit; another is the host's."""
    own = -(-disk_bytes // PAGE)
    handed = (*running.control.directories, *(() if running.control.changes is None else (running.control.changes,)))
    areas = [area for area in handed if os.statvfs(area).f_blocks == own]  # type: ignore[attr-defined,unused-ignore]

    def look() -> tuple[float, float]:
        worst = 0.0
        for area in areas:
            status = os.statvfs(area)  # type: ignore[attr-defined,unused-ignore]
            if (status.f_bavail == 0 and status.f_blocks) or (status.f_favail == 0 and status.f_files):
                return float(disk_bytes), float(disk_bytes)
            worst = max(worst, float((status.f_blocks - status.f_bfree) * status.f_frsize))
        return worst, float(disk_bytes) + 1

    running.watch_disks(look)


__all__ = ["Prepared", "Wanted", "prepare", "start", "watch_private_areas"]
