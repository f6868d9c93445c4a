"""Presets: what a person means when they say nothing."""

from __future__ import annotations

from typing import Final

import msgspec

from vsbox.policy.model import Policy

PRESETS: Final[dict[str, dict[str, str]]] = {
    "venv": {"network": "host", "packages": "write", "working_directory": "read"},
    "project": {"network": "host", "packages": "install", "working_directory": "read"},
    "strict": {"network": "none", "packages": "read", "working_directory": "none"},
}


def with_preset(policy: Policy) -> Policy:
    """Return the policy with every absent key filled from its preset."""
    absent = {
        key: value
        for key, value in PRESETS[policy.preset].items()
        if getattr(policy, key) is None
    }
    return msgspec.structs.replace(policy, **absent)
