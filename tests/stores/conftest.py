"""Every store, each empty at the start of a test, with the time of the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import pytest

from policyengine.stores.base import Store
from policyengine.stores.memory.store import MemoryStore
from policyengine.stores.sqlite.store import SqliteStore
from tests.stores.servers import Server, cluster, running

ANY_SKEW = 10**18  # microseconds: how stores keep time is one thing, when engines ask them no more another
STORES = ("memory", "sqlite", "redis", "valkey", "cluster")
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


@pytest.fixture(params=STORES)
def fresh(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fresh]:
    """Return a function that creates an empty store; on a shared server it also empties earlier ones."""
    match request.param:
        case "memory":
            yield lambda: MemoryStore(max_skew=ANY_SKEW)
        case "sqlite":
            made = iter(range(1_000_000))
            yield lambda: SqliteStore(tmp_path / f"{next(made)}.db")
        case "cluster":
            yield from of_cluster(request.getfixturevalue("redis_cluster"))
        case name:
            yield from of_server(request.getfixturevalue(f"{name}_server"))


def with_another_number(module: str, script: str, old: str, new: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace `old` by `new` in a Redis script."""
    pytest.importorskip("redis")
    found = import_module(f"policyengine.stores.{module}")
    known = getattr(found, script)
    assert old in known.text
    changed = type(known).saying(known.text.replace(old, new))
    monkeypatch.setattr(found, script, changed)
    if module == "redis.store":
        monkeypatch.setattr(found, "SCRIPTS", (*found.SCRIPTS, changed))
        monkeypatch.setattr("policyengine.stores.redis.cluster.STEP", changed)


def of_server(server: Server) -> Iterator[Fresh]:
    import redis

    from policyengine.stores.redis.store import RedisStore

    client = redis.Redis(port=server.port, protocol=2)

    def empty() -> Store:
        client.flushall()
        return RedisStore(client, virtual=True)

    yield empty
    client.close()


def of_cluster(servers: list[Server]) -> Iterator[Fresh]:
    import redis

    from policyengine.stores.redis.cluster import ClusterStore

    client = redis.RedisCluster(host="127.0.0.1", port=servers[0].port, protocol=2)

    def empty() -> Store:
        client.flushall(target_nodes=client.PRIMARIES)
        return ClusterStore(client, virtual=True)

    yield empty
    client.close()


@pytest.fixture
def store(fresh: Fresh) -> Store:
    return fresh()
