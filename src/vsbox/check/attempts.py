"""What a sandbox must stop: a table of attempts. Runs inside and outside: Python 3.8, standard library.

Targets (``t``) are canaries that the check made: nothing of anybody's is opened for writing but to be closed again.
An attempt that raises nothing has reached what it was after.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import socket
import stat
import subprocess
from typing import Any, Callable, Dict, NamedTuple, Tuple

from vsbox.check.calls import (
    AT_FDCWD,
    CLONE_NEWNS,
    CLONE_NEWUSER,
    PTRACE_SEIZE,
    TIOCSTI,
    call,
    capabilities,
    clone,
    clone3,
    contents,
    libc,
    must,
    open_by_handle,
    open_only,
    open_socket,
    read,
    read_memory,
    send,
    talk,
    type_into_terminal,
)

Targets = Dict[str, Any]
CONTROL = "the same by the base Python, without the box"


class Attempt(NamedTuple):
    """One attempt: what it is after, by which means, and how the control is done.

    ``opened_by``: the target (a path) and the access that opens this where ``sandbox.json`` grants it.
    """

    name: str
    aspect: str
    tries: str
    function: Callable[[Targets], object]
    is_extended: bool = True
    opened_by: Tuple[str, str] = ("", "")
    control: str = CONTROL


# ---- what takes more than an expression ----


def change_mode(path: str) -> None:
    """Set the mode that a file already has."""
    os.chmod(path, stat.S_IMODE(os.stat(path).st_mode))


def make_setuid(t: Targets) -> None:
    """Set the set-user-id bit of an own file and take it back."""
    path = own_file(t, "setuid")
    os.chmod(path, 0o4600)
    os.chmod(path, 0o600)


def own_file(t: Targets, name: str) -> str:
    """Return a new file of our own."""
    path = os.path.join(t["own"], name)
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    return path


def own_link(t: Targets, target: str) -> str:
    """Return a new link of our own."""
    path = os.path.join(t["own"], "link-%d" % os.getpid())
    os.symlink(target, path)
    return path


def hold_capability(_: Targets) -> None:
    """Have any capability at all."""
    if not capabilities():
        raise PermissionError(errno.EPERM, "none is effective, permitted or inheritable")


def gain_privileges(_: Targets) -> None:
    """Be allowed to gain privileges by executing something. Source: PR_GET_NO_NEW_PRIVS, prctl(2)."""
    if libc.prctl(39, 0, 0, 0, 0) == 1:
        raise PermissionError(errno.EPERM, "no_new_privs is set")


def mount_tmpfs(t: Targets) -> None:
    """Mount something and take it away."""
    call("mount", b"none", os.fsencode(t["own"]), b"tmpfs", 0, 0)
    call("umount2", os.fsencode(t["own"]), 2)


def set_up_io_uring(_: Targets) -> None:
    """Make a ring and close it."""
    os.close(call("io_uring_setup", 1, ctypes.byref(ctypes.create_string_buffer(120))))


def use_bpf(_: Targets) -> None:
    """Make a map and close it."""
    os.close(call("bpf", 0, (ctypes.c_uint32 * 32)(2, 4, 4, 1), 128))


def copy_descriptor(t: Targets) -> None:
    """Take a descriptor of another process."""
    os.close(call("pidfd_getfd", call("pidfd_open", t["pid"], 0), 0, 0))


def chmod_by_descriptor(t: Targets) -> None:
    """Change the mode of a file through the name of its descriptor."""
    change_mode("/proc/self/fd/%d" % os.open(t["secret"], getattr(os, "O_PATH", 0)))


def bind_socket(t: Targets) -> None:
    """Leave a socket."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(t["victims"] + "/planted-socket")


def connect_by_link(t: Targets) -> None:
    """Connect through a link of our own."""
    talk(socket.AF_UNIX, socket.SOCK_STREAM, own_link(t, t["socket"]))


def use_socket(t: Targets) -> None:
    """Find that an inherited descriptor is the socket it was."""
    must(stat.S_ISSOCK(os.fstat(t["socket_descriptor"]).st_mode))


def find_key(t: Targets) -> None:
    """Search the session keyring for a key. Source: keyctl_search(3)."""
    call("keyctl", 10, -3, b"user", t["key"].encode(), 0)


def open_queue(t: Targets) -> None:
    """Open a POSIX message queue."""
    os.close(call("mq_open", t["queue"].encode(), os.O_RDONLY, 0, 0))


def make_device(t: Targets) -> None:
    """Make a device file: of /dev/null, which is harmless."""
    os.mknod(t["own"] + "/null", stat.S_IFCHR | 0o600, os.makedev(1, 3))


def enter_namespace(_: Targets) -> None:
    """Enter the namespace that we are in."""
    call("setns", os.open("/proc/self/ns/uts", os.O_RDONLY), 0)


def use_perf(_: Targets) -> None:
    """Count an event of ourselves. Source: perf_event_open(2)."""
    attributes = (ctypes.c_uint32 * 32)(1, 128)
    os.close(call("perf_event_open", attributes, 0, -1, -1, 0))


def list_interfaces(_: Targets) -> None:
    """Find an interface beside the loopback."""
    must([name for _, name in socket.if_nameindex() if name != "lo"])


SECRET_READ, VICTIMS_WRITE = ("secret", "read"), ("victims", "write")


def _on_files() -> Tuple[Attempt, ...]:
    flags = {"write": os.O_WRONLY, "append": os.O_WRONLY | os.O_APPEND, "create": os.O_WRONLY | os.O_CREAT}
    o_path = getattr(os, "O_PATH", 0)

    def base(name, tries, function, opened_by=("", ""), aspect="files"):
        return Attempt(name, aspect, tries, function, False, opened_by)

    def reading(name, tries, function, opened_by=SECRET_READ):
        return Attempt(name, "files", tries, function, True, opened_by)

    def writing(name, tries, function, aspect="files"):
        return Attempt(name, aspect, tries, function, True, VICTIMS_WRITE)

    return (
        base("read a file of yours", "open(2) for reading", lambda t: open_only(t["secret"]), SECRET_READ),
        base("write a file of yours", "open(2) for writing", lambda t: open_only(t["secret"], os.O_WRONLY),
             ("secret", "write")),
        base("list your home", "getdents(2) of your home", lambda t: must(t["home_entry"] in os.listdir(t["home"])),
             ("home", "read")),
        base("change the mode of a file of yours", "chmod(2)", lambda t: change_mode(t["secret"]), ("secret", "write"),
             "metadata"),
        base("truncate a file of yours", "truncate(2) to its own size",
             lambda t: os.truncate(t["secret"], t["secret_size"]), ("secret", "write"), "truncate"),
        base("read the policy", "open(2) of sandbox.json", lambda t: open_only(t["policy"])),
        base("change the policy", "open(2) of sandbox.json for writing", lambda t: open_only(t["policy"], os.O_WRONLY)),
        base("read /etc/shadow", "open(2)", lambda t: open_only(t["shadow"]), ("shadow", "read")),
        base("set the kernel's core_pattern", "open(2) for writing",
             lambda t: open_only("/proc/sys/kernel/core_pattern", os.O_WRONLY)),
        reading("read through /proc/self/root", "open(2)", lambda t: open_only("/proc/self/root" + t["secret"])),
        reading("read through the root of another process", "open(2) below /proc/PID/root",
                lambda t: open_only("/proc/%d/root%s" % (t["pid"], t["secret"])), ("", "")),
        reading("read through the root of process 1", "open(2) below /proc/1/root",
                lambda t: open_only("/proc/1/root" + t["secret"])),
        reading("read below an opened directory", "openat(2) from a descriptor of O_PATH",
                lambda t: open_only("secret", dir_fd=os.open(t["place"], o_path))),
        reading("read with dots in the path", "open(2) of ../../..", lambda t: open_only("../" * 40 + t["secret"])),
        reading("read through an own link", "symlink(2), open(2)", lambda t: open_only(own_link(t, t["secret"]))),
        reading("read by a file handle", "open_by_handle_at(2) with a handle made outside",
                lambda t: open_by_handle(bytes.fromhex(t["handle"])), ("", "")),
        reading("list a directory of yours", "getdents(2)", lambda t: must(os.listdir(t["place"]))),
        reading("execute a program of yours", "execve(2)",
                lambda t: subprocess.run([t["program"]], check=True, stdin=subprocess.DEVNULL)),
        reading("see the host's /tmp", "open(2) of a file in it", lambda t: open_only(t["tmp"]), ("tmp", "read")),
        writing("append to a file of yours", "open(2), O_APPEND",
                lambda t: open_only(t["victims"] + "/append", flags["append"])),
        writing("empty a file of yours", "open(2), O_TRUNC",
                lambda t: open_only(t["victims"] + "/empty", os.O_WRONLY | os.O_TRUNC)),
        writing("empty a file opened for reading", "open(2), O_RDONLY | O_TRUNC",
                lambda t: open_only(t["victims"] + "/empty", os.O_TRUNC), "truncate"),
        writing("make a file beside yours", "open(2), O_CREAT",
                lambda t: open_only(t["victims"] + "/planted", flags["create"])),
        writing("make a directory beside your files", "mkdir(2)",
                lambda t: os.mkdir(t["victims"] + "/planted-directory")),
        writing("make a link beside your files", "symlink(2)",
                lambda t: os.symlink("x", t["victims"] + "/planted-link")),
        writing("make a pipe beside your files", "mkfifo(3)", lambda t: os.mkfifo(t["victims"] + "/planted-pipe")),
        writing("make a socket beside your files", "bind(2)", bind_socket),
        writing("rename a file of yours", "rename(2)",
                lambda t: os.rename(t["victims"] + "/rename", t["victims"] + "/renamed")),
        writing("put a file in the place of yours", "rename(2) over it",
                lambda t: os.replace(t["victims"] + "/replace", t["victims"] + "/replaced")),
        writing("take a file of yours", "rename(2) into an own directory",
                lambda t: os.rename(t["victims"] + "/take", t["own"] + "/taken")),
        writing("give a file of yours another name", "link(2) into an own directory",
                lambda t: os.link(t["victims"] + "/link", t["own"] + "/linked")),
        writing("delete a file of yours", "unlink(2)", lambda t: os.unlink(t["victims"] + "/unlink")),
        writing("delete a directory of yours", "rmdir(2)", lambda t: os.rmdir(t["victims"] + "/directory")),
        writing("change the owner of a file of yours", "chown(2) to its own owner",
                lambda t: os.chown(t["victims"] + "/append", os.getuid(), os.getgid()), "metadata"),
        writing("change the times of a file of yours", "utimensat(2)",
                lambda t: os.utime(t["victims"] + "/append", (1, 1)), "metadata"),
        writing("change an attribute of a file of yours", "setxattr(2)",
                lambda t: os.setxattr(t["victims"] + "/append", "user.vsbox", b"x"), "metadata"),
        Attempt("change a mode by a descriptor's name", "metadata", "chmod(2) of /proc/self/fd/N, opened with O_PATH",
                chmod_by_descriptor, True, ("secret", "write")),
        *(Attempt("set the kernel's %s" % name, "files", "open(2) of %s for writing" % path,
                  lambda t, path=path: open_only(path, os.O_WRONLY))
          for name, path in (("module loader", "/proc/sys/kernel/modprobe"), ("sysrq trigger", "/proc/sysrq-trigger"),
                             ("memory policy", "/proc/sys/vm/overcommit_memory"),
                             ("hot plug helper", "/sys/kernel/uevent_helper"))),
        Attempt("change the mode of a device", "metadata", "chmod(2) of /dev/full to the mode that it has",
                lambda t: os.chmod("/dev/full", stat.S_IMODE(os.stat("/dev/full").st_mode))),
        Attempt("read the kernel's log", "files", "open(2) of /dev/kmsg", lambda t: open_only("/dev/kmsg")),
        Attempt("read the kernel's memory", "files", "open(2) of /proc/kcore", lambda t: open_only("/proc/kcore")),
    )  # fmt: skip


def _on_processes() -> Tuple[Attempt, ...]:
    def of(name, what, aspect="processes", *, flags=os.O_RDONLY):
        return Attempt(name, aspect, "open(2) of /proc/PID/%s" % what,
                       lambda t: open_only("/proc/%d/%s" % (t["pid"], what), flags))  # fmt: skip

    return (
        of("read another process's environment", "environ")._replace(is_extended=False),
        Attempt("signal another process", "signals", "kill(2) with signal 0", lambda t: os.kill(t["pid"], 0), False),
        Attempt("trace another process", "processes", "ptrace(2), PTRACE_SEIZE",
                lambda t: call("ptrace", PTRACE_SEIZE, t["pid"], 0, 0), False),
        Attempt("list other processes", "processes", "getdents(2) of /proc",
                lambda t: must(str(t["pid"]) in os.listdir("/proc"))),
        of("read another process's command line", "cmdline"),
        of("map another process's memory", "maps"),
        of("open another process's memory", "mem"),
        Attempt("list another process's descriptors", "processes", "getdents(2) of /proc/PID/fd",
                lambda t: os.listdir("/proc/%d/fd" % t["pid"])),
        Attempt("find another process's directory", "processes", "readlink(2) of /proc/PID/cwd",
                lambda t: os.readlink("/proc/%d/cwd" % t["pid"])),
        Attempt("read another process's memory", "processes", "process_vm_readv(2)",
                lambda t: read_memory(t["pid"], t["address"])),
        Attempt("compare with another process", "processes", "kcmp(2)",
                lambda t: call("kcmp", os.getpid(), t["pid"], 3, 0, 0)),
        Attempt("take another process's descriptor", "processes", "pidfd_getfd(2)", copy_descriptor),
        Attempt("send another process a signal", "signals", "kill(2) with SIGURG",
                lambda t: os.kill(t["pid"], signal.SIGURG)),
        Attempt("signal another process by descriptor", "signals", "pidfd_send_signal(2)",
                lambda t: call("pidfd_send_signal", call("pidfd_open", t["pid"], 0), signal.SIGURG, 0, 0)),
        Attempt("signal another process group", "signals", "kill(2) of -PID",
                lambda t: os.killpg(t["pid"], signal.SIGURG)),
        Attempt("share System V memory", "ipc", "shmget(2)", lambda t: call("shmget", t["ipc"], 4096, 0)),
        Attempt("open a System V queue", "ipc", "msgget(2)", lambda t: call("msgget", t["ipc"], 0)),
        Attempt("open a System V semaphore", "ipc", "semget(2)", lambda t: call("semget", t["ipc"], 1, 0)),
        Attempt("open a POSIX queue", "ipc", "mq_open(2)", open_queue),
        Attempt("open shared memory of the host", "shared-memory", "open(2) below /dev/shm",
                lambda t: open_only(t["shm"]), False, ("shm", "read")),
    )  # fmt: skip


def _on_sockets() -> Tuple[Attempt, ...]:
    unix, stream, datagram, inet = socket.AF_UNIX, socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.AF_INET
    opened = ("socket", "write")

    def family(name, number, kind, protocol=0):
        tries = "socket(2) of family %d" % number
        return Attempt(name, "syscalls", tries, lambda t: open_socket(number, kind, protocol))

    return (
        Attempt("connect to a UNIX socket", "unix-sockets", "connect(2) to a path",
                lambda t: talk(unix, stream, t["socket"]), False, opened),
        Attempt("connect to an abstract UNIX socket", "abstract-sockets", "connect(2)",
                lambda t: talk(unix, stream, "\0" + t["abstract"]), False),
        Attempt("connect to localhost", "network", "connect(2) by TCP",
                lambda t: talk(inet, stream, ("127.0.0.1", t["port"])), False),
        Attempt("exchange a datagram with localhost", "network", "sendto(2) by UDP",
                lambda t: send(inet, ("127.0.0.1", t["udp_port"])), False),
        Attempt("connect to a UNIX socket by a link", "unix-sockets", "symlink(2), connect(2)", connect_by_link,
                True, opened),
        Attempt("send to a UNIX socket", "unix-sockets", "sendto(2) to a path", lambda t: send(unix, t["datagrams"]),
                True, ("datagrams", "write")),
        Attempt("connect a datagram UNIX socket", "unix-sockets", "connect(2), send(2)",
                lambda t: talk(unix, datagram, t["datagrams"]), True, ("datagrams", "write")),
        Attempt("send to an abstract UNIX socket", "abstract-sockets", "sendto(2)",
                lambda t: send(unix, "\0" + t["abstract"] + "-datagrams")),
        Attempt("connect to localhost by UDP", "network", "connect(2), send(2)",
                lambda t: talk(inet, datagram, ("127.0.0.1", t["udp_port"]))),
        Attempt("see the network interfaces", "network", "netlink(7), RTM_GETLINK", list_interfaces),
        family("open a generic netlink socket", 16, socket.SOCK_RAW, 16),
        family("hear the kernel's events", 16, socket.SOCK_RAW, 15),
        family("open a raw socket", 2, socket.SOCK_RAW, 1),
        family("open a packet socket", 17, socket.SOCK_RAW),
        family("reach virtual machines (vsock)", 40, stream),
        family("use the kernel's cryptography (AF_ALG)", 38, socket.SOCK_SEQPACKET),
    )  # fmt: skip


def _on_what_is_inherited() -> Tuple[Attempt, ...]:
    return (
        Attempt("use an inherited descriptor", "descriptors", "fstat(2)", lambda t: os.fstat(t["descriptor"]), False),
        Attempt("see a secret variable", "environment", "getenv(3)", lambda t: os.environ[t["variable"]], False),
        Attempt("reach the session keyring", "keyring", "keyctl(2), KEYCTL_GET_KEYRING_ID",
                lambda t: call("keyctl", 0, -3, 0), False),
        Attempt("read through an inherited directory", "descriptors", "openat(2)",
                lambda t: open_only("secret", dir_fd=t["descriptor"])),
        Attempt("use an inherited file", "descriptors", "pread(2) of a descriptor above 600",
                lambda t: os.pread(t["file_descriptor"], 1, 0)),
        Attempt("use an inherited socket", "descriptors", "fstat(2)", use_socket),
        Attempt("reopen standard input for writing", "descriptors", "open(2) of /proc/PID/fd/0",
                lambda t: open_only("/proc/%d/fd/0" % os.getppid(), os.O_WRONLY)),
        Attempt("find the secret in any environment", "processes", "open(2) of /proc/*/environ",
                lambda t: must([text for text in contents("environ") if t["mark"].encode() in text])),
        Attempt("preload a library", "environment", "getenv(3) of LD_PRELOAD", lambda t: os.environ["LD_PRELOAD"]),
        Attempt("find a key of the session", "keyring", "keyctl(2), KEYCTL_SEARCH", find_key),
        Attempt("ask for a key", "keyring", "request_key(2)",
                lambda t: call("request_key", b"user", t["key"].encode(), 0, 0)),
        Attempt("leave a key", "keyring", "add_key(2)",
                lambda t: call("add_key", b"user", b"vsbox-check", b"x", 1, -3)),
        Attempt("list keys", "keyring", "open(2) of /proc/keys", lambda t: must(read("/proc/keys"))),
    )  # fmt: skip


def _on_powers() -> Tuple[Attempt, ...]:
    def power(name, tries, function, *, is_extended=True):
        return Attempt(name, "privileges", tries, function, is_extended)

    def surface(name, tries, function, *, is_extended=True):
        return Attempt(name, "syscalls", tries, function, is_extended)

    return (
        power("make a user namespace", "unshare(2)", lambda t: call("unshare", CLONE_NEWUSER), is_extended=False),
        power("make a set-user-id file", "chmod(2)", make_setuid, is_extended=False),
        Attempt("type into the terminal", "terminal", "ioctl(2), TIOCSTI on a terminal made for it",
                lambda t: type_into_terminal(TIOCSTI), False),
        surface("set up io_uring", "io_uring_setup(2)", set_up_io_uring, is_extended=False),
        surface("use bpf", "bpf(2), BPF_MAP_CREATE", use_bpf, is_extended=False),
        power("hold a capability", "capget(2)", hold_capability, is_extended=False),
        power("gain privileges", "prctl(2), PR_GET_NO_NEW_PRIVS", gain_privileges),
        power("clone a user namespace", "clone(2)", lambda t: clone(CLONE_NEWUSER)),
        power("clone a user namespace anew", "clone3(2)", lambda t: clone3(CLONE_NEWUSER)),
        power("make a mount namespace", "unshare(2)", lambda t: call("unshare", CLONE_NEWUSER | CLONE_NEWNS)),
        power("mount", "mount(2) of a tmpfs", mount_tmpfs),
        power("open a file system", "fsopen(2)", lambda t: os.close(call("fsopen", b"tmpfs", 0))),
        power("copy a mount", "open_tree(2), OPEN_TREE_CLONE",
              lambda t: os.close(call("open_tree", AT_FDCWD, b"/", 1))),
        power("change the root", "chroot(2)", lambda t: call("chroot", b"/")),
        power("enter a namespace", "setns(2)", enter_namespace),
        power("make a device", "mknod(2)", make_device),
        power("make a set-group-id directory", "mkdir(2)", lambda t: os.mkdir(t["own"] + "/setgid", 0o2700)),
        power("make a set-user-id file by open", "open(2)",
              lambda t: os.close(os.open(t["own"] + "/setuid-open", os.O_CREAT | os.O_WRONLY, 0o4700))),
        Attempt("type into the terminal, high half", "terminal", "ioctl(2), TIOCSTI with higher bits set",
                lambda t: type_into_terminal(TIOCSTI | 1 << 32)),
        surface("handle page faults", "userfaultfd(2)", lambda t: os.close(call("userfaultfd", 1))),
        surface("measure performance", "perf_event_open(2)", use_perf),
        surface("change the execution domain", "personality(2)", lambda t: call("personality", 0x0040000)),
    )  # fmt: skip


ATTEMPTS = (*_on_files(), *_on_processes(), *_on_sockets(), *_on_what_is_inherited(), *_on_powers())
