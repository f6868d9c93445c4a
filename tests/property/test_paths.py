"""Path containment and most-specific-wins, against slower and plainer definitions."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vsbox.errors import PolicyError
from vsbox.policy.grants import LISTS, Access, Grant, check_path, grants_of, is_below, most_specific
from vsbox.policy.model import Policy

# Few letters, so that paths meet; characters that sort below and above the slash, so that order shows.
LETTERS = st.text(alphabet="ab-. \n", min_size=1, max_size=3).filter(lambda name: name not in {".", ".."})
PATHS = st.lists(LETTERS, max_size=4).map(lambda names: "/" + "/".join(names))
LISTS_OF_PATHS = st.lists(PATHS.filter(lambda path: path != "/"), max_size=4).map(tuple)
POLICIES = st.builds(
    Policy,
    venv_root=st.just("/v"),
    allowed_paths=LISTS_OF_PATHS,
    read_only_paths=LISTS_OF_PATHS,
    hidden_paths=LISTS_OF_PATHS,
)


def contains(parent: str, path: str) -> bool:
    """By pathlib, which knows components."""
    return PurePosixPath(path).is_relative_to(PurePosixPath(parent))


def decided_by_hand(policy: Policy, path: str) -> Access | None:
    """Walk up from the path; the first directory that any list names decides, strictest list first."""
    for place in (path, *map(str, PurePosixPath(path).parents)):
        for key, access in sorted(LISTS, key=lambda entry: entry[1]):
            if place in getattr(policy, key):
                return access
    return None


@given(PATHS, PATHS)
def test_is_below_is_what_pathlib_says(path: str, parent: str) -> None:
    assert is_below(path, parent) == contains(parent, path)


@given(PATHS, LETTERS)
def test_a_child_is_below_and_its_parent_is_not(path: str, name: str) -> None:
    child = f"{path.rstrip('/')}/{name}"
    assert is_below(child, path)
    assert not is_below(path, child)


@given(PATHS, PATHS, PATHS)
def test_containment_is_transitive(a: str, b: str, c: str) -> None:
    if is_below(a, b) and is_below(b, c):
        assert is_below(a, c)


@given(POLICIES, PATHS)
def test_the_most_specific_wins(policy: Policy, path: str) -> None:
    grant = most_specific(grants_of(policy), path)
    assert (grant.access if grant else None) == decided_by_hand(policy, path)


@given(POLICIES)
def test_there_is_one_grant_a_path_and_it_names_a_line_that_exists(policy: Policy) -> None:
    grants = grants_of(policy)
    paths = [grant.path for grant in grants]
    assert len(paths) == len(set(paths))
    assert set(paths) == {path for key, _ in LISTS for path in getattr(policy, key)}
    for grant in grants:
        key, _, path = grant.rule.partition(": ")
        assert path == grant.path
        assert path in getattr(policy, key)


@given(POLICIES)
def test_parents_come_first(policy: Policy) -> None:
    paths = [grant.path for grant in grants_of(policy)]
    for i, path in enumerate(paths):
        assert not any(contains(later, path) for later in paths[i + 1 :])


@given(st.lists(st.builds(Grant, PATHS, st.sampled_from(Access), st.just("r")), max_size=6), PATHS)
def test_order_does_not_matter(grants: list[Grant], path: str) -> None:
    found = most_specific(grants, path)
    back = most_specific(grants[::-1], path)
    assert (found.path, found.access) == (back.path, back.access) if found and back else found is back


@given(st.text(alphabet="ab./~\0\n", max_size=8))
def test_a_path_that_is_accepted_means_one_place_only(text: str) -> None:
    try:
        path = check_path(text, key="k")
    except PolicyError:
        return
    assert path == "/" or path == "/" + "/".join(part for part in path.split("/") if part not in {"", ".", ".."})


@given(PATHS)
def test_a_normal_path_is_accepted(path: str) -> None:
    assert check_path(path, key="k") == path


@pytest.mark.parametrize(("path", "parent"), [("/a-b", "/a"), ("/a b", "/a"), ("/a.b", "/a")])
def test_characters_below_the_slash_fool_nobody(path: str, parent: str) -> None:
    assert not is_below(path, parent)
