"""Run a package's own tests inside and outside: ``python bench/large_suite.py``. Each test must end the same.

``sympy`` is the default: its tests are in its wheel, need nothing else that is not pinned here, and repeat to the
letter once hashing and hypothesis have a seed. The parts chosen compute, import hundreds of modules, write files,
compile, and start Python again; what takes minutes for a single test is left out. ``pandas`` is larger.

Run by root, the run outside gives up root's capabilities, as every box does: some tests ask for them.
Exit status 1 when a test ends differently inside. The budget for time is shown, not asserted.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from measure import Argv, RunFailedError
from run import BACKENDS, ENVIRONMENT, WORKLOADS, Box, last_line, make_box

BUDGET = 1.05
WITHOUT_CAPABILITIES = ("/usr/bin/setpriv", "--bounding-set=-all", "--inh-caps=-all")
NOT_RUN = "not run"
TESTERS = ("pytest==9.2.0", "hypothesis==6.170.17")

Outcomes = Mapping[str, tuple[str, str]]
"""Test -> how it ended, and why."""


@dataclass(frozen=True)
class Suite:
    """The tests to run: what must be installed, which parts of the package, with which options of pytest."""

    requirements: tuple[str, ...]
    package: str
    parts: tuple[str, ...]
    options: tuple[str, ...] = ()


SUITES = {
    "sympy": Suite(
        ("sympy==1.14.0", *TESTERS),
        "sympy",
        ("core", "utilities", "external", "testing", "codegen", "printing", "parsing", "interactive", "sets", "tensor"),
        ("--deselect=utilities/tests/test_wester.py",),
    ),
    "pandas": Suite(
        ("pandas==3.1.1", *TESTERS),
        "pandas",
        tuple(f"tests/{part}" for part in ("api", "config", "frame", "io", "series", "tslibs", "util")),
        ("-m", "not slow and not network and not db"),
    ),
}


@dataclass(frozen=True)
class Run:
    """One run of the suite: seconds, those of its processor time with all processes it started, and outcomes."""

    wall: float
    cpu: float
    outcomes: Outcomes


@dataclass(frozen=True)
class Difference:
    """A test that ends differently inside."""

    test: str
    outside: str
    inside: str
    why: str


@dataclass(frozen=True)
class Report:
    """What one backend came to: medians of the rounds' ratios, and the tests that need an explanation."""

    backend: str
    tests: int
    wall_s: list[tuple[float, float]]
    cpu_s: list[tuple[float, float]]
    wall: float
    cpu: float
    differences: list[Difference]
    unsteady: list[str]


def run_suite(start: Argv, suite: Suite, place: Path, environment: dict[str, str]) -> Run:
    """Run it in ``place``, which has the same name inside and outside and can be written."""
    target, log = place / "outcomes.json", place / "log"
    target.unlink(missing_ok=True)
    options = ("-q", "-p", "no:cacheprovider", "--hypothesis-seed=0", *suite.options)
    code = (WORKLOADS / "large_suite.py").read_text(encoding="utf-8")
    argv: Argv = (*start, "-c", code, str(target), suite.package, ",".join(suite.parts), *options)
    with log.open("w") as output:
        before = time.monotonic()
        process = subprocess.Popen(
            argv, cwd=place, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.monotonic() - before
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 1) or not target.exists():  # 1: tests failed
        raise RunFailedError(
            f"{start[-1]} ended with {process.returncode}: {last_line(log.read_text(errors='replace'))}"
        )
    return Run(wall, usage.ru_utime + usage.ru_stime, json.loads(target.read_text(encoding="utf-8")))


def run_outside(box: Box, suite: Suite, place: Path) -> Run:
    """As if the environment without sandbox and guard were activated."""
    bin_directory = Path(box.bare).parent
    path = f"{bin_directory}{os.pathsep}{ENVIRONMENT.get('PATH', os.defpath)}"
    own = {"HOME": str(box.root / "home"), "PATH": path, "VIRTUAL_ENV": str(bin_directory.parent)}
    start = (box.bare,) if os.getuid() else (*WITHOUT_CAPABILITIES, box.bare)
    return run_suite(start, suite, place, ENVIRONMENT | own | {"PYTHONHASHSEED": "0"})


def run_inside(box: Box, suite: Suite, place: Path) -> Run:
    return run_suite((str(box.root / "bin" / "python"),), suite, place, ENVIRONMENT | {"PYTHONHASHSEED": "0"})


def run_pairs(box: Box, suite: Suite, rounds: int) -> Iterator[tuple[Run, Run]]:
    """Yield (outside, inside), in turn; before that both collect only, which leaves bytecode behind."""
    place = box.root / "home" / "suite"
    place.mkdir()
    collect = Suite(suite.requirements, suite.package, suite.parts, (*suite.options, "--collect-only"))
    run_outside(box, collect, place)
    run_inside(box, collect, place)
    for number in range(rounds):
        print(f"{box.backend}: round {number + 1} of {rounds}", file=sys.stderr, flush=True)
        order = (run_inside, run_outside) if number % 2 else (run_outside, run_inside)
        first, second = (run(box, suite, place) for run in order)
        yield (second, first) if number % 2 else (first, second)


def ending(outcomes: Outcomes, test: str) -> str:
    return outcomes.get(test, (NOT_RUN, ""))[0]


def median_ratio(times: list[tuple[float, float]]) -> float:
    return statistics.median(inside / bare for bare, inside in times)


def compare(backend: str, pairs: list[tuple[Run, Run]]) -> Report:
    """Compare each test's end inside with that outside; what differs between two runs outside proves nothing."""
    outside = [pair[0].outcomes for pair in pairs]
    tests = sorted({test for pair in pairs for run in pair for test in run.outcomes})
    unsteady = [test for test in tests if len({ending(outcomes, test) for outcomes in outside}) > 1]
    differences = {}
    for test in set(tests).difference(unsteady):
        expected = ending(outside[0], test)
        for _, run in pairs:
            if ending(run.outcomes, test) != expected:
                why = (run.outcomes if test in run.outcomes else outside[0])[test][1]
                differences[test] = Difference(test, expected, ending(run.outcomes, test), why)
    wall = [(bare.wall, inside.wall) for bare, inside in pairs]
    cpu = [(bare.cpu, inside.cpu) for bare, inside in pairs]
    found = [differences[test] for test in sorted(differences)]
    return Report(backend, len(tests), wall, cpu, median_ratio(wall), median_ratio(cpu), found, unsteady)


def report_backend(backend: str, suite: Suite, rounds: int) -> Report:
    with tempfile.TemporaryDirectory(prefix="vsbox-suite-", dir=Path.home(), ignore_cleanup_errors=True) as place:
        box = make_box(backend, Path(place), set(suite.requirements))
        problem = box.problem or "; ".join(f"{name}: {why}" for name, why in box.lacking.items())
        if problem:
            raise RunFailedError(f"{backend}: {problem}")
        return compare(backend, list(run_pairs(box, suite, rounds)))


def lines(report: Report) -> Iterator[str]:
    yield f"{report.backend}: {report.tests} tests, {len(report.differences)} end differently inside"
    for what, ratio, times in (("wall", report.wall, report.wall_s), ("cpu", report.cpu, report.cpu_s)):
        seconds = ", ".join(f"{bare:.1f} -> {inside:.1f}" for bare, inside in times)
        yield f"  {what:5}{ratio:7.3f}  {'over' if ratio > BUDGET else 'within'} {BUDGET}  {seconds} s"
    for found in report.differences:
        yield f"  {found.test}: {found.outside} outside, {found.inside} inside: {found.why}"
    for test in report.unsteady:
        yield f"  {test}: not the same twice outside, not compared"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", choices=SUITES, default="sympy")
    parser.add_argument("--part", action="append", metavar="PATH", help="of the package, instead of those chosen")
    parser.add_argument("--backend", action="append", choices=BACKENDS, help="default: native and landlock")
    parser.add_argument("--rounds", type=int, default=2, metavar="N", help="runs outside and inside (default: 2)")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    options = parser.parse_args()
    suite = SUITES[options.suite]
    if options.part:
        suite = Suite(suite.requirements, suite.package, tuple(options.part), suite.options)
    reports = []
    try:
        for backend in options.backend or ("native", "landlock"):
            reports.append(report_backend(backend, suite, options.rounds))
            if not options.json:
                print(*lines(reports[-1]), sep="\n", flush=True)
    except RunFailedError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    if options.json:
        print(json.dumps([asdict(report) for report in reports], indent=2))
    return 1 if any(report.differences for report in reports) else 0


if __name__ == "__main__":
    sys.exit(main())
