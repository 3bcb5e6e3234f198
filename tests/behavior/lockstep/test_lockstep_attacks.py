"""Attacks on the search for groups: no caller can get another throttled, and what hides a group."""

from itertools import combinations
from random import Random

import pytest

from policyengine.behavior.lockstep.membership import form_groups
from policyengine.behavior.lockstep.pair import LockstepPair
from tests.behavior.lockstep.movements import BEGIN, DAY, HOUR, MINUTE, SECOND, Movements
from tests.depth import scaled

pytestmark = scaled


@pytest.mark.parametrize("late", [900, -900], ids=["mimics follow", "mimics lead"])
def test_attack_12_ten_mimics_do_not_pull_a_resident_in(late):
    town = Movements()
    [victim], mimics, beats = town.residents(1), town.newcomers(10), town.beats(40)
    town.move([victim], beats, jitter=0)
    town.move(mimics, beats, jitter=300, late=late)
    [group] = town.find().groups
    assert town.numbers(group.pooled) == mimics
    assert town.numbers(group.reported) == [victim]


def test_attack_12_a_coincidence_before_a_caller_was_ready_does_not_make_it_a_newcomer():
    town = Movements()
    beats = town.beats(40)
    victim, mimics = town.caller(ready=BEGIN + beats[3] + MINUTE), town.newcomers(10)
    town.move([victim, *mimics], beats)
    assert town.pools() == [mimics]


def test_attack_12_one_early_mimic_does_not_open_a_resident_for_others():
    town = Movements()
    beats = town.beats(60)
    victim, mimics = town.caller(ready=BEGIN + beats[25]), town.newcomers(6)
    town.move([victim, mimics[0]], beats)
    town.move(mimics[1:], beats[27:])
    [group] = town.find().groups
    assert town.numbers(group.pooled) == mimics
    assert town.numbers(group.reported) == [victim]


@pytest.mark.parametrize("seed", range(20))
def test_pairs_with_residents_have_no_influence_on_who_shares_limits(seed):
    random = Random(seed)
    ready = [0] * 10 + [2**62] * 20
    edges = {tuple(sorted(random.sample(range(30), 2))) for _ in range(random.choice([60, 150, 300]))}
    edges |= set(combinations(range(12, 17), 2))
    pairs = [LockstepPair(*edge, 20, 0.1, 0.001, 4_000, 0, 1) for edge in sorted(edges)]
    expected = [group.pooled for group in form_groups(pairs, ready, {}) if group.pooled]
    newcomers = [pair for pair in pairs if pair.first >= 10]
    assert [group.pooled for group in form_groups(newcomers, ready, {}) if group.pooled] == expected
    assert expected
    assert min(min(pool) for pool in expected) >= 10


def test_attack_12_residents_that_move_together_are_only_reported():
    town = Movements()
    residents = town.residents(5)
    town.move(residents, town.beats(40))
    [group] = town.find().groups
    assert (group.pooled, town.numbers(group.reported)) == ((), residents)


@pytest.mark.parametrize("count", [1, 2])
def test_attack_13_few_that_join_a_group_of_residents_share_no_limit(count):
    town = Movements()
    residents, joiners = town.residents(20), town.newcomers(count)
    town.move(residents + joiners, town.beats(40))
    [group] = town.find().groups
    assert group.pooled == ()
    assert town.numbers(group.reported) == residents + joiners


def test_attack_13_many_that_join_a_group_of_residents_share_limits_with_each_other_only():
    town = Movements()
    residents, joiners = town.residents(20), town.newcomers(4)
    town.move(residents + joiners, town.beats(40))
    [group] = town.find().groups
    assert (town.numbers(group.pooled), town.numbers(group.reported)) == (joiners, residents)


def test_attack_13_a_newcomer_that_joins_a_pool_of_ready_callers_does_not_share_their_limit():
    town = Movements()
    group, beats = town.newcomers(5), town.beats(60)
    town.move(group, beats)
    for caller in group:
        town.ready[caller] = BEGIN + beats[20]
    joiner = town.caller()
    town.move([joiner], beats[25:])
    [found] = town.find().groups
    assert (town.numbers(found.pooled), town.numbers(found.reported)) == (group, [joiner])


@pytest.mark.parametrize("bridges", [1, 3])
def test_attack_14_bridges_do_not_join_two_groups(bridges):
    town = Movements()
    groups, beats = [town.newcomers(8), town.newcomers(8)], [town.beats(40), town.beats(40)]
    between = town.newcomers(bridges)
    for group, times in zip(groups, beats, strict=True):
        town.move(group, times)
        town.move(between, times)
    pools = town.pools()
    assert len(pools) == 2
    assert [set(pool) - set(between) for pool in pools] == list(map(set, groups))


def test_attack_14_residents_do_not_join_two_groups_of_newcomers():
    town = Movements()
    groups, beats = [town.newcomers(4), town.newcomers(4)], [town.beats(40), town.beats(40)]
    residents = town.residents(12)
    for group, times in zip(groups, beats, strict=True):
        town.move(group, times)
        town.move(residents, times)
    assert town.pools() == groups


def test_attack_14_less_than_a_fifth_of_its_runs_does_not_bind_a_caller():
    town = Movements()
    group, bridge, beats = town.newcomers(6), town.caller(), town.beats(70)
    town.move(group, beats)
    town.move([bridge], beats[:12])
    town.move([bridge], town.beats(60))
    assert town.pools() == [group]


@pytest.mark.parametrize("jitter", [SECOND, 10 * SECOND, 30 * SECOND])
def test_attack_15_jitter_of_half_a_minute_does_not_hide_a_group(jitter):
    town = Movements(independent=100)
    group = town.newcomers(8)
    town.move(group, town.beats(60), jitter)
    assert town.pools() == [group]


def test_attack_16_jitter_of_minutes_hides_a_group():
    town = Movements()
    town.move(town.newcomers(8), town.beats(60), 5 * MINUTE)
    assert town.find().groups == ()


@pytest.mark.parametrize("period", [HOUR, 10 * MINUTE, 7 * MINUTE, 97 * SECOND])
def test_attack_17_callers_with_the_same_schedule_are_no_group(period):
    town = Movements(independent=50)
    for _ in range(2):
        first = town.random.randrange(period)
        town.move(town.newcomers(4), range(first, DAY - HOUR, period))
    assert town.find().groups == ()


def test_attack_17_a_schedule_with_several_times_an_hour_is_no_group():
    town = Movements(independent=50)
    beats = [HOUR * hour + MINUTE * minute for hour in range(22) for minute in (7, 19, 26)]
    town.move(town.newcomers(4), beats)
    assert town.find().groups == ()


def test_attack_17_a_schedule_with_several_times_a_day_is_no_group():
    town = Movements(independent=0)
    day = sorted(town.random.sample(range(1, 1_380), 12))
    town.move(town.newcomers(4), [DAY * number + MINUTE * minute for number in range(4) for minute in day])
    assert town.find(days=5).groups == ()


def test_attack_17_callers_that_skip_parts_of_the_same_schedule_are_no_group():
    town = Movements(independent=0)
    beats = range(7 * MINUTE, DAY - HOUR, 10 * MINUTE)
    for caller in town.newcomers(25):
        town.move([caller], [beat for beat in beats if town.random.random() < 0.6])
    assert town.find().groups == ()


def test_attack_17_scheduled_runs_do_not_count_as_evidence_beside_a_few_others():
    town = Movements()
    group = town.newcomers(5)
    town.move(group, [5 * HOUR // 2, 11 * HOUR // 3, 31 * HOUR // 4, *(hour * HOUR for hour in (13, 14, 15))])
    assert town.find().pairs == 0


def test_attack_17_a_schedule_beside_the_common_runs_does_not_hide_a_group():
    town = Movements()
    group = town.newcomers(8)
    town.move(group, town.beats(40))
    town.move(group, range(0, DAY - HOUR, HOUR), workflow=2)
    assert town.pools() == [group]


def test_attack_18_two_callers_are_no_group():
    town = Movements()
    for _ in range(10):
        town.move(town.newcomers(2), town.beats(40))
    found = town.find()
    assert (found.groups, found.pairs) == ((), 10)


def test_attack_18_two_that_move_with_one_resident_share_no_limit():
    town = Movements()
    town.move([*town.newcomers(2), *town.residents(1)], town.beats(40))
    assert town.pools() == []


def test_attack_19_keys_that_are_replaced_after_few_runs_are_no_group():
    town = Movements()
    for beats in zip(*[iter(town.beats(40))] * 4, strict=True):
        town.move(town.newcomers(8), beats)
    assert town.find().groups == ()


def test_attack_26_a_run_without_end_does_not_hide_a_group():
    town = Movements(independent=50)
    group = town.newcomers(5)
    town.move(group, town.beats(60))
    for caller in group:
        own = [(BEGIN + town.random.randrange(DAY), caller, 900 + town.random.randrange(9), 0, 0) for _ in range(400)]
        town.events = [(at, number, tag, 0 if number == caller else run, 0) for at, number, tag, run, _ in town.events]
        town.events += own
    assert town.pools() == [group]


def test_denied_requests_do_not_bind_a_caller():
    town = Movements()
    victim, beats = town.newcomers(1), town.beats(40)
    town.move(victim, beats)
    before = len(town.events)
    town.move(town.newcomers(5), beats)
    town.events[before:] = [(at, number, tag, run, 1) for at, number, tag, run, _ in town.events[before:]]
    assert town.find().groups == ()
    assert town.columns().denied == 5 * 40 * 4


def test_callers_that_one_popular_event_triggers_are_no_group_but_a_crowd():
    town = Movements()
    crowd, beats = town.newcomers(80), town.beats(40)
    town.move(crowd, beats)
    found = town.find()
    assert found.groups == ()
    [reported] = found.crowds
    assert town.numbers(reported.callers) == crowd
    assert (reported.size, len(reported.times)) == (80, pytest.approx(40, abs=5))


def test_a_crowd_that_follows_a_schedule_is_not_reported():
    town = Movements()
    town.move(town.newcomers(80), range(7 * MINUTE, DAY - HOUR, HOUR))
    found = town.find()
    assert (found.groups, found.crowds) == ((), ())


def test_callers_of_a_popular_workflow_at_independent_times_are_no_crowd():
    town = Movements(independent=400)
    assert town.find().crowds == ()


def test_a_farm_is_found_among_callers_of_its_popular_workflow():
    town = Movements(independent=600)
    farm = town.newcomers(6)
    town.move(farm, town.beats(40))
    assert town.pools() == [farm]


def test_parallel_runs_at_few_times_are_little_evidence():
    town = Movements()
    group, moments = town.newcomers(5), town.beats(4)
    for _ in range(10):
        town.move(group, moments)
    assert town.find().groups == ()


def test_a_long_run_beside_many_short_runs_is_little_evidence():
    town = Movements(independent=50)
    group, beats = town.newcomers(4), [beat + step * MINUTE for beat in town.beats(3) for step in range(12)]
    town.move(group, [beat + town.random.randrange(30 * SECOND) for beat in beats])
    town.events = [(*event[:3], 0 if event[1] in group[:3] else event[3], 0) for event in town.events]
    assert town.find().groups == ()
