"""A small day of the benchmark's traffic: farms are found, and decoys are not."""

import pytest

from bench.lockstep import score
from bench.lockstep_traffic import make_traffic


@pytest.mark.parametrize("seed", [1, 2])
def test_farms_are_found_and_decoys_are_not(seed):
    found = score(make_traffic(3_000, 200_000, seed))
    assert found.precision == 1
    assert found.recall >= 0.95
    assert found.steady >= 0.99
    assert found.mixed == 0
    assert found.decoys == 0


def test_traffic_is_seeded():
    first, same, other = (make_traffic(500, 20_000, seed) for seed in (1, 1, 2))
    assert first.columns.times == same.columns.times
    assert first.columns.endpoints == same.columns.endpoints
    assert first.columns.times != other.columns.times
    assert first.kinds == same.kinds
