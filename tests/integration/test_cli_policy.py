"""sandbox.json as its owner writes it, allow and deny: what makes no sense is refused, the rest takes effect."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cli_answers import SECONDS, edit, refused

if TYPE_CHECKING:
    from harness import Box, Person

BROKEN = {
    "{": (2, "cannot read"),
    "": (2, "cannot read"),
    "[]": (2, "cannot read"),
    "null": (2, "cannot read"),
    '{"venv_root": 1}': (2, "venv_root"),
    "\x00\x01": (2, "cannot read"),
    "[" * 100_000: (2, "cannot read"),
}


@pytest.mark.parametrize("text", BROKEN, ids=lambda text: repr(text[:20]))
def test_broken_policy_is_refused_and_mended(text: str, mended_box: Box) -> None:
    path = mended_box.root / "sandbox" / "sandbox.json"
    good = path.read_text()
    mended_box.person.write(path, text)
    status, word = BROKEN[text]
    for _ in range(2):
        refused(mended_box.python("print(1)"), status, word, "sandbox.json")
    refused(mended_box.person.vsbox("allow", mended_box.root, "/usr"), status, word)
    mended_box.person.write(path, good)
    assert mended_box.python("print(1)").stdout == "1\n"


def test_missing_policy_is_refused(own_box: Box) -> None:
    (own_box.root / "sandbox" / "sandbox.json").unlink()
    done = own_box.python("print(1)")
    assert done.returncode in (2, 125)
    refused(done, done.returncode, "sandbox.json")


WRONG = {
    "typo": ({"allowed_path": []}, "did you mean 'allowed_paths'"),
    "other": ({"zzz": 1}, "known keys"),
    "mode": ({"mode": "allow"}, "mode"),
    "network": ({"network": "some"}, "network"),
    "type": ({"allowed_paths": "/usr"}, "allowed_paths"),
    "root": ({"venv_root": "/elsewhere"}, "venv_root"),
    "relative": ({"allowed_paths": ["data"]}, "not absolute"),
    "dots": ({"allowed_paths": ["/usr/../etc"]}, "not normal"),
    "slash": ({"allowed_paths": ["/usr/"]}, "not normal"),
    "empty": ({"allowed_paths": [""]}, "not absolute"),
    "nul": ({"allowed_paths": ["/usr\0"]}, "NUL"),
    "missing": ({"allowed_paths": ["/nonexistent"]}, "does not exist"),
    "everything": ({"allowed_paths": ["/"]}, "holds the box"),
    "degraded": ({"allow_degraded": ["all"]}, "allow_degraded"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_policies_are_refused(name: str, mended_box: Box) -> None:
    changes, word = WRONG[name]
    edit(mended_box, **changes)
    refused(mended_box.python("print(1)"), 2, word)


def test_a_grant_through_a_link_is_refused(mended_box: Box, place: Path) -> None:
    (place / "real").mkdir()
    (place / "link").symlink_to("real")
    edit(mended_box, allowed_paths=[str(place / "link")])
    refused(mended_box.python("print(1)"), 2, "symbolic link", str(place / "real"))


def test_a_grant_of_the_box_itself_is_refused(mended_box: Box) -> None:
    for name in ("", "/bin", "/sandbox", "/inside"):
        edit(mended_box, allowed_paths=[f"{mended_box.root}{name}"])
        refused(mended_box.python("print(1)"), 2, "box")


def test_a_grant_that_vanished_is_refused_and_denied(own_box: Box, place: Path) -> None:
    gone, kept = place / "gone", place / "kept"
    own_box.person.run(["mkdir", str(gone), str(kept)])
    assert own_box.person.vsbox("allow", own_box.root, gone, kept).returncode == 0
    code = f"import os; print(os.listdir({str(kept)!r}))"
    assert own_box.python(code).stdout == "[]\n"
    gone.rmdir()
    said = refused(own_box.python(code), own_box.python(code).returncode, str(gone))
    assert own_box.python(code).returncode in (2, 125)
    assert "vsbox " in said.splitlines()[1]
    assert own_box.person.vsbox("deny", own_box.root, gone).returncode == 0
    assert own_box.python(code).stdout == "[]\n"


def test_a_grant_that_became_a_link_is_refused(own_box: Box, place: Path) -> None:
    granted, secret = place / "granted", place / "secret"
    own_box.person.run(["mkdir", str(granted), str(secret)])
    own_box.person.write(secret / "s", "secret")
    assert own_box.person.vsbox("allow", own_box.root, granted).returncode == 0
    code = f"import os; print(os.listdir({str(granted)!r}))"
    assert own_box.python(code).stdout == "[]\n"
    granted.rmdir()
    granted.symlink_to(secret)
    done = own_box.python(code)
    refused(done, done.returncode, str(granted))
    assert done.returncode in (2, 125)


@pytest.mark.slow
def test_ten_thousand_grants(mended_box: Box, place: Path) -> None:
    many = [place / f"{n:05}" for n in range(10_000)]
    for path in many:
        path.mkdir()
    if mended_box.person.uid != os.geteuid():
        subprocess.run(["chown", "-R", str(mended_box.person.uid), str(place)], check=True)
    edit(mended_box, allowed_paths=[str(path) for path in many])
    code = f"open('{many[0]}/f', 'w'); open('{many[9999]}/f', 'w'); print('ok')"
    for _ in range(2):
        done = mended_box.python(code, timeout=SECONDS)
        assert (done.stdout, done.stderr) == ("ok\n", "")
    if mended_box.backend == "bubblewrap":
        mended_box.let_bwrap_make_the_root("/usr/bin/bwrap")
        assert "cannot use bubblewrap: it takes 9000 arguments" in mended_box.python(code, timeout=SECONDS).stderr


# ---- allow, deny ----


@pytest.mark.parametrize("name", ["plain", "two words\nnew line'\"", "é$x`y`"])
def test_allow_and_deny_take_effect_at_the_next_start(name: str, mended_box: Box, place: Path) -> None:
    person, data = mended_box.person, place / name
    person.run(["mkdir", str(data)])
    person.write(data / "f", "data")
    code = f"p = {str(data)!r}; print(open(p + '/f').read()); open(p + '/new', 'w')"
    assert mended_box.python(code).returncode == 1
    assert person.vsbox("allow", "--read", mended_box.root, data).returncode == 0
    done = mended_box.python(code)
    assert done.stdout == "data\n"
    assert re.search(r"\[Errno (13|30)\]", done.stderr)
    assert person.vsbox("allow", mended_box.root, data).returncode == 0
    assert mended_box.python(code).returncode == 0
    assert (data / "new").exists()
    assert person.vsbox("deny", mended_box.root, data).returncode == 0
    assert mended_box.python(code).stdout == ""


@pytest.mark.parametrize("above", ["/tmp", "/var/tmp"])
def test_a_grant_below_a_private_place_works(above: str, mended_box: Box) -> None:
    person = mended_box.person
    made = person.run(["mktemp", "-d", "-p", above, "vsbox-grant.XXXXXX"]).stdout.strip()
    try:
        done = person.vsbox("allow", mended_box.root, made)
        assert (done.returncode, done.stderr) == (0, "")
        shown = mended_box.python(f"open({made!r} + '/f', 'w'); import os; print(os.listdir({made!r}))")
        assert (shown.stdout, shown.stderr) == ("['f']\n", "")
        assert (Path(made) / "f").exists()
    finally:
        shutil.rmtree(made)


def test_options_of_create_grant_as_well(person: Person, backend: str, place: Path) -> None:
    write, read = place / "write", place / "read"
    person.run(["mkdir", str(write), str(read)])
    options = ("--backend", backend, "--no-pip", "--allow", write, "--allow-read", read)
    assert person.vsbox("-q", *options, place / "env").returncode == 0
    run = f"{place}/env/bin/python"
    assert person.run([run, "-c", f"open('{write}/f', 'w')"]).returncode == 0
    assert person.run([run, "-c", f"import os; os.listdir('{read}')"]).returncode == 0
    assert person.run([run, "-c", f"open('{read}/f', 'w')"]).returncode == 1
    policy = json.loads((place / "env/sandbox/sandbox.json").read_text())
    assert policy["allowed_paths"] == [str(write)]
    assert policy["read_only_paths"] == [str(read)]


def test_a_grant_is_where_a_link_leads_now(plain_box: Box, place: Path) -> None:
    plain_box.person.run(["mkdir", str(place / "real")])
    (place / "link").symlink_to("real")
    assert plain_box.person.vsbox("allow", plain_box.root, "link", cwd=place).returncode == 0
    policy = json.loads((plain_box.root / "sandbox/sandbox.json").read_text())
    assert policy["allowed_paths"] == [str(place / "real")]


def test_deny_below_a_grant(own_box: Box, place: Path) -> None:
    person = own_box.person
    person.run(["mkdir", str(place / "private")])
    person.write(place / "private" / "f", "x")
    person.write(place / "public", "y")
    assert person.vsbox("allow", own_box.root, place).returncode == 0
    done = person.vsbox("deny", own_box.root, place / "private")
    if own_box.backend == "landlock":
        refused(done, 125, "Landlock has no deny rules")
        return
    assert done.returncode == 0
    code = f"import os; print(open('{place}/public').read(), os.path.exists('{place}/private/f'))"
    assert own_box.python(code).stdout == "y False\n"


def test_allow_that_cannot_be_changes_nothing(plain_box: Box, place: Path) -> None:
    before = (plain_box.root / "sandbox/sandbox.json").read_bytes()
    for path in ("/nonexistent", "/", plain_box.root, plain_box.root / "bin"):
        refused(plain_box.person.vsbox("allow", plain_box.root, path), 2, str(path))
    named = place / "caf\udce9"
    named.mkdir()
    refused(plain_box.person.vsbox("allow", plain_box.root, named), 2, "UTF-8")
    assert (plain_box.root / "sandbox/sandbox.json").read_bytes() == before
    assert plain_box.python("print(1)").stdout == "1\n"
