"""Long runs: the properties of generated cases, many policies each."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.generate import Case, cases, shrunk
from tests.generate.properties import PROPERTIES

pytestmark = pytest.mark.deep


@pytest.mark.parametrize("holds", PROPERTIES, ids=lambda one: one.__name__)
@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32 - 1))
def test_a_property_holds_for_many_generated_cases(holds: Callable[[Case], None], seed: int) -> None:
    for case in cases(seed, questions=12):
        try:
            holds(case)
        except AssertionError as error:
            raise AssertionError(
                f"{error}\n\nseed {seed}, made small:\n{shrunk(case, lambda one: broken(holds, one))}"
            ) from error


def broken(holds: Callable[[Case], None], case: Case) -> bool:
    try:
        holds(case)
    except AssertionError:
        return True
    return False
