"""The session of a server during a call: its requests and log messages to the client pass as a policy says."""

from __future__ import annotations

from time import perf_counter
from typing import Any, TypeVar

from policyengine.install_hints import install_command
from policyengine.integrations.enforcement_point import Facts
from policyengine.integrations.mcp.client_endpoints import CLIENT_ACTIONS
from policyengine.integrations.mcp.client_messages import ClientMessageDecider
from policyengine.integrations.mcp.protocol_errors import input_denial_error

try:
    from mcp.server.session import ServerSession
    from mcp.shared.message import ServerMessageMetadata
    from mcp_types import LoggingMessageNotification, ServerNotification, ServerRequest
    from pydantic import BaseModel
except ImportError as error:
    raise ImportError(f"the `mcp` SDK is not installed; {install_command('mcp')}") from error

ResultT = TypeVar("ResultT", bound=BaseModel)


class PolicySession(ServerSession):
    """The session of the call of one caller. Raises MCPError in place of a request that is denied, and drops a log
    message that is denied.
    """

    def __init__(self, session: ServerSession, client: ClientMessageDecider, caller: Facts) -> None:
        self.__dict__.update(vars(session))
        self._inner, self._client, self._caller = session, client, caller

    async def send_request(
        self,
        request: ServerRequest,
        result_type: type[ResultT],
        request_read_timeout_seconds: float | None = None,
        metadata: ServerMessageMetadata | None = None,
        progress_callback: Any = None,
    ) -> ResultT:
        async def send() -> ResultT:
            return await self._inner.send_request(
                request, result_type, request_read_timeout_seconds, metadata, progress_callback
            )

        if request.method not in CLIENT_ACTIONS:
            return await send()
        decision = await self._client.decide(request.method, message_members(request), self._caller)
        if not decision.allowed:
            raise input_denial_error(decision)
        began, status = perf_counter(), 500
        try:
            result = await send()
            status = 200
            return result
        finally:
            await self._client.report(decision, status, began)

    async def _notify(self, notification: ServerNotification, *, request_scoped: bool) -> None:
        """Send a notification: every method of the session that sends one calls this method."""
        is_log = isinstance(notification, LoggingMessageNotification)
        if is_log and not await self._client.admits_log(message_members(notification), self._caller):
            return
        await self._inner._notify(notification, request_scoped=request_scoped)


def without_policy(session: ServerSession) -> ServerSession:
    """Return the session in which an enforcement point asks its own questions, also during a call within a call."""
    while isinstance(session, PolicySession):
        session = session._inner
    return session


def message_members(message: Any) -> dict[str, Any]:
    """Return the parameters of a message as the client gets them."""
    dumped: dict[str, Any] = message.model_dump(by_alias=True, mode="json", exclude_none=True)
    return dumped.get("params") or {}
