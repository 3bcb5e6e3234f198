"""An MCP server that records what it gets, the gateway as a resource server before it, and tokens for its clients."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import httpx
from mcp.server import MCPServer

from policyengine import Engine
from policyengine.integrations.mcp.confirm_handler import ConfirmHandler, ConfirmOptions
from policyengine.integrations.mcp.elicit_modes import ElicitMode
from policyengine.integrations.mcp.gateway import McpGateway, McpUpstream, http_app
from policyengine.integrations.mcp.resource_server import ResourceServer
from policyengine.integrations.mcp.sdk import by_credentials
from tests.identity import bound_world, issuing
from tests.integrations.serving import serving

PUBLIC = "https://mcp.example.com"
RESOURCE = f"{PUBLIC}/mcp"
METADATA = f"{PUBLIC}/.well-known/oauth-protected-resource/mcp"
ACME = issuing.ACME
POLICY = f"""
language 1
package notes
entity mcp_resource {{}}
entity mcp_prompt {{}}
facts on TOOL notes/read {{ args.path: string }}
issuer acme {{ url "{ACME}"   audience "{RESOURCE}" }}
issuer partner {{ url "https://login.partner.example"   audience "{RESOURCE}" }}
scope notes.read as "read:notes" {{ TOOL notes/read   TOOL notes/list   ACTION read mcp_resource }}
scope notes.write as "write:notes" {{ include notes.read   TOOL notes/write   ACTION get mcp_prompt }}
scope web as "web" {{ GET /web }}
users unrestricted
agent "assistant" {{ issued by acme   acts for any user   may notes.write, web }}
agent "robot" {{ issued by partner   acts for any user   may web }}
guard "no secrets" on TOOL notes/read {{ deny when args.path == "secret" message "{{args.path}} is secret" }}
"""
IDENTITY = """
[issuers.acme]
keys = "jwks.json"
[issuers.partner]
keys = "http://127.0.0.1:1/jwks.json"
"""
JSON_RPC = {"accept": "application/json, text/event-stream", "content-type": "application/json"}
INITIALIZE = {
    "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "a client", "version": "1"},
}  # fmt: skip
HTTP = httpx.Client(trust_env=False, timeout=30, headers={"connection": "close"})  # it keeps no connections
_numbers = count()


@dataclass
class SettableClock:
    now: float = field(default_factory=time.time)

    def __call__(self) -> datetime:
        return datetime.fromtimestamp(self.now, UTC)


def load(folder: Path, policy: str = POLICY, identity: str = IDENTITY, **options: Any) -> Engine:
    keys = [issuing.ec().as_dict(private=False)]
    (folder / "jwks.json").write_text(json.dumps({"keys": keys}))
    (folder / "identity.toml").write_text(identity)
    (folder / "notes.policy").write_text(policy)
    return Engine.load(folder / "notes.policy", identity=folder / "identity.toml", **options)


def token(scope: str = "read:notes", **claims: Any) -> str:
    now = int(time.time())
    said = {
        "aud": RESOURCE, "client_id": "assistant", "scope": scope, "iat": now - 10, "exp": now + 600,
        "jti": f"r-{next(_numbers)}",
    }  # fmt: skip
    return issuing.token(**{**said, **claims})


def bearer(scope: str = "read:notes", **claims: Any) -> dict[str, str]:
    return {"authorization": f"Bearer {token(scope, **claims)}"}


def dpop(raw: str | None = None, method: str = "POST", url: str = RESOURCE, **claims: Any) -> dict[str, str]:
    raw = raw or token(cnf={"jkt": bound_world.jkt()})
    said = {"jti": f"p-{next(_numbers)}", "htm": method, "htu": url, "iat": int(time.time()), **claims}
    return {"authorization": f"DPoP {raw}", "dpop": bound_world.proof(raw, **said)}


class NotesServer:
    """A real MCP server, the headers that it got, and the names of its calls."""

    def __init__(self) -> None:
        self.headers: list[dict[str, str]] = []
        self.calls: list[str] = []
        server = MCPServer("notes")

        @server.tool()
        def read(path: str) -> str:
            self.calls.append("read")
            return f"content of {path}"

        @server.tool()
        def write(path: str) -> str:
            self.calls.append("write")
            return f"wrote {path}"

        @server.resource("notes://open/a")
        def resource() -> str:
            return "a note"

        @server.prompt()
        def greet() -> str:
            return "hello"

        self._app = server.streamable_http_app()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            self.headers.append({name.decode(): value.decode() for name, value in scope["headers"]})
        await self._app(scope, receive, send)


def gateway_app(
    decides: Any, upstream: str, public_url: str | None = PUBLIC, elicit: ElicitMode = ElicitMode.OFF, **options: Any
) -> ResourceServer:
    confirms = ConfirmHandler(decides, ConfirmOptions(elicit=elicit))
    behind = McpUpstream(upstream, {}, {}, 20.0)
    app = http_app(McpGateway(decides, "notes", by_credentials(public_url), behind, confirms), (), public_url)
    return ResourceServer(app, decides, server="notes", public_url=public_url, **options)


@contextmanager
def running_gateway(decides: Any, **options: Any) -> Iterator[tuple[str, NotesServer]]:
    """Yield the URL of the gateway, and the server behind it."""
    behind = NotesServer()
    with serving(behind) as upstream, serving(gateway_app(decides, f"{upstream}/mcp", **options)) as url:
        yield f"{url}/mcp", behind


@dataclass
class RawClient:
    """A client that sends each message in a request of its own, with the given headers."""

    url: str
    session: str | None = None
    http: httpx.Client = HTTP

    def post(self, headers: Mapping[str, str], method: str, id: object = 7, **params: Any) -> httpx.Response:
        message = {"jsonrpc": "2.0", "id": id, "method": method, "params": params}
        session = {} if self.session is None else {"mcp-session-id": self.session}
        return self.http.post(self.url, json=message, headers={**JSON_RPC, **session, **headers})

    def begin(self, headers: Mapping[str, str]) -> httpx.Response:
        answer = self.post(headers, "initialize", **INITIALIZE)
        self.session = answer.headers.get("mcp-session-id")
        return answer

    def call(self, headers: Mapping[str, str], name: str, **arguments: Any) -> httpx.Response:
        return self.post(headers, "tools/call", name=name, arguments=arguments)


def message_of(answer: httpx.Response) -> dict[str, Any]:
    """Return the JSON-RPC message of an answer, whether it is JSON or a stream."""
    if answer.headers["content-type"] == "application/json":
        return dict(answer.json())
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    return dict(json.loads(lines[-1]))
