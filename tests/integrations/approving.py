"""MCP servers behind each enforcement point, with tools that need approvals, and clients whose user can be asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import fastmcp
from mcp.client.client import Client
from mcp.server import MCPServer
from mcp.shared.memory import create_client_server_memory_streams
from mcp_types import ElicitResult

from policyengine.approvals.eligibility import ProvedPerson
from policyengine.approvals.settings import ApprovalSettings
from policyengine.engine import Engine
from policyengine.engine.approval_desk import ApprovalDesk
from policyengine.engine.question import QuestionLike
from policyengine.entities.store import EntityStore
from policyengine.integrations.mcp import fastmcp as of_fastmcp
from policyengine.integrations.mcp import sdk
from policyengine.integrations.mcp.confirm_handler import ConfirmHandler, ConfirmOptions
from policyengine.integrations.mcp.confirm_results import META_KEY
from policyengine.integrations.mcp.elicit_modes import ElicitMode
from policyengine.integrations.mcp.gateway import McpGateway
from policyengine.integrations.mcp.upstream.server import McpUpstream
from policyengine.runtime.decision import Decision
from policyengine.runtime.entities import EntityData
from policyengine.typesystem import EntityRef

HEAD = """
language 1
package billing
entity user { roles: set<string> }
facts on TOOL billing/refund, TOOL billing/transfer { args.amount: number   args.note: string? }
issuer acme { url "https://login.acme.example"   scopes none }
user any { may TOOL billing/refund, TOOL billing/transfer }
agent "bot" { issued by acme   acts for any user   may TOOL billing/refund, TOOL billing/transfer }
agent "other" { issued by acme   acts for any user   may TOOL billing/refund, TOOL billing/transfer }
guard "own transfers" on TOOL billing/transfer { confirm by user within 15m message "transfer of {args.amount}" }
"""
RULE = """guard "large refunds" on TOOL billing/refund {
  confirm by role finance within 15m when args.amount > 500 message "refund of {args.amount}"
}"""
PEOPLE = EntityStore([EntityData(EntityRef("user", "carol"), {"roles": ["finance"]})])
CAROL, ALICE = ProvedPerson("carol", "acme"), ProvedPerson("alice", "acme")
PAGES = "https://console.example.com"
Answer = Callable[[Any], Awaitable[ElicitResult]]


def caller(agent: str = "bot", user: str = "alice") -> dict[str, Any]:
    credential = {"issuer": "acme", "scopes": []}
    return {"agent": {"id": agent, "issuer": "acme"}, "user": {"id": user}, "credential": credential}


@dataclass
class Shop:
    """An engine with the clock of the test, the calls that reached a tool, and the reported outcomes."""

    now: datetime = datetime(2027, 1, 4, 12, tzinfo=UTC)
    calls: list[float] = field(default_factory=list)
    reports: list[int | None] = field(default_factory=list)
    decided: int = 0
    heard: list[str] = field(default_factory=list)  # the methods that reached the server behind a gateway
    after: Callable[[], Awaitable[None]] | None = None  # runs before the first decision is returned
    between: Callable[[], Awaitable[None]] | None = None  # runs before the second decision is returned

    def __post_init__(self) -> None:
        self.load(RULE)

    async def listen(self, context: Any, call_next: Any) -> Any:
        self.heard.append(context.method)
        return await call_next(context)

    def load(self, rule: str, **settings: Any) -> None:
        store = {"store": self.engine.store} if hasattr(self, "engine") else {}
        self.engine = Engine.from_text(
            HEAD + rule, clock=lambda: self.now, directory=PEOPLE, approvals=ApprovalSettings(**settings), **store
        )

    @property
    def approvals(self) -> ApprovalDesk:
        found = self.engine.approvals
        assert found is not None
        return found

    @property
    def waiting(self) -> str:
        [found] = self.approvals.list()
        return found.approval.id

    async def decide_async(self, question: QuestionLike) -> Decision:
        self.decided += 1
        decision = await self.engine.decide_async(question)
        act = {1: self.after, 2: self.between}.get(self.decided)
        if act is not None:
            await act()
        return decision

    async def evaluate_async(self, question: QuestionLike) -> Decision:
        return await self.engine.evaluate_async(question)

    async def report_async(self, decision: str, **told: Any) -> bool:
        self.reports.append(told["status"])
        return await self.engine.report_async(decision, **told)

    def tools(self, server: Any) -> Any:
        def refund(amount: float, note: str = "") -> str:
            self.calls.append(amount)
            return f"paid {amount}"

        def transfer(amount: float, note: str = "") -> dict[str, float]:
            self.calls.append(amount)
            return {"amount": amount}

        for tool in (refund, transfer):
            server.tool()(tool)
        return server


class MemoryUpstream(McpUpstream):
    """An upstream server in this process."""

    server: MCPServer

    @asynccontextmanager
    async def _serve(self) -> AsyncIterator[tuple[Any, Any]]:
        low = self.server._lowlevel_server
        async with (
            create_client_server_memory_streams() as (client, (reader, writer)),
            anyio.create_task_group() as group,
        ):
            group.start_soon(low.run, reader, writer, low.create_initialization_options())
            yield client
            group.cancel_scope.cancel()

    def connect(self) -> Any:
        return self._serve()


def gateway_of(shop: Shop, identify: Any = None, **options: Any) -> McpGateway:
    upstream = MemoryUpstream("memory", {}, {}, 20.0)
    object.__setattr__(upstream, "server", shop.tools(MCPServer("behind", middleware=[shop.listen])))
    names = {"wait_for_approval": "wait", "approval_pages": "pages"}
    given = {names.get(name, name): value for name, value in options.items()}
    if "elicit" in given:
        given["elicit"] = ElicitMode(given["elicit"])
    confirms = ConfirmHandler(shop, ConfirmOptions(**given))
    return McpGateway(shop, "billing", identify or sdk.always(caller()), upstream, confirms)


@asynccontextmanager
async def memory_gateway(gateway: McpGateway) -> AsyncIterator[tuple[Any, Any]]:
    """The gateway as a transport of a client in this process."""
    async with create_client_server_memory_streams() as (client, (reader, writer)), anyio.create_task_group() as group:
        group.start_soon(gateway.session, reader, writer)
        yield client
        group.cancel_scope.cancel()


@dataclass
class Reply:
    """The result of a tool call."""

    is_error: bool
    text: str
    structured: Any
    meta: Any

    @property
    def approval(self) -> dict[str, Any]:
        [remedy] = self.meta[META_KEY]["remedies"]
        found: dict[str, Any] = remedy["approval"]
        return found


@dataclass
class Place:
    """A client at one enforcement point. `call` returns when the call ends; `waits` runs when the call begins to
    wait, as its progress says."""

    client: Any

    async def call(self, tool: str, arguments: dict[str, Any], waits: Callable[[], object] | None = None) -> Reply:
        async def progress(done: float, total: float | None, message: str | None) -> None:
            if waits is not None and message is not None and message.startswith("waiting for an approval"):
                found = waits()
                if asyncio.iscoroutine(found):
                    await found

        if isinstance(self.client, fastmcp.Client):
            result = await self.client.call_tool_mcp(tool, arguments, progress_handler=progress)
        else:
            result = await self.client.call_tool(tool, arguments, progress_callback=progress)
        return Reply(result.is_error, result.content[0].text, result.structured_content, result.meta)


def sdk_server(shop: Shop, identify: Any = None, **options: Any) -> MCPServer:
    middleware = sdk.PolicyMiddleware(shop, server="billing", identify=identify or sdk.always(caller()), **options)
    return shop.tools(MCPServer("billing", middleware=[middleware]))


def fastmcp_server(shop: Shop, identify: Any = None, **options: Any) -> fastmcp.FastMCP:
    who = identify or of_fastmcp.always(caller())
    middleware = of_fastmcp.PolicyMiddleware(shop, server="billing", identify=who, **options)
    return shop.tools(fastmcp.FastMCP("billing", middleware=[middleware]))


POINTS = ("gateway", "gateway, 2025", "sdk", "sdk, 2025", "fastmcp", "fastmcp, 2025")


@asynccontextmanager
async def at(point: str, shop: Shop, user: Answer | None = None, **options: Any) -> AsyncIterator[Place]:
    """A client at one of the POINTS; `user` answers what the client asks its user."""

    async def ask(context: Any, params: Any) -> ElicitResult:
        assert user is not None
        return await user(params)

    async def ask_fastmcp(message: str, form: Any, params: Any, context: Any) -> Any:
        assert user is not None
        return await user(params)

    name, _, old = point.partition(", ")
    mode = "legacy" if old else "auto"
    if name == "fastmcp":
        more = {} if user is None else {"elicitation_handler": ask_fastmcp}
        async with fastmcp.Client(fastmcp_server(shop, **options), mode=mode, **more) as client:
            yield Place(client)
        return
    asked = {} if user is None else {"elicitation_callback": ask}
    target = memory_gateway(gateway_of(shop, **options)) if name == "gateway" else sdk_server(shop, **options)
    async with Client(target, mode=mode, **asked) as found:
        yield Place(found)


def run(work: Awaitable[None]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(work, 60)

    asyncio.run(bounded())


def later(shop: Shop, **by: float) -> None:
    shop.now += timedelta(**by)
