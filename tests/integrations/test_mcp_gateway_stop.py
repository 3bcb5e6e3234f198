"""`policyengine mcp-gateway` over HTTP when it is stopped: streams end at once, calls are answered, nothing is cut."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from mcp.client.client import Client

from policyengine.integrations.mcp.gateway import McpGateway, http_app
from tests.integrations.approving import Shop
from tests.integrations.approving import gateway_of as shop_gateway
from tests.integrations.conftest import Watched
from tests.integrations.era_servers import EraServer, gateway_of, modern_body, modern_headers
from tests.integrations.test_mcp_gateway_running import INITIALIZE, POLICY, words_for
from tests.integrations.test_mcp_legacy_clients import ACCEPT, EVENTS
from tests.integrations.test_mcp_legacy_clients import Client as AsgiClient

SERVER = """
import os
from pathlib import Path

import anyio
from mcp.server import MCPServer

server = MCPServer("behind")

@server.tool()
async def add(a: int, b: int) -> int:
    waits_for = Path(__file__).with_name("answer")
    waits_for.with_name("asked").touch()
    while not waits_for.exists():
        await anyio.sleep(0.01)
    return a + b

server.run()
"""
TOOLS_CHANGE = {"notifications": {"toolsListChanged": True}}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "billing.policy").write_text(POLICY)
    (tmp_path / "server.py").write_text(SERVER)
    return tmp_path


@contextmanager
def gateway_process(files: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A gateway, and its process; at the end, it has stopped as a service should."""
    command = words_for(files, "--port", "0")
    with (files / "errors").open("w") as errors:
        process = subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=errors)
        with process:
            try:
                assert process.stdout is not None
                yield process.stdout.readline().split()[-1], process
                assert process.wait(30) == 0
            finally:
                process.kill()
    said = (files / "errors").read_text()
    assert "Traceback" not in said
    assert "Exception" not in said


def run(work: Any) -> None:
    asyncio.run(asyncio.wait_for(work, 60))


@asynccontextmanager
async def listening_session(url: str) -> AsyncIterator[httpx.Response]:
    """The stream on which a legacy client listens, without an SDK that hides how it ends."""
    async with httpx.AsyncClient(timeout=30) as http:
        begun = await http.post(url, content=INITIALIZE, headers=ACCEPT)
        session = {"mcp-session-id": begun.headers["mcp-session-id"]}
        async with http.stream("GET", url, headers={**EVENTS, **session}) as answer:
            assert answer.status_code == 200
            yield answer


async def call_while_stopping(
    files: Path, client: Client, process: subprocess.Popen[str], end: Awaitable[None]
) -> None:
    """Call a tool, stop the gateway, wait for the end of a stream, and only then let the tool answer."""
    async with asyncio.TaskGroup() as group:
        calling = group.create_task(client.call_tool("add", {"a": 1, "b": 2}))
        while not (files / "asked").exists():
            await asyncio.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        await end
        assert not calling.done()
        (files / "answer").touch()
        assert (await calling).content[0].text == "3"


def test_a_stop_ends_streams_of_legacy_clients_before_it_answers_calls_in_progress(files: Path) -> None:
    async def end(stream: httpx.Response) -> None:
        assert await stream.aread() == b""  # a stream that is cut raises an error

    async def listen(url: str, process: subprocess.Popen[str]) -> None:
        async with Client(url, mode="legacy") as client, listening_session(url) as stream:
            await call_while_stopping(files, client, process, end(stream))

    with gateway_process(files) as (url, process):
        run(listen(url, process))


def test_a_stop_ends_subscriptions_of_modern_clients_before_it_answers_calls_in_progress(files: Path) -> None:
    async def end(events: Any) -> None:
        assert [event async for event in events] == []  # a subscription that is cut raises SubscriptionLost

    async def listen(url: str, process: subprocess.Popen[str]) -> None:
        async with Client(url) as client, client.listen(tools_list_changed=True) as events:
            await call_while_stopping(files, client, process, end(events))

    with gateway_process(files) as (url, process):
        run(listen(url, process))


# ── Without a process ─────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def application(gateway: McpGateway) -> AsyncIterator[tuple[AsgiClient, Any]]:
    """A client of one gateway, and the endpoint, which is told to stop."""
    app = http_app(gateway)
    with anyio.fail_after(20):
        async with app.router.lifespan_context(app), anyio.create_task_group() as group:
            yield AsgiClient(app, group), app.endpoint
            group.cancel_scope.cancel()


@pytest.fixture
def gateway(watched: Watched) -> McpGateway:
    return gateway_of(watched, EraServer())


def test_a_stopping_gateway_refuses_clients_that_want_to_listen(gateway: McpGateway) -> None:
    async def ask() -> None:
        async with application(gateway) as (client, endpoint):
            await client.begin()
            endpoint.end_listening()
            refused = await client.send("GET", EVENTS)
            assert (refused.status, "is stopping" in refused.error["message"]) == (503, True)
            client.session = {}
            body = modern_body("subscriptions/listen", TOOLS_CHANGE)
            refused = await client.send("POST", modern_headers(body), json.dumps(body).encode())
            assert "is stopping" in refused.error["message"]

    run(ask())


def test_a_subscription_ends_with_a_result_when_the_gateway_stops(gateway: McpGateway) -> None:
    async def listen() -> None:
        async with application(gateway) as (client, endpoint):
            body = modern_body("subscriptions/listen", TOOLS_CHANGE, "mine")
            listening = client.start("POST", modern_headers(body), json.dumps(body).encode())
            await listening.until(lambda: bool(listening.messages))
            endpoint.end_listening()
            await listening.until(lambda: listening.is_complete)
            result = listening.messages[-1]["result"]
            assert result["resultType"] == "complete"
            assert result["_meta"] == {"io.modelcontextprotocol/subscriptionId": "mine"}

    run(listen())


def test_a_call_that_waits_for_an_approval_gets_the_confirm_when_the_gateway_stops() -> None:
    shop = Shop()

    async def call() -> None:
        async with application(shop_gateway(shop, wait_for_approval=300)) as (client, endpoint):
            body = modern_body("tools/call", {"name": "refund", "arguments": {"amount": 900}}, 7)
            calling = client.start("POST", modern_headers(body), json.dumps(body).encode())
            while not shop.approvals.list():
                await anyio.sleep(0.01)
            assert not calling.is_complete
            endpoint.end_listening()
            await calling.until(lambda: calling.is_complete)
            [content] = calling.messages[-1]["result"]["content"]
            assert f"Approval {shop.waiting} is pending until" in content["text"]

    run(call())
    assert shop.calls == []


@pytest.mark.parametrize(("era", "status"), [("modern", 503), ("legacy", 404)])
def test_a_call_that_outlasts_the_stop_gets_an_error(gateway: McpGateway, era: str, status: int) -> None:
    async def call() -> None:
        async with application(gateway) as (client, endpoint):
            if era == "legacy":
                await client.begin()
                calling = client.begin_call("slow", 7)
            else:
                body = modern_body("tools/call", {"name": "slow", "arguments": {}}, 7)
                calling = client.start("POST", modern_headers(body), json.dumps(body).encode())
            await anyio.wait_all_tasks_blocked()
            endpoint.end_listening()
            await anyio.wait_all_tasks_blocked()
            assert calling.status == 0
            endpoint.end_requests()
            await calling.until(lambda: calling.is_complete)
            assert (calling.status, calling.messages[-1]["id"]) == (status, 7)
            assert "before the request was answered" in calling.error["message"]

    run(call())
