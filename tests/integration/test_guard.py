"""The guard in boxes: what is denied says why and what to do, what is allowed stays so, and it cannot be taken away."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from planted import wheel
from wrapped import NATIVE, make_project

from harness import PLAIN

if TYPE_CHECKING:
    from harness import Box, Person

PAIRS = [("user", "native"), ("user", "landlock"), ("root", "native")]
everyone = pytest.mark.parametrize(("person", "backend"), PAIRS, indirect=True)
each_tier = pytest.mark.parametrize(("person", "backend"), PAIRS[:2], indirect=True)
FILES = ("_sandbox.pth", "_sandbox_hook.py", "_sandbox_hook.bin", "_sandbox.json")
KEYS = {
    (""
    "time"), "pid", "verdict", "chain", "operation", "target", "distribution", "where", "program", "rule", "allow",
    "layer",
}  # fmt: skip
NO_GUARD = ("-I", "-S")

ATTEMPT = """
import ctypes, importlib.machinery, importlib.util, json, os, shutil, socket, sqlite3, subprocess, sys, urllib.request
def load(path):
    loader = importlib.machinery.ExtensionFileLoader(os.path.basename(path).partition(".")[0], path)
    importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
def call(path):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
def extend(path):
    base = sqlite3.connect(":memory:")
    base.enable_load_extension(True)
    base.load_extension(path)
def attempt(code, **names):
    try:
        exec(code, globals() | names)
    except BaseException as error:
        kinds = [kind.__name__ for kind in type(error).__mro__]
        return [kinds, getattr(error, "errno", None), getattr(error, "filename", None), str(error)]
    return "passed"
"""
ONE = ATTEMPT + "print(json.dumps(attempt(sys.argv[1], path=sys.argv[2])))"


@dataclass(frozen=True)
class Denied:
    """An exception inside."""

    kinds: list[str]
    number: int | None
    filename: str | None
    text: str

    @property
    def advice(self) -> list[str]:
        """The words after ``vsbox`` that are to be run outside."""
        found = re.search(r"to allow it, outside: vsbox (.*?)\)(: |$)", self.text)
        assert found is not None, self.text
        return shlex.split(found[1])


def python(box: Box, cwd: Path, *argv: object) -> subprocess.CompletedProcess[str]:
    return box.person.run([str(box.bin / "python"), *map(str, argv)], cwd=cwd)


def attempt(box: Box, cwd: Path, code: str, path: object, *options: str) -> Denied | None:
    """Run one statement inside; return the exception, if there was one."""
    done = python(box, cwd, *options, "-c", ONE, code, path)
    assert done.stdout, done.stderr
    found = json.loads(done.stdout)
    return None if found == "passed" else Denied(*found)


def records(box: Box) -> list[dict[str, Any]]:
    file = box.root / "home" / ".vsbox-denied.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def site_of(box: Box) -> Path:
    (found,) = (box.root / "inside").glob("lib/python3*/site-packages")
    return found


def own(person: Person, path: Path) -> Path:
    os.chown(path, person.uid, person.gid)
    return path


@pytest.fixture
def stand(place: Path, person: Person) -> Path:
    """Where commands start: granted for reading."""
    (place / "stand").mkdir()
    return own(person, place / "stand")


@pytest.fixture
def outside(place: Path, person: Person) -> Path:
    """A directory that nothing grants, with one of everything."""
    root = place / "outside"
    (root / "directory").mkdir(parents=True)
    person.write(root / "file", "a canary")
    person.write(root / "program", "#!/bin/sh\necho '\"passed\"'\n", mode=0o755)
    person.write(root / "database", "")
    extension = next(Path(sys.base_prefix).glob("lib*/python3*/lib-dynload/_queue*.so"), None) or next(
        Path(sys.base_prefix).glob("lib*/python3*/lib-dynload/_*.so")
    )
    shutil.copy(extension, root)
    os.rename(root / extension.name, root / "library.so")
    shutil.copy(root / "library.so", root / f"{extension.name.partition('.')[0]}.so")
    for path in (root, *root.iterdir()):
        own(person, path)
    return root


@pytest.fixture(scope="module")
def boxes(make_box: Callable[..., Box]) -> Iterator[Callable[..., Box]]:
    """A function that returns a box of this module, one for each purpose, that its tests may change."""
    made: dict[tuple[object, ...], Box] = {}

    def get(person: Person, backend: str, purpose: str, *options: str) -> Box:
        key = (person.uid, backend, purpose)
        if key not in made:
            made[key] = make_box(person, backend, *options, fresh=True)
        return made[key]

    yield get
    made.clear()


# ---- what is denied ----

READS = {
    "read": ("file", "open(path).read()"),
    "read by os.open": ("file", "os.close(os.open(path, os.O_RDONLY))"),
    "list": ("directory", "os.listdir(path)"),
    "scan": ("directory", "list(os.scandir(path))"),
    "execute": ("program", "os.execv(path, ['program'])"),
    "load a library": ("library.so", "ctypes.CDLL(path)"),
}
CHANGES = {
    "write": ("file", "open(path, 'w').close()"),
    "append": ("file", "open(path, 'a').close()"),
    "truncate": ("file", "os.truncate(path, 0)"),
    "change the mode": ("file", "os.chmod(path, 0o600)"),
    "open a database": ("database", "sqlite3.connect(path).execute('pragma schema_version').fetchall()"),
}
ENTRIES = {
    "write a new file": ("new", "open(path, 'w').close()"),
    "make a directory": ("new", "os.mkdir(path)"),
    "make a link": ("new", "os.symlink('target', path)"),
    "make a database": ("new", "sqlite3.connect(path).execute('create table t (x)').connection.commit()"),
    "rename": ("file", "os.rename(path, path + '-renamed')"),
    "remove": ("file", "os.remove(path)"),
    "remove a directory": ("directory", "os.rmdir(path)"),
}
OPERATIONS = READS | CHANGES | ENTRIES


def check_denial(denied: Denied, box: Box, path: object) -> None:
    """What every denial must be, whatever was tried."""
    assert "SandboxPermissionError" in denied.kinds
    assert "PermissionError" in denied.kinds
    assert ("FileNotFoundError" in denied.kinds) == ("SandboxFileNotFoundError" in denied.kinds)
    assert denied.filename == str(path)
    assert denied.text.endswith(repr(str(path)))
    assert os.strerror(denied.number or 0) in denied.text


@everyone
@pytest.mark.parametrize("operation", OPERATIONS)
def test_what_is_advised_is_what_it_takes(
    person: Person, backend: str, boxes: Callable[..., Box], stand: Path, outside: Path, operation: str
) -> None:
    box = boxes(person, backend, "advised", "--no-pip")
    name, code = OPERATIONS[operation]
    path = outside / name
    denied = attempt(box, stand, code, path)
    assert denied is not None
    check_denial(denied, box, path)
    reading = "--read" in denied.advice if operation == "open a database" else operation in READS
    allow, *options, root, granted = denied.advice
    assert (allow, options, root) == ("allow", ["--read"] if reading else [], str(box.root))
    unseen = backend != "landlock" and operation in {"write", "append", "open a database"}  # it may be a new one
    assert granted == str(outside if operation in ENTRIES or unseen else path)
    policy = box.root / "sandbox" / "sandbox.json"
    before = policy.read_text()
    try:
        person.vsbox(*denied.advice, check=True)
        assert attempt(box, stand, code, path) is None
    finally:
        person.write(policy, before)  # a granted path that is gone ends a start


LOOKS = {
    "remove a tree": ("directory", "shutil.rmtree(path)"),
    "remove a tree below": ("directory/below/x", "shutil.rmtree(path)"),
    "start a program there": ("directory", "subprocess.run(['/bin/true'], cwd=path, check=True)"),
    "start there, by a path": ("directory", "import pathlib; subprocess.run(['true'], cwd=pathlib.Path(path))"),
    "list attributes": ("file", "os.listxattr(path)"),
    "read an attribute": (
        "file", "try: os.getxattr(path, 'user.none')\nexcept OSError as e:\n    if e.errno != 61: raise"
    ),
}


@pytest.mark.parametrize(("person", "backend"), [PAIRS[0], PAIRS[2]], indirect=True)
@pytest.mark.parametrize("name", LOOKS)
def test_calls_that_look_first_are_explained_as_well(
    person: Person, backend: str, boxes: Callable[..., Box], stand: Path, outside: Path, name: str
) -> None:
    """What is not there inside is found missing by a call that is no event."""
    box = boxes(person, backend, "advised", "--no-pip")
    (outside / "directory" / "below" / "x").mkdir(parents=True)
    for path in (outside / "directory").rglob("*"):
        own(person, path)
    path = outside / LOOKS[name][0]
    denied = attempt(box, stand, LOOKS[name][1], path)
    assert denied is not None
    assert {"SandboxPermissionError", "FileNotFoundError"} <= set(denied.kinds)
    assert (denied.filename, denied.advice[0]) == (str(path), "allow")
    policy = box.root / "sandbox" / "sandbox.json"
    before = policy.read_text()
    try:
        person.vsbox(*denied.advice, check=True)
        assert attempt(box, stand, LOOKS[name][1], path) is None
    finally:
        person.write(policy, before)


@pytest.mark.parametrize(("person", "backend"), PAIRS[:1], indirect=True)
def test_a_file_that_a_url_names_is_noted(box: Box, stand: Path, outside: Path) -> None:
    """It is not there for ``urllib``, which looks first; what else a handler may do with it, the guard cannot know."""
    denied = attempt(box, stand, "urllib.request.urlopen('file://' + path)", outside / "file")
    assert denied is not None
    assert denied.kinds[0] == "URLError"
    assert ("read", str(outside / "file")) in {(record["operation"], record["target"]) for record in records(box)}


@each_tier
def test_a_tree_that_cannot_be_removed_is_left_to_who_asked(
    person: Person, backend: str, box: Box, stand: Path, outside: Path
) -> None:
    code = (
        "seen = []\nshutil.rmtree(path, ignore_errors=True)\n"
        "shutil.rmtree(path, onerror=lambda *said: seen.append(said))\nassert seen[0][1] == path"
    )
    assert attempt(box, stand, code, outside / "directory") is None
    assert (outside / "directory").is_dir()


@pytest.mark.parametrize(("person", "backend"), PAIRS[:1], indirect=True)
def test_an_extension_of_a_database_is_named(box: Box, stand: Path, outside: Path) -> None:
    for given in ("library.so", "library"):
        denied = attempt(box, stand, "extend(path)", outside / given)
        assert denied is not None
        assert {"SandboxPermissionError", "OperationalError"} <= set(denied.kinds)
        assert denied.advice == ["allow", "--read", str(box.root), str(outside / given)]


@pytest.mark.parametrize(("person", "backend"), [("user", "native")], indirect=True)
def test_names_of_addresses_are_not_asked_for_without_a_network(
    person: Person, backend: str, boxes: Callable[..., Box], stand: Path
) -> None:
    box = boxes(person, backend, "offline", "--no-pip", "--network", "none")
    denied = attempt(box, stand, "socket.gethostbyaddr('192.0.2.1')", "")
    assert denied is not None
    assert {"SandboxPermissionError", "herror"} <= set(denied.kinds)
    assert '"network": "host"' in denied.text
    assert attempt(box, stand, "socket.gethostbyaddr('127.0.0.1'); socket.getfqdn()", "") is None
    assert attempt(box, stand, "socket.getnameinfo(('192.0.2.1', 80), socket.NI_NUMERICHOST | 2)", "") is None


@everyone
def test_an_extension_module_elsewhere_is_named(box: Box, stand: Path, outside: Path) -> None:
    path = next(outside.glob("_*.so"))
    denied = attempt(box, stand, "load(path)", path)
    assert denied is not None
    check_denial(denied, box, path)
    assert denied.advice == ["allow", "--read", str(box.root), str(path)]


@pytest.mark.parametrize(("person", "backend"), [("user", "native")], indirect=True)
def test_a_socket_that_is_not_there_is_named(box: Box, stand: Path, outside: Path) -> None:
    path = outside / "s"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        own(box.person, path)
        denied = attempt(box, stand, "call(path)", path)
    assert denied is not None
    check_denial(denied, box, path)


@everyone
def test_a_file_is_named_that_lies_below_a_home_where_one_stands(box: Box, person: Person, outside: Path) -> None:
    denied = attempt(box, person.home, "open(path)", outside / "file")
    assert denied is not None
    check_denial(denied, box, outside / "file")


@everyone
def test_what_is_hidden_is_named(
    person: Person, backend: str, make_box: Callable[..., Box], stand: Path, outside: Path
) -> None:
    box = make_box(person, backend, "--no-pip", "--allow", str(outside), fresh=True)
    assert attempt(box, stand, "open(path)", outside / "file") is None
    if backend == "landlock":
        return  # cannot take away what lies below
    person.vsbox("deny", box.root, outside / "file", check=True)
    denied = attempt(box, stand, "open(path).read()", outside / "file")
    assert denied is not None
    check_denial(denied, box, outside / "file")


@everyone
@pytest.mark.parametrize("given", ["os.fsencode(path)", "__import__('pathlib').Path(path)", "os.path.relpath(path)"])
def test_the_path_may_be_given_in_any_way(box: Box, stand: Path, outside: Path, given: str) -> None:
    denied = attempt(box, stand, f"open({given})", outside / "file")
    assert denied is not None
    assert "SandboxPermissionError" in denied.kinds
    assert str(outside / "file") in denied.text


@everyone
def test_network_none_is_explained(person: Person, backend: str, make_box: Callable[..., Box], stand: Path) -> None:
    box = make_box(person, backend, "--network", "none")
    for code in ("socket.create_connection(('192.0.2.1', 9))", "socket.getaddrinfo('host.invalid', 80)"):
        denied = attempt(box, stand, code, "")
        assert denied is not None
        assert "SandboxPermissionError" in denied.kinds
        assert '"network": "host"' in denied.text
        assert f"{box.root}/sandbox/sandbox.json" in denied.text
    assert all("network" in record["rule"] for record in records(box)[-2:])
    own_host = attempt(box, stand, "socket.create_connection(('127.0.0.1', 9))", "")
    assert own_host is not None
    assert ("SandboxPermissionError" in own_host.kinds) == (backend == "landlock")  # where there is no socket at all


ERROR_NUMBERS = """
import asyncio, errno, os, socket, sys
with socket.socket() as sock:
    assert sock.connect_ex(("192.0.2.1", 9)) == errno.ENETUNREACH
with socket.socket(socket.AF_UNIX) as sock:
    assert sock.connect_ex(sys.argv[1]) == errno.ENOENT
    assert getattr(sock, "connect_ex")(sys.argv[1]) == errno.ENOENT
def both(sock, connect):
    return (sock.connect if connect else sock.connect_ex)(("192.0.2.1", 9))
with socket.socket() as sock:
    assert both(sock, False) == errno.ENETUNREACH
"""
LOOPBACK = """
import json, socket, sys
server = socket.create_server(("", 0))
port = server.getsockname()[1]
for host in ("LOCALHOST", b"127.0.0.1", "0", "127.1", "localhost"):
    with socket.socket() as sock:
        sock.connect((host, port))
with socket.socket(socket.AF_INET6) as sock:
    sock.connect(("::ffff:127.0.0.1", port))
socket.getaddrinfo("LOCALHOST", port)
try:
    socket.socket().connect((socket.gethostname(), port))
except OSError as error:
    assert type(error).__name__ in ("OSError", "gaierror", "ConnectionRefusedError"), repr(error)
socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).sendto(b"x" * 16, (0, 0))
"""


@pytest.mark.parametrize(("person", "backend"), [("user", "native"), ("root", "native")], indirect=True)
@pytest.mark.parametrize("code", [ERROR_NUMBERS, LOOPBACK], ids=["error numbers", "own host"])
def test_without_a_network_the_kernel_answers_the_rest(
    person: Person, backend: str, make_box: Callable[..., Box], stand: Path, outside: Path, code: str
) -> None:
    box = make_box(person, backend, "--network", "none")
    for options in (NO_GUARD, ()):
        done = python(box, stand, *options, "-c", code, outside / "s")
        assert done.returncode == 0, done.stderr
    assert records(box) or code == LOOPBACK


# ---- it denies nothing that the kernel allows ----

EVERYTHING = (
    ATTEMPT
    + """
table, names = map(json.loads, sys.argv[1:])
print(json.dumps({name: attempt(code, path=path) for name, (code, path) in table.items()}))
"""
)
ALLOWED = {
    "standard output": "open('/dev/stdout', 'w').close()",
    "standard error": "open('/dev/stderr', 'a').close()",
    "a descriptor's name": "open('/dev/fd/0').close()",
    "null": "open('/dev/null', 'r+b').close()",
    "random": "open('/dev/urandom', 'rb').read(1)",
    "own status": "open('/proc/self/status').read()",
    "own maps": "open('/proc/self/maps').read()",
    "own descriptors": "os.listdir('/proc/self/fd')",
    "own program": "open('/proc/self/exe', 'rb').read(4)",
    "a pipe's name": "r, w = os.pipe(); open(f'/proc/self/fd/{w}', 'w').close()",
    "working directory": "open('here').read()",
    "working directory, whole": "open(os.getcwd() + '/here').read()",
    "working directory, bytes": "open(b'here').read()",
    "working directory, path": "import pathlib; pathlib.Path('here').read_text()",
    "working directory, listed": "os.listdir(); os.listdir('.'); os.listdir(None); os.listdir(b'.')",
    "working directory, scanned": "list(os.scandir())",
    "working directory, dots": "open('../stand/here').read()",
    "a directory's descriptor": (
        "d = os.open('.', os.O_RDONLY); os.close(os.open('here', os.O_RDONLY, dir_fd=d)); "
        "os.listdir(d)"
    ),
    "temporary file": "import tempfile; tempfile.NamedTemporaryFile().write(b'x')",
    "temporary directory": (
        "import tempfile; d = tempfile.TemporaryDirectory(); open(d.name + '/x', 'w').close(); "
        "d.cleanup()"
    ),
    "unnamed temporary file": "import tempfile; tempfile.TemporaryFile().write(b'x')",
    "descriptor": "open(os.open('here', os.O_RDONLY)).read()",
    "home": "p = os.path.expanduser('~/guard-test'); open(p, 'w').close(); os.rename(p, p + '2'); os.remove(p + '2')",
    "home, by descriptor": (
        "d = os.open(os.path.expanduser('~'), os.O_RDONLY); os.mkdir('gd', dir_fd=d); "
        "os.rmdir('gd', dir_fd=d)"
    ),
    "home, entered": (
        "os.chdir(os.path.expanduser('~')); open('gx', 'w').close(); os.chmod('gx', 0o600); "
        "os.remove('gx')"
    ),
    "home, links": "os.chdir(os.path.expanduser('~')); os.symlink('/etc/nothing', 'gl'); os.unlink('gl')",
    "packages": "import sysconfig; p = sysconfig.get_path('purelib') + '/x.py'; open(p, 'w').close(); os.remove(p)",
    "cached code": (
        "import sysconfig, compileall; "
        "compileall.compile_dir(sysconfig.get_path('purelib') + '/nothing', quiet=2)"
    ),
    "programs": "import subprocess; subprocess.run(['/bin/true'], check=True); subprocess.run(['true'], check=True)",
    "python": "import subprocess; subprocess.run([sys.executable, '-c', ''], check=True)",
    "program of a directory": (
        "import pathlib, subprocess; subprocess.run(['./tool'], cwd='sub', check=True); "
        "subprocess.run([b'./tool'], cwd=b'sub', check=True); subprocess.run(['sub/tool'], cwd='.', check=True); "
        "subprocess.run(['./tool'], cwd=pathlib.Path('sub'), check=True)"
    ),
    "spawned": "assert os.waitpid(os.posix_spawn('/bin/true', ['true'], {}), 0)[1] == 0",
    "database in memory": "sqlite3.connect(':memory:').close(); sqlite3.connect('').execute('create table t (x)')",
    "database in home": "sqlite3.connect(os.path.expanduser('~/g.db')).execute('create table if not exists t (x)')",
    "database by a name": "sqlite3.connect('file:x?mode=memory', uri=True).close()",
    "modules": "import email.parser, ssl, multiprocessing, asyncio, xml.etree.ElementTree, decimal, zoneinfo",
    "shared memory": (
        "from multiprocessing import shared_memory; "
        "s = shared_memory.SharedMemory(create=True, size=9); s.unlink()"
    ),
    "processes": "import multiprocessing as m; assert m.get_context('fork').Pool(1).map(len, ['ab']) == [2]",
    "event loop": "import asyncio; asyncio.run(asyncio.sleep(0))",
    "library without a name": "ctypes.CDLL(None)",
    "library by name": "ctypes.CDLL('libc.so.6')",
    "abstract and own sockets": "p = os.path.expanduser('~/gs'); "
    "s = socket.socket(socket.AF_UNIX); s.bind(p); s.listen(); "
    "call(p); os.remove(p)",
    "own network": "s = socket.create_server(('127.0.0.1', 0)); socket.create_connection(s.getsockname())",
    "resolver": "socket.getaddrinfo('127.0.0.1', 80); socket.getaddrinfo('localhost', 80)",
    "system's files": "open('/etc/passwd').read(); os.listdir('/usr')",
    "copied file": "shutil.copy('here', os.path.expanduser('~/gc')); os.remove(os.path.expanduser('~/gc'))",
    "a tree that is not there": "shutil.rmtree('/srv/none/x', ignore_errors=True)",
    "times and owner of a link": (
        "p = os.path.expanduser('~/gv'); os.path.lexists(p) or os.symlink('/srv/none', p); "
        "os.utime(p, (0, 0), follow_symlinks=False); os.lchown(p, -1, -1)"
    ),
    "a link into the system": (
        "p = os.path.expanduser('~/gw'); os.path.lexists(p) or os.symlink('/usr/bin/env', p); "
        "os.utime(p, (0, 0), follow_symlinks=False)"
    ),
    "attributes of a link": (
        "p = os.path.expanduser('~/gz'); os.path.lexists(p) or os.symlink('/srv/none', p); "
        "os.listxattr(p, follow_symlinks=False)"
    ),
    "copied links": (
        "p = os.path.expanduser('~/gt1'); os.makedirs(p); os.symlink('/srv/none', p + '/l'); "
        "shutil.copytree(p, p + '2', symlinks=True); shutil.rmtree(p); shutil.rmtree(p + '2')"
    ),
    "a URL of one's own": (
        "K = type('K', (urllib.request.BaseHandler,), {'file_open': lambda self, request: 1}); "
        "opener = urllib.request.OpenerDirector(); opener.add_handler(K()); assert opener.open('file:///srv/none') == 1"
    ),
    "a file's URL": "urllib.request.urlopen('file:///etc/passwd').close()",
    "made and removed tree": (
        "p = os.path.expanduser('~/gt/a/b'); os.makedirs(p); "
        "shutil.rmtree(os.path.dirname(os.path.dirname(p)))"
    ),
    "through a link and back": "h = os.path.expanduser('~/gb'); os.makedirs(h + '/in', exist_ok=True); "
    "open('link/../new', 'w').close(); open(os.getcwd() + '/link/../new').close(); shutil.rmtree(h)",
    "times": "p = os.path.expanduser('~/gu'); open(p, 'w').close(); os.utime(p); os.truncate(p, 0); os.remove(p)",
    "hard link": "h = os.path.expanduser('~/'); open(h + 'g1', 'w').close(); "
    "os.link(h + 'g1', h + 'g2'); os.remove(h + 'g1'); "
    "os.remove(h + 'g2')",
}  # fmt: skip
NOT_EVERYWHERE = frozenset({
    "standard output", "standard error", "a descriptor's name",  # pipes that somebody else made
    "shared memory", "processes",  # need namespaces
    "attributes of a link",
})  # fmt: skip
WRONG = {
    "null in open": "open('a' + chr(0))", "no path": "open(None)", "number": "open(1.5)", "empty": "open('')",
    "null in list": "os.listdir('a' + chr(0))", "no directory": "os.listdir(1.5)",
    "null in mkdir": "os.mkdir('a' + chr(0))",
    "null in rename": "os.rename('a' + chr(0), 'b')", "null in exec": "os.execv('/a' + chr(0), ['x'])",
    "no flags": "os.open('a')", "no database": "sqlite3.connect(None)", "null in library": "ctypes.CDLL('/a' + chr(0))",
    "no address": "socket.socket().connect(1)", "bad descriptor": "os.listdir(99999)", "no file": "open('missing')",
    "no file below": "open('here/below')", "is a directory": "open('.')",
    "there already": "os.mkdir(os.path.expanduser('~'))",
    "no file, whole": "open(os.path.expanduser('~/missing'))", "no module": "import missing_module",
    "no program": "os.execv(os.path.expanduser('~/missing'), ['x'])",
}  # fmt: skip


def attempts(box: Box, cwd: Path, table: dict[str, tuple[str, str]], *options: str) -> dict[str, Any]:
    """Run statements inside, in one process; return how each ended."""
    done = python(box, cwd, *options, "-c", EVERYTHING, json.dumps(table), "{}")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@everyone
def test_nothing_allowed_is_denied(box: Box, stand: Path) -> None:
    box.person.write(stand / "here", "here")
    (stand / "sub").mkdir()
    box.person.write(stand / "sub" / "tool", "#!/bin/sh\n", mode=0o755)
    (stand / "link").symlink_to(box.root / "home" / "gb" / "in")
    table = {
        name: ("old = os.getcwd()\ntry:\n    " + code + "\nfinally:\n    os.chdir(old)", "")
        for name, code in ALLOWED.items()
    }
    kernel = attempts(box, stand, table, *NO_GUARD)
    guarded = attempts(box, stand, table)
    assert {name: guarded[name] for name in table if guarded[name] != "passed" and kernel[name] == "passed"} == {}
    assert set(table) - NOT_EVERYWHERE <= {name for name in table if guarded[name] == "passed"}


@everyone
def test_wrong_arguments_are_answered_as_ever(box: Box, stand: Path) -> None:
    box.person.write(stand / "here", "here")
    table = {name: (code, "") for name, code in WRONG.items()}
    kernel = attempts(box, stand, table, *NO_GUARD)
    guarded = attempts(box, stand, table)
    assert {name: (guarded[name], kernel[name]) for name in table if guarded[name] != kernel[name]} == {}
    assert "passed" not in kernel.values()


@everyone
def test_the_guard_answers_as_the_kernel_would(box: Box, stand: Path, outside: Path) -> None:
    """What passes the kernel passes the guard; what is not there for one is not there for the other."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(outside / "s"))
        server.listen()
        os.chmod(outside / "s", 0o777)
        table = {
            name: (code, str(outside / file))
            for name, (file, code) in OPERATIONS.items()
            if name not in {"open a database", "make a database", "load a library"}  # have no number of their own
        } | {
            "connect": ("call(path)", str(outside / "s")),
            "read what is not there": ("open(path)", str(outside / "missing")),
            "enter": ("os.chdir(path)", str(outside)),
            "change times": ("os.utime(path)", str(outside / "file")),
            "write to the system": ("open(path, 'w')", "/usr/vsbox-test"),
            "remove from the system": ("os.remove(path)", "/usr/bin/env"),
            "make in the root": ("os.mkdir(path)", "/vsbox-test"),
            "write where one stands": ("open(path, 'w')", "new"),
            "write to the policy": ("open(path, 'w')", str(box.root / "sandbox" / "sandbox.json")),
        }
        alone = {name: pair for name, pair in table.items() if name not in {"execute", "enter"}}
        kernel = attempts(box, stand, alone, *NO_GUARD)
        guarded = attempts(box, stand, alone)
    wrong = {name: (kernel[name][3] if kernel[name] != "passed" else "passed", guarded[name]) for name in alone
             if (kernel[name] == "passed") != (guarded[name] == "passed")}  # fmt: skip
    assert wrong == {}
    kinds = {name: ["FileNotFoundError" in result[name][0] for result in (kernel, guarded)] for name in alone
             if "passed" not in (kernel[name], guarded[name])}  # fmt: skip
    assert {name: pair for name, pair in kinds.items() if pair[0] != pair[1]} == {}
    assert list(outside.glob("new*")) == []


ANSWERS = {
    "make what is there": "os.mkdir(home)",
    "make what is there in the system": "os.mkdir('/usr/lib')",
    "make a link that is there": "os.symlink('x', '/usr/lib')",
    "link to what is there": "os.link(home + '/own', home + '/own')",
    "open anew what is there": "open('here', 'x')",
    "open anew what is there in the system": "open('/usr/lib/os-release', 'x')",
    "open anew a link that leads nowhere": "open('dangling', 'x')",
    "change what is not there": "open('missing', 'r+b')",
    "change what is not there, at home": "open(home + '/missing', 'r+b')",
    "mode of what is not there": "os.chmod('missing', 0o600)",
    "times of what is not there": "os.utime('missing')",
    "truncate what is not there": "os.truncate('missing', 0)",
    "remove what is not there": "os.remove('missing')",
    "remove a directory that is not there": "os.rmdir('missing')",
    "rename what is not there": "os.rename('missing', 'other')",
    "link what is not there": "os.link('missing', 'other')",
    "write below what is not there": "open('nodir/x', 'w')",
    "make below what is not there": "os.mkdir('nodir/x')",
    "write a directory": "open('sub', 'w')",
    "write below a file": "open('here/x', 'w')",
    "read below a file": "open('here/x')",
    "read what is not there": "open(os.getcwd() + '/missing')",
    "link across": "os.link('here', '/tmp/x-link')",
    "rename across": "os.rename('here', '/tmp/x-rename')",
    "rename within": "os.rename('here', 'here2')",
    "rename to a directory that is not there": "os.rename(home + '/own', home + '/nodir/x')",
    "maybe make": "os.close(os.open('/usr/lib/os-release', os.O_RDONLY | os.O_CREAT))",
    "append without writing": "os.close(os.open('/usr/lib/os-release', os.O_RDONLY | os.O_APPEND))",
    "truncate by reading": "os.close(os.open(os.path.realpath('/usr/lib/os-release'), os.O_RDONLY | os.O_TRUNC))",
    "by its name only": "os.close(os.open(os.getcwd(), os.O_PATH))",
    "an own file that is read-only": "os.chmod(home + '/own', 0o600); os.remove(home + '/own')",
    "a read-only file": "open(home + '/readonly', 'w')",
    "an unreadable directory": "open(home + '/closed/x', 'w')",
    "somebody's file": "open('private')",
    "somebody's file, written": "open('private', 'w')",
    "somebody's file, listed": "os.listdir('closed')",
    "remove a tree that is not there": "shutil.rmtree('missing')",
    "remove a tree of the system that is not there": "shutil.rmtree('/usr/missing')",
    "attributes of what is not there": "os.listxattr('missing')",
    "an extension nobody may load": "sqlite3.connect(':memory:').load_extension('/srv/none/x')",
    "an extension of what is closed": "c = sqlite3.connect(':memory:'); c.close(); c.load_extension('/srv/none/x')",
    "a program that cannot be read": "import subprocess; subprocess.run(['./secret-program'], check=False)",
    "a directory that cannot be read": "os.chdir(os.getcwd() + '/passage')",
}
NEVER_EXPLAINED = frozenset(ANSWERS) - {
    "rename within", "rename across", "link across", "truncate by reading", "remove what is not there",
    "remove a directory that is not there", "rename what is not there", "mode of what is not there",
}  # fmt: skip


@everyone
def test_what_fails_anyway_fails_as_ever(person: Person, backend: str, box: Box, stand: Path) -> None:
    (stand / "sub").mkdir()
    person.write(stand / "here", "here")
    (stand / "dangling").symlink_to("missing")
    for name, mode in (("private", 0o600), ("secret-program", 0o711)):
        (stand / name).write_text("#!/bin/true\n")
        os.chmod(stand / name, mode)
    for name, mode in (("closed", 0o700), ("passage", 0o711)):
        (stand / name).mkdir(mode=mode)
        os.chmod(stand / name, mode)
    begin = (
        "home = os.path.expanduser('~')\nfor name in ('/own', '/readonly'):\n"
        "    os.path.exists(home + name) or open(home + name, 'w').close()\n    os.chmod(home + name, 0o400)\n"
        "os.makedirs(home + '/closed', exist_ok=True); os.chmod(home + '/closed', 0o500)\n"
        "old = os.getcwd()\ntry:\n    "
    )
    table = {name: (begin + code + "\nfinally:\n    os.chdir(old)", "") for name, code in ANSWERS.items()}
    kernel = attempts(box, stand, table, *NO_GUARD)
    guarded = attempts(box, stand, table)

    def outcome(result: Any) -> Any:
        return result if result == "passed" else result[1]

    wrong = {name for name in table if outcome(kernel[name]) != outcome(guarded[name])}
    assert {name: (kernel[name], guarded[name]) for name in wrong} == {}
    plain = NEVER_EXPLAINED - ({"somebody's file, written"} if person.uid == 0 else frozenset())  # root's own
    different = {name: (kernel[name], guarded[name]) for name in plain if kernel[name] != guarded[name]}
    assert different == {}


OWN_MODES = """
import os, shutil
def said(action):
    try:
        action()
    except OSError as error:
        print(type(error).__name__, error)
    else:
        print("passed")
for name in ("f", "g"):
    open(name, "w").close()
    os.chmod(name, 0o400)
os.makedirs("d/e")
open("d/e/x", "w").close()
os.chmod("d", 0o500)
for action in (
    lambda: os.utime("f"), lambda: open("f", "a"), lambda: os.chmod("f", 0o600), lambda: os.remove("f"),
    lambda: os.chmod("d", 0), lambda: os.utime("d"), lambda: open("d/new", "w"), lambda: os.mkdir("d/new"),
    lambda: os.listdir("d"), lambda: os.chmod("d", 0o700), lambda: shutil.rmtree("d"),
    lambda: os.rename("g", "h"), lambda: os.remove("h"),
):
    said(action)
"""


@everyone
def test_modes_of_own_files_are_the_kernels(
    person: Person, backend: str, make_box: Callable[..., Box], stand: Path
) -> None:
    box = make_box(person, backend, "--no-pip", fresh=True)
    policy = box.root / "sandbox" / "sandbox.json"
    person.write(policy, json.dumps(json.loads(policy.read_text()) | {"working_directory": "write"}))
    plain, guarded = (python(box, stand, *options, "-c", OWN_MODES) for options in (NO_GUARD, ()))
    assert (guarded.stdout, guarded.stderr) == (plain.stdout, "")
    assert plain.stdout.count("passed") >= 9


@everyone
def test_what_is_not_there_where_one_stands_is_no_denial(
    person: Person, backend: str, boxes: Callable[..., Box], stand: Path, outside: Path
) -> None:
    """But what is not there in a home that is not shown is one: README."""
    box = boxes(person, backend, "records", "--no-pip")
    person.write(stand / "module.py", "import sub.module\n")
    (stand / "sub").mkdir()
    person.write(stand / "sub" / "module.py", "")
    before = len(records(box))
    code = "import sys; sys.path.insert(0, __import__('os').getcwd()); import module, missing"
    done = python(box, stand, "-c", code)
    assert "No module named 'missing'" in done.stderr
    for _ in range(2):
        denied = attempt(box, stand, "__import__('pathlib').Path(path).read_text()", stand / "config.toml")
        assert denied is not None
        assert denied.kinds[0] == "FileNotFoundError"
        assert "sandbox" not in denied.text
    assert records(box)[before:] == []
    (stand / "link").symlink_to(outside)
    for path in (outside / "file", person.home / ".ssh" / "id_ed25519", stand / "link" / "file"):
        denied = attempt(box, stand, "open(path)", path)
        assert denied is not None
        assert ("SandboxPermissionError" in denied.kinds) == (backend != "landlock" or path.exists())


@everyone
def test_relative_names_below_a_directory_that_is_not_granted(
    person: Person, backend: str, make_box: Callable[..., Box], place: Path
) -> None:
    """A descriptor is enough: the working directory counts for nothing."""
    (place / "given").mkdir()
    person.write(place / "given" / "file", "content")
    own(person, place / "given")
    box = make_box(person, backend, "--no-pip", "--allow-read", str(place / "given"), fresh=True)
    code = "d = os.open(path, os.O_RDONLY); os.chdir('/'); print(open(os.open('file', os.O_RDONLY, dir_fd=d)).read())"
    done = python(box, place, "-c", ATTEMPT + f"path = sys.argv[1]\n{code}", place / "given")
    assert (done.returncode, done.stdout) == (0, "content\n"), done.stderr


@everyone
def test_warnings_say_nothing_of_it(box: Box, stand: Path) -> None:
    done = python(box, stand, "-X", "dev", "-c", "print('ran')")
    assert (done.stdout, done.stderr) == ("ran\n", "")


# ---- records ----


@everyone
def test_a_record_says_everything(
    person: Person, backend: str, boxes: Callable[..., Box], stand: Path, outside: Path
) -> None:
    box = boxes(person, backend, "records", "--no-pip")
    script = person.write(
        stand / "script.py", "import sys\ntry:\n    open(sys.argv[1])\nexcept OSError as e:\n    print(e)\n"
    )
    before = len(records(box))
    text = python(box, stand, script, outside / "file").stdout
    (record,) = records(box)[before:]
    assert set(record) == KEYS
    assert record["where"] == f"{script}:3"
    assert record["target"] == str(outside / "file")
    assert record["program"] == "script.py"
    assert (record["verdict"], record["chain"], record["operation"], record["layer"]) == ("denied", [], "read", "guard")
    assert record["allow"] == f"vsbox allow --read {box.root} {outside}/file"
    assert record["allow"] in text
    assert f"your code ({script}:3)" in text


MANY = """
import sys
for number in range(int(sys.argv[2])):
    for _ in range(2):
        try:
            open(f"{sys.argv[1]}/missing-{number}")
        except OSError:
            pass
"""


@pytest.mark.parametrize(("person", "backend"), [("user", "native")], indirect=True)
def test_records_are_distinct_and_at_most_a_thousand(
    person: Person, backend: str, boxes: Callable[..., Box], stand: Path, outside: Path
) -> None:
    box = boxes(person, backend, "records", "--no-pip")
    before = len(records(box))
    assert python(box, stand, "-c", MANY, outside, 1200).returncode == 0
    found = [record["target"] for record in records(box)[before:]]
    assert len(found) == len(set(found)) == 1000


@each_tier
def test_a_link_in_place_of_the_records_is_not_followed(
    person: Person, backend: str, boxes: Callable[..., Box], stand: Path, outside: Path
) -> None:
    box = boxes(person, backend, "planted link", "--no-pip")
    kept, victim = box.root / "home" / ".vsbox-denied.jsonl", box.root / "home" / "victim"
    kept.unlink(missing_ok=True)
    person.write(victim, "untouched")
    plant = "import os, sys; os.symlink('victim', os.path.expanduser('~/.vsbox-denied.jsonl'))"
    assert python(box, stand, "-c", plant).returncode == 0
    denied = attempt(box, stand, "open(path)", outside / "file")
    assert denied is not None
    check_denial(denied, box, outside / "file")
    assert victim.read_text() == "untouched"
    kept.unlink()


# ---- on whose behalf ----


def spy(canary: Path) -> str:
    return (
        f"CANARY = {str(canary)!r}\ntry:\n    open(CANARY)\nexcept OSError as error:\n    SAID = str(error)\n"
        "def look():\n    open(CANARY + '-2')\n"
    )


def install(box: Box, cwd: Path, *words: object) -> subprocess.CompletedProcess[str]:
    pip = [str(box.bin / "pip"), "install", "--disable-pip-version-check", "--no-index", "--no-deps"]
    return box.person.run([*pip, *map(str, words)], cwd=cwd)


@everyone
def test_a_package_is_named(
    person: Person, backend: str, boxes: Callable[..., Box], stand: Path, outside: Path
) -> None:
    box = boxes(person, backend, "packages")
    for name in ("file-2", "file-3"):
        person.write(outside / name, "another canary")
    made = wheel(person, stand, "planted", "1.5", spy(outside / "file"))
    carrier = wheel(person, stand, "carrier", "2.0", "import planted\ndef carry():\n    planted.look()\n")
    done = install(box, stand, "--force-reinstall", made, carrier)
    assert done.returncode == 0, done.stderr
    before = len(records(box))
    said = python(box, stand, "-c", "import planted; print(planted.SAID)").stdout
    assert "to planted 1.5 (" in said
    assert re.search(r"planted/__init__\.py:3\)", said)
    failed = python(box, stand, "-c", "import carrier; carrier.carry()")
    assert "SandboxPermissionError" in failed.stderr or "SandboxFileNotFoundError" in failed.stderr
    assert "to planted 1.5 (" in failed.stderr
    at_import, through_carrier, at_run_time = records(box)[before:]
    assert (at_import["distribution"], at_import["chain"]) == ("planted 1.5", ["planted 1.5"])
    assert (through_carrier["distribution"], through_carrier["chain"]) == (
        "planted 1.5",
        ["planted 1.5", "carrier 2.0"],
    )
    assert (at_run_time["distribution"], at_run_time["chain"]) == ("planted 1.5", ["planted 1.5", "carrier 2.0"])
    assert at_run_time["target"] == f"{outside}/file-2"
    assert at_run_time["where"].endswith("/site-packages/planted/__init__.py:7")


@everyone
def test_python_started_by_python_is_guarded(box: Box, stand: Path, outside: Path) -> None:
    child = "[sys.executable, '-c', 'import sys; open(sys.argv[1])', sys.argv[1]]"
    code = f"import subprocess, sys; sys.exit(subprocess.run({child}).returncode)"
    done = python(box, stand, "-c", code, outside / "file")
    assert done.returncode == 1
    assert f"vsbox allow --read {box.root} {outside}/file" in done.stderr


@pytest.mark.index
@everyone
def test_an_sdist_is_named_while_it_is_built(
    person: Person, backend: str, boxes: Callable[..., Box], stand: Path, outside: Path
) -> None:
    box = boxes(person, backend, "packages")
    pip = [str(box.bin / "pip"), "install", "-q", "--disable-pip-version-check", "setuptools", "wheel"]
    person.run(pip, cwd=stand, check=True)
    files = {
        "PKG-INFO": "Metadata-Version: 2.1\nName: nosy\nVersion: 3.1\n",
        "pyproject.toml": '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n',
        "setup.py": f"from setuptools import setup\nopen({str(outside / 'file')!r})\n"
        "setup(name='nosy', version='3.1')\n",
    }
    made = stand / "nosy-3.1.tar.gz"
    with tarfile.open(made, "w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(f"nosy-3.1/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    own(person, made)
    before = len(records(box))
    done = install(box, stand, "--no-build-isolation", made)
    assert done.returncode == 1
    assert f"vsbox allow --read {box.root} {outside}/file" in done.stderr + done.stdout
    assert "to nosy 3.1 (" in done.stderr + done.stdout
    named = {(record["distribution"], record["chain"][0]) for record in records(box)[before:]}
    assert ("nosy 3.1", "nosy 3.1") in named  # pip itself is told something as well, without namespaces


# ---- missing or broken ----


@everyone
@pytest.mark.parametrize("name", ["_sandbox.pth", "._sandbox.pth.left"])
def test_a_directory_in_the_way_keeps_nobody_from_putting_it_back(
    person: Person, backend: str, boxes: Callable[..., Box], stand: Path, name: str
) -> None:
    box = boxes(person, backend, "broken", "--no-pip")
    (site_of(box) / name).unlink(missing_ok=True)
    person.run(["mkdir", "-p", str(site_of(box) / name / "full")], check=True)
    if name in FILES:
        assert python(box, stand, "-c", "print('ran')").returncode == 125
    person.vsbox("sync", box.root, check=True)
    assert python(box, stand, "-c", "print('ran')").stdout == "ran\n"


@everyone
@pytest.mark.parametrize("name", FILES)
def test_without_a_file_nothing_starts_until_sync(
    person: Person, backend: str, boxes: Callable[..., Box], stand: Path, outside: Path, name: str
) -> None:
    box = boxes(person, backend, "broken", "--no-pip")
    (site_of(box) / name).unlink()
    done = python(box, stand, "-c", "print('ran')")
    assert (done.returncode, done.stdout) == (125, "")
    assert "vsbox sync" in done.stderr
    person.vsbox("sync", box.root, check=True)
    assert attempt(box, stand, "pass", "") is None
    denied = attempt(box, stand, "open(path)", outside / "file")
    assert denied is not None
    check_denial(denied, box, outside / "file")


CHANGED = {
    "_sandbox.pth": "", "_sandbox_hook.py": "print('changed')", "_sandbox_hook.bin": "changed", "_sandbox.json": "{}",
}  # fmt: skip


@everyone
@pytest.mark.parametrize("name", FILES)
def test_a_changed_file_counts_for_nothing(
    person: Person, backend: str, boxes: Callable[..., Box], stand: Path, outside: Path, name: str
) -> None:
    box = boxes(person, backend, "broken", "--no-pip")
    before = (site_of(box) / name).read_bytes()
    person.write(site_of(box) / name, CHANGED[name])
    if backend == "landlock":
        done = python(box, stand, "-c", "print('ran')")
        assert (done.returncode, done.stdout) == (125, "")
        assert "vsbox sync" in done.stderr
        person.vsbox("sync", box.root, check=True)
    denied = attempt(box, stand, "open(path)", outside / "file")
    assert denied is not None
    check_denial(denied, box, outside / "file")
    person.vsbox("sync", box.root, check=True)
    assert (site_of(box) / name).read_bytes() == before


AWAY = """
import os, sys
outside, site = sys.argv[1:]
os.rename(site, site + "-away")
os.symlink(outside, site)
"""


@each_tier
def test_a_link_in_place_of_the_packages_is_refused(
    person: Person, backend: str, make_box: Callable[..., Box], stand: Path, outside: Path
) -> None:
    box = make_box(person, backend, "--no-pip", fresh=True)
    before = sorted(outside.iterdir())
    names = {"native": box.root / site_of(box).relative_to(box.root / "inside"), "landlock": site_of(box)}
    done = python(box, stand, *NO_GUARD, "-c", AWAY, outside, names[backend])
    assert done.returncode == 0, done.stderr
    assert site_of(box).is_symlink()
    started = python(box, stand, "-c", "print('ran')")
    assert (started.returncode, started.stdout) == (125, "")
    synced = person.vsbox("sync", box.root)
    assert synced.returncode not in (0, 1)
    assert "Traceback" not in synced.stderr
    assert sorted(outside.iterdir()) == before
    assert list(outside.rglob("*sandbox*")) == []


UNTOUCHABLE = """
import json, os, shutil, sys
site = sys.argv.pop(1)
def said(action):
    try:
        action()
    except OSError:
        return "denied"
    return "passed"
results = {}
for name in sys.argv[1:]:
    path = os.path.join(site, name)
    other = os.path.join(site, "other-" + name)
    open(other, "w").close()
    results |= {f"{what} {name}": said(action) for what, action in {
        "write": lambda: open(path, "w"), "append": lambda: open(path, "ab"), "remove": lambda: os.remove(path),
        "rename": lambda: os.rename(path, path + "-away"), "replace": lambda: os.replace(other, path),
        "mode": lambda: os.chmod(path, 0), "truncate": lambda: os.truncate(path, 0), "times": lambda: os.utime(path),
    }.items()}
    os.path.exists(other) and os.remove(other)
print(json.dumps(results))
"""


@pytest.mark.parametrize(("person", "backend"), [("user", "native"), ("root", "native")], indirect=True)
@pytest.mark.parametrize("options", [(), NO_GUARD], ids=["guarded", "kernel alone"])
def test_its_files_cannot_be_changed_from_inside(box: Box, stand: Path, options: tuple[str, ...]) -> None:
    before = {name: (site_of(box) / name).read_bytes() for name in FILES}
    inside = box.root / site_of(box).relative_to(box.root / "inside")
    done = python(box, stand, *options, "-c", UNTOUCHABLE, inside, *FILES)
    assert done.returncode == 0, done.stderr
    assert {name: result for name, result in json.loads(done.stdout).items() if result != "denied"} == {}
    assert {name: (site_of(box) / name).read_bytes() for name in FILES} == before
    assert python(box, stand, "-c", "").returncode == 0


# ---- wrap and unwrap ----


@pytest.mark.parametrize("person", ["user"], indirect=True)
def test_nothing_of_it_is_left_by_unwrap(person: Person, place: Path) -> None:
    project = make_project(person, place)
    assert project.wrap(*NATIVE).returncode == 0
    assert {path.name for path in project.environment.rglob("_sandbox*")} >= set(FILES)
    assert project.unwrap().returncode == 0
    assert [*project.environment.rglob("*_sandbox*"), *project.root.rglob(".vsbox-denied*")] == []
    assert project.run(PLAIN, "-c", "").returncode == 0
