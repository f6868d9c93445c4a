"""What lives on after its parent, whatever it writes."""

from __future__ import annotations

import sys
import time

from vsbox.check.survivors import find_survivors


def test_who_lives_on_is_found() -> None:
    assert find_survivors([sys.executable], seconds=0.5, is_ours=True).result == "ok"
    assert find_survivors(["/bin/sh", "-c", "echo 7; exec sleep 20"], seconds=5).result == "ESRCH"


def test_who_goes_on_writing_holds_nothing_up() -> None:
    before = time.monotonic()
    assert find_survivors(["/bin/sh", "-c", "yes & echo 7; exec sleep 20"], seconds=0.5).result == "ok"
    assert time.monotonic() - before < 10
