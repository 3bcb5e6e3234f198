"""The table of `docs/mcp-versions.md`: how each method crosses the eras, compared with the protocol and with what the
gateway does."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp.shared.exceptions import MCPError
from mcp_types.methods import CLIENT_NOTIFICATIONS, CLIENT_REQUESTS, SERVER_NOTIFICATIONS, SERVER_REQUESTS

from policyengine.integrations.mcp.era_table import (
    ABSENT,
    BY_GATEWAY,
    CLIENT_ROWS,
    DROPPED,
    PASSED,
    SERVER_ROWS,
    UNKNOWN,
    CarriedMethod,
    table_lines,
)
from tests.integrations.conftest import Watched
from tests.integrations.era_servers import EraServer, RawStreams, envelope, gateway_of, raw

PAGE = Path(__file__).parents[2] / "docs" / "mcp-versions.md"
PARAMS: dict[str, dict[str, Any]] = {
    "tools/call": {"name": "add", "arguments": {"a": 1, "b": 2}},
    "resources/read": {"uri": "docs://open/a"},
    "resources/subscribe": {"uri": "docs://open/a"},
    "resources/unsubscribe": {"uri": "docs://open/a"},
    "prompts/get": {"name": "greet"},
    "completion/complete": {"ref": {"type": "ref/prompt", "name": "greet"}, "argument": {"name": "a", "value": "b"}},
    "subscriptions/listen": {"notifications": {"resourceSubscriptions": ["docs://open/a"]}},
    "logging/setLevel": {"level": "info"},
}
REQUESTS = [row for row in CLIENT_ROWS if not row.method.startswith("notifications/")]


def test_the_page_has_the_table() -> None:
    assert "\n".join(table_lines()) in PAGE.read_text()


def test_the_table_has_every_method_of_the_protocol() -> None:
    for rows, known in (
        (CLIENT_ROWS, (CLIENT_REQUESTS, CLIENT_NOTIFICATIONS)),
        (SERVER_ROWS, (SERVER_REQUESTS, SERVER_NOTIFICATIONS)),
    ):
        assert {row.method for row in rows} == {method for methods in known for method, _ in methods}


@pytest.mark.parametrize("row", REQUESTS, ids=lambda row: row.method)
@pytest.mark.parametrize("speaks", ["modern", "legacy"])
def test_a_request_crosses_as_its_row_says(row: CarriedMethod, speaks: str, watched: Watched) -> None:
    expected = row.to_modern if speaks == "modern" else row.to_legacy
    behind = EraServer(speaks)

    async def work() -> None:
        async with raw(gateway_of(watched, behind)) as client:
            if speaks == "legacy":
                await client.ask_modern("tools/list")
            elif row.method != "initialize":
                await client.begin()
            behind.heard.clear()
            if speaks == "modern" and row.method == "resources/unsubscribe":
                await client.ask("resources/subscribe", PARAMS[row.method])
            await check(client, row.method, expected, behind, is_modern=speaks == "legacy")

    asyncio.run(asyncio.wait_for(work(), 60))


async def check(client: RawStreams, method: str, expected: str, behind: EraServer, *, is_modern: bool) -> None:
    if expected.startswith(UNKNOWN):
        if is_modern:
            code = (await client.refused(method, PARAMS.get(method)))["code"]
            assert code == (-32022 if expected.endswith("over stdio -32022") else -32601)
        else:
            with pytest.raises(MCPError) as caught:
                await client.ask(method, PARAMS.get(method, {}))
            assert caught.value.code == -32601
        own = 0 if is_modern else behind.methods.count("subscriptions/listen")  # of the gateway, for list changes
        assert behind.methods.count(method) <= (own if method == "subscriptions/listen" else 0)
    elif expected.startswith("as `"):
        wanted = expected.split("`")[1]
        before = behind.methods.count(wanted)
        await client.send(message(method, is_modern))
        while behind.methods.count(wanted) <= before:
            await anyio.sleep(0.001)
        assert method not in behind.methods
    else:
        found = await client.answer(message(method, is_modern))
        if method != "completion/complete":  # this server has none: it answers with an error of its own
            assert "result" in found
        assert (method in behind.methods) is (expected == PASSED)
        assert expected == PASSED or expected.startswith(BY_GATEWAY)


def message(method: str, is_modern: bool) -> dict[str, Any]:
    params = dict(PARAMS.get(method, {}))
    if method == "initialize":
        params = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "raw", "version": "1"}}
    if is_modern:
        params["_meta"] = envelope()
    return {"jsonrpc": "2.0", "id": 55, "method": method, "params": params}


@pytest.mark.parametrize("row", SERVER_ROWS, ids=lambda row: row.method)
def test_words_of_a_row_are_known(row: CarriedMethod) -> None:
    """Questions, changes, progress and cancellations have tests of their own, in `test_mcp_eras.py`."""
    for words in (row.to_modern, row.to_legacy):
        assert words.split(",")[0].split(" to ")[0] in {
            PASSED, DROPPED, ABSENT, BY_GATEWAY, "a request", "a result `input_required`", "taken by the gateway",
            "written by the gateway", "ends the subscription",
        }  # fmt: skip
