"""The client at the end of a relayed session, as the middleware reaches it, to ask its user and to report progress."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

import anyio

from policyengine.install_hints import install_command
from policyengine.integrations.enforcement_point import Facts
from policyengine.integrations.mcp.elicit_modes import ElicitMode
from policyengine.integrations.mcp.elicitation import (
    COMPLETE_METHOD,
    ELICIT_METHOD,
    UserPrompt,
    caller_identity,
    declared_modes,
)
from policyengine.integrations.mcp.notifications import CANCELLED, PROGRESS
from policyengine.integrations.mcp.relay.request_tasks import RequestStart
from policyengine.integrations.mcp.relay.requests import RelayRequest, RequestTable, http_request
from policyengine.integrations.mcp.sdk import PolicyMiddleware, RequestContext
from policyengine.integrations.mcp.tasks import progress_token

try:
    from mcp.shared.exceptions import MCPError
    from mcp.shared.message import MessageMetadata
    from mcp_types import JSONRPCError, JSONRPCNotification, JSONRPCRequest, JSONRPCResponse, RequestId
except ImportError as error:
    raise ImportError(f"the `mcp` SDK is not installed; {install_command('mcp')}") from error

CANCEL_SECONDS = 1.0  # maximum seconds to notify the client that a question is no longer open
SendToClient: TypeAlias = Callable[[Any, RequestId | None], Awaitable[None]]
_LOG = logging.getLogger("policyengine")


@dataclass(eq=False)
class UserElicitation:
    """A question of the gateway that the client passes on to its user. Only the caller of the request `about` may
    answer."""

    prompt: UserPrompt
    about: RequestId
    done: anyio.Event = field(default_factory=anyio.Event)
    result: Mapping[str, Any] | None = None


class UserQuestions:
    """The questions of the gateway to the user of one client. `capability` and `version` are those of its session."""

    def __init__(self, policy: PolicyMiddleware, send: SendToClient) -> None:
        self._policy, self._send = policy, send
        self._open: dict[RequestId, UserElicitation] = {}
        self.capability: object = None
        self.version: str | None = None

    @property
    def modes(self) -> frozenset[ElicitMode]:
        return declared_modes(self.capability, self.version)

    def awaits(self, id: RequestId | None) -> bool:
        """Return whether an answer of the client has the ID of a question."""
        return id in self._open

    async def elicit(self, request: RequestId, prompt: UserPrompt) -> Mapping[str, Any] | None:
        """Return the answer of the client, or None if it reports an error. A question that is not answered in time is
        cancelled."""
        id = f"policyengine-{secrets.token_hex(16)}"  # no request of the upstream server has this ID
        asked = self._open[id] = UserElicitation(prompt, request)
        try:
            message = JSONRPCRequest(jsonrpc="2.0", id=id, method=ELICIT_METHOD, params=prompt.params)
            await self._send(message, request)
            await asked.done.wait()
        finally:
            del self._open[id]
            if not asked.done.is_set():
                with anyio.move_on_after(CANCEL_SECONDS, shield=True):
                    gone = {"requestId": id, "reason": "the call no longer waits for the answer"}
                    await self.notify(CANCELLED, gone, request)
        return asked.result

    async def answer(self, answer: JSONRPCResponse | JSONRPCError, metadata: MessageMetadata) -> None:
        """Accept the first answer that comes from the caller of the request. Over HTTP, an answer is a request of its
        own, with credentials of its own.
        """
        asked = None if answer.id is None else self._open.get(answer.id)
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

    async def notify(self, method: str, params: dict[str, Any], related: RequestId) -> None:
        await self._send(JSONRPCNotification(jsonrpc="2.0", method=method, params=params), related)


@dataclass(slots=True, eq=False)
class RelayCaller:
    """The client of one request of a session, and the verified facts about it."""

    questions: UserQuestions
    requests: RequestTable
    request: JSONRPCRequest
    start: RequestStart
    facts: Facts | None = None

    in_rounds = False

    @property
    def modes(self) -> frozenset[ElicitMode]:
        return self.questions.modes

    @property
    def responses(self) -> Mapping[str, Any]:
        return {}

    def hold(self) -> AbstractContextManager[None]:
        return self.requests.hold(self.request.id, self.start)

    async def progress(self, progress: float, message: str) -> None:
        token = progress_token(self.request.params)
        if token is not None:
            params = {"progressToken": token, "progress": progress, "message": message}
            await self.questions.notify(PROGRESS, params, self.request.id)

    async def elicit(self, prompt: UserPrompt) -> Mapping[str, Any] | None:
        return await self.questions.elicit(self.request.id, prompt)

    async def complete(self, elicitation: str) -> None:
        await self.questions.notify(COMPLETE_METHOD, {"elicitationId": elicitation}, self.request.id)
