"""Growth: exponents are those of the data, and every axis gives questions whose verdicts are known."""

import pytest

from bench import growth
from bench.axes import AXES
from policyengine.engine import Engine

SMALL = {"rules": 10, "depth": 4, "collections": 5, "chain": 2, "roles": 3}


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
def test_the_exponent_of_a_power_is_found(power: float) -> None:
    sizes = [10, 100, 1_000]
    assert growth.exponent(sizes, [3 * size**power for size in sizes]) == pytest.approx(power)


def test_one_point_has_no_exponent() -> None:
    assert growth.exponent([10], [1.0]) is None


@pytest.mark.parametrize("axis", SMALL)
def test_the_engine_gives_the_expected_verdicts_of_each_axis(axis: str) -> None:
    grown = AXES[axis].grow(SMALL[axis])
    decide = Engine.from_text(grown.text).decide
    assert grown.expected
    assert [decide(asked).allowed for asked in grown.questions[:60]] == grown.expected[:60]
    assert {True, False} == set(grown.expected[:60])


def test_the_entities_axis_grows_the_drive() -> None:
    grown = AXES["entities"].grow(20)
    assert len(grown.rows or []) > 100
    assert len(grown.questions) == 2_000
