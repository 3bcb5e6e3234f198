"""Settles tool calls that a person must approve: waits for the approval, asks the user through the client, and decides
again. Nothing here depends on an SDK.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import anyio

from policyengine.executor import run_in_thread
from policyengine.integrations.approval_watch import ApprovalWatch, approval_ids, check_wait, look_up_approvals
from policyengine.integrations.enforcement_point import (
    Duties,
    Facts,
    PolicyDecisionPoint,
    decide_and_meet,
    report_outcome,
)
from policyengine.integrations.mcp.confirm_results import ticket_page
from policyengine.integrations.mcp.elicit_modes import ElicitMode
from policyengine.integrations.mcp.elicitation import (
    UserPrompt,
    approving_user,
    build_prompt,
    caller_identity,
    is_own_approval,
    read_form_answer,
)
from policyengine.runtime.approval_tickets import (
    PENDING,
    TicketState,
    can_be_lifted,
    find_tickets,
    with_ticket_states,
)
from policyengine.runtime.decision import Decision
from policyengine.stores.base import StoreError

PROMPT_SECONDS = 120.0  # how long a call waits for its user without another limit
MAX_WAITING_CALLS = 100
PROGRESS_SECONDS = 5.0
CHANNEL = "mcp"
_LOG = logging.getLogger("policyengine")


@dataclass(frozen=True, slots=True)
class ConfirmOptions:
    """Settings for calls that a person must approve. Such a call waits for the approval for at most `wait` seconds.
    With `elicit`, the client asks the user of the request, if the rule says `by user`: `form` trusts the client with
    the answer. `pages` is the URL of the console with the pages of approvals. At most `most` calls wait at a time.
    `outlive_process` is whether approvals stay open after the end of this process.
    """

    wait: float = 0.0
    elicit: ElicitMode = ElicitMode.OFF
    pages: str | None = None
    most: int = MAX_WAITING_CALLS
    outlive_process: bool = True

    def __post_init__(self) -> None:
        check_wait(self.wait)


class McpCaller(Protocol):
    """The client of one call. `modes` are the ways in which it can ask its user. With `in_rounds`, it is asked with an
    interim result, and `responses` are its answers; otherwise with a request during the call.
    """

    @property
    def modes(self) -> frozenset[ElicitMode]: ...

    @property
    def in_rounds(self) -> bool: ...

    @property
    def responses(self) -> Mapping[str, Any]: ...

    def hold(self) -> AbstractContextManager[None]:
        """Let the client send other messages while this call waits; a cancellation by the client ends the block."""
        ...

    async def progress(self, progress: float, message: str) -> None:
        """Report progress if the client wants it. Errors are not raised."""
        ...

    async def elicit(self, prompt: UserPrompt) -> Mapping[str, Any] | None:
        """Ask the user. Return None if the client gives no answer; errors are not raised."""
        ...

    async def complete(self, elicitation: str) -> None:
        """Notify the client that the user answered elsewhere. Errors are not raised."""
        ...


class InputRound(NamedTuple):
    """An interim result that asks the client for the answer of its user."""

    prompt: UserPrompt


class ConfirmHandler:
    """Settles the confirms of one enforcement point. Only one call waits for each approval, because only one call can
    use it.
    """

    def __init__(self, decides: PolicyDecisionPoint, options: ConfirmOptions) -> None:
        self._decides, self.options, self._watch = decides, options, ApprovalWatch(decides)
        self._awaited: set[str] = set()  # the approvals for which calls wait
        self._waits: set[anyio.CancelScope] = set()
        self._is_stopping = False

    async def settle(
        self, decision: Decision, question: Facts, duties: Duties, caller: McpCaller | None
    ) -> Decision | InputRound:
        """Return the decision after the approval of a confirm, or the confirm with the state of its approvals. A call
        is decided again only once. Other decisions are returned as they are.
        """
        ids = pending_approvals(decision)
        if not ids or caller is None or (self._watch.desk is None and self._watch.remote is None):
            return decision
        prompt = await self._prompt(decision, ids, question, caller)
        if prompt is not None and caller.in_rounds:
            if not caller.responses:
                return InputRound(prompt)
            # The answers of a repeated call may be for the tool, or for an approval that has ended: then the user is
            # not asked again, because the client would repeat the call without an end.
            answer = caller.responses.get(prompt.key)
            if not isinstance(answer, Mapping) or not await self._take(prompt, answer):
                return await self._watch.refresh(decision)
        seconds = self.options.wait or (0.0 if prompt is None else PROMPT_SECONDS)
        may_wait = len(self._awaited) < self.options.most and self._awaited.isdisjoint(ids) and not self._is_stopping
        if not seconds or not may_wait:
            return decision if prompt is None else await self._watch.refresh(decision)
        self._awaited.update(ids)
        try:
            with caller.hold():
                asked = None if caller.in_rounds else prompt
                waited = await self._wait(decision, seconds, asked, caller)
                return await self._decide_again(question, duties) if waited is None else waited
        finally:
            self._awaited.difference_update(ids)

    # ── The wait ──────────────────────────────────────────────────────────────────────────────

    def end_waits(self) -> None:
        """End all waits, and begin no others, because the process stops: the calls get the confirm, and can be made
        again after the approval."""
        self._is_stopping = True
        for wait in list(self._waits):
            wait.cancel()

    async def _wait(
        self, decision: Decision, seconds: float, prompt: UserPrompt | None, caller: McpCaller
    ) -> Decision | None:
        """Wait until the approvals are answered. Return the confirm with their states, or None to decide again."""
        waited: Decision | None = decision
        async with anyio.create_task_group() as group:
            self._waits.add(group.cancel_scope)
            try:
                group.start_soon(report_progress, caller, decision)
                if prompt is not None:
                    group.start_soon(self._ask, prompt, caller, group.cancel_scope)
                waited = await self._watch.wait(decision, seconds)
                if prompt is not None and prompt.mode is ElicitMode.URL:
                    await caller.complete(prompt.params["elicitationId"])
                group.cancel_scope.cancel()
            finally:
                self._waits.discard(group.cancel_scope)
        if waited is not decision:
            return waited
        waited = await self._watch.refresh(decision)
        return self._after_stop(waited) if self._is_stopping else waited

    def _after_stop(self, decision: Decision) -> Decision:
        """Return a confirm with the states that its approvals have after the end of this process."""
        pending = find_tickets(decision) if not self.options.outlive_process else ()
        ended = {ticket.id: TicketState("expired") for ticket in pending if ticket.id and ticket.state == PENDING}
        return with_ticket_states(decision, ended) if ended else decision

    async def _decide_again(self, question: Facts, duties: Duties) -> Decision:
        """Decide the same question. If the call was cancelled meanwhile, report that it did not happen."""
        with anyio.CancelScope(shield=True):
            decision = await decide_and_meet(self._decides, question, duties)
        try:
            await anyio.lowlevel.checkpoint_if_cancelled()
        except anyio.get_cancelled_exc_class():
            if decision.allowed:
                await report_outcome(self._decides, decision, 500)
            raise
        return decision

    # ── The user ──────────────────────────────────────────────────────────────────────────────

    async def _prompt(
        self, decision: Decision, ids: Sequence[str], question: Facts, caller: McpCaller
    ) -> UserPrompt | None:
        """Return the question for the user of the request; None unless a rule asks exactly this user, who may answer,
        and the client can ask.
        """
        person, modes = approving_user(question), caller.modes & allowed_modes(self.options.elicit)
        desk = self._watch.desk
        if person is None or not modes or len(ids) != 1 or desk is None:
            return None
        try:
            found = await run_in_thread(look_up_approvals, desk, ids)
            own = [one.approval for one in found if one.state == "pending" and is_own_approval(one.approval, person)]
            if not own or await run_in_thread(desk.find_refusal, own[0], person) is not None:
                return None
        except StoreError:
            return None
        [ticket] = {one.approval for one in decision.remedies if one.approval is not None}
        page = ticket_page(ticket, self.options.pages)
        return build_prompt(own[0], person, caller_identity(question), modes, page)

    async def _ask(self, prompt: UserPrompt, caller: McpCaller, waiting: anyio.CancelScope) -> None:
        """Ask the user, and end the wait if the user does not answer, unless the call waits for approvals anyway."""
        answer = await caller.elicit(prompt)
        if (answer is None or not await self._take(prompt, answer)) and not self.options.wait:
            waiting.cancel()

    async def _take(self, prompt: UserPrompt, answer: Mapping[str, Any]) -> bool:
        """Record an answer in a form, for the user of the request. Return whether the answer was recorded or is
        expected on the page."""
        if prompt.mode is ElicitMode.URL:
            return answer.get("action") == "accept"
        words = read_form_answer(answer)
        if words is None or (desk := self._watch.desk) is None:
            return False
        from policyengine.approvals.model import ApprovalChangeError
        from policyengine.engine.approval_desk import ApprovalNotFoundError, ApproverRefusedError

        act = desk.approve if words.approve else desk.deny
        try:
            await run_in_thread(partial(act, prompt.approval, prompt.person, words.reason, channel=CHANNEL))
        except (ApprovalChangeError, ApprovalNotFoundError, ApproverRefusedError, StoreError) as error:
            _LOG.warning("the answer of a user was not accepted: %s", error)
            return False
        return True


def allowed_modes(elicit: ElicitMode) -> frozenset[ElicitMode]:
    """Return the modes that a setting permits: a setting that permits forms also permits pages."""
    match elicit:
        case ElicitMode.OFF:
            return frozenset()
        case ElicitMode.URL:
            return frozenset({ElicitMode.URL})
        case ElicitMode.FORM:
            return frozenset({ElicitMode.FORM, ElicitMode.URL})


def pending_approvals(decision: Decision) -> tuple[str, ...]:
    """Return the approvals that would lift a confirm; empty if one of them was not opened, or has ended."""
    return approval_ids(decision) if can_be_lifted(decision) else ()


async def report_progress(caller: McpCaller, decision: Decision) -> None:
    """Report that the call waits, at once and then from time to time. The numbers stay below 1, so that those of the
    tool, which must be larger, can follow."""
    by = ", ".join(dict.fromkeys(one.by for one in decision.remedies if one.by))
    began = anyio.current_time()
    while True:
        await caller.progress((anyio.current_time() - began) / 1_000, f"waiting for an approval by {by}")
        await anyio.sleep(PROGRESS_SECONDS)
