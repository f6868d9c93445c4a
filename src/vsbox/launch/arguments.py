"""Arguments of a call, as the machinery takes them: what cannot be one is a UsageError that says why."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, Final

from vsbox.errors import UsageError

MOST_SECONDS: Final = 10**9
"""More is no limit in anybody's life, and clocks of the system do not take all of it."""

MOST_SHOWN: Final = 99
"""Characters of a bad argument that an error shows."""


def text_of(name: str, value: object, *, secret: bool = False) -> str:
    """Return a text that can be handed to a process: the kernel takes no NUL, and bytes alone."""
    if not isinstance(value, str):
        raise UsageError(f"bad {name}: {type(value).__name__}, which is no text")
    if "\0" in value:
        raise UsageError(f"bad {name}{_shown(value, secret=secret)}: it holds a NUL byte")
    encoded(name, value, secret=secret)
    return str.__str__(value)  # of a kind of its own, it may say something else of itself


def encoded(name: str, value: str, *, secret: bool = False) -> bytes:
    """Return a text as bytes: UTF-8, and what stands for other bytes in names (PEP 383) as these."""
    try:
        return value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        shown = _shown(value, secret=secret)
        raise UsageError(f"bad {name}{shown}: it holds half a character (a surrogate)") from error


def _shown(value: str, *, secret: bool) -> str:
    return "" if secret else f" {value[:MOST_SHOWN]!r}"


def path_of(name: str, value: object) -> str:
    """Return a path, or a word of a command: text, bytes or a path object."""
    try:
        text = os.fsdecode(value)  # type: ignore[arg-type]
    except TypeError as error:
        raise UsageError(f"bad {name}: {type(value).__name__}, which is no path and no text") from error
    return text_of(name, text)


def items_of(name: str, value: object) -> tuple[Any, ...]:
    """Return what is listed; one text is no list of them."""
    if isinstance(value, (str, bytes, bytearray)) or not isinstance(value, Iterable):
        raise UsageError(f"bad {name}: {type(value).__name__}, which is no list", hint=f"{name}=[...]")
    return tuple(value)


def mapping_of(name: str, value: object) -> dict[Any, Any]:
    """Return what is mapped; None is nothing."""
    if not isinstance(value or {}, Mapping):
        raise UsageError(f"bad {name}: {type(value).__name__}, which is no dict")
    return dict(value or {})  # type: ignore[call-overload,no-any-return]


def paths_of(name: str, value: object) -> tuple[str, ...]:
    """Return a list of paths, or of the words of a command."""
    return tuple(path_of(name, item) for item in items_of(name, value))


def variables_of(value: object) -> dict[str, str]:
    """Return environment variables; what they hold is in no message."""
    given = mapping_of("env", value)
    for name, content in given.items():
        if not text_of("name in env", name) or "=" in name:
            raise UsageError(f"bad variable {name!r} in env")
        text_of(f"{name} in env", content, secret=True)
    return given


def bytes_of(name: str, value: object) -> bytes:
    """Return content: bytes, or text as UTF-8."""
    if isinstance(value, str):
        return encoded(name, value, secret=True)
    try:
        return memoryview(value).tobytes()  # type: ignore[arg-type]
    except TypeError as error:
        raise UsageError(f"bad {name}: {type(value).__name__}, which is neither bytes nor text") from error


def check_timeout(value: object) -> None:
    """Refuse what is no number of seconds."""
    try:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        is_good = value is None or (is_number and 0 < value <= MOST_SECONDS)  # type: ignore[operator] # a number
    except TypeError:
        is_good = False
    if not is_good:
        raise UsageError(f"bad timeout {value!r}: it is no number of seconds above 0, {MOST_SECONDS} at most")
