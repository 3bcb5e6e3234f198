"""Broken questions and policies: a decision, a RequestError or diagnostics; never an allow that lacks a fact."""

from __future__ import annotations

import asyncio
import json
from random import Random
from typing import Any

import httpx
import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyengine.check import check_text
from policyengine.diagnostics.model import PolicyError
from policyengine.engine import Engine
from policyengine.runtime.request import Request, RequestError
from policyengine.server import create_app
from policyengine.source import Source
from policyengine.syntax.format import format_module
from tests.depth import examples, scaled
from tests.generate import File, Policy, checked_policy, kernel_of
from tests.generate.requests import NOW

# Everything that a question needs here; without any one of them it is not allowed.
POLICY = """
facts on POST /pay { body.amount: number }
entity user { roles: set<string> }
scope pay { POST /pay }
issuer acme { records chains   claims { roles -> user.roles } }
user where user.roles has "clerk" { may pay }
agent "bot" {
  issued by acme   acts for users where user.roles has "clerk"
  credential { kind in [jwt]   age <= 5m   bound }
  may pay when body.amount > 0
}
guard "small" { require body.amount < 100   require request.ip within 10.0.0.0/8   require context.calm }
facts { context.calm: bool }
delegation { depth <= 1 }
"""
POLICY = POLICY.replace('guard "small" {', 'guard "small" on POST /pay {')
NEEDED: dict[str, Any] = {
    "request": {"method": "POST", "path": "/pay", "ip": "10.0.0.1"},
    "agent": {"id": "bot", "issuer": "acme"},
    "user": {"id": "alice"},
    "credential": {
        "kind": "jwt", "issuer": "acme", "scopes": ["pay"], "age": "1m", "bound": True, "claims": {"roles": ["clerk"]},
    },
    "body": {"amount": 7},
    "context": {"calm": True},
}  # fmt: skip
REDUNDANT = {("agent", "issuer"), ("credential", "issuer")}  # one of the two would do
LEAVES = [(root, name) for root, members in NEEDED.items() for name in members]
ODD = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text(max_size=5)
    | st.lists(st.text(max_size=3), max_size=3) | st.dictionaries(st.text(max_size=3), st.integers(0, 3), max_size=2)
)  # fmt: skip
ENGINE = Engine.from_text(POLICY, clock=lambda: NOW)


def answered(read: Any, data: Any) -> bool:
    """Whether it is allowed; a question that cannot be understood is not. The engine itself never fails."""
    before = ENGINE.failures
    try:
        decision = ENGINE.decide(read(data))
    except RequestError:
        return False
    assert ENGINE.failures == before
    assert decision.allowed is (decision.gate is None)
    return decision.allowed


def bytes_read(data: bytes) -> bytes:
    return data


def test_the_whole_question_is_allowed() -> None:
    assert answered(Request.from_json, json.dumps(NEEDED))
    assert answered(Request.from_msgpack, msgpack.packb(NEEDED))
    assert answered(bytes_read, json.dumps(NEEDED).encode())


@pytest.mark.parametrize(("root", "name"), [one for one in LEAVES if one not in REDUNDANT])
def test_a_question_without_one_required_fact_is_not_allowed(root: str, name: str) -> None:
    asked = {**NEEDED, root: {key: value for key, value in NEEDED[root].items() if key != name}}
    assert not answered(Request.from_mapping, asked)


def right(root: str, name: str, value: object) -> bool:
    """Whether the odd value is, by luck, as good as the one that it replaces."""
    match root, name:
        case "body", "amount":
            return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 100
        case "user", "id":
            return isinstance(value, str) and value != ""
        case "context" | "credential", "calm" | "bound":
            return value is True
        case _ if (root, name) in REDUNDANT:
            return value is None or value == ""
        case _:
            return value == NEEDED[root][name]


@given(st.sampled_from(LEAVES), ODD, st.booleans())
def test_a_wrong_value_of_a_required_fact_is_never_allowed(leaf: tuple[str, str], value: object, packed: bool) -> None:
    root, name = leaf
    asked = {**NEEDED, root: {**NEEDED[root], name: value}}
    if packed:
        allowed = answered(Request.from_msgpack, msgpack.packb(asked, unicode_errors="surrogatepass"))
    else:
        allowed = answered(bytes_read, json.dumps(asked).encode())
    assert not allowed or right(root, name, value)


# ── Bytes ─────────────────────────────────────────────────────────────────────────────────────


@st.composite
def broken(draw: st.DrawFn, whole: bytes) -> bytes:
    """The bytes with some left out, doubled or replaced."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = start + draw(st.integers(0, 12))
        data[start:end] = draw(st.one_of(st.binary(max_size=6), st.just(bytes(data[start:end]) * 2)))
    return bytes(data)


LACKING = {**NEEDED, "credential": {**NEEDED["credential"], "bound": False}, "context": {}, "body": {"amount": 1e9}}


@given(broken(json.dumps(LACKING).encode()))
def test_broken_json_without_required_facts_is_never_allowed(data: bytes) -> None:
    assert not answered(bytes_read, data)


@given(broken(msgpack.packb(LACKING)))
def test_broken_messagepack_without_required_facts_is_never_allowed(data: bytes) -> None:
    assert not answered(Request.from_msgpack, data)


@given(st.binary(max_size=60))
def test_arbitrary_bytes_are_never_allowed(data: bytes) -> None:
    assert not answered(bytes_read, data)


FORMS = {"application/json": lambda tree: json.dumps(tree).encode(), "application/msgpack": msgpack.packb}


def post(path: str, body: bytes, form: str) -> httpx.Response:
    async def run() -> httpx.Response:
        transport = httpx.ASGITransport(create_app(ENGINE))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.post(path, content=body, headers={"content-type": form, "accept": "application/json"})

    return asyncio.run(run())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("path", ["/decide", "/decide/batch", "/explain"])
@scaled
@settings(max_examples=examples(20, 160))
@given(st.data())
def test_a_broken_question_returns_a_decision_or_400_at_every_endpoint(
    path: str, form: str, data: st.DataObject
) -> None:
    whole = {"requests": [LACKING, LACKING]} if path.endswith("batch") else LACKING
    answer = post(path, data.draw(broken(FORMS[form](whole))), form)
    assert answer.status_code in (200, 400), answer.text
    assert '"allowed":true' not in answer.text
    assert ENGINE.failures == 0


# ── Policies ──────────────────────────────────────────────────────────────────────────────────

WHOLE = checked_policy(Random(7)).texts[0]
TEXTS = st.one_of(
    st.text(max_size=60),
    broken(WHOLE.encode()).map(lambda data: data.decode("utf-8", "replace")),
    broken(POLICY.encode()).map(lambda data: data.decode("utf-8", "surrogateescape")),
)


@scaled
@settings(max_examples=examples(30, 240))
@given(TEXTS)
def test_any_text_becomes_an_engine_or_has_errors(text: str) -> None:
    found = [one for one in check_text(text) if one.is_error]
    try:
        Engine.from_text(text)
        refused = False
    except PolicyError:
        refused = True
    assert refused is bool(found)


@scaled
@settings(max_examples=examples(30, 240))
@given(TEXTS)
def test_formatting_any_valid_text_twice_changes_nothing(text: str) -> None:
    try:
        formatted = format_module(Source("p", text))
    except PolicyError:
        formatted = ""  # which is a form too
    assert format_module(Source("p", formatted)) == formatted


@scaled
@settings(max_examples=examples(15, 120))
@given(st.integers(0, 2**32 - 1))
def test_formatting_a_generated_policy_keeps_its_meaning(seed: int) -> None:
    written = checked_policy(Random(seed))
    texts = [format_module(Source("p", text)) for text in written.texts]
    formatted = Policy(tuple(File(text, ()) for text in texts))
    assert kernel_of(formatted) == kernel_of(written)
    assert [format_module(Source("p", text)) for text in texts] == texts
