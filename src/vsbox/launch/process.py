"""One run: the launcher started for it, heard, fed, held to its limits, and ended with everything inside.

A thread needs nothing but this object: no signal handler, no fork of this process, no thread of its own.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import selectors
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

from vsbox.errors import LauncherError, VsboxError
from vsbox.host.collect import find_launcher
from vsbox.launch.control import FAILED, GO, KILL, SIGNAL, Control
from vsbox.launch.ending import Disks, End, disk_hit, judge_end, memory_end, raise_said
from vsbox.launch.group import Group
from vsbox.launch.limits import Limits, Meter, Sample
from vsbox.launch.result import LimitHit, Outcome, Usage
from vsbox.launch.streams import Output, Pipes, Sink, bytes_in

CHUNK_BYTES: Final = 1 << 16
SECONDS_TO_START: Final = 60.0
"""For the launcher to make what the code inside is to find."""
SECONDS_TO_END: Final = 5.0
"""For the launcher to end what is inside, before it is killed itself."""
SHORTEST_LOOK, LONGEST_LOOK = 0.015, 0.1


class Closable(Protocol):
    """What is closed in the end."""

    def close(self) -> None:
        """Close it; a second time does nothing."""


@dataclass(frozen=True)
class Command:
    """What is started: the encoded plan (a descriptor), arguments, variables, input; ``kept``: a descriptor for it.

    ``foreground``: it stays in the caller's process group, so the terminal's signals reach it as they do the caller.
    ``witnesses``: processes of the launcher's beside the payload.
    """

    plan: int
    argv: tuple[str, ...]
    variables: Mapping[str, str]
    stdin: bytes | int = b""
    kept: int = -1
    foreground: bool = False
    witnesses: int = 0


class Running:
    """A started run.

    ``control`` is what its launcher has said; ``exports``: how many directories it hands over. ``close`` ends what is
    left and closes every descriptor.
    """

    def __init__(
        self, command: Command, *, limits: Limits, group: Group, exports: int, stdout: Sink = None, stderr: Sink = None
    ) -> None:
        self.limits = limits
        self.group = group
        self._group_memory = limits.memory_bytes if "memory" in group.controllers else None
        self.stdout, self.stderr = Output(stdout), Output(stderr)
        self.control = Control(exports)
        self._input = memoryview(command.stdin) if isinstance(command.stdin, bytes) else memoryview(b"")
        self._cause: tuple[Outcome, LimitHit | None] | None = None
        self._sample = Sample(0.0, 0, 0)
        self._peak_memory = 0
        self._most_tasks = 0
        self._room = limits.output_bytes
        self._cpu_before = 0.0
        self._disks: Disks | None = None
        self._open: dict[int, Callable[[], object]] = {}
        self._pipes = Pipes()
        self._to_close: list[Closable] = [self.control, self._pipes]
        self._init, self._launcher = -1, -1
        self._has_started = False
        try:
            self._start(command)
        except BaseException:
            self.close()
            raise
        finally:
            self.control.theirs.close()

    def _start(self, command: Command) -> None:
        handed = (command.plan, self.control.theirs.fileno(), command.kept)
        channels = [self._pipes.above_streams(number) for number in handed]
        words = [find_launcher(), "run", *channels, self.group.word, os.getpid(), *command.argv]
        descriptors = [number for number in channels if number >= 0]
        read: dict[int, Output] = {}
        their_out, their_err = (self._stream(output, read) for output in (self.stdout, self.stderr))
        source: int = subprocess.DEVNULL
        if isinstance(command.stdin, int):
            source = command.stdin
        elif command.stdin:
            self._stdin, source = self._pipes.to_write(len(self._input))
            self._feed()
        self._own_memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # type: ignore[attr-defined,unused-ignore]
        self.started = time.monotonic()
        try:
            self._process = subprocess.Popen(
                [str(word) for word in words], stdin=source, stdout=their_out, stderr=their_err, cwd="/",
                env=dict(command.variables), pass_fds=descriptors,
                start_new_session=not command.foreground,
            )  # fmt: skip
        except (OSError, ValueError) as error:  # an argument holds NUL
            cause = getattr(error, "strerror", None) or error
            raise LauncherError(f"cannot start {command.argv[0]}: {cause}") from error
        self._meter = Meter(self._process.pid, witnesses=command.witnesses)
        self._has_started = True
        self._pipes.close_handed()
        self._selector = selectors.DefaultSelector()  # only now, while the launcher begins
        self._to_close.append(self._selector)
        self._wake, self._woken = socket.socketpair()
        self._to_close += (self._wake, self._woken)
        with contextlib.suppress(OSError):  # Linux before 5.3: its streams are closed when it has ended
            self._launcher = os.pidfd_open(self._process.pid)  # type: ignore[attr-defined,unused-ignore]
            self._selector.register(self._launcher, selectors.EVENT_READ, lambda: None)
        for descriptor, output in read.items():
            self.watch(descriptor, partial(self._read, descriptor, output))
        self._streams = read
        if self._input:
            self.watch(self._stdin, self._feed, writing=True)
        self.watch(self.control.fileno(), self._hear)
        self._selector.register(self._woken, selectors.EVENT_READ, self._cancelled)

    def _stream(self, output: Output, read: dict[int, Output]) -> int:
        """Return what the payload writes to; note the end that is read here."""
        if isinstance(output.sink, int):
            return output.sink
        ours, theirs = self._pipes.to_read()
        read[ours] = output
        return theirs

    def watch(self, descriptor: int, serve: Callable[[], object], *, writing: bool = False) -> None:
        """Call ``serve`` whenever a descriptor is ready, until :meth:`forget`."""
        os.set_blocking(descriptor, False)  # type: ignore[attr-defined,unused-ignore]
        self._open[descriptor] = serve
        self._selector.register(descriptor, selectors.EVENT_WRITE if writing else selectors.EVENT_READ, serve)

    def forget(self, descriptor: int) -> None:
        """Watch a descriptor no more."""
        if self._open.pop(descriptor, None):
            self._selector.unregister(descriptor)

    # ---- what others may call ----

    @property
    def pid(self) -> int:
        """The launcher's process id."""
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        """Whether a limit was passed, or the payload has ended."""
        heard_all = self.control.fileno() not in self._open or self._is_launcher_gone()
        return self._cause is not None or self.control.last is not None or heard_all

    def cancel(self) -> None:
        """End the run; from any thread."""
        with contextlib.suppress(OSError):
            self._wake.send(b"c")

    def send_signal(self, number: int) -> None:
        """Send a signal to the payload; from any thread. In the foreground, one that its group got counts once."""
        with contextlib.suppress(OSError):
            self.control.tell(SIGNAL, number)

    def interrupt(self) -> None:
        """Send SIGINT to the payload; from any thread."""
        self.send_signal(2)

    def go(self) -> None:
        """Let a payload start that waits."""
        self.control.tell(GO)

    def payload(self) -> list[int]:
        """Return the processes inside."""
        return self._meter.payload()

    def watch_disks(self, look: Disks) -> None:
        """Set what tells how much of the private areas is used, and how much there is."""
        self._disks = look

    def begin_call(self, limits: Limits) -> None:
        """Begin to count processor time and output anew, against these limits."""
        self.limits = limits
        self._room = limits.output_bytes
        self._cpu_before = self._meter.sample().cpu_seconds if limits.cpu_seconds is not None else 0.0

    # ---- the launcher ----

    def wait_for_directories(self, timeout: float | None = None) -> None:
        """Wait until the launcher has handed its directories over, has failed to, or the run has had its time.

        Raises:
            LauncherError: it does neither.
        """
        deadline = self.started + min(timeout or SECONDS_TO_START, SECONDS_TO_START)
        while not self.control.has_directories and not self._is_launcher_gone() and time.monotonic() < deadline:
            _wait_for_any((self.control.fileno(), self._launcher), deadline - time.monotonic())
            if not self.control.hear():
                return
        if not self.control.has_directories and time.monotonic() >= self.started + SECONDS_TO_START:
            raise LauncherError(f"cannot start: nothing is ready after {SECONDS_TO_START:.0f} s")

    def _is_launcher_gone(self) -> bool:
        """Tell whether it has ended, and all inside with it.

        Who holds a stream or the socket of the run then is somebody else: another run that code inside gave it to, or a
        child that another thread has forked meanwhile.
        """
        return self._launcher >= 0 and _wait_for_any((self._launcher,), 0)

    def _hear(self) -> None:
        if not self.control.hear():
            self.forget(self.control.fileno())

    # ---- the loop ----

    def finish(self, timeout: float | None) -> End:
        """Hear, feed and watch until the run has ended; ``timeout`` counts from its start.

        Raises:
            LauncherError: the launcher could not do it; the payload did not run.
        """
        deadline = None if timeout is None else self.started + timeout
        if not self.pump(self._is_over, deadline) and timeout is not None:
            self.end(Outcome.TIMEOUT, LimitHit("timeout", timeout, time.monotonic() - self.started))
        return self.reap()

    def _is_over(self) -> bool:
        """Tell whether the launcher has said its last word, or can say none: what still writes is about to end."""
        return self.control.last is not None or not self._open or self._is_launcher_gone()

    def pump(self, is_done: Callable[[], bool], deadline: float | None) -> bool:
        """Hear, feed and watch until something is done, a limit ends the run, or it is late; false for the last."""
        look, next_look, active = SHORTEST_LOOK, time.monotonic() + SHORTEST_LOOK, time.monotonic()
        before = (self._sample.cpu_seconds, self._room)
        while self._cause is None and not is_done():
            now = time.monotonic()
            if deadline is not None and now >= deadline:
                return False
            soonest = next_look if deadline is None else min(next_look, deadline)
            for key, _ in self._selector.select(max(soonest - now, 0)):
                key.data()
            now = time.monotonic()
            if now < next_look:
                continue
            self._look()
            progress = (self._sample.cpu_seconds, self._room)
            active, before = (now if progress != before else active), progress
            if self.limits.idle_seconds is not None and now - active > self.limits.idle_seconds:
                self.end(Outcome.TIMEOUT, LimitHit("idle_seconds", self.limits.idle_seconds, now - active))
            look = min(look * 1.2, LONGEST_LOOK)
            next_look = now + look
        return True

    def _cancelled(self) -> None:
        self._woken.recv(16)
        self.end(Outcome.CANCELLED, None)

    def _feed(self) -> None:
        try:
            self._input = self._input[os.write(self._stdin, self._input[:CHUNK_BYTES]) :]
        except BlockingIOError:
            return
        except OSError:
            self._input = memoryview(b"")
        if not self._input:
            self.forget(self._stdin)
            self._pipes.close_one(self._stdin)

    def _read(self, descriptor: int, output: Output, most: int = CHUNK_BYTES) -> int:
        """Take a piece; return how many bytes it had, 0 also where no more is wanted."""
        try:
            data = os.read(descriptor, most)
        except BlockingIOError:
            return 0
        if not data:
            self.forget(descriptor)
            return 0
        output.take(data, self._room)
        self._room -= len(data)
        if self._room < 0:
            limit = self.limits.output_bytes
            self.end(Outcome.OUTPUT, LimitHit("output_bytes", limit, limit - self._room))
        return len(data) if self._room >= 0 else 0

    def read_all(self) -> None:
        """Take what is in the pipes now; somebody may hold them open, and write on, so nothing is waited for."""
        for descriptor, output in self._streams.items():
            left = bytes_in(descriptor) if descriptor in self._open else 0
            while left > 0 and (size := self._read(descriptor, output, min(left, CHUNK_BYTES))):
                left -= size

    # ---- limits ----

    def _look(self) -> None:
        limits = self.limits
        watched = None if limits.memory_bytes == self._group_memory else limits.memory_bytes  # a call may have its own
        self._sample = sample = self._meter.sample(watched)
        self._know_init()
        self._peak_memory = max(self._peak_memory, sample.memory_bytes)
        self._most_tasks = max(self._most_tasks, sample.tasks)
        if limits.processes is not None and sample.tasks > limits.processes:
            self.end(Outcome.PROCESSES, LimitHit("processes", limits.processes, sample.tasks))
        if limits.memory_bytes is not None and (sample.memory_bytes > limits.memory_bytes or self.group.memory_kills()):
            most = max(sample.memory_bytes, limits.memory_bytes)
            self.end(Outcome.MEMORY, LimitHit("memory_bytes", limits.memory_bytes, most))
        cpu = sample.cpu_seconds - self._cpu_before
        if limits.cpu_seconds is not None and cpu > limits.cpu_seconds:
            self.end(Outcome.CPU, LimitHit("cpu_seconds", limits.cpu_seconds, cpu))
        full = disk_hit(limits, self._disks)
        if full is not None:
            self.end(Outcome.DISK, full)

    def end(self, outcome: Outcome, limit: LimitHit | None) -> None:
        """Note why the run is to end; the first reason counts. :meth:`reap` does it."""
        if self._cause is None:
            self._cause = (outcome, limit)

    # ---- the end ----

    def reap(self) -> End:
        """End the run if it has not ended, wait until nothing is left, and say how it ended.

        Raises:
            LauncherError: as for :meth:`finish`.
        """
        if self._cause is not None:
            self._kill()
        usage = self._wait()
        self.control.hear_all()
        self.read_all()
        return self._judge(usage)

    def _kill(self) -> None:
        with contextlib.suppress(OSError):
            self.control.tell(KILL)

    def _wait(self) -> Usage:
        """Wait for the launcher, which waits for all inside; return what was used."""
        latest = time.monotonic() + SECONDS_TO_END
        spent = None
        pause = 0.0005
        while self._process.returncode is None:
            try:
                done, status, spent = os.wait4(self._process.pid, os.WNOHANG)  # type: ignore[attr-defined,unused-ignore]
            except ChildProcessError:  # somebody waits for every child of this process
                self._process.returncode = -1
                break
            if done:
                self._process.returncode = os.waitstatus_to_exitcode(status)
                break
            self.control.hear_all()
            if time.monotonic() > latest:
                self._know_init()
                os.kill(self._process.pid, 9)
                latest += SECONDS_TO_END
            _wait_for_any((self._launcher,), pause)
            pause = min(pause * 2, 0.02)
        self._wait_for_init()
        wall = time.monotonic() - self.started
        if spent is None:
            return Usage(wall, self._sample.cpu_seconds, self._peak_memory, self._most_tasks)
        cpu = max(spent.ru_utime + spent.ru_stime, self._sample.cpu_seconds)
        # what this very process had is counted until the launcher is executed: a figure that is no more says nothing
        most = spent.ru_maxrss if spent.ru_maxrss > self._own_memory else 0
        peak = max(self._peak_memory, most << 10, self.group.peak_memory())
        return Usage(wall, cpu, peak, max(self._most_tasks, 1))

    def _know_init(self) -> None:
        """Get hold of init, which outlives a launcher that is killed by as long as it takes to end what is inside."""
        inits = self._meter.inits() if self._init < 0 else []
        with contextlib.suppress(OSError):  # Linux before 5.3
            self._init = os.pidfd_open(inits[0]) if inits else self._init  # type: ignore[attr-defined,unused-ignore]

    def _wait_for_init(self) -> None:
        if self._init >= 0:
            _wait_for_any((self._init,), SECONDS_TO_END)

    def _judge(self, usage: Usage) -> End:
        if self._cause is not None:
            outcome, hit = self._cause
            return End(outcome, None, hit, usage)
        short = memory_end(self.limits, self.group, usage)
        if short is not None:
            return short
        if self.control.last is None:
            self._raise_for_launcher()
            raise LauncherError("cannot tell how the run ended: its launcher was killed", hint="was memory short?")
        cpu = usage.cpu_seconds - self._cpu_before
        return judge_end(self.control.last, self.limits, self.group, usage, cpu_seconds=cpu, disks=self._disks)

    def raise_failure(self) -> None:
        """Raise what the launcher could not do, if that is how it ended.

        Raises:
            LauncherError: in the launcher's words.
        """
        if self.control.last is not None and self.control.last.kind == FAILED:
            raise_said(self.control.last.text)

    def _raise_for_launcher(self) -> None:
        """Raise what the launcher said before it could say so by its socket: on standard error, as it always does."""
        said = bytes(self.stderr.kept).decode(errors="replace")
        if self._process.returncode == VsboxError.exit_code and said.startswith("vsbox: "):
            raise_said(said)

    def close(self) -> None:
        """End what still runs, and close every descriptor."""
        if self._has_started and self._process.returncode is None:
            self.end(Outcome.CANCELLED, None)
            self._kill()
            self._wait()
        self._close_own()

    def forget_in_child(self) -> None:
        """Close what a forked child has of it, and end nothing."""
        self._process.returncode = 0  # of no child of this process: nothing is to warn of it
        self._close_descriptors()

    def _close_descriptors(self) -> None:
        for end in self._to_close:
            end.close()
        for process in (self._init, self._launcher):
            if process >= 0:
                os.close(process)
        self._init, self._launcher = -1, -1

    def _close_own(self) -> None:
        self._close_descriptors()
        self.group.close()


def _wait_for_any(descriptors: tuple[int, ...], seconds: float) -> bool:
    """Wait until one can be read, or has ended if it is a process; tell whether it was in time."""
    waiting = select.poll()  # type: ignore[attr-defined,unused-ignore]
    for descriptor in descriptors:
        if descriptor >= 0:
            waiting.register(descriptor, select.POLLIN)  # type: ignore[attr-defined,unused-ignore]
    return bool(waiting.poll(max(seconds, 0) * 1000))
