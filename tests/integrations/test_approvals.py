"""An approval of one request lets no other one pass: through a real gateway of MCP, in an application, over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from mcp.client.client import Client
from mcp.server import MCPServer
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from policyengine.engine import Engine
from policyengine.integrations.asgi import PolicyMiddleware
from policyengine.integrations.denial_messages import remedy_data
from policyengine.integrations.mcp.gateway import McpGateway, http_app
from policyengine.integrations.mcp.upstream.server import McpUpstream
from policyengine.runtime.decision import Remedy
from tests.integrations.conftest import BOT
from tests.integrations.serving import serving
from tests.trusting import TRUSTING

NOW = datetime(2027, 1, 4, 12, tzinfo=UTC)
POLICY = """
language 1
package files
entity user { roles: set<string> }
entity mcp_resource {}
issuer acme { url "https://login.acme.example"   scopes none }
users unrestricted
agent "bot" {
  issued by acme   acts for any user
  may TOOL fs/delete_file, TOOL fs/list_files, ACTION read mcp_resource, POST /refunds, GET /refunds
}
guard "ask" { confirm by user within 15m }
"""


class Approving:
    """An engine that can be asked, and the approvals that the host knows of."""

    def __init__(self) -> None:
        self.engine = Engine.from_text(POLICY, "files.policy", clock=lambda: NOW, approvals=TRUSTING)
        self.approvals: list[dict[str, object]] = []

    def who(self, context: object) -> Mapping[str, object]:
        return {**BOT, "approvals": list(self.approvals)}

    def approve(self, remedies: list[dict[str, Any]]) -> None:
        (remedy,) = remedies
        number = str(len(self.approvals))
        granted = {"id": number, "by": "alice", "granted_at": NOW.isoformat(), "binding": remedy["binding"]}
        self.approvals.append(granted)


@pytest.fixture
def approving() -> Approving:
    return Approving()


# ── Through the gateway of MCP, a real server behind it ───────────────────────────────────────


class Files:
    """A server of files, and what was deleted there."""

    def __init__(self) -> None:
        self.server, self.deleted = MCPServer("files"), list[dict[str, object]]()

        @self.server.tool()
        def delete_file(path: str, recursive: bool = False) -> str:
            self.deleted.append({"path": path, "recursive": recursive})
            return "deleted"

        @self.server.resource("file:///{name}")
        def read(name: str) -> str:
            return name


@pytest.fixture
def files() -> Files:
    return Files()


@pytest.fixture
def gateway(files: Files, approving: Approving) -> Iterator[str]:
    with serving(files.server.streamable_http_app()) as upstream:
        behind = McpUpstream(f"{upstream}/mcp", {}, {}, 20.0)
        with serving(http_app(McpGateway(approving.engine, "fs", approving.who, behind))) as url:
            yield f"{url}/mcp"


def called(url: str, approving: Approving, *calls: dict[str, object]) -> list[object]:
    """What comes of calls of one client; the first confirm is approved."""

    async def run() -> list[object]:
        found: list[object] = []
        async with Client(url) as client:
            for arguments in calls:
                result = await client.call_tool("delete_file", arguments)
                found.append("confirm" if result.is_error else "deleted")
                if result.is_error and not approving.approvals:
                    approving.approve(result.structured_content["remedies"])
        return found

    return asyncio.run(asyncio.wait_for(run(), 60))


def test_an_approval_of_one_call_does_not_allow_another_call(gateway: str, files: Files, approving: Approving) -> None:
    asked = {"path": "/tmp/x"}
    others: list[dict[str, object]] = [
        {"path": "/etc/passwd"}, {**asked, "recursive": True}, {**asked, "undeclared": 1}, {**asked, "recursive": None},
    ]  # fmt: skip
    assert called(gateway, approving, asked, *others, asked, asked) == [
        "confirm", *["confirm"] * len(others), "deleted", "confirm",
    ]  # fmt: skip
    assert files.deleted == [{"path": "/tmp/x", "recursive": False}]


def test_protocol_metadata_is_not_part_of_the_approved_call(gateway: str, files: Files, approving: Approving) -> None:
    """`_meta` tells how to report progress; no tool takes it for an argument."""

    async def run() -> None:
        async def progress(done: float, total: float | None, message: str | None) -> None:
            pass

        async with Client(gateway) as client:
            refused = await client.call_tool("delete_file", {"path": "/tmp/x"})
            approving.approve(refused.structured_content["remedies"])
            await client.call_tool("delete_file", {"path": "/tmp/x"}, progress_callback=progress)

    asyncio.run(asyncio.wait_for(run(), 60))
    assert files.deleted == [{"path": "/tmp/x", "recursive": False}]


def test_a_tool_that_needs_approval_is_listed(gateway: str) -> None:
    async def run() -> list[str]:
        async with Client(gateway) as client:
            return [tool.name for tool in (await client.list_tools()).tools]

    assert asyncio.run(run()) == ["delete_file"]


def test_an_approval_to_read_at_one_server_does_not_apply_to_another(approving: Approving) -> None:
    def asked(server: str) -> Any:
        thing = {"action": {"name": "read"}, "resource": {"type": "mcp_resource", "id": "file:///x"}}
        return approving.engine.decide({**approving.who(None), **thing, "context": {"server": server}})

    [remedy] = asked("fs").remedies
    approving.approve([{"binding": remedy.binding}])
    assert [str(asked(server).outcome) for server in ("other", "fs")] == ["confirm", "allow"]


# ── In an application, and over HTTP ──────────────────────────────────────────────────────────

MONEY = {"amount": 1, "to": "alice"}
OTHER_BODIES: list[dict[str, Any]] = [
    {"json": {**MONEY, "amount": 500}},
    {"json": {**MONEY, "to": "mallory"}},
    {"json": {**MONEY, "cc": "mallory"}},
    {"json": {**MONEY, "amount": 1.0}},
    {"json": MONEY, "params": {"amount": "500"}},
    {"json": MONEY, "headers": {"host": "other.example"}},
    {"data": {"amount": "1", "to": "alice"}},
    {},
]


async def paid(request: Request) -> JSONResponse:
    return JSONResponse({"paid": (await request.body()).decode()})


@pytest.fixture
def shop(approving: Approving) -> Iterator[str]:
    app = Starlette(routes=[Route("/refunds", paid, methods=["GET", "POST"])])
    with serving(PolicyMiddleware(app, approving.engine, identify=approving.who)) as url:
        yield f"{url}/refunds"


def test_an_approval_of_one_refund_does_not_allow_another_refund(shop: str, approving: Approving) -> None:
    asked = httpx.post(shop, json=MONEY)
    assert (asked.status_code, asked.json()["outcome"]) == (403, "confirm")
    approving.approve(asked.json()["remedies"])
    for other in OTHER_BODIES:
        refused = httpx.post(shop, **other)
        assert (refused.status_code, refused.json()["outcome"]) == (403, "confirm"), other
    assert httpx.post(shop, json=MONEY).status_code == 200


UNREAD: list[dict[str, Any]] = [
    {"content": b'{"amount": 1, "amount": 500}', "headers": {"content-type": "application/json"}},
    {"content": b"amount=1", "headers": {"content-type": "text/plain"}},
    {"content": b"[1]", "headers": {"content-type": "application/json"}},
    {"content": b'{"amount": 1', "headers": {"content-type": "application/json"}},
]


def test_an_unread_body_cannot_be_approved(shop: str, approving: Approving) -> None:
    for unread in UNREAD:
        refused = httpx.post(shop, **unread)
        assert (refused.status_code, refused.json()["outcome"]) == (403, "deny"), unread
        [remedy] = refused.json()["remedies"]
        assert remedy["kind"] == "facts"
        assert "body" in remedy["need"]


def test_an_approval_of_a_get_does_not_allow_a_post(shop: str, approving: Approving) -> None:
    asked = httpx.get(shop)
    approving.approve(asked.json()["remedies"])
    assert httpx.post(shop, json=MONEY).status_code == 403
    assert httpx.get(f"{shop}?all=1").status_code == 403
    assert httpx.get(shop).status_code == 200


def test_the_denial_lists_the_facts_an_approval_is_bound_to(shop: str) -> None:
    [remedy] = httpx.post(shop, json=MONEY).json()["remedies"]
    assert remedy["bound"] == ["args", "body", "request.host", "request.query"]


def test_a_remedy_lists_the_issuers_of_approvers() -> None:
    remedy = Remedy("approval", "large", by="role finance from acme", issuers=("acme",))
    found = {"kind": "approval", "rule": "large", "by": "role finance from acme", "issuers": ["acme"]}
    assert remedy_data(remedy) == found
