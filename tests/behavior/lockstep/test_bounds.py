"""Bounds: no input takes more memory or work than the constants say, and what is left out is counted."""

from random import Random

import numpy as np
import pytest

from policyengine.behavior.events import ALLOWED, DENIED, BehaviorEvent, Caller, Tagger
from policyengine.behavior.lockstep import candidates, columns, comparison, pair_groups, pair_search
from policyengine.behavior.lockstep.bounds import MAX_CALLER_EVENTS, MAX_CALLERS, MAX_TOKEN_CALLERS, MAX_WINDOW, SLOTS
from policyengine.behavior.lockstep.candidates import find_candidates
from policyengine.behavior.lockstep.columns import CallerNumbers, EventColumns, fill_columns
from policyengine.behavior.lockstep.detection import find_groups
from policyengine.behavior.lockstep.ordered_events import OrderedEvents
from policyengine.behavior.lockstep.pair_groups import dense_groups
from tests.behavior.lockstep.movements import BEGIN, DAY, KEY, SECOND, Movements


@pytest.fixture
def town():
    town = Movements(independent=20)
    for _ in range(4):
        town.move(town.newcomers(4), town.beats(40))
    return town


def test_a_caller_has_a_limited_number_of_events():
    read = EventColumns(BEGIN, BEGIN + DAY)
    for number in range(MAX_CALLER_EVENTS + 50):
        read.add(BEGIN + number, 7, 1, 1, ALLOWED)
    assert (len(read), read.crowded) == (MAX_CALLER_EVENTS, 50)
    assert read.add(BEGIN, 8, 1, 1, ALLOWED)


def test_columns_that_were_filled_otherwise_are_shortened_too():
    read = EventColumns(BEGIN, BEGIN + DAY)
    flood = np.arange(2 * MAX_CALLER_EVENTS, dtype=np.uint32)
    for column, values in ((read.times, flood), (read.callers, flood * 0), (read.endpoints, flood), (read.runs, flood)):
        column.frombytes(values.tobytes())
    events = OrderedEvents(read)
    assert len(events) == MAX_CALLER_EVENTS
    assert events.times.max() == MAX_CALLER_EVENTS - 1


def test_events_and_callers_are_limited(monkeypatch):
    monkeypatch.setattr(columns, "MAX_EVENTS", 3)
    read = EventColumns(BEGIN, BEGIN + DAY)
    added = [read.add(BEGIN, caller, 1, 1, ALLOWED) for caller in (0, 1, MAX_CALLERS, -1, 2, 3)]
    assert added == [True, True, False, False, True, False]
    assert read.crowded == 3


def test_callers_beyond_the_limit_have_no_number_of_their_own(monkeypatch):
    monkeypatch.setattr(columns, "MAX_CALLERS", 2)
    numbers = CallerNumbers()
    found = [numbers.number(Caller("issuer", agent)) for agent in ("a", "b", "a", "c", "d", "b")]
    assert found == [0, 1, 0, 2, 2, 1]
    assert len(numbers.callers()) == len(numbers) == 2
    read = EventColumns(BEGIN, BEGIN + DAY)
    events = [BehaviorEvent(BEGIN, Caller("issuer", agent), "", "GET /a", 1, ALLOWED) for agent in ("c", "a")]
    fill_columns(read, numbers, events, Tagger(KEY))
    assert (len(read), read.crowded) == (1, 1)


def test_clocks_that_jump_change_nothing(town):
    expected = town.find().groups
    for at in (0, BEGIN - 1, BEGIN + DAY, BEGIN + 100 * MAX_WINDOW):
        town.events += [(at, caller, 100, 1, ALLOWED) for caller in range(36)]
    assert town.columns().outside == 4 * 36
    assert town.find().groups == expected


@pytest.mark.parametrize("length", [-1, MAX_WINDOW + 1])
def test_a_window_has_a_limited_length(length):
    with pytest.raises(ValueError, match="window"):
        EventColumns(BEGIN, BEGIN + length)


def test_the_longest_window_has_room_for_the_latest_event():
    read = EventColumns(BEGIN, BEGIN + MAX_WINDOW)
    beats = [MAX_WINDOW - DAY + beat for beat in Movements(independent=0).beats(40)]
    town = Movements(independent=0)
    town.move(town.newcomers(4), beats)
    for event in town.events:
        read.add(*event)
    [group] = find_groups(read, town.callers, KEY, ready=town.ready).groups
    assert len(group.pooled) == 4


def test_a_flood_of_one_token_makes_no_pairs():
    read = EventColumns(BEGIN, BEGIN + DAY)
    for number in range(50_000):
        read.add(BEGIN + number % 1_000, number % 5_000, 1, number, ALLOWED)
    events = OrderedEvents(read)
    assert all(len(find_candidates(events, slot).first) == 0 for slot in SLOTS)


def test_the_largest_tokens_are_left_out_if_there_are_too_many_pairs(monkeypatch):
    sizes = np.repeat([2, 10, 60, 61], [200, 100, 60, 61])
    assert candidates.size_limit(sizes) == MAX_TOKEN_CALLERS
    monkeypatch.setattr(candidates, "MAX_SHARED", 100 + 450 + 1_770)
    assert candidates.size_limit(sizes) == MAX_TOKEN_CALLERS
    monkeypatch.setattr(candidates, "MAX_SHARED", 100 + 450 + 1_769)
    assert candidates.size_limit(sizes) == MAX_TOKEN_CALLERS - 1
    monkeypatch.setattr(candidates, "MAX_SHARED", 549)
    assert candidates.size_limit(sizes) == 9
    monkeypatch.setattr(candidates, "MAX_SHARED", 0)
    assert candidates.size_limit(sizes) == 1


def test_shared_tokens_are_at_most_as_many_as_the_limit(town, monkeypatch):
    events = OrderedEvents(town.columns())
    tokens, callers = candidates.tokens_of(events, SLOTS[0], 0)
    sizes = candidates.token_sizes(tokens)
    monkeypatch.setattr(candidates, "MAX_SHARED", 500)
    limit = candidates.size_limit(sizes)
    assert 0 < len(candidates.shared_minutes(tokens, callers, sizes, limit, SLOTS[0])) <= 500


def test_candidates_that_are_left_out_are_counted(town, monkeypatch):
    expected = town.find()
    assert (expected.pairs, expected.left_out) == (4 * 6, 0)
    monkeypatch.setattr(candidates, "MAX_CANDIDATES", 5)
    found = town.find()
    assert found.left_out > 0
    assert found.pairs <= len(SLOTS) * 5


def test_pairs_that_are_not_compared_are_counted(town, monkeypatch):
    monkeypatch.setattr(comparison, "MAX_LOOKUPS", 6 * 40 * 4)
    found = town.find()
    assert found.left_out > 0
    assert 0 < found.pairs <= 18


def test_parts_of_the_comparison_do_not_change_the_result(town, monkeypatch):
    expected = town.find()
    monkeypatch.setattr(comparison, "PART", 200)
    assert town.find() == expected


def test_a_graph_of_many_groups_takes_a_limited_number_of_steps(monkeypatch):
    chain = [(place, place + step) for place in range(0, 800, 2) for step in (1, 2)]
    chain += [(place + 1, place + 2) for place in range(0, 800, 2)]
    calls = []
    densest = pair_groups.densest
    monkeypatch.setattr(pair_groups, "densest", lambda *given: calls.append(1) or densest(*given))
    dense_groups(chain)
    assert len(calls) == pair_groups.MAX_PEELS


@pytest.mark.parametrize("seed", range(5))
def test_random_events_never_break_the_search(seed):
    random = Random(seed)
    read = EventColumns(BEGIN, BEGIN + DAY)
    for _ in range(random.choice([1, 10, 3_000])):
        at = BEGIN + random.choice([random.randrange(DAY), random.randrange(5) * SECOND, DAY - 1])
        outcome = random.choice([ALLOWED, ALLOWED, DENIED])
        read.add(at, random.randrange(12), random.choice([0, 2**32 - 1, 3]), random.choice([0, 1, 2**32 - 1]), outcome)
    callers = [Caller("i", f"a{number}") for number in range(12)]
    found = find_groups(read, callers, KEY)
    assert found.left_out == 0
    assert pair_search.search_pairs(read).pairs == pair_search.search_pairs(read).pairs
