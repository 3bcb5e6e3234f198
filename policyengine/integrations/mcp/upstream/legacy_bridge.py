"""A modern upstream server behind a legacy client's session: the bridge answers the requests that belong to sessions,
and turns all others into modern requests.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import anyio
from anyio.abc import TaskGroup

from policyengine.install_hints import install_command
from policyengine.integrations.mcp.clients.sessions import Owner
from policyengine.integrations.mcp.eras import (
    CLIENT_CAPABILITIES,
    INPUT_METHODS,
    MODERN_VERSION,
    Envelope,
    era_error,
    is_of_another_era,
    negotiate_legacy,
    read_meta,
    to_legacy_result,
)
from policyengine.integrations.mcp.methods import METHOD_NOT_FOUND
from policyengine.integrations.mcp.notifications import ACKNOWLEDGED, CANCELLED, INITIALIZED, LISTEN
from policyengine.integrations.mcp.relay.requests import cancelled_request
from policyengine.integrations.mcp.upstream.calls import UpstreamCall
from policyengine.integrations.mcp.upstream.eras import ModernUpstream
from policyengine.integrations.mcp.upstream.session_pool import GATEWAY_INFO

try:
    from mcp.shared.exceptions import MCPError
    from mcp.shared.message import SessionMessage
    from mcp.shared.subscriptions import SUBSCRIPTION_ID_META_KEY
    from mcp_types import (
        INTERNAL_ERROR,
        INVALID_PARAMS,
        SERVER_INFO_META_KEY,
        JSONRPCError,
        JSONRPCNotification,
        JSONRPCRequest,
        JSONRPCResponse,
        RequestId,
    )
    from mcp_types.methods import is_input_required
    from mcp_types.version import LATEST_HANDSHAKE_VERSION
except ImportError as error:
    raise ImportError(f"the `mcp` SDK is not installed; {install_command('mcp')}") from error

MAX_ROUNDS = 10  # of one request that asks its client for input
MAX_SUBSCRIPTIONS = 100  # resources of one session
PAUSE_SECONDS = 0.25  # before a request is repeated that asks for nothing


@dataclass(eq=False)
class ClientQuestion:
    """A question of the server to the client, until it is answered."""

    answer: JSONRPCResponse | JSONRPCError | None = None
    done: anyio.Event = field(default_factory=anyio.Event)


class LegacyBridge:
    """The upstream end of one legacy session. `to_relay` receives the messages from the server to the client."""

    def __init__(self, upstream: ModernUpstream, to_relay: Any) -> None:
        self._upstream, self._to_relay = upstream, to_relay
        self._client = Envelope(MODERN_VERSION, None, {})
        self._owner: Owner = ("session", secrets.token_hex(16))
        self._questions: dict[RequestId, ClientQuestion] = {}
        self._calls: dict[RequestId, anyio.CancelScope] = {}
        self._resources: list[str] = []
        self._subscription: anyio.CancelScope | None = None
        self._opening: anyio.CancelScope | None = None  # a subscription that the server has not acknowledged

    async def run(self, first: SessionMessage, outgoing: Any) -> None:
        """Handle the messages of the client until its session ends."""
        async with anyio.create_task_group() as group:
            await self._take(first.message, group)
            with suppress(anyio.EndOfStream, anyio.ClosedResourceError):
                while True:
                    item = await outgoing.receive()
                    await self._take(item.message, group)
            group.cancel_scope.cancel()

    async def _take(self, message: Any, group: TaskGroup) -> None:
        match message:
            case JSONRPCRequest():
                scope = self._calls[message.id] = anyio.CancelScope()
                group.start_soon(self._answer, message, scope, group)
            case JSONRPCNotification(method=method) if method == CANCELLED:
                id = cancelled_request(message)
                scope_of = None if id is None else self._calls.get(id)
                if scope_of is not None:
                    scope_of.cancel()
            case JSONRPCNotification(method=method) if method == INITIALIZED:
                self._listen_again(group)
            case JSONRPCResponse() | JSONRPCError():
                question = None if message.id is None else self._questions.get(message.id)
                if question is not None and not question.done.is_set():
                    question.answer = message
                    question.done.set()
            case _:
                pass  # modern servers take no other notifications

    async def _answer(self, request: JSONRPCRequest, scope: anyio.CancelScope, group: TaskGroup) -> None:
        try:
            with scope:
                try:
                    result = await self._result(request, group)
                except MCPError as error:
                    await self._send(JSONRPCError(jsonrpc="2.0", id=request.id, error=error.error))
                else:
                    await self._send(JSONRPCResponse(jsonrpc="2.0", id=request.id, result=result))
        finally:
            if self._calls.get(request.id) is scope:
                del self._calls[request.id]

    async def _result(self, request: JSONRPCRequest, group: TaskGroup) -> dict[str, Any]:
        """Return the result of a request of the session. Raises MCPError."""
        params = request.params or {}
        match request.method:
            case "initialize":
                return await self._initialize(params)
            case "ping":
                return {}
            case "resources/subscribe" | "resources/unsubscribe":
                return self._subscribe(request.method, params.get("uri"), group)
            case method if is_of_another_era(method, LATEST_HANDSHAKE_VERSION):
                raise MCPError(METHOD_NOT_FOUND, f"`{method}` does not exist in versions with sessions", method)
            case _:
                return await self._call(request, params)

    async def _initialize(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return the result of `initialize`, made from the server's answer to `server/discover`."""
        capabilities = params.get("capabilities")
        declared = capabilities if isinstance(capabilities, Mapping) else {}
        known = {name: declared[name] for name in CLIENT_CAPABILITIES.values() if name in declared}
        self._client = Envelope(MODERN_VERSION, params.get("clientInfo"), known)
        discovery = await self._upstream.discover()
        offered = discovery.get("capabilities")
        server = {
            name: value
            for name, value in (offered.items() if isinstance(offered, dict) else ())
            if name != "extensions"
        }
        info = read_meta(discovery).get(SERVER_INFO_META_KEY)
        instructions = {"instructions": discovery["instructions"]} if "instructions" in discovery else {}
        return {
            "protocolVersion": negotiate_legacy(params.get("protocolVersion")),
            "capabilities": server,
            "serverInfo": info if isinstance(info, dict) else GATEWAY_INFO,
            **instructions,
        }

    # ── Requests ──────────────────────────────────────────────────────────────────────────────

    async def _call(self, request: JSONRPCRequest, params: dict[str, Any]) -> dict[str, Any]:
        """Make the modern request, and repeat it with the input that it asks for. Raises MCPError."""
        if "task" in params:
            raise era_error(
                "tasks_unavailable",
                "the upstream server does not turn calls into tasks in this version of MCP",
                "make the call without `task`",
                INVALID_PARAMS,
            )
        more: dict[str, Any] = {}
        for _ in range(MAX_ROUNDS):
            stamped = self._client.stamp({**params, **more})
            call = UpstreamCall(request.method, stamped, request.id, self._owner, self._notify)
            result = await self._upstream.exchange(call)
            if not is_input_required(result) or request.method not in INPUT_METHODS:
                return to_legacy_result(result)
            more = await self._input(result)
        raise era_error(
            "too_many_rounds",
            f"the upstream server asked for input more than {MAX_ROUNDS} times",
            "the server does not accept the answers of the client",
            INTERNAL_ERROR,
        )

    async def _input(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """Return the members of the repeated request: the answers of the client and the state. Raises MCPError."""
        asked = result.get("inputRequests")
        questions = asked if isinstance(asked, dict) else {}
        answers: dict[str, Any] = {}
        for key, question in questions.items():
            answers[key] = await self._ask(question if isinstance(question, dict) else {})
        if not questions:
            await anyio.sleep(PAUSE_SECONDS)
        state = {"requestState": result["requestState"]} if "requestState" in result else {}
        return {**state, **({"inputResponses": answers} if answers else {})}

    async def _ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """Ask the client as a legacy server does. Raises MCPError."""
        method, params = question.get("method"), question.get("params")
        capability = CLIENT_CAPABILITIES.get(str(method))
        if capability is None or capability not in self._client.capabilities:
            raise era_error(
                "input_unavailable",
                f"the upstream server asks for `{str(method)[:80]}`, which this client does not support",
                "use a client that declares the capability, or another tool",
            )
        id = f"upstream-{secrets.token_hex(16)}"
        waiting = self._questions[id] = ClientQuestion()
        try:
            asked = params if isinstance(params, dict) else None
            await self._send(JSONRPCRequest(jsonrpc="2.0", id=id, method=str(method), params=asked))
            await waiting.done.wait()
        finally:
            del self._questions[id]
        if isinstance(waiting.answer, JSONRPCError):
            raise MCPError.from_error_data(waiting.answer.error)
        assert waiting.answer is not None
        return waiting.answer.result

    # ── Subscriptions ─────────────────────────────────────────────────────────────────────────

    def _subscribe(self, method: str, uri: object, group: TaskGroup) -> dict[str, Any]:
        """Change the resources of the subscription. Raises MCPError."""
        if not isinstance(uri, str):
            raise MCPError(INVALID_PARAMS, "`uri` must be a string")
        if (method == "resources/subscribe") == (uri in self._resources):
            return {}
        if method == "resources/unsubscribe":
            self._resources.remove(uri)
        elif len(self._resources) < MAX_SUBSCRIPTIONS:
            self._resources.append(uri)
        else:
            raise MCPError(INVALID_PARAMS, f"a session can subscribe to at most {MAX_SUBSCRIPTIONS} resources")
        self._listen_again(group)
        return {}

    def _listen_again(self, group: TaskGroup) -> None:
        """Open a new subscription of the session with its present resources. The previous subscription ends when the
        server acknowledges the new one. A subscription that the server has not acknowledged yet ends at once, so that a
        session has at most two."""
        if self._opening is not None:
            self._opening.cancel()
        self._opening = anyio.CancelScope()
        group.start_soon(self._listen, self._opening)

    async def _listen(self, scope: anyio.CancelScope) -> None:
        wanted: dict[str, Any] = {
            "toolsListChanged": True,
            "promptsListChanged": True,
            "resourcesListChanged": True,
            **({"resourceSubscriptions": list(self._resources)} if self._resources else {}),
        }

        async def notify(method: str, params: dict[str, Any]) -> None:
            if method == ACKNOWLEDGED:
                if self._opening is scope:
                    if self._subscription is not None:
                        self._subscription.cancel()
                    self._subscription, self._opening = scope, None
                return
            meta = {name: value for name, value in read_meta(params).items() if name != SUBSCRIPTION_ID_META_KEY}
            plain = {name: value for name, value in params.items() if name != "_meta"}
            await self._notify(method, {**plain, "_meta": meta} if meta else plain)

        params = self._client.stamp({"notifications": wanted})
        with scope, suppress(MCPError):  # a server without subscriptions
            await self._upstream.exchange(UpstreamCall(LISTEN, params, notify=notify))

    async def _notify(self, method: str, params: dict[str, Any]) -> None:
        await self._send(JSONRPCNotification(jsonrpc="2.0", method=method, params=params))

    async def _send(self, message: Any) -> None:
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):  # the session has ended
            await self._to_relay.send(SessionMessage(message))
