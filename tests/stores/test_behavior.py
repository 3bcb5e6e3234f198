"""Learned behavior is the same in every store, and processes that share a store share what they learn."""

from __future__ import annotations

import random
from collections.abc import Iterable
from datetime import timedelta
from functools import cache
from pathlib import Path
from threading import Barrier, Thread
from typing import Any, NamedTuple

import pytest

from policyengine import Engine
from policyengine.audit import DecisionLog
from policyengine.audit.reader import read_records
from policyengine.audit.replay import replay_decision
from policyengine.behavior.events import FAILED, Caller, Tagger
from policyengine.behavior.row import MAX_LEVEL, BehaviorRow, pack_row, unpack_row
from policyengine.behavior.shared import EVENTS_PER_ROW, SharedTracker
from policyengine.behavior.shared_keys import derive
from policyengine.behavior.state import BehaviorState, CallerRow
from policyengine.behavior.tracker import BehaviorTracker
from policyengine.runtime.behavior import BehaviorCharge, CallerHistory
from policyengine.runtime.decision import Decision, Effects
from policyengine.runtime.idempotency import IdempotencyKey
from policyengine.stores.behavior import (
    EVENTS_PER_GENERATION,
    MAX_WAITING_FAILURES,
    MODEL,
    UNKNOWN_CALLER,
    StoredCaller,
    add_event,
    add_failure,
    forgotten_caller,
    history_after,
    is_outdated,
    raise_levels,
    saves_row,
)
from tests.behavior.reporting_agents import BEGIN, POLICY, FakeClock, question, requests_of
from tests.stores.charges import START, asks, rate
from tests.stores.conftest import fresh_everywhere
from tests.stores.learned import CALLER, KEY, Stores, charge_of, engine_of, keep, teach, told

fresh = fresh_everywhere
pytestmark = pytest.mark.usefixtures("without_threads")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


class RecordingCommits:
    """A store, and the results of its commits."""

    def __init__(self, store: Any) -> None:
        self._store, self.results = store, list[object]()

    def commit(self, *of: Any, **how: Any) -> Any:
        self.results.append(self._store.commit(*of, **how))
        return self.results[-1]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def work_in_turns(engines: list[Engine], clock: FakeClock, days: Iterable[int], busy: int = 0) -> list[str]:
    """Let agents work: some are busy, and the others have one request in a run. The engines take turns. Return the
    outcomes."""
    outcomes = []
    for number, asked in requests_of(clock, days):
        if number and int(asked["agent"]["id"].removeprefix("report-")) >= busy:
            continue
        if not number:
            keep(engines, clock)
        outcomes.append(told(engines[number % len(engines)].decide(asked)))
    return outcomes


def rows_of(engine: Engine) -> dict[Caller, bytes]:
    tracker, callers = engine.behavior, [Caller("idp", f"report-{number}") for number in range(9)]
    if isinstance(tracker, BehaviorTracker):
        return {caller: pack_row(tracker.state.rows[caller].row) for caller in callers if caller in tracker.state.rows}
    assert isinstance(tracker, SharedTracker)
    found = {caller: tracker._callers.get(tracker.key_of(caller)) for caller in callers}
    return {caller: pack_row(known.row) for caller, known in found.items() if known is not None}


def model_of(engine: Engine) -> Any:
    tracker = engine.behavior
    assert tracker is not None
    return (tracker.model if isinstance(tracker, SharedTracker) else tracker.state.model).content.classes


def test_days_that_jump_are_logged_by_the_process_that_learns_the_model(
    shared: Stores, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    engine = engine_of(shared(), clock)
    work_in_turns([engine], clock, (3, 4))
    assert caplog.records == []
    clock.now += timedelta(days=40)
    keep([engine], clock)
    engine.decide(question())
    [record] = caplog.records
    assert record.__dict__["event"] == "behavior_day_jump"
    assert "between 2026-01-09 and 2026-02-18, which is longer than the 14 days" in record.getMessage()


def odd_work(engines: list[Engine], clock: FakeClock) -> list[str]:
    """A burst, new endpoints, failures and denied requests after ten days."""
    outcomes, ids = [], []
    clock.now = BEGIN + timedelta(days=10, hours=9)
    keep(engines, clock)
    for number in range(120):
        clock.now += timedelta(milliseconds=50 if number < 80 else 700)
        path, method = ("/secret/1", "GET") if number % 9 == 8 else ("/data/x", "GET")
        if number % 13 == 12:
            path, method = "/report", "POST"
        if number % 17 == 16:
            path = "/nowhere"
        decision = engines[number % len(engines)].decide(question(number % 2, path, method, "odd"))
        outcomes.append(told(decision))
        ids.append(decision.id)
        if number % 3 == 0:
            engines[(number + 1) % len(engines)].report(ids[number // 2], status=500)
    return outcomes


# ── One sequence, all stores ──────────────────────────────────────────────────────────────────


class Work(NamedTuple):
    """What came of the same requests: the outcomes, those of the last requests, the model and the rows."""

    outcomes: list[str]
    last: list[str]
    model: Any
    rows: list[bytes]


def do_work(engines: list[Engine], clock: FakeClock) -> Work:
    outcomes = work_in_turns(engines, clock, range(10), busy=2) + odd_work(engines, clock)
    # The last events of other processes arrive with the next commit.
    asked = [question(agent, task="last") for agent in range(2)]
    last = [told(engines[turn % len(engines)].decide(one)) for turn in range(2) for one in asked]
    rows = rows_of(engines[-1])
    return Work(outcomes, last, model_of(engines[-1]), [rows[CALLER], rows[Caller("idp", "report-1")]])


def engine_in_memory(clock: FakeClock) -> Engine:
    """An engine with a memory store, and with the tags of stores whose key is KEY."""
    state = BehaviorState(Tagger(derive(KEY, b"tags")))
    return Engine.from_text(POLICY, clock=clock, behavior=BehaviorTracker(state))


@cache
def work_of_one_process() -> Work:
    clock = FakeClock()
    return do_work([engine_in_memory(clock)], clock)


def test_the_same_requests_give_the_same_decisions_and_rows(shared: Stores, clock: FakeClock) -> None:
    """Two processes that share a store give what one process gives that knows everything."""
    store = shared()
    if store.behavior is None:
        engines = [engine_in_memory(clock)]
    else:
        store.behavior.shared_key(KEY)
        engines = [engine_of(store, clock), engine_of(shared.again(store), clock)]
    found, expected = do_work(engines, clock), work_of_one_process()
    assert found.outcomes == expected.outcomes
    assert {"allow 2", "throttle 2", "allow 180", "allow 100", "deny "} <= set(found.outcomes)
    assert found == expected


# ── One step ──────────────────────────────────────────────────────────────────────────────────


class ReferenceCallers:
    """The steps of stores/behavior.py on a dictionary."""

    def __init__(self) -> None:
        self.callers: dict[str, StoredCaller] = {}
        self.rows: dict[str, bytes] = {}

    def commit(self, charge: BehaviorCharge, *, admitted: bool) -> CallerHistory | None:
        """Return None if the decision must be made again; the history is in the charge."""
        state, base = self.callers.get(charge.key, UNKNOWN_CALLER), charge.base
        levels = raise_levels(state, charge)
        if is_outdated(state, levels, charge):
            charge.history = self._answer(charge.key, state, base, charge.number)
            return None
        if saves_row(state, charge):
            base, self.rows[charge.key] = charge.number, charge.row
        state = add_event(state, levels, charge, admitted=admitted, clamped=False)
        self.callers[charge.key] = state
        return self._answer(charge.key, state, base, charge.number)

    def fail(self, key: str) -> None:
        state = self.callers[key]
        if 0 < len(state.events) < MAX_WAITING_FAILURES:
            self.callers[key] = add_failure(state, FAILED)

    def forget(self, key: str) -> bool:
        """Return whether anything was known."""
        state = self.callers.get(key, UNKNOWN_CALLER)
        self.rows.pop(key, None)
        if state.events:
            self.callers[key] = forgotten_caller(state)
        return bool(state.events)

    def _answer(self, key: str, state: StoredCaller, base: int, number: int) -> CallerHistory:
        history = history_after(state, None, base, number)
        return history if history.row is None else history._replace(row=self.rows.get(key, b""))


def test_a_step_is_the_same_in_every_shared_store(shared: Stores) -> None:
    store, reference, chance = shared(), ReferenceCallers(), random.Random(7)
    if store.behavior is None:
        pytest.skip("only this process uses a memory store")
    behavior = store.behavior
    behavior.shared_key(b"k" * 32)
    at, allowed, conflicts = START // 1_000, [], 0
    for number in range(400):
        at += chance.choice([-5, 0, 1, 30, 5_000])
        charge = charge_of(chance, at)
        known = reference.callers.get(charge.key)
        if known is not None and chance.random() < 0.5:  # what a process sends that knows everything
            charge.base, charge.number = known.base, known.number
        admitted = chance.random() < 0.7
        effects = asks(rate(1 if admitted else 0, 86_400_000_000, burst=10**6 if admitted else 1, key=str(number)))
        if not admitted:
            effects = asks(rate(1, 86_400_000_000, burst=1, cost=2, key=str(number)))
        effects = Effects(limits=effects.limits, behavior=charge)
        result = store.commit(effects, f"d{number}", START)
        told_history, charge.history = charge.history, None
        expected = reference.commit(charge, admitted=admitted)
        if result is None:
            conflicts += 1
            assert expected is None
            assert told_history == charge.history
            continue
        assert result.admitted is admitted
        assert told_history == expected
        if admitted and charge.allowed:
            allowed.append((f"d{number}", charge.key))
        if allowed and chance.random() < 0.1:
            decision, key = allowed.pop()
            behavior.report(decision, FAILED, START)
            behavior.report(decision, FAILED, START)  # is known once
            reference.fail(key)
        if number > 130 and chance.random() < 0.02:
            assert behavior.forget(charge.key) is reference.forget(charge.key)
    assert 40 < conflicts < 360
    for key, state in reference.callers.items():
        history = behavior.read(key, START)
        assert history == CallerHistory(state.base, reference.rows.get(key, b""), state.base + 1, state.events)
    assert {(key, one.base) for key, one in behavior.callers(START) if one is not None} == {
        (key, reference.callers[key].base) for key in reference.rows
    }
    assert len(reference.rows) == 2
    assert behavior.forget("a" * 32)
    assert not behavior.forget("a" * 32)
    assert not behavior.forget("c" * 32)
    base = reference.callers["a" * 32].base // EVENTS_PER_GENERATION * EVENTS_PER_GENERATION + EVENTS_PER_GENERATION
    assert behavior.read("a" * 32, START) == CallerHistory(base, b"", base + 1, ())
    assert base > 2 * EVENTS_PER_GENERATION
    assert sorted(behavior.keys()) == ["a" * 32, "b" * 32]


def test_a_conflict_changes_nothing(shared: Stores) -> None:
    store = shared()
    if store.behavior is None:
        pytest.skip("only this process uses a memory store")
    store.behavior.shared_key(b"k" * 32)
    charge = charge_of(random.Random(1), START // 1_000)
    charge.burst, charge.ceilings, charge.strict = True, (MAX_LEVEL, MAX_LEVEL), False
    limits = asks(rate(1, 86_400_000_000, burst=1)).limits
    assert store.commit(Effects(limits=limits, behavior=charge), "d", START) is None
    charge.burst = False
    settled = store.commit(Effects(limits=limits, behavior=charge), "d", START)
    assert settled is not None
    assert settled.admitted
    settled = store.commit(Effects(limits=limits, behavior=charge), "e", START)
    assert settled is not None
    assert not settled.admitted
    assert [event.outcome for event in store.behavior.read(charge.key, START).events] == [
        charge.outcome,
        charge.refused,
    ]


def test_the_key_and_the_model_are_those_of_the_first_process(shared: Stores) -> None:
    behavior = shared().behavior
    if behavior is None:
        pytest.skip("only this process uses a memory store")
    assert behavior.shared_key(b"first") == b"first"
    assert behavior.shared_key(b"second") == b"first"
    assert behavior.document(MODEL, 0) == (0, b"")
    behavior.save_document(MODEL, 2, b"\xff two")
    behavior.save_document(MODEL, 1, b"one")
    behavior.save_document(MODEL, 2, b"other")
    assert behavior.document(MODEL, 0) == (2, b"\xff two")
    assert behavior.document(MODEL, 2) == (2, b"")
    assert behavior.start_learning(3, START)
    assert not behavior.start_learning(3, START)
    assert behavior.start_learning(4, START)


# ── Processes and threads ─────────────────────────────────────────────────────────────────────


@pytest.fixture
def ready(shared: Stores, clock: FakeClock, ten_days: BehaviorState) -> list[Engine]:
    """Two engines, as in two processes, that share a store, or only a tracker; their callers are ready."""
    clock.now, store = BEGIN + timedelta(days=10, hours=9), shared()
    if store.behavior is None:
        state = BehaviorState(ten_days.tagger, model=ten_days.model)
        state.rows = {caller: CallerRow(found.group, found.row.copy()) for caller, found in ten_days.rows.items()}
        first = Engine.from_text(POLICY, clock=clock, behavior=BehaviorTracker(state))
        return [first, first.successor(first.kernel)]
    teach(store, ten_days)
    return [engine_of(store, clock), engine_of(shared.again(store), clock)]


def test_a_burst_that_is_spread_over_processes_is_seen(ready: list[Engine], clock: FakeClock) -> None:
    limits = []
    for number in range(60):
        clock.now += timedelta(milliseconds=50)
        limits.append(ready[number % 2].decide(question(task="burst")).rates[0].limit)
    first = limits.index(2)
    assert 0 < first < 40
    assert limits[0] == limits[1] == 180


def test_threads_and_processes_admit_no_request_too_many_in_a_burst(ready: list[Engine], clock: FakeClock) -> None:
    """Sequential requests show after how many the clamp begins: concurrent ones are admitted no further."""
    agents = [question(0, task="burst"), question(1, task="burst")]
    outcomes = [told(ready[0].decide(agents[0])) for _ in range(60)]
    expected = outcomes.count("allow 180") + outcomes.count("allow 2")
    assert "throttle 2" in outcomes
    found: list[str] = []
    barrier = Barrier(4)

    def ask(engine: Engine) -> None:
        barrier.wait()
        for _ in range(15):
            found.append(told(engine.decide(agents[1])))

    threads = [Thread(target=ask, args=(ready[number % 2],)) for number in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(found) == 60
    assert found.count("allow 180") + found.count("allow 2") == expected
    assert found.count("allow 180") == outcomes.count("allow 180")


def test_a_decision_is_made_again_if_the_level_in_the_store_is_another_one(
    ready: list[Engine], clock: FakeClock
) -> None:
    if not isinstance(ready[0].behavior, SharedTracker):
        pytest.skip("only this process uses a memory store")
    ready[1].decide(question(task="before"))  # now the second process knows the caller
    recording = ready[1].decider.store = RecordingCommits(ready[1].store)
    while told(ready[0].decide(question(task="burst"))) != "throttle 2":
        clock.now += timedelta(milliseconds=50)
    assert told(ready[1].decide(question(task="burst"))) == "throttle 2"
    assert [result is None for result in recording.results] == [True, False]
    assert told(ready[1].decide(question(task="burst"))) == "throttle 2"
    assert len(recording.results) == 3


def test_what_a_process_learned_is_not_lost_with_it(ready: list[Engine], clock: FakeClock) -> None:
    first = ready[0]
    if not isinstance(first.behavior, SharedTracker):
        pytest.skip("only this process uses a memory store")
    for number in range(EVENTS_PER_ROW + 3):
        first.decide(question(path="/secret/1" if number % 3 else "/data/x", task="last"))
        later = engine_of(first.store, clock)
        later.evaluate(question(task="last"))
        assert isinstance(later.behavior, SharedTracker)
        assert later.behavior.model.content == first.behavior.model.content
        assert rows_of(later) == {CALLER: rows_of(first)[CALLER]}


def test_a_process_finds_the_caller_of_a_decision_of_another_one(ready: list[Engine], clock: FakeClock) -> None:
    denied, ids = None, []
    for number in range(20):
        clock.now += timedelta(seconds=5)
        ids.append(ready[number % 2].decide(question(task="failing")).id)
    for number, each in enumerate(ids):
        ready[(number + 1) % 2].report(each, status=500)
        ready[number % 2].report(each, status=500)
    for engine in (*ready, ready[0]):
        clock.now += timedelta(seconds=5)
        denied = engine.decide(question(path="/report", method="POST", task="failing"))
    assert denied is not None
    assert denied.outcome == "deny"


def test_a_batch_learns_as_single_decisions_do(ready: list[Engine], clock: FakeClock) -> None:
    answers = ready[0].decide_many([question(task="batch")] * 60)
    assert {"allow 180", "throttle 2"} == {told(one) for one in answers if isinstance(one, Decision)}


def test_a_repeated_idempotency_key_teaches_once(ready: list[Engine], tmp_path: Path) -> None:
    log = DecisionLog(tmp_path / "log.jsonl", seal=None)
    first = ready[0]
    second = Engine.from_text(
        POLICY,
        clock=first.decider.clock,
        store=first.store,
        log=log,
        behavior=first.behavior,  # as in one process
    )
    key = IdempotencyKey("gateway", "k", "a" * 32)
    made = second.decide_once(question(task="once"), key)
    number = number_of(second)
    again = second.decide_once(question(task="once"), key)
    assert (made.again, again.again) == (False, True)
    assert made.decision.id == again.decision.id
    second.decide(question(task="once"))
    assert number_of(second) == number + 1
    log.close()
    records = list(read_records(log.path))
    assert [record.behavior.event for record in records if record.behavior] == [number, 0, number + 1]
    assert all(replay_decision(record, second.kernel).same for record in records)


def number_of(engine: Engine) -> int:
    return unpack_row(rows_of(engine)[CALLER]).serial


def test_a_new_version_starts_with_what_is_known_of_the_latest_one(shared: Stores, clock: FakeClock) -> None:
    store, text = shared(), POLICY.replace("ready 20", 'version by request.headers["x-v"]   ready 20')
    first = Engine.from_text(text, clock=clock, store=store)
    second = (
        first.successor(first.kernel)
        if store.behavior is None
        else Engine.from_text(text, clock=clock, store=shared.again(store))
    )

    def ask(engine: Engine, version: str) -> None:
        clock.now += timedelta(minutes=1)
        asked = question()
        asked["request"]["headers"] = {"x-v": version}
        engine.decide(asked)

    def row_of(engine: Engine, version: str) -> BehaviorRow:
        tracker = engine.behavior
        assert tracker is not None
        caller = CALLER._replace(version=f"{tracker.tag(version):08x}")
        if isinstance(tracker, BehaviorTracker):
            return tracker.state.rows[caller].row
        return tracker._callers[tracker.key_of(caller)].row

    for _ in range(30):
        clock.now += timedelta(hours=1)
        ask(first, "one")
    ask(second, "two")
    start, earlier = row_of(second, "two"), row_of(first, "one")
    assert (start.serial, start.runs, sum(start.paces)) == (1, 0, sum(earlier.paces))
    ask(first, "two")
    assert (row_of(first, "two").serial, sum(row_of(first, "two").paces)) == (2, sum(earlier.paces))
    ask(first, "three")
    assert row_of(first, "three").serial == 1
    assert sum(row_of(first, "three").paces) > 0
