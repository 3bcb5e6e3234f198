"""A request over HTTP is read once, whichever way it takes to its decision."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from starlette.testclient import TestClient

from policyengine.engine import Engine
from policyengine.runtime import decode, request
from policyengine.server.app import create_app
from tests.identity import issuing

POLICY = """
facts { body.items: list<int>? }
anyone { may POST /x }
guard "items" on POST /x { deny when (any item in body.items: item > 10) }
"""
ASKED = {"request": {"method": "POST", "path": "/x"}, "body": {"items": [1, 2, 3, 4, 5, 6, 7, 8, 9]}}
FORWARDED = {"x-forwarded-method": "POST", "x-forwarded-uri": "/x?a=1&b=2", "x-forwarded-host": "shop.example"}
WAYS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "the fast path": ("POST", "/decide", {"json": ASKED}),
    "an option": ("POST", "/decide", {"json": {**ASKED, "options": {"consume": False}}}),
    "an explanation": ("POST", "/decide", {"json": {**ASKED, "options": {"explain": True}}}),
    "evaluate": ("POST", "/evaluate", {"json": ASKED}),
    "explain": ("POST", "/explain", {"json": ASKED}),
    "a batch of one": ("POST", "/decide/batch", {"json": {"requests": [ASKED]}}),
    "forward-auth": ("GET", "/forward-auth", {"headers": FORWARDED}),
    "ext_authz": ("POST", "/envoy/x", {"json": ASKED["body"]}),
}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often bytes were decoded to a question, and how often one was validated."""
    found: Counter[str] = Counter()

    def counting(module: Any, name: str, kind: str) -> None:
        known = getattr(module, name)

        def counted(*arguments: Any) -> Any:
            found[kind] += 1
            return known(*arguments)

        monkeypatch.setattr(module, name, counted)

    counting(request, "read_facts", "validated")
    counting(decode, "json_tree", "decoded")
    return found


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_question_is_validated_at_most_once(way: tuple[str, str, dict[str, Any]], calls: Counter[str]) -> None:
    method, path, given = way
    client = TestClient(create_app(Engine.from_text(POLICY)), base_url="http://localhost")
    answer = client.request(method, path, **given)
    assert answer.status_code in (200, 403), answer.text
    assert max(calls.values(), default=0) <= 1


def test_a_new_token_is_verified_with_one_validation_of_the_question(calls: Counter[str]) -> None:
    client = TestClient(create_app(issuing.Door().engine), base_url="http://localhost")
    asked = {
        "request": {"method": "POST", "path": "/v1/invoices"},
        "credentials": {"authorization": f"Bearer {issuing.token()}"},
    }
    assert client.post("/decide", json=asked).status_code == 200
    assert (calls["validated"], calls["decoded"]) == (1, 0)  # decoded for the fast path, which hands it on
