"""Policy and plan on disk: read strictly, replaced atomically, proven before they count."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from vsbox.backends import choose
from vsbox.backends.interface import Backend
from vsbox.box.layout import Layout, made_anew
from vsbox.box.pip import provide_pip
from vsbox.errors import BoxError, CannotEnforceError, PolicyError, VsboxError
from vsbox.guard.install import guard_content, put_guard
from vsbox.host.collect import collect, user_home
from vsbox.host.facts import HostFacts
from vsbox.plan import steps
from vsbox.plan.compile import compile_plan
from vsbox.plan.encode import encode, fnv1a64
from vsbox.plan.guard import guard_config
from vsbox.plan.model import BoxFacts, Interpreter, Plan, Tier
from vsbox.plan.profile_names import installed_path, launcher_profile, payload_profile
from vsbox.plan.steps import printable
from vsbox.plan.system import candidates
from vsbox.policy.bwrap_options import Mapped, apply_bwrap_arguments, backend_for
from vsbox.policy.document import SCHEMA_NAME, parse, render, schema
from vsbox.policy.grants import grants_of
from vsbox.policy.model import Policy
from vsbox.policy.overrides import asked_text
from vsbox.policy.presets import with_preset

VERIFY_SECONDS = 60


def write_atomically(path: Path, data: bytes, *, mode: int = 0o644, durable: bool = False) -> None:
    """Replace a file as a whole: whoever reads it sees the old content or the new.

    ``durable``: also after a power cut.

    Raises:
        OSError: nothing was changed.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
            os.fchmod(file.fileno(), mode)  # type: ignore[attr-defined,unused-ignore]
        os.replace(name, path)  # both ends as mkstemp gave them
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


@contextlib.contextmanager
def locked(layout: Layout) -> Iterator[None]:
    """Hold the box's lock: one writer of ``sandbox/`` and ``bin/`` at a time."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW  # type: ignore[attr-defined,unused-ignore]
    with os.fdopen(os.open(layout.sandbox / "lock", flags, 0o600), "rb+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # type: ignore[attr-defined,unused-ignore]
        yield


def load_policy(layout: Layout) -> Policy:
    """Read ``sandbox.json``.

    Raises:
        PolicyError: it is missing or wrong; never a policy that allows.
    """
    try:
        data = layout.policy.read_bytes()
    except OSError as error:
        raise PolicyError(
            f"cannot read {layout.policy}: {error.strerror}",
            hint=f"put it back, or {made_anew(layout.root)}",
        ) from error
    return parse(data, name=str(layout.policy))


def save_policy(layout: Layout, policy: Policy) -> None:
    """Write ``sandbox.json`` and the schema beside it."""
    write_atomically(layout.sandbox / SCHEMA_NAME, msgspec.json.format(msgspec.json.encode(schema())))
    write_atomically(layout.policy, render(policy), durable=layout.policy.exists())


def load_interpreter(layout: Layout) -> Interpreter:
    """Read what ``create`` noted about the base Python, outside."""
    path = layout.sandbox / "interpreter.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=Interpreter)
    except (OSError, msgspec.MsgspecError) as error:
        raise BoxError(f"cannot read {path}: {error}", hint=made_anew(layout.root)) from error


def commands_mtime_ns(layout: Layout) -> int:
    """Return the state of ``inside/bin``; links are not followed, code inside could make one."""
    try:
        return (layout.inside / "bin").lstat().st_mtime_ns
    except FileNotFoundError:
        return 0


def map_words(policy: Policy) -> Mapped:
    """Take the policy's words for ``bwrap`` into it, for the user that this is."""
    return apply_bwrap_arguments(
        with_preset(policy), policy.bwrap_arguments, uid=os.geteuid(), gid=os.getegid()  # type: ignore[attr-defined,unused-ignore]
    )


def gather(layout: Layout, policy: Policy, root: Path | None = None) -> tuple[HostFacts, BoxFacts]:
    """Return the facts that a compilation of this box needs; ``root``: where it will be, unless it is there."""
    interpreter = load_interpreter(layout)
    mapped = map_words(policy)
    named = (*(grant.path for grant in grants_of(mapped.policy)), *mapped.sources)
    shown = [f"/{name}" for name in sorted(os.listdir("/"))]
    place = str(root or layout.root)
    facts = collect(
        (*candidates(), *interpreter.trees, *named, *shown, user_home()),
        watched=(
            str(layout.policy), interpreter.executable, str(layout.sandbox / "interpreter.json"), installed_path(place),
        ),
        profiles=(launcher_profile(place), payload_profile(place)),
    )  # fmt: skip
    return facts, BoxFacts(place, interpreter, commands_mtime_ns(layout))


def backend_of(policy: Policy, facts: HostFacts) -> Backend:
    """Return what carries the policy out: nothing of the kernel's for mode log, or where the guard is to be alone.

    Raises:
        CannotEnforceError: this machine lacks something that it needs.
    """
    unconfined = policy.mode == "log" or not policy.os_sandbox
    return choose("none" if unconfined else backend_for(map_words(policy)), facts).backend


@dataclass(frozen=True)
class Compiled:
    """A plan, the one for installing where packages are else read-only, and what both were compiled from."""

    plan: Plan
    facts: HostFacts
    box: BoxFacts
    installing: Plan | None = None


def plan_and_facts(layout: Layout, policy: Policy, root: Path | None = None) -> Compiled:
    """Compile a policy for this box on this machine, without storing anything."""
    facts, box = gather(layout, policy, root)
    return compile_for(layout, policy, facts, box)


def compile_for(layout: Layout, policy: Policy, facts: HostFacts, box: BoxFacts) -> Compiled:
    """Compile a policy for this box on a machine."""
    if not Path(box.interpreter.executable).exists():
        raise BoxError(
            f"cannot use {layout.root}: its Python {box.interpreter.executable} is gone",
            hint=made_anew(layout.root),
        )
    backend = backend_of(policy, facts)
    plan = backend.translate(compile_plan(policy, facts, box, backend.tier), facts)
    installs = with_preset(policy).packages == "install"
    if not installs:
        return Compiled(plan, facts, box)
    installing = backend.translate(compile_plan(policy, facts, box, backend.tier, installing=True), facts)
    return Compiled(plan, facts, box, installing)


def summary(policy: Policy, plan: Plan) -> str:
    """Return what ``activate_sandboxed`` prints: plain text, control characters made visible."""
    tier = plan.receipt.tier
    how = "Not confined by the kernel" if tier == Tier.NONE.value else f"Sandboxed with {tier}"
    lines = [f"{how}: {policy.venv_root}"]
    for title, paths in (
        ("read and write", policy.allowed_paths),
        ("read only", policy.read_only_paths),
        ("hidden", policy.hidden_paths),
    ):
        lines += [f"  {title:15} {path}" for path in paths]
    for row in plan.receipt.rows:
        if row.state in {"degraded", "open by policy"}:
            lines.append(f"  {row.state:15} {row.aspect.value}: {row.asked}")
    return "\n".join(map(printable, lines))


def _prove(layout: Layout) -> None:
    """Run the launcher's own checks from inside, under the plan that is about to count.

    Raises:
        CannotEnforceError: the plan cannot be carried out, or does not confine.
    """
    answer = subprocess.run(
        [str(layout.sandbox / "verify")],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=VERIFY_SECONDS,
        cwd="/",
        check=False,
    )
    if answer.returncode == 0:
        return
    failed = [line for line in answer.stdout.splitlines() if line.startswith("FAILED")]
    cause = "; ".join(failed) or answer.stderr.strip().removeprefix("vsbox: ") or f"status {answer.returncode}"
    raise CannotEnforceError(f"cannot confine {layout.root}: {cause}", hint="see: vsbox doctor")


def _restore_directories(layout: Layout) -> None:
    """Make again what code inside may have removed and a start needs; a link in its place stays and is an error."""
    for directory in (layout.inside / "home", layout.home / "tmp"):
        with contextlib.suppress(FileExistsError):
            directory.mkdir()


def plan_path(layout: Layout, variant: str) -> Path:
    """Return where the plan of a variant is; the one of ``sandbox.json`` itself has no name."""
    return layout.sandbox / (f"plan.{variant}" if variant else "plan")


def _put(layout: Layout, plan: Plan, path: Path, *, is_variant: bool) -> None:
    """Prove a plan from inside and put it in its place; what a variable asked for may be a secret."""
    candidate = layout.sandbox / "plan.new"
    try:
        write_atomically(candidate, encode(plan.steps), mode=0o600 if is_variant else 0o644)
        _prove(layout)
        os.replace(candidate, path)
    except subprocess.TimeoutExpired as error:
        raise CannotEnforceError(f"cannot confine {layout.root}: its proof took too long") from error
    finally:
        candidate.unlink(missing_ok=True)


def _put_all(layout: Layout, compiled: Compiled, variant: str) -> None:
    """Put the plan that makes others stale last: launchers look at it first."""
    path = plan_path(layout, variant)
    if compiled.installing:
        (layout.installs / "tmp").mkdir(parents=True, exist_ok=True)
        provide_pip(layout, compiled.box.interpreter)
        _put(layout, compiled.installing, path.with_name(f"{path.name}.install"), is_variant=bool(variant))
    _put(layout, compiled.plan, path, is_variant=bool(variant))


def provide_guard(layout: Layout, policy: Policy, compiled: Compiled) -> None:
    """Put the guard into the environment, told what the plan grants."""
    tier = Tier(compiled.plan.receipt.tier)
    told = compiled.installing if compiled.installing and tier is not Tier.NAMESPACES else compiled.plan
    files = guard_content(compiled.box, guard_config(policy, compiled.box, told, tier), layout.sandbox)
    put_guard(layout.sandbox / "guard", layout.inside, compiled.box.interpreter.packages, files)


def store(layout: Layout, policy: Policy) -> Plan:
    """Compile, prove and store the plan with its receipt. The old plan stays until this succeeds.

    Raises:
        VsboxError: the policy or the machine does not allow it.
        OSError: the box cannot be written.
    """
    compiled = plan_and_facts(layout, policy)
    plan = compiled.plan
    _restore_directories(layout)
    provide_guard(layout, policy, compiled)
    for variant in layout.sandbox.glob("plan.x*"):
        variant.unlink(missing_ok=True)
    _put_all(layout, compiled, "")
    write_atomically(layout.sandbox / "receipt.json", msgspec.json.encode(plan.receipt))
    write_atomically(layout.sandbox / "summary.txt", summary(policy, plan).encode() + b"\n")
    return plan


def prepare(layout: Layout, policy: Policy, root: Path) -> None:
    """Put the guard into a box that is about to be at ``root``, and refuse a policy that it could not carry out there.

    Raises:
        VsboxError: as ``store`` would.
    """
    provide_guard(layout, policy, plan_and_facts(layout, policy, root))


def store_unproven(layout: Layout, policy: Policy, root: Path) -> None:
    """Store a plan that says no more than how to make one: the first start at ``root`` does so."""
    facts, _ = gather(layout, policy, root)
    stale = (steps.Root(str(root)), steps.Owner(facts.uid), steps.Kernel("none yet"), steps.Compiler(facts.compiler))
    write_atomically(layout.plan, encode(stale))


def store_variant(layout: Layout, policy: Policy, variant: str) -> None:
    """Compile, prove and store the plan of a start that the environment asks something of.

    Raises:
        PolicyError: what is asked cannot be carried out, or the launcher read something else.
    """
    if variant != f"x{fnv1a64(os.fsencode(asked_text(os.environ))):016x}":
        raise PolicyError(f"cannot make plan {variant}: the environment does not ask for it")
    _put_all(layout, plan_and_facts(layout, policy), variant)


def change_policy(layout: Layout, policy: Policy) -> Plan:
    """Replace ``sandbox.json``, unless the new policy cannot be carried out; then nothing changes."""
    with locked(layout):
        before = layout.policy.read_bytes()
        plan_and_facts(layout, policy)
        save_policy(layout, policy)
        try:
            return store(layout, policy)
        except (VsboxError, OSError):
            write_atomically(layout.policy, before)
            raise
