"""The canonical form: one for what is the same, another one for whatever two readers could tell apart."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from ipaddress import ip_address, ip_network
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyengine.runtime.canonical_form import canonical_bytes
from policyengine.runtime.values import ABSENT, PENDING, Invalid, Unknown
from policyengine.typesystem import EntityRef

APART: list[object] = [
    None, ABSENT, PENDING, True, False, 0, 1, -1, Decimal("0.0"), Decimal("-0.0"), Decimal("1.0"), Decimal("1.5"),
    Decimal("1e300"), Decimal("-1.5"), Decimal("15"), "", "0", "1", "1.0", "true", "null", "a", "ab", "e\u0301",
    "\u00e9", "\ud800", "\ud801", b"", b"a", (), ((),), ("a", "b"), ("b", "a"), ("ab",), ("a", ("b",)), ("a", "b", ()),
    ((), ()), {}, {"a": None}, {"a": {}}, {"a": ()}, {"a": 1, "b": 2}, {"a": 2, "b": 1}, {"ab": 1}, {"a": {"b": 1}},
    {"a,b": 1}, frozenset(), frozenset({"a"}), frozenset({"a", "b"}), Invalid("x"), Invalid("y"), Invalid("x", "1"),
    Invalid("x", "2"), Unknown.missing("a"), Unknown.of("a", "absent "), Unknown.of("b", "absent"),
    EntityRef("user", "a"), EntityRef("usera", ""), 'user "a"', ip_address("10.0.0.1"), ip_address("::1"),
    ip_network("10.0.0.0/8"), ip_network("10.0.0.0/16"), "10.0.0.1", timedelta(seconds=1), timedelta(milliseconds=1),
    "1s", datetime(2027, 1, 1, tzinfo=UTC), datetime(2027, 1, 2, tzinfo=UTC), "2027-01-01T00:00:00+00:00",
]  # fmt: skip


def test_different_values_have_different_canonical_forms() -> None:
    for one, other in combinations(APART, 2):
        assert canonical_bytes(one) != canonical_bytes(other), (one, other)
        assert canonical_bytes((one, other)) != canonical_bytes((other, one)), (one, other)
        assert canonical_bytes({"a": one}) != canonical_bytes({"a": other}), (one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Decimal("1.0"), Decimal("1.00")),
        (Decimal("1E+2"), Decimal("100.0")),
        (Decimal("0.0"), Decimal("0.000")),
        ({"a": 1, "b": {"c": 2, "d": 3}}, {"b": {"d": 3, "c": 2}, "a": 1}),
        (frozenset({"a", "b"}), frozenset({"b", "a"})),
        ((1, 2), [1, 2]),
    ],
)
def test_equal_values_have_the_same_canonical_form(one: object, other: object) -> None:
    assert canonical_bytes(one) == canonical_bytes(other)


def test_the_canonical_form_of_a_huge_number_is_short() -> None:
    assert len(canonical_bytes(Decimal("1e6000"))) < 20


LEFT_OUT: dict[str, Any] = {"id": {}, "meta": {"trace": {}}}


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"id": 1, "a": 1}, {"id": 2, "a": 1}, True),
        ({"id": 1, "a": 1}, {"a": 1}, True),
        ({"id": 1, "a": 1}, {"id": 1, "a": 2}, False),
        ({"meta": {"trace": 1, "x": 1}}, {"meta": {"trace": 2, "x": 1}}, True),
        ({"meta": {"trace": 1, "x": 1}}, {"meta": {"trace": 1, "x": 2}}, False),
        ({"meta": {"trace": 1}}, {"meta": {}}, True),
        ({"meta": {"trace": 1}}, {}, False),
        ({"meta": [{"trace": 1}]}, {"meta": [{"trace": 2}]}, False),
        ({"a": {"id": 1}}, {"a": {"id": 2}}, False),
    ],
)
def test_omitted_members_are_not_part_of_the_canonical_form(one: object, other: object, same: bool) -> None:
    assert (canonical_bytes(one, LEFT_OUT) == canonical_bytes(other, LEFT_OUT)) is same


# ── By chance ─────────────────────────────────────────────────────────────────────────────────

NAMES = st.sampled_from(["", "a", "b", "ab", "\u00e9"])
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 2),
    st.sampled_from([Decimal("1.0"), Decimal("1.00"), Decimal("-1.5")]),
    NAMES,
)
TREES = st.recursive(
    LEAVES, lambda inner: st.one_of(st.lists(inner, max_size=3).map(tuple), st.dictionaries(NAMES, inner, max_size=3)),
    max_leaves=8,
)  # fmt: skip


def told(tree: object) -> object:
    """The tree as Python compares it, each value with its kind."""
    match tree:
        case dict():
            return "object", frozenset((name, told(one)) for name, one in tree.items())
        case tuple():
            return "list", tuple(map(told, tree))
        case _:
            return type(tree).__name__, tree


@given(TREES, TREES)
def test_random_trees_share_a_canonical_form_exactly_if_they_are_equal(one: object, other: object) -> None:
    assert (canonical_bytes(one) == canonical_bytes(other)) is (told(one) == told(other))
    pair, swapped = canonical_bytes((one, other)), canonical_bytes((other, one))
    assert (pair == swapped) is (told(one) == told(other))
