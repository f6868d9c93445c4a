"""A plan for one run that no box stands behind: ``vsbox.run()`` and sessions.

Everything is private and goes with the run: the working directory unless one of the host is given, ``/tmp``, ``$HOME``.
Nothing of the caller's is passed on but what the caller names. The launcher gets the plan through a descriptor.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal

import msgspec

from vsbox.errors import CannotEnforceError
from vsbox.host.facts import HostFacts, IndexSettings
from vsbox.plan import landlock, mounts, steps, system
from vsbox.plan.aspects import judge
from vsbox.plan.compilation import Compilation
from vsbox.plan.confinement import host_rules, limit_steps, rules_in_own_root, seccomp_steps
from vsbox.plan.model import BoxFacts, Interpreter, Plan, Tier
from vsbox.plan.refusals import check
from vsbox.plan.root import CLONE_NEWNET, ROOT_BYTES, device_steps, grant_steps, namespaces_of, system_tree_steps
from vsbox.plan.steps import BIND_OPTIONAL, Step
from vsbox.policy.grants import Access
from vsbox.policy.model import Policy

CELL_ROOT: Final = "/run/vsbox/cell"
"""Where the box would be if there were one: nothing is there, inside or outside."""
HOME: Final = "/tmp/home"
SETTINGS: Final = frozenset({"/etc/pip.conf", "/etc/xdg/pip", "/etc/uv"})
"""They may hold credentials of an index, and nothing is installed."""
OF_PEOPLE: Final = frozenset({"/etc/shells", "/etc/inputrc", "/etc/bash.bashrc", "/etc/hostname", "/etc/gai.conf"})
"""What only people at a terminal and the machine's own services ask for; each would be a mount."""


class Cell(msgspec.Struct, frozen=True):
    """Where a run has its things.

    ``workdir`` is the working directory as code inside sees it; ``source`` the directory of the host that is there,
    if any, and ``access`` what may be done to it (``capture``: what changes is kept apart). ``scratch`` is a directory
    of the host that holds what is private, for where there are no namespaces.
    """

    interpreter: Interpreter
    workdir: str = "/mnt"
    source: str | None = None
    access: Literal["read", "write", "capture"] = "write"
    cwd: str | None = None
    scratch: str | None = None
    disk_bytes: int = 1 << 30
    waits: bool = False

    @property
    def has_private_workdir(self) -> bool:
        """Whether the working directory goes with the run."""
        return self.source is None

    @property
    def exported(self) -> tuple[str, ...]:
        """The private areas, which are handed over in this order, where there are namespaces."""
        return ("/tmp", *((self.workdir,) if self.has_private_workdir else ()), "/var/tmp", "/dev/shm")


def compile_cell(policy: Policy, cell: Cell, facts: HostFacts, tier: Tier) -> Plan:
    """Compile a policy for one run on a machine.

    Raises:
        PolicyError: the policy cannot be carried out by any machine.
        CannotEnforceError: not by this machine with this tier.
    """
    facts = msgspec.structs.replace(facts, index=IndexSettings())
    c = Compilation(policy, facts, BoxFacts(CELL_ROOT, cell.interpreter), tier, installing=False)
    c.tells_refusals = c.situation.broker
    not_seen = SETTINGS | (OF_PEOPLE if c.namespaces else frozenset())  # else programs see a file that they cannot open
    named = {grant.path for grant in c.grants}
    c.etc = tuple(path for path in system.ETC if path not in not_seen or facts.path(path).real in named)
    if c.namespaces:
        c.home = HOME
    elif cell.scratch is None or cell.access == "capture":
        raise CannotEnforceError(
            "cannot keep changes of a directory apart: that takes namespaces", hint="see: vsbox doctor"
        )
    else:
        c.home = f"{cell.scratch}/home"
    check(c)
    receipt = judge(c.situation)
    root = _root_steps(c, cell) if c.namespaces else ()
    rules = _landlock_steps(c, cell) if facts.landlock_abi else ()
    filters = tuple(seccomp_steps(c))
    return Plan((*_head(c, cell), *root, *limit_steps(c), *rules, *_places(cell), *filters), receipt)


def _head(c: Compilation, cell: Cell) -> Iterator[Step]:
    yield steps.Root(CELL_ROOT)
    yield steps.Keyring()
    yield steps.Home(c.home)
    yield steps.Chdir(cell.cwd or cell.workdir)
    yield steps.Pass("*")
    if c.namespaces:
        yield from map(steps.Export, cell.exported)
    if cell.waits:
        yield steps.Wait()


def _root_steps(c: Compilation, cell: Cell) -> Iterator[Step]:
    yield steps.Namespaces(namespaces_of(c) | (CLONE_NEWNET if c.situation.offline else 0))
    yield steps.Tmpfs("/", ROOT_BYTES, 0o755)
    yield from system_tree_steps(c)
    yield steps.ReadOnly()
    yield steps.Proc("/proc")
    masked = (*system.MASKED, *(system.MASKED_FROM_ROOT if c.facts.uid == 0 else ()))
    yield from (steps.Mask(path, BIND_OPTIONAL) for path in masked)
    yield from device_steps(c)
    yield steps.Tmpfs("/tmp", cell.disk_bytes, 0o1777)
    yield steps.Tmpfs("/var/tmp", cell.disk_bytes, 0o1777)
    yield steps.Directory(HOME)
    yield steps.Directory("/run")
    if cell.has_private_workdir:
        yield steps.Tmpfs(cell.workdir, cell.disk_bytes, 0o755)
    changes = _changes(cell)
    if changes and cell.workdir != cell.source:
        yield from changes.values()
        changes = {}
    grants = grant_steps(c, changes) | changes  # under its own name, a grant that holds it would cover it
    yield from mounts.own_root_steps(c.mapped, c.facts, frozenset(grants))
    for path in sorted(grants, key=lambda path: path.split("/")):
        yield grants[path]
    if c.situation.offline:
        yield steps.Loopback()
    yield steps.SealUserns()
    yield steps.Pivot()


def _changes(cell: Cell) -> dict[str, Step]:
    if cell.has_private_workdir or cell.access != "capture":
        return {}
    return {cell.workdir: steps.Changes(cell.source or "", cell.workdir, cell.disk_bytes)}


def _landlock_steps(c: Compilation, cell: Cell) -> Iterator[Step]:
    abi = c.facts.landlock_abi
    net = landlock.known_net(abi) if c.situation.offline and not c.namespaces else 0
    lazy = c.read & c.known_fs if c.namespaces else 0
    yield steps.Landlock(c.known_fs, net, landlock.known_scopes(abi), 0, lazy)
    rules = rules_in_own_root(c) if c.namespaces else _rules_on_host(c)
    for path, access in rules:
        is_file = c.facts.path(path).kind in {"file", "device"}
        yield steps.Rule(path, access & c.known_fs & (landlock.FILE if is_file else ~0))
    if c.namespaces and (cell.has_private_workdir or cell.access == "capture"):
        yield steps.Rule(cell.workdir, landlock.WRITE & c.known_fs)
    if not c.namespaces:
        yield steps.RuleOwnProc(landlock.READ & c.known_fs)
    yield steps.RuleStdio(c.known_fs)
    yield steps.Restrict()


def _rules_on_host(c: Compilation) -> Iterator[tuple[str, int]]:
    yield from host_rules(c)
    for path in c.writable_trees(""):
        yield path, landlock.WRITE
    for grant in c.grants:
        if grant.access is Access.READ:
            yield grant.path, c.read


def _places(cell: Cell) -> Iterator[Step]:
    """Where the broker may let calls change something, beside what the policy names."""
    if cell.has_private_workdir or cell.access == "capture":
        yield steps.Writable(cell.workdir)
