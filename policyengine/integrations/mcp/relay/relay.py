"""Relays one session between a client and an upstream server: passes on the messages that the policy allows."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, cast

import anyio
from anyio.abc import TaskGroup

from policyengine.install_hints import install_command
from policyengine.integrations.mcp.methods import CLIENT_NOTIFICATIONS
from policyengine.integrations.mcp.notifications import CANCELLED
from policyengine.integrations.mcp.relay.caller import CANCEL_SECONDS, RelayCaller, UserQuestions
from policyengine.integrations.mcp.relay.direct_calls import CallDecision, DirectPolicy, ToolCall
from policyengine.integrations.mcp.relay.lane import Answer, DirectPort, RelayedCall, RelayLane
from policyengine.integrations.mcp.relay.line_streams import LineReader, LineWriter
from policyengine.integrations.mcp.relay.request_tasks import AwaitedRequest, RequestStart, RequestTasks
from policyengine.integrations.mcp.relay.requests import (
    MAX_REQUESTS as MAX_REQUESTS,
)
from policyengine.integrations.mcp.relay.requests import (
    MessageReader,
    MessageWriter,
    RelayRequest,
    RequestDroppedError,
    RequestTable,
    UpstreamRequest,
    cancelled_request,
    derive_request,
    elicitation_capability,
    http_request,
    refuse_modern_request,
)
from policyengine.integrations.mcp.sdk import PolicyMiddleware, RequestContext
from policyengine.integrations.mcp.tasks import progress_token
from policyengine.integrations.mcp.upstream.messages import UpstreamMessages, UpstreamRefusal
from policyengine.plurals import format_seconds

try:
    from mcp.server.context import HandlerResult
    from mcp.shared.exceptions import MCPError
    from mcp.shared.message import MessageMetadata, ServerMessageMetadata, SessionMessage
    from mcp_types import (
        INTERNAL_ERROR,
        INVALID_REQUEST,
        ErrorData,
        JSONRPCError,
        JSONRPCNotification,
        JSONRPCRequest,
        JSONRPCResponse,
        RequestId,
    )
except ImportError as error:
    raise ImportError(f"the `mcp` SDK is not installed; {install_command('mcp')}") from error

UPSTREAM_GONE = "the upstream server has ended, or cannot be reached"
CANCEL_CALL_SECONDS = 0.2  # maximum seconds to notify the server that a call is no longer open
MAX_LOGGED_METHOD = 80  # characters of a client's method in the server log
_LOG = logging.getLogger("policyengine")


class Relay:
    """A relay of messages between a client and its upstream server. `limit` is the number of seconds to wait for an
    upstream answer.
    """

    def __init__(
        self,
        policy: PolicyMiddleware,
        messages: UpstreamMessages,
        to_client: MessageWriter,
        to_upstream: MessageWriter,
        limit: float,
    ) -> None:
        self._policy, self._messages, self._limit = policy, messages, limit
        self._to_client, self._to_upstream = to_client, to_upstream
        self._requests = RequestTable()
        self._questions = UserQuestions(policy, self.send_to_client)
        self._lane: RelayLane | None = None
        self._down = False
        self._tasks = RequestTasks()
        self._starting: dict[RequestId, RequestStart] = {}  # requests that are answered where they were received

    async def run(self, first: SessionMessage, client: MessageReader, upstream: MessageReader) -> None:
        """Relay until the client disconnects."""
        async with self.running(upstream) as group:
            await self._from_client(first, client, group)

    @asynccontextmanager
    async def running(self, upstream: MessageReader) -> AsyncIterator[TaskGroup]:
        """Relay the messages of the upstream server during the block. Without the server, each request is answered with
        an error."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._from_upstream, upstream)
            try:
                yield group
            finally:
                with anyio.move_on_after(CANCEL_SECONDS, shield=True):
                    await self._messages.close()
                if self._lane is not None:
                    self._lane.close()
                await self._tasks.cancel()
            group.cancel_scope.cancel()

    def open_lane(self, policy: DirectPolicy, client: LineReader, to_client: LineWriter, port: DirectPort) -> RelayLane:
        """Let usual calls of this session take the direct way, and return the lane for them. Call this method before
        `run`."""
        lane = self._lane = RelayLane(
            policy, self._messages, self._requests, to_client, port, self._limit,
            resume=self._resume, finish=self._finish,
        )  # fmt: skip
        client.lane = lane.take_call
        return lane

    # ── From the client ───────────────────────────────────────────────────────────────────────

    async def _from_client(self, first: SessionMessage, client: MessageReader, group: TaskGroup) -> None:
        item: SessionMessage | Exception = first
        while True:
            if self._lane is not None:
                await self._lane.wait()
            if isinstance(item, SessionMessage):
                await self._heard(item, group)
            try:
                item = await client.receive()
            except (anyio.EndOfStream, anyio.ClosedResourceError):
                return

    async def _heard(self, item: SessionMessage, group: TaskGroup) -> None:
        match item.message:
            case JSONRPCRequest() as request:
                # Keeps the order: the request has now been sent or answered.
                start = RequestStart()
                self._tasks.start(partial(self._requested, request, item.metadata, start, None))
                await start.wait()
            case JSONRPCResponse() | JSONRPCError():
                group.start_soon(self.hear, item)
            case _:
                await self.hear(item)

    async def hear(self, item: SessionMessage) -> None:
        """Handle a message of the client that has no answer, in the task that received it."""
        match item.message:
            case JSONRPCNotification(method=str(method)) as signal if method in CLIENT_NOTIFICATIONS:
                await self._pass_signal(signal)
            case JSONRPCResponse() | JSONRPCError() as answer if self._questions.awaits(answer.id):
                await self._questions.answer(answer, item.metadata)
            case JSONRPCResponse() | JSONRPCError() as answer if self._messages.awaits(answer.id):
                await self._pass_answer(answer, item.metadata)
            case _:
                pass

    async def serve(self, request: JSONRPCRequest, metadata: MessageMetadata) -> None:
        """Answer a request in the task that received it. If the relay ends meanwhile, there is no answer."""
        start = self._starting[request.id] = RequestStart()
        try:
            await self._tasks.run(partial(self._requested, request, metadata, start, None))
        finally:
            del self._starting[request.id]

    async def _pass_signal(self, signal: JSONRPCNotification) -> None:
        """Pass on a notification of the client. The upstream does not know a request that waits for an approval."""
        cancelled = cancelled_request(signal)
        if cancelled is not None and (start := self._starting.get(cancelled)) is not None:
            await start.wait()
        if cancelled is not None and self._requests.cancel_held(cancelled):
            return
        if self._messages.admits_from_client(signal.method, signal.params):
            await self._up(signal)
        if cancelled is not None:
            self._requests.drop(cancelled)

    async def _pass_answer(self, answer: JSONRPCResponse | JSONRPCError, metadata: MessageMetadata) -> None:
        """Pass on the answer of the client to a request of the upstream server. Over HTTP, the answer has credentials
        of its own."""
        if answer.id is not None:
            context = RelayRequest("", None, answer.id, http_request(metadata))
            try:
                facts = await self._policy.facts(cast(RequestContext, context))
            except MCPError:
                facts = None
            if await self._messages.accept(answer.id, facts, is_error=isinstance(answer, JSONRPCError)):
                await self._up(answer)

    # ── Requests of the client ────────────────────────────────────────────────────────────────

    async def _requested(
        self,
        request: JSONRPCRequest,
        metadata: MessageMetadata,
        start: RequestStart,
        decided: CallDecision | None,
        scope: anyio.CancelScope,
    ) -> None:
        try:
            with scope:
                await self._answer(request, metadata, start, decided)
        finally:
            start.started()

    async def _answer(
        self, request: JSONRPCRequest, metadata: MessageMetadata, start: RequestStart, decided: CallDecision | None
    ) -> None:
        """Answer a request; `decided` is its decision, if the lane has made it."""
        caller = RelayCaller(self._questions, self._requests, request, start)
        asked = RelayRequest(request.method, request.params, request.id, http_request(metadata), caller)
        context = cast(RequestContext, asked)

        async def go_on(wanted: RequestContext) -> dict[str, Any]:
            sent = request if wanted is context else derive_request(cast(RelayRequest, wanted))
            with self._messages.in_progress(sent.id, sent.method, sent.params, caller.facts):
                result = await self._forwarded(sent, start)
            self._messages.succeed(sent.method, sent.params, caller.facts)
            return result

        async def decide() -> HandlerResult:
            refuse_modern_request(request)
            if decided is None:
                return await self._policy(context, go_on)
            caller.facts = decided.facts
            return await self._policy.resume(context, go_on, decided)

        await self._respond(request, metadata, decide())

    async def _respond(
        self, request: JSONRPCRequest, metadata: MessageMetadata, answering: Awaitable[HandlerResult]
    ) -> None:
        """Send the client the result or the error of a request."""
        try:
            result = await answering
            await self.send_to_client(
                JSONRPCResponse(jsonrpc="2.0", id=request.id, result=cast(dict[str, Any], result))
            )
        except MCPError as error:
            await self.send_to_client(JSONRPCError(jsonrpc="2.0", id=request.id, error=error.error))
        except RequestDroppedError:
            if isinstance(metadata, ServerMessageMetadata) and metadata.on_request_unanswered is not None:
                await metadata.on_request_unanswered()
        except Exception:
            extra = {"event": "answer_failed", "method": request.method[:MAX_LOGGED_METHOD]}
            _LOG.exception("an MCP request could not be answered and was denied", extra=extra)
            broken = ErrorData(code=INTERNAL_ERROR, message="the gateway failed; the request was denied")
            await self.send_to_client(JSONRPCError(jsonrpc="2.0", id=request.id, error=broken))

    async def _forwarded(self, request: JSONRPCRequest, start: RequestStart) -> dict[str, Any]:
        """Return the upstream's answer. Raises MCPError if the upstream answers with an error or not at all, and
        RequestDroppedError."""
        self._requests.check(request.id)
        if self._down:
            raise MCPError(INTERNAL_ERROR, UPSTREAM_GONE)
        waiting = self._requests.waiting[request.id] = UpstreamRequest(progress_token(request.params))
        try:
            with anyio.move_on_after(self._limit) as sending:
                await self._up(request, start)
            start.started()
            in_time = not sending.cancelled_caught and await waiting.done.wait(self._limit)
            return await self._answered(request, waiting.answer, in_time)
        finally:
            del self._requests.waiting[request.id]

    async def _answered(self, request: JSONRPCRequest, answer: Answer, in_time: bool) -> dict[str, Any]:
        match answer:
            case JSONRPCResponse(result=result):
                if request.method == "initialize":
                    self._questions.version = str(result.get("protocolVersion"))
                    self._questions.capability = elicitation_capability(request.params)
                return result
            case JSONRPCError(error=error):
                raise MCPError.from_error_data(error)
            case RequestDroppedError() as dropped:
                raise dropped
            case _ if in_time:
                raise MCPError(INTERNAL_ERROR, UPSTREAM_GONE)
            case _:
                self._requests.abandon(request.id)
                late = {"requestId": request.id, "reason": "the request timed out"}
                with anyio.move_on_after(CANCEL_CALL_SECONDS):  # the server may have stopped to read
                    await self._up(JSONRPCNotification(jsonrpc="2.0", method=CANCELLED, params=late))
                raise MCPError(
                    INTERNAL_ERROR, f"the upstream server did not answer within {format_seconds(self._limit)}"
                )

    def _resume(self, call: ToolCall, decided: CallDecision) -> RequestStart:
        """Answer a call of the lane that was decided and not sent."""
        start = RequestStart()
        self._tasks.start(partial(self._requested, tool_request(call.id, call.params), None, start, decided))
        return start

    def _finish(self, sent: RelayedCall, answer: Answer, in_time: bool) -> None:
        """Answer a call of the lane that has ended without a usual result."""
        request = tool_request(sent.id, sent.decided.params)
        context = RelayRequest(request.method, request.params, request.id, None)

        async def answered(_: RequestContext) -> dict[str, Any]:
            return await self._answered(request, answer, in_time)

        async def end(scope: anyio.CancelScope) -> None:
            try:
                with scope:
                    resumed = self._policy.resume(cast(RequestContext, context), answered, sent.decided, sent.began)
                    await self._respond(request, None, resumed)
            finally:
                sent.forget()

        self._tasks.start(end)

    async def _up(self, message: Any, start: RequestStart | None = None) -> None:
        """Send a message upstream, without headers or tokens of the client. Raises MCPError if a request cannot be
        sent; other messages are then dropped.
        """
        version = self._questions.version
        headers = {} if version is None else {"mcp-protocol-version": version}
        try:
            await self._to_upstream.send(SessionMessage(message, AwaitedRequest(headers=headers, start=start)))
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            self._down = True
            if isinstance(message, JSONRPCRequest):
                raise MCPError(INTERNAL_ERROR, UPSTREAM_GONE) from None

    # ── From the upstream server ──────────────────────────────────────────────────────────────

    async def _from_upstream(self, upstream: MessageReader) -> None:
        while True:
            try:
                item = await upstream.receive()
            except (anyio.EndOfStream, anyio.ClosedResourceError):
                self._down = True
                self._requests.end()
                return
            if isinstance(item, SessionMessage):
                await self.pass_on(item.message)

    async def pass_on(self, message: Any) -> None:
        """Pass on a message of the upstream server, or drop it."""
        match message:
            case JSONRPCResponse() | JSONRPCError():
                self._requests.take_answer(message)
            case JSONRPCRequest():
                await self._pass_request(message)
            case JSONRPCNotification():
                self._policy.notice(message.method)
                await self._pass_notification(message)
            case _:
                pass

    async def _pass_request(self, request: JSONRPCRequest) -> None:
        """Pass on a request of the upstream server to the client, or refuse it."""
        if self._questions.awaits(request.id):
            refused: UpstreamRefusal | None = UpstreamRefusal(INVALID_REQUEST, "another request has this id")
        else:
            refused = await self._messages.refuse(request.id, request.method, request.params or {})
        if refused is None:
            return await self.send_to_client(request, self._requests.related(None))
        error = ErrorData(code=refused.code, message=refused.message)
        await self._up(JSONRPCError(jsonrpc="2.0", id=request.id, error=error))

    async def _pass_notification(self, notification: JSONRPCNotification) -> None:
        """Pass on a notification of the upstream server to the client, or drop it."""
        params = notification.params or {}
        if await self._messages.admits(notification.method, params):
            await self.send_to_client(notification, self._requests.related(params.get("progressToken")))

    async def send_to_client(self, message: Any, related: RequestId | None = None) -> None:
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):  # the client has left; its session ends
            await self._to_client.send(SessionMessage(message, ServerMessageMetadata(related_request_id=related)))


def tool_request(id: RequestId, params: Mapping[str, Any]) -> JSONRPCRequest:
    """Return the message of a call."""
    return JSONRPCRequest(jsonrpc="2.0", id=id, method="tools/call", params=dict(params))
