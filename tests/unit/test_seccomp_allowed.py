"""The list of system calls that are let through, and lists of one's own."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vsbox.errors import PolicyError
from vsbox.seccomp import PROBE_ERRNO, PROBE_OPTION, FilterSpec, bpf, build_filter, rules, simulate, verdicts
from vsbox.seccomp.allowed import (
    ALLOWED,
    BUILT_IN,
    ENDING,
    KNOWN,
    TOPICS,
    allowed_calls,
    errno_unlisted,
    parse_names,
)
from vsbox.seccomp.syscalls import AARCH64, X86_64, architecture

BOTH = pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
REFUSED = frozenset(name for refusal in rules.REFUSALS for name in refusal.by_name())
ALLOW, ERRNO = 0x7FFF_0000, 0x0005_0000
ENOSYS = ERRNO | rules.ENOSYS


def names(text: str) -> set[str]:
    return set(text.split())


# Law 5, and what sandboxes have been left through. Written out: no list may ever open one of these.
NEVER = names(
    """
    ptrace process_vm_readv process_vm_writev pidfd_getfd kcmp mount umount2 pivot_root chroot setns fsopen fsconfig
    fsmount fspick open_tree open_tree_attr move_mount mount_setattr open_by_handle_at name_to_handle_at bpf userfaultfd
    perf_event_open keyctl add_key request_key io_uring_setup io_uring_enter io_uring_register clone3 openat2
    init_module finit_module kexec_load reboot swapon clock_settime modify_ldt
    """
)


def make_spec(machine: str, allowed: frozenset[str] | None = ALLOWED) -> FilterSpec:
    return FilterSpec(
        machine=machine, box_id=77, families=frozenset({"unix", "inet", "inet6", "netlink"}), allowed=allowed
    )


def ask(spec: FilterSpec, name: str, *args: int) -> int:
    arch = architecture(spec.machine)
    return simulate(build_filter(spec), arch=arch.audit_arch, nr=arch.table[name], args=args)


# ---- the built-in list ----


def test_each_call_has_one_topic() -> None:
    listed = " ".join(topic.names for topic in TOPICS).split()
    assert len(listed) == len(set(listed))
    assert ALLOWED == set(listed) <= KNOWN


def test_each_topic_has_a_reason() -> None:
    assert all(topic.why and "\n" not in topic.why for topic in TOPICS)


def test_nothing_is_both_listed_and_refused() -> None:
    assert not ALLOWED & REFUSED


def test_whatever_is_judged_by_argument_is_listed() -> None:
    assert ALLOWED.issuperset(rules.FIXED_RULES)
    assert ALLOWED.issuperset(rules.PROCESS_RULES)


@BOTH
def test_the_list_is_all_that_gets_through(machine: str) -> None:
    said = verdicts(build_filter(make_spec(machine)), machine)
    through = {name for name, verdict in said.items() if verdict in {"allow", "arguments"}}
    assert through == ALLOWED & architecture(machine).table.keys()


@BOTH
def test_a_call_that_the_table_learns_is_not_let_through(machine: str) -> None:
    """The point of a list: without one, the same calls get through because nobody thought of them."""
    open_now = verdicts(build_filter(make_spec(machine, None)), machine)
    rare = {name for name, verdict in open_now.items() if verdict == "allow"} - ALLOWED
    assert {"process_madvise", "fanotify_mark", "cachestat"} <= rare
    assert {ask(make_spec(machine), name) for name in rare} == {ENOSYS}


# ---- lists of one's own ----


def test_without_a_list_the_built_in_one_counts() -> None:
    assert allowed_calls(None) == ALLOWED


def test_a_list_replaces_the_built_in_one_except_for_the_end() -> None:
    assert allowed_calls(("read", "write")) == {"read", "write"} | ENDING
    assert {"exit", "exit_group", "rt_sigreturn", "restart_syscall"} == ENDING


def test_the_built_in_list_can_be_named() -> None:
    assert allowed_calls((BUILT_IN, "vmsplice")) == ALLOWED | {"vmsplice"}


def test_names_of_the_other_architecture_are_taken() -> None:
    only_there = sorted(set(X86_64.table) - set(AARCH64.table) - REFUSED)
    assert "arch_prctl" in only_there
    allowed = allowed_calls(only_there)
    assert ask(make_spec("x86_64", allowed), "arch_prctl") == ALLOW
    assert ask(make_spec("aarch64", allowed), "read") == ENOSYS


@pytest.mark.parametrize(
    ("names", "message", "hint"),
    [
        (("opne",), "unknown system call: 'opne'", "did you mean 'open'?"),
        (("read", "opennat", "reed"), "'opennat', 'reed'", "'openat', 'read'"),
        (("read,write",), "unknown system call: 'read,write'", ""),
        (("@default",), "unknown system call: '@default'", ""),
        (("",), "unknown system call: ''", ""),
        (("zzzzzzzz",), "unknown system call: 'zzzzzzzz'", "--syscalls"),
        (("OPENAT",), "unknown system call: 'OPENAT'", ""),
    ],
)
def test_unknown_names_are_refused_with_advice(names: tuple[str, ...], message: str, hint: str) -> None:
    with pytest.raises(PolicyError) as caught:
        allowed_calls(names)
    assert message in str(caught.value)
    assert hint in (caught.value.hint or "")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_is_refused_cannot_be_named(name: str) -> None:
    why = next(refusal.why for refusal in rules.REFUSALS if name in refusal.by_name())
    with pytest.raises(PolicyError, match="cannot let system calls through") as caught:
        allowed_calls(("read", name))
    assert f"{name} ({why})" in str(caught.value)


def test_all_that_is_refused_is_named_at_once() -> None:
    with pytest.raises(PolicyError) as caught:
        allowed_calls(("bpf", "ptrace", "userfaultfd", "mount"))
    assert all(word in str(caught.value) for word in ("ptrace (reads", "bpf, userfaultfd (kernel", "mount (changes"))


@BOTH
@pytest.mark.parametrize("name", sorted(NEVER))
def test_no_list_opens_what_law_5_closes(machine: str, name: str) -> None:
    """Also not one that has come past the check of names."""
    if name in architecture(machine).table:
        assert ask(make_spec(machine, KNOWN), name) in {ERRNO | rules.EPERM, ENOSYS}


@BOTH
@pytest.mark.parametrize(
    ("name", "refused", "taken"),
    [
        ("clone", (0x1000_0000,), (17,)),
        ("unshare", (0x1000_0000,), (0x400,)),
        ("ioctl", (0, 0x5412), (0, 0x5401)),
        ("fchmod", (3, 0o4755), (3, 0o755)),
        ("mknodat", (0, 0, 0o020_600), (0, 0, 0o010_600)),
        ("socket", (2, 3, 1), (2, 1, 0)),
        ("socket", (40, 1, 0), (1, 1, 0)),
        ("personality", (0x4_0000,), (0,)),
    ],
)
def test_naming_a_call_does_not_lift_its_rules(
    machine: str, name: str, refused: tuple[int, ...], taken: tuple[int, ...]
) -> None:
    spec = make_spec(machine, allowed_calls((name,)))
    assert ask(spec, name, *refused) not in {ALLOW, ENOSYS}
    assert ask(spec, name, *taken) == ALLOW


def test_where_ipc_or_attributes_are_closed_naming_them_changes_nothing() -> None:
    spec = make_spec("x86_64", allowed_calls(("shmget", "setxattr")))
    closed = dataclasses.replace(spec, ipc_denied=True, xattrs_denied=True)
    assert ask(spec, "shmget") == ask(spec, "setxattr") == ALLOW
    assert ask(closed, "shmget") == ERRNO | rules.EPERM
    assert ask(closed, "setxattr") == ERRNO | rules.EOPNOTSUPP


@BOTH
def test_the_probe_answers_whatever_the_list_is(machine: str) -> None:
    spec = make_spec(machine, allowed_calls(("read",)))
    assert ask(spec, "prctl", PROBE_OPTION, 77) == ERRNO | PROBE_ERRNO
    assert ask(spec, "prctl", PROBE_OPTION, 78) == ENOSYS
    assert ask(spec, "prctl", 22, 2) == ENOSYS


@BOTH
@settings(max_examples=60, deadline=None)
@given(absent=st.frozensets(st.sampled_from(sorted(KNOWN)), max_size=200))
def test_a_list_only_narrows(machine: str, absent: frozenset[str]) -> None:
    """Against the filter without any list: each answer is that one, or an errno for what is not listed."""
    program = build_filter(make_spec(machine, KNOWN - absent))
    said = verdicts(program, machine)
    wide = verdicts(build_filter(make_spec(machine, None)), machine)
    for name, verdict in said.items():
        if name in absent and name != "prctl":
            assert verdict.startswith("errno "), name
        else:
            assert verdict == wide[name], name
    assert len(bpf.decode(program)) < 600


@pytest.mark.parametrize(
    ("name", "errno"),
    [
        ("faccessat2", rules.ENOSYS),  # the C library asks faccessat()
        ("fchmodat2", rules.ENOSYS),  # and fchmodat()
        ("statx", rules.ENOSYS),  # and newfstatat()
        ("rseq", rules.ENOSYS),
        ("memfd_create", rules.ENOSYS),
        ("copy_file_range", rules.ENOSYS),  # shutil reads and writes
        ("chmod", rules.EPERM),
        ("linkat", rules.EPERM),  # git copies
        ("kill", rules.EPERM),
        ("connect", rules.EACCES),
        ("getxattr", rules.EOPNOTSUPP),  # cp goes on
    ],
)
def test_a_missing_call_answers_what_programs_expect(name: str, errno: int) -> None:
    assert errno_unlisted(name) == errno
    assert errno in rules.ERRNO_NAMES


# ---- names as text ----


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", ()),
        (" \n ", ()),
        ("read write", ("read", "write")),
        ("  read\n\twrite\nread ", ("read", "write")),
        ("@builtin vmsplice", ("@builtin", "vmsplice")),
    ],
)
def test_names_are_separated_by_white_space(text: str, names: tuple[str, ...]) -> None:
    assert parse_names(text) == names


@pytest.mark.parametrize("text", ["read opne", "read, write", "read;write", "read ptrace", "read\0write"])
def test_text_with_a_wrong_name_is_an_error(text: str) -> None:
    with pytest.raises(PolicyError):
        parse_names(text)
