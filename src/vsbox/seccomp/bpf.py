"""Assemble and interpret the part of classic BPF that seccomp filters are made of.

Sources: bpf(4) of the BSDs for the machine, linux/filter.h and linux/bpf_common.h for the codes,
seccomp(2) for ``struct seccomp_data`` and the limits, ``bpf_check_classic`` in net/core/filter.c
for what the kernel rejects.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple, NewType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS
AND = 0x54  # BPF_ALU | BPF_AND | BPF_K
JUMP = 0x05  # BPF_JMP | BPF_JA
IF_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
IF_GREATER = 0x25  # BPF_JMP | BPF_JGT | BPF_K
IF_AT_LEAST = 0x35  # BPF_JMP | BPF_JGE | BPF_K
IF_ANY_BIT = 0x45  # BPF_JMP | BPF_JSET | BPF_K
RETURN = 0x06  # BPF_RET | BPF_K

_TESTS: dict[int, Callable[[int, int], bool]] = {
    IF_EQUAL: lambda a, k: a == k,
    IF_GREATER: lambda a, k: a > k,
    IF_AT_LEAST: lambda a, k: a >= k,
    IF_ANY_BIT: lambda a, k: a & k != 0,
}
_CODES = frozenset({LOAD, AND, JUMP, RETURN, *_TESTS})

MAX_INSTRUCTIONS = 4096  # BPF_MAXINSNS
_MAX_SHORT_JUMP = 255  # jt and jf are one byte each

NR_OFFSET = 0
ARCH_OFFSET = 4
_SOCK_FILTER = struct.Struct("<HBBI")
_SECCOMP_DATA = struct.Struct("<IIQ6Q")
_WORD = 0xFFFF_FFFF
_DOUBLE_WORD = 0xFFFF_FFFF_FFFF_FFFF


def arg_offset(index: int, *, high: bool = False) -> int:
    """Locate one half of argument *index* in ``struct seccomp_data`` of a little-endian machine."""
    return 16 + 8 * index + (4 if high else 0)


class Instruction(NamedTuple):
    """One ``struct sock_filter``."""

    code: int
    jt: int
    jf: int
    k: int

    def encode(self) -> bytes:
        """Return the eight bytes of a little-endian machine."""
        return _SOCK_FILTER.pack(*self)


Label = NewType("Label", int)
"""An emitted instruction, counted from the end of the program."""


class Assembler:
    """Build a program from its last instruction to its first.

    BPF only jumps forward, so in this direction every target is known when it is needed. Asking
    twice for the same instruction gives the same label: equal tails of a program are shared.
    """

    def __init__(self) -> None:
        """Start with an empty program."""
        self._backwards: list[Instruction] = []
        self._known: dict[tuple[int, ...], Label] = {}

    def ret(self, action: int) -> Label:
        """Emit the end of the filter, answering *action*."""
        return self._emit_once((RETURN, action), lambda: Instruction(RETURN, 0, 0, action))

    def load(self, offset: int, then: Label) -> Label:
        """Emit a load of the word at *offset* of ``struct seccomp_data``."""
        return self._emit_before(Instruction(LOAD, 0, 0, offset), then)

    def mask(self, bits: int, then: Label) -> Label:
        """Emit ``A &= bits``."""
        return self._emit_before(Instruction(AND, 0, 0, bits), then)

    def branch(self, code: int, k: int, yes: Label, no: Label) -> Label:
        """Emit a comparison of the accumulator with *k*; nothing where both ways are one."""
        if yes == no:
            return yes
        return self._emit_once((code, k, yes, no), lambda: self._place_branch(code, k, yes, no))

    def finish(self, entry: Label) -> bytes:
        """Return the program that begins at *entry*.

        Raises ValueError when the kernel would refuse it for its length.
        """
        self._place_next(entry)
        if len(self._backwards) > MAX_INSTRUCTIONS:
            message = f"filter of {len(self._backwards)} instructions: over {MAX_INSTRUCTIONS}"
            raise ValueError(message)
        return b"".join(instruction.encode() for instruction in reversed(self._backwards))

    def _emit_once(self, key: tuple[int, ...], place: Callable[[], Instruction]) -> Label:
        if key not in self._known:
            self._known[key] = self._append(place())
        return self._known[key]

    def _emit_before(self, instruction: Instruction, then: Label) -> Label:
        def place() -> Instruction:
            self._place_next(then)
            return instruction

        return self._emit_once((*instruction, then), place)

    def _append(self, instruction: Instruction) -> Label:
        self._backwards.append(instruction)
        return Label(len(self._backwards) - 1)

    def _distance(self, target: Label) -> int:
        return len(self._backwards) - target - 1

    def _place_next(self, target: Label) -> None:
        if self._distance(target):
            self._append(Instruction(JUMP, 0, 0, self._distance(target)))

    def _place_branch(self, code: int, k: int, yes: Label, no: Label) -> Instruction:
        yes, no = self._bring_near(yes), self._bring_near(no)
        return Instruction(code, self._distance(yes), self._distance(no), k)

    def _bring_near(self, target: Label) -> Label:
        # One less than the limit: a long jump placed for the other way moves this one by one.
        if self._distance(target) < _MAX_SHORT_JUMP:
            return target
        return self._append(Instruction(JUMP, 0, 0, self._distance(target)))


def decode(program: bytes) -> list[Instruction]:
    """Split *program* into instructions.

    Raises ValueError for one that the kernel would refuse, and for instructions outside the part
    of BPF this module knows (the kernel knows more: index register, scratch memory, arithmetic).
    """
    if not program or len(program) % _SOCK_FILTER.size:
        message = f"malformed filter of {len(program)} bytes: not whole instructions"
        raise ValueError(message)
    instructions = [Instruction(*fields) for fields in _SOCK_FILTER.iter_unpack(program)]
    if (cause := _find_fault(instructions)) is not None:
        message = f"malformed filter: {cause}"
        raise ValueError(message)
    return instructions


def _find_fault(instructions: Sequence[Instruction]) -> str | None:
    if len(instructions) > MAX_INSTRUCTIONS:
        return f"{len(instructions)} instructions, over {MAX_INSTRUCTIONS}"
    for index, instruction in enumerate(instructions):
        left = len(instructions) - index - 1
        if (cause := _find_instruction_fault(instruction, left)) is not None:
            return f"instruction {index}: {cause}"
    if instructions[-1].code != RETURN:
        return "does not end in a return"
    return None


def _find_instruction_fault(instruction: Instruction, left: int) -> str | None:
    code, jt, jf, k = instruction
    if code not in _CODES:
        return f"unknown code {code:#x}"
    if code == LOAD and (k % 4 or k >= _SECCOMP_DATA.size):
        return f"load at offset {k}"
    if code == JUMP and k >= left:
        return "jump past the end"
    if code in _TESTS and max(jt, jf) >= left:
        return "branch past the end"
    return None


def trace(program: bytes, *, arch: int, nr: int, args: Sequence[int] = ()) -> Iterator[Instruction]:
    """Yield the instructions that are executed for one call; the last is the return.

    *nr* and *args* may be negative: they are taken as the kernel's registers hold them.
    """
    data = _pack_seccomp_data(arch, nr, args)
    instructions = decode(program)
    accumulator, index = 0, 0
    while True:
        instruction = instructions[index]
        yield instruction
        code, _, _, k = instruction
        if code == RETURN:
            return
        if code == LOAD:
            accumulator = int.from_bytes(data[k : k + 4], "little")
        elif code == AND:
            accumulator &= k
        index += 1 + _skip(instruction, accumulator)


def _skip(instruction: Instruction, accumulator: int) -> int:
    code, jt, jf, k = instruction
    if code == JUMP:
        return k
    if code in _TESTS:
        return jt if _TESTS[code](accumulator, k) else jf
    return 0


def _pack_seccomp_data(arch: int, nr: int, args: Sequence[int]) -> bytes:
    registers = [arg & _DOUBLE_WORD for arg in args]
    registers += [0] * (6 - len(registers))
    return _SECCOMP_DATA.pack(nr & _WORD, arch & _WORD, 0, *registers)


def simulate(program: bytes, *, arch: int, nr: int, args: Sequence[int] = ()) -> int:
    """Return the 32-bit action that *program* answers to one system call.

    Raises ValueError for a malformed program; see :func:`decode`.
    """
    *_, last = trace(program, arch=arch, nr=nr, args=args)
    return last.k
