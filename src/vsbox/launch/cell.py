"""What a run needs before it starts: a policy made of its arguments, a plan for this machine, private directories."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import functools
import os
import shutil
import stat
import sys
import sysconfig
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from vsbox.backends import choose
from vsbox.errors import CannotEnforceError, PolicyError, UsageError
from vsbox.host.collect import collect, look_at
from vsbox.host.facts import HostFacts
from vsbox.launch.files import DIRECTORY, opened_directory, remove_tree
from vsbox.launch.group import Group, make_group
from vsbox.launch.limits import EXACT_BY_GROUP, WATCHED, DiskMeter, Limits, count_bytes
from vsbox.launch.process import Command, Running, Sink
from vsbox.plan.cell import CELL_ROOT, HOME, Cell, compile_cell
from vsbox.plan.encode import encode
from vsbox.plan.environment import search_path
from vsbox.plan.model import Interpreter, Tier
from vsbox.plan.project import is_protected_name
from vsbox.plan.receipt import Receipt
from vsbox.plan.system import candidates
from vsbox.policy.grants import check_path, is_below
from vsbox.policy.model import Limits as KernelLimits
from vsbox.policy.model import Policy

Packages = str | os.PathLike[str] | None
Network = Literal["none", "host"]
SPARE_TASKS: Final = 16
"""Above a limit of processes, so that the meter sees it passed and the kernel stops what outruns it."""
MOST_PLANS: Final = 16
SECONDS_TO_LOCK: Final = 60
"""Between making a directory and locking it there is a moment."""
BACKENDS: Final = ("native", "landlock")


@functools.lru_cache(maxsize=1)
def machine_facts() -> HostFacts:
    """Return what this machine is; looked at once in the life of a process."""
    return collect(candidates())


def facts_for(paths: Iterable[str]) -> HostFacts:
    """Return the facts with what is at these paths now."""
    facts = machine_facts()
    return msgspec.structs.replace(facts, paths=facts.paths | {path: look_at(path) for path in paths})


def choose_tier(backend: str, facts: HostFacts) -> Tier:
    """Return the tier of a backend, the strongest for ``auto``.

    Raises:
        UsageError: no such backend for runs.
        CannotEnforceError: it does not work here.
    """
    if backend not in {"auto", *BACKENDS}:
        raise UsageError(f"no backend {backend!r} for runs", hint=f"auto, {', '.join(BACKENDS)}")
    if backend != "auto":
        return choose(backend, facts).backend.tier
    problems = []
    for name in BACKENDS:
        try:
            return choose(name, facts).backend.tier
        except CannotEnforceError as error:  # noqa: PERF203 - there are two
            problems.append(error)
    raise problems[0]


# ---- the Python inside ----


@dataclass(frozen=True)
class Environment:
    """The Python of a run: its path inside, what it runs from, where its prefix is, and mounts that put it there."""

    python: str
    interpreter: Interpreter
    prefix: str
    mounts: tuple[str, ...] = ()


def find_environment(packages: str | None, tier: Tier) -> Environment:
    """Return the Python of a box, of an environment, or the running one.

    Raises:
        UsageError: nothing there is any of these.
    """
    if packages is None:
        return _running_environment()
    root = resolve(packages)
    noted = Path(root, "sandbox", "interpreter.json")
    if noted.is_file():
        interpreter = msgspec.json.decode(noted.read_bytes(), type=Interpreter)
        if tier is Tier.NAMESPACES:
            return Environment(f"{root}/bin/python", interpreter, root, ("--ro-bind", f"{root}/inside", root))
        inside = f"{root}/inside"
        return Environment(f"{inside}/bin/python", _with_tree(interpreter, inside), inside)
    if not Path(root, "pyvenv.cfg").is_file():
        raise UsageError(f"cannot use the packages of {packages}: it is neither a box nor an environment")
    return _plain_environment(root)


def _with_tree(interpreter: Interpreter, *trees: str) -> Interpreter:
    return msgspec.structs.replace(interpreter, trees=tuple(dict.fromkeys((*trees, *interpreter.trees))))


@functools.lru_cache(maxsize=1)
def _running_environment() -> Environment:
    real = os.path.realpath(sys.executable)
    trees = {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix, os.path.dirname(os.path.dirname(real))}
    libraries = (sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"))
    return Environment(sys.executable, _interpreter(real, trees, libraries), sys.prefix)


def _interpreter(executable: str, trees: Iterable[str], libraries: Iterable[str] = ()) -> Interpreter:
    real = sorted({os.path.realpath(tree) for tree in trees} - {"/", "/usr"})
    outermost = tuple(tree for tree in real if not any(tree != other and is_below(tree, other) for other in real))
    known = tuple(sorted({path for path in libraries if path and os.path.isdir(path)}))
    return Interpreter(executable, sys.version, outermost, known)


def _plain_environment(root: str) -> Environment:
    """Read where an environment's base is.

    Security: the environment may lie where other code could write: nothing is granted for its sake that is no Python.

    Raises:
        PolicyError: it is not.
    """
    lines = Path(root, "pyvenv.cfg").read_text(encoding="utf-8", errors="replace").splitlines()
    settings = {key.strip(): value.strip() for key, _, value in (line.partition("=") for line in lines)}
    python = f"{root}/bin/python"
    real = os.path.realpath(python)
    home = os.path.realpath(settings.get("home", os.path.dirname(real)))
    bases = {os.path.dirname(home), os.path.dirname(os.path.dirname(real))} - {root, "/", "/usr"}
    for base in bases:
        if not any(Path(base).glob("lib*/py*/os.py")):
            raise PolicyError(
                f"cannot use the packages of {root}: they are said to run from {base}, which holds no Python",
                hint="look at bin/python and pyvenv.cfg there: has other code changed them?",
            )
    return Environment(python, _interpreter(real, {root, *bases}), root)


# ---- what is asked ----


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
    mounts: tuple[tuple[str, str, bool], ...] = ()
    limits: Limits = field(default_factory=Limits)
    backend: str = "auto"
    allow_degraded: tuple[str, ...] = ()
    waits: bool = False


MOST_REMEMBERED: Final = 10_000
MOST_LINKS: Final = 40
WRITTEN: Final[OrderedDict[str, None]] = OrderedDict()
"""Directories that code inside could write to since this process started: it may have made links there."""


def remember_written(paths: Iterable[str]) -> None:
    """Note directories as such that code inside may write to."""
    for path in paths:
        WRITTEN[path] = None
    while len(WRITTEN) > MOST_REMEMBERED:
        WRITTEN.popitem(last=False)


def follow(path: str | os.PathLike[str]) -> tuple[str, tuple[str, ...]]:
    """Return where a path leads at this moment, and the links on the way.

    Raises:
        UsageError: they lead in a circle.
    """
    place, links = "/", []
    rest = [*reversed(os.path.join(os.getcwd(), os.path.expanduser(os.fspath(path))).split("/"))]
    while rest:
        part = rest.pop()
        if part == "..":
            place = os.path.dirname(place)
        if part in {"", ".", ".."}:
            continue
        here = os.path.join(place, part)
        try:
            target = os.readlink(here)
        except OSError:
            place = here
            continue
        links.append(here)
        if len(links) > MOST_LINKS:
            raise UsageError(f"cannot use {os.fspath(path)}: too many links")
        place = "/" if target.startswith("/") else place
        rest += reversed(target.split("/"))
    return place, tuple(links)


def refuse_links(path: str | os.PathLike[str], links: Iterable[str], written: Collection[str]) -> None:
    """Refuse a path that leads through a link which code inside could have made.

    Raises:
        PolicyError: there is such a link.
    """
    for link in links:
        if any(str(parent) in written for parent in Path(link).parents):
            raise PolicyError(
                f"cannot use {os.fspath(path)}: {link} is a link that code inside could have made",
                hint="name what it leads to, if that is what you mean",
            )


def resolve(path: str | os.PathLike[str], written: Iterable[str] = ()) -> str:
    """Return where a path that the caller names leads at this moment.

    Security: code inside that may write to a directory may make a link there, and wait for the next run that is given
    it. So none is followed in what was granted for writing since this process started, or is in ``written``.

    Raises:
        UsageError: nothing is there.
        PolicyError: it leads through a link that code inside could have made.
    """
    real, links = follow(path)
    if not os.path.exists(real):
        raise UsageError(f"cannot use {os.fspath(path)}: it does not exist")
    refuse_links(path, links, {*WRITTEN, *written} if links else ())
    return real


def open_resolved(path: str, flags: int) -> int:
    """Open a resolved path; a link that has come into the way since is not followed."""
    root = os.open("/", DIRECTORY)
    try:
        with opened_directory(root, Path(path).parts[1:-1], search=True) as directory:
            return os.open(os.path.basename(path) or ".", flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666, dir_fd=directory)  # type: ignore[attr-defined,unused-ignore]
    finally:
        os.close(root)


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

    def close(self) -> None:
        """Remove what was made for the run."""
        self.stack.close()


class _Plans:
    """Encoded plans in memory, by what they were compiled from; a start gets a descriptor of its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[bytes, tuple[int, Receipt]] = OrderedDict()

    def get(self, key: bytes | None, make: Callable[[], tuple[bytes, Receipt]]) -> tuple[int, Receipt]:
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


def _memory_file(data: bytes) -> int:
    descriptor: int = os.memfd_create("vsbox-plan", os.MFD_CLOEXEC)  # type: ignore[attr-defined,unused-ignore]
    os.write(descriptor, data)
    return descriptor


PLANS: Final = _Plans()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=PLANS.renew_lock)


def protected_names(directory: str) -> list[str]:
    """Return what lies in a directory that the user's own tools would execute, links left out: environments as well."""
    with os.scandir(directory) as entries:
        known = (e for e in entries if not e.is_symlink())
        return sorted(e.name for e in known if is_protected_name(e.name) or os.path.lexists(f"{e.path}/pyvenv.cfg"))


def _policy(wanted: Wanted, environment: Environment, scratch: str | None, tier: Tier) -> Policy:
    words = [*environment.mounts]
    write = list(wanted.write)
    read = list(wanted.read)
    if wanted.workdir is not None and not wanted.capture:
        if wanted.workdir == wanted.mount_point:
            (write if wanted.workdir_access == "write" else read).append(wanted.workdir)
        else:
            option = "--bind" if wanted.workdir_access == "write" else "--ro-bind"
            words += [option, wanted.workdir, wanted.mount_point]
    if tier is Tier.NAMESPACES and wanted.workdir is not None and not wanted.capture:
        for name in protected_names(wanted.workdir):
            words += ["--ro-bind", f"{wanted.workdir}/{name}", f"{wanted.mount_point}/{name}"]
    for source, target, writable in wanted.mounts:
        words += ["--bind" if writable else "--ro-bind", source, check_path(target, key="mounts")]
    if scratch is not None:
        write.append(scratch)
    limits = wanted.limits
    own_users = tier is Tier.NAMESPACES  # else the kernel would count all processes of the user
    kernel = KernelLimits(
        tmp_bytes=limits.disk_bytes,
        shm_bytes=limits.disk_bytes,
        cpu_seconds=None if limits.cpu_seconds is None else int(limits.cpu_seconds) + 1,
        file_bytes=limits.file_bytes,
        open_files=limits.open_files,
        processes=limits.processes + SPARE_TASKS if limits.processes is not None and own_users else None,
    )
    document: dict[str, Any] = {
        "venv_root": CELL_ROOT, "preset": "strict", "network": wanted.network, "allowed_paths": sorted(set(write)),
        "read_only_paths": sorted(set(read)), "bwrap_arguments": words, "allow_degraded": list(wanted.allow_degraded),
        "limits": msgspec.to_builtins(kernel),
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
    tier = choose_tier(wanted.backend, machine_facts())
    environment = find_environment(wanted.packages, tier)
    stack = contextlib.ExitStack()
    try:
        return _prepare(wanted, variables, tier, environment, stack)
    except BaseException:
        stack.close()
        raise


def _prepare(
    wanted: Wanted, variables: Mapping[str, str], tier: Tier, environment: Environment, stack: contextlib.ExitStack
) -> Prepared:
    namespaces = tier is Tier.NAMESPACES
    scratch = None if namespaces else _make_scratch(stack)
    source = wanted.workdir
    if scratch is not None:
        wanted, source = _without_namespaces(wanted, scratch), None if wanted.capture else source
    workdir, capture = wanted.mount_point, wanted.capture
    policy = _policy(wanted, environment, scratch, tier)
    cell = Cell(
        environment.interpreter,
        workdir=workdir,
        source=source,
        access="capture" if capture else wanted.workdir_access,
        cwd=wanted.cwd,
        scratch=scratch,
        disk_bytes=wanted.limits.disk_bytes,
        waits=wanted.waits,
    )
    key = msgspec.json.encode((tier.value, policy, cell)) if scratch is None else None

    def make() -> tuple[bytes, Receipt]:
        named = (*policy.allowed_paths, *policy.read_only_paths, *environment.interpreter.trees)
        below = () if source is None else tuple(f"{source}/{name}" for name in protected_names(source))
        mounted = (*(mount[0] for mount in wanted.mounts), *environment.mounts[1:])
        sources = (*below, *mounted, *filter(None, (source, scratch)))
        plan = compile_cell(policy, cell, facts_for((*named, *environment.interpreter.libraries, *sources)), tier)
        return encode(plan.steps), plan.receipt

    descriptor, receipt = PLANS.get(key, make)
    stack.callback(os.close, descriptor)
    remember_written(grants_to_write(wanted))
    group = _group(wanted.limits, namespaces=namespaces)
    home = HOME if namespaces else f"{scratch}/home"
    exports = (1 + (source is None) + capture) if namespaces else 0
    on_host = None if capture or (namespaces and source is None) else source or workdir
    return Prepared(
        descriptor, receipt, tier, environment, _variables(environment, home, namespaces=namespaces, asked=variables),
        workdir, group, exports, scratch, on_host, stack,
    )  # fmt: skip


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
        _copy(wanted.workdir, workdir, wanted.limits.disk_bytes)
    return dataclasses.replace(
        wanted, mount_point=workdir, workdir=None if wanted.capture else wanted.workdir, capture=False
    )


def _copy(source: str, target: str, most_bytes: int) -> None:
    """Copy a directory for a run that may change it.

    Raises:
        UsageError: it is larger than the private areas may be.
    """
    if any(total > most_bytes for total in count_bytes(Path(source), to_copy=True)):
        raise UsageError(f"cannot copy {source}: it is larger than {most_bytes} bytes", hint="raise limits.disk_bytes")
    try:
        shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True, ignore=_special)
    except (OSError, shutil.Error, RecursionError) as error:
        raise UsageError(f"cannot copy {source}: not all of it can be read") from error


def _special(directory: str, names: list[str]) -> set[str]:
    """Return pipes, sockets and devices: a copy of one is another one, and opening one may wait for ever."""
    copied = {stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK}
    return {name for name in names if stat.S_IFMT(os.lstat(os.path.join(directory, name)).st_mode) not in copied}


SCRATCH: Final = "vsbox-run-"


def _make_scratch(stack: contextlib.ExitStack) -> str:
    """Make a directory of the host for what is private; locked, so that it is known to be in use."""
    sweep()
    scratch = os.path.realpath(tempfile.mkdtemp(prefix=SCRATCH))
    stack.callback(remove_tree, scratch)
    lock = os.open(scratch, DIRECTORY)
    stack.callback(os.close, lock)
    fcntl.flock(lock, fcntl.LOCK_EX)  # type: ignore[attr-defined,unused-ignore]
    for name in ("home", "tmp", "work"):
        os.mkdir(f"{scratch}/{name}", 0o700)
    return scratch


@functools.lru_cache(maxsize=1)
def sweep() -> None:
    """Remove what programs that were killed left behind; once in the life of a process."""
    for path in Path(tempfile.gettempdir()).glob(f"{SCRATCH}*"):
        with contextlib.suppress(OSError):
            status = path.lstat()
            is_own = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()  # type: ignore[attr-defined,unused-ignore]
            if not is_own or status.st_mtime > time.time() - SECONDS_TO_LOCK:
                continue
            path.chmod(0o700)
            lock = os.open(path, DIRECTORY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # type: ignore[attr-defined,unused-ignore]
                remove_tree(str(path))
            finally:
                os.close(lock)


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
        running.watch_disks(lambda: (float(meter.look()), float(limits.disk_bytes)))
    return running


def watch_private_areas(running: Running, disk_bytes: int) -> None:
    """Look at the file systems that the launcher handed over: their size is the limit."""
    areas = (*running.directories, *(() if running.changes is None else (running.changes,)))

    def look() -> tuple[float, float]:
        worst = 0.0
        for area in areas:
            status = os.statvfs(area)  # type: ignore[attr-defined,unused-ignore]
            if (status.f_bavail == 0 and status.f_blocks) or (status.f_favail == 0 and status.f_files):
                return float(disk_bytes), float(disk_bytes)
            worst = max(worst, float((status.f_blocks - status.f_bfree) * status.f_frsize))
        return worst, float(disk_bytes) + 1

    running.watch_disks(look)


__all__ = ["Prepared", "Wanted", "prepare", "resolve", "start", "watch_private_areas"]
