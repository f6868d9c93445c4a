"""Policy and facts in, plan out. Pure: the same on every machine for the same input.

Paths of the policy must be what they say: one that goes through a symbolic link is refused here,
and the launcher opens every source with ``RESOLVE_NO_SYMLINKS``, so code inside cannot swap a
granted directory for a link and wait for the next start.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import Final

from vsbox.errors import CannotEnforceError, PolicyError
from vsbox.host.facts import HostFacts
from vsbox.plan import landlock, mounts, project, steps, system
from vsbox.plan.aspects import Situation, judge
from vsbox.plan.encode import fnv1a64
from vsbox.plan.environment import PASSED, search_path
from vsbox.plan.model import BoxFacts, Plan, Tier
from vsbox.plan.steps import BIND_DEVICE, BIND_OPTIONAL, BIND_PLAIN, BIND_WRITABLE, PROJECT_HIDE, Step
from vsbox.policy.bwrap_options import apply_bwrap_arguments
from vsbox.policy.grants import Access, Grant, grants_of, is_below
from vsbox.policy.model import Aspect, Policy
from vsbox.policy.presets import with_preset
from vsbox.seccomp import MACHINES, FilterSpec, allowed_calls, build_filter

# clone(2)
CLONE_NEWNS: Final = 0x00020000
CLONE_NEWCGROUP: Final = 0x02000000
CLONE_NEWUTS: Final = 0x04000000
CLONE_NEWIPC: Final = 0x08000000
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWPID: Final = 0x20000000
CLONE_NEWNET: Final = 0x40000000

# setrlimit(2): numbers shared by x86_64 and aarch64
RLIMITS: Final = (("cpu_seconds", 0), ("file_bytes", 1), ("processes", 6), ("open_files", 7))

PIP: Final = "/run/vsbox/pip"
PIP_CACHE: Final = "/run/vsbox/pip-cache"
ROOT_BYTES: Final = 16 << 20
WORKDIR_MODES: Final = {"none": 0, "read": 1, "write": 2}
# Landlock asks for the right to truncate at every open, as an option, and climbs to the root where a rule
# lacks it: a third of the price of opening a file. It may be given where something else refuses to truncate:
# read-only mounts, or the filter (O_TRUNC without writing) and the broker (truncate(2)).
READ_EARLY: Final = landlock.READ | landlock.TRUNCATE
METADATA_CALLS: Final = frozenset(
    {
        "chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "fchown", "lchown", "fchownat",
        "utime", "utimes", "futimesat", "utimensat", "file_setattr", "truncate", "inotify_add_watch",
    }
)  # fmt: skip
SOCKET_CALLS: Final = frozenset({"connect"})


class Compiler:
    """One compilation; each method yields the steps of one concern, in the launcher's order."""

    def __init__(self, policy: Policy, facts: HostFacts, box: BoxFacts, tier: Tier, *, installing: bool) -> None:
        self.mapped = apply_bwrap_arguments(
            with_preset(policy), policy.bwrap_arguments, uid=facts.uid, gid=facts.gid
        )
        self.policy = mounts.without_missing(self.mapped, facts)
        self.installing = installing
        self.packages_writable = self.policy.packages == "write" or (self.policy.packages == "install" and installing)
        self.home_source = box.installs if installing else box.home
        self.facts = facts
        self.box = box
        self.situation = Situation(tier, facts, self.policy)
        self.namespaces = tier is Tier.NAMESPACES
        self.allowed_calls = allowed_calls(self.policy.syscalls)
        self.grants = grants_of(self.policy)
        self.by_path = {grant.path: grant for grant in self.grants}
        self.prefix = box.root if self.namespaces else box.inside
        self.home = box.home if self.namespaces else self.home_source
        self.pip = PIP if self.namespaces else box.pip
        self.known_fs = landlock.known_fs(facts.landlock_abi)
        self.read = READ_EARLY if self.namespaces or self.situation.broker else landlock.READ

    # ---- checks ----

    def check(self) -> None:
        """Refuse a policy that this machine or this tier cannot carry out.

        Raises:
            PolicyError: a grant that is missing, a link, or that would open the box itself.
            CannotEnforceError: a mode or mechanism that is not there.
        """
        if self.policy.mode != "enforce":
            raise CannotEnforceError(
                "cannot use mode 'log': it needs the audit hook, which this version does not have",
                hint='set "mode": "enforce" in sandbox.json',
            )
        if self.facts.machine not in MACHINES:
            raise CannotEnforceError(
                f"cannot filter system calls on architecture {self.facts.machine!r}: their numbers are not known",
                hint=f"known: {', '.join(sorted(MACHINES))}",
            )
        if self.policy.venv_root != self.box.root:
            raise PolicyError(
                f"bad venv_root in sandbox.json: it says {self.policy.venv_root!r} "
                f"and the box is at {self.box.root!r}"
            )
        if self.policy.preset == "project" and self.policy.project is None:
            raise PolicyError(
                "bad sandbox.json: preset 'project' needs the key project",
                hint="name the directory of your project there, or: vsbox wrap --project DIR",
            )
        self._check_syscalls()
        if self.policy.devices and not self.facts.gpus:
            raise CannotEnforceError(
                "cannot give code inside a graphics processor: there is none in /dev (nvidia*, dri, kfd, dxg)",
                hint="install its driver, or leave devices out of sandbox.json",
            )
        if self.policy.pip_cache and (self.policy.packages != "install" or not self.namespaces):
            raise CannotEnforceError(
                "cannot use the pip cache: that takes packages that only installations write, and namespaces",
                hint="leave out SANDBOX_USE_PIP_CACHE and pip_cache; the box has a cache of its own",
            )
        for grant in self.grants:
            self._check_grant(grant)
        mounts.check_mounts(self.mapped, self.facts, self.box, self.grants, namespaces=self.namespaces)
        mounts.check_project(self.mapped, self.policy.project)
        for path in self.facts.own_paths:
            self._check_own_path(path)

    def _check_syscalls(self) -> None:
        if not self.situation.filtered and not self.namespaces:
            raise CannotEnforceError(
                "cannot do without a filter of system calls where there are no namespaces: it keeps user namespaces "
                "closed, and tells launchers that scripts start inside that they are inside",
                hint="leave syscalls out of sandbox.json, or use a machine with user namespaces",
            )
        if self._supervised() and "sendmsg" not in self.allowed_calls:
            raise PolicyError(
                "cannot filter system calls by this list: the launcher answers some of them, "
                "and needs sendmsg to hand the filter over",
                hint="add sendmsg to syscalls",
            )

    def _check_grant(self, grant: Grant) -> None:
        fact = self.facts.path(grant.path)
        if fact.kind == "missing":
            raise PolicyError(
                f"cannot grant {grant.path}: it does not exist",
                hint=f"create it, or: vsbox deny {self.box.root} {grant.path}",
            )
        if fact.real != grant.path:
            raise PolicyError(
                f"cannot grant {grant.path}: it goes through a symbolic link to {fact.real}",
                hint="name the real path, if that is what you mean",
            )
        if grant.access is not Access.HIDDEN and is_below(self.box.root, grant.path):
            self._check_ancestor(grant)
        if is_below(grant.path, self.box.root):
            raise PolicyError(
                f"cannot grant {grant.path}: it is inside the box itself",
                hint="keep data outside of the environment",
            )
        if not self.namespaces:
            self._check_without_namespaces(grant)

    def _check_ancestor(self, grant: Grant) -> None:
        by_children = grant.path == self.policy.project  # in the Landlock-only tier, without the box
        if grant.path == "/" or (grant.access is Access.WRITE and not self.namespaces and not by_children):
            raise PolicyError(
                f"cannot grant {grant.path}: it holds the box {self.box.root}, whose policy and "
                "launchers code inside could then change",
                hint="grant the directories in it that are needed",
            )

    def _check_without_namespaces(self, grant: Grant) -> None:
        above = (self.by_path.get(str(parent)) for parent in PurePosixPath(grant.path).parents)
        if grant.access is Access.HIDDEN or any(other.access > grant.access for other in above if other):
            raise CannotEnforceError(
                f"cannot restrict {grant.path} below what is allowed: Landlock has no deny rules",
                hint="grant the directories beside it, or use a machine with user namespaces",
            )

    def _check_own_path(self, path: str) -> None:
        """Law 1: what the outside half executes must not be writable from inside."""
        for grant in self.grants:
            if grant.access is Access.WRITE and (is_below(path, grant.path) or is_below(grant.path, path)):
                raise PolicyError(
                    f"cannot grant {grant.path} for writing: vsbox itself runs from {path}",
                    hint="install vsbox elsewhere, or grant a directory that does not hold it",
                )

    # ---- steps ----

    def compile(self) -> Plan:
        """Return the plan."""
        self.check()
        receipt = judge(self.situation)
        root = self._root() if self.namespaces else ()
        rules = self._landlock() if self.facts.landlock_abi else ()
        every = (*self._head(), *self._environment(), *root, *self._payload(), *rules, *self._seccomp())
        return Plan(every, receipt)

    def _head(self) -> Iterator[Step]:
        yield steps.Root(self.box.root)
        yield steps.Owner(self.facts.uid)
        yield steps.Kernel(self.facts.kernel)
        yield steps.Compiler(self.facts.compiler)
        for file in self.facts.watched:
            # a file may be from before 1970: two's complement, as the launcher computes it
            yield steps.Watch(file.path, file.device, file.inode, file.size, file.mtime_ns & (1 << 64) - 1)
        yield steps.Commands(self.box.commands_mtime_ns)
        yield steps.Alias("python-sandboxed", f"{self.prefix}/bin/python")
        yield steps.Alias("shell", self._shell())
        if self.installing:
            yield steps.Alias("-m pip", f"{self.pip}/pip")
        yield steps.Keyring()
        yield steps.Bin(f"{self.prefix}/bin")
        yield steps.Home(self.home)
        if self.mapped.directory is not None:
            yield steps.Chdir(self.mapped.directory)
        if self.policy.packages == "install":
            yield from (steps.Installer(words) for words in project.INSTALLERS)
        if self.policy.project:
            yield from (steps.Protect(name) for name in project.PROTECTED)
        for path, kind in (*system.PRIVATE_PLACES, (self.facts.home, system.PRIVATE_HOME)):
            yield steps.Private(path, kind)
        yield steps.Private(self.box.root, system.PRIVATE_BELOW)
        for path in self.facts.own_paths:
            yield steps.Private(path, system.PRIVATE_OWN)
        for grant in self.grants:
            if grant.access is Access.HIDDEN:
                yield steps.Private(grant.path, system.PRIVATE_TREE)

    def _shell(self) -> str:
        return "/bin/bash" if self.facts.path("/bin/bash").kind == "file" else "/bin/sh"

    def _environment(self) -> Iterator[Step]:
        for name in (*PASSED, *self.policy.environment.pass_):
            yield steps.Pass(name)
        for name in self.policy.environment.unset:
            yield steps.Unset(name)
        variables = {
            "HOME": self.home,
            "PATH": search_path(f"{self.prefix}/bin"),
            "VIRTUAL_ENV": self.prefix,
            "SHELL": self._shell(),
            "UV_LINK_MODE": "copy",  # its cache and the packages are different mounts
        }
        if not self.namespaces:
            variables["TMPDIR"] = f"{self.home}/tmp"
        if self.policy.project:
            variables |= project.variables(self.home, installing=self.installing)
        if self.installing:
            variables |= {"PYTHONPATH": self.pip, "PYTHONSAFEPATH": "1"}
            if self.policy.pip_cache and self.facts.index.cache:
                variables["PIP_CACHE_DIR"] = PIP_CACHE
        if self.facts.index.config_file:
            variables["PIP_CONFIG_FILE"] = self.facts.index.config_file
        for name, value in (variables | self.policy.environment.set).items():
            yield steps.Set(name, value)

    # ---- the new root ----

    def _root(self) -> Iterator[Step]:
        flags = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS
        if self.facts.works("cgroup_namespace"):
            flags |= CLONE_NEWCGROUP
        if self.situation.offline:
            flags |= CLONE_NEWNET
        yield steps.Namespaces(flags)
        if self.mapped.only_bubblewrap:
            yield steps.BubblewrapArguments(self.mapped.only_bubblewrap)
        if self.mapped.hostname is not None:
            yield steps.Hostname(self.mapped.hostname)
        yield steps.Tmpfs("/", ROOT_BYTES, 0o755)
        yield from self._system_trees()
        yield steps.ReadOnly()
        yield steps.Proc("/proc")
        masked = (*system.MASKED, *(system.MASKED_FROM_ROOT if self.facts.uid == 0 else ()))
        yield from (steps.Mask(path, BIND_OPTIONAL) for path in masked)
        yield from self._devices()
        yield steps.Tmpfs("/tmp", self.policy.limits.tmp_bytes, 0o1777)
        yield steps.Directory("/run")
        yield steps.Tmpfs("/var/tmp", self.policy.limits.tmp_bytes, 0o1777)
        binds = self._binds()
        yield from mounts.own_root_steps(self.mapped, self.facts, frozenset(binds))
        yield steps.Workdir(WORKDIR_MODES[self.policy.working_directory or "none"], 0)
        for path in sorted(binds, key=lambda path: path.split("/")):
            yield binds[path]
        if self.installing and self.policy.pip_cache and self.facts.index.cache:
            yield steps.Overlay(self.facts.index.cache, PIP_CACHE)
        if self.policy.project:
            yield steps.Project(self.policy.project, PROJECT_HIDE if self.installing else 0, 0)
        yield steps.Script(0)
        if self.situation.offline:
            yield steps.Loopback()
        yield steps.SealUserns()
        yield steps.Pivot()

    def _system_trees(self) -> Iterator[Step]:
        for path in (*system.TREES, *system.ETC, *system.KERNEL_VIEWS):
            fact = self.facts.path(path)
            if fact.kind == "missing":
                continue
            if fact.real != path and self._is_system(fact.real):
                yield steps.Symlink(path, fact.real)
            else:
                yield steps.Bind(fact.real, path, BIND_PLAIN)

    def _is_system(self, path: str) -> bool:
        """Tell whether a path is in a tree that is shown as a whole."""
        return any(is_below(path, tree) for tree in system.TREES if self.facts.path(tree).real == tree)

    def _devices(self) -> Iterator[Step]:
        for name in system.DEVICES:
            if self.facts.path(f"/dev/{name}").kind == "device":
                yield steps.Bind(f"/dev/{name}", f"/dev/{name}", BIND_WRITABLE | BIND_DEVICE)
        yield steps.Devpts("/dev/pts")
        yield steps.Tmpfs("/dev/shm", self.policy.limits.shm_bytes, 0o1777)
        for path, text in system.DEVICE_LINKS:
            yield steps.Symlink(path, text)

    def _binds(self) -> dict[str, Step]:
        """Parents before children, so that the more specific mount covers the less specific."""
        binds: dict[str, Step] = {
            path: steps.Bind(path, path, BIND_OPTIONAL) for path in self._support_paths()
        }
        packages = BIND_WRITABLE if self.packages_writable else 0
        binds[self.box.root] = steps.Bind(self.box.inside, self.box.root, packages)
        binds[self.box.home] = steps.Bind(self.home_source, self.box.home, BIND_WRITABLE)
        for path in self._gpu_views():
            binds[path] = steps.Bind(path, path, 0)
        for path in self._gpus():
            binds[path] = steps.Bind(path, path, BIND_WRITABLE | BIND_DEVICE)
        if self.installing:
            binds[PIP] = steps.Bind(self.box.pip, PIP, 0)
        for grant in self.grants:
            binds[grant.path] = self._bind_grant(grant)
        binds |= mounts.bound_steps(self.mapped, self.facts, frozenset(binds))
        for path in self._pinned(set(binds)):
            binds[path] = steps.Bind(path, path, BIND_WRITABLE)
        return binds

    def _gpus(self) -> tuple[str, ...]:
        return self.facts.gpus if "gpu" in self.policy.devices else ()

    def _gpu_views(self) -> tuple[str, ...]:
        here = (path for path in system.GPU_VIEWS if self.facts.path(path).kind == "directory")
        return tuple(here) if self._gpus() else ()

    def _pinned(self, bound: set[str]) -> set[str]:
        """Return the directories between a writable grant and something less writable below it.

        A mount point cannot be renamed, but what holds it can: moved away and rebuilt, it would
        give code inside the place of the box, or of what is hidden, at the next start. So each
        directory on the way becomes a mount point as well.
        """
        return {
            str(parent)
            for path in bound
            for parent in PurePosixPath(path).parents
            if str(parent) not in bound and self._is_writable(parent)
        }

    def _is_writable(self, path: PurePosixPath) -> bool:
        """Tell whether the most specific grant that holds ``path`` allows writing."""
        holding = (self.by_path.get(str(parent)) for parent in (path, *path.parents))
        nearest = next((grant for grant in holding if grant), None)
        return nearest is not None and nearest.access is Access.WRITE

    def _bind_grant(self, grant: Grant) -> Step:
        if grant.access is Access.HIDDEN:
            return steps.Mask(grant.path, 0 if self._is_writable(PurePosixPath(grant.path).parent) else BIND_OPTIONAL)
        device = BIND_DEVICE if self.facts.path(grant.path).kind == "device" else 0
        return steps.Bind(
            grant.path, grant.path, device | (BIND_WRITABLE if grant.access is Access.WRITE else 0)
        )

    def _support_paths(self) -> Iterator[str]:
        """What the interpreter runs from and where the index settings point to."""
        yield from self._uncovered(self.box.interpreter.trees)
        yield from self._uncovered(
            path for path in self.facts.index.paths if self.facts.path(path).kind != "missing"
        )

    def _uncovered(self, paths: Iterable[str]) -> Iterator[str]:
        covered = [
            path for path in system.TREES if self.facts.path(path).kind == "directory"
        ]
        covered += [path for path in system.ETC if self.facts.path(path).kind != "missing"]
        for path in paths:
            if not any(is_below(path, tree) for tree in covered):
                yield path

    # ---- the payload's process ----

    def _payload(self) -> Iterator[Step]:
        yield steps.Payload()
        for name, resource in RLIMITS:
            value = getattr(self.policy.limits, name)
            if value is not None:
                yield steps.Rlimit(resource, value, value)

    def _landlock(self) -> Iterator[Step]:
        abi = self.facts.landlock_abi
        closes_network = self.situation.offline and not self.namespaces
        net = landlock.known_net(abi) if closes_network else 0
        lazy = READ_EARLY & self.known_fs if self.namespaces else 0
        yield steps.Landlock(self.known_fs, net, landlock.known_scopes(abi), 0, lazy)
        rules = self._rules_in_own_root() if self.namespaces else self._rules_on_host()
        for path, access in rules:
            is_file = self.facts.path(path).kind in {"file", "device"}
            yield steps.Rule(path, access & self.known_fs & (landlock.FILE if is_file else ~0))
        if not self.namespaces:
            yield steps.RuleOwnProc(landlock.READ & self.known_fs)
        if self.policy.project and not self.namespaces:
            flags = PROJECT_HIDE if self.installing else 0
            yield steps.Project(self.policy.project, flags, landlock.WRITE & self.known_fs)
        yield steps.RuleStdio(self.known_fs)
        mode = WORKDIR_MODES[self.policy.working_directory or "none"]
        access = landlock.WRITE if mode == WORKDIR_MODES["write"] else self.read
        yield steps.Workdir(mode, access & self.known_fs)
        yield steps.Script(self.read & self.known_fs)
        yield steps.Restrict()

    def _rules_in_own_root(self) -> Iterator[tuple[str, int]]:
        """Mounts decide what can be seen; these say once more where writing may happen at all."""
        yield "/", landlock.READ
        for path in (*system.TREES, *self._support_paths()):
            if self.facts.path(path).real == path and self.facts.path(path).kind == "directory":
                yield path, READ_EARLY
        yield "/dev", landlock.DEVICE
        yield "/dev/shm", landlock.WRITE
        yield "/tmp", landlock.WRITE
        yield "/var/tmp", landlock.WRITE
        yield from mounts.rules(self.mapped, self.facts)
        yield from self._writable_rules(self.box.root)

    def _rules_on_host(self) -> Iterator[tuple[str, int]]:
        for path in (*system.TREES, *system.ETC, *system.KERNEL_VIEWS, *system.SHARED_PROC):
            fact = self.facts.path(path)
            if fact.kind != "missing" and (fact.real == path or path not in system.TREES):
                yield fact.real, self.read
        for name in (*system.DEVICES, "ptmx"):
            fact = self.facts.path(f"/dev/{name}")
            if fact.kind == "device":
                yield fact.real, landlock.DEVICE
        for path in self._gpus():
            yield path, landlock.DEVICE
        for path in self._gpu_views():
            yield path, self.read
        if Aspect.SHARED_MEMORY in self.policy.allow_degraded:
            yield "/dev/shm", landlock.WRITE
        for path in (*self.box.interpreter.libraries, *self._support_paths()):
            yield path, self.read
        yield f"{self.box.root}/bin", self.read
        if self.installing:
            yield self.box.pip, self.read
        yield from self._writable_rules(self.box.inside)
        for grant in self.grants:
            if grant.access is Access.READ:
                yield grant.path, self.read

    def _writable_rules(self, packages: str) -> Iterator[tuple[str, int]]:
        for path in self._writable_trees(packages):
            device = self.facts.path(path).kind == "device"
            yield path, landlock.DEVICE if device else landlock.WRITE
        if not self.packages_writable and not self.namespaces:
            yield packages, self.read

    def _writable_trees(self, packages: str) -> Iterator[str]:
        if self.packages_writable:
            yield packages
        yield self.home
        for grant in self.grants:
            by_children = grant.path == self.policy.project and not self.namespaces
            if grant.access is Access.WRITE and not by_children:
                yield grant.path

    def _seccomp(self) -> Iterator[Step]:
        if not self.situation.filtered:
            return
        supervised = self._supervised()
        if supervised:
            for path in self._places_for_broker():
                yield steps.Writable(path)
        # A datagram socket can send to any path without connecting: no call that a broker could see.
        unix_types = {"stream", "seqpacket", *(("dgram",) if not self._broker_watches_sockets() else ())}
        families = {"unix", "inet", "inet6", "netlink"}
        if self.situation.offline and not self.namespaces:
            families = {"unix"}
        spec = FilterSpec(
            machine=self.facts.machine,
            box_id=fnv1a64(os.fsencode(self.box.root)),
            families=frozenset(families),
            unix_types=frozenset(unix_types),
            allowed=self.allowed_calls,
            supervised=supervised,
            supervisor=bool(supervised) and not self.namespaces,
            ipc_denied=not self.namespaces,
            xattrs_denied=not self.namespaces,
        )
        yield steps.Seccomp(build_filter(spec), int(bool(supervised)))

    def _supervised(self) -> frozenset[str]:
        if not self.situation.broker:
            return frozenset()
        sockets = SOCKET_CALLS if self._broker_watches_sockets() else frozenset()
        return sockets & self.allowed_calls if self.namespaces else METADATA_CALLS | sockets

    def _broker_watches_sockets(self) -> bool:
        return self.situation.broker and self.facts.landlock_abi < 9

    def _places_for_broker(self) -> Iterator[str]:
        if self.namespaces:
            yield from ("/tmp", "/var/tmp", "/dev/shm")
            yield from mounts.writable_places(self.mapped, self.facts)
        yield from self._writable_trees(self.box.root if self.namespaces else self.box.inside)


def compile_plan(policy: Policy, facts: HostFacts, box: BoxFacts, tier: Tier, *, installing: bool = False) -> Plan:
    """Compile a policy for a machine, a box and a tier; ``installing``: for while packages may be written.

    Raises:
        PolicyError: the policy cannot be carried out by any machine.
        CannotEnforceError: not by this machine with this tier.

    Security: a plan is as good as the facts; the launcher proves it once from inside before it
    replaces the old one (``vsbox.box.store``).
    """
    return Compiler(policy, facts, box, tier, installing=installing).compile()
