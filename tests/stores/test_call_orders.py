"""Processes that share a store follow the declared order of calls of a caller together."""

from __future__ import annotations

import random
from datetime import timedelta
from threading import Barrier, Thread
from typing import Any

import pytest

from policyengine import Engine
from policyengine.behavior.events import Caller
from policyengine.behavior.shared import EVENTS_PER_ROW
from policyengine.behavior.tracker import BehaviorTracker
from policyengine.stores.base import Store
from tests.behavior.reporting_agents import FakeClock
from tests.behavior.test_call_orders import AUTH, DATA, DENY, HEAD, PROFILE, READ, REPORT, WARN, question
from tests.stores.learned import Stores

pytestmark = pytest.mark.usefixtures("without_threads")
CALLER = Caller("idp", "report-1")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def engines_of(store: Store, shared: Stores, clock: FakeClock, count: int, text: str) -> list[Engine]:
    return [Engine.from_text(text, clock=clock, store=shared.again(store)) for _ in range(count)]


def state_of(engine: Engine) -> tuple[int, int]:
    """Return the state and the digest of the automaton in the row of the caller."""
    tracker: Any = engine.behavior
    rows = tracker.state.rows if isinstance(tracker, BehaviorTracker) else tracker._callers
    row = rows[CALLER if isinstance(tracker, BehaviorTracker) else tracker.key_of(CALLER)].row
    return row.step_state, row.step_machine


def tracks_alone(store: Store) -> bool:
    """Return whether each engine with this store learns by itself."""
    return isinstance(Engine.from_text(HEAD + PROFILE + DENY, store=store).behavior, BehaviorTracker)


def test_a_run_continues_in_another_process(shared: Stores, clock: FakeClock) -> None:
    store = shared()
    if tracks_alone(store):
        pytest.skip("engines with their own memory do not share what they learn")
    one, other = engines_of(store, shared, clock, 2, HEAD + PROFILE + DENY)
    allowed = []
    for engine, call in [
        (one, AUTH),
        (other, DATA),
        (one, DATA),
        (other, AUTH),
        (other, READ),
        (one, REPORT),
        (one, DATA),
    ]:
        clock.now += timedelta(seconds=1)
        allowed.append(engine.decide(question(call)).allowed)
    assert allowed == [True, True, True, False, True, True, False]


@pytest.mark.parametrize("rule", [DENY, WARN])
def test_several_processes_decide_like_one(shared: Stores, clock: FakeClock, rule: str) -> None:
    store, chance, text = shared(), random.Random(11), HEAD + PROFILE + rule
    engines = engines_of(store, shared, clock, 1 if tracks_alone(store) else 3, text)
    reference = Engine.from_text(text, clock=clock)
    for number in range(4 * EVENTS_PER_ROW + 3):
        clock.now += timedelta(seconds=chance.choice([0, 1, 1, 1, 400]))
        asked = question(chance.choice([AUTH, AUTH, DATA, DATA, READ, REPORT, "GET /x"]), task=f"{number // 9}")
        found, expected = chance.choice(engines).decide(asked), reference.decide(asked)
        assert (found.outcome, len(found.obligations)) == (expected.outcome, len(expected.obligations))


def test_the_state_of_processes_is_that_of_one_process(shared: Stores, clock: FakeClock) -> None:
    store, chance, text = shared(), random.Random(12), HEAD + PROFILE + WARN
    engines = engines_of(store, shared, clock, 1 if tracks_alone(store) else 2, text)
    reference = Engine.from_text(text, clock=clock)
    for number in range(50):
        clock.now += timedelta(seconds=1)
        asked = question(chance.choice([AUTH, DATA, DATA, REPORT]), task=f"{number // 7}")
        engine = engines[number % len(engines)]
        engine.decide(asked)
        reference.decide(asked)
        assert state_of(engine) == state_of(reference)


def test_of_requests_at_the_same_time_only_those_in_order_are_allowed(shared: Stores, clock: FakeClock) -> None:
    """The order allows one call of each kind, so of several equal calls at the same time one is allowed."""
    store = shared()
    text = HEAD + PROFILE.replace("repeated", "") + DENY
    engines = engines_of(store, shared, clock, 1 if tracks_alone(store) else 3, text)
    for call in ["GET /nothing", AUTH, DATA, REPORT]:  # the first makes the caller known
        clock.now += timedelta(seconds=1)
        allowed, barrier = list[bool](), Barrier(len(engines) * 2)

        def ask(engine: Engine, call: str = call, barrier: Barrier = barrier, allowed: list[bool] = allowed) -> None:
            barrier.wait()
            allowed.append(engine.decide(question(call)).allowed)

        threads = [Thread(target=ask, args=(engine,)) for engine in engines for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(allowed) == len(threads)
        assert sum(allowed) == (0 if call == "GET /nothing" else 1)


def test_a_forgotten_caller_begins_anew(shared: Stores, clock: FakeClock) -> None:
    store = shared()
    (engine, *_) = engines = engines_of(store, shared, clock, 1 if tracks_alone(store) else 2, HEAD + PROFILE + DENY)
    assert engine.decide(question(AUTH)).allowed
    assert engines[-1].decide(question(DATA)).allowed
    tracker: Any = engine.behavior
    assert tracker.forget(CALLER)
    assert not engines[-1].decide(question(DATA)).allowed
    assert engines[-1].decide(question(AUTH)).allowed
    assert engine.decide(question(DATA)).allowed
