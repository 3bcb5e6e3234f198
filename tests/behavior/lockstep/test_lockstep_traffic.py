"""A small day of the benchmark's traffic: farms are found, and decoys are not."""

import pytest

from bench.lockstep import score
from bench.lockstep_traffic import make_traffic


def check_score(found):
    assert found.precision == 1
    assert found.recall >= 0.95
    assert found.steady >= 0.99
    assert found.mixed == 0
    assert found.decoys == 0


def test_farms_are_found_and_decoys_are_not():
    found = score(make_traffic(2_000, 130_000, 1))
    check_score(found)
    assert len(found.by_kind) == 15  # each kind of farms and of decoys is there
    assert min(size for _, size in found.by_kind.values()) > 0


@pytest.mark.deep
@pytest.mark.parametrize("seed", [1, 2])
def test_farms_are_found_among_more_callers_and_decoys_are_not(seed):
    check_score(score(make_traffic(3_000, 200_000, seed)))


def test_traffic_is_seeded():
    first, same, other = (make_traffic(500, 20_000, seed) for seed in (1, 1, 2))
    assert first.columns.times == same.columns.times
    assert first.columns.endpoints == same.columns.endpoints
    assert first.columns.times != other.columns.times
    assert first.kinds == same.kinds
