"""Watches the approvals that a confirm waits for, until people have answered: in an engine of this process, or at the
server of a client.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import anyio

from policyengine.executor import run_in_thread
from policyengine.integrations.enforcement_point import PolicyDecisionPoint
from policyengine.runtime.approval_tickets import (
    APPROVED,
    PENDING,
    TicketState,
    find_tickets,
    is_approved,
    with_ticket_states,
)
from policyengine.runtime.decision import Decision
from policyengine.stores.base import StoreError

if TYPE_CHECKING:
    from policyengine.engine.approval_desk import ApprovalDesk, TrackedApproval


@runtime_checkable
class ApprovalKeeper(Protocol):
    """A decision point that keeps its approvals in this process, such as an Engine."""

    @property
    def approvals(self) -> ApprovalDesk | None: ...


@runtime_checkable
class RemoteApprovals(Protocol):
    """A decision point whose server keeps the approvals, such as an AsyncPolicyClient."""

    async def await_approval(self, decision: Decision, seconds: float, /) -> Decision: ...


MAX_WAIT_SECONDS = 300.0
FIRST_LOOK_SECONDS, LOOK_GROWTH, MAX_LOOK_SECONDS = 0.02, 1.5, 0.5  # the pauses between two looks at an approval


def check_wait(seconds: float) -> float:
    """Return a number of seconds for which a request may wait. Raises ValueError."""
    if not 0 <= seconds <= MAX_WAIT_SECONDS:
        raise ValueError(f"a wait for an approval is a number of seconds, from 0 to {MAX_WAIT_SECONDS:.0f}")
    return seconds


class ApprovalWatch:
    """Watches the approvals of one decision point. Waiting occupies no thread: an engine's approvals are looked at from
    time to time, each time in a thread of the pool, and the server of a client holds its answer back.
    """

    def __init__(self, decides: PolicyDecisionPoint) -> None:
        self._decides = decides

    @property
    def desk(self) -> ApprovalDesk | None:
        """The approvals of an engine in this process, under its current policies."""
        return self._decides.approvals if isinstance(self._decides, ApprovalKeeper) else None

    @property
    def remote(self) -> Callable[[Decision, float], Awaitable[Decision]] | None:
        """The method of a client that waits for the approvals of a server."""
        return self._decides.await_approval if isinstance(self._decides, RemoteApprovals) else None

    async def wait(self, decision: Decision, seconds: float) -> Decision | None:
        """Wait until all approvals of a confirm are given, an approval has ended otherwise, or the time is over. Return
        the confirm with the states of its approvals; None if the request must be decided again, because all approvals
        were given, or because other policies are in force.
        """
        if (remote := self.remote) is not None:
            answered = await remote(decision, seconds)
            return None if is_approved(answered) else answered
        ids, pause = approval_ids(decision), FIRST_LOOK_SECONDS
        with anyio.move_on_after(seconds):
            while True:
                try:
                    states = await self._look(ids)
                except StoreError:  # the circuit breaker logs it
                    states = []
                if states is None or set(states) == {APPROVED}:
                    return None
                if not set(states) <= {PENDING, APPROVED}:
                    break
                await anyio.sleep(pause)
                pause = min(pause * LOOK_GROWTH, MAX_LOOK_SECONDS)
        waited = await self.refresh(decision)
        return None if is_approved(waited) else waited

    async def _look(self, ids: Sequence[str]) -> Sequence[str] | None:
        """Return the state of each approval; None if other policies are in force. Raises StoreError."""
        desk = self.desk
        found = [] if desk is None else await run_in_thread(look_up_approvals, desk, ids)
        if desk is None or not all(desk.is_current(one.approval) for one in found):
            return None
        return [one.state for one in ticket_states(ids, found).values()]

    async def refresh(self, decision: Decision) -> Decision:
        """Return a confirm with the current states of its approvals; unchanged if they cannot be read now."""
        desk, ids = self.desk, approval_ids(decision)
        if desk is None:
            return decision
        try:
            found = await run_in_thread(look_up_approvals, desk, ids)
        except StoreError:
            return decision
        return with_ticket_states(decision, ticket_states(ids, found))


def approval_ids(decision: Decision) -> tuple[str, ...]:
    """Return the ids of the approvals that a confirm waits for."""
    return tuple(dict.fromkeys(ticket.id for ticket in find_tickets(decision) if ticket.id is not None))


def look_up_approvals(desk: ApprovalDesk, ids: Sequence[str]) -> list[TrackedApproval]:
    """Return the approvals that are still known. Raises StoreError."""
    from policyengine.engine.approval_desk import ApprovalNotFoundError

    found = []
    for id in ids:
        try:
            found.append(desk.find(id))
        except ApprovalNotFoundError:
            continue
    return found


def ticket_states(ids: Sequence[str], found: Sequence[TrackedApproval]) -> dict[str, TicketState]:
    """Return the states of approvals by id; an approval that is no longer known ended long ago."""
    states = {id: TicketState("expired") for id in ids}
    for tracked in found:
        refusal = tracked.approval.refusal
        states[tracked.approval.id] = TicketState(tracked.state.value, None if refusal is None else refusal.reason)
    return states
