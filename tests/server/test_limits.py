"""Rates and budgets through the server: what a gateway and its callers see of them, on the wire."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from itertools import count
from typing import Any

import httpx
import msgpack
import pytest

from policyengine.engine import Engine
from tests.server.conftest import client_of
from tests.server.processes import started

LIMITED = """
from policyengine.engine.engine import Engine
from policyengine.server import serve
from tests.server.test_limits import POLICY
serve(Engine.from_text(POLICY), port=0, listening=lambda url: print(url, flush=True))
"""
POLICY = """
language 1
package shop
anyone { may GET /health, POST /orders }
rate "per caller" per request.ip on /orders { 2/1h }
"""
CALLERS = count(1)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with started(LIMITED) as (url, _):
        yield url


@pytest.fixture
def order() -> dict[str, Any]:
    """A question of a caller that nobody else is."""
    return {"request": {"method": "POST", "path": "/orders", "ip": f"10.0.0.{next(CALLERS)}"}}


def told(answer: httpx.Response) -> dict[str, str]:
    assert answer.status_code == 200, answer.text
    return {
        name: answer.headers[name]
        for name in ("ratelimit-policy", "ratelimit", "retry-after")
        if name in answer.headers
    }


def test_each_answer_has_ratelimit_headers(url: str, order: dict[str, Any]) -> None:
    answers = [httpx.post(f"{url}/decide", json=order) for _ in range(3)]
    assert [one.json()["outcome"] for one in answers] == ["allow", "allow", "throttle"]
    assert [one.headers["ratelimit-policy"] for one in answers] == ['"per caller";q=2;w=3600'] * 3
    assert [one.headers["ratelimit"].split(";")[:2] for one in answers] == [
        ['"per caller"', f"r={left}"] for left in (1, 0, 0)
    ]


def test_only_a_throttle_has_a_retry_after_header(url: str, order: dict[str, Any]) -> None:
    first, _, third = (told(httpx.post(f"{url}/decide", json=order)) for _ in range(3))
    assert "retry-after" not in first
    assert 1790 <= int(third["retry-after"]) <= 1800


def test_an_answer_without_a_limit_has_no_ratelimit_headers(url: str) -> None:
    health = {"request": {"method": "GET", "path": "/health"}}
    assert told(httpx.post(f"{url}/decide", json=health)) == {}


@pytest.mark.parametrize(
    ("path", "more"),
    [("/evaluate", {}), ("/decide", {"options": {"consume": False}}), ("/decide", {"options": {"explain": True}})],
)
def test_the_slow_path_returns_the_same_ratelimit_headers(
    url: str, order: dict[str, Any], path: str, more: dict[str, Any]
) -> None:
    quick = told(
        httpx.post(f"{url}/decide", json={**order, "request": {**order["request"], "ip": f"10.1.{next(CALLERS)}.1"}})
    )
    assert told(httpx.post(f"{url}{path}", json={**order, **more})) == quick


def test_messagepack_returns_the_same_answer_as_json(url: str, order: dict[str, Any]) -> None:
    answer = httpx.post(f"{url}/decide", content=msgpack.packb(order), headers={"content-type": "application/msgpack"})
    assert told(answer) == {"ratelimit-policy": '"per caller";q=2;w=3600', "ratelimit": '"per caller";r=1;t=1800'}


def test_evaluate_spends_nothing_of_a_rate(url: str, order: dict[str, Any]) -> None:
    before, after = (told(httpx.post(f"{url}/evaluate", json=order)) for _ in range(2))
    assert before == after


def test_a_batch_answer_has_no_ratelimit_headers(url: str, order: dict[str, Any]) -> None:
    answer = httpx.post(f"{url}/decide/batch", json={"requests": [order]})
    assert told(answer) == {}
    assert answer.json()["decisions"][0]["rates"][0]["rule"] == "per caller"


async def answered_by(engine: Engine, question: dict[str, Any]) -> httpx.Response:
    async with client_of(engine) as client:
        return await client.post("/decide", content=json.dumps(question), headers={"content-type": "application/json"})


def test_the_asgi_application_sends_the_same_ratelimit_headers_as_the_server(url: str, order: dict[str, Any]) -> None:
    answer = asyncio.run(answered_by(Engine.from_text(POLICY), order))
    assert told(answer) == told(httpx.post(f"{url}/decide", json=order))


def test_the_openapi_document_lists_the_ratelimit_headers(url: str) -> None:
    paths = httpx.get(f"{url}/openapi.json").json()["paths"]
    for path in ("/decide", "/evaluate"):
        assert set(paths[path]["post"]["responses"]["200"]["headers"]) >= {
            "RateLimit-Policy",
            "RateLimit",
            "Retry-After",
        }
    assert "headers" not in paths["/decide/batch"]["post"]["responses"]["200"]
