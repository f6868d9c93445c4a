"""sandbox.json: read strictly, with advice; written so that it reads back."""

from __future__ import annotations

import json

import msgspec
import pytest

from unit.machines import policy
from vsbox.errors import PolicyError
from vsbox.policy import document
from vsbox.policy.document import keys, parse, render, schema
from vsbox.policy.model import Aspect, Environment, Limits, Policy
from vsbox.policy.presets import PRESETS, with_preset

FULL = policy(
    preset="strict",
    allowed_paths=("/a", "/b c"),
    read_only_paths=("/r\né",),
    hidden_paths=('/h"',),
    network="none",
    packages="write",
    working_directory="write",
    backend="landlock",
    environment={"pass": ("A_*", "B"), "set": {"C": "x y"}},
    limits={"tmp_bytes": 8192, "cpu_seconds": 5},
    exposed_commands=("git",),
    allow_degraded=("signals", "shared-memory"),
)
KNOWN = ["venv_root", "mode", "allowed_paths", "read_only_paths"]


def read(**document_keys: object) -> Policy:
    return parse(json.dumps({"venv_root": "/v", **document_keys}).encode())


@pytest.mark.parametrize("given", [policy(), FULL], ids=["minimal", "full"])
def test_what_is_written_reads_back(given: Policy) -> None:
    back = parse(render(given))
    assert msgspec.structs.replace(back, schema=None) == given


@pytest.mark.parametrize("given", [policy(), FULL], ids=["minimal", "full"])
def test_the_four_known_keys_are_always_there_and_first(given: Policy) -> None:
    text = json.loads(render(given))
    assert list(text)[:5] == ["$schema", *KNOWN]


def test_writing_is_for_people() -> None:
    text = render(policy(allowed_paths=("/data",)))
    assert text.endswith(b"}\n")
    assert b'\n  "allowed_paths": [' in text


def test_a_name_that_is_not_utf8_cannot_be_written() -> None:
    given = msgspec.structs.replace(policy(), allowed_paths=("/\udcff",))
    with pytest.raises(PolicyError, match="not UTF-8"):
        render(given)


@pytest.mark.parametrize(
    ("key", "advice"),
    [
        ("allowed_path", "'allowed_paths'"),
        ("readonly_paths", "'read_only_paths'"),
        ("netwrok", "'network'"),
        ("$shema", "'$schema'"),
        ("zzzz", "known keys: "),
    ],
)
def test_an_unknown_key_is_an_error_with_advice(key: str, advice: str) -> None:
    with pytest.raises(PolicyError, match=key.replace("$", r"\$")) as caught:
        read(**{key: []})
    assert advice in (caught.value.hint or "")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"x"',
        b"{}",
        b'{"venv_root": "/v"} x',
        b'{"venv_root": "/v",}',
        b'\xff{"venv_root": "/v"}',
        b'{"venv_root": "\xff"}',
        b'{"venv_root": "\\ud800"}',
        b'\xef\xbb\xbf{"venv_root": "/v"}',
        b"[" * 100_000,
        b'{"venv_root":' + b'{"a":' * 100_000,
    ],
    ids=lambda data: repr(data[:24]),
)
def test_what_is_not_a_policy_is_an_error(data: bytes) -> None:
    with pytest.raises(PolicyError) as caught:
        parse(data, name="/v/sandbox.json")
    assert str(caught.value).startswith("cannot read /v/sandbox.json: ")
    assert caught.value.exit_code == 2
    assert caught.value.hint


@pytest.mark.parametrize(
    "wrong",
    [
        {"venv_root": 1},
        {"mode": "off"},
        {"mode": None},
        {"preset": "open"},
        {"network": "localhost"},
        {"packages": True},
        {"backend": "docker"},
        {"allowed_paths": "/a"},
        {"allowed_paths": [1]},
        {"allowed_paths": None},
        {"environment": {"pass": ["A=B"]}},
        {"environment": {"pass": ["*"]}},
        {"environment": {"pass": ["A*B"]}},
        {"environment": {"set": {"A=B": ""}}},
        {"environment": {"set": {"": ""}}},
        {"environment": {"set": {"A": 1}}},
        {"environment": {"sett": {}}},
        {"limits": {"cpu_seconds": 0}},
        {"limits": {"cpu_seconds": "5"}},
        {"limits": {"cpu_seconds": 1.5}},
        {"limits": {"tmp_bytes": 1}},
        {"limits": {"tmp_bytes": -5}},
        {"limits": {"tmp_bytes": 1 << 64}},
        {"limits": {"open_files": 1 << 64}},
        {"limits": {"memory": 1}},
        {"exposed_commands": ["../git"]},
        {"exposed_commands": ["a/b"]},
        {"exposed_commands": [""]},
        {"exposed_commands": [".hidden"]},
        {"exposed_commands": ["git\n"]},
        {"exposed_commands": ["x" * 129]},
        {"allow_degraded": ["everything"]},
        {"allow_degraded": ["*"]},
    ],
    ids=json.dumps,
)
def test_a_wrong_value_is_an_error(wrong: dict[str, object]) -> None:
    with pytest.raises(PolicyError):
        read(**wrong)


@pytest.mark.parametrize(
    "right",
    [
        {"limits": {"tmp_bytes": 4096, "cpu_seconds": 1}},
        {"environment": {"pass": ["A", "_B*"], "set": {"A": ""}}},
        {"exposed_commands": ["git", "g++", "2to3", "python3.12"]},
        {"allow_degraded": [aspect.value for aspect in Aspect]},
    ],
    ids=json.dumps,
)
def test_a_right_value_is_not(right: dict[str, object]) -> None:
    assert read(**right).venv_root == "/v"


def test_a_value_cannot_hold_what_the_plan_cannot_carry() -> None:
    with pytest.raises(PolicyError):
        read(environment={"set": {"A": "x\0y"}})


# ---- the schema ----


def definition(name: str) -> dict[str, object]:
    return dict(schema()["$defs"][name])


def test_the_schema_has_the_keys_and_allows_no_other() -> None:
    found = definition("Policy")
    assert list(found["properties"]) == keys()  # type: ignore[call-overload]
    assert found["additionalProperties"] is False
    assert found["required"] == ["venv_root"]


@pytest.mark.parametrize("struct", [Environment, Limits])
def test_nested_keys_are_strict_too(struct: type[msgspec.Struct]) -> None:
    found = definition(struct.__name__)
    assert found["additionalProperties"] is False
    names = [field.encode_name for field in msgspec.structs.fields(struct)]
    assert list(found["properties"]) == names  # type: ignore[call-overload]


def test_the_schema_names_every_aspect() -> None:
    assert sorted(definition("Aspect")["enum"]) == sorted(a.value for a in Aspect)  # type: ignore[call-overload]


def test_the_file_refers_to_the_schema_beside_it() -> None:
    assert json.loads(render(policy()))["$schema"] == document.SCHEMA_NAME


# ---- presets ----


@pytest.mark.parametrize(
    ("preset", "expected"),
    [("venv", ("host", "write", "read")), ("strict", ("none", "read", "none"))],
)
def test_a_preset_fills_what_is_absent(preset: str, expected: tuple[str, ...]) -> None:
    filled = with_preset(policy(preset=preset))
    assert (filled.network, filled.packages, filled.working_directory) == expected


@pytest.mark.parametrize("preset", PRESETS)
def test_what_is_said_wins_over_the_preset(preset: str) -> None:
    said = policy(preset=preset, network="none", packages="read", working_directory="write")
    assert with_preset(said) == said


def test_every_preset_has_a_name_and_every_name_a_preset() -> None:
    allowed = definition("Policy")["properties"]["preset"]["enum"]  # type: ignore[index,call-overload]
    assert set(allowed) == set(PRESETS)


def test_a_preset_leaves_nothing_open() -> None:
    for preset in PRESETS:
        filled = with_preset(policy(preset=preset))
        assert None not in (filled.network, filled.packages, filled.working_directory)
