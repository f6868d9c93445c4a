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

from vsbox.guard.install import FIRST, NOTHING, _join, hook_source

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


def made(hook: str, **keys: Any) -> bytes:
    """Return a guard whose slow half is this."""
    codes = [compile(text, "<guard>", "exec", dont_inherit=True, optimize=2) for text in (FIRST.read_text(), hook)]
    first, slow = map(marshal.dumps, codes)
    return _join(len(first).to_bytes(4, "little") + first + slow, {**NOTHING, "root": "/the/box", **keys})


def ran(code: str, hook: str = HOOK, **keys: Any) -> subprocess.CompletedProcess[str]:
    begin = "import marshal, os, sys\ndata = bytes.fromhex(sys.stdin.read())\nsys.asked = []\n"
    begin += "exec(marshal.loads(data[12:]), {'data': data})\n"
    argv, given = [sys.executable, "-I", "-S", "-c", begin + code], made(hook, **keys).hex()
    return subprocess.run(argv, input=given, capture_output=True, text=True, check=False, cwd="/", timeout=60)


def looked_closer(paths: list[str], **keys: Any) -> list[tuple[bool, bool]]:
    """Return of each path whether reading and writing it went to the slow half."""
    data = made(HOOK, **keys)
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


def test_proc_needs_one_where_no_kernel_decides() -> None:
    lists = {**USUAL, "read": ("/proc", "/usr")}
    assert looked_closer(["/proc/self/root/x", "/usr/x"], tier="none", **lists) == [(True, True), (False, True)]
    assert looked_closer(["/proc/self/root/x"], tier="landlock", **lists) == [(False, True)]


FAILING = "import sys\nsys.loads = getattr(sys, 'loads', 0) + 1\nif sys.loads < 2:\n    raise AssertionError\n" + HOOK


def test_a_slow_half_that_could_not_be_loaded_is_loaded_later() -> None:
    code = "try:\n    open('/x')\nexcept AssertionError:\n    print('raised')\n"
    code += "sys.audit('open', '/x', None, 0)\nprint(sys.asked)"
    done = ran(code, FAILING, tier="namespaces")
    assert (done.stdout, done.stderr) == ("raised\n[('/x', None, 0)]\n", "")


@pytest.mark.parametrize("tier", ["namespaces", "none"])
def test_events_of_no_form_are_ignored(tier: str) -> None:
    code = (
        "for event in ('open', 'import', 'os.listdir', 'object.__setattr__'):\n"
        "    for args in ((), (1,), (None, None, None), ('/x', 'r', 'w'), (object(), object(), object())):\n"
        "        sys.audit(event, *args)"
    )
    events = "('open', 'import', 'os.listdir', 'object.__setattr__')"
    done = ran(code, f"def handlers_for(*ignored):\n    return dict.fromkeys({events}, id)\n", tier=tier)
    assert (done.returncode, done.stderr) == (0, "")


LATE = """
class Late:
    def __init__(self, open=os.open, flags=os.O_WRONLY | os.O_CREAT, write=os.write):
        self.open, self.flags, self.write = open, flags, write
    def __del__(self):
        self.write(self.open('new', self.flags), b'x')
os.chdir(DIRECTORY)
sys.late = Late()
"""


@pytest.mark.parametrize("tier", ["namespaces", "none"])
def test_nothing_breaks_when_python_ends(tmp_path: Path, tier: str) -> None:
    lists = {"read": (LIBRARY,), "write": (str(tmp_path.resolve()),)}
    done = ran(LATE.replace("DIRECTORY", repr(str(tmp_path))), hook_source().decode(), tier=tier, **lists)
    assert done.returncode == 0
    assert "NoneType" not in done.stderr
    assert tier == "none" or (done.stderr, (tmp_path / "new").read_text()) == ("", "x")


GONE = """
import tempfile
directory = tempfile.mkdtemp()
other = tempfile.mkdtemp()
os.chdir(directory)
os.rmdir(directory)
os.close(os.open('new', os.O_WRONLY | os.O_CREAT, dir_fd=os.open(other, os.O_RDONLY)))
os.remove(other + '/new')
os.rmdir(other)
"""


def test_a_working_directory_may_be_gone() -> None:
    done = ran(GONE, hook_source().decode(), tier="landlock", write=("/tmp",))
    assert (done.returncode, done.stderr) == (0, "")
