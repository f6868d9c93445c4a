"""Every attack works without a sandbox and is denied inside, whoever carries it, for the right reason."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from escape_attacks import ATTACKS, NETWORK, XATTRS

from harness import BACKENDS, ROOT_BY_BWRAP

SPAWN = "import subprocess, sys; sys.exit(subprocess.run([sys.executable, '-I', '-S', '-c', *sys.argv[1:]]).returncode)"
# -S: without the guard, so that what denies is the kernel
CARRIERS = {
    "python": lambda box: [box.bin / "python", "-S", "-c"],
    "isolated": lambda box: [box.bin / "python", "-I", "-S", "-E", "-c"],
    "shell": lambda box: [box.root / "sandbox" / "exec", "/bin/sh", "-c", 'exec python -S -c "$@"', "sh"],
    "subprocess": lambda box: [box.bin / "python", "-S", "-c", SPAWN],
    "other interpreter": lambda box: [box.root / "sandbox" / "exec", "/usr/bin/python3", "-c"],
}


def snapshot(directory):
    """Everything about the files of a directory that an attack may change."""
    state = {}
    for entry in os.scandir(directory):
        status = entry.stat(follow_symlinks=False)
        content = Path(entry.path).read_bytes() if entry.is_file(follow_symlinks=False) else b""
        xattrs = os.listxattr(entry.path, follow_symlinks=False)
        state[entry.name] = (status.st_mode, status.st_mtime_ns, status.st_uid, status.st_gid, content, xattrs)
    return state


def unexpected(results, wanted):
    """Attacks that did not end as wanted, with how they ended."""
    return {name: (result, sorted(wanted[name])) for name, result in results.items() if result not in wanted[name]}


def test_attacks_work_without_a_sandbox(canaries, box):
    outside, own = canaries.directory(), box.root / "home" / "control"
    attacks = (*ATTACKS, *NETWORK)
    before = canaries.signals()
    results = canaries.run(attacks, outside, own, [box.root / "inside" / "bin" / "python", "-S", "-c"])
    assert unexpected(results, {a.name: a.outside(box.person.uid) for a in attacks}) == {}
    assert canaries.signals() > before


WAYS = [(backend, carrier) for backend in BACKENDS for carrier in CARRIERS] + [(ROOT_BY_BWRAP, "isolated")]


@pytest.mark.parametrize(("backend", "carrier"), WAYS, indirect=["backend"])
def test_attacks_are_denied_inside(canaries, box, carrier):
    outside, own = canaries.directory(), box.root / "home" / f"own-{carrier}"
    before, signals = snapshot(outside), canaries.signals()
    results = canaries.run(ATTACKS, outside, own, CARRIERS[carrier](box))
    assert unexpected(results, {a.name: a.inside(box.backend) for a in ATTACKS}) == {}
    assert len(results) == len(ATTACKS)
    assert snapshot(outside) == before
    assert canaries.signals() == signals


NO_FAMILY = {"raw socket", "netlink, generic", "netlink, uevents", "mptcp"}


@pytest.mark.parametrize("carrier", ["isolated", "shell"])
def test_no_network_means_none(canaries, person, backend, make_box, carrier):
    box = make_box(person, backend, "--network", "none")
    attacks = (*ATTACKS, *NETWORK)
    outside, own = canaries.directory(), box.root / "home" / f"own-{carrier}"
    results = canaries.run(attacks, outside, own, CARRIERS[carrier](box))
    wanted = {a.name: a.inside(backend) for a in attacks}
    for name in ("abstract socket", "abstract datagram socket"):
        wanted[name] |= {"ECONNREFUSED"}
    if backend == "landlock":
        wanted |= dict.fromkeys(NO_FAMILY, frozenset({"EACCES"}))
    assert unexpected(results, wanted) == {}


def test_network_of_the_host_is_allowed_by_default(canaries, box):
    outside, own = canaries.directory(), box.root / "home" / "own-network"
    attacks = [a for a in NETWORK if not a.name.startswith("abstract")]
    results = canaries.run(attacks, outside, own, [box.bin / "python", "-S", "-c"])
    assert results == {attack.name: "done" for attack in attacks}


GRANTED = frozenset({
    "read", "read after chdir", "read with dots", "list", "write", "append", "truncate by open", "truncate", "rename",
    "replace", "symlink", "unlink", "mkdir", "rmdir", "mkfifo", "bind a socket", "execute", "sqlite", "openat",
    "chmod", "chmod after chdir", "chmod through own link", "chown", "lchown", "utime", "setxattr", "removexattr",
    "stream socket", "stream socket through own link",
})  # fmt: skip
CHANGES = ("write", "append", "truncate by open", "rename", "unlink", "mkdir", "symlink")
CUTS = (
    "truncate", "truncate by a reading open", "truncate by an open for nothing", "truncate, high half",
    "truncate through a descriptor's name", "truncate through own link",
)  # fmt: skip
CHANGES_OF_METADATA = ("chmod", "utime", "setxattr", "chown")
READ_ONLY = {
    "native": dict.fromkeys(CHANGES, frozenset({"EROFS", "EACCES"}))
    | dict.fromkeys(CUTS, frozenset({"EROFS", "EACCES", "EPERM"}))
    | dict.fromkeys(CHANGES_OF_METADATA, frozenset({"EROFS"})),
    "landlock": dict.fromkeys(CHANGES, frozenset({"EACCES"}))
    | dict.fromkeys(CUTS, frozenset({"EACCES", "EPERM"}))
    | dict.fromkeys(CHANGES_OF_METADATA, frozenset({"EPERM"}))
    | {"setxattr": XATTRS[0].landlock},
}
READ_ONLY["bubblewrap"] = READ_ONLY[ROOT_BY_BWRAP] = READ_ONLY["native"]


def test_attacks_work_where_granted(canaries, person, backend, make_box):
    outside = canaries.directory()
    box = make_box(person, backend, "--allow", str(outside))
    attacks = [attack for attack in ATTACKS if attack.name in GRANTED]
    assert len(attacks) == len(GRANTED)
    results = canaries.run(attacks, outside, box.root / "home" / "own", [box.bin / "python", "-S", "-c"])
    attributes = {results.pop(attack.name) for attack in XATTRS}
    assert attributes <= (XATTRS[0].landlock if backend == "landlock" else {"done"})
    assert results == dict.fromkeys(GRANTED - {attack.name for attack in XATTRS}, "done")


def test_read_grant_reads_and_changes_nothing(canaries, person, backend, make_box):
    outside = canaries.directory()
    box = make_box(person, backend, "--allow-read", str(outside))
    before = snapshot(outside)
    attacks = [attack for attack in ATTACKS if attack.name in READ_ONLY[backend] or attack.name in {"read", "list"}]
    results = canaries.run(attacks, outside, box.root / "home" / "own", [box.bin / "python", "-S", "-c"])
    assert (results.pop("read"), results.pop("list")) == ("done", "done")
    assert unexpected(results, {name: READ_ONLY[backend][name] for name in results}) == {}
    assert snapshot(outside) == before
