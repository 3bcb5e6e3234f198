"""Clients and upstream servers that misuse the two eras of MCP at the gateway: headers against bodies, sessions against
envelopes, requests and answers of others, floods."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import httpx
import pytest
from mcp.shared.exceptions import MCPError
from mcp.shared.memory import create_client_server_memory_streams
from mcp.shared.message import SessionMessage
from mcp_types.jsonrpc import jsonrpc_message_adapter
from starlette.testclient import TestClient

from policyengine.engine import Engine
from policyengine.integrations.mcp.clients.http_endpoint import MAX_REQUEST_BYTES
from policyengine.integrations.mcp.clients.request_states import STATE_SECONDS, RequestStates
from policyengine.integrations.mcp.clients.sessions import NOBODY, isolated_owner
from policyengine.integrations.mcp.gateway import McpGateway, http_app, identify_by_headers, parse_caller_facts
from policyengine.integrations.mcp.methods import DENIED, METHOD_NOT_FOUND
from policyengine.integrations.mcp.sdk import always
from policyengine.integrations.mcp.upstream import http_upstream, stream_upstream
from policyengine.integrations.mcp.upstream import server as upstream_module
from policyengine.integrations.mcp.upstream.calls import UpstreamCall
from policyengine.integrations.mcp.upstream.server import McpUpstream
from policyengine.integrations.mcp.upstream.session_pool import PARKED_SECONDS, SessionPool
from tests.integrations.conftest import BOT, POLICY, Watched
from tests.integrations.era_servers import (
    HELLO,
    LEGACY_VERSIONS,
    META,
    MODERN,
    EraServer,
    InProcessUpstream,
    envelope,
    gateway_of,
    modern_body,
    modern_headers,
    raw,
)
from tests.integrations.serving import serving
from tests.trusting import TRUSTING

ADD = {"name": "add", "arguments": {"a": 1, "b": 2}}
HEADER_MISMATCH, UNSUPPORTED, INVALID_PARAMS, INVALID_REQUEST = -32020, -32022, -32602, -32600
JSON = {"accept": "application/json, text/event-stream", "content-type": "application/json"}
SUPPORTED = [MODERN, *reversed(LEGACY_VERSIONS)]


def run(work: Any) -> Any:
    return asyncio.run(asyncio.wait_for(work, 60))


class Place:
    """A gateway over HTTP, and the server behind it."""

    def __init__(self, url: str, behind: EraServer, watched: Watched) -> None:
        self.url, self.behind, self.watched = url, behind, watched

    def post(self, body: Any, headers: Any = None, **more: str) -> httpx.Response:
        sent = [*(headers or modern_headers(body)).items()] if not isinstance(headers, list) else headers
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return httpx.post(self.url, content=content, headers=[*sent, *more.items()], timeout=20, trust_env=False)

    def refused(self, status: int, code: int, body: Any, headers: Any = None, **more: str) -> Any:
        """Return the error of a request that nobody decided, and that the server never saw."""
        decided, heard = len(self.watched.asked), self.behind.methods.count("tools/call")
        answer = self.post(body, headers, **more)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text
        assert (len(self.watched.asked), self.behind.methods.count("tools/call")) == (decided, heard)
        return answer.json()


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    behind = EraServer()
    watched = Watched(Engine.from_text(POLICY, "billing.policy", approvals=TRUSTING))
    with serving(behind) as upstream:
        gateway = McpGateway(watched, "billing", always(BOT), McpUpstream(f"{upstream}/mcp", {"x-own": "1"}, {}, 20.0))
        with serving(http_app(gateway)) as url:
            yield Place(f"{url}/mcp", behind, watched)


# ── Header against body ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "header",
    [
        {"mcp-method": "tools/list"},
        {"mcp-method": "tools/call,tools/call"},
        {"mcp-method": ""},
        {"mcp-name": "secret"},
        {"mcp-name": "ADD"},
        {"mcp-name": "=?base64?c2VjcmV0?="},
        {"mcp-name": "=?base64?YWRk"},
        {"mcp-name": "=?BASE64?YWRk?="},
        {"mcp-name": "=?base64?YWRl?="},
        {"mcp-protocol-version": "2026-07-29"},
    ],
)
def test_a_header_that_disagrees_with_the_body_is_refused(place: Place, header: dict[str, str]) -> None:
    body = modern_body("tools/call", ADD, "my id")
    answer = place.refused(400, HEADER_MISMATCH, body, {**modern_headers(body), **header})
    assert answer["id"] == "my id"


@pytest.mark.parametrize("name", ["mcp-protocol-version", "mcp-method", "mcp-name"])
def test_a_missing_or_repeated_routing_header_is_refused(place: Place, name: str) -> None:
    body = modern_body("tools/call", ADD)
    headers = modern_headers(body)
    place.refused(400, HEADER_MISMATCH, body, [*headers.items(), (name.title(), headers[name])])
    place.refused(400, HEADER_MISMATCH, body, {key: value for key, value in headers.items() if key != name})


def test_a_name_in_base64_is_decoded_before_it_is_compared(place: Place) -> None:
    body = modern_body("tools/call", ADD)
    answer = place.post(body, {**modern_headers(body), "mcp-name": "=?base64?YWRk?="})
    assert answer.json()["result"]["content"][0]["text"] == "3"
    assert place.behind.headers[-1]["mcp-name"] == "add"


def test_an_unsupported_version_is_refused_with_the_list_and_the_id_of_the_request(place: Place) -> None:
    body = modern_body("tools/call", ADD, 77, {**envelope(), f"{META}protocolVersion": "2027-01-01"})
    answer = place.refused(400, UNSUPPORTED, body, {**modern_headers(body), "mcp-protocol-version": "2027-01-01"})
    assert answer["id"] == 77
    assert answer["error"]["data"] == {"supported": SUPPORTED, "requested": "2027-01-01"}


@pytest.mark.parametrize("missing", ["protocolVersion", "clientCapabilities"])
def test_an_incomplete_envelope_is_refused(place: Place, missing: str) -> None:
    meta = {name: value for name, value in envelope().items() if name != f"{META}{missing}"}
    place.refused(400, INVALID_PARAMS, modern_body("tools/call", ADD, 1, meta))


# ── Sessions against envelopes ────────────────────────────────────────────────────────────────


def session_of(place: Place) -> dict[str, str]:
    begun = place.post({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": HELLO}, JSON)
    headers = {**JSON, "mcp-session-id": begun.headers["mcp-session-id"], "mcp-protocol-version": "2025-11-25"}
    place.post({"jsonrpc": "2.0", "method": "notifications/initialized"}, headers)
    return headers


def read_events(answer: httpx.Response) -> Any:
    """Return the last message of an answer, which is JSON or an event stream."""
    lines = [line.removeprefix("data:") for line in answer.text.splitlines() if line.startswith("data:")]
    return json.loads(lines[-1] if lines else answer.text)


def test_a_modern_request_uses_no_session_and_begins_none(place: Place) -> None:
    session = session_of(place)["mcp-session-id"]
    body = modern_body("tools/call", ADD)
    for name in (session, "an invented one"):
        answer = place.post(body, {**modern_headers(body), "mcp-session-id": name})
        assert answer.json()["result"]["content"][0]["text"] == "3"
        assert "mcp-session-id" not in answer.headers
        # the session's own upstream session may send a request at any time
        modern = [each for each in place.behind.headers if each.get("mcp-method") == "tools/call"]
        assert modern
        assert all("mcp-session-id" not in each for each in modern)


def test_a_modern_envelope_in_a_session_is_refused(place: Place) -> None:
    headers = session_of(place)
    for more in ({}, {"mcp-method": "tools/call", "mcp-name": "add"}):
        answer = read_events(place.post(modern_body("tools/call", ADD), {**headers, **more}))
        assert answer["error"]["data"]["kind"] == "modern_request_in_session"


def test_a_request_of_a_session_with_a_modern_version_header_is_refused(place: Place) -> None:
    body = {"jsonrpc": "2.0", "id": 5, "method": "tools/call", "params": ADD}
    answer = place.refused(400, INVALID_PARAMS, body, {**session_of(place), "mcp-protocol-version": MODERN})
    assert answer["id"] == 5


@pytest.mark.parametrize("version", [None, "2025-11-25"])
def test_an_envelope_without_its_version_header_is_refused(place: Place, version: str | None) -> None:
    more = {} if version is None else {"mcp-protocol-version": version}
    assert place.refused(400, HEADER_MISMATCH, modern_body("tools/call", ADD, 9), {**JSON, **more})["id"] == 9


def test_a_request_without_a_session_begins_none(place: Place) -> None:
    before = len(place.behind.methods)
    for message in ({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": ADD}, {"jsonrpc": "2.0"}, [HELLO], 1):
        place.refused(400, INVALID_REQUEST, message, JSON)
    place.refused(400, -32700, b"no json", JSON)
    for method in ("GET", "DELETE", "PUT"):
        assert httpx.request(method, place.url, headers=JSON, trust_env=False).status_code == 400
    assert "initialize" not in place.behind.methods[before:]


def test_initialize_is_unknown_to_the_modern_era(place: Place) -> None:
    for method in ("initialize", "ping", "logging/setLevel", "resources/subscribe", "no/such", "tasks/create"):
        place.refused(404, METHOD_NOT_FOUND, modern_body(method, {"uri": "docs://open/a"}))


def test_on_one_connection_a_client_has_one_era(watched: Watched) -> None:
    async def work() -> None:
        async with raw(gateway_of(watched, EraServer())) as client:
            await client.ask_modern("tools/list")
            with pytest.raises(MCPError) as caught:
                await client.ask("initialize", HELLO)
            assert (caught.value.code, caught.value.error.data["supported"]) == (UNSUPPORTED, SUPPORTED)
            with pytest.raises(MCPError) as caught:
                await client.ask("tools/call", ADD)
            assert caught.value.code == INVALID_PARAMS
        async with raw(gateway_of(watched, EraServer())) as client:
            await client.begin()
            answer = await client.refused("tools/call", ADD)
            assert answer["data"]["kind"] == "modern_request_in_session"
            with pytest.raises(MCPError) as caught:
                await client.ask("server/discover", {})
            assert caught.value.code == METHOD_NOT_FOUND

    run(work())
    assert watched.asked == []


# ── Malformed messages ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"no json", -32700),
        (b"\xff\xfe", -32700),
        (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, -32700),
        (b"[]", INVALID_REQUEST),
        (json.dumps([modern_body("tools/call", ADD)]).encode(), INVALID_REQUEST),
        (b'{"jsonrpc": "2.0", "id": 1, "result": {}}', INVALID_REQUEST),
        (json.dumps(modern_body("tools/call", ADD, None)).encode(), INVALID_REQUEST),
        (json.dumps(modern_body("tools/call", ADD, True)).encode(), INVALID_REQUEST),
        (json.dumps(modern_body("tools/call", ADD, 1.5)).encode(), INVALID_REQUEST),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": [1]}', INVALID_REQUEST),
    ],
)
def test_what_is_no_single_request_is_refused(place: Place, body: bytes, code: int) -> None:
    headers = modern_headers(modern_body("tools/call", ADD))
    assert place.refused(400, code, body, headers)["id"] is None


def test_an_oversized_body_is_refused(place: Place) -> None:
    body = modern_body("tools/call", {**ADD, "x": "a" * MAX_REQUEST_BYTES})
    place.refused(413, INVALID_REQUEST, body)


def test_the_refusal_of_an_oversized_body_says_that_the_connection_ends(place: Place) -> None:
    """Otherwise the client sends its next request on this connection, and loses it."""
    large, body = modern_body("tools/call", {**ADD, "x": "a" * MAX_REQUEST_BYTES}), modern_body("tools/call", ADD)
    with httpx.Client(trust_env=False) as client:
        refused = client.post(place.url, json=large, headers=modern_headers(large))
        assert (refused.status_code, refused.headers["connection"]) == (413, "close")
        assert client.post(place.url, json=body, headers=modern_headers(body)).status_code == 200


@pytest.mark.parametrize("path", ["/", "/MCP", "/mcp/", "/sse"])
def test_another_path_names_the_endpoint(place: Place, path: str) -> None:
    answer = httpx.post(place.url.removesuffix("/mcp") + path, json=modern_body("tools/call", ADD), trust_env=False)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, INVALID_REQUEST)
    assert "`/mcp`" in answer.json()["error"]["message"]


def test_only_posts_of_json_that_accept_both_answers_are_served(place: Place) -> None:
    body = modern_body("tools/call", ADD)
    for method in ("GET", "DELETE", "PUT"):
        answer = httpx.request(method, place.url, headers={"mcp-protocol-version": MODERN}, trust_env=False)
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST"), method
    for header in ({"accept": "application/json"}, {"accept": "text/event-stream"}, {"accept": ""}):
        assert place.post(body, {**modern_headers(body), **header}).status_code == 406
    assert place.post(body, {**modern_headers(body), "content-type": "text/plain"}).status_code == 415


def test_a_notification_is_accepted_and_cancels_nothing_of_others(place: Place) -> None:
    notification = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}
    answer = place.post(notification, {**JSON, "mcp-protocol-version": MODERN})
    assert (answer.status_code, answer.content) == (202, b"")
    place.refused(400, UNSUPPORTED, notification, {**JSON, "mcp-protocol-version": "2027-01-01"})


def test_a_repeated_member_is_refused_or_unknown(place: Place) -> None:
    body = json.dumps(modern_body("tools/call", {"name": "refund", "arguments": {"amount": 5}}))
    headers = modern_headers(modern_body("tools/call", {"name": "refund"}))
    assert place.post(body.encode(), headers).json()["result"]["content"][0]["text"] == 'refund {"amount": 5}'
    repeated = body.replace('"amount": 5', '"amount": 900, "amount": 5')
    assert "a duplicate key" in place.post(repeated.encode(), headers).json()["error"]["message"]
    for change in ('"name": "secret", "name": "refund"', '"name": "refund", "Name": "secret"'):
        changed = body.replace('"name": "refund"', change).encode()
        place.refused(400, INVALID_REQUEST, changed, headers)
    for more in (
        '"requestState": "a", "requestState": "b"',
        '"RequestState": "a"',
        '"INPUTRESPONSES": {}',
        '"_META": {}',
    ):
        changed = body.replace('"name": "refund"', f'"name": "refund", {more}').encode()
        place.refused(400, INVALID_REQUEST, changed, headers)


def test_a_second_method_in_a_body_reaches_no_parser_of_the_server(place: Place) -> None:
    """A list is not compared with its raw body: the server gets what the gateway has read, encoded again."""
    listing = json.dumps(modern_body("tools/list"))
    headers = modern_headers(modern_body("tools/list"))
    for change in ('"method": "tools/call", "method": "tools/list"', '"Method": "tools/call", "method": "tools/list"'):
        place.post(listing.replace('"method": "tools/list"', change).encode(), headers)
        assert place.behind.methods[-1] == "tools/list"


# ── What goes upstream ────────────────────────────────────────────────────────────────────────


def test_no_header_and_token_of_a_client_goes_upstream(place: Place) -> None:
    body = modern_body("tools/call", ADD)
    more = {"authorization": "Bearer secret", "cookie": "a=b", "x-api-key": "secret", "mcp-param-region": "west"}
    assert place.post(body, {**modern_headers(body), **more}).status_code == 200
    sent = place.behind.headers[-1]
    assert sent["x-own"] == "1"
    assert more.keys().isdisjoint(sent)


def test_a_client_that_leaves_cancels_its_call(place: Place) -> None:
    before, reports = place.behind.cancelled, len(place.watched.reports)

    async def work() -> None:
        body = modern_body("tools/call", {"name": "slow"})
        async with httpx.AsyncClient(trust_env=False) as client:
            calling = asyncio.create_task(client.post(place.url, json=body, headers=modern_headers(body)))
            while place.behind.methods[-1] != "tools/call":
                await asyncio.sleep(0.005)
            calling.cancel()
            await asyncio.gather(calling, return_exceptions=True)
        while place.behind.cancelled == before or len(place.watched.reports) == reports:
            await asyncio.sleep(0.005)

    place.behind.heard.append(("", "", None))
    run(work())
    assert place.watched.reports[-1]["status"] == 500


SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer", "x-mcp-header": "Region"}, "b": {"type": "integer"}},
}


def test_param_headers_are_checked_and_written_from_the_arguments(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mcp_types import ListToolsResult, Tool

    behind = EraServer("modern")

    async def tools(context: Any, params: Any) -> ListToolsResult:
        return ListToolsResult(tools=[Tool(name="add", input_schema=SCHEMA)])

    monkeypatch.setattr(behind, "_tools", tools)
    behind.__post_init__()
    with serving(behind) as upstream:
        gateway = McpGateway(watched, "billing", always(BOT), McpUpstream(f"{upstream}/mcp", {}, {}, 20.0))
        with serving(http_app(gateway)) as url:
            place = Place(f"{url}/mcp", behind, watched)
            body = modern_body("tools/call", ADD)
            headers = modern_headers(body)
            assert place.post(body).json()["result"]["content"][0]["text"] == "3"  # the server asks for the header
            assert behind.headers[-1]["mcp-param-region"] == "1"
            for wrong in ({"mcp-param-region": "2"}, {}, {"mcp-param-region": "=?base64?!?="}):
                answer = place.post(body, {**headers, **wrong})
                assert (answer.status_code, answer.json()["error"]["code"]) == (400, HEADER_MISMATCH), wrong
            both = [*headers.items(), ("mcp-param-region", "1"), ("Mcp-Param-Region", "1")]
            assert place.post(body, both).status_code == 400
            assert place.post(body, {**headers, "mcp-param-region": "1"}).status_code == 200


# ── States of others ──────────────────────────────────────────────────────────────────────────


def by_agent() -> Any:
    said = {"issuer": "acme", "user": "alice"}
    return identify_by_headers({"agent": "x-agent"}, lambda found: parse_caller_facts({**said, **found}))


@pytest.mark.parametrize("speaks", ["modern", "legacy"])
def test_a_state_belongs_to_its_caller_and_its_request(speaks: str) -> None:
    rule = 'agent "spy" { issued by acme   acts for any user   may TOOL billing/ask }'
    watched = Watched(Engine.from_text(POLICY + rule, "billing.policy", approvals=TRUSTING))
    behind = EraServer(speaks)
    with serving(behind) as upstream:
        gateway = McpGateway(watched, "billing", by_agent(), McpUpstream(f"{upstream}/mcp", {}, {}, 20.0))
        with serving(http_app(gateway)) as url:
            place = Place(f"{url}/mcp", behind, watched)

            def ask(agent: str, arguments: Any, **more: Any) -> Any:
                meta = envelope({"elicitation": {"form": {}}})
                body = modern_body("tools/call", {"name": "ask", "arguments": arguments, **more}, 1, meta)
                return place.post(body, {**modern_headers(body), "x-agent": agent}).json()

            first = ask("bot", {"x": 1})["result"]
            state, [key] = first["requestState"], first["inputRequests"]
            answers = {key: {"action": "accept", "content": {}}}
            for agent, arguments, used in (
                ("spy", {"x": 1}, state),
                ("bot", {"x": 2}, state),
                ("bot", {"x": 1}, state[:-1]),
                ("bot", {"x": 1}, state + "x"),
                ("bot", {"x": 1}, "state of the server"),
                ("bot", {"x": 1}, ""),
                ("bot", {"x": 1}, 5),
            ):
                answer = ask(agent, arguments, requestState=used, inputResponses=answers)
                assert answer["error"]["data"]["kind"] == "foreign_state", (agent, arguments, used)
            assert ask("bot", {"x": 1}, requestState=state, inputResponses=answers)["result"]["content"]
            if speaks == "legacy":  # the call has ended; it does not run again
                again = ask("bot", {"x": 1}, requestState=state, inputResponses=answers)
                assert again["error"]["data"]["kind"] == "foreign_state"


def test_a_state_expires_and_its_time_cannot_be_changed() -> None:
    now = 1_000.0
    states = RequestStates(lambda: now)
    owner, params = ("=bot", "", "", ""), {"name": "ask", "arguments": {}}
    sealed = states.seal("a.b.c", owner, "tools/call", params)
    assert states.open(sealed, owner, "tools/call", params) == "a.b.c"
    expires = sealed.split(".")[1]
    for changed in (f"0{expires}", f"{expires}0", "", "x", "9" * 30, "٣"):
        with pytest.raises(MCPError):
            states.open(sealed.replace(expires, changed, 1), owner, "tools/call", params)
    with pytest.raises(MCPError):
        states.open(sealed, owner, "prompts/get", params)
    with pytest.raises(MCPError):
        RequestStates(lambda: now).open(sealed, owner, "tools/call", params)  # of another process
    now += STATE_SECONDS + 1
    with pytest.raises(MCPError):
        states.open(sealed, owner, "tools/call", params)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"agent": {"id": "a", "issuer": "b"}}, {"agent": {"id": "a"}, "user": {"id": "b"}}),
        ({"agent": {"id": "a"}}, {"user": {"id": "a"}}),
        ({"agent": {"id": "a"}}, {"agent": {"id": "a", "issuer": ""}}),
        ({"agent": {"id": "a"}, "credential": {"issuer": "x"}}, {"agent": {"id": "a"}, "credential": {"issuer": "y"}}),
    ],
)
def test_callers_that_differ_in_one_name_are_different_owners(one: Any, other: Any) -> None:
    assert isolated_owner(one) != isolated_owner(other)
    assert NOBODY not in (isolated_owner(one), isolated_owner(other))
    assert isolated_owner({**one, "credentials": {}}) == isolated_owner({}) == NOBODY


# ── Upstream servers over HTTP ────────────────────────────────────────────────────────────────


class ScriptedUpstream:
    """A modern server over HTTP that answers `tools/call` with what the test says: a status, a content type, and parts,
    in which `$id` is the ID of the request. `None` as a part waits for ever."""

    def __init__(self, status: int, kind: str, *parts: str | None, **headers: str) -> None:
        self.status, self.kind, self.parts, self.headers = status, kind, parts, headers
        self.left = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        asked = json.loads((await receive())["body"])
        if asked["method"] == "server/discover":
            found = {"supportedVersions": [MODERN], "capabilities": {}, "resultType": "complete"}
            body = json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": found})
            return await self._send(send, 200, "application/json", [body], asked["id"])
        try:
            await self._send(send, self.status, self.kind, self.parts, asked["id"])
        except asyncio.CancelledError:
            self.left += 1
            raise

    async def _send(self, send: Any, status: int, kind: str, parts: Any, id: int) -> None:
        headers = [(b"content-type", kind.encode()), *((k.encode(), v.encode()) for k, v in self.headers.items())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        for part in parts:
            if part is None:
                await asyncio.sleep(3600)
            body = (part or "").replace("$id", str(id)).encode()
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def event(message: str) -> str:
    return f"event: message\r\ndata: {message}\r\n\r\n"


def answer_of(words: str, id: str = "$id") -> str:
    result = f'{{"content":[{{"type":"text","text":"{words}"}}],"resultType":"complete"}}'
    return f'{{"jsonrpc":"2.0","id":{id},"result":{result}}}'


PROGRESS = '{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":%s,"progress":1}}'
STREAM, PLAIN = "text/event-stream", "application/json"


@dataclass(eq=False)
class ScriptedPlace:
    """A gateway in front of a server that changes from test to test."""

    place: Place
    current: ScriptedUpstream | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self.current is not None:
            await self.current(scope, receive, send)


@pytest.fixture(scope="module")
def scripted_place() -> Iterator[ScriptedPlace]:
    watched = Watched(Engine.from_text(POLICY, "billing.policy", approvals=TRUSTING))
    found = ScriptedPlace(Place("", EraServer(), watched))
    with serving(found) as behind:
        gateway = McpGateway(watched, "billing", always(BOT), McpUpstream(f"{behind}/mcp", {}, {}, 1.0))
        with serving(http_app(gateway)) as url:
            found.place.url = f"{url}/mcp"
            yield found


@pytest.fixture
def scripted(scripted_place: ScriptedPlace) -> Callable[..., httpx.Response]:
    """Call a tool of a server that answers as the test says."""

    def call(upstream: ScriptedUpstream, meta: Any = None) -> httpx.Response:
        scripted_place.current = upstream
        scripted_place.place.watched.reports.clear()
        body = modern_body("tools/call", ADD, 1, meta)
        return scripted_place.place.post(body)

    return call


@pytest.mark.parametrize(
    ("upstream", "words"),
    [
        (ScriptedUpstream(200, PLAIN, answer_of("x", "9999")), "not an answer to the request"),
        (ScriptedUpstream(200, PLAIN, answer_of("x", '"$id"')), "not an answer to the request"),
        (ScriptedUpstream(200, STREAM, event(answer_of("x", "9999"))), "not an answer to the request"),
        (ScriptedUpstream(200, STREAM, event(PROGRESS % "1")), "ended its stream without an answer"),
        (ScriptedUpstream(200, PLAIN, "no json"), "not JSON"),
        (ScriptedUpstream(200, PLAIN, '{"a":' * 10_000), "not JSON"),
        (ScriptedUpstream(200, PLAIN, "[]"), "not a message"),
        (ScriptedUpstream(200, PLAIN, '{"jsonrpc":"2.0","id":$id,"result":[]}'), "not an answer to the request"),
        (ScriptedUpstream(200, "text/html", "<html>"), "HTTP 200, which is not an answer of MCP"),
        (ScriptedUpstream(302, PLAIN, "", location="http://127.0.0.1:9/"), "HTTP 302, which is not an answer of MCP"),
        (ScriptedUpstream(500, PLAIN, "{}"), "the upstream server failed: HTTP 500"),
        (
            ScriptedUpstream(401, PLAIN, "", **{"www-authenticate": "Bearer x"}),
            "refuses the credentials of the gateway",
        ),
        (ScriptedUpstream(202, PLAIN), "HTTP 202, which is not an answer of MCP"),
    ],
)
def test_an_answer_that_is_none_is_an_error(
    upstream: Any, words: str, scripted: Callable[..., Any], scripted_place: ScriptedPlace
) -> None:
    answer = scripted(upstream)
    assert answer.status_code == 200
    assert words in answer.json()["error"]["message"]
    assert "www-authenticate" not in answer.headers
    assert [one["status"] for one in scripted_place.place.watched.reports] == [500]


def test_of_two_answers_the_first_counts(scripted: Callable[..., Any]) -> None:
    upstream = ScriptedUpstream(200, STREAM, event(answer_of("first")), event(answer_of("second")), None)
    assert scripted(upstream).json()["result"]["content"][0]["text"] == "first"


def test_a_stream_that_never_ends_ends_at_the_time_limit(scripted: Callable[..., Any]) -> None:
    answer = scripted(ScriptedUpstream(200, STREAM, event(PROGRESS % "$id"), None))
    assert "did not answer within 1 second" in answer.json()["error"]["message"]


@pytest.mark.parametrize("part", [event(PROGRESS % "$id"), ": " + "x" * 500 + "\r\n\r\n"])
def test_a_flood_of_events_ends_the_call(
    part: str, scripted: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_upstream, "MAX_ANSWER_BYTES", 20_000)
    upstream = ScriptedUpstream(200, STREAM, *([part * 100] * 20), event(answer_of("late")))
    assert "sends too much" in scripted(upstream).json()["error"]["message"]


def test_an_answer_that_is_too_large_ends_the_call(
    scripted: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_upstream, "MAX_ANSWER_BYTES", 2_000)
    large = answer_of("x" * 3_000)
    for upstream in (ScriptedUpstream(200, PLAIN, large), ScriptedUpstream(200, STREAM, event(large))):
        assert "error" in scripted(upstream).json()


def test_progress_with_the_token_of_another_request_is_dropped(scripted: Callable[..., Any]) -> None:
    tokens = ("12345", '"mine"', "true", "$id.0")
    events = [event(PROGRESS % token) for token in tokens]
    question = '{"jsonrpc":"2.0","id":7,"method":"elicitation/create","params":{}}'
    upstream = ScriptedUpstream(200, STREAM, *events, event(question), event(answer_of("done")))
    answer = scripted(upstream, {**envelope(), "progressToken": "mine"})
    assert answer.headers["content-type"] == PLAIN  # no notification was passed on
    assert answer.json()["result"]["content"][0]["text"] == "done"


@pytest.mark.parametrize(
    ("status", "words"), [(401, "refuses the credentials"), (503, "failed: HTTP 503"), (429, "429")]
)
def test_an_outage_says_nothing_about_the_version_of_a_server(status: int, words: str, watched: Watched) -> None:
    """The gateway opens no session with such a server, and asks again with the next request."""
    heard: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            heard.append(json.loads((await receive())["body"])["method"])
            await send({"type": "http.response.start", "status": status, "headers": []})
            await send({"type": "http.response.body", "body": b""})

    with serving(app) as behind:
        gateway = McpGateway(watched, "billing", always(BOT), McpUpstream(f"{behind}/mcp", {}, {}, 5.0))
        with TestClient(http_app(gateway), base_url="http://127.0.0.1") as client:
            for _ in range(2):
                body = modern_body("tools/call", ADD)
                answer = client.post("/mcp", json=body, headers=modern_headers(body))
                assert words in answer.json()["error"]["message"]
    assert heard == ["server/discover"] * 2


@pytest.mark.parametrize("headers", [{}, {"content-encoding": "gzip"}])
def test_an_answer_of_a_session_has_a_limit_and_is_not_compressed(
    headers: dict[str, str], watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream_module, "MAX_ANSWER_BYTES", 20_000)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            return
        asked = json.loads((await receive())["body"])
        found = {"protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": {"name": "b", "version": "1"}}
        is_call = asked["method"] == "tools/call"
        body = json.dumps({"jsonrpc": "2.0", "id": asked.get("id"), "result": {"content": []} if is_call else found})
        sent = {"content-type": PLAIN, **(headers if is_call else {})}
        await send({"type": "http.response.start", "status": 200, "headers": [
            (name.encode(), value.encode()) for name, value in sent.items()
        ]})  # fmt: skip
        padding = b" " * 30_000 if is_call and not headers else b""
        await send({"type": "http.response.body", "body": body.encode() + padding})

    with serving(app) as behind:
        gateway = McpGateway(watched, "billing", always(BOT), McpUpstream(f"{behind}/mcp", {}, {}, 5.0))

        async def work() -> None:
            async with raw(gateway) as client:
                await client.begin()
                with pytest.raises(MCPError, match="the upstream server"):
                    await client.ask("tools/call", ADD)

        run(work())


# ── Upstream servers over stdio ───────────────────────────────────────────────────────────────


class ScriptedStream:
    """A modern server over stdio that answers each call with `reply`, which gets the calls so far."""

    speaks = "modern"

    def __init__(self, reply: Callable[[list[Any]], list[Any]]) -> None:
        self.reply, self.calls, self.said = reply, list[Any](), list[Any]()
        self.methods: list[str] = []

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[tuple[Any, Any]]:
        async with (
            create_client_server_memory_streams() as (client, (reader, writer)),
            anyio.create_task_group() as group,
        ):
            group.start_soon(self._serve, reader, writer)
            yield client
            group.cancel_scope.cancel()

    async def _serve(self, reader: Any, writer: Any) -> None:
        async for item in reader:
            asked = item.message.model_dump(by_alias=True, exclude_unset=True)
            self.methods.append(asked.get("method", ""))
            if asked.get("method") == "server/discover":
                found = {"supportedVersions": [MODERN], "capabilities": {}, "resultType": "complete"}
                replies = [{"jsonrpc": "2.0", "id": asked["id"], "result": found}]
            elif asked.get("method") == "tools/call":
                self.calls.append(asked)
                replies = self.reply(self.calls)
            else:
                self.said.append(asked)
                replies = []
            for one in replies:
                await writer.send(SessionMessage(jsonrpc_message_adapter.validate_python(one)))


def result(id: Any, words: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": id, "result": {"content": [{"type": "text", "text": words}]}}


def notice(method: str, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "method": f"notifications/{method}", "params": params}


@asynccontextmanager
async def two_clients(gateway: McpGateway) -> AsyncIterator[tuple[Any, Any]]:
    async with gateway.running(), raw(gateway) as first, raw(gateway) as second:
        yield first, second


def test_two_callers_with_equal_ids_and_tokens_get_their_own_messages(watched: Watched) -> None:
    """Both callers share the process of a modern server."""

    def reply(calls: list[Any]) -> list[Any]:
        if len(calls) < 2:
            return []
        ids = [one["id"] for one in calls]
        tokens = [one["params"]["_meta"]["progressToken"] for one in calls]
        assert len(set(ids)) == len(set(tokens)) == 2
        words = [one["params"]["arguments"]["of"] for one in calls]
        progress = [
            notice("progress", progressToken=token, progress=1, message=w)
            for token, w in zip(tokens, words, strict=True)
        ]
        return [*progress, result(ids[1], words[1]), result(ids[0], words[0])]

    async def work() -> None:
        async with two_clients(gateway_of(watched, ScriptedStream(reply))) as clients:  # type: ignore[arg-type]
            for client, name in zip(clients, "ab", strict=True):
                params = {"name": "add", "arguments": {"of": name}}
                await client.send(modern_body("tools/call", params, 1, {**envelope(), "progressToken": 1}))
            for client, name in zip(clients, "ab", strict=True):
                told = await client.receive()
                assert told["params"] == {"progressToken": 1, "progress": 1, "message": name}
                answer = await client.receive()
                assert (answer["id"], answer["result"]["content"][0]["text"]) == (1, name)

    run(work())


def test_answers_notifications_and_requests_that_belong_to_nobody_are_dropped(watched: Watched) -> None:
    def reply(calls: list[Any]) -> list[Any]:
        id = calls[-1]["id"]
        return [
            result(id + 1, "of a later request"),
            result(str(id), "another type"),
            notice("progress", progressToken=id, progress=1),  # its client wants none
            notice("message", level="info", data="of whom?"),
            notice("tools/list_changed"),
            notice("resources/updated", uri="docs://open/a"),
            notice("elicitation/complete", elicitationId="x"),
            notice("cancelled", requestId=id + 1),
            {"jsonrpc": "2.0", "id": 1, "method": "sampling/createMessage", "params": {}},
            result(id, "right"),
            result(id, "twice"),
        ]

    behind = ScriptedStream(reply)

    async def work() -> None:
        async with two_clients(gateway_of(watched, behind)) as (client, _):  # type: ignore[arg-type]
            for number in (1, 2):
                meta = {**envelope(), f"{META}logLevel": "debug"}
                await client.send(modern_body("tools/call", ADD, number, meta))
                answer = await client.receive()
                assert (answer["id"], answer["result"]["content"][0]["text"]) == (number, "right")

    run(work())
    assert [one["error"]["code"] for one in behind.said] == [METHOD_NOT_FOUND] * 2


def test_a_flood_of_notifications_is_dropped_and_the_answer_is_not(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_upstream, "MAX_BACKLOG", 3)

    def reply(calls: list[Any]) -> list[Any]:
        id = calls[-1]["id"]
        return [*(notice("progress", progressToken=id, progress=n) for n in range(1_000)), result(id, "done")]

    async def work() -> None:
        async with raw(gateway_of(watched, ScriptedStream(reply))) as client:  # type: ignore[arg-type]
            found = await client.ask_modern("tools/call", ADD, {**envelope(), "progressToken": 1})
            assert found["content"][0]["text"] == "done"

    run(work())


def test_a_server_that_ends_ends_the_calls_and_is_started_again(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_upstream, "RESTART_SECONDS", 0.0)
    behind = EraServer("modern")
    connections = []
    connect = behind.connect

    @asynccontextmanager
    async def connecting() -> AsyncIterator[tuple[Any, Any]]:
        async with connect() as streams:
            connections.append(streams)
            yield streams

    monkeypatch.setattr(behind, "connect", connecting)

    async def work() -> None:
        async with raw(gateway_of(watched, behind)) as client:
            await client.send(modern_body("tools/call", {"name": "slow"}, 7))
            while "tools/call" not in behind.methods:
                await anyio.sleep(0.001)
            connections[-1][0].close()
            assert "has ended" in (await client.receive())["error"]["message"]
            assert (await client.ask_modern("tools/call", ADD))["content"][0]["text"] == "3"
        assert len(connections) == 2

    run(work())


def test_an_id_in_use_and_a_cancelled_id_of_another_are_refused(watched: Watched) -> None:
    behind = EraServer("modern")

    async def work() -> None:
        async with two_clients(gateway_of(watched, behind)) as (client, other):
            await client.send(modern_body("tools/call", {"name": "slow"}, 7))
            while "tools/call" not in behind.methods:
                await anyio.sleep(0.001)
            answer = await client.answer(modern_body("tools/call", ADD, 7))
            assert answer["error"]["message"] == "another request in progress has this id"
            for id in (7, "7", 1, 2, 3, True, None):  # of another client, and as it may be upstream
                cancelled = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": id}}
                await other.send(cancelled)
            assert (await other.ask_modern("tools/call", ADD))["content"][0]["text"] == "3"
            assert behind.cancelled == 0

    run(work())


# ── Sessions of callers ───────────────────────────────────────────────────────────────────────


def pool_call(owner: str | None, method: str = "tools/call", params: Any = None, **more: Any) -> UpstreamCall:
    stamped = {**(params or ADD), "_meta": envelope({"elicitation": {"form": {}}}), **more}
    return UpstreamCall(method, stamped, 1, NOBODY if owner is None else (owner,))


@asynccontextmanager
async def pool_of(behind: EraServer, most: int = 100, limit: float = 5.0, **options: Any) -> AsyncIterator[SessionPool]:
    upstream = InProcessUpstream("memory", {}, {}, limit, max_sessions=most)
    object.__setattr__(upstream, "behind", behind)
    async with anyio.create_task_group() as group:
        pool = SessionPool(upstream, group, **options)
        yield pool
        await pool.close()
        group.cancel_scope.cancel()


def test_callers_never_share_a_session_and_nobody_keeps_one() -> None:
    behind = EraServer("legacy")

    async def work() -> None:
        async with pool_of(behind) as pool:
            for owner in ("a", "b", "a", "b", None, None):
                await pool.exchange(pool_call(owner))
            assert behind.methods.count("initialize") == 4
            assert sorted(one.owner for one in pool._open) == [("a",), ("b",)]
            other = UpstreamCall("tools/call", {**ADD, "_meta": envelope()}, 1, ("a",))
            await pool.exchange(other)  # a client with other capabilities
            assert behind.methods.count("initialize") == 5

    run(work())


def test_sessions_are_bounded_and_idle_ones_make_room(caplog: pytest.LogCaptureFixture) -> None:
    behind = EraServer("legacy")

    async def work() -> None:
        async with pool_of(behind, most=2, seconds=0.05) as pool, anyio.create_task_group() as group:
            for owner in "abc":
                await pool.exchange(pool_call(owner))
            assert [one.owner for one in pool._open] == [("b",), ("c",)]
            for owner in "bc":
                group.start_soon(pool.exchange, pool_call(owner, params={"name": "slow"}))
            while behind.methods.count("tools/call") < 5:
                await anyio.sleep(0.001)
            with pytest.raises(MCPError) as caught:
                await pool.exchange(pool_call("d"))
            assert caught.value.error.data["kind"] == "sessions_busy"
            assert caplog.messages == [
                "a request was refused: all 2 sessions with the upstream server are in use, by 2 callers"
            ]
            with anyio.move_on_after(0.05) as waiting:  # one of its own is in use: the call waits for it
                await pool.exchange(pool_call("b"))
            assert waiting.cancelled_caught
            group.cancel_scope.cancel()

    run(work())


def test_idle_sessions_and_parked_calls_end(monkeypatch: pytest.MonkeyPatch) -> None:
    behind = EraServer("legacy")

    async def work() -> None:
        async with pool_of(behind) as pool:
            await pool.exchange(pool_call("a"))
            first = await pool.exchange(pool_call("a", params={"name": "ask"}))
            await pool.exchange(pool_call("b"))
            assert first["resultType"] == "input_required"
            pool.end_expired()
            assert len(pool._open) == 2
            monkeypatch.setattr(anyio, "current_time", lambda: asyncio.get_running_loop().time() + PARKED_SECONDS + 1)
            pool.end_expired()
            assert [one.owner for one in pool._open] == [("b",)]
            with pytest.raises(MCPError) as caught:
                await pool.exchange(pool_call("a", params={"name": "ask"}, requestState=first["requestState"]))
            assert caught.value.error.data["kind"] == "foreign_state"

    run(work())


def test_parked_calls_of_a_caller_are_bounded_and_a_missing_answer_is_asked_for_again() -> None:
    behind = EraServer("legacy")

    async def work() -> None:
        async with pool_of(behind) as pool:
            asked = [await pool.exchange(pool_call("a", params={"name": "ask"})) for _ in range(4)]
            assert [one["resultType"] for one in asked] == ["input_required"] * 4
            with pytest.raises(MCPError, match="cannot be asked"):
                await pool.exchange(pool_call("a", params={"name": "ask"}))
            [key] = asked[0]["inputRequests"]
            state = asked[0]["requestState"]
            for answers in ({}, {"other": {}}, {key: "yes"}, []):
                again = pool_call("a", params={"name": "ask"}, requestState=state, inputResponses=answers)
                found = await pool.exchange(again)
                assert found["inputRequests"] == asked[0]["inputRequests"]
                assert found["requestState"] != state
                state = found["requestState"]

    run(work())


def test_a_server_asks_nobody_who_has_no_name() -> None:
    async def work() -> None:
        async with pool_of(EraServer("legacy")) as pool:
            with pytest.raises(MCPError, match="cannot be asked"):
                await pool.exchange(pool_call(None, params={"name": "ask"}))

    run(work())


def test_subscriptions_of_a_caller_are_bounded(watched: Watched) -> None:
    async def work() -> None:
        async with raw(gateway_of(watched, EraServer("modern"))) as client:
            for number in range(8):
                await client.send(modern_body("subscriptions/listen", {"notifications": {}}, number))
                await client.receive()
            assert "too many" in (await client.refused("subscriptions/listen", {"notifications": {}}))["message"]

    run(work())


def test_a_denied_call_reaches_no_server_of_either_era(watched: Watched) -> None:
    async def work() -> None:
        for speaks in ("modern", "legacy"):
            behind = EraServer(speaks)
            async with raw(gateway_of(watched, behind)) as client:
                assert (await client.refused("tools/call", {"name": "secret"}))["code"] == DENIED
            assert "tools/call" not in behind.methods

    run(work())
