"""Answers modern requests: the policy decides each one, and the upstream server answers the requests that may pass."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, cast

import anyio
from pydantic import BaseModel

from policyengine.install_hints import install_command
from policyengine.integrations.enforcement_point import Facts
from policyengine.integrations.mcp.clients.listener_watch import ListenerWatch
from policyengine.integrations.mcp.clients.listening_stream import RECHECK_SECONDS
from policyengine.integrations.mcp.clients.request_states import RequestStates
from policyengine.integrations.mcp.clients.sessions import Owner, isolated_owner
from policyengine.integrations.mcp.elicit_modes import ElicitMode
from policyengine.integrations.mcp.elicitation import KEY_PREFIX, UserPrompt, declared_modes
from policyengine.integrations.mcp.eras import INPUT_METHODS, MODERN_VERSION, Envelope, is_of_another_era, read_meta
from policyengine.integrations.mcp.methods import METHOD_NOT_FOUND
from policyengine.integrations.mcp.notifications import LISTEN, PROGRESS
from policyengine.integrations.mcp.protocol_errors import denial_error, format_input_denial
from policyengine.integrations.mcp.relay.direct_calls import COMPLETE, CallDecision, DirectPolicy
from policyengine.integrations.mcp.relay.relay import MAX_LOGGED_METHOD
from policyengine.integrations.mcp.sdk import PolicyMiddleware, RequestContext
from policyengine.integrations.mcp.task_requests import admits_task
from policyengine.integrations.mcp.tasks import TASK_NOTIFICATIONS
from policyengine.integrations.mcp.upstream.calls import (
    Notify,
    StatelessUpstream,
    UpstreamCall,
    ignore_notification,
    question_of,
    subscription_end,
)
from policyengine.integrations.mcp.upstream.eras import ModernUpstream, UpstreamEras
from policyengine.integrations.mcp.upstream.stream_upstream import SharedConnection, StreamUpstream

try:
    from mcp.server.context import HandlerResult
    from mcp.shared.exceptions import MCPError
    from mcp_types import INTERNAL_ERROR, ErrorData, RequestId
    from mcp_types.methods import is_input_required
except ImportError as error:
    raise ImportError(f"the `mcp` SDK is not installed; {install_command('mcp')}") from error

MAX_SUBSCRIPTIONS = 64  # of all callers, open at the same time
MAX_OWNER_SUBSCRIPTIONS = 8
GATEWAY_FAILED = "the gateway failed; the request was denied"
_LOG = logging.getLogger("policyengine")


@dataclass(slots=True)
class ModernRequest:
    """A modern request as the middleware sees it. `proved` are the facts about its caller, once they are known;
    `param_headers` are the `Mcp-Param-*` headers of its client, None without HTTP."""

    method: str
    params: Mapping[str, Any]
    request_id: RequestId
    envelope: Envelope
    request: Any = None
    notify: Notify = ignore_notification
    param_headers: Mapping[str, str] | None = None
    proved: Facts | None = None
    admitted: list[dict[str, Any]] = field(default_factory=list)  # questions of the upstream server to its client

    def has_admitted(self, questions: object) -> bool:
        """Return whether a result asks only questions that a policy has allowed during this request."""
        return isinstance(questions, Mapping) and all(
            one in self.admitted and not str(key).startswith(KEY_PREFIX) for key, one in questions.items()
        )

    @property
    def caller(self) -> ModernCaller:
        return ModernCaller(self)


@dataclass(frozen=True, slots=True)
class ModernCaller:
    """The client of a modern request: it is asked in results, and answers when it repeats the request."""

    asked: ModernRequest

    in_rounds = True

    @property
    def modes(self) -> frozenset[ElicitMode]:
        return declared_modes(self.asked.envelope.capabilities.get("elicitation"), MODERN_VERSION)

    @property
    def responses(self) -> Mapping[str, Any]:
        found = self.asked.params.get("inputResponses")
        return found if isinstance(found, Mapping) else {}

    def hold(self) -> AbstractContextManager[None]:
        return nullcontext()  # each request has a task of its own, which its client cancels

    async def progress(self, progress: float, message: str) -> None:
        token = read_meta(self.asked.params).get("progressToken")
        if token is not None:
            params = {"progressToken": token, "progress": progress, "message": message}
            await self.asked.notify(PROGRESS, params)

    async def elicit(self, prompt: UserPrompt) -> Mapping[str, Any] | None:
        return None

    async def complete(self, elicitation: str) -> None:
        return None


@dataclass(frozen=True, slots=True, eq=False)
class Subscriber:
    """A caller that listens. Cancelling `scope` ends the subscription."""

    owner: Owner
    scope: anyio.CancelScope


@dataclass(eq=False)
class StatelessService:
    """The service of all modern clients of a gateway."""

    policy: PolicyMiddleware
    eras: UpstreamEras
    states: RequestStates = field(default_factory=RequestStates)
    listening: list[Subscriber] = field(default_factory=list)
    is_stopping: bool = False
    direct: DirectPolicy | None = None  # decides calls over pipes without waiting
    recheck_seconds: float = RECHECK_SECONDS  # until a caller that listens is checked again
    _last: tuple[Facts, Owner] | None = None

    async def answer(self, asked: ModernRequest) -> dict[str, Any]:
        """Return the result of a request. Raises MCPError."""
        if is_of_another_era(asked.method, MODERN_VERSION):
            raise MCPError(METHOD_NOT_FOUND, f"`{asked.method}` does not exist in {MODERN_VERSION}", asked.method)

        return complete_result(await self.policy(cast(RequestContext, asked), self._go_on))

    async def _go_on(self, context: RequestContext) -> dict[str, Any]:
        return await self._forward(cast(ModernRequest, context))

    async def answer_safely(self, asked: ModernRequest) -> dict[str, Any] | ErrorData:
        """Return the result, or the error that the client gets."""
        return await answer_safely(asked.method, self.answer(asked))

    async def resume(self, asked: ModernRequest, decided: CallDecision) -> dict[str, Any]:
        """Return the result of a call that was decided and not sent. Raises MCPError."""
        asked.proved = decided.facts
        return complete_result(await self.policy.resume(cast(RequestContext, asked), self._go_on, decided))

    async def finish(
        self, asked: ModernRequest, decided: CallDecision, answer: Awaitable[dict[str, Any]], began: float
    ) -> dict[str, Any]:
        """Return the result of a call that was sent, with this answer of the server. Raises MCPError."""
        asked.proved = decided.facts

        async def go_on(context: RequestContext) -> dict[str, Any]:
            return self._seal_state(await answer, self._owner(decided.facts), asked.method, asked.params)

        return complete_result(await self.policy.resume(cast(RequestContext, asked), go_on, decided, began))

    def direct_connection(self) -> SharedConnection | None:
        """Return the connection to a modern server over pipes, if a call can be sent on it without waiting."""
        found = self.eras.known
        transport = found.transport if isinstance(found, ModernUpstream) else None
        return transport.direct if isinstance(transport, StreamUpstream) else None

    async def _forward(self, asked: ModernRequest) -> dict[str, Any]:
        """Return the answer of the upstream server to a request that was decided. Raises MCPError."""
        upstream = await self.eras.find()
        if asked.method == "server/discover":
            return await upstream.discover()
        owner = self._owner(asked.proved)

        async def notify(method: str, params: dict[str, Any]) -> None:
            if await self._admits(asked.proved, method, params):
                await asked.notify(method, params)

        async def refuse(method: str, params: Mapping[str, Any]) -> str | None:
            no = await self.policy.client_messages.refuse_question(method, params, asked.proved)
            if no is not None:
                return format_input_denial(no)
            asked.admitted.append(question_of(method, params))
            return None

        call = UpstreamCall(asked.method, asked.params, asked.request_id, owner, notify, refuse=refuse)
        if asked.method == LISTEN:
            return await self._listen(upstream, call, asked.proved)
        if not isinstance(upstream, ModernUpstream):
            return await upstream.exchange(call)
        if asked.method == "tools/call" and asked.param_headers is not None:
            await check_param_headers(upstream, call, asked.param_headers)
        if asked.method not in INPUT_METHODS:
            return await upstream.exchange(call)
        return await self._exchange_with_state(upstream, call)

    def _owner(self, facts: Facts | None) -> Owner:
        """Return the owner of a request. A gateway for one caller has the same facts for all requests."""
        if facts is None or self._last is None or self._last[0] is not facts:
            owner = isolated_owner(facts)
            self._last = None if facts is None else (facts, owner)
            return owner
        return self._last[1]

    async def _admits(self, facts: Facts | None, method: str, params: dict[str, Any]) -> bool:
        """Return whether the client gets a notification about its request."""
        if method in TASK_NOTIFICATIONS:
            return await admits_task(self.policy.tasks, self.policy.client_messages, params, facts)
        return await self.policy.client_messages.admits(method, params, facts)

    async def _exchange_with_state(self, upstream: StatelessUpstream, call: UpstreamCall) -> dict[str, Any]:
        """Make a request whose result may ask for input, with a state that is bound to the caller."""
        if "requestState" in call.params:
            state = self.states.open(call.params["requestState"], call.owner, call.method, call.params)
            call = UpstreamCall(call.method, {**call.params, "requestState": state}, call.id, call.owner, call.notify)
        return self._seal_state(await upstream.exchange(call), call.owner, call.method, call.params)

    def _seal_state(
        self, result: dict[str, Any], owner: Owner, method: str, params: Mapping[str, Any]
    ) -> dict[str, Any]:
        if is_input_required(result) and isinstance(given := result.get("requestState"), str):
            return {**result, "requestState": self.states.seal(given, owner, method, params)}
        return result

    def end_listening(self) -> None:
        """End all subscriptions, and begin no others, because the gateway stops."""
        self.is_stopping = True
        for subscriber in self.listening:
            subscriber.scope.cancel()

    async def _listen(self, upstream: StatelessUpstream, call: UpstreamCall, facts: Facts | None) -> dict[str, Any]:
        """Listen until the client or the server ends it, the gateway stops, or the caller may no longer listen. Raises
        MCPError."""
        if self.is_stopping:
            raise MCPError(INTERNAL_ERROR, "the gateway is stopping: no client can listen")
        mine = sum(each.owner == call.owner for each in self.listening)
        if len(self.listening) >= MAX_SUBSCRIPTIONS or mine >= MAX_OWNER_SUBSCRIPTIONS:
            raise MCPError(INTERNAL_ERROR, "too many subscriptions are open: end one of them")
        watch = ListenerWatch(self.policy.client_messages, facts or {}, self.recheck_seconds)
        subscriber = Subscriber(call.owner, anyio.CancelScope())
        self.listening.append(subscriber)
        try:
            with subscriber.scope as scope, watch.running(scope):
                return await upstream.exchange(call)
        finally:
            self.listening.remove(subscriber)
        if watch.refusal is not None:
            raise denial_error(watch.refusal)
        return subscription_end(call.id)


async def answer_safely(method: str, answering: Awaitable[dict[str, Any]]) -> dict[str, Any] | ErrorData:
    """Return the result, or the error that the client gets."""
    try:
        return await answering
    except MCPError as error:
        return error.error
    except Exception:
        extra = {"event": "answer_failed", "method": method[:MAX_LOGGED_METHOD]}
        _LOG.exception("an MCP request could not be answered and was denied", extra=extra)
        return ErrorData(code=INTERNAL_ERROR, message=GATEWAY_FAILED)


def complete_result(result: HandlerResult) -> dict[str, Any]:
    """Return a result as modern clients expect it."""
    found = (
        result.model_dump(by_alias=True, mode="json", exclude_none=True) if isinstance(result, BaseModel) else result
    )
    return found if found is not None and "resultType" in found else {"resultType": COMPLETE, **(found or {})}


async def check_param_headers(upstream: ModernUpstream, call: UpstreamCall, headers: Mapping[str, str]) -> None:
    """Compare the `Mcp-Param-*` headers of a client with the arguments. The gateway writes its own headers upstream.
    Raises MCPError."""
    transport = upstream.transport
    tools = transport.tools
    if headers and not tools.knows(call.params.get("name")):
        await tools.refresh(transport.exchange, call)
    tools.check(call.params, headers)
