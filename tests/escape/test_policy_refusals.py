"""What cannot be enforced does not run: a policy or plan that is missing or damaged is never "allow"."""

from __future__ import annotations

import json
import os

import pytest

from harness import lacking


def rewrite(path, change):
    path.write_bytes(change(path.read_bytes()))


def edited(**keys):
    def edit(data):
        return json.dumps(json.loads(data) | keys).encode()

    return edit


def flipped(data):
    return data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]


POLICY = {
    "empty": lambda _: b"",
    "cut short": lambda data: data[:-20],
    "null": lambda _: b"null",
    "list": lambda _: b"[]",
    "not UTF-8": lambda data: data.replace(b"venv_root", b"venv_r\xff\xfe"),
    "unknown key": edited(allow_everything=True),
    "wrong type": edited(allowed_paths="/"),
    "unknown mode": edited(mode="permissive"),
    "a switch that is none": edited(os_sandbox="no"),
    "relative grant": edited(allowed_paths=["x"]),
    "grant of everything": edited(allowed_paths=["/"]),
    "grant of everything for reading": edited(read_only_paths=["/"]),
    "grant with dots": edited(allowed_paths=["/usr/../etc"]),
    "unknown preset": edited(preset="none"),
    "unknown backend": edited(backend="none"),
    "unknown degradation": edited(allow_degraded=["everything"]),
    "another place": edited(venv_root="/nonexistent"),
    "deep": lambda _: b"[" * 100_000,
}
PLAN = {
    "empty": lambda _: b"",
    "cut short": lambda data: data[:-1],
    "one bit": flipped,
    "no steps": lambda data: data[:12] + b"\0\0\0\0" + data[16:],
    "longer": lambda data: data + b"\0",
    "text": lambda _: b"#!/bin/sh\n",
}


def assert_refused(box, statuses):
    done = box.python("print('RAN')")
    assert "RAN" not in done.stdout
    assert done.returncode in statuses
    assert done.stderr


def put_back(person, path, data, status):
    if path.is_symlink():
        path.unlink()
    path.write_bytes(data)
    path.chmod(0o644)
    os.chown(path, person.uid, person.gid)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.fixture
def own_box(person, backend, make_box):
    """A box shared by these tests, whose files are put back with their times."""
    box = make_box(person, backend, "--preset", "strict")
    paths = [box.root / "sandbox" / name for name in ("plan", "sandbox.json")]
    kept = [(path, path.read_bytes(), path.stat()) for path in paths]
    yield box
    for path, data, status in kept:
        put_back(person, path, data, status)


def test_it_runs_before(own_box):
    assert own_box.python("print('RAN')").stdout == "RAN\n"


@pytest.mark.parametrize("change", POLICY)
def test_a_damaged_policy_refuses(own_box, change):
    rewrite(own_box.root / "sandbox" / "sandbox.json", POLICY[change])
    assert_refused(own_box, {2, 125})


def test_a_missing_policy_refuses(own_box):
    (own_box.root / "sandbox" / "sandbox.json").unlink()
    assert_refused(own_box, {2, 125})
    assert_refused(own_box, {2, 125})


@pytest.mark.parametrize("change", PLAN)
def test_a_damaged_plan_refuses(own_box, change):
    rewrite(own_box.root / "sandbox" / "plan", PLAN[change])
    assert_refused(own_box, {125})


def test_a_missing_plan_refuses(own_box):
    (own_box.root / "sandbox" / "plan").unlink()
    assert_refused(own_box, {125})


@pytest.mark.parametrize("mode", [0o666, 0o664, 0o646])
def test_a_plan_that_others_may_write_refuses(own_box, mode):
    (own_box.root / "sandbox" / "plan").chmod(mode)
    assert_refused(own_box, {125})


def test_a_linked_plan_refuses(own_box):
    plan = own_box.root / "sandbox" / "plan"
    copy = own_box.person.write(own_box.root / "home" / "plan", "")
    copy.write_bytes(plan.read_bytes())
    plan.unlink()
    plan.symlink_to(copy)
    assert_refused(own_box, {125})
    copy.unlink()


def test_a_plan_of_somebody_else_refuses(own_box):
    if os.geteuid() != 0:
        lacking("root", "only root can give a file away")
    os.chown(own_box.root / "sandbox" / "plan", 12345, 12345)
    assert_refused(own_box, {125})


def test_a_grant_that_vanished_refuses(person, backend, make_box):
    granted = person.directory("escape-granted")
    box = make_box(person, backend, "--allow-read", str(granted), fresh=True)
    assert box.python("print('RAN')").stdout == "RAN\n"
    granted.rmdir()
    assert_refused(box, {125})
    os.utime(box.root / "sandbox" / "sandbox.json", (1, 1))
    assert_refused(box, {2})


def test_it_runs_after(own_box):
    assert own_box.python("print('RAN')").stdout == "RAN\n"
