"""An MCP server behind every real gateway: tools are decided by headers or bodies, and what passes is refused by the
server itself if its body says something else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import httpx
import pytest

from tests.gateways.conftest import HANDED_ON
from tests.gateways.servers import KINDS, Answer, Gateway, Kind, Seen, Upstream, engine, gateway
from tests.integrations.serving import serving

mcp = pytest.importorskip("mcp.server")
import httpx2  # noqa: E402
from mcp.client.client import Client  # noqa: E402
from mcp.client.streamable_http import streamable_http_client  # noqa: E402
from mcp.server.transport_security import TransportSecuritySettings  # noqa: E402
from mcp.shared.exceptions import MCPError  # noqa: E402

POLICY = """
language 1
package tools
entity mcp_server {}
issuer acme { scopes none }
anyone { may ACTION list mcp_server   may ACTION connect mcp_server   may POST /open/** }
users unrestricted
agent "invoice-bot" {
  issued by acme
  acts for any user
  may TOOL notes/read, TOOL notes/write
}
facts on TOOL notes/write { args.path: string }
guard "drafts only" on TOOL notes/write { require args.path like "drafts/*" }
"""
WRITER = "Authorization: Bearer demo-writer"
MCP = ("Content-Type: application/json", "Accept: application/json, text/event-stream")
META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}


@pytest.fixture(scope="module")
def notes() -> Iterator[str]:
    """The SDK's server, with a harmless tool and a dangerous one."""
    server = mcp.MCPServer("notes")

    @server.tool()  # type: ignore[untyped-decorator]
    def read() -> str:
        return "content"

    @server.tool()  # type: ignore[untyped-decorator]
    def erase() -> str:
        return "deleted everything"

    open_to_all = TransportSecuritySettings(enable_dns_rebinding_protection=False)  # nginx sends a host without a port
    with serving(server.streamable_http_app(transport_security=open_to_all)) as url:
        yield f"{url}/mcp"


@pytest.fixture(scope="module")
def ports(notes: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, int]]:
    """An engine with two MCP servers: one that is proved to validate headers, and one that is not asked."""
    folder = tmp_path_factory.mktemp("tools")
    (folder / "tools.policy").write_text(POLICY, encoding="utf-8")
    servers = f'\n[mcp-servers.notes]\npaths = ["/mcp"]\nvalidates_mcp_headers = true\nurl = "{notes}"\n'
    other = '[mcp-servers.other]\npaths = ["/open/mcp"]\n'
    (folder / "policyengine.toml").write_text(HANDED_ON + servers + other, encoding="utf-8")
    with engine(str(folder)) as found:
        yield found


@pytest.fixture(scope="module")
def tools(
    kind: Kind, api: Upstream, ports: tuple[int, int], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    with gateway(kind, tmp_path_factory.mktemp(kind.name), api, ports, None) as one:
        yield one


@pytest.fixture
def web(tools: Gateway) -> Iterator[Gateway]:
    tools.api.taken()
    yield tools
    tools.client.close()


def message(method: str, name: str | None = None, **arguments: object) -> bytes:
    params = {**({} if name is None else {"name": name, "arguments": arguments}), "_meta": META}
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()


def ask(web: Gateway, body: bytes, *headers: str, path: str = "/mcp", version: str | None = "2026-07-28") -> Answer:
    versions = () if version is None else (f"MCP-Protocol-Version: {version}",)
    return web.client.ask(path, WRITER, *MCP, *versions, *headers, method="POST", body=body)


def call(name: str) -> tuple[str, str]:
    return "Mcp-Method: tools/call", f"Mcp-Name: {name}"


def reaches(url: str, seen: Seen) -> httpx.Response:
    """Send what passed to the MCP server, with the headers that it had then."""
    named = [
        (name, value) for name, value in seen.headers if name.lower().startswith(("mcp-", "accept", "content-type"))
    ]
    return httpx.post(url, content=seen.body, headers=named)


def test_a_granted_tool_passes_with_its_headers_and_is_called(web: Gateway, notes: str) -> None:
    assert ask(web, message("tools/call", "read"), *call("read")).status == 200
    [seen] = web.api.taken()
    assert (seen.values("mcp-method"), seen.values("mcp-name")) == (["tools/call"], ["read"])
    assert seen.values("mcp-protocol-version") == ["2026-07-28"]
    assert seen.values("x-auth-subject") == ["invoice-bot"]
    answer = reaches(notes, seen)
    assert (answer.status_code, "content" in answer.text) == (200, True)


def test_a_name_in_base64_is_decoded(web: Gateway) -> None:
    assert ask(web, message("tools/call", "read"), *call("=?base64?cmVhZA==?=")).status == 200
    assert ask(web, message("tools/call", "erase"), *call("=?base64?ZXJhc2U=?=")).status == 403
    assert ask(web, message("tools/call", "read"), *call("=?BASE64?cmVhZA==?=")).status == 400
    assert len(web.api.taken()) == 1


def test_a_tool_that_no_rule_grants_is_denied(web: Gateway) -> None:
    answer = ask(web, message("tools/call", "erase"), *call("erase"))
    assert (answer.status, answer.problem["outcome"]) == (403, "deny")
    assert web.api.taken() == []


def test_a_header_that_hides_another_tool_calls_nothing(web: Gateway, notes: str) -> None:
    """A gateway that reads no body lets the request pass, and the server refuses it; others refuse it at once."""
    for headers in (call("read"), ("Mcp-Method: tools/list",)):
        answer = ask(web, message("tools/call", "erase"), *headers)
        seen = web.api.taken()
        if web.kind.sees_body:
            assert (answer.status, seen) == (400, [])
            continue
        assert answer.status == 200
        refused = reaches(notes, seen[0])
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, -32020)


def test_arguments_are_known_only_where_the_body_is_sent(web: Gateway) -> None:
    statuses = [
        ask(web, message("tools/call", "write", path=path), *call("write")).status
        for path in ("drafts/a", "/etc/hosts")
    ]
    assert statuses == ([200, 403] if web.kind.sees_body else [403, 403])


@pytest.mark.parametrize(
    "headers",
    [
        (*call("read"), "Mcp-Name: erase"),
        (*call("erase"), "Mcp-Name: read"),
        (*call("read"), "Mcp-Method: tools/list"),
        (*call("read"), "MCP-Protocol-Version: 2025-11-25"),
        call("read, erase"),
        ("Mcp-Method: tools/call",),
        ("Mcp-Name: read",),
    ],
)
def test_repeated_joined_and_missing_headers_do_not_pass(web: Gateway, headers: tuple[str, ...]) -> None:
    answer = ask(web, message("tools/call", "read"), *headers)
    assert answer.status in ((400, 403) if headers == call("read, erase") else (400,))
    assert web.api.taken() == []


@pytest.mark.parametrize("spelling", ["Mcp_Name", "Mcp.Name"])
def test_another_spelling_of_a_header_reaches_no_server(web: Gateway, spelling: str) -> None:
    answer = ask(web, message("tools/call", "read"), *call("read"), f"{spelling}: erase")
    seen = web.api.taken()
    assert answer.status in (200, 400)
    assert len(seen) == (answer.status == 200)
    assert all(request.values("mcp-name") == ["read"] for request in seen)
    assert not any(name.lower() == spelling.lower() for request in seen for name, _ in request.headers)


@pytest.mark.parametrize("version", [None, "2025-11-25", "2026-07-28x"])
def test_headers_of_an_older_version_do_not_count(web: Gateway, version: str | None) -> None:
    answer = ask(web, message("tools/call", "erase"), *call("read"), version=version)
    assert answer.status == 400
    assert web.api.taken() == []


def test_a_session_does_not_pass_by_its_headers(web: Gateway) -> None:
    answer = ask(web, message("tools/call", "read"), *call("read"), "Mcp-Session-Id: s")
    assert answer.status == (200 if web.kind.sees_body else 400)  # a body is decided in every version


def test_lists_and_discovery_are_decided_as_actions(web: Gateway) -> None:
    for method in ("server/discover", "tools/list"):
        assert ask(web, message(method), f"Mcp-Method: {method}").status == 200
    assert ask(web, message("logging/setLevel"), "Mcp-Method: logging/setLevel").status == 400


def test_headers_of_a_server_that_does_not_validate_them_are_ignored(web: Gateway) -> None:
    assert ask(web, message("tools/call", "erase"), *call("read"), path="/open/mcp").status == 200
    assert ask(web, message("tools/call", "erase"), "Mcp-Method: x", "Mcp-Method: y", path="/open/mcp").status == 200


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_other_http_methods_are_decided_by_path(web: Gateway, method: str) -> None:
    answer = web.client.ask("/mcp", WRITER, *MCP, "MCP-Protocol-Version: 2026-07-28", *call("read"), method=method)
    assert answer.status == 403
    assert web.api.taken() == []


# ── The errors that clients of nginx get ──────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", [one for one in KINDS if one.name == "nginx"], indirect=True, ids=["nginx"])
def test_nginx_answers_a_denied_message_with_an_error_of_json_rpc(web: Gateway) -> None:
    answer = ask(web, message("tools/call", "erase"), *call("erase"))
    found = json.loads(answer.body)
    assert (answer.status, answer.headers["content-type"]) == (403, "application/json")
    assert (found["jsonrpc"], found["id"], found["error"]["code"]) == ("2.0", None, -32003)
    assert found["error"]["message"] == "denied: no block grants this to the caller"
    assert found["error"]["data"]["outcome"] == "deny"
    assert found["error"]["data"]["decision"] == answer.headers["x-decision-id"]
    malformed = ask(web, message("tools/call", "read"), "Mcp-Method: tools/call")
    error = json.loads(malformed.body)["error"]
    assert (malformed.status, error["code"]) == (400, -32600)
    assert error["message"].startswith("refused: ")
    assert error["data"]["status"] == 400
    hostile = 'a"b\\c\\", "detail":"d'
    answer = ask(web, message(hostile), f"Mcp-Method: {hostile}")
    error = json.loads(answer.body)["error"]
    assert (answer.status, error["message"]) == (400, f"refused: {error['data']['detail']}")
    assert hostile in error["message"]
    older = ask(web, message("initialize"), version=None)
    error = json.loads(older.body)["error"]
    assert (older.status, error["code"]) == (400, -32600)
    assert "requests of versions before 2026-07-28 cannot be decided by their headers" in error["message"]
    other = web.client.ask("/erase", WRITER, method="POST")  # a client of another protocol
    assert (other.status, other.headers["content-type"]) == (403, "application/problem+json")


# ── The client of the SDK ─────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Port:
    """The place of a server, as `gateway` asks for it."""

    port: int


@pytest.mark.parametrize("name", ["nginx", "envoy-grpc"])
def test_the_client_of_the_sdk_calls_what_is_granted(
    name: str, notes: str, ports: tuple[int, int], tmp_path: Path
) -> None:
    kind = next(one for one in KINDS if one.name == name)
    if kind.found() is None:
        pytest.skip(f"{kind.name} is missing: {kind.install}")
    server = cast(Upstream, Port(int(notes.removesuffix("/mcp").rpartition(":")[2])))
    with gateway(kind, tmp_path, server, ports, None) as one:
        url = f"http://127.0.0.1:{one.client.port}/mcp"
        refused = (
            "denied: no block grants this to the caller" if name == "nginx" else "Server returned an error response"
        )
        assert asyncio.run(asked_in(url, "2026-07-28")) == ["erase", "read", "content", refused]
        assert asyncio.run(asked_in(url, "auto")) == ["erase", "read", "content", refused]
        # Its messages say only in their bodies what they are.
        older = asyncio.run(asked_in(url, "legacy"))
        assert older == (["erase", "read", "content", refused] if kind.sees_body else ["not connected"])


async def asked_in(url: str, mode: str) -> list[str]:
    """Return the listed tools, and the results of one call that is granted and one that is not."""
    headers = {"Authorization": "Bearer demo-writer"}
    try:
        async with (
            httpx2.AsyncClient(headers=headers, trust_env=False) as http,
            Client(streamable_http_client(url, http_client=http), mode=mode, read_timeout_seconds=10) as client,
        ):
            found = sorted(tool.name for tool in (await client.list_tools()).tools)
            return [*found, *[await result_of(client, tool) for tool in ("read", "erase")]]
    except Exception:
        return ["not connected"]


async def result_of(client: Client, tool: str) -> str:
    try:
        content = (await client.call_tool(tool, {})).content
    except MCPError as error:
        return error.message
    return str(getattr(content[0], "text", ""))
