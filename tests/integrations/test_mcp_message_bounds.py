"""Bounds on messages over HTTP: a message of very many small values is refused before anything parses it."""

from __future__ import annotations

import json
from random import Random

import anyio
import httpx
import pytest

from policyengine.integrations.mcp.gateway import http_app
from policyengine.integrations.mcp.message_bounds import (
    MAX_MESSAGE_VALUES,
    TOKENS_PER_VALUE,
    count_values,
    has_too_many_values,
    read_tokens,
)
from tests.integrations.conftest import Watched
from tests.integrations.era_servers import EraServer, gateway_of, modern_body, modern_headers

HEADERS = {"content-type": "application/json", "accept": "application/json, text/event-stream"}


def count(value: object) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(count(one) for one in inner)


def random_value(random: Random, depth: int = 0) -> object:
    match random.randrange(6 if depth < 4 else 4):
        case 0:
            return random.choice(["", "a,b", '"[{,', "\\", 'x\\"', "é\u2028"])
        case 1:
            return random.choice([True, None, 1, -2.5])
        case 2:
            return []
        case 3:
            return {}
        case 4:
            return [random_value(random, depth + 1) for _ in range(random.randrange(4))]
        case _:
            names = random.sample(["a", ",", '"', "[", "\\"], random.randrange(4))
            return {name: random_value(random, depth + 1) for name in names}


def test_the_values_of_a_message_are_counted_without_parsing_it() -> None:
    random = Random(5)
    for _ in range(500):
        value = random_value(random)
        text = json.dumps(value, ensure_ascii=random.random() < 0.5).encode()
        exact, empty = count(value), count_empty(value)
        assert exact <= count_values(text, 10_000) <= exact + empty
        assert not has_too_many_values(text, exact + empty)
        assert count_values(text, 0) > 0


def count_empty(value: object) -> int:
    """How many brackets begin no further value."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return (isinstance(value, dict | list) and not value) + sum(count_empty(one) for one in inner)


@pytest.mark.parametrize(
    "text", [b'"' * 4_000_000, b'\\"' * 2_000_000, b'"\\' * 2_000_000 + b"\\", b"," * 4_000_000, b"[{" * 2_000_000]
)
def test_attack_the_tokens_of_a_text_that_is_no_json_are_bounded_and_do_not_overlap(text: bytes) -> None:
    most, at = 1_000, 0
    tokens = list(read_tokens(text, most))
    assert 0 < len(tokens) <= TOKENS_PER_VALUE * most + 1
    for token in tokens:
        assert token.start() >= at
        at = token.end()
    if len(tokens) > 1:
        assert count_values(text, most) == most + 1


def test_a_long_text_with_commas_and_brackets_is_one_value() -> None:
    text = json.dumps({"text": "[a, b], {c}," * 100_000}).encode()
    assert not has_too_many_values(text)


def bodies() -> dict[str, bytes]:
    values = "[" + "1," * 1_000_000 + "1]"
    objects = "[" + '{"b":1},' * 300_000 + "{}]"
    return {
        "list": json.dumps(modern_body("tools/call", {"name": "add", "arguments": {"a": "@"}}))
        .replace('"@"', values)
        .encode(),
        "objects": json.dumps(modern_body("tools/call", {"name": "add", "arguments": {"a": "@"}}))
        .replace('"@"', objects)
        .encode(),
        "no JSON": b"1," * 1_000_000,
        "a batch": values.encode(),
        "initialize": b'{"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"a": ' + values.encode() + b"}}",
    }


@pytest.mark.parametrize("name", bodies())
@pytest.mark.parametrize("is_modern", [True, False])
def test_attack_a_message_of_a_million_values_is_refused_before_it_is_parsed(
    watched: Watched, name: str, is_modern: bool
) -> None:
    """Even a text that is no JSON: nothing has read it."""
    behind = EraServer()
    headers = modern_headers(modern_body("tools/call", {"name": "add"})) if is_modern else {}

    async def run() -> None:
        app = http_app(gateway_of(watched, behind))
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
                answer = await client.post("/mcp", content=bodies()[name], headers={**HEADERS, **headers})
        assert answer.status_code == 413
        assert answer.json()["error"]["message"] == f"the message has more than {MAX_MESSAGE_VALUES:,} values"

    anyio.run(run)
    assert behind.heard == watched.asked == []
