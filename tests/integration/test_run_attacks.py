"""What hostile code tries on the program that runs it: its files, its memory, its time, the next run."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import Person, lacking
from processes import wait_until
from vsbox import ConflictError, Limits, Outcome, PolicyError, Sandbox, UsageError, run
from vsbox.host.collect import find_launcher
from vsbox.launch.cell import Wanted, prepare
from vsbox.launch.control import EXITED, MESSAGE, SIGNAL, Control
from vsbox.launch.limits import all_tasks

tiers = pytest.mark.parametrize("tier", ["native", "landlock"])


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory of ours, outside of /tmp."""
    path = Path(tempfile.mkdtemp(prefix="attack-", dir=Path.home()))
    yield path
    subprocess.run(["chmod", "-R", "u+rwX", path], check=False)
    shutil.rmtree(path, ignore_errors=True)


def test_the_last_word_is_heard_though_ours_was_not() -> None:
    control = Control(0)
    control.tell(SIGNAL, 2)
    control.theirs.send(MESSAGE.pack(EXITED, 3) + b"\0")
    control.theirs.close()
    control.hear_all()
    assert control.last is not None
    assert (control.last.kind, control.last.value) == (EXITED, 3)
    control.close()


def children() -> set[str]:
    tasks = Path(f"/proc/{os.getpid()}/task").iterdir()
    return {pid for task in tasks for pid in (task / "children").read_text(encoding="ascii").split()}


@tiers
@pytest.mark.parametrize("cause", [OSError(errno.EMFILE, "Too many open files"), KeyboardInterrupt()], ids=repr)
def test_a_start_that_fails_half_way_leaves_nothing(
    tier: str, cause: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise cause

    run("pass", backend=tier)  # the plan is kept
    before = children(), set(os.listdir("/proc/self/fd"))
    monkeypatch.setattr("vsbox.launch.process.selectors.DefaultSelector", fail)
    with pytest.raises(type(cause)):
        run("import time; time.sleep(60)", backend=tier)
    assert (children(), set(os.listdir("/proc/self/fd"))) == before


# ---- files that it leaves ----

DEEP = "import os\nfor _ in range(3000):\n    os.mkdir('d')\n    os.chdir('d')\nopen('f', 'w')"
HIDDEN = (
    "import os\nos.makedirs('a/b')\nopen('a/b/f', 'w')\n"
    "for path in ('a/b/f', 'a/b', 'a', '.'):\n    os.chmod(path, 0)"
)
TREES = {"deep": DEEP, "hidden": HIDDEN}


@tiers
@pytest.mark.parametrize("code", TREES.values(), ids=TREES)
def test_a_tree_that_is_hard_to_remove(
    tier: str, code: str, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    result = run(code, backend=tier)
    assert result.outcome is Outcome.EXITED, result.stderr
    assert result.files.is_complete is (code == HIDDEN and os.geteuid() == 0)
    assert not list(directory.iterdir())
    assert run("open('f', 'w')", backend=tier).files.is_complete


def test_what_a_killed_program_left_is_removed(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vsbox.launch import scratch

    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    left = directory / f"{scratch.SCRATCH}left"
    left.mkdir()
    subprocess.run([sys.executable, "-c", DEEP], cwd=left, check=True)
    os.utime(left, (0, 0))
    scratch.sweep.cache_clear()
    assert run("pass", backend="landlock").ok
    assert not list(directory.iterdir())


SWAPPED = (
    "import os, sys\nS = os.path.dirname(os.environ['TMPDIR'])\nos.makedirs(f'{S}/work/a/b')\n"
    "os.rename(S, f'{S}-moved')\n"
)


def test_a_tree_that_was_moved_away(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary, victim = directory / "tmp", directory / "victim"
    temporary.mkdir()
    victim.mkdir()
    (victim / "file").write_text("a canary")
    victim.chmod(0o755)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    assert run(f"{SWAPPED}os.symlink({str(victim)!r}, S)", write=[temporary], backend="landlock").ok
    assert not list(temporary.iterdir())
    assert victim.stat().st_mode & 0o777 == 0o755
    assert (victim / "file").read_text() == "a canary"
    assert run(f"{SWAPPED}os.mkdir(S)\nopen(f'{{S}}/f', 'w')", write=[temporary], backend="landlock").ok
    assert [path.name for path in temporary.glob("*/*")] == ["f"]


@tiers
def test_what_is_empty_fills_a_disk_as_well(tier: str) -> None:
    code = "import itertools\nfor number in itertools.count(): open(str(number), 'w').close()"
    assert run(code, limits=Limits(disk_bytes=8 << 20), timeout=30, backend=tier).outcome is Outcome.DISK


@pytest.mark.parametrize("place", ["/tmp", "/mnt", "/var/tmp", "/dev/shm"])
def test_each_private_area_counts(place: str) -> None:
    code = f"open('{place}/f', 'wb').write(bytes(20 << 20))"
    result = run(code, limits=Limits(disk_bytes=10 << 20))
    assert (result.outcome, result.limit.name if result.limit else None) == (Outcome.DISK, "disk_bytes")
    assert run(code, limits=Limits(disk_bytes=30 << 20)).ok


@pytest.mark.parametrize("place", ["/var/tmp", "/dev/shm"])
def test_an_area_may_be_the_working_directory(place: str) -> None:
    code = "open('f', 'wb').write(bytes(2 << 20))"
    assert run(code, mount_point=place).files.created == ("f",)
    assert run(code, mount_point=place, limits=Limits(disk_bytes=1 << 20)).outcome is Outcome.DISK


def test_what_the_host_has_there_does_not_count() -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        Path(name, "f").write_bytes(bytes(2 << 20))
        assert run("pass", write=["/dev/shm"], limits=Limits(disk_bytes=1 << 20)).ok


# ---- limits ----

HOGS = {
    "shared": "import mmap, time\nm = mmap.mmap(-1, 400 << 20)\nm[::4096] = b'x' * len(m[::4096])\ntime.sleep(30)",
    "a memory file": (
        "import os, time\nf = os.memfd_create('x')\nfor _ in range(400): os.write(f, bytes(1 << 20))\ntime.sleep(30)"
    ),
    "a thread whose process seems to have ended": (
        "import ctypes, os, threading, time\n"
        "def fill():\n    time.sleep(0.2)\n    x = bytearray(b'x') * (400 << 20)\n    time.sleep(30)\n    os._exit(0)\n"
        "threading.Thread(target=fill).start()\n"
        "ctypes.CDLL(None).syscall(60 if os.uname().machine == 'x86_64' else 93, 0)"
    ),
}


@tiers
@pytest.mark.parametrize("code", HOGS.values(), ids=HOGS)
def test_memory_of_every_kind_counts(tier: str, code: str) -> None:
    assert run(code, limits=Limits(memory_bytes=150 << 20), timeout=20, backend=tier).outcome is Outcome.MEMORY


@tiers
@pytest.mark.parametrize("code", HOGS.values(), ids=HOGS)
def test_memory_of_a_call_counts_as_that_of_a_session(tier: str, code: str) -> None:
    with Sandbox(limits=Limits(memory_bytes=1 << 30), backend=tier) as box:
        reply = box.run(code, limits=Limits(memory_bytes=150 << 20), timeout=20)
    assert (reply.outcome, reply.alive) == (Outcome.MEMORY, False)


@tiers
def test_a_limit_is_the_cause_only_where_it_was_met(tier: str) -> None:
    kill = "import os, signal; os.kill(os.getpid(), signal.SIGXCPU)"
    assert run(kill, limits=Limits(cpu_seconds=100), backend=tier).outcome is Outcome.SIGNALED
    assert run("pass", limits=Limits(memory_bytes=2**62), backend=tier).ok
    assert run("while True: pass", limits=Limits(cpu_seconds=1), backend=tier).outcome is Outcome.CPU
    with Sandbox(backend=tier) as box:
        spend = "import time\nend = time.process_time() + 0.7\nwhile time.process_time() < end: pass"
        assert box.run(spend, limits=Limits(cpu_seconds=2)).ok
        assert box.run("import os; os.kill(os.getpid(), 9)", limits=Limits(cpu_seconds=0.5)).outcome is Outcome.SIGNALED


@tiers
def test_shared_memory_counts_once(tier: str) -> None:
    code = (
        "import mmap, os, time\nm = mmap.mmap(-1, 60 << 20)\nm[::4096] = b'x' * len(m[::4096])\n"
        "pids = []\nfor _ in range(4):\n    if (pid := os.fork()) == 0:\n"
        "        m[::4096]\n        time.sleep(0.4)\n        os._exit(0)\n    pids.append(pid)\n"
        "for pid in pids: os.waitpid(pid, 0)"
    )
    result = run(code, limits=Limits(memory_bytes=150 << 20), backend=tier)
    assert result.ok, (result.outcome, result.limit)


@tiers
def test_children_that_nobody_waits_for_use_time(tier: str) -> None:
    code = (
        "import os, signal, time\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
        "while True:\n    if os.fork() == 0:\n        end = time.process_time() + 0.3\n"
        "        while time.process_time() < end: pass\n        os._exit(0)\n"
        "    try:\n        os.wait()\n    except OSError:\n        pass"
    )
    assert run(code, limits=Limits(cpu_seconds=1), timeout=20, backend=tier).outcome is Outcome.CPU


@tiers
def test_one_process_is_one(tier: str) -> None:
    result = run("import time; time.sleep(0.4)", limits=Limits(processes=1), backend=tier)
    assert (result.outcome, result.usage.processes) == (Outcome.EXITED, 1)


@tiers
def test_a_start_that_fails_leaves_no_control_group(tier: str, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = prepare(Wanted(limits=Limits(memory_bytes=1 << 30), backend=tier), {})
    prepared.close()
    monkeypatch.setattr("vsbox.launch.process.socket.socketpair", None)
    with pytest.raises(TypeError):
        run("pass", limits=Limits(memory_bytes=1 << 30), backend=tier)
    assert not [root for root, _, _ in os.walk("/sys/fs/cgroup") if f"vsbox-{os.getpid()}-" in root]


# ---- links for the next run ----


@tiers
def test_no_link_of_an_earlier_run_is_followed(tier: str, directory: Path) -> None:
    """Control: a link that lies where no code inside could write is followed."""
    (directory / "secret").mkdir()
    secret = directory / "secret" / "key"
    secret.write_text("a canary")
    for name in ("work", "other"):
        (directory / name).mkdir()
        code = f"import os; os.symlink({str(secret.parent)!r}, 'tree'); os.symlink({str(secret)!r}, 'file')"
        if name == "work":
            assert run(code, workdir=directory / name, backend=tier).ok
        else:
            subprocess.run([sys.executable, "-c", code], cwd=directory / name, check=True)
    show = f"print(open({str(secret)!r}).read())"
    work, other = directory / "work", directory / "other"
    assert run(show, read=[other / "tree"], backend=tier).stdout == "a canary\n"
    assert run("print(open('f').read())", files={"f": other / "file"}, backend=tier).stdout == "a canary\n"
    for options in ({"read": [work / "tree"]}, {"workdir": work / "tree"}, {"files": {"f": work / "file"}},
                    {"stdout": work / "file"}, {"write": [work / "tree"]}, {"packages": work / "tree"}):  # fmt: skip
        with pytest.raises(PolicyError, match="could have made"):
            run(show, backend=tier, **options)  # type: ignore[arg-type]
    with pytest.raises(PolicyError, match="could have made"):
        run(script=work / "file", backend=tier)
    with pytest.raises(PolicyError, match="could have made"):  # also one that this very run could make
        run(show, workdir=other, read=[other / "tree"], backend=tier)
    assert secret.read_text() == "a canary"


@tiers
def test_an_environment_grants_nothing_but_a_python(tier: str, directory: Path) -> None:
    secret = directory / "secret"
    (secret / "bin").mkdir(parents=True)
    (secret / "key").write_text("a canary")
    venv = directory / "work" / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    show = f"print(open({str(secret / 'key')!r}).read())"
    assert run("print(1)", packages=venv, backend=tier).stdout == "1\n"
    (venv / "pyvenv.cfg").write_text(f"home = {secret / 'bin'}\n")
    with pytest.raises(PolicyError, match="holds no Python"):
        run(show, packages=venv, backend=tier)


@tiers
def test_a_box_that_code_inside_forged_grants_nothing(tier: str, directory: Path) -> None:
    secret = directory / "secret"
    secret.mkdir()
    (secret / "key").write_text("a canary")
    work = directory / "work"
    venv = work / "sub" / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    python = os.path.realpath(sys.executable)
    show = f"print(open({str(secret / 'key')!r}).read())"
    for trees in ([str(secret)], [str(secret / "key")], [str(directory)]):
        noted = json.dumps({"executable": python, "version": "3", "trees": trees, "libraries": [str(secret)]})
        forge = (
            "import os, shutil\nos.makedirs('sandbox', exist_ok=True); os.makedirs('inside/bin', exist_ok=True)\n"
            f"if not os.path.lexists('inside/bin/python'): os.symlink({python!r}, 'inside/bin/python')\n"
            f"shutil.copy('pyvenv.cfg', 'inside')\nopen('sandbox/interpreter.json', 'w').write({noted!r})"
        )
        result = run("import os; os.chdir('sub/venv')\n" + forge, workdir=work, backend=tier)
        assert result.ok, result.stderr
        with pytest.raises(PolicyError, match="holds no Python"):
            run(show, packages=venv, backend=tier)


@tiers
def test_a_python_that_code_inside_made_is_none(tier: str, directory: Path) -> None:
    """Its library lies in a directory that was granted; what it is said to run from is the one above."""
    (directory / "key").write_text("a canary")
    (directory / "share").mkdir()
    (directory / "share" / "key").write_text("a canary")
    for name in ("libproject", "lib"):
        work = directory / name
        venv = work / "sub" / "venv"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
        made = "py" if name == "libproject" else "python%d.%d" % sys.version_info[:2]
        code = (
            f"import os; os.makedirs('{made}/encodings'); open('{made}/os.py', 'w'); "
            f"open('{made}/encodings/__init__.py', 'w'); "
            f"open('sub/venv/pyvenv.cfg', 'w').write('home = {directory}/bin')"
        )
        assert run(code, workdir=work, backend=tier).ok
        with pytest.raises(PolicyError, match="holds no Python"):
            run(f"print(open({str(directory / 'share' / 'key')!r}).read())", packages=venv, backend=tier)


@tiers
def test_of_a_base_only_a_python_is_seen(tier: str, directory: Path) -> None:
    """Code of another process may have named a base that has nothing but a library where it wrote."""
    (directory / "key").write_text("a canary")
    library = directory / "lib" / "python3.9"
    (library / "encodings").mkdir(parents=True)
    (library / "os.py").touch()
    (library / "encodings" / "__init__.py").touch()
    venv = directory / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    (venv / "pyvenv.cfg").write_text(f"home = {directory}/bin\n")
    argv = ["/bin/cat", str(directory / "key"), str(library / "os.py")]
    result = run(argv, packages=venv, backend=tier)
    assert "a canary" not in result.stdout
    assert "os.py" not in result.stderr
    assert "key" in result.stderr


@tiers
def test_what_says_where_an_environment_runs_from_is_read_in_part(tier: str, directory: Path) -> None:
    venv = directory / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    with (venv / "pyvenv.cfg").open("ab") as file:
        file.truncate(1 << 40)
    assert run(["/bin/true"], packages=venv, backend=tier).ok


@tiers
def test_a_session_follows_no_link_either(tier: str, directory: Path) -> None:
    (directory / "secret").mkdir()
    (directory / "secret" / "key").write_text("a canary")
    work = directory / "work"
    work.mkdir()
    (work / "tree").symlink_to(directory / "secret")
    (work / "file").symlink_to(directory / "secret" / "key")
    os.mkfifo(work / "pipe")
    with pytest.raises(PolicyError, match="could have made"):
        Sandbox(workdir=work, read=[work / "tree"], backend=tier)
    with pytest.raises(PolicyError, match="could have made"), Sandbox(
        workdir=work, files={"x": work / "file"}, backend=tier
    ):
        pass
    with Sandbox(workdir=work, backend=tier) as box:
        with pytest.raises(PolicyError, match="could have made"):
            box.put("x", work / "file")
        with pytest.raises(UsageError, match="regular"):
            box.put("x", work / "pipe")


@tiers
@pytest.mark.parametrize("options", [{"workdir": ""}, {"read": [""]}, {"write": [""]}, {"files": {"f": Path("")}}])
def test_an_empty_path_is_no_directory(tier: str, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        run("pass", backend=tier, **options)


def test_environments_in_a_working_directory_stay_as_they_are(directory: Path) -> None:
    (directory / "mine").mkdir()
    (directory / "mine" / "pyvenv.cfg").write_text("mine")
    (directory / "no-environment").mkdir()
    result = run("open('no-environment/x', 'w')\nopen('mine/x', 'w')", workdir=directory, backend="native")
    assert "Read-only" in result.stderr
    assert (directory / "no-environment" / "x").exists()


@tiers
def test_names_of_any_bytes_do_not_stop_the_next_run(tier: str, directory: Path) -> None:
    code = "import os\nopen(b'.env.\\xff', 'w').close()\nos.mkdir(b'd\\xff')\nopen(b'd\\xff/pyvenv.cfg', 'w').close()"
    assert run(code, workdir=directory, backend=tier).ok
    seen = run("import os\nprint(sorted(os.listdir(b'.')))", workdir=directory, backend=tier)
    assert seen.stdout == "[b'.env.\\xff', b'd\\xff']\n", seen.stderr
    if tier == "native":
        assert "Read-only" in run("open(b'.env.\\xff', 'w')", workdir=directory, backend=tier).stderr
    inner = directory / os.fsdecode(b"d\xff")
    assert run("open('f', 'w')", workdir=inner, write=[inner], mount_point=str(inner), backend=tier).ok
    assert (inner / "f").exists()


def test_more_protected_names_than_can_be_mounted_are_an_error(directory: Path) -> None:
    code = "for number in range({}): open(f'.env.{{number}}', 'w').close()"
    assert run(code.format(1000), workdir=directory).ok
    assert run(code.format(1001), workdir=directory).returncode == 1
    (directory / ".env.1000").touch()
    with pytest.raises(UsageError, match="more than 1000 names"):
        run("pass", workdir=directory)
    assert run("pass", workdir=directory, changes="capture").ok


# ---- change sets ----


@pytest.fixture
def project(directory: Path) -> Path:
    (directory / "file").write_text("one\n")
    (directory / "tree").mkdir()
    (directory / "tree" / "below").write_text("below\n")
    return directory


@tiers
def test_a_file_becomes_a_directory_and_the_other_way_round(tier: str, project: Path) -> None:
    code = (
        "import os, shutil\nos.remove('file')\nos.mkdir('file')\nopen('file/x', 'w').write('x')\n"
        "shutil.rmtree('tree')\nopen('tree', 'w').write('t')"
    )
    changes = run(code, workdir=project, changes="capture", backend=tier).changes
    assert changes is not None
    with pytest.raises(ConflictError, match="is to stay"):
        changes.apply(project, only=["tree"])
    assert (project / "tree" / "below").read_text() == "below\n"
    changes.apply(project)
    assert ((project / "file" / "x").read_text(), (project / "tree").read_text()) == ("x", "t")


@tiers
def test_what_is_hidden_is_not_lost(tier: str, project: Path) -> None:
    code = "import os\nopen('file', 'a').write('two\\n')\nos.chmod('file', 0)\nos.chmod('tree', 0)\nos.chmod('.', 0)"
    changes = run(code, workdir=project, changes="capture", backend=tier).changes
    assert changes is not None
    assert changes.files.deleted == ()
    changes.apply(project)
    os.chmod(project / "file", 0o600)
    assert (project / "file").read_text() == "one\ntwo\n"
    assert (project / "tree" / "below").exists()


@tiers
def test_holes_are_not_read(tier: str, project: Path) -> None:
    code = (
        "for n in range(50):\n    with open(f'{n}', 'wb') as f: f.truncate(1 << 40)\n"
        "open('file', 'a').write('two\\n')"
    )
    started = time.monotonic()
    changes = run(code, workdir=project, changes="capture", backend=tier).changes
    assert changes is not None
    assert time.monotonic() - started < 20
    assert not changes.is_complete
    with pytest.raises(ConflictError, match="not all of them"):
        changes.apply(project)


@tiers
def test_a_patch_tells_all(tier: str, project: Path) -> None:
    code = "import os\nos.chmod('file', 0o777)\nopen('n', 'w').write('a\\rb\\x0b\\u2028c\\n')\nopen(b'\\xff', 'w')"
    result = run(code, workdir=project, changes="capture", backend=tier)
    assert result.changes is not None
    patch = result.changes.patch()
    assert "mode 644 -> 777 file\n" in patch
    assert "+a\rb\x0b\u2028c\n" in patch
    assert "\\ No newline" not in patch
    assert json.loads(result.to_json())["files"]["created"] == ["\\xff", "n"]


@tiers
def test_a_patch_shows_text_in_place_of_anything(tier: str, project: Path) -> None:
    (project / "link").symlink_to("file")
    (project / "binary").write_bytes(b"\0")
    code = (
        "import os\nfor n in ('link', 'binary'):\n    os.remove(n)\n    open(n, 'w').write(f'text of {n}\\n')\n"
        "os.remove('file')\nos.symlink('tree', 'file')"
    )
    changes = run(code, workdir=project, changes="capture", backend=tier).changes
    assert changes is not None
    for name in ("link", "binary"):
        assert changes.patch([name]).splitlines() == [
            f"removed {name}", "--- /dev/null", f"+++ b/{name}", "@@ -0,0 +1 @@", f"+text of {name}",
        ]  # fmt: skip
    assert changes.patch(["file"]) == "removed file\nlink file -> tree\n"


def test_a_comparison_ends(project: Path) -> None:
    from vsbox.launch.changes import Change, ChangeSet

    lines = [f"{n % 101}\n" for n in range(30_000)]
    old, new = "".join(lines).encode(), "".join(lines[50:] + lines[:50]).encode()
    started = time.monotonic()
    patch = ChangeSet((Change("f", "file", content=new, before=(0o100644,), old_content=old),), "copy").patch()
    assert time.monotonic() - started < 5
    assert patch.startswith("--- a/f\n+++ b/f\n@@ -1,30000 +1,30000 @@\n")


# ---- what others do to a directory that is captured ----


@tiers
def test_what_the_user_did_meanwhile_stays(tier: str, project: Path) -> None:
    (project / "both").write_text("one\n")
    code = (
        "import os, time\nopen('both', 'a').write('code\\n')\nopen('mine', 'w').write('code\\n')\nos.remove('file')\n"
        "print('ready', flush=True)\ntime.sleep(1)"
    )

    def edit(_: bytes) -> None:
        (project / "both").write_text("user\n")
        (project / "tree" / "below").write_text("user\n")
        (project / "tree" / "new").write_text("user\n")

    changes = run(code, workdir=project, changes="capture", stdout=edit, backend=tier).changes
    assert changes is not None
    files = changes.files
    assert (files.created, files.modified, files.deleted) == (("mine",), ("both",), ("file",))
    with pytest.raises(ConflictError, match="both: it has changed since"):
        changes.apply(project)
    changes.apply(project, only=["mine", "file"])
    assert {path.name: path.read_text() for path in project.rglob("*") if path.is_file()} == {
        "both": "user\n", "below": "user\n", "new": "user\n", "mine": "code\n",
    }  # fmt: skip


@tiers
def test_what_the_user_removed_meanwhile_does_not_come_back(tier: str, project: Path) -> None:
    code = "open('file', 'a').write('code\\n')\nimport time; print('ready', flush=True); time.sleep(1)"

    def remove(_: bytes) -> None:
        (project / "file").unlink(missing_ok=True)

    changes = run(code, workdir=project, changes="capture", stdout=remove, backend=tier).changes
    assert changes is not None
    with pytest.raises(ConflictError, match="file: it has changed since"):
        changes.apply(project)


@tiers
def test_a_directory_that_became_a_link_is_not_followed(tier: str, directory: Path) -> None:
    """A second run swaps the directory that changes were captured in for a link, or for another directory."""
    private, workdir = directory / "private", directory / "w"
    private.mkdir()
    (workdir / "out").mkdir(parents=True)
    changes = run("open('new', 'w')", workdir=workdir / "out", changes="capture", backend=tier).changes
    assert changes is not None
    swap = f"import os; os.rename('out', 'old'); os.symlink({str(private)!r}, 'out')"
    assert run(swap, workdir=workdir, backend=tier).ok
    with pytest.raises(PolicyError, match="could have made"):
        changes.apply(workdir / "out")
    assert run("import os; os.remove('out'); os.mkdir('out')", workdir=workdir, backend=tier).ok
    with pytest.raises(ConflictError, match="not the directory"):
        changes.apply(workdir / "out")
    assert not list(private.iterdir())
    assert changes.apply(workdir / "old") == ("new",)


PLACES = (
    "import os\nfor d in ('objects', 'refs'):\n    os.makedirs(f'sub/{d}')\nos.makedirs('env/bin')\n"
    "os.makedirs('box/sandbox')\nos.makedirs('no/objects')\n"
    "for f in ('sub/HEAD', 'sub/config', 'half/HEAD', 'env/pyvenv.cfg', 'env/bin/python', 'box/sandbox/sandbox.json', "
    "'no/HEAD'):\n    open(f, 'w').close()"
)
IN_PLACES = ("box/sandbox/sandbox.json", "env/bin/python", "env/pyvenv.cfg", "half/HEAD", "sub/HEAD", "sub/config")


@pytest.fixture
def half(project: Path) -> Path:
    """A directory that lacks nothing but HEAD to be a repository."""
    for name in ("objects", "refs"):
        (project / "half" / name).mkdir(parents=True)
    return project


@tiers
def test_what_directories_hold_makes_them_protected(tier: str, half: Path) -> None:
    changes = run(PLACES, workdir=half, changes="capture", backend=tier).changes
    assert changes is not None
    assert changes.files.protected == IN_PLACES
    for path in IN_PLACES:
        with pytest.raises(ConflictError, match="would execute"):
            changes.apply(half, only=[path])
    assert changes.apply(half, only=["no/HEAD"]) == ("no", "no/HEAD")
    assert run(PLACES.replace("'no/", "'other/"), workdir=half, backend=tier).files.protected == IN_PLACES


@tiers
def test_a_directory_makes_a_repository(tier: str, directory: Path) -> None:
    """The last that git asks for is a directory, and directories are not listed."""
    code = "import os; os.makedirs('sub/objects'); open('sub/HEAD', 'w'); open('sub/config', 'w')"
    assert run(code, workdir=directory, backend=tier).files.protected == ()
    files = run("import os; os.mkdir('sub/refs')", workdir=directory, backend=tier).files
    assert (files.created, files.modified, files.protected) == ((), (), ("sub/HEAD",))


def test_two_halves_make_no_repository(half: Path) -> None:
    """Neither of two change sets makes a repository, nor was there one: both together would."""
    code = "import os; os.makedirs('sub/objects'); os.mkdir('sub/refs'); open('sub/config', 'w').close()"
    one = run(code, workdir=half, changes="capture").changes
    other = run("import os; os.mkdir('sub'); open('sub/HEAD', 'w').close()", workdir=half, changes="capture").changes
    assert one is not None
    assert other is not None
    assert (one.files.protected, other.files.protected) == ((), ())
    one.apply(half)
    with pytest.raises(ConflictError, match="would execute"):
        other.apply(half, only=["sub/HEAD"])


APPLY = """
import os, sys
from vsbox import ConflictError, run
os.makedirs('closed/in')
open('file', 'w').close()
os.chmod('closed', 0o555)
code = "import os; os.truncate('file', 1); os.chmod('closed', 0o755); os.rmdir('closed/in'); open('closed/f', 'x')"
changes = run(code, workdir='.', changes='capture', check=True, backend=sys.argv[1]).changes
try:
    changes.apply('.')
except ConflictError as error:
    print(error, os.stat('file').st_size)
"""


@tiers
@pytest.mark.parametrize("person", ["user"], indirect=True)
def test_nothing_is_applied_where_a_directory_is_read_only(tier: str, person: Person, place: Path) -> None:
    done = person.run([sys.executable, "-c", APPLY, tier], cwd=place)
    assert done.stdout.startswith("cannot apply closed/"), done.stderr
    assert done.stdout.endswith(": you may not write to its directory 0\n")


@tiers
def test_what_becomes_a_pipe_is_removed(tier: str, project: Path) -> None:
    code = (
        "import os, shutil\nos.remove('file')\nos.mkfifo('file')\nos.mkfifo('p')\n"
        "shutil.rmtree('tree')\nos.mkfifo('tree')"
    )
    changes = run(code, workdir=project, changes="capture", backend=tier).changes
    assert changes is not None
    assert changes.files.deleted == ("file", "tree", "tree/below")
    changes.apply(project)
    assert not list(project.iterdir())


def test_nothing_of_elsewhere_is_copied(directory: Path) -> None:
    """A live session swaps a directory and a link while its directory is copied for another run."""
    private, workdir = directory / "private", directory / "w"
    private.mkdir()
    (private / "key").write_text("a canary")
    (workdir / "d").mkdir(parents=True)
    swap = (
        f"import ctypes, os, threading, time\nos.symlink({str(private)!r}, 'l'); libc = ctypes.CDLL(None)\n"
        "def swap():\n    while True: libc.renameat2(-100, b'd', -100, b'l', 2); time.sleep(0.0003)\n"
        "threading.Thread(target=swap, daemon=True).start()"
    )
    look = "import os\nfor n in 'dl':\n    if not os.path.islink(n) and os.path.exists(f'{n}/key'): print('stolen')"
    with Sandbox(workdir=workdir, backend="landlock") as box:
        assert box.run(swap).ok
        for _ in range(40):
            with contextlib.suppress(UsageError):  # what moves cannot be copied
                assert "stolen" not in run(look, workdir=workdir, changes="capture", backend="landlock").stdout


def test_a_lease_does_not_hold_up_a_copy(directory: Path) -> None:
    (directory / "f").write_text("f")
    lease = (
        "import fcntl, signal\nsignal.signal(signal.SIGIO, signal.SIG_IGN)\n"
        "f = open('f', 'r+')\nfcntl.fcntl(f, fcntl.F_SETLEASE, fcntl.F_WRLCK)"
    )
    with Sandbox(workdir=directory, backend="landlock") as box:
        assert box.run(lease).ok
        started = time.monotonic()
        with pytest.raises(UsageError, match="cannot copy"):
            run("pass", workdir=directory, changes="capture", backend="landlock")
        assert time.monotonic() - started < 10


# ---- sessions ----

SAY = """
import json, os, struct, time
def say(answer):
    data = json.dumps(answer).encode()
    os.write(4, struct.pack('<I', len(data)) + data)
"""
ARTIFACT = "say({{'id': 2, 'kind': 'value', 'artifacts': [{{'name': 'a', 'media': '{media}', 'data': '{data}'}}]}})"
ANSWERS = {
    "no base64": ARTIFACT.format(media="text/html", data="!!"),
    "no media": ARTIFACT.format(media="text/html\\r\\nSet-Cookie: a", data=""),
    "too many": "say({'id': 2, 'kind': 'value', 'artifacts': [{'name': '', 'media': 'text/html', 'data': ''}] * 33})",
    "too long": "say({'id': 2, 'kind': 'value', 'value': {'type': 't', 'text': 'x' * 70000}})",
}


@tiers
@pytest.mark.parametrize("code", ANSWERS.values(), ids=ANSWERS)
def test_an_answer_of_another_form_ends_the_session(tier: str, code: str) -> None:
    with Sandbox(backend=tier) as box:
        box.run(SAY)
        assert box.run(f"{code}\ntime.sleep(60)", timeout=10).outcome is Outcome.CANCELLED
    with Sandbox(backend=tier) as box:
        box.run(SAY)
        good = ARTIFACT.format(media="text/html", data="QQ==")
        assert box.run(f"{good}\ntime.sleep(1)").artifacts[0].data == b"A"


@tiers
def test_what_says_that_it_exits_has_to(tier: str) -> None:
    stay = "while True:\n    try:\n        time.sleep(60)\n    except KeyboardInterrupt:\n        pass"
    with Sandbox(backend=tier) as box:
        box.run(SAY)
        started = time.monotonic()
        reply = box.run(f"say({{'id': 2, 'kind': 'exit'}})\n{stay}", timeout=0.5)
        assert (reply.outcome, reply.alive) == (Outcome.TIMEOUT, False)
        assert time.monotonic() - started < 5


def test_a_value_that_is_too_deep_is_no_data() -> None:
    with Sandbox() as box:
        box.run(SAY)
        deep = "say({'id': 2, 'kind': 'value', 'value': {'type': 't', 'text': '', 'json': '[' * 100000}})"
        value = box.run(f"{deep}\ntime.sleep(1)").value
        assert value is not None
        with pytest.raises(ValueError, match="nested"):
            _ = value.data


@tiers
def test_a_start_that_is_cancelled_leaves_nothing(tier: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(directory))

    async def start(seconds: float) -> None:
        async def talk() -> None:
            async with Sandbox(backend=tier) as box:
                await box.run("import time; time.sleep(60)")

        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(talk(), seconds)

    asyncio.run(start(0.3))
    before = len(os.listdir("/proc/self/fd"))
    for number in range(12):
        asyncio.run(start(0.003 * number + 0.001))
    assert len(os.listdir("/proc/self/fd")) == before
    assert not list(directory.iterdir())


HOST = """
import os, sys, time, vsbox
box = vsbox.Sandbox(backend=sys.argv[1]).open()
print(box.pid, flush=True)
if len(sys.argv) > 2:
    if os.fork() == 0:
        time.sleep(20)
        os._exit(0)
    box.run(sys.argv[2])
    time.sleep(60)
"""
REFUSED = """
import ctypes, os, threading, time
def ask(ptrace=101 if os.uname().machine == 'x86_64' else 117):
    for number in range(1, 20000):
        ctypes.CDLL(None).syscall(ptrace, 0, number, 0, 0)
    while True:
        time.sleep(1)
"""
REFUSED_BETWEEN_CALLS = f"{REFUSED}\nthreading.Thread(target=ask, daemon=True).start()"
LASTING = {"a call": "import time; time.sleep(60)", "refused calls": REFUSED_BETWEEN_CALLS}


@tiers
@pytest.mark.parametrize("code", LASTING.values(), ids=LASTING)
def test_a_forked_child_keeps_no_run_alive(tier: str, code: str, directory: Path) -> None:
    environment = os.environ | {"TMPDIR": str(directory)}
    host = subprocess.Popen(
        [sys.executable, "-c", HOST, tier, code], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert host.stdout is not None
    launcher = int(host.stdout.readline())
    assert _is_alive(launcher)
    time.sleep(0.3 if code == LASTING["a call"] else 2)
    host.send_signal(signal.SIGKILL)
    host.wait()
    host.stdout.close()
    assert wait_until(lambda: not _is_alive(launcher), seconds=5)


@tiers
def test_refused_calls_that_nobody_hears_of_hold_nobody(tier: str) -> None:
    with Sandbox(backend=tier) as box:
        assert box.run(REFUSED_BETWEEN_CALLS).ok
        time.sleep(2)
        started = time.monotonic()
    assert time.monotonic() - started < 3
    busy = f"{REFUSED}\nthreading.Thread(target=ask).start()\nwhile True:\n    os.write(1, b'x')\n    time.sleep(0.01)"
    result = run(busy, timeout=1, backend=tier, stdout=lambda _: time.sleep(0.05))
    assert result.outcome is Outcome.TIMEOUT
    assert result.usage.wall_seconds < 4


@tiers
def test_a_program_that_ends_with_an_open_session_leaves_nothing(tier: str, directory: Path) -> None:
    environment = os.environ | {"TMPDIR": str(directory)}
    done = subprocess.run(
        [sys.executable, "-c", HOST, tier], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stderr == ""
    assert not _is_alive(int(done.stdout))
    assert not list(directory.iterdir())


@tiers
def test_nothing_is_left_by_a_launcher_that_was_killed(
    tier: str, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    code = "import os, threading\nif os.fork() == 0:\n    while True: os.makedirs('a', exist_ok=True)"
    with Sandbox(backend=tier) as box:
        box.run("import time; time.sleep(0.3)")
        box.run(code, timeout=1)
        launcher = box.pid
        children = Path(f"/proc/{launcher}/task/{launcher}/children")
        init = int(children.read_text())
        inside = [int(pid) for pid in Path(f"/proc/{init}/task/{init}/children").read_text().split()]
        os.kill(init, signal.SIGSTOP)  # the kernel lets it go on when nobody is left who could
        assert wait_until(lambda: Path(f"/proc/{init}/stat").read_text().rpartition(")")[2].split()[0] == "T")
        os.kill(launcher, signal.SIGKILL)
    assert [pid for pid in (launcher, init, *inside) if _is_alive(pid)] == []
    assert not list(directory.iterdir())


@tiers
def test_no_zombie_is_left_to_a_program_that_is_pid_1(tier: str) -> None:
    code = (
        f"import os, vsbox\nfor _ in range(4): assert vsbox.run('pass', backend={tier!r}).ok\n"
        "print(open('/proc/self/task/1/children').read().split())"
    )
    unshare = ["unshare", "--pid", "--fork", "--mount-proc", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    done = subprocess.run([*unshare, sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode and "unshare" in done.stderr:
        lacking("namespaces", done.stderr)
    assert done.stdout == "[]\n", done.stderr


@tiers
def test_a_run_that_cannot_start_ends_at_once(tier: str) -> None:
    started = time.monotonic()
    with pytest.raises(UsageError, match="too long"):
        run("pass", files={"a" * 300: ""}, backend=tier)
    assert time.monotonic() - started < 3


KEEPER = """
import socket, threading
listener = socket.socket(socket.AF_UNIX)
listener.bind('socket')
listener.listen()
kept = []
def keep():
    while True:
        kept.append(socket.recv_fds(listener.accept()[0], 10, 10)[1])
threading.Thread(target=keep, daemon=True).start()
"""
GIVER = """
import os, socket
client = socket.socket(socket.AF_UNIX)
client.connect('socket')
socket.send_fds(client, [b'x'], [1, 2])
os.write(1, b'x' * 60000)
os.write(2, b'end')
"""


@tiers
def test_a_run_is_not_held_open_by_another(tier: str, directory: Path) -> None:
    with Sandbox(workdir=directory, backend=tier) as box:
        assert box.run(KEEPER).ok
        result = run(GIVER, workdir=directory, timeout=20, backend=tier)
        assert (result.outcome, result.stdout, result.stderr) == (Outcome.EXITED, "x" * 60000, "end")
        assert result.usage.wall_seconds < 5


@tiers
def test_a_run_is_not_held_open_by_a_child(tier: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is forked when all channels of the run are there."""
    from vsbox.launch import process

    popen = subprocess.Popen
    children = []

    def fork_first(*words: Any, **options: Any) -> subprocess.Popen[bytes]:
        if (pid := os.fork()) == 0:
            time.sleep(20)
            os._exit(0)
        children.append(pid)
        return popen(*words, **options)

    monkeypatch.setattr(process.subprocess, "Popen", fork_first)
    try:
        assert run("print('x' * 100)", timeout=15, backend=tier).stdout == "x" * 100 + "\n"
        with Sandbox(backend=tier) as box:
            os.kill(box.pid, signal.SIGKILL)
            assert wait_until(lambda: not box.alive, seconds=5)
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


@tiers
def test_links_that_came_with_a_change_set_are_not_followed(tier: str, directory: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("a canary")
    changes = run(f"import os; os.symlink({str(secret)!r}, 'data')", workdir=directory, changes="capture").changes
    assert changes is not None
    changes.apply(directory)
    options: list[dict[str, Any]] = [
        {"files": {"x": directory / "data"}}, {"stdout": directory / "data"}, {"read": [directory / "data"]},
    ]  # fmt: skip
    for more in options:
        with pytest.raises(PolicyError, match="could have made"):
            run("print(1)", backend=tier, **more)
    assert secret.read_text() == "a canary"


@pytest.mark.parametrize("changes", ["keep", "capture"])
@tiers
def test_what_a_protected_name_leads_to_is_protected(tier: str, changes: Any, directory: Path) -> None:
    (directory / "real.env").write_text("export A=1")
    (directory / "store").mkdir()
    (directory / ".envrc").symlink_to("real.env")
    (directory / ".git").symlink_to(directory / "store")
    (directory / ".env").symlink_to("/etc/hostname")
    code = "for n in ('.envrc', 'store/hook', 'fine'):\n try: open(n, 'w').write('evil')\n except OSError: pass"
    result = run(code, workdir=directory, changes=changes, backend=tier)
    assert (result.outcome, result.stderr) == (Outcome.EXITED, "")
    if changes == "capture":
        assert result.changes is not None
        assert {c.path for c in result.changes.changes if c.is_protected} == {"real.env", "store/hook"}
        with pytest.raises(ConflictError, match="would execute"):
            result.changes.apply(directory)
    else:
        assert result.files.protected == (() if tier == "native" else ("real.env", "store/hook"))
    assert (directory / "fine").exists() == (changes == "keep")
    if changes == "capture" or tier == "native":
        assert (directory / "real.env").read_text() == "export A=1"
        assert not (directory / "store" / "hook").exists()


def test_without_namespaces_no_more_can_be_forked_than_the_machine_has_beside_the_limit() -> None:
    """What a fork bomb comes to until it is seen."""
    code = "import resource; print(*resource.getrlimit(resource.RLIMIT_NPROC))"
    before = all_tasks()
    found = run(code, limits=Limits(processes=20), backend="landlock").stdout.split()
    assert len(set(found)) == 1
    assert 20 < int(found[0]) < 20 + 2 * before + 100
    assert run(code, backend="landlock").stdout.split() != found, "the control: it is the limit's doing"


NAMELESS = "import os\nf = open('x', 'wb')\nos.unlink('x')\nwhile True: f.write(bytes(1 << 20)); f.flush()"


def test_files_without_a_name_count_as_disk_without_namespaces() -> None:
    result = run(NAMELESS, limits=Limits(disk_bytes=50 << 20), timeout=20, backend="landlock")
    assert (result.outcome, result.limit and result.limit.name) == (Outcome.DISK, "disk_bytes")


@tiers
def test_no_grant_tells_of_the_hosts_processes(tier: str) -> None:
    for path in ("/proc", f"/proc/{os.getpid()}"):
        with pytest.raises(PolicyError, match="every process"):
            run("1", read=[path], backend=tier)


BESIDE_A_FORK = """
import os, sys, threading, time, vsbox
def fork():
    time.sleep(0.3)
    if os.fork() == 0:
        time.sleep(15)
        os._exit(0)
thread = threading.Thread(target=fork)
thread.start()
code = "import sys, time; time.sleep(0.6); print(len(sys.stdin.read()))"
result = vsbox.run(code, stdin="x" * 500_000, backend=sys.argv[1], timeout=10)
print(result.outcome.value, result.stdout, end="")
"""


@tiers
def test_input_ends_whoever_forks_meanwhile(tier: str) -> None:
    argv = [sys.executable, "-c", BESIDE_A_FORK, tier]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    assert done.stdout == "exited 500000\n"


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@tiers
def test_a_launcher_whose_caller_has_ended_runs_nothing(tier: str) -> None:
    prepared = prepare(Wanted(backend=tier), {})
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    passed = (prepared.plan, theirs.fileno())
    somebody_else = os.getppid()
    words = (find_launcher(), "run", *passed, -1, "", somebody_else, prepared.environment.python, "-c", "print('ran')")
    try:
        done = subprocess.run(list(map(str, words)), pass_fds=passed, capture_output=True, text=True, check=False)
    finally:
        prepared.close()
        ours.close()
        theirs.close()
    assert (done.returncode, done.stdout) == (125, "")
    assert "who asked for it has ended" in done.stderr
