"""Pairs and their groups: probabilities, runs, and dense parts of graphs."""

from itertools import combinations
from math import exp, factorial

import numpy as np
import pytest

from policyengine.behavior.events import ALLOWED
from policyengine.behavior.lockstep.bounds import LAGS, MAX_RUN_EVENTS, MAX_RUN_TIME, RUN_PAUSE, SLOTS
from policyengine.behavior.lockstep.candidates import find_candidates
from policyengine.behavior.lockstep.columns import EventColumns
from policyengine.behavior.lockstep.comparison import PairColumns
from policyengine.behavior.lockstep.membership import GroupMembers, form_groups
from policyengine.behavior.lockstep.ordered_events import OrderedEvents
from policyengine.behavior.lockstep.pair import LockstepPair
from policyengine.behavior.lockstep.pair_groups import dense_groups
from policyengine.behavior.lockstep.pair_search import significant_pairs
from policyengine.behavior.lockstep.significance import poisson_tail, q_values
from tests.behavior.lockstep.movements import BEGIN, DAY, SECOND, Movements


def ordered(events):
    columns = EventColumns(BEGIN, BEGIN + DAY)
    for at, endpoint, run in events:
        columns.add(BEGIN + at, 0, endpoint, run, ALLOWED)
    return OrderedEvents(columns)


@pytest.mark.parametrize(("count", "mean"), [(1, 0.1), (5, 0.08), (9, 2.5), (40, 3.0), (20, 10.0)])
def test_the_tail_is_the_sum_of_all_larger_counts(count, mean):
    expected = 1 - sum(exp(-mean) * mean**number / factorial(number) for number in range(count))
    [found] = poisson_tail(np.array([count]), np.array([mean]))
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_a_count_close_to_the_mean_is_not_significant():
    assert poisson_tail(np.array([19]), np.array([10.0])).tolist() == [1]


def test_q_values_are_the_expected_share_of_false_pairs():
    found = q_values(np.array([0.001, 0.5, 0.0001, 0.002]), 10)
    assert found == pytest.approx([0.005, 1, 0.001, 0.02 / 3])


@pytest.mark.parametrize(("tests", "found"), [(10, 1), (1_000_000, 0)])
def test_a_pair_among_many_needs_more_evidence(tests, found):
    columns = PairColumns(*(np.array([value]) for value in (3, 1, 5, 0.5, 200, 60_000)))
    pairs = significant_pairs(columns, np.array([SLOTS[0]]), tests, BEGIN)
    assert len(pairs) == found
    assert all(pair[:3] == (1, 3, 5) and pair[5:] == (SLOTS[0], -200, BEGIN + 60_000) for pair in pairs)


@pytest.mark.parametrize(("partners", "reported"), [(2, ()), (3, (9,))])
def test_a_resident_is_reported_with_a_group_if_it_moves_with_most_of_its_members(partners, reported):
    edges = [*combinations(range(5), 2), *((member, 9) for member in range(partners))]
    pairs = [LockstepPair(*edge, 20, 0.1, 0.001, SLOTS[0], 0, 1) for edge in edges]
    assert form_groups(pairs, [2] * 9 + [0], {}) == (GroupMembers(tuple(range(5)), reported),)


def test_shifts_are_longer_than_slots_and_balanced():
    assert len(LAGS) == 12
    assert sum(LAGS) == 0
    assert min(map(abs, LAGS)) > max(SLOTS)


def test_runs_end_at_another_key_and_after_a_pause():
    events = [(0, 1, 5), (10, 2, 5), (20, 1, 6), (20 + RUN_PAUSE, 2, 6), (21 + 2 * RUN_PAUSE, 3, 6)]
    assert ordered(events).run_starts.tolist() == [0, 20, 21 + 2 * RUN_PAUSE]


def test_runs_at_the_same_time_are_separated_by_their_keys():
    events = [(10 * number, number, 5 + number % 2) for number in range(8)]
    assert ordered(events).run_starts.tolist() == [0, 10]


def test_long_runs_are_divided():
    assert len(ordered([(number, 1, 0) for number in range(2 * MAX_RUN_EVENTS + 1)]).run_starts) == 3
    assert len(ordered([(number * RUN_PAUSE, 1, 0) for number in range(2 * MAX_RUN_TIME // RUN_PAUSE)]).run_starts) == 2


def test_a_bigram_depends_on_the_endpoint_before_it_in_the_run():
    found = ordered([(0, 1, 5), (10, 2, 5), (20, 2, 5), (30, 1, 6), (40, 2, 6), (50, 2, 7)]).bigrams.tolist()
    assert found[:2] == found[3:5]
    assert len(set(found)) == 4


@pytest.mark.parametrize("slot", SLOTS)
def test_requests_at_both_sides_of_the_border_of_a_slot_are_at_one_time(slot):
    columns = EventColumns(BEGIN, BEGIN + DAY)
    for number in range(20):
        for caller in (0, 1):
            border = BEGIN + (1 + number * number) * 3 * slot
            columns.add(border + (100 if caller else -100), caller, 1, number + 1, ALLOWED)
    found = find_candidates(OrderedEvents(columns), slot)
    assert (found.first.tolist(), found.second.tolist()) == ([0], [1])


def test_common_runs_to_expect_by_chance_are_measured_at_other_times():
    town = Movements(independent=0)
    group, runs = town.newcomers(3), 180
    town.move(group, town.beats(60), jitter=200)
    for caller in group:
        town.move([caller], town.beats(runs))
    for member in town.find().groups[0].evidence:
        assert (60 + runs) ** 2 * 4 * SECOND / DAY == pytest.approx(member.expected, rel=0.4)
        assert 50 <= member.common <= 75


@pytest.mark.parametrize("missing", [0, 2])
def test_a_clique_is_a_group_even_if_few_pairs_are_missing(missing):
    assert dense_groups(list(combinations(range(8), 2))[missing:]) == [tuple(range(8))]


def test_a_chain_is_no_group():
    assert dense_groups([(number, number + 1) for number in range(10)]) == []


def test_a_caller_between_two_cliques_belongs_to_one_of_them():
    pairs = [*combinations(range(5), 2), *combinations(range(10, 15), 2)]
    found = dense_groups([*pairs, *((other, 20) for pair in pairs for other in pair)])
    assert sorted(len(group) for group in found) == [5, 6]


def test_a_clique_with_callers_at_its_edge_loses_only_these():
    assert dense_groups([*combinations(range(6), 2), (0, 9), (1, 9), (9, 10)]) == [tuple(range(6))]
