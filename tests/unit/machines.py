"""Machines that we do not have, as facts, and a box on them."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from vsbox.host.facts import HostFacts, IndexSettings, PathFact, Watched
from vsbox.plan.model import BoxFacts, Interpreter, Tier
from vsbox.policy.model import Policy

CONFINING = (Tier.NAMESPACES, Tier.LANDLOCK)
HOME = "/home/ada"
ROOT = "/home/ada/env"
OWN = "/home/ada/.local/share/vsbox"
PYTHON = "/usr/bin/python3.11"
DATA = "/home/ada/data"

EVERY_PROBE = dict.fromkeys(
    (
        "user_namespace", "bind", "pivot_root", "proc", "network_namespace", "cgroup_namespace",
        "seccomp", "seccomp_listener", "pidfd_getfd", "proc_children", "openat2", "close_range",
    ),
    "ok",
)  # fmt: skip
NAMESPACE_PROBES = (
    "user_namespace", "bind", "pivot_root", "proc", "network_namespace", "cgroup_namespace",
)  # fmt: skip
MERGED = {
    "/bin": "/usr/bin", "/sbin": "/usr/sbin", "/lib": "/usr/lib", "/lib64": "/usr/lib64",
}  # fmt: skip
ETC_FILES = (
    "ld.so.cache", "passwd", "group", "nsswitch.conf", "host.conf", "hosts", "hostname", "gai.conf",
    "protocols", "services", "ssl/openssl.cnf", "timezone", "mime.types", "inputrc", "bash.bashrc",
)  # fmt: skip
ETC_LINKS = {
    "resolv.conf": "/run/systemd/resolve/stub-resolv.conf",
    "localtime": "/usr/share/zoneinfo/Etc/UTC",
    "os-release": "/usr/lib/os-release",
}
DEVICES = ("null", "zero", "full", "random", "urandom", "tty", "ptmx")
PROC_FILES = ("cpuinfo", "filesystems", "loadavg", "meminfo", "stat", "uptime", "version", "vmstat")


def directory(path: str) -> PathFact:
    return PathFact("directory", path)


def regular(path: str) -> PathFact:
    return PathFact("file", path)


def disk(*, merged: bool = True) -> dict[str, PathFact]:
    """What the collector finds on a Debian-like machine, with or without a merged /usr."""
    found = {"/usr": directory("/usr")}
    found |= {path: directory(real if merged else path) for path, real in MERGED.items()}
    found |= {f"/etc/{name}": regular(f"/etc/{name}") for name in ETC_FILES}
    found |= {f"/etc/{name}": regular(real) for name, real in ETC_LINKS.items()}
    for name in ("ssl/certs", "ca-certificates", "alternatives", "fonts"):
        found[f"/etc/{name}"] = directory(f"/etc/{name}")
    found |= {f"/dev/{name}": PathFact("device", f"/dev/{name}") for name in DEVICES}
    found |= {f"/proc/{name}": regular(f"/proc/{name}") for name in PROC_FILES}
    for path in ("/dev/pts", "/dev/shm", "/proc/sys", "/sys/devices/system", DATA, HOME):
        found[path] = directory(path)
    found["/bin/bash"] = regular("/usr/bin/bash" if merged else "/bin/bash")
    return found


def machine(
    *,
    probes: Mapping[str, str] = {},
    paths: Mapping[str, PathFact] = {},
    landlock: int | str = 7,
    merged: bool = True,
    **changes: object,
) -> HostFacts:
    """Return a machine where everything works, except for what is said."""
    facts = HostFacts(
        system="Linux",
        machine="x86_64",
        kernel="6.16.0-invented",
        uid=1000,
        home=HOME,
        probes=EVERY_PROBE | {"landlock": str(landlock)} | dict(probes),
        paths=disk(merged=merged) | dict(paths),
        watched=(
            Watched(f"{ROOT}/sandbox/sandbox.json", 1, 2, 3, 4),
            Watched(PYTHON, 1, 20, 300, 4000),
            Watched("/etc/pip.conf"),
        ),
        own_paths=(OWN,),
        compiler=(f"{OWN}/bin/python", "-I", "-m", "vsbox.box"),
    )
    return msgspec.structs.replace(facts, **changes)


def debian() -> HostFacts:
    """Debian with user namespaces, Landlock ABI 7 and an index mirror on the disk."""
    config = "/home/ada/.config/pip/pip.conf"
    return machine(
        paths={config: regular(config), "/srv/mirror": directory("/srv/mirror")},
        index=IndexSettings(config, (config, "/srv/mirror")),
    )


def ubuntu(*, landlock: int = 6) -> HostFacts:
    """Ubuntu, whose AppArmor rule takes the power out of user namespaces."""
    return machine(
        kernel="6.14.0-24-invented",
        landlock=landlock,
        probes=dict.fromkeys(NAMESPACE_PROBES, "EACCES"),
    )


def unmerged() -> HostFacts:
    """An old layout: /bin and /lib are directories of their own."""
    return machine(merged=False, paths={"/usr/local/python": directory("/usr/local/python")})


def box(*, root: str = ROOT, trees: tuple[str, ...] = ("/usr",)) -> BoxFacts:
    interpreter = Interpreter(PYTHON, "3.11.9", trees, (), "lib/python3.11/site-packages")
    return BoxFacts(root, interpreter, 1_700_000_000_000_000_000)


def policy(**keys: object) -> Policy:
    """Return a policy for the box, strictly read as from JSON."""
    return msgspec.convert({"venv_root": ROOT, **keys}, Policy)
