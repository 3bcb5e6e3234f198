"""Workflows: who comes when, the same for the same seed."""

from collections import Counter

import pytest

from policyengine.clock import MICROSECONDS_PER_DAY
from policyengine.simulation import WORKFLOWS, expected_count
from tests.simulation.playing import SECOND, START, flow, plan


def times(name, how):
    return [(at, caller) for at, caller in WORKFLOWS[name].arrivals(how)]


@pytest.mark.parametrize("name", WORKFLOWS)
def test_the_same_seed_gives_the_same_ordered_traffic(name):
    how = plan(rate=2, seconds=600, callers=7, seed=3)
    found = times(name, how)
    assert found == times(name, how)
    assert found == sorted(found, key=lambda one: one[0])
    assert all(0 <= at < how.span and 0 <= caller < 7 for at, caller in found)


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_generates_about_the_expected_count(name):
    how = plan(rate=0.25, seconds=86_400, callers=10)
    assert len(times(name, how)) == pytest.approx(expected_count(name, how), rel=0.05)


@pytest.mark.parametrize("name", ["many", "daily"])
def test_another_seed_gives_other_traffic(name):
    assert times(name, plan(seed=1)) != times(name, plan(seed=2))


def test_steady_traffic_comes_evenly():
    assert [at for at, _ in times("steady", plan(rate=2, seconds=2))] == [0, 500_000, 1_000_000, 1_500_000]


def test_half_of_a_burst_comes_in_its_first_second():
    found = [at for at, _ in times("burst", plan(rate=1, seconds=120))]
    assert len(found) == 120
    assert sum(at < SECOND for at in found) == 30
    assert sum(60 * SECOND <= at < 61 * SECOND for at in found) == 30


def test_a_day_is_quietest_at_night_and_busiest_in_the_afternoon():
    hours = Counter(at * 24 // MICROSECONDS_PER_DAY for at, _ in times("daily", plan(seconds=86_400)))
    assert hours[14] > 10 * hours[2]


def test_in_the_many_workflow_a_few_callers_ask_most():
    asked = Counter(caller for _, caller in times("many", plan(rate=100, seconds=100, callers=1_000)))
    assert asked[0] > 50 * max(1, asked[900])
    assert asked.most_common(1)[0][0] == 0


def test_in_lockstep_all_callers_ask_at_the_same_time():
    found = times("lockstep", plan(rate=10, seconds=10, callers=50))
    assert Counter(at for at, _ in found) == {0: 50, 5 * SECOND: 50}


def test_a_runaway_agent_loops_during_the_middle_third():
    found = [at for at, _ in times("runaway", plan(rate=1, seconds=90))]
    thirds = Counter(at // (30 * SECOND) for at in found)
    assert thirds[0] == 30
    assert thirds[1] == pytest.approx(1_500, abs=2)
    assert thirds[2] == pytest.approx(30, abs=1)


def test_events_begin_at_the_start():
    assert flow("steady", plan())[0].at == START
