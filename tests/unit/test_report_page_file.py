"""Where ``vsbox report --html`` writes: files are replaced, devices and pipes written into."""

from __future__ import annotations

import os
import socket
import stat
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner

from vsbox.cli import report as module
from vsbox.cli.report import write_page
from vsbox.errors import BoxError, UsageError


def test_a_file_is_replaced_and_a_link_to_one_too(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "page").symlink_to(tmp_path / "mine")
    for _ in range(2):
        write_page(str(tmp_path / "page"), b"a page")
        assert (tmp_path / "page").read_bytes() == b"a page"
    assert (tmp_path / "mine").read_text() == "mine"


@pytest.mark.parametrize("through", ["", "link"])
def test_a_pipe_is_written_into(tmp_path: Path, through: str) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    (tmp_path / "link").symlink_to(pipe)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()), daemon=True)
    reader.start()
    write_page(str(tmp_path / (through or "pipe")), b"a page")
    reader.join(10)
    assert got == [b"a page"]
    assert stat.S_ISFIFO(pipe.lstat().st_mode)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes devices")
def test_a_device_stays_one(tmp_path: Path) -> None:
    try:
        os.mknod(tmp_path / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        (tmp_path / "null").write_bytes(b"")
    except PermissionError:
        pytest.skip("no devices may be made, or used, here")
    (tmp_path / "link").symlink_to(tmp_path / "null")
    for name in ("null", "link"):
        write_page(str(tmp_path / name), b"a page")
    assert stat.S_ISCHR((tmp_path / "null").lstat().st_mode)
    assert (tmp_path / "link").is_symlink()


def test_a_descriptor_is_written_into(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as file:
        write_page(f"/proc/self/fd/{file.fileno()}", b"a page")
    assert (tmp_path / "out").read_bytes() == b"a page"


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        for name in ("s", "."):
            with pytest.raises(BoxError, match="neither a file nor a pipe"):
                write_page(str(tmp_path / name), b"")


@pytest.mark.parametrize("options", [["--html", ""], ["--html", "-", "--json"]])
def test_what_makes_no_sense(options: list[str]) -> None:
    with pytest.raises(UsageError):
        CliRunner().invoke(module.report, ["/none", *options], catch_exceptions=False)
