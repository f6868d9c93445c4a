"""The documentation, executed: every ``console`` block of the tutorial and the how-to guides.

One shell session a document. A line that starts with ``$ `` is a command (``> `` continues it), what
follows is all it prints; ``...`` matches anything, ``/home/you`` is the home of the session.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest
from msgspec.structs import fields

from harness import lacking
from vsbox.cli import cli
from vsbox.plan import system
from vsbox.plan.environment import PASSED
from vsbox.policy.document import keys, parse
from vsbox.policy.grants import grants_of
from vsbox.policy.model import Aspect, Limits
from vsbox.policy.overrides import OVERRIDES

if TYPE_CHECKING:
    from harness import Person

DOCS = Path(__file__).parents[2] / "docs"
HOME = "/home/you"

FENCE = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
GUIDES = sorted((DOCS / "how-to").glob("*.md"))
OF_PYTHON = frozenset(path for path in GUIDES if "```python\n>>> " in path.read_text(encoding="utf-8"))
"""Guides whose examples ``test_docs_python.py`` executes; they may have commands as well."""
EXECUTED = (
    DOCS / "tutorial.md",
    *(path for path in GUIDES if path not in OF_PYTHON or FENCE.search(path.read_text(encoding="utf-8"))),
)
LINK = re.compile(r"\]\(([^)#\s]+)(#[^)\s]*)?\)")


@dataclass(frozen=True)
class Step:
    """A command and what it must print."""

    line: int
    command: str
    expected: str


def read_steps(text: str) -> Iterator[Step]:
    """Return the commands of a document in order."""
    for fence in FENCE.finditer(text):
        first = text.count("\n", 0, fence.start(1)) + 1
        lines = fence[1].splitlines()
        assert lines[0].startswith("$ "), f"line {first}: a console block starts with a command"
        starts = [index for index, line in enumerate(lines) if line.startswith("$ ")]
        for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
            rest = lines[start + 1 : end]
            more = [line[2:] for line in rest if line.startswith("> ")]
            output = [line for line in rest if not line.startswith("> ")]
            yield Step(first + start, "\n".join([lines[start][2:], *more]), "\n".join(output))


def clean(output: str) -> str:
    """Return output without empty lines and with single blanks: columns are as wide as the paths in them."""
    lines = (re.sub(r" +", " ", line).rstrip() for line in output.splitlines())
    return "\n".join(line for line in lines if line)


def as_pattern(expected: str, home: str) -> re.Pattern[str]:
    """Return what matches the expected output."""
    literal = re.escape(clean(expected.replace(HOME, home)))
    return re.compile(literal.replace(re.escape("..."), ".*?"), re.DOTALL)


def run_steps(person: Person, steps: list[Step], home: Path) -> list[str]:
    """Run the commands in one shell; return what each printed."""
    marker = f"== {secrets.token_hex(8)} =="
    script = "".join(f"{step.command.replace(HOME, str(home))}\nprintf '\\n%s\\n' '{marker}'\n" for step in steps)
    path = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
    environment = person.environment | {"HOME": str(home), "PATH": path, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    answer = person.run(
        ["/bin/bash", "--norc", "-c", f"exec 2>&1\n{script}"], cwd=home, env=environment, timeout=120
    )
    printed = answer.stdout.split(marker)
    assert len(printed) == len(steps) + 1, f"the session ended early:\n{answer.stdout}"
    return printed[:-1]


@pytest.fixture
def home(person: Person) -> Iterator[Path]:
    """An empty directory that a session takes for its home."""
    uses = json.loads(person.vsbox("doctor", "--json").stdout)["uses"]
    if uses != "native":
        lacking("namespaces", f"the documents show boxes with namespaces, here they use {uses}")
    path = person.directory("docs")
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.mark.index
@pytest.mark.parametrize("person", ["user"], indirect=True)
@pytest.mark.parametrize("document", EXECUTED, ids=lambda path: path.stem)
def test_document_runs(document: Path, person: Person, home: Path) -> None:
    steps = list(read_steps(document.read_text(encoding="utf-8")))
    assert steps, "a guide shows no command"
    for step, printed in zip(steps, run_steps(person, steps, home), strict=True):
        found = clean(printed)
        assert as_pattern(step.expected, str(home)).fullmatch(found), (
            f"{document.name}:{step.line}: $ {step.command}\n"
            f"--- written ---\n{step.expected}\n--- printed ---\n{found}"
        )


@pytest.mark.parametrize(
    ("expected", "printed", "same"),
    [
        ("a\nb", "a\nb", True),
        ("a", "a\nb", False),
        ("", "a", False),
        ("a...c", "abc", True),
        ("a\n...\nc", "a\nx\ny\nc", True),
        ("/home/you/x", "/h/x", True),
        ("a.c", "abc", False),
        ("path  may\n\n/x    read", "path    may\n/x read", True),
    ],
)
def test_expected_output_is_compared_as_a_whole(expected: str, printed: str, *, same: bool) -> None:
    assert bool(as_pattern(expected, "/h").fullmatch(clean(printed))) is same


def test_commands_are_found() -> None:
    text = "```console\n$ a \\\n> b\n1\n$ c\n```\n\n```text\n$ d\n```\n\n```console\n$ e\n2\n```\n"
    assert [(step.line, step.command, step.expected) for step in read_steps(text)] == [
        (2, "a \\\nb", "1"),
        (5, "c", ""),
        (13, "e", "2"),
    ]


def test_the_tutorial_is_run() -> None:
    assert len(list(read_steps((DOCS / "tutorial.md").read_text(encoding="utf-8")))) > 10


def options_of(command: click.Command) -> set[str]:
    return {name for parameter in command.params if isinstance(parameter, click.Option) for name in parameter.opts}


COMMANDS = {name: cli.get_command(click.Context(cli), name) for name in cli.list_commands(click.Context(cli))}
REFERENCES = {
    "command-line": {f"## vsbox {name}" for name in COMMANDS if name != "create"} | {"## vsbox [create] "}
    | {f"`{option}" for command in COMMANDS.values() if command for option in options_of(command)},
    "sandbox-json": {f"| `{key}` |" for key in [*keys(), *(field.name for field in fields(Limits))]},
    "aspects": {f"| `{aspect.value}` |" for aspect in Aspect},
    "environment-variables": {f"`{name}`" for name in (*PASSED, *OVERRIDES, "VERBOSE")},
    "visible-system": {
        f"`{re.sub(r'[.][0-9]+$', '.*', path.removeprefix('/etc/'))}`"
        for path in (*system.TREES, *system.ETC, *system.KERNEL_VIEWS, *system.SHARED_PROC, *system.MASKED)
    } | {f"`/dev/{name}`" for name in system.DEVICES},
}  # fmt: skip


@pytest.mark.parametrize("name", REFERENCES)
def test_reference_is_complete(name: str) -> None:
    text = (DOCS / "reference" / f"{name}.md").read_text(encoding="utf-8")
    assert [item for item in sorted(REFERENCES[name]) if item not in text] == []


def test_example_policy_is_one() -> None:
    text = (DOCS / "reference" / "sandbox-json.md").read_text(encoding="utf-8")
    example = re.search(r"```json\n(.*?)```", text, re.DOTALL)
    assert example
    policy = parse(example[1].encode())
    assert [grant.path for grant in grants_of(policy)] == [
        "/home/you/data", "/home/you/data/private", "/home/you/models",
    ]  # fmt: skip


@pytest.mark.parametrize("document", sorted(DOCS.rglob("*.md")), ids=lambda path: str(path.relative_to(DOCS)))
def test_links_lead_somewhere(document: Path) -> None:
    for target, _ in LINK.findall(document.read_text(encoding="utf-8")):
        if not target.startswith(("http:", "https:")):
            assert (document.parent / target).exists(), f"{document.name}: {target}"
