"""What a call of a session came to: as it is told to the caller, and as the inside says it."""

from __future__ import annotations

import json
from typing import Annotated, Any, Final, Literal

import msgspec

from vsbox.launch.result import LimitHit, Outcome, Violation

MOST_TEXT: Final = 1 << 16
MOST_DATA: Final = 8 << 20
MOST_ARTIFACTS: Final = 32
"""What ``worker.py`` keeps to; code inside is asked to no more than it is trusted."""
MOST_ANSWER_BYTES: Final = 64 << 20
"""Of a whole answer, as JSON: artifacts of 32 MiB together in Base64, a value of 8 MiB with what JSON escapes in it."""


class Artifact(msgspec.Struct, frozen=True):
    """Something to look at that a call left: a figure, a table. ``media``: its media type, like ``image/png``."""

    name: Annotated[str, msgspec.Meta(max_length=200)]
    media: Literal["text/html", "image/png", "image/svg+xml"]
    data: Annotated[bytes, msgspec.Meta(max_length=MOST_DATA)]


class Value(msgspec.Struct, frozen=True):
    """The value of a call's last line: its type's name, its text, and itself where JSON can hold it (``json``)."""

    type: str
    text: str
    json: str | None = None

    @property
    def data(self) -> Any:
        """The value itself: numbers, text, lists and mappings of these.

        Raises:
            ValueError: JSON cannot hold it; ``text`` is what there is.
        """
        if self.json is None:
            raise ValueError(f"a {self.type} is no plain data: see its text")
        try:
            return json.loads(self.json)
        except RecursionError:
            raise ValueError(f"a {self.type} is nested too deeply: see its text") from None


class Reply(msgspec.Struct, frozen=True):
    """What one call came to.

    ``outcome`` is ``exited`` where the code came to its end or to an exception (``error``: its type, and the traceback
    as text in ``traceback``); ``timeout`` or ``cancelled`` where it was interrupted. ``alive``: the session goes on.
    """

    outcome: Outcome
    stdout: str
    stderr: str
    value: Value | None = None
    error: str | None = None
    traceback: str = ""
    artifacts: tuple[Artifact, ...] = ()
    limit: LimitHit | None = None
    alive: bool = True
    wall_seconds: float = 0.0
    violations: tuple[Violation, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the code came to its end."""
        return self.outcome is Outcome.EXITED and self.error is None


class _Value(msgspec.Struct):
    type: Annotated[str, msgspec.Meta(max_length=MOST_TEXT)]
    text: Annotated[str, msgspec.Meta(max_length=MOST_TEXT)]
    json: Annotated[str, msgspec.Meta(max_length=MOST_DATA)] | None = None


class Answer(msgspec.Struct):
    """What the inside says. It is hostile: anything else ends the session."""

    id: int
    kind: Literal["ready", "value", "error", "exit", "interrupted"]
    value: _Value | None = None
    artifacts: Annotated[list[Artifact], msgspec.Meta(max_length=MOST_ARTIFACTS)] = []
    type: Annotated[str, msgspec.Meta(max_length=MOST_TEXT)] = ""
    text: Annotated[str, msgspec.Meta(max_length=MOST_TEXT)] = ""
    status: int = 0


def reply_to(answer: Answer, hit: LimitHit | None) -> Reply:
    """Return the outcome of code that has come to its end, or was interrupted for ``hit``."""
    if answer.kind == "interrupted":
        outcome = Outcome.TIMEOUT if hit else Outcome.CANCELLED
        return Reply(outcome, "", "", error="KeyboardInterrupt", limit=hit)
    if answer.kind == "error":
        return Reply(Outcome.EXITED, "", "", error=answer.type, traceback=answer.text, limit=hit)
    value = None if answer.value is None else Value(answer.value.type, answer.value.text, answer.value.json)
    return Reply(Outcome.EXITED, "", "", value=value, artifacts=tuple(answer.artifacts))
