"""Watched runs, without running: plans that report, what the launcher says, who it was, what the policy says of it."""

from __future__ import annotations

import os
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from unit.machines import CONFINING, DATA, HOME, ROOT, box, debian, machine, policy
from vsbox.box.layout import Layout
from vsbox.box.runs import Head, Writer, load_run, load_runs
from vsbox.box.watch import Watch, print_rows
from vsbox.errors import BoxError, CannotEnforceError, PolicyError
from vsbox.guard.attribution import Attribution, Distributions
from vsbox.guard.events import HIDES, NOTE_PREFIX, Owner, Spawn, Touch, decode
from vsbox.guard.judge import Judge
from vsbox.guard.records import Record, by_owner
from vsbox.plan import steps
from vsbox.plan.compile import compile_plan
from vsbox.plan.guard import guard_config
from vsbox.plan.model import Tier
from vsbox.plan.observed import HEAD, OBSERVED, operation_of
from vsbox.policy.model import Aspect
from vsbox.policy.overrides import with_overrides
from vsbox.seccomp import FilterSpec, build_filter, simulate
from vsbox.seccomp.syscalls import architecture

X86 = architecture("x86_64").table
ALLOW, NOTIFY, KILL = 0x7FFF_0000, 0x7FC0_0000, 0x8000_0000
ERRNO = 0x0005_0000


def spec(**keys: Any) -> FilterSpec:
    return FilterSpec(machine="x86_64", box_id=7, families=frozenset({"unix", "inet", "inet6", "netlink"}), **keys)


def ask(program: bytes, name: str, *arguments: int) -> int:
    return simulate(program, arch=architecture("x86_64").audit_arch, nr=X86[name], args=arguments)


# ---- filters ----


def test_a_filter_that_reports_refuses_what_it_refused() -> None:
    plain, watching = build_filter(spec()), build_filter(spec(observed=frozenset(OBSERVED), tells_refusals=True))
    for name in X86:
        before, now = ask(plain, name), ask(watching, name)
        if now == NOTIFY:
            assert before == ALLOW or before & 0xFFFF_0000 == ERRNO, name
        else:
            assert now == before, name


def test_every_refusal_that_goes_to_the_launcher_is_answered_by_it() -> None:
    plan = compile_plan(policy(report=True), debian(), box(), Tier.NAMESPACES)
    answers = {step.number: step.answer for step in plan.steps if isinstance(step, steps.Observed)}
    program = next(step.program for step in plan.steps if isinstance(step, steps.Seccomp))
    plain = next(
        s.program
        for s in compile_plan(policy(), debian(), box(), Tier.NAMESPACES).steps
        if isinstance(s, steps.Seccomp)
    )
    for name, number in X86.items():
        before = ask(plain, name)
        if ask(program, name) == NOTIFY and before & 0xFFFF_0000 == ERRNO:
            assert answers[number] == before & 0xFFFF, name


def test_mode_log_refuses_nothing_but_what_cannot_be_seen() -> None:
    program = build_filter(spec(observed=frozenset(OBSERVED), tells_refusals=True, refusal="report"))
    refused = {name for name in X86 if ask(program, name) not in {ALLOW, NOTIFY}}
    assert refused == {"clone3", "openat2"}
    assert ask(program, "unshare", 0x1000_0000) == NOTIFY
    assert ask(program, "unshare", 0) == ALLOW
    assert simulate(program, arch=1, nr=0, args=()) == ALLOW


def test_the_guard_alone_has_a_filter_that_only_answers_launchers() -> None:
    program = build_filter(spec(refusal="none"))
    assert {ask(program, name) for name in X86} == {ALLOW}
    assert ask(program, "prctl", 0x76736278, 7) == ERRNO | 4004


# ---- plans ----


@pytest.mark.parametrize("tier", CONFINING)
def test_an_ordinary_plan_watches_nothing(tier: Tier) -> None:
    plan = compile_plan(policy(), debian(), box(), tier)
    assert not [step for step in plan.steps if isinstance(step, (steps.Observed, steps.Unconfined))]


@pytest.mark.parametrize("tier", CONFINING)
def test_a_report_changes_nothing_of_what_confines(tier: Tier) -> None:
    def confining(**keys: Any) -> list[steps.Step]:
        plan = compile_plan(policy(**keys), debian(), box(), tier)
        return [step for step in plan.steps if not isinstance(step, (steps.Observed, steps.Seccomp))]

    assert confining(report=True) == confining()


def test_mode_log_enforces_nothing_and_says_so() -> None:
    plan = compile_plan(policy(mode="log"), debian(), box(), Tier.NONE)
    kinds = {type(step) for step in plan.steps}
    assert not kinds & {steps.Landlock, steps.Restrict, steps.Namespaces, steps.Bind}
    assert steps.Unconfined in kinds
    assert plan.receipt.row(Aspect.FILES).state == "open by policy"
    assert "no_new_privs all the same" in plan.receipt.row(Aspect.PRIVILEGES).note
    assert plan.receipt.row(Aspect.ENVIRONMENT).state == "enforced"


def test_the_guard_alone_is_told_the_rules() -> None:
    plan = compile_plan(policy(os_sandbox=False, allowed_paths=(DATA,)), debian(), box(), Tier.NONE)
    assert not [step for step in plan.steps if isinstance(step, steps.Observed)]
    config = guard_config(policy(os_sandbox=False), box(), plan, Tier.NONE)
    assert DATA in config["write"]
    assert "/usr" in config["read"]


def test_a_preview_shows_the_disk_and_keeps_no_change() -> None:
    facts = debian()
    plan = compile_plan(policy(mode="preview", allowed_paths=(DATA,)), facts, box(), Tier.NAMESPACES)
    overlays = {step.source for step in plan.steps if isinstance(step, steps.Overlay)}
    assert {HOME, f"{ROOT}/inside", f"{ROOT}/home"} <= overlays or DATA in overlays
    writable = [step for step in plan.steps if isinstance(step, steps.Bind) and step.flags & 1]
    assert {step.target.split("/")[1] for step in writable} <= {"dev"}


REFUSED = {
    "no notifications": (policy(report=True), {"seccomp_listener": "EINVAL"}, CannotEnforceError, "notifications"),
    "no filter": (policy(report=True, syscalls=()), {}, PolicyError, "filter"),
}


@pytest.mark.parametrize(("wanted", "probes", "kind", "said"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_report_is_refused(wanted: Any, probes: dict[str, str], kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said):
        compile_plan(wanted, machine(probes=probes), box(), Tier.NAMESPACES)


def test_a_preview_needs_namespaces() -> None:
    with pytest.raises(CannotEnforceError, match="user namespaces"):
        compile_plan(policy(mode="preview"), debian(), box(), Tier.LANDLOCK)


@pytest.mark.parametrize(
    ("value", "mode", "reports"), [("1", "enforce", True), ("", "enforce", False), ("preview", "preview", True)]
)
def test_a_variable_asks_for_a_report(value: str, mode: str, reports: bool) -> None:
    asked = with_overrides(policy(), {"VSBOX_REPORT": value})
    assert (asked.mode, asked.report) == (mode, reports)


def test_no_variable_switches_enforcement_off() -> None:
    for value in ("log", "off", "2", "none"):
        with pytest.raises(PolicyError, match="VSBOX_REPORT"):
            with_overrides(policy(), {"VSBOX_REPORT": value})


# ---- packets ----


def packet(
    name: str, *paths: str, address: bytes = b"", library: str = "", arguments: tuple[int, ...] = (), pid: int = 5
) -> bytes:
    padded = (*arguments, *[0] * (6 - len(arguments)))
    head = HEAD.pack(7, X86[name], pid, pid, 1, 0, 1_500_000_000, *padded, b"prog")
    texts = [*(os.fsencode(path) for path in (*paths, "", "")[:2]), address, os.fsencode(library)]
    return head + b"".join(struct.pack("<H", len(text)) + text for text in texts)


def only(data: bytes) -> Touch:
    (found,) = decode(data, "x86_64")
    assert isinstance(found, Touch)
    return found


def test_a_call_is_what_it_does() -> None:
    found = only(packet("openat", "/x", arguments=(0, 0, os.O_WRONLY | os.O_CREAT)))
    assert (found.operation, found.target, found.pid, found.program, found.time) == ("write", "/x", 5, "prog", 1.5)
    assert only(packet("openat", "/x", arguments=(0, 0, os.O_RDONLY))).operation == "read"
    assert only(packet("openat", "/x", arguments=(0, 0, os.O_DIRECTORY))).operation == "list"
    assert only(packet("openat", "/x", arguments=(0, 0, 0o10000000))).operation == "look"


def test_both_paths_of_a_rename() -> None:
    touched = [event for event in decode(packet("rename", "/a", "/b"), "x86_64") if isinstance(event, Touch)]
    assert [(touch.operation, touch.target) for touch in touched] == [("rename", "/a"), ("rename", "/b")]


ADDRESSES = {
    "ipv4": (struct.pack("<H", 2) + b"\x01\xbb\x7f\x00\x00\x01", "127.0.0.1 port 443"),
    "ipv6": (struct.pack("<H", 10) + b"\x00\x50" + bytes(4) + bytes(15) + b"\x01", "::1 port 80"),
    "unix": (struct.pack("<H", 1) + b"/run/x\0", "/run/x"),
    "abstract": (struct.pack("<H", 1) + b"\0name", "@name"),
}


@pytest.mark.parametrize(("data", "text"), ADDRESSES.values(), ids=ADDRESSES)
def test_addresses_are_text(data: bytes, text: str) -> None:
    assert only(packet("connect", address=data)).target == text


@pytest.mark.parametrize("data", [b"", b"\x01", struct.pack("<H", 2) + b"\x01", struct.pack("<H", 99) + bytes(20)])
def test_an_address_that_says_nothing_is_dropped(data: bytes) -> None:
    assert list(decode(packet("connect", address=data), "x86_64")) == []


def test_a_packet_cut_anywhere_is_no_harm() -> None:
    whole = packet("rename", "/a" * 50, "/b" * 50, library="/x.so")
    for length in range(len(whole)):
        list(decode(whole[:length], "x86_64"))


def test_a_note_of_the_guard() -> None:
    note = "\x1f".join(("read", "/x", "evil 1.0", "/e.py:3", "evil 1.0\x1eother 2"))
    assert only(packet("access", NOTE_PREFIX + note)).owner == Owner("evil 1.0", "/e.py:3", ("evil 1.0", "other 2"))
    (spawn,) = decode(packet("access", NOTE_PREFIX + "spawn\x1f\x1fevil 1.0\x1f\x1f"), "x86_64")
    assert isinstance(spawn, Spawn)


@pytest.mark.parametrize("note", ["", "x", "a\x1fb", "\x1f" * 9])
def test_a_note_of_another_form_is_dropped(note: str) -> None:
    assert list(decode(packet("access", NOTE_PREFIX + note), "x86_64")) == []


def test_every_observed_call_has_an_operation_on_both_architectures() -> None:
    for name in OBSERVED:
        assert operation_of(name, (0,) * 6, "aarch64") in {
            "read", "write", "list", "look", "enter", "execute", "create", "link", "rename", "remove", "truncate",
            "change", "connect",
        }  # fmt: skip


# ---- on whose behalf ----


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    packages = tmp_path / "lib" / "site-packages"
    info = packages / "evil_thing-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: evil-thing\nVersion: 1.0\n\nName: other\n")
    (info / "RECORD").write_text("evil/__init__.py,sha256=x,3\nevil/_native.so,,\n../../bin/evil,,\n")
    return tmp_path


def attribution(environment: Path) -> Attribution:
    return Attribution(Distributions(environment, "lib/site-packages", "/env"))


def touch(pid: int, parent: int = 1, operation: str = "read", target: str = "/x", **keys: Any) -> Touch:
    return Touch(0, pid, parent, "prog", operation, target, **keys)


def test_files_belong_to_distributions(environment: Path) -> None:
    known = Distributions(environment, "lib/site-packages", "/env")
    assert known.of("/env/lib/site-packages/evil/_native.so") == "evil-thing 1.0"
    assert known.of("/env/bin/evil") == "evil-thing 1.0"
    assert known.of("/elsewhere/evil/_native.so") == ""


def test_children_are_on_behalf_of_who_started_them(environment: Path) -> None:
    found = attribution(environment)
    evil = Owner("evil 1.0", "/e.py:3", ("evil 1.0",))
    assert found.owner_of(touch(5)).distribution == ""
    found.hear(Spawn(5, evil))
    assert found.owner_of(touch(6, 5)) == evil
    assert found.owner_of(touch(7, 6)) == evil
    assert found.owner_of(touch(5)).distribution == ""


def test_a_process_that_becomes_another(environment: Path) -> None:
    found = attribution(environment)
    found.owner_of(touch(5))
    found.hear(Spawn(5, Owner("evil 1.0")))
    assert found.owner_of(touch(5, operation="execute", target="/usr/bin/cat")).distribution == "evil 1.0"
    assert found.owner_of(touch(5)).distribution == "evil 1.0"


def test_a_library_on_the_stack_is_nearer_than_the_parent(environment: Path) -> None:
    found = attribution(environment)
    owner = found.owner_of(touch(5, library="/env/lib/site-packages/evil/_native.so"))
    assert (owner.distribution, owner.where) == ("evil-thing 1.0", "/env/lib/site-packages/evil/_native.so")


def test_forged_names_make_no_record_that_cannot_be_read(environment: Path) -> None:
    """Fifty names in a note, and one more by the library on the stack."""
    found = attribution(environment)
    found.hear(Spawn(5, Owner("n0", "", tuple(f"n{number}" for number in range(50)))))
    owner = found.owner_of(touch(6, 5, library="/env/lib/site-packages/evil/_native.so"))
    assert owner.chain[:2] == ("evil-thing 1.0", "n0")
    (environment / "box" / "sandbox").mkdir(parents=True)
    writer = Writer(Layout(environment / "box"), Head(0, "c", "enforce", "x"))
    record = dict.fromkeys(("operation", "target", "distribution", "where", "program", "rule", "allow", "layer"), "")
    writer.add(Record(time=1, pid=1, verdict="denied", chain=owner.chain, **record))
    kept = load_run(writer.path)
    assert kept is not None
    assert len(kept.records) == 1


LATER = b'{"kind": "run", "started": 1e300, "command": "c", "mode": "log"}'
HEADS = (b"\xff", b"", b'{"kind": "run"}', LATER, b"\xff\n")


@pytest.mark.parametrize("head", HEADS)
def test_a_damaged_report_is_told_of(tmp_path: Path, head: bytes) -> None:
    (tmp_path / "sandbox" / "runs").mkdir(parents=True)
    layout = Layout(tmp_path)
    writer = Writer(layout, Head(0, "c", "enforce", "x"))
    with writer.path.open("ab") as file:
        file.write(b'{"time": 1}\n\xff\n{"time": 1, "ta')
    damaged = layout.runs / "2.jsonl"
    damaged.write_bytes(head)
    runs, none = load_runs(layout)
    assert [(run.name, run.unreadable) for run in runs] == [(writer.path.stem, 2)]
    assert none == (damaged,)


def test_reports_that_cannot_be_listed_are_told_of(tmp_path: Path) -> None:
    (tmp_path / "sandbox").mkdir()
    (tmp_path / "sandbox" / "runs").touch()
    with pytest.raises(BoxError, match="cannot read the reports"):
        load_runs(Layout(tmp_path))


def test_many_made_up_owners_take_no_longer() -> None:
    fields = dict.fromkeys(("operation", "target", "where", "program", "rule", "allow", "layer"), "")
    kept = [
        Record(time=1, pid=1, verdict="denied", chain=(), distribution=str(number % 30_000), **fields)
        for number in range(30_001)
    ]
    before = time.process_time()
    found = by_owner(kept)
    assert time.process_time() - before < 2
    assert (found[0][0], len(found[0][1]), len(found)) == ("0", 2, 30_000)


def test_records_are_read_through_no_link(environment: Path, tmp_path: Path) -> None:
    info = environment / "lib" / "site-packages" / "evil_thing-1.0.dist-info"
    (tmp_path / "secret").write_text("evil/_native.so,,\n")
    (info / "RECORD").unlink()
    (info / "RECORD").symlink_to(tmp_path / "secret")
    assert Distributions(environment, "lib/site-packages", "/env").of("/env/lib/site-packages/evil/_native.so") == ""
    (info / "RECORD").unlink()
    os.mkfifo(info / "RECORD")
    assert Distributions(environment, "lib/site-packages", "/env").of("/env/lib/site-packages/evil/_native.so") == ""


# ---- verdicts ----


def judge(tmp_path: Path, tier: str = "namespaces", network: str = "host", **shown: int) -> Judge:
    for name in ("secret", "data", "work", "box/inside/bin"):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
    (tmp_path / "secret" / "file").touch()
    root = str(tmp_path / "box")
    config = {
        "root": root, "tier": tier, "mode": "enforce", "network": network, "packages": (), "records": (),
        "read": ("/usr", root), "write": (str(tmp_path / "data"), f"{root}/home"), "hidden": (), "withheld": (),
        "granted": (str(tmp_path / "data"), f"{root}/home"),
    }  # fmt: skip
    return Judge(config, {str(tmp_path / name): level for name, level in shown.items()})


def verdict(of: Judge, operation: str, target: object) -> str:
    found = of.judge(operation, str(target))
    return "denied" if found.denied else "kept" if found.kept else "quiet"


def test_what_the_policy_says_of_paths(tmp_path: Path) -> None:
    of = judge(tmp_path)
    assert verdict(of, "read", tmp_path / "secret" / "file") == "denied"
    assert verdict(of, "look", tmp_path / "secret" / "file") == "denied"
    assert verdict(of, "read", tmp_path / "data" / "file") == "kept"
    assert verdict(of, "look", tmp_path / "data" / "file") == "quiet"
    assert verdict(of, "write", tmp_path / "data" / "new") == "kept"
    assert verdict(of, "write", tmp_path / "secret" / "new") == "denied"
    assert verdict(of, "write", "/usr/lib/new") == ("denied" if os.access("/usr/lib", os.W_OK) else "quiet")
    assert verdict(of, "read", "/usr/lib") == "quiet"
    assert verdict(of, "execute", "/usr/bin/env") == "kept"


def test_what_is_not_there_is_no_denial(tmp_path: Path) -> None:
    of = judge(tmp_path)
    assert verdict(of, "read", tmp_path / "none") == "quiet"
    assert verdict(of, "look", tmp_path / "none") == "quiet"
    assert verdict(of, "write", tmp_path / "none" / "file") == "quiet"
    assert verdict(of, "execute", "/usr/bin/none-such") == "quiet"


def test_ways_to_what_is_granted_are_seen(tmp_path: Path) -> None:
    assert verdict(judge(tmp_path), "look", tmp_path) == "quiet"


def test_a_start_shows_its_directory(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "file").touch()
    assert verdict(judge(tmp_path), "read", tmp_path / "work" / "file") == "denied"
    assert verdict(judge(tmp_path, work=1), "read", tmp_path / "work" / "file") == "kept"
    assert verdict(judge(tmp_path, work=1), "write", tmp_path / "work" / "x") == "denied"


def test_without_namespaces_looking_is_free(tmp_path: Path) -> None:
    of = judge(tmp_path, "landlock")
    assert verdict(of, "look", tmp_path / "secret" / "file") == "quiet"
    assert verdict(of, "read", tmp_path / "secret" / "file") == "denied"


KERNEL = Path("/proc/sys/kernel/core_pattern")


def logging(tmp_path: Path, tier: str = "none") -> Judge:
    of = judge(tmp_path, tier)
    places = {"read": ("/proc", "/sys/devices/system"), "write": ("/dev/null", "/dev/shm"), "records": ("/r/.notes",)}
    return Judge({**of.config, **places})


@pytest.fixture
def other() -> Iterator[subprocess.Popen[bytes]]:
    """A process of nobody's run."""
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


def test_the_kernels_files_are_told_of_where_they_are_not_the_sandboxs_own(
    tmp_path: Path, other: subprocess.Popen[bytes]
) -> None:
    of = logging(tmp_path)
    assert of.judge("read", f"/proc/{other.pid}/environ", os.getpid() + 10**6).denied
    assert of.judge("list", f"/proc/{other.pid}/task/{other.pid}/fd", 5).denied
    assert verdict(of, "read", f"/proc/{other.pid}/stat") == "quiet"
    assert verdict(of, "read", "/proc/meminfo") == "quiet"
    assert verdict(of, "write", "/dev/null") == "quiet"
    changeable = "denied" if os.access(KERNEL, os.W_OK) else "quiet"
    assert verdict(of, "write", KERNEL) == changeable
    assert verdict(logging(tmp_path, "namespaces"), "write", KERNEL) == changeable
    assert verdict(of, "read", "/sys/kernel/notes") == ("denied" if os.access("/sys/kernel/notes", 4) else "quiet")


def test_with_namespaces_the_kernels_files_are_the_sandboxs_own(
    tmp_path: Path, other: subprocess.Popen[bytes]
) -> None:
    of = logging(tmp_path, "namespaces")
    for path in (f"/proc/{other.pid}/environ", "/proc/meminfo", "/sys/kernel/notes", "/dev/shm/x", "/dev/pts/0"):
        assert verdict(of, "read", path) == "quiet"
    assert verdict(of, "write", "/dev/shm/x") == "quiet"


def test_a_process_of_the_run_is_its_own(tmp_path: Path, other: subprocess.Popen[bytes]) -> None:
    of = logging(tmp_path)
    assert not of.judge("read", f"/proc/{os.getpid()}/environ", os.getpid()).denied
    assert not of.judge("read", f"/proc/{other.pid}/environ", os.getpid()).denied, "a child"
    assert not of.judge("write", f"/proc/{os.getpid()}/comm", os.getpid()).denied
    assert not of.judge("write", "/proc/self/comm", os.getpid()).denied


def test_shared_memory_that_was_there_is_somebody_elses(tmp_path: Path) -> None:
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as there:
        of = logging(tmp_path)
        assert of.judge("write", there.name).denied
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as made:
        assert verdict(of, "write", made.name) == "quiet"


def test_only_the_notes_themselves_are_nobodys_matter(tmp_path: Path) -> None:
    secret = tmp_path / "secret" / "a.vsbox-denied.jsonl"
    of = logging(tmp_path)
    secret.touch()
    assert verdict(of, "read", secret) == "denied"
    assert verdict(of, "write", "/r/.notes") == "quiet"


def test_networks(tmp_path: Path) -> None:
    closed, open_ = judge(tmp_path, network="none"), judge(tmp_path)
    assert verdict(closed, "connect", "192.0.2.1 port 9") == "denied"
    assert verdict(open_, "connect", "192.0.2.1 port 9") == "kept"
    assert verdict(closed, "connect", "127.0.0.1 port 9") == "quiet"
    assert verdict(closed, "resolve", "example.org") == "denied"


def test_a_refused_call_is_named_with_its_reason(tmp_path: Path) -> None:
    found = judge(tmp_path).judge("call", "ptrace")
    assert found.denied
    assert "other processes" in found.rule


# ---- what code inside makes up ----


def made_up(path: bytes, unseen: int = 0) -> bytes:
    head = HEAD.pack(6, X86["access"], 2, 2, 1, unseen, 10**18, 0, 0, 0, 0, 0, 0, b"sh")
    return head + struct.pack("<H", len(path)) + path + struct.pack("<HHH", 0, 0, 0)


@pytest.mark.parametrize("operation", [b"\xff", b"re\x1b[31mad", b"call", b"", b"hide"])
def test_a_note_of_something_that_the_guard_does_not_note_is_none(operation: bytes) -> None:
    fields = b"\x1f".join((operation, b"/x", b"d", b"w", b""))
    assert not list(decode(made_up(os.fsencode(NOTE_PREFIX) + fields), "x86_64"))


def test_a_process_that_lets_nobody_look_is_told_of() -> None:
    (touch,) = decode(made_up(b"", unseen=1), "x86_64")
    assert isinstance(touch, Touch)
    assert touch.operation == HIDES


def test_reading_who_owns_what_takes_no_longer_because_of_what_code_inside_wrote(tmp_path: Path) -> None:
    first = tmp_path / "lib" / "a-1.dist-info"
    first.mkdir(parents=True)
    (first / "RECORD").write_bytes(b"\n" * (16 << 20))
    for number in range(40):
        (tmp_path / "lib" / f"b{number}-1.dist-info").mkdir()
        os.link(first / "RECORD", tmp_path / "lib" / f"b{number}-1.dist-info" / "RECORD")
    before = time.process_time()
    assert Distributions(tmp_path, "lib", "/box").of("/box/lib/x") == ""
    assert time.process_time() - before < 5


def test_a_report_has_an_end(tmp_path: Path) -> None:
    (tmp_path / "sandbox").mkdir()
    writer = Writer(Layout(tmp_path), Head(0, "c", "enforce", "x"))
    config = dict.fromkeys(("read", "write", "hidden", "withheld", "granted", "packages", "records"), ())
    judge = Judge({**config, "root": "/box", "tier": "landlock", "mode": "enforce", "network": "host"})
    attribution = Attribution(Distributions(tmp_path, "lib", "/box"))
    watch = Watch(judge, attribution, writer, "/box", blocks=True, says=False)
    name = "x" * 3000
    for number in range(8000):
        owner = Owner("d\x1b[2K\udcff", "w\r\n", ("c\x9b",))
        watch.take(Touch(1.0, 2, 1, "p\x1b", "create", f"{tmp_path}/{number}{name}", owner))
    assert not watch.is_complete
    assert writer.path.stat().st_size < 18 << 20
    kept = load_run(writer.path)
    assert kept is not None
    assert len(kept.records) == len(watch.denied) > 1000
    record = kept.records[0]
    shown = (record.distribution, record.where, record.program, *record.chain)
    assert all(text.isprintable() for text in shown)


@pytest.fixture
def watch(tmp_path: Path) -> Watch:
    """A watch over a box that grants nothing."""
    (tmp_path / "sandbox").mkdir()
    writer = Writer(Layout(tmp_path), Head(0, "c", "enforce", "x"))
    config = dict.fromkeys(("read", "write", "hidden", "withheld", "granted", "packages", "records"), ())
    judge = Judge({**config, "root": "/box", "tier": "landlock", "mode": "enforce", "network": "host"})
    return Watch(judge, Attribution(Distributions(tmp_path, "lib", "/box")), writer, "/box", blocks=True, says=False)


@pytest.mark.parametrize(("tier", "of_way"), [("landlock", True), ("none", False)])
def test_a_listing_that_is_not_granted_is_denied(tmp_path: Path, tier: str, of_way: bool) -> None:
    (tmp_path / "granted").mkdir()
    config = dict.fromkeys(("write", "hidden", "withheld", "granted", "packages", "records"), ())
    given = {"root": "/box", "tier": tier, "mode": "enforce", "network": "host", "read": (f"{tmp_path}/granted/x",)}
    judge = Judge({**config, **given})
    (tmp_path / "other").mkdir()
    assert judge.judge("list", f"{tmp_path}/other").denied
    assert judge.judge("list", f"{tmp_path}/granted").denied == of_way  # the kernel shows what is on the way, or not
    assert not judge.judge("enter", f"{tmp_path}/other").denied
    assert not judge.judge("list", f"{tmp_path}/none").denied


@pytest.mark.parametrize("pause", [False, True])
def test_all_that_is_done_to_a_path_is_told_however_soon(watch: Watch, tmp_path: Path, pause: bool) -> None:
    done = ("create", "write", "change", "remove")
    for operation in done:
        watch.take(Touch(1.0, 2, 1, "p", operation, f"{tmp_path}/x"))
        watch.settle(everything=pause)
    watch.settle(everything=True)
    assert [record.operation for record in watch.denied] == list(done)


def test_a_note_hides_nothing_that_it_does_not_say(watch: Watch, tmp_path: Path) -> None:
    watch.take(Touch(1.0, 2, 1, "p", "write", f"{tmp_path}/x", Owner("thing 1.0", "x.py:1")))
    for operation in ("write", "remove"):
        watch.take(Touch(1.0, 2, 1, "p", operation, f"{tmp_path}/x"))
    watch.settle(everything=True)
    told = [(record.operation, record.distribution) for record in watch.denied]
    assert told == [("write", "thing 1.0"), ("remove", "")]


def test_a_table_shows_its_title_as_it_is(capfd: pytest.CaptureFixture[str]) -> None:
    print_rows("a[b]/[/c]", [("x[y]", "read", "/[/z]", "")])
    shown = capfd.readouterr().err
    assert "a[b]/[/c]" in shown
    assert "x[y]" in shown


def test_a_preview_lets_nothing_be_typed_and_no_stream_be_opened_again() -> None:
    plan = compile_plan(policy(mode="preview"), debian(), box(), Tier.NAMESPACES)
    program = next(step.program for step in plan.steps if isinstance(step, steps.Seccomp))
    assert ask(program, "ioctl", 0, 0x5412) == ERRNO | 1
    kinds = [type(step) for step in plan.steps]
    assert kinds.index(steps.Landlock) < kinds.index(steps.RuleStdio) < kinds.index(steps.Restrict)
