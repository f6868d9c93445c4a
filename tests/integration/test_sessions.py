"""Sessions: how they are closed, interrupted, cancelled and left, whatever happens at the same time."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from pathlib import Path

import pytest

from vsbox import CannotEnforceError, LauncherError, Limits, Outcome, Sandbox, SessionError, UsageError
from vsbox.launch.reply import Value

tiers = pytest.mark.parametrize("tier", ["native", "landlock"])


def _run_host(code: str, *arguments: str) -> str:
    """Return what a program of its own prints, which may hang."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


# ---- what makes no sense ----

BAD: dict[str, dict[str, object]] = {
    "a number in env": {"env": {"A": 1}}, "a NUL in env": {"env": {"A": "\0"}}, "a number as limits": {"limits": 5},
    "one path": {"read": "/usr"}, "a number as path": {"write": [5]}, "no workdir": {"workdir": "/none"},
    "a file as workdir": {"workdir": "/etc/passwd"}, "a number as workdir": {"workdir": 5}, "no list": {"read": None},
    "a number as packages": {"packages": 5}, "a list as files": {"files": ["a"]}, "network": {"network": "x"},
    "files above": {"files": {"../a": ""}}, "a number as a name": {"files": {5: ""}}, "backend": {"backend": "x"},
    "a file as a directory": {"files": {"a": "", "a/b": ""}}, "a surrogate in a file": {"files": {"a": "\ud800"}},
    "a text as output": {"on_stdout": "x"}, "a descriptor as output": {"on_stderr": 7}, "a list": {"backend": []},
    "one aspect": {"allow_degraded": "files"}, "mount_point": {"mount_point": "x"}, "a number": {"mount_point": 5},
    "a list as network": {"network": []},
}  # fmt: skip


@pytest.mark.parametrize("options", BAD.values(), ids=BAD)
def test_bad_arguments_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(UsageError), Sandbox(**options):  # type: ignore[arg-type]
        pass


def test_bad_calls_are_refused_and_change_nothing() -> None:
    with Sandbox() as box:
        for bad in (b"1", None, 5):
            with pytest.raises(UsageError):
                box.run(bad)  # type: ignore[arg-type]
        for bad in (-1, "1", True, float("nan")):
            with pytest.raises(UsageError):
                box.run("1", timeout=bad)  # type: ignore[arg-type]
        with pytest.raises(UsageError):
            box.run("1", limits={"processes": 1})  # type: ignore[arg-type]
        for name, data in (("x", "\ud800"), ("x", 5), (5, ""), ("/x", ""), ("", ""), ("x", Path("/none"))):
            with pytest.raises(UsageError):
                box.put(name, data)  # type: ignore[arg-type]
        with pytest.raises(UsageError):
            box.get("../x")
        assert (box.list(), box.alive, box.run("1 + 1").value) == ((), True, Value("int", "2", "2"))


def test_required_limits_are_those_of_a_session() -> None:
    with Sandbox() as box, pytest.raises(UsageError, match="one call"):
        box.run("1", limits=Limits(memory_bytes=1 << 28, required=("memory_bytes",)))
    limits = Limits(cpu_seconds=1, required=("cpu_seconds",))
    with pytest.raises(CannotEnforceError, match="only be watched"), Sandbox(limits=limits):
        pass


def test_a_session_that_cannot_be_made_says_why() -> None:
    with pytest.raises(LauncherError, match="/usr/lib/x"), Sandbox(backend="native", mount_point="/usr/lib/x"):
        pass


# ---- what comes back ----


@tiers
def test_text_that_is_none_is_shown_all_the_same(tier: str) -> None:
    with Sandbox(backend=tier) as box:
        reply = box.run("raise ValueError('bad \\udcff')")
        assert (reply.error, reply.traceback.splitlines()[-1]) == ("ValueError", "ValueError: bad \\udcff")
        reply = box.run("class A:\n    def __repr__(self): return '\\ud800'\nA()")
        assert reply.value == Value("A", "\\ud800")
        assert box.run("'\\ud800'").value.data == "\ud800"  # type: ignore[union-attr]


@tiers
def test_a_traceback_is_of_the_code_alone(tier: str) -> None:
    with Sandbox(backend=tier) as box:
        assert box.run("x = = 1").traceback.splitlines()[:2] == ['  File "<call 1>", line 1', "    x = = 1"]
        lines = box.run("1 / 0").traceback.splitlines()
        assert lines[:2] == ["Traceback (most recent call last):", '  File "<call 2>", line 1, in <module>']


@tiers
def test_what_the_code_defines_is_found_by_its_name(tier: str) -> None:
    with Sandbox(backend=tier) as box:
        box.run("import pickle\nclass A: pass\ndef f(x): return 2 * x")
        assert box.run("pickle.loads(pickle.dumps(f))(2), type(pickle.loads(pickle.dumps(A()))).__name__").ok
        if tier == "native":  # else there are no semaphores
            code = "import multiprocessing as m\nwith m.get_context('fork').Pool(2) as p: v = p.map(f, [1, 2])\nv"
            assert box.run(code).value == Value("list", "[2, 4]", "[2, 4]")


# ---- closing ----


@tiers
def test_one_that_nobody_has_closed_ends_when_nobody_can_use_it(tier: str) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    box = Sandbox(backend=tier).open()
    pid = box.pid
    gone = weakref.ref(box)
    del box
    with pytest.warns(ResourceWarning, match="never closed"):
        gc.collect()
    assert gone() is None
    assert not os.path.exists(f"/proc/{pid}")
    assert len(os.listdir("/proc/self/fd")) == descriptors


CLOSED_BY_CALLBACK = """
import sys, vsbox
box = vsbox.Sandbox(backend=sys.argv[1], on_stdout=lambda data: box.close())
box.open()
reply = box.run("import time; print('a'); time.sleep(60)")
print(reply.outcome.value, reply.alive, box.alive)
"""
CLOSED_BY_SIGNAL = """
import signal, sys, vsbox
box = vsbox.Sandbox(backend=sys.argv[1]).open()
signal.signal(signal.SIGALRM, lambda *_: box.close())
signal.setitimer(signal.ITIMER_REAL, 0.3)
reply = box.run("import time; time.sleep(60)")
print(reply.outcome.value, reply.alive, box.alive)
"""


@tiers
@pytest.mark.parametrize("host", [CLOSED_BY_CALLBACK, CLOSED_BY_SIGNAL], ids=["callback", "signal"])
def test_a_call_may_be_closed_by_its_own_thread(tier: str, host: str) -> None:
    assert _run_host(host, tier) == "cancelled False False\n"


def test_a_call_within_a_call_is_refused() -> None:
    def call(_: bytes) -> None:
        with pytest.raises(SessionError, match="within a call"):
            box.run("1")

    with Sandbox(on_stdout=call) as box:
        assert box.run("print(1)").ok


# ---- cancelling ----


@tiers
@pytest.mark.parametrize("pause", [0.0, 0.0005, 0.02])
def test_a_start_that_is_cancelled_twice_leaves_nothing(
    tier: str, pause: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    async def talk() -> None:
        async with Sandbox(backend=tier) as box:
            await box.run("1")

    async def start(seconds: float) -> None:
        task = asyncio.ensure_future(talk())
        await asyncio.sleep(seconds)
        task.cancel()
        await asyncio.sleep(pause)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(talk())
    before = _left()
    for number in range(8):
        asyncio.run(start(0.004 * number + 0.001))
    assert _left() == before
    assert not list(tmp_path.iterdir())


def _left() -> tuple[int, int, int]:
    """Return how many descriptors, children and threads this process has."""
    children = [text for path in Path("/proc/self/task").glob("*/children") for text in path.read_text().split()]
    return len(os.listdir("/proc/self/fd")), len(children), threading.active_count()


CALLBACK_THAT_WAITS = """
import asyncio, sys, vsbox
async def main():
    loop = asyncio.get_running_loop()
    def show(piece):
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result()
    code = "import os, time\\nwhile True: os.write(1, b'x'); time.sleep(0.0001)"
    async def talk():
        if sys.argv[2] == "run":
            await vsbox.arun(code, backend=sys.argv[1], stdout=show)
        async with vsbox.Sandbox(backend=sys.argv[1], on_stdout=show) as box:
            await box.run(code)
    task = asyncio.ensure_future(talk())
    await asyncio.sleep(0.5)
    task.cancel(); await asyncio.sleep(0); task.cancel()
    print(type((await asyncio.gather(task, return_exceptions=True))[0]).__name__)
asyncio.run(main())
"""


@tiers
@pytest.mark.parametrize("kind", ["run", "session"])
def test_a_callback_that_waits_for_the_loop_does_not_stop_a_cancellation(tier: str, kind: str) -> None:
    assert _run_host(CALLBACK_THAT_WAITS, tier, kind) == "CancelledError\n"


SLOW = "import time\nfor _ in range(15): time.sleep(0.1)\n'done'"


@tiers
def test_cancelling_a_call_that_waits_leaves_the_one_that_runs(tier: str, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with Sandbox(backend=tier) as box:
            first = asyncio.ensure_future(box.run(SLOW))
            await asyncio.sleep(0.3)
            second = asyncio.ensure_future(box.run("x = 2"))
            await asyncio.sleep(0.1)
            second.cancel()
            with pytest.raises(asyncio.CancelledError):
                await second
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(box.run("x = 3"), 0.1)
            assert not first.done()
            reply = await first
            assert (reply.ok, reply.alive) == (True, True)
            assert (await box.run("x")).error == "NameError"

    asyncio.run(main())
    gc.collect()
    assert not caplog.records


@tiers
def test_a_call_that_is_cancelled_as_it_begins_keeps_the_session(tier: str) -> None:
    async def main() -> None:
        async with Sandbox(backend=tier) as box:
            for number in range(20):
                task = asyncio.ensure_future(box.run("import time; time.sleep(60)"))
                await asyncio.sleep(0.0004 * number)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                reply = await box.run("5")
                assert reply.value is not None, reply

    started = time.monotonic()
    asyncio.run(main())
    assert time.monotonic() - started < 10


# ---- interrupting ----


def _interrupt_next(box: Sandbox, number: int, seconds: float) -> None:
    while box._number == number:
        time.sleep(0.0005)
    time.sleep(seconds)
    box.interrupt()


@tiers
def test_an_interrupt_is_not_lost_while_the_code_is_on_its_way(tier: str) -> None:
    long = "x = 1\n" * 2_000_000
    with Sandbox(backend=tier) as box:
        for seconds in (0.0, 0.01, 0.03, 0.1):
            thread = threading.Thread(target=_interrupt_next, args=[box, box._number, seconds])
            thread.start()
            started = time.monotonic()
            reply = box.run(long + "import time; time.sleep(60)", timeout=20)
            assert (reply.outcome, reply.alive) == (Outcome.CANCELLED, True), (seconds, reply)
            assert time.monotonic() - started < 15
        assert box.run("2").ok


@tiers
def test_an_interrupt_while_a_value_is_shown_keeps_the_session(tier: str) -> None:
    with Sandbox(backend=tier) as box:
        box.run("import time\nclass Slow:\n    def __repr__(self): time.sleep(60)")
        reply = box.run("Slow()", timeout=0.3)
        assert (reply.outcome, reply.alive) == (Outcome.TIMEOUT, True)
        assert box.run("2").ok


@tiers
def test_an_interrupt_that_comes_too_late_is_for_no_call(tier: str) -> None:
    with Sandbox(backend=tier) as box:
        box.run("1")
        for _ in range(5):
            box.interrupt()
            time.sleep(0.02)
            assert box.run("2").ok


@tiers
def test_a_timeout_at_the_last_moment_is_not_for_the_next_call(tier: str) -> None:
    with Sandbox(backend=tier) as box:
        box.run("import time")
        for number in range(200):
            late = box.run("time.sleep(0.005)", timeout=0.005 + number % 40 * 0.00002)
            assert late.outcome in {Outcome.EXITED, Outcome.TIMEOUT}
            assert box.run("time.sleep(0.005)").outcome is Outcome.EXITED


@tiers
def test_what_code_sets_to_handle_interrupts_stays(tier: str) -> None:
    with Sandbox(backend=tier) as box:
        box.run("import signal, time\nseen = []\nsignal.signal(signal.SIGINT, lambda *_: seen.append(1))")
        reply = box.run("end = time.monotonic() + 60\nwhile not seen and time.monotonic() < end: pass", timeout=0.3)
        assert reply.alive
        assert box.run("seen").value.data == [1]  # type: ignore[union-attr]
        assert box.run("signal.signal(signal.SIGINT, signal.default_int_handler).__name__").value.data == "<lambda>"  # type: ignore[union-attr]


# ---- answers ----

SAY = """
import json, os, struct, threading, time
def say(answer):
    data = json.dumps(answer).encode()
    data = struct.pack('<I', len(data)) + data
    while data: data = data[os.write(4, data):]
"""


@tiers
def test_an_answer_before_all_is_asked_ends_the_session(tier: str) -> None:
    early = "threading.Timer(1, say, [{'id': 3, 'kind': 'value'}]).start()\nsay({'id': 2, 'kind': 'value'})\n"
    with Sandbox(backend=tier) as box:
        box.run(SAY)
        assert box.run(f"{early}time.sleep(30)", timeout=5).outcome is Outcome.EXITED
        reply = box.run("x = 1\n" * 1_000_000, timeout=5)
        assert (reply.outcome, reply.alive) == (Outcome.CANCELLED, False)
        assert reply.limit is not None
        with pytest.raises(SessionError):
            box.run("1")


@tiers
def test_a_session_that_is_opened_again_hears_nothing_of_the_one_before(tier: str) -> None:
    box = Sandbox(backend=tier)
    with box:
        box.run("import os, time")
        assert box.run("os.write(4, b'\\xff\\0\\0\\0half'); time.sleep(60)", timeout=0.3).outcome is Outcome.TIMEOUT
    with box:
        assert box.run("1", timeout=5).ok


HOST_THAT_HEARS = """
import resource, sys, vsbox
with vsbox.Sandbox(backend=sys.argv[1]) as box:
    box.run("1")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    reply = box.run(sys.stdin.read(), timeout=50)
    more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(reply.outcome.value, more // 1024)
"""
FULL = f"""{SAY}
def text(size): return '"' + '\\\\U0001f600'.encode().decode('unicode_escape') + 'a' * size + '"'
data = '{{"id": 2, "kind": "value", "value": {{"type": "t", "text": "", "json": %s}}, "x": %s}}' % (
    text(8_000_000), text(55_000_000))
data = data.encode()
data = memoryview(struct.pack('<I', len(data)) + data)
while data: data = data[os.write(4, data[:1 << 18]):]
time.sleep(60)
"""
UNENDING = "import os\nos.write(4, b'\\0\\0\\xe0\\x1f')\nwhile True: os.write(4, bytes(1 << 16))"
ANSWERS = {"full": (FULL, "exited"), "unending": (UNENDING, "output")}


@tiers
@pytest.mark.parametrize(("code", "outcome"), ANSWERS.values(), ids=ANSWERS)
def test_answers_take_little_memory(tier: str, code: str, outcome: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HOST_THAT_HEARS, tier], input=code, capture_output=True, text=True, check=True
    )
    came_to, mebibytes = done.stdout.split()
    assert came_to == outcome
    assert int(mebibytes) < 200


@tiers
def test_artifacts_are_bounded_together(tier: str) -> None:
    figures = (
        "import sys, types\n"
        "class Figure:\n    def savefig(self, file, format): file.write(bytes(7 << 20))\n"
        "pyplot = types.ModuleType('matplotlib.pyplot')\n"
        "pyplot.get_fignums = lambda: range(10)\npyplot.figure = lambda number: Figure()\n"
        "pyplot.close = lambda _: None\nsys.modules['matplotlib.pyplot'] = pyplot\n'\"' * 4_000_000"
    )
    with Sandbox(backend=tier) as box:
        reply = box.run(figures)
        assert reply.ok
        assert [len(artifact.data) for artifact in reply.artifacts] == [7 << 20] * 4
        assert reply.value is not None
        assert reply.value.data == '"' * 4_000_000


# ---- exceptions ----

ON = "import time\nprint('a', flush=True)\nx = 1\ntry:\n    time.sleep(60)\nfinally:\n    x = 2\n    print('b')"
STUBBORN = "while True:\n    try:\n        print('a'); time.sleep(60)\n    except KeyboardInterrupt:\n        pass"


@tiers
def test_a_callback_that_raises_ends_the_call(tier: str) -> None:
    pieces: list[bytes] = []

    def take(data: bytes) -> None:
        pieces.append(data)
        raise ZeroDivisionError

    with Sandbox(backend=tier, on_stdout=take) as box:
        with pytest.raises(ZeroDivisionError):
            box.run(ON)
        reply = box.run("x")
        assert reply.value is not None
        assert reply.value.data == 2
        with pytest.raises(UsageError):
            box.run(b"1")  # type: ignore[arg-type]
        assert box.alive
        with pytest.raises(ZeroDivisionError):
            box.run(STUBBORN)
        assert not box.alive
        with pytest.raises(SessionError):
            box.run("1")
    assert len(pieces) == 2


@tiers
def test_ctrl_c_ends_the_call(tier: str) -> None:
    with Sandbox(backend=tier) as box:
        box.run("x = 0")
        timer = threading.Timer(0.5, signal.raise_signal, [signal.SIGINT])
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            box.run(ON)
        reply = box.run("x")
        assert (reply.stdout, reply.value is not None and reply.value.data) == ("", 2)


# ---- forks ----

FORKED = """
import os, sys, vsbox
fd = lambda: len(os.listdir("/proc/self/fd"))
def hear(data):
    if data == b"fork":
        sys.exit(child("within")) if os.fork() == 0 else os.wait()
def child(kind):
    assert not box.alive
    try:
        box.run("1")
    except vsbox.SessionError as error:
        assert "another process" in str(error), error
    box.interrupt()
    return 0
box = vsbox.Sandbox(backend=sys.argv[1], on_stdout=hear)
with box:
    box.run("x = 5")
    if os.fork() == 0:
        child("after")
        before = fd()
        with box:
            pass
        box.close()
        assert fd() < before
        sys.exit(7)
    assert os.waitstatus_to_exitcode(os.wait()[1]) == 7
    assert box.run("import os; os.write(1, b'fork'); 6").value.data == 6
    box.put("f", "f")
    print(box.run("x").value.data, box.alive, box.get("f"))
"""


@tiers
def test_a_forked_child_that_leaves_the_block_ends_nothing(tier: str) -> None:
    assert _run_host(FORKED, tier) == "5 True b'f'\n"
