"""What environment variables ask of one start, beside ``sandbox.json``."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Final

import msgspec

from vsbox.errors import PolicyError
from vsbox.policy.model import Policy

OVERRIDES: Final = ("BWRAP_ARGS", "SANDBOX_SECCOMP_ALLOW", "SANDBOX_USE_PIP_CACHE", "VSBOX_REPORT")
"""In the order in which ``native/main.c`` takes their hash."""


def asked_text(environment: Mapping[str, str]) -> str:
    """Return what is asked as one text; none: nothing."""
    return "".join(f"{name}={environment[name]}\0" for name in OVERRIDES if name in environment)


def split_words(text: str, *, name: str) -> tuple[str, ...]:
    """Split words as a shell does, over several lines too.

    Raises:
        PolicyError: a quotation does not end.
    """
    try:
        return tuple(shlex.split(text.replace("\\\n", ""), comments=True))
    except ValueError as error:
        raise PolicyError(f"cannot read {name}: {error}") from error


def with_overrides(policy: Policy, environment: Mapping[str, str]) -> Policy:
    """Return the policy with what the environment asks for.

    ``BWRAP_ARGS`` comes after the arguments that the policy holds, ``SANDBOX_SECCOMP_ALLOW`` instead of
    its ``syscalls``, ``SANDBOX_USE_PIP_CACHE`` (anything but empty and ``0``) switches ``pip_cache`` on,
    ``VSBOX_REPORT`` (``1``) ``report``, and with ``preview`` the mode of that name.

    Raises:
        PolicyError: one of them says what it cannot say.
    """
    changed: dict[str, object] = {}
    if "BWRAP_ARGS" in environment:
        words = split_words(environment["BWRAP_ARGS"], name="BWRAP_ARGS")
        changed["bwrap_arguments"] = (*policy.bwrap_arguments, *words)
    if "SANDBOX_SECCOMP_ALLOW" in environment:
        changed["syscalls"] = tuple(environment["SANDBOX_SECCOMP_ALLOW"].split())
    if "SANDBOX_USE_PIP_CACHE" in environment:
        changed["pip_cache"] = environment["SANDBOX_USE_PIP_CACHE"] not in {"", "0"}
    if "VSBOX_REPORT" in environment:
        changed |= _asked_report(environment["VSBOX_REPORT"])
    return msgspec.structs.replace(policy, **changed)


def _asked_report(value: str) -> dict[str, object]:
    if value not in {"", "0", "1", "preview"}:
        hint = "1: report what this run touches; preview: block nothing, and keep nothing of what it writes"
        raise PolicyError(f"bad VSBOX_REPORT {value!r}", hint=hint)
    return {"report": value in {"1", "preview"}} | ({"mode": "preview"} if value == "preview" else {})
