"""Learned behavior in a store that fails, loses something or is damaged; and what learning costs."""

from __future__ import annotations

import json
import logging
import random
import sqlite3
from array import array
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from policyengine import Engine
from policyengine.audit import DecisionLog
from policyengine.audit.reader import read_records
from policyengine.audit.replay import replay_decision
from policyengine.behavior import shared as shared_module
from policyengine.behavior import shared_rows
from policyengine.behavior.events import RequestTags
from policyengine.behavior.fold import ProfileSettings, read_behavior
from policyengine.behavior.folder import BehaviorFolderError
from policyengine.behavior.model import FORMAT, MODEL_VERSION, BehaviorModel, ClassModel, ModelContent
from policyengine.behavior.row import DAYS_KEPT, HOUR, HOURS_OF_DAY, MAX_COUNT, BehaviorRow
from policyengine.behavior.shared import SharedTracker
from policyengine.behavior.shared_keys import derive, sign_model
from policyengine.behavior.shared_levels import level_limits
from policyengine.behavior.state import BehaviorState, CallerSnapshot
from policyengine.behavior.tracker import BehaviorTracker
from policyengine.stores.base import StoreError
from policyengine.stores.behavior import MODEL
from policyengine.stores.memory.store import MemoryStore
from policyengine.stores.resilient_store import ResilientStore
from policyengine.stores.sqlite.store import SqliteStore
from tests.behavior.reporting_agents import POLICY, FakeClock, question
from tests.stores.learned import CALLER, KEY, teach, told, tracker_of
from tests.stores.servers import Server

pytestmark = pytest.mark.usefixtures("without_threads")
LOCAL = POLICY.replace("  60/1m burst 100", "  60/1m burst 100   on store failure local")


class BreakableStore(SqliteStore):
    """A SQLite store that does not answer while it is broken."""

    broken = False

    def _patiently(self, connection: sqlite3.Connection, words: Sequence[str]) -> None:
        if self.broken:
            raise StoreError("gone")
        super()._patiently(connection, words)


@pytest.fixture
def store(tmp_path: Path, ten_days: BehaviorState) -> BreakableStore:
    store = BreakableStore(tmp_path / "store.db")
    teach(store, ten_days)
    return store


# ── A store that does not answer ──────────────────────────────────────────────────────────────


def test_attack_31_in_a_store_outage_facts_are_unknown_nothing_is_raised_and_clamps_act(
    store: Any, clock: FakeClock, tmp_path: Path
) -> None:
    log = DecisionLog(tmp_path / "log.jsonl", seal=None)
    engine = Engine.from_text(LOCAL, clock=clock, store=ResilientStore(store), log=log)
    assert told(engine.decide(question(task="a"))) == "allow 180"
    store.broken = True
    assert told(engine.decide(question(task="a"))) == "allow 2"  # the row is in memory, but not what others added
    assert told(engine.decide(question(1, task="a"))) == "allow 2"  # nothing is known of this caller
    assert engine.decide(question(2, "/report", "POST")).outcome == "deny"  # `when` of a guard is unknown
    assert told(engine.evaluate(question(3))) == "allow 2"
    store.broken = False
    clock.now += timedelta(hours=1)
    lines = [json.loads(line) for line in log.path.read_bytes().splitlines()]
    log.close()
    assert [line["behavior"] for line in lines if "behavior" in line][1:] == [{"unreadable": True}] * 4
    records = [one for one in read_records(log.path) if one.behavior is not None]
    assert len(records) == 5
    assert all(replay_decision(record, engine.kernel).same for record in records)


def test_a_store_that_fails_at_the_start_halts_everything_and_is_used_later(store: Any, clock: FakeClock) -> None:
    store.broken = True
    now = [0.0]
    engine = Engine.from_text(LOCAL, clock=clock, store=ResilientStore(store, clock=lambda: now[0]))
    assert engine.decide(question(task="a")).gate == "halted"
    store.broken = False
    now[0] += 100
    engine.halting.refresh()
    store.broken = True
    assert told(engine.decide(question(task="a"))) == "allow 2"
    store.broken = False
    now[0] += 100
    assert told(engine.decide(question(task="a"))) == "allow 180"


# ── The model and the rows ────────────────────────────────────────────────────────────────────


def model(serial: int) -> BehaviorModel:
    return BehaviorModel(ModelContent(FORMAT, MODEL_VERSION, serial, 0, "", ()))


def test_a_model_with_a_wrong_signature_makes_facts_unknown(
    store: Any, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    engine = Engine.from_text(LOCAL, clock=clock, store=store)
    assert told(engine.decide(question(task="a"))) == "allow 180"
    store.behavior.save_document(MODEL, 90, sign_model(model(90), b"another key"))
    with caplog.at_level(logging.ERROR):
        tracker_of(engine).keep()
        tracker_of(engine).keep()
    assert [one.message for one in caplog.records] == [
        "the model in the store cannot be used: it was not signed with this key"
    ]
    assert told(engine.decide(question(task="a"))) == "allow 2"
    store.behavior.save_document(MODEL, 91, sign_model(model(90), derive(KEY, b"models")))
    tracker_of(engine).keep()
    assert told(engine.decide(question(task="a"))) == "throttle 2"
    store.behavior.save_document(MODEL, 92, sign_model(model(92), derive(KEY, b"models")))
    tracker_of(engine).refresh_model()
    assert tracker_of(engine).model.content.serial == 92


def test_a_process_replaces_an_older_model_by_the_one_that_it_knows(
    store: Any, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    engine = Engine.from_text(LOCAL, clock=clock, store=store)
    serial = tracker_of(engine).model.content.serial
    with sqlite3.connect(store.path) as connection:
        connection.execute("UPDATE behavior SET number = 1 WHERE name = 'model'")
    connection.close()
    tracker_of(engine).refresh_model()
    assert store.behavior.document(MODEL, 0)[0] == serial
    assert "the lost model was saved again" in caplog.text
    assert told(engine.decide(question(task="a"))) == "allow 180"


def test_a_store_that_lost_everything_begins_anew(store: Any, clock: FakeClock) -> None:
    engine = Engine.from_text(LOCAL, clock=clock, store=store)
    assert told(engine.decide(question(task="a"))) == "allow 180"
    with sqlite3.connect(store.path) as connection:
        for table in ("behavior", "caller", "caller_row"):
            connection.execute(f"DELETE FROM {table}")
    connection.close()
    other = Engine.from_text(LOCAL, clock=clock, store=store)
    tracker_of(engine).keep()
    assert tracker_of(engine).key_of(CALLER) == tracker_of(other).key_of(CALLER)
    assert tracker_of(engine).model.content.classes == ()
    assert [told(one.decide(question(task="a"))) for one in (engine, other)] == ["allow 100"] * 2


@pytest.mark.parametrize(("row", "outcome"), [(b"\xff damaged", "allow 2"), (b"", "allow 100")])
def test_a_damaged_row_makes_facts_unknown_and_a_lost_one_new(
    store: Any, clock: FakeClock, row: bytes, outcome: str
) -> None:
    key = tracker_of(Engine.from_text(LOCAL, clock=clock, store=store)).key_of(CALLER)
    with sqlite3.connect(store.path) as connection:
        connection.execute("UPDATE caller_row SET row = ? WHERE key = ?", (row, key))
    connection.close()
    engine = Engine.from_text(LOCAL, clock=clock, store=store)
    assert told(engine.decide(question(task="a"))) == outcome
    assert told(engine.decide(question(1, task="a"))) == "allow 180"


def test_a_row_of_another_version_is_learned_anew(
    store: Any, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_rows, "ROW_VERSIONS", (99,))
    engine = Engine.from_text(LOCAL, clock=clock, store=store)
    assert told(engine.decide(question(task="a"))) == "allow 100"


def test_a_forgotten_caller_is_new(store: Any, clock: FakeClock) -> None:
    engine = Engine.from_text(LOCAL, clock=clock, store=store)
    assert told(engine.decide(question(task="a"))) == "allow 180"
    assert tracker_of(engine).forget(CALLER)
    assert not tracker_of(engine).forget(CALLER)
    assert told(engine.decide(question(task="a"))) == "allow 100"


def test_a_process_that_has_not_heard_of_a_caller_for_long_decides_with_all_events(
    store: Any, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (Engine.from_text(LOCAL, clock=clock, store=store) for _ in range(2))
    second.decide(question(task="a"))
    for number in range(3):
        first.decide(question(path=f"/secret/{number}", task="a"))  # an alarm
    assert told(second.decide(question(task="a"))) == "allow 180"
    for hour in range(1, 4):
        clock.now += timedelta(hours=hour)
        first.decide(question(path="/report", method="POST", task="b"))
    monkeypatch.setattr(shared_module, "FRESH_SECONDS", -1.0)
    assert told(second.decide(question(task="a"))) == "allow 100"


def test_callers_are_forgotten_when_nothing_was_heard_of_them(store: Any, clock: FakeClock) -> None:
    engine = Engine.from_text(LOCAL, clock=clock, store=store)
    engine.decide(question(task="a"))
    clock.now += timedelta(days=16)
    for _ in range(256):
        engine.decide(question(5, task="b"))
    with sqlite3.connect(store.path) as connection:
        found = [key for (key,) in connection.execute("SELECT key FROM caller")]
        rows = connection.execute("SELECT count(*) FROM caller_row").fetchone()
    connection.close()
    assert found == [tracker_of(engine).key_of(CALLER._replace(agent="report-5"))]
    assert rows == (1,)


# ── Trackers and stores ───────────────────────────────────────────────────────────────────────


def test_a_folder_and_a_shared_store_exclude_each_other(store: Any, tmp_path: Path) -> None:
    for given in (tmp_path / "folder", BehaviorTracker()):
        with pytest.raises(BehaviorFolderError, match="the store keeps what is learned about callers"):
            Engine.from_text(POLICY, store=store, behavior=given)
    with pytest.raises(BehaviorFolderError, match="a memory store does not keep what another store learned"):
        Engine.from_text(POLICY, store=MemoryStore(), behavior=SharedTracker(store.behavior))


def test_nothing_is_stored_if_no_rule_reads_learned_facts(tmp_path: Path, clock: FakeClock) -> None:
    text = "\n".join(line for line in POLICY.splitlines() if "behavior." not in line)
    engine = Engine.from_text(text, clock=clock, store=SqliteStore(tmp_path / "store.db"))
    engine.decide(question())
    with sqlite3.connect(tmp_path / "store.db") as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    connection.close()
    assert "state" in tables
    assert not tables & {"caller", "caller_row", "reportable", "behavior"}


# ── Redis ─────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def client(redis_server: Server) -> Iterator[Any]:
    import redis

    with redis.Redis(port=redis_server.port, protocol=2) as client:
        client.flushall()
        yield client


def test_a_decision_with_a_rate_is_still_one_round_trip(client: Any, clock: FakeClock) -> None:
    from policyengine.stores.redis.store import RedisStore

    store = RedisStore(client, virtual=True)
    engine = Engine.from_text(POLICY, clock=clock, store=store)
    engine.decide(question())  # the scripts, and the first contact with the caller
    calls = evaluations(client)
    for number in range(40):
        clock.now += timedelta(seconds=20)
        engine.decide(question(path="/nowhere" if number % 4 == 0 else "/data/x"))
    assert evaluations(client) == calls + 40
    engine.decide(question(1))
    assert evaluations(client) == calls + 42  # the first contact with another caller takes one more
    store.close()


def evaluations(client: Any) -> int:
    return int(client.info("commandstats")["cmdstat_evalsha"]["calls"])


def test_callers_in_redis_expire(client: Any) -> None:
    from policyengine.stores.redis.store import RedisStore

    store = RedisStore(client)
    engine = Engine.from_text(POLICY, store=store)
    for _ in range(20):
        decision = engine.decide(question())
    key = tracker_of(engine).key_of(CALLER)
    days = 15 * 86_400
    for name in (f"policyengine:behavior:{{{key}}}", f"policyengine:behavior:row:{{{key}}}"):
        assert days - 60 < client.ttl(name) <= days
    (place,) = client.keys("policyengine:behavior:reportable:*")[:1]
    assert 3_500 < client.ttl(place) <= 3_600
    engine.report(decision.id, status=500)
    assert days - 60 < client.ttl(f"policyengine:behavior:{{{key}}}") <= days
    store.close()


# ── Arithmetic ────────────────────────────────────────────────────────────────────────────────


def test_the_limits_of_levels_are_those_of_the_fold() -> None:
    chance, bursts = random.Random(3), 0
    for _ in range(2_000):
        at = 20_000 * 24 * HOUR + chance.randrange(24 * HOUR)
        row = BehaviorRow(at - chance.randrange(10**7))
        row.hour, row.runs, row.days = at // HOUR, 100, 2**DAYS_KEPT - 1
        row.paces = array("I", [chance.choice([0, 5, 10**3, MAX_COUNT]) for _ in range(HOURS_OF_DAY)])
        top = chance.choice([64, 1_000, 10**5, MAX_COUNT])
        row.peaks = array("I", [chance.choice([0, 64, top]) for _ in range(2 * DAYS_KEPT)])
        levels = [chance.choice([0, 10**9, 10**12, 2**53 - 1]) for _ in range(3)]
        row.level_slow, row.level_fast, row.level_denied = levels
        margins = chance.choice([1_024, 1_025, 1_777, 8_192]), chance.choice([1_024, 1_333])
        found = ClassModel("i", "g", 200, 3, frozenset(), *margins, 20)
        content = ModelContent(FORMAT, MODEL_VERSION, 1, 0, "", (found,))
        settings = ProfileSettings()
        facts = read_behavior(row, found, RequestTags(1), at, settings)
        reading = CallerSnapshot(
            CALLER._replace(issuer="i"), "g", settings, RequestTags(0), at, row, 0, BehaviorModel(content), facts
        )
        slow, fast = level_limits(reading)
        assert (facts.level_slow + facts.level_denied > slow or facts.level_fast > fast) is facts.burst
        bursts += facts.burst
    assert 100 < bursts < 1_900
