"""Policy and facts in, plan out. Pure: the same on every machine for the same input.

Paths of the policy must be what they say: one that goes through a symbolic link is refused here,
and the launcher opens every source with ``RESOLVE_NO_SYMLINKS``, so code inside cannot swap a
granted directory for a link and wait for the next start.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from vsbox.host.facts import HostFacts
from vsbox.plan import project, steps, system
from vsbox.plan.aspects import judge
from vsbox.plan.compilation import PIP_CACHE, Compilation
from vsbox.plan.confinement import landlock_steps, limit_steps, seccomp_steps, start_steps, told_rules, view_rules
from vsbox.plan.environment import PASSED, search_path
from vsbox.plan.guard import guard_places
from vsbox.plan.model import BoxFacts, Plan, Tier
from vsbox.plan.profile_names import payload_profile
from vsbox.plan.refusals import check
from vsbox.plan.root import hidden_steps, root_steps
from vsbox.plan.steps import Step
from vsbox.plan.view import view_steps
from vsbox.policy.grants import Access
from vsbox.policy.model import Policy


def _head(c: Compilation) -> Iterator[Step]:
    yield steps.Root(c.box.root)
    yield steps.Owner(c.facts.uid)
    yield steps.Kernel(c.facts.kernel)
    yield steps.Compiler(c.facts.compiler)
    for file in c.facts.watched:
        # a file may be from before 1970: two's complement, as the launcher computes it
        yield steps.Watch(file.path, file.device, file.inode, file.size, file.mtime_ns & (1 << 64) - 1)
    yield steps.Commands(c.box.commands_mtime_ns)
    yield steps.Alias("python-sandboxed", f"{c.prefix}/bin/python")
    yield steps.Alias("shell", _shell(c))
    if c.installing:
        yield steps.Alias("-m pip", f"{c.pip}/pip")
        for name in project.INSTALLER_MODULES:
            yield steps.Alias(f"-m {name}", f"{c.prefix}/bin/{name}")
    if not c.namespaces:
        yield from (steps.Same(source, target) for source, target in guard_places(c.box, c.prefix))
    if not c.situation.confines:
        yield steps.Unconfined(_notice(c))
    yield from _profile(c)
    yield steps.Keyring()
    yield steps.Bin(f"{c.prefix}/bin")
    yield steps.Home(c.home)
    if c.mapped.directory is not None:
        yield steps.Chdir(c.mapped.directory)
    if c.policy.packages == "install":
        yield from (steps.Installer(words) for words in project.INSTALLERS)
    if c.policy.project and c.situation.confines:
        yield from (steps.Protect(name) for name in project.PROTECTED)
    for path, kind in (*system.PRIVATE_PLACES, (c.facts.home, system.PRIVATE_HOME)):
        yield steps.Private(path, kind)
    yield steps.Private(c.box.root, system.PRIVATE_BELOW)
    for path in c.facts.own_paths:
        yield steps.Private(path, system.PRIVATE_OWN)
    for grant in c.grants:
        if grant.access is Access.HIDDEN:
            yield steps.Private(grant.path, system.PRIVATE_TREE)


def _profile(c: Compilation) -> Iterator[Step]:
    if c.situation.profiled:
        yield steps.Apparmor(payload_profile(c.box.root))


def _notice(c: Compilation) -> str:
    if not c.policy.os_sandbox:
        return f"{c.box.root} is not confined by the kernel: its guard can be got around, and is no boundary"
    kept = "changes to your files are forgotten" if c.policy.mode == "preview" else "this is no sandbox"
    return f"nothing is blocked in {c.box.root}: what would be is reported, and {kept}"


def _shell(c: Compilation) -> str:
    return "/bin/bash" if c.facts.path("/bin/bash").kind == "file" else "/bin/sh"


def _environment(c: Compilation) -> Iterator[Step]:
    for name in (*PASSED, *c.policy.environment.pass_):
        yield steps.Pass(name)
    untrusted = project.UNTRUSTED_VARIABLES if c.installing else ()
    for name in (*c.policy.environment.unset, *untrusted):
        yield steps.Unset(name)
    variables = {
        "HOME": c.home,
        "PATH": search_path(f"{c.prefix}/bin"),
        "VIRTUAL_ENV": c.prefix,
        "SHELL": _shell(c),
        "UV_LINK_MODE": "copy",  # its cache and the packages are different mounts
    }
    if not c.namespaces:
        variables["TMPDIR"] = f"{c.home}/tmp"
    if c.policy.project:
        variables |= project.variables(c.home, installing=c.installing, namespaces=c.namespaces)
    if c.installing:
        variables |= {"PYTHONPATH": c.pip, "PYTHONSAFEPATH": "1"}
        if c.policy.pip_cache and c.facts.index.cache:
            variables["PIP_CACHE_DIR"] = PIP_CACHE
    if c.facts.index.config_file:
        variables["PIP_CONFIG_FILE"] = c.facts.index.config_file
    wanted = c.policy.environment.set
    if c.installing:
        kept = {"HOME", "PATH", "VIRTUAL_ENV"}
        prefixes = tuple(pattern.rstrip("*") for pattern in untrusted)
        wanted = {name: value for name, value in wanted.items() if name not in kept and not name.startswith(prefixes)}
    for name, value in (variables | wanted).items():
        yield steps.Set(name, value)


def compile_plan(policy: Policy, facts: HostFacts, box: BoxFacts, tier: Tier, *, installing: bool = False) -> Plan:
    """Compile a policy for a machine, a box and a tier; ``installing``: for while packages may be written.

    Raises:
        PolicyError: the policy cannot be carried out by any machine.
        CannotEnforceError: not by this machine with this tier.

    Security: a plan is as good as the facts; the launcher proves it once from inside before it
    replaces the old one (``vsbox.box.store``).
    """
    c = Compilation(policy, facts, box, tier, installing=installing)
    check(c)
    receipt = judge(c.situation)
    root, rules = _root_and_rules(c)
    return Plan((*_head(c), *_environment(c), *root, *limit_steps(c), *rules, *seccomp_steps(c)), receipt)


def _root_and_rules(c: Compilation) -> tuple[Iterable[Step], Iterable[Step]]:
    """Return what is mounted, and what the payload's process does to itself about files."""
    if c.policy.mode == "preview":
        return view_steps(c), view_rules(c) if c.facts.landlock_abi else start_steps(c)
    if c.tier is Tier.NONE:
        return hidden_steps(c), told_rules(c)
    return root_steps(c) if c.namespaces else (), landlock_steps(c) if c.facts.landlock_abi else ()
