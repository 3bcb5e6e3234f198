"""Reports of outcomes over HTTP: who may, once per decision, in both forms."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import msgpack
import pytest

from policyengine.engine import Engine
from policyengine.stores.memory import MemoryStore
from tests.history.plainly import HEAD
from tests.semantics.deciding import bot, question
from tests.server.conftest import TOKEN, client_of

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


def test_an_outcome_that_is_reported_counts() -> None:
    gateway = Gateway()
    review = gateway.decide("POST /review")["id"]
    assert gateway.decide("POST /pay")["outcome"] == "deny"
    answer = gateway.post("/events", json={"decision": review, "status": 200, "latency_ms": 12.5, "output": {"a": 1}})
    assert (answer.status_code, answer.json()) == (200, {"decision": review, "reported": True})
    assert gateway.decide("POST /pay")["outcome"] == "allow"


def test_messagepack_is_read_and_written() -> None:
    gateway = Gateway()
    sent = msgpack.packb({"decision": gateway.decide("POST /review")["id"], "status": 204})
    answer = gateway.post("/events", content=sent, headers={"content-type": "application/msgpack"})
    assert msgpack.unpackb(answer.content)["reported"] is True


def test_a_second_report_is_a_conflict() -> None:
    gateway = Gateway()
    report = {"decision": gateway.decide("POST /review")["id"], "status": 500}
    assert [gateway.post("/events", json=report).status_code for _ in range(2)] == [200, 409]


@pytest.mark.parametrize("late", [False, True])
def test_a_report_that_nothing_waits_for_is_not_found(late: bool) -> None:
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
def test_what_is_no_report_is_refused(body: bytes) -> None:
    answer = Gateway().post("/events", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400


def test_only_those_who_may_ask_may_report() -> None:
    gateway = Gateway(token=TOKEN)
    report = {"decision": "x", "status": 200}
    assert gateway.post("/events", json=report).status_code == 401
    assert gateway.post("/events", json=report, headers={"authorization": f"Bearer {TOKEN}"}).status_code == 404
