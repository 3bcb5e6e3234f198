"""Decides what a server asks of its client, and writes at most one record of the same denial in ten seconds: a server
can send messages without end. Nothing here depends on an SDK.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from policyengine.integrations.denial_messages import format_denial
from policyengine.integrations.enforcement_point import (
    UNKNOWN_CALLER,
    Facts,
    PolicyDecisionPoint,
    deny_on_error,
    evaluate,
    make_denial,
    report_outcome,
)
from policyengine.integrations.mcp.client_endpoints import (
    CLIENT_ACTIONS,
    build_client_question,
    suggest_grant,
)
from policyengine.integrations.mcp.elicitation import KEY_PREFIX, CallerIdentity, caller_identity
from policyengine.integrations.mcp.methods import build_mcp_question, canonical_resource_id
from policyengine.integrations.mcp.notifications import (
    ACKNOWLEDGED,
    LIST_CHANGES,
    LOG_MESSAGE,
    PROGRESS,
    RESOURCE_UPDATED,
)
from policyengine.runtime.decision import Decision, Gate, Outcome
from policyengine.runtime.format_values import format_value

RECORD_SECONDS = 10.0  # between two records, and two log lines, of the same denial
LOGS_PER_SECOND, LOGS_AT_ONCE = 20.0, 100.0  # log messages that are decided; others are dropped
MAX_CALLERS = 1_000  # whose messages are counted
MAX_INPUT_REQUESTS = 32  # in one interim result
SIGNALS = frozenset({PROGRESS, ACKNOWLEDGED, *LIST_CHANGES})  # without content
LISTENER: Mapping[str, Any] = {"uri": "policyengine:listener"}  # stands for what a listening caller may get
FLOOD = "too many log messages"
_LOG = logging.getLogger("policyengine")


@dataclass(slots=True)
class MessageBudget:
    """The budget for the messages to one caller: the number `logs` of log messages that may follow at once, the time at
    which it was last `refilled`, and the time at which a denial of each kind was last `recorded`."""

    refilled: float
    logs: float = LOGS_AT_ONCE
    recorded: dict[str, float] = field(default_factory=dict)

    def take_log(self, now: float) -> bool:
        self.logs = min(LOGS_AT_ONCE, self.logs + (now - self.refilled) * LOGS_PER_SECOND)
        self.refilled = now
        if self.logs < 1:
            return False
        self.logs -= 1
        return True

    def was_recorded(self, kind: str, now: float) -> bool:
        recorded = self.recorded.get(kind)
        return recorded is not None and now - recorded < RECORD_SECONDS


class ClientMessageDecider:
    """Decides messages of one server to its clients."""

    def __init__(self, decides: PolicyDecisionPoint, server: str, clock: Callable[[], float] = monotonic) -> None:
        self._decides, self._server, self._clock = decides, server, clock
        self._budgets: OrderedDict[CallerIdentity | None, MessageBudget] = OrderedDict()

    async def decide(self, method: str, params: Mapping[str, Any], facts: Facts | None) -> Decision:
        """Decide one of the CLIENT_ACTIONS for this caller; None is an unknown caller."""
        budget = self._budget(facts)
        if facts is None:
            return self._warn(budget, method, make_denial(UNKNOWN_CALLER, Gate.IDENTITY))
        question = build_client_question(method, params, self._server, facts)
        if budget.was_recorded(method, self._clock()):
            decision = await evaluate(self._decides, question)
            if not decision.allowed:
                return decision
        decision = await deny_on_error(
            self._decides.decide_async, {**question, "options": {"obligations_supported": []}}
        )
        return decision if decision.allowed else self._warn(budget, method, decision)

    def _budget(self, facts: Facts | None) -> MessageBudget:
        """Return the budget of a caller. To make room, the caller whose last message is oldest is forgotten."""
        owner = None if facts is None else caller_identity(facts)
        budget = self._budgets.setdefault(owner, MessageBudget(self._clock()))
        self._budgets.move_to_end(owner)
        if len(self._budgets) > MAX_CALLERS:
            self._budgets.popitem(last=False)
        return budget

    async def admits(self, method: str, params: Mapping[str, Any], facts: Facts | None) -> bool:
        """Return whether the client of a request gets a notification about this request."""
        if method == LOG_MESSAGE:
            return await self.admits_log(params, facts)
        if method == RESOURCE_UPDATED:
            return facts is not None and await self.may_read(params.get("uri"), facts)
        return method in SIGNALS

    async def refuse_listener(self, facts: Facts) -> Decision | None:
        """Return why a caller may no longer listen: it is halted, its credentials have expired or were revoked, or this
        cannot be decided. None if it may listen."""
        decision = await evaluate(self._decides, build_mcp_question("resources/read", LISTENER, self._server, facts))
        ending = (Gate.HALTED, Gate.FAILURE, *((Gate.IDENTITY,) if "credentials" in facts else ()))
        return decision if decision.outcome is Outcome.DENY and decision.gate in ending else None

    async def may_read(self, uri: object, facts: Facts) -> bool:
        if not isinstance(canonical_resource_id(uri), str):
            return False
        asked = build_mcp_question("resources/read", {"uri": uri}, self._server, facts)
        return (await evaluate(self._decides, asked)).allowed

    async def admits_log(self, params: Mapping[str, Any], facts: Facts | None) -> bool:
        """Return whether a log message passes."""
        budget = self._budget(facts)
        if not budget.take_log(self._clock()):
            self._warn_of_flood(budget)
            return False
        decision = await self.decide(LOG_MESSAGE, params, facts)
        if decision.allowed:
            await report_outcome(self._decides, decision, 200)
        return decision.allowed

    async def refuse_input(self, requests: object, facts: Facts) -> Decision | None:
        """Return the first denial of the requests in an interim result, or None if all are allowed."""
        if requests is not None and not (isinstance(requests, Mapping) and len(requests) <= MAX_INPUT_REQUESTS):
            return make_denial("the requests of the server to its client are malformed, or too many", Gate.DEFAULT)
        for key, asked in requests.items() if isinstance(requests, Mapping) else ():
            if str(key).startswith(KEY_PREFIX):  # the answer would count as the approval of a user
                return make_denial("the server uses a key that is reserved for approvals", Gate.DEFAULT)
            members = asked if isinstance(asked, Mapping) else {}
            if (no := await self.refuse_question(members.get("method"), members.get("params"), facts)) is not None:
                return no
        return None

    async def refuse_question(self, method: object, params: object, facts: Facts | None) -> Decision | None:
        """Return the denial of a question that the client answers with another request, or None if it is allowed."""
        if not isinstance(method, str) or method not in CLIENT_ACTIONS or method == LOG_MESSAGE:
            return make_denial("the server asks its client for something that no policy covers", Gate.DEFAULT)
        decision = await self.decide(method, params if isinstance(params, Mapping) else {}, facts)
        if not decision.allowed:
            return decision
        await report_outcome(self._decides, decision, 202)
        return None

    async def report(self, decision: Decision, status: int, began: float) -> None:
        """Report the outcome of a request that the client has answered."""
        await report_outcome(self._decides, decision, status, began)

    def _warn(self, budget: MessageBudget, method: str, decision: Decision) -> Decision:
        now = self._clock()
        if not budget.was_recorded(method, now):
            budget.recorded[method] = now
            _LOG.warning(
                "server %s %s %s, which is %s; to allow it, in the block of the agent and, if it acts for a user, "
                "in one of the user: %s",
                format_value(self._server), "sent its client" if method == LOG_MESSAGE else "asked its client for",
                method, format_denial(decision), suggest_grant(method, self._server),
            )  # fmt: skip
        return decision

    def _warn_of_flood(self, budget: MessageBudget) -> None:
        now = self._clock()
        if not budget.was_recorded(FLOOD, now):
            budget.recorded[FLOOD] = now
            _LOG.warning(
                "server %s sends more than %d log messages a second; others are dropped",
                format_value(self._server), LOGS_PER_SECOND,
            )  # fmt: skip
