"""Runs in the test machine as its ordinary user: tries what there is to try, judges nothing, prints one JSON object.

``python guest.py '{"backends": [...], "degraded": [...], "delegated": false, "systemd": false}'``
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

HOME = Path.home()
BOX = HOME / "box"
CGROUP = Path("/sys/fs/cgroup/delegated")
TOKEN = "vsbox-vm-survivor"
ABSTRACT = "\0vsbox-vm"

ATTEMPTS = """
import ctypes, errno, json, os, socket, sys
home, abstract = sys.argv[1:]
libc = ctypes.CDLL(None, use_errno=True)

def make_user_namespace():
    pid = os.fork()
    if pid == 0:
        os._exit(ctypes.get_errno() if libc.unshare(0x10000000) < 0 else 0)
    code = os.waitpid(pid, 0)[1] >> 8
    if code:
        raise OSError(code, "")

def connect(kind):
    with socket.socket(socket.AF_UNIX, kind) as client:
        client.connect("\\0" + abstract + ("-dgram" if kind == socket.SOCK_DGRAM else ""))

def attempt(function, *arguments):
    try:
        function(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "ok"

print(json.dumps({
    "read a file of the user's": attempt(open, home + "/canary"),
    "change a file of the user's": attempt(open, home + "/canary", "a"),
    "make a file in the user's home": attempt(open, home + "/made", "w"),
    "connect to an abstract socket": attempt(connect, socket.SOCK_STREAM),
    "connect to an abstract datagram socket": attempt(connect, socket.SOCK_DGRAM),
    "make a user namespace": attempt(make_user_namespace),
    "status": {
        line.split(":")[0]: line.split()[1] for line in open("/proc/self/status")
        if line.startswith(("CapInh", "CapPrm", "CapEff", "CapAmb", "NoNewPrivs", "Seccomp:"))
    },
}))
"""
DAEMON = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    print("started", flush=True)
    os.close(1)
    while True:
        time.sleep(1)
while True:
    time.sleep(1)
"""
LIMITED = """
import os, signal, sys
box, what = sys.argv[1:]
if box:
    open(box + "/cgroup.procs", "w").write("0")
if what == "memory":
    bytearray(b"x") * (256 << 20)
for count in range(64):
    try:
        if os.fork() == 0:
            os.closerange(0, 3)
            signal.pause()
    except OSError as error:
        print(count, error.errno)
        break
"""


RUNS = """
import json
from vsbox import Limits, run
hog = "x = bytearray(256 << 20); x[::4096] = b'x' * len(x[::4096])"
bomb = "import os\\nwhile True:\\n    try:\\n        os.fork()\\n    except OSError:\\n        pass"
found = {}
for name, code, limits in (
    ("memory", hog, Limits(memory_bytes=64 << 20, required=("memory_bytes",))),
    ("processes", bomb, Limits(processes=20, required=("processes",))),
    ("nothing", "print(1)", Limits(memory_bytes=64 << 20, processes=20, required=("memory_bytes", "processes"))),
):
    try:
        result = run(code, limits=limits, timeout=60)
        found[name] = [result.outcome.value, result.usage.peak_memory_bytes]
    except Exception as error:
        found[name] = [type(error).__name__, str(error)]
print(json.dumps(found))
"""


def run(*argv: str | Path, seconds: float = 400) -> dict[str, object]:
    """Run a command to its end."""
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds, check=False)
    return {"status": done.returncode, "stdout": done.stdout, "stderr": done.stderr}


def vsbox(*arguments: str | Path) -> dict[str, object]:
    """Run vsbox."""
    return run(sys.executable, "-m", "vsbox", *arguments)


def survivors(python: str | Path) -> dict[str, object]:
    """Start what puts itself into the background, kill who started it with SIGKILL; return its word and the rest."""
    process = subprocess.Popen([python, "-c", DAEMON, TOKEN], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = process.stdout.readline().strip()
    process.kill()
    process.wait()
    end = time.monotonic() + 5
    while (left := find_processes()) and time.monotonic() < end:
        time.sleep(0.1)
    for pid in left:
        os.kill(int(pid), signal.SIGKILL)
    return {"said": said, "left": left}


def find_processes() -> list[str]:
    """Return the processes that have the token among their arguments."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if TOKEN.encode() in words:
            found.append(place.name)
    return found


def laws(python: str | Path) -> dict[str, object]:
    """Make the attempts."""
    done = run(python, "-c", ATTEMPTS, HOME, ABSTRACT[1:])
    return json.loads(str(done["stdout"])) if done["status"] == 0 else {"failed": done}


def limits_by_systemd() -> dict[str, object]:
    """Try what a scope of the user's manager enforces: 32 MiB, eight processes."""
    properties = ("MemoryMax=32M", "MemorySwapMax=0", "TasksMax=8")
    scope = ("systemd-run", "--user", "--scope", "--quiet", *(f"--property={value}" for value in properties))
    limited = (*scope, sys.executable, "-I", "-S", "-c", LIMITED, "")
    found = {what: run(*limited, what) for what in ("memory", "forks")}
    delegated = ("systemd-run", "--user", "--scope", "--quiet", "--property=Delegate=yes")
    return found | {"runs": run(*delegated, sys.executable, "-c", RUNS)}


def limits_by_delegation() -> dict[str, object]:
    """Try what a cgroup of the user's own enforces: 32 MiB, eight processes."""
    (CGROUP / "cgroup.subtree_control").write_text("+memory +pids")
    box = CGROUP / "box"
    box.mkdir()
    for name, value in {"memory.max": "32M", "memory.swap.max": "0", "pids.max": "8"}.items():
        (box / name).write_text(value)
    memory = run(sys.executable, "-I", "-S", "-c", LIMITED, box, "memory")
    forks = run(sys.executable, "-I", "-S", "-c", LIMITED, box, "forks")
    (box / "cgroup.kill").write_text("1")
    return {"memory": memory, "forks": forks, "runs": run(sys.executable, "-c", RUNS)}


def report(asked: dict[str, object]) -> dict[str, object]:
    """Do everything that was asked for."""
    (HOME / "canary").write_text("canary")
    listeners = [socket.socket(socket.AF_UNIX, kind) for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)]
    for listener, name in zip(listeners, (ABSTRACT, f"{ABSTRACT}-dgram"), strict=True):
        listener.bind(name)
    listeners[0].listen()
    doctor = vsbox("doctor", "--json")
    found: dict[str, object] = {"kernel": os.uname().release, "uid": os.getuid(), "doctor": doctor}
    found["backends"] = {name: vsbox("--no-pip", "--backend", name, HOME / name) for name in asked["backends"]}  # type: ignore[attr-defined]
    found["made"] = vsbox("--no-pip", BOX)
    if asked["degraded"]:
        options = [f"--allow-degraded={aspect}" for aspect in asked["degraded"]]  # type: ignore[attr-defined]
        found["made degraded"] = vsbox("--no-pip", *options, BOX)
    python = BOX / "bin" / "python"
    if python.exists():
        found["check"] = vsbox("check", "--json", BOX)
        found["laws"] = {"outside": laws(sys.executable), "inside": laws(python)}
        found["survivors"] = {"outside": survivors(sys.executable), "inside": survivors(python)}
    if asked["delegated"]:
        found["limits"] = limits_by_delegation()
    if asked["systemd"]:
        found["limits"] = limits_by_systemd()
    return found


if __name__ == "__main__":
    print(json.dumps(report(json.loads(sys.argv[1]))))
