"""What decisions about known callers leave out: nobody who looks sees a difference."""

from datetime import timedelta
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from policyengine import Engine
from policyengine.behavior.events import ALLOWED, DENIED, RequestTags
from policyengine.behavior.fold import (
    MARGIN_UNIT,
    PEAK_UNIT,
    advance,
    apply_decision,
    highest_level,
    highest_usual,
    learn_endpoint,
    read_behavior,
)
from policyengine.behavior.model import NO_CLASS
from policyengine.behavior.row import DAYS_KEPT, HOURS_OF_DAY, MAX_COUNT, MAX_LEVEL, MAX_SEEN, BehaviorRow, pack_row
from policyengine.behavior.tracker import BehaviorTracker
from policyengine.evaluator.verdicts import NO_EFFECTS
from policyengine.runtime.decision import Effects
from tests.behavior.callers import HOUR, SETTINGS, START
from tests.behavior.reporting_agents import BEGIN, POLICY, FakeClock, question

NUMBERS = st.integers(1, MAX_COUNT)


@given(NUMBERS, NUMBERS, NUMBERS, st.integers(0, MAX_LEVEL), st.integers(-2, 2))
def test_a_level_exceeds_the_highest_one_if_its_share_of_the_ceiling_does(base, ceiling, margin, level, around):
    highest = highest_level(base, ceiling, margin)
    for each in (level, highest + around):
        assert (each > highest) == (each * MARGIN_UNIT > PEAK_UNIT * highest_usual(base, ceiling, margin))


def test_peaks_are_the_same_whenever_somebody_looks():
    random, seen, unseen, at = Random(3), BehaviorRow(START), BehaviorRow(START), START
    waited = 0
    for _ in range(2_000):
        at += random.choice((1_000, 60_000, HOUR, 5 * HOUR))
        outcome, tags = random.choice((ALLOWED, ALLOWED, DENIED)), RequestTags(random.randrange(90), at // HOUR + 1)
        for row in (seen, unseen):
            advance(row, at, SETTINGS)
            apply_decision(row, read_behavior(row, NO_CLASS, tags, at, SETTINGS), tags, at, outcome, False, SETTINGS)
        assert len(seen.peaks) == 2 * DAYS_KEPT
        waited += unseen.has_new_peaks
    assert waited > 100
    assert pack_row(unseen.copy()) == pack_row(seen)
    assert pack_row(unseen) == pack_row(seen)


def test_endpoints_are_remembered_as_if_each_were_searched():
    random, row, expected = Random(4), BehaviorRow(START), {}
    for _ in range(3_000):
        row.hour += random.random() < 0.02
        day = row.hour // HOURS_OF_DAY
        endpoint = random.choice((random.randrange(2 * MAX_SEEN), row.latest_endpoint if expected else 0))
        if len(expected) >= MAX_SEEN and endpoint not in expected:
            del expected[min(expected, key=lambda tag: (expected[tag], tag))]
        expected[endpoint] = day
        learn_endpoint(row, endpoint)
        assert row.seen == expected


def test_a_forgotten_caller_begins_again():
    clock, tracker = FakeClock(), BehaviorTracker()
    engine = Engine.from_text(POLICY, clock=clock, behavior=tracker)
    for number in range(6):
        clock.now = BEGIN + timedelta(minutes=number)
        engine.decide(question())
    (caller,) = tracker.state.rows
    assert tracker.forget(caller)
    assert tracker.state.rows == {}
    engine.decide(question())
    engine.decide(question())
    assert tracker.state.rows[caller].row.serial == 2


def test_a_caller_for_whom_another_makes_room_begins_again():
    clock, tracker = FakeClock(), BehaviorTracker()
    tracker.state._most = 1
    engine = Engine.from_text(POLICY, clock=clock, behavior=tracker)
    for agent in (0, 0, 1, 0):
        engine.decide(question(agent))
        (known,) = tracker.state.rows.values()
    assert known.row.serial == 1


def test_decisions_without_effects_do_not_share_what_is_learned_from_them():
    engine = Engine.from_text(POLICY, clock=FakeClock())
    assert not engine.decide(question(path="/elsewhere")).allowed
    (known,) = engine.behavior.state.rows.values()
    assert known.row.serial == 1
    assert Effects() == NO_EFFECTS
