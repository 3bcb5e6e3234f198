"""Each door of the fast path answers what the application answers without it, to the byte, and has the same effects."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import httptools
import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyengine.audit import DecisionLog
from policyengine.engine import Engine
from policyengine.engine.observe_mode import Observe
from policyengine.server import create_app
from policyengine.server.app import DecisionApp
from policyengine.server.content_negotiation import LONG_BODY_BYTES
from policyengine.server.fast_path.exchange import FastAnswer
from tests.identity import issuing
from tests.server.conftest import TOKEN
from tests.server.fast_exchanges import (
    EXCHANGES,
    GATEWAY,
    JSON,
    MSGPACK,
    OPEN,
    PARENT,
    SHUT,
    START,
    WITH_TOKEN,
    Exchange,
    answered,
    answered_now,
    asked_now,
    careful,
    effects,
    engine,
    neutral,
    unusual_ids,
    usual_ids,
)

# Random: the ids of approvals, fingerprints by a key of the log, and the spans of its traces. Real: the times of its
# lines about the server itself.
APPROVAL = re.compile(rb"(?<![0-9a-f])[0-9a-f]{48}(?![0-9a-f])")
FINGERPRINT = re.compile(
    rb"(?<=[:\"])[0-9a-f]{16}(?=\")|(?<=\"trace\":\"00-[0-9a-f]{32}-)[0-9a-f]{16}|"
    rb"(?<=\"time\":\")[^\"]*(?=\",\"system\":)|" + APPROVAL.pattern
)

# ── Equal ─────────────────────────────────────────────────────────────────────────────────────


def two_apps(make: Callable[[], Engine] = engine, **options: Any) -> tuple[DecisionApp, DecisionApp]:
    """Two applications whose engines begin in the same state."""
    first, second = (create_app(make(), gateway=GATEWAY, **options) for _ in range(2))
    assert isinstance(first, DecisionApp)
    assert isinstance(second, DecisionApp)
    return first, second


def hold_equal(apps: tuple[DecisionApp, DecisionApp], exchanges: list[Exchange], *, at_once: bool) -> None:
    fast, other = apps
    for exchange in exchanges:
        expected = without_ids(answered(careful(other), exchange))
        assert without_ids((answered_now if at_once else answered)(fast, exchange)) == expected  # type: ignore[operator]
    assert effects(fast) == effects(other)


def without_ids(answer: tuple[int, list[tuple[bytes, bytes]], bytes]) -> Any:
    """Return the answer without the ids of approvals."""
    status, headers, content = answer
    return status, [(name, APPROVAL.sub(b"id", value)) for name, value in headers], APPROVAL.sub(b"id", content)


def test_every_door_opens_an_approval_as_the_application_does() -> None:
    facts = (b"x-envoy-auth-partial-body", b"false"), (b"content-type", b"application/json")
    asked = [Exchange("/envoy/orders", facts, b'{"amount": %d}' % amount) for amount in (1, 1, 2)]
    for at_once in (False, True):
        hold_equal(two_apps(), asked, at_once=at_once)


@given(exchanges=EXCHANGES, at_once=st.booleans(), has_tokens=st.booleans(), known=st.booleans())
def test_every_door_answers_and_counts_as_the_application_does(
    exchanges: list[Exchange], at_once: bool, has_tokens: bool, known: bool
) -> None:
    if has_tokens and known:
        exchanges = [replace(one, headers=(*one.headers, WITH_TOKEN)) for one in exchanges]
    hold_equal(two_apps(token=TOKEN if has_tokens else None), exchanges, at_once=at_once)


@given(exchanges=EXCHANGES, at_once=st.booleans())
def test_every_door_answers_with_unusual_idss_as_the_application_does(exchanges: list[Exchange], at_once: bool) -> None:
    hold_equal(two_apps(partial(engine, unusual_ids)), exchanges, at_once=at_once)


def observing() -> Engine:
    found = engine()
    found.observe(Observe(START + timedelta(days=1)))
    return found


@given(exchanges=EXCHANGES, at_once=st.booleans())
def test_every_door_answers_in_observe_mode_as_the_application_does(exchanges: list[Exchange], at_once: bool) -> None:
    hold_equal(two_apps(observing), exchanges, at_once=at_once)


@given(exchanges=EXCHANGES, at_once=st.booleans(), consume=st.sampled_from([(), ("*",), ("edge",)]))
def test_every_door_answers_a_named_caller_as_the_application_does(
    exchanges: list[Exchange], at_once: bool, consume: tuple[str, ...]
) -> None:
    asked = [replace(one, headers=(*one.headers, WITH_TOKEN)) for one in exchanges]
    apps = two_apps(token=(f"edge: {TOKEN}",), authzen_consume=consume, allowed_hosts=("gateway.example",))
    hold_equal(apps, asked, at_once=at_once)


@given(exchanges=EXCHANGES, at_once=st.booleans(), valid=st.booleans())
def test_every_door_answers_with_credentials_as_the_application_does(
    exchanges: list[Exchange], at_once: bool, valid: bool
) -> None:
    """An engine that verifies credentials; the second question finds those of the first in its cache."""
    given = (b"authorization", f"Bearer {issuing.token() if valid else 'x'}".encode())
    asked = [replace(one, headers=(*one.headers, given)) for one in exchanges]

    hold_equal(two_apps(verifying), asked + asked, at_once=at_once)


def verifying() -> Engine:
    found = Engine(issuing.policy().kernel, clock=lambda: datetime.fromtimestamp(issuing.NOW, UTC), ids=usual_ids())
    found.use_identity(issuing.Door().identity)
    return found


@given(exchanges=EXCHANGES, at_once=st.booleans())
def test_every_door_logs_what_the_application_logs(
    exchanges: list[Exchange], at_once: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("logs")
    paths = iter([folder / "fast", folder / "careful"])
    apps = two_apps(lambda: engine(log=DecisionLog(next(paths))))
    hold_equal(apps, exchanges, at_once=at_once)
    for app in apps:
        log = app.api.engine.log
        assert log is not None
        log.flush()
    fast, other = (FINGERPRINT.sub(b"?", (folder / name).read_bytes()) for name in ("fast", "careful"))
    assert fast == other


def json_exchange(path: str, document: object) -> Exchange:
    return Exchange(path, (JSON,), json.dumps(document).encode())


def forwarded(path: str, target: bytes, *headers: tuple[bytes, bytes]) -> Exchange:
    described = (b"x-forwarded-method", b"GET"), (b"x-forwarded-uri", target), (b"x-forwarded-for", b"10.1.2.3")
    return Exchange(path, (*described, *headers), method="GET")


# ── Taken ─────────────────────────────────────────────────────────────────────────────────────

BY_ENVOY = ((b"x-forwarded-for", b"10.1.2.3"),)
WHO = {
    "subject": {"type": "user", "id": "alice"},
    "action": {"name": "read"},
    "resource": {"type": "document", "id": "1"},
}
OFTEN = {"request": {"method": "GET", "path": "/often/1"}}
SIMPLE = {
    "decide": json_exchange("/decide", OPEN),
    "decide, with a query": json_exchange("/decide?a=1", OPEN),
    "decide, spending nothing": json_exchange("/decide", {**OPEN, "options": {"consume": False}}),
    "decide, with a rate": json_exchange("/decide", OFTEN),
    "decide, packed": Exchange("/decide", (MSGPACK,), msgpack.packb(OPEN)),
    "evaluate": json_exchange("/evaluate", OPEN),
    "evaluate, with a rate": json_exchange("/evaluate", OFTEN),
    "batch": json_exchange("/decide/batch", {"requests": [OPEN, SHUT, 5] * 5}),
    "batch, packed": Exchange("/decide/batch", (MSGPACK,), msgpack.packb({"requests": [OPEN] * 16})),
    "evaluation": json_exchange("/access/v1/evaluation", WHO),
    "evaluation, unmapped": json_exchange("/access/v1/evaluation", {**WHO, "action": {"name": "x"}}),
    "evaluations": json_exchange("/access/v1/evaluations", {**WHO, "evaluations": [{}] * 16}),
    "evaluations without items": json_exchange("/access/v1/evaluations", WHO),
    "forward-auth": forwarded("/forward-auth", b"/open/1?a=1"),
    "forward-auth, denied": forwarded("/forward-auth", b"/no"),
    "forward-auth, from a page": forwarded("/forward-auth?a=1", b"/open/1", (b"origin", b"https://x.example")),
    "nginx": forwarded("/forward-auth/nginx", b"/open/1"),
    "nginx, denied": forwarded("/forward-auth/nginx", b"/no"),
    "envoy": Exchange("/envoy/open/1?a=1", BY_ENVOY, method="GET"),
    "envoy, with a body": Exchange("/envoy/orders", (*BY_ENVOY, JSON), b'{"amount": 5}'),
    "envoy, with another method": Exchange("/envoy/orders", BY_ENVOY, method="PROPFIND"),
}


@pytest.mark.parametrize("more", [(), ((b"x-request-id", b"label"), (b"traceparent", PARENT), (b"tracestate", b"a=1"))])
@pytest.mark.parametrize("exchange", SIMPLE.values(), ids=SIMPLE)
def test_a_simple_request_is_answered_without_the_application(exchange: Exchange, more: Any) -> None:
    fast, other = two_apps()
    exchange = replace(exchange, headers=(*exchange.headers, *more))
    found = asked_now(fast, exchange)
    assert isinstance(found, FastAnswer)
    assert (found.status, neutral(found.headers), found.content) == answered(careful(other), exchange)


@pytest.mark.parametrize("exchange", SIMPLE.values(), ids=SIMPLE)
def test_a_simple_request_is_answered_without_the_routes(exchange: Exchange) -> None:
    fast, other = two_apps()
    fast.router.routes.clear()
    assert answered(fast, exchange) == answered(careful(other), exchange)


# ── Not taken ─────────────────────────────────────────────────────────────────────────────────

ONE = SIMPLE["decide"]
UNUSUAL = {
    "a repeated header": replace(ONE, headers=(JSON, (b"x-a", b"1"), (b"x-a", b"2"))),
    "a key": replace(ONE, headers=(JSON, (b"idempotency-key", b"k"))),
    "a compressed body": replace(ONE, headers=(JSON, (b"content-encoding", b"identity"))),
    "a page": replace(ONE, headers=(JSON, (b"origin", b"http://127.0.0.1:8080"))),
    "an unknown host": replace(ONE, headers=(JSON, (b"host", b"evil.example"))),
    "a long body": replace(ONE, body=ONE.body.ljust(LONG_BODY_BYTES + 1)),
    "a large batch": json_exchange("/decide/batch", {"requests": [OPEN] * 17}),
    "a batch that explains": json_exchange(
        "/decide/batch", {"requests": [OPEN, {**OPEN, "options": {"explain": True}}]}
    ),
    "many evaluations": json_exchange("/access/v1/evaluations", {**WHO, "evaluations": [{}] * 17}),
    "an escaped path": replace(ONE, url="/dec%69de"),
    "forward-auth by POST": replace(SIMPLE["forward-auth"], method="POST"),
    "a gateway without a target": replace(SIMPLE["forward-auth"], headers=()),
    "a page at the path of Envoy": replace(SIMPLE["envoy"], headers=()),
    "a line break at the path of Envoy": replace(SIMPLE["envoy"], url="/envoy/a%0Ab"),
    "a URL that no parser accepts": replace(ONE, url="/decide?a b"),
}


@pytest.mark.parametrize("exchange", UNUSUAL.values(), ids=UNUSUAL)
def test_an_unusual_request_is_left_to_the_application_undecided(exchange: Exchange) -> None:
    app, _ = two_apps()
    before = effects(app)
    found = asked_now(app, exchange)
    assert isinstance(found, dict)
    assert effects(app) == before


@given(path=st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="#"), max_size=20))
def test_a_url_is_split_as_httptools_splits_it(path: str) -> None:
    url = b"/" + path.encode()
    parsed = httptools.parse_url(url)
    target, _, query = url.partition(b"?")
    assert (parsed.path, parsed.query or b"") == (target, query)


def slow() -> Iterator[Exchange]:
    """Questions that take long, of which no part may be decided before."""
    long = {"request": {"method": "POST", "path": "/x"}, "body": {"a": list(range(22))}}
    short = {"request": {"method": "POST", "path": "/x"}, "body": {"a": [1]}}
    yield Exchange("/decide", (JSON,), json.dumps(long).encode())
    yield Exchange("/evaluate", (JSON,), json.dumps(long).encode())
    yield Exchange("/decide/batch", (JSON,), json.dumps({"requests": [short, long, short]}).encode())
    whole = (b"x-envoy-auth-partial-body", b"false")
    yield Exchange("/envoy/x", (JSON, whole), json.dumps(long["body"]).encode())


@pytest.mark.parametrize("exchange", list(slow()), ids=lambda exchange: exchange.url)
def test_a_slow_question_is_left_to_a_thread_undecided(exchange: Exchange) -> None:
    policy = """
    facts { body.a: list<int> }
    anyone { may POST /x }
    guard "cubic" on POST /x { deny when (any x in body.a: (any y in body.a: (any z in body.a: x + y == z + 999))) }
    """
    app = create_app(Engine.from_text(policy))
    assert isinstance(app, DecisionApp)
    before = effects(app)
    assert isinstance(asked_now(app, exchange), dict)
    assert effects(app) == before
    assert answered(app, exchange)[0] in (200, 401)


WIDE = (b"x-a", b"x" * 900)


@pytest.mark.parametrize(
    ("small", "large"),
    [
        (json_exchange("/decide", OPEN), json_exchange("/decide", {**OPEN, "body": {"a": "x" * 900}})),
        (json_exchange("/evaluate", OPEN), json_exchange("/evaluate", {**OPEN, "body": {"a": "x" * 900}})),
        *(
            (SIMPLE[name], replace(SIMPLE[name], headers=(*SIMPLE[name].headers, WIDE)))
            for name in ("forward-auth", "nginx", "envoy")
        ),
    ],
)
def test_a_question_of_few_bytes_is_not_measured(
    small: Exchange, large: Exchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a loop could take long, which is found out without measuring it."""
    app, _ = two_apps()
    measured: list[object] = []
    evaluator = app.api.engine.decider.compiled.evaluator
    monkeypatch.setattr(evaluator, "takes_long", lambda request: bool(measured.append(request)))
    for exchange in (small, large):
        found = asked_now(app, exchange)
        assert isinstance(found, FastAnswer)
        assert len(measured) == (exchange is large)
