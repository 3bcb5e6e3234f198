"""Relays one session between a client and an upstream server: passes on the messages that the policy allows."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, cast

import anyio
from anyio.abc import TaskGroup

from policyengine.install_hints import install_command
from policyengine.integrations.enforcement_point import Facts
from policyengine.integrations.mcp.client_messages import PROGRESS
from policyengine.integrations.mcp.elicit_modes import ElicitMode
from policyengine.integrations.mcp.elicitation import (
    COMPLETE_METHOD,
    ELICIT_METHOD,
    UserPrompt,
    caller_identity,
    declared_modes,
)
from policyengine.integrations.mcp.eras import era_error, has_envelope
from policyengine.integrations.mcp.methods import CLIENT_NOTIFICATIONS, METHOD_NOT_FOUND
from policyengine.integrations.mcp.request_tasks import AnswerWait, AwaitedRequest, RequestStart, RequestTasks
from policyengine.integrations.mcp.sdk import PolicyMiddleware, RequestContext
from policyengine.integrations.mcp.tasks import progress_token
from policyengine.integrations.mcp.upstream_messages import CANCELLED, UpstreamMessages, UpstreamRefusal
from policyengine.plurals import format_seconds

try:
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
CANCEL_SECONDS = 1.0  # maximum seconds to notify the client that a question is no longer open
MAX_REQUESTS = 200  # of a session in progress; a connection that its client closes does not end its request
CANCEL_CALL_SECONDS = 0.2  # maximum seconds to notify the server that a call is no longer open
MAX_LOGGED_METHOD = 80  # characters of a client's method in the server log
_LOG = logging.getLogger("policyengine")


class MessageReader(Protocol):
    async def receive(self) -> SessionMessage | Exception: ...


class MessageWriter(Protocol):
    async def send(self, item: SessionMessage, /) -> None: ...


@dataclass(frozen=True, slots=True)
class RelayRequest:
    """A request as the middleware sees it. `request` is the HTTP request that carried it, if there is one; `caller` is
    its client.
    """

    method: str
    params: Mapping[str, Any] | None
    request_id: RequestId
    request: Any
    caller: RelayCaller | None = None


class RequestDroppedError(Exception):
    """The error for a request that the client cancelled: the client no longer waits."""


@dataclass(eq=False)
class UpstreamRequest:
    """A request sent upstream; `done` ends when it has ended."""

    token: object
    done: AnswerWait = field(default_factory=AnswerWait)
    answer: JSONRPCResponse | JSONRPCError | RequestDroppedError | None = None

    def end(self, answer: JSONRPCResponse | JSONRPCError | RequestDroppedError | None) -> None:
        """Accept the first answer; others are dropped."""
        if not self.done.is_over:
            self.answer = answer
            self.done.end()


@dataclass(eq=False)
class UserElicitation:
    """A question of the gateway that the client passes on to its user. Only the caller of the request `about` may
    answer."""

    prompt: UserPrompt
    about: RequestId
    done: anyio.Event = field(default_factory=anyio.Event)
    result: Mapping[str, Any] | None = None


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
        self._waiting: dict[RequestId, UpstreamRequest] = {}
        self._held: dict[RequestId, anyio.CancelScope] = {}  # requests that wait for an approval
        self._elicited: dict[RequestId, UserElicitation] = {}
        self._version: str | None = None
        self._elicitation: object = None  # the capability of the client
        self._down = False
        self._tasks = RequestTasks()

    async def run(self, first: SessionMessage, client: MessageReader, upstream: MessageReader) -> None:
        """Relay until the client disconnects. Without the upstream server, each request is answered with an error."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._from_upstream, upstream)
            try:
                await self._from_client(first, client, group)
            finally:
                with anyio.move_on_after(CANCEL_SECONDS, shield=True):
                    await self._messages.close()
                await self._tasks.cancel()
            group.cancel_scope.cancel()

    # ── From the client ───────────────────────────────────────────────────────────────────────

    async def _from_client(self, first: SessionMessage, client: MessageReader, group: TaskGroup) -> None:
        item: SessionMessage | Exception = first
        while True:
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
                self._tasks.start(partial(self._requested, request, item.metadata, start))
                await start.wait()
            case JSONRPCNotification(method=str(method)) as signal if method in CLIENT_NOTIFICATIONS:
                await self._pass_signal(signal)
            case JSONRPCResponse() | JSONRPCError() as answer if answer.id in self._elicited:
                group.start_soon(self._answer_elicitation, answer, item.metadata)
            case JSONRPCResponse() | JSONRPCError() as answer if self._messages.awaits(answer.id):
                group.start_soon(self._pass_answer, answer, item.metadata)
            case _:
                pass

    async def _pass_signal(self, signal: JSONRPCNotification) -> None:
        """Pass on a notification of the client. The upstream does not know a request that waits for an approval."""
        cancelled = cancelled_request(signal)
        if cancelled is not None and (scope := self._held.get(cancelled)) is not None:
            return scope.cancel()
        if self._messages.admits_from_client(signal.method, signal.params):
            await self._up(signal)
        if cancelled is not None and (waiting := self._waiting.get(cancelled)) is not None:
            waiting.end(RequestDroppedError())

    async def _pass_answer(self, answer: JSONRPCResponse | JSONRPCError, metadata: MessageMetadata) -> None:
        """Pass on the answer of the client to a request of the upstream server. Over HTTP, it has credentials of its
        own."""
        if answer.id is not None:
            context = RelayRequest("", None, answer.id, http_request(metadata))
            try:
                facts = await self._policy.facts(cast(RequestContext, context))
            except MCPError:
                facts = None
            if await self._messages.accept(answer.id, facts, is_error=isinstance(answer, JSONRPCError)):
                await self._up(answer)

    async def _requested(
        self, request: JSONRPCRequest, metadata: MessageMetadata, start: RequestStart, scope: anyio.CancelScope
    ) -> None:
        try:
            with scope:
                await self._answer(request, metadata, start)
        finally:
            start.started()

    async def _answer(self, request: JSONRPCRequest, metadata: MessageMetadata, start: RequestStart) -> None:
        caller = RelayCaller(self, request, start)
        asked = RelayRequest(request.method, request.params, request.id, http_request(metadata), caller)
        context = cast(RequestContext, asked)

        async def go_on(wanted: RequestContext) -> dict[str, Any]:
            sent = request if wanted is context else derive_request(cast(RelayRequest, wanted))
            with self._messages.in_progress(sent.id, sent.method, sent.params, caller.facts):
                result = await self._forwarded(sent, start)
            self._messages.succeed(sent.method, sent.params, caller.facts)
            return result

        try:
            refuse_modern_request(request)
            result = await self._policy(context, go_on)
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
        if request.id in self._waiting or request.id in self._held:
            raise MCPError(INVALID_REQUEST, "another request in progress has this id")
        if len(self._waiting) >= MAX_REQUESTS:
            raise MCPError(INVALID_REQUEST, "too many requests are in progress")
        if self._down:
            raise MCPError(INTERNAL_ERROR, UPSTREAM_GONE)
        waiting = self._waiting[request.id] = UpstreamRequest(progress_token(request.params))
        try:
            with anyio.move_on_after(self._limit) as sending:
                await self._up(request, start)
            start.started()
            in_time = not sending.cancelled_caught and await waiting.done.wait(self._limit)
            return await self._answered(request, waiting, in_time)
        finally:
            del self._waiting[request.id]

    async def _answered(self, request: JSONRPCRequest, waiting: UpstreamRequest, in_time: bool) -> dict[str, Any]:
        match waiting.answer:
            case JSONRPCResponse(result=result):
                if request.method == "initialize":
                    self._version = str(result.get("protocolVersion"))
                    self._elicitation = elicitation_capability(request.params)
                return result
            case JSONRPCError(error=error):
                raise MCPError.from_error_data(error)
            case RequestDroppedError() as dropped:
                raise dropped
            case _ if in_time:
                raise MCPError(INTERNAL_ERROR, UPSTREAM_GONE)
            case _:
                late = {"requestId": request.id, "reason": "the request timed out"}
                with anyio.move_on_after(CANCEL_CALL_SECONDS):  # the server may have stopped to read
                    await self._up(JSONRPCNotification(jsonrpc="2.0", method=CANCELLED, params=late))
                raise MCPError(
                    INTERNAL_ERROR, f"the upstream server did not answer within {format_seconds(self._limit)}"
                )

    async def _up(self, message: Any, start: RequestStart | None = None) -> None:
        """Send a message upstream, without headers or tokens of the client. Raises MCPError if a request cannot be
        sent; other messages are then dropped.
        """
        headers = {} if self._version is None else {"mcp-protocol-version": self._version}
        try:
            await self._to_upstream.send(SessionMessage(message, AwaitedRequest(headers=headers, start=start)))
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            self._down = True
            if isinstance(message, JSONRPCRequest):
                raise MCPError(INTERNAL_ERROR, UPSTREAM_GONE) from None

    # ── Questions of the gateway to the user ──────────────────────────────────────────────────

    @property
    def modes(self) -> frozenset[ElicitMode]:
        return declared_modes(self._elicitation, self._version)

    @contextmanager
    def hold(self, request: RequestId, start: RequestStart) -> Iterator[None]:
        """Read further messages of the client while this request waits. Raises RequestDroppedError if the client
        cancels the request meanwhile, and MCPError if another request has its ID.
        """
        if request in self._held or request in self._waiting:
            raise MCPError(INVALID_REQUEST, "another request in progress has this id")
        with anyio.CancelScope() as scope:
            self._held[request] = scope
            start.started()
            try:
                yield
            finally:
                del self._held[request]
        if scope.cancelled_caught:
            raise RequestDroppedError

    async def elicit(self, request: RequestId, prompt: UserPrompt) -> Mapping[str, Any] | None:
        """Return the answer of the client, or None if it reports an error. A question that is not answered in time is
        cancelled."""
        id = f"policyengine-{secrets.token_hex(16)}"  # no request of the upstream server has this ID
        asked = self._elicited[id] = UserElicitation(prompt, request)
        try:
            message = JSONRPCRequest(jsonrpc="2.0", id=id, method=ELICIT_METHOD, params=prompt.params)
            await self.send_to_client(message, request)
            await asked.done.wait()
        finally:
            del self._elicited[id]
            if not asked.done.is_set():
                with anyio.move_on_after(CANCEL_SECONDS, shield=True):
                    gone = {"requestId": id, "reason": "the call no longer waits for the answer"}
                    await self.notify_client(CANCELLED, gone, request)
        return asked.result

    async def _answer_elicitation(self, answer: JSONRPCResponse | JSONRPCError, metadata: MessageMetadata) -> None:
        """Accept the first answer that comes from the caller of the request. Over HTTP, an answer is a request of its
        own, with credentials of its own.
        """
        asked = None if answer.id is None else self._elicited.get(answer.id)
        if asked is None:
            return
        context = RelayRequest(ELICIT_METHOD, None, asked.about, http_request(metadata))
        try:
            found = caller_identity(await self._policy.facts(cast(RequestContext, context)))
        except MCPError:
            found = None
        if found is None or found != asked.prompt.identity:
            _LOG.warning("the answer of a user was not accepted: it does not come from the caller of the request")
        elif not asked.done.is_set():
            asked.result = answer.result if isinstance(answer, JSONRPCResponse) else None
            asked.done.set()

    async def notify_client(self, method: str, params: dict[str, Any], related: RequestId) -> None:
        await self.send_to_client(JSONRPCNotification(jsonrpc="2.0", method=method, params=params), related)

    # ── From the upstream server ──────────────────────────────────────────────────────────────

    async def _from_upstream(self, upstream: MessageReader) -> None:
        while True:
            try:
                item = await upstream.receive()
            except (anyio.EndOfStream, anyio.ClosedResourceError):
                self._down = True
                for waiting in list(self._waiting.values()):
                    waiting.end(None)
                return
            if isinstance(item, SessionMessage):
                await self.pass_on(item.message)

    async def pass_on(self, message: Any) -> None:
        """Pass on a message of the upstream server, or drop it."""
        match message:
            case JSONRPCResponse() | JSONRPCError():
                self._take_answer(message)
            case JSONRPCRequest():
                await self._pass_request(message)
            case JSONRPCNotification():
                self._policy.notice(message.method)
                await self._pass_notification(message)
            case _:
                pass

    def _take_answer(self, answer: JSONRPCResponse | JSONRPCError) -> None:
        """Accept the first answer to a request that waits; others are dropped."""
        waiting = None if answer.id is None else self._waiting.get(answer.id)
        if waiting is not None:
            waiting.end(answer)

    async def _pass_request(self, request: JSONRPCRequest) -> None:
        """Pass on a request of the upstream server to the client, or refuse it."""
        if request.id in self._elicited:
            refused: UpstreamRefusal | None = UpstreamRefusal(INVALID_REQUEST, "another request has this id")
        else:
            refused = await self._messages.refuse(request.id, request.method, request.params or {})
        if refused is None:
            return await self.send_to_client(request, self._related(None))
        error = ErrorData(code=refused.code, message=refused.message)
        await self._up(JSONRPCError(jsonrpc="2.0", id=request.id, error=error))

    async def _pass_notification(self, notification: JSONRPCNotification) -> None:
        """Pass on a notification of the upstream server to the client, or drop it."""
        params = notification.params or {}
        if await self._messages.admits(notification.method, params):
            await self.send_to_client(notification, self._related(params.get("progressToken")))

    def _related(self, token: object) -> RequestId | None:
        """Return the ID of the client's request to which a message belongs, or None if it is not known; over HTTP, the
        request determines the stream.
        """
        about = [id for id, waiting in self._waiting.items() if token is not None and waiting.token == token]
        only = list(self._waiting) if len(self._waiting) == 1 else []
        return next(iter(about or only), None)

    async def send_to_client(self, message: Any, related: RequestId | None = None) -> None:
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):  # the client has left; its session ends
            await self._to_client.send(SessionMessage(message, ServerMessageMetadata(related_request_id=related)))


@dataclass(slots=True, eq=False)
class RelayCaller:
    """The client of one request of the session that a relay serves, and the verified facts about it."""

    relay: Relay
    request: JSONRPCRequest
    start: RequestStart
    facts: Facts | None = None

    in_rounds = False

    @property
    def modes(self) -> frozenset[ElicitMode]:
        return self.relay.modes

    @property
    def responses(self) -> Mapping[str, Any]:
        return {}

    def hold(self) -> AbstractContextManager[None]:
        return self.relay.hold(self.request.id, self.start)

    async def progress(self, progress: float, message: str) -> None:
        token = progress_token(self.request.params)
        if token is not None:
            params = {"progressToken": token, "progress": progress, "message": message}
            await self.relay.notify_client(PROGRESS, params, self.request.id)

    async def elicit(self, prompt: UserPrompt) -> Mapping[str, Any] | None:
        return await self.relay.elicit(self.request.id, prompt)

    async def complete(self, elicitation: str) -> None:
        await self.relay.notify_client(COMPLETE_METHOD, {"elicitationId": elicitation}, self.request.id)


def refuse_modern_request(request: JSONRPCRequest) -> None:
    """Refuse a request of the modern era: a session has one version, and its client is who began it. Raises
    MCPError."""
    if request.method != "initialize" and has_envelope(request.params):
        raise era_error(
            "modern_request_in_session",
            "this session speaks a version of MCP with sessions, and the request carries the envelope of a later one",
            "send the request without a session",
        )
    if request.method == "server/discover":
        raise MCPError(METHOD_NOT_FOUND, "`server/discover` does not exist in versions with sessions", request.method)


def derive_request(wanted: RelayRequest) -> JSONRPCRequest:
    """Return a request of the gateway on behalf of a client's request, with an ID that no client knows."""
    params = dict(wanted.params) if wanted.params else None
    id = f"policyengine-{secrets.token_hex(16)}"
    return JSONRPCRequest(jsonrpc="2.0", id=id, method=wanted.method, params=params)


def http_request(metadata: MessageMetadata) -> Any:
    """Return the HTTP request that carried a message, if there is one."""
    return metadata.request_context if isinstance(metadata, ServerMessageMetadata) else None


def elicitation_capability(params: Mapping[str, Any] | None) -> object:
    """Return the `elicitation` capability that a client declares in `initialize`."""
    capabilities = (params or {}).get("capabilities")
    return capabilities.get("elicitation") if isinstance(capabilities, Mapping) else None


def cancelled_request(notification: JSONRPCNotification) -> RequestId | None:
    """Return the request that a notification cancels, if it cancels one."""
    id = (notification.params or {}).get("requestId") if notification.method == CANCELLED else None
    return id if isinstance(id, str | int) else None
