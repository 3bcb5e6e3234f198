"""Connections to Redis stay open, and are each of one thread and one process at a time."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

import pytest

from policyengine.stores.base import StoreError
from policyengine.stores.redis import connection
from tests.stores.charges import START, asks, budget, rate
from tests.stores.servers import Server

if TYPE_CHECKING:
    import redis

    from policyengine.stores.redis.store import RedisStore

DAY = 86_400_000_000
LIMIT = 100


@pytest.fixture
def client(redis_server: Server) -> Iterator[redis.Redis]:
    import redis

    with redis.Redis(port=redis_server.port, protocol=2) as client:
        client.flushall()
        client.ping()
        yield client


@pytest.fixture
def store(redis_server: Server) -> Iterator[RedisStore]:
    import redis

    from policyengine.stores.redis.store import RedisStore

    store = RedisStore(redis.Redis(port=redis_server.port, protocol=2))
    yield store
    store.close()


def passes(store: RedisStore, _: object = None) -> bool:
    told = store.commit(asks(rate(1, DAY, burst=LIMIT)), "", START)
    assert told is not None
    return told.admitted


def others(client: redis.Redis) -> int:
    """How many connections are open but that of the test itself."""
    return len(client.client_list()) - 1


def cut(client: redis.Redis) -> None:
    client.client_kill_filter(_type="normal", skipme=True)


def test_sequential_commits_reuse_a_single_connection(store: RedisStore, client: redis.Redis) -> None:
    assert passes(store)
    before = others(client)
    assert all(passes(store) for _ in range(50))
    assert others(client) <= before


def test_threads_have_their_own_connections_and_count_together(store: RedisStore, client: redis.Redis) -> None:
    before = others(client)
    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(lambda n: passes(store, n), range(200))) == LIMIT
    assert others(client) <= before + 8


def test_a_connection_closed_while_idle_is_reopened(
    store: RedisStore, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "MAX_IDLE_SECONDS", 0)
    for _ in range(5):
        assert passes(store)
        cut(client)


def test_a_command_on_a_broken_connection_is_not_sent_again(store: RedisStore, client: redis.Redis) -> None:
    assert passes(store)
    cut(client)
    with pytest.raises(StoreError):
        passes(store)
    assert passes(store)


def test_a_commit_after_a_script_flush_is_charged_only_once(store: RedisStore, client: redis.Redis) -> None:
    for number in range(5):
        client.script_flush()
        assert passes(store)
        client.script_flush()
        [stands] = store.commit(asks(budget(9)), f"{number}", START).standings  # type: ignore[union-attr]
        assert stands.remaining == 8 - number


def child(store: RedisStore, told: Connection) -> None:
    told.send(sum(passes(store) for _ in range(80)))


def test_a_forked_process_has_its_own_connections(store: RedisStore, client: redis.Redis) -> None:
    assert passes(store)
    heard, tells = get_context("fork").Pipe(duplex=False)
    process = get_context("fork").Process(target=child, args=(store, tells))
    process.start()
    mine = sum(passes(store) for _ in range(80))
    theirs = heard.recv()
    process.join()
    assert 1 + mine + theirs == LIMIT
    assert passes(store) is False
