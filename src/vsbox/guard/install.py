"""The guard's files, made outside and put into an environment that code inside may have rearranged.

Security: of that environment every directory on the way is opened without following links, and a file is
replaced as a whole, so nothing of the host can be reached through it. Nothing there is read but to compare.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import marshal
import os
import secrets
import stat
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from vsbox.errors import BoxError
from vsbox.guard.hook.events import SPAWNING, handlers_for
from vsbox.guard.places import opened_below
from vsbox.plan.guard import START_FILE, guard_files
from vsbox.plan.model import BoxFacts, Interpreter

HOOK: Final = Path(__file__).with_name("hook")
FIRST: Final = HOOK / "first.py"
PARTS: Final = ("words", "paths", "distributions", "grants", "reports", "guard", "events")
"""Modules of the hook, each after those that it imports from."""
MOST_PREFIXES: Final = 100
"""More would be compared for longer than the closer look takes."""
MARK: Final = "_vsbox_guard"
CODE_NAME: Final = "<vsbox guard>"
SECONDS: Final = 60
LISTS: Final = ("read", "write", "hidden", "withheld", "packages", "records", "granted")
NOTHING: Final = dict.fromkeys(LISTS, ()) | dict.fromkeys(("root", "tier", "mode", "network"), "")
COMPILE: Final = (
    "import marshal, sys\n"
    "sources = sys.stdin.buffer.read().split(b'\\0')\n"
    f"codes = [compile(s, {CODE_NAME!r}, 'exec', dont_inherit=True, optimize=2) for s in sources]\n"
    "first, hook = map(marshal.dumps, codes)\n"
    "sys.stdout.buffer.write(len(first).to_bytes(4, 'little') + first + hook)"
)
BEGIN: Final = (
    "try:\n import marshal\n with open({path!r},'rb')as f:d=f.read()\n"
    " exec(marshal.loads(memoryview(d)[12:]),{{'data':d}})\n"
    "except BaseException:\n import os;os.write(2,{message!r});os._exit(125)\n"
)
"""Code of the ``.pth`` file, as short as can be, since it is compiled at every start. What fails there, site prints and
goes on: so a guard that cannot start ends Python itself."""
BROKEN: Final = "vsbox: cannot start Python: its guard is broken\n       put it back, outside: vsbox sync {root}\n"
ONLY_UNCONFINED: Final = frozenset({"os.putenv", "os.unsetenv"})
EVENTS: Final = tuple(sorted(handlers_for(NOTHING).keys() - {*SPAWNING, *ONLY_UNCONFINED}))


def hook_source() -> bytes:
    """Return the hook as one program: its modules one after the other, without what they import from each other."""
    lines = (line for part in PARTS for line in (HOOK / f"{part}.py").read_bytes().splitlines(keepends=True))
    return b"".join(line for line in lines if not line.startswith(b"from vsbox.guard.hook."))


def compile_hook(interpreter: Interpreter, place: Path) -> bytes:
    """Return the hook as code of this Python, marshalled; made once and kept in ``place``, which is outside.

    Raises:
        BoxError: the interpreter cannot do it.
    """
    try:
        return _compiled(interpreter, place, FIRST.read_bytes() + b"\0" + hook_source())
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BoxError(f"cannot compile the guard with {interpreter.executable}: {error}") from error


def _compiled(interpreter: Interpreter, place: Path, source: bytes) -> bytes:
    status = Path(interpreter.executable).stat()
    key = os.fsencode(f"{interpreter.executable}\0{interpreter.version}\0{status.st_size}\0{status.st_mtime_ns}\0")
    kept = place / f"guard-{hashlib.sha256(key + source).hexdigest()[:16]}"
    with contextlib.suppress(FileNotFoundError):
        return kept.read_bytes()
    argv = [interpreter.executable, "-I", "-S", "-X", "no_debug_ranges", "-c", COMPILE]
    done = subprocess.run(argv, input=source, capture_output=True, env={}, cwd="/", timeout=SECONDS, check=False)
    if done.returncode:
        cause = done.stderr.decode(errors="replace").strip()[-300:]
        raise BoxError(f"cannot compile the guard with {interpreter.executable}: {cause}")
    for old in place.glob("guard-*"):
        old.unlink(missing_ok=True)
    temporary = kept.with_name(f".{kept.name}.{secrets.token_hex(4)}")
    temporary.write_bytes(done.stdout)
    temporary.replace(kept)
    return done.stdout


def _prefixes(config: Mapping[str, Any]) -> tuple[tuple[str, ...], ...]:
    """Return, for reading and for writing: prefixes where it is granted throughout, where in part, and exceptions.

    What is granted has a slash behind; what is opened most comes first: the box, then what is near the root.
    """

    def below(*lists: str) -> tuple[str, ...]:
        every = {f"{path}/" for name in lists for path in config[name]}
        paths = sorted(every, key=lambda path: (path.count("/"), path))
        return tuple(sorted(paths, key=lambda path: path != f"{config['root']}/"))

    def split(granted: tuple[str, ...], *lists: str) -> tuple[tuple[str, ...], ...]:
        less = tuple(path for name in lists for path in config[name] if path.startswith(granted))
        if len(less) > MOST_PREFIXES:
            return granted[:0], granted[:0], less[:0]
        mixed = tuple(path for path in granted if any(other.startswith(path) for other in less))
        return tuple(path for path in granted if path not in mixed)[:MOST_PREFIXES], mixed[:MOST_PREFIXES], less

    if config["tier"] == "none":  # no kernel looks where links lead: a closer look wherever code can make some
        read = tuple(path for path in below("read") if not path.startswith(("//", "/proc/")))  # where some are made
        return *split(read, "write", "hidden"), (), (), ()
    return *split(below("read", "write"), "hidden"), *split(below("write"), "read", "hidden")


def _join(code: bytes, config: Mapping[str, Any]) -> bytes:
    """Return what ``first.py`` reads: where the other parts begin, its own code, grants, configuration, the hook."""
    size = int.from_bytes(code[:4], "little")
    first, hook = code[4 : 4 + size], code[4 + size :]
    events = (*EVENTS, *ONLY_UNCONFINED) if config["tier"] == "none" else EVENTS
    mine = tuple(f"{path.rstrip('/')}/" for path in config["granted"])
    is_confined = config["tier"] != "none"
    first_needs = (_prefixes(config), events, SPAWNING, mine, is_confined)
    granted = marshal.dumps(first_needs, 2)  # a format that every Python reads
    told = marshal.dumps(dict(config), 2)
    parts = [first, granted, told, hook]
    starts = [12 + sum(map(len, parts[:number])) for number in (1, 2, 3)]
    return b"".join(start.to_bytes(4, "little") for start in starts) + b"".join(parts)


def guard_content(box: BoxFacts, config: Mapping[str, Any], place: Path) -> dict[str, bytes]:
    """Return each file of the guard of a box."""
    packages = config["packages"][0]
    begin = BEGIN.format(path=f"{packages}/_sandbox_hook.bin", message=os.fsencode(BROKEN.format(root=box.root)))
    content = {
        # site reads the files of an environment twice: https://github.com/python/cpython, Lib/site.py, venv and main
        "_sandbox.pth": f"import sys; hasattr(sys, {MARK!r}) or exec({begin!r}, {{}}); sys.{MARK} = 1\n".encode(),
        "_sandbox_hook.py": hook_source(),
        "_sandbox_hook.bin": _join(compile_hook(box.interpreter, place), config),
        "_sandbox.json": json.dumps(config, indent=2).encode() + b"\n",
        START_FILE: b"_sandbox_hook:start\n",
    }
    return {name: content[name] for name in guard_files(box)}


def _has(directory: int, name: str, data: bytes) -> bool:
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)  # type: ignore[attr-defined,unused-ignore]
    except OSError:
        return False
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        return False
    with os.fdopen(descriptor, "rb") as file:
        return file.read(len(data) + 1) == data


def _replace(directory: int, name: str, data: bytes) -> None:
    temporary = f".{name}.{secrets.token_hex(4)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC  # type: ignore[attr-defined,unused-ignore]
    try:
        with os.fdopen(os.open(temporary, flags, 0o644, dir_fd=directory), "wb") as file:
            file.write(data)
        with contextlib.suppress(OSError):  # code inside may have put a directory there
            if stat.S_ISDIR(os.lstat(name, dir_fd=directory).st_mode):
                os.rename(name, f"{temporary}.moved", src_dir_fd=directory, dst_dir_fd=directory)
        os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=directory)
        raise


def put_guard(own: Path, environment: Path, packages: str, files: Mapping[str, bytes]) -> None:
    """Write the guard to ``own``, which is outside, and into the packages of an environment.

    Its directory keeps its times: what is added is nobody's change.

    Raises:
        BoxError: the environment has no such directory, or a link in its place.
    """
    own.mkdir(exist_ok=True)
    with opened_below(own.parent, own.name) as directory:
        _put(directory, files)
    with opened_below(environment, packages) as directory:
        before = os.fstat(directory)
        if _put(directory, files):
            os.utime(directory, ns=(before.st_atime_ns, before.st_mtime_ns))


def _put(directory: int, files: Mapping[str, bytes]) -> bool:
    _sweep(directory)
    missing = [name for name, data in files.items() if not _has(directory, name, data)]
    for name in missing:
        _replace(directory, name, files[name])
    return bool(missing)


def _sweep(directory: int) -> None:
    """Remove what a command that was killed left behind."""
    for name in os.listdir(directory):
        if name.startswith("._sandbox"):
            with contextlib.suppress(OSError):  # a directory is none of ours
                os.unlink(name, dir_fd=directory)


def take_guard(own: Path, environment: Path, packages: str) -> None:
    """Take the guard's files out of an environment again, as far as they are ours."""
    if not own.is_dir() or not packages:
        return
    with opened_below(environment, packages) as directory:
        before = os.fstat(directory)
        _sweep(directory)
        for path in own.iterdir():
            if _has(directory, path.name, path.read_bytes()):
                os.unlink(path.name, dir_fd=directory)
        os.utime(directory, ns=(before.st_atime_ns, before.st_mtime_ns))
