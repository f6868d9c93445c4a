"""The documentation, executed: every ``python`` block of the API reference, of guides about Python, and of the README.

The blocks of a page share their names, in order. A block with ``>>>`` is a session whose output must be as written
(``...`` matches anything); one without must run without an exception. All of it runs in an empty directory.
"""

from __future__ import annotations

import doctest
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import vsbox
from harness import lacking
from vsbox.launch.api import run
from vsbox.launch.session import Sandbox

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference" / "python-api.md"
FENCE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NOT_PYTHON_HERE = {"tools-and-editors.md"}
"""Settings of other tools, shown."""
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def has_blocks(path: Path) -> bool:
    return path.name not in NOT_PYTHON_HERE and FENCE.search(path.read_text(encoding="utf-8")) is not None


PAGES = [path for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))) if has_blocks(path)]


def read_blocks(text: str) -> Iterator[tuple[int, str]]:
    """Return the blocks of a page with the line that each starts at, from 0."""
    for fence in FENCE.finditer(text):
        yield text.count("\n", 0, fence.start(1)), fence[1]


@pytest.fixture
def directory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty directory to stand in, outside of /tmp."""
    if run("pass").receipt.tier != "namespaces":
        lacking("namespaces", "the documents show runs with namespaces")
    path = Path(tempfile.mkdtemp(prefix="docs-", dir=Path.home()))
    monkeypatch.chdir(path)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_page_runs(page: Path, directory: Path) -> None:
    names: dict[str, object] = {"__name__": "__main__"}
    parser = doctest.DocTestParser()
    runner = doctest.DocTestRunner(verbose=False, optionflags=FLAGS)
    said: list[str] = []
    for line, block in read_blocks(page.read_text(encoding="utf-8")):
        if ">>> " not in block:
            exec(compile("\n" * line + block, page.name, "exec"), names)
            continue
        test = parser.get_doctest(block, names, page.name, str(page), line)
        test.globs = names  # the parser takes a copy
        runner.run(test, out=said.append, clear_globs=False)
    assert not runner.failures, "".join(said)


@pytest.mark.parametrize("name", ["README", "python-api", "run-untrusted-code", "limits"])
def test_page_has_blocks(name: str) -> None:
    assert name in {page.stem for page in PAGES}


STRUCTURES = (
    vsbox.Limits, vsbox.Usage, vsbox.LimitHit, vsbox.Violation, vsbox.Result, vsbox.Change, vsbox.Reply, vsbox.Value,
    vsbox.Artifact, vsbox.Changes,
)  # fmt: skip
ROWS = {
    *(f"| `{name}` |" for name in ["code", *(run.__kwdefaults__ or {})]),
    *(f"| `{name}` |" for kind in STRUCTURES for name in kind.__struct_fields__),
    *(f"| `{outcome.name}` |" for outcome in vsbox.Outcome),
    *(f"`{name}`" for name in vsbox.__all__),
    *(f"`{name}" for name in (Sandbox.__init__.__kwdefaults__ or {})),
    *(f"`{name}" for kind in (vsbox.Result, vsbox.ChangeSet, vsbox.Reply, Sandbox, vsbox.AsyncSandbox)
      for name in vars(kind) if not name.startswith("_")),
}  # fmt: skip


def test_reference_is_complete() -> None:
    text = REFERENCE.read_text(encoding="utf-8")
    assert [row for row in sorted(ROWS) if row not in text] == []
