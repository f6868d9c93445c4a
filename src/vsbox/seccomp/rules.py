"""List what a confined process may not ask of the kernel: whole calls, and calls by argument.

Argument types decide what may be compared. Where the kernel declares 32 bits or fewer (``int``,
``unsigned int``, ``umode_t``) it ignores the upper half of the register, so only the lower half is
tested: a filter comparing all 64 bits is passed by setting a bit the kernel never sees
(CVE-2019-10063). Where it declares ``unsigned long`` both halves count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

# Numbers of Linux, not of the errno module: a filter is the same on whatever machine builds it.
EPERM = 1
EACCES = 13
ENOSYS = 38
EPROTONOSUPPORT = 93
EOPNOTSUPP = 95
EAFNOSUPPORT = 97

ERRNO_NAMES: Mapping[int, str] = {
    EPERM: "EPERM",
    EACCES: "EACCES",
    ENOSYS: "ENOSYS",
    EPROTONOSUPPORT: "EPROTONOSUPPORT",
    EOPNOTSUPP: "EOPNOTSUPP",
    EAFNOSUPPORT: "EAFNOSUPPORT",
}

PROBE_OPTION = 0x7673_6278  # "vsbx", made like PR_SET_VMA and PR_SET_PTRACER of linux/prctl.h.
PROBE_ERRNO = 4004  # Above every real error, within the 4095 seccomp can return (MAX_ERRNO).

WORD = 0xFFFF_FFFF


class Refusal(NamedTuple):
    """Calls answered with one errno whatever their arguments are."""

    errno: int
    why: str
    names: str

    def by_name(self) -> dict[str, int]:
        """Return the errno of each name."""
        return dict.fromkeys(self.names.split(), self.errno)


REFUSALS: tuple[Refusal, ...] = (
    Refusal(
        EPERM,
        "reads or changes other processes",
        "ptrace process_vm_readv process_vm_writev kcmp pidfd_getfd move_pages migrate_pages",
    ),
    Refusal(
        EPERM,
        "changes what is mounted, or where the root is",
        "mount umount2 pivot_root chroot fsopen fsconfig fsmount fspick open_tree open_tree_attr"
        " move_mount mount_setattr",
    ),
    Refusal(EPERM, "enters another namespace", "setns"),
    Refusal(
        EPERM,
        "opens files by number, past every directory on the way",
        "open_by_handle_at name_to_handle_at",
    ),
    Refusal(
        EPERM,
        "kernel surface that sandbox escapes have come from",
        "bpf userfaultfd perf_event_open keyctl add_key request_key memfd_secret modify_ldt"
        " fanotify_init lsm_set_self_attr",
    ),
    Refusal(
        EPERM,
        "administers the machine",
        "kexec_load kexec_file_load init_module finit_module delete_module reboot swapon swapoff"
        " acct quotactl quotactl_fd syslog iopl ioperm vhangup sethostname setdomainname",
    ),
    Refusal(EPERM, "sets the clock", "settimeofday clock_settime clock_adjtime adjtimex"),
    Refusal(
        ENOSYS,
        "work queued there passes by the filter; libraries fall back to epoll",
        "io_uring_setup io_uring_enter io_uring_register",
    ),
    Refusal(
        ENOSYS,
        "flags and mode are behind a pointer; the C library falls back to the older call",
        "clone3 openat2",
    ),
    Refusal(
        ENOSYS,
        "lists mounts beyond the box; libraries fall back to /proc/self/mountinfo",
        "statmount listmount",
    ),
    Refusal(
        ENOSYS,
        "gone from current kernels, or never there",
        "uselib ustat sysfs _sysctl create_module get_kernel_syms query_module nfsservctl getpmsg"
        " putpmsg afs_syscall tuxcall security lookup_dcookie epoll_ctl_old epoll_wait_old"
        " vserver",
    ),
)

IPC_REFUSAL = Refusal(
    EPERM,
    "shared with every process of the user where there is no IPC namespace",
    "shmget shmat shmctl shmdt semget semop semctl semtimedop msgget msgsnd msgrcv msgctl"
    " mq_open mq_unlink mq_timedsend mq_timedreceive mq_notify mq_getsetattr",
)


XATTR_REFUSAL = Refusal(
    EOPNOTSUPP,
    "Landlock lets them be read and changed everywhere; tools take this errno for a filesystem without them",
    "getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr setxattr lsetxattr fsetxattr"
    " removexattr lremovexattr fremovexattr setxattrat getxattrat listxattrat removexattrat",
)


class Condition(NamedTuple):
    """Whether one half of an argument, after a mask, is (not) one of some values."""

    arg: int
    values: tuple[int, ...]
    mask: int = WORD
    negated: bool = False
    high: bool = False


class Rule(NamedTuple):
    """An errno for the calls that meet every condition; None: the supervisor answers them."""

    errno: int | None
    conditions: tuple[Condition, ...]


def is_in(arg: int, *values: int, mask: int = WORD, high: bool = False) -> Condition:
    """Match where the masked word is one of *values*."""
    return Condition(arg, values, mask, high=high)


def is_not_in(arg: int, *values: int, mask: int = WORD) -> Condition:
    """Match where the masked word is none of *values*."""
    return Condition(arg, values, mask, negated=True)


def has_bits(arg: int, bits: int, *, high: bool = False) -> Condition:
    """Match where any of *bits* is set."""
    return Condition(arg, (0,), bits, negated=True, high=high)


def matches(rule: Rule, arguments: tuple[int, ...]) -> bool:
    """Tell whether a call with these arguments meets every condition."""

    def holds(condition: Condition) -> bool:
        word = arguments[condition.arg] >> 32 if condition.high else arguments[condition.arg]
        return (word & WORD & condition.mask in condition.values) != condition.negated

    return all(map(holds, rule.conditions))


# sched.h: all of CLONE_NEW* but CLONE_NEWTIME, whose bit clone() takes for the exit signal.
_NEW_NAMESPACES = 0x7E02_0000
# What unshare() shares out besides namespaces: CLONE_VM FS FILES SIGHAND THREAD SYSVSEM.
_UNSHARE_HARMLESS = 0x0000_0100 | 0x200 | 0x400 | 0x800 | 0x1_0000 | 0x4_0000

_SET_ID_BITS = 0o6000  # S_ISUID | S_ISGID
_CREATING = 0o100 | 0o20_000_000  # O_CREAT | __O_TMPFILE: without them open() ignores its mode.
_FILE_TYPE, _CHARACTER_DEVICE, _BLOCK_DEVICE = 0o170_000, 0o020_000, 0o060_000

# TIOCSTI types into the terminal, TIOCLINUX pastes into a console, TIOCSETD loads line disciplines.
_TERMINAL_INJECTION = (0x5412, 0x541C, 0x5423)

# FS_IOC_SETFLAGS and its 32-bit twin, FS_IOC_SETVERSION, FS_IOC_FSSETXATTR (linux/fs.h), EXT4_IOC_SETVERSION,
# FS_IOC_ENABLE_VERITY, FS_IOC_SET_ENCRYPTION_POLICY: they change a file through a descriptor that was only opened for
# reading.
_FILE_ATTRIBUTES = (
    0x4008_6602, 0x4004_6602, 0x4008_7602, 0x401C_5820, 0x4008_6604, 0x4080_6685, 0x800C_6613,
)  # fmt: skip

_TIOCGPTPEER = 0x5441  # opens the terminal side of a pseudo-terminal by its master

# PER_LINUX, PER_LINUX32, UNAME26 with each, and the query. Not ADDR_NO_RANDOMIZE and
# READ_IMPLIES_EXEC, which make exploits easier.
_PERSONALITIES = (0x0, 0x8, 0x2_0000, 0x2_0008, WORD)


def _refuse_set_id(mode_arg: int) -> Rule:
    return Rule(EPERM, (has_bits(mode_arg, _SET_ID_BITS),))


def _refuse_set_id_on_creation(flags_arg: int) -> Rule:
    conditions = (has_bits(flags_arg, _CREATING), has_bits(flags_arg + 1, _SET_ID_BITS))
    return Rule(EPERM, conditions)


def _refuse_devices(mode_arg: int) -> Rule:
    return Rule(EPERM, (is_in(mode_arg, _CHARACTER_DEVICE, _BLOCK_DEVICE, mask=_FILE_TYPE),))


TERMINAL_INJECTION = Rule(EPERM, (is_in(1, *_TERMINAL_INJECTION),))
"""Of ioctl(). Refused where all else is only reported: the user's shell would execute it when the run is over."""

# Rules that no policy changes. Types are those of the SYSCALL_DEFINE in the kernel.
FIXED_RULES: Mapping[str, tuple[Rule, ...]] = {
    # umode_t mode, which is 16 bits; int flags
    "open": (_refuse_set_id_on_creation(1),),
    "openat": (_refuse_set_id_on_creation(2),),
    "creat": (_refuse_set_id(1),),
    "chmod": (_refuse_set_id(1),),
    "fchmod": (_refuse_set_id(1),),
    "fchmodat": (_refuse_set_id(2),),
    "fchmodat2": (_refuse_set_id(2),),
    "mkdir": (_refuse_set_id(1),),
    "mkdirat": (_refuse_set_id(2),),
    "mknod": (_refuse_set_id(1), _refuse_devices(1)),
    "mknodat": (_refuse_set_id(2), _refuse_devices(2)),
    # unsigned int cmd
    "ioctl": (Rule(EPERM, (is_in(1, *_TERMINAL_INJECTION, *_FILE_ATTRIBUTES),)),),
    # unsigned int personality
    "personality": (Rule(EPERM, (is_not_in(0, *_PERSONALITIES),)),),
    # unsigned long clone_flags, of which clone() drops the upper half (lower_32_bits in fork.c)
    "clone": (Rule(EPERM, (has_bits(0, _NEW_NAMESPACES),)),),
    # unsigned long unshare_flags, all of it looked at. A list of what is allowed, since flags keep
    # coming: UNSHARE_EMPTY_MNTNS (7.1) makes a mount namespace without any CLONE_NEW* bit.
    "unshare": (
        Rule(EPERM, (has_bits(0, WORD & ~_UNSHARE_HARMLESS),)),
        Rule(EPERM, (has_bits(0, WORD, high=True),)),
    ),
}

_O_TRUNC, _O_ACCMODE = 0o1000, 0o3


def _refuse_truncating_reads(flags_arg: int) -> Rule:
    """Refuse O_TRUNC with O_RDONLY, which truncates all the same, and with the access mode 3 of ioctl-only files."""
    return Rule(EACCES, (is_in(flags_arg, _O_TRUNC, _O_TRUNC | 3, mask=_O_TRUNC | _O_ACCMODE),))


TRUNCATION_RULES: Mapping[str, tuple[Rule, ...]] = {
    "open": (*FIXED_RULES["open"], _refuse_truncating_reads(1)),
    "openat": (*FIXED_RULES["openat"], _refuse_truncating_reads(2)),
}

# linux/socket.h
_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK = 1, 2, 10, 16
FAMILIES: Mapping[str, int] = {
    "unix": _AF_UNIX,
    "inet": _AF_INET,
    "inet6": _AF_INET6,
    "netlink": _AF_NETLINK,
}

# linux/net.h. SOCK_NONBLOCK and SOCK_CLOEXEC share the argument, above SOCK_TYPE_MASK.
_SOCK_STREAM, _SOCK_DGRAM, _SOCK_RAW, _SOCK_SEQPACKET = 1, 2, 3, 5
_SOCK_TYPE_MASK = 0xF
UNIX_TYPES: Mapping[str, tuple[int, ...]] = {
    "stream": (_SOCK_STREAM,),
    # unix_create() and with it socketpair() turn SOCK_RAW into SOCK_DGRAM.
    "dgram": (_SOCK_DGRAM, _SOCK_RAW),
    "seqpacket": (_SOCK_SEQPACKET,),
}

# Everything else is kernel surface, and no TCP to Landlock: a TCP rule does not see MPTCP or SCTP
# (sk_is_tcp in security/landlock/net.c). Programs that try MPTCP first take this errno for "no".
_INTERNET_PROTOCOLS = (0, 6, 17)  # by type, IPPROTO_TCP, IPPROTO_UDP
_NETLINK_ROUTE = 0


def socket_rules(
    families: frozenset[str], unix_types: frozenset[str], *, tells_closed: bool = False
) -> tuple[Rule, ...]:
    """Restrict socket(int family, int type, int protocol) to *families*; the supervisor may refuse the others."""
    closed = sorted(FAMILIES[family] for family in FAMILIES.keys() - families)
    internet = is_in(0, _AF_INET, _AF_INET6)
    return (
        Rule(EAFNOSUPPORT, (is_not_in(0, *FAMILIES.values()),)),
        Rule(None if tells_closed else EACCES, (is_in(0, *closed),)),
        Rule(EACCES, (is_in(0, _AF_UNIX), _is_type_outside(unix_types))),
        Rule(EPERM, (internet, is_not_in(1, _SOCK_STREAM, _SOCK_DGRAM, mask=_SOCK_TYPE_MASK))),
        Rule(EPROTONOSUPPORT, (internet, is_not_in(2, *_INTERNET_PROTOCOLS))),
        Rule(EPERM, (is_in(0, _AF_NETLINK), is_not_in(2, _NETLINK_ROUTE))),
    )


def socketpair_rules(families: frozenset[str], unix_types: frozenset[str]) -> tuple[Rule, ...]:
    """Keep socketpair(int family, int type, ...) to pairs that reach nobody else.

    Stream and seqpacket pairs stay where AF_UNIX is closed, since asyncio wakes up through one:
    they are connected for good. A datagram socket, paired or not, can be connected anew and then
    send to whom it likes (unix_dgram_connect), so it needs what socket() needs.
    """
    if "unix" not in families:
        unix_types = frozenset()
    return (
        Rule(EOPNOTSUPP, (is_not_in(0, _AF_UNIX),)),
        Rule(EACCES, (_is_type_outside(unix_types | {"stream", "seqpacket"}),)),
    )


def _is_type_outside(unix_types: frozenset[str]) -> Condition:
    numbers = sorted(number for name in unix_types for number in UNIX_TYPES[name])
    return is_not_in(1, *numbers, mask=_SOCK_TYPE_MASK)


_PRIO_PROCESS, _IOPRIO_WHO_PROCESS = 0, 1


def _supervise_others(pid_arg: int) -> tuple[Rule, ...]:
    return (Rule(None, (has_bits(pid_arg, WORD),)),)


def _supervise_others_of(which_arg: int, process: int, who_arg: int) -> tuple[Rule, ...]:
    return (Rule(None, (is_not_in(which_arg, process),)), *_supervise_others(who_arg))


# pid_t pid and int which, who: calls about "me" pass, the supervisor judges the others.
PROCESS_RULES: Mapping[str, tuple[Rule, ...]] = {
    "prlimit64": _supervise_others(0),
    "sched_setaffinity": _supervise_others(0),
    "sched_setscheduler": _supervise_others(0),
    "sched_setparam": _supervise_others(0),
    "sched_setattr": _supervise_others(0),
    "setpriority": _supervise_others_of(0, _PRIO_PROCESS, 1),
    "ioprio_set": _supervise_others_of(0, _IOPRIO_WHO_PROCESS, 1),
}


def terminal_rules() -> tuple[Rule, ...]:
    """Let the supervisor open the terminal side of a pseudo-terminal."""
    return (Rule(None, (is_in(1, _TIOCGPTPEER),)),)


def probe_rules(box_id: int) -> tuple[Rule, ...]:
    """Answer prctl(int option, unsigned long box_id) with an errno nothing else returns."""
    conditions = (
        is_in(0, PROBE_OPTION),
        is_in(1, box_id & WORD),
        is_in(1, box_id >> 32, high=True),
    )
    return (Rule(PROBE_ERRNO, conditions),)
