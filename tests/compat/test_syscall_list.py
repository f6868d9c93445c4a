"""The list of system calls in practice: what runs under the built-in one, under one's own, and without a filter."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from harness import Box, Person, lacking
from vsbox.seccomp import ALLOWED
from vsbox.seccomp.allowed import KNOWN
from vsbox.seccomp.rules import REFUSALS

REFUSED = {name for refusal in REFUSALS for name in refusal.by_name()}
ALL_BUT_REFUSED = ["@builtin", *sorted(KNOWN - ALLOWED - REFUSED)]
"""What got through before there was a list."""

BOXES: dict[tuple[int, str], Box] = {}


@pytest.fixture
def own_box(person: Person, backend: str, make_box: Callable[..., Box]) -> Box:
    """A box whose policy these tests change."""
    key = (person.uid, backend)
    if key not in BOXES:
        BOXES[key] = make_box(person, backend, "--no-pip", fresh=True)
    ask_for(BOXES[key])
    return BOXES[key]


def names(text: str) -> list[str]:
    return text.split()


def ask_for(box: Box, **keys: object) -> None:
    """Write a policy as people do; the box recompiles at its next start."""
    path = box.root / "sandbox" / "sandbox.json"
    document = json.loads(path.read_text())
    for name in ("syscalls", "allow_degraded", "network"):
        document.pop(name, None)
    box.person.write(path, json.dumps(document | keys))


def says(box: Box, code: str) -> object:
    done = box.python(code)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# ---- CPython's own tests ----

MODULES = ("test_os", "test_posix", "test_select", "test_mmap", "test_resource", "test_pty", "test_fcntl")
BY_CHANCE = "test_closerange"  # skips itself where descriptors are not in a row
INTERPRETERS = ("python3", "python3.10", "python3.11", "python3.12", "python3.13", "python3.14", "python")
WHERE = "import sys, test.test_os, test.test_posix; print(sys.executable)"


def find_tested_python(person: Person) -> str:
    """Return an interpreter that has the tests of the standard library beside it."""
    for directory in os.environ["PATH"].split(":"):
        for found in filter(None, (shutil.which(name, path=directory) for name in INTERPRETERS)):
            asked = person.run(["/usr/bin/env", found, "-I", "-c", WHERE])
            if asked.returncode == 0:
                return asked.stdout.strip()
    lacking("python-tests", "no Python on PATH that this person may use has the tests of the standard library")
    raise AssertionError


def results(path: Path) -> dict[str, str]:
    """Return for each test what came of it: failure, error, skipped, or nothing."""
    troubles = {"failure", "error", "skipped"}
    return {
        str(case.get("name")): " ".join(child.tag for child in case if child.tag in troubles)
        for case in ET.parse(path).getroot().iter("testcase")
        if BY_CHANCE not in str(case.get("name"))
    }


def run_cpython_tests(box: Box, name: str) -> dict[str, str]:
    report = box.root / "home" / f"{name}.xml"
    command = [str(box.bin / "python"), "-m", "test", "--timeout", "60", "--junit-xml", str(report), *MODULES]
    done = box.person.run(command, cwd=box.root / "home")
    assert report.exists(), done.stdout + done.stderr
    return results(report)


@pytest.mark.slow
@pytest.mark.parametrize("person", ["root"], indirect=True)  # whose interpreters may have their tests with them
def test_cpython_cannot_tell_the_list_from_no_list(
    person: Person, backend: str, make_box: Callable[..., Box]
) -> None:
    box = make_box(person, backend, "--no-pip", "-p", find_tested_python(person), fresh=True)
    ask_for(box)
    listed = run_cpython_tests(box, "listed")
    ask_for(box, syscalls=ALL_BUT_REFUSED)
    assert listed == run_cpython_tests(box, "unlisted")
    assert len(listed) > 400
    assert list(listed.values()).count("") > 0.7 * len(listed)


# ---- other programs ----

GIT = """
set -e
export GIT_CONFIG_NOSYSTEM=1
cd "$HOME"; rm -rf one two; mkdir one; cd one
git init -q .; git config user.email a@b.c; git config user.name n
seq 1 2000 >numbers; git add .; git commit -qm first; git branch other
seq 2 2000 >numbers; git commit -qam second; git gc -q
cd ..; git clone -q one two; git -C two log --format=%s; git -C two fsck
"""


def test_git_works(own_box: Box) -> None:
    if not shutil.which("git"):
        lacking("git", "git is not installed")
    done = own_box.exec("/bin/sh", "-c", GIT)
    assert (done.returncode, done.stdout) == (0, "second\nfirst\n"), done.stderr


# ---- lists of one's own ----

STATUS = """
import json
fields = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
print(json.dumps({name: fields[name].strip() for name in ("Seccomp", "NoNewPrivs", "CapEff", "CapPrm")}))
"""
# What strace shows of Python and the program above with any recent C library, and what hands the filter over.
PYTHON = names(
    """
    execve brk mmap munmap mprotect mremap open openat read write close stat fstat lstat newfstatat statx lseek pread64
    access faccessat faccessat2 readlink readlinkat rt_sigaction rt_sigprocmask sigaltstack getrandom arch_prctl
    set_tid_address set_robust_list rseq prlimit64 sysinfo getdents64 getcwd ioctl dup fcntl getuid geteuid getgid
    getegid gettid futex uname madvise clock_gettime sendmsg
    """
)
NO = "Function not implemented"


def test_python_runs_under_a_list_taken_from_strace(own_box: Box) -> None:
    ask_for(own_box, syscalls=PYTHON)
    assert says(own_box, STATUS) == {"Seccomp": "2", "NoNewPrivs": "1", "CapEff": "0" * 16, "CapPrm": "0" * 16}
    make = "import os\ntry: os.mkdir(os.environ['HOME'] + '/made')\nexcept OSError as e: print(e.errno)\nelse: print(0)"
    assert says(own_box, make) == 38
    ask_for(own_box)
    assert says(own_box, make) == 0
    (own_box.root / "home" / "made").rmdir()


OUTCOMES = {
    "no execve, a word": (["write", "sendmsg"], 126, f"cannot execute .*: {NO}"),
    "no execve, by the channel": (["sendto", "sendmsg"], 126, f"cannot execute .*: {NO}"),
    "no execve, no word": (["sendmsg"], 126, ""),
    "a name that is none": (["opne", "read"], 2, "unknown system call: 'opne'\n.*did you mean 'open'"),
    "what no list opens": (["read", "ptrace"], 2, "ptrace .reads or changes other processes"),
}


@pytest.mark.parametrize(("names", "status", "message"), OUTCOMES.values(), ids=OUTCOMES)
def test_what_cannot_start_says_so(own_box: Box, names: list[str], status: int, message: str) -> None:
    ask_for(own_box, syscalls=names)
    done = own_box.python("print('ran')", timeout=60)
    assert (done.returncode, done.stdout) == (status, "")
    assert re.search(message, done.stderr), done.stderr


@pytest.mark.parametrize("names", [["execve", "sendmsg"], ["execve", "sendmsg", "read", "openat", "close"]])
def test_what_cannot_live_dies(own_box: Box, names: list[str]) -> None:
    """By its own want of memory: no hang, nothing unconfined, and no message of ours about something else."""
    ask_for(own_box, syscalls=names)
    done = own_box.python("print('ran')", timeout=60)
    assert done.returncode not in {0, 125}
    assert "ran" not in done.stdout
    assert "vsbox" not in done.stderr


def test_the_probe_needs_no_list(own_box: Box) -> None:
    """Scripts start launchers inside, in the Landlock-only tier; these ask by prctl where they are."""
    text = f"#!{own_box.bin}/python\nprint('inside')\n"
    script = own_box.person.write(own_box.root / "home" / "script", text, mode=0o755)
    ask_for(own_box, syscalls=sorted(ALLOWED - {"prctl"}))
    done = own_box.exec(str(script))
    assert (done.returncode, done.stdout) == (0, "inside\n"), done.stderr


# ---- no filter ----

POWERS = """
import ctypes, errno, json, os, signal
libc = ctypes.CDLL(None, use_errno=True)
def attempt(call, *args):
    ctypes.set_errno(0)
    return 0 if getattr(libc, call)(*args) != -1 else ctypes.get_errno()
print(json.dumps({
    "namespace": attempt("unshare", 0x10000000) != 0,
    "mounts": attempt("unshare", 0x20000) != 0,
    "mount": attempt("mount", b"none", b"/tmp", b"tmpfs", 0, None) != 0,
    "descriptors": sorted(int(fd) for fd in os.listdir("/proc/self/fd"))[:3] == [0, 1, 2]
                   and len(os.listdir("/proc/self/fd")) == 4,
    "signals": not signal.pthread_sigmask(signal.SIG_BLOCK, []) and signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL,
    "traced": attempt("ptrace", 0, 0, 0, 0),
    "keys": attempt("syscall", KEYCTL, 0, -3, 0),
}))
""".replace("KEYCTL", {"x86_64": "250"}.get(os.uname().machine, "219"))
DEGRADED = {"syscalls": [], "allow_degraded": ["unix-sockets"]}
OFF = pytest.mark.parametrize("backend", ["native"])


@OFF
def test_without_a_filter_all_else_is_in_force(own_box: Box) -> None:
    ask_for(own_box, **DEGRADED)
    assert says(own_box, STATUS) == {"Seccomp": "0", "NoNewPrivs": "1", "CapEff": "0" * 16, "CapPrm": "0" * 16}
    held = dict.fromkeys(("namespace", "mounts", "mount", "descriptors", "signals"), True)
    assert says(own_box, POWERS) == held | {"traced": 0, "keys": 0}


@OFF
def test_the_filter_was_what_refused(own_box: Box) -> None:
    """The control: under the built-in list the same two calls are refused."""
    found = says(own_box, POWERS)
    assert isinstance(found, dict)
    assert (found["traced"], found["keys"]) == (1, 1)


@OFF
def test_files_stay_closed_without_a_filter(own_box: Box) -> None:
    secret = own_box.person.write(own_box.person.directory("secret") / "key", "canary")
    ask_for(own_box, **DEGRADED)
    read = own_box.python(f"open({str(secret)!r}).read()")
    assert read.returncode == 1
    assert "FileNotFoundError" in read.stderr
    policy = own_box.root / "sandbox" / "sandbox.json"
    assert "FileNotFoundError" in own_box.python(f"open({str(policy)!r}, 'a')").stderr


@OFF
def test_the_receipt_of_a_start_without_a_filter(own_box: Box) -> None:
    ask_for(own_box, **DEGRADED)
    assert own_box.python("").returncode == 0
    rows = json.loads((own_box.root / "sandbox" / "receipt.json").read_text())["rows"]
    open_rows = {row["aspect"] for row in rows if row["state"] == "open by policy"}
    assert open_rows == {"network", "unix-sockets", "keyring", "syscalls", "terminal"}
    assert not [row for row in rows if any("seccomp" in layer for layer in row["layers"])]


@pytest.mark.parametrize("backend", ["landlock"])
def test_without_namespaces_a_filter_must_be(own_box: Box) -> None:
    ask_for(own_box, **DEGRADED)
    done = own_box.python("print('ran')")
    assert (done.returncode, done.stdout) == (125, "")
    assert "without a filter of system calls" in done.stderr


# ---- explained ----


def test_explain_lists_every_call(own_box: Box) -> None:
    table = own_box.person.vsbox("explain", own_box.root, "--syscalls")
    lines = {line.split()[0]: line.split()[1:] for line in table.stdout.splitlines() if line.split()}
    assert lines["ptrace"][:2] == ["errno", "EPERM"]
    assert lines["read"][0] == "allow"
    assert lines["ioctl"][0] == "arguments"
    document = json.loads(own_box.person.vsbox("explain", own_box.root, "--syscalls", "--json").stdout)
    said = {verdict["name"]: verdict["answer"] for verdict in document["syscalls"]}
    assert said["clone3"] == "errno ENOSYS"
    assert len(said) > 300


@OFF
def test_explain_says_that_there_is_no_filter(own_box: Box) -> None:
    ask_for(own_box, **DEGRADED)
    assert "no filter" in own_box.person.vsbox("explain", own_box.root, "--syscalls").stdout
    said = own_box.person.vsbox("explain", own_box.root, "--syscalls", "--json").stdout
    assert json.loads(said) == {"syscalls": None}


def test_what_explain_says_is_what_the_kernel_does(own_box: Box) -> None:
    """A few calls without consequence, each of another kind."""
    code = "import ctypes, json; c = ctypes.CDLL(None, use_errno=True)\nfound = {}\n"
    numbers = {"x86_64": {"vmsplice": 278, "ptrace": 101, "getpid": 39}}.get(
        os.uname().machine, {"vmsplice": 75, "ptrace": 117, "getpid": 172}
    )
    for name, number in numbers.items():
        code += f"r = c.syscall({number}, -1, 0, 0, 0); found[{name!r}] = ctypes.get_errno() if r == -1 else 0\n"
    said = own_box.person.vsbox("explain", own_box.root, "--syscalls", "--json").stdout
    answers = {verdict["name"]: verdict["answer"] for verdict in json.loads(said)["syscalls"]}
    meaning = {"errno EPERM": 1, "errno ENOSYS": 38, "allow": 0}
    assert says(own_box, code + "print(json.dumps(found))") == {name: meaning[answers[name]] for name in numbers}
