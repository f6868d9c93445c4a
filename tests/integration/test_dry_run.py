"""``vsbox exec --dry-run``: what a command would change, as a patch, and nothing changed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness import Box, Person

pytestmark = pytest.mark.parametrize(("person", "backend"), [("user", "native"), ("root", "native")], indirect=True)


@pytest.fixture
def project(place: Path, person: Person) -> Path:
    (place / "project").mkdir()
    os.chown(place / "project", person.uid, person.gid)
    person.write(place / "project" / "old.txt", "one\n")
    return place / "project"


def dry_run(box: Box, cwd: Path, *words: str, options: tuple[str, ...] = ()):  # type: ignore[no-untyped-def]
    return box.person.vsbox("exec", "--dry-run", *options, box.root, "--", *words, cwd=cwd)


def test_a_patch_is_printed_and_nothing_changed(box: Box, project: Path) -> None:
    code = (
        "open('old.txt', 'w').write('two\\n'); open('new.txt', 'w').write('new\\n')\n"
        "print('out'); raise SystemExit(3)"
    )
    done = dry_run(box, project, "python", "-c", code)
    assert done.returncode == 3, done.stderr
    assert done.stdout.startswith("out\n")
    assert "--- a/old.txt\n+++ b/old.txt\n@@ -1 +1 @@\n-one\n+two\n" in done.stdout
    assert "+++ b/new.txt" in done.stdout
    assert "changes: 2, none of them made" in done.stderr
    assert [path.name for path in project.iterdir()] == ["old.txt"]
    assert (project / "old.txt").read_text() == "one\n"
    assert "nothing would be changed" in dry_run(box, project, "true").stderr


def test_it_ends_when_it_should(box: Box, project: Path) -> None:
    assert dry_run(box, project, "sleep", "60", options=("--timeout", "0.5")).returncode == 124
    assert dry_run(box, project, "no-such-command").returncode == 125
    for bad in ("inf", "nan", "1e12", "-1"):
        done = dry_run(box, project, "true", options=("--timeout", bad))
        assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
    assert box.person.vsbox("exec", "--timeout", "5", box.root, "--", "true").returncode == 2


def test_what_the_box_does_not_show_is_not_shown(box: Box, person: Person, project: Path) -> None:
    """A home is seen as a whole where it is the working directory, and the box shows nothing of it."""
    secret = person.write(person.home / "t" / f"secret-{os.getpid()}", "a canary")
    control = person.run(["cat", str(secret)], cwd=person.home)
    assert control.stdout == "a canary"
    done = dry_run(box, person.home, "cat", str(secret))
    assert done.returncode == 2
    assert "a canary" not in done.stdout
    assert "code inside would see all of it" in done.stderr


def test_a_policy_that_hides_is_refused(own_box: Box, project: Path, person: Person) -> None:
    person.write(project / "hidden", "a canary")
    own_box.edit_policy(allowed_paths=[str(project)], hidden_paths=[str(project / "hidden")])
    done = dry_run(own_box, project, "cat", "hidden")
    assert done.returncode == 2
    assert "hidden_paths" in done.stderr


def test_what_is_hidden_below_a_grant_is_hidden(own_box: Box, project: Path, person: Person) -> None:
    data = person.directory("data")
    for name in ("open", "secret"):
        (data / name).mkdir()
        os.chown(data / name, person.uid, person.gid)
        person.write(data / name / "f", f"a canary in {name}")
    own_box.edit_policy(read_only_paths=[str(data)], hidden_paths=[str(data / "secret"), "/etc/passwd"])
    for run in (lambda *words: own_box.exec(*words, cwd=project), lambda *words: dry_run(own_box, project, *words)):
        assert "a canary in open" in run("cat", str(data / "open" / "f")).stdout
        done = run("cat", str(data / "secret" / "f"), "/etc/passwd")
        assert done.returncode == 1, done.stderr
        assert "a canary" not in done.stdout
        assert "root" not in done.stdout


def test_a_granted_directory_that_became_a_link_is_refused(own_box: Box, project: Path, person: Person) -> None:
    place = person.directory("place")
    for name in ("data", "private"):
        (place / name).mkdir()
        os.chown(place / name, person.uid, person.gid)
        person.write(place / name / "f", f"a canary in {name}")
    own_box.edit_policy(read_only_paths=[str(place / "data")])
    assert "a canary in data" in dry_run(own_box, project, "cat", str(place / "data" / "f")).stdout
    (place / "data").rename(place / "before")
    (place / "data").symlink_to(place / "private")
    done = dry_run(own_box, project, "cat", str(place / "data" / "f"), str(place / "private" / "f"))
    assert done.returncode == 2, done.stderr
    assert "a canary" not in done.stdout
    assert f"{place}/data is a link" in done.stderr


def test_a_directory_that_the_box_grants(own_box: Box, project: Path) -> None:
    for granted in (project, project.parent, project / "old.txt"):
        own_box.edit_policy(allowed_paths=[str(granted)])
        done = dry_run(own_box, project, "sh", "-c", "echo two > old.txt")
        assert (done.returncode, "-one\n+two\n" in done.stdout) == (0, True), done.stderr
        assert (project / "old.txt").read_text() == "one\n"
