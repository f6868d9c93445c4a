"""A test suite of the usual kind: many small tests, fixtures, some files."""

import json

import pytest


@pytest.fixture
def stored(tmp_path):
    path = tmp_path / "data.json"
    path.write_text(json.dumps({str(i): i for i in range(200)}))
    return path


@pytest.mark.parametrize("number", range(600))
def test_arithmetic(number):
    assert sum(range(number)) == number * (number - 1) // 2


@pytest.mark.parametrize("number", range(150))
def test_files(stored, number):
    assert json.loads(stored.read_text())[str(number)] == number


@pytest.mark.parametrize("number", range(40))
def test_work(number):
    values = [(i * 7919 + number) % 20_011 for i in range(20_000)]
    assert sorted(values) == sorted(set(values))
