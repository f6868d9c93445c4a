"""The filter against two judges that are not ours: libseccomp and the running kernel."""

from __future__ import annotations

import ctypes
import ctypes.util
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
from typing import TYPE_CHECKING, NoReturn

import pytest

from vsbox.seccomp import (
    ALLOWED,
    PROBE_ERRNO,
    PROBE_OPTION,
    FilterSpec,
    allowed_calls,
    build_filter,
    simulate,
    verdicts,
)
from vsbox.seccomp.allowed import errno_unlisted
from vsbox.seccomp.rules import ENOSYS, IPC_REFUSAL, REFUSALS
from vsbox.seccomp.syscalls import AARCH64, X86_64, Architecture, architecture

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

BOTH = pytest.mark.parametrize("arch", [X86_64, AARCH64], ids=lambda arch: arch.name)

ALLOW = 0x7FFF_0000
EPERM = 0x0005_0001
EAFNOSUPPORT = 0x0005_0061
EOPNOTSUPP = 0x0005_005F
UNKNOWN = 0x0005_0000 | ENOSYS
HIGH = 1 << 32
BOX_ID = 0xFEDC_BA98_7654_3210


def names(text: str) -> set[str]:
    return set(text.split())


# libseccomp 2.5.4 ends with Linux 5.17, and each release learns more of these.
NEWER_THAN_LIBSECCOMP = names(
    """
    set_mempolicy_home_node cachestat fchmodat2 map_shadow_stack futex_wake futex_wait
    futex_requeue statmount listmount lsm_get_self_attr lsm_set_self_attr lsm_list_modules mseal
    setxattrat getxattrat listxattrat removexattrat open_tree_attr file_getattr file_setattr
    uretprobe uprobe
    """
)


def skip_or_fail(reason: str) -> NoReturn:
    if os.environ.get("VSBOX_MUST_WORK"):
        pytest.fail(reason)
    pytest.skip(reason)


def make_spec(machine: str, allowed: frozenset[str] | None = ALLOWED) -> FilterSpec:
    families = frozenset({"unix", "inet", "inet6", "netlink"})
    return FilterSpec(machine=machine, box_id=BOX_ID, families=families, allowed=allowed, ipc_denied=True)


class Compare(ctypes.Structure):
    """``struct scmp_arg_cmp`` of seccomp.h."""

    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("a", ctypes.c_uint64),
        ("b", ctypes.c_uint64),
    )


EQUAL, MASKED_EQUAL, GREATER_OR_EQUAL = 4, 7, 5
BAD_ARCH_ATTRIBUTE = 2
KILL_PROCESS = 0x8000_0000
NAME_UNKNOWN = -1


class Seccomp:
    """What the tests need of seccomp(3)."""

    def __init__(self, library: ctypes.CDLL) -> None:
        library.seccomp_init.restype = ctypes.c_void_p
        self._library = library

    def resolve(self, arch: Architecture, name: str) -> int:
        token = ctypes.c_uint32(arch.audit_arch)
        number: int = self._library.seccomp_syscall_resolve_name_arch(token, name.encode())
        return number

    def export(
        self, arch: Architecture, rules: Iterable[tuple[int, str, tuple[Compare, ...]]], otherwise: int = ALLOW
    ) -> bytes:
        context = ctypes.c_void_p(self._library.seccomp_init(ctypes.c_uint32(otherwise)))
        try:
            self._restrict_to(context, arch)
            for action, name, comparisons in rules:
                self._add(context, action, name, comparisons)
            return self._read(context)
        finally:
            self._library.seccomp_release(context)

    def _restrict_to(self, context: ctypes.c_void_p, arch: Architecture) -> None:
        token = ctypes.c_uint32(arch.audit_arch)
        native = ctypes.c_uint32(self._library.seccomp_arch_native())
        if native.value != token.value:
            check(self._library.seccomp_arch_add(context, token))
            check(self._library.seccomp_arch_remove(context, native))
        kill = ctypes.c_uint32(KILL_PROCESS)
        check(self._library.seccomp_attr_set(context, BAD_ARCH_ATTRIBUTE, kill))

    def _add(
        self, context: ctypes.c_void_p, action: int, name: str, comparisons: tuple[Compare, ...]
    ) -> None:
        number = self._library.seccomp_syscall_resolve_name(name.encode())
        array = (Compare * len(comparisons))(*comparisons)
        add = self._library.seccomp_rule_add_array
        check(add(context, ctypes.c_uint32(action), number, len(comparisons), array))

    def _read(self, context: ctypes.c_void_p) -> bytes:
        with tempfile.TemporaryFile() as file:
            check(self._library.seccomp_export_bpf(context, file.fileno()))
            file.seek(0)
            return file.read()


def check(result: int) -> None:
    assert result == 0, os.strerror(-result)


@pytest.fixture(scope="module")
def seccomp() -> Seccomp:
    try:
        return Seccomp(ctypes.CDLL("libseccomp.so.2"))
    except OSError:
        skip_or_fail("libseccomp.so.2 not found: apt-get install -y libseccomp2")


@BOTH
def test_numbers_are_those_of_libseccomp(seccomp: Seccomp, arch: Architecture) -> None:
    theirs = {name: seccomp.resolve(arch, name) for name in arch.table}
    unknown = {name for name, number in theirs.items() if number == NAME_UNKNOWN}
    assert unknown <= NEWER_THAN_LIBSECCOMP
    assert {name: theirs[name] for name in arch.table.keys() - unknown} == {
        name: number for name, number in arch.table.items() if name not in unknown
    }


@BOTH
def test_no_call_that_libseccomp_numbers_is_missing(seccomp: Seccomp, arch: Architecture) -> None:
    """Ask for each name of the other table: below zero means not on this architecture."""
    other = {X86_64.name: AARCH64, AARCH64.name: X86_64}[arch.name]
    for name in other.table.keys() - arch.table.keys():
        assert seccomp.resolve(arch, name) < 0, name


def refused_names(seccomp: Seccomp, arch: Architecture) -> Iterator[tuple[str, int]]:
    for refusal in (*REFUSALS, IPC_REFUSAL):
        for name, errno in refusal.by_name().items():
            if name in arch.table and seccomp.resolve(arch, name) >= 0:
                yield name, 0x0005_0000 | errno


@BOTH
def test_refusals_equal_a_filter_of_libseccomp(seccomp: Seccomp, arch: Architecture) -> None:
    refused = dict(refused_names(seccomp, arch))
    assert len(refused) > 60
    theirs = seccomp.export(arch, [(action, name, ()) for name, action in refused.items()])
    ours = build_filter(make_spec(arch.name, None))
    for name, number in arch.table.items():
        their_answer = simulate(theirs, arch=arch.audit_arch, nr=number)
        assert their_answer == refused.get(name, ALLOW), name
        if name in refused:
            assert simulate(ours, arch=arch.audit_arch, nr=number) == their_answer, name


def expected_actions(arch: Architecture, allowed: frozenset[str] | None) -> dict[str, int]:
    """Say what a list means, from the tables alone."""
    refused = {
        name: 0x0005_0000 | errno for table in (*REFUSALS, IPC_REFUSAL) for name, errno in table.by_name().items()
    }
    unlisted = {
        name: 0x0005_0000 | errno_unlisted(name)
        for name in arch.table
        if allowed is not None and name not in allowed
    }
    return dict.fromkeys(arch.table, ALLOW) | unlisted | {n: a for n, a in refused.items() if n in arch.table}


LISTS: Mapping[str, frozenset[str] | None] = {
    "built-in": ALLOWED,
    "none": None,
    "of one's own": allowed_calls(names("read write openat execve mkdir socket vmsplice futex_wait futex")),
    "almost empty": allowed_calls(["read"]),
    "without files": ALLOWED - names("openat open creat chmod fchmodat linkat setxattr getxattr kill"),
}


@BOTH
@pytest.mark.parametrize("allowed", LISTS.values(), ids=LISTS)
def test_every_call_gets_the_answer_of_a_filter_of_libseccomp(
    seccomp: Seccomp, arch: Architecture, allowed: frozenset[str] | None
) -> None:
    expected = expected_actions(arch, allowed)
    known = {name for name in arch.table if seccomp.resolve(arch, name) >= 0}
    listed = [(action, name, ()) for name, action in expected.items() if name in known and action != UNKNOWN]
    theirs = seccomp.export(arch, listed, UNKNOWN)
    ours = build_filter(make_spec(arch.name, allowed))
    said = verdicts(ours, arch.name)
    compared = set()
    for name in known:
        if said[name] != "arguments":
            call = {"arch": arch.audit_arch, "nr": arch.table[name]}
            assert simulate(ours, **call) == simulate(theirs, **call) == expected[name], name
            compared.add(name)
    by_argument = known - compared
    assert by_argument <= names(
        "open openat creat chmod fchmod fchmodat fchmodat2 mkdir mkdirat mknod mknodat ioctl personality clone unshare"
        " socket socketpair prctl"
    )
    unnumbered = set(range(1024)) - set(arch.table.values())
    for number in unnumbered:
        call = {"arch": arch.audit_arch, "nr": number}
        assert simulate(ours, **call) == simulate(theirs, **call) == UNKNOWN


def masked(arg: int, mask: int, value: int) -> Compare:
    return Compare(arg, MASKED_EQUAL, mask, value)


NEW_NAMESPACE_BITS = (1 << 17, *(1 << bit for bit in range(25, 31)))
FAMILIES = (1, 2, 10, 16)
HARMLESS = 0x5_0F00  # of unshare(): memory, directories, descriptors, signals, threads, System V semaphores

ARGUMENT_FILTER = (
    *((EPERM, "ioctl", (masked(1, 0xFFFF_FFFF, cmd),)) for cmd in (0x5412, 0x541C, 0x5423)),
    *((EPERM, "clone", (masked(0, bit, bit),)) for bit in NEW_NAMESPACE_BITS),
    *(
        (EAFNOSUPPORT, "socket", (masked(0, 0xFFFF_FFFF, family),))
        for family in range(46)
        if family not in FAMILIES
    ),
    *((EPERM, "socket", (masked(0, 0xFFFF_FFFF, f), masked(1, 0xF, 3))) for f in (2, 10)),
    *((EPERM, "fchmod", (masked(1, bit, bit),)) for bit in (0o4000, 0o2000)),
    *(
        (EPERM, "openat", (masked(2, flag, flag), masked(3, bit, bit)))
        for flag in (0o100, 0o20_000_000)
        for bit in (0o4000, 0o2000)
    ),
    *((EPERM, "mkdirat", (masked(2, bit, bit),)) for bit in (0o4000, 0o2000)),
    *((EPERM, "fchmodat", (masked(2, bit, bit),)) for bit in (0o4000, 0o2000)),
    *((EPERM, "mknodat", (masked(2, bit, bit),)) for bit in (0o4000, 0o2000)),
    *((EPERM, "mknodat", (masked(2, 0o170_000, kind),)) for kind in (0o020_000, 0o060_000)),
    *((EPERM, "unshare", (masked(0, 1 << bit, 1 << bit),)) for bit in range(64) if not HARMLESS >> bit & 1),
    *((EOPNOTSUPP, "socketpair", (masked(0, 0xFFFF_FFFF, family),)) for family in range(46) if family != 1),
)

ARGUMENT_CASES = (
    *(
        ("ioctl", (0, cmd + high))
        for cmd in (0, 0x5401, 0x5411, 0x5412, 0x5413, 0x541C, 0x5423, 0xFFFF_FFFF)
        for high in (0, HIGH, -HIGH)
    ),
    *(("clone", (1 << bit,)) for bit in range(64)),
    *(("clone", (flags,)) for flags in (17, 0x3D0F00, 0x0120_0011, 0x7E02_0000, HIGH - 1)),
    *(
        ("socket", (family + high, kind, 0))
        for family in range(46)
        for kind in (1, 2, 3, 2 | 0o2_000_000, 3 | 0o4000)
        for high in (0, HIGH)
        if not (family == 16 and kind > 3)
    ),
    *(("fchmod", (0o6000, mode)) for mode in (0o755, 0o1755, 0o2755, 0o4755, 0o4000 | HIGH)),
    *(
        ("openat", (0, 0, flags, mode))
        for flags, mode in itertools.product(
            (0, 0o2, 0o101, 0o20_200_000, 0o101 | HIGH), (0, 0o644, 0o4644, 0o2644 | HIGH)
        )
    ),
    *(
        (name, (-100, 0, mode))
        for name in ("mkdirat", "fchmodat", "mknodat")
        for mode in (0, 0o755, 0o1777, 0o2755, 0o4000, 0o6000 | HIGH, 0o755 | HIGH)
    ),
    *(("mknodat", (-100, 0, kind << 12 | 0o600)) for kind in (0, 1, 2, 6, 8, 10, 12)),
    *(("unshare", (1 << bit,)) for bit in range(64)),
    *(("unshare", (flags,)) for flags in (0, HARMLESS, HARMLESS | 1, 0x1000_0400, 0x400 | HIGH)),
    *(("socketpair", (family + high, 1, 0)) for family in range(46) for high in (0, HIGH)),
)


@BOTH
def test_argument_rules_equal_a_filter_of_libseccomp(seccomp: Seccomp, arch: Architecture) -> None:
    theirs = seccomp.export(arch, ARGUMENT_FILTER)
    ours = build_filter(make_spec(arch.name))
    answers = set()
    for name, args in ARGUMENT_CASES:
        number = arch.table[name]
        answer = simulate(ours, arch=arch.audit_arch, nr=number, args=args)
        expected = simulate(theirs, arch=arch.audit_arch, nr=number, args=args)
        assert answer == expected, (name, args)
        answers.add(answer)
    assert answers == {ALLOW, EPERM, EAFNOSUPPORT, EOPNOTSUPP}


@BOTH
def test_arguments_are_judged_alike_under_every_list(arch: Architecture) -> None:
    """What a list lets through by name is judged as without a list; what it leaves out is not judged at all."""
    wide, narrow = build_filter(make_spec(arch.name, None)), LISTS["of one's own"]
    ours = build_filter(make_spec(arch.name, narrow))
    for name, args in ARGUMENT_CASES:
        call = {"arch": arch.audit_arch, "nr": arch.table[name], "args": args}
        listed = narrow is not None and name in narrow
        expected = simulate(wide, **call) if listed else 0x0005_0000 | errno_unlisted(name)
        assert simulate(ours, **call) == expected, (name, args)


PRELUDE = """
import ctypes, json, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long

class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]

def confine(program):
    if program:
        assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
        fprog = Program(len(program) // 8, program)
        if libc.prctl(22, 2, ctypes.byref(fprog), 0, 0):  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
            sys.exit("cannot load the filter: " + os.strerror(ctypes.get_errno()))

def attempt(number, *args):
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *(ctypes.c_ulong(arg) for arg in args))
    return ctypes.get_errno() if result == -1 else 0

confine(bytes.fromhex(sys.argv[1]))
"""

ATTEMPT_ALL = "print(json.dumps({k: attempt(*call) for k, call in json.load(sys.stdin).items()}))"

# Calls that change nothing and that the kernel itself answers otherwise, to root and to an
# ordinary user alike: a null pointer, a bad descriptor, flags that contradict each other.
NATIVE_CALLS: dict[str, tuple[int, str, tuple[int, ...]]] = {
    "new user namespace": (1, "unshare", (0x1000_0000 | 1,)),
    "clone into one": (1, "clone", (0x1000_0000 | 0x1_0000,)),
    "clone3": (ENOSYS, "clone3", (0, 0)),
    "openat2": (ENOSYS, "openat2", (-100, 0, 0, 0)),
    "io_uring_setup": (ENOSYS, "io_uring_setup", (0, 0)),
    "TIOCSTI": (1, "ioctl", (-1, 0x5412, 0)),
    "TIOCSTI with the high half set": (1, "ioctl", (-1, 0x5412 | HIGH, 0)),
    "TIOCLINUX": (1, "ioctl", (-1, 0x541C, 0)),
    "packet socket": (97, "socket", (17, 2, 1 << 20)),
    "odd type of internet socket": (1, "socket", (2, 4, 0)),
    "netlink of another protocol": (1, "socket", (16, 3, 31)),
    "pair of virtual machine sockets": (95, "socketpair", (40, 1, 0, 0)),
    "set-uid": (1, "fchmod", (-1, 0o4755)),
    "set-gid by path": (1, "fchmodat", (-100, 0, 0o2755)),
    "set-uid at creation": (1, "openat", (-100, 0, 0o101, 0o4755)),
    "character device": (1, "mknodat", (-100, 0, 0o020_600, 0x0103)),
    "ptrace": (1, "ptrace", (16, 0x7FFF_FFFF)),
    "personality": (1, "personality", (0x4_0000,)),
    "prctl probe": (PROBE_ERRNO, "prctl", (PROBE_OPTION, BOX_ID)),
    "message queue": (1, "msgget", (0x7FFF_FFFE, 0)),
    "not listed: pages given away": (ENOSYS, "vmsplice", (-1, 0, 0, 0)),
    "not listed: memory of others": (ENOSYS, "process_madvise", (-1, 0, 0, 0, 0)),
    "not listed: file attributes": (ENOSYS, "file_getattr", (-1, 0, 0, 0, 1)),
}
STILL_ALLOWED: dict[str, tuple[int, str, tuple[int, ...]]] = {
    "getpid": (0, "getpid", ()),
    "prctl probe for another box": (22, "prctl", (PROBE_OPTION, BOX_ID ^ HIGH)),
    "unshare of descriptors": (0, "unshare", (0x400,)),
    "query of personality": (0, "personality", (0xFFFF_FFFF,)),
    "ioctl": (9, "ioctl", (-1, 0x5401, 0)),
    "ordinary mode": (9, "fchmod", (-1, 0o755)),
    "internet socket": (0, "socket", (2, 1, 0)),
}


def native() -> Architecture:
    machine = os.uname().machine
    try:
        return architecture(machine)
    except ValueError as error:
        skip_or_fail(str(error))


def run_python(
    script: str, *, confined: bool, given: str = "", timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    program = build_filter(make_spec(native().name)) if confined else b""
    command = [sys.executable, "-c", PRELUDE + textwrap.dedent(script), program.hex()]
    return subprocess.run(
        command, input=given, capture_output=True, text=True, timeout=timeout, check=False
    )


def attempt_all(
    calls: dict[str, tuple[int, str, tuple[int, ...]]], *, confined: bool
) -> dict[str, int]:
    table = native().table
    numbered = {key: [table[name], *args] for key, (_, name, args) in calls.items()}
    result = run_python(ATTEMPT_ALL, confined=confined, given=json.dumps(numbered))
    assert result.returncode == 0, result.stderr
    answers: dict[str, int] = json.loads(result.stdout)
    return answers


@pytest.fixture(scope="module", autouse=True)
def kernel_has_seccomp() -> None:
    if not sys.platform.startswith("linux"):
        skip_or_fail("seccomp filters need Linux")


def test_kernel_refuses_under_the_filter() -> None:
    expected = {key: errno for key, (errno, _, _) in NATIVE_CALLS.items()}
    assert attempt_all(NATIVE_CALLS, confined=True) == expected


def test_kernel_answers_otherwise_without_it() -> None:
    """A refusal that also comes without the filter would prove nothing."""
    answers = attempt_all(NATIVE_CALLS, confined=False)
    same = {key for key, (errno, _, _) in NATIVE_CALLS.items() if answers[key] == errno}
    assert not same


@pytest.mark.parametrize("confined", [False, True])
def test_ordinary_calls_are_the_same_under_the_filter(*, confined: bool) -> None:
    expected = {key: errno for key, (errno, _, _) in STILL_ALLOWED.items()}
    assert attempt_all(STILL_ALLOWED, confined=confined) == expected


SET_ID_AND_DEVICES = """
import stat, tempfile
def errno_of(action, *args):
    try:
        action(*args)
    except OSError as error:
        return error.errno
    return 0
with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, "file")
    open(path, "w").close()
    print(json.dumps([errno_of(os.chmod, path, mode) for mode in (0o4755, 0o2755, 0o755)]
                     + [errno_of(os.mkfifo, path + ".fifo")]))
"""


@pytest.mark.parametrize(("confined", "expected"), [(False, [0, 0]), (True, [1, 1])])
def test_set_id_bits_of_a_real_file(*, confined: bool, expected: list[int]) -> None:
    result = run_python(SET_ID_AND_DEVICES, confined=confined)
    assert json.loads(result.stdout) == [*expected, 0, 0], result.stderr


# mov eax, 20 (getpid of i386); int 0x80; ret
FOREIGN_CALL = """
import mmap
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(bytes.fromhex("b814000000cd80c3"))
address = ctypes.addressof(ctypes.c_char.from_buffer(page))
ctypes.CFUNCTYPE(ctypes.c_int)(address)()
os._exit(0)
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="needs the i386 call gate of x86_64")
def test_i386_calls_kill_the_process() -> None:
    without = run_python(FOREIGN_CALL, confined=False).returncode
    if without == -signal.SIGSEGV:
        pytest.skip("this kernel has no i386 calls (CONFIG_IA32_EMULATION)")
    assert without == 0
    assert run_python(FOREIGN_CALL, confined=True).returncode == -signal.SIGSYS


PYTHON_AT_WORK = """
import asyncio, multiprocessing, pty, shutil, socket, sqlite3, ssl, subprocess, tempfile, threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

def use_threads():
    with ThreadPoolExecutor(4) as pool:
        return sum(pool.map(len, ["a", "bb", "ccc"]))

def use_processes(method):
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        return sum(pool.map(len, ["a", "bb", "ccc"]))

async def echo():
    async def answer(reader, writer):
        writer.write(await reader.read(5))
        await writer.drain()
        writer.close()
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
    writer.write(b"hello")
    data = await reader.read()
    writer.close()
    server.close()
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", "pass")
    return [data.decode(), await child.wait()]

def use_files():
    with tempfile.TemporaryDirectory() as folder:
        database = sqlite3.connect(os.path.join(folder, "db"))
        database.execute("create table t (a)")
        database.close()
        shutil.copytree(folder, folder + ".copy")
        shutil.rmtree(folder + ".copy")
    return True

if __name__ == "__main__":
    print(json.dumps({
        "threads": use_threads(),
        "processes": [use_processes(method) for method in ("fork", "spawn", "forkserver")],
        "asyncio": asyncio.run(echo()),
        "subprocess": subprocess.run(["/bin/sh", "-c", "echo hi | cat"], capture_output=True,
                                     text=True, preexec_fn=os.setsid).stdout,
        "interfaces": bool(socket.if_nameindex()),
        "address": socket.getaddrinfo("127.0.0.1", 80)[0][4][0],
        "pair": [len(socket.socketpair()), len(pty.openpty())],
        "shared": multiprocessing.Value("i", 7).value,
        "files": use_files(),
    }))
"""


def test_python_works_under_the_filter(tmp_path: os.PathLike[str]) -> None:
    script = os.path.join(tmp_path, "work.py")
    with open(script, "w", encoding="utf-8") as file:
        file.write("import json, os, sys\n" + PYTHON_AT_WORK)
    start = f"os.execv(sys.executable, [sys.executable, {script!r}])"
    result = run_python(start, confined=True)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == {
        "threads": 6,
        "processes": [6, 6, 6],
        "asyncio": ["hello", 0],
        "subprocess": "hi\n",
        "interfaces": True,
        "address": "127.0.0.1",
        "pair": [2, 2],
        "shared": 7,
        "files": True,
    }
