"""A modern upstream server over HTTP: one pool of connections for all callers, one exchange for each request."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from itertools import count
from typing import Any

import anyio

from policyengine.install_hints import install_command
from policyengine.integrations.mcp.clients.caller_places import CallerPlaces
from policyengine.integrations.mcp.eras import MODERN_VERSION
from policyengine.integrations.mcp.event_stream import EventParser, EventStreamError
from policyengine.integrations.mcp.relay.relay import UPSTREAM_GONE
from policyengine.integrations.mcp.tasks import TASK_METHODS
from policyengine.integrations.mcp.tool_headers import ToolHeaders
from policyengine.integrations.mcp.upstream.answers import (
    EVENT_STREAM,
    JSON,
    AnswerError,
    RedirectLog,
    check_status,
    read_content,
    read_kind,
    unexpected_status,
)
from policyengine.integrations.mcp.upstream.calls import UpstreamCall, read_answer
from policyengine.integrations.mcp.upstream.connections import (
    UpstreamConnection,
    UpstreamConnectionError,
    UpstreamConnections,
    UpstreamEndpoint,
)
from policyengine.integrations.mcp.upstream.server import CONNECT_SECONDS, MAX_ANSWER_BYTES, McpUpstream
from policyengine.plurals import format_seconds

try:
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
ENDPOINT_HEADERS = {
    "accept": "application/json, text/event-stream",
    "content-type": "application/json",
    MCP_PROTOCOL_VERSION_HEADER: MODERN_VERSION,
}
_ENCODE = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
_LOG = logging.getLogger("policyengine")


class HttpUpstream:
    """The endpoint of a modern server. Requests carry the headers of the gateway, and none of their client."""

    def __init__(self, upstream: McpUpstream, places: CallerPlaces | None = None) -> None:
        self._upstream = upstream
        self._endpoint = UpstreamEndpoint.of(upstream.target, upstream.headers, ENDPOINT_HEADERS)
        self._connections = UpstreamConnections(self._endpoint, MAX_CONNECTIONS)
        self._subscriptions = UpstreamConnections(self._endpoint, MAX_CONNECTIONS)  # which occupy their connections
        self._ids = count(1)
        self._places = CallerPlaces(MAX_CALLER_REQUESTS, CONNECT_SECONDS) if places is None else places
        self._redirects = RedirectLog()
        self.tools = ToolHeaders()

    async def close(self) -> None:
        self._connections.close()
        self._subscriptions.close()

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
            except UpstreamConnectionError as error:
                _LOG.error("the upstream server cannot be reached: %s", error)
                raise MCPError(INTERNAL_ERROR, UPSTREAM_GONE) from None
            if call.method == "tools/list":
                self.tools.learn(result)
            return result
        assert scope.cancelled_caught
        raise MCPError(INTERNAL_ERROR, f"the upstream server did not answer within {format_seconds(limit or 0.0)}")

    async def _post(self, id: int, call: UpstreamCall, body: bytes) -> dict[str, Any]:
        length = (b"content-length", b"%d" % len(body))
        headers = [*self._endpoint.head, length, *self._call_headers(call)]
        connections = self._subscriptions if call.is_open_ended else self._connections
        connection = await connections.take()
        try:
            head = await connection.request(b"POST", self._endpoint.target, headers, body)
            kind = read_kind(head)
            if kind == EVENT_STREAM and head.status == 200:
                return await self._read_events(id, call, connection)
            self._redirects.note(head)
            return await self._read_json(id, connection, head.status, kind)
        finally:
            connections.give_back(connection)

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

    async def _read_json(self, id: int, connection: UpstreamConnection, status: int, kind: bytes) -> dict[str, Any]:
        check_status(status)
        content = await read_content(connection, MAX_ANSWER_BYTES)
        if kind == JSON and (content or status == 200):
            answer = parse_object(content)
            if status == 200 or isinstance(answer.get("error"), Mapping):
                return read_answer(answer, id)
        raise unexpected_status(status)

    async def _read_events(self, id: int, call: UpstreamCall, connection: UpstreamConnection) -> dict[str, Any]:
        limit = MAX_LISTEN_BYTES if call.is_open_ended else MAX_ANSWER_BYTES
        events = EventParser(limit, is_endless=call.is_open_ended)
        while part := await connection.receive():
            for data in events.feed(part):
                message = parse_object(data)
                method, params = message.get("method"), message.get("params")
                if method is None:
                    connection.expect_end()
                    return read_answer(message, id)
                if isinstance(method, str) and "id" not in message:
                    translated = call.translate(id, method, params if isinstance(params, dict) else {})
                    if translated is not None:
                        await call.notify(method, translated)
        raise AnswerError("the upstream server ended its stream without an answer")


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
        raise AnswerError("the upstream server sent something that is not a message")
    return found
