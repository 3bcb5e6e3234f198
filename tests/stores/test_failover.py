"""Servers that take over from others, and a Cluster that loses one, under load: denied meanwhile, over by itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

import pytest

from policyengine.engine import Engine
from policyengine.stores.url import TIMEOUT_SECONDS, open_store
from tests.processes import wait_until
from tests.stores.servers import Server, cluster, running
from tests.stores.test_failing import SLOWEST

pytestmark = pytest.mark.deep
POLICY = """
language 1
package shop
anyone { may GET /page/{n}, GET /quiet }
rate "pages" per (params.n) on GET /page/{n} { 40/1d }
guard "quiet" on GET /quiet { require no GET /page/{n} within 1h per (request.method) }
"""


def asked(engine: Engine, path: str) -> str:
    decision = engine.decide({"request": {"method": "GET", "path": path}})
    return f"{decision.outcome.value} by {decision.gate.value}" if decision.gate else decision.outcome.value


@contextmanager
def watched(folder: Path) -> Iterator[tuple[Server, str]]:
    """A primary with a replica, and a Sentinel that lets the one follow the other."""
    import redis

    with running("redis-server", folder) as primary:
        follows = ("--replicaof", "127.0.0.1", str(primary.port), "--repl-diskless-sync-delay", "0")
        with running("redis-server", folder, *follows) as replica:
            with redis.Redis(port=replica.port, protocol=2) as client:
                wait_until(lambda: client.info("replication")["master_link_status"] == "up")
            file = folder / "sentinel.conf"
            file.write_text(
                f"sentinel monitor shop 127.0.0.1 {primary.port} 1\nsentinel down-after-milliseconds shop 300\n"
                "sentinel failover-timeout shop 2000\n"
            )
            with running("redis-server", folder, str(file), "--sentinel") as sentinel:
                with redis.Redis(port=sentinel.port, protocol=2) as client:
                    wait_until(lambda: len(client.execute_command("SENTINEL REPLICAS", "shop")) == 1)
                yield primary, f"redis+sentinel://127.0.0.1:{sentinel.port}/shop?timeout=500ms"


def test_a_promoted_replica_keeps_counts_and_restarts_the_history(tmp_path: Path) -> None:
    with watched(tmp_path) as (primary, url):
        engine = Engine.from_text(POLICY, store=open_store(url))
        assert [asked(engine, "/page/1") for _ in range(20)] == ["allow"] * 20
        primary.kill()
        outcomes: list[str] = []

        def recovered() -> bool:
            outcomes.append(asked(engine, "/page/1"))
            return outcomes[-1] == "allow"

        wait_until(recovered)
        assert set(outcomes) <= {"deny by failure", "allow"}
        outcomes += [asked(engine, "/page/1") for _ in range(40)]
        assert 15 <= outcomes.count("allow") <= 20 + 1  # what the replica had not got yet may be let through once more
        assert outcomes[-1] == "throttle by rate"
        assert asked(engine, "/quiet") == "deny by guard"


def test_a_cluster_that_loses_a_server_denies_until_it_returns(tmp_path: Path) -> None:
    with cluster(tmp_path) as servers:
        engine = Engine.from_text(
            POLICY, store=open_store(f"redis+cluster://127.0.0.1:{servers[0].port}?timeout=500ms")
        )
        pages = [f"/page/{n}" for n in range(12)]
        assert {asked(engine, page) for page in pages} == {"allow"}
        servers[1].kill()
        slowest = 0.0
        for number in range(200):
            began = monotonic()
            assert asked(engine, pages[number % 12]) in ("allow", "deny by failure", "throttle by rate")
            slowest = max(slowest, monotonic() - began)
        assert slowest < SLOWEST * 500 / (TIMEOUT_SECONDS * 1_000)
        servers[1].start()
        for page in pages:
            wait_until(lambda page=page: asked(engine, page) in ("allow", "throttle by rate"))
