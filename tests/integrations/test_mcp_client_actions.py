"""What a server asks of its client while it handles a call, in each middleware and behind the gateway, in both eras."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import fastmcp
import pytest
from mcp.client.client import Client
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.shared.exceptions import MCPError
from mcp_types import (
    CallToolResult,
    CreateMessageResult,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    InputRequiredResult,
    ListRootsResult,
    Root,
    TextContent,
)

from policyengine.engine import Engine
from policyengine.integrations.mcp import fastmcp as of_fastmcp
from policyengine.integrations.mcp import sdk
from policyengine.integrations.mcp.clients.stateless_service import ModernRequest
from policyengine.integrations.mcp.elicitation import KEY_PREFIX
from policyengine.integrations.mcp.eras import Envelope
from policyengine.integrations.mcp.methods import DENIED
from tests.integrations.conftest import BOT, Watched
from tests.integrations.era_servers import EraServer, RawStreams, envelope, gateway_of, modern_body, raw
from tests.integrations.relaying import relayed

POLICY = """
language 1
package billing
entity mcp_client {}
entity mcp_prompt {}
entity mcp_resource {}
facts on ACTION log mcp_client { args.level: string }
facts on ACTION elicit mcp_client { context.text: string }
issuer acme { scopes none }
users unrestricted
agent "bot" {
  issued by acme
  acts for any user
  may TOOL billing/*
  may ACTION get mcp_prompt, ACTION read mcp_resource
  may ACTION elicit mcp_client when not contains(lower(context.text), "password")
  may ACTION log mcp_client when args.level == "error"
}
"""
pytestmark = pytest.mark.filterwarnings("ignore:The (roots|logging|sampling) capability is deprecated")
EMPTY = {"type": "object", "properties": {}}


@pytest.fixture
def watched() -> Watched:
    return Watched(Engine.from_text(POLICY, "billing.policy"))


def ask(text: str, key: str = "q") -> InputRequiredResult:
    params = ElicitRequestFormParams(message=text, requested_schema=EMPTY)
    return InputRequiredResult(input_requests={key: ElicitRequest(params=params)})


def with_tools(server: Any, context: Any) -> Any:
    async def form(text: str, ctx: Any) -> str:
        return str((await ctx.session.elicit_form(text, EMPTY, ctx.request_id)).action)

    async def roots(ctx: Any) -> str:
        return str(len((await ctx.session.list_roots()).roots))

    async def logs(ctx: Any) -> str:
        for level in ("info", "error"):
            await ctx.session.send_log_message(level, level, related_request_id=ctx.request_id)
        return "logged"

    for tool in (form, roots, logs):
        tool.__annotations__["ctx"] = context
        server.tool()(tool)
    return server


def server_of(kind: str, watched: Watched) -> Any:
    if kind == "mcp":
        policy = sdk.PolicyMiddleware(watched, server="billing", identify=sdk.always(BOT))
        return with_tools(MCPServer("billing", middleware=[policy]), Context)
    other = of_fastmcp.PolicyMiddleware(watched, server="billing", identify=of_fastmcp.always(BOT))
    return with_tools(fastmcp.FastMCP("billing", middleware=[other]), fastmcp.Context)


async def accept(*_: Any) -> ElicitResult:
    return ElicitResult(action="accept", content={})


async def list_roots(*_: Any) -> ListRootsResult:
    return ListRootsResult(roots=[Root(uri="file:///home")])  # type: ignore[arg-type]


def words(result: Any) -> str:
    return str(result.content[0].text)


@pytest.mark.parametrize("kind", ["mcp", "fastmcp"])
def test_a_server_asks_its_client_only_what_the_policy_of_its_middleware_allows(watched: Watched, kind: str) -> None:
    logged: list[str] = []

    async def log(params: Any) -> None:
        logged.append(params.level)

    async def run() -> None:
        server = server_of(kind, watched)
        if kind == "mcp":
            client: Any = Client(
                server, mode="legacy", elicitation_callback=accept, list_roots_callback=list_roots, logging_callback=log
            )
        else:
            client = fastmcp.Client(
                server, mode="legacy", elicitation_handler=accept, roots=["file:///home"], log_handler=log
            )
        async with client:
            assert words(await client.call_tool("form", {"text": "your name?"})) == "accept"
            for name, arguments in (("form", {"text": "your Password?"}), ("roots", {})):
                assert "denied" in await failure(client, name, arguments)
            await client.call_tool("logs", {})

    asyncio.run(asyncio.wait_for(run(), 60))
    assert logged == ["error"]
    asked = [one["action"]["name"] for one in watched.asked if "action" in one]
    assert asked == ["elicit", "elicit", "list_roots", "log", "log"]
    assert [one["status"] for one in watched.reports] == [200, 200, 500, 500, 200, 200]


async def failure(client: Any, name: str, arguments: Any) -> str:
    try:
        result = await client.call_tool(name, arguments)
    except Exception as error:
        return str(error)
    assert result.is_error
    return words(result)


# ── Interim results ───────────────────────────────────────────────────────────────────────────


def interim_server(kind: str, watched: Watched) -> Any:
    """A server of 2026-07-28, whose tool, prompt and resource ask the client before they answer."""
    server = server_of(kind, watched)
    context = Context if kind == "mcp" else fastmcp.Context

    async def pay(text: str, key: str, ctx: Any) -> Any:
        answers = ctx.input_responses or {}
        return "paid" if key in answers else ask(text, key)

    async def greet(text: str, ctx: Any) -> Any:
        return "hello" if ctx.input_responses else ask(text)

    for function in (pay, greet):
        function.__annotations__["ctx"] = context
    server.tool(**({} if kind == "mcp" else {"output_schema": None}))(pay)
    server.prompt()(greet)
    return server


@pytest.mark.parametrize("kind", ["mcp", "fastmcp"])
def test_an_interim_result_that_asks_for_something_not_allowed_is_an_error(watched: Watched, kind: str) -> None:
    async def run() -> None:
        server = interim_server(kind, watched)
        if kind == "mcp":
            client: Any = Client(server, mode="2026-07-28", elicitation_callback=accept)
        else:
            client = fastmcp.Client(server, mode="2026-07-28", elicitation_handler=accept)
        async with client:
            assert words(await client.call_tool("pay", {"text": "your name?", "key": "q"})) == "paid"
            denial = "the server asked its client for input, which is denied: "
            assert denial in await failure(client, "pay", {"text": "your password?", "key": "q"})
            reserved = await failure(client, "pay", {"text": "your name?", "key": f"{KEY_PREFIX}f12dc44c"})
            assert "reserved for approvals" in reserved
            await client.get_prompt("greet", {"text": "your name?"})
            with pytest.raises(MCPError, match=denial):
                await client.get_prompt("greet", {"text": "your password?"})

    asyncio.run(asyncio.wait_for(run(), 60))
    assert [one["status"] for one in watched.reports if one["status"] != 200] == [202, 202, 500, 500, 202, 202, 500]


FORM = {"method": "elicitation/create", "params": {"message": "name?", "requestedSchema": EMPTY}}


@pytest.mark.parametrize(
    "requests",
    [
        {"a": FORM, "b": {"method": "sampling/createMessage", "params": {"messages": [], "maxTokens": 1}}},
        {"a": {"method": "roots/list"}},
        {"a": {"method": "elicitation/create", "params": {"message": "Your password?"}}},
        {"a": {"method": "tools/call", "params": {"name": "erase"}}},
        {"a": {"method": "notifications/message", "params": {"level": "error"}}},
        {"a": {"method": 7}},
        {"a": "elicitation/create"},
        {"a": {}},
        {f"{KEY_PREFIX}f12dc44c05b92d20": FORM},
        {str(number): FORM for number in range(33)},
        [FORM],
        "elicitation/create",
    ],
)
@pytest.mark.parametrize("method", ["tools/call", "resources/read", "prompts/get"])
def test_behind_the_gateway_an_interim_result_may_ask_only_what_a_policy_covers(
    watched: Watched, requests: Any, method: str
) -> None:
    async def run() -> None:
        async with relayed(watched) as session:
            params = {"name": "pay", "uri": "docs://a"}
            result = {"resultType": "input_required", "inputRequests": requests, "requestState": "s"}
            found = await session.call(1, method, params, result)
            assert found.error.code == DENIED
            result["inputRequests"] = {"a": FORM, "b": FORM}
            assert (await session.call(2, method, params, result)).result == result

    anyio.run(run)


def test_a_result_of_a_tool_is_not_taken_for_a_question(watched: Watched) -> None:
    result = CallToolResult(content=[TextContent(type="text", text='{"inputRequests": {"a": {}}}')])

    async def run() -> None:
        async with relayed(watched) as session:
            sent = result.model_dump(by_alias=True, exclude_none=True)
            assert (await session.call(1, "tools/call", {"name": "pay"}, sent)).result == sent

    anyio.run(run)


def test_a_sampling_answer_reaches_a_server_that_may_sample() -> None:
    text = POLICY.replace("may TOOL billing/*", "may TOOL billing/*, ACTION sample mcp_client")
    watched = Watched(Engine.from_text(text))
    policy = sdk.PolicyMiddleware(watched, server="billing", identify=sdk.always(BOT))
    server = MCPServer("billing", middleware=[policy])

    @server.tool()
    async def think(ctx: Context) -> str:
        answer = await ctx.session.create_message([], max_tokens=7, related_request_id=ctx.request_id)
        return str(answer.model)

    async def sample(*_: Any) -> CreateMessageResult:
        return CreateMessageResult(role="assistant", content=TextContent(type="text", text="yes"), model="m")

    async def run() -> None:
        async with Client(server, mode="legacy", sampling_callback=sample) as client:
            assert words(await client.call_tool("think", {})) == "m"

    asyncio.run(asyncio.wait_for(run(), 60))
    assert watched.asked[1]["args"]["maxTokens"] == 7


# ── Pairs of eras ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("speaks", ["modern", "legacy"])
@pytest.mark.parametrize("era", ["modern", "legacy"])
@pytest.mark.parametrize("granted", [True, False])
def test_in_every_pair_of_eras_a_question_is_asked_only_if_a_policy_allows_it(
    speaks: str, era: str, granted: bool
) -> None:
    grant = "may ACTION elicit mcp_client when"
    watched = Watched(Engine.from_text(POLICY if granted else POLICY.replace(grant, f'{grant} resource.id == "x" and')))
    forms = {"elicitation": {"form": {}}}

    async def legacy(client: RawStreams) -> Any:
        await client.begin(forms)
        await client.send({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "ask"}})
        found = await client.receive()
        return found.get("method") or found

    async def modern(client: RawStreams) -> Any:
        found = await client.answer(modern_body("tools/call", {"name": "ask"}, 1, envelope(forms)))
        asked = found.get("result", {}).get("inputRequests")
        return next(iter(asked.values()))["method"] if asked else found

    async def run() -> None:
        async with raw(gateway_of(watched, EraServer(speaks))) as client:
            found = await (legacy if era == "legacy" else modern)(client)
            if granted:
                assert found == "elicitation/create"
            else:
                assert "error" in found or found["result"]["isError"] is True

    asyncio.run(asyncio.wait_for(run(), 60))
    assert [one["action"]["name"] for one in watched.asked if "action" in one] == ["elicit"]


@pytest.mark.parametrize(
    ("questions", "admitted"),
    [
        ({"a": FORM}, True),
        ({}, True),
        (None, False),
        ([FORM], False),
        ({"a": FORM, "b": {**FORM, "params": {"message": "password?"}}}, False),
        ({f"{KEY_PREFIX}f12dc44c": FORM}, False),
    ],
)
def test_a_server_cannot_swap_a_question_after_it_was_decided(questions: Any, admitted: bool) -> None:
    asked = ModernRequest("tools/call", {}, 1, Envelope("2026-07-28", None, {}), admitted=[FORM])
    assert asked.has_admitted(questions) is admitted
