"""The outside half of a watched run: hears of every call, says what would be denied, and keeps the report.

The launcher starts it beside a run (``python -m vsbox.box observe``), and ends it by closing the socket that it hears
from. What the guard notes of a Python process and what the kernel saw it do arrive one after the other: a moment is
waited for the note, which knows the line of code.
"""

from __future__ import annotations

import contextlib
import os
import platform
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain, repeat
from typing import Final

import msgspec

from vsbox.box.layout import Layout
from vsbox.box.runs import Head, Writer
from vsbox.box.store import load_policy, plan_and_facts
from vsbox.guard.attribution import Attribution, Distributions
from vsbox.guard.events import HIDES, Owner, Spawn, Touch, decode
from vsbox.guard.judge import Judge, Verdict, kind_of, parents
from vsbox.guard.records import Record, advice, by_owner
from vsbox.plan.guard import guard_config
from vsbox.plan.model import Tier
from vsbox.plan.steps import printable
from vsbox.policy.model import Policy
from vsbox.policy.overrides import with_overrides

PACKET_BYTES: Final = 1 << 15
SECONDS_TO_WAIT: Final = 0.3
QUIET: Final = "VSBOX_QUIET"
"""Set to 1 by commands that show the report themselves."""
MOST_TEXT: Final = 8000
WIDE: Final = 4000
"""Columns where nobody reads: a path stays in one piece."""
YOUR_CODE: Final = "your code"
KIND_OF_OPERATION: Final = dict.fromkeys(("look", "list", "enter", "load", "open"), "read")
"""What the guard notes as one of these, the kernel may see as another."""
MOST_HIDING: Final = 5
MOST_REMEMBERED: Final = 100_000


def _text(text: str, most: int = MOST_TEXT) -> str:
    return text.encode("utf-8", "backslashreplace").decode()[:most]


def _name(text: str, most: int = 200) -> str:
    """Return what code inside calls something, which reaches terminals: on one line and with nothing that they obey."""
    return printable(text)[:most]


@dataclass
class Seen:
    """A touch that is about to be told of, until its note has had time to come."""

    touch: Touch
    owner: Owner
    verdict: Verdict
    since: float


class Watch:
    """What is known of one run."""

    def __init__(
        self, judge: Judge, attribution: Attribution, writer: Writer, box: str, *, blocks: bool, says: bool
    ) -> None:
        self._judge = judge
        self._attribution = attribution
        self._writer = writer
        self._box = box
        self._blocks = blocks
        self._says = says
        self._waiting: dict[tuple[int, str, str], dict[str, Seen]] = {}
        self._told: set[int] = set()
        self._noted: set[int] = set()
        self._ways: set[str] = set()
        self.denied: list[Record] = []
        self.is_complete = True
        self.hiding: set[str] = set()

    def take(self, event: Touch | Spawn) -> None:
        """Hear one thing."""
        if isinstance(event, Spawn):
            self._attribution.hear(event)
            return
        owner = self._attribution.owner_of(event)
        verdict = self._judge.judge(event.operation, event.target, event.pid)
        if not verdict.kept:
            return
        key = (event.pid, KIND_OF_OPERATION.get(event.operation, event.operation), event.target)
        if event.owner is not None:
            self._tell(event, owner, verdict)
            if verdict.denied or not any(seen.verdict.denied for seen in self._waiting.get(key, {}).values()):
                self._noted.add(hash(key))  # the same was said of it, and more; anything less hides nothing
                self._waiting.pop(key, None)
        elif hash(key) not in self._noted or owner.distribution:
            seen = Seen(event, owner, verdict, time.monotonic())
            self._waiting.setdefault(key, {}).setdefault(event.operation, seen)

    def settle(self, *, everything: bool = False) -> None:
        """Tell of what has waited for its note long enough. Code inside decides how much there is to remember."""
        now = time.monotonic()
        if len(self._noted) > MOST_REMEMBERED:
            self._noted.clear()
        for key, waiting in list(self._waiting.items()):
            if not everything and now - next(iter(waiting.values())).since <= SECONDS_TO_WAIT:
                continue
            del self._waiting[key]
            for seen in sorted(waiting.values(), key=lambda seen: seen.touch.operation == "look"):
                is_own = seen.owner.distribution or hash(key) not in self._noted
                is_on_the_way = seen.touch.operation == "look" and seen.touch.target in self._ways
                if is_own and not is_on_the_way:
                    self._tell(seen.touch, seen.owner, seen.verdict)

    def _tell(self, touch: Touch, owner: Owner, verdict: Verdict) -> None:
        key = (touch.operation, touch.target, owner.distribution)
        if hash(key) in self._told or (touch.operation == "look" and hash(("read", *key[1:])) in self._told):
            return
        if not self._writer.has_room:
            self.is_complete = False
            return
        self._told.add(hash(key))
        record = Record(
            time=touch.time,
            pid=touch.pid,
            verdict=kind_of(verdict, blocks=self._blocks),
            chain=tuple(map(_name, owner.chain)),
            operation=touch.operation,
            target=_text(touch.target),
            distribution=_name(owner.distribution),
            where=_name(owner.where, MOST_TEXT),
            program=_name(touch.program),
            rule=verdict.rule,
            allow="",
            layer="guard" if touch.owner is not None else "seccomp",
        )
        record = msgspec.structs.replace(record, allow=_text(advice(record, self._box)))
        self._writer.add(record)
        if record.operation == HIDES:
            self.hiding.add(record.program)
        if verdict.denied:
            self.denied.append(record)
            self._ways.update(parents(touch.target))
            if self._says:
                say(f"{record.verdict}: {describe(record)}")


def describe(record: Record) -> str:
    """Return one line: what, to whom, by which program."""
    who = record.distribution or YOUR_CODE
    return printable(f"{record.operation} {record.target} by {who} ({record.program})")


def say(text: str) -> None:
    """Write a line to standard error, where others write too: as one. If nobody reads it, the report goes on."""
    with contextlib.suppress(OSError):
        os.write(2, f"vsbox: {text}\n".encode("utf-8", "backslashreplace"))


def _judge_for(layout: Layout, policy: Policy, *, installing: bool, shown: dict[str, int]) -> tuple[Judge, str, str]:
    """Return the judge of a start, its packages and where code inside sees the environment."""
    judged = msgspec.structs.replace(policy, mode="enforce") if policy.mode == "preview" else policy
    compiled = plan_and_facts(layout, judged)
    plan = compiled.installing if installing and compiled.installing else compiled.plan
    tier = Tier(plan.receipt.tier)
    config = guard_config(judged, compiled.box, plan, tier)
    prefix = compiled.box.root if tier is Tier.NAMESPACES else compiled.box.inside
    return Judge(config, shown, policy.project), compiled.box.interpreter.packages, prefix


@dataclass(frozen=True)
class Start:
    """What the launcher says of a start, in the order of its words (``native/supervise.c``)."""

    variant: str = ""
    installing: str = ""
    directory: str = ""
    access: str = "read"
    script: str = ""
    command: str = ""

    @property
    def shown(self) -> dict[str, int]:
        """What only this start grants: 1 reading, 2 writing."""
        places = {self.directory: 2 if self.access == "write" else 1, self.script: 1}
        return {path: level for path, level in places.items() if path}


def watch_run(layout: Layout, *words: str) -> None:
    """Hear of a run until it ends, and keep its report.

    Raises:
        VsboxError: the policy does not hold any more.
        OSError: the report cannot be written.
    """
    start = Start(*words)
    policy = load_policy(layout)
    if start.variant:
        policy = with_overrides(policy, os.environ)
    judge, packages, prefix = _judge_for(layout, policy, installing=bool(start.installing), shown=start.shown)
    blocks = policy.mode == "enforce" and policy.os_sandbox
    is_quiet = os.environ.get(QUIET) == "1"
    says = not blocks and not is_quiet
    writer = Writer(layout, Head(time.time(), _text(start.command), policy.mode, start.variant))
    attribution = Attribution(Distributions(layout.inside, packages, prefix))
    watch = Watch(judge, attribution, writer, str(layout.root), blocks=blocks, says=says)
    _listen(watch)
    if not watch.is_complete:
        say("the report of this run is not complete: there was more than it can hold")
    for program in sorted(watch.hiding)[:MOST_HIDING]:
        say(f"what {program} touched could not be seen: it lets nobody look at its memory")
    if says or (blocks and "VSBOX_REPORT" in os.environ and not is_quiet):
        summarize(watch.denied, blocks=blocks, layout=layout)


def _listen(watch: Watch) -> None:
    machine = platform.machine()
    with socket.socket(fileno=os.dup(0)) as channel:
        channel.settimeout(SECONDS_TO_WAIT)
        while packet := _receive(channel):
            for event in decode(packet, machine) if packet != NOTHING else ():
                watch.take(event)
            watch.settle()
    watch.settle(everything=True)


NOTHING: Final = b"\0"


def _receive(channel: socket.socket) -> bytes:
    """Return the next packet; ``NOTHING`` when none came in time, nothing at the end."""
    try:
        return channel.recv(PACKET_BYTES)
    except TimeoutError:
        return NOTHING


def summarize(denied: Iterable[Record], *, blocks: bool, layout: Layout) -> None:
    """Say in the end what was denied, or would have been, by whom."""
    records = list(denied)
    word = "denied" if blocks else "would be denied"
    if not records:
        say(f"nothing {'was' if blocks else 'would be'} denied")
        return
    rows = []
    for owner, own in by_owner(records):
        names = chain((owner or YOUR_CODE,), repeat(""))
        rows += [(next(names), r.operation, printable(r.target), r.where or r.program) for r in own]
    print_rows(f"vsbox: {word} in {layout.root}", rows)
    say(f"what would allow it: vsbox report {layout.root}")


def print_rows(title: str, rows: list[tuple[str, str, str, str]]) -> None:
    """Print a table to standard error."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(stderr=True)
    if not console.is_terminal:
        console = Console(stderr=True, width=WIDE, no_color=True)
    table = Table(box=None, pad_edge=False)
    for column in ("package", "what", "target", "at"):
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    with contextlib.suppress(OSError):
        console.print(Text(title, style="bold"), soft_wrap=True)
        console.print(table)
