"""Workers that share a store count together, on the port and on the socket."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from policyengine.client import SocketClient
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
from policyengine.engine import Engine
from policyengine.server import serve
from policyengine.stores.urls import open_store
serve(Engine.from_text({POLICY!r}, store=open_store(sys.argv[1])), port=0, path=Path(sys.argv[2]), workers=2,
      listening=lambda url: print(url, flush=True))
"""
ASK = {"request": {"method": "GET", "path": "/report"}}


@pytest.fixture(params=["sqlite", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store.db?timeout=10s"
    server: Server = request.getfixturevalue("redis_server")
    import redis

    redis.Redis(port=server.port, protocol=2).flushall()
    return f"{server.url}?timeout=5s"


def test_workers_let_through_as_many_as_one_would(url: str, tmp_path: Path) -> None:
    with started(SERVE, url, str(tmp_path / "policy.sock")) as (address, _), ThreadPoolExecutor(8) as pool:

        def by_port(_: int) -> bool:
            return bool(httpx.post(f"{address}/decide", json=ASK).json()["allowed"])

        def by_socket(_: int) -> bool:
            with SocketClient(tmp_path / "policy.sock", timeout=20) as client:
                return client.decide(ASK).allowed

        allowed = [*pool.map(by_port, range(20)), *pool.map(by_socket, range(20))]
    assert sum(allowed) == 20
