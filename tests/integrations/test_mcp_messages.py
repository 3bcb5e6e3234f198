"""Calls of MCP as bytes, whose names are repeated or spelled otherwise: what is read in two ways is unknown."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import fastmcp
import httpx
import pytest
from mcp.server import MCPServer
from mcp.server.stdio import stdio_server

from policyengine.integrations.mcp import fastmcp as of_fastmcp
from policyengine.integrations.mcp import sdk
from policyengine.integrations.mcp.gateway import McpGateway, StdioLines, StdioMessageReader, http_app
from policyengine.integrations.mcp.unambiguous_messages import (
    AmbiguousMessageError,
    check_local_params,
    check_upstream_params,
)
from policyengine.integrations.mcp.upstream.server import McpUpstream
from policyengine.runtime.values import Invalid
from tests.integrations.conftest import BOT, Watched
from tests.integrations.serving import serving

HELLO = json.dumps({
    "jsonrpc": "2.0", "id": 1, "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "raw", "version": "1"}},
})  # fmt: skip
SHOOK = '{"jsonrpc": "2.0", "method": "notifications/initialized"}'
HEADERS = {"content-type": "application/json", "accept": "application/json, text/event-stream"}


def call(params: str, more: str = "") -> str:
    return f'{{"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {params}{more}}}'


# ── What of a message is clear ────────────────────────────────────────────────────────────────


def here(message: str) -> Any:
    return check_local_params(json.loads(message)["params"], message.encode())


def elsewhere(message: str) -> Any:
    return check_upstream_params(json.loads(message)["params"], message)


@pytest.mark.parametrize("read", [here, elsewhere])
def test_a_repeated_argument_is_invalid(read: Any) -> None:
    found = read(call('{"name": "a", "arguments": {"x": 1, "x": 2, "y": 3, "in": [{"z": 1, "\\u007a": 1}]}}'))
    assert isinstance(found["arguments"]["x"], Invalid)
    assert isinstance(found["arguments"]["in"][0]["z"], Invalid)
    assert found["arguments"]["y"] == 3


@pytest.mark.parametrize("read", [here, elsewhere])
@pytest.mark.parametrize(
    "message",
    [
        call('{"name": "a", "name": "b"}'),
        call('{"name": "a", "arguments": {}, "arguments": {"x": 1}}'),
        call('{"name": "a"}', ', "params": {"name": "a"}'),
        call('{"name": "a"}', ', "method": "tools/call"'),
        call('{"name": "a"}', ', "id": 3'),
        call('{"ref": {"type": "ref/prompt", "name": "a", "name": "b"}}'),
        call('{"uri": "x://a", "uri": "x://b"}'),
    ],
)
def test_a_message_with_a_repeated_method_name_or_arguments_is_rejected(read: Any, message: str) -> None:
    with pytest.raises(AmbiguousMessageError, match="a duplicate key"):
        read(message)


@pytest.mark.parametrize(
    "message",
    [
        call('{"name": "a", "Name": "b"}'),
        call('{"NAME": "b"}'),
        call('{"name": "a", "Arguments": {"x": 1}}'),
        call('{"ref": {"type": "ref/prompt", "name": "a", "Name": "b"}}'),
        call('{"notifications": {"ResourceSubscriptions": ["x://a"]}}'),
        call('{"name": "a", "argument\\u017f": {"x": 1}}'),
        call('{"name": "a", "arguments": {"__proto__": {"x": 1}}}'),
    ],
)
def test_a_key_that_differs_only_in_spelling_is_rejected_before_forwarding(message: str) -> None:
    with pytest.raises(AmbiguousMessageError):
        elsewhere(message)


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("[1]", "the message is not a JSON object"),
        ('{"method": "tools/call", "__proto__": {"id": 1}}',
         "the message is ambiguous: an object with the key `__proto__` or `constructor.prototype`"),
    ],
)  # fmt: skip
def test_the_error_states_whether_a_message_is_no_object_or_is_ambiguous(message: str, told: str) -> None:
    with pytest.raises(AmbiguousMessageError, match=f"^{re.escape(told)}$"):
        check_upstream_params({}, message)


def test_arguments_that_servers_may_read_differently_are_invalid_when_forwarded() -> None:
    found = elsewhere(call('{"name": "a", "arguments": {"x": 1, "X": 2, "id": 9007199254740993, "y": 3}}'))["arguments"]
    assert [isinstance(found[name], Invalid) for name in ("x", "X", "id", "y")] == [True, True, True, False]


def test_without_the_raw_message_the_parsed_params_are_checked() -> None:
    assert check_local_params({"name": "a", "arguments": {"x": 1}}, None) == {"name": "a", "arguments": {"x": 1}}
    assert isinstance(
        check_upstream_params({"name": "a", "arguments": {"x": 1, "X": 2}}, None)["arguments"]["x"], Invalid
    )


def test_a_call_made_by_the_server_itself_is_not_checked_against_the_raw_message() -> None:
    asked = call('{"name": "outer", "arguments": {"x": 1, "x": 2}}').encode()
    assert check_local_params({"name": "inner", "arguments": {"x": 2}}, asked) == {
        "name": "inner",
        "arguments": {"x": 2},
    }


# ── Through each door ─────────────────────────────────────────────────────────────────────────


def with_tools(server: Any) -> Any:
    def refund(amount: float) -> str:
        return f"paid {amount:g}"

    def add(a: int, b: int) -> str:
        return str(a + b)

    for tool in (refund, add):
        server.tool()(tool)
    return server


@pytest.fixture(params=["gateway", "mcp", "fastmcp"])
def door(request: pytest.FixtureRequest, watched: Watched) -> Iterator[httpx.Client]:
    """A session over HTTP, by hand."""
    match request.param:
        case "mcp":
            policy = sdk.PolicyMiddleware(watched, server="billing", identify=sdk.always(BOT))
            app = with_tools(MCPServer("billing", middleware=[policy])).streamable_http_app()
            with serving(app) as url, session(url) as client:
                yield client
        case "fastmcp":
            other = of_fastmcp.PolicyMiddleware(watched, server="billing", identify=of_fastmcp.always(BOT))
            app = with_tools(fastmcp.FastMCP("billing", middleware=[other])).http_app()
            with serving(app) as url, session(url) as client:
                yield client
        case _:
            with serving(with_tools(MCPServer("behind")).streamable_http_app()) as upstream:
                gateway = McpGateway(watched, "billing", sdk.always(BOT), McpUpstream(f"{upstream}/mcp", {}, {}, 20.0))
                with serving(http_app(gateway)) as url, session(url) as client:
                    yield client


@contextmanager
def session(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, headers=HEADERS, timeout=20, trust_env=False) as client:
        client.headers["mcp-session-id"] = client.post("/mcp", content=HELLO).headers["mcp-session-id"]
        client.post("/mcp", content=SHOOK)
        yield client


def said(client: httpx.Client, message: str) -> str:
    """What is answered, in words."""
    text = client.post("/mcp", content=message).text
    lines = [line.removeprefix("data:") for line in text.splitlines() if line.startswith("data:")]
    answer = json.loads(lines[-1] if lines else text)
    return str(answer["error"]["message"] if "error" in answer else answer["result"]["content"][0]["text"])


def test_a_call_with_a_repeated_argument_is_denied_where_a_rule_uses_it(door: httpx.Client) -> None:
    assert said(door, call('{"name": "refund", "arguments": {"amount": 5}}')) == "paid 5"
    repeated = call('{"name": "refund", "arguments": {"amount": 900, "amount": 5}}')
    assert "args.amount is unknown: a duplicate key" in said(door, repeated).replace("`", "")
    assert said(door, call('{"name": "add", "arguments": {"a": 1, "b": 2, "b": 2}}')) == "3"  # where nobody looks


def test_a_call_with_a_repeated_name_arguments_or_method_is_rejected(door: httpx.Client) -> None:
    for message in (
        call('{"name": "refund", "name": "add", "arguments": {"a": 1, "b": 2}}'),
        call('{"name": "refund", "arguments": {"amount": 900}, "arguments": {"amount": 5}}'),
        call('{"name": "refund", "arguments": {"amount": 5}}', ', "method": "tools/call"'),
    ):
        assert "is ambiguous in this message" in said(door, message)


SERVER = """
import json, sys
for line in sys.stdin:
    asked = json.loads(line)
    if "id" in asked:
        result = {"content": [{"type": "text", "text": line}]}
        if asked["method"] == "initialize":
            result = {"protocolVersion": "2025-06-18", "capabilities": {}, "serverInfo": {"name": "b", "version": "1"}}
        print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": result}), flush=True)
"""


def test_over_stdio_a_call_with_a_repeated_argument_is_denied(tmp_path: Path, watched: Watched) -> None:
    """As the command does it, but for the files that stand for its ends."""
    calls = [
        call('{"name": "refund", "arguments": {"amount": 900, "amount": 5}}').replace('"id": 2', '"id": 3'),
        call('{"name": "refund", "Name": "erase", "arguments": {"amount": 5}}').replace('"id": 2', '"id": 4'),
        call('{"name": "refund", "arguments": {"amount": 5}}').replace('"id": 2', '"id": 5'),
    ]
    (tmp_path / "server.py").write_text(SERVER)
    (tmp_path / "in").write_text("".join(f"{one}\n" for one in (HELLO, SHOOK, "no message", *calls)))
    upstream = McpUpstream(f"{sys.executable} {tmp_path / 'server.py'}", {}, {}, 20.0)

    async def run() -> None:
        with (tmp_path / "in").open() as given, (tmp_path / "out").open("w") as told:
            lines = StdioLines(given)
            async with stdio_server(lines, anyio.wrap_file(told)) as (client, to_client), client, to_client:
                await McpGateway(watched, "billing", sdk.always(BOT), upstream).session(
                    Lasting(StdioMessageReader(client, lines), tmp_path / "out"), to_client
                )

    asyncio.run(asyncio.wait_for(run(), 60))
    answers = {one["id"]: one for one in map(json.loads, (tmp_path / "out").read_text().splitlines())}
    assert "a duplicate key" in answers[3]["error"]["message"]
    assert "`Name` means `name` to some servers" in answers[4]["error"]["message"]
    assert '"amount":5' in answers[5]["result"]["content"][0]["text"].replace(" ", "")


@dataclass
class Lasting:
    """A client that is there until it has all its answers."""

    messages: StdioMessageReader
    told: Path

    async def receive(self) -> Any:
        try:
            return await self.messages.receive()
        except anyio.EndOfStream:
            while '"id":5' not in self.told.read_text().replace(" ", ""):
                await anyio.sleep(0.01)
            raise
