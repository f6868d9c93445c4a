"""Where a box may be, and what is one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness import lacking
from vsbox.box.create import resolve_new_root
from vsbox.box.layout import Layout, check_name, open_box
from vsbox.errors import BoxError, UsageError
from vsbox.host.collect import user_home


@pytest.mark.parametrize(
    "name", ["env", "my env", "é", "日本", "a'b", "a;b", "a&b", "#a", "-a", "a%b", "!a", "(a)", "~a", "a*", "a=b"]
)
def test_names_that_scripts_can_carry(name: str) -> None:
    check_name(Path("/x") / name)


@pytest.mark.parametrize("character", ["\n", "\t", "\r", "\x01", "\x1f", "\x7f", ":", '"', "\\", "$", "`"])
@pytest.mark.parametrize("place", ["/x/{}", "/x/a{}b", "/{}/env"])
def test_names_they_cannot(character: str, place: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_name(Path(place.format(character)))
    assert repr(character) in str(caught.value)
    assert caught.value.hint
    assert caught.value.exit_code == 2


def test_a_name_that_is_not_utf8() -> None:
    with pytest.raises(UsageError, match="not UTF-8") as caught:
        check_name(Path(os.fsdecode(b"/x/\xff")))
    str(caught.value).encode()


def test_the_message_can_be_printed() -> None:
    with pytest.raises(UsageError) as caught:
        check_name(Path("/x/a\nb"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("place", ["/", "~", "/..", "/usr/.."])
def test_places_nobody_means(place: str) -> None:
    with pytest.raises(UsageError, match="directory of its own"):
        resolve_new_root(place)


def test_the_home_of_the_user_database_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    home = user_home()
    monkeypatch.setenv("HOME", "/nonexistent")
    with pytest.raises(UsageError):
        resolve_new_root(home)


def test_links_are_resolved_when_a_box_is_made(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert resolve_new_root(str(tmp_path / "link" / "env")) == tmp_path.resolve() / "real" / "env"


@pytest.mark.parametrize("kind", ["nothing", "empty", "file", "environment"])
def test_what_is_no_box(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "x"
    if kind == "file":
        place.write_text("")
    elif kind != "nothing":
        place.mkdir()
    if kind == "environment":
        (place / "pyvenv.cfg").write_text("")
    with pytest.raises(BoxError) as caught:
        open_box(place)
    assert str(place) in str(caught.value)
    assert "vsbox" in (caught.value.hint or "")


@pytest.fixture
def made(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path.resolve() / "env")
    layout.sandbox.mkdir(parents=True)
    layout.policy.write_text("{}")
    layout.launcher.write_text("")
    return layout


def test_what_is_one(made: Layout) -> None:
    assert open_box(made.root) == made
    assert open_box(f"{made.root}/../env") == made


def test_a_box_of_somebody_else(made: Layout) -> None:
    if os.geteuid() != 0:
        lacking("root", "only root can give a file away")
    os.chown(made.launcher, 12345, 12345)
    with pytest.raises(BoxError, match="uid 12345"):
        open_box(made.root)


def test_no_box_is_to_be_made_where_something_else_is(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "an empty one").mkdir()
    for name, way in {
        "file": "vsbox NEW_DIRECTORY", ".": "vsbox NEW_DIRECTORY", "none": f"vsbox {tmp_path}/none",
        "an empty one": f"vsbox '{tmp_path}/an empty one'",
    }.items():  # fmt: skip
        with pytest.raises(BoxError) as caught:
            open_box(tmp_path / name)
        assert caught.value.hint == f"make one: {way}"
