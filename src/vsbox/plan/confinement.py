"""Steps that the payload's process does to itself: limits, Landlock, the filter of system calls."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from typing import Final

from vsbox.plan import landlock, mounts, steps, system
from vsbox.plan.compilation import PIP_CACHE, READ_EARLY, WORKDIR_MODES, Compilation
from vsbox.plan.encode import fnv1a64
from vsbox.plan.observed import OBSERVED, observed_steps
from vsbox.plan.steps import PROJECT_HIDE, Step
from vsbox.policy.grants import Access
from vsbox.policy.model import Aspect
from vsbox.seccomp import FilterSpec, build_filter

# setrlimit(2): numbers shared by x86_64 and aarch64
RLIMITS: Final = (("cpu_seconds", 0), ("file_bytes", 1), ("processes", 6), ("open_files", 7))


def limit_steps(c: Compilation) -> Iterator[Step]:
    """Yield the beginning of the payload's process, and its resource limits."""
    yield steps.Payload()
    for name, resource in RLIMITS:
        value = getattr(c.policy.limits, name)
        if value is not None:
            yield steps.Rlimit(resource, value, value)


def landlock_steps(c: Compilation) -> Iterator[Step]:
    """Yield the ruleset and its rules, and what only a start knows: streams, working directory, script."""
    abi = c.facts.landlock_abi
    closes_network = c.situation.offline and not c.namespaces
    net = landlock.known_net(abi) if closes_network else 0
    lazy = READ_EARLY & c.known_fs if c.namespaces else 0
    yield steps.Landlock(c.known_fs, net, landlock.known_scopes(abi), 0, lazy)
    rules = rules_in_own_root(c) if c.namespaces else _rules_on_host(c)
    for path, access in rules:
        is_file = c.facts.path(path).kind in {"file", "device"}
        yield steps.Rule(path, access & c.known_fs & (landlock.FILE if is_file else ~0))
    if not c.namespaces:
        yield steps.RuleOwnProc(landlock.READ & c.known_fs)
    if c.policy.project and not c.namespaces:
        flags = PROJECT_HIDE if c.installing else 0
        yield steps.Project(c.policy.project, flags, landlock.WRITE & c.known_fs)
    yield steps.RuleStdio(c.known_fs)
    yield from start_steps(c)
    yield steps.Restrict()


def start_steps(c: Compilation) -> Iterator[Step]:
    """Yield what only a start knows: the working directory and the script."""
    mode = WORKDIR_MODES[c.policy.working_directory or "none"]
    access = landlock.WRITE if mode == WORKDIR_MODES["write"] else c.read
    yield steps.Workdir(mode, access & c.known_fs)
    yield steps.Script(c.read & c.known_fs)


def view_rules(c: Compilation) -> Iterator[Step]:
    """Yield rules for a preview: all that is in its root.

    A file given as a standard stream is the user's own, and could else be opened again for writing through /proc.
    """
    yield steps.Landlock(c.known_fs, 0, 0, 0, 0)
    yield steps.Rule("/", c.known_fs)
    yield steps.RuleStdio(c.known_fs)
    yield from start_steps(c)
    yield steps.Restrict()


def told_rules(c: Compilation) -> Iterator[Step]:
    """Yield rules for where nothing enforces them: what a report is held against, and what the guard alone allows."""
    for path, access in _rules_on_host(c):
        yield steps.Rule(path, access)
    for path in system.PRIVATE_TO_EACH_RUN:
        yield steps.Rule(path, landlock.WRITE)
    yield from start_steps(c)


def rules_in_own_root(c: Compilation) -> Iterator[tuple[str, int]]:
    """Mounts decide what can be seen; these say once more where writing may happen at all."""
    yield "/", landlock.READ
    for path in (*system.TREES, *c.support_paths()):
        if c.facts.path(path).real == path and c.facts.path(path).kind == "directory":
            yield path, READ_EARLY
    yield "/dev", landlock.DEVICE
    yield "/dev/shm", landlock.WRITE
    yield "/tmp", landlock.WRITE
    yield "/var/tmp", landlock.WRITE
    if c.installing and c.policy.pip_cache and c.facts.index.cache:
        yield PIP_CACHE, landlock.WRITE
    yield from mounts.rules(c.mapped, c.facts)
    yield from _writable_rules(c, c.box.root)


def host_rules(c: Compilation) -> Iterator[tuple[str, int]]:
    """Yield what may be read of the machine where its disk is seen as it is, and the devices."""
    for path in (*system.TREES, *c.etc, *system.KERNEL_VIEWS, *system.SHARED_PROC):
        fact = c.facts.path(path)
        if fact.kind != "missing" and (fact.real == path or path not in system.TREES):
            yield fact.real, c.read
    for name in (*system.DEVICES, "ptmx"):
        fact = c.facts.path(f"/dev/{name}")
        if fact.kind == "device":
            yield fact.real, landlock.DEVICE
    for path in c.gpus():
        yield path, landlock.DEVICE
    for path in c.gpu_views():
        yield path, c.read
    if Aspect.SHARED_MEMORY in c.policy.allow_degraded:
        yield "/dev/shm", landlock.WRITE
    for path in (*c.box.interpreter.libraries, *c.support_paths()):
        yield path, c.read


def _rules_on_host(c: Compilation) -> Iterator[tuple[str, int]]:
    yield from host_rules(c)
    yield f"{c.box.root}/bin", c.read
    if c.installing:
        yield c.box.pip, c.read
    yield from _writable_rules(c, c.box.inside)
    for grant in c.grants:
        if grant.access is Access.READ:
            yield grant.path, c.read


def _writable_rules(c: Compilation, packages: str) -> Iterator[tuple[str, int]]:
    for path in c.writable_trees(packages):
        device = c.facts.path(path).kind == "device"
        yield path, landlock.DEVICE if device else landlock.WRITE
    if not c.packages_writable and not c.namespaces:
        yield packages, c.read


def seccomp_steps(c: Compilation) -> Iterator[Step]:
    """Yield the filter, after the places that the broker may let calls change; nothing where the policy wants none."""
    if not c.situation.filtered or not c.facts.works("seccomp"):
        return
    observed = frozenset(OBSERVED) if c.situation.observed else frozenset()
    supervised = c.supervised_calls()
    if supervised:
        for path in _places_for_broker(c):
            yield steps.Writable(path)
    # A datagram socket can send to any path without connecting: no call that a broker could see.
    unix_types = {"stream", "seqpacket", *(("dgram",) if not c.watches_sockets() else ())}
    families = {"unix", "inet", "inet6", "netlink"}
    if c.situation.offline and not c.namespaces:
        families = {"unix"}
    spec = FilterSpec(
        machine=c.facts.machine,
        box_id=fnv1a64(os.fsencode(c.box.root)),
        families=frozenset(families),
        unix_types=frozenset(unix_types),
        allowed=c.allowed_calls,
        supervised=supervised,
        supervisor=bool(supervised) and not c.namespaces,
        observed=observed,
        tells_refusals=bool(observed) or c.tells_refusals,
        refusal="errno" if c.situation.confines else "report" if observed else "none",
        ipc_denied=not c.namespaces,
        xattrs_denied=not c.namespaces,
    )
    if spec.tells_refusals:
        yield from observed_steps(spec)
    yield steps.Seccomp(_program(spec), int(bool(supervised or spec.tells_refusals)))


@functools.lru_cache(maxsize=16)
def _program(spec: FilterSpec) -> bytes:
    return build_filter(spec)


def _places_for_broker(c: Compilation) -> Iterator[str]:
    if c.namespaces:
        yield from ("/tmp", "/var/tmp", "/dev/shm")
        yield from mounts.writable_places(c.mapped, c.facts)
    yield from c.writable_trees(c.box.root if c.namespaces else c.box.inside)
