"""What a box costs, as ratios to the same environment unconfined: ``python bench/run.py``.

Needs vsbox installed in the Python that runs it. Numbers of one run compare with each other only.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from measure import Argv, Comparison, RunFailedError, compare

WORKLOADS = Path(__file__).parent / "workloads"
BWRAP = ("--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--unshare-all", "--share-net")
HOOK = "import sys; sys.addaudithook(lambda event, arguments: None)\n"
BACKENDS = ("native", "bubblewrap", "landlock")
ENVIRONMENT = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}


@dataclass(frozen=True)
class Box:
    """A box to measure with, or why there is none."""

    backend: str
    root: Path
    problem: str = ""
    lacking: dict[str, str] = field(default_factory=dict)

    @property
    def bare(self) -> str:
        """The environment's own Python, unconfined and without the guard."""
        return str(self.root.with_name(f"{self.root.name}-bare") / "bin" / "python")

    @property
    def hooked(self) -> str:
        """The same with an audit hook that does nothing: what every guard costs."""
        return str(self.root.with_name(f"{self.root.name}-hook") / "bin" / "python")

    @property
    def guarded(self) -> str:
        """The same with the guard."""
        return str(self.root / "inside" / "bin" / "python")


@dataclass(frozen=True)
class Case:
    """Something to measure: the arguments of Python, what must be installed, the budgets of DESIGN §7."""

    name: str
    what: str
    arguments: Callable[[Box], Argv]
    budgets: dict[str, float]
    rounds: int
    packages: tuple[str, ...] = ()


def workload(name: str) -> Callable[[Box], Argv]:
    text = (WORKLOADS / f"{name}.py").read_text(encoding="utf-8")
    return lambda _: ("-c", text)


def suite(box: Box) -> Argv:
    """The home of a box has the same name inside and outside."""
    place = box.root / "home" / "suite"
    place.mkdir(exist_ok=True)
    shutil.copy(WORKLOADS / "suite.py", place / "test_suite.py")
    return ("-m", "pytest", "-q", "-p", "no:cacheprovider", str(place))


def both(budget: float) -> dict[str, float]:
    return dict.fromkeys(BACKENDS, budget)


START_BUDGETS = {"native": 1.30, "bubblewrap": 1.60, "landlock": 1.12, "guard": 1.06}
CASES = (
    Case("start", "python -c pass", lambda _: ("-c", "pass"), START_BUDGETS, 200),
    Case("files", "20,000 x stat, open, close", workload("stat_open_close"), both(1.20) | {"guard": 1.10}, 20),
    Case("calls", "the same, one system call each", workload("system_calls"), {}, 20),
    Case("forks", "200 x fork", workload("forks"), both(1.15), 20),
    Case("numbers", "numpy and pandas", workload("numbers"), both(1.02), 10, ("numpy", "pandas")),
    Case("pytest", "790 tests", suite, both(1.02), 10, ("pytest",)),
)


@dataclass(frozen=True)
class Result:
    """One line of the table."""

    name: str
    what: str
    variant: str
    budget: float | None
    measured: Comparison | None
    reason: str = ""


def last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no reason given")


def run_quietly(*argv: str | Path) -> str:
    """Run a command; return why it failed, or nothing."""
    done = subprocess.run(list(map(str, argv)), capture_output=True, text=True, errors="replace", check=False)
    return "" if done.returncode == 0 else last_line(done.stderr + done.stdout)


def make_box(backend: str, place: Path, packages: set[str]) -> Box:
    root = place / backend
    problem = run_quietly(sys.executable, "-m", "vsbox", "-q", "--backend", backend, root)
    lacking = {}
    for package in () if problem else sorted(packages):
        why = run_quietly(root / "bin" / "pip", "install", "-q", "--disable-pip-version-check", package)
        if why:
            lacking[package] = why
    if not problem:
        for name in ("bare", "hook"):
            other = root.with_name(f"{root.name}-{name}")
            shutil.copytree(root / "inside", other, symlinks=True, ignore=shutil.ignore_patterns("_sandbox*"))
        for place_of_packages in other.glob("lib/python*/site-packages"):
            (place_of_packages / "hook.pth").write_text(HOOK, encoding="utf-8")
    return Box(backend, root, problem, lacking)


def variants(boxes: list[Box]) -> Iterator[tuple[str, Box, Argv]]:
    """Name, box, and how its Python is started."""
    for box in boxes:
        yield box.backend, box, (str(box.root / "bin" / "python"),)
    bwrap = shutil.which("bwrap")
    usable = [box for box in boxes if not box.problem]
    if usable:
        yield "guard", usable[0], (usable[0].guarded,)
        yield "hook", usable[0], (usable[0].hooked,)
    if bwrap and usable:
        yield "bwrap", usable[0], (bwrap, *BWRAP, usable[0].bare)


def measure_case(case: Case, boxes: list[Box], rounds: int | None) -> Iterator[Result]:
    for name, box, start in variants(boxes):
        budget = case.budgets.get(name)
        missing = [f"{package}: {why}" for package, why in box.lacking.items() if package in case.packages]
        reason = box.problem or "; ".join(missing)
        measured = None
        if not reason:
            arguments = case.arguments(box)
            try:
                measured = compare(
                    (box.bare, *arguments), (*start, *arguments), ENVIRONMENT, rounds=rounds or case.rounds
                )
            except RunFailedError as error:
                reason = str(error)
        yield Result(case.name, case.what, name, budget, measured, reason)


def measure_create(place: Path, rounds: int | None) -> Result:
    target = place / "created"
    measured, reason = None, ""
    try:
        measured = compare(
            (sys.executable, "-m", "virtualenv", "-q", str(target)),
            (sys.executable, "-m", "vsbox", "-q", str(target)),
            ENVIRONMENT,
            rounds=rounds or 15,
            clean=lambda: shutil.rmtree(target, ignore_errors=True),
        )
    except RunFailedError as error:
        reason = str(error)
    return Result("create", "vsbox DIR against virtualenv DIR", "vsbox", 1.25, measured, reason)


def measure_import(rounds: int | None) -> Result:
    measured = compare(
        (sys.executable, "-c", "pass"),
        (sys.executable, "-c", "import vsbox"),
        ENVIRONMENT,
        rounds=rounds or 100,
    )
    return Result("import", "import vsbox against bare start", "vsbox", 3.0, measured)


RUN = """\
import sys, time, subprocess, statistics, vsbox
bare, ours = [], []
vsbox.run("pass", backend=sys.argv[1])
for _ in range(int(sys.argv[2])):
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    middle = time.perf_counter()
    vsbox.run("pass", backend=sys.argv[1], check=True)
    bare.append(middle - start)
    ours.append(time.perf_counter() - middle)
print(*bare)
print(*ours)
"""
SESSION = """\
import sys, time, vsbox
with vsbox.Sandbox(backend=sys.argv[1]) as box:
    box.run("1+1")
    start = time.perf_counter()
    for _ in range(int(sys.argv[2])):
        box.run("1+1")
    print((time.perf_counter() - start) / int(sys.argv[2]) * 1000)
"""


def measure_run(backend: str, rounds: int | None) -> Result:
    """Both in one process, in turn; subprocess is what people would use instead."""
    argv = [sys.executable, "-c", RUN, backend, str(rounds or 100)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        return Result("run", "vsbox.run('pass') against subprocess.run", backend, 1.4, None, last_line(done.stderr))
    bare, ours = ([float(word) for word in line.split()] for line in done.stdout.splitlines())
    low, middle, high = statistics.quantiles([o / b for b, o in zip(bare, ours, strict=True)], n=4, method="inclusive")
    measured = Comparison(statistics.median(bare) * 1e3, statistics.median(ours) * 1e3, low, middle, high, len(bare))
    return Result("run", "vsbox.run('pass') against subprocess.run", backend, 1.4, measured)


def measure_session(backend: str, rounds: int | None) -> Result:
    """Milliseconds of a call that has nothing to do; the budget is 1."""
    argv = [sys.executable, "-c", SESSION, backend, str((rounds or 10) * 100)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        return Result("session", "session.run('1+1'), ms", backend, 1.0, None, last_line(done.stderr))
    each = float(done.stdout)
    return Result("session", "session.run('1+1'), ms", backend, 1.0, Comparison(0.0, each, each, each, each, 1))


def measure_all(names: list[str], rounds: int | None) -> Iterator[Result]:
    cases = [case for case in CASES if case.name in names]
    packages = {package for case in cases for package in case.packages}
    with tempfile.TemporaryDirectory(prefix="vsbox-bench-", dir=Path.home(), ignore_cleanup_errors=True) as place:
        boxes = [make_box(backend, Path(place), packages) for backend in BACKENDS] if cases else []
        for case in cases:
            yield from measure_case(case, boxes, rounds)
        if "create" in names:
            yield measure_create(Path(place), rounds)
        if "import" in names:
            yield measure_import(rounds)
        for backend in ("native", "landlock"):
            if "run" in names:
                yield measure_run(backend, rounds)
            if "session" in names:
                yield measure_session(backend, rounds)


HEAD = f"{'case':9}{'variant':12}{'bare ms':>10}{'ms':>10}{'ratio':>8}  {'quartiles':14}{'budget':>7}  what"


def line(result: Result) -> str:
    head = f"{result.name:9}{result.variant:12}"
    measured = result.measured
    if measured is None:
        return f"{head}skipped: {result.reason}"
    budget = f"{result.budget:.2f}" if result.budget else "-"
    over = "over" if result.budget and measured.median > result.budget else ""
    quartiles = f"{measured.low:.2f} .. {measured.high:.2f}"
    return (
        f"{head}{measured.bare_ms:10.2f}{measured.ms:10.2f}{measured.median:8.3f}  {quartiles:14}"
        f"{budget:>7}  {result.what} {over}".rstrip()
    )


def main() -> None:
    every = [*(case.name for case in CASES), "create", "import", "run", "session"]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", choices=every, metavar="NAME", help=f"one of {', '.join(every)}")
    parser.add_argument("--rounds", type=int, metavar="N", help="rounds of every case")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of the table")
    options = parser.parse_args()
    results = []
    if not options.json:
        print(HEAD, flush=True)
    for result in measure_all(options.only or every, options.rounds):
        results.append(asdict(result))
        if not options.json:
            print(line(result), flush=True)
    if options.json:
        print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
