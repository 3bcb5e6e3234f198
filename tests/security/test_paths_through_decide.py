"""Confusing paths through the door: no spelling reaches what a guard shuts, or leaves what is open."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from policyengine.engine import Engine
from policyengine.runtime.paths import CanonicalPath, canonical_path
from policyengine.server import create_app
from tests.security.paths import MALFORMED, READ, readings

OPEN, SHUT = "/public", "/public/admin"
ENGINE = Engine.from_text(
    """
    language 1
    package site
    anyone { may GET /public/** }
    guard "admin is shut" on /public/admin/** { deny }
    """
)


def under(path: str, place: str) -> bool:
    return path == place or path.startswith(place + "/")


def ask(request: Mapping[str, Any], path: str = "/decide", **more: Any) -> httpx.Response:
    async def run() -> httpx.Response:
        transport = httpx.ASGITransport(create_app(ENGINE))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            body = json.dumps({"request": request, **more})
            return await client.post(path, content=body, headers={"content-type": "application/json"})

    return asyncio.run(run())


def decided(request: Mapping[str, Any], **more: Any) -> tuple[bool, str | None, list[str | None]]:
    """Whether it is allowed, the gate, and the rules that said no."""
    answer = ask(request, **more)
    assert answer.status_code == 200, answer.text
    decision = answer.json()
    return decision["allowed"], decision["gate"], [reason.get("rule") for reason in decision["reasons"]]


def expected(path: str) -> tuple[bool, str | None, list[str | None]]:
    """What the policy says about a canonical path."""
    if under(path, SHUT):
        return False, "guard", ["admin is shut"]
    # Nothing opens the door, so the caller learns that nobody knows it, and no more.
    return (True, None, []) if under(path, OPEN) else (False, "identity", [None])


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", READ, ids=lambda path: path[:60])
def test_a_readable_path_is_decided_as_its_canonical_spelling(path: str, method: str) -> None:
    found = canonical_path(path)
    assert isinstance(found, CanonicalPath)
    assert found.path == READ[path]
    assert decided({"method": method, "path": path}) == expected(READ[path])


@pytest.mark.parametrize("path", MALFORMED, ids=lambda path: ascii(path)[:60])
def test_an_ambiguous_path_is_malformed(path: str) -> None:
    decision = ask({"method": "GET", "path": path}).json()
    assert (decision["allowed"], decision["gate"]) == (False, "malformed_path")
    assert MALFORMED[path] in decision["reasons"][0]["message"]


@pytest.mark.parametrize("path", READ, ids=lambda path: path[:60])
def test_no_server_reading_of_an_allowed_path_is_denied_or_outside(path: str) -> None:
    if decided({"method": "GET", "path": path})[0]:
        for reading in readings(path):
            assert under(reading.rstrip("/"), OPEN), reading
            assert not under(reading, SHUT), reading


def test_the_server_readings_reveal_most_malformed_paths() -> None:
    """The check above can fail: most of what is malformed is shut, or elsewhere, to some careless server."""
    short = [path for path in MALFORMED if len(path) < 100]
    found = [p for p in short if any(under(one, SHUT) or not under(one.rstrip("/"), OPEN) for one in readings(p))]
    assert len(found) > 0.8 * len(short)


OVERRIDES: list[dict[str, Any]] = [
    {"headers": {"X-HTTP-Method-Override": "DELETE"}},
    {"headers": {"x-http-method": "DELETE"}},
    {"headers": {"X-Method-Override": "DELETE"}},
    {"headers": {"X_HTTP_METHOD_OVERRIDE": "DELETE"}},
    {"headers": {" x-http-method-override": "DELETE"}},
    {"headers": {"x-http-method-override": "GET"}},
    {"headers": {"x-http-method-override": "GET", "X-HTTP-Method-Override": "DELETE"}},
    {"headers": {"x-http-method-override": ["DELETE"]}},
    {"query": {"_method": "DELETE"}},
    {"query": {"_METHOD": "DELETE"}},
    {"query": {"x-http-method-override": "DELETE"}},
]


@pytest.mark.parametrize("more", OVERRIDES)
def test_a_method_override_is_malformed(more: dict[str, Any]) -> None:
    allowed, gate, _ = decided({"method": "GET", "path": "/public/x", **more})
    assert (allowed, gate) == (False, "malformed_path")


def test_a_method_override_in_the_body_is_malformed() -> None:
    allowed, gate, _ = decided({"method": "GET", "path": "/public/x"}, body={"_method": "DELETE"})
    assert (allowed, gate) == (False, "malformed_path")


@pytest.mark.parametrize(
    "method", ["get", "Get", "GET ", " GET", "GET\r\nX: y", "GET,DEL", "*", "G\u0415T", "GET\0", "A" * 17]
)
def test_a_method_that_is_not_an_upper_case_word_is_malformed(method: str) -> None:
    allowed, gate, _ = decided({"method": method, "path": "/public/x"})
    assert (allowed, gate) == (False, "malformed_path")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "CONNECT", "TRACE", "PROPFIND"])
def test_another_method_than_the_opened_one_is_denied(method: str) -> None:
    assert decided({"method": method, "path": "/public/x"}) == (False, "identity", [None])


@pytest.mark.parametrize(
    "body",
    [
        '{"request": {"method": "GET", "path": "/public/admin", "path": "/public/x"}}',
        '{"request": {"method": "GET", "path": "/public/x", "pa\\u0074h": "/public/admin"}}',
        '{"request": {"method": "DELETE", "method": "GET", "path": "/public/x"}}',
        '{"request": {"method": "GET", "path": "/public/x"}, "request": {"method": "GET", "path": "/public/admin"}}',
        '{"request": {"method": "GET", "path": ["/public/x"]}}',
        '{"request": {"method": "GET", "path": {"": "/public/x"}}}',
        '{"request": {"method": "GET", "path": 7}}',
        '{"request": {"method": "GET", "path": null}}',
        '{"request": {"method": ["GET"], "path": "/public/x"}}',
        '{"request": {"method": "GET", "Path": "/public/x"}}',
        '{"request": {"method": "GET", "path": "/public/x"}, "tool": {"name": "x"}}',
    ],
)
def test_a_repeated_or_non_string_path_returns_400(body: str) -> None:
    async def run() -> httpx.Response:
        transport = httpx.ASGITransport(create_app(ENGINE))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.post("/decide", content=body, headers={"content-type": "application/json"})

    assert asyncio.run(run()).status_code == 400
