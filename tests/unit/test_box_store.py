"""Files of a box are replaced as a whole or not at all."""

from __future__ import annotations

import errno
import os
import resource
import signal
import stat
from pathlib import Path

import pytest

from unit.machines import box, debian, policy
from vsbox.box.layout import Layout
from vsbox.box.store import load_interpreter, load_policy, save_policy, summary, write_atomically
from vsbox.errors import BoxError, PolicyError
from vsbox.plan.compile import compile_plan
from vsbox.plan.model import Tier


def fail_with(code: int) -> object:
    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


@pytest.mark.parametrize("call", ["replace", "fchmod"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_failure_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    path = tmp_path / "plan"
    write_atomically(path, b"old")
    monkeypatch.setattr(os, call, fail_with(code))
    with pytest.raises(OSError, match=os.strerror(code)):
        write_atomically(path, b"new" * 1000)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["plan"]


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    """A limit on file sizes stands in for it; the write fails half-way, for real."""
    path = tmp_path / "plan"
    write_atomically(path, b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            write_atomically(path, b"new" * 10_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_an_interruption_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "plan"
    write_atomically(path, b"old")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fchmod", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_success_replaces_it(tmp_path: Path) -> None:
    path = tmp_path / "plan"
    write_atomically(path, b"old" * 100)
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["plan"]


@pytest.mark.parametrize("mask", [0o000, 0o077])
def test_the_mode_is_the_one_asked_for(tmp_path: Path, mask: int) -> None:
    """The launcher refuses a plan that others may write to, so the umask must not decide."""
    before = os.umask(mask)
    try:
        write_atomically(tmp_path / "plan", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "plan").stat().st_mode) == 0o644


def test_a_link_is_replaced_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("theirs")
    (tmp_path / "plan").symlink_to(victim)
    write_atomically(tmp_path / "plan", b"ours")
    assert victim.read_text() == "theirs"
    assert not (tmp_path / "plan").is_symlink()


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    found = Layout(tmp_path / "env")
    found.sandbox.mkdir(parents=True)
    return found


def test_a_policy_is_written_with_its_schema(layout: Layout) -> None:
    wanted = policy(venv_root=str(layout.root))
    save_policy(layout, wanted)
    assert load_policy(layout).venv_root == str(layout.root)
    assert (layout.sandbox / "sandbox.schema.json").is_file()


def test_a_missing_policy_is_an_error_and_never_a_policy(layout: Layout) -> None:
    with pytest.raises(PolicyError, match="No such file"):
        load_policy(layout)


@pytest.mark.parametrize("content", [b"", b"{}", b'{"executable": "/usr/bin/python3"}', b"\xff"])
def test_a_broken_interpreter_note_is_an_error(layout: Layout, content: bytes) -> None:
    (layout.sandbox / "interpreter.json").write_bytes(content)
    with pytest.raises(BoxError, match=r"interpreter\.json") as caught:
        load_interpreter(layout)
    assert "--clear" in (caught.value.hint or "")


def test_a_summary_cannot_draw_on_the_terminal() -> None:
    """It is printed by a shell when a box is activated."""
    plan = compile_plan(policy(), debian(), box(), Tier.NAMESPACES)
    text = summary(policy(allowed_paths=("/a\x1b[2J\nx",)), plan)
    assert "\x1b" not in text
    assert all(line.startswith(("Sandboxed", "  ")) for line in text.splitlines())
