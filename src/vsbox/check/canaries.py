"""Things of our own outside of the box, for attempts to reach for; all of them go when the check ends."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import secrets
import selectors
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from vsbox.box.layout import Layout
from vsbox.check.calls import NUMBERS, handle_of
from vsbox.host.collect import user_home

VARIABLE: Final = "VSBOX_CHECK_SECRET"
VICTIMS: Final = ("append", "empty", "rename", "replace", "replaced", "take", "link", "unlink")
HIGH: Final = 600
"""Where a descriptor is that a sandbox which closes only the first few would leave open."""
IPC_CREATE, IPC_REMOVE = 0o1000, 0

PROCESS: Final = """
import ctypes, json, os, shutil, signal, sys
mark = sys.argv[1]
while os.getpid() < 1000:  # process numbers inside begin at 1: another process there must not have ours
    child = os.fork()
    if child == 0 and os.getpid() >= 1000:
        break
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    if child >= 1000:
        os._exit(0)
if os.getpid() != os.getpgrp():
    os.setpgid(0, 0)
signal.signal(signal.SIGURG, signal.SIG_IGN)
memory = ctypes.create_string_buffer(mark.encode())
ctypes.CDLL(None).prctl(0x59616D61, ctypes.c_ulong(-1 & 2**64 - 1), 0, 0, 0)  # PR_SET_PTRACER_ANY: Yama stops nobody
print(json.dumps([os.getpid(), ctypes.addressof(memory)]), flush=True)
left = json.loads(sys.stdin.read() or "{}")  # until whoever made us ends, in whatever way
for path in left.get("files", []):
    if os.path.isdir(path):
        shutil.rmtree(path, ignore_errors=True)
    elif os.path.exists(path):
        os.unlink(path)
libc = ctypes.CDLL(None)
if left.get("ipc"):
    key = ctypes.c_int(left["ipc"])
    libc.shmctl(libc.shmget(key, 0, 0), 0, None)
    libc.msgctl(libc.msgget(key, 0), 0, None)
    libc.semctl(libc.semget(key, 0, 0), 0, 0)
if left.get("queue"):
    libc.mq_unlink(left["queue"].encode())
"""
"""A process of ours to reach for. When the check has ended, even by SIGKILL, it removes what is left."""

CARELESS: Final = """
import ctypes, os, sys
numbers = {"x86_64": (248, 250), "aarch64": (217, 219)}.get(os.uname().machine)
key, *argv = sys.argv[1:]
libc = ctypes.CDLL(None)
if numbers and libc.syscall(numbers[1], 1, None) > 0:
    libc.syscall(numbers[0], b"user", key.encode(), b"canary", 6, -3)
os.execv(argv[0], argv)
"""
"""Becomes a command after it has put a key into a session keyring of its own."""


@dataclass(frozen=True)
class Canaries:
    """What attempts are told of, and what is handed to the command that makes them."""

    place: Path
    targets: dict[str, Any]
    descriptors: tuple[int, ...]

    def side(self, name: str) -> dict[str, Any]:
        """Return the targets of one side: files that it may destroy. Outside, ``own`` is on the same disk."""
        place = self.place / name
        (place / "victims" / "directory").mkdir(parents=True, exist_ok=True)
        (place / "own").mkdir(exist_ok=True)
        for victim in VICTIMS:
            (place / "victims" / victim).write_text("canary", encoding="ascii")
        own = str(place / "own") if name == "outside" else None
        return {**self.targets, "victims": str(place / "victims"), "own": own}

    def state(self, name: str) -> dict[str, tuple[int, ...] | bytes]:
        """Return all there is to know of the files of a side, to see whether they have changed."""
        found: dict[str, tuple[int, ...] | bytes] = {}
        for path in sorted((self.place / name / "victims").rglob("*")):
            status = path.lstat()
            found[str(path)] = (status.st_mode, status.st_uid, status.st_mtime_ns, status.st_size, status.st_nlink)
            found[f"{path}:"] = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        return found


def _serve(sockets: list[socket.socket], stop: socket.socket) -> None:
    """Answer everybody until the other end of ``stop`` is closed."""
    with selectors.DefaultSelector() as selector:
        for sock in (*sockets, stop):
            selector.register(sock, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is stop:
                    return
                with contextlib.suppress(OSError):
                    _answer(key.fileobj)  # type: ignore[arg-type]


def _answer(sock: socket.socket) -> None:
    if sock.type == socket.SOCK_STREAM:
        connection, _ = sock.accept()
        with connection:
            connection.sendall(b"canary")
        return
    data, sender = sock.recvfrom(16)
    if sender:
        sock.sendto(data, sender)


def _listen(stack: contextlib.ExitStack, family: int, kind: int, address: Any) -> socket.socket:
    sock = stack.enter_context(socket.socket(family, kind))
    sock.bind(address)
    if kind == socket.SOCK_STREAM:
        sock.listen(32)
    return sock


def _sockets(stack: contextlib.ExitStack, place: Path, name: str) -> dict[str, Any]:
    unix: int = socket.AF_UNIX  # type: ignore[attr-defined,unused-ignore]
    stream, datagram = socket.SOCK_STREAM, socket.SOCK_DGRAM
    tcp = _listen(stack, socket.AF_INET, stream, ("127.0.0.1", 0))
    udp = _listen(stack, socket.AF_INET, datagram, ("127.0.0.1", 0))
    others = [
        _listen(stack, unix, stream, str(place / "s")),
        _listen(stack, unix, datagram, str(place / "d")),
        _listen(stack, unix, stream, f"\0{name}"),
        _listen(stack, unix, datagram, f"\0{name}-datagrams"),
    ]
    ours, theirs = socket.socketpair()
    server = threading.Thread(target=_serve, args=([tcp, udp, *others], theirs), daemon=True)
    server.start()
    stack.callback(theirs.close)
    stack.callback(server.join, 10)
    stack.callback(ours.close)
    return {
        "socket": str(place / "s"), "datagrams": str(place / "d"), "abstract": name,
        "port": tcp.getsockname()[1], "udp_port": udp.getsockname()[1],
    }  # fmt: skip


def _process(stack: contextlib.ExitStack, mark: str) -> tuple[IO[bytes], dict[str, Any]]:
    """Return its standard input, at whose end it ends, and what is to be known of it."""
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", PROCESS, mark], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env={**os.environ, VARIABLE: mark}, start_new_session=True,
    )  # fmt: skip
    stack.enter_context(process)  # closes its input, and waits
    pid, address = json.loads(process.stdout.readline())  # type: ignore[union-attr] # both are pipes
    return process.stdin, {"pid": pid, "address": address}  # type: ignore[return-value]


def _ipc(stack: contextlib.ExitStack, name: str) -> dict[str, Any]:
    """Make System V objects and a POSIX queue; where the kernel has none, attempts outside fail as well."""
    libc = ctypes.CDLL(None)
    key = secrets.randbits(31) | 1
    flags = IPC_CREATE | 0o600
    memory, messages, semaphores = libc.shmget(key, 4096, flags), libc.msgget(key, flags), libc.semget(key, 1, flags)
    for identifier, remove in (
        (memory, lambda: libc.shmctl(memory, IPC_REMOVE, None)),
        (messages, lambda: libc.msgctl(messages, IPC_REMOVE, None)),
        (semaphores, lambda: libc.semctl(semaphores, 0, IPC_REMOVE)),
    ):
        if identifier >= 0:
            stack.callback(remove)
    if "mq_open" in NUMBERS:
        queue = libc.syscall(NUMBERS["mq_open"], name.encode(), os.O_CREAT | os.O_RDWR, 0o600, None)
        if queue >= 0:
            stack.callback(lambda: libc.mq_unlink(f"/{name}".encode()))
            stack.callback(os.close, queue)
    return {"ipc": key, "queue": name}


def _file(stack: contextlib.ExitStack, path: Path) -> str:
    path.write_text("canary", encoding="ascii")
    stack.callback(path.unlink, missing_ok=True)
    return str(path)


def _handle(path: Path) -> str:
    with contextlib.suppress(OSError, KeyError):
        return handle_of(str(path)).hex()
    return bytes(136).hex()


def _descriptors(stack: contextlib.ExitStack, place: Path) -> dict[str, Any]:
    directory = os.open(place, os.O_RDONLY | os.O_DIRECTORY)  # type: ignore[attr-defined,unused-ignore]
    low = os.open(place / "secret", os.O_RDWR)
    high = fcntl_dup(low)
    os.close(low)
    sock = stack.enter_context(socket.socket())
    stack.callback(os.close, directory)
    stack.callback(os.close, high)
    return {"descriptor": directory, "file_descriptor": high, "socket_descriptor": sock.fileno()}


def fcntl_dup(descriptor: int) -> int:
    """Return a copy of a descriptor, numbered ``HIGH`` or above."""
    import fcntl

    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, HIGH)  # type: ignore[attr-defined,no-any-return,unused-ignore]


@contextlib.contextmanager
def make_canaries(layout: Layout) -> Iterator[Canaries]:
    """Make them: files in your home, in /tmp and /dev/shm, a process, sockets, IPC objects, descriptors."""
    home = user_home()
    mark = f"canary-{secrets.token_hex(8)}"
    name = f"vsbox-check-{secrets.token_hex(8)}"
    with contextlib.ExitStack() as stack:
        cleaner, process = _process(stack, mark)
        place = Path(tempfile.mkdtemp(prefix=".vsbox-check-", dir=home))
        stack.callback(shutil.rmtree, place, ignore_errors=True)
        secret, program = place / "secret", place / "program"
        secret.write_text("canary", encoding="ascii")
        program.write_text("#!/bin/sh\nexit 0\n", encoding="ascii")
        program.chmod(0o700)
        targets = {
            "place": str(place), "secret": str(secret), "secret_size": 6, "program": str(program), "home": home,
            "home_entry": place.name, "policy": str(layout.policy), "shadow": "/etc/shadow", "handle": _handle(secret),
            "tmp": _file(stack, Path("/tmp", name)), "shm": _file(stack, Path("/dev/shm", name)),
            "variable": VARIABLE, "mark": mark, "key": name,
            **_sockets(stack, place, name), **process, **_ipc(stack, name), **_descriptors(stack, place),
        }  # fmt: skip
        left = {"files": [targets[key] for key in ("place", "tmp", "shm")], "ipc": targets["ipc"], "queue": f"/{name}"}
        cleaner.write(json.dumps(left).encode())
        cleaner.flush()
        numbers = ("descriptor", "file_descriptor", "socket_descriptor")
        yield Canaries(place, targets, tuple(targets[key] for key in numbers))
