"""Attempts that a sandbox must stop. This file runs as a program, inside and outside.

``python -I -S probes.py-as-text TARGETS`` prints one JSON object: probe name to ``"ok"`` where the
attempt succeeded, else the name of the errno or exception. Standard library only, Python 3.8 and
newer. It changes nothing: what could be written is opened and closed, signals are signal 0.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import socket
import stat
import sys
import tempfile
from typing import Any, Callable, Dict

libc = ctypes.CDLL(None, use_errno=True)
X86_64 = os.uname().machine == "x86_64"  # type: ignore[attr-defined,unused-ignore]
NR_KEYCTL = 250 if X86_64 else 219
NR_PTRACE = 101 if X86_64 else 117
NR_IO_URING_SETUP = 425
NR_BPF = 321 if X86_64 else 280
CLONE_NEWUSER = 0x10000000
TIOCSTI = 0x5412
PTRACE_SEIZE = 0x4206


def call(number: int, *arguments: int) -> int:
    """Make a raw system call; raise OSError as Python's own wrappers do."""
    result = libc.syscall(number, *[ctypes.c_long(argument) for argument in arguments])
    if result < 0:
        raise OSError(ctypes.get_errno(), "")
    return int(result)


def in_child(function: Callable[[], object]) -> None:
    """Run what cannot be undone in a child; raise its errno here."""
    pid = os.fork()  # type: ignore[attr-defined,unused-ignore]
    if pid == 0:
        try:
            function()
        except OSError as error:
            os._exit(error.errno or 255)
        os._exit(0)
    code = os.waitpid(pid, 0)[1] >> 8
    if code:
        raise OSError(code, "")


def open_only(path: str, flags: int) -> None:
    """Open and close."""
    os.close(os.open(path, flags))


def connect(address: Any, family: int) -> None:
    """Connect and close."""
    with socket.socket(family) as client:
        client.settimeout(3)
        client.connect(address)


def make_user_namespace() -> None:
    """Enter a new user namespace."""
    if libc.unshare(CLONE_NEWUSER) < 0:
        raise OSError(ctypes.get_errno(), "")


def set_up_io_uring() -> None:
    """Make a ring and close it."""
    parameters = ctypes.create_string_buffer(120)
    os.close(call(NR_IO_URING_SETUP, 1, ctypes.addressof(parameters)))


def change_mode(path: str) -> None:
    """Set the mode that a file already has."""
    os.chmod(path, stat.S_IMODE(os.stat(path).st_mode))


def make_setuid(path: str) -> None:
    """Set the set-user-id bit of an own file and take it back."""
    os.chmod(path, 0o4600)
    os.chmod(path, 0o600)


def own_file() -> str:
    """Return a new file of our own."""
    return tempfile.mkstemp()[1]


def find_variable(name: str) -> None:
    """Find a variable that the caller's environment has."""
    os.environ[name]


def hold_capability() -> None:
    """Have any capability at all."""
    with open("/proc/self/status") as file:
        sets = [line.split()[1] for line in file if line.startswith(("CapEff", "CapPrm", "CapInh"))]
    if all(int(value, 16) == 0 for value in sets):
        raise PermissionError(errno.EPERM, "")


def send_datagram(port: int) -> None:
    """Send a datagram to localhost and wait for its echo."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(2)
        client.sendto(b"x", ("127.0.0.1", port))
        client.recv(1)


def probes(t: Dict[str, Any]) -> Dict[str, Callable[[], object]]:
    """Return the attempts, by name."""
    return {
        "read a file of yours": lambda: open_only(t["secret"], os.O_RDONLY),
        "write a file of yours": lambda: open_only(t["secret"], os.O_WRONLY),
        "list your home": lambda: os.listdir(t["home"]).index(t["home_entry"]),
        "change the mode of a file of yours": lambda: change_mode(t["secret"]),
        "truncate a file of yours": lambda: os.truncate(t["secret"], t["secret_size"]),
        "read the policy": lambda: open_only(t["policy"], os.O_RDONLY),
        "change the policy": lambda: open_only(t["policy"], os.O_WRONLY),
        "read /etc/shadow": lambda: open_only("/etc/shadow", os.O_RDONLY),
        "set the kernel's core_pattern": lambda: open_only("/proc/sys/kernel/core_pattern", os.O_WRONLY),
        "read another process's environment": lambda: open_only("/proc/%d/environ" % t["pid"], os.O_RDONLY),
        "signal another process": lambda: os.kill(t["pid"], 0),
        "trace another process": lambda: in_child(lambda: call(NR_PTRACE, PTRACE_SEIZE, t["pid"], 0, 0)),
        "connect to a UNIX socket": lambda: connect(t["socket"], socket.AF_UNIX),  # type: ignore[attr-defined,unused-ignore]
        "connect to an abstract UNIX socket": lambda: connect("\0" + t["abstract"], socket.AF_UNIX),  # type: ignore[attr-defined,unused-ignore]
        "connect to localhost": lambda: connect(("127.0.0.1", t["port"]), socket.AF_INET),
        "exchange a datagram with localhost": lambda: send_datagram(t["udp_port"]),
        "open shared memory of the host": lambda: open_only(t["shm"], os.O_RDONLY),
        "use an inherited descriptor": lambda: os.fstat(t["descriptor"]),
        "see a secret variable": lambda: find_variable(t["variable"]),
        "reach the session keyring": lambda: call(NR_KEYCTL, 0, -3, 0),
        "make a user namespace": lambda: in_child(make_user_namespace),
        "make a set-user-id file": lambda: make_setuid(own_file()),
        "type into the terminal": lambda: fcntl.ioctl(0, TIOCSTI, b"\0"),  # type: ignore[attr-defined,unused-ignore]
        "set up io_uring": set_up_io_uring,
        "use bpf": lambda: call(NR_BPF, 0, 0, 0),
        "hold a capability": hold_capability,
    }


def attempt(function: Callable[[], object]) -> str:
    """Return "ok" or why not."""
    try:
        function()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    except Exception as error:
        return type(error).__name__
    return "ok"


if __name__ == "__main__":
    targets = json.loads(sys.argv[1])
    print(json.dumps({name: attempt(function) for name, function in probes(targets).items()}))
