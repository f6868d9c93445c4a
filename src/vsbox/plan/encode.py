"""The plan as bytes, for ``native/plan.c``.

::

    "VSBXPLAN" u32 version  u32 records  u64 body size  u64 Adler-32 of the body
    record:    u32 code     u32 fields   then per field  u32 size, bytes

All integers are little endian. Strings end in NUL, integers take eight bytes.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from typing import Final

import msgspec

from vsbox.plan.steps import Step, Steps

MAGIC: Final = b"VSBXPLAN"
VERSION: Final = 1


def fnv1a64(data: bytes) -> int:
    """Return the 64-bit FNV-1a hash (Fowler, Noll, Vo), for short texts: Python takes 80 ns a byte."""
    value = 0xCBF29CE484222325
    for byte in data:
        value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return value


def _encode_field(value: object) -> bytes:
    match value:
        case int():
            return struct.pack("<Q", value)
        case str() if "\0" in value:
            raise ValueError(f"cannot encode {value!r} into a plan: it holds a NUL byte")
        case str():
            return os.fsencode(value) + b"\0"
        case bytes():
            return value
        case _:
            raise TypeError(f"cannot encode a plan field of type {type(value).__name__}")


def _fields(step: Step) -> Iterator[object]:
    for value in msgspec.structs.astuple(step):
        if isinstance(value, tuple):
            yield from value
        else:
            yield value


def _encode_step(step: Step) -> bytes:
    fields = [_encode_field(value) for value in _fields(step)]
    head = struct.pack("<II", step.CODE, len(fields))
    return head + b"".join(struct.pack("<I", len(field)) + field for field in fields)


HEAD: Final = struct.Struct(f"<{len(MAGIC)}sIIQQ")


def encode(steps: Steps) -> bytes:
    """Return the encoded plan. Its checksum (Adler-32, RFC 1950) finds accidents, not intent."""
    body = b"".join(map(_encode_step, steps))
    return HEAD.pack(MAGIC, VERSION, len(steps), len(body), zlib.adler32(body)) + body


def renamed(encoded: bytes, old: str, new: str) -> bytes:
    """Return an encoded plan for another directory, whose path is as long."""
    before, after = os.fsencode(old), os.fsencode(new)
    if len(before) != len(after):
        raise ValueError(f"cannot rename {old} to {new} in a plan: its fields would be longer or shorter")
    magic, version, count, size, _ = HEAD.unpack_from(encoded)
    body = encoded[HEAD.size :].replace(before, after)
    return HEAD.pack(magic, version, count, size, zlib.adler32(body)) + body
