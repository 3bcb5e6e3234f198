"""Clients of each era at the gateway, in front of servers of each era, with both SDKs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import anyio
import fastmcp
import pytest
from fastmcp.client.transports.base import ClientTransport, TransportOptions
from mcp.client.client import Client
from mcp.shared.exceptions import MCPError
from mcp_types import ElicitResult

from policyengine.engine import Engine
from policyengine.integrations.mcp.confirm_handler import ConfirmHandler, ConfirmOptions
from policyengine.integrations.mcp.elicit_modes import ElicitMode
from policyengine.integrations.mcp.gateway import McpGateway, http_app
from policyengine.integrations.mcp.methods import DENIED
from policyengine.integrations.mcp.sdk import always
from policyengine.integrations.mcp.upstream.server import McpUpstream
from tests.integrations.approving import CAROL, Shop, caller
from tests.integrations.conftest import BOT, POLICY, Watched
from tests.integrations.era_servers import (
    HELLO,
    LEGACY_VERSIONS,
    MODERN,
    EraServer,
    envelope,
    gateway_of,
    in_process,
    modern_body,
    raw,
)
from tests.integrations.serving import serving
from tests.trusting import TRUSTING

UPSTREAMS = ("both", "modern", "legacy")
MODES = (MODERN, "auto", "legacy")


@pytest.fixture(scope="module")
def urls() -> Iterator[dict[str, tuple[EraServer, str]]]:
    """A gateway over HTTP in front of each server over HTTP."""
    with ExitStack() as stack:
        found = {}
        for speaks in UPSTREAMS:
            behind = EraServer(speaks)
            upstream = stack.enter_context(serving(behind))
            decides = Watched(Engine.from_text(POLICY, "billing.policy", approvals=TRUSTING))
            gateway = McpGateway(decides, "billing", always(BOT), McpUpstream(f"{upstream}/mcp", {}, {}, 20.0))
            found[speaks] = behind, f"{stack.enter_context(serving(http_app(gateway)))}/mcp"
        yield found


def run(work: Any) -> Any:
    return asyncio.run(asyncio.wait_for(work, 60))


class StreamsTransport(ClientTransport):
    """Streams as a transport of FastMCP, as its own over stdio."""

    def __init__(self, streams: Any) -> None:
        self._streams = streams

    @asynccontextmanager
    async def connect_session(self, *, transport_options: Any = None, **options: Any) -> AsyncIterator[Any]:
        kind = (transport_options or TransportOptions()).session_class
        async with self._streams as (reader, writer), kind(reader, writer, **options) as session:
            yield session


async def accept(context: Any, params: Any) -> ElicitResult:
    return ElicitResult(action="accept", content={"sure": True})


async def accept_fastmcp(message: str, form: Any, params: Any, context: Any) -> Any:
    return ElicitResult(action="accept", content={"sure": True})


async def work_with_sdk(client: Client) -> None:
    assert [one.name for one in (await client.list_tools()).tools] == ["add", "refund", "slow", "busy", "ask"]
    assert (await client.call_tool("add", {"a": 1, "b": 2})).content[0].text == "3"  # type: ignore[union-attr]
    for name, arguments in (("secret", {}), ("refund", {"amount": 0})):
        with pytest.raises(MCPError) as caught:
            await client.call_tool(name, arguments)
        assert caught.value.code == DENIED
        assert caught.value.error.data["decision"]
    reply = await client.call_tool("refund", {"amount": 900})
    assert (reply.is_error, reply.meta["policyengine/confirm"]["outcome"]) == (True, "confirm")  # type: ignore[index]
    assert [one.name for one in (await client.list_prompts()).prompts] == ["greet"]
    assert (await client.read_resource("docs://open/a")).contents[0].text == "words"  # type: ignore[union-attr]
    with pytest.raises(MCPError):
        await client.read_resource("docs://closed/a")
    assert (await client.call_tool("ask", {})).content[0].text == "accept"  # type: ignore[union-attr]


async def work_with_fastmcp(client: fastmcp.Client[Any]) -> None:
    assert [one.name for one in await client.list_tools()] == ["add", "refund", "slow", "busy", "ask"]
    assert (await client.call_tool_mcp("add", {"a": 1, "b": 2})).content[0].text == "3"  # type: ignore[union-attr]
    with pytest.raises(MCPError, match="denied"):
        await client.call_tool("secret", {})
    assert (await client.call_tool_mcp("ask", {})).content[0].text == "accept"  # type: ignore[union-attr]


@pytest.mark.parametrize("speaks", UPSTREAMS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("transport", ["http", "stdio"])
@pytest.mark.parametrize("sdk", ["mcp", "fastmcp"])
def test_each_client_works_with_each_server(
    speaks: str, mode: Any, transport: str, sdk: str, watched: Watched, urls: dict[str, tuple[EraServer, str]]
) -> None:
    behind, url = urls[speaks] if transport == "http" else (EraServer(speaks), "")
    target: Any = url if transport == "http" else in_process(gateway_of(watched, behind))
    behind.heard.clear()

    async def work() -> None:
        if sdk == "mcp":
            async with Client(target, mode=mode, elicitation_callback=accept) as client:
                await work_with_sdk(client)
        else:
            place = target if transport == "http" else StreamsTransport(target)
            async with fastmcp.Client(place, mode=mode, elicitation_handler=accept_fastmcp) as other:
                await work_with_fastmcp(other)

    run(work())
    modern_client = mode != "legacy"
    expected = speaks if speaks != "both" else "modern" if modern_client else "legacy"
    assert behind.versions == ({MODERN} if expected == "modern" else {"2025-11-25"})
    assert "secret" not in str([params for method, _, params in behind.heard if method == "tools/call"])


# ── Versions ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("speaks", UPSTREAMS)
@pytest.mark.parametrize("version", LEGACY_VERSIONS)
def test_each_earlier_version_is_negotiated_and_serves_calls(version: str, speaks: str, watched: Watched) -> None:
    async def work() -> None:
        async with raw(gateway_of(watched, EraServer(speaks))) as client:
            result = await client.ask("initialize", {**HELLO, "protocolVersion": version})
            assert (result["protocolVersion"], result["serverInfo"]["name"]) == (version, "behind")
            await client.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
            assert await client.ask("ping", {}) == {}
            listed = await client.ask("tools/list", {})
            assert {"ttlMs", "cacheScope", "resultType"}.isdisjoint(listed)
            reply = await client.ask("tools/call", {"name": "add", "arguments": {"a": 1, "b": 2}})
            assert reply["content"] == [{"type": "text", "text": "3"}]
            assert "resultType" not in reply

    run(work())


@pytest.mark.parametrize("speaks", UPSTREAMS)
def test_a_modern_result_has_what_its_version_requires(speaks: str, watched: Watched) -> None:
    async def work() -> None:
        async with raw(gateway_of(watched, EraServer(speaks))) as client:
            found = await client.ask_modern("server/discover")
            assert found["supportedVersions"] == [MODERN, *reversed(LEGACY_VERSIONS)]
            assert found["cacheScope"] == "private"
            assert "tools" in found["capabilities"]
            listed = await client.ask_modern("tools/list")
            assert (listed["resultType"], listed["cacheScope"]) == ("complete", "private")
            assert isinstance(listed["ttlMs"], int)
            called = await client.ask_modern("tools/call", {"name": "add", "arguments": {"a": 1, "b": 2}})
            assert (called["resultType"], called["content"][0]["text"]) == ("complete", "3")
            assert called["_meta"]["io.modelcontextprotocol/serverInfo"]["name"] == "behind"
            confirm = await client.ask_modern("tools/call", {"name": "refund", "arguments": {"amount": 900}})
            assert (confirm["resultType"], confirm["isError"]) == ("complete", True)

    run(work())


@pytest.mark.parametrize("speaks", UPSTREAMS)
def test_progress_has_the_token_of_its_client(speaks: str, watched: Watched) -> None:
    async def work() -> None:
        async with raw(gateway_of(watched, EraServer(speaks))) as client:
            meta = {**envelope(), "progressToken": "mine"}
            await client.send(modern_body("tools/call", {"name": "busy"}, 7, meta))
            told = await client.receive()
            assert told["params"] == {"progressToken": "mine", "progress": 1, "total": 2, "message": "half"}
            assert (await client.receive())["id"] == 7

    run(work())


@pytest.mark.parametrize("speaks", UPSTREAMS)
def test_a_cancelled_request_is_cancelled_upstream_and_not_answered(speaks: str, watched: Watched) -> None:
    behind = EraServer(speaks)

    async def work() -> None:
        async with raw(gateway_of(watched, behind)) as client:
            await client.send(modern_body("tools/call", {"name": "slow"}, 7))
            while "tools/call" not in behind.methods:
                await anyio.sleep(0.001)
            await client.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 7}})
            while not behind.cancelled or not watched.reports:
                await anyio.sleep(0.001)
            found = await client.ask_modern("tools/call", {"name": "add", "arguments": {"a": 1, "b": 2}})
            assert found["content"][0]["text"] == "3"  # the next message of the gateway: the cancelled one has none

    run(work())
    assert watched.reports[0]["status"] == 500


@pytest.mark.parametrize("speaks", UPSTREAMS)
def test_a_modern_client_listens_to_resources_it_may_read(speaks: str, watched: Watched) -> None:
    behind = EraServer(speaks)

    async def work() -> None:
        async with raw(gateway_of(watched, behind)) as client:
            wanted = {"notifications": {"resourceSubscriptions": ["docs://open/a"]}}
            await client.send(modern_body("subscriptions/listen", wanted, "mine"))
            told = await client.receive()
            assert told["method"] == "notifications/subscriptions/acknowledged"
            assert told["params"]["notifications"] == wanted["notifications"]
            for uri in ("docs://open/b", "docs://open/a"):  # nobody wants the first
                await behind.change(uri)
            told = await client.receive()
            assert (told["method"], told["params"]["uri"]) == ("notifications/resources/updated", "docs://open/a")
            assert told["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"] == "mine"
            closed = {"notifications": {"resourceSubscriptions": ["docs://closed/a"]}}
            assert (await client.refused("subscriptions/listen", closed))["code"] == DENIED

    run(work())


@pytest.mark.parametrize("speaks", UPSTREAMS)
def test_a_legacy_client_subscribes_to_resources_it_may_read(speaks: str, watched: Watched) -> None:
    behind = EraServer(speaks)

    async def work() -> None:
        async with raw(gateway_of(watched, behind)) as client:
            await client.begin()
            await client.ask("resources/subscribe", {"uri": "docs://open/a"})
            while not behind.subscribed and behind.methods.count("subscriptions/listen") < 2:
                await anyio.sleep(0.001)
            await anyio.sleep(0)
            await behind.change("docs://open/a")
            told = await client.receive()
            assert (told["method"], told["params"]) == ("notifications/resources/updated", {"uri": "docs://open/a"})
            with pytest.raises(MCPError) as caught:
                await client.ask("resources/subscribe", {"uri": "docs://closed/a"})
            assert caught.value.code == DENIED

    run(work())


# ── Input of the client ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("speaks", UPSTREAMS)
def test_a_modern_client_is_asked_in_results(speaks: str, watched: Watched) -> None:
    behind = EraServer(speaks)

    async def work() -> None:
        async with raw(gateway_of(watched, behind)) as client:
            meta = envelope({"elicitation": {"form": {}}})
            first = await client.ask_modern("tools/call", {"name": "ask"}, meta)
            assert first["resultType"] == "input_required"
            [(key, question)] = first["inputRequests"].items()
            assert (question["method"], question["params"]["message"]) == ("elicitation/create", "sure?")
            state = first["requestState"]
            again = {"name": "ask", "requestState": state, "inputResponses": {key: {"action": "decline"}}}
            second = await client.ask_modern("tools/call", again, meta)
            assert second["content"][0]["text"] == "decline"

    run(work())
    # Each round is decided, and what the first one asks of the client.
    assert [next(name for name in ("action", "tool") if name in one) for one in watched.asked] == [
        "tool",
        "action",
        "tool",
    ]
    assert [one["status"] for one in watched.reports] == [202, 202, 200]
    if speaks != "legacy":
        assert behind.states == [None, "state of the server"]


@pytest.mark.parametrize("speaks", ["modern", "legacy"])
def test_a_client_that_cannot_be_asked_gets_an_error(speaks: str, watched: Watched) -> None:
    async def work() -> None:
        async with raw(gateway_of(watched, EraServer(speaks))) as client:
            if speaks == "modern":
                await client.begin()
                with pytest.raises(MCPError) as caught:
                    await client.ask("tools/call", {"name": "ask"})
                assert caught.value.error.data["kind"] == "input_unavailable"
            else:
                answer = await client.refused("tools/call", {"name": "ask"})
                assert "this client cannot be asked" in str(answer)

    run(work())


# ── Approvals ─────────────────────────────────────────────────────────────────────────────────

TRANSFER = {"amount": 900}


def shop_gateway(shop: Shop, behind: EraServer, **options: Any) -> McpGateway:
    return gateway_of(shop, behind, always(caller()), ConfirmHandler(shop, ConfirmOptions(**options)))


@pytest.mark.parametrize("speaks", UPSTREAMS)
@pytest.mark.parametrize("mode", [MODERN, "legacy"])
def test_the_user_approves_through_a_client_of_each_era(speaks: str, mode: Any) -> None:
    shop, behind, seen = Shop(), EraServer(speaks), list[str]()

    async def approve(context: Any, params: Any) -> ElicitResult:
        seen.append(params.message)
        return ElicitResult(action="accept", content={"approve": True})

    async def work() -> None:
        gateway = shop_gateway(shop, behind, elicit=ElicitMode.FORM)
        async with Client(in_process(gateway), mode=mode, elicitation_callback=approve) as client:
            reply = await client.call_tool("transfer", TRANSFER)
            assert reply.content[0].text == 'transfer {"amount": 900}'  # type: ignore[union-attr]

    run(work())
    assert len(seen) == behind.methods.count("tools/call") == 1
    assert "transfer of 900" in seen[0]


@pytest.mark.parametrize("speaks", UPSTREAMS)
@pytest.mark.parametrize("mode", [MODERN, "legacy"])
def test_a_call_of_each_era_waits_for_its_approval(speaks: str, mode: Any) -> None:
    shop, behind = Shop(), EraServer(speaks)

    async def work() -> None:
        gateway = shop_gateway(shop, behind, wait=20.0)
        async with Client(in_process(gateway), mode=mode) as client:

            async def progress(done: float, total: float | None, message: str | None) -> None:
                assert message == "waiting for an approval by role finance"
                assert "tools/call" not in behind.methods
                shop.approvals.approve(shop.waiting, CAROL)

            reply = await client.call_tool("refund", TRANSFER, progress_callback=progress)
            assert reply.content[0].text == 'refund {"amount": 900}'  # type: ignore[union-attr]

    run(work())
    assert behind.methods.count("tools/call") == 1
