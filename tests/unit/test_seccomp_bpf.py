"""The assembler and the interpreter."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vsbox.seccomp import bpf
from vsbox.seccomp.bpf import Assembler, Instruction, Label, decode, simulate, trace

ALLOW = 0x7FFF_0000
RETURN = Instruction(bpf.RETURN, 0, 0, ALLOW)


def encode(*instructions: Instruction) -> bytes:
    return b"".join(instruction.encode() for instruction in instructions)


def run(program: bytes, nr: int = 0, *args: int) -> int:
    return simulate(program, arch=0xC000_003E, nr=nr, args=args)


def test_instruction_is_a_little_endian_sock_filter() -> None:
    encoded = Instruction(bpf.IF_EQUAL, 1, 2, 0xC000_003E).encode()
    assert encoded == bytes.fromhex("1500 01 02 3e0000c0")


@pytest.mark.parametrize(
    ("code", "k", "matching", "other"),
    [
        (bpf.IF_EQUAL, 5, 5, 4),
        (bpf.IF_GREATER, 5, 6, 5),
        (bpf.IF_AT_LEAST, 5, 5, 4),
        (bpf.IF_ANY_BIT, 6, 4, 1),
        (bpf.IF_GREATER, 0x7FFF_FFFF, -1, 0x7FFF_FFFF),
    ],
)
def test_branch(code: int, k: int, matching: int, other: int) -> None:
    program = encode(
        Instruction(bpf.LOAD, 0, 0, bpf.NR_OFFSET),
        Instruction(code, 0, 1, k),
        Instruction(bpf.RETURN, 0, 0, 1),
        Instruction(bpf.RETURN, 0, 0, 0),
    )
    assert run(program, matching) == 1
    assert run(program, other) == 0


@pytest.mark.parametrize("index", range(6))
@pytest.mark.parametrize("high", [False, True])
def test_each_half_of_an_argument_is_where_the_kernel_puts_it(index: int, *, high: bool) -> None:
    program = encode(
        Instruction(bpf.LOAD, 0, 0, bpf.arg_offset(index, high=high)),
        Instruction(bpf.IF_EQUAL, 0, 1, 0xBEEF),
        Instruction(bpf.RETURN, 0, 0, 1),
        Instruction(bpf.RETURN, 0, 0, 0),
    )
    args = [0] * 6
    args[index] = 0xBEEF << 32 if high else 0xBEEF
    assert run(program, 0, *args) == 1
    args[index] = 0xBEEF if high else 0xBEEF << 32
    assert run(program, 0, *args) == 0


def test_trace_shows_the_path() -> None:
    program = encode(
        Instruction(bpf.LOAD, 0, 0, bpf.arg_offset(0)),
        Instruction(bpf.AND, 0, 0, 0xF0),
        Instruction(bpf.JUMP, 0, 0, 1),
        Instruction(bpf.RETURN, 0, 0, 7),
        Instruction(bpf.IF_EQUAL, 0, 1, 0x30),
        RETURN,
        Instruction(bpf.RETURN, 0, 0, 0),
    )
    codes = [step.code for step in trace(program, arch=0, nr=0, args=[0x35])]
    assert codes == [bpf.LOAD, bpf.AND, bpf.JUMP, bpf.IF_EQUAL, bpf.RETURN]


@pytest.mark.parametrize(
    ("program", "cause"),
    [
        (b"", "not whole instructions"),
        (RETURN.encode()[:-1], "not whole instructions"),
        (encode(Instruction(bpf.LOAD, 0, 0, 0)), "does not end in a return"),
        (encode(RETURN, Instruction(bpf.AND, 0, 0, 0)), "does not end in a return"),
        (encode(Instruction(bpf.JUMP, 0, 0, 1), RETURN), "instruction 0: jump past the end"),
        (encode(Instruction(bpf.JUMP, 0, 0, 0xFFFF_FFFF), RETURN), "jump past the end"),
        (encode(Instruction(bpf.IF_EQUAL, 1, 0, 0), RETURN), "branch past the end"),
        (encode(Instruction(bpf.IF_EQUAL, 0, 1, 0), RETURN), "branch past the end"),
        (encode(RETURN, Instruction(bpf.IF_EQUAL, 0, 0, 0)), "instruction 1: branch past the end"),
        (encode(Instruction(bpf.LOAD, 0, 0, 2), RETURN), "load at offset 2"),
        (encode(Instruction(bpf.LOAD, 0, 0, 64), RETURN), "load at offset 64"),
        (encode(Instruction(0xFF, 0, 0, 0), RETURN), "unknown code 0xff"),
        (encode(*[RETURN] * 4097), "4097 instructions"),
    ],
)
def test_malformed_programs_are_rejected(program: bytes, cause: str) -> None:
    with pytest.raises(ValueError, match=f"malformed filter.*{cause}"):
        run(program)


@given(st.binary(max_size=80).map(lambda data: data[: len(data) // 8 * 8]))
def test_any_bytes_are_rejected_or_end_in_a_return(program: bytes) -> None:
    try:
        decode(program)
    except ValueError:
        return
    steps = list(trace(program, arch=0, nr=0))
    assert steps[-1].code == bpf.RETURN
    assert len(steps) <= len(program) // 8


def test_equal_tails_are_shared() -> None:
    assembler = Assembler()
    assert assembler.ret(1) == assembler.ret(1)
    assert assembler.load(0, assembler.ret(1)) == assembler.load(0, assembler.ret(1))


def test_branch_with_one_way_costs_nothing() -> None:
    assembler = Assembler()
    target = assembler.ret(1)
    assert assembler.branch(bpf.IF_EQUAL, 3, target, target) == target


def test_entry_need_not_be_the_last_one_assembled() -> None:
    assembler = Assembler()
    entry = assembler.ret(1)
    assembler.ret(2)
    assert run(assembler.finish(entry)) == 1


def test_program_over_the_limit_of_the_kernel_is_refused() -> None:
    assembler = Assembler()
    label = assembler.ret(0)
    for bits in range(4096):
        label = assembler.mask(bits, label)
    with pytest.raises(ValueError, match="4097 instructions: over 4096"):
        assembler.finish(label)


@pytest.mark.parametrize("between", range(250, 260))
@pytest.mark.parametrize("before", [0, 1, 300])
def test_targets_around_the_reach_of_a_branch(before: int, between: int) -> None:
    """jt and jf are one byte: further targets need a long jump, which must not shift the other."""
    assembler = Assembler()

    def pad(count: int, start: int) -> None:
        for value in range(start, start + count):
            assembler.ret(value)

    far = assembler.ret(1)
    pad(before, 1000)
    near = assembler.ret(2)
    pad(between, 5000)
    first = assembler.branch(bpf.IF_EQUAL, 9, far, near)
    program = assembler.finish(assembler.load(bpf.NR_OFFSET, first))
    assert run(program, 9) == 1
    assert run(program, 8) == 2


@pytest.mark.parametrize("between", range(250, 260))
def test_targets_around_the_reach_the_other_way_round(between: int) -> None:
    """The long jump for ``no`` comes after ``yes`` was found to be near enough."""
    assembler = Assembler()
    far = assembler.ret(1)
    near = assembler.ret(2)
    for value in range(between):
        assembler.ret(1000 + value)
    first = assembler.branch(bpf.IF_EQUAL, 9, near, far)
    program = assembler.finish(assembler.load(bpf.NR_OFFSET, first))
    assert run(program, 9) == 2
    assert run(program, 8) == 1


def build_ladder(assembler: Assembler, rungs: int) -> Label:
    label = assembler.ret(ALLOW)
    for number in range(rungs):
        label = assembler.branch(bpf.IF_EQUAL, number, assembler.ret(number), label)
    return assembler.load(bpf.NR_OFFSET, label)


@given(st.integers(1, 600), st.data())
def test_long_ladder_answers_every_rung(rungs: int, data: st.DataObject) -> None:
    assembler = Assembler()
    program = assembler.finish(build_ladder(assembler, rungs))
    number = data.draw(st.integers(0, rungs - 1))
    assert run(program, number) == number
    assert run(program, rungs) == ALLOW
