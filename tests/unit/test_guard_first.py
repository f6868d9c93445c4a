"""The quick answers of ``first.py``: what is granted passes without a closer look, and nothing else does."""

from __future__ import annotations

import json
import marshal
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vsbox.guard.install import FIRST, NOTHING, _join

LIBRARY = os.path.dirname(os.__file__)
HOOK = "import sys\ndef handlers_for(*ignored):\n    return {'open': lambda args: sys.asked.append(args)}\n"
BEGIN = """
import json, marshal, os, sys
data = bytes.fromhex(sys.argv[1])
sys.asked = []
exec(marshal.loads(data[12:]), {"data": data})
answers = []
for path in json.loads(sys.argv[2]):
    for flags in (os.O_RDONLY, os.O_WRONLY):
        before = len(sys.asked)
        sys.audit("open", path, None, flags)
        answers.append(len(sys.asked) > before)
print(json.dumps(answers))
"""
FOUND = [f"/{'/'.join(parts)}" for parts in ((), "a", "b", "aa", "ab", "ba", "aab", "aba", "abab")]
PLACES = [*FOUND, LIBRARY, os.path.dirname(LIBRARY), f"{LIBRARY}/json"]
PATHS = [
    *FOUND, *(f"{path}/x" for path in FOUND if path != "/"), "/a0", "/a-", "/ab0/x", LIBRARY, f"{LIBRARY}0",
    f"{LIBRARY}-/x", f"{LIBRARY}/os.py", f"{LIBRARY}/json/tool.py", f"{os.path.dirname(LIBRARY)}/x", "/zzz", "", "0",
]  # fmt: skip


def looked_closer(paths: list[str], **keys: Any) -> list[tuple[bool, bool]]:
    """Return of each path whether reading and writing it went to the slow half."""
    codes = [compile(text, "<guard>", "exec", dont_inherit=True, optimize=2) for text in (FIRST.read_text(), HOOK)]
    first, hook = map(marshal.dumps, codes)
    data = _join(len(first).to_bytes(4, "little") + first + hook, {**NOTHING, "root": "/the/box", **keys})
    argv = [sys.executable, "-I", "-S", "-c", BEGIN, data.hex(), json.dumps(paths)]
    answers = json.loads(subprocess.run(argv, capture_output=True, check=True, cwd="/", timeout=60).stdout)
    return list(zip(answers[::2], answers[1::2], strict=True))


def level(path: str, grants: dict[str, str]) -> int:
    nearest = next((grants[a] for a in (path, *map(str, Path(path).parents)) if a in grants), "hidden")
    return ("hidden", "read", "write").index(nearest)


@settings(max_examples=60)
@pytest.mark.parametrize("tier", ["namespaces", "none"])
@given(grants=st.dictionaries(st.sampled_from(PLACES), st.sampled_from(("hidden", "read", "write"))))
def test_only_what_is_granted_passes(tier: str, grants: dict[str, str]) -> None:
    lists = {kind: tuple(p for p in grants if grants[p] == kind) for kind in ("hidden", "read", "write")}
    for path, (reading, writing) in zip(PATHS, looked_closer(PATHS, tier=tier, **lists), strict=True):
        if path[:1] == "/":
            assert reading or level(path, grants) >= 1, path
            assert writing or level(path, grants) == 2, path


USUAL = {"read": ("/usr", LIBRARY, "/etc/hosts"), "write": ("/home/me/work",), "hidden": ()}


def test_the_usual_needs_no_closer_look() -> None:
    paths = [f"{LIBRARY}/os.py", "/usr/bin/env", "/home/me/work/x"]
    assert looked_closer(paths, tier="namespaces", **USUAL) == [(False, True), (False, True), (False, False)]


@pytest.mark.parametrize("path", ["/usr/../etc/shadow", f"{LIBRARY}/../../x", "../x", "/home/me/work/../key"])
def test_dots_need_one(path: str) -> None:
    assert looked_closer([path], tier="namespaces", **USUAL) == [(True, True)]


def test_a_relative_name_passes_where_the_kernel_sees_where_it_leads() -> None:
    assert looked_closer(["name"], tier="namespaces", **USUAL) == [(False, True)]
    assert looked_closer(["name"], tier="none", **USUAL) == [(True, True)]
