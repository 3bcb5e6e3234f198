"""How much there is to look through in a value: bounds of work count it."""

from __future__ import annotations

from decimal import Decimal

import pytest

from policyengine.runtime.value_size import LARGE_EXTENT, UNKNOWN_EXTENT, is_large, measure_extent
from policyengine.runtime.values import PartialObject
from policyengine.typesystem import EntityRef


def nested(depth: int) -> object:
    return [] if depth == 0 else [nested(depth - 1)]


@pytest.mark.parametrize(
    ("value", "extent"),
    [
        (None, 0), (7, 0), (Decimal(7), 0), ("x", 0), (EntityRef("user", "x"), 0), ([], 0), ([1, 2, 3], 3),
        (frozenset({1, 2}), 2), ([[1, 2, 3], []], 3), ({"a": [1, 2, 3, 4]}, 4), (nested(100), UNKNOWN_EXTENT),
        (object(), UNKNOWN_EXTENT), ([object()], UNKNOWN_EXTENT),
    ],
)  # fmt: skip
def test_the_largest_part_counts(value: object, extent: int) -> None:
    assert measure_extent(value) == extent


@pytest.mark.parametrize(
    ("value", "large"),
    [
        ({"a": [1, 2]}, False), ([0] * LARGE_EXTENT, True), ("x" * 64 * LARGE_EXTENT, True),
        ({"headers": PartialObject(a="b")}, False), (PartialObject(a=[0] * LARGE_EXTENT), True),
        (PartialObject.fromkeys(map(str, range(LARGE_EXTENT))), True),
    ],
)  # fmt: skip
def test_a_partly_known_object_is_as_large_as_its_parts(value: object, large: bool) -> None:
    """Gateways that do not show every header have one in each question."""
    assert is_large(value) is large
