"""``vsbox report``: what guards noted, and what code inside may have written in its place."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from harness import Box, Person

NOTE = {
    "time": 1.5, "pid": 7, "verdict": "denied", "chain": ["evil 1.0", "other 2"], "operation": "read", "target": "/x",
    "distribution": "evil 1.0", "where": "/e.py:3", "program": "p", "rule": "not granted", "allow": "rm -rf ~",
    "layer": "guard",
}  # fmt: skip
pytestmark = pytest.mark.parametrize(("person", "backend"), [("user", "native")], indirect=True)


@pytest.fixture
def noted(person: Person, make_box: Callable[..., Box], backend: str) -> Iterator[Box]:
    box = make_box(person, backend, "--no-pip")
    notes(box).unlink(missing_ok=True)
    yield box
    notes(box).unlink(missing_ok=True)


def notes(box: Box) -> Path:
    return box.root / "home" / ".vsbox-denied.jsonl"


def note(box: Box, *lines: dict[str, object] | str) -> None:
    texts = [line if isinstance(line, str) else json.dumps(NOTE | line) for line in lines]
    box.person.write(notes(box), "".join(f"{text}\n" for text in texts))


def report(box: Box, *options: str) -> str:
    done = box.person.vsbox("report", box.root, *options)
    assert done.returncode == 0, done.stderr
    return done.stdout


class Text(HTMLParser):
    """The tags of a page, and what stands in its cells."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.cells: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.cells += [""] * (tag == "td")
        assert not {name for name, _ in attrs if name.startswith("on") or name in {"src", "href"}}

    def handle_data(self, data: str) -> None:
        if self.cells:
            self.cells[-1] += data


def test_what_was_denied_is_shown_with_what_would_allow_it(noted: Box) -> None:
    assert report(noted) == "nothing was denied\n"
    secret = noted.person.directory("secret") / "s"
    noted.person.write(secret, "canary")
    for _ in range(2):
        noted.python(f"open({str(secret)!r})")
    text = report(noted)
    assert text.startswith(f"your code\n  read {secret}\n    on a command line, 2 times, last 2")
    assert f"    vsbox allow --read {noted.root} {secret}\n" in text
    found = json.loads(report(noted, "--json"))
    assert [record["target"] for record in found["records"]] == [str(secret)] * 2
    assert (found["box"], found["unreadable"]) == (str(noted.root), 0)


def test_it_is_forgotten_when_asked(noted: Box) -> None:
    note(noted, {})
    assert "evil 1.0" in report(noted, "--clear")
    assert report(noted) == "nothing was denied\n"


def test_the_advice_is_not_taken_from_the_note(noted: Box) -> None:
    note(noted, {"target": "/a $(touch x)'"})
    text = report(noted)
    assert "rm -rf" not in text
    assert f"vsbox allow --read {noted.root} '/a $(touch x)'\"'\"''" in text


def test_control_characters_are_made_visible(noted: Box) -> None:
    note(noted, {"distribution": "\x1b]0;title\x07", "target": "/a\n\x9b31m", "where": "\x1b[2J", "operation": "\r"})
    assert not {character for character in report(noted) if not character.isprintable()} - {"\n"}


BAD = {
    "no JSON": "rubbish",
    "another kind": '["a"]',
    "a key too many": json.dumps(NOTE | {"more": 1}),
    "a key too few": json.dumps({key: value for key, value in NOTE.items() if key != "where"}),
    "too long": json.dumps(NOTE | {"target": "x" * 9000}),
    "a name too long": json.dumps(NOTE | {"distribution": "x" * 300}),
    "another type": json.dumps(NOTE | {"pid": "7"}),
    "deep": "[" * 5000,
}


@pytest.mark.parametrize("text", BAD.values(), ids=BAD)
def test_a_line_that_is_no_note_is_counted(noted: Box, text: str) -> None:
    note(noted, {}, text, {"time": 3})
    found = json.loads(report(noted, "--json"))
    assert (len(found["records"]), found["unreadable"]) == (2, 1)
    assert "that are none: 1" in noted.person.vsbox("report", noted.root).stderr


def test_notes_that_are_full(noted: Box) -> None:
    note(noted, *["x" * 1000] * 1100)
    done = noted.person.vsbox("report", noted.root)
    assert done.returncode == 0
    assert "the notes are full" in done.stderr
    noted.python("import os; os.listdir('/srv/none')")
    assert json.loads(report(noted, "--json", "--clear"))["unreadable"] == 1100
    noted.python("import os; os.listdir('/srv/none')")
    assert "/srv/none" in report(noted)


def test_bytes_that_are_no_text(noted: Box) -> None:
    note(noted, {})
    with notes(noted).open("ab") as file:
        file.write(b'\xff\xfe\x00{"time"\n' * 3)
    assert json.loads(report(noted, "--json"))["unreadable"] == 3


def test_what_is_no_file_is_not_read(noted: Box) -> None:
    secret = noted.person.directory("secret") / "s"
    noted.person.write(secret, json.dumps(NOTE) + "\n")
    notes(noted).symlink_to(secret)
    assert report(noted) == "nothing was denied\n"
    notes(noted).unlink()
    os.mkfifo(notes(noted))
    assert report(noted) == "nothing was denied\n"


def test_a_directory_in_the_place_of_the_notes_ends_no_report(noted: Box) -> None:
    noted.python("import os; os.makedirs(os.environ['HOME'] + '/.vsbox-denied.jsonl/a/b')")
    done = noted.person.vsbox("report", noted.root)
    assert (done.returncode, done.stdout) == (0, "nothing was denied\n"), done.stderr
    assert f"{notes(noted)} is no file" in done.stderr
    cleared = noted.person.vsbox("report", noted.root, "--clear")
    assert (cleared.returncode, cleared.stderr) == (0, "")
    assert not notes(noted).exists()
    noted.python("import os; os.listdir('/srv/none')")
    assert "/srv/none" in report(noted, "--clear")


def test_the_guard_writes_through_no_link(noted: Box) -> None:
    place = noted.person.directory("place")
    noted.python("import os; os.symlink(os.environ['HOME'] + '/target', os.environ['HOME'] + '/.vsbox-denied.jsonl')")
    noted.python(f"import os; os.listdir({str(place)!r})")
    assert not (noted.root / "home" / "target").exists()


def test_a_page_is_text_and_nothing_else(noted: Box) -> None:
    wicked = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&"
    note(noted, dict.fromkeys(("target", "distribution", "where", "operation", "program", "rule"), wicked))
    target = noted.person.directory("page") / "denied.html"
    assert report(noted, "--html", str(target)) == ""
    page = Text(target.read_text())
    assert page.tags.count("script") == 1
    assert "img" not in page.tags
    assert page.cells[0] == page.cells[3] == page.cells[4] == wicked
    assert "default-src" in target.read_text()


def test_a_page_is_written_through_no_link(noted: Box) -> None:
    place = noted.person.directory("page")
    noted.person.write(place / "mine", "mine")
    (place / "denied.html").symlink_to(place / "mine")
    report(noted, "--html", str(place / "denied.html"))
    assert (place / "mine").read_text() == "mine"
    assert "<!doctype html>" in (place / "denied.html").read_text()


def test_a_page_may_go_to_standard_output_and_json_beside_one(noted: Box) -> None:
    note(noted, {})
    assert report(noted, "--html", "-").startswith("<!doctype html>")
    assert report(noted, "--html", "/dev/stdout").startswith("<!doctype html>")
    target = noted.person.directory("page") / "denied.html"
    assert json.loads(report(noted, "--html", str(target), "--json"))["unreadable"] == 0
    assert target.exists()


def test_a_page_that_cannot_be_written(noted: Box) -> None:
    done = noted.person.vsbox("report", noted.root, "--html", "/proc/none.html")
    assert done.returncode == 125
    assert "cannot write /proc/none.html" in done.stderr


def test_what_is_no_box(noted: Box) -> None:
    done = noted.person.vsbox("report", noted.person.directory("empty"))
    assert done.returncode == 125
    assert "it is not a box" in done.stderr
