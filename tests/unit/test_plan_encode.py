"""The bytes of a plan."""

from __future__ import annotations

import struct
import zlib
from typing import ClassVar

import pytest

from unit.machines import box, machine, policy
from vsbox.host.facts import Watched
from vsbox.plan import steps
from vsbox.plan.compile import compile_plan
from vsbox.plan.encode import MAGIC, VERSION, encode, fnv1a64
from vsbox.plan.model import Tier

STEPS = [step for step in steps.Step.__subclasses__() if step.__module__ == steps.__name__]


class Odd(steps.Step, frozen=True):
    """A step that holds what plans cannot."""

    CODE: ClassVar[int] = 1
    value: object


@pytest.mark.parametrize("value", [None, 1.5, ["a"], {"a": 1}, {1}, ("a", None)], ids=repr)
def test_other_types_are_refused(value: object) -> None:
    with pytest.raises(TypeError, match="cannot encode"):
        encode((Odd(value),))


@pytest.mark.parametrize("value", [-1, 1 << 64])
def test_a_number_beyond_64_bits_is_refused(value: int) -> None:
    with pytest.raises((struct.error, OverflowError, ValueError)):
        encode((Odd(value),))


def test_a_nul_in_a_string_is_refused() -> None:
    """It would end the string for the launcher, and the decoder refuses the whole plan."""
    with pytest.raises(ValueError, match="NUL"):
        encode((steps.Set("A", "x\0y"),))


def test_a_file_from_before_1970_can_be_watched() -> None:
    """The launcher compares two's complement: src/native main.c, mtime_ns."""
    file = Watched("/etc/pip.conf", 1, 2, 3, -5)
    plan = compile_plan(policy(), machine(watched=(file,)), box(), Tier.NAMESPACES)
    assert struct.pack("<Iq", 8, -5) in encode(plan.steps)


@pytest.mark.parametrize(
    ("data", "expected"),
    [(b"", 0xCBF29CE484222325), (b"a", 0xAF63DC4C8601EC8C), (b"foobar", 0x85944171F73967E8)],
)
def test_the_short_hash_is_fnv1a(data: bytes, expected: int) -> None:
    """Source: the test vectors of draft-eastlake-fnv."""
    assert fnv1a64(data) == expected


def test_the_layout_byte_for_byte() -> None:
    body = struct.pack("<II", 12, 2) + b"\2\0\0\0a\0" + b"\3\0\0\0\xc3\xa9\0"
    head = MAGIC + struct.pack("<IIQQ", VERSION, 1, len(body), zlib.adler32(body))
    assert encode((steps.Symlink("a", "é"),)) == head + body


def test_no_step_is_a_plan_too() -> None:
    assert encode(()) == MAGIC + struct.pack("<IIQQ", VERSION, 0, 0, zlib.adler32(b""))


def test_bytes_that_are_not_utf8_survive() -> None:
    assert b"/\xff\xfe\0" in encode((steps.Directory("/\udcff\udcfe"),))


def example(step: type[steps.Step]) -> steps.Step:
    values: dict[str, object] = {"str": "/x", "int": 7, "bytes": b"b", "tuple[str, ...]": ("a", "b")}
    types = [str(type_) for name, type_ in step.__annotations__.items() if name != "CODE"]
    return step(*(values[name] for name in types))


@pytest.mark.parametrize("step", STEPS)
def test_every_step_describes_itself_on_one_line(step: type[steps.Step]) -> None:
    text = example(step).describe()
    assert text == text.strip()
    assert "\n" not in text
    assert text.startswith(step.__name__.lower().replace("_", ""))


def test_a_path_with_a_newline_stays_on_its_line() -> None:
    """``explain --plan`` is read by people: a path must not be able to draw a line of its own."""
    assert "\n" not in steps.Bind("/a\nbind rw /", "/a\nbind rw /", 0).describe()


@pytest.mark.parametrize(("flags", "mode"), [(0, "ro"), (1, "rw"), (2, "ro"), (3, "rw"), (8, "ro")])
def test_a_bind_says_whether_it_is_writable(flags: int, mode: str) -> None:
    assert steps.Bind("/a", "/a", flags).describe() == f"bind {mode} /a"
    assert steps.Bind("/a", "/b", flags).describe() == f"bind {mode} /b from /a"
