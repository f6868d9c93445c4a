"""Runs in the test machine as its ordinary user: installs the AppArmor profile of a box and tries what it changes.

``python guest_apparmor.py '{"backend": "auto", "pip": true, "root": true}'`` prints one JSON object.
Nothing is judged here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

HOME = Path.home()
BOX = HOME / "box"
EARLY, LATE, PLACE = HOME / "early", HOME / ".late", HOME / "place"
COMMANDS = Path(sys.executable).parent

ATTEMPTS = """
import errno, json, os, sys

def attempt(function, *arguments):
    try:
        function(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "ok"

early, late = sys.argv[1:]
label = open("/proc/self/attr/apparmor/current").read().strip()
print(json.dumps({
    "label": label,
    "read what was granted before": attempt(open, early + "/file"),
    "write what was granted before": attempt(open, early + "/file", "a"),
    "read what was granted later": attempt(open, late + "/file"),
    "write what was granted later": attempt(open, late + "/file", "a"),
    "see what was granted later": attempt(os.stat, late + "/file"),
}))
"""
WORK = """
import asyncio, json, multiprocessing, os, socket, sqlite3, ssl, subprocess, tempfile

def double(number):
    return 2 * number

def serve():
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        peer, _ = server.accept()
        client.sendall(b"hello")
        return peer.recv(5).decode()

def pair():
    a, b = socket.socketpair()
    a.sendall(b"x")
    return b.recv(1).decode()

def local():
    with tempfile.TemporaryDirectory() as place, socket.socket(socket.AF_UNIX) as server:
        server.bind(place + "/s")
        server.listen()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(place + "/s")
            return "connected"

def pools():
    found = []
    for method in ("fork", "spawn", "forkserver"):
        with multiprocessing.get_context(method).Pool(2) as pool:
            found += pool.map(double, [1, 2])
    return found

async def output():
    process = await asyncio.create_subprocess_exec("echo", "hello", stdout=subprocess.PIPE)
    return (await process.communicate())[0].decode()

def script():
    place = os.path.expanduser("~/program")
    with open(place, "w") as file:
        file.write("#!/bin/sh\\necho made here")
    os.chmod(place, 0o755)
    return subprocess.run([place], capture_output=True, text=True).stdout.strip()

def deleted():
    with tempfile.TemporaryFile() as file:
        file.write(b"x" * 10000)
        file.seek(0)
        return len(file.read())

def killed():
    process = subprocess.Popen(["sleep", "60"])
    process.terminate()
    return process.wait()

if __name__ == "__main__":
    print(json.dumps({
        "localhost": serve(), "socketpair": pair(), "unix": local(), "pools": pools(), "asyncio": asyncio.run(output()),
        "script": script(), "deleted": deleted(), "killed": killed(),
        "sqlite": sqlite3.connect(":memory:").execute("select 1").fetchone()[0],
        "neighbour": __import__("neighbour").VALUE,
    }))
"""


SEMAPHORES = ("--allow-degraded=shared-memory",)
"""multiprocessing needs them, and the Landlock-only tier opens them on request."""
NEXT = "import os; os.execvp('cat', ['cat', '/proc/self/attr/apparmor/current'])"
BY_ROOT = """
$1 -m vsbox --no-pip /root/box >&2
$1 -m vsbox apparmor /root/box >/etc/apparmor.d/of-root
apparmor_parser --replace /etc/apparmor.d/of-root
$1 -m vsbox sync /root/box
/root/box/bin/python -c 'print(open("/proc/self/attr/apparmor/current").read().strip())'
"""


def run(*argv: str | Path, cwd: Path = HOME, stdout: object = subprocess.PIPE) -> dict[str, object]:
    """Run a command to its end."""
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.PIPE,  # type: ignore[call-overload]
        text=True, cwd=cwd, timeout=300, check=False,
    )  # fmt: skip
    return {"status": done.returncode, "stdout": done.stdout, "stderr": done.stderr}


def vsbox(*arguments: str | Path) -> dict[str, object]:
    """Run vsbox."""
    return run(sys.executable, "-m", "vsbox", *arguments)


def attempts() -> dict[str, object]:
    """Make the attempts inside."""
    done = run(BOX / "bin/python", "-c", ATTEMPTS, EARLY, LATE)
    return json.loads(str(done["stdout"])) if done["status"] == 0 else {"failed": done}


def require(value: str) -> None:
    """Set the key of the policy."""
    path = BOX / "sandbox/sandbox.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"apparmor": value}))


def install() -> list[dict[str, object]]:
    """Run the commands that vsbox prints, as it prints them."""
    commands = json.loads(str(vsbox("apparmor", "--json", BOX)["stdout"]))["commands"]
    return [run("/bin/sh", "-c", command) for command in commands]


def label_of_the_launcher() -> list[str]:
    """Return the label of a launcher while it runs, and how it ended when it was asked to."""
    code = "import time; print(1, flush=True); time.sleep(60)"
    process = subprocess.Popen([BOX / "bin/python", "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    found = Path(f"/proc/{process.pid}/attr/apparmor/current").read_text().strip()
    process.terminate()
    return [found, str(process.wait())]


def report(asked: dict[str, object]) -> dict[str, object]:
    """Do everything, in order."""
    os.environ["PATH"] = f"{COMMANDS}:{os.environ['PATH']}"
    for place in (EARLY, LATE, PLACE):
        place.mkdir()
        (place / "file").write_text("x")
    (PLACE / "work.py").write_text(WORK)
    (PLACE / "neighbour.py").write_text("VALUE = 7\n")
    found: dict[str, object] = {
        "kernel": os.uname().release,
        "made": vsbox(f"--backend={asked['backend']}", *(() if asked["pip"] else ("--no-pip",)), *SEMAPHORES, BOX),
    }
    found["granted"] = vsbox("allow", BOX, EARLY)
    found["without"] = attempts()
    found["check without"] = vsbox("apparmor", "--check", BOX)
    require("required")
    found["required without"] = run(BOX / "bin/python", "-c", "print(1)")
    found["installed"] = install()
    found["check with"] = vsbox("apparmor", "--check", BOX)
    found["with"] = attempts()
    found["next program"] = run(BOX / "bin/python", "-c", NEXT)
    found["launcher"] = label_of_the_launcher()
    found["receipt"] = vsbox("explain", "--json", BOX)
    found["work"] = run(BOX / "bin/python", "work.py", cwd=PLACE)
    with (HOME / "output").open("w") as file:
        run(BOX / "bin/python", "-c", "print('redirected')", stdout=file)
    found["redirected"] = (HOME / "output").read_text()
    if asked["pip"]:
        found["pip"] = run(BOX / "bin/pip", "--version")
    found["reported"] = run("env", "VSBOX_REPORT=1", BOX / "bin/python", "-c", "print(1)")
    found["battery"] = vsbox("check", "--json", BOX)
    if asked["root"]:
        found["root"] = run("sudo", "sh", "-ec", BY_ROOT, "sh", sys.executable)
    found["granted later"] = vsbox("allow", BOX, LATE)
    found["later"] = attempts()
    found["check later"] = vsbox("apparmor", "--check", BOX)
    found["check ignoring"] = vsbox("apparmor", "--check", "--ignore-profile-diffs", BOX)
    found["installed later"] = install()
    found["after"] = attempts()
    path = json.loads(str(vsbox("apparmor", "--json", BOX)["stdout"]))["path"]
    found["unloaded"] = run("sudo", "apparmor_parser", "--remove", path)
    found["start unloaded"] = run(BOX / "bin/python", "-c", "print(1)")
    require("auto")
    found["start without"] = attempts()
    return found


if __name__ == "__main__":
    begun = time.monotonic()
    print(json.dumps(report(json.loads(sys.argv[1])) | {"seconds": time.monotonic() - begun}))
