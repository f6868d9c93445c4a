"""Any policy that can be written reads back; any bytes read to a policy or to an error."""

from __future__ import annotations

import json

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from vsbox.errors import PolicyError
from vsbox.policy.document import keys, parse, render
from vsbox.policy.model import Aspect, Environment, Limits, Policy

UTF8 = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
PATHS = st.lists(UTF8.map("/".__add__), max_size=3).map(tuple)
NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,9}", fullmatch=True)
VARIABLES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,9}", fullmatch=True)
COUNTS = st.none() | st.integers(1, 2**63 - 1)
SIZES = st.integers(4096, 2**63 - 1)

POLICIES = st.builds(
    Policy,
    venv_root=UTF8,
    preset=st.sampled_from(["venv", "strict"]),
    mode=st.sampled_from(["enforce", "log"]),
    allowed_paths=PATHS,
    read_only_paths=PATHS,
    hidden_paths=PATHS,
    network=st.sampled_from([None, "host", "none"]),
    packages=st.sampled_from([None, "write", "read"]),
    working_directory=st.sampled_from([None, "none", "read", "write"]),
    backend=st.sampled_from(["auto", "native", "landlock"]),
    environment=st.builds(
        Environment,
        pass_=st.lists(VARIABLES | VARIABLES.map("{}*".format), max_size=3).map(tuple),
        set=st.dictionaries(VARIABLES, UTF8.filter(lambda text: "\0" not in text), max_size=3),
    ),
    limits=st.builds(
        Limits,
        tmp_bytes=SIZES,
        shm_bytes=SIZES,
        cpu_seconds=COUNTS,
        file_bytes=st.none() | SIZES,
        open_files=COUNTS,
        processes=COUNTS,
    ),
    exposed_commands=st.lists(NAMES, max_size=3).map(tuple),
    allow_degraded=st.lists(st.sampled_from(Aspect), max_size=3).map(tuple),
)


def read(data: bytes) -> Policy | PolicyError:
    try:
        return parse(data)
    except PolicyError as error:
        return error


@given(POLICIES)
def test_round_trip(policy: Policy) -> None:
    back = parse(render(policy))
    assert msgspec.structs.replace(back, schema=None) == policy
    assert render(back) == render(policy)


@given(st.binary(max_size=200))
def test_bytes_are_a_policy_or_an_error(data: bytes) -> None:
    answer = read(data)
    assert isinstance(answer, Policy) or answer.hint


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | UTF8,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(UTF8 | st.sampled_from(keys()), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*keys(), "pass", "x"]), JSON, max_size=4))
def test_json_of_any_shape_is_a_policy_or_an_error(document: dict[str, object]) -> None:
    answer = read(json.dumps({"venv_root": "/v"} | document).encode())
    if isinstance(answer, Policy):
        assert set(document) <= set(keys())
        assert answer.mode in {"enforce", "log"}


@given(POLICIES, st.data())
def test_a_damaged_file_is_a_policy_or_an_error(policy: Policy, data: st.DataObject) -> None:
    text = bytearray(render(policy))
    at = data.draw(st.integers(0, len(text) - 1))
    text[at] = data.draw(st.integers(0, 255))
    answer = read(bytes(text))
    assert isinstance(answer, Policy) or str(answer).startswith("cannot read sandbox.json: ")
