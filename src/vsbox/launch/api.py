"""``vsbox.run``: code that nobody trusts, from Python, with limits and an honest result."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import io
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, Final, Literal

from vsbox.errors import UsageError
from vsbox.launch import cell, paths
from vsbox.launch import files as trees
from vsbox.launch.arguments import (
    bytes_of,
    check_timeout,
    encoded,
    items_of,
    mapping_of,
    path_of,
    paths_of,
    text_of,
    variables_of,
)
from vsbox.launch.captured import read_copy, read_overlay
from vsbox.launch.changes import ChangeSet
from vsbox.launch.contents import content_of, put_content
from vsbox.launch.limits import Limits, limits_of
from vsbox.launch.original import Original
from vsbox.launch.process import Running
from vsbox.launch.result import Result
from vsbox.launch.settle import settle
from vsbox.launch.streams import Sink
from vsbox.policy.grants import is_below

Target = str | os.PathLike[str] | Callable[[bytes], object] | IO[bytes]
Code = str | Sequence[str | bytes | os.PathLike[str]]
LONGEST_ARGUMENT: Final = 100_000
"""Of code as an argument, in bytes: the kernel takes 128 KiB (execve(2), MAX_ARG_STRLEN). What is longer is put into a
file."""
CODE_FILE: Final = "code.py"
READ_CODE: Final = "exec(compile(open({!r}, encoding='utf-8', errors='surrogateescape').read(), '<string>', 'exec'))"
"""Python's own ``-c``, but for the length: the first place that modules are looked for in is the working directory."""
CHANGES: Final = ("keep", "capture")


def run(
    code: Code | None = None,
    *,
    script: str | os.PathLike[str] | None = None,
    args: Sequence[str] = (),
    packages: str | os.PathLike[str] | None = None,
    files: Mapping[str, trees.Content] | None = None,
    workdir: str | os.PathLike[str] | None = None,
    mount_point: str = "/mnt",
    changes: Literal["keep", "capture"] = "keep",
    cwd: str | None = None,
    env: Mapping[str, str] | None = None,
    stdin: bytes | str = b"",
    timeout: float | None = None,
    limits: Limits | None = None,
    network: Literal["none", "host"] = "none",
    read: Iterable[str | os.PathLike[str]] = (),
    write: Iterable[str | os.PathLike[str]] = (),
    hidden: Iterable[str | os.PathLike[str]] = (),
    mounts: Mapping[str, str | os.PathLike[str]] | None = None,
    writable: Literal["all", "none"] | Iterable[str | os.PathLike[str]] = "all",
    stdout: Target = "capture",
    stderr: Target = "capture",
    backend: str = "auto",
    allow_degraded: Iterable[str] = (),
    check: bool = False,
) -> Result:
    """Run code that nobody trusts, and return what it came to.

    ===============  ==================================================================================================
    ``code``         Python code as text, or a command with its arguments as a list
    ``script``       a file of Python code instead, with ``args``
    ``packages``     a box or an environment whose Python and packages are used, read-only; else the running ones
    ``files``        put into the working directory first: relative path -> content, or a path to copy from
    ``workdir``      a directory of the host as the working directory; else a private one, which goes with the run
    ``mount_point``  where code inside sees the working directory (without namespaces: where it is)
    ``changes``      ``"capture"`` leaves ``workdir`` as it is; ``result.changes`` is what would have changed, to be
                     looked at as a patch and applied
    ``cwd``          where the code starts; else in the working directory
    ``env``          variables; nothing of the caller's own is passed on
    ``stdin``        standard input
    ``timeout``      seconds of wall time from the start
    ``limits``       what else it may use: :class:`Limits`
    ``network``      ``"none"``, or ``"host"`` for the host's
    ``read``         paths of the host that may be read, under their own names
    ``write``        ... and written
    ``hidden``       ... and neither, though they lie below one of these, or are the system's (takes namespaces)
    ``mounts``       place inside -> directory or file of the host, read-only unless ``writable`` names it
    ``writable``     ``"all"``: the working directory may be written; ``"none"``: it may not; a list: what it names of
                     the working directory and the mounts
    ``stdout``       ``"capture"``, ``"discard"``, a path or a binary file to write to, or a function that is called
                     with each piece as it comes
    ``stderr``       likewise
    ``backend``      ``"auto"``, ``"native"`` (namespaces) or ``"landlock"``
    ``allow_degraded``  aspects that may be left unenforced where this machine cannot; the receipt says so
    ``check``        raise :class:`RunError` unless it exits with status 0
    ===============  ==================================================================================================

    Raises:
        UsageError, PolicyError: the arguments make no sense.
        CannotEnforceError: this machine cannot enforce what is asked.
        LauncherError: the command cannot be executed.
        RunError: with ``check``.

    Security: the code gets no network, no variable, no file of the caller's but what is named here, and what Python
    and the system's programs need to be read. See ``result.receipt`` for what enforces it. It does not stop what the
    kernel itself gets wrong.
    """
    call = _Call(**{name: value for name, value in locals().items() if name != "check"})
    result = call.perform(lambda _: None)
    return result.check() if check else result


async def arun(code: Code | None = None, *, check: bool = False, **options: Any) -> Result:
    """Do the same as :func:`run` without blocking the event loop. Cancelling it ends the run before it returns."""
    call = _Call(**_complete(code, options))
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Result] = loop.create_future()
    started: list[Running] = []
    cancelled = threading.Event()

    def note(running: Running) -> None:
        started.append(running)
        if cancelled.is_set():
            running.cancel()

    def tell(result: Result | None, error: BaseException | None) -> None:
        if error is not None:
            done.set_exception(error)
        elif result is not None:
            done.set_result(result)

    def work() -> None:
        try:
            outcome: tuple[Result | None, BaseException | None] = (call.perform(note), None)
        except BaseException as error:
            outcome = (None, error)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody awaits
            loop.call_soon_threadsafe(tell, *outcome)

    thread = threading.Thread(target=work, name="vsbox-run", daemon=True)
    thread.start()
    try:
        await asyncio.wait({done})
    except BaseException as error:
        cancelled.set()
        for running in started:
            running.cancel()
        if isinstance(error, asyncio.CancelledError):
            await settle(done)
            thread.join()  # it is at its end
        raise
    thread.join()
    result = done.result()
    return result.check() if check else result


def _complete(code: Code | None, options: dict[str, Any]) -> dict[str, Any]:
    known = run.__kwdefaults__ or {}
    unknown = options.keys() - known.keys()
    if unknown:
        raise TypeError(f"arun() got an unexpected keyword argument {min(unknown)!r}")
    return {name: value for name, value in (known | options).items() if name != "check"} | {"code": code}


@dataclass(frozen=True)
class _Call:
    """The arguments of one call, checked and turned into what the machinery takes."""

    code: Code | None
    script: str | os.PathLike[str] | None
    args: Sequence[str]
    packages: str | os.PathLike[str] | None
    files: Mapping[str, trees.Content] | None
    workdir: str | os.PathLike[str] | None
    mount_point: str
    changes: str
    cwd: str | None
    env: Mapping[str, str] | None
    stdin: bytes | str
    timeout: float | None
    limits: Limits
    network: Literal["none", "host"]
    read: Iterable[str | os.PathLike[str]]
    write: Iterable[str | os.PathLike[str]]
    hidden: Iterable[str | os.PathLike[str]]
    mounts: Mapping[str, str | os.PathLike[str]] | None
    writable: Any
    stdout: Target
    stderr: Target
    backend: str
    allow_degraded: Iterable[str]

    def __post_init__(self) -> None:
        """Keep what can be looked at once only, and each path as text.

        Raises:
            UsageError: something is not what it should be.
        """
        for name in ("packages", "script", "workdir"):
            if getattr(self, name) is not None:
                self._keep(name, path_of(name, getattr(self, name)))
        lists = ("read", "write", "hidden", "args", *(() if isinstance(self.writable, str) else ("writable",)))
        for name in lists:
            self._keep(name, paths_of(name, getattr(self, name)))
        self._keep("allow_degraded", items_of("allow_degraded", self.allow_degraded))
        mounts = mapping_of("mounts", self.mounts).items()
        self._keep("mounts", {text_of("mounts", target): path_of("mounts", source) for target, source in mounts})
        self._keep("files", mapping_of("files", self.files))
        self._keep("env", variables_of(self.env))
        self._keep("limits", limits_of(self.limits))

    def _keep(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def perform(self, note: Callable[[Running], object]) -> Result:
        """Run it. ``note`` is told of the started process, so that another thread can end it."""
        self._check()
        limits = self.limits
        stdin = bytes_of("stdin", self.stdin)
        contents = self._contents()
        with contextlib.ExitStack() as stack:
            sinks = [_sink(target, stack, self._granted()) for target in (self.stdout, self.stderr)]
            prepared = cell.prepare(self._wanted(limits, waits=bool(contents)), dict(self.env or {}))
            stack.callback(prepared.close)
            directory = self._open_workdir(prepared, stack)
            before = trees.Snapshot() if directory is None or prepared.original else _fill(directory, contents)
            argv = self._argv(prepared.environment.python, prepared)
            if self._long_code is not None and prepared.scratch is not None:
                temporary = paths.open_resolved(f"{prepared.scratch}/tmp", trees.DIRECTORY)
                stack.callback(os.close, temporary)
                put_content(temporary, CODE_FILE, self._long_code)
            running = cell.start(prepared, argv, limits, stdin=stdin, stdout=sinks[0], stderr=sinks[1])
            stack.callback(running.close)
            note(running)
            if prepared.exports:
                running.wait_for_directories(self.timeout)
                cell.watch_private_areas(running, limits.disk_bytes)
            if self.workdir is None and running.control.directories[1:]:
                directory = running.control.directories[1]
                before = _fill(directory, contents) if contents else before
            if running.control.has_directories:  # else it is late, or its launcher is gone
                self._let_go(running, waits=bool(contents))
            end = running.finish(self.timeout)
            captured = _captured(running, prepared.original, directory, limits)
            if captured is not None:
                changed = captured.files
            else:
                changed = trees.compare(before, trees.snapshot(directory)) if directory is not None else trees.Changes()
            return Result(
                outcome=end.outcome, returncode=end.returncode, stdout_bytes=bytes(running.stdout.kept),
                stderr_bytes=bytes(running.stderr.kept), files=changed, usage=end.usage, receipt=prepared.receipt,
                limit=end.limit, violations=tuple(running.control.violations), changes=captured,
            )  # fmt: skip

    def _check(self) -> None:
        if (self.code is None) == (self.script is None):
            raise UsageError("give either code or script")
        is_code = isinstance(self.code, Sequence) and not isinstance(self.code, (bytes, bytearray)) and self.code
        if self.code is not None and not is_code:
            raise UsageError("code is text, or a list of a command and its arguments")
        for word in () if self.code is None else (self.code,) if isinstance(self.code, str) else self.code:
            path_of("code", word)
        check_timeout(self.timeout)
        if self.changes not in CHANGES:
            raise UsageError(f"bad changes {self.changes!r}", hint="keep, capture")
        if self.changes == "capture" and self.workdir is None:
            raise UsageError("cannot capture changes without workdir: a private directory has none to keep")
        if self.changes == "capture" and self.files:
            raise UsageError("cannot put files into a directory that is to stay as it is", hint="leave one out")
        if self.args and self.script is None:
            raise UsageError("args go with script; to a command they belong in its list")

    def _contents(self) -> dict[str, bytes]:
        """Return what is put into the working directory."""
        given = self.files or {}
        for name in given:
            trees.check_name(name)
        granted = self._granted() if given else ()
        return {name: content_of(name, content, granted) for name, content in given.items()}

    @functools.cached_property
    def _long_code(self) -> bytes | None:
        data = encoded("code", self.code) if isinstance(self.code, str) else b""
        return data if len(data) > LONGEST_ARGUMENT else None

    def _argv(self, python: str, prepared: cell.Prepared) -> tuple[str, ...]:
        if self.script is not None:
            return (python, self._script_inside(prepared), *self.args)
        if isinstance(self.code, str):
            if self._long_code is not None:
                return (python, "-c", READ_CODE.format(f"{prepared.variables['TMPDIR']}/{CODE_FILE}"))
            return (python, "-c", self.code)
        return tuple(map(os.fsdecode, self.code or ()))

    def _script_inside(self, prepared: cell.Prepared) -> str:
        """Return where the script is seen: in the working directory, if it lies there."""
        granted = self._granted()
        script = paths.resolve(self.script or "", granted)
        workdir = None if self.workdir is None else paths.resolve(self.workdir, granted)
        return f"{prepared.workdir}{script[len(workdir) :]}" if workdir and is_below(script, workdir) else script

    def _granted(self) -> tuple[str, ...]:
        """Return what code inside may write to, as it is named: no link in there is followed."""
        listed = () if isinstance(self.writable, str) else tuple(self.writable)
        workdir = () if self.workdir is None or self.changes == "capture" else (self.workdir,)
        return tuple(paths.follow(path)[0] for path in (*workdir, *self.write, *listed))

    def _wanted(self, limits: Limits, *, waits: bool) -> cell.Wanted:
        resolve = functools.partial(paths.resolve, written=self._granted())
        named = None if isinstance(self.writable, str) else {resolve(path) for path in self.writable}
        if named is None and self.writable not in {"all", "none"}:
            raise UsageError(f"bad writable {self.writable!r}", hint='"all", "none", or a list of paths')
        workdir = None if self.workdir is None else resolve(self.workdir)
        mounts = tuple(
            (source := resolve(path), target, named is not None and source in named)
            for target, path in (self.mounts or {}).items()
        )
        is_writable = self.writable == "all" if named is None else workdir in named
        scripts = [] if self.script is None else [resolve(self.script)]
        if not all(map(os.path.isfile, scripts)):
            raise UsageError(f"cannot run {self.script}: it is not a file")
        scripts = [path for path in scripts if workdir is None or not is_below(path, workdir)]
        return cell.Wanted(
            packages=None if self.packages is None else resolve(self.packages),
            workdir=workdir,
            mount_point=self.mount_point,
            capture=self.changes == "capture",
            workdir_access="write" if is_writable else "read",
            cwd=self.cwd,
            network=self.network,
            read=(*scripts, *map(resolve, self.read)),
            write=tuple(map(resolve, self.write)),
            hidden=tuple(map(resolve, self.hidden)),
            mounts=mounts,
            limits=limits,
            backend=self.backend,
            allow_degraded=tuple(self.allow_degraded),
            waits=waits or self._long_code is not None,
        )

    def _open_workdir(self, prepared: cell.Prepared, stack: contextlib.ExitStack) -> int | None:
        """Return a descriptor of a working directory that is on the host."""
        path = prepared.host_workdir
        if path is None:
            return None
        descriptor = paths.open_resolved(path, trees.DIRECTORY)
        stack.callback(os.close, descriptor)
        return descriptor

    def _let_go(self, running: Running, *, waits: bool) -> None:
        """Let the code start where it waits; what is long of it is put in first."""
        if self._long_code is not None and running.control.directories:
            put_content(running.control.directories[0], CODE_FILE, self._long_code)
        if waits or self._long_code is not None:
            with contextlib.suppress(OSError):  # it has failed already, and finish says why
                running.go()


def _fill(directory: int, contents: Mapping[str, bytes]) -> trees.Snapshot:
    """Put files in, and return what the directory holds then."""
    for name, data in contents.items():
        put_content(directory, name, data)
    return trees.snapshot(directory)


def _captured(running: Running, original: Original | None, copy: int | None, limits: Limits) -> ChangeSet | None:
    if original is None:
        return None
    if running.control.changes is not None:
        return read_overlay(running.control.changes, original, limits.disk_bytes)
    return read_copy(copy, original, limits.disk_bytes) if copy is not None else None


def _sink(target: Target, stack: contextlib.ExitStack, granted: Iterable[str]) -> Sink:
    if target == "capture":
        return None
    if target == "discard":
        return _forget
    if callable(target):
        return target
    if isinstance(target, (str, os.PathLike)):
        return stack.enter_context(os.fdopen(_create(target, granted), "wb")).write
    if isinstance(target, io.TextIOBase):
        raise UsageError("cannot write output to a text file: it is bytes", hint="give its buffer: sys.stdout.buffer")
    if hasattr(target, "write"):
        return target.write
    raise UsageError(f"bad target of output {target!r}", hint='"capture", "discard", a path, a file or a function')


def _create(path: str | os.PathLike[str], granted: Iterable[str]) -> int:
    """Open a file to write to. Code inside may have put a link or a pipe in its place, where it could write before."""
    real, links = paths.follow(path_of("target of output", path))
    paths.refuse_links(path, links, {*paths.WRITTEN, *granted} if links else ())
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK  # type: ignore[attr-defined,unused-ignore]
    try:
        descriptor = paths.open_resolved(real, flags)
    except OSError as error:
        raise UsageError(f"cannot write output to {real}: {error.strerror}") from error
    os.set_blocking(descriptor, True)  # type: ignore[attr-defined,unused-ignore]
    return descriptor


def _forget(data: bytes) -> None:
    del data


__all__ = ["arun", "run"]
