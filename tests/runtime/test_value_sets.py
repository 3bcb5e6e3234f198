"""Looking up by a hash means what comparing each with each means."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyengine.runtime import arithmetic
from policyengine.runtime.value_keys import value_key
from policyengine.runtime.value_sets import ValueSet, family_of
from policyengine.runtime.values import Unknown, Value, coerce
from policyengine.spec.kleene import conjunction, disjunction, lift
from policyengine.typesystem import EntityRef, Scalar, SetType

UNKNOWN = st.sampled_from([Unknown.of("body.a", "expected int, got string"), Unknown.missing("body.b")])
NUMBERS = st.sampled_from(
    [0, 1, 2, -1, 2**63, Decimal("1.0"), Decimal("1.5"), Decimal("1.50"), Decimal(2**63), Decimal("1e40")]
)
FAMILIES = [
    st.booleans(),
    NUMBERS,
    st.sampled_from(["", "a", "A", "1", "é"]),
    st.sampled_from([timedelta(0), timedelta(hours=1), timedelta(minutes=60)]),
    st.sampled_from([ip_address("10.0.0.1"), ip_address("::1"), ip_address("10.0.0.2")]),
    st.sampled_from([ip_network("10.0.0.0/8"), ip_network("10.0.0.0/9"), ip_network("a::/16")]),
    st.sampled_from([EntityRef("user", "a"), EntityRef("team", "a"), EntityRef("user", "b")]),
]
NESTED = [st.lists(st.lists(one, max_size=2).map(tuple), max_size=2).map(tuple) for one in FAMILIES]
MIXED = st.lists(st.one_of(*NESTED, *FAMILIES, UNKNOWN), max_size=2).map(tuple)  # lists, of what cannot be compared too
PAIRS = st.sampled_from([*FAMILIES, *NESTED]).flatmap(lambda one: st.tuples(*[st.lists(one | UNKNOWN, max_size=4)] * 2))


def found(collection: list[Value], item: Value) -> Value:
    """As the language defines it: the item is compared with each."""
    return disjunction(lift(lambda a, b: arithmetic.equal(a, b), one, item) for one in collection)


@given(PAIRS)
def test_a_hash_lookup_agrees_with_comparing_each_element(pair: tuple[list[Value], list[Value]]) -> None:
    left, right = pair
    for item in (one for one in left if not isinstance(one, Unknown)):
        elements = ValueSet.of(right)
        assert elements.decides(family_of(item))
        assert elements.has(item) == found(right, item)


@given(PAIRS)
def test_hashed_overlap_and_subset_agree_with_comparing_each_element(pair: tuple[list[Value], list[Value]]) -> None:
    left, right = pair
    one, other = ValueSet.of(left), ValueSet.of(right)
    assert one.decides(other.family)
    assert one.overlaps(other) == disjunction(found(right, item) for item in left)
    assert one.within(other) == conjunction(found(right, item) for item in left)


@given(st.tuples(*[st.lists(MIXED, max_size=3)] * 2))
def test_hash_lookups_of_lists_agree_with_comparing_each_element(
    pair: tuple[list[Value], list[Value]],
) -> None:
    left, right = pair
    one, other = ValueSet.of(left), ValueSet.of(right)
    if one.decides(other.family):
        assert one.overlaps(other) == disjunction(found(right, item) for item in left)
        assert one.within(other) == conjunction(found(right, item) for item in left)
        assert [other.has(item) for item in left] == [found(right, item) for item in left]


NO_FAMILY = [
    [{"a": 1}],
    [1, "a"],
    [True, 1],
    [({"a": 1},)],
    [(1,), ("a",)],
    [(Unknown.missing("a"),)],
    [(1,), ((),)],
    [(), 1],
]


@pytest.mark.parametrize("elements", NO_FAMILY)
def test_hash_lookup_is_not_used_for_objects_and_mixed_elements(elements: list[Any]) -> None:
    assert ValueSet.of(elements).family is None


def test_hash_lookup_is_not_used_for_another_kind_of_value() -> None:
    assert not ValueSet.of([1, 2]).decides(family_of(True))
    assert not ValueSet.of(["1"]).decides(family_of(1))
    assert not ValueSet.of([(1, 2)]).decides(family_of(1))
    assert not ValueSet.of([(1, 2)]).decides(family_of(((1, 2),)))


COLLIDING = [Decimal(7) + Decimal(2**61 - 1) * k for k in range(1_000)]  # of one hash in Python


@pytest.mark.parametrize("number", COLLIDING[10:13])
def test_numbers_with_the_same_python_hash_have_different_keys(number: Decimal) -> None:
    assert hash(number) == hash(COLLIDING[0])
    assert len({hash(value_key(one)) for one in COLLIDING}) > 990


def test_number_lists_with_the_same_python_hash_have_different_keys() -> None:
    lists = [(7 + (2**61 - 1) * k, 7 + (2**61 - 1) * m) for k in range(4) for m in range(4)]
    assert len({hash(one) for one in lists}) == 1
    assert len({hash(value_key(one)) for one in lists}) == len(lists)


def test_a_set_deduplicates_many_colliding_numbers() -> None:
    assert coerce([*COLLIDING, *COLLIDING], SetType(Scalar.NUMBER), "body.a") == tuple(COLLIDING)


@given(NUMBERS, NUMBERS)
def test_number_keys_are_equal_exactly_if_the_numbers_are(left: int | Decimal, right: int | Decimal) -> None:
    assert (value_key(left) == value_key(right)) == (left == right)
