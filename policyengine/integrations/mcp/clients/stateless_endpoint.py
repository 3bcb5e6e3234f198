"""Modern requests over HTTP: one POST each, answered with JSON, or with an event stream if it has notifications."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import anyio
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from policyengine.install_hints import install_command
from policyengine.integrations.mcp.busy_errors import BusyErrorData
from policyengine.integrations.mcp.clients.http_messages import head_refusal
from policyengine.integrations.mcp.clients.http_refusals import (
    HttpRefusal,
    encode_document,
    refusal_document,
    send_empty,
    send_refusal,
)
from policyengine.integrations.mcp.clients.response_stream import KEEP_ALIVE_SECONDS, ResponseStream
from policyengine.integrations.mcp.clients.stateless_service import ModernRequest, StatelessService
from policyengine.integrations.mcp.eras import SUPPORTED_VERSIONS, read_envelope
from policyengine.integrations.mcp.tool_headers import read_param_headers

try:
    from mcp.shared.exceptions import MCPError
    from mcp.shared.inbound import (
        ERROR_CODE_HTTP_STATUS,
        MCP_PROTOCOL_VERSION_HEADER,
        InboundLadderRejection,
        classify_inbound_request,
        find_duplicated_routing_header,
    )
    from mcp_types import (
        HEADER_MISMATCH,
        INVALID_REQUEST,
        PARSE_ERROR,
        UNSUPPORTED_PROTOCOL_VERSION,
        ErrorData,
        RequestId,
    )
    from mcp_types.version import MODERN_PROTOCOL_VERSIONS
except ImportError as error:
    raise ImportError(f"the `mcp` SDK is not installed; {install_command('mcp')}") from error

WATCH_SECONDS = 0.02  # until the gateway looks whether a client has left
STOPPED = "the gateway has stopped before the request was answered"
NOT_A_REQUEST = "the body must be one JSON-RPC request or notification"


class StatelessEndpoint:
    """Answers POSTs of the modern era. `body` is the whole body, and `decoded` its JSON."""

    def __init__(self, service: StatelessService) -> None:
        self._service = service
        self._in_progress: set[anyio.CancelScope] = set()

    def end_listening(self) -> None:
        self._service.end_listening()

    def end_requests(self) -> None:
        """Answer all requests in progress with an error."""
        for work in list(self._in_progress):
            work.cancel()

    async def answer(self, scope: Scope, receive: Receive, send: Send, body: bytes, decoded: object) -> None:
        lines = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
        refusal = head_refusal(scope) or message_refusal(lines, dict(lines), decoded)
        if refusal is not None:
            return await send_refusal(refusal, send)
        assert isinstance(decoded, dict)
        if "id" not in decoded:
            return await send_empty(202, send)
        try:
            param_headers = read_param_headers(lines)
        except MCPError as error:
            return await send_refusal(error_refusal(error.error, decoded["id"]), send)
        request = Request(scope, receive)
        request._body = body  # the message as its client wrote it
        stream, id = ResponseStream(send), decoded["id"]

        async def notify(method: str, params: dict[str, Any]) -> None:
            await stream.write(encode_document({"jsonrpc": "2.0", "method": method, "params": params}))

        asked = ModernRequest(
            decoded["method"],
            decoded["params"],
            id,
            read_envelope(decoded["params"]),
            request,
            notify,
            param_headers,
        )
        work = anyio.CancelScope()
        self._in_progress.add(work)
        try:
            with work, watch_client(receive, stream, work):
                found = await self._service.answer_safely(asked)
                await stream.finish(encode_document(answer_document(id, found)), answer_status(found))
        finally:
            self._in_progress.discard(work)
        if work.cancelled_caught:  # unless the gateway stops, the client has left
            stopped = HttpRefusal(503, STOPPED, id=id)
            await stream.finish(encode_document(refusal_document(stopped)), stopped.status)


@contextmanager
def watch_client(receive: Receive, stream: ResponseStream, work: anyio.CancelScope) -> Iterator[None]:
    """Cancel the work when its client disconnects, and keep the connection alive. The watch begins after WATCH_SECONDS,
    because it needs a task, and most requests are answered earlier."""
    watch: asyncio.Task[None] | None = None

    def begin() -> None:
        nonlocal watch
        watch = loop.create_task(follow_client(receive, stream, work))

    loop = asyncio.get_running_loop()
    timer = loop.call_later(WATCH_SECONDS, begin)
    try:
        yield
    finally:
        timer.cancel()
        if watch is not None:
            watch.cancel()


async def follow_client(receive: Receive, stream: ResponseStream, work: anyio.CancelScope) -> None:
    while True:
        with anyio.move_on_after(KEEP_ALIVE_SECONDS) as waiting:
            if (await receive())["type"] == "http.disconnect":
                return work.cancel()
        if waiting.cancelled_caught:
            await stream.keep_alive()


def message_refusal(
    lines: Sequence[tuple[str, str]], headers: Mapping[str, str], decoded: object
) -> HttpRefusal | None:
    """Return the refusal of a message whose headers, envelope and body disagree; None if it can be decided."""
    if decoded is None:
        return HttpRefusal(400, "the body is not JSON", PARSE_ERROR)
    if not isinstance(decoded, dict) or not isinstance(decoded.get("method"), str) or not is_message(decoded):
        return HttpRefusal(400, NOT_A_REQUEST, INVALID_REQUEST)
    id = decoded.get("id")
    if "id" not in decoded:
        version = headers.get(MCP_PROTOCOL_VERSION_HEADER, "")
        return None if version in MODERN_PROTOCOL_VERSIONS else error_refusal(unsupported_version(version), None)
    repeated = find_duplicated_routing_header(lines)
    if repeated is not None:
        return HttpRefusal(400, f"the header {repeated} appears more than once", HEADER_MISMATCH, id)
    verdict = classify_inbound_request(decoded, headers=headers)
    if not isinstance(verdict, InboundLadderRejection):
        return None
    if verdict.code == UNSUPPORTED_PROTOCOL_VERSION:
        return error_refusal(unsupported_version(headers.get(MCP_PROTOCOL_VERSION_HEADER, "")), id)
    return HttpRefusal(400, verdict.message, verdict.code, id, verdict.data)


def is_message(decoded: Mapping[str, Any]) -> bool:
    """Return whether an object is a request with a valid ID, or a notification."""
    id, params = decoded.get("id", 0), decoded.get("params", {})
    is_id = isinstance(id, (int, str)) and not isinstance(id, bool)
    return decoded.get("jsonrpc") == "2.0" and is_id and (isinstance(params, dict) or params is None)


def unsupported_version(version: str) -> ErrorData:
    data = {"supported": list(SUPPORTED_VERSIONS), "requested": version}
    return ErrorData(code=UNSUPPORTED_PROTOCOL_VERSION, message="Unsupported protocol version", data=data)


def error_refusal(error: ErrorData, id: RequestId | None) -> HttpRefusal:
    """Return an error with the status that its code has in the specification; errors of policies and tools have 200."""
    return HttpRefusal(answer_status(error), error.message, error.code, id, error.data)


def answer_status(found: dict[str, Any] | ErrorData) -> int:
    if not isinstance(found, ErrorData):
        return 200
    return found.status if isinstance(found, BusyErrorData) else ERROR_CODE_HTTP_STATUS.get(found.code, 200)


def answer_document(id: RequestId, found: dict[str, Any] | ErrorData) -> dict[str, Any]:
    if isinstance(found, ErrorData):
        return {"jsonrpc": "2.0", "id": id, "error": found.model_dump(exclude_none=True)}
    return {"jsonrpc": "2.0", "id": id, "result": found}
