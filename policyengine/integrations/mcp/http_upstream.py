"""A modern upstream server over HTTP: one pool of connections for all callers, one exchange for each request."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from itertools import count
from typing import Any

import anyio

from policyengine.install_hints import install_command
from policyengine.integrations.mcp.eras import MODERN_VERSION
from policyengine.integrations.mcp.event_stream import EventStreamError, read_event_data
from policyengine.integrations.mcp.relay import UPSTREAM_GONE
from policyengine.integrations.mcp.tool_headers import ToolHeaders
from policyengine.integrations.mcp.upstream import McpUpstream, describe_error
from policyengine.integrations.mcp.upstream_calls import UpstreamCall, read_answer
from policyengine.plurals import format_seconds

try:
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

MAX_ANSWER_BYTES = 16 * 1024 * 1024  # of one answer, with the notifications before it
MAX_LISTEN_BYTES = 1024 * 1024  # of one event of a subscription
MAX_CONNECTIONS = 100
MAX_IDLE_CONNECTIONS = 32
_ENCODE = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
_LOG = logging.getLogger("policyengine")


class AnswerError(Exception):
    """The error for an answer that is not MCP, or that is too large. The message is for the client."""


class HttpUpstream:
    """The endpoint of a modern server. Requests carry the headers of the gateway, and none of their client."""

    def __init__(self, upstream: McpUpstream) -> None:
        self._upstream = upstream
        self._clients: dict[bool, httpx2.AsyncClient] = {}
        self._ids = count(1)
        self.tools = ToolHeaders()

    async def close(self) -> None:
        for client in self._clients.values():
            await client.aclose()
        self._clients.clear()

    def _client(self, call: UpstreamCall) -> httpx2.AsyncClient:
        """Return the pool for a request: subscriptions occupy their connections, so they have a pool of their own."""
        client = self._clients.get(call.is_open_ended)
        if client is None:
            client = self._clients[call.is_open_ended] = self._upstream.http_client(
                MAX_CONNECTIONS, MAX_IDLE_CONNECTIONS
            )
        return client

    async def exchange(self, call: UpstreamCall) -> dict[str, Any]:
        """Send a request and return its result. Raises MCPError."""
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
            except httpx2.HTTPError as error:
                _LOG.error("the upstream server cannot be reached: %s", describe_error(error))
                raise MCPError(INTERNAL_ERROR, UPSTREAM_GONE) from None
            if call.method == "tools/list":
                self.tools.learn(result)
            return result
        assert scope.cancelled_caught
        raise MCPError(INTERNAL_ERROR, f"the upstream server did not answer within {format_seconds(limit or 0.0)}")

    async def _post(self, id: int, call: UpstreamCall, body: bytes) -> dict[str, Any]:
        headers = self._headers(call)
        client = self._client(call)
        request = client.build_request("POST", self._upstream.target, content=body, headers=headers)
        response = await client.send(request, stream=True)
        try:
            kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind == "text/event-stream" and response.status_code == 200:
                return await self._read_events(id, call, response)
            return await self._read_json(id, response, kind)
        finally:
            with anyio.CancelScope(shield=True):
                await response.aclose()

    def _headers(self, call: UpstreamCall) -> dict[str, str]:
        headers = {
            "accept": "application/json, text/event-stream",
            "content-type": "application/json",
            MCP_PROTOCOL_VERSION_HEADER: MODERN_VERSION,
            MCP_METHOD_HEADER: call.method,
        }
        named = NAME_BEARING_METHODS.get(call.method)
        if named is not None and isinstance(name := call.params.get(named), str):
            headers[MCP_NAME_HEADER] = encode_header_value(name)
        if call.method == "tools/call":
            headers.update(self.tools.write(call.params))
        return headers

    async def _read_json(self, id: int, response: httpx2.Response, kind: str) -> dict[str, Any]:
        parts, size = [], 0
        async for part in response.aiter_bytes():
            size += len(part)
            if size > MAX_ANSWER_BYTES:
                raise AnswerError("the answer of the upstream server is too large")
            parts.append(part)
        status = response.status_code
        if status in (401, 403):
            raise AnswerError(f"the upstream server refuses the credentials of the gateway (HTTP {status})")
        if kind == "application/json" and (parts or status == 200):
            answer = parse_object(b"".join(parts))
            if status == 200 or isinstance(answer.get("error"), Mapping):
                return read_answer(answer, id)
        raise AnswerError(f"the upstream server answered with HTTP {status}, which is no answer of MCP")

    async def _read_events(self, id: int, call: UpstreamCall, response: httpx2.Response) -> dict[str, Any]:
        limit = MAX_LISTEN_BYTES if call.is_open_ended else MAX_ANSWER_BYTES
        async for data in read_event_data(response.aiter_bytes(), limit, is_endless=call.is_open_ended):
            message = parse_object(data)
            method, params = message.get("method"), message.get("params")
            if method is None:
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
        raise AnswerError("the upstream server sent something that is no message")
    return found
