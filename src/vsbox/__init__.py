"""A Python virtual environment that is also a sandbox.

Command line: ``vsbox --help``. From Python: :func:`run` and :func:`arun` run code that nobody trusts once,
:class:`Sandbox` keeps state between calls. Importing this package loads nothing else: what is used is imported then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from vsbox.errors import (
        CannotEnforceError,
        ConflictError,
        LauncherError,
        PolicyError,
        RunError,
        SessionError,
        UsageError,
        VsboxError,
    )
    from vsbox.launch.api import arun, run
    from vsbox.launch.changes import Change, ChangeSet
    from vsbox.launch.files import Changes
    from vsbox.launch.limits import Limits
    from vsbox.launch.reply import Artifact, Reply, Value
    from vsbox.launch.result import LimitHit, Outcome, Result, Usage, Violation
    from vsbox.launch.session import Sandbox
    from vsbox.launch.session_async import AsyncSandbox

_NAMES = {
    "errors": "CannotEnforceError ConflictError LauncherError PolicyError RunError SessionError UsageError VsboxError",
    "launch.api": "arun run",
    "launch.changes": "Change ChangeSet",
    "launch.files": "Changes",
    "launch.limits": "Limits",
    "launch.result": "LimitHit Outcome Result Usage Violation",
    "launch.reply": "Artifact Reply Value",
    "launch.session": "Sandbox",
    "launch.session_async": "AsyncSandbox",
}
_PLACES = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = [
    "Artifact", "AsyncSandbox", "CannotEnforceError", "Change", "ChangeSet", "Changes", "ConflictError",
    "LauncherError", "LimitHit", "Limits", "Outcome", "PolicyError", "Reply", "Result", "RunError", "Sandbox",
    "SessionError", "Usage", "UsageError", "Value", "Violation", "VsboxError", "arun", "run",
]  # fmt: skip


def __getattr__(name: str) -> object:
    """Import what is asked for."""
    if name not in _PLACES:
        raise AttributeError(f"module 'vsbox' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"vsbox.{_PLACES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return every public name, imported or not."""
    return sorted({*globals(), *__all__})
