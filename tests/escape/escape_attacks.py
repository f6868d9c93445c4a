"""The attacks: Python statements for ``escape_runner``, and the errno that denies each in each tier.

``outside``, ``secret``, ``victim``, ``pid`` ... are canaries that the test made; ``own`` is a directory the payload
may write to. Without a sandbox each works, except where ``control`` says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

DONE = frozenset({"done"})
ABSENT = frozenset({"ENOENT"})
DENIED = frozenset({"EACCES"})
NOT_PERMITTED = frozenset({"EPERM"})


@dataclass(frozen=True)
class Attack:
    """One attack; ``control`` maps root and user to what it may end in without a sandbox."""

    name: str
    code: str
    native: frozenset[str]
    landlock: frozenset[str]
    root: frozenset[str] = DONE
    user: frozenset[str] = DONE

    def inside(self, backend: str) -> frozenset[str]:
        """What it must end in inside."""
        return self.landlock if backend == "landlock" else self.native

    def outside(self, uid: int) -> frozenset[str]:
        """What it may end in without a sandbox."""
        return self.root if uid == 0 else self.user


def _attacks(
    native: frozenset[str], landlock: frozenset[str], table: dict[str, str], **control: frozenset[str]
) -> tuple[Attack, ...]:
    return tuple(Attack(name, code, native, landlock, **control) for name, code in table.items())


FILES = (
    *_attacks(ABSENT, DENIED, {
        "read": "read(secret)",
        "read through /proc/self/root": "read('/proc/self/root' + secret)",
        "read through another process's root": "read(f'/proc/{pid}/root' + secret)",
        "read below a directory descriptor": "read(f'/proc/self/fd/{os.open(outside, os.O_PATH)}/secret')",
        "openat": "os.open('secret', os.O_RDONLY, dir_fd=os.open(outside, os.O_PATH))",
        "read after chdir": "os.chdir(outside); read('secret')",
        "read with dots": "read('..' + '/..' * 40 + secret)",
        "read through own link": "os.symlink(secret, own + '/link-read'); read(own + '/link-read')",
        "read home file": "read(home_file)",
        "list": "must(os.listdir(outside))",
        "list home": "must(os.path.basename(home_file) in os.listdir(home))",
        "list home by scandir": "must([e for e in os.scandir(home) if e.name == os.path.basename(home_file)])",
        "list /tmp": "must(os.path.basename(tmp_file) in os.listdir('/tmp'))",
        "read /tmp": "read(tmp_file)",
        "read /dev/shm": "read(shm_file)",
        "write": "write(outside + '/new', os.O_WRONLY | os.O_CREAT)",
        "append": "write(victim, os.O_WRONLY | os.O_APPEND)",
        "truncate by open": "write(outside + '/victim-open', os.O_WRONLY | os.O_TRUNC)",
        "rename": "os.rename(outside + '/victim-rename', outside + '/renamed')",
        "replace": "os.replace(outside + '/victim-replace', outside + '/victim-replaced')",
        "symlink": "os.symlink('x', outside + '/planted-link')",
        "unlink": "os.unlink(outside + '/victim-unlink')",
        "mkdir": "os.mkdir(outside + '/planted-directory')",
        "rmdir": "os.rmdir(outside + '/victim-directory')",
        "mkfifo": "os.mkfifo(outside + '/planted-fifo')",
        "bind a socket": "socket.socket(socket.AF_UNIX).bind(outside + '/planted.sock')",
        "execute": "import subprocess; subprocess.run([outside + '/program'], check=True)",
        "terminal of the user": "write(tty, os.O_RDWR | os.O_NOCTTY)",
    }),
    *_attacks(ABSENT, frozenset({"EACCES", "EPERM"}), {
        "truncate": "os.truncate(outside + '/victim-truncate', 1)",
        "truncate by a reading open": "write(outside + '/victim-open', os.O_RDONLY | os.O_TRUNC)",
        "truncate by an open for nothing": "write(outside + '/victim-open', 3 | os.O_TRUNC)",
        "truncate, high half": "call('openat', -100, (outside + '/victim-open').encode(), os.O_TRUNC | 1 << 32, 0)",
        "truncate through a descriptor's name": "fd = os.open(outside + '/victim-open', os.O_PATH)\n"
                                                "os.truncate(f'/proc/self/fd/{fd}', 0)",
        "truncate through own link": "os.symlink(victim, own + '/link-cut'); os.truncate(own + '/link-cut', 0)",
    }),
    *_attacks(ABSENT, frozenset({"EACCES", "EXDEV"}), {
        "move into the box": "os.rename(outside + '/victim-move', own + '/moved')",
        "hard link into the box": "os.link(outside + '/victim-link', own + '/linked')",
        "hard link out of the box": "write(own + '/mine', os.O_CREAT)\n"
                                    "os.link(own + '/mine', outside + '/planted-hard')",
    }),
    *_attacks(frozenset({"OperationalError"}), frozenset({"OperationalError"}), {
        "sqlite": "import sqlite3; sqlite3.connect(outside + '/planted.db').execute('create table t (x)')",
    }),
    *_attacks(ABSENT, DENIED, {"/etc/shadow": "read('/etc/shadow')"}, user=DENIED),
    *_attacks(DENIED, DENIED, {"/proc/1/root": "os.listdir('/proc/1/root')"}, root=DONE | DENIED, user=DENIED),
)  # fmt: skip

METADATA = _attacks(ABSENT, NOT_PERMITTED, {
    "chmod": "os.chmod(victim, 0o600)",
    "chmod below a descriptor": "os.chmod('victim', 0o600, dir_fd=os.open(outside, os.O_PATH))",
    "chmod of a descriptor's name": "os.chmod(f'/proc/self/fd/{os.open(victim, os.O_PATH)}', 0o600)",
    "chmod through own link": "os.symlink(victim, own + '/link-chmod'); os.chmod(own + '/link-chmod', 0o600)",
    "chmod after chdir": "os.chdir(outside); os.chmod('victim', 0o600)",
    "chmod with dots": "os.chdir(own); os.chmod('..' + '/..' * 40 + victim, 0o600)",
    "chmod of the directory": "os.chmod(outside, 0o755)",
    "chown": "os.chown(victim, os.getuid(), os.getgid())",
    "lchown": "os.lchown(victim, os.getuid(), os.getgid())",
    "utime": "os.utime(victim, (1, 1))",
    "utime without following": "os.utime(victim, (1, 1), follow_symlinks=False)",
})  # fmt: skip

# Without namespaces no file has extended attributes, granted or not.
XATTRS = _attacks(ABSENT, frozenset({"ENOTSUP", "EOPNOTSUPP"}), {
    "setxattr": "os.setxattr(victim, 'user.vsbox', b'x')",
    "removexattr": "os.removexattr(outside + '/victim-xattr', 'user.vsbox')",
})  # fmt: skip

PROCESSES = (
    *_attacks(ABSENT, DENIED, {
        "environ of another": "must(read(f'/proc/{pid}/environ'))",
        "cmdline of another": "must(read(f'/proc/{pid}/cmdline'))",
        "mem of another": "os.open(f'/proc/{pid}/mem', os.O_RDONLY)",
        "maps of another": "read(f'/proc/{pid}/maps')",
        "descriptors of another": "os.listdir(f'/proc/{pid}/fd')",
        "process list": "must(str(pid) in os.listdir('/proc'))",
    }),
    *_attacks(ABSENT, frozenset({"EACCES", "EPERM"}), {
        "program of another": "os.readlink(f'/proc/{pid}/exe')",
        "working directory of another": "os.readlink(f'/proc/{pid}/cwd')",
        "namespace of another": "os.readlink(f'/proc/{pid}/ns/mnt')",
    }),
    *_attacks(frozenset({"ESRCH"}), NOT_PERMITTED, {
        "signal": "os.kill(pid, signal.SIGURG)",
        "signal by pidfd": "signal.pidfd_send_signal(os.pidfd_open(pid), signal.SIGURG)",
        "signal to the group": "os.killpg(os.getpgid(pid), signal.SIGURG)",
    }),
    *_attacks(frozenset({"done", "ESRCH"}), frozenset({"done", "EPERM"}), {
        "signal to all": "os.kill(-1, signal.SIGURG)",
    }),
    *_attacks(NOT_PERMITTED, NOT_PERMITTED, {
        "ptrace": "call('ptrace', 0x4206, pid, 0, 0)",
        "process_vm_readv": "vector = (ctypes.c_ulong * 2)(ctypes.addressof(ctypes.create_string_buffer(8)), 8)\n"
                            "remote = (ctypes.c_ulong * 2)(address, 8)\n"
                            "must(call('process_vm_readv', pid, vector, 1, remote, 1, 0))",
        "kcmp": "call('kcmp', os.getpid(), pid, 3, 0, 0)",
    }, user=frozenset({"done", "EPERM"})),
    *_attacks(frozenset({"ESRCH", "EPERM"}), NOT_PERMITTED, {
        "pidfd_getfd": "call('pidfd_getfd', os.pidfd_open(pid), 0, 0)",
    }, user=frozenset({"done", "EPERM"})),
)  # fmt: skip

SOCKETS = (
    *_attacks(ABSENT | DENIED, DENIED, {
        "stream socket": "connect(socket.AF_UNIX, socket.SOCK_STREAM, outside + '/stream.sock')",
        "datagram socket": "send(socket.AF_UNIX, outside + '/dgram.sock')",
        "datagram socket, connected": "connect(socket.AF_UNIX, socket.SOCK_DGRAM, outside + '/dgram.sock')",
        "datagram socket from a pair": "a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
                                       "a.connect(outside + '/dgram.sock'); a.send(b'x')",
        "stream socket through own link": "os.symlink(outside + '/stream.sock', own + '/link-sock')\n"
                                          "connect(socket.AF_UNIX, socket.SOCK_STREAM, own + '/link-sock')",
    }),
    *_attacks(frozenset({"EPERM", "ECONNREFUSED", "EACCES"}), frozenset({"EPERM", "ECONNREFUSED", "EACCES"}), {
        "abstract socket": r"connect(socket.AF_UNIX, socket.SOCK_STREAM, '\0' + abstract)",
        "abstract datagram socket": r"send(socket.AF_UNIX, '\0' + abstract + '-dgram')",
    }),
    *_attacks(frozenset({"EAFNOSUPPORT"}), frozenset({"EAFNOSUPPORT"}), {
        "vsock": "open_socket(40, socket.SOCK_STREAM)",
        "AF_ALG": "open_socket(38, socket.SOCK_SEQPACKET)",
        "AF_KEY": "open_socket(15, socket.SOCK_RAW, 2)",
        "AF_BLUETOOTH": "open_socket(31, socket.SOCK_RAW, 1)",
        "AF_CAN": "open_socket(29, socket.SOCK_RAW, 1)",
        "AF_XDP": "open_socket(44, socket.SOCK_RAW)",
    }, root=frozenset({"done", "EAFNOSUPPORT", "EPROTONOSUPPORT"}),
       user=frozenset({"done", "EAFNOSUPPORT", "EPERM", "EPROTONOSUPPORT"})),
    *_attacks(frozenset({"EAFNOSUPPORT"}), frozenset({"EAFNOSUPPORT"}), {
        "packet socket": "open_socket(17, socket.SOCK_RAW, 0)",
    }, root=frozenset({"done", "EAFNOSUPPORT"}), user=frozenset({"EPERM", "EAFNOSUPPORT"})),
    *_attacks(NOT_PERMITTED, NOT_PERMITTED, {"raw socket": "open_socket(2, socket.SOCK_RAW, 1)"}, user=NOT_PERMITTED),
    *_attacks(NOT_PERMITTED, NOT_PERMITTED, {
        "netlink, generic": "open_socket(16, socket.SOCK_RAW, 16)",
        "netlink, uevents": "open_socket(16, socket.SOCK_RAW, 15)",
    }),
    *_attacks(frozenset({"EPROTONOSUPPORT"}), frozenset({"EPROTONOSUPPORT"}), {
        "mptcp": "open_socket(2, socket.SOCK_STREAM, 262)",
    }, root=frozenset({"done", "EPROTONOSUPPORT", "ENOPROTOOPT"}),
       user=frozenset({"done", "EPROTONOSUPPORT", "ENOPROTOOPT"})),
)  # fmt: skip

NETWORK = (
    *_attacks(frozenset({"ECONNREFUSED", "TimeoutError"}), DENIED, {
        "tcp to localhost": "connect(socket.AF_INET, socket.SOCK_STREAM, ('127.0.0.1', tcp))",
        "udp to localhost": "send(socket.AF_INET, ('127.0.0.1', udp))",
        "udp to localhost, connected": "connect(socket.AF_INET, socket.SOCK_DGRAM, ('127.0.0.1', udp))",
    }),
    *_attacks(frozenset({"EPERM", "ECONNREFUSED"}), frozenset({"EPERM", "ECONNREFUSED", "EACCES"}), {
        "abstract socket, offline": r"connect(socket.AF_UNIX, socket.SOCK_STREAM, '\0' + abstract)",
    }),
    *_attacks(frozenset({"done"}), DENIED, {"netlink, routes": "open_socket(16, socket.SOCK_RAW, 0)"}),
)  # fmt: skip

KEYS_AND_DESCRIPTORS = (
    *_attacks(NOT_PERMITTED, NOT_PERMITTED, {
        "session key": "call('keyctl', 10, -3, b'user', key_name.encode(), 0)",
        "session key by request": "call('request_key', b'user', key_name.encode(), 0, 0)",
        "add a key": "call('add_key', b'user', b'vsbox-planted', b'x', 1, -3)",
        "user keyring": "call('keyctl', 0, -4, 1)",
    }),
    *_attacks(DENIED, DENIED, {"/proc/keys": "must(read('/proc/keys'))"}),
    *_attacks(frozenset({"EBADF", "ENOTDIR"}), frozenset({"EBADF", "ENOTDIR"}), {
        "directory descriptor": "os.open('secret', os.O_RDONLY, dir_fd=3)",
        "high directory descriptor": "os.open('secret', os.O_RDONLY, dir_fd=600)",
    }),
    *_attacks(ABSENT, ABSENT, {
        "file descriptor": "must([fd for fd in range(3, 1024) if os.path.lexists(f'/proc/self/fd/{fd}')"
                           " and os.readlink(f'/proc/self/fd/{fd}') == secret])",
        "socket descriptor": "must([fd for fd in range(3, 1024) if os.path.lexists(f'/proc/self/fd/{fd}')"
                             " and stat.S_ISSOCK(os.fstat(fd).st_mode)])",
        "environment variable": "must(mark in os.environ.values())",
        "environment of any process": "must([b for b in contents(['environ']) if mark.encode() in b])",
        "LD_PRELOAD": "must('LD_PRELOAD' in os.environ)",
    }),
)  # fmt: skip

KERNEL = (
    *_attacks(NOT_PERMITTED, NOT_PERMITTED, {
        "unshare user": "call('unshare', CLONE_NEWUSER)",
        "unshare user and mounts": "call('unshare', CLONE_NEWUSER | CLONE_NEWNS)",
        "userfaultfd": "call('userfaultfd', 1)",
        "open_tree": "call('open_tree', -100, b'/', 0)",
        "name_to_handle_at": "handle_of(own)",
        "personality": "check(libc.personality(0x40000))",
        "setuid file": "write_mode = os.open(own + '/setuid', os.O_CREAT | os.O_WRONLY, 0o4755)",
        "setgid file by chmod": "write(own + '/setgid', os.O_CREAT); os.chmod(own + '/setgid', 0o2755)",
        "setgid directory": "os.mkdir(own + '/setgid-directory', 0o2755)",
        "setuid by fchmod": "os.fchmod(os.open(own + '/fsetuid', os.O_CREAT | os.O_WRONLY), 0o4755)",
    }),
    *_attacks(frozenset({"ENOSYS"}), frozenset({"ENOSYS"}), {
        "io_uring": "call('io_uring_setup', 4, ctypes.byref(ctypes.create_string_buffer(120)))",
    }, root=frozenset({"done", "EPERM"}), user=frozenset({"done", "EPERM"})),
    *_attacks(frozenset({"ENOSYS"}), frozenset({"ENOSYS"}), {
        "clone3": "call('clone3', 0, 0)",
    }, root=frozenset({"EINVAL"}), user=frozenset({"EINVAL"})),
    *_attacks(NOT_PERMITTED, NOT_PERMITTED, {
        "bpf": "call('bpf', 0, (ctypes.c_uint32 * 32)(2, 4, 4, 1), 128)",
        "perf_event_open": "call('perf_event_open', (ctypes.c_uint32 * 32)(1, 128), 0, -1, -1, 0)",
        "fsopen": "call('fsopen', b'tmpfs', 0)",
        "chroot": "call('chroot', b'/')",
        "mount": "call('mount', b'none', own.encode(), b'tmpfs', 0, 0), call('umount2', own.encode(), 0)",
        "setns": "call('setns', os.open('/proc/self/ns/uts', os.O_RDONLY), 0)",
        "character device": "os.mknod(own + '/null', stat.S_IFCHR | 0o666, os.makedev(1, 3))",
        "open_by_handle_at": "h = ctypes.create_string_buffer(136); h[0:4] = bytes([8, 0, 0, 0]);"
                             "call('open_by_handle_at', -100, h, 0)",
    }, root=frozenset({"done", "ESTALE", "ENOENT", "EINVAL"}), user=frozenset({"done", "EPERM", "EACCES"})),
    *_attacks(frozenset({"EROFS", "EACCES"}), DENIED, {
        "core_pattern": "write('/proc/sys/kernel/core_pattern')",
        "sysctl of the network": "write('/proc/sys/net/ipv4/ip_forward')",
        "sysctl of memory": "write('/proc/sys/vm/overcommit_memory')",
    }, user=DENIED),
    *_attacks(frozenset({"EROFS", "EACCES", "ENOENT"}), frozenset({"EACCES", "ENOENT"}), {
        "sysrq": "write('/proc/sysrq-trigger')",
        "module loader": "write('/proc/sys/kernel/modprobe')",
    }, root=DONE | ABSENT, user=DENIED | ABSENT),
    *_attacks(NOT_PERMITTED, NOT_PERMITTED, {
        "TIOCSTI": "call('ioctl', 0, 0x5412, ctypes.byref(ctypes.c_char(b'x')))",
        "TIOCSTI, high half": "call('ioctl', 0, 0x5412 | 1 << 32, ctypes.byref(ctypes.c_char(b'x')))",
        "TIOCLINUX": "call('ioctl', 0, 0x541C, ctypes.byref(ctypes.c_char(b'x')))",
        "TIOCLINUX, high half": "call('ioctl', 0, 0x541C | 0xABCD << 32, ctypes.byref(ctypes.c_char(b'x')))",
        "TIOCSETD": "call('ioctl', 0, 0x5423, ctypes.byref(ctypes.c_int(1)))",
    }, root=frozenset({"ENOTTY"}), user=frozenset({"ENOTTY"})),
)  # fmt: skip

IPC = _attacks(ABSENT, NOT_PERMITTED, {
    "shared memory": "check(libc.shmget(key, 4096, 0))",
    "message queue": "check(libc.msgget(key, 0))",
    "semaphores": "check(libc.semget(key, 1, 0))",
    "POSIX queue": "check(libc.mq_open(queue.encode(), 0))",
})  # fmt: skip

ATTACKS = (*FILES, *METADATA, *XATTRS, *PROCESSES, *SOCKETS, *KEYS_AND_DESCRIPTORS, *KERNEL, *IPC)
