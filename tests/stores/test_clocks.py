"""Whose clock decides: the store's own, on every store, whatever the clock of the server says that asks it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import time_ns
from typing import TYPE_CHECKING, Any

import pytest

from policyengine.audit import DecisionLog, read_records
from policyengine.audit.replay import replay_decision
from policyengine.circuit_breaker import PAUSE_SECONDS
from policyengine.engine import Engine
from policyengine.log_throttle import LogThrottle
from policyengine.runtime.decision import Decision
from policyengine.runtime.history import OutcomeReport
from policyengine.stores.base import Store
from policyengine.stores.clock_skew import MAX_SKEW_MICROSECONDS, ClockSkew, ClockSkewError
from policyengine.stores.memory.store import MemoryStore
from policyengine.stores.resilient_store import ResilientStore
from policyengine.stores.sqlite.store import SqliteStore
from policyengine.stores.url import open_store
from tests.entities.postgres import Postgres, parameters
from tests.stores.charges import SECOND, START, asks, budget, rate
from tests.stores.servers import Server
from tests.stores.test_failing import Time
from tests.stores.test_histories import LINE, happens, past, record
from tests.stores.test_histories_failing import begun_long_ago

if TYPE_CHECKING:
    import redis

HOUR = 3_600 * SECOND
POLICY = """
language 1
package bank
anyone { may POST /pay/{id}, POST /late, GET /rate, GET /local, GET /allow, GET /free }
guard "once" on POST /pay/{id} { require no POST /pay/{id} within 10s per (params.id) }
guard "soon" on POST /late { require after POST /pay/{id} within 10s per (request.method) }
rate "usual" per request.path on GET /rate { 2/1d }
rate "here" per request.path on GET /local { 2/1d   on store failure local }
rate "lax" per request.path on GET /allow { 2/1d   on store failure allow }
"""
SHIFTS = [timedelta(seconds=20), timedelta(seconds=-20), timedelta(hours=1), timedelta(hours=-1)]


class Shifted:
    """A clock that is wrong."""

    def __init__(self, shift: timedelta = timedelta(0)) -> None:
        self.shift = shift

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.shift


def asked(engine: Engine, where: str) -> Decision:
    method, path = where.split()
    return engine.decide({"request": {"method": method, "path": path}})


def outcomes(engine: Engine, *where: str) -> list[str]:
    return [str(asked(engine, one).outcome) for one in where]


@pytest.fixture(params=["redis", "valkey"])
def server(request: pytest.FixtureRequest) -> Server:
    found: Server = request.getfixturevalue(f"{request.param}_server")
    return found


@pytest.fixture
def client(server: Server) -> Iterator[redis.Redis]:
    import redis

    with redis.Redis(port=server.port, protocol=2) as found:
        found.flushall()
        yield found


# ── Windows ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("shift", SHIFTS, ids=str)
def test_recent_history_is_known_despite_a_skewed_server_clock(client: redis.Redis, shift: timedelta) -> None:
    from policyengine.stores.redis.store import RedisStore

    engine = Engine.from_text(POLICY, clock=Shifted(shift), store=RedisStore(client))
    begun_long_ago(engine, client)
    assert outcomes(engine, "POST /pay/7", "POST /pay/7", "POST /late") == ["allow", "deny", "allow"]


@pytest.mark.parametrize("shift", SHIFTS, ids=str)
def test_each_cluster_slot_uses_the_clock_of_its_redis_server(redis_cluster: list[Server], shift: timedelta) -> None:
    import redis

    from policyengine.stores.redis.cluster import ClusterStore
    from policyengine.stores.redis.cluster_history import begun_keys

    with redis.RedisCluster(host="127.0.0.1", port=redis_cluster[0].port, protocol=2) as client:
        client.flushall(target_nodes=client.PRIMARIES)
        engine = Engine.from_text(POLICY, clock=Shifted(shift), store=ClusterStore(client))
        for begun in begun_keys():
            for watch in engine.kernel.watches:
                from msgspec import msgpack

                from policyengine.stores.history_rows import watch_key

                client.hset(begun, watch_key(watch.event.watch), msgpack.encode((-1, 0, 0)))
        assert outcomes(engine, "POST /pay/7", "POST /pay/7", "POST /late") == ["allow", "deny", "allow"]


@pytest.mark.parametrize("shift", [timedelta(seconds=20), timedelta(seconds=-20)], ids=str)
def test_a_server_within_the_allowed_skew_denies_by_the_rule(
    client: redis.Redis, server: Server, shift: timedelta, tmp_path: Path
) -> None:
    store = open_store(f"{server.url}?skew=60s&timeout=5s")
    shared = Engine.from_text(POLICY, clock=Shifted(shift), store=store)
    begun_long_ago(shared, client)
    clock = Shifted(shift - timedelta(minutes=1))
    alone = Engine.from_text(POLICY, clock=clock, store=open_store(f"sqlite:///{tmp_path}/store.db"))
    clock.shift = shift
    for engine in (shared, alone):
        passed, stopped = (asked(engine, "POST /pay/7") for _ in range(2))
        assert (passed.outcome, stopped.outcome, stopped.gate) == ("allow", "deny", "guard")


def test_the_time_of_a_history_in_redis_never_decreases(client: redis.Redis) -> None:
    from policyengine.stores.redis.step import DEFAULT_KEYS
    from policyengine.stores.redis.store import RedisStore

    store = RedisStore(client)
    store.begin(["paid"], 0)
    first = past(store, at=START).now
    assert abs(first - time_ns() // 1_000) < 60 * SECOND
    client.set(DEFAULT_KEYS.clock, first + HOUR)  # as if the clock of the server had been set back
    assert past(store, at=START).now == first + HOUR
    happens(store, record(), at=START)
    [event] = past(store, at=START).events
    assert event.at == first + HOUR
    assert int(client.get(DEFAULT_KEYS.clock) or 0) == first + HOUR  # type: ignore[arg-type]


def test_a_store_clock_in_the_future_is_reported_as_skew(client: redis.Redis, server: Server) -> None:
    from policyengine.stores.redis.step import DEFAULT_KEYS

    engine = Engine.from_text(POLICY, store=open_store(f"{server.url}?timeout=5s"))
    client.set(DEFAULT_KEYS.clock, time_ns() // 1_000 + HOUR)
    assert engine.state.find_failure(engine.decider.now()) == "the clock of this server is 1h behind the store's"
    assert asked(engine, "GET /rate").gate == "failure"


def test_the_time_of_a_cluster_slot_never_decreases(redis_cluster: list[Server]) -> None:
    import redis

    from policyengine.stores.redis.cluster import ClusterStore
    from policyengine.stores.redis.cluster_history import keys_of_history

    with redis.RedisCluster(host="127.0.0.1", port=redis_cluster[0].port, protocol=2) as client:
        client.flushall(target_nodes=client.PRIMARIES)
        store = ClusterStore(client)
        store.begin(["paid"], 0)
        first = past(store, at=START).now
        client.set(keys_of_history(LINE).clock, first + HOUR)
        assert past(store, at=START).now == first + HOUR
        happens(store, record(), at=START)
        [event] = past(store, at=START).events
        assert event.at == first + HOUR
        assert store.skew.exceeded


def test_reading_a_history_advances_the_clock_of_the_store(store: Store) -> None:
    """Else who looks again, once the clock is set back, would find in the window what had left it."""
    store.begin(["paid"], START)
    assert past(store, at=START + 4 * SECOND).now == START + 4 * SECOND
    assert past(store, at=START).now == START + 4 * SECOND
    happens(store, record(), at=START)
    assert [one.at for one in past(store, at=START).events] == [START + 4 * SECOND]


@pytest.mark.parametrize("decision", ["known", "unknown"])
def test_a_report_advances_the_clock_of_a_store_even_if_no_event_awaits_it(store: Store, decision: str) -> None:
    """In Redis this concerns given times only: a server with its own clock is not asked the time of such a report."""
    store.begin(["paid", "seen"], START)
    happens(store, record("seen", "alice", awaits=True), name="known", at=START)
    store.report(decision, OutcomeReport(200, {}), START + 4 * SECOND)
    happens(store, record(), at=START + 3 * SECOND)
    assert [one.at for one in past(store, at=START).events] == [START + 4 * SECOND]


def test_the_fast_path_uses_the_clock_of_the_store() -> None:
    now = [datetime(2027, 1, 4, 12, tzinfo=UTC)]
    store = MemoryStore(history_complete=True)
    engine = Engine.from_text(POLICY, clock=lambda: now[0], store=store)
    assert outcomes(engine, "POST /pay/7") == ["allow"]
    now[0] += timedelta(seconds=11)
    assert outcomes(engine, "POST /pay/8") == ["allow"]
    now[0] -= timedelta(seconds=3)
    assert outcomes(engine, "POST /pay/7", "POST /pay/8") == ["allow", "deny"]


def test_a_replay_uses_the_recorded_store_time(client: redis.Redis, tmp_path: Path) -> None:
    from policyengine.stores.redis.store import RedisStore

    log = DecisionLog(tmp_path / "log")
    engine = Engine.from_text(POLICY, clock=Shifted(timedelta(minutes=5)), store=RedisStore(client), log=log)
    begun_long_ago(engine, client)
    assert outcomes(engine, "POST /pay/7", "POST /pay/7", "POST /late") == ["allow", "deny", "allow"]
    log.close()
    records = list(read_records(tmp_path / "log"))
    assert [str(one.outcome) for one in records] == ["allow", "deny", "allow"]
    assert all(replay_decision(one, engine.kernel).same for one in records)


# ── Too far ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("shift", "reason"),
    list(zip(SHIFTS, ["20s ahead of", "20s behind", "1h ahead of", "1h behind"], strict=True)),
    ids=str,
)
def test_excessive_clock_skew_denies_decisions_that_need_the_store(
    client: redis.Redis, server: Server, shift: timedelta, reason: str
) -> None:
    engine = Engine.from_text(POLICY, clock=Shifted(shift), store=open_store(f"{server.url}?timeout=5s"))
    begun_long_ago(engine, client)
    why = f"the clock of this server is {reason} the store's"
    paid, counted = asked(engine, "POST /pay/7"), asked(engine, "GET /rate")
    assert (paid.outcome, counted.outcome, counted.gate) == ("deny", "deny", "failure")
    assert f"`no POST /pay/{{id}} within 10s per (params.id)` is unknown: {why}" in paid.reasons[0].message
    assert [one.message for one in counted.reasons] == [f"`2/1d`: {why}"]
    assert outcomes(engine, "GET /free", "GET /allow") == ["allow"] * 2
    assert outcomes(engine, *["GET /local"] * 3) == ["allow", "allow", "throttle"]
    assert engine.state.find_failure(engine.decider.now()) == why
    assert client.keys("policyengine:state:*") == []


@pytest.mark.parametrize("kind", ["redis", "cluster", "sqlite", "postgres"])
def test_the_store_is_used_again_after_the_clock_skew_ends(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    inner: Any = SqliteStore(tmp_path / "store.db")
    if kind == "postgres":
        from policyengine.stores.postgres.store import PostgresStore

        server: Postgres = request.getfixturevalue("postgres_server")
        server.empty("policyengine")
        inner = PostgresStore(parameters(server.port))
    elif kind != "sqlite":
        import redis

        from policyengine.stores.redis.cluster import ClusterStore
        from policyengine.stores.redis.store import RedisStore

        servers = request.getfixturevalue("redis_cluster" if kind == "cluster" else "redis_server")
        for one in servers if kind == "cluster" else [servers]:
            redis.Redis(port=one.port, protocol=2).flushall()
        inner = (
            ClusterStore(redis.RedisCluster(host="127.0.0.1", port=servers[0].port, protocol=2))
            if kind == "cluster"
            else RedisStore(redis.Redis(port=servers.port, protocol=2))
        )
    clock, time = Shifted(), Time()
    engine = Engine.from_text(POLICY, clock=clock, store=ResilientStore(inner, clock=time))
    assert outcomes(engine, "GET /rate") == ["allow"]
    clock.shift = timedelta(seconds=-20)
    asked(engine, "GET /rate")  # tells how far it is
    assert [one.gate for one in (asked(engine, "GET /rate"), asked(engine, "GET /rate"))] == ["failure"] * 2
    clock.shift = timedelta(seconds=-4.5)  # not close enough
    time.now += PAUSE_SECONDS
    assert asked(engine, "GET /rate").gate == "failure"
    clock.shift = timedelta(0)
    assert asked(engine, "GET /rate").gate == "failure"  # somebody looked just now
    time.now += PAUSE_SECONDS
    assert outcomes(engine, "GET /free", "GET /rate")[0] == "allow"
    assert asked(engine, "GET /rate").gate != "failure"


def test_a_clock_set_back_far_makes_the_memory_store_fail(caplog: pytest.LogCaptureFixture) -> None:
    now = [datetime(2027, 1, 4, 12, tzinfo=UTC)]
    engine = Engine.from_text(POLICY, clock=lambda: now[0], store=MemoryStore(history_complete=True))
    assert outcomes(engine, "GET /rate", "POST /pay/7") == ["allow", "allow"]
    now[0] -= timedelta(seconds=4)
    assert outcomes(engine, "GET /rate", "POST /pay/7") == ["allow", "deny"]
    now[0] -= timedelta(minutes=10)
    with caplog.at_level(logging.ERROR, "policyengine"):
        decisions = [asked(engine, where) for where in ("GET /rate", "POST /pay/8", "GET /allow")]
    assert [one.gate for one in decisions] == ["failure"] * 3
    assert {one.reasons[0].message for one in decisions} == {
        "the state in the store is unknown: the clock of this machine was set back by 10m4s"
    }
    [line] = caplog.records
    assert line.getMessage() == (
        "the clock of this machine was set back by 10m4s, more than 5s: "
        "decisions that need the store are denied until it has caught up"
    )
    assert outcomes(engine, "GET /free") == ["allow"]
    paid = {"request": {"method": "POST", "path": "/pay/8"}}
    for looked in (engine.evaluate(paid), engine.explain(paid).decision):
        assert (looked.gate, looked.reasons) == (decisions[1].gate, decisions[1].reasons)
    assert engine.state.find_failure(engine.decider.now()) == "the clock of this machine was set back by 10m4s"
    now[0] += timedelta(minutes=10, seconds=4)
    assert outcomes(engine, "GET /rate", "POST /pay/8") == ["throttle", "allow"]
    assert engine.state.find_failure(engine.decider.now()) is None


def test_clock_skew_prevents_spending_approvals() -> None:
    skew = ClockSkew()
    store = SqliteStore(":memory:")
    store.skew = skew
    guarded = ResilientStore(store)
    skew.between(START, START + 2 * MAX_SKEW_MICROSECONDS, START)
    guarded._looks = float("inf")
    told = guarded.commit(asks(rate(), spends=("a",)), "one", START)
    assert told is not None
    assert (told.failed, told.reason) == (skew.reason, skew.reason)
    assert store.spent_among(["a"]) == frozenset()
    assert not guarded.failing


@pytest.mark.parametrize("shift", [-20, 20])
def test_clock_skew_rejects_credentials_but_allows_revocations(client: redis.Redis, server: Server, shift: int) -> None:
    """Else a proof would count twice: once it is forgotten here, a clock that is behind holds it to be fresh."""
    store = open_store(f"{server.url}?timeout=5s")
    assert isinstance(store, ResilientStore)
    store.follow(lambda: time_ns() // 1_000 + shift * SECOND)
    now = time_ns() // 1_000_000_000 + shift
    marks: list[Callable[[], object]] = [
        lambda: store.marks.once("jti:a", now + 300, now),
        lambda: store.marks.marked("nonce:a", now),
        lambda: store.marks.revoked(("agent:a",), now),
    ]
    for ask in marks:
        with pytest.raises(ClockSkewError, match=r"the clock of this server is 20s (ahead of|behind) the store's"):
            ask()
    store.marks.revoke(("agent:a",), now + 300, now)  # what is to end ends
    store.follow(lambda: time_ns() // 1_000)
    assert store.marks.revoked(("agent:a", "agent:b"), now - shift) == {"agent:a"}


def test_credential_marks_detect_the_clock_skew_of_their_server(client: redis.Redis) -> None:
    from policyengine.stores.redis.store import RedisStore

    store = RedisStore(client)
    store.skew.clock = lambda: time_ns() // 1_000 - 20 * SECOND
    store.marks.revoked(("agent:a",), 0)
    assert store.skew.exceeded
    assert store.skew.offset is not None
    assert abs(store.skew.offset - 20 * SECOND) < SECOND


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_a_clock_set_back_does_not_make_a_used_credential_fresh(kind: str, tmp_path: Path) -> None:
    """What was used is forgotten a minute after its end: by a clock that is set back it would be fresh again."""
    now, ends = 1_800_000_000, 1_800_000_300
    guarded = ResilientStore(SqliteStore(tmp_path / "store.db"))
    guarded.skew.clock = lambda: now * SECOND
    marks = MemoryStore().marks if kind == "memory" else guarded.marks
    assert marks.once("jti:a", ends, now)
    for number in range(9):
        marks.once(f"jti:{number}", ends + 900, ends + 61)  # by now it is forgotten
    for _ in range(2):
        text = r"was set back by 6m1s" if kind == "memory" else r"6m(1s)? behind the store's"
        with pytest.raises(ClockSkewError, match=text):
            marks.once("jti:a", ends, now)


# ── Measuring ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("before", "told", "after", "exceeded", "offset", "error"),
    [
        (0, 0, 0, False, 0, 0),
        (0, MAX_SKEW_MICROSECONDS, 0, False, MAX_SKEW_MICROSECONDS, 0),
        (0, MAX_SKEW_MICROSECONDS + 1, 0, True, MAX_SKEW_MICROSECONDS + 1, 0),
        (0, -MAX_SKEW_MICROSECONDS - 1, 0, True, -MAX_SKEW_MICROSECONDS - 1, 0),
        (0, MAX_SKEW_MICROSECONDS + 10, 20, False, MAX_SKEW_MICROSECONDS, 10),  # it may have told that at the end
        (0, -MAX_SKEW_MICROSECONDS + 1, 20, False, -MAX_SKEW_MICROSECONDS - 9, 10),
        (0, MAX_SKEW_MICROSECONDS + 30, 20, True, MAX_SKEW_MICROSECONDS + 20, 10),
        (20, 10, 0, False, 0, 10),  # a clock that was set back meanwhile
    ],
)
def test_clock_skew_is_exceeded_only_beyond_the_round_trip_error(
    before: int, told: int, after: int, exceeded: bool, offset: int, error: int
) -> None:
    skew = ClockSkew()
    skew.between(before, told, after)
    assert (skew.exceeded, skew.offset, skew.error) == (exceeded, offset, error)


def test_clock_skew_near_the_bound_does_not_flap() -> None:
    skew, found = ClockSkew(), []
    for percent in (99, 101, 99, 90, 81, 80, 99, 100, 101, -99, -81, -79):
        skew.between(START, START + MAX_SKEW_MICROSECONDS * percent // 100, START)
        found.append(skew.exceeded)
    assert found == [False, True, True, True, True, False, False, False, True, True, True, False]


def test_the_skew_of_a_cluster_server_outlasts_good_readings_of_others() -> None:
    skew = ClockSkew()
    skew.between(START, START + 2 * MAX_SKEW_MICROSECONDS, START, of_all=False)
    skew.between(START, START, START, of_all=False)
    assert (skew.exceeded, skew.offset) == (True, 2 * MAX_SKEW_MICROSECONDS)
    skew.between(START, START, START)
    assert not skew.exceeded


def test_clock_skew_is_logged_when_it_begins_and_ends(caplog: pytest.LogCaptureFixture) -> None:
    time = Time()
    skew = ClockSkew(throttle=LogThrottle.every(clock=time))
    with caplog.at_level(logging.WARNING, "policyengine"):
        for _ in range(100):
            skew.between(START, START - 20 * SECOND, START)
        time.now += 10
        skew.between(START, START - 20 * SECOND, START)
        skew.between(START, START, START)
        skew.between(START, START, START)
    assert [(one.levelname, getattr(one, "event", None)) for one in caplog.records] == [
        ("ERROR", "clock_skew"), ("ERROR", "clock_skew"), ("WARNING", "clock_agrees")
    ]  # fmt: skip


def test_a_peek_at_another_time_does_not_affect_clock_skew(tmp_path: Path) -> None:
    for store in (MemoryStore(), SqliteStore(tmp_path / "store.db")):
        store.commit(asks(budget(9)), "one", START)
        for at in (START - HOUR, START + HOUR):
            assert store.commit(asks(budget(9)), "look", at, peek=True) is not None
        assert not store.skew.exceeded
        assert store.fetch([LINE], START)[LINE].now == START
