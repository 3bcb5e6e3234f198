"""What stores remember of credentials: what was used once, and what was revoked, whoever asks, however it ends."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from threading import Barrier
from time import monotonic
from typing import Any

import pytest

from policyengine.circuit_breaker import FAILURES_BEFORE_OPEN, PAUSE_SECONDS
from policyengine.stores.base import Store, StoreError
from policyengine.stores.credential_marks import LINGER_SECONDS, CredentialMarks, MemoryMarks
from policyengine.stores.memory.store import MemoryStore
from policyengine.stores.resilient_store import ResilientStore
from policyengine.stores.sql.credential_marks import EVICTION_BATCH_SIZE
from policyengine.stores.sqlite.store import SqliteStore
from policyengine.stores.url import TIMEOUT_SECONDS, open_store
from tests.entities.postgres import Postgres
from tests.processes import wait_until
from tests.stores import paying
from tests.stores.servers import Server, open_patiently, running

NOW = 1_800_000_000
LATER = NOW + 300


@pytest.fixture
def marks(store: Store) -> CredentialMarks:
    return store.marks


# ── Once ──────────────────────────────────────────────────────────────────────────────────────


def test_a_name_can_be_marked_once_until_it_expires(marks: CredentialMarks) -> None:
    assert marks.once("jti:a", LATER, NOW)
    assert not marks.once("jti:a", LATER, NOW)
    assert marks.once("jti:b", LATER, NOW)
    assert not marks.once("jti:a", LATER + 300, LATER - 1)
    assert marks.once("jti:a", LATER + 300, LATER)
    assert not marks.once("jti:a", LATER + 300, LATER)


def test_a_clock_set_back_does_not_make_a_mark_fresh(marks: CredentialMarks) -> None:
    marks.once("jti:a", LATER, NOW)
    for number in range(20):  # whoever comes makes room
        marks.once(f"jti:{number}", LATER + 300, LATER + LINGER_SECONDS - 1)
    assert not marks.once("jti:a", LATER, LATER - 1)
    assert not marks.once("jti:a", LATER, NOW - 3_600)


def test_mark_names_with_any_characters_are_distinct(marks: CredentialMarks) -> None:
    names = ["a", "A", "a ", "ä", "\ud800", "a\0b", "a" * 10_000, "policyengine:{revoked}:a", "*"]
    assert [marks.once(one, LATER, NOW) for one in names] == [True] * len(names)
    assert [marks.once(one, LATER, NOW) for one in names] == [False] * len(names)


def test_concurrent_threads_mark_a_name_only_once(marks: CredentialMarks) -> None:
    many, names = 64, 5
    together = Barrier(many)

    def asks(_: int) -> list[bool]:
        together.wait(20)
        return [marks.once(f"jti:{number}", LATER, NOW) for number in range(names)]

    with ThreadPoolExecutor(many) as pool:
        told = list(pool.map(asks, range(many)))
    assert [sum(one[number] for one in told) for number in range(names)] == [1] * names


# ── Marked ─────────────────────────────────────────────────────────────────────────────────────


def test_marked_checks_a_name_without_marking_it(marks: CredentialMarks) -> None:
    assert not marks.marked("id_jag:a", NOW)
    marks.once("id_jag:a", LATER, NOW)
    marks.revoke(("id_jag:b",), LATER, NOW)
    assert [marks.marked(name, LATER - 1) for name in ("id_jag:a", "id_jag:a", "id_jag:b")] == [True, True, False]
    assert not marks.marked("id_jag:a", LATER)
    assert not marks.once("id_jag:a", LATER, NOW)


# ── Revoked ───────────────────────────────────────────────────────────────────────────────────


def test_a_revocation_holds_until_it_expires(marks: CredentialMarks) -> None:
    assert marks.revoked(("agent:a", "key:b"), NOW) == frozenset()
    marks.revoke(("agent:a", "token:c"), LATER, NOW)
    assert marks.revoked(("agent:a", "key:b", "token:c"), LATER - 1) == {"agent:a", "token:c"}
    assert marks.revoked(("agent:a", "key:b", "token:c"), LATER) == frozenset()
    assert marks.revoked((), NOW) == frozenset()


def test_the_later_end_of_two_revocations_counts(marks: CredentialMarks) -> None:
    for until in (LATER, LATER + 300, NOW + 1):
        marks.revoke(("agent:a",), until, NOW)
    assert marks.revoked(("agent:a",), LATER + 299) == {"agent:a"}
    assert marks.revoked(("agent:a",), LATER + 300) == frozenset()


def test_marks_and_revocations_are_independent(marks: CredentialMarks) -> None:
    marks.once("a", LATER, NOW)
    assert marks.revoked(("a",), NOW) == frozenset()
    marks.revoke(("b",), LATER, NOW)
    assert marks.once("b", LATER, NOW)
    assert marks.marked("b", NOW)
    assert marks.revoked(("b",), NOW) == {"b"}


def test_each_revocation_changes_the_version_of_a_local_store(marks: CredentialMarks) -> None:
    versions = [marks.version]
    for name in ("a", "b", "a"):
        marks.once(name, LATER, NOW)
        marks.revoke((name,), LATER, NOW)
        versions.append(marks.version)
    assert marks.remote or len(set(versions)) == 4


# ── Several processes ─────────────────────────────────────────────────────────────────────────


@pytest.fixture(params=["sqlite", "redis", pytest.param("valkey", marks=pytest.mark.deep), "cluster", "postgres"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    kind: str = request.param
    if kind == "sqlite":
        return kind, str(tmp_path / "store.db")
    if kind == "postgres":
        server: Postgres = request.getfixturevalue("postgres_server")
        server.empty("policyengine")
        return kind, str(server.port)
    found = request.getfixturevalue("redis_cluster" if kind == "cluster" else f"{kind}_server")
    servers: list[Server] = found if kind == "cluster" else [found]
    import redis

    for one in servers:
        redis.Redis(port=one.port, protocol=2).flushall()
    return kind, str(servers[0].port)


def firsts(kind: str, where: str, many: int) -> int:
    marks = paying.opened(kind, where).marks
    return sum(marks.once(f"jti:{number}", LATER, NOW) for number in range(many))


def test_concurrent_processes_mark_a_name_only_once(where: tuple[str, str]) -> None:
    many = 50
    with get_context("fork").Pool(4) as crew:
        assert sum(crew.starmap(firsts, [(*where, many)] * 4, chunksize=1)) == many


def test_a_revocation_by_a_forked_worker_is_visible_immediately(where: tuple[str, str]) -> None:
    """Both were forked from a process that had the store open, as workers are."""
    store = paying.opened(*where)
    store.marks.revoke(("agent:x",), LATER, NOW)
    context = get_context("fork")
    mine, other = context.Pipe()

    def works() -> None:
        for number in iter(other.recv, None):
            store.marks.revoke((f"agent:{number}",), LATER, NOW)
            other.send(store.marks.version)

    worker = context.Process(target=works)
    worker.start()
    try:
        for number in range(20):
            version = store.marks.version
            assert store.marks.revoked((f"agent:{number}",), NOW) == frozenset()
            mine.send(number)
            told = mine.recv()
            assert store.marks.remote or told == store.marks.version != version
            assert store.marks.revoked((f"agent:{number}", "agent:x"), NOW) == {f"agent:{number}", "agent:x"}
        mine.send(None)
        worker.join(20)
        assert worker.exitcode == 0
    finally:
        worker.kill()


def notes(where: str, told: Any) -> None:
    marks = SqliteStore(where, patience=30).marks
    for number in count():
        marks.once(f"jti:{number}", LATER, NOW)
        marks.revoke((f"agent:{number}",), LATER, NOW)
        told.send_bytes(b".")


def test_acknowledged_marks_survive_a_killed_process(tmp_path: Path) -> None:
    place = str(tmp_path / "store.db")
    heard, tells = get_context("fork").Pipe(duplex=False)
    process = get_context("fork").Process(target=notes, args=(place, tells))
    process.start()
    tells.close()
    many = sum(len(heard.recv_bytes()) for _ in range(30))
    process.kill()
    process.join()
    marks = SqliteStore(place).marks
    assert not any(marks.once(f"jti:{number}", LATER, NOW) for number in range(many))
    assert len(marks.revoked([f"agent:{number}" for number in range(many)], NOW)) == many


# ── Room ──────────────────────────────────────────────────────────────────────────────────────


def test_full_memory_marks_reject_new_names_and_evict_expired_ones() -> None:
    marks = MemoryMarks(most=4)
    assert [marks.once(f"{number}", LATER + number, NOW) for number in range(4)] == [True] * 4
    with pytest.raises(StoreError, match="it already holds 4 credential names"):
        marks.once("new", LATER, NOW)
    assert not marks.once("0", LATER, NOW)
    assert not marks.marked("new", NOW)
    with pytest.raises(StoreError, match="it already holds"):
        marks.once("new", LATER, LATER + LINGER_SECONDS - 1)
    assert marks.once("new", LATER + 900, LATER + LINGER_SECONDS)


def test_marks_do_not_use_the_room_for_revocations() -> None:
    marks = MemoryMarks(most=2)
    for name in ("a", "b"):
        marks.once(name, LATER, NOW)
    marks.revoke(("a",), LATER, NOW)
    with pytest.raises(StoreError):
        marks.revoke(("b", "c"), LATER, NOW)
    assert marks.revoked(("a", "b", "c"), NOW) == {"a"}  # all of them or none


def test_the_last_room_for_revocations_is_reserved_for_operators() -> None:
    marks = MemoryMarks(most=20)
    marks.revoke([f"token:{number}" for number in range(18)], LATER, NOW)
    with pytest.raises(StoreError, match="it already holds"):
        marks.revoke(("token:18",), LATER, NOW)
    marks.revoke(("token:0",), LATER, NOW)  # is there already
    marks.revoke(("agent:a", "agent:b"), LATER, NOW, by_operator=True)
    assert marks.revoked(("agent:a", "agent:b"), NOW) == {"agent:a", "agent:b"}
    with pytest.raises(StoreError, match="it already holds"):
        marks.revoke(("agent:c",), LATER, NOW, by_operator=True)


def test_a_mark_in_full_memory_evicts_two_expired_names() -> None:
    """Nobody looks through a million of them."""
    marks = MemoryMarks(most=1_000)
    for number in range(1_000):
        marks.once(f"{number}", LATER, NOW)
    for number in range(100):
        assert marks.once(f"new {number}", LATER + 900, LATER + LINGER_SECONDS)
        assert len(marks._marked.until) == 1_000 - (number + 1)


def test_long_mark_names_are_stored_in_bounded_size() -> None:
    marks = MemoryMarks()
    long = ["a" * 10_000 + end for end in "bc"]
    assert [marks.once(one, LATER, NOW) for one in (*long, *long)] == [True, True, False, False]
    assert max(map(len, marks._marked.until)) < 200
    marks.revoke(long[:1], LATER, NOW)
    assert marks.revoked(long, NOW) == set(long[:1])


def test_a_sqlite_store_evicts_expired_marks(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "store.db")
    for number in range(20):
        store.marks.once(f"{number}", LATER, NOW)
        store.marks.revoke((f"{number}",), LATER, NOW)
    for number in range(20 // EVICTION_BATCH_SIZE):
        store.marks.once(f"new {number}", LATER + 900, LATER + LINGER_SECONDS)
        store.marks.revoke((f"new {number}",), LATER + 900, LATER + LINGER_SECONDS)
    with store.step(writes=False) as asked:
        rows = [asked.execute(f"SELECT count(*) FROM {one}").fetchone()[0] for one in ("marked", "revoked")]
    assert rows == [20 // EVICTION_BATCH_SIZE] * 2


def test_redis_keeps_a_mark_beyond_its_end(redis_server: Server) -> None:
    """From when it is told, whatever its own clock says."""
    import redis

    from policyengine.stores.redis.credential_marks import marked_key, revoked_key
    from policyengine.stores.redis.store import RedisStore

    with redis.Redis(port=redis_server.port, protocol=2) as client:
        client.flushall()
        marks = RedisStore(client).marks
        for now in (NOW, 1_000):  # the server's clock is neither
            marks.once(f"{now}", now + 300, now)
            marks.revoke((f"{now}",), now + 300, now)
            for key in (marked_key(f"{now}"), revoked_key(f"{now}")):
                assert (300 + LINGER_SECONDS - 5) * 1_000 < client.pttl(key) <= (300 + LINGER_SECONDS) * 1_000
            assert not marks.once(f"{now}", now + 300, now)


def test_many_revocation_names_take_a_single_round_trip(redis_server: Server) -> None:
    import redis

    from policyengine.stores.redis.store import RedisStore

    with redis.Redis(port=redis_server.port, protocol=2) as client:
        store = RedisStore(client)
        names = [f"agent:{number}" for number in range(30)]
        store.marks.revoked(names, NOW)  # by now it knows the script
        before = calls(client)
        store.marks.revoked(names, NOW)
        store.marks.revoke(names, LATER, NOW)
        assert calls(client) == before + 2


def calls(client: Any) -> int:
    return int(client.info("commandstats")["cmdstat_evalsha"]["calls"])


# ── A store that fails ────────────────────────────────────────────────────────────────────────

ASKS: list[Callable[[CredentialMarks], object]] = [
    lambda marks: marks.once("a", LATER, NOW),
    lambda marks: marks.marked("a", NOW),
    lambda marks: marks.revoke(("a",), LATER, NOW),
    lambda marks: marks.revoked(("a",), NOW),
]


@pytest.mark.parametrize("ask", ASKS)
def test_credential_marks_fail_while_the_server_is_down_and_recover(
    ask: Callable[[CredentialMarks], object], tmp_path: Path
) -> None:
    with running("redis-server", tmp_path) as server:
        store = open_store(f"{server.url}?timeout=5s")
        assert isinstance(store, ResilientStore)
        ask(store.marks)
        server.kill()
        for _ in range(10):
            with pytest.raises(StoreError):
                ask(store.marks)
        assert store.failing
        server.start()
        wait_until(lambda: answers(ask, store.marks))
        store.close()


def answers(ask: Callable[[CredentialMarks], object], marks: CredentialMarks) -> bool:
    try:
        ask(marks)
    except StoreError:
        return False
    return True


def test_a_hanging_server_delays_credential_marks_only_briefly(tmp_path: Path) -> None:
    with running("redis-server", tmp_path) as server:
        store = open_patiently(server.url)
        assert isinstance(store, ResilientStore)
        wait_until(lambda: answers(ASKS[3], store.marks))
        server.pause()
        start, before, waits = monotonic(), store.failures, []
        for _ in range(100):
            began = monotonic()
            with pytest.raises(StoreError) as caught:
                store.marks.revoked(("a",), NOW)
            if "has not answered recently" not in str(caught.value):
                waits.append(monotonic() - began)
        server.resume()
        assert len(waits) <= FAILURES_BEFORE_OPEN + (monotonic() - start) / PAUSE_SECONDS + 1
        assert min(waits) < 10 * TIMEOUT_SECONDS  # the machine may stall in some of them
        assert store.failures == before + 100
        store.close()


def test_revocations_survive_a_killed_server_with_persistence(tmp_path: Path) -> None:
    with running("redis-server", tmp_path, "--appendonly", "yes", "--appendfsync", "always") as server:
        store = open_store(f"{server.url}?timeout=5s")
        store.marks.revoke(("agent:a",), LATER, NOW)
        store.marks.once("jti:a", LATER, NOW)
        server.kill()
        server.start()
        wait_until(lambda: answers(ASKS[3], store.marks))
        assert store.marks.revoked(("agent:a",), NOW) == {"agent:a"}
        assert not store.marks.once("jti:a", LATER, NOW)
        store.close()


def test_a_redis_server_out_of_memory_rejects_a_mark(tmp_path: Path) -> None:
    import redis

    with running("redis-server", tmp_path) as server, redis.Redis(port=server.port, protocol=2) as client:
        store = open_store(f"{server.url}?timeout=5s")
        store.marks.revoke(("agent:a",), LATER, NOW)
        client.config_set("maxmemory", "1")
        with pytest.raises(StoreError, match="OutOfMemory"):
            store.marks.once("a", LATER, NOW)
        assert store.marks.revoked(("agent:a",), NOW) == {"agent:a"}


def test_a_locked_sqlite_file_rejects_a_mark(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "store.db", patience=0.01)
    with SqliteStore(tmp_path / "store.db").step():
        with pytest.raises(StoreError, match="locked"):
            store.marks.once("a", LATER, NOW)
        assert store.marks.version == 0  # who reads waits for nobody
        assert store.marks.revoked(("a",), NOW) == frozenset()


def test_a_store_keeps_its_marks_between_accesses() -> None:
    store = MemoryStore()
    assert store.marks.once("a", LATER, NOW)
    assert not store.marks.once("a", LATER, NOW)
