"""Decides which messages of an upstream server reach the client of one session: requests as a policy says, and signals
that belong to something that the client does.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any, NamedTuple, TypeAlias, TypeGuard

from policyengine.integrations.enforcement_point import Facts, PolicyDecisionPoint
from policyengine.integrations.mcp.client_endpoints import CLIENT_ACTIONS
from policyengine.integrations.mcp.client_messages import ClientMessageDecider
from policyengine.integrations.mcp.clients.session_callers import SessionCallers
from policyengine.integrations.mcp.elicitation import COMPLETE_METHOD, ELICIT_METHOD, CallerIdentity, caller_identity
from policyengine.integrations.mcp.methods import (
    ERROR_CODES,
    METHOD_NOT_FOUND,
    canonical_resource_id,
    subscribed_resources,
)
from policyengine.integrations.mcp.notifications import (
    ACKNOWLEDGED,
    CANCELLED,
    LIST_CHANGES,
    LISTEN,
    LOG_MESSAGE,
    PROGRESS,
    RESOURCE_UPDATED,
)
from policyengine.integrations.mcp.protocol_errors import format_input_denial
from policyengine.integrations.mcp.task_requests import admits_task
from policyengine.integrations.mcp.tasks import MAX_ID_LENGTH, TASK_NOTIFICATIONS, TaskDesk, progress_token, same_token
from policyengine.runtime.decision import Decision
from policyengine.runtime.format_values import format_value

MessageId: TypeAlias = str | int
INVALID_REQUEST = -32600
MAX_UNANSWERED = 100  # requests of the upstream server that the client has not answered
MAX_SUBSCRIPTIONS = 1_000
MAX_ELICITATIONS = 1_000  # on pages, whose end a server may report
MAX_LOGGED_METHODS, SHORT = 20, 80  # dropped methods in the server log, and characters of each
_LOG = logging.getLogger("policyengine")


class UpstreamRefusal(NamedTuple):
    """The error that the upstream server gets in place of an answer of the client."""

    code: int
    message: str


@dataclass(frozen=True, slots=True)
class RequestInProgress:
    """A request of the client that the upstream server has not answered."""

    method: str
    token: object
    facts: Facts | None
    resources: Mapping[str, Facts]


@dataclass(frozen=True, slots=True)
class UnansweredRequest:
    """A request of the upstream server that the client has not answered; only the caller for whom it was decided may
    answer."""

    decision: Decision | None
    identity: CallerIdentity | None
    token: object
    began: float


class UpstreamMessages:
    """The messages of the upstream server of one session."""

    def __init__(self, decides: PolicyDecisionPoint, server: str, callers: SessionCallers, tasks: TaskDesk) -> None:
        self._server, self._callers, self._tasks = server, callers, tasks
        self._decider = ClientMessageDecider(decides, server)
        self._in_progress: dict[MessageId, RequestInProgress] = {}
        self._questions: dict[MessageId, UnansweredRequest] = {}
        self._subscriptions: dict[str, Facts] = {}  # by canonical URI
        self._elicitations: dict[str, None] = {}  # oldest first
        self._dropped: set[str] = set()

    # ── Requests of the client ────────────────────────────────────────────────────────────────

    @contextmanager
    def in_progress(
        self, id: MessageId, method: str, params: Mapping[str, Any] | None, facts: Facts | None
    ) -> Iterator[None]:
        """Record that the client waits for the answer to this request for the duration of the block."""
        self.begin(id, method, params, facts)
        try:
            yield
        finally:
            self.finish(id)

    def begin(self, id: MessageId, method: str, params: Mapping[str, Any] | None, facts: Facts | None) -> None:
        """Record that the client waits for the answer to this request, until `finish`."""
        named = subscribed_resources(params or {}) if method == LISTEN else ()
        uris = [uri for one in named if isinstance(uri := canonical_resource_id(one), str)]
        resources = {} if facts is None else dict.fromkeys(uris, facts)
        self._in_progress[id] = RequestInProgress(method, progress_token(params), facts, resources)

    def finish(self, id: MessageId) -> None:
        self._in_progress.pop(id, None)

    def succeed(self, method: str, params: Mapping[str, Any] | None, facts: Facts | None) -> None:
        """Follow the subscriptions of the client: the upstream server has accepted this request."""
        uri = canonical_resource_id((params or {}).get("uri"))
        if not isinstance(uri, str):
            return
        if method == "resources/unsubscribe":
            self._subscriptions.pop(uri, None)
        elif method == "resources/subscribe" and facts is not None and len(self._subscriptions) < MAX_SUBSCRIPTIONS:
            self._subscriptions[uri] = facts

    # ── Requests of the upstream server ───────────────────────────────────────────────────────

    async def refuse(self, id: MessageId, method: str, params: Mapping[str, Any]) -> UpstreamRefusal | None:
        """Return the error for a request of the upstream server, or None if the client gets the request."""
        if id in self._questions:
            return UpstreamRefusal(INVALID_REQUEST, "another request in progress has this id")
        if isinstance(id, str) and len(id) > MAX_ID_LENGTH:
            return UpstreamRefusal(INVALID_REQUEST, f"the id has more than {MAX_ID_LENGTH} characters")
        if len(self._questions) >= MAX_UNANSWERED:
            return UpstreamRefusal(INVALID_REQUEST, f"the client has not answered {MAX_UNANSWERED} requests")
        if method == "ping":
            self._questions[id] = UnansweredRequest(None, None, None, perf_counter())
            return None
        if method not in CLIENT_ACTIONS or method == LOG_MESSAGE:
            return UpstreamRefusal(METHOD_NOT_FOUND, "this gateway does not relay the method")
        if "task" in params:
            return UpstreamRefusal(METHOD_NOT_FOUND, "this gateway does not relay tasks of clients")
        facts = self._caller()
        decision = await self._decider.decide(method, params, facts)
        if not decision.allowed or facts is None:
            return UpstreamRefusal(ERROR_CODES[decision.outcome], format_input_denial(decision))
        page = params.get("elicitationId")
        if method == ELICIT_METHOD and isinstance(page, str) and len(page) <= MAX_ID_LENGTH:
            self._elicitations[page] = None
            if len(self._elicitations) > MAX_ELICITATIONS:
                del self._elicitations[next(iter(self._elicitations))]
        self._questions[id] = UnansweredRequest(
            decision, caller_identity(facts), progress_token(params), perf_counter()
        )
        return None

    def _caller(self) -> Facts | None:
        return self._callers.find([one.facts for one in self._in_progress.values() if one.facts is not None])

    def awaits(self, id: MessageId | None) -> bool:
        """Return whether the upstream server waits for the answer of the client to this request."""
        return id is not None and id in self._questions

    async def accept(self, id: MessageId, caller: Facts | None, *, is_error: bool) -> bool:
        """Return whether the upstream server gets the first answer to its request: it must come from the caller for
        whom the request was decided."""
        question = self._questions.get(id)
        if question is None:
            return False
        if question.decision is None:
            del self._questions[id]
            return True
        if caller is None or caller_identity(caller) != question.identity:
            _LOG.warning("the answer of a client was not accepted: it does not come from the caller of the request")
            return False
        del self._questions[id]
        await self._decider.report(question.decision, 500 if is_error else 200, question.began)
        return True

    async def close(self) -> None:
        """Report the requests that the client has not answered: its session has ended."""
        questions, self._questions = self._questions, {}
        for question in questions.values():
            if question.decision is not None:
                await self._decider.report(question.decision, 500, question.began)

    def admits_from_client(self, method: str, params: Mapping[str, Any] | None) -> bool:
        """Return whether a signal of the client belongs to something that is in progress."""
        members = params or {}
        if method == CANCELLED:
            return is_message_id(id := members.get("requestId")) and id in self._in_progress
        if method == PROGRESS:
            token = members.get("progressToken")
            return any(same_token(one.token, token) for one in self._questions.values())
        return True

    # ── Notifications of the upstream server ──────────────────────────────────────────────────

    async def admits(self, method: str, params: Mapping[str, Any]) -> bool:
        """Return whether the client gets a notification of the upstream server."""
        if await self._belongs(method, params):
            return True
        name = method[:SHORT]
        if name not in self._dropped and len(self._dropped) < MAX_LOGGED_METHODS and method != LOG_MESSAGE:
            self._dropped.add(name)
            _LOG.warning(
                "server %s sent %s, which belongs to nothing that its client does; all such messages are dropped",
                format_value(self._server), format_value(name),
            )  # fmt: skip
        return False

    async def _belongs(self, method: str, params: Mapping[str, Any]) -> bool:
        if method in LIST_CHANGES:
            return True
        if method == PROGRESS:
            return self._knows_token(params.get("progressToken"))
        if method == CANCELLED:
            return await self._cancel(params.get("requestId"))
        if method == LOG_MESSAGE:
            return await self._decider.admits_log(params, self._caller())
        if method == RESOURCE_UPDATED:
            return await self._may_follow(params.get("uri"))
        if method == ACKNOWLEDGED:
            return any(one.method == LISTEN for one in self._in_progress.values())
        if method == COMPLETE_METHOD:
            return isinstance(page := params.get("elicitationId"), str) and page in self._elicitations
        if method in TASK_NOTIFICATIONS:
            return await admits_task(self._tasks, self._decider, params, self._callers.find([]))
        return False

    def _knows_token(self, token: object) -> bool:
        chosen = any(same_token(one.token, token) for one in self._in_progress.values())
        return chosen or self._tasks.knows_token(self._callers.find([]), token)

    async def _cancel(self, id: object) -> bool:
        """Return whether the upstream server ends a request of its own, or a stream of the client."""
        if not is_message_id(id):
            return False
        if (question := self._questions.pop(id, None)) is not None:
            if question.decision is not None:
                await self._decider.report(question.decision, 500, question.began)
            return True
        waiting = self._in_progress.get(id)
        return waiting is not None and waiting.method == LISTEN

    async def _may_follow(self, uri: object) -> bool:
        """Return whether the client subscribed to this resource, or to one that contains it, and may read it now."""
        id = canonical_resource_id(uri)
        if not isinstance(id, str):
            return False
        for subscribed, facts in self._followed():
            if id == subscribed or id.startswith(f"{subscribed.removesuffix('/')}/"):
                return await self._decider.may_read(uri, facts)
        return False

    def _followed(self) -> list[tuple[str, Facts]]:
        of_streams = [pair for one in self._in_progress.values() for pair in one.resources.items()]
        return [*self._subscriptions.items(), *of_streams]


def is_message_id(value: object) -> TypeGuard[MessageId]:
    """Return whether a value is an ID of JSON-RPC: `true` is not, although it equals 1 in Python."""
    return isinstance(value, str | int) and not isinstance(value, bool)
