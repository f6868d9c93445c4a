"""The user's package index settings: what is found, what is granted, what is not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vsbox.host import index
from vsbox.host.facts import IndexSettings
from vsbox.host.index import PATH_VARIABLES, index_settings


class Machine:
    """A home directory, places outside of it, and an environment with nothing about indexes."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.home = place / "home"
        self.conf = self.home / ".config" / "pip" / "pip.conf"
        self.conf.parent.mkdir(parents=True)

    def make(self, name: str) -> Path:
        path = self.place / name
        path.mkdir(parents=True)
        return path

    def write(self, text: str | bytes, path: Path | None = None) -> None:
        where = path or self.conf
        where.parent.mkdir(parents=True, exist_ok=True)
        where.write_bytes(text.encode() if isinstance(text, str) else text)

    def settings(self) -> IndexSettings:
        return index_settings(str(self.home))[0]

    def paths(self) -> set[str]:
        """Return what is granted besides the file itself and what /etc of this machine names."""
        return {p for p in self.settings().paths if p.startswith(str(self.place))} - {str(self.conf)}


@pytest.fixture
def pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    for name in list(os.environ):
        if name in {*PATH_VARIABLES, "XDG_CONFIG_HOME", "PIP_CONFIG_FILE"}:
            monkeypatch.delenv(name)
    return Machine(tmp_path.resolve())


def test_no_settings(pip: Machine) -> None:
    assert pip.settings().config_file is None
    assert pip.paths() == set()


@pytest.mark.parametrize(
    "option", ["index-url", "extra-index-url", "find-links", "cert", "client-cert", "constraint", "index_url"]
)
def test_a_path_in_an_option(pip: Machine, option: str) -> None:
    there = pip.make("mirror")
    pip.write(f"[global]\n{option} = {there}\n")
    assert pip.paths() == {str(there)}
    assert pip.settings().config_file == str(pip.conf)


@pytest.mark.parametrize("section", ["global", "install", "download"])
def test_every_section_counts(pip: Machine, section: str) -> None:
    there = pip.make("mirror")
    pip.write(f"[{section}]\nfind-links = {there}\n")
    assert pip.paths() == {str(there)}


@pytest.mark.parametrize(
    ("value", "granted"),
    [
        ("file://{place}/mirror", {"mirror"}),
        ("file:{place}/mirror", {"mirror"}),
        ("file://localhost{place}/mirror", {"mirror"}),
        ("file://{place}/mirror/simple", {"mirror"}),
        ("file://{place}/mirror/simple/", {"mirror"}),
        ("{place}/mirror/simple", {"mirror/simple"}),
        ("file://{place}/with%20space", {"with space"}),
        ("https://index.example/simple", set()),
        ("https://index.example{place}/mirror", set()),
        ("relative/mirror", set()),
        ("../mirror", set()),
        ("{place}/mirror {place}/other", {"mirror", "other"}),
        ("\n    {place}/mirror\n    https://index.example/simple\n    {place}/other", {"mirror", "other"}),
        ("{place}/mirror/../other", {"other"}),
    ],
)
def test_values(pip: Machine, value: str, granted: set[str]) -> None:
    for name in ("mirror/simple", "other", "with space"):
        pip.make(name)
    pip.write(f"[global]\nextra-index-url = {value.format(place=pip.place)}\n")
    assert pip.paths() == {str(pip.place / name) for name in granted}


def test_options_that_name_no_index_grant_nothing(pip: Machine) -> None:
    there = pip.make("elsewhere")
    pip.write(f"[global]\ncache-dir = {there}\nlog = {there}\ntarget = {there}\n")
    assert pip.paths() == set()


def test_the_home_is_never_granted(pip: Machine) -> None:
    pip.write(f"[global]\nfind-links = {pip.home}\nindex-url = file://{pip.home}/simple\n")
    assert pip.paths() == set()


@pytest.mark.parametrize("value", ["{place}", "/", "file:///", "file:///simple"])
def test_nor_is_anything_above_it(pip: Machine, value: str) -> None:
    pip.write(f"[global]\nfind-links = {value.format(place=pip.place)}\n")
    assert pip.settings().paths == (str(pip.conf),) or not {"/", str(pip.place)} & set(pip.settings().paths)


def test_a_link_is_granted_as_where_it_leads(pip: Machine) -> None:
    there = pip.make("mirror")
    (pip.place / "link").symlink_to(there)
    pip.write(f"[global]\nfind-links = {pip.place}/link\n")
    assert pip.paths() == {str(there)}


def test_a_link_to_the_home_is_the_home(pip: Machine) -> None:
    (pip.place / "link").symlink_to(pip.home)
    pip.write(f"[global]\nfind-links = {pip.place}/link\n")
    assert pip.paths() == set()


@pytest.mark.parametrize(
    "content",
    [
        b"no section\n", b"[global\n", b"[global]\nindex-url\n", b"\xff\xfe\x00", b"[a]\n[a]\n",
        b"[global]\nx=1\nx=2\n", b"", b"[global]\nfind-links = %(nothing)s\n", b"[global]\nfind-links = \x00/a\n",
        b"[global]\nindex-url = file://[bad\n", b"[global]\nindex-url = file:///%00x\n",
    ],
)  # fmt: skip
def test_a_broken_file_is_not_our_business(pip: Machine, content: bytes) -> None:
    """pip inside will report it; what it named is not granted."""
    pip.write(content)
    assert pip.settings().config_file == str(pip.conf)
    assert pip.paths() == set()


def test_the_file_of_old_is_found(pip: Machine) -> None:
    old = pip.home / ".pip" / "pip.conf"
    pip.write("[global]\n", old)
    assert pip.settings().config_file == str(old)


def test_xdg_config_home_moves_it(pip: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = pip.place / "xdg" / "pip" / "pip.conf"
    pip.write("[global]\n", moved)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(pip.place / "xdg"))
    assert pip.settings().config_file == str(moved)


def test_the_file_named_in_the_environment_wins(pip: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    named = pip.place / "named.conf"
    there = pip.make("mirror")
    pip.write("[global]\n")
    pip.write(f"[global]\nfind-links = {there}\n", named)
    monkeypatch.setenv("PIP_CONFIG_FILE", str(named))
    assert pip.settings().config_file == str(named)
    assert pip.paths() == {str(there), str(named)}


@pytest.mark.parametrize("value", ["relative.conf", ""])
def test_a_relative_one_does_not(pip: Machine, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """Read from where one stands, it could be a file that code inside wrote."""
    monkeypatch.setenv("PIP_CONFIG_FILE", value)
    assert pip.settings().config_file is None


@pytest.mark.parametrize("name", PATH_VARIABLES)
def test_variables_that_name_files(pip: Machine, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    there = pip.make("mirror")
    monkeypatch.setenv(name, str(there))
    assert pip.paths() == {str(there)}


def test_every_file_is_watched_whether_it_is_there_or_not(pip: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", "/named/pip.conf")
    _, files = index_settings(str(pip.home))
    expected = {"/etc/pip.conf", "/etc/xdg/pip/pip.conf", str(pip.conf), f"{pip.home}/.pip/pip.conf", "/named/pip.conf"}
    assert set(files) == expected
    assert not pip.conf.exists()


def test_the_environments_own_file_is_never_read(pip: Machine) -> None:
    """Law 1: code inside could have written it."""
    assert not [path for path in index_settings(str(pip.home))[1] if "pip.conf" in path and "inside" in path]
    assert "sys.prefix" not in Path(index.__file__).read_text()
