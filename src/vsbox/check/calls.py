"""System calls for attempts and promises, as the man pages name them. Runs inside too: Python 3.8, standard library."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import select
import socket
import struct
import sys
import termios
from typing import Any

NUMBERS = {
    "x86_64": {
        "shmget": 29, "clone": 56, "semget": 64, "msgget": 68, "ptrace": 101, "personality": 135, "chroot": 161,
        "mount": 165, "umount2": 166, "capget": 125, "mq_open": 240, "add_key": 248, "request_key": 249, "keyctl": 250,
        "unshare": 272, "perf_event_open": 298, "name_to_handle_at": 303, "open_by_handle_at": 304, "setns": 308,
        "process_vm_readv": 310, "kcmp": 312, "bpf": 321, "userfaultfd": 323,
    },
    "aarch64": {
        "shmget": 194, "clone": 220, "semget": 190, "msgget": 186, "ptrace": 117, "personality": 92, "chroot": 51,
        "mount": 40, "umount2": 39, "capget": 90, "mq_open": 180, "add_key": 217, "request_key": 218, "keyctl": 219,
        "unshare": 97, "perf_event_open": 241, "name_to_handle_at": 264, "open_by_handle_at": 265, "setns": 268,
        "process_vm_readv": 270, "kcmp": 272, "bpf": 280, "userfaultfd": 282,
    },
}.get(platform.machine(), {})
# Source: the tables of the kernel; from 424 on they are the same everywhere.
NUMBERS.update({
    "pidfd_send_signal": 424, "io_uring_setup": 425, "open_tree": 428, "fsopen": 430, "pidfd_open": 434,
    "clone3": 435, "pidfd_getfd": 438,
})  # fmt: skip
CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
PTRACE_SEIZE = 0x4206
TIOCSTI = 0x5412
AT_FDCWD = -100
SIGCHLD = 17
SECONDS_TO_ANSWER = 1.5
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


def call(name: str, *arguments: Any) -> int:
    """Make a system call with whole 64-bit arguments; OSError as from Python's own wrappers."""
    words = [ctypes.c_ulong(a & (2**64 - 1)) if isinstance(a, int) else a for a in arguments]
    result = libc.syscall(ctypes.c_long(NUMBERS[name]), *words)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(result)


def must(found):
    """Raise ENOENT when an attempt that raises nothing has found nothing."""
    if not found:
        raise FileNotFoundError(errno.ENOENT, "nothing was found")


def open_only(path, flags=os.O_RDONLY, dir_fd=None):
    """Open and close."""
    os.close(os.open(path, flags | os.O_CLOEXEC | os.O_NOCTTY, 0o600, dir_fd=dir_fd))


def read(path):
    """Return the beginning of a file."""
    with open(path, "rb") as file:
        return file.read(1 << 16)


def talk(family, kind, address):
    """Connect, and get the word of who answers there."""
    with socket.socket(family, kind) as client:
        client.settimeout(SECONDS_TO_ANSWER)
        client.connect(address)
        if kind == socket.SOCK_DGRAM:
            client.send(b"x")
        if kind == socket.SOCK_STREAM or family != socket.AF_UNIX:
            must(client.recv(16))


def send(family, address):
    """Send a datagram without connecting; wait for the answer where there is one."""
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        client.settimeout(SECONDS_TO_ANSWER)
        client.sendto(b"x", address)
        if family != socket.AF_UNIX:
            must(client.recv(16))


def open_socket(family, kind, protocol=0):
    """Make a socket and close it."""
    socket.socket(family, kind, protocol).close()


def clone(flags: int) -> None:
    """Start a child, which ends at once."""
    if call("clone", flags | SIGCHLD, 0, 0, 0, 0) == 0:
        os._exit(0)
    os.wait()


def clone3(flags: int) -> None:
    """Start a child the newer way, which ends at once. Source: clone(2), struct clone_args."""
    arguments = ctypes.create_string_buffer(struct.pack("8Q", flags, 0, 0, 0, SIGCHLD, 0, 0, 0))
    if call("clone3", ctypes.byref(arguments), 64) == 0:
        os._exit(0)
    os.wait()


def handle_of(path: str) -> bytes:
    """Return the struct file_handle of a path. Source: name_to_handle_at(2)."""
    handle = ctypes.create_string_buffer(136)
    handle[0:4] = (128).to_bytes(4, sys.byteorder)
    mount = ctypes.c_int()
    call("name_to_handle_at", AT_FDCWD, os.fsencode(path), ctypes.byref(handle), ctypes.byref(mount), 0)
    return bytes(handle)


def open_by_handle(handle):
    """Open a file by its number on its file system, whatever leads there."""
    mount = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    os.close(call("open_by_handle_at", mount, ctypes.create_string_buffer(handle), os.O_RDONLY))


def read_memory(pid, address):
    """Read eight bytes of another process. Source: process_vm_readv(2)."""
    vector = (ctypes.c_ulong * 2)(ctypes.addressof(ctypes.create_string_buffer(8)), 8)
    must(call("process_vm_readv", pid, vector, 1, (ctypes.c_ulong * 2)(address, 8), 1, 0))


def type_into_terminal(request):
    """Make a terminal, let it control this session, and type a line into it."""
    master, terminal = os.openpty()
    import fcntl

    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
    for byte in b"typed\n":
        if libc.ioctl(terminal, ctypes.c_ulong(request), ctypes.byref(ctypes.c_char(byte))) < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    must(select.select([terminal], [], [], 3)[0])
    return "through %s" % os.ttyname(terminal) if master else ""  # open until the end: closing it is a hangup


def capabilities():
    """Return the effective, permitted and inheritable capabilities together. Source: capget(2)."""
    header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    call("capget", header, data)
    return sum(data)


def contents(name):
    """Yield what can be read of a file of every process that is seen."""
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            yield read("/proc/%s/%s" % (entry, name))
