"""Grants: which line of policy decides about a path."""

from __future__ import annotations

import pytest

from unit.machines import policy
from vsbox.errors import PolicyError
from vsbox.policy.grants import Access, Grant, check_path, grants_of, is_below, most_specific


def test_generosity_is_ordered() -> None:
    assert Access.HIDDEN < Access.READ < Access.WRITE


@pytest.mark.parametrize(
    ("path", "parent", "expected"),
    [
        ("/a", "/a", True),
        ("/a/b", "/a", True),
        ("/ab", "/a", False),
        ("/a", "/a/b", False),
        ("/a", "/", True),
        ("/", "/", True),
        ("/", "/a", False),
        ("/a\nb/c", "/a\nb", True),
        ("/a b", "/a", False),
    ],
)
def test_is_below_goes_by_components(path: str, parent: str, *, expected: bool) -> None:
    assert is_below(path, parent) is expected


@pytest.mark.parametrize("path", ["/", "/a", "/a b", "/a\nb", "/..a", "/a/...", "/é", '/"', "/\udcff"])
def test_paths_a_policy_may_name(path: str) -> None:
    assert check_path(path, key="allowed_paths") == path


@pytest.mark.parametrize(
    "path",
    ["", "a", "~/a", "./a", "/a/", "//a", "/a//b", "/a/./b", "/a/../b", "/..", "/.", "/a\0b", "$HOME/a"],
)
def test_paths_it_may_not(path: str) -> None:
    with pytest.raises(PolicyError) as caught:
        check_path(path, key="allowed_paths")
    assert repr(path) in str(caught.value)
    assert "allowed_paths" in str(caught.value)


@pytest.mark.parametrize("key", ["allowed_paths", "read_only_paths", "hidden_paths"])
def test_every_list_is_checked(key: str) -> None:
    with pytest.raises(PolicyError, match=key):
        grants_of(policy(**{key: ("relative",)}))


def test_a_grant_names_its_line() -> None:
    (grant,) = grants_of(policy(read_only_paths=("/a",)))
    assert grant == Grant("/a", Access.READ, "read_only_paths: /a")


@pytest.mark.parametrize(
    ("lists", "expected"),
    [
        ({"allowed_paths": ("/a",), "read_only_paths": ("/a",)}, Access.READ),
        ({"allowed_paths": ("/a",), "hidden_paths": ("/a",)}, Access.HIDDEN),
        ({"read_only_paths": ("/a",), "hidden_paths": ("/a",)}, Access.HIDDEN),
        ({"allowed_paths": ("/a", "/a")}, Access.WRITE),
    ],
)
def test_of_equals_the_strictest_wins(lists: dict[str, tuple[str, ...]], expected: Access) -> None:
    (grant,) = grants_of(policy(**lists))
    assert grant.access is expected


def test_parents_come_before_children() -> None:
    found = grants_of(policy(allowed_paths=("/a/b", "/a", "/a-b", "/a/b/c"), hidden_paths=("/a b",)))
    paths = [grant.path for grant in found]
    assert all(not is_below(a, b) for i, a in enumerate(paths) for b in paths[i + 1 :])


NESTED = grants_of(
    policy(
        allowed_paths=("/w", "/w/r/h/w"),
        read_only_paths=("/w/r",),
        hidden_paths=("/w/r/h", "/w/h"),
    )
)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/w", Access.WRITE),
        ("/w/x", Access.WRITE),
        ("/w/rr", Access.WRITE),
        ("/w/r", Access.READ),
        ("/w/r/x/y", Access.READ),
        ("/w/r/h", Access.HIDDEN),
        ("/w/r/h/x", Access.HIDDEN),
        ("/w/r/h/w", Access.WRITE),
        ("/w/r/h/w/x", Access.WRITE),
        ("/w/h/x", Access.HIDDEN),
        ("/", None),
        ("/x", None),
        ("/ww", None),
    ],
)
def test_the_most_specific_wins(path: str, expected: Access | None) -> None:
    grant = most_specific(NESTED, path)
    assert (grant.access if grant else None) is expected


def test_the_order_of_grants_does_not_matter() -> None:
    for path in ("/w/x", "/w/r/x", "/w/r/h/x"):
        assert most_specific(NESTED, path) == most_specific(reversed(NESTED), path)
