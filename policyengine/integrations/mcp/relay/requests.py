"""The requests of one client that a relay has in progress, and how the middleware sees them."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Protocol

import anyio

from policyengine.install_hints import install_command
from policyengine.integrations.mcp.eras import era_error, has_envelope
from policyengine.integrations.mcp.methods import METHOD_NOT_FOUND
from policyengine.integrations.mcp.notifications import CANCELLED
from policyengine.integrations.mcp.relay.request_tasks import AnswerWait, RequestStart
from policyengine.integrations.mcp.upstream.messages import is_message_id

if TYPE_CHECKING:
    from policyengine.integrations.mcp.relay.caller import RelayCaller

try:
    from mcp.shared.exceptions import MCPError
    from mcp.shared.message import MessageMetadata, ServerMessageMetadata, SessionMessage
    from mcp_types import (
        INVALID_REQUEST,
        JSONRPCError,
        JSONRPCNotification,
        JSONRPCRequest,
        JSONRPCResponse,
        RequestId,
    )
except ImportError as error:
    raise ImportError(f"the `mcp` SDK is not installed; {install_command('mcp')}") from error

MAX_REQUESTS = 200  # of a session in progress; a connection that its client closes does not end its request
MAX_ABANDONED = 10_000  # requests of a session that ended without an answer, and that the server may still answer
MAX_SHORT_ID = 64  # characters


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


class SentRequest(Protocol):
    """A request that was sent upstream. `token` is the token of its progress notifications."""

    @property
    def token(self) -> object: ...

    @property
    def is_over(self) -> bool: ...

    def end(self, answer: JSONRPCResponse | JSONRPCError | RequestDroppedError | None) -> None:
        """Accept the first answer; others are dropped. None means that the upstream server has gone."""
        ...


@dataclass(eq=False)
class UpstreamRequest:
    """A request sent upstream for a task that waits; `done` ends when it has ended."""

    token: object
    done: AnswerWait = field(default_factory=AnswerWait)
    answer: JSONRPCResponse | JSONRPCError | RequestDroppedError | None = None

    @property
    def is_over(self) -> bool:
        return self.done.is_over

    def end(self, answer: JSONRPCResponse | JSONRPCError | RequestDroppedError | None) -> None:
        if not self.done.is_over:
            self.answer = answer
            self.done.end()


class RequestTable:
    """The requests of one client in progress: those sent upstream, and those that wait for an approval.

    The ID of a request that ended without an answer is not free until the server has answered it: the answer to a list,
    which is filtered, would count as the answer to another request.
    """

    def __init__(self) -> None:
        self.waiting: dict[RequestId, SentRequest] = {}
        self._held: dict[RequestId, anyio.CancelScope] = {}
        self._abandoned: dict[RequestId | bytes, None] = {}  # oldest first

    def is_free(self, id: RequestId) -> bool:
        """Return whether a request with this ID may begin."""
        if id in self.waiting or id in self._held or (self._abandoned and shorten_id(id) in self._abandoned):
            return False
        return len(self.waiting) < MAX_REQUESTS

    def check(self, id: RequestId) -> None:
        """Check that a request with this ID may be sent upstream. Raises MCPError."""
        self._check_id(id)
        if len(self.waiting) >= MAX_REQUESTS:
            raise MCPError(INVALID_REQUEST, "too many requests are in progress")

    def _check_id(self, id: RequestId) -> None:
        if id in self.waiting or id in self._held:
            raise MCPError(INVALID_REQUEST, "another request in progress has this id")
        if shorten_id(id) in self._abandoned:
            raise MCPError(INVALID_REQUEST, "an earlier request with this id has no answer yet: use another id")

    def abandon(self, id: RequestId) -> None:
        """Note that a request sent upstream has ended without an answer."""
        self._abandoned[shorten_id(id)] = None
        if len(self._abandoned) > MAX_ABANDONED:
            del self._abandoned[next(iter(self._abandoned))]

    def take_answer(self, answer: JSONRPCResponse | JSONRPCError) -> None:
        """Accept the first answer to a request that waits; others are dropped."""
        if answer.id is None:
            return
        self._abandoned.pop(shorten_id(answer.id), None)
        waiting = self.waiting.get(answer.id)
        if waiting is not None:
            waiting.end(answer)

    def drop(self, id: RequestId) -> None:
        """End a request sent upstream that its client has cancelled."""
        waiting = self.waiting.get(id)
        if waiting is not None and not waiting.is_over:
            self.abandon(id)
            waiting.end(RequestDroppedError())

    @contextmanager
    def hold(self, id: RequestId, start: RequestStart) -> Iterator[None]:
        """Read further messages of the client while this request waits. Raises RequestDroppedError if the client
        cancels the request meanwhile, and MCPError if another request has its ID.
        """
        self._check_id(id)
        with anyio.CancelScope() as scope:
            self._held[id] = scope
            start.started()
            try:
                yield
            finally:
                del self._held[id]
        if scope.cancelled_caught:
            raise RequestDroppedError

    def cancel_held(self, id: RequestId) -> bool:
        """Cancel a request that waits for an approval. Return whether it waited."""
        scope = self._held.get(id)
        if scope is None:
            return False
        scope.cancel()
        return True

    def related(self, token: object) -> RequestId | None:
        """Return the ID of the request to which a message with this progress token belongs, or None if it is not
        known; over HTTP, the request determines the stream.
        """
        about = [id for id, one in self.waiting.items() if token is not None and one.token == token]
        only = list(self.waiting) if len(self.waiting) == 1 else []
        return next(iter(about or only), None)

    def end(self) -> None:
        """End all requests, because the upstream server has gone."""
        for waiting in list(self.waiting.values()):
            waiting.end(None)


def shorten_id(id: RequestId) -> RequestId | bytes:
    """Return an ID or, in place of a long ID, its digest, which takes less memory."""
    if isinstance(id, int) or len(id) <= MAX_SHORT_ID:
        return id
    return sha256(id.encode("utf-8", "surrogatepass")).digest()


def refuse_modern_request(request: JSONRPCRequest) -> None:
    """Refuse a request of the modern era: a session has one version, and its client is the client that began it. Raises
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
    return id if is_message_id(id) else None
