"""What is refused before any step is made: policies that nothing, or not this machine, can carry out."""

from __future__ import annotations

from pathlib import PurePosixPath

from vsbox.errors import CannotEnforceError, PolicyError
from vsbox.plan import mounts
from vsbox.plan.compilation import Compilation
from vsbox.plan.profile_names import payload_profile
from vsbox.policy.grants import Access, Grant, is_below
from vsbox.seccomp import MACHINES


def check(c: Compilation) -> None:
    """Refuse a policy that this machine or this tier cannot carry out.

    Raises:
        PolicyError: a grant that is missing, a link, or that would open the box itself.
        CannotEnforceError: a mode or mechanism that is not there.
    """
    if c.facts.machine not in MACHINES:
        raise CannotEnforceError(
            f"cannot filter system calls on architecture {c.facts.machine!r}: their numbers are not known",
            hint=f"known: {', '.join(sorted(MACHINES))}",
        )
    if c.policy.venv_root != c.box.root:
        raise PolicyError(
            f"bad venv_root in sandbox.json: it says {c.policy.venv_root!r} "
            f"and the box is at {c.box.root!r}"
        )
    if c.policy.preset == "project" and c.policy.project is None:
        raise PolicyError(
            "bad sandbox.json: preset 'project' needs the key project",
            hint="name the directory of your project there, or: vsbox wrap --project DIR",
        )
    _check_profile(c)
    _check_report(c)
    _check_syscalls(c)
    if c.policy.devices and not c.facts.gpus:
        raise CannotEnforceError(
            "cannot give code inside a graphics processor: there is none in /dev (nvidia*, dri, kfd, dxg)",
            hint="install its driver, or leave devices out of sandbox.json",
        )
    if c.policy.pip_cache and (c.policy.packages != "install" or not c.namespaces):
        raise CannotEnforceError(
            "cannot use the pip cache: that takes packages that only installations write, and namespaces",
            hint="leave out SANDBOX_USE_PIP_CACHE and pip_cache; the box has a cache of its own",
        )
    for grant in c.grants:
        _check_grant(c, grant)
    mounts.check_mounts(c.mapped, c.facts, c.box, c.grants, namespaces=c.namespaces)
    mounts.check_project(c.mapped, c.policy.project)
    for path in c.facts.own_paths:
        _check_own_path(c, path)


def _check_profile(c: Compilation) -> None:
    if c.policy.apparmor != "required" or not c.situation.confines or c.situation.profiled:
        return
    known = c.facts.apparmor
    why = "this machine has no AppArmor" if known is None or not known.enabled else "it is not loaded and enforced"
    raise CannotEnforceError(
        f"cannot enter the AppArmor profile {payload_profile(c.box.root)}, which sandbox.json requires: {why}",
        hint=f"how to load it: vsbox apparmor {c.box.root}",
    )


def _check_report(c: Compilation) -> None:
    if c.situation.observed and not c.situation.filtered:
        raise PolicyError(
            "cannot report what code touches without a filter of system calls: it is what tells of them",
            hint="leave syscalls out of sandbox.json",
        )
    if c.situation.observed and not c.situation.broker:
        raise CannotEnforceError(
            "cannot report what code touches: this machine has no seccomp notifications",
            hint='a kernel of 5.6 or newer; or "mode": "enforce" in sandbox.json',
        )
    if c.policy.mode == "preview" and not c.namespaces:
        raise CannotEnforceError(
            "cannot show the disk with changes that are forgotten: that takes user namespaces",
            hint="see: vsbox doctor",
        )


def _check_syscalls(c: Compilation) -> None:
    if not c.situation.filtered and c.landlock_only:
        raise CannotEnforceError(
            "cannot do without a filter of system calls where there are no namespaces: it keeps user namespaces "
            "closed, and tells launchers that scripts start inside that they are inside",
            hint="leave syscalls out of sandbox.json, or use a machine with user namespaces",
        )
    if c.supervised_calls() and "sendmsg" not in c.allowed_calls:
        raise PolicyError(
            "cannot filter system calls by this list: the launcher answers some of them, "
            "and needs sendmsg to hand the filter over",
            hint="add sendmsg to syscalls",
        )


def _check_grant(c: Compilation, grant: Grant) -> None:
    fact = c.facts.path(grant.path)
    if fact.kind == "missing":
        raise PolicyError(
            f"cannot grant {grant.path}: it does not exist",
            hint=f"create it, or: vsbox deny {c.box.root} {grant.path}",
        )
    if fact.real != grant.path:
        raise PolicyError(
            f"cannot grant {grant.path}: it goes through a symbolic link to {fact.real}",
            hint="name the real path, if that is what you mean",
        )
    if grant.access is not Access.HIDDEN and is_below(grant.path, "/proc") and c.situation.confines:
        raise PolicyError(
            f"cannot grant {grant.path}: it tells of every process of the host",
            hint="code inside has a /proc of its own",
        )
    if grant.access is not Access.HIDDEN and is_below(c.box.root, grant.path):
        _check_ancestor(c, grant)
    if is_below(grant.path, c.box.root):
        raise PolicyError(
            f"cannot grant {grant.path}: it is inside the box itself",
            hint="keep data outside of the environment",
        )
    if c.landlock_only:
        _check_without_namespaces(c, grant)


def _check_ancestor(c: Compilation, grant: Grant) -> None:
    by_children = grant.path == c.policy.project  # in the Landlock-only tier, without the box
    if grant.path == "/" or (grant.access is Access.WRITE and c.landlock_only and not by_children):
        raise PolicyError(
            f"cannot grant {grant.path}: it holds the box {c.box.root}, whose policy and "
            "launchers code inside could then change",
            hint="grant the directories in it that are needed",
        )


def _check_without_namespaces(c: Compilation, grant: Grant) -> None:
    project = c.policy.project
    if project and grant.path != project and grant.access is Access.WRITE and is_below(project, grant.path):
        raise PolicyError(
            f"cannot grant {grant.path} for writing: it holds the project {project}, parts of which are protected",
            hint="grant the directories in it that are needed, or use a machine with user namespaces",
        )
    above = (c.by_path.get(str(parent)) for parent in PurePosixPath(grant.path).parents)
    if grant.access is Access.HIDDEN or any(other.access > grant.access for other in above if other):
        raise CannotEnforceError(
            f"cannot restrict {grant.path} below what is allowed: Landlock has no deny rules",
            hint="grant the directories beside it, or use a machine with user namespaces",
        )


def _check_own_path(c: Compilation, path: str) -> None:
    """Law 1: what the outside half executes must not be writable from inside."""
    for grant in c.grants:
        if grant.access is Access.WRITE and (is_below(path, grant.path) or is_below(grant.path, path)):
            raise PolicyError(
                f"cannot grant {grant.path} for writing: vsbox itself runs from {path}",
                hint="install vsbox elsewhere, or grant a directory that does not hold it",
            )
