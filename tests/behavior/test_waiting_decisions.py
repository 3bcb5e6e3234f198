"""Decisions that rows do not contain yet: nobody who reads a row sees the difference, and there are few of them."""

from random import Random

import pytest

from policyengine.behavior import state
from policyengine.behavior.events import ALLOWED, DENIED, HELD, BehaviorEvent, Caller, RequestTags, Tagger
from policyengine.behavior.local_learner import LocalLearner
from policyengine.behavior.reportable import ReportableDecisions
from policyengine.behavior.row import pack_row
from policyengine.behavior.state import MAX_WAITING, BehaviorState
from tests.behavior.callers import DAY, GROUP, HOUR, ISSUER, KEY, SETTINGS, START, caller, jittered
from tests.evaluator.faults import interpreted_only


def settings_of(_):
    return SETTINGS


def traffic(days, callers=5, seed=1):
    """Return events of several callers, some in two versions and some with two instances."""
    random, found = Random(seed), []
    for day in range(days):
        for number in range(callers):
            members = {"version": "ab"[day > 11]} if number == 0 else {"instance": "xy"[day % 2]} if number == 1 else {}
            for at in jittered(random, 3):
                outcome = random.choices([ALLOWED, DENIED, HELD], [20, 1, 1])[0]
                endpoint, clamped = f"GET /{random.randrange(8)}", random.random() < 0.05
                moment = START + day * DAY + at
                found.append(
                    BehaviorEvent(moment, caller(number, **members), GROUP, endpoint, at // HOUR + 1, outcome, clamped)
                )
    return sorted(found)


def read(state, event):
    tags = RequestTags(state.tagger.tag(event.endpoint), event.run)
    return state.snapshot(event.caller, event.group, tags, event.at, SETTINGS, settings_of)


def packed(state):
    return [(who, found.group, pack_row(found.row)) for who, found in state.rows.items()]


def decide(state, events, between=lambda number: None):
    """Decide as an engine does, and return the facts and the numbers of the events."""
    found = []
    for number, event in enumerate(events):
        reading = read(state, event)
        found.append((reading.facts, state.settle(reading, event.outcome, event.clamped)))
        between(number)
    return found


def test_waiting_decisions_give_the_rows_models_and_facts_that_folding_gives():
    events = traffic(18)
    one, other = BehaviorState(Tagger(KEY)), BehaviorState(Tagger(KEY))
    readings = decide(one, events)
    folded = [(other.fold(event, settings_of), other.rows[event.caller].row.serial) for event in events]
    assert readings == folded
    assert packed(one) == packed(other)
    assert one.model.payload == other.model.payload
    assert any(facts.ready for facts, _ in readings)


@pytest.mark.parametrize("each", [1, 7])
def test_looking_at_the_rows_in_between_changes_nothing(each):
    events = traffic(4)
    one, other = BehaviorState(Tagger(KEY)), BehaviorState(Tagger(KEY))
    decide(one, events)
    decide(other, events, lambda number: number % each or packed(other))
    assert packed(one) == packed(other)


@interpreted_only
def test_a_decision_that_cannot_be_learned_fails_one_request_and_not_all_that_follow(monkeypatch):
    def fail(*_):
        raise ArithmeticError

    one, events = BehaviorState(Tagger(KEY)), [event for event in traffic(3) if event.caller == caller(3)]
    decide(one, events[:2])
    with monkeypatch.context() as patch:
        patch.setattr(state, "apply_decision", fail)
        with pytest.raises(ArithmeticError):
            read(one, events[2])
    assert [number for _, number in decide(one, events[2:4])] == [2, 3]


def test_requests_that_are_decided_at_the_same_time_are_all_learned_in_the_order_of_their_commits():
    """Several threads have read their facts before the first of them commits, also across an hour and of one caller."""
    random, events = Random(2), traffic(6)
    one, other, taken = BehaviorState(Tagger(KEY)), BehaviorState(Tagger(KEY)), []
    for start in range(0, len(events), 4):
        group = events[start : start + 4]
        readings = [(event, read(one, event)) for event in group]
        random.shuffle(readings)
        for event, reading in readings:
            number = one.settle(reading, event.outcome, event.clamped)
            other.fold(event, settings_of)
            assert number == other.rows[event.caller].row.serial
            taken.append(number)
    assert packed(one) == packed(other)
    assert len(taken) == len(events)


def test_a_request_is_not_current_while_an_earlier_decision_about_its_caller_waits():
    state = BehaviorState(Tagger(KEY))
    first, second = (BehaviorEvent(START + at, caller(), GROUP, "GET /a", 1, ALLOWED) for at in (0, 1_000))
    decide(state, [first])
    earlier, later = read(state, second), read(state, second)
    assert state.is_unchanged(later)
    state.settle(earlier, ALLOWED, False)
    assert not state.is_unchanged(later)
    assert state.settle(later, ALLOWED, False) == 3


def test_few_decisions_wait():
    state, at = BehaviorState(Tagger(KEY)), START
    callers = [caller(number) for number in range(MAX_WAITING + 5)]
    decide(state, [BehaviorEvent(at, one, GROUP, "GET /a", 1, ALLOWED) for one in callers])
    decide(state, [BehaviorEvent(at + 1_000, one, GROUP, "GET /a", 1, ALLOWED) for one in callers])
    waiting = [one for one in state.callers.values() if one.waiting is not None]
    assert len(waiting) == 5
    assert {found.row.serial for found in state.rows.values()} == {2}


def test_a_forgotten_caller_does_not_come_back_with_a_waiting_decision():
    state = BehaviorState(Tagger(KEY))
    events = [
        BehaviorEvent(START + at, caller(number), GROUP, "GET /a", 1, ALLOWED) for at in (0, 9) for number in (0, 1)
    ]
    decide(state, events)
    assert state.forget(lambda known: known == caller(0)) == 1
    assert list(state.rows) == [caller(1)]
    reading = read(state, events[0])
    assert (reading.serial, state.settle(reading, ALLOWED, False)) == (0, 1)


def test_rows_that_are_replaced_take_no_decision_about_the_rows_before():
    state = BehaviorState(Tagger(KEY))
    event = BehaviorEvent(START, caller(), GROUP, "GET /a", 1, ALLOWED)
    decide(state, [event, event])
    before = dict(state.rows)
    reading = read(state, event)
    state.rows = {}
    state.settle(reading, ALLOWED, False)
    assert state.rows[caller()].row.serial == 1
    state.rows = before
    assert state.rows[caller()].row.serial == 2


def test_a_failure_is_learned_after_the_decision_that_waits():
    event = BehaviorEvent(START, caller(), GROUP, "GET /a", 1, ALLOWED)
    one, other = BehaviorState(Tagger(KEY)), BehaviorState(Tagger(KEY))
    decide(one, [event, event])
    one.fold_failure(caller())
    for _ in range(2):
        other.fold(event, settings_of)
    other.fold_failure(caller())
    assert packed(one) == packed(other)


def test_the_least_recently_active_caller_makes_room_also_while_decisions_wait():
    state = BehaviorState(Tagger(KEY), most=3)
    order = [0, 1, 2, 0, 1, 2, 1, 0, 3]
    decide(state, [BehaviorEvent(START + at, caller(one), GROUP, "GET /a", 1, ALLOWED) for at, one in enumerate(order)])
    assert list(state.rows) == [caller(1), caller(0), caller(3)]


# ── Reports ───────────────────────────────────────────────────────────────────────────────────


class IdleThread:
    is_running = True

    def start(self):
        raise AssertionError("the thread runs already")


@pytest.mark.parametrize("is_indexed", [False, True])
def test_the_callers_of_old_decisions_are_dropped_together(is_indexed):
    reportable, who = ReportableDecisions(8), Caller(ISSUER, "agent")

    def add(*names):
        for name in names:
            reportable.add(name, who)
            if is_indexed:
                reportable.take("unknown")

    add("a", "b", "c", "d")
    assert len(reportable) == 4
    add("e")  # begins the newer half
    assert [reportable.take(name) for name in ("a", "a", "e", "e", "f")] == [who, None, who, None, None]
    add("f", "g", "h", "i")
    assert len(reportable) == 7
    add("j")  # drops the older half
    assert len(reportable) == 5
    assert [reportable.take(name) for name in ("b", "c", "d")] == [None] * 3
    assert [reportable.take(name) for name in ("f", "i", "j")] == [who] * 3
    assert len(reportable) == 2


def test_a_decision_is_indexed_once_however_many_reports_follow():
    """Otherwise each report would take as long as all decisions before it."""
    reportable, who, hashed = ReportableDecisions(1_000), Caller(ISSUER, "agent"), []

    class Key(str):
        __slots__ = ()

        def __hash__(self):
            hashed.append(self)
            return super().__hash__()

    keys = [Key(number) for number in range(700)]
    for key in keys:
        reportable.add(key, who)
    assert not hashed
    for number in range(600, 700):
        assert reportable.take(str(number)) == who
    assert sorted(hashed) == sorted(keys[500:])
    assert reportable.take("0") == who
    assert sorted(hashed) == sorted(keys)


def test_only_an_allowed_decision_that_all_limits_admit_can_be_reported():
    learner = LocalLearner(BehaviorState(Tagger(KEY)), IdleThread(), saved=False)
    who = Caller(ISSUER, "agent")
    for outcome, admitted in ((ALLOWED, True), (ALLOWED, False), (DENIED, True), (HELD, True)):
        reading = learner.read(who, GROUP, RequestTags(1, 1), START, SETTINGS, settings_of)
        learner.charge(reading, outcome, settings_of).learn(f"{outcome} {admitted}", admitted, False)
    assert len(learner.reportable) == 1
    for name in (f"{ALLOWED} True", f"{ALLOWED} True", f"{ALLOWED} False", f"{DENIED} True", f"{HELD} True"):
        learner.report(name, True)
    assert learner.state.rows[who].row.serial == 5  # four decisions and one failure
