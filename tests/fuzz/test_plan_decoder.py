"""The decoder in C: what Python encodes it reads, and nothing makes it read beyond its buffer.

``VSBOX_FUZZ_ITERATIONS`` and ``VSBOX_FUZZ_SEED`` make it run longer or elsewhere.
"""

from __future__ import annotations

import os
import random
import shutil
import struct
import subprocess
import zlib
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz.sanitized import ENVIRONMENT, HERE, build
from unit.machines import box, debian, policy, ubuntu
from vsbox.plan import steps
from vsbox.plan.compile import compile_plan
from vsbox.plan.encode import MAGIC, VERSION, encode
from vsbox.plan.model import Tier
from vsbox.plan.steps import Step

ITERATIONS = int(os.environ.get("VSBOX_FUZZ_ITERATIONS", "500000"))
SEED = int(os.environ.get("VSBOX_FUZZ_SEED", "1"))
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

STRINGS = st.binary(max_size=12).map(lambda data: os.fsdecode(data.replace(b"\0", b"")))
KINDS = {
    "str": STRINGS,
    "int": st.integers(0, 2**64 - 1),
    "bytes": st.binary(max_size=24),
    "tuple[str, ...]": st.lists(STRINGS, min_size=1, max_size=5).map(tuple),
}
STEPS = [step for step in Step.__subclasses__() if step.__module__ == steps.__name__]


def strategy(step: type[Step]) -> st.SearchStrategy[Step]:
    annotations = {name: str(kind) for name, kind in step.__annotations__.items() if name != "CODE"}
    return st.builds(step, **{name: KINDS[kind] for name, kind in annotations.items()})


PLANS = st.lists(st.sampled_from(STEPS).flatmap(strategy), max_size=12).map(tuple)


@pytest.fixture(scope="session")
def dump(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("dump_plan.c", tmp_path_factory.mktemp("dump"))


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Real plans of both tiers and one small plan for every step."""
    directory = tmp_path_factory.mktemp("corpus")
    plans = [
        compile_plan(policy(), debian(), box(), Tier.NAMESPACES).steps,
        compile_plan(policy(), ubuntu(), box(), Tier.LANDLOCK).steps,
        *((smallest(step),) for step in STEPS),
    ]
    paths = [directory / f"{i}.plan" for i in range(len(plans))]
    for path, plan in zip(paths, plans, strict=True):
        path.write_bytes(encode(plan))
    return paths


def smallest(step: type[Step]) -> Step:
    values: dict[str, object] = {"str": "/a", "int": 1, "bytes": b"b" * 8, "tuple[str, ...]": ("a", "b")}
    return step(*(values[str(kind)] for name, kind in step.__annotations__.items() if name != "CODE"))


def decoded(dump: Path, *plans: bytes) -> list[tuple[list[str], str]]:
    """Return, for every plan, what the decoder printed and its verdict."""
    answer = subprocess.run(
        [dump],
        input=b"".join(struct.pack("<I", len(plan)) + plan for plan in plans),
        capture_output=True,
        env=ENVIRONMENT,
        timeout=60,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr.decode()
    found: list[tuple[list[str], str]] = []
    lines: list[str] = []
    for line in answer.stdout.decode().splitlines():
        if line.startswith("= "):
            found.append((lines, line[2:]))
            lines = []
        else:
            lines.append(line)
    assert len(found) == len(plans)
    return found


def expected_field(value: object) -> list[str]:
    if isinstance(value, int):
        return [f"i:{value}"]
    if isinstance(value, str):
        return [f"s:{os.fsencode(value).hex()}"]
    if isinstance(value, bytes):
        return [f"b:{value.hex()}"]
    assert isinstance(value, tuple)
    return [field for item in value for field in expected_field(item)]


def expected(step: Step) -> str:
    fields = [field for value in msgspec.structs.astuple(step) for field in expected_field(value)]
    return " ".join([str(step.CODE), *fields])


def with_header(body: bytes, count: int) -> bytes:
    return MAGIC + struct.pack("<IIQQ", VERSION, count, len(body), zlib.adler32(body)) + body


def record(code: int, *fields: bytes, count: int | None = None) -> bytes:
    body = b"".join(struct.pack("<I", len(field)) + field for field in fields)
    return struct.pack("<II", code, len(fields) if count is None else count) + body


# ---- what Python writes ----


@PATIENT
@given(plan=PLANS)
def test_what_is_encoded_is_decoded(dump: Path, plan: tuple[Step, ...]) -> None:
    ((lines, verdict),) = decoded(dump, encode(plan))
    assert verdict == "ok"
    assert lines == [expected(step) for step in plan]


@pytest.mark.parametrize(("facts", "tier"), [(debian(), Tier.NAMESPACES), (ubuntu(), Tier.LANDLOCK)])
def test_a_real_plan(dump: Path, facts: object, tier: Tier) -> None:
    plan = compile_plan(policy(), facts, box(), tier).steps  # type: ignore[arg-type]
    ((lines, verdict),) = decoded(dump, encode(plan))
    assert verdict == "ok"
    assert lines == [expected(step) for step in plan]


@PATIENT
@given(text=STRINGS)
def test_both_sides_know_one_checksum(dump: Path, text: str) -> None:
    """A checksum computed by Python is accepted; any other is not."""
    good = encode((steps.Home(text),))
    bad = good[:24] + struct.pack("<Q", zlib.adler32(good[32:]) ^ 1) + good[32:]
    assert [verdict for _, verdict in decoded(dump, good, bad)] == ["ok", "its checksum does not match"]


# ---- what it refuses ----

GOOD = record(1, b"/v\0")
REFUSED = {
    "nothing": (b"", "it is not a plan"),
    "short header": (MAGIC + bytes(20), "it is not a plan"),
    "magic": (b"vsbxplan" + bytes(24), "it is not a plan"),
    "version": (MAGIC + struct.pack("<IIQQ", VERSION + 1, 0, 0, zlib.adler32(b"")), "another version"),
    "size": (MAGIC + struct.pack("<IIQQ", VERSION, 0, 1, zlib.adler32(b"")), "cut short"),
    "step 0": (with_header(record(0), 1), "unknown step"),
    "step beyond": (with_header(record(len(STEPS) + 1), 1), "unknown step"),
    "step far beyond": (with_header(record(0xFFFFFFFF), 1), "unknown step"),
    "too few fields": (with_header(record(1), 1), "wrong number of fields"),
    "too many fields": (with_header(record(1, b"a\0", b"b\0"), 1), "wrong number of fields"),
    "empty argv": (with_header(record(4), 1), "wrong number of fields"),
    "argv too long": (with_header(record(4, *[b"a\0"] * 65), 1), "wrong number of fields"),
    "string without end": (with_header(record(1, b"/v"), 1), "malformed field"),
    "string that ends early": (with_header(record(1, b"/v\0x\0"), 1), "malformed field"),
    "empty string": (with_header(record(1, b""), 1), "malformed field"),
    "short number": (with_header(record(2, bytes(4)), 1), "malformed field"),
    "long number": (with_header(record(2, bytes(9)), 1), "malformed field"),
    "field beyond the end": (with_header(struct.pack("<III", 1, 1, 0xFFFFFFFF) + b"/\0", 1), "cut short"),
    "record beyond the end": (with_header(GOOD + GOOD[:7], 2), "cut short"),
    "fewer records than said": (with_header(GOOD, 2), "cut short|unknown"),
    "more records than said": (with_header(GOOD + GOOD, 1), "bytes after its end"),
    "far more than fit": (with_header(GOOD, 0xFFFFFFFF), "cut short"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(dump: Path, name: str) -> None:
    data, cause = REFUSED[name]
    ((_, verdict),) = decoded(dump, data)
    assert any(part in verdict for part in cause.split("|")), verdict


def test_the_longest_argv_is_accepted(dump: Path) -> None:
    ((lines, verdict),) = decoded(dump, encode((steps.Compiler(("a",) * 64),)))
    assert (verdict, lines) == ("ok", [" ".join(["4"] + ["s:61"] * 64)])


@pytest.mark.parametrize("facts", [debian()])
def test_every_truncation_and_every_changed_byte_is_refused(dump: Path, facts: object) -> None:
    data = encode(compile_plan(policy(), facts, box(), Tier.NAMESPACES).steps)  # type: ignore[arg-type]
    spots = random.Random(SEED).sample(range(len(data)), 300)
    broken = [data[:at] for at in spots]
    broken += [data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :] for at in spots]
    broken += [data + b"\0"]
    assert not [verdict for _, verdict in decoded(dump, *broken) if verdict == "ok"]


@PATIENT
@given(plan=PLANS, data=st.data())
def test_corruption_with_a_right_checksum_stays_in_bounds(
    dump: Path, plan: tuple[Step, ...], data: st.DataObject
) -> None:
    """What still decodes, decodes to values of the plan's own bytes; a sanitizer watches."""
    body = bytearray(encode(plan)[32:])
    for _ in range(data.draw(st.integers(1, 3))):
        if body:
            body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    ((lines, verdict),) = decoded(dump, with_header(bytes(body), len(plan)))
    if verdict == "ok":
        strings = [field[2:] for line in lines for field in line.split(" ")[1:] if field[0] in "sb"]
        assert all(bytes.fromhex(text) in bytes(body) for text in strings)


# ---- fuzzing ----


def test_fuzz(tmp_path: Path, corpus: list[Path]) -> None:
    program = build("fuzz_plan.c", tmp_path)
    command = [program, str(SEED), str(ITERATIONS), *corpus]
    answer = subprocess.run(
        command, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=60 + ITERATIONS / 500
    )
    assert answer.returncode == 0, f"again with: VSBOX_FUZZ_SEED={SEED}\n{answer.stderr}"
    assert not answer.stderr
    words = answer.stdout.split()
    usable, refused = int(words[2]), int(words[4])
    assert min(usable, refused) > ITERATIONS / 100, "mutations must land on both sides of the checks"


BROKEN = (
    ('(uint64_t)(end - *at) < size', '(uint64_t)(end - *at) + 64 < size'),
    ('memchr(data, 0, size) == data + size - 1', 'data != NULL'),
    ('end - *at < 8', 'false'),
)


@pytest.mark.parametrize(("check", "nothing"), BROKEN, ids=[check for check, _ in BROKEN])
def test_the_fuzzer_finds_a_missing_check(tmp_path: Path, corpus: list[Path], check: str, nothing: str) -> None:
    """The control: take a check out of a copy of the decoder, and the sanitizers report."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "native").mkdir()
    shutil.copytree(HERE, tmp_path / "tests" / "fuzz")
    source = (HERE.parents[1] / "native" / "plan.c").read_text()
    assert check in source
    (tmp_path / "native" / "plan.c").write_text(source.replace(check, nothing))
    shutil.copy(HERE.parents[1] / "native" / "vsbox.h", tmp_path / "native")
    program = build(str(tmp_path / "tests" / "fuzz" / "fuzz_plan.c"), tmp_path)
    answer = subprocess.run(
        [program, "1", "100000", *corpus], env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=120
    )
    assert answer.returncode != 0
    assert "Sanitizer" in answer.stderr or answer.returncode == -6


if shutil.which("clang"):

    def test_libfuzzer(tmp_path: Path, corpus: list[Path]) -> None:
        """Where there is no clang, the mutator of our own is what looks for holes."""
        flags = ["-DLIBFUZZER", "-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all"]
        program = build("fuzz_plan.c", tmp_path, *flags, compiler="clang")
        seeds = corpus[0].parent
        answer = subprocess.run(
            [program, "-max_total_time=10", f"-seed={SEED}", f"-artifact_prefix={tmp_path}/", seeds],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert answer.returncode == 0, answer.stderr[-3000:]
