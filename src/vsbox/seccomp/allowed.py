"""List the system calls that ordinary programs need, and read lists of one's own.

A name is here because Python, its packages, compilers, shells or the C library use it, or would without good reason be
surprised to miss it. What is known and not here does not exist inside; nor does what a later kernel brings.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, NamedTuple

from vsbox.errors import PolicyError
from vsbox.seccomp import rules
from vsbox.seccomp.syscalls import AARCH64, X86_64

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

BUILT_IN = "@builtin"
"""In a list of one's own: everything of the built-in list."""


class Topic(NamedTuple):
    """System calls that are let through for one reason."""

    why: str
    names: str


TOPICS: tuple[Topic, ...] = (
    Topic(
        "ends a process or a signal handler; the kernel itself makes the last one: in every list, also of one's own",
        "exit exit_group rt_sigreturn restart_syscall",
    ),
    Topic(
        "starts programs and threads and waits for them",
        "execve execveat fork vfork clone wait4 waitid set_tid_address gettid getpid getppid",
    ),
    Topic(
        "what the C library sets up in each thread",
        "arch_prctl set_robust_list get_robust_list rseq prctl membarrier getcpu map_shadow_stack",
    ),
    Topic("where a host traces programs, the kernel puts these into them", "uprobe uretprobe"),
    Topic(
        "memory of one's own",
        "brk mmap munmap mremap mprotect msync madvise mincore mlock mlock2 mlockall munlock munlockall mseal"
        " memfd_create pkey_alloc pkey_free pkey_mprotect",
    ),
    Topic("numerical libraries place memory near a processor", "get_mempolicy set_mempolicy mbind"),
    Topic(
        "locks and scheduling",
        "futex futex_waitv futex_wait futex_wake futex_requeue sched_yield sched_getaffinity sched_setaffinity"
        " sched_getparam sched_setparam sched_getscheduler sched_setscheduler sched_getattr sched_setattr"
        " sched_get_priority_max sched_get_priority_min sched_rr_get_interval getpriority setpriority ioprio_get"
        " ioprio_set",
    ),
    Topic(
        "signals, to whom namespaces or Landlock allow",
        "rt_sigaction rt_sigprocmask rt_sigpending rt_sigsuspend rt_sigtimedwait rt_sigqueueinfo rt_tgsigqueueinfo"
        " sigaltstack signalfd signalfd4 pause kill tkill tgkill pidfd_open pidfd_send_signal",
    ),
    Topic(
        "time",
        "time gettimeofday clock_gettime clock_getres nanosleep clock_nanosleep times alarm getitimer setitimer"
        " timer_create timer_settime timer_gettime timer_getoverrun timer_delete timerfd_create timerfd_settime"
        " timerfd_gettime",
    ),
    Topic(
        "opens files; paths are the business of mounts and Landlock",
        "open openat creat close close_range access faccessat faccessat2 readlink readlinkat getcwd chdir fchdir umask",
    ),
    Topic(
        "reads and writes what is open",
        "read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 lseek sendfile splice tee"
        " copy_file_range ftruncate truncate fallocate fadvise64 readahead sync_file_range fsync fdatasync sync syncfs"
        " flock fcntl ioctl dup dup2 dup3 pipe pipe2",
    ),
    Topic(
        "databases queue file operations; the files are open already",
        "io_setup io_destroy io_submit io_cancel io_getevents io_pgetevents",
    ),
    Topic("looks at files", "stat lstat fstat newfstatat statx statfs fstatfs getdents getdents64"),
    Topic(
        "changes directories",
        "mkdir mkdirat mknod mknodat rmdir unlink unlinkat rename renameat renameat2 link linkat symlink symlinkat",
    ),
    Topic(
        "changes what belongs to a file",
        "chmod fchmod fchmodat fchmodat2 chown lchown fchown fchownat utime utimes futimesat utimensat",
    ),
    Topic(
        "extended attributes",
        "getxattr lgetxattr fgetxattr getxattrat listxattr llistxattr flistxattr listxattrat setxattr lsetxattr"
        " fsetxattr setxattrat removexattr lremovexattr fremovexattr removexattrat",
    ),
    Topic(
        "waits for many things at once",
        "poll ppoll select pselect6 epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2 eventfd"
        " eventfd2 inotify_init inotify_init1 inotify_add_watch inotify_rm_watch",
    ),
    Topic(
        "sockets, of the families that the policy allows",
        "socket socketpair bind listen accept accept4 connect shutdown getsockname getpeername getsockopt setsockopt"
        " sendto sendmsg sendmmsg recvfrom recvmsg recvmmsg",
    ),
    Topic(
        "System V IPC and message queues, where a namespace holds them",
        "shmget shmat shmctl shmdt semget semop semctl semtimedop msgget msgsnd msgrcv msgctl mq_open mq_unlink"
        " mq_timedsend mq_timedreceive mq_notify mq_getsetattr",
    ),
    Topic(
        "who and where one is",
        "getuid geteuid getgid getegid getgroups getresuid getresgid getpgid getpgrp getsid setpgid setsid uname"
        " sysinfo getrusage getrlimit setrlimit prlimit64 getrandom personality capget",
    ),
    Topic(
        "gives up privileges; without capabilities there are none to gain",
        "setuid setgid setreuid setregid setresuid setresgid setfsuid setfsgid setgroups capset unshare",
    ),
    Topic(
        "a program confines itself further",
        "seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self",
    ),
)

ENDING = frozenset(TOPICS[0].names.split())

ALLOWED: frozenset[str] = frozenset(" ".join(topic.names for topic in TOPICS).split())

KNOWN: frozenset[str] = frozenset(X86_64.table) | frozenset(AARCH64.table)

# A call that a list leaves out does not exist: ENOSYS, at which libraries take an older one. For these the manual names
# an errno that programs know how to go on after.
_ERRNO_TABLES: tuple[rules.Refusal, ...] = (
    rules.Refusal(
        rules.EPERM,
        "as from a filesystem without them: cp, tar, git and pip go on, or copy instead",
        "chmod fchmod fchmodat chown lchown fchown fchownat utime utimes futimesat utimensat link linkat symlink"
        " symlinkat mknod mknodat",
    ),
    rules.Refusal(
        rules.EPERM,
        "as without the privilege",
        "setuid setgid setreuid setregid setresuid setresgid setgroups capset unshare setpriority sched_setparam"
        " sched_setscheduler sched_setattr ioprio_set mlock mlockall setrlimit personality kill tkill tgkill"
        " rt_sigqueueinfo rt_tgsigqueueinfo pidfd_send_signal",
    ),
    rules.Refusal(rules.EACCES, "as a firewall answers", "socket connect bind"),
    rules.Refusal(rules.EOPNOTSUPP, "as from a filesystem without them", rules.XATTR_REFUSAL.names),
)
_ERRNOS: Mapping[str, int] = {name: errno for table in _ERRNO_TABLES for name, errno in table.by_name().items()}

_REFUSED = {name: refusal.why for refusal in rules.REFUSALS for name in refusal.by_name()}
_CLOSED = {name: refusal.why for refusal in (rules.IPC_REFUSAL, rules.XATTR_REFUSAL) for name in refusal.by_name()}
_LISTED = {name: topic.why for topic in TOPICS for name in topic.names.split()}


def errno_unlisted(name: str) -> int:
    """Return what a filter answers to a call that its list leaves out."""
    return _ERRNOS.get(name, rules.ENOSYS)


def reason(name: str, answer: str, allowed: frozenset[str]) -> str:
    """Say why the filter of a list gives *answer* to a call (see :func:`vsbox.seccomp.verdicts`)."""
    if name in _REFUSED:
        return _REFUSED[name]
    if name not in allowed:
        return "not on the list"
    return (_CLOSED if answer.startswith("errno ") else _LISTED).get(name, "the list of the policy names it")


def allowed_calls(names: Iterable[str] | None) -> frozenset[str]:
    """Return what a filter lets through: the built-in list, or the one given.

    Names of either architecture are taken. What ends a process is always let through.

    Raises:
        PolicyError: a name is no system call, or one that no list may open.

    Security: a list narrows. What ``rules`` refuses stays refused, and calls that it judges by their arguments are let
    through for those arguments only.
    """
    if names is None:
        return ALLOWED
    given = frozenset(names)
    wanted = given - {BUILT_IN} | (ALLOWED if BUILT_IN in given else frozenset())
    _check_known(wanted)
    _check_not_refused(wanted)
    return wanted | ENDING


def parse_names(text: str) -> tuple[str, ...]:
    """Read names that white space separates.

    Raises:
        PolicyError: see :func:`allowed_calls`.
    """
    names = tuple(dict.fromkeys(text.split()))
    allowed_calls(names)
    return names


def _check_known(names: frozenset[str]) -> None:
    unknown = sorted(names - KNOWN)
    if not unknown:
        return
    close = [match for name in unknown for match in difflib.get_close_matches(name, sorted(KNOWN), n=1)]
    raise PolicyError(
        f"unknown system call: {', '.join(map(repr, unknown))}",
        hint=f"did you mean {', '.join(map(repr, close))}?" if close else "see: vsbox explain DIR --syscalls",
    )


def _check_not_refused(names: frozenset[str]) -> None:
    reasons = [
        f"{', '.join(found)} ({refusal.why})"
        for refusal in rules.REFUSALS
        if (found := sorted(names & refusal.by_name().keys()))
    ]
    if reasons:
        raise PolicyError(
            f"cannot let system calls through: {'; '.join(reasons)}",
            hint="leave them out of the list",
        )
