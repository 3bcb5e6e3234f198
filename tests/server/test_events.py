"""Reports of outcomes over HTTP: who may, once per decision, in both forms."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import msgpack
import pytest

from policyengine.engine import Engine
from policyengine.stores.base import StoreError
from policyengine.stores.memory.store import MemoryStore
from policyengine.stores.resilient_store import ResilientStore
from policyengine.stores.url import open_store
from tests.history.plainly import HEAD
from tests.server.conftest import TOKEN, client_of
from tests.spec.deciding import bot, question
from tests.stores.servers import running

NOW = datetime(2027, 1, 4, 12, tzinfo=UTC)
GUARD = 'guard "g" on POST /pay { require after (POST /review where past.status < 400) within 1h }'
Post = Callable[..., httpx.Response]


class Gateway:
    def __init__(self, **options: Any) -> None:
        self.now = NOW
        store = MemoryStore(history_complete=True)
        self.engine = Engine.from_text(HEAD + GUARD, clock=lambda: self.now, store=store)
        self.options = options

    def post(self, path: str, **sent: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            async with client_of(self.engine, **self.options) as client:
                return await client.post(path, **sent)

        return asyncio.run(send())

    def decide(self, where: str) -> dict[str, Any]:
        found: dict[str, Any] = self.post("/decide", json={**bot(), **question(where)}).json()
        return found


def test_a_reported_outcome_counts_in_later_decisions() -> None:
    gateway = Gateway()
    review = gateway.decide("POST /review")["id"]
    assert gateway.decide("POST /pay")["outcome"] == "deny"
    answer = gateway.post("/events", json={"decision": review, "status": 200, "latency_ms": 12.5, "output": {"a": 1}})
    assert (answer.status_code, answer.json()) == (200, {"decision": review, "reported": True})
    assert gateway.decide("POST /pay")["outcome"] == "allow"


REPORTS: tuple[dict[str, Any], ...] = (
    {"status": 200, "latency_ms": 12.5},
    {"status": 204},
    {"status": 503, "latency_ms": 1e30},
    {},
)


def test_reported_outcomes_count_in_the_metrics() -> None:
    async def run() -> str:
        gateway = Gateway()
        async with client_of(gateway.engine) as client:
            for report in (
                {"status": 200, "latency_ms": 12.5},
                {"status": 204},
                {"status": 503, "latency_ms": 1e300},
                {},
            ):
                asked = await client.post("/decide", json={**bot(), **question("POST /review")})
                sent = {"decision": asked.json()["id"], **report}
                assert [(await client.post("/events", json=sent)).status_code for _ in range(2)] == [200, 409]
            return (await client.get("/metrics")).text

    found = asyncio.run(run())
    for line in (
        'policyengine_outcomes_total{status="2xx"} 2.0',
        'policyengine_outcomes_total{status="5xx"} 1.0',
        'policyengine_outcomes_total{status="unknown"} 1.0',
        'policyengine_outcome_latency_seconds_bucket{le="+Inf",status="2xx"} 1.0',
        'policyengine_outcome_latency_seconds_sum{status="2xx"} 0.0125',
        'policyengine_outcome_latency_seconds_sum{status="5xx"} 3600.0',
    ):
        assert line in found
    assert 'policyengine_outcome_latency_seconds_bucket{le="0.004194304",status="2xx"} 0.0' in found
    assert 'policyengine_outcome_latency_seconds_bucket{le="0.016777216",status="2xx"} 1.0' in found


def test_a_messagepack_report_gets_a_messagepack_answer() -> None:
    gateway = Gateway()
    sent = msgpack.packb({"decision": gateway.decide("POST /review")["id"], "status": 204})
    answer = gateway.post("/events", content=sent, headers={"content-type": "application/msgpack"})
    assert msgpack.unpackb(answer.content)["reported"] is True


def test_a_second_report_is_a_conflict() -> None:
    gateway = Gateway()
    report = {"decision": gateway.decide("POST /review")["id"], "status": 500}
    assert [gateway.post("/events", json=report).status_code for _ in range(2)] == [200, 409]


@pytest.mark.parametrize("late", [False, True])
def test_a_report_for_no_awaited_decision_is_not_found(late: bool) -> None:
    gateway = Gateway()
    review = gateway.decide("POST /review" if late else "GET /else")["id"]
    gateway.now += timedelta(hours=1)
    answer = gateway.post("/events", json={"decision": review, "status": 200})
    assert (answer.status_code, answer.json()["member"]) == (404, "decision")


@pytest.mark.parametrize(
    ("report", "member"),
    [
        ({}, "decision"), ({"decision": ""}, "decision"), ({"decision": 7}, "decision"),
        ({"decision": "x", "ok": 1}, "ok"),
        ({"decision": "x", "status": "200"}, "status"), ({"decision": "x", "status": True}, "status"),
        ({"decision": "x", "status": 99}, "status"), ({"decision": "x", "status": 600}, "status"),
        ({"decision": "x", "latency_ms": -1}, "latency_ms"), ({"decision": "x", "latency_ms": "1"}, "latency_ms"),
        ({"decision": "x", "output": []}, "output"), ({"decision": "x", "refund": "yes"}, "refund"),
    ],
)  # fmt: skip
def test_a_malformed_report_names_the_member(report: dict[str, Any], member: str) -> None:
    answer = Gateway().post("/events", json=report)
    assert (answer.status_code, answer.json()["member"]) == (400, member)


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"{", b"7"])
def test_a_body_that_is_not_a_report_is_rejected(body: bytes) -> None:
    answer = Gateway().post("/events", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400


def test_reports_require_the_bearer_token() -> None:
    gateway = Gateway(token=TOKEN)
    report = {"decision": "x", "status": 200}
    assert gateway.post("/events", json=report).status_code == 401
    assert gateway.post("/events", json=report, headers={"authorization": f"Bearer {TOKEN}"}).status_code == 404


# ── A second report ───────────────────────────────────────────────────────────────────────────

SPENDING = """
language 1
package shop
anyone { may GET /slow, POST /pay }
rate "at once" per request.path on GET /slow { at most 1 at once for 60s }
budget "a day" per request.path on POST /pay { count <= 1 within 24h }
"""
STORES = ("memory:", "sqlite:///{}/store.db", "redis")


@pytest.fixture(params=STORES)
def spending(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    with ExitStack() as stack:
        url = request.param.format(tmp_path)
        if url == "redis":
            url = stack.enter_context(running("redis-server", tmp_path)).url
        store = open_store(url if url == "memory:" else f"{url}?timeout=5s")
        yield Engine.from_text(SPENDING, store=store)
        if isinstance(store, ResilientStore):
            store.close()


def told(engine: Engine, path: str, **sent: Any) -> httpx.Response:
    async def send() -> httpx.Response:
        async with client_of(engine) as client:
            return await client.post(path, **sent)

    return asyncio.run(send())


@pytest.mark.parametrize(("method", "path"), [("GET", "/slow"), ("POST", "/pay")])
@pytest.mark.parametrize("second", [{"status": 200}, {"status": 500, "refund": True}])
def test_a_second_report_is_a_conflict_whatever_its_content(
    spending: Engine, method: str, path: str, second: dict[str, Any]
) -> None:
    decided = told(spending, "/decide", json={"request": {"method": method, "path": path}}).json()
    first, *again = [
        told(spending, "/events", json={"decision": decided["id"], **one}) for one in ({"status": 200}, second, second)
    ]
    assert first.status_code == 200
    assert [(one.status_code, one.json()["code"]) for one in again] == [(409, "outcome_reported")] * 2


def test_a_second_report_refunds_nothing(spending: Engine) -> None:
    pay = {"request": {"method": "POST", "path": "/pay"}}
    first = told(spending, "/decide", json=pay).json()
    for refund in (False, True):
        told(spending, "/events", json={"decision": first["id"], "refund": refund})
    assert told(spending, "/decide", json=pay).json()["outcome"] == "throttle"


def test_a_report_that_failed_halfway_can_be_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """History had heard of it, and the place that it held was not free: then a second report was refused."""
    text = f'{HEAD}rate "at once" per agent.id on POST /review {{ at most 1 at once for 60s }}\n{GUARD}'
    store = MemoryStore(history_complete=True)
    engine = Engine.from_text(text, clock=lambda: NOW, store=store)
    ask = {**bot(), **question("POST /review")}
    review = told(engine, "/decide", json=ask).json()["id"]
    report = {"decision": review, "status": 200}

    def breaks(*given: object, **options: object) -> None:
        raise StoreError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(store, "finish", breaks)
        assert told(engine, "/events", json=report).status_code == 503
    assert told(engine, "/decide", json=ask).json()["outcome"] == "throttle"
    assert [told(engine, "/events", json=report).status_code for _ in range(2)] == [200, 409]
    assert told(engine, "/decide", json=ask).json()["outcome"] == "allow"


def test_the_store_forgets_reportable_decisions_after_their_window() -> None:
    """However few keys there are: before, each allow of a budget stayed for good."""
    now, store = [NOW], MemoryStore()
    engine = Engine.from_text(SPENDING.replace("count <= 1", "count <= 9"), clock=lambda: now[0], store=store)
    for _ in range(50):
        assert engine.decide({"request": {"method": "POST", "path": "/pay"}}).allowed
        now[0] += timedelta(hours=23)
    assert len(store._made) < 10
