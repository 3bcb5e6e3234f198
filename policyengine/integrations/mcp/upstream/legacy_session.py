"""One session with a legacy upstream server, which the gateway opens for a modern caller.

A session serves one request at a time: the server does not say to which request a question or a log message belongs.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from itertools import count
from typing import Any

import anyio
from anyio.abc import TaskStatus

from policyengine.install_hints import install_command
from policyengine.integrations.mcp.eras import without_envelope
from policyengine.integrations.mcp.methods import DENIED, METHOD_NOT_FOUND
from policyengine.integrations.mcp.notifications import CANCELLED, INITIALIZED, Notice, ignore_method
from policyengine.integrations.mcp.relay.relay import UPSTREAM_GONE
from policyengine.integrations.mcp.upstream.calls import UpstreamCall
from policyengine.integrations.mcp.upstream.http_session import HttpSession
from policyengine.integrations.mcp.upstream.server import McpUpstream, describe_error
from policyengine.integrations.mcp.upstream.stream_upstream import CANCEL_SECONDS, MAX_BACKLOG

try:
    from mcp.shared.exceptions import MCPError
    from mcp.shared.message import ClientMessageMetadata, SessionMessage
    from mcp_types import (
        INTERNAL_ERROR,
        ErrorData,
        JSONRPCError,
        JSONRPCNotification,
        JSONRPCRequest,
        JSONRPCResponse,
    )
    from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, LATEST_HANDSHAKE_VERSION
except ImportError as error:
    raise ImportError(f"the `mcp` SDK is not installed; {install_command('mcp')}") from error

MAX_QUESTIONS = 16  # of one request that wait for an answer
_LOG = logging.getLogger("policyengine")


class SessionExchange:
    """A request in a session: the notifications and questions that the server sends until it answers, and the
    answer."""

    def __init__(self, call: UpstreamCall, id: int) -> None:
        self.call, self.id = call, id
        self.answer: JSONRPCResponse | JSONRPCError | None = None
        self.is_over = False
        self.notifications: deque[tuple[str, Mapping[str, Any]]] = deque()
        self.questions: list[JSONRPCRequest] = []
        self._changed = anyio.Event()

    def add(self, method: str, params: Mapping[str, Any]) -> None:
        if len(self.notifications) < MAX_BACKLOG:
            self.notifications.append((method, params))
            self._changed.set()

    def ask(self, question: JSONRPCRequest) -> bool:
        """Keep a question of the server; return False if there are too many."""
        if len(self.questions) >= MAX_QUESTIONS:
            return False
        self.questions.append(question)
        self._changed.set()
        return True

    def end(self, answer: JSONRPCResponse | JSONRPCError | None) -> None:
        """Accept the first answer; others are dropped."""
        if not self.is_over:
            self.answer, self.is_over = answer, True
            self._changed.set()

    async def wait(self) -> None:
        """Send the client its notifications until there is an answer or a question."""
        while True:
            while self.notifications:
                method, params = self.notifications.popleft()
                translated = self.call.translate(self.id, method, params)
                if translated is not None:
                    await self.call.notify(method, translated)
            if self.is_over or self.questions:
                return
            await self.changed()

    async def changed(self) -> None:
        """Wait until the server sends something about the request."""
        await self._changed.wait()
        self._changed = anyio.Event()

    def result(self) -> dict[str, Any]:
        """Return the result. Raises MCPError."""
        match self.answer:
            case JSONRPCResponse(result=result):
                return result
            case JSONRPCError(error=error):
                raise MCPError.from_error_data(error)
            case _:
                raise MCPError(INTERNAL_ERROR, UPSTREAM_GONE)


class LegacySession:
    """A session for one caller, whose client has the `capabilities`."""

    def __init__(self, upstream: McpUpstream, capabilities: Mapping[str, Any], client_info: object) -> None:
        self._upstream, self._capabilities, self._client_info = upstream, capabilities, client_info
        self._ids = count(1)
        self._writer: Any = None
        self._version: str | None = None
        self._level: str | None = None
        self._current: SessionExchange | None = None
        self._scope = anyio.CancelScope()
        self.is_over = False
        self.info: dict[str, Any] = {}  # the result of `initialize`
        self.notice: Notice = ignore_method

    async def serve(self, *, task_status: TaskStatus[None]) -> None:
        """Connect, and read until the server ends or `close` is called."""
        try:
            with self._scope:
                async with self._upstream.connect() as (reader, self._writer):
                    if isinstance(reader, HttpSession):
                        reader.pass_on = self._take_safely
                    task_status.started()
                    await self._read(reader)
        except Exception as error:
            _LOG.error("the upstream session failed: %s", describe_error(error))
            with suppress(RuntimeError):  # it failed before it started
                task_status.started()
        finally:
            self.is_over = True
            if self._current is not None:
                self._current.end(None)

    def close(self) -> None:
        self._scope.cancel()

    @property
    def is_forgotten(self) -> bool:
        """Whether the server said that it does not know the session."""
        return isinstance(self._writer, HttpSession) and self._writer.is_forgotten

    @property
    def server_capabilities(self) -> Mapping[str, Any]:
        found = self.info.get("capabilities")
        return found if isinstance(found, Mapping) else {}

    def offers(self, kind: str, feature: str) -> bool:
        """Return whether the server declares a feature, such as `listChanged` of `tools`."""
        declared = self.server_capabilities.get(kind)
        return isinstance(declared, Mapping) and declared.get(feature) is True

    async def initialize(self) -> None:
        """Begin the session. Raises MCPError."""
        params = {
            "protocolVersion": LATEST_HANDSHAKE_VERSION,
            "capabilities": dict(self._capabilities),
            "clientInfo": self._client_info,
        }
        info = await self.ask("initialize", params)
        version = info.get("protocolVersion")
        if version not in HANDSHAKE_PROTOCOL_VERSIONS:
            raise MCPError(INTERNAL_ERROR, "the upstream server speaks no version of MCP that the gateway speaks")
        self.info, self._version = info, str(version)
        await self._send(JSONRPCNotification(jsonrpc="2.0", method=INITIALIZED))

    async def ask(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """Return the result of a request of the gateway itself. Raises MCPError."""
        exchange = await self.begin(UpstreamCall(method, params))
        while not exchange.is_over:
            await self.refuse(exchange.questions)
            await exchange.wait()
        self.finish()
        return exchange.result()

    async def set_level(self, level: str | None) -> None:
        """Request log messages of a level, if the server has any."""
        if level is not None and level != self._level and "logging" in self.server_capabilities:
            self._level = level
            with suppress(MCPError):
                await self.ask("logging/setLevel", {"level": level})

    async def begin(self, call: UpstreamCall) -> SessionExchange:
        """Send a request. Raises MCPError."""
        id = next(self._ids)
        params = without_envelope(call.upstream_params(id))
        self._current = exchange = SessionExchange(call, id)
        await self._send(JSONRPCRequest(jsonrpc="2.0", id=id, method=call.method, params=params))
        return exchange

    def listen(self, call: UpstreamCall) -> SessionExchange:
        """Return an exchange that collects what the server sends from now on, without a request in progress."""
        self._current = exchange = SessionExchange(call, 0)
        return exchange

    def finish(self) -> None:
        self._current = None

    async def reply(self, question: JSONRPCRequest, result: dict[str, Any]) -> None:
        await self._send(JSONRPCResponse(jsonrpc="2.0", id=question.id, result=result))

    async def refuse(self, questions: list[JSONRPCRequest]) -> None:
        """Answer questions with an error: the client cannot be asked."""
        while questions:
            await self._refuse(questions.pop(), "this client cannot be asked")

    async def deny(self, question: JSONRPCRequest, message: str) -> None:
        """Answer a question with the reason why a policy denies it."""
        await self._refuse(question, message, DENIED)

    async def _refuse(self, question: JSONRPCRequest, message: str, code: int = METHOD_NOT_FOUND) -> None:
        error = ErrorData(code=code, message=message)
        await self._send(JSONRPCError(jsonrpc="2.0", id=question.id, error=error))

    async def cancel(self, exchange: SessionExchange) -> None:
        """Cancel a request upstream, and end the session: what the server still sends belongs to that request."""
        with anyio.CancelScope(shield=True), anyio.move_on_after(CANCEL_SECONDS), suppress(MCPError):
            await self._send(JSONRPCNotification(jsonrpc="2.0", method=CANCELLED, params={"requestId": exchange.id}))
        self.close()

    async def _read(self, reader: Any) -> None:
        with suppress(anyio.EndOfStream, anyio.ClosedResourceError):
            while True:
                item = await reader.receive()
                if isinstance(item, SessionMessage):
                    await self._take_safely(item.message)

    async def _take_safely(self, message: Any) -> None:
        with suppress(MCPError):  # the server does not take an answer; it ends
            await self._take(message)

    async def _take(self, message: Any) -> None:
        current = self._current
        match message:
            case JSONRPCResponse() | JSONRPCError():
                if current is not None and message.id == current.id:
                    current.end(message)
            case JSONRPCRequest(method="ping"):
                await self.reply(message, {})
            case JSONRPCRequest():
                if current is None or not current.ask(message):
                    await self._refuse(message, "no request to which the question could belong is in progress")
            case JSONRPCNotification(method=method):
                self.notice(method)
                if current is not None:
                    current.add(method, message.params or {})

    async def _send(self, message: Any) -> None:
        if self.is_over or self._writer is None:
            raise MCPError(INTERNAL_ERROR, UPSTREAM_GONE)
        headers = {} if self._version is None else {"mcp-protocol-version": self._version}
        try:
            await self._writer.send(SessionMessage(message, ClientMessageMetadata(headers=headers)))
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            raise MCPError(INTERNAL_ERROR, UPSTREAM_GONE) from None
