"""``vsbox apparmor`` on this machine, whether it has AppArmor or not.

What it prints is tried by ``tests/vm``, where there is AppArmor.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cli_answers import refused

from harness import Box, lacking

if TYPE_CHECKING:
    from harness import Person

PARSER = Path("/usr/sbin/apparmor_parser")


def state(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (root / "sandbox").iterdir() if path.is_file()}


@pytest.fixture
def odd_box(person: Person) -> Box:
    """A box whose path has to be quoted in a profile and in a shell."""
    root = person.directory("apparmor") / "it's {a} box*"
    person.vsbox("--no-pip", root, check=True)
    return Box(root, person, "auto")


def test_it_prints_profiles_that_the_compiler_takes_and_commands_for_a_shell(odd_box: Box) -> None:
    before = state(odd_box.root)
    done = odd_box.person.vsbox("apparmor", odd_box.root)
    assert done.returncode == 0, done.stderr
    assert state(odd_box.root) == before, "something was changed"
    words = [shlex.split(line) for line in done.stderr.splitlines() if line.startswith("  ")]
    assert [line[:2] for line in words[1:]] == [["sudo", "apparmor_parser"], ["vsbox", "sync"]]
    assert words[2][-1] == str(odd_box.root) == words[0][3]
    if not PARSER.exists():
        lacking("apparmor", "there is no apparmor_parser: apt-get install apparmor")
    argv = [PARSER, "--skip-kernel-load", "--skip-cache"]
    parsed = subprocess.run(argv, input=done.stdout, capture_output=True, text=True, check=False)
    assert parsed.returncode == 0, parsed.stderr
    shutil.rmtree(odd_box.root.parent)


@pytest.mark.parametrize(("status", "written"), [(0, "text of it\\end\n"), (1, None)])
def test_an_installed_profile_is_replaced_by_a_whole_one_alone(
    plain_box: Box, tmp_path: Path, status: int, written: str | None
) -> None:
    """The first command that is printed, with others in the place of ``vsbox`` and ``sudo``."""
    said = plain_box.person.vsbox("apparmor", plain_box.root).stderr
    command = said.partition("To install them:\n")[2].splitlines()[0]
    for name, does in (("vsbox", f"printf '%s\\n' 'text of it\\end'; exit {status}"), ("sudo", "cat >written")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    for shell in ("dash", "bash"):
        path = f"{tmp_path}:/usr/bin:/bin"
        subprocess.run([f"/bin/{shell}", "-c", command], cwd=tmp_path, env={"PATH": path}, check=False)
        found = tmp_path / "written"
        assert (found.read_text() if found.exists() else None) == written, shell
        found.unlink(missing_ok=True)


def test_what_is_not_installed_is_said(plain_box: Box) -> None:
    done = plain_box.person.vsbox("apparmor", "--check", plain_box.root)
    assert done.returncode == 1
    assert "AppArmor is not enabled" in done.stdout or "is not installed" in done.stdout
    ignoring = plain_box.person.vsbox("apparmor", "--check", "--ignore-profile-diffs", plain_box.root)
    assert ignoring.returncode == 1, "differences are ignored, not that there is nothing"


def test_as_json(plain_box: Box) -> None:
    document = json.loads(plain_box.person.vsbox("apparmor", "--json", plain_box.root).stdout)
    assert document["payload"] == f"{document['launcher']}.payload"
    assert document["path"] == f"/etc/apparmor.d/{document['launcher']}"
    assert f"profile {document['payload']} " in document["text"]
    assert document["installed"] is False
    assert document["loaded"] == {document["launcher"]: False, document["payload"]: False}


def test_required_and_not_loaded_starts_nothing(mended_box: Box) -> None:
    mended_box.edit_policy(apparmor="required")
    done = mended_box.python("print('ran')")
    refused(done, 125, "which sandbox.json requires", f"vsbox apparmor {mended_box.root}")


INSIST = """
import sys
sys.path[:] = sys.argv[2].split(":")
from pathlib import Path
from vsbox.box.layout import Layout
from vsbox.box.store import load_policy, plan_and_facts
from vsbox.plan import steps
from vsbox.plan.encode import encode
layout = Layout(Path(sys.argv[1]))
plan = plan_and_facts(layout, load_policy(layout)).plan
layout.plan.write_bytes(encode((*plan.steps[:4], steps.Apparmor("vsbox.nobody"), *plan.steps[4:])))
"""


def test_a_plan_that_insists_on_a_profile_starts_nothing_without(mended_box: Box) -> None:
    """Whatever the kernel says to it: that there is no such profile, or no AppArmor."""
    argv = [sys.executable, "-c", INSIST, str(mended_box.root), ":".join(sys.path)]
    mended_box.person.run(argv, check=True)
    done = mended_box.python("print('ran')")
    refused(done, 125, "cannot enter the AppArmor profile vsbox.nobody", f"vsbox apparmor {mended_box.root}")
