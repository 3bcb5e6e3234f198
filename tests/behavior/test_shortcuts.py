"""What decisions about known callers leave out: nobody who looks sees a difference."""

from datetime import timedelta
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from policyengine import Engine
from policyengine.behavior.events import ALLOWED, DENIED, RequestTags
from policyengine.behavior.fold import (
    LEVEL_UNIT,
    MARGIN_UNIT,
    PEAK_UNIT,
    advance,
    apply_decision,
    highest_usual,
    learn_endpoint,
    read_behavior,
    set_limits,
)
from policyengine.behavior.model import NO_CLASS
from policyengine.behavior.row import DAYS_KEPT, HOURS_OF_DAY, LEAST_PEAK, MAX_COUNT, MAX_SEEN, BehaviorRow, pack_row
from policyengine.behavior.tracker import BehaviorTracker
from policyengine.evaluator.verdicts import NO_EFFECTS
from policyengine.runtime.decision import Effects
from tests.behavior.callers import GROUP, HOUR, ISSUER, SETTINGS, START, class_model
from tests.behavior.reporting_agents import BEGIN, POLICY, FakeClock, question

PEAKS = st.integers(LEAST_PEAK, MAX_COUNT)
MODEL = class_model(1.5).class_of((ISSUER, GROUP))


@given(PEAKS, PEAKS, st.integers(-2, 2), st.integers(0, 2**40), st.sampled_from(["slow", "fast"]))
def test_a_burst_is_a_level_whose_share_of_its_base_exceeds_the_margin(base, ceiling, around, denied, kind):
    row = BehaviorRow(START)
    row.runs, row.days = 100, (1 << SETTINGS.learn_days) - 1
    set_limits(row, SETTINGS)
    usual = highest_usual(base, ceiling, MODEL.margin_slow) * PEAK_UNIT
    level = max(usual // MARGIN_UNIT - LEVEL_UNIT + around, 0)
    row.base_slow = row.base_fast = row.ceiling_slow = row.ceiling_fast = MAX_COUNT
    if kind == "slow":
        row.base_slow, row.ceiling_slow, row.level_denied = base, ceiling, min(denied, level)
        row.level_slow = level - row.level_denied
    else:
        row.base_fast, row.ceiling_fast, row.level_fast = base, ceiling, level
    found = read_behavior(row, MODEL, RequestTags(1), START, SETTINGS)
    assert found.ready
    assert found.burst == ((level + LEVEL_UNIT) * MARGIN_UNIT > usual)


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
