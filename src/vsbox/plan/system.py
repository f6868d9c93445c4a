"""What of the system code inside may read: tables, one reason a group.

Whole ``/etc`` would do for an ordinary user, but code run by root owns ``/etc/shadow`` and the
private keys below ``/etc/ssl``; so it is a list of what programs read.
"""

from __future__ import annotations

from typing import Final

TREES: Final = (
    "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32",
    "/nix/store", "/gnu/store",
)  # fmt: skip

ETC: Final = tuple(
    f"/etc/{name}"
    for name in (
        # dynamic linker
        "ld.so.cache", "ld.so.preload",
        # names: users, hosts, services
        "passwd", "group", "nsswitch.conf", "host.conf", "hosts", "hostname", "resolv.conf",
        "gai.conf", "protocols", "services",
        # certificates, without the private keys beside them
        "ssl/certs", "ssl/cert.pem", "ssl/openssl.cnf", "ca-certificates", "pki/tls/certs",
        "pki/tls/cert.pem", "pki/tls/openssl.cnf", "pki/ca-trust", "crypto-policies",
        # time and language
        "localtime", "timezone", "locale.alias", "locale.conf",
        # which program a name means
        "alternatives", "os-release", "lsb-release", "debian_version", "redhat-release",
        "alpine-release", "arch-release", "SuSE-release", "gentoo-release", "shells", "gitconfig",
        # libraries and tools that people use from Python
        "fonts", "mime.types", "OpenCL", "vulkan", "matplotlibrc", "inputrc", "bash.bashrc",
        "pip.conf", "xdg/pip", "uv",
        # Debian's Python: sitecustomize.py in its library is a link to here
        *(f"python3.{minor}" for minor in range(8, 30)),
    )
)  # fmt: skip

KERNEL_VIEWS: Final = ("/sys/devices/system",)
"""OpenBLAS and torch count processors here."""

GPU_VIEWS: Final = ("/sys/bus/pci", "/sys/class/drm", "/sys/class/kfd", "/sys/dev/char", "/sys/devices")
"""Where drivers look for graphics processors and what they are."""

MASKED: Final = ("/proc/keys", "/proc/key-users")
MASKED_FROM_ROOT: Final = tuple(
    f"/proc/{name}"
    for name in (
        "kcore", "timer_list", "kpageflags", "kpagecount", "kpagecgroup", "vmallocinfo", "slabinfo",
        "pagetypeinfo",
    )
)  # fmt: skip
"""Files of proc about the machine, not about processes; the second list only uid 0 could read at all.
All of proc is read-only besides."""

SHARED_PROC: Final = tuple(
    f"/proc/{name}"
    for name in (
        "cpuinfo", "filesystems", "loadavg", "meminfo", "stat", "sys", "uptime", "version", "vmstat",
    )
)  # fmt: skip
"""What may be read of proc where it shows every process of the machine (no PID namespace)."""

PRIVATE_TO_EACH_RUN: Final = ("/tmp", "/var/tmp", "/dev/shm")
"""Where there are namespaces."""

DEVICES: Final = ("null", "zero", "full", "random", "urandom", "tty")
DEVICE_LINKS: Final = (
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
    ("/dev/ptmx", "pts/ptmx"),
    ("/etc/mtab", "/proc/self/mounts"),
)

PRIVATE_SELF: Final = 1
PRIVATE_TREE: Final = 2
PRIVATE_HOME: Final = 3
PRIVATE_HOMES: Final = 4
PRIVATE_OWN: Final = 5
PRIVATE_BELOW: Final = 6
PRIVATE_PLACES: Final = (
    ("/home", PRIVATE_HOMES),
    ("/Users", PRIVATE_HOMES),
    ("/root", PRIVATE_HOME),
    ("/tmp", PRIVATE_SELF),
    ("/var/tmp", PRIVATE_SELF),
    ("/mnt", PRIVATE_SELF),
    ("/media", PRIVATE_SELF),
    ("/srv", PRIVATE_SELF),
    ("/opt", PRIVATE_SELF),
    ("/etc", PRIVATE_TREE),
    ("/proc", PRIVATE_TREE),
    ("/sys", PRIVATE_TREE),
    ("/dev", PRIVATE_TREE),
    ("/run", PRIVATE_TREE),
    ("/boot", PRIVATE_TREE),
    ("/var/run", PRIVATE_TREE),
    ("/var/spool", PRIVATE_TREE),
)
"""Where a working directory is not shown just because somebody stands in it."""


def is_private_place(path: str, home: str) -> bool:
    """Tell whether a directory is not shown just because somebody stands in it, as the launcher does (``start.c``)."""
    return any(_is_private_for(path, place, kind) for place, kind in (*PRIVATE_PLACES, (home, PRIVATE_HOME)))


def _is_private_for(path: str, place: str, kind: int) -> bool:
    if path == place or place.startswith(path.rstrip("/") + "/"):
        return True
    if not path.startswith(place.rstrip("/") + "/"):
        return False
    below = path[len(place) :].strip("/").split("/")
    if kind == PRIVATE_HOMES:
        below = below[1:]
        return not below or below[0].startswith(".")
    return kind == PRIVATE_TREE or (kind == PRIVATE_HOME and below[0].startswith("."))


def candidates() -> tuple[str, ...]:
    """Return every path of the tables, for the collector to look at."""
    devices = tuple(f"/dev/{name}" for name in (*DEVICES, "ptmx", "pts", "shm"))
    return (*TREES, *ETC, *KERNEL_VIEWS, *GPU_VIEWS, *SHARED_PROC, *devices, "/bin/bash")
