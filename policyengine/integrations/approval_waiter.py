"""Waits for the approval that a request needs, and then decides again."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from time import monotonic
from typing import TYPE_CHECKING, TypeAlias

import anyio

from policyengine.executor import run_in_thread
from policyengine.integrations.enforcement_point import (
    Duties,
    Facts,
    PolicyDecisionPoint,
    decide_and_meet,
    prove_credentials,
)
from policyengine.runtime.approval_tickets import (
    APPROVED,
    PENDING,
    TicketState,
    can_be_lifted,
    find_tickets,
    is_approved,
    with_ticket_states,
)
from policyengine.runtime.decision import Decision

if TYPE_CHECKING:
    from policyengine.engine.approval_desk import ApprovalDesk

MAX_WAITING_REQUESTS = 200  # per enforcement point; beyond it, a request gets its confirm at once
MAX_WAIT_SECONDS = 300.0
FIRST_LOOK_SECONDS, LOOK_GROWTH, MAX_LOOK_SECONDS = 0.02, 1.5, 0.5  # the pauses between two looks at an approval

ClientWatch: TypeAlias = Callable[[], Awaitable[object]]
_LOG = logging.getLogger("policyengine")


class ApprovalWaiter:
    """Decides requests, and lets a confirm wait for the answers of people, for at most `seconds`; 0 waits for nothing.

    A waiting request occupies no thread: the waiter looks at an engine's approvals now and then, and a client of a
    server asks the server, which holds its answer back. At most `most` requests wait at a time.
    """

    def __init__(self, decides: PolicyDecisionPoint, seconds: float = 0.0, *, most: int = MAX_WAITING_REQUESTS) -> None:
        if not 0 <= seconds <= MAX_WAIT_SECONDS:
            raise ValueError(f"`wait_for_approval` must be a number of seconds, from 0 to {MAX_WAIT_SECONDS:.0f}")
        self._decides, self._seconds, self._most = decides, seconds, most
        self._waiting = 0

    async def decide(self, question: Facts, duties: Duties, gone: ClientWatch | None = None) -> Decision:
        """Decide as `decide_and_meet` does. After an approval, decide once more; otherwise return the confirm with the
        current states of its approvals. Credentials are verified once, and checked again for expiry and revocation.
        `gone` returns when the client has gone, which ends the wait.
        """
        if self._seconds:
            question = await prove_credentials(self._decides, question)
        decision = await decide_and_meet(self._decides, question, duties)
        if not self._seconds or not can_be_lifted(decision) or self._waiting >= self._most:
            return decision
        self._waiting += 1
        try:
            waited = await self._wait(decision) if gone is None else await self._wait_unless(gone, decision)
        except Exception:
            _LOG.exception("waiting for an approval failed; the request was not allowed")
            return decision
        finally:
            self._waiting -= 1
        return await decide_and_meet(self._decides, question, duties) if is_approved(waited) else waited

    async def _wait_unless(self, gone: ClientWatch, decision: Decision) -> Decision:
        """Wait, but no longer than the client does."""
        waited = decision

        async def wait(scope: anyio.CancelScope) -> None:
            nonlocal waited
            waited = await self._wait(decision)
            scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait, tasks.cancel_scope)
            await gone()
            tasks.cancel_scope.cancel()
        return waited

    async def _wait(self, decision: Decision) -> Decision:
        remote = getattr(self._decides, "await_approval", None)
        if remote is not None:
            found: Decision = await remote(decision, self._seconds)
            return found
        desk: ApprovalDesk | None = getattr(self._decides, "approvals", None)
        return decision if desk is None else await self._watch(desk, decision)

    async def _watch(self, desk: ApprovalDesk, decision: Decision) -> Decision:
        """Look at the approvals until all were given, one has ended otherwise, or the time is over."""
        ids = [ticket.id for ticket in find_tickets(decision) if ticket.id is not None]
        until, pause, states = monotonic() + self._seconds, FIRST_LOOK_SECONDS, dict[str, TicketState]()
        while True:
            states |= await run_in_thread(look_at_approvals, desk, ids)
            found = {states[id].state if id in states else PENDING for id in ids}
            left = until - monotonic()
            if found == {APPROVED} or not found <= {PENDING, APPROVED} or left <= 0:
                return with_ticket_states(decision, states)
            await anyio.sleep(min(pause, left))
            pause = min(pause * LOOK_GROWTH, MAX_LOOK_SECONDS)


def look_at_approvals(desk: ApprovalDesk, ids: Sequence[str]) -> Mapping[str, TicketState]:
    """Return the states of these approvals, without those that cannot be read now."""
    from policyengine.engine.approval_desk import ApprovalNotFoundError
    from policyengine.stores.base import StoreError

    found: dict[str, TicketState] = {}
    for id in ids:
        try:
            status = desk.find(id)
        except (ApprovalNotFoundError, StoreError):
            continue
        refusal = status.approval.refusal
        found[id] = TicketState(status.state.value, None if refusal is None else refusal.reason)
    return found
