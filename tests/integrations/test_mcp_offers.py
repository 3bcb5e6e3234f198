"""Resources, prompts and completions of MCP servers: only what a caller may use is listed, completed and read."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import anyio
import fastmcp
import pytest
from mcp.shared.exceptions import MCPError
from mcp_types import Completion, PromptReference, ResourceTemplateReference

from policyengine.audit import DecisionLog, read_records
from policyengine.engine import Engine
from policyengine.integrations.enforcement_point import make_denial
from policyengine.integrations.mcp import fastmcp as of_fastmcp
from policyengine.integrations.mcp.methods import DENIED, LIST_METHODS, is_visible
from policyengine.reload.integration_engine import LiveEngine
from tests.integrations.conftest import BOT, Watched
from tests.integrations.relaying import relayed

VALUES = {"completion": {"values": ["hidden prompt", "x"], "hasMore": False}}
ARGUMENT = {"name": "name", "value": "B"}


@pytest.mark.parametrize(
    "ref",
    [
        {"type": "ref/prompt", "name": "scold"},  # a prompt that is hidden
        {"type": "ref/prompt", "name": "Greet"},
        {"type": "ref/prompt", "name": ["greet"]},
        {"type": "ref/prompt"},
        {"type": "ref/prompt", "uri": "docs://open/{name}"},
        {"type": "ref/resource", "uri": "docs://shut/{name}"},
        {"type": "ref/resource", "uri": "docs://open/../shut/{name}"},
        {"type": "ref/resource", "uri": "docs://open/..%2Fshut"},
        {"type": "ref/resource", "uri": "docs://%6Fpen/{name}"},
        {"type": "ref/resource", "uri": "{+all}"},
        {"type": "ref/tool", "name": "add"},
        {"type": "ref/prompt", "name": "greet", "Name": "scold"},
        "greet",
        None,
    ],
)
def test_a_completion_for_something_that_the_caller_may_not_use_never_reaches_the_server(
    watched: Watched, ref: Any
) -> None:
    async def run() -> None:
        async with relayed(watched) as session:
            found = await session.refused(1, "completion/complete", {"ref": ref, "argument": ARGUMENT})
            assert found.code in (DENIED, -32600)

    anyio.run(run)
    assert watched.asked == []


@pytest.mark.parametrize(
    "ref", [{"type": "ref/prompt", "name": "greet"}, {"type": "ref/resource", "uri": "docs://open/{name}{?q}"}]
)
def test_the_values_of_a_completion_are_not_changed(watched: Watched, ref: Any) -> None:
    async def run() -> None:
        async with relayed(watched) as session:
            params = {"ref": ref, "argument": ARGUMENT, "context": {"arguments": {"other": "scold"}}}
            assert (await session.call(1, "completion/complete", params, VALUES)).result == VALUES

    anyio.run(run)
    assert (watched.asked, len(watched.looked)) == ([], 1)


def test_fastmcp_completes_only_for_what_the_caller_may_use(watched: Watched) -> None:
    policy = of_fastmcp.PolicyMiddleware(watched, server="billing", identify=of_fastmcp.always(BOT))
    server = fastmcp.FastMCP("billing", middleware=[policy])
    asked: list[Any] = []

    @server.prompt
    def greet(name: str) -> str:
        return name

    @server.completion
    async def complete(ref: Any, argument: Any, context: Any) -> Completion:
        asked.append(ref)
        return Completion(values=["Bo"])

    async def run() -> None:
        async with fastmcp.Client(server) as client:
            greet = PromptReference(type="ref/prompt", name="greet")
            assert (await client.complete(greet, ARGUMENT)).values == ["Bo"]
            for ref in (
                PromptReference(type="ref/prompt", name="scold"),
                ResourceTemplateReference(type="ref/resource", uri="docs://shut/{name}"),
            ):
                with pytest.raises(MCPError) as caught:
                    await client.complete(ref, ARGUMENT)
                assert caught.value.code == DENIED

    asyncio.run(asyncio.wait_for(run(), 60))
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("method", "member", "key", "names"),
    [
        ("tools/list", "tools", "name", ["add", "secret", "add"]),
        ("prompts/list", "prompts", "name", ["greet", "scold", "greet"]),
        ("resources/list", "resources", "uri", ["docs://open/a", "docs://shut/a", "docs://open/a"]),
        (
            "resources/templates/list",
            "resourceTemplates",
            "uriTemplate",
            ["docs://open/{a}", "docs://shut/{a}", "docs://open/{a}"],
        ),
    ],
)
def test_of_items_with_one_name_a_list_shows_the_first(
    watched: Watched, method: str, member: str, key: str, names: list[str]
) -> None:
    """The description of the second could say anything about the first."""
    items: list[Any] = [{key: name, "description": str(at)} for at, name in enumerate(names)]

    async def run() -> None:
        async with relayed(watched) as session:
            sent = {member: [*items, {key: ["add"]}, {key: None}, {}, "add"]}
            assert (await session.call(1, method, None, sent)).result[member] == [items[0]]

    anyio.run(run)


@pytest.mark.parametrize("method", ["resources/read", "resources/subscribe"])
@pytest.mark.parametrize(
    "uri",
    [
        "docs://open/../shut/b", "docs://open/%2e%2e/shut/b", "docs://open/..%2Fshut/b", "docs://open/a%2Fb",
        "docs://%6Fpen/a", "docs://open//a", "docs://open/a;x=1", "docs://open/a#b", "docs://u@open/a",
        "docs://open/a%00", "docs://open/%ff", "docs://shut/b", "DOCS://shut/b", "docs:open/a", "open/a", "", None, 7,
        ["docs://open/a"], {"docs://open/a": 1},
    ],
)  # fmt: skip
def test_a_resource_uri_that_escapes_never_reaches_the_server(watched: Watched, method: str, uri: Any) -> None:
    async def run() -> None:
        async with relayed(watched) as session:
            assert (await session.refused(1, method, {"uri": uri})).code == DENIED

    anyio.run(run)


CONFIRMED = """
language 1
package notes
entity user { roles: set<string> }
facts on TOOL notes/pay { args.amount: number }
issuer local { scopes none }
agent "coder" { issued by local   acts alone   may TOOL notes/pay }
guard "large" on TOOL notes/pay { confirm by role finance within 15m when args.amount > 500 }
"""


def test_the_log_says_which_decisions_are_about_a_list(tmp_path: Path) -> None:
    """The tool is listed, although the decision without its arguments is a deny."""
    log = DecisionLog(tmp_path / "log.jsonl", seal=None)
    engine = Engine.from_text(CONFIRMED, log=log)
    coder = {"agent": {"id": "coder", "issuer": "local"}, "credential": {"issuer": "local"}}
    assert asyncio.run(is_visible(engine, LIST_METHODS["tools/list"], "pay", "notes", coder))
    call = {**coder, "tool": {"server": "notes", "name": "pay"}, "args": {"amount": 900}}
    assert engine.evaluate(call).outcome == engine.decide(call).outcome == "confirm"
    log.close()
    records = list(read_records(log.path))
    assert [(one.call, one.outcome) for one in records] == [
        ("list", "deny"), ("evaluate", "confirm"), ("decide", "confirm"),
    ]  # fmt: skip


def test_a_list_over_a_live_engine_is_recorded_as_one() -> None:
    asked: list[str] = []

    class Reloading:
        class current:
            @staticmethod
            async def evaluate_listed_async(question: Any) -> Any:
                asked.append(question["tool"]["name"])
                return make_denial("no")

    live: Any = LiveEngine(Reloading)  # type: ignore[arg-type]
    assert not asyncio.run(is_visible(live, LIST_METHODS["tools/list"], "pay", "notes", {}))
    assert asked == ["pay"]
