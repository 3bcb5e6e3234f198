"""How much there is to look through in a value: bounds of work count it."""

from __future__ import annotations

from decimal import Decimal

import pytest

from policyengine.runtime.value_size import UNKNOWN_EXTENT, measure_extent
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
