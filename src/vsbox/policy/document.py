"""``sandbox.json`` as text: strict reading with advice, writing, and its JSON Schema."""

from __future__ import annotations

import difflib
import re
from typing import Any

import msgspec

from vsbox.errors import PolicyError
from vsbox.policy.model import Policy

SCHEMA_NAME = "sandbox.schema.json"


def keys() -> list[str]:
    """Return the keys that ``sandbox.json`` may hold."""
    return [field.encode_name for field in msgspec.structs.fields(Policy)]


def _hint(message: str) -> str:
    unknown = re.search(r"unknown field `(.+?)`", message)
    if not unknown:
        return "the schema beside it lists what each key may be"
    close = difflib.get_close_matches(unknown[1], keys(), n=1)
    return f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(keys())}"


def parse(data: bytes, *, name: str = "sandbox.json") -> Policy:
    """Read a policy.

    Raises:
        PolicyError: not JSON, an unknown key, a wrong type or value. Never a policy that allows.
    """
    try:
        return msgspec.json.decode(data, type=Policy)
    except (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PolicyError(f"cannot read {name}: {error}", hint=_hint(str(error))) from error


def render(policy: Policy) -> bytes:
    """Return ``sandbox.json``: the four keys that everyone knows first and always, then the rest.

    Raises:
        PolicyError: a path is not UTF-8, which JSON cannot hold.
    """
    document = {
        "$schema": SCHEMA_NAME,
        "venv_root": policy.venv_root,
        "mode": policy.mode,
        "allowed_paths": policy.allowed_paths,
        "read_only_paths": policy.read_only_paths,
        "preset": policy.preset,
    }
    document |= msgspec.to_builtins(policy) | {"$schema": SCHEMA_NAME}
    try:
        return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"
    except UnicodeEncodeError as error:
        raise PolicyError(
            "cannot write sandbox.json: a path in it is not UTF-8",
            hint="rename it, or grant the directory above it",
        ) from error


def schema() -> dict[str, Any]:
    """Return the JSON Schema of ``sandbox.json`` for editors."""
    return msgspec.json.schema(Policy)
