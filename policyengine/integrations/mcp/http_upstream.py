"""A modern upstream server over HTTP: one pool of connections for all callers, one exchange for each request."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Mapping
from itertools import count
from typing import Any

import anyio

from policyengine.install_hints import install_command
from policyengine.integrations.mcp.caller_places import CallerPlaces
from policyengine.integrations.mcp.eras import MODERN_VERSION
from policyengine.integrations.mcp.event_stream import EventStreamError, read_event_data
from policyengine.integrations.mcp.relay import UPSTREAM_GONE
from policyengine.integrations.mcp.tasks import TASK_METHODS
from policyengine.integrations.mcp.tool_headers import ToolHeaders
from policyengine.integrations.mcp.upstream import CONNECT_SECONDS, MAX_ANSWER_BYTES, McpUpstream, describe_error
from policyengine.integrations.mcp.upstream_calls import UpstreamCall, read_answer
from policyengine.plurals import format_seconds

try:
    import httpcore2
    import httpx2
    import pydantic_core
    from mcp.shared.exceptions import MCPError
    from mcp.shared.inbound import (
        MCP_METHOD_HEADER,
        MCP_NAME_HEADER,
        MCP_PROTOCOL_VERSION_HEADER,
        NAME_BEARING_METHODS,
        encode_header_value,
    )
    from mcp_types import HEADER_MISMATCH, INTERNAL_ERROR
except ImportError as error:
    raise ImportError(f"the `mcp` SDK is not installed; {install_command('mcp')}") from error

MAX_LISTEN_BYTES = 1024 * 1024  # of one event of a subscription
MAX_CONNECTIONS = 200
MAX_CALLER_REQUESTS = 100  # in progress, so that one caller cannot occupy all connections
MAX_IDLE_CONNECTIONS = 32
IDLE_SECONDS = 5.0  # servers close idle connections, too, and a request that meets the end of one fails
CONNECTION_ERRORS = (
    httpcore2.TimeoutException,
    httpcore2.NetworkError,
    httpcore2.ProtocolError,
    httpcore2.UnsupportedProtocol,
)
TIMEOUTS = {"timeout": {"connect": CONNECT_SECONDS, "pool": CONNECT_SECONDS}}
ENDPOINT_HEADERS = {
    "accept": "application/json, text/event-stream",
    "content-type": "application/json",
    MCP_PROTOCOL_VERSION_HEADER: MODERN_VERSION,
}
CREDENTIALS_REFUSED = "the upstream server refuses the credentials of the gateway"
SERVER_FAILED = "the upstream server failed"
_ENCODE = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
_LOG = logging.getLogger("policyengine")


class AnswerError(Exception):
    """The error for an answer that is not MCP, or that is too large. The message is for the client."""


class HttpUpstream:
    """The endpoint of a modern server. Requests carry the headers of the gateway, and none of their client."""

    def __init__(self, upstream: McpUpstream, places: CallerPlaces | None = None) -> None:
        self._upstream = upstream
        self._url, self._head = endpoint_url(upstream), endpoint_headers(upstream)
        self._pools: dict[bool, httpcore2.AsyncConnectionPool] = {}
        self._ids = count(1)
        self._places = CallerPlaces(MAX_CALLER_REQUESTS, CONNECT_SECONDS) if places is None else places
        self.tools = ToolHeaders()

    async def close(self) -> None:
        for pool in self._pools.values():
            await pool.aclose()
        self._pools.clear()

    def _pool(self, call: UpstreamCall) -> httpcore2.AsyncConnectionPool:
        """Return the pool for a request: subscriptions occupy their connections, so they have a pool of their own. A
        pool keeps no cookies, which the server would get back with requests of other callers."""
        pool = self._pools.get(call.is_open_ended)
        if pool is None:
            tls = httpx2.create_ssl_context(trust_env=False) if self._url.scheme == b"https" else None
            pool = self._pools[call.is_open_ended] = httpcore2.AsyncConnectionPool(
                tls,
                max_connections=MAX_CONNECTIONS,
                max_keepalive_connections=MAX_IDLE_CONNECTIONS,
                keepalive_expiry=IDLE_SECONDS,
            )
        return pool

    async def exchange(self, call: UpstreamCall) -> dict[str, Any]:
        """Send a request and return its result. Raises MCPError."""
        if call.is_open_ended:
            return await self._exchange(call)
        await self._places.take(call.owner)
        try:
            return await self._exchange_with_headers(call)
        finally:
            self._places.give_back(call.owner)

    async def _exchange_with_headers(self, call: UpstreamCall) -> dict[str, Any]:
        try:
            return await self._exchange(call)
        except MCPError as error:
            if error.code != HEADER_MISMATCH or call.method != "tools/call":
                raise
        # The server wants `Mcp-Param-*` headers, which its list of tools defines.
        await self.tools.refresh(self._exchange, call)
        return await self._exchange(call)

    async def _exchange(self, call: UpstreamCall) -> dict[str, Any]:
        id = next(self._ids)
        try:
            body = encode_request(id, call)
        except (ValueError, TypeError):
            raise MCPError(INTERNAL_ERROR, "the request has a number that JSON cannot represent") from None
        limit = None if call.is_open_ended else self._upstream.limit
        with anyio.move_on_after(limit) as scope:
            try:
                result = await self._post(id, call, body)
            except (AnswerError, EventStreamError) as error:
                raise MCPError(INTERNAL_ERROR, str(error)) from None
            except CONNECTION_ERRORS as error:
                _LOG.error("the upstream server cannot be reached: %s", describe_error(error))
                raise MCPError(INTERNAL_ERROR, UPSTREAM_GONE) from None
            if call.method == "tools/list":
                self.tools.learn(result)
            return result
        assert scope.cancelled_caught
        raise MCPError(INTERNAL_ERROR, f"the upstream server did not answer within {format_seconds(limit or 0.0)}")

    async def _post(self, id: int, call: UpstreamCall, body: bytes) -> dict[str, Any]:
        length = (b"content-length", b"%d" % len(body))
        headers = [*self._head, length, *self._call_headers(call)]
        request = httpcore2.Request(b"POST", self._url, headers=headers, content=body, extensions=TIMEOUTS)
        response = await self._pool(call).handle_async_request(request)
        try:
            kind = read_kind(response)
            if kind == b"text/event-stream" and response.status == 200:
                return await self._read_events(id, call, response)
            return await self._read_json(id, response, kind)
        finally:
            await response.aclose()  # the pool shields this from cancellation

    def _call_headers(self, call: UpstreamCall) -> list[tuple[bytes, bytes]]:
        headers = [(MCP_METHOD_HEADER.encode(), encode_header_value(call.method).encode())]
        named = "taskId" if call.method in TASK_METHODS else NAME_BEARING_METHODS.get(call.method)
        if named is not None and isinstance(name := call.params.get(named), str):
            headers.append((MCP_NAME_HEADER.encode(), encode_header_value(name).encode()))
        if call.method == "tools/call":
            headers += [
                (name.lower().encode(), value.encode()) for name, value in self.tools.write(call.params).items()
            ]
        return headers

    async def _read_json(self, id: int, response: httpcore2.Response, kind: bytes) -> dict[str, Any]:
        parts, size = [], 0
        async for part in response.aiter_stream():
            size += len(part)
            if size > MAX_ANSWER_BYTES:
                raise AnswerError("the answer of the upstream server is too large")
            parts.append(part)
        status = response.status
        if status in (401, 403):
            raise AnswerError(f"{CREDENTIALS_REFUSED} (HTTP {status})")
        if status == 429 or status >= 500:
            raise AnswerError(f"{SERVER_FAILED}: HTTP {status}")
        if kind == b"application/json" and (parts or status == 200):
            answer = parse_object(b"".join(parts))
            if status == 200 or isinstance(answer.get("error"), Mapping):
                return read_answer(answer, id)
        raise AnswerError(f"the upstream server answered with HTTP {status}, which is no answer of MCP")

    async def _read_events(self, id: int, call: UpstreamCall, response: httpcore2.Response) -> dict[str, Any]:
        limit = MAX_LISTEN_BYTES if call.is_open_ended else MAX_ANSWER_BYTES
        async for data in read_event_data(response.aiter_stream(), limit, is_endless=call.is_open_ended):
            message = parse_object(data)
            method, params = message.get("method"), message.get("params")
            if method is None:
                return read_answer(message, id)
            if isinstance(method, str) and "id" not in message:
                translated = call.translate(id, method, params if isinstance(params, dict) else {})
                if translated is not None:
                    await call.notify(method, translated)
        raise AnswerError("the upstream server ended its stream without an answer")


def endpoint_url(upstream: McpUpstream) -> httpcore2.URL:
    url = httpx2.URL(upstream.target)
    return httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)


def endpoint_headers(upstream: McpUpstream) -> list[tuple[bytes, bytes]]:
    """Return the headers of every request: those of the gateway, with the credentials in its URL if there are any."""
    url = httpx2.URL(upstream.target)
    given = {name.lower(): value for name, value in upstream.headers.items()}
    if url.userinfo and "authorization" not in given:
        secret = base64.b64encode(f"{url.username}:{url.password}".encode()).decode()
        given["authorization"] = f"Basic {secret}"
    names = {"user-agent": "policyengine", **given, **ENDPOINT_HEADERS, "host": url.netloc.decode()}
    return [(name.encode(), value.encode()) for name, value in names.items()]


def read_kind(response: httpcore2.Response) -> bytes:
    """Return the content type of an answer. Raises AnswerError if it is compressed, which was not asked for."""
    kind = b""
    for name, value in response.headers:
        match name.lower():
            case b"content-type":
                kind = value.partition(b";")[0].strip().lower()
            case b"content-encoding" if value.lower() != b"identity":
                raise AnswerError("the answer of the upstream server is compressed")
    return kind


def encode_request(id: int, call: UpstreamCall) -> bytes:
    params = call.upstream_params(id)
    return _ENCODE({"jsonrpc": "2.0", "id": id, "method": call.method, "params": params}).encode()


def parse_object(content: bytes) -> dict[str, Any]:
    """Return a JSON object. Raises AnswerError."""
    try:
        found = pydantic_core.from_json(content)
    except ValueError:
        raise AnswerError("the upstream server sent something that is not JSON") from None
    if not isinstance(found, dict):
        raise AnswerError("the upstream server sent something that is no message")
    return found
