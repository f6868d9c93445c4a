"""What variables ask of one start: options of bwrap, system calls, the pip cache, an account of what is run.

Each is compared with a start without it, which has what boxes have by default.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness import PLAIN

if TYPE_CHECKING:
    from harness import Box, Person

SECRET = "hunter2-of-a-test"
CONNECT = "import socket, sys; socket.create_connection(('127.0.0.1', int(sys.argv[1])), 5); print('connected')"


@pytest.fixture
def box(person: Person, backend: str, make_box: Callable[..., Box]) -> Box:
    """A box that all these tests share: variables leave nothing of what they ask for."""
    return make_box(person, backend, "--no-pip")


def run(box: Box, *argv: object, **variables: str) -> subprocess.CompletedProcess[str]:
    return box.exec(*map(str, argv), env=box.person.environment | variables)


def shell(box: Box, text: str, arguments: str = "", **variables: str) -> str:
    """Run shell commands in a box with options of bwrap; return what they print."""
    done = run(box, "/bin/sh", "-c", text, BWRAP_ARGS=arguments, **variables)
    assert done.stderr == ""
    return done.stdout


# ---- BWRAP_ARGS ----


def test_grants_for_one_start(box: Box, place: Path) -> None:
    box.person.write(place / "old", "old\n")
    text = f"cat {place}/old 2>/dev/null || echo hidden; (echo new >{place}/new) 2>/dev/null || echo denied"
    assert shell(box, text) == "hidden\ndenied\n"
    assert shell(box, text, f"--ro-bind {place} {place}") == "old\ndenied\n"
    assert shell(box, text, f"--bind {place} {place}") == "old\n"
    assert (place / "new").read_text() == "new\n"
    assert shell(box, text) == "hidden\ndenied\n"


def test_variables_for_one_start(box: Box) -> None:
    text = 'echo "$MARK,$LANG"'
    assert shell(box, text, LANG="C.UTF-8", MARK="the caller's") == ",C.UTF-8\n"
    assert shell(box, text, "--setenv MARK 1 --unsetenv LANG", LANG="C.UTF-8") == "1,\n"
    assert shell(box, text, "--setenv MARK 1 --unsetenv MARK --setenv LANG C", LANG="C.UTF-8") == ",C\n"
    kept = shell(box, 'echo "$MARK,$LANG,$HOME,$VIRTUAL_ENV"; command -v python', "--clearenv", LANG="C.UTF-8")
    inside = box.root if box.backend != "landlock" else box.root / "inside"
    home = shell(box, 'echo "$HOME"').rstrip()
    assert kept == f",,{home},{inside}\n{inside}/bin/python\n"


QUOTED = {
    "--setenv A 'two words' --setenv B x": "two words|x|",
    "--setenv A 1\n--setenv B 2\n--setenv C 3\n": "1|2|3",
    '--setenv A "it\'s" \\\n --setenv B "\\"" --setenv C \'\'': "it's|\"|",
    "--setenv A $HOME --setenv B `id` --setenv C *": "$HOME|`id`|*",
    "  --setenv A 1 # --setenv B 2\n\t--setenv C 3": "1||3",
    "--setenv A 'x\ny' --setenv B \u00e9\u20ac": "x\ny|\u00e9\u20ac|",
    "": "||",
    "\n \t\n": "||",
}


def test_words_are_split_as_a_shell_does_and_nothing_is_expanded(box: Box) -> None:
    shown = {text: shell(box, 'printf "%s|%s|%s" "$A" "$B" "$C"', text) for text in QUOTED}
    assert shown == QUOTED


def test_mounts_for_one_start(box: Box, place: Path) -> None:
    box.person.write(place / "file", "content\n")
    mounts = f"--ro-bind {place} /mnt/it --tmpfs /scratch --dir /a/b --symlink /mnt/it/file /link --hostname inside"
    text = "cat /link; echo x >/scratch/x && ls /scratch; ls -d /a/b; uname -n; (echo x >/mnt/it/x) 2>/dev/null || pwd"
    done = run(box, "/bin/sh", "-c", text, BWRAP_ARGS=f"{mounts} --chdir /scratch")
    if box.backend == "landlock":
        assert (done.stdout, done.returncode) == ("", 125)
        assert "--ro-bind, --tmpfs, --dir, --symlink, --hostname without namespaces" in done.stderr
    else:
        assert (done.stdout, done.stderr) == ("content\nx\n/a/b\ninside\n/scratch\n", "")
    assert not (place / "x").exists()
    assert "content" not in run(box, "/bin/cat", "/link").stdout


def test_where_it_starts(box: Box) -> None:
    assert shell(box, "pwd", "--chdir /usr/lib") == "/usr/lib\n"
    assert shell(box, "pwd") != "/usr/lib\n"
    done = run(box, "/bin/sh", "-c", "pwd", BWRAP_ARGS="--chdir /nonexistent")
    assert (done.stdout, done.returncode) == ("", 125)


def test_who_it_is(box: Box) -> None:
    own = f"--uid {box.person.uid} --gid {box.person.gid}"
    assert shell(box, "id -u; id -g", own) == f"{box.person.uid}\n{box.person.gid}\n"
    done = run(box, "/usr/bin/id", "-u", BWRAP_ARGS="--uid 4321")
    assert (done.stdout, done.returncode) == (("4321\n", 0) if box.backend == "bubblewrap" else ("", 2)), done.stderr


@pytest.fixture
def port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_the_network_for_one_start(box: Box, port: int) -> None:
    def connects(arguments: str) -> bool:
        done = run(box, box.bin / "python", "-c", CONNECT, port, BWRAP_ARGS=arguments)
        assert done.stdout == "connected\n" or "Error" in done.stderr
        return done.returncode == 0

    assert connects("")
    assert not connects("--unshare-net")
    assert not connects("--unshare-all")
    assert connects("--unshare-all --share-net")


WRONG = {
    "--ro-bnd /a /b": "did you mean --ro-bind?",
    "--setenv A": "--setenv",
    "python x.py": "'python'",
    "--bind /usr/../etc /usr/../etc": "'..'",
    "--setenv A=B c": "--setenv",
    "--uid me": "--uid",
    "--cap-add ALL": "--cap-add",
    "--setenv A 'open": "BWRAP_ARGS",
    "--bind /proc /proc": "/proc",
}


def test_what_is_wrong_is_refused_and_named(box: Box) -> None:
    for arguments, word in WRONG.items():
        done = run(box, "/bin/sh", "-c", "echo ran", BWRAP_ARGS=arguments)
        assert (done.stdout, done.returncode) == ("", 2), arguments
        assert word in done.stderr, arguments
        assert "Traceback" not in done.stderr
    assert shell(box, "echo ran") == "ran\n"


def test_a_complaint_names_the_variable(box: Box) -> None:
    assert "BWRAP_ARGS" in run(box, "/bin/true", BWRAP_ARGS="--ro-bnd /a /b").stderr


def test_options_cannot_open_the_box(box: Box) -> None:
    sandbox = box.root / "sandbox"
    for place in (box.root, sandbox, box.bin):
        done = run(box, "/bin/sh", "-c", f"echo x >>{sandbox}/plan; echo ran", BWRAP_ARGS=f"--bind {place} {place}")
        assert (done.stdout, done.returncode) == ("", 2)


def test_stored_arguments_come_first(person: Person, backend: str, place: Path) -> None:
    """`vsbox wrap` stores them, in a person's own words; a variable adds to them."""
    root = place / ".venv"
    person.run([PLAIN, "-m", "venv", "--without-pip", str(root)], check=True)
    words = ["--setenv", "A", "two words", "--setenv", "B", "stored"]
    done = person.vsbox("wrap", "-q", "--backend", backend, root, *words, cwd=place)
    assert done.returncode == 0, done.stderr
    assert json.loads((root / "sandbox" / "sandbox.json").read_text())["bwrap_arguments"] == words
    python = [str(root / "bin" / "python"), "-c", "import os; print(os.environ['A'], os.environ['B'])"]
    assert person.run(python, cwd=place).stdout == "two words stored\n"
    asked = person.environment | {"BWRAP_ARGS": "--setenv B asked"}
    assert person.run(python, cwd=place, env=asked).stdout == "two words asked\n"
    wrong = person.vsbox("wrap", "-q", root, "--setnev", "A", "b", cwd=place)
    assert wrong.returncode == 2
    assert "--setenv" in wrong.stderr
    assert person.run(python, cwd=place).stdout == "two words stored\n"


# ---- secrets ----


def readable_by_others(root: Path, text: str) -> list[Path]:
    """Return files below a box that hold a text and have a mode by which others read them."""
    files = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
    holding = [path for path in files if text.encode() in path.read_bytes()]
    return [path for path in holding if path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH)]


def test_a_secret_for_one_start_is_not_left_where_others_read_it(box: Box) -> None:
    assert shell(box, "echo $TOKEN", f"--setenv TOKEN {SECRET}") == f"{SECRET}\n"
    assert readable_by_others(box.root, SECRET) == []


def test_a_secret_for_one_start_is_on_no_command_line(box: Box, token: str) -> None:
    text = "echo started; read line"
    argv = [str(box.root / "sandbox" / "exec"), "/bin/sh", "-c", text, token]
    environment = box.person.environment | {"BWRAP_ARGS": f"--setenv TOKEN {SECRET}"}
    process = box.person.start(argv, env=environment, stdin=subprocess.PIPE)
    lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    process.communicate("\n")
    assert any(token.encode() in line for line in lines)
    assert not any(SECRET.encode() in line for line in lines)


def test_verbose_tells_on_standard_error_what_is_run(box: Box) -> None:
    environment = {"VERBOSE": "1", "BWRAP_ARGS": f"--setenv TOKEN {SECRET}", "PASSWORD": SECRET}
    done = run(box, "/bin/echo", "word", f"https://me:{SECRET}@example.invalid/x", **environment)
    assert done.stdout == f"word https://me:{SECRET}@example.invalid/x\n"
    assert "vsbox: run /bin/echo word https://***@example.invalid/x\n" in done.stderr
    assert str(box.root) in done.stderr
    assert " TOKEN" in done.stderr
    assert SECRET not in done.stderr
    assert all(line.startswith("vsbox: ") for line in done.stderr.splitlines())


SECRET_WORDS = [
    f"https://me:p@{SECRET}@example.invalid/",
    f"--index-url https://example.invalid/ --extra-index-url https://me:{SECRET}@example.invalid/",
    f"https://one:x@example.invalid/ https://me:{SECRET}@example.invalid/",
    f"git+https://{SECRET}@example.invalid/x.git",
    f"https://me:a/{SECRET}@example.invalid/",
    f"--password={SECRET}",
    f"API_TOKEN={SECRET}",
]


def test_verbose_masks_what_looks_secret(box: Box) -> None:
    shown = [run(box, "/bin/true", word, VERBOSE="1").stderr for word in SECRET_WORDS]
    assert [word for word, text in zip(SECRET_WORDS, shown, strict=True) if SECRET in text] == []


# ---- SANDBOX_SECCOMP_ALLOW ----

UNAME = "import os; print(os.uname().sysname)"
FILTERED = ("/bin/grep", "Seccomp:", "/proc/self/status")


def test_a_list_of_calls_is_all_that_is_let_through(box: Box) -> None:
    python = box.bin / "python"
    assert run(box, python, "-c", UNAME, SANDBOX_SECCOMP_ALLOW="@builtin\n read").stdout == "Linux\n"
    listed = json.loads(box.person.vsbox("explain", box.root, "--syscalls", "--json").stdout)["syscalls"]
    allowed = [call["name"] for call in listed if not call["answer"].startswith("errno") and call["name"] != "uname"]
    assert "read" in allowed
    refused = run(box, python, "-c", UNAME, SANDBOX_SECCOMP_ALLOW=" ".join(allowed))
    assert (refused.stdout, refused.stderr.count("Error: [Errno")) == ("", 1)
    assert run(box, python, "-c", UNAME, SANDBOX_SECCOMP_ALLOW=" ".join([*allowed, "uname"])).stdout == "Linux\n"


@pytest.mark.parametrize(("name", "meant"), [("reed", "read"), ("opanat", "openat")])
def test_an_unknown_call_is_an_error_with_advice(box: Box, name: str, meant: str) -> None:
    done = run(box, "/bin/echo", "ran", SANDBOX_SECCOMP_ALLOW=f"@builtin {name}")
    assert (done.stdout, done.returncode) == ("", 2)
    assert f"did you mean '{meant}'?" in done.stderr


@pytest.mark.parametrize("name", ["keyctl", "io_uring_setup", "bpf", "ptrace"])
def test_a_list_opens_nothing_that_is_closed(box: Box, name: str) -> None:
    done = run(box, "/bin/echo", "ran", SANDBOX_SECCOMP_ALLOW=f"@builtin {name}")
    assert (done.stdout, done.returncode) == ("", 2)
    assert f"{name} (" in done.stderr


def test_an_empty_list_is_no_filter(box: Box) -> None:
    done = run(box, *FILTERED, SANDBOX_SECCOMP_ALLOW="")
    if box.backend == "landlock":
        assert (done.stdout, done.returncode) == ("", 125)
        assert "without" in done.stderr or "do without a filter" in done.stderr
    else:
        assert done.stdout.split() == ["Seccomp:", "0"]
    assert run(box, *FILTERED).stdout.split() == ["Seccomp:", "2"]


# ---- the pip cache ----

LOOK = """
import json, os, sys
cache = os.environ.get("PIP_CACHE_DIR", "none")
found = {"seen": None}
try:
    found["seen"] = open(cache + "/mark").read()
    open(cache + "/mark", "w").write("changed")
    open(cache + "/new", "w").write("new")
    found["wrote"] = True
except OSError as error:
    found["wrote"] = str(error)
print(json.dumps(found))
"""


@pytest.fixture
def installing(person: Person, backend: str, place: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """A function that runs a stand-in for an installer in a wrapped project; the cache is that of ``place``."""
    root, cache = place / ".venv", place.with_name(f"{place.name}-cache")
    person.run([PLAIN, "-m", "venv", "--without-pip", str(root)], check=True)
    person.write(root / "bin" / "uv", f"#!{root}/bin/python\n{LOOK}", mode=0o755)
    person.run(["mkdir", str(cache)], check=True)
    person.write(cache / "mark", "mine")
    environment = person.environment | {"PIP_CACHE_DIR": str(cache)}
    assert person.vsbox("wrap", "-q", "--backend", backend, root, cwd=place, env=environment).returncode == 0

    def start(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return person.run([str(root / "bin" / "uv"), *words], cwd=place, env=environment | variables)

    return start


def test_the_cache_is_seen_and_never_changed(
    installing: Callable[..., subprocess.CompletedProcess[str]], backend: str, place: Path
) -> None:
    cache = place.with_name(f"{place.name}-cache")
    without, zero = installing("sync"), installing("sync", SANDBOX_USE_PIP_CACHE="0")
    done = installing("sync", SANDBOX_USE_PIP_CACHE="1")
    running = installing("run", SANDBOX_USE_PIP_CACHE="1" if done.returncode == 0 else "0")
    left = {path.name: path.read_text() for path in cache.iterdir()}
    shutil.rmtree(cache)
    assert left == {"mark": "mine"}
    assert [json.loads(shown.stdout)["seen"] for shown in (without, zero, running)] == [None, None, None]
    if done.returncode:  # Landlock has no overlays, bubblewrap only since 0.11
        assert backend != "native"
        assert (done.stdout, done.returncode) == ("", 125)
        assert "SANDBOX_USE_PIP_CACHE" in done.stderr
        return
    shown = json.loads(done.stdout)
    assert (shown["seen"], shown["wrote"]) == ("mine", True)


# ---- keys of the policy that ask the machine for something ----


@pytest.fixture
def edited(person: Person, backend: str, make_box: Callable[..., Box]) -> Iterator[Callable[..., Box]]:
    """A function that sets keys of a policy and returns the box, which gets its own policy back."""
    box = make_box(person, backend, "--no-pip", "--mode", "enforce")
    path = box.root / "sandbox" / "sandbox.json"
    old = path.read_text()

    def edit(**keys: object) -> Box:
        person.write(path, json.dumps(json.loads(old) | keys))
        return box

    yield edit
    person.write(path, old)


def test_a_graphics_processor_where_there_is_none(edited: Callable[..., Box]) -> None:
    if any(os.path.exists(f"/dev/{name}") for name in ("dri", "nvidia0", "kfd", "dxg")):
        pytest.skip("this machine has a graphics processor")
    done = edited(devices=["gpu"]).exec("/bin/echo", "ran")
    assert (done.stdout, done.returncode) == ("", 125)
    assert "graphics processor" in done.stderr


LISTEN = "import socket; s = socket.socket(); s.bind(('127.0.0.1', 80)); print('bound')"


def test_a_network_of_ones_own_has_all_ports(edited: Callable[..., Box]) -> None:
    box = edited(network="none")
    done = box.python(LISTEN)
    assert ("bound" in done.stdout) == (box.backend != "landlock"), done.stderr


# ---- from inside ----

ASKED = {"SANDBOX_SECCOMP_ALLOW": "", "SANDBOX_USE_PIP_CACHE": "1", "VERBOSE": "1"}
LOOK_AROUND = """
import ctypes, os, sys
print(os.environ.get("TOOK"), "filtered" if ctypes.CDLL(None).prctl(21, 0, 0, 0, 0) == 2 else "open")
try:
    print(open(sys.argv[1]).read())
except OSError:
    print("hidden")
"""
INSIDE = """
import json, os, subprocess, sys
code, secret, asked, *commands = sys.argv[1:]
for command in commands:
    try:
        argv = [*command.split(), "-c", code, secret]
        done = subprocess.run(argv, env={**os.environ, **json.loads(asked)}, capture_output=True, text=True)
        print(done.stdout, end="")
    except OSError:
        print("not there")
"""


def test_code_inside_asks_in_vain(box: Box, place: Path) -> None:
    """The launcher reads variables of its caller, and inside there is no launcher, or one that passes through."""
    secret = box.person.write(place / "secret", SECRET)
    python, execute = box.bin / "python", box.root / "sandbox" / "exec"
    asked = {"BWRAP_ARGS": f"--bind {place} {place} --setenv TOOK 1"}
    commands = [str(python), f"{execute} {python}", f"{box.root}/inside/bin/python", "python"]
    done = run(box, python, "-c", INSIDE, LOOK_AROUND, secret, json.dumps(asked | ASKED), *commands)
    assert set(done.stdout.splitlines()) <= {"None filtered", "hidden", "not there"}, done.stderr
    assert "hidden" in done.stdout
    assert run(box, python, "-c", LOOK_AROUND, secret, **asked).stdout == f"1 filtered\n{SECRET}\n"
