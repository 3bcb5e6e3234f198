"""Modern clients of servers that have the middlewares: discovery, calls, denials, confirms and subscriptions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import fastmcp
import httpx
import pytest
from mcp.server import MCPServer

from policyengine.engine import Engine
from policyengine.integrations.mcp import fastmcp as of_fastmcp
from policyengine.integrations.mcp import sdk
from policyengine.integrations.mcp.methods import DENIED
from tests.integrations.conftest import BOT, POLICY, Watched
from tests.integrations.era_servers import MODERN, modern_body, modern_headers
from tests.integrations.serving import serving
from tests.trusting import TRUSTING


def with_tools(server: Any) -> Any:
    def add(a: int, b: int) -> int:
        return a + b

    def secret() -> str:
        return "secret"

    def refund(amount: float) -> str:
        return f"paid {amount}"

    for tool in (add, secret, refund):
        server.tool()(tool)
    server.resource("docs://open/a", name="open")(secret)
    server.resource("docs://closed/a", name="closed")(secret)
    return server


@pytest.fixture(scope="module", params=["mcp", "fastmcp"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    decides = Watched(Engine.from_text(POLICY, "billing.policy", approvals=TRUSTING))
    if request.param == "mcp":
        policy = sdk.PolicyMiddleware(decides, server="billing", identify=sdk.always(BOT))
        app = with_tools(MCPServer("billing", middleware=[policy])).streamable_http_app()
    else:
        other = of_fastmcp.PolicyMiddleware(decides, server="billing", identify=of_fastmcp.always(BOT))
        app = with_tools(fastmcp.FastMCP("billing", middleware=[other])).http_app()
    with serving(app) as found:
        yield f"{found}/mcp"


def ask(url: str, method: str, params: Any = None) -> Any:
    body = modern_body(method, params)
    answer = httpx.post(url, json=body, headers=modern_headers(body), trust_env=False, timeout=20)
    if answer.headers["content-type"].startswith("text/event-stream"):
        return json.loads([one for one in answer.text.splitlines() if one.startswith("data:")][-1][5:])
    return answer.json()


def test_a_modern_client_discovers_lists_and_calls(url: str) -> None:
    assert MODERN in ask(url, "server/discover")["result"]["supportedVersions"]
    listed = ask(url, "tools/list")["result"]
    assert [one["name"] for one in listed["tools"]] == ["add", "refund"]
    assert listed["cacheScope"] == "private"
    assert [one["uri"] for one in ask(url, "resources/list")["result"]["resources"]] == ["docs://open/a"]
    called = ask(url, "tools/call", {"name": "add", "arguments": {"a": 1, "b": 2}})["result"]
    assert (called["resultType"], called["content"][0]["text"]) == ("complete", "3")


def test_a_modern_client_is_denied_and_asked_to_wait_for_an_approval(url: str) -> None:
    denied = ask(url, "tools/call", {"name": "secret", "arguments": {}})
    words = denied["error"]["message"] if "error" in denied else denied["result"]["content"][0]["text"]
    assert "denied" in words
    assert ask(url, "resources/read", {"uri": "docs://closed/a"})["error"]["code"] == DENIED
    confirm = ask(url, "tools/call", {"name": "refund", "arguments": {"amount": 900}})["result"]
    assert (confirm["isError"], confirm["resultType"]) == (True, "complete")
    assert confirm["_meta"]["policyengine/confirm"]["outcome"] == "confirm"
    repeated = json.dumps(modern_body("tools/call", {"name": "refund", "arguments": {"amount": 5}}))
    body = repeated.replace('"amount": 5', '"amount": 900, "amount": 5').encode()
    headers = modern_headers(modern_body("tools/call", {"name": "refund"}))
    assert "a duplicate key" in httpx.post(url, content=body, headers=headers, trust_env=False).text


def test_a_modern_client_listens_only_to_what_it_may_read(url: str) -> None:
    closed = modern_body("subscriptions/listen", {"notifications": {"resourceSubscriptions": ["docs://closed/a"]}})
    refused = httpx.post(url, json=closed, headers=modern_headers(closed), trust_env=False).json()
    assert refused["error"]["code"] == DENIED
    body = modern_body("subscriptions/listen", {"notifications": {"resourceSubscriptions": ["docs://open/a"]}})
    with httpx.stream("POST", url, json=body, headers=modern_headers(body), trust_env=False, timeout=20) as answer:
        if answer.headers["content-type"] == "application/json":  # FastMCP has no subscriptions
            assert json.loads(answer.read())["error"]["code"] == -32601
        else:
            first = next(line for line in answer.iter_lines() if line.startswith("data:"))
            assert json.loads(first[5:])["method"] == "notifications/subscriptions/acknowledged"
