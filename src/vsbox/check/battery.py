"""Run the probes inside a box and outside, and judge the difference."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from vsbox.box.layout import Layout
from vsbox.box.store import load_interpreter
from vsbox.errors import LauncherError
from vsbox.host.collect import user_home
from vsbox.launch import executor
from vsbox.plan.receipt import Receipt
from vsbox.policy.model import Aspect

SECONDS: Final = 60
VARIABLE: Final = "VSBOX_CHECK_SECRET"

ASPECTS: Final = {
    "read a file of yours": Aspect.FILES,
    "write a file of yours": Aspect.FILES,
    "list your home": Aspect.FILES,
    "change the mode of a file of yours": Aspect.METADATA,
    "truncate a file of yours": Aspect.TRUNCATE,
    "read the policy": Aspect.FILES,
    "change the policy": Aspect.FILES,
    "read /etc/shadow": Aspect.FILES,
    "set the kernel's core_pattern": Aspect.FILES,
    "read another process's environment": Aspect.PROCESSES,
    "signal another process": Aspect.SIGNALS,
    "trace another process": Aspect.PROCESSES,
    "connect to a UNIX socket": Aspect.UNIX_SOCKETS,
    "connect to an abstract UNIX socket": Aspect.ABSTRACT_SOCKETS,
    "connect to localhost": Aspect.NETWORK,
    "exchange a datagram with localhost": Aspect.NETWORK,
    "open shared memory of the host": Aspect.SHARED_MEMORY,
    "use an inherited descriptor": Aspect.DESCRIPTORS,
    "see a secret variable": Aspect.ENVIRONMENT,
    "reach the session keyring": Aspect.KEYRING,
    "make a user namespace": Aspect.PRIVILEGES,
    "make a set-user-id file": Aspect.PRIVILEGES,
    "type into the terminal": Aspect.TERMINAL,
    "set up io_uring": Aspect.SYSCALLS,
    "use bpf": Aspect.SYSCALLS,
    "hold a capability": Aspect.PRIVILEGES,
}

Verdict = Literal["pass", "open by policy", "degraded", "FAILED"]


class Finding(msgspec.Struct, frozen=True):
    """One probe: what came of it inside and outside.

    Outside is the control: where the attempt fails there too, that it fails inside proves little.
    """

    probe: str
    aspect: Aspect
    inside: str
    outside: str
    verdict: Verdict

    @property
    def control(self) -> bool:
        """Whether the attempt works without the sandbox."""
        return self.outside == "ok"


@dataclass
class Canaries:
    """Things of our own for the probes to reach for, removed afterwards."""

    targets: dict[str, Any]
    descriptor: int


def _echo(server: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            data, address = server.recvfrom(16)
            server.sendto(data, address)


@contextlib.contextmanager
def _canaries(layout: Layout) -> Iterator[Canaries]:
    home = user_home()
    with contextlib.ExitStack() as stack:
        place = Path(tempfile.mkdtemp(prefix=".vsbox-check-", dir=home))
        stack.callback(shutil.rmtree, place, ignore_errors=True)
        secret = place / "secret"
        secret.write_text("canary")
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))  # type: ignore[attr-defined,unused-ignore]
        listener.bind(str(place / "s"))
        listener.listen()
        name = f"vsbox-check-{secrets.token_hex(8)}"
        abstract = stack.enter_context(socket.socket(socket.AF_UNIX))  # type: ignore[attr-defined,unused-ignore]
        abstract.bind("\0" + name)
        abstract.listen()
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        udp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        udp.bind(("127.0.0.1", 0))
        threading.Thread(target=_echo, args=(udp,), daemon=True).start()
        shm = Path("/dev/shm", name)
        shm.write_text("canary")
        stack.callback(shm.unlink, missing_ok=True)
        process = subprocess.Popen([sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)"])
        stack.callback(process.wait)
        stack.callback(process.kill)
        descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY)  # type: ignore[attr-defined,unused-ignore]
        stack.callback(os.close, descriptor)
        targets = {
            "secret": str(secret), "secret_size": 6, "home": home, "home_entry": place.name,
            "policy": str(layout.policy), "pid": process.pid,
            "socket": str(place / "s"), "abstract": name, "port": tcp.getsockname()[1],
            "udp_port": udp.getsockname()[1], "shm": str(shm), "descriptor": descriptor,
            "variable": VARIABLE,
        }  # fmt: skip
        yield Canaries(targets, descriptor)


def _run(argv: list[str], canaries: Canaries) -> dict[str, str]:
    source = Path(__file__).with_name("probes.py").read_text(encoding="utf-8")
    answer = subprocess.run(
        [*argv, "-I", "-S", "-c", source, json.dumps(canaries.targets)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=SECONDS,
        cwd="/",
        env={**os.environ, VARIABLE: "canary"},
        pass_fds=(canaries.descriptor,),
        check=False,
    )
    if answer.returncode != 0:
        raise LauncherError(f"cannot run the probes: {answer.stderr.strip() or answer.returncode}")
    result: dict[str, str] = json.loads(answer.stdout)
    return result


def _judge(aspect: Aspect, inside: str, receipt: Receipt) -> Verdict:
    if inside != "ok":
        return "pass"
    state = receipt.row(aspect).state
    if state == "open by policy":
        return "open by policy"
    return "degraded" if state == "degraded" else "FAILED"


def run_battery(layout: Layout, receipt: Receipt) -> tuple[Finding, ...]:
    """Run every probe inside the box and outside of it.

    Raises:
        LauncherError: the box or the base interpreter did not run them.
    """
    with _canaries(layout) as canaries:
        inside = _run([str(executor(layout.root)), "python"], canaries)
        outside = _run([load_interpreter(layout).executable], canaries)
    return tuple(
        Finding(name, aspect, inside[name], outside[name], _judge(aspect, inside[name], receipt))
        for name, aspect in ASPECTS.items()
    )
