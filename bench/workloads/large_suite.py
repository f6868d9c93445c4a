"""Run tests and write how each one ended: ``OUTCOMES PACKAGE PARTS OPTION ...``, PARTS joined by commas."""

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest


class Recorder:
    def __init__(self):
        self.outcomes = {}

    def pytest_collectreport(self, report):
        if not report.passed:
            self.record(report.nodeid, report.outcome, report)

    def pytest_runtest_logreport(self, report):
        if report.when == "call" or not report.passed:
            expected = hasattr(report, "wasxfail")
            self.record(report.nodeid, f"{report.outcome}, failure expected" if expected else report.outcome, report)

    def record(self, test, outcome, report):
        """Of a test that passed and whose teardown failed, both count."""
        ended, why = self.outcomes.get(test, ("", ""))
        crash = getattr(report.longrepr, "reprcrash", None)
        told = crash.message if crash else report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        lines = str(told or "").strip().splitlines()
        self.outcomes[test] = ("; ".join(filter(None, (ended, outcome))), why or (lines[0][:300] if lines else ""))


target, package, parts, *options = sys.argv[1:]
home = Path(find_spec(package).origin).parent
recorder = Recorder()
status = pytest.main(
    [f"--rootdir={home}", *options, *(str(home / part) for part in parts.split(","))], plugins=[recorder]
)
Path(target).write_text(json.dumps(recorder.outcomes), encoding="utf-8")
sys.exit(status)
