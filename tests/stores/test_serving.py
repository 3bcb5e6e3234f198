"""Workers that share a store count together, on the port and on the socket."""

from __future__ import annotations

import asyncio
import re
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from policyengine.client.socket import SocketClient
from policyengine.engine import Engine
from policyengine.server import create_app
from policyengine.stores.base import Store
from policyengine.stores.memory.store import MemoryStore
from policyengine.stores.url import open_store
from tests.entities.postgres import Postgres
from tests.server.processes import started
from tests.stores.servers import Server

POLICY = """
language 1
package shop
anyone { may GET /report }
rate "reports" per request.path on GET /report { 20/1d }
"""
SERVE = f"""
import sys
from pathlib import Path
from policyengine.engine.engine import Engine
from policyengine.server import serve
from policyengine.stores.url import open_store
serve(Engine.from_text({POLICY!r}, store=open_store(sys.argv[1])), port=0, path=Path(sys.argv[2]), workers=2,
      listening=lambda url: print(url, flush=True))
"""
ASK = {"request": {"method": "GET", "path": "/report"}}


@pytest.fixture(params=["sqlite", "redis", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store.db?timeout=10s"
    if request.param == "postgres":
        postgres: Postgres = request.getfixturevalue("postgres_server")
        postgres.empty("policyengine")
        return f"{postgres.store_url}?timeout=10s"
    server: Server = request.getfixturevalue("redis_server")
    import redis

    redis.Redis(port=server.port, protocol=2).flushall()
    return f"{server.url}?timeout=5s"


BATCH = [
    {**ASK, "options": {"consume": True}},
    {**ASK, "options": {"consume": True, "explain": True}},
    ASK,
    {**ASK, "options": {"consume": True, "at": "2027-01-04T11:00:00Z"}},
    {"request": {"method": "GET"}, "options": {"consume": True}},
    {**ASK, "options": {"consume": True, "obligations_supported": []}},
    "no question",
    {"request": {"method": "GET", "path": "/nowhere"}},
    {**ASK, "options": {"consume": True}},
    {**ASK, "options": {"explain": True}},
]


def answers(store: Store, semantics: str) -> Any:
    engine = Engine.from_text(POLICY.replace("20/1d", "2/1d"), store=store)

    async def asked() -> Any:
        transport = httpx.ASGITransport(create_app(engine))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            answer = await client.post("/decide/batch", json={"requests": BATCH, "semantics": semantics})
            return answer.json()["decisions"]

    found = asyncio.run(asked())
    for one in found:
        one["id"] = ""
        for rate in one.get("rates", ()):
            rate["reset_ms"] = round(rate["reset_ms"] / 3_600_000)  # of real clocks
    return found


@pytest.mark.parametrize("semantics", ["execute_all", "deny_on_first_deny"])
def test_a_batch_on_a_shared_store_gets_the_same_answers_as_in_memory(url: str, semantics: str) -> None:
    assert waits(answers(open_store(url), semantics)) == waits(answers(MemoryStore(), semantics))


def waits(found: Any) -> str:
    """Without what depends on how much time passed."""
    return re.sub(r"\d+[dhm]\b[^`']*|\d+h\d[^`']*|\d+ms|[\d.]+s\b", "…", str(found))


def test_workers_together_admit_exactly_the_limit(url: str, tmp_path: Path) -> None:
    with started(SERVE, url, str(tmp_path / "policy.sock")) as (address, _), ThreadPoolExecutor(8) as pool:

        def by_port(_: int) -> bool:
            return bool(httpx.post(f"{address}/decide", json=ASK).json()["allowed"])

        def by_socket(_: int) -> bool:
            with SocketClient(tmp_path / "policy.sock", timeout=20) as client:
                return client.decide(ASK).allowed

        allowed = [*pool.map(by_port, range(20)), *pool.map(by_socket, range(20))]
    assert sum(allowed) == 20


@pytest.mark.parametrize(("shift", "reason"), [(0, None), (20, "20s ahead of"), (-3_600, "1h behind")])
def test_readyz_reports_the_clock_skew_of_the_store(redis_server: Server, shift: int, reason: str | None) -> None:
    def clock() -> datetime:
        return datetime.now(UTC) + timedelta(seconds=shift)

    engine = Engine.from_text(POLICY, clock=clock, store=open_store(f"{redis_server.url}?timeout=5s"))

    async def asked() -> httpx.Response:
        transport = httpx.ASGITransport(create_app(engine))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.get("/readyz")

    answer = asyncio.run(asked())
    assert answer.status_code == (200 if reason is None else 503)
    if reason is None:
        assert abs(answer.json()["clock_skew_ms"]) < 1_000
    else:
        assert answer.json()["detail"] == f"the clock of this server is {reason} the store's"
