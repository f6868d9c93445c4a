"""The backend bubblewrap for real: whose failure it is, that bwrap is not trusted, its options on every backend."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from harness import ROOT_BY_BWRAP, Box, Person
from vsbox.box.layout import Layout
from vsbox.box.store import load_policy, plan_and_facts
from vsbox.plan import steps
from vsbox.plan.encode import encode

BWRAP = "/usr/bin/bwrap"
ARGUMENTS_FD = 8
WAIT_SECONDS = 20

# Stands in for bwrap: gets its arguments, changes them, and becomes it.
MEDDLER = """#!{python} -I
import os
words = os.pread({fd}, 1 << 20, 0).decode().split("\\0")[:-1]
{change}
fd = os.memfd_create("a", 0)
os.write(fd, "".join(word + "\\0" for word in words).encode())
os.lseek(fd, 0, 0)
os.dup2(fd, {fd})
os.execve({bwrap!r}, ["bwrap", "--args", "{fd}", "--", "/.vsbox-init"], {{}})
"""


@pytest.fixture(params=["bubblewrap", ROOT_BY_BWRAP])
def way(request: pytest.FixtureRequest) -> str:
    """Who makes the new root: the inner stage, or bwrap."""
    return str(request.param)


@pytest.fixture
def box(person: Person, way: str, make_box: Callable[..., Box]) -> Box:
    """A box of its own: its plan may be changed."""
    return make_box(person, way, fresh=True)


@pytest.fixture
def shared(person: Person, way: str, make_box: Callable[..., Box]) -> Box:
    return make_box(person, way)


by_bwrap = pytest.mark.parametrize("way", [ROOT_BY_BWRAP], indirect=True)


def use_program(box: Box, text: str) -> None:
    """Make a script the box's bwrap, as only the owner of the box could."""
    program = box.person.write(box.root / "sandbox" / "stand-in", text, mode=0o755)
    box.let_bwrap_make_the_root(program)


def meddle(box: Box, change: str) -> None:
    use_program(box, MEDDLER.format(python=sys.executable, fd=ARGUMENTS_FD, change=change, bwrap=BWRAP))


# ---- whose failure it is ----


def test_a_status_of_the_command_is_its_own(shared: Box) -> None:
    assert shared.exec("/bin/sh", "-c", "exit 1").returncode == 1
    assert shared.exec("/bin/sh", "-c", "exit 125").returncode == 125


def test_a_command_that_is_not_there(shared: Box) -> None:
    done = shared.exec("/no/such/command")
    assert done.returncode == 127
    assert done.stderr == "vsbox: cannot execute /no/such/command: No such file or directory\n"


def test_a_command_that_cannot_be_executed(shared: Box) -> None:
    assert shared.exec("/etc/passwd").returncode == 126


@by_bwrap
def test_what_bwrap_says_is_told_as_ours(box: Box) -> None:
    use_program(box, "#!/bin/sh\necho 'bwrap: no room at the inn' >&2\nexit 1\n")
    done = box.exec("/bin/sh", "-c", "echo ran")
    assert done.returncode == 125
    assert done.stdout == ""
    assert done.stderr.startswith("vsbox: cannot set up the sandbox with bubblewrap: no room at the inn\n       ")


@by_bwrap
def test_bwrap_that_has_gone(box: Box) -> None:
    use_program(box, "")
    (box.root / "sandbox" / "stand-in").unlink()
    done = box.exec("/bin/true")
    assert done.returncode == 125
    assert "stand-in: No such file" in done.stderr
    assert "apt-get install bubblewrap" in done.stderr


@by_bwrap
def test_noise_of_bwrap_does_not_reach_the_command(box: Box) -> None:
    meddle(box, "import sys; print('noise', file=sys.stderr, flush=True)")
    done = box.exec("/bin/sh", "-c", "echo out; echo error >&2")
    assert (done.returncode, done.stdout, done.stderr) == (0, "out\n", "error\n")


# ---- bwrap is not trusted ----


@by_bwrap
def test_the_stand_in_that_changes_nothing_changes_nothing(box: Box) -> None:
    meddle(box, "")
    assert box.exec("/bin/sh", "-c", "echo ran").stdout == "ran\n"


CHANGES = {
    "a mask is left out": (
        "at = words.index('/proc/keys') - 2\ndel words[at:at + 3]",
        "/proc/keys: something else is there",
    ),
    "read-only becomes writable": (
        "at = words.index(ROOT + '/data') - 1\nassert words[at] == '--ro-bind'\nwords[at] = '--bind'",
        "/data: it can be written",
    ),
    "another source": (
        "at = words.index(ROOT + '/data')\nwords[at] = '/usr'",
        "/data: something else is there",
    ),
    "a source that is a link by now": (
        "os.rename(ROOT + '/data', ROOT + '/moved'); os.symlink('/usr', ROOT + '/data')",
        "/data: something else is there",
    ),
    "no private directory": (
        "at = words.index('/tmp') - 1\nassert words[at] == '--tmpfs'\nwords[at - 4:at + 2] = ['--dir', '/tmp']",
        "/tmp: something else is there",
    ),
    "proc stays writable": (
        "at = [i for i, w in enumerate(words) if words[i:i + 2] == ['--remount-ro', '/proc']][0]\ndel words[at:at + 2]",
        "/proc: it can be written",
    ),
}


@by_bwrap
@pytest.mark.parametrize("name", CHANGES)
def test_what_it_mounted_is_looked_at(box: Box, name: str) -> None:
    change, fault = CHANGES[name]
    place = box.person.directory("data")
    (place / "data").mkdir()
    os.chown(place / "data", box.person.uid, box.person.gid)
    box.edit_policy(read_only_paths=[str(place / "data")])
    assert box.exec("/bin/ls", str(place / "data")).returncode == 0
    meddle(box, f"ROOT = {str(place)!r}\n{change}")
    done = box.exec("/bin/sh", "-c", "echo ran")
    assert done.returncode == 125
    assert done.stdout == ""
    assert "cannot trust what bubblewrap mounted on" in done.stderr
    assert fault in done.stderr


def test_a_granted_directory_that_became_a_link_is_refused(box: Box) -> None:
    place = box.person.directory("data")
    (place / "data").mkdir()
    box.edit_policy(read_only_paths=[str(place / "data")])
    assert box.exec("/bin/true").returncode == 0
    (place / "data").rename(place / "moved")
    (place / "data").symlink_to("/usr")
    done = box.exec("/bin/true")
    assert done.returncode in {2, 125}
    assert "symbolic link" in done.stderr


@pytest.mark.parametrize("left", ["link", "nothing"])
def test_a_place_for_a_mount_that_code_inside_took_away(box: Box, left: str) -> None:
    """Without namespaces code inside sees this directory, and may leave a link there for a start with them."""
    place, elsewhere = box.root / "inside" / "home", box.person.directory("elsewhere")
    assert box.exec("/bin/true").returncode == 0
    place.rmdir()
    if left == "link":
        place.symlink_to(elsewhere)
    done = box.exec("/bin/sh", "-c", "echo ran")
    assert (done.returncode, done.stdout) == (125, "")
    assert f"cannot mount on {box.root}/home" in done.stderr
    assert place.is_symlink() is (left == "link")
    assert not (place.exists() and left == "nothing")
    assert list(elsewhere.iterdir()) == []


# ---- the entry for init gives nothing to those who find it ----


@by_bwrap
def test_the_entry_is_of_no_use_inside(shared: Box) -> None:
    done = shared.exec("/.vsbox-init", "/bin/echo", "ran")
    assert done.returncode == 2
    assert "for vsbox itself" in done.stderr
    assert done.stdout == ""


@by_bwrap
def test_the_entry_wants_pid_1_even_with_descriptors(shared: Box) -> None:
    code = (
        "import os, fcntl, socket\n"
        "fd = os.memfd_create('x', os.MFD_ALLOW_SEALING); os.write(fd, b'x' * 4096); fcntl.fcntl(fd, 1033, 15)\n"
        "a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
        "c = os.dup(b.fileno()); fd = os.dup(fd)\n"
        "os.dup2(fd, 3); os.dup2(c, 4)\n"
        "os.execv('/.vsbox-init', ['x'])\n"
    )
    done = shared.python(code)
    assert done.returncode == 2
    assert "for vsbox itself" in done.stderr


@by_bwrap
def test_the_entry_cannot_be_changed(shared: Box) -> None:
    code = (
        "import os\nfor act in (lambda: os.unlink('/.vsbox-init'), lambda: open('/.vsbox-init', 'wb'), "
        "lambda: os.rename('/.vsbox-init', '/tmp/x'), lambda: os.chmod('/.vsbox-init', 0)):\n"
        "    try:\n        act()\n        print('done')\n    except OSError:\n        print('denied')\n"
    )
    assert shared.python(code).stdout.split() == ["denied"] * 4


@pytest.mark.parametrize("name", ["inner", "inner --help"])
def test_the_entry_is_of_no_use_outside(shared: Box, name: str) -> None:
    done = shared.person.run([str(shared.root / "sandbox" / "inner"), *name.split()[1:]])
    assert done.returncode == 2
    assert "for vsbox itself" in done.stderr


# ---- nothing leaks ----


def _wait_for_bwrap(parent: int) -> int:
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
            if Path(f"/proc/{child}/comm").read_text() == "bwrap\n":
                return int(child)
        time.sleep(0.01)
    pytest.fail("no bwrap has started")


@pytest.fixture
def running(shared: Box) -> Iterator[int]:
    """The bwrap of a command that runs."""
    environment = shared.person.environment | {"LC_SECRET": "canary-variable"}
    code = "import sys; print('started', flush=True); sys.stdin.read()"
    argv = [str(shared.bin / "python"), "-c", code, "canary-argument"]
    process = shared.person.popen(argv, env=environment, stdin=-1, stdout=-1)
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    yield _wait_for_bwrap(process.pid)
    process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 0


def test_nothing_is_on_its_command_line(running: int, shared: Box, way: str) -> None:
    entry = "/.vsbox-init" if way == ROOT_BY_BWRAP else f"{shared.root}/sandbox/inner"
    assert Path(f"/proc/{running}/cmdline").read_text().split("\0") == [
        "bwrap", "--args", str(ARGUMENTS_FD), "--", entry, "",
    ]  # fmt: skip
    assert b"canary" not in Path(f"/proc/{running}/environ").read_bytes()


def test_it_keeps_no_stream_of_the_command(running: int) -> None:
    held = [os.readlink(path) for path in Path(f"/proc/{running}/fd").iterdir()]
    assert held.count("/dev/null") == 2
    pipes = [name for name in held if name.startswith("pipe:")]
    assert len(pipes) == 1, "its own standard error only"


def test_a_bwrap_on_the_path_is_not_used(shared: Box) -> None:
    place = shared.person.directory("bin")
    trace = place / "called"
    shared.person.write(place / "bwrap", f"#!/bin/sh\ntouch {trace}\nexec {BWRAP} \"$@\"\n", mode=0o755)
    environment = shared.person.environment | {"PATH": f"{place}:/usr/bin:/bin"}
    assert shared.exec("/bin/true", env=environment).returncode == 0
    assert shared.person.vsbox("sync", shared.root, env=environment).returncode == 0
    assert shared.person.vsbox("doctor", env=environment).returncode == 0
    assert not trace.exists()


def test_its_places_cannot_be_granted(box: Box) -> None:
    done = box.person.vsbox("allow", box.root, "/usr/bin")
    assert done.returncode == 2
    assert "cannot grant /usr/bin for writing: vsbox itself runs from" in done.stderr


def test_doctor_and_explain_tell(shared: Box) -> None:
    found = {entry["name"]: entry for entry in json.loads(shared.person.vsbox("doctor", "--json").stdout)["backends"]}
    assert found["bubblewrap"]["works"] is True
    plan = shared.person.vsbox("explain", "--plan", shared.root).stdout
    assert f"bubblewrap {os.path.realpath(BWRAP)} 0\n" in plan
    layout = Layout(shared.root)
    assert encode(plan_and_facts(layout, load_policy(layout)).plan.steps)
    assert steps.Bubblewrap.CODE


# ---- its options, whatever carries them out ----


@pytest.fixture
def own_box(person: Person, backend: str, make_box: Callable[..., Box]) -> Box:
    return make_box(person, backend, fresh=True)


def shell(box: Box, text: str, *words: str) -> str:
    box.edit_policy(bwrap_arguments=list(words))
    done = box.exec("/bin/sh", "-c", text)
    assert done.stderr == ""
    return done.stdout


def test_grants_and_variables(own_box: Box) -> None:
    data, models = own_box.person.directory("data"), own_box.person.directory("models")
    own_box.person.write(models / "m", "model")
    words = ("--bind", str(data), str(data), "--ro-bind-try", str(models), str(models), "--bind-try", "/gone", "/gone")
    text = f"echo x >{data}/new; cat {models}/m; (echo y >{models}/new) 2>/dev/null || echo denied"
    assert shell(own_box, text, *words) == "modeldenied\n"
    assert (data / "new").read_text() == "x\n"
    assert shell(own_box, "echo $A,$LANG", "--setenv", "A", "a b", "--unsetenv", "LANG") == "a b,\n"
    assert shell(own_box, f"cat {models}/m 2>/dev/null || echo denied") == "denied\n"


def test_no_network(own_box: Box) -> None:
    code = "import socket\nsocket.create_connection(('192.0.2.1', 9), timeout=3)"
    own_box.edit_policy(bwrap_arguments=["--unshare-all"])
    assert "OSError" in own_box.python(code).stderr or "PermissionError" in own_box.python(code).stderr


def test_mounts(own_box: Box) -> None:
    source = own_box.person.directory("source")
    own_box.person.write(source / "f", "content")
    words = [
        "--ro-bind", str(source), "/mnt/f", "--tmpfs", "/scratch", "--symlink", "/mnt/f/f", "/link", "--dir", "/a/b",
        "--hostname", "inside", "--chdir", "/scratch",
    ]  # fmt: skip
    own_box.edit_policy(bwrap_arguments=words)
    done = own_box.exec("/bin/sh", "-c", "cat /link; echo x >f && pwd; uname -n; ls -d /a/b; echo y >/mnt/f/new")
    if own_box.backend == "landlock":
        assert done.returncode == 125
        assert "--ro-bind, --tmpfs, --symlink, --dir, --hostname without namespaces" in done.stderr
        return
    assert done.stdout == "content/scratch\ninside\n/a/b\n"
    assert "Read-only file system" in done.stderr


def test_what_only_bubblewrap_has(own_box: Box) -> None:
    own_box.edit_policy(bwrap_arguments=["--uid", "4321", "--gid", "77"])
    done = own_box.exec("/bin/sh", "-c", "id -u; id -g; grep CapBnd /proc/self/status")
    if own_box.backend != "bubblewrap":
        assert done.returncode == 2
        assert f"--uid, --gid with backend {own_box.backend}" in done.stderr
        return
    assert done.stdout.split() == ["4321", "77", "CapBnd:", "0" * 16]


@by_bwrap
def test_what_only_bubblewrap_has_chooses_it(box: Box) -> None:
    box.edit_policy(backend="auto", bwrap_arguments=["--uid", "4321"])
    assert box.exec("/usr/bin/id", "-u").stdout == "4321\n"


@pytest.mark.parametrize("option", ["--cap-add CAP_SYS_ADMIN", "--seccomp 3", "--bind / /", "--bind /proc /x"])
def test_what_no_box_may_have(own_box: Box, option: str) -> None:
    own_box.edit_policy(bwrap_arguments=option.split())
    done = own_box.exec("/bin/sh", "-c", "echo ran")
    assert done.returncode in {2, 125}
    assert done.stdout == ""


def test_the_receipt_names_bubblewrap(shared: Box) -> None:
    receipt = msgspec.json.decode((shared.root / "sandbox" / "receipt.json").read_bytes())
    layers = {row["aspect"]: row["layers"] for row in receipt["rows"]}
    assert "bubblewrap" in layers["files"]
    assert not any("namespaces" in names for names in layers.values())
