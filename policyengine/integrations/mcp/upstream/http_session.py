"""A session with a legacy upstream server over streamable HTTP. Each request is one POST, whose answer is read by the
task that waits for it; a stream of the server's own messages is open beside them."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

import anyio

from policyengine.install_hints import install_command
from policyengine.integrations.mcp.event_stream import EventParser, EventStreamError
from policyengine.integrations.mcp.notifications import INITIALIZED
from policyengine.integrations.mcp.relay.line_streams import encode_message
from policyengine.integrations.mcp.relay.relay import UPSTREAM_GONE
from policyengine.integrations.mcp.relay.request_tasks import RequestTasks
from policyengine.integrations.mcp.relay.requests import cancelled_request
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
from policyengine.integrations.mcp.upstream.connections import (
    AnswerHead,
    UpstreamConnection,
    UpstreamConnectionError,
    UpstreamConnections,
)
from policyengine.integrations.mcp.upstream.session_answers import (
    Answer,
    SessionEndedError,
    error_answer,
    is_temporary,
    match_answer,
    parse_answer,
    parse_error,
    parse_signal,
    retry_seconds,
    same_id,
)
from policyengine.integrations.mcp.upstream.session_headers import SessionHeaders

try:
    from mcp.shared.message import SessionMessage
    from mcp_types import (
        INVALID_REQUEST,
        JSONRPCError,
        JSONRPCNotification,
        JSONRPCRequest,
        RequestId,
    )
except ImportError as error:
    raise ImportError(f"the `mcp` SDK is not installed; {install_command('mcp')}") from error

PassOn: TypeAlias = Callable[[Any], Awaitable[None]]
MAX_EVENT_BYTES = 1024 * 1024  # of one event of the server's own messages
MAX_IGNORED_BYTES = 64 * 1024  # of an answer to a notification
NOT_ACCEPTABLE, UNAVAILABLE = 406, 503
MAX_RESUMES = 3  # failures in a row
END_SECONDS = 1.0  # for the server to hear that the session ends
SESSION_ENDED = "the upstream server has ended the session"
_LOG = logging.getLogger("policyengine")


@dataclass(slots=True, eq=False)
class SessionPost:
    """A request in progress. `connection` is the one that carries it, once there is one."""

    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    connection: UpstreamConnection | None = None

    @property
    def is_sent(self) -> bool:
        return self.connection is not None and self.connection.is_sent


class HttpSession:
    """Both ends of a session, as `receive` and `send`. `pass_on` takes the messages of the server in place of `receive`
    if it is set. The clients' headers and tokens do not reach the server. `is_forgotten` says that the server has
    answered a request with 404, which means that it does not know the session."""

    pass_on: PassOn | None = None
    is_forgotten = False

    def __init__(self, target: str, headers: Mapping[str, str], limit: float, most: int) -> None:
        self._headers = SessionHeaders(target, headers)
        self._target = self._headers.endpoint.target
        self._limit, self._most = limit, most
        self._connections = UpstreamConnections(self._headers.endpoint)
        self._tasks = RequestTasks()
        self._posts: dict[RequestId, SessionPost] = {}
        self._inbox, self._messages = anyio.create_memory_object_stream[SessionMessage]()
        self._order = anyio.Lock(fast_acquire=True)
        self._redirects = RedirectLog()
        self._is_over = self._is_listening = False

    @classmethod
    @asynccontextmanager
    async def open(
        cls, target: str, headers: Mapping[str, str], limit: float, most: int
    ) -> AsyncIterator[tuple[HttpSession, HttpSession]]:
        """Open a session for the block. `limit` is the number of seconds in which the server must accept a message that
        has no answer; `most` is the number of bytes of an answer."""
        session = cls(target, headers, limit, most)
        try:
            yield session, session
        finally:
            with anyio.CancelScope(shield=True):
                await session.close()

    async def close(self) -> None:
        """Abandon the requests in progress, and end the session at the server."""
        is_known = not self._is_over and self._has_session
        self._end()
        for post in self._posts.values():
            post.scope.cancel()
        await self._tasks.cancel()
        if is_known:
            with anyio.move_on_after(END_SECONDS), suppress(UpstreamConnectionError):
                await self._exchange_without_answer(b"DELETE", b"")
        self._connections.close()
        self._messages.close()

    @property
    def _has_session(self) -> bool:
        return self._headers.session is not None

    def _end(self) -> None:
        self._is_over = True
        self._inbox.close()

    # ── Messages to the server ────────────────────────────────────────────────────────────────

    async def send(self, item: SessionMessage, /) -> None:
        """Send a message. The answer to a request arrives later. Raises BrokenResourceError."""
        self._check(item)
        message = item.message
        if isinstance(message, JSONRPCRequest):
            self._tasks.start(partial(self._run, partial(self._exchange, message, self._begin(message))))
        else:
            await self._notify(message)

    async def exchange(self, item: SessionMessage) -> None:
        """Send a request, and return when its answer was passed on, or the request was cancelled. Raises
        BrokenResourceError."""
        self._check(item)
        assert isinstance(item.message, JSONRPCRequest)
        await self._exchange(item.message, self._begin(item.message))

    def _check(self, item: SessionMessage) -> None:
        if self._is_over:
            raise anyio.BrokenResourceError
        self._headers.note_version(item)

    async def _notify(self, message: Any) -> None:
        """Send a notification or an answer, in the order of the calls. A request that the client cancels is abandoned
        when the server has received the notification; if the request was not sent yet, neither is sent."""
        cancelled = cancelled_post(message, self._posts)
        try:
            if cancelled is None or cancelled.is_sent:
                with anyio.move_on_after(self._limit):
                    await self._exchange_without_answer(b"POST", encode_message(message))
        except UpstreamConnectionError as error:
            _LOG.error("the upstream server cannot be reached: %s", error)
        finally:
            if cancelled is not None:
                cancelled.scope.cancel()
        if isinstance(message, JSONRPCNotification) and message.method == INITIALIZED:
            self._start_listening()

    async def _exchange_without_answer(self, method: bytes, body: bytes) -> None:
        """Send a message that the server answers only with a status. Raises UpstreamConnectionError."""
        connection = await self._connections.take()
        try:
            headers = self._headers.of_post(body) if method == b"POST" else self._headers.of_delete()
            head = await connection.request(method, self._target, headers, body)
            if head.status == 404 and self._has_session:
                self._end()
            if read_kind(head) != EVENT_STREAM:
                with suppress(AnswerError):
                    await read_content(connection, MAX_IGNORED_BYTES)
        except AnswerError:
            pass  # compressed: it is not read
        finally:
            self._connections.give_back(connection)

    # ── Requests ──────────────────────────────────────────────────────────────────────────────

    def _begin(self, request: JSONRPCRequest) -> SessionPost:
        """Add a request to the requests in progress; it replaces an earlier request with the same ID."""
        if (earlier := self._posts.get(request.id)) is not None:
            earlier.scope.cancel()
        post = self._posts[request.id] = SessionPost()
        return post

    async def _exchange(self, request: JSONRPCRequest, post: SessionPost) -> None:
        """Send a request, and pass on its answer."""
        try:
            with post.scope:
                await self._pass_answer(request, post)
        finally:
            if self._posts.get(request.id) is post:
                del self._posts[request.id]

    async def _pass_answer(self, request: JSONRPCRequest, post: SessionPost) -> None:
        is_over = False
        try:
            answer = await self._answer(request, post)
        except (AnswerError, EventStreamError) as error:
            answer = error_answer(request.id, str(error))
        except SessionEndedError:
            answer, is_over = error_answer(request.id, SESSION_ENDED, INVALID_REQUEST), True
            self.is_forgotten = True
        except UpstreamConnectionError as error:
            _LOG.error("the upstream server cannot be reached: %s", error)
            answer, is_over = error_answer(request.id, UPSTREAM_GONE), request.method == "initialize"
        if not (is_over and request.method == "initialize"):
            await self._take(answer)
        if is_over:
            self._end()

    async def _answer(self, request: JSONRPCRequest, post: SessionPost) -> Answer:
        """Return the answer of the server. Raises AnswerError, EventStreamError, SessionEndedError and
        UpstreamConnectionError."""
        try:
            body = encode_message(request)
        except (ValueError, TypeError):
            raise AnswerError("the request has a number that JSON cannot represent") from None
        connection = post.connection = await self._connections.take()
        try:
            head = await connection.request(b"POST", self._target, self._headers.of_post(body), body)
            kind = read_kind(head)
            if head.status == 200 and request.method == "initialize":
                self._headers.note_session(head)
            if head.status != 200 or kind != EVENT_STREAM:
                return await self._read_json(request, connection, head, kind)
            events = EventParser(self._most)
            answer = await self._read_events(request.id, connection, events)
        finally:
            self._connections.give_back(connection)
        return await self._resume(request, events) if answer is None else answer

    async def _read_json(
        self, request: JSONRPCRequest, connection: UpstreamConnection, head: AnswerHead, kind: bytes
    ) -> Answer:
        status = head.status
        self._redirects.note(head)
        check_status(status)
        content = await read_content(connection, self._most)
        if status == 200 and kind == JSON:
            return match_answer(parse_answer(content), request.id)
        answer = parse_error(content) if kind == JSON and status >= 400 else None
        is_own = answer is not None and same_id(answer.id, request.id)
        if status == 404 and self._has_session and not is_own:
            raise SessionEndedError
        if answer is None:
            raise unexpected_status(status)
        return JSONRPCError(jsonrpc="2.0", id=request.id, error=answer.error)

    async def _read_events(
        self, id: RequestId | None, connection: UpstreamConnection, events: EventParser
    ) -> Answer | None:
        """Pass on the messages of a stream up to the answer to a request; return the answer, or None if the stream ends
        before it. Raises AnswerError and EventStreamError."""
        try:
            while part := await connection.receive():
                for data in events.feed(part):
                    message = parse_answer(data) if id is not None else parse_signal(data)
                    if isinstance(message, JSONRPCRequest | JSONRPCNotification):
                        async with self._order:  # of several streams, because each message is decided
                            await self._take(message)
                    elif id is not None and message is not None:
                        connection.expect_end()
                        return match_answer(message, id)
        except UpstreamConnectionError as error:
            _LOG.debug("a stream of the upstream server was interrupted: %s", error)
        return None

    async def _resume(self, request: JSONRPCRequest, events: EventParser) -> Answer:
        """Ask for the rest of a stream that has ended before the answer. Raises AnswerError, EventStreamError and
        SessionEndedError."""
        failures = 0
        while events.last_id and failures < MAX_RESUMES:
            await anyio.sleep(retry_seconds(events.retry, failures))
            try:
                status, answer = await self._get(request.id, events)
            except UpstreamConnectionError:
                failures += 1
                continue
            if answer is not None:
                return answer
            if status == 404 and self._has_session:
                raise SessionEndedError
            if status != 200 and not is_temporary(status):
                break
            failures = 0 if status == 200 else failures + 1
        raise AnswerError("the upstream server ended its stream without an answer")

    async def _get(self, id: RequestId | None, events: EventParser) -> tuple[int, Answer | None]:
        """Open a stream, from the last event on if there is one. Return the status, and the answer to the request if
        the stream has it. Raises AnswerError, EventStreamError and UpstreamConnectionError."""
        connection = await self._connections.take()
        try:
            head = await connection.request(b"GET", self._target, self._headers.of_get(events.last_id))
            if head.status != 200 or read_kind(head) != EVENT_STREAM:
                return head.status if head.status != 200 else NOT_ACCEPTABLE, None
            events.begin()
            return 200, await self._read_events(id, connection, events)
        finally:
            self._connections.give_back(connection)

    # ── Messages of the server ────────────────────────────────────────────────────────────────

    def _start_listening(self) -> None:
        if self._has_session and not self._is_listening and not self._is_over:
            self._is_listening = True
            self._tasks.start(partial(self._run, self._listen))

    async def _listen(self) -> None:
        """Read the server's own messages until the session ends. The stream is opened again when it ends, unless the
        server offers no such stream."""
        events = EventParser(MAX_EVENT_BYTES, is_endless=True)
        failures = 0
        while True:
            received = events.count
            try:
                status, _ = await self._get(None, events)
            except UpstreamConnectionError:
                status = UNAVAILABLE
            except (AnswerError, EventStreamError) as error:
                _LOG.error("the upstream server's own messages are no longer read: %s", error)
                return
            if status != 200 and not is_temporary(status):
                return
            failures = 0 if events.count > received else failures + 1
            await anyio.sleep(retry_seconds(events.retry, failures))

    async def _run(self, work: Callable[[], Awaitable[None]], scope: anyio.CancelScope) -> None:
        """Do the work of a task. The session ends if it fails."""
        try:
            with scope:
                await work()
        except Exception:
            _LOG.exception("a session with the upstream server failed")
            self._end()

    async def _take(self, message: Any) -> None:
        """Pass on a message."""
        if self.pass_on is not None:
            return await self.pass_on(message)
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            await self._inbox.send(SessionMessage(message))

    async def receive(self) -> SessionMessage:
        """Return the next message of the server. Raises EndOfStream."""
        try:
            return await self._messages.receive()
        except anyio.ClosedResourceError:
            raise anyio.EndOfStream from None


def cancelled_post(message: Any, posts: Mapping[RequestId, SessionPost]) -> SessionPost | None:
    """Return the request in progress that a notification cancels."""
    id = cancelled_request(message) if isinstance(message, JSONRPCNotification) else None
    return None if id is None else posts.get(id)
