"""Modern requests over stdio: one client, whose requests are answered in tasks of their own."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio

from policyengine.install_hints import install_command
from policyengine.integrations.mcp.clients.stateless_lane import CancellableRequest, StatelessLane, StreamCall
from policyengine.integrations.mcp.clients.stateless_service import ModernRequest, StatelessService, answer_safely
from policyengine.integrations.mcp.eras import MODERN_VERSION, SUPPORTED_VERSIONS, read_envelope
from policyengine.integrations.mcp.notifications import CANCELLED
from policyengine.integrations.mcp.relay.direct_calls import CallDecision, ToolCall
from policyengine.integrations.mcp.relay.line_streams import LineReader, LineWriter
from policyengine.integrations.mcp.relay.request_tasks import RequestTasks
from policyengine.integrations.mcp.relay.requests import MessageReader, MessageWriter, http_request

try:
    from mcp.shared.inbound import InboundLadderRejection, classify_inbound_request
    from mcp.shared.message import SessionMessage
    from mcp_types import (
        INVALID_REQUEST,
        UNSUPPORTED_PROTOCOL_VERSION,
        ErrorData,
        JSONRPCError,
        JSONRPCNotification,
        JSONRPCRequest,
        JSONRPCResponse,
        RequestId,
    )
except ImportError as error:
    raise ImportError(f"the `mcp` SDK is not installed; {install_command('mcp')}") from error

MAX_REQUESTS = 1_000  # in progress
PROGRESS_TOKEN = "progressToken"


@dataclass(eq=False)
class StatelessStream:
    """The connection of one modern client."""

    service: StatelessService
    to_client: MessageWriter
    open_requests: dict[RequestId, CancellableRequest] = field(default_factory=dict)
    has_answered: bool = False
    tasks: RequestTasks = field(default_factory=RequestTasks)
    accepted: Mapping[str, Any] | None = None  # the last envelope that was accepted

    async def run(self, first: SessionMessage, client: MessageReader) -> SessionMessage | None:
        """Answer requests until the client disconnects. A client whose requests had no result yet may begin a session
        instead: its `initialize` is then returned."""
        item: SessionMessage | Exception = first
        policy, to_client = self.service.direct, self.to_client
        if policy is not None and isinstance(client, LineReader) and isinstance(to_client, LineWriter):
            client.lane = StatelessLane(policy, self.service.direct_connection, self, to_client).take_call
        try:
            while True:
                if isinstance(item, SessionMessage):
                    if is_initialize(item) and not self.has_answered and not self.open_requests:
                        return item
                    await self._take(item)
                try:
                    item = await client.receive()
                except (anyio.EndOfStream, anyio.ClosedResourceError):
                    return None
        finally:
            if isinstance(client, LineReader):
                client.lane = None
            for request in list(self.open_requests.values()):
                request.cancel()
            await self.tasks.cancel()

    async def _take(self, item: SessionMessage) -> None:
        match item.message:
            case JSONRPCRequest() as request:
                refused = self._refusal(request)
                if refused is not None:
                    return await self._send(JSONRPCError(jsonrpc="2.0", id=request.id, error=refused))
                answer = partial(self._answer, request, http_request(item.metadata))
                self.open_requests[request.id] = self.tasks.start(answer)
            case JSONRPCNotification(method=method) if method == CANCELLED:
                self._cancel(item.message.params or {})
            case _:
                pass  # this version has no other messages of clients

    def _refusal(self, request: JSONRPCRequest) -> ErrorData | None:
        params = request.params or {}
        if request.method == "initialize":
            data = {"supported": list(SUPPORTED_VERSIONS), "requested": str(params.get("protocolVersion"))}
            message = f"this connection speaks {MODERN_VERSION}: `initialize` belongs to earlier versions"
            return ErrorData(code=UNSUPPORTED_PROTOCOL_VERSION, message=message, data=data)
        meta = params.get("_meta")
        # Without headers, the verdict depends only on the envelope.
        verdict = None if meta is not None and meta == self.accepted else classify_inbound_request({"params": params})
        if isinstance(verdict, InboundLadderRejection):
            data = verdict.data
            if verdict.code == UNSUPPORTED_PROTOCOL_VERSION and isinstance(data, Mapping):
                data = {**data, "supported": list(SUPPORTED_VERSIONS)}
            return ErrorData(code=verdict.code, message=verdict.message, data=data)
        self.accepted = meta
        if request.id in self.open_requests:
            return ErrorData(code=INVALID_REQUEST, message="another request in progress has this id")
        if len(self.open_requests) >= MAX_REQUESTS:
            return ErrorData(code=INVALID_REQUEST, message="too many requests are in progress")
        return None

    def _cancel(self, params: Mapping[str, Any]) -> None:
        id = params.get("requestId")
        scope = self.open_requests.get(id) if isinstance(id, (int, str)) and not isinstance(id, bool) else None
        if scope is not None:
            scope.cancel()

    async def _answer(self, request: JSONRPCRequest, carried: object, scope: anyio.CancelScope) -> None:
        asked = self._asked(request.method, request.params or {}, request.id, carried)
        try:
            await self._send_answer(asked, self.service.answer(asked), scope)
        finally:
            del self.open_requests[request.id]

    def _asked(self, method: str, params: Mapping[str, Any], id: RequestId, carried: object = None) -> ModernRequest:
        return ModernRequest(method, params, id, read_envelope(params), carried, self._notify)

    async def _send_answer(
        self, asked: ModernRequest, answering: Awaitable[dict[str, Any]], scope: anyio.CancelScope
    ) -> None:
        with scope:
            found = await answer_safely(asked.method, answering)
            self.has_answered = self.has_answered or not isinstance(found, ErrorData)
            await self._send(
                JSONRPCError(jsonrpc="2.0", id=asked.request_id, error=found)
                if isinstance(found, ErrorData)
                else JSONRPCResponse(jsonrpc="2.0", id=asked.request_id, result=found)
            )

    # ── Direct calls ──────────────────────────────────────────────────────────────────────────

    def admits_call(self, call: ToolCall) -> bool:
        meta = call.params.get("_meta")
        if type(meta) is not dict or self.accepted is None:
            return False
        is_accepted = meta == self.accepted or without_token(meta) == without_token(self.accepted)
        return is_accepted and call.id not in self.open_requests and len(self.open_requests) < MAX_REQUESTS

    def begin(self, sent: StreamCall) -> None:
        self.open_requests[sent.id] = sent

    def leave(self, sent: StreamCall, *, answered: bool) -> None:
        del self.open_requests[sent.id]
        self.has_answered = self.has_answered or answered

    def resume(self, call: ToolCall, decided: CallDecision) -> None:
        self.open_requests[call.id] = self.tasks.start(partial(self._resume, call, decided))

    async def _resume(self, call: ToolCall, decided: CallDecision, scope: anyio.CancelScope) -> None:
        asked = self._asked("tools/call", call.params, call.id)
        try:
            await self._send_answer(asked, self.service.resume(asked, decided), scope)
        finally:
            del self.open_requests[call.id]

    def finish(self, sent: StreamCall, answer: Awaitable[dict[str, Any]]) -> CancellableRequest:
        return self.tasks.start(partial(self._finish, sent, answer))

    async def _finish(self, sent: StreamCall, answer: Awaitable[dict[str, Any]], scope: anyio.CancelScope) -> None:
        asked = self._asked("tools/call", sent.decided.params, sent.id)
        try:
            await self._send_answer(asked, self.service.finish(asked, sent.decided, answer, sent.began), scope)
        finally:
            sent.forget()

    # ── Messages to the client ────────────────────────────────────────────────────────────────

    async def _notify(self, method: str, params: dict[str, Any]) -> None:
        await self._send(JSONRPCNotification(jsonrpc="2.0", method=method, params=params))

    async def _send(self, message: Any) -> None:
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):  # the client has left
            await self.to_client.send(SessionMessage(message))


def without_token(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return an envelope without a usual progress token, which may differ from call to call."""
    return {name: one for name, one in meta.items() if name != PROGRESS_TOKEN or type(one) not in (int, str)}


def is_initialize(item: SessionMessage) -> bool:
    return isinstance(item.message, JSONRPCRequest) and item.message.method == "initialize"
