"""A store that reads but cannot write is not well: health is asked by what decisions need, a write."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from policyengine.circuit_breaker import FAILURES_BEFORE_OPEN, PAUSE_SECONDS
from policyengine.engine import Engine
from policyengine.runtime.decision import Effects
from policyengine.runtime.limits import ChargeResult
from policyengine.server import create_app
from policyengine.stores.base import CommitRequest, CommitResult, StoreError, StoreLossError, WriteRefusedError
from policyengine.stores.memory.store import MemoryStore
from policyengine.stores.resilient_store import INSPECTION_INTERVAL_SECONDS, ResilientStore
from policyengine.stores.url import open_store
from tests.entities.postgres import Postgres
from tests.processes import wait_until
from tests.stores.charges import START, asks, rate
from tests.stores.servers import Server, cluster, running
from tests.stores.test_failing import POLICY, Time, ask, decided

# ── A store that answers reads ────────────────────────────────────────────────────────────────


@dataclass
class ReadsOnly(MemoryStore):
    """It answers whoever reads, and refuses to write until it is mended."""

    error: StoreError | None = field(default_factory=lambda: StoreError("locked"))
    loss: StoreError | None = None  # what is found out by looking for it alone
    probes: int = 0

    def __post_init__(self) -> None:
        super().__init__()

    def commit(self, effects: Effects, decision: str, now: int, **how: Any) -> ChargeResult | None:
        if self.error is not None and not how.get("peek"):
            raise self.error
        return super().commit(effects, decision, now, **how)

    def commit_many(self, asked: Any, now: int) -> list[CommitResult]:
        return [self.error or MemoryStore.commit(self, one.effects, one.decision, now) for one in asked]

    def ping(self) -> None:
        pass

    def probe(self) -> None:
        self.probes += 1
        if self.error is not None or self.loss is not None:
            raise self.error or self.loss  # type: ignore[misc]


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def inner() -> ReadsOnly:
    return ReadsOnly()


@pytest.fixture
def guarded(inner: ReadsOnly, time: Time) -> ResilientStore:
    return ResilientStore(inner, clock=time)  # type: ignore[arg-type]


def reads(store: ResilientStore) -> None:
    store.spent_among(["a"])
    store.commit(asks(rate()), "look", START, peek=True)
    store.fetch([], START)
    store.marks.revoked(["a"], 1)
    store._look(START)


def test_successful_reads_do_not_close_the_write_breaker(
    guarded: ResilientStore, time: Time, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "policyengine"):
        for number in range(20):
            told: Any = guarded.commit(asks(rate()), f"{number}", START)
            assert told.failed
            reads(guarded)
            time.now += PAUSE_SECONDS
            assert guarded.failing
            with pytest.raises(StoreError):
                guarded.check(START)
    assert [one.getMessage() for one in caplog.records if "again" in one.getMessage()] == []


def test_a_store_that_accepts_writes_again_is_logged_once(
    guarded: ResilientStore, inner: ReadsOnly, time: Time, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(FAILURES_BEFORE_OPEN):
        guarded.commit(asks(rate()), f"{number}", START)
    inner.error = None
    time.now += PAUSE_SECONDS
    with caplog.at_level(logging.WARNING, "policyengine"):
        for number in range(9):
            assert guarded.commit(asks(rate()), f"later {number}", START).failed is None  # type: ignore[union-attr]
    told = [one.getMessage() for one in caplog.records if "again" in one.getMessage()]
    assert told == ["the store accepts writes again"]
    guarded.check(START)


def test_a_throttled_commit_does_not_close_the_write_breaker(guarded: ResilientStore, inner: ReadsOnly) -> None:
    """A commit that is refused by its limit may be answered by a store that cannot write."""
    failing, inner.error = inner.error, None
    assert guarded.commit(asks(rate(1)), "first", START).admitted  # type: ignore[union-attr]
    for number in range(FAILURES_BEFORE_OPEN):
        inner.error = failing
        guarded.commit(asks(rate(1, key="new")), f"{number}", START)
        inner.error = None
        assert not guarded.commit(asks(rate(1)), f"again {number}", START).admitted  # type: ignore[union-attr]
    assert guarded.writes.open


def test_failures_in_commit_many_open_the_write_breaker(guarded: ResilientStore) -> None:
    for number in range(FAILURES_BEFORE_OPEN):
        guarded.commit_many([CommitRequest(asks(rate()), f"{number}")], START)
    assert guarded.writes.open
    assert not guarded.reads.failing


@pytest.mark.parametrize("kind", [WriteRefusedError, StoreLossError])
def test_a_refused_write_opens_the_breaker_immediately(
    guarded: ResilientStore, inner: ReadsOnly, kind: type[StoreError]
) -> None:
    inner.error = kind("full")
    told: Any = guarded.commit(asks(rate()), "one", START)
    assert (told.failed, told.reason) == ("full", kind.reason)
    assert guarded.writes.open
    told = guarded.commit(asks(rate()), "two", START)
    assert told.reason == kind.reason  # also of who does not ask it


def test_a_read_refused_because_it_writes_counts_as_a_write_failure(guarded: ResilientStore, inner: ReadsOnly) -> None:
    def refuses(*given: object) -> Any:
        raise WriteRefusedError("full")

    inner.fetch = refuses  # type: ignore[method-assign]
    assert guarded.fetch([], START) == {}
    assert guarded.writes.open
    assert not guarded.reads.failing


def test_commits_inspect_the_store_at_intervals(guarded: ResilientStore, inner: ReadsOnly, time: Time) -> None:
    """What it may lose is not seen by what it takes."""
    inner.error = None
    for number in range(10):
        assert guarded.commit(asks(rate(99)), f"{number}", START).failed is None  # type: ignore[union-attr]
    assert inner.probes == 0
    time.now += INSPECTION_INTERVAL_SECONDS
    inner.loss = StoreLossError("it evicts")
    for number in range(3):
        assert guarded.commit(asks(rate(99)), f"later {number}", START).failed  # type: ignore[union-attr]


def test_frequent_health_checks_probe_the_store_at_a_bounded_rate(
    guarded: ResilientStore, inner: ReadsOnly, time: Time
) -> None:
    inner.error = None
    for _ in range(100):
        time.now += 0.1
        guarded.check(START)
    assert 30 <= inner.probes <= 10 / PAUSE_SECONDS


# ── Faults of real stores ─────────────────────────────────────────────────────────────────────


@dataclass
class Faulty:
    """A store whose fault begins, and ends where it can."""

    url: str
    begin: Callable[[], object]
    end: Callable[[], object] | None
    reason: str


def configured(server: Server, **words: str) -> None:
    import redis

    with redis.Redis(port=server.port, protocol=2) as client:
        for name, value in words.items():
            client.config_set(name.replace("_", "-"), value)


def replicates(server: Server, *of: str) -> None:
    import redis

    with redis.Redis(port=server.port, protocol=2) as client:
        client.replicaof(*of)


@contextmanager
def redis_full(folder: Path) -> Iterator[Faulty]:
    with running("redis-server", folder) as server:
        ends = lambda: configured(server, maxmemory="0")  # noqa: E731
        yield Faulty(server.url, lambda: configured(server, maxmemory="1"), ends, WriteRefusedError.reason)


@contextmanager
def redis_evicting(folder: Path) -> Iterator[Faulty]:
    with running("redis-server", folder) as server:
        begins = lambda: configured(server, maxmemory="100mb", maxmemory_policy="allkeys-lru")  # noqa: E731
        ends = lambda: configured(server, maxmemory_policy="noeviction")  # noqa: E731
        yield Faulty(server.url, begins, ends, StoreLossError.reason)


@contextmanager
def redis_replica(folder: Path) -> Iterator[Faulty]:
    with running("redis-server", folder) as server:
        begins = lambda: replicates(server, "127.0.0.1", "1")  # noqa: E731
        yield Faulty(server.url, begins, lambda: replicates(server, "NO", "ONE"), WriteRefusedError.reason)


@contextmanager
def one_of_a_cluster_full(folder: Path) -> Iterator[Faulty]:
    """Decisions whose keys lie elsewhere go on; nobody can say whose next one will not."""
    with cluster(folder) as servers:
        url, last = f"redis+cluster://127.0.0.1:{servers[0].port}", servers[-1]
        ends = lambda: configured(last, maxmemory="0")  # noqa: E731
        yield Faulty(url, lambda: configured(last, maxmemory="1"), ends, WriteRefusedError.reason)


@contextmanager
def sqlite_locked(folder: Path) -> Iterator[Faulty]:
    file = folder / "store.db"
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode = WAL")
        begins, ends = (lambda: other.execute("BEGIN EXCLUSIVE")), (lambda: other.execute("COMMIT"))
        yield Faulty(f"sqlite:///{file}", begins, ends, StoreError.reason)


@contextmanager
def sqlite_removed(folder: Path) -> Iterator[Faulty]:
    file, beside = folder / "store.db", folder / "elsewhere.db"
    yield Faulty(f"sqlite:///{file}", lambda: file.rename(beside), lambda: beside.rename(file), StoreLossError.reason)


@contextmanager
def sqlite_replaced(folder: Path) -> Iterator[Faulty]:
    file, other = folder / "store.db", folder / "other.db"
    other.touch()
    yield Faulty(f"sqlite:///{file}", lambda: other.replace(file), None, StoreLossError.reason)


@contextmanager
def sqlite_read_only(folder: Path) -> Iterator[Faulty]:
    """As whoever is not root finds it; what has the file open could write to it all the same."""
    file = folder / "store.db"
    with pytest.MonkeyPatch.context() as patch:
        begins = lambda: patch.setattr(os, "access", lambda *given, **options: False)  # noqa: E731
        patch.setattr(os, "supports_effective_ids", set())
        yield Faulty(f"sqlite:///{file}", begins, patch.undo, WriteRefusedError.reason)


FULL = """
create function policyengine.refuse() returns trigger as $$
begin raise exception 'could not extend file: No space left on device' using errcode = '53100'; end
$$ language plpgsql;
create trigger full_disk before insert on policyengine.probe execute function policyengine.refuse();
create trigger full_disk before insert or update on policyengine.state execute function policyengine.refuse();
"""
POSTGRES_FAULTS = {  # statements with which a fault begins and ends
    "full": (FULL, "drop function if exists policyengine.refuse cascade", WriteRefusedError.reason),
    "read-only": (
        "alter role postgres set default_transaction_read_only = on;"
        "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'policyengine'",
        "set transaction read write; alter role postgres reset default_transaction_read_only;"
        "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'policyengine'",
        WriteRefusedError.reason,
    ),
    "without its tables": ("drop schema policyengine cascade", "", StoreLossError.reason),
}


@pytest.fixture(params=POSTGRES_FAULTS)
def postgres_faulty(request: pytest.FixtureRequest, postgres_server: Postgres) -> Iterator[Faulty]:
    begin, end, reason = POSTGRES_FAULTS[request.param]
    server = postgres_server
    server.run("drop schema if exists policyengine cascade")
    try:
        yield Faulty(server.store_url, lambda: server.run(begin), (lambda: server.run(end)) if end else None, reason)
    finally:
        server.run(f"{end}; drop schema if exists policyengine cascade")


FAULTS = [
    redis_full, redis_evicting, redis_replica, one_of_a_cluster_full,
    sqlite_locked, sqlite_removed, sqlite_replaced, sqlite_read_only,
]  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_readyz_returns_503_while_the_store_cannot_be_written(fault: Callable[[Path], Any], tmp_path: Path) -> None:
    check_readiness(fault(tmp_path))


def test_readyz_returns_503_while_postgres_cannot_be_written(postgres_faulty: Faulty) -> None:
    check_readiness(nullcontext(postgres_faulty))


def check_readiness(fault: AbstractContextManager[Faulty]) -> None:
    with fault as faulty:
        store: Any = open_store(f"{faulty.url}?timeout={'200ms' if 'sqlite' in faulty.url else '5s'}")
        engine = Engine.from_text(POLICY, store=store)
        app = create_app(engine)
        assert asyncio.run(asked(app)).status_code == 200
        faulty.begin()
        wait_until(lambda: asyncio.run(asked(app)).status_code == 503)
        for _ in range(4):
            assert decided(engine, "/free") == "allow"
            decided(engine, "/deny")
            engine.evaluate(ask("/deny"))
            answer = asyncio.run(asked(app))
            assert (answer.status_code, answer.json()["detail"]) == (503, faulty.reason)
            assert store.failing
        if faulty.end is not None:
            faulty.end()
            wait_until(lambda: asyncio.run(asked(app)).status_code == 200)
            assert decided(engine, "/deny") == "allow"
        store.close()


async def asked(app: Any) -> httpx.Response:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        return await client.get("/readyz")


@pytest.mark.parametrize("fault", [redis_full, redis_replica])
def test_the_history_is_readable_on_a_server_that_rejects_writes(fault: Callable[[Path], Any], tmp_path: Path) -> None:
    with fault(tmp_path) as faulty:
        store = open_store(f"{faulty.url}?timeout=5s")
        assert isinstance(store, ResilientStore)
        store.begin(["paid"], START)
        faulty.begin()
        assert list(store.fetch([("paid", "k")], START)) == [("paid", "k")]
        assert not store.reads.failing
        store.close()


def test_a_removed_sqlite_file_denies_and_is_logged_by_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Before, each thread that was new began a file of its own, in which nothing was spent."""
    file = tmp_path / "store.db"
    engine = Engine.from_text(POLICY, store=open_store(f"sqlite:///{file}"))
    assert decided(engine, "/deny") == "allow"
    file.unlink()
    with caplog.at_level(logging.ERROR, "policyengine"):
        assert decided(engine, "/deny") == "deny by failure"
    assert f"`{file}` was removed while in use" in caplog.text
    assert not file.exists()
    engine.store.close()  # type: ignore[attr-defined]


def test_an_engine_with_identity_is_not_ready_without_its_store(tmp_path: Path) -> None:
    engine = Engine.from_text("anyone { may GET /free }", store=open_store(f"sqlite:///{tmp_path}/store.db"))
    app = create_app(engine)
    (tmp_path / "store.db").unlink()
    assert [asyncio.run(asked(app)).status_code, engine.state.requires_store] == [200, False]
    engine.use_identity(object())  # type: ignore[arg-type]
    assert [asyncio.run(asked(app)).status_code, engine.state.requires_store] == [503, True]
    engine.store.close()  # type: ignore[attr-defined]


# ── What only looks, and what needs it ────────────────────────────────────────────────────────


def test_inspect_retries_a_failed_read(guarded: ResilientStore, inner: ReadsOnly, time: Time) -> None:
    inner.error = None
    guarded.reads.failed(StoreError("gone"))
    assert guarded.failing
    time.now += INSPECTION_INTERVAL_SECONDS
    guarded.inspect()
    assert not guarded.failing


@pytest.mark.parametrize(
    ("rule", "needed"),
    [
        ('rate "r" per request.ip { 2/1m  on store failure local }', False),
        ('budget "b" per request.ip { count <= 2 within 1m  on store failure allow }', False),
        ('rate "r" per request.ip { 2/1m }', True),
        ('rate "r" per request.ip { 2/1m on store failure local } guard "g" { confirm by role a when true }', True),
    ],
)
def test_the_store_is_required_unless_every_limit_has_a_failure_rule(rule: str, needed: bool) -> None:
    engine = Engine.from_text(f"entity user {{ roles: set<string> }} anyone {{ may GET /x }} {rule}")
    assert (engine.state.requires_store, engine.state.uses_store) == (needed, True)
