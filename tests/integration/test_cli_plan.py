"""A plan that is damaged, or not its owner's, starts nothing."""

from __future__ import annotations

import os
import random
import shutil
import struct
import sys
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cli_answers import Done, refused

from harness import lacking

if TYPE_CHECKING:
    from harness import Box, Person

HEADER = 32


def _checksummed(plan: bytes) -> bytes:
    """Return a changed plan with the checksum that fits, so that the decoder looks at what was changed."""
    body = plan[HEADER:]
    return plan[:16] + struct.pack("<QQ", len(body), zlib.adler32(body)) + body


IS_CONFINED = (
    "import sys\ntry:\n    open(sys.argv[1]).read()\nexcept OSError:\n    print('confined')\nelse:\n    print('OPEN')\n"
)


def _start_with_plan(box: Box, plan: bytes, secret: Path) -> Done[str]:
    path = box.root / "sandbox" / "plan"
    path.write_bytes(plan)
    return box.python(IS_CONFINED, str(secret), timeout=20)


@pytest.fixture
def secret(person: Person) -> Iterator[Path]:
    directory = person.directory("secret")
    yield person.write(directory / "secret", "secret")
    shutil.rmtree(directory)


def test_control_the_secret_is_there(person: Person, secret: Path) -> None:
    assert person.run([sys.executable, "-c", IS_CONFINED, str(secret)]).stdout == "OPEN\n"


def test_a_flipped_byte_is_refused(mended_box: Box, secret: Path) -> None:
    plan = (mended_box.root / "sandbox" / "plan").read_bytes()
    chosen = random.Random(7)
    for position in chosen.sample(range(len(plan)), 100):
        changed = bytearray(plan)
        changed[position] ^= 1 << chosen.randrange(8)
        done = _start_with_plan(mended_box, bytes(changed), secret)
        refused(done, 125, "plan")
    assert _start_with_plan(mended_box, plan, secret).stdout == "confined\n"


@pytest.mark.parametrize("length", [0, 1, 8, 31, 32, 33, 40, 100, -1, -8])
def test_a_truncated_plan_is_refused(length: int, mended_box: Box, secret: Path) -> None:
    plan = (mended_box.root / "sandbox" / "plan").read_bytes()
    refused(_start_with_plan(mended_box, plan[:length], secret), 125, "plan")
    if length > HEADER:
        refused(_start_with_plan(mended_box, _checksummed(plan[:length]), secret), 125, "plan")


def test_a_plan_with_more_behind_it_is_refused(mended_box: Box, secret: Path) -> None:
    plan = (mended_box.root / "sandbox" / "plan").read_bytes()
    for extra in (b"\0", b"x" * 100, plan):
        refused(_start_with_plan(mended_box, plan + extra, secret), 125, "plan")
        refused(_start_with_plan(mended_box, _checksummed(plan + extra), secret), 125, "plan")


def test_a_plan_that_others_may_write_is_refused(own_box: Box, secret: Path) -> None:
    path = own_box.root / "sandbox" / "plan"
    for mode in (0o666, 0o664, 0o646):
        path.chmod(mode)
        refused(own_box.python("print(1)"), 125, "others may write")
    path.chmod(0o644)
    assert own_box.python("print(1)").stdout == "1\n"


def test_a_plan_that_is_a_link_is_refused(own_box: Box) -> None:
    path = own_box.root / "sandbox" / "plan"
    path.rename(path.with_name("real"))
    path.symlink_to("real")
    refused(own_box.python("print(1)"), 125, "plan")


def test_a_plan_of_another_user_is_refused(own_box: Box) -> None:
    if os.geteuid() != 0:
        lacking("root", "only root can give files away")
    path = own_box.root / "sandbox" / "plan"
    os.chown(path, 12345, 12345)
    refused(own_box.python("print(1)"), 125, "uid")


@pytest.fixture
def open_place(person: Person) -> Iterator[Path]:
    """A directory of this person's that others may enter, other than a home of root."""
    made = Path(tempfile.mkdtemp(prefix="open-place-", dir="/var/tmp"))
    made.chmod(0o755)
    os.chown(made, person.uid, person.gid)
    yield made
    shutil.rmtree(made)


def test_a_box_of_another_user_is_refused(person: Person, backend: str, open_place: Path) -> None:
    if os.geteuid() != 0:
        lacking("root", "only root can become another user")
    root = open_place / "env"
    assert person.vsbox("-q", "--no-pip", "--backend", backend, root).returncode == 0
    root.chmod(0o755)
    command = [str(root / "bin" / "python"), "-c", "print(1)"]
    assert person.run(command).stdout == "1\n"
    stranger = replace(person, uid=23456, gid=23456)
    refused(stranger.run(command, cwd="/"), 125, "vsbox DIR")
