"""The alerts that the page gives for a store fire on what a real server says of one that fails, and on nothing else."""

from __future__ import annotations

import asyncio
import json
import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from typing import Any

import httpx
import pytest

from policyengine.engine import Engine
from policyengine.server.telemetry.process_metrics import inspect_store
from policyengine.stores.memory.store import MemoryStore
from policyengine.stores.resilient_store import INSPECTION_INTERVAL_SECONDS, ResilientStore
from tests.pages import CHECKOUT, blocks
from tests.processes import wait_until
from tests.server.conftest import client_of
from tests.server.processes import started
from tests.stores.servers import running
from tests.stores.test_failing import Time
from tests.stores.test_health import ReadsOnly, configured

prometheus_client = pytest.importorskip("prometheus_client")
SERVE = "import sys; from policyengine.cli import main; sys.exit(main(sys.argv[1:]))"
POLICY = """
language 1
package shop
anyone { may GET /x/{id} }
rate "r" per request.path on GET /x/{id} { 9/1h }
"""
ROUND = 15  # seconds between two looks of Prometheus


@dataclass
class Fault:
    """A store, and what makes it fail, told the process of the server."""

    url: str
    begin: Callable[[int], object]


@contextmanager
def redis_full(folder: Path) -> Iterator[Fault]:
    with running("redis-server", folder) as server:
        yield Fault(f"{server.url}?timeout=5s", lambda _: configured(server, maxmemory="1"))


@contextmanager
def no_room_on_the_disk(folder: Path) -> Iterator[Fault]:
    """No file of the process may grow any more."""
    file = folder / "store.db"

    def begin(process: int) -> None:
        resource.prlimit(process, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))

    yield Fault(f"sqlite:///{file}", begin)


@pytest.mark.parametrize("fault", [redis_full, no_room_on_the_disk])
def test_the_documented_alerts_fire_if_the_store_cannot_be_written(
    fault: Callable[[Path], Any], tmp_path: Path
) -> None:
    (tmp_path / "p.policy").write_text(POLICY)
    with fault(tmp_path) as broken:
        arguments = ["serve", str(tmp_path / "p.policy"), "--port", "0", "--format", "json", "--store", broken.url]
        with (
            started(SERVE, *arguments) as (line, process),
            httpx.Client(base_url=json.loads(line)["listening"]) as http,
        ):
            assert gate(http, 0) is None
            before = scraped(http)
            broken.begin(process.pid)
            numbers = iter(range(1, 10_000))
            wait_until(lambda: gate(http, next(numbers)) == "failure" and http.get("/readyz").status_code == 503)
            after = scraped(http)
    fires("StoreDoesNotAnswer", [{"operation": "write"}], before, after, tmp_path)
    fires("DecisionsFail", [{}], before, after, tmp_path)


def test_no_documented_store_alert_fires_for_a_healthy_store(tmp_path: Path) -> None:
    engine = Engine.from_text(POLICY)
    well = of_app(engine)
    for alert in ("StoreDoesNotAnswer", "StoreIsFull", "DecisionsFail"):
        fires(alert, [], well, well, tmp_path)


def test_the_documented_alert_fires_if_the_memory_store_is_full(tmp_path: Path) -> None:
    engine = Engine.from_text(POLICY, store=MemoryStore(most_keys=1))
    before = of_app(engine)
    for number in range(3):
        engine.decide(question(number))
    fires("StoreIsFull", [{}], before, of_app(engine), tmp_path)


def test_the_store_inspection_detects_a_failing_store_without_decisions() -> None:
    inner, time = ReadsOnly(), Time()
    store = ResilientStore(inner, clock=time)  # type: ignore[arg-type]
    engine = Engine.from_text(POLICY, store=store)
    asyncio.run(inspect_store(engine))
    assert (inner.probes, store.failing) == (0, False)
    time.now += INSPECTION_INTERVAL_SECONDS
    asyncio.run(inspect_store(engine))
    assert (inner.probes, store.failing) == (1, True)


# ── What Prometheus sees ──────────────────────────────────────────────────────────────────────


def question(number: int) -> dict[str, Any]:
    return {"request": {"method": "GET", "path": f"/x/{number}"}}


def asking(line: str) -> httpx.Client:
    """The server that said where it listens."""
    return httpx.Client(base_url=json.loads(line)["listening"], timeout=30)


def gate(http: httpx.Client, number: int) -> Any:
    return http.post("/decide", json=question(number)).json().get("gate")


def scraped(http: httpx.Client) -> dict[str, float]:
    return series(http.get("/metrics").text)


def of_app(engine: Engine) -> dict[str, float]:
    async def ask() -> str:
        async with client_of(engine) as client:
            return (await client.get("/metrics")).text

    return series(asyncio.run(ask()))


def series(text: str) -> dict[str, float]:
    lines = (line.rpartition(" ") for line in text.splitlines() if line.startswith("policyengine_"))
    return {name: float(value) for name, _, value in lines if "_bucket" not in name and "_info" not in name}


def fires(
    alert: str, labels: list[dict[str, str]], before: dict[str, float], after: dict[str, float], folder: Path
) -> None:
    """By promtool, from the rules on the page: quiet while it was well, and then as expected for who waited."""
    if which("promtool") is None:
        pytest.skip("promtool is missing: apt-get install promtool")
    [rules] = [
        one
        for one in blocks(CHECKOUT / "docs" / "metrics.md")
        if one.language == "yaml" and one.text.startswith("groups:")
    ]
    (folder / "rules.yml").write_text(rules.text)
    rows = [{"series": name, "values": f"{before.get(name, 0)}x4 {value}x40"} for name, value in after.items()]
    expected = [{"exp_labels": one} for one in labels]
    looks = [
        {"eval_time": "1m", "alertname": alert, "exp_alerts": []},
        {"eval_time": "4m", "alertname": alert, "exp_alerts": expected},
    ]
    test = {
        "rule_files": ["rules.yml"], "evaluation_interval": f"{ROUND}s",
        "tests": [{"interval": f"{ROUND}s", "input_series": rows, "alert_rule_test": looks}],
    }  # fmt: skip
    (folder / "test.yml").write_text(json.dumps(test))
    done = subprocess.run(["promtool", "test", "rules", folder / "test.yml"], capture_output=True, check=False)
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
