"""What the filter of a specification answers."""

import dataclasses
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vsbox.seccomp import (
    PROBE_ERRNO,
    PROBE_OPTION,
    FilterSpec,
    bpf,
    build_filter,
    simulate,
    verdicts,
)
from vsbox.seccomp.allowed import ALLOWED, KNOWN, errno_unlisted
from vsbox.seccomp.syscalls import AARCH64, X86_64, architecture

ALLOW = 0x7FFF_0000
USER_NOTIF = 0x7FC0_0000
KILL_PROCESS = 0x8000_0000
ERRNO = 0x0005_0000
EPERM, EACCES, ENOSYS = ERRNO | 1, ERRNO | 13, ERRNO | 38
EPROTONOSUPPORT, EOPNOTSUPP, EAFNOSUPPORT = ERRNO | 93, ERRNO | 95, ERRNO | 97

MACHINES = ("x86_64", "aarch64")
BOTH = pytest.mark.parametrize("machine", MACHINES)
ALL_FAMILIES = frozenset({"unix", "inet", "inet6", "netlink"})
HIGH = 1 << 32
BOX_ID = 0x1234_5678_9ABC_DEF0


def names(text: str) -> set[str]:
    return set(text.split())


# Written out a second time on purpose: this is the reviewed answer.
REFUSED_EPERM = names(
    """
    ptrace process_vm_readv process_vm_writev kcmp pidfd_getfd move_pages migrate_pages mount
    umount2 pivot_root chroot fsopen fsconfig fsmount fspick open_tree open_tree_attr move_mount
    mount_setattr setns open_by_handle_at name_to_handle_at bpf userfaultfd perf_event_open keyctl
    add_key request_key memfd_secret modify_ldt fanotify_init lsm_set_self_attr kexec_load
    kexec_file_load init_module finit_module delete_module reboot swapon swapoff acct quotactl
    quotactl_fd syslog iopl ioperm vhangup sethostname setdomainname settimeofday clock_settime
    clock_adjtime adjtimex
    """
)
REFUSED_ENOSYS = names(
    """
    io_uring_setup io_uring_enter io_uring_register clone3 openat2 statmount listmount uselib ustat
    sysfs _sysctl create_module get_kernel_syms query_module nfsservctl getpmsg putpmsg afs_syscall
    tuxcall security lookup_dcookie epoll_ctl_old epoll_wait_old vserver
    """
)
IPC = names(
    """
    shmget shmat shmctl shmdt semget semop semctl semtimedop msgget msgsnd msgrcv msgctl mq_open
    mq_unlink mq_timedsend mq_timedreceive mq_notify mq_getsetattr
    """
)
# Known, harmless, and nothing that people run needs them.
UNLISTED = names(
    """
    cachestat fanotify_mark file_getattr file_setattr get_thread_area lsm_get_self_attr lsm_list_modules
    process_madvise process_mrelease remap_file_pages set_mempolicy_home_node set_thread_area vmsplice
    """
)
BY_ARGUMENT = names(
    """
    open openat creat chmod fchmod fchmodat fchmodat2 mkdir mkdirat mknod mknodat ioctl personality
    clone unshare socket socketpair prctl
    """
)


def make_spec(
    machine: str = "x86_64",
    *,
    families: frozenset[str] = ALL_FAMILIES,
    unix_types: frozenset[str] = frozenset({"stream", "dgram", "seqpacket"}),
    supervised: frozenset[str] = frozenset(),
    ipc_denied: bool = False,
    allowed: frozenset[str] | None = ALLOWED,
) -> FilterSpec:
    return FilterSpec(
        machine=machine,
        box_id=BOX_ID,
        families=families,
        unix_types=unix_types,
        supervised=supervised,
        ipc_denied=ipc_denied,
        allowed=allowed,
    )


def ask_number(spec: FilterSpec, nr: int, *args: int) -> int:
    arch = architecture(spec.machine).audit_arch
    return simulate(build_filter(spec), arch=arch, nr=nr, args=args)


def ask(spec: FilterSpec, name: str, *args: int) -> int:
    return ask_number(spec, architecture(spec.machine).table[name], *args)


def expect_naively(spec: FilterSpec, nr: int) -> int | None:
    """Return the action for *nr*, None where arguments decide."""
    by_number = {number: name for name, number in architecture(spec.machine).table.items()}
    name = by_number.get(nr)
    if name is None or name in REFUSED_ENOSYS or (name in UNLISTED and spec.allowed == ALLOWED):
        return ENOSYS
    if name in REFUSED_EPERM or (spec.ipc_denied and name in IPC):
        return EPERM
    if spec.allowed is not None and name not in spec.allowed:
        return None if name == "prctl" else ERRNO | errno_unlisted(name)
    if name in BY_ARGUMENT:
        return None
    return USER_NOTIF if name in spec.supervised else ALLOW


specs = st.builds(
    make_spec,
    st.sampled_from(MACHINES),
    families=st.frozensets(st.sampled_from(sorted(ALL_FAMILIES))),
    unix_types=st.frozensets(st.sampled_from(["stream", "dgram", "seqpacket"])),
    supervised=st.frozensets(st.sampled_from(sorted(X86_64.table)), max_size=60),
    ipc_denied=st.booleans(),
    allowed=st.one_of(
        st.just(ALLOWED),
        st.none(),
        st.frozensets(st.sampled_from(sorted(KNOWN)), max_size=120),
        st.frozensets(st.sampled_from(sorted(KNOWN)), max_size=40).map(lambda absent: ALLOWED - absent),
    ),
)


def check_dispatch(spec: FilterSpec, numbers: list[int]) -> None:
    program = build_filter(spec)
    arch = architecture(spec.machine).audit_arch
    for nr in numbers:
        expected = expect_naively(spec, nr)
        if expected is not None:
            assert simulate(program, arch=arch, nr=nr) == expected, nr


@BOTH
@pytest.mark.parametrize("ipc_denied", [False, True])
def test_every_number_gets_the_reviewed_answer(machine: str, *, ipc_denied: bool) -> None:
    spec = make_spec(machine, ipc_denied=ipc_denied)
    x32 = [0x4000_0000 | nr for nr in range(601)]
    check_dispatch(spec, [*range(601), *x32, -1, 0xFFFF_FFFF, 0x7FFF_FFFF, 0x8000_0000])


@settings(max_examples=25, deadline=None)
@given(specs)
def test_dispatch_equals_a_plain_table(spec: FilterSpec) -> None:
    check_dispatch(spec, [*range(601), -1])


@settings(max_examples=300)
@given(specs, st.integers(0, 0xFFFF_FFFF))
def test_numbers_without_a_call_do_not_exist(spec: FilterSpec, nr: int) -> None:
    if nr not in architecture(spec.machine).table.values():
        assert ask_number(spec, nr) == ENOSYS


@BOTH
@pytest.mark.parametrize("nr", [0, 41, 0x4000_0000, -1])
@pytest.mark.parametrize("arch", [0x4000_0003, 0x4000_0028, 0, "other"])
def test_foreign_instruction_sets_are_killed(machine: str, nr: int, arch: int | str) -> None:
    if isinstance(arch, str):
        arch = ({X86_64.audit_arch, AARCH64.audit_arch} - {architecture(machine).audit_arch}).pop()
    assert simulate(build_filter(make_spec(machine)), arch=arch, nr=nr) == KILL_PROCESS


@settings(max_examples=50, deadline=None)
@given(specs)
def test_program_is_short_and_loadable(spec: FilterSpec) -> None:
    program = build_filter(spec)
    bpf.decode(program)
    assert len(program) // 8 < 400


@BOTH
def test_usual_program_length(machine: str) -> None:
    assert len(build_filter(make_spec(machine))) // 8 < 220


@BOTH
def test_constant_answers_read_no_argument(machine: str) -> None:
    """Linux answers those from a bitmap, without the filter (seccomp_is_const_allow)."""
    spec = make_spec(machine)
    program, arch = build_filter(spec), architecture(machine)
    for name, verdict in verdicts(program, machine).items():
        steps = list(bpf.trace(program, arch=arch.audit_arch, nr=arch.table[name]))
        if verdict != "arguments":
            loads = {step.k for step in steps if step.code == bpf.LOAD}
            assert loads <= {bpf.NR_OFFSET, bpf.ARCH_OFFSET}, name
            assert bpf.AND not in {step.code for step in steps}, name
        assert len(steps) <= 32, name


@BOTH
def test_opening_a_file_takes_few_instructions(machine: str) -> None:
    program, arch = build_filter(make_spec(machine)), architecture(machine)

    def count(name: str, *args: int) -> int:
        steps = bpf.trace(program, arch=arch.audit_arch, nr=arch.table[name], args=args)
        return len(list(steps))

    assert count("openat", 0, 0, 0) <= 8
    assert count("ioctl", 3, 0x5401) <= 20


@pytest.mark.parametrize("mode", [0o4755, 0o2755, 0o6000, 0o4000 | HIGH, 0o104755, 0o4000 - HIGH])
@pytest.mark.parametrize(
    ("name", "before"),
    [
        ("chmod", 1),
        ("fchmod", 1),
        ("fchmodat", 2),
        ("fchmodat2", 2),
        ("mkdir", 1),
        ("mkdirat", 2),
        ("mknod", 1),
        ("mknodat", 2),
        ("creat", 1),
    ],
)
@BOTH
def test_set_id_modes_are_refused(machine: str, name: str, before: int, mode: int) -> None:
    if name not in architecture(machine).table:
        assert name not in architecture(machine).table
        return
    assert ask(make_spec(machine), name, *[0o6000] * before, mode) == EPERM
    assert ask(make_spec(machine), name, *[0o6000] * before, 0o1777, 0o6000) == ALLOW


@BOTH
@pytest.mark.parametrize("creating", [0o100, 0o20_200_000, 0o101 | HIGH, 0o102 - HIGH])
@pytest.mark.parametrize("before", [1, 2])
def test_set_id_modes_are_refused_where_open_creates(
    machine: str, creating: int, before: int
) -> None:
    name = {1: "open", 2: "openat"}[before]
    if name not in architecture(machine).table:
        return
    path = [-100, 0][-before:]
    spec = make_spec(machine, supervised=frozenset({name}))
    for mode in (0o4644, 0o2644, 0o6644 | HIGH):
        assert ask(spec, name, *path, creating, mode) == EPERM
        assert ask(make_spec(machine), name, *path, 0o2, mode) == ALLOW
    assert ask(make_spec(machine), name, *path, creating, 0o1644) == ALLOW
    assert ask(spec, name, *path, creating, 0o644) == USER_NOTIF


@BOTH
@pytest.mark.parametrize("file_type", [0o020_000, 0o060_000])
@pytest.mark.parametrize("high", [0, HIGH, 0xFFFF_0000])
def test_device_nodes_are_refused(machine: str, file_type: int, high: int) -> None:
    assert ask(make_spec(machine), "mknodat", 0, 0, file_type | 0o600 | high, 0x0103) == EPERM


@BOTH
@pytest.mark.parametrize("file_type", [0, 0o010_000, 0o100_000, 0o140_000])
def test_other_nodes_are_allowed(machine: str, file_type: int) -> None:
    assert ask(make_spec(machine), "mknodat", 0, 0, file_type | 0o600, 0) == ALLOW


@BOTH
@pytest.mark.parametrize("request_", [0x5412, 0x541C, 0x5423])
@pytest.mark.parametrize("high", [0, HIGH, -HIGH, 0xDEAD_BEEF_0000_0000])
def test_terminal_injection_is_refused(machine: str, request_: int, high: int) -> None:
    assert ask(make_spec(machine), "ioctl", 0, request_ + high, 0) == EPERM
    assert ask(make_spec(machine), "ioctl", request_, 0x5401, request_) == ALLOW


NEW = {
    "NEWNS": 0x0002_0000,
    "NEWCGROUP": 0x0200_0000,
    "NEWUTS": 0x0400_0000,
    "NEWIPC": 0x0800_0000,
    "NEWUSER": 0x1000_0000,
    "NEWPID": 0x2000_0000,
    "NEWNET": 0x4000_0000,
}
THREAD_FLAGS = 0x3D0F00
FORK_FLAGS = 0x0120_0011


@BOTH
@pytest.mark.parametrize("flag", NEW.values(), ids=NEW)
@pytest.mark.parametrize("other", [0, 17, HIGH, 0x100, 0x400])
def test_new_namespaces_are_refused(machine: str, flag: int, other: int) -> None:
    assert ask(make_spec(machine), "clone", flag | other) == EPERM
    assert ask(make_spec(machine), "unshare", flag | other) == EPERM


@BOTH
@pytest.mark.parametrize("flags", [THREAD_FLAGS, FORK_FLAGS, 0x4111, 17, 0x80])
def test_threads_and_processes_are_allowed(machine: str, flags: int) -> None:
    assert ask(make_spec(machine), "clone", flags) == ALLOW


@BOTH
@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (0, ALLOW),
        (0x400, ALLOW),  # CLONE_FILES
        (0x200 | 0x4_0000, ALLOW),  # CLONE_FS | CLONE_SYSVSEM
        (0x80, EPERM),  # CLONE_NEWTIME
        (0x10_0000, EPERM),  # UNSHARE_EMPTY_MNTNS
        (1 << 37, EPERM),  # CLONE_EMPTY_MNTNS, were it ever taken here
    ],
)
def test_unshare_takes_what_is_known_to_be_harmless(
    machine: str, flags: int, expected: int
) -> None:
    assert ask(make_spec(machine), "unshare", flags) == expected


@BOTH
@pytest.mark.parametrize("high", [0, HIGH, -HIGH])
@pytest.mark.parametrize(
    ("persona", "expected"),
    [
        (0, ALLOW),
        (8, ALLOW),
        (0x2_0000, ALLOW),
        (0x2_0008, ALLOW),
        (0xFFFF_FFFF, ALLOW),
        (0x4_0000, EPERM),
        (0x40_0000, EPERM),
        (1, EPERM),
    ],
)
def test_personality(machine: str, persona: int, expected: int, high: int) -> None:
    assert ask(make_spec(machine), "personality", persona + high) == expected


@BOTH
@pytest.mark.parametrize("high", [0, HIGH, -HIGH])
def test_probe_answers_for_this_box_only(machine: str, high: int) -> None:
    spec = make_spec(machine)
    option = PROBE_OPTION + high
    assert PROBE_ERRNO <= 4095
    assert ask(spec, "prctl", option, BOX_ID) == ERRNO | PROBE_ERRNO
    assert ask(spec, "prctl", option, BOX_ID ^ 1) == ALLOW
    assert ask(spec, "prctl", option, BOX_ID ^ HIGH) == ALLOW
    assert ask(spec, "prctl", option ^ 1, BOX_ID) == ALLOW
    assert ask(spec, "prctl", 22, 2, 0) == ALLOW


@pytest.mark.parametrize("box_id", [0, 1, HIGH, (1 << 64) - 1])
def test_probe_with_any_box_id(box_id: int) -> None:
    spec = dataclasses.replace(make_spec(), box_id=box_id)
    assert ask(spec, "prctl", PROBE_OPTION, box_id) == ERRNO | PROBE_ERRNO
    assert ask(spec, "prctl", PROBE_OPTION, box_id ^ HIGH) == ALLOW


AF = {"unix": 1, "inet": 2, "inet6": 10, "netlink": 16}
FLAGS = (0, 0o4000, 0o2_000_000, 0o2_004_000, HIGH)  # SOCK_NONBLOCK, SOCK_CLOEXEC


def expect_socket(families: frozenset[str], unix_types: frozenset[str], call: list[int]) -> int:
    """Decide from a list of what is allowed, where the filter lists what is not."""
    family, kind, protocol = call
    by_number = {number: name for name, number in AF.items()}
    if family not in by_number:
        return EAFNOSUPPORT
    name = by_number[family]
    if name not in families:
        return EACCES
    if name == "unix":
        types = {1: "stream", 2: "dgram", 3: "dgram", 5: "seqpacket"}
        return ALLOW if types.get(kind) in unix_types else EACCES
    if name == "netlink":
        return EPERM if protocol else ALLOW
    if kind not in (1, 2):
        return EPERM
    return ALLOW if protocol in (0, 6, 17) else EPROTONOSUPPORT


@settings(max_examples=400, deadline=None)
@given(
    specs,
    st.tuples(
        st.integers(0, 46), st.integers(0, 15), st.sampled_from([0, 1, 6, 17, 58, 132, 255, 262])
    ),
    st.sampled_from(FLAGS),
    st.tuples(*[st.sampled_from([0, HIGH, -HIGH])] * 3),
)
def test_sockets(
    spec: FilterSpec, call: tuple[int, ...], flags: int, high: tuple[int, ...]
) -> None:
    expected = expect_socket(spec.families, spec.unix_types, list(call))
    if expected == ALLOW and "socket" in spec.supervised:
        expected = USER_NOTIF
    if spec.allowed is not None and "socket" not in spec.allowed:
        expected = EACCES
    args = [value + extra for value, extra in zip(call, high, strict=True)]
    args[1] |= flags
    assert ask(spec, "socket", *args) == expected


@BOTH
def test_usual_sockets(machine: str) -> None:
    spec = make_spec(machine, families=frozenset({"unix", "inet", "inet6", "netlink"}))
    for family, kind, flags in itertools.product((1, 2, 10), (1, 2), FLAGS):
        assert ask(spec, "socket", family, kind | flags, 0) == ALLOW
    assert ask(spec, "socket", 16, 3 | 0o2_000_000, 0) == ALLOW  # getaddrinfo, if_nameindex
    assert ask(spec, "socket", 2, 3, 1) == EPERM  # raw
    assert ask(spec, "socket", 2, 10, 0) == EPERM  # SOCK_PACKET becomes AF_PACKET
    assert ask(spec, "socket", 2, 1, 262) == EPROTONOSUPPORT  # MPTCP
    assert ask(spec, "socket", 16, 3, 12) == EPERM  # NETLINK_NETFILTER
    assert ask(spec, "socket", 40, 1, 0) == EAFNOSUPPORT  # AF_VSOCK
    assert ask(spec, "socket", 17, 3, 0) == EAFNOSUPPORT  # AF_PACKET


@BOTH
@pytest.mark.parametrize(
    ("families", "unix_types", "allowed"),
    [
        (ALL_FAMILIES, frozenset({"stream", "dgram", "seqpacket"}), {1, 2, 3, 5}),
        (ALL_FAMILIES, frozenset({"stream", "seqpacket"}), {1, 5}),
        (frozenset(), frozenset({"stream", "dgram", "seqpacket"}), {1, 5}),
        (frozenset(), frozenset(), {1, 5}),
    ],
)
def test_socket_pairs(
    machine: str, families: frozenset[str], unix_types: frozenset[str], allowed: set[int]
) -> None:
    spec = make_spec(machine, families=families, unix_types=unix_types)
    for kind, flags in itertools.product(range(16), FLAGS):
        expected = ALLOW if kind in allowed else EACCES
        assert ask(spec, "socketpair", 1, kind | flags, 0) == expected
    assert ask(spec, "socketpair", 2, 1, 0) == EOPNOTSUPP
    assert ask(spec, "socketpair", 1 + HIGH, 1, 0) == ALLOW


@BOTH
def test_supervision_comes_after_refusals_and_rules(machine: str) -> None:
    spec = make_spec(machine, supervised=frozenset({"execve", "ptrace", "ioctl", "clone3"}))
    assert ask(spec, "execve") == USER_NOTIF
    assert ask(spec, "ptrace") == EPERM
    assert ask(spec, "clone3") == ENOSYS
    assert ask(spec, "ioctl", 0, 0x5412) == EPERM
    assert ask(spec, "ioctl", 0, 0x5401) == USER_NOTIF


@BOTH
def test_verdicts_say_what_the_filter_does(machine: str) -> None:
    spec = make_spec(machine, supervised=frozenset({"open", "openat", "execve"}), ipc_denied=True)
    said = verdicts(build_filter(spec), machine)
    actions: dict[str, int | None] = {
        "allow": ALLOW,
        "supervised": USER_NOTIF,
        "errno EPERM": EPERM,
    }
    actions |= {"errno ENOSYS": ENOSYS, "arguments": None}
    table = architecture(machine).table
    assert said.keys() == table.keys()
    assert {actions[verdict] for verdict in said.values()} == set(actions.values())
    for name, verdict in said.items():
        assert actions[verdict] == expect_naively(spec, table[name]), name


def test_same_specification_same_bytes() -> None:
    assert build_filter(make_spec()) == build_filter(make_spec())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"machine": "i686"}, "machine 'i686'"),
        ({"box_id": -1}, "invalid box_id"),
        ({"box_id": 1 << 64}, "invalid box_id"),
        ({"families": frozenset({"inet", "bluetooth"})}, "in families of a filter: bluetooth"),
        ({"unix_types": frozenset({"raw"})}, "in unix_types of a filter: raw"),
        ({"supervised": frozenset({"opne"})}, "in supervised of a filter: opne"),
        ({"allowed": frozenset({"opne"})}, "in allowed of a filter: opne"),
    ],
)
def test_invalid_specifications(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(make_spec(), **change)  # type: ignore[arg-type]
