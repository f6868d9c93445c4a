"""Sessions: Python inside that keeps its variables from call to call, without a daemon."""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import socket
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from vsbox.errors import SessionError, UsageError, VsboxError
from vsbox.launch import cell, paths
from vsbox.launch import files as trees
from vsbox.launch.arguments import check_timeout, items_of, mapping_of, path_of, paths_of, variables_of
from vsbox.launch.channel import Channel
from vsbox.launch.contents import content_of, put_content
from vsbox.launch.limits import Limits, limits_of
from vsbox.launch.process import Running
from vsbox.launch.reply import Answer, Reply, reply_to
from vsbox.launch.result import LimitHit, Outcome
from vsbox.plan.receipt import Receipt

if TYPE_CHECKING:
    from vsbox.launch.session_async import AsyncSandbox

WORKER: Final = Path(__file__).with_name("worker.py")
KEPT_INSIDE: Final = 4
"""``native/cell.c``, FD_KEPT."""
SECONDS_TO_INTERRUPT: Final = 1.0
"""For code to end after KeyboardInterrupt; a session whose code does not is ended."""


class Sandbox:
    """Python inside that keeps its variables: ``with Sandbox() as box: box.run("x = 1")``.

    Its arguments are those of :func:`vsbox.run` with the same names; ``on_stdout`` and ``on_stderr`` are called with
    each piece of output as it comes, which is then not kept. ``limits`` count for the whole session, but
    ``output_bytes``, ``cpu_seconds`` and ``idle_seconds`` for each call. Used by one thread at a time; ``interrupt``
    and ``close`` may come from any, and from a callback or signal handler during a call. With ``async with`` it gives
    an :class:`AsyncSandbox`.

    Security: as for :func:`vsbox.run`. Calls of one session are not protected from each other. Values come back as JSON
    and bytes; nothing that comes from inside is unpickled or executed.
    """

    def __init__(
        self,
        *,
        packages: str | os.PathLike[str] | None = None,
        workdir: str | os.PathLike[str] | None = None,
        mount_point: str = "/mnt",
        files: Mapping[str, trees.Content] | None = None,
        env: Mapping[str, str] | None = None,
        limits: Limits | None = None,
        network: Literal["none", "host"] = "none",
        read: Iterable[str | os.PathLike[str]] = (),
        write: Iterable[str | os.PathLike[str]] = (),
        backend: str = "auto",
        allow_degraded: Iterable[str] = (),
        on_stdout: Callable[[bytes], object] | None = None,
        on_stderr: Callable[[bytes], object] | None = None,
    ) -> None:
        self._limits = limits_of(limits)
        read, write = paths_of("read", read), paths_of("write", write)
        workdir = None if workdir is None else path_of("workdir", workdir)
        self._granted = tuple(paths.follow(path)[0] for path in (*([] if workdir is None else [workdir]), *write))
        resolve = functools.partial(paths.resolve, written=self._granted)
        self._wanted = cell.Wanted(
            packages=None if packages is None else resolve(path_of("packages", packages)),
            workdir=None if workdir is None else resolve(workdir),
            mount_point=mount_point,
            network=network,
            read=tuple(map(resolve, read)),
            write=tuple(map(resolve, write)),
            limits=_of_all_calls(self._limits),
            backend=backend,
            allow_degraded=items_of("allow_degraded", allow_degraded),
        )
        self._variables = {"MPLBACKEND": "Agg", **variables_of(env), "VSBOX_SESSION": str(KEPT_INSIDE)}
        self._files = mapping_of("files", files)
        self._sinks = (on_stdout, on_stderr)
        if not all(sink is None or callable(sink) for sink in self._sinks):
            raise UsageError("bad on_stdout or on_stderr: it is no function")
        self._stack = contextlib.ExitStack()
        self._owner = os.getpid()
        self._lock = threading.RLock()
        self._is_busy = False
        self._is_closing = False
        self._running: Running | None = None
        self._prepared: cell.Prepared | None = None
        self._interrupted = threading.Event()
        self._is_ready = self._is_sent = False
        self._signals = 0
        self._number = 0
        self._answer: Answer | None = None

    # ---- life ----

    def open(self) -> Sandbox:
        """Start; ``with`` does it.

        Raises:
            VsboxError: it cannot be done here, or not as asked.
        """
        self._forget_in_child()
        with self._use():
            if self._running is not None:
                raise SessionError("cannot open a session twice")
            self._is_closing = self._is_ready = False
            self._signals = 0  # of the session before
            self._start()
        return self

    @contextlib.contextmanager
    def _use(self) -> Iterator[None]:
        """Have it for one call; a :meth:`close` that this thread asks for meanwhile is done afterwards."""
        with self._lock:
            if self._is_busy:
                raise SessionError("cannot use a session within a call of its own")
            try:
                self._is_busy = True
                yield
            finally:
                self._is_busy = False
                if self._is_closing:
                    self._end()

    def _start(self) -> None:
        with contextlib.ExitStack() as stack:
            prepared = cell.prepare(self._wanted, self._variables)
            stack.callback(prepared.close)
            ours, theirs = socket.socketpair()
            stack.callback(ours.close)
            with theirs:
                argv = (prepared.environment.python, "-c", WORKER.read_text(encoding="utf-8"))
                running = cell.start(
                    prepared, argv, self._limits, stdout=self._sinks[0], stderr=self._sinks[1], kept=theirs.fileno()
                )
            stack.callback(running.close)
            if prepared.exports:
                running.wait_for_directories()
                if running.has_ended:
                    running.reap()  # which says why
                cell.watch_private_areas(running, self._limits.disk_bytes)
            self._channel = Channel(running, ours, take=self._take, sent=functools.partial(self._note_sent, running))
            stack.callback(self._channel.close)
            self._running, self._prepared = running, prepared
            self._directory = self._find_directory(stack)
            self._stack = stack.pop_all()
        _OPEN.add(self)
        try:
            for name, data in self._files.items():
                put_content(self._root(), name, content_of(name, data, self._granted))
        except BaseException:
            self._end()
            raise

    def _find_directory(self, stack: contextlib.ExitStack) -> int | None:
        running = self._started()
        if self._prepared is not None and self._prepared.host_workdir is not None:
            descriptor = paths.open_resolved(self._prepared.host_workdir, trees.DIRECTORY)
            stack.callback(os.close, descriptor)
            return descriptor
        return running.control.directories[1] if len(running.control.directories) > 1 else None

    def close(self) -> None:
        """End it with everything inside; from any thread, twice if you like.

        Within a call of this very thread, from a callback or a signal handler, it ends the call, which does the rest.
        """
        self._forget_in_child()
        running = self._running
        if running is not None:
            running.cancel()
        with self._lock:
            if self._is_busy:
                self._is_closing = True
            else:
                self._end()

    @property
    def _is_own(self) -> bool:
        return os.getpid() == self._owner

    def _forget_in_child(self) -> None:
        """In a process that has been forked meanwhile, close its sockets and end nothing: it is the parent's."""
        if self._is_own:
            return
        running, self._running = self._running, None
        if running is not None:
            running.forget_in_child()
            self._channel.close()
        self._stack.pop_all()  # called by nobody
        self._owner, self._lock, self._is_busy = os.getpid(), threading.RLock(), False

    def _end(self) -> None:
        self._running = None
        stack, self._stack = self._stack, contextlib.ExitStack()
        stack.close()

    def __enter__(self) -> Sandbox:  # noqa: PYI034 - Self is of Python 3.11
        """Start."""
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End."""
        self.close()

    async def __aenter__(self) -> AsyncSandbox:
        """Start without blocking the event loop."""
        from vsbox.launch.session_async import AsyncSandbox

        self._async = AsyncSandbox(self)
        await self._async.open()
        return self._async

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End."""
        await self._async.close()

    def __del__(self) -> None:
        """End what nobody can end any more."""
        if getattr(self, "_running", None) is not None and self._is_own:
            warnings.warn(f"{self!r} was never closed", ResourceWarning, source=self, stacklevel=2)
            self.close()

    def _started(self) -> Running:
        if self._running is None:
            raise SessionError("cannot use a session that is not open")
        if not self._is_own:
            raise SessionError("cannot use a session of another process", hint="open one after the fork")
        return self._running

    @property
    def alive(self) -> bool:
        """Whether it can be used."""
        return self._running is not None and self._is_own and not self._running.has_ended

    @property
    def receipt(self) -> Receipt:
        """What is enforced, and by which layer."""
        if self._prepared is None:
            raise SessionError("cannot use a session that is not open")
        return self._prepared.receipt

    @property
    def pid(self) -> int:
        """The launcher's process id."""
        return self._started().pid

    # ---- calls ----

    def run(self, code: str, *, timeout: float | None = None, limits: Limits | None = None) -> Reply:
        """Run code and return what it came to; variables stay. After ``timeout`` seconds it is interrupted.

        ``limits`` count for this call, where they say something other than None; ``output_bytes`` always does. Passing
        one ends the session. ``open_files``, ``file_bytes`` and ``disk_bytes`` are the session's.

        Raises:
            SessionError: the session has ended before.
            UsageError: the arguments make no sense.
        """
        return self._run_until(threading.Event(), code, timeout=timeout, limits=limits)

    def _run_until(
        self, interrupted: threading.Event, code: str, *, timeout: float | None = None, limits: Limits | None = None
    ) -> Reply:
        """Do the same, unless and until another thread hands this event to :meth:`_interrupt`."""
        self._started()
        if not isinstance(code, str):
            raise UsageError(f"bad code: {type(code).__name__}, which is no text")
        check_timeout(timeout)
        limits_of(limits)
        with self._use():
            running = self._started()
            self._interrupted, self._is_sent = interrupted, False
            if running.has_ended:
                running.raise_failure()
                raise SessionError("cannot use a session that has ended", hint="open another")
            try:
                reply = self._call(running, code, timeout, self._limits_of_call(limits))
            finally:
                self._is_sent = False
                if self._is_own:
                    self._channel.drop()
            return msgspec.structs.replace(reply, alive=reply.alive and not self._is_closing)

    def _limits_of_call(self, limits: Limits | None) -> Limits:
        """Return the limits of a call; of processor time those of the session count anew for each."""
        names = ("cpu_seconds", "idle_seconds", "memory_bytes", "processes", "output_bytes")
        if limits is not None and limits.required:
            raise UsageError("cannot require a limit of one call", hint="Sandbox(limits=Limits(required=...))")
        given = {name: value for name in names if (value := getattr(limits, name, None)) is not None}
        return msgspec.structs.replace(self._limits, **given)

    def _call(self, running: Running, code: str, timeout: float | None, limits: Limits) -> Reply:
        started = time.monotonic()
        out, err = len(running.stdout.kept), len(running.stderr.kept)
        seen = len(running.control.violations)
        self._number += 1
        is_late = self._signals > 0  # one sent for the call before may still come: the inside waits for it first
        self._signals, self._is_ready = 0, self._is_ready and not is_late
        request = json.dumps({"id": self._number, "code": code, "late": is_late}).encode()
        running.begin_call(limits)
        try:
            self._answer = None
            self._channel.send(request)
            in_time = running.pump(self._is_answered, None if timeout is None else started + timeout)
            hit = None if in_time or timeout is None else LimitHit("timeout", timeout, time.monotonic() - started)
            if hit is not None and not self._stop(running):
                self._answer = None
                running.end(Outcome.TIMEOUT, hit)
            running.read_all()
        except BaseException:
            if self._is_own:  # a callback may have forked
                self._abandon(running)
            raise
        reply = self._reply(running, hit)
        stdout, stderr = bytes(running.stdout.kept[out:]), bytes(running.stderr.kept[err:])
        del running.stdout.kept[out:], running.stderr.kept[err:]
        return msgspec.structs.replace(
            reply,
            stdout=stdout.decode("utf-8", "replace"),
            stderr=stderr.decode("utf-8", "replace"),
            wall_seconds=time.monotonic() - started,
            violations=tuple(running.control.violations[seen:]),
        )

    def _is_answered(self) -> bool:
        """Tell whether the call has come to something; what says that it exits has still to do that."""
        return self._started().has_ended or (self._answer is not None and self._answer.kind != "exit")

    def _stop(self, running: Running) -> bool:
        """Interrupt the code; tell whether it heeds that."""
        self.interrupt()
        return running.pump(self._is_answered, time.monotonic() + SECONDS_TO_INTERRUPT)

    def _abandon(self, running: Running) -> None:
        """End the code of a call whose caller gets an exception: its own, of a callback or of Ctrl-C."""
        streams = (running.stdout, running.stderr)
        sinks = [stream.sink for stream in streams]
        is_heeded = False
        try:
            for stream in streams:
                stream.sink = _drop
            is_heeded = self._is_answered() or self._stop(running)
            running.read_all()
        finally:
            if not is_heeded or running.has_ended:
                running.end(Outcome.CANCELLED, None)
                with contextlib.suppress(VsboxError):
                    running.reap()
            for stream, sink in zip(streams, sinks, strict=True):
                stream.sink = sink
                stream.kept.clear()

    def _reply(self, running: Running, hit: LimitHit | None) -> Reply:
        answer, self._answer = self._answer, None
        if answer is None or answer.kind == "exit" or running.has_ended:
            end = running.reap()
            if hit is not None and end.limit is None:
                return Reply(Outcome.TIMEOUT, "", "", limit=hit, alive=False)
            is_exit = answer is not None and answer.kind == "exit"
            error = None if end.limit else "SystemExit" if is_exit else running_end(end.returncode)
            return Reply(end.outcome, "", "", error=error, limit=end.limit, alive=False)
        return reply_to(answer, hit)

    def _note_sent(self, running: Running) -> None:
        self._is_sent = True
        self._hand_on(running)

    def _hand_on(self, running: Running) -> None:
        """Send on what was asked to interrupt the call, once the inside can take it and knows which call it is for."""
        if self._is_ready and self._is_sent and self._interrupted.is_set():
            self._signals += 1
            running.interrupt()

    def _take(self, packet: memoryview) -> None:
        running = self._started()
        try:
            answer = msgspec.json.decode(packet, type=Answer)
        except (msgspec.DecodeError, ValueError, RecursionError):
            running.end(Outcome.CANCELLED, LimitHit("answer", 0, len(packet)))
            return
        if answer.kind == "ready":
            self._is_ready = True
            self._hand_on(running)
        elif answer.id == self._number:
            self._answer = answer
            self._signals -= answer.kind == "interrupted"
            if self._channel.is_sending:  # nobody can know yet what was asked
                running.end(Outcome.CANCELLED, LimitHit("answer", 0, len(packet)))

    def interrupt(self) -> None:
        """Raise KeyboardInterrupt in the code that runs; from any thread."""
        self._interrupt(self._interrupted)

    def _interrupt(self, call: threading.Event) -> None:
        call.set()
        running = self._running
        if running is not None and self._interrupted is call and self._is_own:
            self._hand_on(running)

    # ---- files ----

    def _root(self) -> int:
        self._started()
        if self._directory is None:
            raise SessionError("cannot reach the files of this session")
        return self._directory

    def put(self, name: str, data: trees.Content) -> None:
        """Write a file below the working directory: bytes, text, or what a file of ours holds.

        Raises:
            OSError: it cannot be written there; links are not followed.
            UsageError: ``name`` is no path below it, or ``data`` none of these.
        """
        trees.put_file(self._root(), name, content_of(name, data, self._granted))

    def get(self, name: str) -> bytes:
        """Return what a file below the working directory holds; links are not followed.

        Raises:
            OSError: there is no such regular file, or it is larger than the private areas may be.
        """
        return trees.get_file(self._root(), name, self._limits.disk_bytes)

    def list(self) -> tuple[str, ...]:
        """Return every file below the working directory, sorted."""
        return tuple(sorted(trees.snapshot(self._root())))


def _of_all_calls(limits: Limits) -> Limits:
    """Return what the kernel is to hold to: of processor time it would count all calls together."""
    if "cpu_seconds" in limits.required:
        return limits  # and that is refused
    return msgspec.structs.replace(limits, cpu_seconds=None)


_OPEN: Final[weakref.WeakSet[Sandbox]] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """End what nobody has closed: its directories would stay."""
    for box in list(_OPEN):
        box.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_OPEN.clear)  # they are the parent's


def _drop(_: bytes) -> None:
    """Take what nobody wants any more."""


def running_end(returncode: int | None) -> str:
    """Return in words how the inside ended by itself."""
    return "the session has ended" if returncode is None else f"the session ended with {returncode}"
