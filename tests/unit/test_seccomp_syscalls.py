"""The numbers of system calls."""

import ast
from pathlib import Path

import pytest

import vsbox.seccomp
from vsbox.seccomp import rules
from vsbox.seccomp.syscalls import AARCH64, X86_64, Architecture, architecture

BOTH = pytest.mark.parametrize("arch", [X86_64, AARCH64], ids=lambda arch: arch.name)


@pytest.mark.parametrize(
    ("machine", "expected"), [("x86_64", X86_64), ("aarch64", AARCH64), ("arm64", AARCH64)]
)
def test_architecture_is_found_by_machine(machine: str, expected: Architecture) -> None:
    assert architecture(machine) is expected


@pytest.mark.parametrize("machine", ["", "i686", "riscv64", "X86_64"])
def test_unknown_machine_is_named(machine: str) -> None:
    with pytest.raises(ValueError, match=f"machine '{machine}': known are x86_64"):
        architecture(machine)


@BOTH
def test_numbers_are_unique(arch: Architecture) -> None:
    assert len(set(arch.table.values())) == len(arch.table)


def test_calls_since_linux_5_1_have_one_number_everywhere() -> None:
    recent = {name: number for name, number in X86_64.table.items() if number >= 424}
    assert recent == {name: number for name, number in AARCH64.table.items() if number >= 424}
    assert sorted(recent.values()) == list(range(424, 470))


def test_ends_of_the_written_lines() -> None:
    """A name lost in a line would shift the ones after it."""
    assert X86_64.table["write"] == 1
    assert X86_64.table["rseq"] == 334
    assert X86_64.table["uprobe"] == 336
    assert AARCH64.table["recvmmsg"] == 243
    assert AARCH64.table["kexec_file_load"] == 294
    assert X86_64.table["cachestat"] == 451
    assert X86_64.table["statmount"] == 457
    assert X86_64.table["mseal"] == 462
    assert X86_64.table["file_setattr"] == 469


def test_every_name_in_a_rule_is_a_call_somewhere() -> None:
    """A misspelt name would restrict nothing."""
    refused = " ".join(table.names for table in (*rules.REFUSALS, rules.IPC_REFUSAL)).split()
    assert len(set(refused)) == len(refused)
    known = X86_64.table.keys() | AARCH64.table.keys()
    assert known.issuperset(refused)
    assert known.issuperset(rules.FIXED_RULES)
    assert not set(refused) & set(rules.FIXED_RULES)


def test_package_is_pure() -> None:
    allowed = {"__future__", "collections.abc", "dataclasses", "difflib", "struct", "types", "typing", "vsbox.errors"}
    for path in Path(vsbox.seccomp.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                module = node.module or ""
                assert module in allowed or module.startswith("vsbox.seccomp"), path
            elif isinstance(node, ast.Import):
                assert {alias.name for alias in node.names} <= allowed, path
