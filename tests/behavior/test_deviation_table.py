"""Deviations by scores: a threshold allows at most its share of usual runs, and uses all of it."""

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyengine.behavior.deviation_table import WEIGHT, DeviationTable, cell_deviations, length_weights
from policyengine.behavior.row import SCORE_BUCKETS

NONE = (0,) * SCORE_BUCKETS


def tails_of(counts):
    """Return how many scores are in each bucket or above it."""
    return tuple(accumulate(reversed(counts)))[::-1]


def scores(total, *places):
    """Return the tails of `total` scores, of which one is in each of some buckets, and the others are in the first."""
    counts = [0] * SCORE_BUCKETS
    for place in places:
        counts[place] += 1
    counts[0] += total - len(places)
    return tails_of(counts)


counts = st.lists(st.integers(0, 300), min_size=SCORE_BUCKETS, max_size=SCORE_BUCKETS)


@given(counts, counts, st.integers(0, 999))
def test_of_usual_runs_a_threshold_allows_its_share(one, other, threshold):
    """The next run has a score in a bucket or above it with the probability of that share, and both scores may be high
    in different runs."""
    shares = 0.0
    for tails, others in ((tails_of(one), tails_of(other)), (tails_of(other), tails_of(one))):
        above = [deviation > threshold for deviation in cell_deviations(tails, others, WEIGHT)]
        assert above == sorted(above)  # a higher score is never less unusual
        if any(above):
            shares += (tails[above.index(True)] + 1) / (tails[0] + 1)
    assert shares <= 1 - threshold / 1_000


@given(counts, counts, st.integers(64, 200))
def test_shares_that_count_more_give_lower_deviations(one, other, weight):
    light = list(cell_deviations(tails_of(one), tails_of(other), WEIGHT))
    heavy = list(cell_deviations(tails_of(one), tails_of(other), weight))
    assert all(heavier <= lighter for heavier, lighter in zip(heavy, light, strict=True))


@pytest.mark.parametrize(("total", "exceeds"), [(199, False), (200, True)])
def test_two_scores_share_what_a_threshold_allows(total, exceeds):
    tails = scores(total)
    highest = list(cell_deviations(tails, tails, WEIGHT))[-1]
    assert (highest > 990) is exceeds


@pytest.mark.parametrize(("total", "exceeds"), [(99, False), (100, True)])
def test_a_score_that_is_never_unusual_leaves_all_to_the_other(total, exceeds):
    same = (50,) * SCORE_BUCKETS  # all runs have the highest score
    assert (list(cell_deviations(scores(total), same, WEIGHT))[-1] > 990) is exceeds
    assert max(cell_deviations(same, scores(total), WEIGHT)) == 0


def test_without_scores_nothing_deviates():
    table = DeviationTable((), ())
    assert (table.highest(0), table.highest(1)) == (0, 0)
    assert set(cell_deviations(NONE, NONE, WEIGHT)) == {0}


def test_longer_runs_share_what_a_threshold_allows_with_their_beginnings():
    some = scores(400, 5)
    assert length_weights(some + NONE) == (WEIGHT, 2 * WEIGHT)
    short, long = length_weights(some + some)  # all runs become longer ones
    assert WEIGHT / short + WEIGHT / long == pytest.approx(1, abs=0.01)


def test_each_number_of_runs_and_length_has_its_own_deviations():
    few, many = scores(400, *range(10, 20)), scores(400)
    table = DeviationTable(few + few, few + few + many + many)
    assert len(table.by_class) == len(table.by_caller) == 4 * SCORE_BUCKETS
    first, second = table.by_caller[5], table.by_caller[2 * SCORE_BUCKETS + 5]
    assert first < second  # where no earlier run has this score
    assert table.by_caller[SCORE_BUCKETS + 5] < first  # in a longer run
    assert table.highest(1) < table.highest(0) == max(table.by_class + table.by_caller)
