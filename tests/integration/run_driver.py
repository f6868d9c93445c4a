"""Runs ``vsbox.run`` and sessions as another person, prints what came of it: ``python run_driver.py CASE BACKEND``."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import vsbox
from vsbox import Limits, Sandbox, arun, run

MEGABYTE = 1 << 20

SLEEP = "import time; time.sleep(60)"
IGNORE = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: time.sleep(1)"
HOG = """
kept = []
while True:
    kept.append(bytearray(4 << 20))
    kept[-1][::4096] = b'x' * len(kept[-1][::4096])
"""
HOGS = """
import os, time
for _ in range(4):
    if os.fork() == 0:
        kept = bytearray(90 << 20)
        kept[::4096] = b'x' * len(kept[::4096])
        time.sleep(60)
time.sleep(60)
"""
BOMB = """
import os
while True:
    try:
        os.fork()
    except OSError:
        pass
"""
THREADS = """
import threading, time
while True:
    try:
        threading.Thread(target=time.sleep, args=(60,)).start()
    except RuntimeError:
        time.sleep(60)
"""
FILL = "f = open('big', 'wb')\nwhile True: f.write(b'x' * (1 << 20))"
FILL_ON = """
import tempfile
f = open(tempfile.mktemp(), 'wb', 0)
while True:
    try:
        f.write(b'x' * (1 << 20))
    except OSError:
        pass
"""
LIMITS: dict[str, tuple[str, dict[str, Any], float | None]] = {
    "sleeper": (SLEEP, {}, 0.5),
    "idle": (SLEEP, {"idle_seconds": 0.5}, None),
    "ignored SIGTERM": (IGNORE, {}, 0.5),
    "busy loop": ("while True: pass", {"cpu_seconds": 0.5}, None),
    "busy children": ("import os\nfor _ in range(3): os.fork()\nwhile True: pass", {"cpu_seconds": 1.0}, None),
    "memory hog": (HOG, {"memory_bytes": 200 * MEGABYTE}, None),
    "hog in children": (HOGS, {"memory_bytes": 200 * MEGABYTE}, None),
    "fork bomb": (BOMB, {"processes": 40}, None),
    "threads": (THREADS, {"processes": 40}, None),
    "disk filler": (FILL, {"disk_bytes": 20 * MEGABYTE}, None),
    "disk filler that goes on": (FILL_ON, {"disk_bytes": 20 * MEGABYTE}, None),
    "output flood": ("while True: print('x' * 10000)", {"output_bytes": MEGABYTE}, None),
    "error flood": ("import sys\nwhile True: print('x' * 10000, file=sys.stderr)", {"output_bytes": MEGABYTE}, None),
}


def limits(backend: str) -> dict[str, Any]:
    found = {}
    for name, (code, given, timeout) in LIMITS.items():
        started = time.monotonic()
        result = run(code, limits=Limits(**given), timeout=timeout, backend=backend)
        found[name] = {
            "outcome": result.outcome.value, "limit": result.limit and result.limit.name,
            "used": result.limit and result.limit.used, "cpu": result.usage.cpu_seconds,
            "wall": time.monotonic() - started, "returncode": result.returncode,
            "peak": result.usage.peak_memory_bytes, "processes": result.usage.processes,
        }  # fmt: skip
    return found


def daemons(backend: str) -> dict[str, Any]:
    token = f"token-{os.getpid()}"
    code = (
        "import os, sys, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
        f"        os.execv(sys.executable, [sys.executable, '-c', 'import time; time.sleep(60)', '{token}'])\n"
        "    os._exit(0)\ntime.sleep(0.3)\nprint('end')"
    )
    result = run(code, backend=backend)
    return {"stdout": result.stdout, "left": _find(token)}


def _find(token: str) -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                with open(f"/proc/{name}/cmdline", "rb") as file:
                    if token.encode() in file.read():
                        found.append(int(name))
            except OSError:
                pass
    return found


def _held() -> dict[str, int]:
    """What this process holds, and what of it is left in the machine."""
    here = os.getpid()
    pids = [name for name in os.listdir("/proc") if name.isdigit()]
    children = [pid for pid in pids if f"\nPPid:\t{here}\n" in _text(f"/proc/{pid}/status")]
    temporary = os.environ.get("TMPDIR", "/tmp")
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
        "children": len(children),
        "mounts": _text("/proc/self/mountinfo").count("\n"),
        "files": len([name for name in os.listdir(temporary) if name.startswith("vsbox-")]),
        "groups": sum(f"vsbox-{here}-" in root for root, _, _ in os.walk("/sys/fs/cgroup")),
    }


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def leaks(backend: str) -> dict[str, Any]:
    """Runs of every kind, again and again; what is held before is held after."""
    number = int(os.environ.get("RUNS", "60"))
    done = dict.fromkeys(("sync", "async", "cancelled", "killed", "sessions"), 0)

    async def several() -> None:
        tasks = [asyncio.ensure_future(arun("pass", backend=backend)) for _ in range(4)]
        late = asyncio.ensure_future(arun("import time; time.sleep(60)", backend=backend))
        done["async"] += sum(result.ok for result in await asyncio.gather(*tasks))
        await asyncio.sleep(0.02)
        late.cancel()
        try:
            await late
        except asyncio.CancelledError:
            done["cancelled"] += 1

    def once() -> None:
        done["sync"] += run("print(1)", backend=backend).ok
        done["sync"] += run("open('a', 'w')", files={"b": b"c"}, backend=backend).ok
        done["killed"] += not run("while True: pass", timeout=0.05, backend=backend).ok
        limited = Limits(processes=20, memory_bytes=500 * MEGABYTE)
        done["sync"] += run("pass", limits=limited, backend=backend).ok
        asyncio.run(several())
        with Sandbox(backend=backend) as box:
            done["sessions"] += bool(box.run("1").ok)

    once()  # what is kept for the next time is kept now
    before = _held()
    while sum(done.values()) < number:
        once()
    deadline = time.monotonic() + 10
    while (after := _held()) != before and time.monotonic() < deadline:
        time.sleep(0.05)
    return {"before": before, "after": after, "done": done}


def threads(backend: str) -> dict[str, Any]:
    """Many threads at once, each with a run of its own."""
    found: list[str] = []

    def one(number: int) -> None:
        found.append(run(f"print({number})", backend=backend).stdout)

    every = [threading.Thread(target=one, args=(number,)) for number in range(24)]
    for thread in every:
        thread.start()
    for thread in every:
        thread.join()
    return {"found": sorted(int(text) for text in found)}


def hundred(backend: str) -> dict[str, Any]:
    """A hundred sessions at once, each with a variable of its own."""
    number = int(os.environ.get("SESSIONS", "100"))
    boxes = [Sandbox(backend=backend).open() for _ in range(number)]
    try:
        for index, box in enumerate(boxes):
            box.run(f"x = {index}")
        return {"values": [box.run("x * 2").value.data for box in boxes]}  # type: ignore[union-attr]
    finally:
        for box in boxes:
            box.close()


def killed(backend: str) -> dict[str, Any]:
    """The program that asked for a run is killed; prints what to look for, and waits."""
    token = f"token-{os.getpid()}"
    print(token, flush=True)
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)', '{token}'])"
    run(code, backend=backend)
    return {}


CASES: dict[str, Callable[[str], dict[str, Any]]] = {
    "limits": limits, "daemons": daemons, "leaks": leaks, "threads": threads, "hundred": hundred, "killed": killed,
}  # fmt: skip

if __name__ == "__main__":
    assert vsbox.__version__
    print(json.dumps(CASES[sys.argv[1]](sys.argv[2])))
