"""Raw credentials in applications and before tools: real clients with real tokens, and a proof for each request."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Generator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import fastmcp
import httpx
import httpx2
import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient
from fastmcp import FastMCP
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.server import MCPServer
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from policyengine import Engine
from policyengine.engine.observe_mode import Observe
from policyengine.integrations.asgi import PolicyMiddleware
from policyengine.integrations.credentials import presented
from policyengine.integrations.fastapi import Policies, PolicyDeniedError, problem_details
from policyengine.integrations.mcp import fastmcp as for_fastmcp
from policyengine.integrations.mcp import sdk
from policyengine.reload import ReloadableEngine
from policyengine.reload.integration_engine import LiveEngine
from policyengine.runtime.decision import Decision
from tests import forking
from tests.identity import bound_world
from tests.identity.bound_world import COMPONENTS, Message, jkt, pem, workload
from tests.identity.proving import HOST, SVID, proof, token, written
from tests.integrations.serving import serving

FOREVER, BEGAN = 4_000_000_000, 1_600_000_000
PATH = "/v1/invoices/7"
CLIENT = {"name": "a client", "version": "1"}


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine.load(tmp_path / "doors.policy", identity=written(tmp_path, only_proved=True))


@pytest.fixture
def nonced(tmp_path: Path) -> Engine:
    return Engine.load(tmp_path / "doors.policy", identity=written(tmp_path, nonces=True))


def bearer(**claims: Any) -> dict[str, str]:
    return {"authorization": f"Bearer {token(time.time(), **claims)}"}


def dpop(method: str, url: str, **claims: Any) -> dict[str, str]:
    now = time.time()
    raw = token(now, cnf={"jkt": jkt()})
    return {"authorization": f"DPoP {raw}", "dpop": proof(now, raw, method, url, **claims)}


# ── ASGI and FastAPI ──────────────────────────────────────────────────────────────────────────


async def invoice(request: Any) -> PlainTextResponse:
    return PlainTextResponse(request.scope["policyengine.decision"].principal.agent or "")


def asgi_app(engine: Engine) -> Any:
    app = Starlette(routes=[Route("/v1/invoices/{id}", invoice, methods=["GET", "POST"])])
    return PolicyMiddleware(app, engine, identify=presented)


def fastapi_app(engine: Engine) -> Any:
    app, policy = FastAPI(), Policies(engine, identify=presented)
    app.add_exception_handler(PolicyDeniedError, problem_details)

    decided = Depends(policy())

    @app.get("/v1/invoices/{id}")
    async def read(id: str, decision: Decision = decided) -> PlainTextResponse:
        return PlainTextResponse(decision.principal.agent or "")

    @app.post("/v1/invoices/{id}")
    async def write(id: str, decision: Decision = decided) -> PlainTextResponse:
        return PlainTextResponse(decision.principal.agent or "")

    return app


APPS = [asgi_app, fastapi_app]


@pytest.mark.parametrize("app", APPS)
def test_an_application_allows_only_callers_with_a_valid_proof(engine: Engine, app: Callable[[Engine], Any]) -> None:
    client = TestClient(app(engine), base_url=f"https://{HOST}")
    url = f"https://{HOST}{PATH}"
    proven = dpop("GET", url)
    for headers, status in [
        (bearer(), 200), (proven, 200), (proven, 401), (dpop("POST", url), 401), (dpop("GET", url + "8"), 401),
        (bearer(exp=5, iat=1), 401), ({}, 401), ({"client-cert": bound_world.field_of(FOREVER_VALID)}, 401),
        ({"x-forwarded-client-cert": bound_world.envoy(FOREVER_VALID)}, 401),
    ]:  # fmt: skip
        answer = client.get(PATH + "?full=yes", headers=headers)
        assert (answer.status_code, answer.text if status == 200 else "") == (status, "invoice-bot" * (status == 200))
        scheme = "DPoP" if "dpop" in headers else "Bearer"
        assert status == 200 or answer.headers["www-authenticate"].startswith(f'{scheme} realm="agents"')


FOREVER_VALID = workload(begins=BEGAN, ends=FOREVER)


@pytest.mark.parametrize("app", APPS)
def test_an_application_sends_a_dpop_nonce_on_demand(nonced: Engine, app: Callable[[Engine], Any]) -> None:
    client, url = TestClient(app(nonced), base_url=f"https://{HOST}"), f"https://{HOST}{PATH}"
    first = client.get(PATH, headers=dpop("GET", url))
    assert (first.status_code, 'error="use_dpop_nonce"' in first.headers["www-authenticate"]) == (401, True)
    second = client.get(PATH, headers=dpop("GET", url, nonce=first.headers["dpop-nonce"]))
    assert second.status_code == 200


def signed(content: bytes, number: int) -> dict[str, str]:
    """Headers of a request that an agent signed, with its body."""
    now = int(time.time())
    found = Message(
        "POST", f"https://{HOST}{PATH}", content, components=COMPONENTS + ' "content-digest"',
        created=now - 1, expires=now + 60, nonce=f"signed-{number}",
    ).credentials()  # fmt: skip
    told = {
        "signature": found.signature, "signature-input": found.signature_input,
        "signature-agent": found.signature_agent, "content-digest": found.content_digest,
    }  # fmt: skip
    return {name: value for name, value in told.items() if value is not None}


@pytest.mark.parametrize("app", APPS)
def test_the_digest_of_a_large_signed_body_is_verified(engine: Engine, app: Callable[[Engine], Any]) -> None:
    client = TestClient(app(engine), base_url=f"https://{HOST}")
    large = b"x" * 200_000
    answer = client.post(PATH, content=large, headers=signed(large, 1))
    assert (answer.status_code, answer.text) == (200, "crawler.example")
    other = client.post(PATH, content=large[:-1] + b"y", headers=signed(large, 2))
    assert (other.status_code, "the digest does not match the body" in other.json()["detail"]) == (401, True)
    assert client.post(PATH, content=b"", headers=signed(large, 3)).status_code == 401


@pytest.mark.parametrize("app", APPS)
def test_a_tls_client_certificate_authenticates_the_caller(engine: Engine, app: Callable[[Engine], Any]) -> None:
    inner = app(engine)

    async def over_tls(scope: Scope, receive: Receive, send: Send) -> None:
        """As a server with TLS tells it (the TLS extension of ASGI)."""
        told = {"tls": {"client_cert_chain": [pem(FOREVER_VALID)]}} if scope["type"] == "http" else {}
        await inner({**scope, "extensions": told}, receive, send)

    answer = TestClient(over_tls, base_url=f"https://{HOST}").get(PATH)
    assert (answer.status_code, answer.text) == (200, SVID)


# ── MCP ───────────────────────────────────────────────────────────────────────────────────────


class Proving(httpx2.Auth):
    """A client with a token that is bound to its key: a proof for each request. `sent` are the URLs of all proofs."""

    def __init__(self, wrong: str | None = None, **claims: Any) -> None:
        self.raw = token(time.time(), cnf={"jkt": jkt()}, **claims)
        self.wrong, self.sent = wrong, 0

    def auth_flow(self, request: httpx2.Request) -> Generator[httpx2.Request, httpx2.Response, None]:
        self.sent += 1
        request.headers["authorization"] = f"DPoP {self.raw}"
        request.headers["dpop"] = proof(time.time(), self.raw, request.method, self.wrong or str(request.url))
        yield request


def sdk_app(engine: Engine, public_url: str | None = None) -> Any:
    policy = sdk.PolicyMiddleware(engine, server="billing", identify=sdk.by_credentials(public_url))
    server = MCPServer("billing", middleware=[policy])
    add_tools(server.tool())
    return server.streamable_http_app()


def fastmcp_app(engine: Engine, public_url: str | None = None) -> Any:
    policy = for_fastmcp.PolicyMiddleware(engine, server="billing", identify=for_fastmcp.by_credentials(public_url))
    server = FastMCP("billing", middleware=[policy])
    add_tools(server.tool)
    return server.http_app()


def add_tools(tool: Callable[[Any], Any]) -> None:
    def list() -> str:
        return "listed"

    def show() -> str:
        return "shown"

    def secret() -> str:
        return "secret"

    for one in (list, show, secret):
        tool(one)


@contextmanager
def through_gateway(engine: Engine, folder: Path, *more: str) -> Iterator[str]:
    """`mcp-gateway --identity` as a process, before a server that verifies nothing."""
    behind = MCPServer("behind")
    add_tools(behind.tool())
    with serving(behind.streamable_http_app()) as upstream:
        options = ["--server", "billing", "--port", "0", "--identity", str(folder / "identity.toml"), *more]
        command = [
            *forking.command(),
            "mcp-gateway",
            str(folder / "doors.policy"),
            "--upstream",
            f"{upstream}/mcp",
            *options,
        ]
        with subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            try:
                assert process.stdout is not None
                yield process.stdout.readline().split()[-1]
            finally:
                process.kill()


@contextmanager
def through_sdk(engine: Engine, folder: Path) -> Iterator[str]:
    with serving(sdk_app(engine)) as url:
        yield f"{url}/mcp"


@contextmanager
def through_fastmcp(engine: Engine, folder: Path) -> Iterator[str]:
    with serving(fastmcp_app(engine)) as url:
        yield f"{url}/mcp"


def talk(url: str, auth: Any, work: Callable[[Client], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        async with (
            httpx2.AsyncClient(auth=auth, trust_env=False) as http,
            Client(streamable_http_client(url, http_client=http)) as client,
        ):
            return await work(client)

    return asyncio.run(asyncio.wait_for(run(), 60))


async def called(client: Client, name: str) -> str:
    """What the tool said, or why not: as an error of the protocol, or of the tool."""
    try:
        result = await client.call_tool(name, {})
    except Exception as error:
        return f"refused: {error}"
    text = result.content[0].text
    return f"refused: {text}" if result.is_error else text


async def used(client: Client) -> tuple[list[str], str, str]:
    names = [one.name for one in (await client.list_tools()).tools]
    return names, await called(client, "show"), await called(client, "secret")


def refusal(url: str, auth: Any) -> str:
    """Return why a client may use nothing: it sees no tool, or the gateway refuses its first request with 401."""
    try:
        names, shown, _ = talk(url, auth, used)
    except BaseExceptionGroup as group:
        found: BaseException = group
        while isinstance(found, BaseExceptionGroup):
            found = found.exceptions[0]
        return str(found)
    assert (names, shown.startswith("refused: denied: ")) == ([], True)
    return shown


@pytest.mark.parametrize("door", [through_sdk, through_fastmcp, through_gateway])
def test_mcp_tools_require_a_valid_proof(engine: Engine, tmp_path: Path, door: Any) -> None:
    with door(engine, tmp_path) as url:
        names, shown, secret = talk(url, Proving(), used)
        assert (names, shown) == (["list", "show"], "shown")  # of one proof for all of them
        assert secret.startswith("refused: denied")
        assert refusal(url, Proving(wrong=url + "/other")).endswith("the proof is for another URL")
        assert refusal(url, Proving(exp=5, iat=1)).endswith("the credential has expired")
        assert refusal(url, None)


class ThroughTls(Proving):
    """Proofs for the URL that a client requests from a proxy, which terminates TLS and keeps the `Host`."""

    def auth_flow(self, request: httpx2.Request) -> Generator[httpx2.Request, httpx2.Response, None]:
        request.headers["host"] = "mcp.example.com"
        yield from super().auth_flow(request)


@pytest.mark.parametrize("path", ["", "/files/"])
def test_behind_a_tls_proxy_proofs_must_name_the_public_url(engine: Engine, tmp_path: Path, path: str) -> None:
    public = f"https://mcp.example.com{path}"
    with through_gateway(engine, tmp_path, "--public-url", public) as url:
        proven = f"{public.rstrip('/')}/mcp"
        assert talk(url, ThroughTls(wrong=proven), used)[:2] == (["list", "show"], "shown")
        assert refusal(url, ThroughTls(wrong="http://mcp.example.com/mcp")) == "the proof is for another URL"


@pytest.mark.parametrize("app", [sdk_app, fastmcp_app])
def test_a_server_behind_a_tls_proxy_states_its_public_url(engine: Engine, app: Any) -> None:
    public = "https://mcp.example.com"
    with serving(app(engine, public)) as url:
        assert talk(f"{url}/mcp", Proving(wrong=f"{public}/mcp"), used)[:2] == (["list", "show"], "shown")
        assert talk(f"{url}/mcp", Proving(), used)[0] == []


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have only one loopback address")
def test_a_gateway_that_verifies_callers_listens_on_any_address(engine: Engine, tmp_path: Path) -> None:
    with through_gateway(engine, tmp_path, "--host", "127.0.0.2") as url:
        assert url.startswith("http://127.0.0.2:")
        assert talk(url, Proving(), used)[:2] == (["list", "show"], "shown")
        assert refusal(url, None) == "the request needs a token"


@pytest.mark.parametrize("door", [through_sdk, through_gateway])
def test_a_token_bound_to_one_tool_allows_no_other_tool(engine: Engine, tmp_path: Path, door: Any) -> None:
    with door(engine, tmp_path) as url:
        names, shown, _ = talk(url, Proving(task={"id": "t-1", "tools": ["billing/list"]}), used)
        assert names == ["list"]
        assert shown.startswith("refused: denied: the task does not include this tool")
        names, shown, _ = talk(url, Proving(task={"id": "t-1", "tools": ["show"]}), used)
        assert (names, shown) == (["show"], "shown")


def test_a_fastmcp_client_can_send_proofs(engine: Engine, tmp_path: Path) -> None:
    async def run(url: str) -> list[str]:
        async with fastmcp.Client(url, auth=Proving()) as client:
            assert (await client.call_tool("show", {})).data == "shown"
            return [one.name for one in await client.list_tools()]

    with through_fastmcp(engine, tmp_path) as url:
        assert asyncio.run(run(url)) == ["list", "show"]


def test_in_process_clients_have_no_credentials_and_are_denied(engine: Engine) -> None:
    server = FastMCP(
        "billing",
        middleware=[for_fastmcp.PolicyMiddleware(engine, server="billing", identify=for_fastmcp.by_credentials())],
    )
    add_tools(server.tool)

    async def run() -> None:
        async with fastmcp.Client(server) as client:
            await client.call_tool("show", {})

    with pytest.raises(Exception, match="the caller is not identified"):
        asyncio.run(run())


def test_a_replayed_proof_is_rejected(engine: Engine, tmp_path: Path) -> None:
    """Whoever overhears a request has nothing of it."""
    with through_sdk(engine, tmp_path) as url:
        headers = {**dpop("POST", url), "accept": "application/json, text/event-stream"}
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "show", "arguments": {}}}
        begun = {
            "jsonrpc": "2.0", "id": 0, "method": "initialize",
            "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": CLIENT},
        }  # fmt: skip
        session = httpx.post(url, json=begun, headers=headers).headers["mcp-session-id"]
        answers = [httpx.post(url, json=body, headers={**headers, "mcp-session-id": session}).text for _ in range(2)]
        found = [json.loads(one.split("data: ", 1)[1].splitlines()[0]) for one in answers]
        assert ["result" in one for one in found] == [True, False]
        assert "the proof was used before" in found[1]["error"]["message"]


def test_observe_mode_allows_and_logs_a_denial_but_not_an_expired_credential(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    engine.observe(Observe(datetime.now(UTC) + timedelta(hours=1)))
    current = LiveEngine(ReloadableEngine(engine))

    async def run() -> tuple[Decision, Decision]:
        held, ended = [{"credentials": bearer(**one)} for one in ({}, {"exp": 5, "iat": 1})]
        question = {"tool": {"server": "billing", "name": "secret"}}
        facts = [await current.prove_async(one) for one in (held, ended)]
        held_to, refused = [await current.decide_async({**question, **one}) for one in facts]
        return held_to, refused

    held_to, refused = asyncio.run(run())
    assert (held_to.allowed, held_to.observed, refused.allowed) == (True, True, False)
    assert refused.reasons[0].code == "expired"
    assert "TOOL billing/secret" in caplog.text
