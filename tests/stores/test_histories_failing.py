"""A history that cannot be read, or was lost, is one of which nothing is known: it never says that nothing happened."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from msgspec import msgpack

from policyengine.circuit_breaker import PAUSE_SECONDS
from policyengine.engine import Engine
from policyengine.stores.history_rows import SLACK_MICROSECONDS, watch_key
from policyengine.stores.memory.store import MemoryStore
from policyengine.stores.resilient_store import ResilientStore
from policyengine.stores.sql.history import forget
from policyengine.stores.sqlite.store import SqliteStore
from policyengine.stores.url import open_store
from tests.processes import wait_until
from tests.stores.charges import SECOND, START
from tests.stores.servers import Server, running
from tests.stores.test_failing import Broken, Time
from tests.stores.test_histories import HOUR, LINE, happens, past, record, remembers

if TYPE_CHECKING:
    import redis

POLICY = """
language 1
package shop
anyone { may GET /quiet, GET /after, GET /seen, GET /free, GET /secret }
guard "quiet" on GET /quiet { require no GET /seen within 1h per (request.method) }
guard "after" on GET /after { require after (GET /seen) within 1h per (request.method) }
guard "probing" on GET /free { deny when count of (denied GET /secret) within 1h per (request.method) > 2 }
guard "secret" on GET /secret { deny }
"""
PATHS = ("/quiet", "/after", "/free")


def asked(engine: Engine, path: str) -> str:
    decision = engine.decide({"request": {"method": "GET", "path": path}})
    return f"{decision.outcome.value} by {decision.gate.value}" if decision.gate else decision.outcome.value


def all_asked(engine: Engine) -> list[str]:
    return [asked(engine, path) for path in PATHS]


@contextmanager
def remembering(folder: Path, *options: str) -> Iterator[tuple[Server, Engine]]:
    """A server on which history began long ago."""
    import redis

    with running("redis-server", folder, *options) as server:
        engine = Engine.from_text(POLICY, store=open_store(f"{server.url}?timeout=20s"))
        with redis.Redis(port=server.port, protocol=2) as client:
            begun_long_ago(engine, client)
        yield server, engine


def begun_long_ago(engine: Engine, client: redis.Redis) -> None:
    for watch in engine.kernel.watches:
        client.hset("policyengine:begun", watch_key(watch.event.watch), msgpack.encode((-1, 0, 0)))


# ── Redis ─────────────────────────────────────────────────────────────────────────────────────


def test_the_history_is_unknown_while_the_server_is_down(tmp_path: Path) -> None:
    with remembering(tmp_path) as (server, engine):
        assert all_asked(engine) == ["allow", "deny by guard", "allow"]
        server.kill()
        assert all_asked(engine) == ["deny by guard"] * 3
        assert asked(engine, "/seen") == "deny by failure"
        [reason] = engine.decide({"request": {"method": "GET", "path": "/seen"}}).reasons
        assert reason.message == "the request cannot be recorded: the store did not answer"


def test_a_server_that_returns_empty_restarts_the_history(tmp_path: Path) -> None:
    with remembering(tmp_path) as (server, engine):
        server.kill()
        assert asked(engine, "/quiet") == "deny by guard"
        server.start()
        wait_until(lambda: asked(engine, "/seen") == "allow")
        assert all_asked(engine) == ["deny by guard", "allow", "deny by guard"]


def test_a_server_restored_from_a_snapshot_restarts_the_history(tmp_path: Path) -> None:
    with remembering(tmp_path) as (server, engine):
        import redis

        redis.Redis(port=server.port, protocol=2).save()
        assert asked(engine, "/seen") == "allow"
        server.kill()
        server.start()
        wait_until(lambda: asked(engine, "/seen") == "allow")
        assert all_asked(engine) == ["deny by guard", "allow", "deny by guard"]


def test_a_server_with_append_only_persistence_keeps_the_history(tmp_path: Path) -> None:
    with remembering(tmp_path, "--appendonly", "yes", "--appendfsync", "always") as (server, engine):
        assert asked(engine, "/free") == "allow"
        server.kill()
        server.start()
        wait_until(lambda: asked(engine, "/free") == "allow")
        assert asked(engine, "/quiet") == "allow"
        assert asked(engine, "/seen") == "allow"
        assert asked(engine, "/quiet") == "deny by guard"


def test_an_engine_started_without_its_server_records_history_later(tmp_path: Path) -> None:
    with running("redis-server", tmp_path) as server:
        store = open_store(f"{server.url}?timeout=20s")
        server.kill()
        engine = Engine.from_text(POLICY, store=store)
        assert asked(engine, "/after") == "deny by halted"
        server.start()
        wait_until(lambda: asked(engine, "/seen") == "allow")
        assert asked(engine, "/after") == "allow"


def test_history_keys_in_redis_expire_after_their_window(redis_server: Server) -> None:
    import redis

    from policyengine.stores.redis.step import DEFAULT_KEYS
    from policyengine.stores.redis.store import RedisStore

    with redis.Redis(port=redis_server.port, protocol=2) as client:
        client.flushall()
        store = RedisStore(client)
        store.begin(["paid"], 0)
        assert happens(store, record(awaits=True, within=HOUR), at=0)
        kept = (HOUR + SLACK_MICROSECONDS) // 1_000
        assert kept - 5_000 < client.pttl(DEFAULT_KEYS.line(LINE)) <= kept
        assert HOUR // 1_000 - 5_000 < client.pttl(DEFAULT_KEYS.awaited("one")) <= HOUR // 1_000
        assert [client.pttl(name) for name in (DEFAULT_KEYS.begun, DEFAULT_KEYS.changes)] == [-1, -1]


def test_an_expired_history_is_incomplete_not_empty(redis_server: Server) -> None:
    """More than the shortest window that lines were kept for is not known."""
    import redis

    from policyengine.stores.redis.step import DEFAULT_KEYS
    from policyengine.stores.redis.store import RedisStore

    with redis.Redis(port=redis_server.port, protocol=2) as client:
        client.flushall()
        store = RedisStore(client, virtual=True)
        store.begin(["paid"], START)
        happens(store, record(within=HOUR))
        client.delete(DEFAULT_KEYS.line(LINE))
        store.begin([], START + 9 * HOUR)
        assert past(store).complete_after == START + 8 * HOUR - SLACK_MICROSECONDS
        happens(store, record("paid", "bob", within=5 * HOUR), at=START + 9 * HOUR)
        assert past(store).complete_after == START + 4 * HOUR - SLACK_MICROSECONDS
        assert past(store, ("paid", "bob")).complete_after == START + 8 * HOUR - SLACK_MICROSECONDS
        happens(store, record("paid", "bob", within=HOUR), at=START + 10 * HOUR)
        assert past(store).complete_after == START + 9 * HOUR - SLACK_MICROSECONDS


# ── SQLite ────────────────────────────────────────────────────────────────────────────────────


def test_an_evicted_event_makes_the_sqlite_history_incomplete(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "store.db")
    store.begin(["paid"], START)
    happens(store, record(awaits=True), at=START + 7)
    later = START + 7 + HOUR + SLACK_MICROSECONDS
    with store.step() as asking:
        forget(asking, later - 1, 1)
    assert past(store).events
    with store.step() as asking:
        forget(asking, later, 1)
    assert (list(past(store).events), past(store).complete_after) == ([], START + 7)


def test_a_sqlite_file_without_history_tables_is_upgraded(tmp_path: Path) -> None:
    import sqlite3

    SqliteStore(tmp_path / "store.db").close()
    with closing(sqlite3.connect(tmp_path / "store.db", isolation_level=None)) as old:
        for table in ("begun", "line", "event", "awaited", "changes"):
            old.execute(f"DROP TABLE {table}")
        old.execute("PRAGMA user_version = 1")
    store = SqliteStore(tmp_path / "store.db")
    store.begin(["paid"], START)
    assert happens(store, record())
    assert len(past(store).events) == 1


def test_an_emptied_sqlite_file_restarts_the_history(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "store.db")
    store.begin(["paid"], START)
    happens(store, record(), at=START + SECOND)
    with store.step() as asking:
        for table in ("begun", "line", "event"):
            asking.execute(f"DELETE FROM {table}")
        asking.execute("UPDATE clock SET now = 0")
    assert past(store).complete_after >= START


# ── Whatever does not answer ──────────────────────────────────────────────────────────────────


def test_denials_during_an_outage_are_recorded_after_recovery() -> None:
    inner, time = Broken(MemoryStore(history_complete=True)), Time()
    guarded = ResilientStore(inner, clock=time)  # type: ignore[arg-type]
    for number in range(40):
        guarded.commit(remembers(record(), denied=True), str(number), START)
    assert guarded.failures == 40
    inner.broken = False
    time.now += PAUSE_SECONDS
    for number in range(4):
        assert happens(guarded, record("seen"), name=f"later {number}", at=START + number)
    assert sorted(int(one.decision) for one in past(guarded).events) == list(range(40))


@pytest.mark.parametrize("relied", [(), ((LINE, 0),)])
def test_a_request_that_must_be_recorded_fails_while_the_store_is_down(relied: Any) -> None:
    guarded = ResilientStore(Broken(MemoryStore()))  # type: ignore[arg-type]
    assert guarded.fetch([LINE], START) == {}
    told: Any = guarded.commit(remembers(record(), relied=relied), "one", START)
    assert told.failed
