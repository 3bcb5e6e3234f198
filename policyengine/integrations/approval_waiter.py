"""Waits for the approval that a request needs, and then decides again."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import anyio

from policyengine.integrations.approval_watch import ApprovalWatch, check_wait
from policyengine.integrations.enforcement_point import (
    Duties,
    Facts,
    PolicyDecisionPoint,
    decide_and_meet,
    prove_credentials,
)
from policyengine.runtime.approval_tickets import can_be_lifted
from policyengine.runtime.decision import Decision

MAX_WAITING_REQUESTS = 200  # per enforcement point; beyond it, a request gets its confirm at once

ClientWatch: TypeAlias = Callable[[], Awaitable[object]]
_LOG = logging.getLogger("policyengine")


class ApprovalWaiter:
    """Decides requests, and lets a confirm wait for the answers of people, for at most `seconds`; 0 waits for nothing.
    At most `most` requests wait at a time.
    """

    def __init__(self, decides: PolicyDecisionPoint, seconds: float = 0.0, *, most: int = MAX_WAITING_REQUESTS) -> None:
        self._decides, self._seconds, self._most = decides, check_wait(seconds), most
        self._watch = ApprovalWatch(decides)
        self._waiting = 0

    @property
    def waits(self) -> bool:
        """Whether requests may wait. The departure of a waiting client is noticed only after the body of its request
        was read."""
        return self._seconds > 0

    async def decide(self, question: Facts, duties: Duties, gone: ClientWatch | None = None) -> Decision:
        """Decide as `decide_and_meet` does. After an approval, or if the policies have changed meanwhile, decide once
        more; otherwise return the confirm with the current states of its approvals. Credentials are verified once, and
        checked again for expiry and revocation. `gone` returns when the client has gone, which ends the wait.
        """
        if self._seconds:
            question = await prove_credentials(self._decides, question)
        decision = await decide_and_meet(self._decides, question, duties)
        if not self._seconds or not can_be_lifted(decision) or self._waiting >= self._most:
            return decision
        self._waiting += 1
        try:
            waited = await self._wait_unless(gone or anyio.sleep_forever, decision)
        except Exception:
            _LOG.exception("waiting for an approval failed; the request was not allowed")
            return decision
        finally:
            self._waiting -= 1
        return await decide_and_meet(self._decides, question, duties) if waited is None else waited

    async def _wait_unless(self, gone: ClientWatch, decision: Decision) -> Decision | None:
        """Wait for the approvals of a decision until `gone` returns. Return None if the request must be decided again,
        otherwise the decision with the states of its approvals."""
        waited: Decision | None = decision

        async def wait(scope: anyio.CancelScope) -> None:
            nonlocal waited
            waited = await self._watch.wait(decision, self._seconds)
            scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait, tasks.cancel_scope)
            await gone()
            tasks.cancel_scope.cancel()
        return waited
