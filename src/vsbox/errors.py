"""Every exception of vsbox and the exit code it becomes.

::

    VsboxError                125  vsbox itself could not do it; the payload did not run
    ├── UsageError              2  the command line asks for something that makes no sense
    ├── PolicyError             2  sandbox.json or a grant is wrong
    ├── CannotEnforceError    125  the policy asks for what this machine cannot enforce
    ├── BoxError              125  the directory is not a usable box
    ├── InterpreterError      125  no such Python
    ├── LauncherError         125  the native launcher is missing or failed
    ├── SessionError          125  a session has ended, or is not open
    ├── ConflictError         125  changes do not fit what is there, or would be executed there
    └── RunError                1  a run did not end well, where that was asked to be checked
"""

from __future__ import annotations

from typing import Any, ClassVar


class VsboxError(Exception):
    """Root of all errors.

    The message reads ``<what failed> <object>: <cause>``; ``hint`` is the next step.
    """

    exit_code: ClassVar[int] = 125

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(VsboxError):
    """The command line asks for something that makes no sense."""

    exit_code = 2


class PolicyError(VsboxError):
    """sandbox.json or a grant is wrong."""

    exit_code = 2


class CannotEnforceError(VsboxError):
    """The policy asks for what this machine cannot enforce."""


class BoxError(VsboxError):
    """The directory is not a usable box."""


class InterpreterError(VsboxError):
    """No interpreter fits what was asked for."""


class LauncherError(VsboxError):
    """The native launcher is missing or failed."""


class SessionError(VsboxError):
    """A session has ended, or is not open."""


class ConflictError(VsboxError):
    """Changes do not fit what is there any more, or the user's own tools would execute them."""


class RunError(VsboxError):
    """A run did not exit with status 0; ``result`` (:class:`vsbox.Result`) says all about it."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None, result: Any) -> None:
        super().__init__(message, hint=hint)
        self.result = result
