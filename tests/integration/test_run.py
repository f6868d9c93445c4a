"""``vsbox.run`` and sessions: what goes in, what comes out, what is kept apart."""

from __future__ import annotations

import asyncio
import io
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

import vsbox
from vsbox import (
    CannotEnforceError,
    ConflictError,
    LauncherError,
    Limits,
    Outcome,
    PolicyError,
    RunError,
    Sandbox,
    SessionError,
    UsageError,
    arun,
    run,
)
from vsbox.launch import cell
from vsbox.plan import steps

tiers = pytest.mark.parametrize("tier", ["native", "landlock"])


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory of ours, outside of /tmp."""
    import shutil
    import tempfile

    path = Path(tempfile.mkdtemp(prefix="run-", dir=Path.home()))
    yield path
    shutil.rmtree(path, ignore_errors=True)


# ---- what comes out ----


@tiers
def test_a_run(tier: str) -> None:
    result = run("import sys; print('out'); print('err', file=sys.stderr)", backend=tier)
    assert (result.outcome, result.returncode, result.ok) == (Outcome.EXITED, 0, True)
    assert (result.stdout, result.stderr) == ("out\n", "err\n")
    assert not result.files
    assert result.usage.wall_seconds > 0
    assert result.receipt.tier == ("namespaces" if tier == "native" else "landlock")
    document = json.loads(result.to_json())
    assert (document["outcome"], document["stdout"]) == ("exited", "out\n")


@tiers
def test_statuses_and_signals(tier: str) -> None:
    assert run("import sys; sys.exit(3)", backend=tier).returncode == 3
    killed = run("import os; os.kill(os.getpid(), 11)", backend=tier)
    assert (killed.outcome, killed.returncode, killed.signal_name) == (Outcome.SIGNALED, -11, "SIGSEGV")
    with pytest.raises(RunError, match="status 3") as caught:
        run("import sys; sys.exit(3)", backend=tier, check=True)
    assert caught.value.result.returncode == 3


@tiers
def test_commands_and_scripts(tier: str, directory: Path) -> None:
    assert run(["sh", "-c", "echo $0 $1", "a", "b"], backend=tier).stdout == "a b\n"
    (directory / "prog.py").write_text("import sys; print(sys.argv[1:], __file__)")
    assert run(script=directory / "prog.py", args=["x"], backend=tier).stdout == f"['x'] {directory}/prog.py\n"
    with pytest.raises(LauncherError, match="cannot execute"):
        run(["no-such-command"], backend=tier)


@tiers
def test_bytes_are_kept(tier: str) -> None:
    result = run("import sys; sys.stdout.buffer.write(bytes(range(256)))", backend=tier)
    assert result.stdout_bytes == bytes(range(256))
    assert "\ufffd" in result.stdout


@tiers
def test_input_and_streams(tier: str, directory: Path) -> None:
    long = b"x" * 3_000_000
    assert run("import sys; print(len(sys.stdin.buffer.read()))", stdin=long, backend=tier).stdout == "3000000\n"
    assert run("pass", stdin=long, backend=tier).ok
    pieces: list[bytes] = []
    result = run("print('a'); print('b')", stdout=pieces.append, backend=tier)
    assert (b"".join(pieces), result.stdout) == (b"a\nb\n", "")
    run("print('c')", stdout=directory / "out", backend=tier)
    assert (directory / "out").read_text() == "c\n"
    assert run("print('d')", stdout="discard", backend=tier).stdout == ""


def test_code_is_measured_in_bytes() -> None:
    result = run("text = '" + "\U0001f600" * 50_000 + "'\nprint(len(text))", backend="native")
    assert result.stdout == "50000\n", result
    assert not run("'" + "\udcff" * 120_000 + "'", backend="native").ok
    with pytest.raises(UsageError, match="surrogate"):
        run("'\ud800'")


# ---- what goes in ----


HOST_THAT_IGNORES = """
import signal, sys, vsbox
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGUSR1})
with vsbox.Sandbox(backend=sys.argv[1]) as box:
    reply = box.run("import time; time.sleep(60)", timeout=0.5)
    print(reply.error, reply.alive)
    print(*box.run("[line for line in open('/proc/self/status').read().splitlines() if line[:3] == 'Sig']").value.data)
"""


@tiers
def test_no_signal_of_the_caller_stays_ignored_or_blocked(tier: str) -> None:
    """As in a background job of a shell, or in a thread that takes no signals. Python itself ignores two."""
    host = [sys.executable, "-c", HOST_THAT_IGNORES, tier]
    done = subprocess.run(host, capture_output=True, text=True, check=False)
    ignored = f"{1 << 12 | 1 << 24:016x}"  # SIGPIPE, SIGXFSZ
    assert done.stdout.startswith("KeyboardInterrupt True\n"), done.stderr
    assert f"SigBlk:\t{0:016x} SigIgn:\t{ignored} " in done.stdout


CLOSED = """
import os, sys, vsbox
for descriptor in map(int, sys.argv[2]):
    os.close(descriptor)
result = vsbox.run("import sys; print(sys.stdin.read()); print(2, file=sys.stderr)", stdin=b"0", backend=sys.argv[1])
with vsbox.Sandbox(backend=sys.argv[1]) as box:
    box.put("f", b"")
    found = (result.stdout, result.stderr, box.run("x = 1").ok and box.run("x").value.data, box.list())
    os._exit(found != ("0\\n", "2\\n", 1, ("f",)))
"""


@tiers
@pytest.mark.parametrize("closed", ["0", "12", "02", "012"])
def test_a_daemon_may_have_no_standard_streams(tier: str, closed: str, directory: Path) -> None:
    with (directory / "err").open("w") as errors:
        done = subprocess.run([sys.executable, "-c", CLOSED, tier, closed], stderr=errors, check=False)
    assert done.returncode == 0, (directory / "err").read_text()


@tiers
def test_nothing_of_the_caller_goes_in(tier: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "s")
    (directory / "secret").write_text("a canary")
    handle = os.open(directory / "secret", os.O_RDONLY)
    os.set_inheritable(handle, True)
    code = (
        f"import os\nprint(os.environ.get('SECRET'))\n"
        f"try:\n    print(open({str(directory / 'secret')!r}).read())\nexcept OSError:\n    print('denied')\n"
        f"try:\n    print(os.read({handle}, 99))\nexcept OSError:\n    print('closed')\n"
    )
    control = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, close_fds=False, check=True)
    assert control.stdout.splitlines() == ["s", "a canary", "b'a canary'"]
    assert run(code, backend=tier).stdout.splitlines() == ["None", "denied", "closed"]
    os.close(handle)


@tiers
def test_no_network_unless_asked(tier: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        code = f"import socket; socket.create_connection(('127.0.0.1', {server.getsockname()[1]}), 2); print('reached')"
        assert "reached" not in run(code, backend=tier).stdout
        assert "reached" in run(code, backend=tier, network="host").stdout


LIMITED = """
import ctypes, os, sys, vsbox
from vsbox.seccomp import bpf
from vsbox.seccomp.syscalls import architecture

def forbid(name):  # as a container's filter may
    arch = architecture(os.uname().machine)
    assembler = bpf.Assembler()
    call = assembler.branch(bpf.IF_EQUAL, arch.table[name], assembler.ret(0x50001), assembler.ret(0x7FFF0000))
    program = assembler.finish(assembler.load(bpf.NR_OFFSET, call))
    code = ctypes.create_string_buffer(program, len(program))
    class Filter(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]
    given = Filter(len(program) // 8, ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, ctypes.byref(given), 0, 0) == 0, ctypes.get_errno()

{limit}
code = '''
import os, socket
server = socket.create_server(("127.0.0.1", 80))
socket.create_connection(("127.0.0.1", 80)).close()
print(socket.if_nameindex(), os.readlink("/proc/self/ns/net") != {network!r}, os.listdir("/proc/self/fd"))
'''
result = vsbox.run(code, backend="native")
print(result.stdout or result.stderr, end="")
"""
LIMITS = {
    "nothing": "",
    "one processor": "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})",
    "entering": "forbid('setns')",
    "looking where it runs": "forbid('sched_getaffinity')",
}


@pytest.mark.parametrize("limit", LIMITS)
def test_a_network_of_its_own_is_made_whatever_else_is_limited(limit: str) -> None:
    code = LIMITED.replace("{limit}", LIMITS[limit]).replace("{network!r}", repr(os.readlink("/proc/self/ns/net")))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("[(1, 'lo')] True ['0', '1', '2', '3', '4']\n", "")


def test_a_plan_that_joins_no_network_gets_one_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    code, fresh = "import os; print(os.readlink('/proc/self/ns/net'))", Limits(disk_bytes=(1 << 30) - 4096)
    own = os.readlink("/proc/self/ns/net")
    assert run(code, backend="native", network="host").stdout.strip() == own
    encode = cell.encode
    monkeypatch.setattr(cell, "encode", lambda every: encode([s for s in every if not isinstance(s, steps.Loopback)]))
    assert run(code, backend="native", limits=fresh).stdout.strip() not in {"", own}


SEEN = """
import os
for name in {names!r}:
    try:
        os.close(os.open(f"/etc/{{name}}", os.O_RDONLY))
        print(name)
    except OSError:
        pass
"""


@tiers
def test_of_etc_a_run_sees_what_it_has_a_use_for(tier: str) -> None:
    names = ["hosts", "passwd", "resolv.conf", "gitconfig", "ssl/certs", "bash.bashrc", "hostname"]
    code = SEEN.format(names=[name for name in names if os.access(f"/etc/{name}", os.R_OK)])
    control = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"hosts", "resolv.conf", "bash.bashrc"} <= set(control)
    unseen = {"bash.bashrc", "hostname"} if tier == "native" else set()  # else programs see what they cannot open
    assert run(code, backend=tier).stdout.split() == [name for name in control if name not in unseen]
    assert run(code, backend=tier, read=["/etc/bash.bashrc"]).stdout.split() == [
        name for name in control if name not in unseen - {"bash.bashrc"}
    ]


@tiers
def test_git_works(tier: str) -> None:
    result = run(["sh", "-c", "git init -q . && git status --short"], backend=tier)
    assert (result.returncode, result.stderr) == (0, "")


LINKED = """
mount -t tmpfs none "$1" && mkdir "$1/up" "$1/work" "$1/kept" &&
mount -t overlay none -o lowerdir=/etc,upperdir="$1/up",workdir="$1/work" /etc || exit 77
for name in pip.conf bash.bashrc resolv.conf; do
    echo "$name" > "$1/kept/$name" && ln -sf "$1/kept/$name" "/etc/$name"
done
shift
exec "$@"
"""
NAMED = """
import sys, vsbox
code = "import sys\\nfor name in sys.argv[1:]: print(open('/etc/' + name).read(), end='')"
argv = [sys.executable, "-c", code, "pip.conf", "bash.bashrc", "resolv.conf"]
print(vsbox.run(argv, backend=sys.argv[1], read=["/etc/pip.conf", "/etc/bash.bashrc"]).stdout, end="")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="takes mounting over /etc, in a mount namespace of its own")
@tiers
def test_a_link_in_etc_that_is_named_is_where_it_is(tier: str, tmp_path: Path) -> None:
    argv = ["unshare", "--mount", "--propagation", "private", "sh", "-c", LINKED, "sh", tmp_path]
    argv += [sys.executable, "-c", NAMED, tier]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.returncode) == ("pip.conf\nbash.bashrc\nresolv.conf\n", 0), done.stderr


class Masked(str):
    """Text that hides what it is."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "***"


@tiers
def test_what_text_says_of_itself_counts_for_nothing(tier: str, tmp_path: Path) -> None:
    where = [run("import os; print(os.getcwd())", cwd=Masked(path), backend=tier).stdout for path in ("/usr", "/etc")]
    assert where == ["/usr\n", "/etc\n"]
    if tier == "native":
        code = "import os; print({'aa', 'bb'} & {*os.listdir('/')})"
        seen = [run(code, mounts={Masked(at): tmp_path}).stdout for at in ("/aa", "/bb")]
        assert seen == ["{'aa'}\n", "{'bb'}\n"]


@tiers
def test_files_and_what_changed(tier: str) -> None:
    code = (
        "import os\nopen('new', 'w')\nopen('d/old', 'a').write('x')\nos.remove('gone')\nprint(sorted(os.listdir('.')))"
    )
    result = run(code, files={"d/old": "old", "gone": b"", "kept": b"k"}, backend=tier)
    assert result.ok, result.stderr
    assert (result.files.created, result.files.modified, result.files.deleted) == (("new",), ("d/old",), ("gone",))


@tiers
def test_a_path_that_becomes_something_else(tier: str, directory: Path) -> None:
    path = directory / "p"
    path.touch()
    assert run(f"open('{path}', 'w')", write=[path], backend=tier).ok
    path.unlink()
    path.mkdir()
    assert run(f"open('{path}/f', 'w')", write=[path], backend=tier).ok
    (path / "f").unlink()
    path.rmdir()
    path.touch()
    assert run(f"open('{path}', 'w')", write=[path], backend=tier).ok


def test_what_is_hidden(directory: Path) -> None:
    for name in ("open", "secret"):
        (directory / name).mkdir()
        (directory / name / "f").write_text(f"a canary in {name}")
    code = f"import os\nfor name in ('open', 'secret'): print(os.listdir(f'{directory}/{{name}}'))"
    assert run(code, read=[directory]).stdout == "['f']\n['f']\n"
    assert run(code, read=[directory], hidden=[directory / "secret"]).stdout == "['f']\n[]\n"
    with pytest.raises(PolicyError, match="under another name"):
        run(code, workdir=directory, hidden=[directory / "secret"])
    with pytest.raises(UsageError, match="kept apart"):
        run(code, workdir=directory, hidden=[directory / "secret"], changes="capture")
    with pytest.raises(CannotEnforceError, match="no deny rules"):
        run(code, read=[directory], hidden=[directory / "secret"], backend="landlock")


@tiers
def test_a_working_directory(tier: str, directory: Path) -> None:
    (directory / "a").write_text("a")
    result = run("import os; print(os.getcwd()); open('b', 'w').write('b')", workdir=directory, backend=tier)
    assert result.stdout == ("/mnt\n" if tier == "native" else f"{directory}\n")
    assert (directory / "b").read_text() == "b"
    assert result.files.created == ("b",)
    denied = run("open('c', 'w')", workdir=directory, writable="none", backend=tier)
    assert not denied.ok
    assert not (directory / "c").exists()
    assert run("open('c', 'w')", workdir=directory, writable=[directory], backend=tier).ok


def test_what_the_host_would_execute_in_the_working_directory(directory: Path) -> None:
    """What is there cannot be changed where mounts protect it; what is new is named."""
    (directory / ".git").mkdir()
    (directory / ".git" / "config").write_text("mine")
    code = (
        "try:\n    open('.git/config', 'w')\nexcept OSError as e:\n    print(e.strerror)\n"
        "open('.envrc', 'w')"
    )
    result = run(code, workdir=directory, backend="native")
    assert result.stdout == "Read-only file system\n"
    assert (directory / ".git" / "config").read_text() == "mine"
    assert (result.files.created, result.files.protected) == ((".envrc",), (".envrc",))
    same = run("open('.git/config', 'w')", workdir=directory, mount_point=str(directory), backend="native")
    assert "Read-only" in same.stderr
    control = run(code, workdir=directory, backend="landlock")
    assert control.files.protected == (".envrc", ".git/config") or ".git/config" in control.files.protected


def test_places_inside(directory: Path) -> None:
    (directory / "data").write_text("data")
    code = "print(open('/data/data').read()); import os; print(os.getcwd())"
    result = run(code, mounts={"/data": directory}, workdir=directory, mount_point="/work")
    assert result.stdout == "data\n/work\n"
    assert "Read-only" in run("open('/data/x', 'w')", mounts={"/data": directory}).stderr
    assert run("open('/data/x', 'w')", mounts={"/data": directory}, writable=[directory]).ok
    assert run("import os; print(os.getcwd())", cwd="/tmp").stdout == "/tmp\n"


@tiers
def test_grants(tier: str, directory: Path) -> None:
    (directory / "f").write_text("f")
    path = str(directory / "f")
    assert run(f"print(open({path!r}).read())", read=[directory], backend=tier).stdout == "f\n"
    assert not run(f"open({path!r}, 'w')", read=[directory], backend=tier).ok
    assert run(f"open({path!r}, 'w').write('g')", write=[directory], backend=tier).ok
    assert (directory / "f").read_text() == "g"


@tiers
def test_packages(tier: str, directory: Path) -> None:
    import msgspec

    code = "import msgspec; print(msgspec.__file__)"
    assert run(code, backend=tier).stdout.strip() == msgspec.__file__
    subprocess.run([sys.executable, "-m", "vsbox", "-q", "--no-pip", directory / "box"], check=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", directory / "plain"], check=True)
    for name in ("box", "plain"):
        found = run(
            "import sys; print(sys.prefix != sys.base_prefix)\nimport msgspec", packages=directory / name, backend=tier
        )
        assert found.stdout == "True\n", found.stderr
        assert "ModuleNotFoundError" in found.stderr
        target = "inside/x" if name == "box" and tier == "landlock" else "x"
        assert not run(f"open({str(directory / name / target)!r}, 'w')", packages=directory / name, backend=tier).ok


def test_code_of_any_length() -> None:
    assert run(f"x = '{'a' * 240_000}'\nprint(len(x))").stdout == "240000\n"


@tiers
def test_numpy_sized_reservations_do_not_count(tier: str) -> None:
    code = "import mmap; m = mmap.mmap(-1, 8 << 30); m[0] = 1; print('reserved')"
    assert run(code, limits=Limits(memory_bytes=300 << 20), backend=tier).stdout == "reserved\n"


GONE = """
import os, sys, tempfile, vsbox
place = tempfile.mkdtemp()
os.chdir(place)
os.rmdir(place)
print(vsbox.run("print(1)", read=["/etc/hostname"], backend=sys.argv[1]).stdout)
try:
    vsbox.run("1", read=["x"])
except vsbox.UsageError as error:
    print(error)
"""


@tiers
def test_the_working_directory_may_be_gone(tier: str) -> None:
    done = subprocess.run([sys.executable, "-c", GONE, tier], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("1\n\ncannot use x: the working directory is gone\n", "")


@tiers
def test_python_may_be_started_by_a_link_from_anywhere(tier: str, tmp_path: Path) -> None:
    (tmp_path / "python3").symlink_to(os.path.realpath(sys.executable))
    path = os.pathsep.join(filter(None, sys.path))
    code = f"import vsbox; print(vsbox.run('print(1)', backend={tier!r}).stdout, end='')"
    argv, variables = [tmp_path / "python3", "-c", code], {"PYTHONPATH": path}
    done = subprocess.run(argv, env=variables, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("1\n", "")


@tiers
def test_long_code_is_as_short_code_is(tier: str) -> None:
    code = "import sys, helper\nprint(sys.path[0] == '', sys.argv, helper.x, __name__)\n1 / 0\n"
    files = {"helper.py": "x = 5"}
    short, long = (run(text, files=files, backend=tier) for text in (code, code + "#" * 200_000))
    assert short.stdout == long.stdout == "True ['-c'] 5 __main__\n"
    assert 'File "<string>", line 3, in <module>' in long.stderr


@tiers
def test_refused_calls_are_named(tier: str) -> None:
    code = "import ctypes; c = ctypes.CDLL(None); c.ptrace(0, 0, 0, 0); c.unshare(0x10000000)"
    result = run(code, backend=tier)
    assert [violation.call for violation in result.violations] == ["ptrace"]
    assert "other processes" in result.violations[0].reason


# ---- what makes no sense ----

BAD = {
    "nothing": ({}, UsageError),
    "both": ({"code": "pass", "script": "x"}, UsageError),
    "empty": ({"code": ""}, UsageError),
    "bytes": ({"code": b"pass"}, UsageError),
    "timeout": ({"code": "pass", "timeout": -1}, UsageError),
    "files": ({"code": "p", "files": {"../x": b""}}, UsageError),
    "absolute": ({"code": "p", "files": {"/etc/x": b""}}, UsageError),
    "workdir": ({"code": "p", "workdir": "/none"}, UsageError),
    "variable": ({"code": "p", "env": {"a=b": "c"}}, UsageError),
    "packages": ({"code": "p", "packages": "/usr"}, UsageError),
    "backend": ({"code": "p", "backend": "docker"}, UsageError),
    "writable": ({"code": "p", "writable": "some"}, UsageError),
    "args": ({"code": "p", "args": ["x"]}, UsageError),
    "capture": ({"code": "p", "changes": "capture"}, UsageError),
    "root": ({"code": "p", "write": ["/"]}, PolicyError),
    "NUL in workdir": ({"code": "p", "workdir": "/a\0"}, UsageError),
    "NUL in read": ({"code": "p", "read": ["/a\0"]}, UsageError),
    "NUL in mount_point": ({"code": "p", "mount_point": "/a\0"}, UsageError),
    "NUL in cwd": ({"code": "p", "cwd": "/a\0"}, UsageError),
    "NUL in a target": ({"code": "p", "stdout": "/a\0"}, UsageError),
    "a surrogate in mount_point": ({"code": "p", "mount_point": "/\ud800"}, UsageError),
    "a surrogate in cwd": ({"code": "p", "cwd": "/\ud800"}, UsageError),
    "a surrogate in stdin": ({"code": "p", "stdin": "\ud800"}, UsageError),
    "a surrogate in a file": ({"code": "p", "files": {"a": "\ud800"}}, UsageError),
    "a surrogate in code": ({"code": "'\ud800'"}, UsageError),
    "a surrogate in long code": ({"code": "'\ud800'" + "#" * 200_000}, UsageError),
    "a surrogate in a command": ({"code": ["echo", "\ud800"]}, UsageError),
    "a surrogate in env": ({"code": "p", "env": {"A": "\ud800"}}, UsageError),
    "a relative mount_point": ({"code": "p", "mount_point": "a"}, UsageError),
    "a mount_point that goes up": ({"code": "p", "mount_point": "/a/../b"}, UsageError),
    "the root as mount_point": ({"code": "p", "mount_point": "/"}, UsageError),
    "network": ({"code": "p", "network": "x"}, UsageError),
    "aspect": ({"code": "p", "allow_degraded": ["x"]}, UsageError),
    "one path": ({"code": "p", "read": "/usr"}, UsageError),
    "no stdin": ({"code": "p", "stdin": None}, UsageError),
    "a number as stdin": ({"code": "p", "stdin": 5}, UsageError),
    "a number as code": ({"code": 5}, UsageError),
    "a number in a command": ({"code": ["echo", 1]}, UsageError),
    "a number in env": ({"code": "p", "env": {"A": 1}}, UsageError),
    "a number as content": ({"code": "p", "files": {"a": 1}}, UsageError),
    "a dict as limits": ({"code": "p", "limits": {"processes": 1}}, UsageError),
    "a long name": ({"code": "p", "files": {"a" * 300: ""}}, UsageError),
    "a file as a directory": ({"code": "p", "files": {"a": "", "a/b": ""}}, UsageError),
    "a decimal as timeout": ({"code": "p", "timeout": Decimal(3)}, UsageError),
    "a list as changes": ({"code": "p", "changes": []}, UsageError),
    "a list as backend": ({"code": "p", "backend": []}, UsageError),
    "text output": ({"code": "p", "stdout": io.StringIO()}, UsageError),
    "output nowhere": ({"code": "p", "stdout": "/none/x"}, UsageError),
    "a directory as output": ({"code": "p", "stdout": "/usr"}, UsageError),
    "a directory as script": ({"script": "/usr"}, UsageError),
    "files to capture": ({"code": "p", "changes": "capture", "workdir": "/usr", "files": {"a": b""}}, UsageError),
}


@pytest.mark.parametrize(("options", "kind"), BAD.values(), ids=BAD)
def test_bad_arguments_are_refused(options: dict[str, object], kind: type[Exception]) -> None:
    with pytest.raises(kind):
        run(**options)  # type: ignore[arg-type]


@tiers
@pytest.mark.parametrize("files", [{"a" * 300: ""}, {"a": "", "a/b": ""}], ids=["long", "both"])
def test_files_that_cannot_be_put_in_are_refused(tier: str, files: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="cannot put"):
        run("pass", files=files, backend=tier)


def test_files_that_fill_the_disk_are_refused() -> None:
    for options in ({"code": "pass", "files": {"a": bytes(1 << 20)}}, {"code": "#" * 200_000}):
        with pytest.raises(UsageError, match="No space left"):
            run(**options, limits=Limits(disk_bytes=64 << 10))  # type: ignore[arg-type]


@pytest.mark.parametrize("timeout", [float("inf"), float("nan"), 0, -1, 1e11, "1", True], ids=repr)
def test_what_is_no_time_is_refused(timeout: object) -> None:
    with pytest.raises(UsageError, match="bad timeout"):
        run("pass", timeout=timeout)  # type: ignore[arg-type]


@tiers
def test_what_python_takes_for_bytes_is_taken(tier: str) -> None:
    assert run([b"echo", b"\xc3\xa9"], backend=tier).stdout == "\u00e9\n"
    code = "import sys\nprint(sys.stdin.buffer.read(), open('f', 'rb').read(), sys.argv[1:])"
    given = {"stdin": "\udcff", "files": {"f": bytearray(b"\xff")}}
    assert run(code, backend=tier, **given).stdout == "b'\\xff' b'\\xff' []\n"  # type: ignore[arg-type]
    if tier == "native":
        long = run(f"print({'é' * 60_000!r}[:1])")
        assert long.stdout == "\u00e9\n", long.stderr


def test_what_vsbox_runs_from_cannot_be_granted_for_writing() -> None:
    with pytest.raises(PolicyError, match="vsbox itself"):
        run("pass", write=[Path(vsbox.__file__).parent])


def test_a_required_limit_is_exact_or_refused() -> None:
    limits = Limits(memory_bytes=300 << 20, required=("memory_bytes",))
    hog = "x = bytearray(600 << 20); x[::4096] = b'x' * len(x[::4096])"
    if os.geteuid() == 0:
        assert run(hog, limits=limits).outcome is Outcome.MEMORY
        return
    with pytest.raises(CannotEnforceError, match="control group"):
        run(hog, limits=limits)


def test_limits_that_are_none_are_refused() -> None:
    bad = {"memory_bytes": -1, "processes": 0, "cpu_seconds": "1", "disk_bytes": None, "idle_seconds": True}
    for name, value in bad.items():
        with pytest.raises(UsageError, match=f"bad limit {name}"):
            Limits(**{name: value})  # type: ignore[arg-type]
    large = {"open_files": 1 << 65, "cpu_seconds": 1e30, "disk_bytes": 1 << 64, "idle_seconds": 1e300}
    for name, value in large.items():
        with pytest.raises(UsageError, match=f"bad limit {name}"):
            Limits(**{name: value})  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="not set"):
        Limits(required=("processes",))
    with pytest.raises(CannotEnforceError, match="watched"):
        run("pass", limits=Limits(idle_seconds=5, required=("idle_seconds",)))
    with pytest.raises(CannotEnforceError, match="watched"):
        run("pass", limits=Limits(required=("disk_bytes",)), backend="landlock")
    assert run("pass", limits=Limits(required=("disk_bytes",)), backend="native").ok


@tiers
def test_a_script_in_the_working_directory(tier: str, directory: Path) -> None:
    (directory / "prog.py").write_text("import beside; print(beside.X)")
    (directory / "beside.py").write_text("X = 7")
    assert run(script=directory / "prog.py", workdir=directory, backend=tier).stdout == "7\n"


@tiers
def test_captured_changes_count_for_the_disk(tier: str, directory: Path) -> None:
    code = "f = open('big', 'wb')\nwhile True: f.write(b'x' * (1 << 20))"
    result = run(code, workdir=directory, changes="capture", limits=Limits(disk_bytes=20 << 20), backend=tier)
    assert result.outcome is Outcome.DISK
    assert not list(directory.iterdir())


def test_memory_of_the_caller_does_not_count() -> None:
    mine = bytearray(300 << 20)
    mine[::4096] = b"x" * len(mine[::4096])
    result = run("import time; time.sleep(0.2)")
    assert 1 << 20 < result.usage.peak_memory_bytes < 200 << 20


# ---- async ----


def test_async_runs_and_cancelling() -> None:
    async def main() -> None:
        results = await asyncio.gather(*(arun(f"print({n})") for n in range(8)))
        assert [result.stdout for result in results] == [f"{n}\n" for n in range(8)]
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.01)
                ticks += 1

        ticker = asyncio.ensure_future(tick())
        await arun("import time; time.sleep(0.3)")
        assert ticks > 5
        ticker.cancel()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(arun("import time; time.sleep(60)"), 0.3)
        with pytest.raises(UsageError):
            await arun("pass", timeout=-1)
        with pytest.raises(TypeError):
            await arun("pass", no_such=1)

    before = threading.active_count()
    asyncio.run(main())
    assert threading.active_count() == before


# ---- changes ----


@pytest.fixture
def project(directory: Path) -> Path:
    (directory / "kept").write_text("kept\n")
    (directory / "old.txt").write_text("one\ntwo\n")
    (directory / "gone").write_text("gone\n")
    (directory / "tree" / "below").mkdir(parents=True)
    (directory / "tree" / "below" / "f").write_text("f")
    (directory / "made").mkdir()
    (directory / "made" / "before").write_text("before")
    return directory


EDIT = (
    "import os, shutil\nopen('old.txt', 'w').write('one\\n2\\n')\n"
    "os.remove('gone')\nopen('new.txt', 'w').write('new\\n')\n"
    "os.makedirs('deep/er')\nopen('deep/er/x', 'wb').write(bytes([0, 1]))\nos.symlink('kept', 'link')\n"
    "shutil.rmtree('tree')\nshutil.rmtree('made')\nos.mkdir('made')\nopen('made/after', 'w').write('after')\n"
    "open('kept', 'a').close()"
)


@tiers
def test_changes_are_kept_apart_and_applied(tier: str, project: Path) -> None:
    before = sorted(project.rglob("*"))
    result = run(EDIT, workdir=project, changes="capture", backend=tier)
    assert result.ok, result.stderr
    assert sorted(project.rglob("*")) == before
    assert (project / "old.txt").read_text() == "one\ntwo\n"
    changes = result.changes
    assert changes is not None
    assert changes.method == result.receipt.changes == ("overlay" if tier == "native" else "copy")
    files = changes.files
    assert set(files.created) == {"new.txt", "deep/er/x", "link", "made/after"}
    assert files.modified == ("old.txt",)
    assert {"gone", "tree/below/f", "made/before"} <= set(files.deleted)
    patch = changes.patch()
    assert "--- a/old.txt\n+++ b/old.txt\n" in patch
    assert "-two\n+2\n" in patch
    assert "link link -> kept" in patch
    assert "binary deep/er/x (2 bytes)" in patch
    changes.apply(project)
    assert (project / "old.txt").read_text() == "one\n2\n"
    assert not (project / "gone").exists()
    assert not (project / "tree").exists()
    assert [path.name for path in (project / "made").iterdir()] == ["after"]
    assert os.readlink(project / "link") == "kept"
    assert not list(project.rglob(".vsbox-*"))


@tiers
def test_one_file_may_be_applied(tier: str, project: Path) -> None:
    changes = run(EDIT, workdir=project, changes="capture", backend=tier).changes
    assert changes is not None
    assert changes.apply(project, only=["new.txt"]) == ("new.txt",)
    assert (project / "gone").exists()
    with pytest.raises(UsageError):
        changes.apply(project, only=["kept"])


@tiers
def test_a_conflict_changes_nothing(tier: str, project: Path) -> None:
    changes = run(EDIT, workdir=project, changes="capture", backend=tier).changes
    assert changes is not None
    (project / "old.txt").write_text("mine\n")
    with pytest.raises(ConflictError, match=r"old\.txt"):
        changes.apply(project)
    assert (project / "old.txt").read_text() == "mine\n"
    assert (project / "gone").exists()
    assert not (project / "new.txt").exists()


FULL = """
import resource, signal, sys, vsbox
code = "open('a', 'w').write('small'); open('b', 'w').write('x' * 100_000); open('c', 'w').write('small')"
changes = vsbox.run(code, workdir=sys.argv[1], changes="capture", backend=sys.argv[2]).changes
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    changes.apply(sys.argv[1])
except vsbox.VsboxError as error:
    print(error, error.hint, sep="; ")
"""


@tiers
def test_what_cannot_be_written_leaves_nothing_of_it(tier: str, tmp_path: Path) -> None:
    """As on a full disk: the kernel lets no file grow further."""
    argv = [sys.executable, "-c", FULL, str(tmp_path), tier]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("cannot apply b: File too large; 1 of 3 changes are applied\n", "")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@tiers
def test_what_the_host_would_execute_is_not_applied_unasked(tier: str, project: Path) -> None:
    code = "import os; os.makedirs('.git/hooks'); open('.git/hooks/pre-commit', 'w').write('x'); open('fine', 'w')"
    changes = run(code, workdir=project, changes="capture", backend=tier).changes
    assert changes is not None
    with pytest.raises(ConflictError, match="would execute"):
        changes.apply(project)
    assert not (project / ".git").exists()
    assert not (project / "fine").exists()
    changes.apply(project, allow_protected=True)
    assert (project / ".git" / "hooks" / "pre-commit").exists()


@tiers
def test_links_lead_nowhere_when_changes_are_applied(tier: str, project: Path, tmp_path: Path) -> None:
    """Between the run and applying, a directory becomes a link: what it leads to stays as it is."""
    (tmp_path / "outside").mkdir()
    code = "import os; os.makedirs('made/sub'); open('made/sub/x', 'w').write('x')"
    changes = run(code, workdir=project, changes="capture", backend=tier).changes
    assert changes is not None
    (project / "made" / "sub").symlink_to(tmp_path / "outside")
    with pytest.raises(ConflictError):
        changes.apply(project)
    assert not list((tmp_path / "outside").iterdir())


@tiers
@pytest.mark.parametrize("other", ["link", "file"])
def test_nothing_is_applied_where_the_way_is_blocked(tier: str, other: str, project: Path, tmp_path: Path) -> None:
    code = "open('kept', 'a').write('more\\n'); open('tree/below/new', 'w').write('new')"
    changes = run(code, workdir=project, changes="capture", backend=tier).changes
    assert changes is not None
    (project / "tree").rename(project / "elsewhere")
    (project / "tree").symlink_to(tmp_path) if other == "link" else (project / "tree").write_text("a file")
    with pytest.raises(ConflictError, match="tree/below/new: it has changed since"):
        changes.apply(project)
    assert (project / "kept").read_text() == "kept\n"


# ---- sessions ----


@tiers
def test_a_session_keeps_its_variables(tier: str) -> None:
    with Sandbox(backend=tier) as box:
        assert box.run("import math\nx = 20\nprint('set')").stdout == "set\n"
        reply = box.run("{'x': x + 1, 'pi': round(math.pi, 2)}")
        assert reply.value is not None
        assert (reply.value.type, reply.value.data) == ("dict", {"x": 21, "pi": 3.14})
        failed = box.run("def f():\n    return 1 / 0\nf()")
        assert (failed.outcome, failed.error, failed.alive) == (Outcome.EXITED, "ZeroDivisionError", True)
        assert "return 1 / 0" in failed.traceback
        assert box.run("x").value.data == 20  # type: ignore[union-attr]
        assert box.run("object()").value.json is None  # type: ignore[union-attr]
        assert box.run("def").error == "SyntaxError"
        assert box.run("x = 3").value is None
    assert not box.alive
    with pytest.raises(SessionError):
        box.run("1")


@tiers
def test_calls_are_interrupted(tier: str) -> None:
    with Sandbox(backend=tier) as box:
        box.run("x = 1")
        late = box.run("import time\ntime.sleep(60)", timeout=0.3)
        assert (late.outcome, late.error, late.alive) == (Outcome.TIMEOUT, "KeyboardInterrupt", True)
        threading.Timer(0.3, box.interrupt).start()
        assert box.run("time.sleep(60)").outcome is Outcome.CANCELLED
        assert box.run("x").value.data == 1  # type: ignore[union-attr]
        stubborn = "while True:\n    try:\n        time.sleep(60)\n    except KeyboardInterrupt:\n        pass"
        gone = box.run(stubborn, timeout=0.3)
        assert (gone.outcome, gone.alive) == (Outcome.TIMEOUT, False)
        with pytest.raises(SessionError):
            box.run("1")


WAIT = "import time; time.sleep(60)"
ENDS = {
    "exit": ("import sys; sys.exit(3)", Outcome.EXITED),
    "killed": ("import os; os.kill(os.getpid(), 9)", Outcome.SIGNALED),
    "no channel": (f"import os; os.close(4)\n{WAIT}", Outcome.CANCELLED),
    "rubbish": (f"import os; os.write(4, b'\\x05\\0\\0\\0hello')\n{WAIT}", Outcome.CANCELLED),
    "flood": ("while True: print('x' * 10000)", Outcome.OUTPUT),
    "hog": ("x = []\nwhile True: x.append(b'x' * (10 << 20))", Outcome.MEMORY),
    "an answer too long": (f"import os; os.write(4, b'\\xff\\xff\\xff\\xff')\n{WAIT}", Outcome.OUTPUT),
}


@tiers
@pytest.mark.parametrize(("code", "outcome"), ENDS.values(), ids=ENDS)
def test_sessions_end_with_a_cause(tier: str, code: str, outcome: Outcome) -> None:
    limits = Limits(memory_bytes=300 << 20, output_bytes=1 << 20)
    with Sandbox(backend=tier, limits=limits) as box:
        reply = box.run(code, timeout=2 if "sleep" in code else None)
        assert reply.outcome in {outcome, Outcome.TIMEOUT}
        assert not reply.alive or reply.outcome is Outcome.TIMEOUT
    with Sandbox(backend=tier) as again:
        assert again.run("1").ok


@tiers
def test_a_call_has_limits_of_its_own(tier: str) -> None:
    with Sandbox(backend=tier, limits=Limits(cpu_seconds=20)) as box:
        busy = "import time\nend = time.process_time() + 0.5\nwhile time.process_time() < end: pass"
        assert box.run(busy, limits=Limits(cpu_seconds=5)).ok
        assert box.run(busy, limits=Limits(cpu_seconds=5)).ok
        reply = box.run("while True: pass", limits=Limits(cpu_seconds=0.5))
        assert (reply.outcome, reply.alive) == (Outcome.CPU, False)
        assert reply.limit is not None
        assert reply.limit.limit == 0.5
    with Sandbox(backend=tier) as box:
        flood = box.run("print('x' * 100_000)", limits=Limits(output_bytes=1000))
        assert flood.outcome is Outcome.OUTPUT
    with Sandbox(backend=tier, limits=Limits(output_bytes=1000)) as box:
        assert box.run("print('x' * 100_000)", limits=Limits(output_bytes=64 << 20)).ok
        assert box.run("print('x' * 100_000)").outcome is Outcome.OUTPUT


@tiers
def test_what_is_hostile_stays_data(tier: str) -> None:
    """A forged answer is at most an answer; a pickle is bytes."""
    forged = (
        "import json, os, struct\n"
        "v = {'type': 'int', 'text': '7', 'json': '__import__(\"os\")'}\n"
        "a = json.dumps({'id': 2, 'kind': 'value', 'value': v})\n"
        "os.write(4, struct.pack('<I', len(a)) + a.encode())\n"
    )
    with Sandbox(backend=tier) as box:
        box.run("x = 1")
        reply = box.run(forged)
        assert reply.value is not None
        try:  # which of the two answers came first is no matter
            assert isinstance(reply.value.data, int)
        except ValueError:
            assert reply.value.text == "7"


@tiers
def test_files_of_a_session(tier: str, directory: Path, tmp_path: Path) -> None:
    (tmp_path / "given").write_text("g")
    with Sandbox(backend=tier, files={"given": tmp_path / "given"}) as box:
        box.put("a/b.txt", "text")
        assert box.run("open('given').read() + open('a/b.txt').read()").value.data == "gtext"  # type: ignore[union-attr]
        box.run("open('out.bin', 'wb').write(bytes(range(256)))")
        assert box.get("out.bin") == bytes(range(256))
        assert box.list() == ("a/b.txt", "given", "out.bin")
        box.run(
            f"import os; os.symlink({str(directory)!r}, 'out'); os.symlink('/etc/hostname', 'name'); os.mkfifo('pipe')"
        )
        for name in ("out/x", "name", "pipe", "missing", "a"):
            with pytest.raises(OSError, match=r"\w"):
                box.get(name)
        with pytest.raises(OSError, match=r"\w"):
            box.put("out/x", "through a link")
        assert not list(directory.iterdir())
        with pytest.raises(UsageError):
            box.put("../x", "")


@tiers
def test_a_session_in_a_directory_of_ours(tier: str, directory: Path) -> None:
    with Sandbox(backend=tier, workdir=directory) as box:
        box.run("open('made', 'w').write('m')")
    assert (directory / "made").read_text() == "m"


def test_rich_values_are_artifacts() -> None:
    code = (
        "class Table:\n    def _repr_html_(self): return '<table></table>'\n"
        "    def _repr_png_(self): return b'png'\nTable()"
    )
    with Sandbox() as box:
        found = [(a.media, a.data) for a in box.run(code).artifacts]
    assert found == [("text/html", b"<table></table>"), ("image/png", b"png")]


def test_an_async_session() -> None:
    async def main() -> None:
        async with Sandbox() as box:
            assert (await box.run("x = 2; x")).value.data == 2  # type: ignore[union-attr]
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(box.run("import time; time.sleep(60)"), 0.3)
            assert (await box.run("x")).value.data == 2  # type: ignore[union-attr]
            await box.put("f", "f")
            assert await box.get("f") == b"f"
            assert await box.list() == ("f",)
            stubborn = "while True:\n    try:\n        time.sleep(60)\n    except KeyboardInterrupt:\n        pass"
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(box.run(stubborn), 0.3)
            assert not box.alive

    before = threading.active_count()
    asyncio.run(main())
    assert threading.active_count() == before


def test_streaming_of_a_session() -> None:
    pieces: list[bytes] = []
    with Sandbox(on_stdout=pieces.append) as box:
        assert box.run("print('a')").stdout == ""
    assert b"".join(pieces) == b"a\n"


def test_importing_loads_nothing() -> None:
    code = "import sys, vsbox; print(sorted(m for m in sys.modules if m.startswith(('vsbox.', 'msgspec', 'click'))))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_every_public_name_is_there() -> None:
    assert all(getattr(vsbox, name) for name in vsbox.__all__)
    assert set(vsbox.__all__) <= set(dir(vsbox))
    with pytest.raises(AttributeError):
        _ = vsbox.no_such_name  # type: ignore[attr-defined]


def test_the_running_python_may_have_been_called_from_anywhere() -> None:
    """Control: the directory on the way is not there inside."""
    with tempfile.TemporaryDirectory(dir=Path.home()) as place:
        code = "import vsbox; print(vsbox.run('print(1)', backend='native', check=True).stdout, end='')"
        argv = [os.path.relpath(sys.executable, place), "-c", code]
        done = subprocess.run(argv, cwd=place, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("1\n", "")
