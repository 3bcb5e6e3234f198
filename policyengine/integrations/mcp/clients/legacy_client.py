"""A legacy client over HTTP, in its session. Each message of the client is a request of its own, and is handled in the
task of that request; messages to the client go to the stream on which it waits for them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TypeAlias

import anyio
from anyio.abc import TaskGroup, TaskStatus
from starlette.requests import Request

from policyengine.install_hints import install_command
from policyengine.integrations.mcp.clients.response_stream import HeaderLines, ResponseStream
from policyengine.integrations.mcp.relay.line_streams import encode_message
from policyengine.integrations.mcp.relay.relay import Relay
from policyengine.integrations.mcp.relay.requests import MessageWriter
from policyengine.integrations.mcp.upstream.server import describe_error

try:
    from mcp.shared.message import ServerMessageMetadata, SessionMessage
    from mcp_types import ErrorData, JSONRPCError, JSONRPCRequest, JSONRPCResponse, RequestId
    from mcp_types.jsonrpc import JSONRPCMessage
except ImportError as error:
    raise ImportError(f"the `mcp` SDK is not installed; {install_command('mcp')}") from error

OpenRelay: TypeAlias = Callable[[MessageWriter], AbstractAsyncContextManager[Relay]]
SESSION_HEADER = b"mcp-session-id"
REQUEST_CANCELLED = -32800  # the code with which the SDK's servers answer a request that its client has cancelled
_LOG = logging.getLogger("policyengine")


class LegacyClient:
    """The client of one session, to which its relay writes messages."""

    def __init__(self, name: str) -> None:
        self.headers: HeaderLines = ((SESSION_HEADER, name.encode()),)
        self.is_over = False
        self.listening: ResponseStream | None = None  # the stream for messages that belong to no request
        self.has_begun = False  # whether `initialize` had a result
        self._answers: dict[RequestId, ResponseStream] = {}
        self._relay: Relay | None = None
        self._scope, self._listening_end = anyio.CancelScope(), anyio.Event()

    async def serve(self, open_relay: OpenRelay, *, task_status: TaskStatus[None]) -> None:
        """Relay until `close` is called."""
        try:
            with self._scope:
                async with open_relay(self) as self._relay:
                    task_status.started()
                    try:
                        await anyio.sleep_forever()
                    finally:
                        self.close()
        except Exception as error:
            _LOG.error("a session ended with an error: %s", describe_error(error))
        finally:
            self.close()

    def close(self) -> None:
        self.is_over = True
        self.end_listening()
        self._scope.cancel()

    def end_listening(self) -> None:
        """End the stream for messages that belong to no request."""
        self._listening_end.set()

    async def wait_listening_end(self) -> None:
        await self._listening_end.wait()

    # ── From the client ───────────────────────────────────────────────────────────────────────

    def accepts(self, id: RequestId) -> bool:
        """Return whether no request in progress has this ID."""
        return id not in self._answers

    async def answer(self, message: JSONRPCRequest, request: Request, stream: ResponseStream) -> None:
        """Answer a request on its stream. If the session ends meanwhile, there is no answer."""
        assert self._relay is not None

        async def answer_cancelled() -> None:
            error = ErrorData(code=REQUEST_CANCELLED, message="Request cancelled")
            await stream.finish(encode_message(JSONRPCError(jsonrpc="2.0", id=message.id, error=error)))

        self._answers[message.id] = stream
        try:
            await self._relay.serve(
                message, ServerMessageMetadata(request_context=request, on_request_unanswered=answer_cancelled)
            )
        finally:
            del self._answers[message.id]

    async def hear(self, message: JSONRPCMessage, request: Request) -> None:
        """Handle a message that has no answer."""
        assert self._relay is not None
        await self._relay.hear(SessionMessage(message, ServerMessageMetadata(request_context=request)))

    # ── To the client ─────────────────────────────────────────────────────────────────────────

    async def send(self, item: SessionMessage, /) -> None:
        """Send a message on the stream to which it belongs; without a stream, drop the message."""
        message = item.message
        if isinstance(message, JSONRPCResponse | JSONRPCError):
            stream = None if message.id is None else self._answers.get(message.id)
            if stream is not None:
                await self._finish(stream, message)
            return
        metadata = item.metadata
        related = metadata.related_request_id if isinstance(metadata, ServerMessageMetadata) else None
        stream = self.listening if related is None else self._answers.get(related)
        if stream is not None:
            await stream.write(encode_message(message))

    def tick(self, group: TaskGroup) -> None:
        """Keep silent streams alive."""
        for stream in [*self._answers.values(), *(() if self.listening is None else (self.listening,))]:
            if stream.tick():
                group.start_soon(stream.keep_alive)

    async def _finish(self, stream: ResponseStream, message: JSONRPCResponse | JSONRPCError) -> None:
        if not self.has_begun:
            self.has_begun = isinstance(message, JSONRPCResponse)
            stream.headers = self.headers if self.has_begun else ()
        await stream.finish(encode_message(message))
