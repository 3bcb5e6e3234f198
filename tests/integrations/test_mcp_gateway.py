"""`policyengine mcp-gateway`: a real client, the gateway, and a real server behind it, over stdio and over HTTP."""

from __future__ import annotations

import asyncio
import json
import shlex
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, cast

import anyio
import fastmcp
import httpx
import pytest
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.shared.exceptions import MCPError
from mcp.shared.message import SessionMessage
from mcp_types import ElicitResult, JSONRPCRequest
from starlette.testclient import TestClient

from policyengine.cli import main
from policyengine.engine import Engine
from policyengine.integrations.mcp.clients.session_callers import SessionCallers
from policyengine.integrations.mcp.gateway import (
    McpGateway,
    http_app,
    identify_by_headers,
    parse_caller_facts,
)
from policyengine.integrations.mcp.methods import DENIED
from policyengine.integrations.mcp.relay.relay import UPSTREAM_GONE, Relay
from policyengine.integrations.mcp.sdk import PolicyMiddleware, always
from policyengine.integrations.mcp.tasks import TaskDesk, TaskTable
from policyengine.integrations.mcp.upstream.messages import UpstreamMessages
from policyengine.integrations.mcp.upstream.server import McpUpstream, describe_error
from tests import forking
from tests.integrations.conftest import BOT, POLICY, Watched
from tests.integrations.serving import serving

SERVER = """
import os
from mcp.server import MCPServer

server = MCPServer("behind")

@server.tool()
def add(a: int, b: int) -> int:
    return a + b

@server.tool()
def secret() -> str:
    return os.environ.get("HANDED_ON", "") + os.environ.get("KEPT", "")

@server.tool()
def broken() -> str:
    os._exit(1)

server.run()
"""

INITIALIZE = json.dumps(
    {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": {"name": "a client", "version": "1"},
        },
    }
)


class Behind:
    """A real MCP server over HTTP, and the headers that it got."""

    def __init__(self) -> None:
        self.server = MCPServer("behind")
        self.headers: list[dict[str, str]] = []
        self.begun = self.cancelled = 0

        @self.server.tool()
        def add(a: int, b: int) -> int:
            return a + b

        @self.server.tool()
        def refund(amount: float) -> str:
            return f"paid {amount}"

        @self.server.tool()
        def secret() -> str:
            return "secret"

        @self.server.tool()
        async def slow() -> str:
            self.begun += 1
            try:
                await anyio.sleep_forever()
            except anyio.get_cancelled_exc_class():
                self.cancelled += 1
                raise
            return ""

        @self.server.tool()
        async def busy(ctx: Context) -> str:
            await ctx.report_progress(1, 2, "half")
            return "done"

        @self.server.tool()
        async def ask(ctx: Context) -> str:
            answer = await ctx.session.elicit_form("sure?", {"type": "object", "properties": {}})
            return answer.action

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            self.headers.append({name.decode(): value.decode() for name, value in scope["headers"]})
        await self.app(scope, receive, send)

    @property
    def app(self) -> Any:
        if not hasattr(self, "_app"):
            self._app = self.server.streamable_http_app()
        return self._app


@pytest.fixture
def behind() -> Behind:
    return Behind()


@pytest.fixture
def url(behind: Behind, watched: Watched) -> Iterator[str]:
    with serving(behind) as upstream, serving(app_of(watched, f"{upstream}/mcp")) as gateway:
        yield f"{gateway}/mcp"


def app_of(watched: Watched, upstream: str, limit: float = 20.0, sessions: int = 100, **options: Any) -> Any:
    who = options.pop("identify", always(BOT))
    return http_app(McpGateway(watched, "billing", who, McpUpstream(upstream, {}, {}, limit, max_sessions=sessions)))


def talk(target: Any, work: Callable[[Client], Awaitable[Any]], **options: Any) -> Any:
    async def run() -> Any:
        async with Client(target, **options) as client:
            return await work(client)

    return asyncio.run(asyncio.wait_for(run(), 60))


def refused(target: Any, work: Callable[[Client], Awaitable[Any]], **options: Any) -> MCPError:
    async def run(client: Client) -> MCPError:
        with pytest.raises(MCPError) as caught:
            await work(client)
        return caught.value

    found: MCPError = talk(target, run, **options)
    return found


def test_over_http_the_gateway_hides_tools_and_decides_calls(url: str, behind: Behind, watched: Watched) -> None:
    async def run(client: Client) -> None:
        listed = [tool.name for tool in (await client.list_tools()).tools]
        assert listed == ["add", "refund", "slow", "busy", "ask"]
        assert (await client.call_tool("add", {"a": 1, "b": 2})).content[0].text == "3"
        for name, arguments in (("secret", {}), ("refund", {"amount": 0})):
            with pytest.raises(MCPError) as caught:
                await client.call_tool(name, arguments)
            assert caught.value.data["decision"]

    talk(url, run)
    assert [one["status"] for one in watched.reports] == [200]


def test_the_gateway_forwards_no_client_headers_upstream(url: str, behind: Behind) -> None:
    import httpx2
    from mcp.client.streamable_http import streamable_http_client

    async def run() -> None:
        http = httpx2.AsyncClient(headers={"authorization": "Bearer secret", "x-own": "1"}, trust_env=False)
        async with http, Client(streamable_http_client(url, http_client=http)) as client:
            await client.call_tool("add", {"a": 1, "b": 2})

    asyncio.run(run())
    assert behind.headers
    assert not any("authorization" in one or "x-own" in one for one in behind.headers)


def test_the_gateway_relays_progress_and_elicitation(url: str) -> None:
    async def run(client: Client) -> None:
        seen: list[float] = []

        async def progress(done: float, total: float | None, message: str | None) -> None:
            seen.append(done)

        await client.call_tool("busy", {}, progress_callback=progress)
        assert seen == [1]
        assert (await client.call_tool("ask", {})).content[0].text == "accept"

    async def accept(context: Any, params: Any) -> ElicitResult:
        return ElicitResult(action="accept", content={})

    talk(url, run, mode="legacy", elicitation_callback=accept)  # a server of this SDK asks in sessions only


def test_a_cancelled_call_is_cancelled_upstream_and_reported(url: str, behind: Behind, watched: Watched) -> None:
    async def run(client: Client) -> None:
        for turn in (1, 2):
            calling = asyncio.create_task(client.call_tool("slow", {}))
            while behind.begun < turn:
                await asyncio.sleep(0.01)
            calling.cancel()
            await asyncio.gather(calling, return_exceptions=True)
            while behind.cancelled < turn or len(watched.reports) < turn:
                await asyncio.sleep(0.01)

    talk(url, run)


def test_an_upstream_timeout_is_an_error(behind: Behind, watched: Watched) -> None:
    with serving(behind) as upstream, serving(app_of(watched, f"{upstream}/mcp", limit=1.0)) as gateway:
        error = refused(f"{gateway}/mcp", lambda client: client.call_tool("slow", {}))
    assert "did not answer within 1 second" in error.message
    assert watched.reports[0]["status"] == 500


def innermost(error: BaseException) -> BaseException:
    return innermost(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


def test_an_unreachable_upstream_is_a_clear_error(watched: Watched) -> None:
    with (
        serving(app_of(watched, "http://127.0.0.1:9/mcp")) as gateway,
        pytest.raises((MCPError, BaseExceptionGroup)) as caught,
    ):
        talk(f"{gateway}/mcp", lambda client: client.list_tools())
    assert str(innermost(caught.value)) == UPSTREAM_GONE


def test_the_gateway_works_with_a_fastmcp_server_and_client(watched: Watched) -> None:
    server = fastmcp.FastMCP("behind")

    @server.tool
    def add(a: int, b: int) -> int:
        return a + b

    @server.tool
    def secret() -> str:
        return "secret"

    async def run(url: str) -> None:
        async with fastmcp.Client(url) as client:
            assert [tool.name for tool in await client.list_tools()] == ["add"]
            assert (await client.call_tool("add", {"a": 1, "b": 2})).data == 3
            with pytest.raises(MCPError, match="denied"):
                await client.call_tool("secret", {})

    with serving(server.http_app()) as upstream, serving(app_of(watched, f"{upstream}/mcp")) as gateway:
        asyncio.run(asyncio.wait_for(run(f"{gateway}/mcp"), 60))


def test_each_client_with_a_session_has_its_own_upstream_session(url: str, behind: Behind) -> None:
    for _ in range(2):
        talk(url, lambda client: client.call_tool("add", {"a": 1, "b": 2}), mode="legacy")
    sessions = {one["mcp-session-id"] for one in behind.headers if "mcp-session-id" in one}
    assert len(sessions) == 2


def test_modern_clients_need_no_upstream_session(url: str, behind: Behind) -> None:
    for _ in range(2):
        talk(url, lambda client: client.call_tool("add", {"a": 1, "b": 2}), mode="2026-07-28")
    assert {one["mcp-protocol-version"] for one in behind.headers} == {"2026-07-28"}
    assert not any("mcp-session-id" in one for one in behind.headers)


def test_trusted_headers_identify_the_caller(behind: Behind, watched: Watched) -> None:
    import httpx2
    from mcp.client.streamable_http import streamable_http_client

    said = {"issuer": "acme", "user": "alice"}
    who = identify_by_headers({"agent": "x-agent"}, lambda found: parse_caller_facts({**said, **found}))

    async def tools(url: str, headers: list[tuple[str, str]]) -> list[str]:
        http = httpx2.AsyncClient(headers=headers, trust_env=False)
        async with http, Client(streamable_http_client(url, http_client=http)) as client:
            return [tool.name for tool in (await client.list_tools()).tools]

    with serving(behind) as upstream, serving(app_of(watched, f"{upstream}/mcp", identify=who)) as gateway:
        url = f"{gateway}/mcp"
        assert "add" in asyncio.run(tools(url, [("x-agent", "bot")]))
        assert asyncio.run(tools(url, [("x-agent", "other")])) == ["secret"]
        for headers in ([], [("x-agent", "")], [("x-agent", "bot"), ("x-agent", "other")]):
            with pytest.raises((MCPError, BaseExceptionGroup)):
                asyncio.run(tools(url, headers))


BEGINNING = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "many", "version": "1"},
    },
}


def test_opening_too_many_sessions_ends_sessions_of_the_same_caller(behind: Behind, watched: Watched) -> None:
    import httpx2
    from mcp.client.streamable_http import streamable_http_client

    said = {"issuer": "acme", "user": "alice"}
    who = identify_by_headers({"agent": "x-agent"}, lambda found: parse_caller_facts({**said, **found}))

    async def run(url: str) -> tuple[Any, list[int], int]:
        other = {"x-agent": "other", "accept": "application/json, text/event-stream"}
        async with (
            httpx2.AsyncClient(headers={"x-agent": "bot"}, trust_env=False) as of_bot,
            httpx2.AsyncClient(headers=other, trust_env=False) as of_other,
            Client(streamable_http_client(url, http_client=of_bot)) as client,
        ):
            begun = [await of_other.post(url, json=BEGINNING) for _ in range(6)]
            ended = await of_other.post(
                url, json={**BEGINNING, "id": 2}, headers={"mcp-session-id": begun[0].headers["mcp-session-id"]}
            )
            return (
                await client.call_tool("add", {"a": 1, "b": 2}),
                [one.status_code for one in begun],
                ended.status_code,
            )

    with serving(behind) as upstream, serving(app_of(watched, f"{upstream}/mcp", identify=who, sessions=3)) as gateway:
        answer, begun, ended = asyncio.run(asyncio.wait_for(run(f"{gateway}/mcp"), 60))
    assert answer.content[0].text == "3"
    assert begun == [200] * 6
    assert ended == 404


@pytest.mark.parametrize(
    ("headers", "status"),
    [({"host": "evil.example"}, 403), ({"origin": "https://evil.example"}, 403), ({"mcp-session-id": "x"}, 404)],
)
def test_foreign_hosts_origins_and_unknown_sessions_are_rejected(
    url: str, headers: dict[str, str], status: int
) -> None:
    always_sent = {"accept": "application/json, text/event-stream", "content-type": "application/json"}
    hello = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {}}
    assert httpx.post(url, json=hello, headers={**always_sent, **headers}).status_code == status


def test_an_allowed_host_name_is_accepted(behind: Behind, watched: Watched) -> None:
    with serving(behind) as upstream:
        gateway = McpGateway(watched, "billing", always(BOT), McpUpstream(f"{upstream}/mcp", {}, {}, 20.0))
        with serving(http_app(gateway, ["mcp.example"])) as url:
            named = {"host": "mcp.example", "mcp-session-id": "x"}
            assert httpx.post(f"{url}/mcp", json={}, headers=named).status_code == 404
            found = httpx.post(f"{url}/mcp", json={}, headers={**named, "host": "other.example"})
            assert (found.status_code, "`--allowed-host NAME`" in found.json()["error"]["message"]) == (403, True)


def test_the_address_of_the_connection_is_an_accepted_host(watched: Watched) -> None:
    app = http_app(McpGateway(watched, "billing", always(BOT), McpUpstream("http://127.0.0.1:9/mcp", {}, {}, 1.0)))
    with TestClient(app, base_url="http://192.0.2.7") as client:
        found = [
            client.post("/mcp", json={}, headers={"host": host, "mcp-session-id": "x"}).status_code
            for host in ("192.0.2.7", "192.0.2.7:80", "192.0.2.8", "rebound.example")
        ]
    assert found == [404, 404, 403, 403]


# ── The command, over stdio ───────────────────────────────────────────────────────────────────


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "billing.policy").write_text(POLICY)
    (tmp_path / "server.py").write_text(SERVER)
    return tmp_path


def over_stdio(files: Path, *options: str) -> Any:
    upstream = shlex.join(forking.script(files / "server.py"))
    said = ["--as", "agent=bot", "--as", "issuer=acme", "--as", "user=alice"]
    program, *command = (*forking.command(), "mcp-gateway")
    words = [*command, str(files / "billing.policy"), "--upstream", upstream, "--server", "billing", *said, *options]
    return stdio_client(StdioServerParameters(command=program, args=words, cwd="."))


@pytest.mark.parametrize("mode", ["legacy", "auto"])
def test_over_stdio_the_gateway_hides_tools_and_rejects_calls(files: Path, mode: Any) -> None:
    async def run(client: Client) -> None:
        assert [tool.name for tool in (await client.list_tools()).tools] == ["add", "broken"]
        assert (await client.call_tool("add", {"a": 1, "b": 2})).content[0].text == "3"
        with pytest.raises(MCPError) as caught:
            await client.call_tool("secret", {})
        assert caught.value.code == DENIED
        for _ in range(2):  # the server dies while it answers, and is gone then
            with pytest.raises(MCPError, match="the upstream server has ended"):
                await client.call_tool("broken", {})

    talk(over_stdio(files), run, mode=mode)


def test_an_upstream_command_that_cannot_start_is_a_clear_error(files: Path) -> None:
    (files / "server.py").unlink()
    with pytest.raises((MCPError, BaseExceptionGroup)) as caught:
        talk(over_stdio(files), lambda client: client.list_tools())
    assert str(innermost(caught.value)) == UPSTREAM_GONE


@pytest.mark.parametrize("said", ["", INITIALIZE])
def test_the_command_ends_when_its_client_is_gone(files: Path, said: str) -> None:
    words = [str(files / "billing.policy"), "--upstream", shlex.join(forking.script(files / "server.py"))]
    command = [*forking.command(), "mcp-gateway", *words, "--server", "billing", "--as", "agent=bot"]
    ended = subprocess.run(command, input=said, capture_output=True, text=True, timeout=30)
    assert ended.returncode == 0
    assert [line.partition(": ")[0] for line in ended.stderr.splitlines()] == [
        "warning",  # about the issuer and the user that are missing
        "warning",  # about a confirm that cannot be answered
        'the tools of server "billing" are not pinned',
    ]


@pytest.mark.parametrize(
    ("mistaken", "who"),
    [({"agent": {"id": "bto", "issuer": "acme"}}, 'agent "bto"'), ({}, "a caller without an agent")],
)
def test_the_gateway_logs_why_a_caller_sees_no_tools(
    files: Path, watched: Watched, caplog: pytest.LogCaptureFixture, mistaken: dict[str, Any], who: str
) -> None:
    upstream = McpUpstream(shlex.join(forking.script(files / "server.py")), {}, {}, 20.0)

    async def run(client: Client) -> None:
        for _ in range(2):
            assert (await client.list_tools()).tools == []

    with serving(http_app(McpGateway(watched, "billing", always(mistaken), upstream))) as url:
        talk(f"{url}/mcp", run)
    assert [one for one in caplog.messages if "sees none" in one] == [
        f'{who} sees none of the tools of server "billing": the first, "add", is denied: '
        "no block of the policy accepts this caller with these credentials"
    ]


def test_the_end_of_a_server_is_described_in_words() -> None:
    assert describe_error(ExceptionGroup("", [anyio.EndOfStream()])) == "the server closed the connection"


def idle_messages() -> UpstreamMessages:
    decides = Watched(Engine.from_text(POLICY))
    return UpstreamMessages(decides, "billing", SessionCallers(), TaskDesk(decides, TaskTable()))


def test_an_unexpected_exception_denies_the_request_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(context: Any, call_next: Any) -> Any:
        raise RuntimeError("the disk is on fire")

    async def run() -> Any:
        to_client, client = anyio.create_memory_object_stream[SessionMessage](1)
        to_relay, from_client = anyio.create_memory_object_stream[SessionMessage](1)
        to_upstream, upstream = anyio.create_memory_object_stream[SessionMessage](1)
        with to_client, client, to_relay, from_client, to_upstream, upstream:
            relay = Relay(cast(PolicyMiddleware, fail), idle_messages(), to_client, to_upstream, 1.0)
            to_relay.close()
            await relay.run(
                SessionMessage(JSONRPCRequest(jsonrpc="2.0", id=1, method="x" * 100)), from_client, upstream
            )
            return client.receive_nowait().message

    answer = anyio.run(run)
    assert answer.error.message == "the gateway failed; the request was denied"
    (record,) = caplog.records
    assert (record.levelname, vars(record)["event"], vars(record)["method"]) == ("ERROR", "answer_failed", "x" * 80)
    assert "RuntimeError: the disk is on fire" in caplog.text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "no caller is named"),
        (["--as", "agent"], "`agent` is not a fact about the caller"),
        (["--as", "role=admin"], "`role=admin` is not a fact about the caller"),
        (["--as", "agent=a", "--as", "agent=b"], "`agent=b` is not a fact about the caller"),
        (["--from-header", "agent=x-agent"], "`--from-header` reads headers, and there are none over stdio"),
        (["--identity", "identity.toml"], "`--identity` reads headers, and there are none over stdio"),
        (["--as", "agent=x", "--public-url", "https://mcp.example.com"], "the gateway has no URL over stdio"),
        (["--as", "agent=x", "--port", "0", "--public-url", "mcp.example.com"], "is not a server URL"),
        (
            ["--as", "agent=a", "--host", "0.0.0.0", "--port", "0"],
            "`0.0.0.0` can be reached from other machines, and no token is verified\nhint: verify callers with "
            "`--identity FILE`",
        ),
        (
            ["--from-header", "agent=x-agent", "--host", "192.0.2.7", "--port", "0"],
            "`192.0.2.7` can be reached from other machines",
        ),
        (["--as", "agent=a", "--env", "NO_SUCH_VARIABLE"], "the environment variable `NO_SUCH_VARIABLE` is not set"),
    ],
)
def test_invalid_caller_options_are_a_usage_error(
    files: Path, options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = str(files / "billing.policy")
    assert main(["mcp-gateway", policy, "--upstream", "true", "--server", "billing", *options]) == 2
    assert words in capsys.readouterr().err


NAMED = {"--server": "billing", "agent": "bot", "issuer": "acme", "user": "alice"}
BY_NAME = POLICY.replace("user any {", 'user "alice" {').replace(
    'example"   scopes', 'example"   users like "al*"   scopes'
)


@pytest.mark.parametrize(
    ("changed", "words", "hint"),
    [
        ({"--server": "biling"}, "`--server biling`: no grant of the policies is for", "did you mean `billing`?"),
        ({"agent": "bto"}, "`--as agent=bto`: no block of the policies names this agent", "known: `bot`, `other`"),
        ({"agent": "xyz"}, "`--as agent=xyz`: no block of the policies names", "known: `bot`, `other`"),
        ({"issuer": "acne"}, "`--as issuer=acne`: no policy declares this issuer", "did you mean `acme`?"),
        ({"user": "alicia"}, "`--as user=alicia`: no block of the policies names", "did you mean `alice`?"),
        ({"user": "bob"}, "`--as user=bob`: `acme` may not name this user", ""),
        ({"scopes": "read,pay"}, "`--as scopes=read`: no grant of the policies requires this scope", ""),
    ],
)
def test_a_server_or_caller_name_without_a_matching_rule_is_rejected_with_a_hint(
    files: Path, changed: dict[str, str], words: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (files / "billing.policy").write_text(BY_NAME)
    named = {**NAMED, **changed}
    said = [word for name, value in named.items() if name != "--server" for word in ("--as", f"{name}={value}")]
    command = ["mcp-gateway", str(files / "billing.policy"), "--upstream", "true", "--server", named["--server"]]
    assert main([*command, *said]) == 2
    told = capsys.readouterr().err
    assert words in told
    assert hint in told


@pytest.mark.parametrize("upstream", ["", " ", "python3 'server.py"])
def test_an_invalid_upstream_is_a_usage_error(files: Path, upstream: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = ["--server", "billing", "--as", "agent=bot"]
    assert main(["mcp-gateway", str(files / "billing.policy"), "--upstream", upstream, *said]) == 2
    assert "is neither a URL nor a command" in capsys.readouterr().err


def test_the_gateway_follows_a_halt_file(files: Path) -> None:
    halts = files / "halts.json"
    halts.write_text('{"halts": []}')
    halts.chmod(0o600)

    async def run(client: Client) -> None:
        assert (await client.call_tool("add", {"a": 1, "b": 2})).content[0].text == "3"
        halts.write_text('{"halts": [{"agent": "bot", "reason": "it spams", "until": "2099-01-01T00:00:00Z"}]}')
        told = ""
        while not told:  # the test ends by its own time limit if the halt never arrives
            try:
                await client.call_tool("add", {"a": 1, "b": 2})
            except MCPError as error:
                told = error.message
        assert "halted until 2099-01-01T00:00:00Z: it spams" in told

    talk(over_stdio(files, "--halt-file", str(halts)), run)
