"""A damaged caller in a shared store: its own facts are unknown, and everything else continues."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from msgspec import msgpack

from policyengine import Engine
from policyengine.behavior import damaged_callers
from policyengine.behavior.operator_store import StoredBehavior
from policyengine.behavior.row import MAX_HOUR, ROW_VERSION
from policyengine.behavior.shared import EVENTS_PER_ROW
from policyengine.behavior.shared_keys import SharedKeys
from policyengine.behavior.shared_rows import UnreadableBehaviorError, decode_saved, encode_saved
from policyengine.behavior.state import BehaviorState
from policyengine.runtime.idempotency import IdempotencyKey
from policyengine.stores.base import Store, StoreError
from policyengine.stores.behavior import EVENTS_PER_GENERATION, MAX_NUMBER
from policyengine.stores.resilient_store import ResilientStore
from policyengine.stores.sql.store import SqlStore
from policyengine.stores.sqlite.store import SqliteStore
from tests.behavior.reporting_agents import POLICY, FakeClock, question
from tests.stores.charges import START
from tests.stores.learned import CALLER, KEY, Stores, keep, learn_ten_days, teach, told, tracker_of

pytestmark = pytest.mark.usefixtures("without_threads")
DAMAGED = SharedKeys(KEY).key_of(CALLER)
EVENT = (START // 1_000, 0, 0, 0, 1, False, (0, 0, 0))
STATES: dict[str, bytes] = {
    "no MessagePack": b"\xc1 secret",
    "empty": b"",
    "cut off": msgpack.encode((1, 0, 0, 0, 1, [EVENT]))[:-1],
    "text": b"secret",
    "more after it": msgpack.encode((1, 0, 0, 0, 1, [EVENT])) + b"\0",
    "a number": msgpack.encode(7),
    "another version": msgpack.encode((1, 0, 0)),
    "a later version": msgpack.encode((1, 0, 0, 0, 1, [], 0)),
    "no numbers": msgpack.encode(("1", 0, 0, 0, 1, [])),
    "not a number": msgpack.encode((1, float("nan"), 0, 0, 1, [])),
    "negative": msgpack.encode((1, 0, 0, 0, -1, [])),
    "too great": msgpack.encode((1, 0, 0, 0, MAX_NUMBER + 1, [])),
    "no events": msgpack.encode((1, 0, 0, 0, 1, 5)),
    "an event that is none": msgpack.encode((1, 0, 0, 0, 1, [7])),
    "an event without content": msgpack.encode((1, 0, 0, 0, 1, [(*EVENT[:6], ())])),
    "an event after all years": msgpack.encode((1, 0, 0, 0, 1, [((MAX_HOUR + 1) * 3_600_000, *EVENT[1:])])),
    "an event with a large tag": msgpack.encode((1, 0, 0, 0, 1, [(*EVENT[:6], (2**32, 0, 0))])),
}
ROWS: dict[str, bytes] = {
    "no MessagePack": b"\xff secret",
    "cut off": encode_saved("idp", "", "", learn_ten_days().rows[CALLER].row)[:-1],
    "no row": msgpack.encode(("idp", "", "", bytes([ROW_VERSION]))),
    "a number": msgpack.encode(7),
}


@pytest.fixture
def store(empty: Store, ten_days: BehaviorState) -> Any:
    """A store with the behavior of ten days."""
    teach(empty, ten_days)
    return empty


def put_state(store: Any, raw: bytes, key: str = DAMAGED) -> None:
    if isinstance(store, SqlStore):
        change(store, "UPDATE caller SET state = ? WHERE key = ?", raw, key)
    else:
        store._client.set(f"policyengine:behavior:{{{key}}}", raw)


def put_row(store: Any, raw: bytes, key: str = DAMAGED) -> None:
    if isinstance(store, SqlStore):
        change(store, "UPDATE caller_row SET row = ? WHERE key = ?", raw, key)
    else:
        store._client.set(f"policyengine:behavior:row:{{{key}}}", raw)


def put_another_type(store: Any, *, row: bool) -> None:
    """Put something into the place of a state or row that no process of policyengine puts there."""
    if isinstance(store, SqlStore):
        if not isinstance(store, SqliteStore):
            pytest.skip("a column of PostgreSQL has no values of another type")
        part = "caller_row SET row" if row else "caller SET state"
        change(store, f"UPDATE {part} = CAST(x'ff736563726574' AS TEXT) WHERE key = ?", DAMAGED)
    else:
        name = f"policyengine:behavior:{'row:' if row else ''}{{{DAMAGED}}}"
        store._client.delete(name)
        store._client.rpush(name, "secret")


def change(store: SqlStore, statement: str, *values: object) -> None:
    with store.step() as session:
        assert session.execute(statement, values).rowcount == 1


def remove_state(store: Any) -> None:
    if isinstance(store, SqlStore):
        change(store, "DELETE FROM caller WHERE key = ?", DAMAGED)
    else:
        store._client.delete(f"policyengine:behavior:{{{DAMAGED}}}")


def engine_of(store: Any, clock: FakeClock) -> Engine:
    return Engine.from_text(POLICY, clock=clock, store=ResilientStore(store))


def learn_next_day(engine: Engine, clock: FakeClock) -> int:
    """Learn a model on the next day, and return from how many callers."""
    serial = tracker_of(engine).model.content.serial
    clock.now += timedelta(days=1)
    keep([engine], clock)
    model = tracker_of(engine).model.content
    assert model.serial == serial + 1
    return sum(one.callers for one in model.classes)


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if getattr(one, "event", "") == "behavior_damaged"]


def check_unknown(engine: Engine) -> None:
    """Check that only the damaged caller has unknown facts, and that the store counts as one that answers."""
    for _ in range(5):
        assert told(engine.decide(question(task="a"))) in ("allow 2", "throttle 2")
    assert engine.decide(question(0, "/report", "POST")).outcome == "deny"  # `when` of a guard is unknown
    assert told(engine.evaluate(question(task="a"))) == "throttle 2"
    assert told(engine.decide(question(1, task="a"))) == "allow 180"
    store: Any = engine.store
    assert (store.failing, store.failures) == (False, 0)


# ── States ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("state", STATES)
def test_a_caller_with_a_damaged_state_has_unknown_facts_and_a_model_is_learned_from_all_others(
    state: str, store: Any, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A process notices the damage when it decides, or when it learns."""
    put_state(store, STATES[state])
    check_unknown(engine_of(store, clock))
    assert "secret" not in caplog.text
    caplog.clear()
    engine = engine_of(store, clock)
    with caplog.at_level(logging.INFO):
        assert learn_next_day(engine, clock) == 3
        assert learn_next_day(engine, clock) == 3
    assert tracker_of(engine).damaged.count == 1
    [line] = lines(caplog)
    assert DAMAGED in line
    assert "secret" not in caplog.text


@pytest.mark.parametrize("state", ["no MessagePack", "another version", "no events"])
def test_a_process_that_knows_the_caller_notices_the_damaged_state(
    state: str, store: Any, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    engine = engine_of(store, clock)
    assert told(engine.decide(question(task="a"))) == "allow 180"
    clock.now += timedelta(hours=1)
    put_state(store, STATES[state])
    check_unknown(engine)
    assert tracker_of(engine).damaged.count == 1
    assert len(lines(caplog)) == 1


def test_a_state_of_another_type_stops_no_learning(
    store: Any, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    put_another_type(store, row=False)
    engine = engine_of(store, clock)
    check_unknown(engine)
    assert learn_next_day(engine, clock) == 3
    assert len(lines(caplog)) == 1


def test_a_failure_of_a_caller_with_a_damaged_state_is_not_learned(store: Any, clock: FakeClock) -> None:
    engine = engine_of(store, clock)
    decisions = [engine.decide(question(task="a")).id for _ in range(2)]
    put_state(store, b"\xc1")
    engine.report(decisions[0], status=500)
    put_another_type(store, row=False)
    engine.report(decisions[1], status=500)
    check_unknown_after_an_hour(engine, clock)


def check_unknown_after_an_hour(engine: Engine, clock: FakeClock) -> None:
    clock.now += timedelta(hours=1)
    check_unknown(engine)


def test_a_batch_with_a_damaged_caller_decides_about_all(store: Any, clock: FakeClock) -> None:
    engine = engine_of(store, clock)
    engine.decide(question(task="a"))
    clock.now += timedelta(hours=1)
    put_state(store, b"\xc1")
    answers: list[Any] = list(engine.decide_many([question(one, task="a") for one in (0, 1, 0, 2)]))
    assert list(map(told, answers)) == ["allow 2", "allow 180", "allow 2", "allow 180"]


def test_an_idempotent_decision_about_a_damaged_caller_is_made_once(store: Any, clock: FakeClock) -> None:
    engine = engine_of(store, clock)
    engine.decide(question(task="a"))
    clock.now += timedelta(hours=1)
    put_state(store, b"\xc1")
    key = IdempotencyKey("gateway", "k", "a" * 32)
    first, second = (engine.decide_once(question(task="a"), key) for _ in range(2))
    assert (told(first.decision), first.again, second.again) == ("allow 2", False, True)
    assert first.decision.id == second.decision.id


# ── Rows ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("row", ROWS)
def test_a_model_is_learned_from_all_callers_except_one_with_a_damaged_row(
    row: str, store: Any, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    put_row(store, ROWS[row])
    engine = engine_of(store, clock)
    check_unknown(engine)
    assert [learn_next_day(engine, clock) for _ in range(2)] == [3, 3]
    assert tracker_of(engine).damaged.count == 1
    [line] = lines(caplog)
    assert DAMAGED in line
    assert "secret" not in caplog.text


def test_a_row_of_another_type_stops_no_learning(
    store: Any, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    put_another_type(store, row=True)
    engine = engine_of(store, clock)
    check_unknown(engine)
    assert learn_next_day(engine, clock) == 3
    assert len(lines(caplog)) == 1


def test_a_process_that_knows_the_caller_replaces_a_damaged_row(store: Any, clock: FakeClock) -> None:
    engine = engine_of(store, clock)
    engine.decide(question(task="a"))
    put_another_type(store, row=True)
    for _ in range(EVENTS_PER_ROW + 1):
        clock.now += timedelta(minutes=5)
        assert told(engine.decide(question(task="a"))) == "allow 180"
    assert told(engine_of(store, clock).decide(question(task="a"))) == "allow 180"
    assert learn_next_day(engine, clock) == 4


def test_a_row_of_another_version_is_lost_but_not_damaged(
    store: Any, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    row = store.behavior.read(DAMAGED, START).row
    issuer, agent, group, packed = msgpack.decode(row)
    put_row(store, msgpack.encode((issuer, agent, group, b"\xf0" + packed[1:])))
    engine = engine_of(store, clock)
    assert learn_next_day(engine, clock) == 3
    assert told(engine.decide(question(task="a"))) == "allow 100"
    assert lines(caplog) == []


def test_a_row_without_a_state_is_used_from_the_next_decision_on(
    store: Any, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    remove_state(store)
    first, second = engine_of(store, clock), engine_of(store, clock)
    assert told(first.decide(question(1, task="a"))) == "allow 180"
    assert learn_next_day(first, clock) == 3
    clock.now -= timedelta(days=1)
    assert told(second.decide(question(task="a"))) == "allow 180"
    clock.now += timedelta(days=1)
    assert learn_next_day(first, clock) == 4
    assert lines(caplog) == []


# ── Repairs and outages ───────────────────────────────────────────────────────────────────────


def test_a_forgotten_damaged_caller_is_new_for_all_processes(store: Any, shared: Stores, clock: FakeClock) -> None:
    first, second = engine_of(store, clock), engine_of(shared.again(store), clock)
    for engine in (first, second):
        assert told(engine.decide(question(task="a"))) == "allow 180"
    clock.now += timedelta(hours=1)
    learned = StoredBehavior(store.behavior)
    for damage in (lambda: put_state(store, b"\xc1"), lambda: put_another_type(store, row=False)):
        damage()
        assert told(first.decide(question(task="a"))) == "allow 2"
        assert learned.knows(CALLER)
        assert learned.forget(CALLER) == 1
        history = store.behavior.read(DAMAGED, START)
        assert (history.row, history.events) == (b"", ())
        assert learned.forget(CALLER) == 0
        assert history.base > 2**10 * EVENTS_PER_GENERATION
        for engine in (first, second):
            assert told(engine.decide(question(task="a"))) == "allow 100"
        clock.now += timedelta(hours=1)
    assert tracker_of(first).damaged.count == 0
    assert learn_next_day(first, clock) == 3  # the new caller has no saved row yet


def test_a_caller_that_is_damaged_again_is_logged_again(
    store: Any, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    engine, row = engine_of(store, clock), store.behavior.read(DAMAGED, START).row
    for expected in (1, 2):
        put_row(store, b"\xff")
        assert learn_next_day(engine, clock) == 3
        put_row(store, row)
        assert learn_next_day(engine, clock) == 4
        assert tracker_of(engine).damaged.count == 0
        assert len(lines(caplog)) == expected


def test_only_some_of_many_damaged_callers_are_logged(
    store: Any, clock: FakeClock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(damaged_callers, "MAX_LOGGED", 2)
    keys = list(store.behavior.keys())
    for key in keys:
        put_state(store, b"\xc1", key)
    engine = engine_of(store, clock)
    assert [learn_next_day(engine, clock) for _ in range(2)] == [0, 0]
    assert tracker_of(engine).damaged.count == len(keys) == 4
    assert len(lines(caplog)) == 2


def test_an_outage_while_callers_are_read_is_no_damage(
    store: Any, clock: FakeClock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model stays, and is learned when the store answers again."""
    put_state(store, b"\xc1")
    engine = engine_of(store, clock)
    model, callers = tracker_of(engine).model, type(store.behavior).callers

    def stop_in_the_middle(behavior: Any, now: int) -> Iterator[Any]:
        yield next(callers(behavior, now))
        raise StoreError("gone")

    monkeypatch.setattr(type(store.behavior), "callers", stop_in_the_middle)
    with pytest.raises(StoreError, match="gone"):
        learn_next_day(engine, clock)
    assert tracker_of(engine).model is model
    monkeypatch.setattr(type(store.behavior), "callers", callers)
    tracker_of(engine)._store.start_learning = lambda number, now: True  # type: ignore[method-assign]
    tracker_of(engine).keep()
    assert sum(one.callers for one in tracker_of(engine).model.content.classes) == 3


# ── Versions ──────────────────────────────────────────────────────────────────────────────────


def test_versions_of_another_type_are_lost_and_written_again(store: Any, clock: FakeClock) -> None:
    if isinstance(store, SqlStore):
        pytest.skip("a table has no keys of another type")
    store._client.set(f"policyengine:behavior:versions:{DAMAGED}", "secret")
    assert store.behavior.versions(DAMAGED, 5) == []
    store.behavior.add_version(DAMAGED, "one", 1_000, START)
    assert store.behavior.versions(DAMAGED, 5) == ["one"]


def test_the_saved_row_of_a_damaged_caller_is_named_in_the_error(store: Any) -> None:
    put_row(store, b"\xff")
    with pytest.raises(UnreadableBehaviorError, match="the row of a caller is damaged"):
        decode_saved(store.behavior.read(DAMAGED, START).row)
    put_state(store, b"\xc1")
    with pytest.raises(UnreadableBehaviorError, match="the state of a caller is damaged"):
        store.behavior.read(DAMAGED, START)
    assert [key for key, history in store.behavior.callers(START) if history is None] == [DAMAGED]
