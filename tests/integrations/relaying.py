"""A session through the relay of the gateway. The test holds both ends: it is the client and the upstream server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
from mcp.shared.message import ServerMessageMetadata, SessionMessage
from mcp_types import (
    ErrorData,
    JSONRPCError,
    JSONRPCNotification,
    JSONRPCRequest,
    JSONRPCResponse,
)

from policyengine.integrations.mcp.confirm_handler import ConfirmHandler, ConfirmOptions
from policyengine.integrations.mcp.gateway import UpstreamPolicyMiddleware
from policyengine.integrations.mcp.relay.relay import Relay
from policyengine.integrations.mcp.tasks import TaskTable
from tests.integrations.conftest import BOT

HANDSHAKE = {
    "protocolVersion": "2025-11-25",
    "capabilities": {"sampling": {}, "elicitation": {"form": {}, "url": {}}, "roots": {}},
    "clientInfo": {"name": "a client", "version": "1"},
}
ALICE = {**BOT, "agent": {"id": "bot", "issuer": "acme"}}
MALLORY = {**BOT, "user": {"id": "mallory"}}


@dataclass
class End:
    """One end of a session: messages that the test sends, and those that arrive."""

    to_relay: Any
    from_relay: Any
    caller: Mapping[str, Any]

    async def send(self, message: Any, caller: Mapping[str, Any] | None = None) -> None:
        metadata = ServerMessageMetadata(request_context=Told(self.caller if caller is None else caller))
        await self.to_relay.send(SessionMessage(message, metadata))

    async def receive(self) -> Any:
        return (await self.from_relay.receive()).message

    async def request(self, id: int | str, method: str, params: Any = None, caller: Any = None) -> None:
        await self.send(JSONRPCRequest(jsonrpc="2.0", id=id, method=method, params=params), caller)

    async def notify(self, method: str, params: Any = None) -> None:
        await self.send(JSONRPCNotification(jsonrpc="2.0", method=method, params=params))

    async def answer(self, id: int | str, result: Any, caller: Any = None) -> None:
        await self.send(JSONRPCResponse(jsonrpc="2.0", id=id, result=result), caller)

    async def fail(self, id: int | str, message: str = "no") -> None:
        await self.send(JSONRPCError(jsonrpc="2.0", id=id, error=ErrorData(code=-1, message=message)))


@dataclass(frozen=True)
class Told:
    """Stands for an HTTP request, whose sender is identified by its facts."""

    facts: Mapping[str, Any]


def sender(context: Any) -> Mapping[str, Any] | None:
    return context.request.facts if isinstance(context.request, Told) else None


@dataclass
class Session:
    client: End
    upstream: End

    async def call(self, id: int, method: str, params: Any, result: Any, caller: Any = None) -> Any:
        """Make a request that the upstream server answers with a result; return what the client gets."""
        await self.client.request(id, method, params, caller)
        asked = await self.upstream.receive()
        assert asked.id == id
        await self.upstream.answer(id, result)
        return await self.client.receive()

    async def refused(self, id: int, method: str, params: Any, caller: Any = None) -> Any:
        """Make a request that the upstream server must not get; return the error."""
        await self.client.request(id, method, params, caller)
        found = await self.client.receive()
        await self.nothing_reached_the_upstream()
        return found.error

    async def nothing_reached_the_client(self) -> None:
        """Messages keep their order: what passed before would arrive before this ping."""
        await self.upstream.request("marker", "ping")
        assert (await self.client.receive()).id == "marker"
        await self.client.answer("marker", {})
        assert (await self.upstream.receive()).id == "marker"

    async def nothing_reached_the_upstream(self) -> None:
        await self.client.request("marker", "ping")
        assert (await self.upstream.receive()).id == "marker"
        await self.upstream.answer("marker", {})
        assert (await self.client.receive()).id == "marker"


@asynccontextmanager
async def relayed(
    decides: Any, caller: Mapping[str, Any] = BOT, tasks: TaskTable | None = None
) -> AsyncIterator[Session]:
    confirms = ConfirmHandler(decides, ConfirmOptions())
    table = TaskTable() if tasks is None else tasks
    policy = UpstreamPolicyMiddleware(decides, confirms, server="billing", identify=sender, tasks=table)
    streams = [anyio.create_memory_object_stream[Any](1_000) for _ in range(4)]
    (to_relay, client), (to_client, at_client), (to_upstream, at_upstream), (from_upstream, upstream) = streams
    session = Session(End(to_relay, at_client, caller), End(from_upstream, at_upstream, caller))
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            hello = JSONRPCRequest(jsonrpc="2.0", id="hello", method="initialize", params=HANDSHAKE)
            first = SessionMessage(hello, ServerMessageMetadata(request_context=Told(caller)))
            group.start_soon(Relay(policy, policy.messages, to_client, to_upstream, 20.0).run, first, client, upstream)
            assert (await session.upstream.receive()).method == "initialize"
            await session.upstream.answer("hello", {"protocolVersion": "2025-11-25"})
            assert (await session.client.receive()).id == "hello"
            yield session
            group.cancel_scope.cancel()
    for one in (stream for pair in streams for stream in pair):
        one.close()
