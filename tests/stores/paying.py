"""A process of a test: it pays each bill unless it was paid recently, as an engine with a shared store allows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection

from policyengine.engine import Engine
from policyengine.runtime.decision import Gate
from policyengine.stores.base import Store
from policyengine.stores.sqlite.store import SqliteStore
from tests.entities.postgres import parameters

NOW = datetime(2027, 1, 4, 12, tzinfo=UTC)
BEGUN = NOW - timedelta(hours=2)
POLICY = """
language 1
package bills
anyone { may POST /pay/{bill}, POST /note }
guard "once" on POST /pay/{bill} { require no POST /pay/{bill} within 1h per (params.bill) }
guard "noted" on POST /note { deny when count of POST /note within 1h per (request.path) > 1_000_000 }
budget "few" per params.bill on POST /pay/{bill} { count <= 3 within 1d }
"""


def opened(kind: str, where: str) -> Store:
    """Open the store with the time of the test: its history is older than an hour."""
    if kind == "sqlite":
        return SqliteStore(where, patience=30)
    if kind == "postgres":
        from policyengine.stores.postgres.store import PostgresStore

        return PostgresStore(parameters(int(where)), virtual=True, patience=30.0)
    import redis

    from policyengine.stores.redis.cluster import ClusterStore
    from policyengine.stores.redis.store import RedisStore

    port = int(where)
    if kind == "cluster":
        return ClusterStore(redis.RedisCluster(host="127.0.0.1", port=port, protocol=2), virtual=True)
    return RedisStore(redis.Redis(port=port, protocol=2), virtual=True)


def engine(store: Store, now: datetime = NOW) -> Engine:
    return Engine.from_text(POLICY, clock=lambda: now, store=store)


def asks(path: str) -> dict[str, object]:
    return {"request": {"method": "POST", "path": path}}


def pays(kind: str, where: str, bills: int) -> int:
    """Return how many of the bills were paid here."""
    deciding = engine(opened(kind, where))
    decisions = [deciding.decide(asks(f"/pay/{bill}")) for bill in range(bills)]
    assert {one.gate for one in decisions} <= {None, Gate.GUARD}
    return sum(one.allowed for one in decisions)


def notes(where: str, told: Connection) -> None:
    """Run forever; print each recorded event."""
    deciding = engine(opened("sqlite", where))
    while deciding.decide(asks("/note")).allowed:
        told.send_bytes(b".")
