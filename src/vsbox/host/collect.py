"""Collect host facts: probe by doing, look at paths, read the user's own settings."""

from __future__ import annotations

import errno
import os
import platform
import pwd
import stat
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from vsbox.errors import LauncherError
from vsbox.host import apparmor, bubblewrap
from vsbox.host.facts import HostFacts, PathFact, Watched
from vsbox.host.index import index_settings

if TYPE_CHECKING:
    from vsbox.host.facts import Kind

LAUNCHER: Final = Path(__file__).parent.parent / "launch" / "vsbox-launcher"
# The errno has two names; Python knows it by the other one, manual pages of the kernel's interfaces by this one.
ERRNO_NAMES: Final = {**errno.errorcode, errno.EOPNOTSUPP: "EOPNOTSUPP"}
GPUS: Final = ("nvidia*", "nvidia-caps/*", "dri/*", "kfd", "dxg")
KINDS: Final[tuple[tuple[int, Kind], ...]] = (
    (stat.S_IFDIR, "directory"),
    (stat.S_IFREG, "file"),
    (stat.S_IFCHR, "device"),
)


def find_launcher() -> Path:
    """Return the native launcher that was installed with this package.

    Raises:
        LauncherError: the package was installed without it.
    """
    if not LAUNCHER.is_file():
        raise LauncherError(
            f"cannot find the launcher {LAUNCHER}: vsbox was installed without it",
            hint="reinstall it on this machine: pip install --force-reinstall vsbox",
        )
    return LAUNCHER


def probe(profile: str | None = None) -> dict[str, str]:
    """Try what boxes need, in children of the launcher: under its AppArmor profile, if that is loaded."""
    argv = [str(find_launcher()), "probe", *([profile] if profile else [])]
    answer = subprocess.run(argv, capture_output=True, text=True, env={}, timeout=60, check=False)
    if answer.returncode != 0:
        raise LauncherError(f"cannot probe this machine: {answer.stderr.strip() or answer.returncode}")
    return {name: _named(value) for name, value in (line.split("=", 1) for line in answer.stdout.splitlines())}


def _named(answer: str) -> str:
    """Return an answer of the launcher with the name of the errno that it gives as a negative number."""
    return ERRNO_NAMES.get(int(answer[1:]), "EUNKNOWN") if answer.startswith("-") else answer


def look_at(path: str) -> PathFact:
    """Return what ``path`` is now."""
    real = os.path.realpath(path)
    try:
        mode = os.stat(real).st_mode  # surrogate-escaped paths stay strings
    except OSError:
        return PathFact("missing", real)
    for file_type, kind in KINDS:
        if stat.S_IFMT(mode) == file_type:
            return PathFact(kind, real)
    return PathFact("other", real)


def watch(path: str) -> Watched:
    """Return the identity of a file, to notice when it changes."""
    try:
        status = os.stat(path)
    except OSError:
        return Watched(path)
    return Watched(path, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def user_home() -> str:
    """Return the home directory that the user database names; ``$HOME`` may say anything."""
    try:
        return os.path.realpath(pwd.getpwuid(os.getuid()).pw_dir)  # type: ignore[attr-defined,no-any-return,unused-ignore]
    except KeyError:
        return os.path.realpath(os.environ.get("HOME", "/"))


def own_paths() -> tuple[str, ...]:
    """Return what the outside half executes and imports: this package, its libraries, its interpreter."""
    libraries = [path for name, path in sysconfig.get_paths().items() if name.endswith(("lib", "stdlib"))]
    is_environment = sys.prefix != sys.base_prefix
    environment = [f"{sys.prefix}/pyvenv.cfg", str(Path(sys.executable).parent)] if is_environment else []
    package = str(Path(__file__).resolve().parent.parent)
    every = (package, *libraries, *environment, sys.executable, os.path.realpath(sys.executable))
    return tuple(sorted({os.path.realpath(path) for path in every} | {sys.executable}))


def collect(
    paths: Iterable[str] = (), *, watched: Iterable[str] = (), profiles: tuple[str, ...] = ()
) -> HostFacts:
    """Return the facts of this machine, with what is at ``paths`` and the identity of ``watched``.

    ``profiles`` are AppArmor's: the launcher's, which may open more to it than to others, and what else to ask for.
    """
    if not sys.platform.startswith("linux"):
        return HostFacts(platform.system(), platform.machine(), platform.release(), 0, str(Path.home()))
    home = user_home()
    index, config_files = index_settings(home)
    return HostFacts(
        system=platform.system(),
        machine=platform.machine(),
        kernel=platform.release(),
        uid=os.geteuid(),
        home=home,
        probes=probe(profiles[0] if profiles else None),
        paths={path: look_at(path) for path in (*paths, *index.paths)},
        watched=tuple(watch(path) for path in (str(LAUNCHER), *bubblewrap.PROGRAMS, *watched, *config_files)),
        index=index,
        gpus=tuple(sorted(str(path) for pattern in GPUS for path in Path("/dev").glob(pattern))),
        own_paths=tuple(sorted({*own_paths(), *bubblewrap.places()})),
        compiler=(sys.executable, "-I", "-m", "vsbox.box"),
        gid=os.getegid(),
        bubblewrap=bubblewrap.probe(find_launcher()),
        apparmor=apparmor.probe(find_launcher(), profiles),
    )
