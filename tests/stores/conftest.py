"""Every store, each empty at the start of a test, with the time of the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from policyengine.behavior.shared import SharedTracker
from policyengine.behavior.state import BehaviorState
from policyengine.stores.base import Store
from policyengine.stores.memory.store import MemoryStore
from policyengine.stores.sqlite.store import SqliteStore
from tests.behavior.reporting_agents import BEGIN, FakeClock
from tests.entities import postgres
from tests.entities.postgres import Postgres
from tests.stores.learned import Stores, learn_ten_days
from tests.stores.servers import Server, cluster, running

ANY_SKEW = 10**18  # microseconds: how stores keep time is one thing, when engines ask them no more another
# Valkey runs the scripts of the Redis store as Redis does: `make test` tries each script there, `make test-deep` all.
VALKEY = pytest.param("valkey", marks=pytest.mark.deep)
STORES = ("memory", "sqlite", "redis", VALKEY, "cluster", "postgres")
CLUSTER_CLIENTS: dict[int, Any] = {}  # by the port of the first server: a client asks which server has which slots
Fresh = Callable[[], Store]


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running("redis-server", tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running("valkey-server", tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture(scope="session")
def redis_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    with cluster(tmp_path_factory.mktemp("cluster")) as servers:
        yield servers
        while CLUSTER_CLIENTS:
            CLUSTER_CLIENTS.popitem()[1].close()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    with postgres.running() as server:
        yield server


@pytest.fixture(params=STORES)
def fresh(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fresh]:
    """Return a function that creates an empty store; on a shared server it also empties earlier ones."""
    yield from stores_of(request, tmp_path)


@pytest.fixture(params=("memory", "sqlite", "redis", "valkey", "cluster", "postgres"))
def fresh_everywhere(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fresh]:
    """The same with Valkey, also in `make test`: modules use it as `fresh`."""
    yield from stores_of(request, tmp_path)


def stores_of(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fresh]:
    match request.param:
        case "memory":
            yield lambda: MemoryStore(max_skew=ANY_SKEW)
        case "sqlite":
            yield from of_sqlite(tmp_path)
        case "cluster":
            yield from of_cluster(request.getfixturevalue("redis_cluster"))
        case "postgres":
            yield from of_postgres(request.getfixturevalue("postgres_server"))
        case name:
            yield from of_server(request.getfixturevalue(f"{name}_server"))


def with_another_number(module: str, script: str, old: str, new: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace `old` by `new` in a Redis script."""
    pytest.importorskip("redis")
    found = import_module(f"policyengine.stores.{module}")
    known = getattr(found, script)
    assert old in known.text
    changed = type(known).from_text(known.text.replace(old, new))
    monkeypatch.setattr(found, script, changed)
    if module == "redis.store":
        monkeypatch.setattr(found, "SCRIPTS", (*found.SCRIPTS, changed))
        monkeypatch.setattr("policyengine.stores.redis.cluster.STEP", changed)


def of_sqlite(folder: Path) -> Iterator[Fresh]:
    opened: list[SqliteStore] = []

    def empty() -> Store:
        opened.append(SqliteStore(folder / f"{len(opened)}.db"))
        return opened[-1]

    yield empty
    for store in opened:
        store.close()  # its files would stay open until a collection


def of_server(server: Server) -> Iterator[Fresh]:
    import redis

    from policyengine.stores.redis.store import RedisStore

    client = redis.Redis(port=server.port, protocol=2)

    def empty() -> Store:
        client.flushall()
        return RedisStore(client, virtual=True)

    yield empty
    client.close()


def of_postgres(server: Postgres) -> Iterator[Fresh]:
    from tests.stores.postgres_store import VirtualPostgresStore

    opened: list[VirtualPostgresStore] = []

    def empty() -> Store:
        for store in opened:
            store.close()  # a server has few connections
        opened[:] = [VirtualPostgresStore(server)]
        opened[0].empty()
        return opened[0]

    yield empty
    for store in opened:
        store.close()


def of_cluster(servers: list[Server]) -> Iterator[Fresh]:
    from policyengine.stores.redis.cluster import ClusterStore

    def empty() -> Store:
        client = cluster_client(servers[0].port)
        client.flushall(target_nodes=client.PRIMARIES)
        return ClusterStore(client, virtual=True)

    yield empty


def cluster_client(port: int) -> Any:
    """Return the client of this process, unless a test has closed it."""
    import redis

    client = CLUSTER_CLIENTS.get(port)
    if client is None or client.get_default_node() is None:
        client = CLUSTER_CLIENTS[port] = redis.RedisCluster(host="127.0.0.1", port=port, protocol=2)
    return client


@pytest.fixture
def store(fresh: Fresh) -> Store:
    return fresh()


# ── Learned behavior ──────────────────────────────────────────────────────────────────────────


@pytest.fixture
def without_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the threads of trackers: tests learn models, and look at the store, when they want to."""
    monkeypatch.setattr(SharedTracker, "start", lambda self: None)


@pytest.fixture(scope="module")
def ten_days() -> BehaviorState:
    return learn_ten_days()


@pytest.fixture
def clock() -> FakeClock:
    """A clock after the ten days in which the behavior was learned."""
    clock = FakeClock()
    clock.now = BEGIN + timedelta(days=10, hours=9)
    return clock


@pytest.fixture
def shared(fresh: Fresh) -> Iterator[Stores]:
    stores = Stores(fresh)
    yield stores
    stores.close()


@pytest.fixture
def empty(shared: Stores) -> Store:
    """An empty store that processes can share."""
    store = shared()
    if store.behavior is None:
        pytest.skip("only this process uses a memory store")
    return store
