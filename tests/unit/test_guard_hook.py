"""What the guard answers by its configuration alone, in a plain interpreter: no kernel confines anything here."""

from __future__ import annotations

import ast
import builtins
import contextlib
import json
import os
import pickle
import socket
import sqlite3
import subprocess
import symtable
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vsbox.guard.hook.grants import Grants
from vsbox.guard.hook.guard import SandboxFileNotFoundError, SandboxPermissionError
from vsbox.guard.hook.paths import path_of_url
from vsbox.guard.hook.reports import MOST_BYTES, MOST_RECORDS
from vsbox.guard.hook.words import as_host, is_address, is_own_host, quoted
from vsbox.guard.install import HOOK, NOTHING, PARTS, hook_source
from vsbox.guard.records import read_records

SOURCE = hook_source().decode()
SYSTEM = ("/usr", "/lib", "/etc", "/proc", "/dev/null", os.path.realpath(sys.base_prefix), os.path.dirname(os.__file__))
BEGIN = """
import json, sys, types
guard = types.ModuleType("_sandbox_hook")
exec(compile(sys.argv[1], "_sandbox_hook.py", "exec"), guard.__dict__)
guard.install(json.loads(sys.argv[2]))
exec(compile(sys.argv[3], sys.argv[4], "exec"), {"guard": guard, "argv": sys.argv[5:]})
"""
PLAIN = os.path.realpath(sys.executable)


def config(**keys: Any) -> dict[str, Any]:
    """Return the configuration of a guard that no kernel helps."""
    texts = {"root": "/the/box", "tier": "none", "mode": "enforce", "network": "host"}
    return NOTHING | {"read": SYSTEM} | texts | keys


def run(code: str, *arguments: object, name: str = "<string>", **keys: Any) -> subprocess.CompletedProcess[str]:
    """Run code in an interpreter with that guard."""
    argv = [PLAIN, "-I", "-S", "-c", BEGIN, SOURCE, json.dumps(config(**keys)), code, name, *arguments]
    return subprocess.run(list(map(str, argv)), capture_output=True, text=True, check=False, timeout=60)


def printed(code: str, *arguments: object, **keys: Any) -> Any:
    """Return what code prints as JSON."""
    done = run(code, *arguments, **keys)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A directory that nothing grants, with a file in it."""
    real = tmp_path.resolve()
    (real / "file").write_text("content")
    return real


# ---- the program ----


def test_the_modules_are_one_program_without_a_name_that_is_missing_or_taken_twice() -> None:
    table = symtable.symtable(SOURCE, "_sandbox_hook.py", "exec")
    defined = {symbol.get_name() for symbol in table.get_symbols() if symbol.is_assigned() or symbol.is_imported()}
    tables, used = [table], set()
    while tables:
        part = tables.pop()
        tables += part.get_children()
        used |= {symbol.get_name() for symbol in part.get_symbols() if symbol.is_global() and symbol.is_referenced()}
    assert used - defined - set(dir(builtins)) == {"__file__"}
    nodes = [node for node in ast.parse(SOURCE).body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    assert len({node.name for node in nodes}) == len(nodes) > 20
    assert {*PARTS, "first", "__init__"} == {path.stem for path in HOOK.glob("*.py")}


# ---- what is granted ----


@pytest.mark.parametrize(
    ("path", "level"),
    [
        ("/", 0), ("/data", 1), ("/data/x", 1), ("/database", 0), ("/dat", 0), ("/data/mine", 2), ("/data/mine/x/y", 2),
        ("/data/mine/secret", 0), ("/data/mine/secret/x", 0), ("/data/mine/secret/shown", 1), ("/data/mine/secrets", 2),
        ("", 0), ("relative", 0),
    ],
)  # fmt: skip
def test_the_most_specific_grant_counts(path: str, level: int) -> None:
    lists = {"read": ("/data", "/data/mine/secret/shown"), "write": ("/data/mine",), "hidden": ("/data/mine/secret",)}
    assert Grants(config(**lists), set()).level(path) == level


PATHS = st.lists(st.sampled_from("ab"), max_size=4).map(lambda parts: "/" + "/".join(parts))


@given(st.dictionaries(PATHS, st.sampled_from(("hidden", "read", "write"))), PATHS)
def test_every_path_has_the_level_of_its_nearest_ancestor(grants: dict[str, str], path: str) -> None:
    lists = {kind: tuple(p for p in grants if grants[p] == kind) for kind in ("hidden", "read", "write")}
    ancestors = [path, *map(str, Path(path).parents)]
    nearest = next((grants[a] for a in ancestors if a in grants), "hidden")
    assert Grants(config(**lists), set()).level(path) == ("hidden", "read", "write").index(nearest)


OUTCOMES = """
import errno, json, os
def outcome(action):
    try:
        action()
    except OSError as error:
        return [type(error).__name__, errno.errorcode.get(error.errno, error.errno), error.filename]
    return "passed"
"""


def test_files_are_answered_by_level(place: Path) -> None:
    for name in ("shown", "mine", "mine/secret"):
        (place / name).mkdir()
        (place / name / "file").write_text("content")
    code = OUTCOMES + (
        "p, = argv\n"
        "print(json.dumps({f'{mode} {name}': outcome(lambda: open(f'{p}/{name}/file', mode).close())\n"
        "    for mode in 'ra' for name in ('.', 'shown', 'mine', 'mine/secret')}))"
    )
    lists = {"read": (*SYSTEM, f"{place}/shown"), "write": (f"{place}/mine",), "hidden": (f"{place}/mine/secret",)}
    passed = {"r shown", "r mine", "a mine"}
    assert printed(code, place, **lists) == {
        f"{mode} {name}": "passed"
        if f"{mode} {name}" in passed
        else ["SandboxPermissionError", "EACCES", f"{place}/{name}/file"]
        for mode in "ra"
        for name in (".", "shown", "mine", "mine/secret")
    }


def test_links_and_dots_lead_where_they_lead(place: Path) -> None:
    (place / "mine").mkdir()
    (place / "mine" / "link").symlink_to(place / "file")
    (place / "link-to-mine").symlink_to(place / "mine")
    (place / "mine" / "file").write_text("own")
    code = OUTCOMES + (
        "p, = argv\nos.chdir(p + '/mine')\n"
        "names = ('link', '../file', p + '/mine/../file', p + '/link-to-mine/file', 'file', p + '//mine///file')\n"
        "print(json.dumps([outcome(lambda: open(name).close()) == 'passed' for name in names]))"
    )
    assert printed(code, place, write=(f"{place}/mine",)) == [False, False, False, True, True, True]


def test_a_link_itself_may_be_removed_where_it_is(place: Path) -> None:
    (place / "mine").mkdir()
    (place / "mine" / "link").symlink_to(place / "file")
    code = OUTCOMES + "print(json.dumps(outcome(lambda: os.remove(argv[0])) == 'passed'))"
    assert printed(code, place / "mine" / "link", write=(f"{place}/mine",)) is True
    assert (place / "file").read_text() == "content"


# ---- what a denial says ----


def test_a_denial_names_path_code_rule_and_advice(place: Path) -> None:
    kept = place / "records"
    code = (
        "import json\ntry:\n    open(argv[0])\nexcept PermissionError as error:\n"
        "    print(json.dumps([str(error), error.errno, error.strerror, error.filename, type(error).__module__]))"
    )
    text, number, cause, filename, module = printed(code, place / "file", name="/made/up.py", records=[str(kept)])
    assert (number, filename, module) == (13, str(place / "file"), "vsbox")
    assert cause in text
    assert f"vsbox allow --read /the/box {place}/file" in cause
    assert "to your code (/made/up.py:3)" in cause
    (record,) = records(kept)
    assert {"time", "pid"} == {*record} - {
        "verdict", "chain", "operation", "target", "distribution", "where", "program", "rule", "allow", "layer"
    }  # fmt: skip
    assert record["verdict"] == "denied"
    assert record["where"] == "/made/up.py:3"
    assert record["target"] == str(place / "file")
    assert record["allow"] == f"vsbox allow --read /the/box {place}/file"
    assert "/the/box/sandbox/sandbox.json" in record["rule"]
    assert (record["operation"], record["distribution"], record["chain"], record["layer"]) == ("read", "", [], "guard")


def test_errors_are_what_programs_catch() -> None:
    assert issubclass(SandboxPermissionError, PermissionError)
    assert issubclass(SandboxFileNotFoundError, SandboxPermissionError)
    assert issubclass(SandboxFileNotFoundError, FileNotFoundError)
    error = SandboxFileNotFoundError(2, "text", "/name")
    assert (error.errno, error.strerror, error.filename) == (2, "text", "/name")


PICKLED = """
import json, pickle, socket, sqlite3
found = []
for action in (lambda: open(argv[0]), lambda: sqlite3.connect(argv[0]), lambda: socket.getaddrinfo('host.invalid', 80)):
    try:
        action()
    except OSError as error:
        again = pickle.loads(pickle.dumps(error))
        found.append([type(error).__name__, type(again).__name__])
        assert again.args[:2] == (error.errno, error.strerror), again.args
        assert getattr(again, "filename", error.filename) == error.filename
print(json.dumps(found))
"""


def test_another_process_is_told_by_a_kind_that_it_knows(place: Path) -> None:
    missing = SandboxFileNotFoundError(2, "text", "/name")
    again = pickle.loads(pickle.dumps(missing))
    assert (type(again), str(again)) == (FileNotFoundError, str(missing))
    assert printed(PICKLED, place / "file", network="none") == [
        ["SandboxPermissionError", "PermissionError"],
        ["SandboxDatabaseError", "OperationalError"],
        ["SandboxResolveError", "gaierror"],
    ]


def test_log_mode_reports_and_lets_pass(place: Path) -> None:
    kept = place / "records"
    done = run("print(open(argv[0]).read())", place / "file", mode="log", records=[str(kept)])
    assert (done.returncode, done.stdout) == (0, "content\n")
    assert done.stderr == f"vsbox: would deny: read {place}/file\n"
    (record,) = records(kept)
    assert (record["verdict"], record["target"]) == ("would deny", str(place / "file"))


def test_log_mode_lets_the_network_pass(place: Path) -> None:
    kept = place / "records"
    code = (
        "import socket\nsock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\ntry:\n"
        "    sock.connect(('192.0.2.1', 9))\n"
        "except PermissionError:\n    raise SystemExit(3)\nexcept OSError:\n    pass"
    )
    done = run(code, mode="log", network="none", records=[str(kept)], write=(str(place),))
    assert (done.returncode, done.stdout) == (0, "")
    assert [(r["verdict"], r["target"]) for r in records(kept)] == [("would deny", "192.0.2.1 port 9")]


# ---- records ----


TWICE = """
for name in argv[1:] * 2:
    try:
        open(argv[0] + '/' + name)
    except PermissionError:
        pass
"""


def test_one_record_for_each_thing(place: Path) -> None:
    kept = place / "records"
    for name in ("a", "b"):
        (place / name).touch()
    assert run(TWICE, place, "a", "b", "a", records=[str(kept)]).returncode == 0
    assert [os.path.basename(r["target"]) for r in records(kept)] == ["a", "b"]
    assert kept.stat().st_mode & 0o777 == 0o600


def test_installing_twice_watches_once(place: Path) -> None:
    kept = place / "records"
    code = f"import json\nguard.install(json.loads({json.dumps(config(records=[str(kept)]))!r}))\n{TWICE}"
    assert run(code, place, "file", records=[str(kept)]).returncode == 0
    assert len(records(kept)) == 1


def test_never_more_than_a_thousand_records(place: Path) -> None:
    kept = place / "records"
    code = (
        f"for number in range({MOST_RECORDS + 200}):\n    try:\n        open(f'{{argv[0]}}/{{number}}')\n"
        "    except PermissionError:\n        pass\n    else:\n        raise SystemExit(3)"
    )
    assert run(code, place, records=[str(kept)]).returncode == 0
    assert len(records(kept)) == MOST_RECORDS == 1000


def test_a_full_file_grows_no_more(place: Path) -> None:
    kept = place / "records"
    kept.write_bytes(b"x" * MOST_BYTES)
    assert run(TWICE, place, "file", records=[str(kept)]).returncode == 0
    assert kept.stat().st_size == MOST_BYTES


def test_a_link_at_the_place_of_the_records_is_not_followed(place: Path) -> None:
    victim, link, second = place / "victim", place / "link", place / "second"
    victim.write_text("untouched")
    link.symlink_to(victim)
    assert run(TWICE, place, "file", records=[str(link), str(second)]).returncode == 0
    assert victim.read_text() == "untouched"
    assert len(records(second)) == 1


def test_denials_do_not_need_a_place_for_records(place: Path) -> None:
    done = run("open(argv[0])", place / "file", records=[str(place / "missing" / "records")])
    assert "SandboxPermissionError" in done.stderr


@pytest.mark.parametrize("name", ['quote"s', "back\\slash", "new\nline", "um\u00e4l\U0001f600", "escape\x1b[2J"])
def test_any_name_makes_one_line(place: Path, name: str) -> None:
    kept = place / "records"
    (place / name).touch()
    assert run(TWICE, place, name, records=[str(kept)]).returncode == 0
    assert [r["target"] for r in records(kept)] == [str(place / name)]


def test_a_name_that_is_no_text_makes_one_line(place: Path) -> None:
    kept = place / "records"
    code = "import os\ntry:\n    open(os.fsencode(argv[0]) + b'/\\xff')\nexcept PermissionError:\n    pass"
    assert run(code, place, records=[str(kept)]).returncode == 0
    assert [r["target"] for r in records(kept)] == [f"{place}/\\udcff"]
    assert read_records([kept]).unreadable == 0


LONG = """
import os
name = argv[0] + '/' + "d'" * 5000
for path in (name, os.fsencode(argv[0]) + b'/' + b'\\xff' * 5000):
    try:
        open(path)
    except PermissionError:
        pass
"""


def test_what_is_too_long_is_cut(place: Path) -> None:
    kept = place / "records"
    assert run(LONG, place, name="/made/" + "up" * 5000, records=[str(kept)]).returncode == 0
    found = read_records([kept])
    assert (len(found.records), found.unreadable) == (2, 0)


@settings(max_examples=500)
@given(st.text(st.characters(exclude_categories=())))
def test_quoted_is_json(text: str) -> None:
    line = quoted(text)
    assert json.loads(line) == text.encode("utf-8", "backslashreplace").decode()
    assert all(32 <= ord(c) < 127 for c in line)


# ---- alone, it refuses whatever happens ----


UNEXPECTED = {
    "arguments that are no text": "sys.argv = [5]",
    "no arguments": "del sys.argv",
    "a file's name that is more than text": (
        "class Name(str):\n    def startswith(self, *a): raise ValueError\n"
        "    def __ne__(self, other): raise ValueError\n    __eq__ = __ne__\n    __hash__ = str.__hash__\n"
        "__file__ = globals()['__file__'] = Name('x')"
    ),
    "a working directory that is gone": (
        "import tempfile; d = tempfile.mkdtemp(dir=argv[1]); os.chdir(d); os.rmdir(d)"
    ),
    "a path that is more than text": (
        "class Path(str):\n    def startswith(self, *a): return False\n    def rstrip(self, *a): return argv[1]\n"
        "    def __contains__(self, other): return True\nargv[0] = Path(argv[0])"
    ),
    "an entry of a directory that has a link to all": "argv[0] = '/proc/self/root' + argv[0]",
    "links of its own": "os.symlink(argv[0], argv[1] + '/link'); argv[0] = argv[1] + '/link'",
}
TAKEN = """
print(json.dumps([outcome(action) == "passed" for action in (
    lambda: open(argv[0]).close(), lambda: os.close(os.open(argv[0], os.O_RDONLY)),
    lambda: open(argv[0], 'a').close(), lambda: os.listdir(os.path.dirname(argv[0])),
)]))
"""


@pytest.mark.parametrize("name", UNEXPECTED)
def test_alone_it_refuses_whatever_happens(place: Path, name: str) -> None:
    (place / "mine").mkdir()
    code = OUTCOMES + "import sys\n" + UNEXPECTED[name] + TAKEN
    lists = {"write": (f"{place}/mine",), "records": [f"{place}/mine/records"]}
    assert printed(code, place / "file", place / "mine", **lists) == [False, False, False, name.startswith("links")]


RELATIVE = """
import tempfile
above = os.getcwd()
d = tempfile.mkdtemp(dir=argv[1])
os.chdir(d)
os.rmdir(d)
print(json.dumps(outcome(lambda: open("../../file").close())[:2]))
"""


def test_alone_it_refuses_what_it_cannot_tell(place: Path) -> None:
    (place / "mine").mkdir()
    lists = {"write": (f"{place}/mine",)}
    assert printed(OUTCOMES + RELATIVE, place, place / "mine", **lists) == ["SandboxPermissionError", "EACCES"]


def test_the_root_may_be_entered() -> None:
    assert printed(OUTCOMES + "print(json.dumps([outcome(lambda: os.chdir('/')), outcome(os.listdir)]))")[0] == "passed"


# ---- the network ----


@pytest.mark.parametrize(
    "host",
    [
        "localhost", "LOCALHOST", "127.0.0.1", b"127.0.0.1", bytearray(b"localhost"), "127.8.9.10", "127.1", "::1",
        "::1%lo", "", "0", "0.0.0.0", "::", "::ffff:127.0.0.1",
    ],
)  # fmt: skip
def test_own_hosts(host: object) -> None:
    assert is_own_host(as_host(host))


@pytest.mark.parametrize(
    "host",
    ["host.invalid", "192.0.2.1", "2001:db8::1", "1270.0.0.1", "local", b"local", "1", "::ffff:192.0.2.1", "1::"],
)
def test_other_hosts(host: object) -> None:
    assert not is_own_host(as_host(host))


@pytest.mark.parametrize(
    ("host", "wanted"),
    [
        ("192.0.2.1", True),
        ("2001:db8::1", True),
        ("1", True),
        ("host.invalid", False),
        ("1.host.invalid", False),
        ("1.2.3.x", False),
    ],
)
def test_addresses_are_told_from_names(host: str, wanted: bool) -> None:
    assert is_address(host) is wanted


NETWORK = (
    OUTCOMES
    + """
import socket
def send(): socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'', ('192.0.2.1', 9))
def message(): socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendmsg([b''], [], 0, ('192.0.2.1', 9))
ACTIONS = {
    'connect': lambda: socket.socket().connect(('192.0.2.1', 9)),
    'connect by version 6': lambda: socket.socket(socket.AF_INET6).connect(('2001:db8::1', 9)),
    'send': send, 'send a message': message,
    'resolve': lambda: socket.getaddrinfo('host.invalid', 80),
    'resolve bytes': lambda: socket.getaddrinfo(b'host.invalid', 80),
    'resolve in the old way': lambda: socket.gethostbyname('host.invalid'),
    'resolve by the other way': lambda: socket.gethostbyaddr('host.invalid'),
    'name an address': lambda: socket.gethostbyaddr('192.0.2.1'),
    'name an address anew': lambda: socket.getnameinfo(('192.0.2.1', 80), 0),
    'name the own host': lambda: socket.gethostbyaddr('127.0.0.1'),
    'name the own host anew': lambda: socket.getnameinfo(('127.0.0.1', 80), 0),
    'resolve the own host': lambda: socket.getaddrinfo('localhost', 80),
    'resolve an address': lambda: socket.getaddrinfo('192.0.2.1', 80),
    'connect to the own host': lambda: socket.create_connection(('127.0.0.1', int(argv[0]))).close(),
    'a pair': lambda: socket.socketpair()[0].close(),
}
print(json.dumps({name: outcome(action) for name, action in ACTIONS.items()}))
"""
)


def test_no_network_means_none() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        found = printed(NETWORK, server.getsockname()[1], network="none")
    passed = {"resolve the own host", "resolve an address", "connect to the own host", "a pair", "name the own host",
              "name the own host anew"}  # fmt: skip
    assert {name for name, result in found.items() if result == "passed"} == passed
    denied = {tuple(found[name][:2]) for name in found.keys() - passed}
    no_name = ("SandboxResolveError", "ENOENT")  # a number of herror, TRY_AGAIN of netdb.h
    assert tuple(found["name an address"][:2]) == no_name
    assert denied == {("SandboxPermissionError", "ENETUNREACH"), ("SandboxResolveError", socket.EAI_AGAIN), no_name}


def test_the_network_of_the_host_is_nobodys_business(place: Path) -> None:
    kept = place / "records"
    code = "import socket\nsocket.getaddrinfo('192.0.2.1', 80)\nsocket.create_connection(('127.0.0.1', int(argv[0])))"
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert run(code, server.getsockname()[1], records=[str(kept)]).returncode == 0
    assert not kept.exists()


TREE = OUTCOMES + """
import shutil, subprocess, urllib.request
p, = argv
ACTIONS = {
    'remove': lambda: shutil.rmtree(p), 'remove what it can': lambda: shutil.rmtree(p, ignore_errors=True),
    'start there': lambda: subprocess.run(['/bin/true'], cwd=p), 'ask': lambda: os.listxattr(p + '/file'),
    'fetch': lambda: urllib.request.urlopen('file://' + p + '/file').close(),
}
print(json.dumps({name: outcome(action) for name, action in ACTIONS.items()}))
"""


@pytest.mark.parametrize("level", ["read", "hidden"])
def test_trees_directories_and_files_of_other_calls(place: Path, level: str) -> None:
    (place / "tree" / "below").mkdir(parents=True)
    (place / "tree" / "file").write_text("content")
    tree = f"{place}/tree"
    found = printed(TREE, tree, **{level: (*SYSTEM, tree) if level == "read" else (tree,)})
    assert sorted(os.listdir(tree)) == ["below", "file"]
    denied = {"remove"} if level == "read" else set(found) - {"remove what it can"}
    assert {name for name in found if found[name] != "passed"} == denied
    assert {found[name][1] for name in denied if name != "fetch"} == {"EACCES"}


REMOVING = OUTCOMES + """
import shutil
mine, shown = argv
os.symlink(shown, mine + '/link')
d = os.open(os.path.dirname(shown), os.O_RDONLY)
h = os.open(shown, os.O_RDONLY)
ACTIONS = {
    'through a link': lambda: shutil.rmtree(mine + '/link/'), 'by a descriptor': lambda: os.unlink('file', dir_fd=h),
    'a tree by a descriptor': lambda: os.rmdir(os.path.basename(shown), dir_fd=d),
    'times by a descriptor': lambda: os.utime('file', dir_fd=h), 'make': lambda: os.mkdir('new', dir_fd=h),
    'rename': lambda: os.rename('file', mine + '/taken', src_dir_fd=h),
    'put': lambda: os.rename(mine + '/own', 'put', dst_dir_fd=h),
    'link': lambda: os.link('file', mine + '/l', src_dir_fd=h),
    'what holds a grant': lambda: shutil.rmtree(mine + '/nest'),
    'own': lambda: os.unlink('own', dir_fd=os.open(mine, 0)),
}
print(json.dumps({name: outcome(action) for name, action in ACTIONS.items()}))
"""


def test_alone_it_knows_where_descriptors_lead(place: Path) -> None:
    for name in ("mine/nest/hidden", "shown"):
        (place / name).mkdir(parents=True)
    for name in ("mine/own", "mine/nest/hidden/file", "shown/file"):
        (place / name).write_text("content")
    hidden = (f"{place}/mine/nest/hidden/file",)
    lists = {"read": (*SYSTEM, str(place)), "write": (f"{place}/mine",), "hidden": hidden}
    found = printed(REMOVING, place / "mine", place / "shown", **lists)
    assert {name for name in found if found[name] == "passed"} == {"own"}
    assert {found[name][0] for name in found.keys() - {"own"}} == {"SandboxPermissionError"}
    assert (place / "shown" / "file").read_text() == (place / "mine/nest/hidden/file").read_text() == "content"
    assert os.listdir(place / "shown") == ["file"]


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("file:///a/b", "/a/b"), ("file:/a", "/a"), ("FILE://localhost/a%20b", "/a b"), ("file:a", "a"),
        ("file://127.0.0.1/%zz%", "/%zz%"), ("file:///%ff", "/\udcff"),
        ("file://elsewhere/a", ""), ("file://localhost:80/a", ""),
        ("file:///a?b", "/a?b"), ("file:", ""), ("file:///\u00e4", "/\u00e4"),
    ],
)  # fmt: skip
def test_the_path_of_a_url(url: str, path: str) -> None:
    assert path_of_url(url) == path


DATABASES = OUTCOMES + """
import sqlite3
mine, secret = argv
os.chdir(mine)
os.symlink(secret, 'l')
os.symlink(secret, 'file:l2')
os.mkdir('file:')
os.symlink(secret, 'file:/l')
OWN = ('file:own', 'file:own?mode=rwc')
MEMORY = ('file:x?mode=memory', 'file::memory:?cache=shared')
LINK = ('file:l', 'file:l#x', 'file:l?foo=mode=memory', 'file:l?mode=memory&mode=ro', 'file:l?%6dode=memory')
OTHERS = ('file:l%00x', 'file:%6c', 'file:./l', 'file:file:/l', 'file:' + secret, 'file://localhost' + secret)
def reads(name, uri):
    database = sqlite3.connect(name, uri=uri)
    return database.execute('select mark from marks').fetchall()
def seen(name, uri):
    try:
        return reads(name, uri)
    except sqlite3.Error as error:
        return type(error).__name__
uris = ({name: seen(name, True) for name in names} for names in (OWN, MEMORY, LINK + OTHERS))
print(json.dumps([*uris, seen('file:l2', False), seen('l', False)]))
"""


def test_alone_it_knows_what_databases_are_opened(place: Path) -> None:
    mine, secret = place / "mine", place / "secret.db"
    mine.mkdir()
    for path in (secret, mine / "own"):
        with contextlib.closing(sqlite3.connect(path)) as database, database:
            database.execute("create table marks (mark)")
            database.execute("insert into marks values (?)", (path.name,))
    own, memory, denied, *files = printed(DATABASES, mine, secret, read=SYSTEM, write=(str(mine),))
    assert list(own.values()) == [[["own"]]] * 2
    assert set(memory.values()) == {"OperationalError"}  # no such table
    assert {*files, *denied.values()} == {"SandboxDatabaseError"}


EXTENSIONS = """
import json, os, sqlite3
mine, secret = argv
os.symlink(secret, mine + '/x.so')
database = sqlite3.connect(':memory:')
database.enable_load_extension(True)
def loaded(name):
    try:
        database.load_extension(name)
    except sqlite3.Error as error:
        return type(error).__name__
print(json.dumps([loaded(mine + '/' + name) for name in ('x', 'x.so', 'own', 'own.so', 'missing')] + [loaded(secret)]))
"""


def test_alone_it_knows_what_extensions_are_loaded(place: Path) -> None:
    (place / "mine").mkdir()
    for name in ("secret.so", "mine/x", "mine/own.so"):
        (place / name).write_text("no library")
    found = printed(EXTENSIONS, place / "mine", place / "secret.so", read=SYSTEM, write=(f"{place}/mine",))
    denied, own = "SandboxDatabaseError", "OperationalError"
    assert found == [denied, denied, own, own, own, denied]


# ---- what is wrong with a call, the call itself says ----


WRONG = """
import json, os, shutil, socket, sqlite3, subprocess, sys, urllib.request
CALLS = (
    lambda: open('a' + chr(0)), lambda: open(1.5), lambda: open(None), lambda: open(''), lambda: open(b''),
    lambda: os.open('a' + chr(0), 0), lambda: os.open(None, 0), lambda: os.listdir('a' + chr(0)),
    lambda: os.listdir(1.5),
    lambda: os.scandir(object()), lambda: os.mkdir('a' + chr(0)), lambda: os.mkdir(1), lambda: os.rename('a', 1),
    lambda: os.rename('a' + chr(0), 'b'), lambda: os.symlink('a', 'b' + chr(0)), lambda: os.chmod('a' + chr(0), 0),
    lambda: os.remove(None), lambda: os.truncate(None, 0), lambda: os.utime(None), lambda: os.open('/dev/null', 'x'),
    lambda: os.execv('', []), lambda: os.execv('/a' + chr(0), ['x']), lambda: sqlite3.connect(None),
    lambda: sqlite3.connect(1.5),
    lambda: socket.socket().connect(1), lambda: socket.socket().connect(()), lambda: socket.socket().connect(('', '')),
    lambda: socket.socket(socket.AF_UNIX).connect(1), lambda: socket.getaddrinfo(1, 1), lambda: os.listdir(99999),
    lambda: open(99999), lambda: os.close(-1), lambda: os.listxattr('a' + chr(0)), lambda: os.getxattr(None, 'x'),
    lambda: shutil.rmtree(None), lambda: shutil.rmtree('a' + chr(0)), lambda: shutil.rmtree('a', dir_fd='b'),
    lambda: subprocess.Popen(['true'], cwd=1.5), lambda: subprocess.Popen(['true'], cwd='a' + chr(0)),
    lambda: socket.gethostbyaddr(1), lambda: socket.getnameinfo(1, 0), lambda: socket.getnameinfo(('x',), 0),
    lambda: urllib.request.urlopen(1), lambda: urllib.request.urlopen('file://a' + chr(0)),
    lambda: sqlite3.connect(':memory:').load_extension(1),
)
def said(call):
    try:
        call()
    except Exception as error:
        return [type(error).__name__, str(error)]
    return 'passed'
print(json.dumps(list(map(said, CALLS))))
"""


def test_wrong_arguments_are_answered_as_ever() -> None:
    everything = {"read": ("/",), "write": ("/",), "network": "none"}
    plain = subprocess.run([PLAIN, "-I", "-S", "-c", WRONG], capture_output=True, text=True, check=True, timeout=60)
    assert printed(WRONG, **everything) == json.loads(plain.stdout)


def test_what_is_withheld_says_so(place: Path) -> None:
    hidden = str(place / "file")
    keys = {"read": (*SYSTEM, str(place)), "hidden": (hidden,), "withheld": (hidden,)}
    code = "import json\ntry: open(argv[0])\nexcept PermissionError as e: print(json.dumps(str(e)))"
    said = printed(code, hidden, **keys)
    assert f"to allow it, outside: take {hidden} out of hidden_paths in /the/box/sandbox/sandbox.json" in said


MOCKED = """
import json, os
from unittest import mock
wrong = RuntimeError("not yours to call")
patches = (
    mock.patch("os.path.realpath"), mock.patch("os.path.exists"), mock.patch("os.path.lexists", return_value=False),
    mock.patch("os.lstat", side_effect=FileNotFoundError(2, "x")), mock.patch("os.stat", side_effect=wrong),
    mock.patch("os.getcwd", side_effect=wrong), mock.patch("os.open", side_effect=wrong), mock.patch("os.access"),
    mock.patch("os.path.dirname"), mock.patch("os.path.join", side_effect=wrong), mock.patch("os.readlink"),
    mock.patch("os.strerror", side_effect=wrong), mock.patch("os.fstat", side_effect=wrong),
    mock.patch("os.listdir", side_effect=wrong), mock.patch.dict("os.environ", clear=True),
)
opened, answers = open, []
for patch in patches:
    for path in argv:
        with patch:
            try:
                opened(path).close()
            except OSError as error:
                answers.append(type(error).__name__)
print(json.dumps(answers))
"""


@pytest.mark.parametrize("tier", ["none", "landlock", "namespaces"])
def test_what_tests_put_in_the_place_of_functions_changes_nothing(tier: str, place: Path) -> None:
    """Whatever is asked there: the guard has functions of its own."""
    answers = printed(MOCKED, place / "file", "/none/such", "file", tier=tier)
    expected = {
        "none": ["SandboxPermissionError"] * 3,
        "landlock": ["FileNotFoundError"] * 2,
        "namespaces": ["SandboxFileNotFoundError"] * 2,
    }
    assert answers == 15 * expected[tier]


# ---- the guard itself ----


CHANGING = """
def own(): return 1
def other(): return 2
for target in (guard.install, guard.Guard.check, guard.Grants.level, guard.quoted):
    for key, value in (('__code__', own.__code__), ('__defaults__', (0, 0)), ('__kwdefaults__', {'path': 0})):
        try:
            setattr(target, key, value)
        except PermissionError as error:
            assert 'guard' in str(error)
        else:
            raise SystemExit(f'changed {key} of {target}')
own.__code__ = other.__code__
assert own() == 2
try:
    open(argv[0])
except PermissionError:
    print('denied')
"""


def test_its_functions_cannot_be_changed(place: Path) -> None:
    done = run(CHANGING, place / "file")
    assert (done.returncode, done.stdout, done.stderr) == (0, "denied\n", "")


IN_THREADS = """
import json, threading
denied = []
def work():
    for _ in range(200):
        try:
            open(argv[0])
        except PermissionError:
            denied.append(1)
threads = [threading.Thread(target=work) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(json.dumps(len(denied)))
"""


def test_threads_are_watched_each(place: Path) -> None:
    assert printed(IN_THREADS, place / "file") == 1600
