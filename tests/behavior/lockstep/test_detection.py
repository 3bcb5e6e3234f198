"""Groups: their evidence, their names, and that they depend on the events only."""

import subprocess
import sys
from random import Random

import pytest

from policyengine.behavior.lockstep import detection
from policyengine.behavior.lockstep.bounds import MAX_MOMENTS
from policyengine.behavior.lockstep.detection import LockstepError, find_groups
from tests.behavior.lockstep.movements import BEGIN, DAY, HOUR, INDEPENDENT, KEY, MINUTE, SECOND, Movements
from tests.depth import scaled

pytestmark = scaled


@pytest.fixture(scope="module")
def town():
    town = Movements()
    for size in (3, 6, 12):
        town.move(town.newcomers(size), town.beats(40))
    return town


def test_each_farm_is_a_group(town):
    first = INDEPENDENT
    assert town.pools() == [
        list(range(first, first + 3)),
        list(range(first + 3, first + 9)),
        list(range(first + 9, first + 21)),
    ]


def test_the_evidence_says_why_each_member_belongs_to_the_group(town):
    for group in town.find().groups:
        assert group.slot == 4 * SECOND
        assert {member.caller for member in group.evidence} == set(group.members)
        for member in group.evidence:
            assert member.partners == len(group.members) - 1
            assert member.partner in group.members
            assert member.partner != member.caller
            assert member.runs == 40
            assert 30 <= member.common <= 40
            assert member.expected < 2
            assert member.q_value < 1e-9
            assert abs(member.lag) < 2 * SECOND
            assert BEGIN < member.confirmed < BEGIN + DAY


def test_a_follower_has_its_lag_as_evidence():
    town = Movements()
    callers, beats = town.newcomers(3), town.beats(40)
    for place, caller in enumerate(callers):
        town.move([caller], beats, jitter=0, late=7 * SECOND * place)
    [group] = town.find().groups
    lags = {member.caller.agent: member.lag for member in group.evidence}
    assert abs(lags[f"agent {INDEPENDENT}"] - 7 * SECOND) <= SECOND
    assert abs(abs(lags[f"agent {INDEPENDENT + 1}"]) - 7 * SECOND) <= SECOND
    assert abs(lags[f"agent {INDEPENDENT + 2}"] + 7 * SECOND) <= SECOND


def test_moments_show_which_members_moved_when(town):
    for group in town.find().groups:
        assert len(group.moments) == MAX_MOMENTS
        assert [moment.at for moment in group.moments] == sorted(moment.at for moment in group.moments)
        for moment in group.moments:
            assert {caller for caller, _ in moment.members} <= set(group.members)
            assert len(moment.members) >= 2
            assert all(0 <= at - moment.at <= group.slot for _, at in moment.members)


def test_the_common_minutes_of_a_group_are_counted_and_have_moments(town):
    every = find_groups(town.columns(), town.callers, KEY, ready=town.ready, most_moments=1_000)
    for group, usual in zip(every.groups, town.find().groups, strict=True):
        assert 30 <= len(group.moments) == group.minutes.total <= 80
        assert group.minutes.first == group.moments[0].at // MINUTE * MINUTE
        assert group.minutes.last == group.moments[-1].at // MINUTE * MINUTE
        assert usual.minutes == group.minutes
        assert set(usual.moments) < set(group.moments)


def test_the_order_of_the_events_does_not_matter(town):
    shuffled = Movements()
    shuffled.callers, shuffled.ready, shuffled.events = town.callers, town.ready, list(town.events)
    Random(7).shuffle(shuffled.events)
    assert shuffled.find() == town.find()


def test_a_group_is_named_after_its_members_and_the_key(town):
    first = find_groups(town.columns(), town.callers, KEY, ready=town.ready)
    other = find_groups(town.columns(), town.callers, b"another", ready=town.ready)
    assert [group.id for group in first.groups] == [group.id for group in town.find().groups]
    assert {group.id for group in first.groups}.isdisjoint(group.id for group in other.groups)


def test_a_group_keeps_the_name_of_the_earlier_group_with_most_members_in_common():
    town = Movements()
    group, beats = town.newcomers(6), town.beats(40)
    town.move(group, beats)
    [earlier] = town.find().groups
    town.move(town.newcomers(2), beats)
    [later] = town.find([earlier]).groups
    assert len(later.pooled) == 8
    assert later.id == earlier.id
    assert town.find().groups[0].id != earlier.id


def test_a_group_that_falls_apart_gives_its_name_to_the_larger_part():
    town = Movements()
    group = town.newcomers(9)
    town.move(group, town.beats(40))
    [earlier] = town.find().groups
    town.events = [event for event in town.events if event[1] not in group]
    town.move(group[:5], town.beats(40))
    town.move(group[5:], town.beats(40))
    names = {len(found.pooled): found.id for found in town.find([earlier]).groups}
    assert names[5] == earlier.id != names[4]


def test_members_that_become_ready_still_share_limits():
    town = Movements()
    group = town.newcomers(4)
    town.move(group, town.beats(40))
    [earlier] = town.find().groups
    for caller in group:
        town.ready[caller] = earlier.evidence[0].confirmed - MINUTE
    late = [member._replace(confirmed=BEGIN - DAY) for member in earlier.evidence]
    assert town.find().groups[0].pooled == ()
    assert town.numbers(town.find([earlier._replace(evidence=tuple(late))]).groups[0].pooled) == group


def test_callers_of_two_earlier_groups_do_not_share_limits_once_they_are_ready():
    town = Movements()
    groups = [town.newcomers(4), town.newcomers(4)]
    for group in groups:
        town.move(group, town.beats(40))
    earlier = [
        found._replace(evidence=tuple(member._replace(confirmed=BEGIN - DAY) for member in found.evidence))
        for found in town.find().groups
    ]
    town.events = [event for event in town.events if event[1] < groups[0][0]]
    town.ready = [BEGIN] * len(town.callers)
    town.move([*groups[0], *groups[1]], town.beats(40))
    found = town.find(earlier).groups
    assert sorted(town.numbers(group.pooled) for group in found if group.pooled) == groups


def test_readiness_is_computed_from_own_runs_and_days():
    town = Movements(independent=0)
    town.callers, known = town.callers, town.newcomers(4)
    for day in range(8):
        for caller in known:
            town.move([caller], [day * DAY + beat for beat in town.beats(4)])
    joiners = town.newcomers(3)
    town.move(known + joiners, [9 * DAY + beat for beat in town.beats(40)])
    columns = detection.EventColumns(BEGIN, BEGIN + 11 * DAY)
    for event in town.events:
        columns.add(*event)
    [group] = find_groups(columns, town.callers, KEY).groups
    assert town.numbers(group.pooled) == joiners
    assert town.numbers(group.reported) == known


@pytest.mark.parametrize(("days", "groups"), [(2, 1), (3, 0)])
def test_a_schedule_that_repeats_daily_is_recognized_from_the_third_day_on(days, groups):
    town = Movements(independent=0)
    beats = town.beats(12)
    town.move(town.newcomers(5), [day * DAY + beat for day in range(days) for beat in beats])
    assert len(town.find(days=days).groups) == groups


def test_no_events_are_no_groups():
    assert Movements(independent=0).find().groups == ()
    quiet = Movements(independent=0)
    quiet.move(quiet.newcomers(1), [HOUR])
    assert quiet.find().groups == ()


def test_without_numpy_the_error_names_the_extra(monkeypatch):
    for name in ("moments", "pair_search", "readiness"):
        monkeypatch.delattr(f"policyengine.behavior.lockstep.{name}", raising=False)
        monkeypatch.setitem(sys.modules, f"policyengine.behavior.lockstep.{name}", None)
    with pytest.raises(LockstepError, match=r"numpy.*\[behavior\]"):
        Movements(independent=0).find()


def test_decisions_do_not_load_numpy():
    code = "import sys, policyengine.engine, policyengine.behavior.lockstep.detection; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
