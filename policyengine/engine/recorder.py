"""The recorder: passes every decision once through the log, observe mode and the failure counter."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from time import time_ns
from typing import TYPE_CHECKING

from policyengine.engine.failure_counter import FailureCounter
from policyengine.engine.observe_mode import Observer
from policyengine.engine.question import new_id
from policyengine.kernel import Kernel
from policyengine.log_throttle import LogThrottle
from policyengine.runtime.decision import Decision, Gate, Outcome, Reason
from policyengine.runtime.request import Request
from policyengine.stores.base import StoreError

if TYPE_CHECKING:
    from policyengine.audit.log import DecisionLog

_LOG = logging.getLogger("policyengine")
UNRECORDED = "the decision could not be recorded; the operator's log says why"
FAILED = "the engine failed while deciding; the operator's log says why"


class DecisionRecorder:
    """The decision log, the observe mode and the failure counter of one engine."""

    def __init__(self, kernel: Kernel, log: DecisionLog | None) -> None:
        self._package, self._revision = kernel.package, kernel.revision
        self.log = log
        self.observer: Observer | None = None
        self.failures = FailureCounter()
        self._throttle = LogThrottle()

    @property
    def is_idle(self) -> bool:
        """Whether decisions are returned unchanged, because there is no log and observe mode is off."""
        return self.log is None and self.observer is None

    def record(
        self,
        question: dict[str, object] | Request,
        decision: Decision,
        call: bytes,
        state: bytes,
        moment: int | None = None,
    ) -> Decision:
        """Log a decision and apply observe mode; return the answer. If logging fails, the answer is a denial, unless
        the operator chose otherwise. `state` holds the log members of the state on which the decision depends. `moment`
        is the time of the decision in nanoseconds; a failed decision has none, and is logged with the current time.
        """
        log, given = self.log, decision
        if self.observer is not None:
            try:
                given = self.observer.given(decision, question)
            except Exception:
                decision = given = self.deny_failure()
        if log is not None:
            state = (b'"observed":true,' if given.observed else b"") + state
            if not log.keep(decision, time_ns() if moment is None else moment, call, state, question):
                return self._deny(UNRECORDED)
        return given

    def deny_failure(self) -> Decision:
        """Return a denial for the exception that is being handled, and count and log the failure. The id does not
        depend on the engine's clock, because the clock may have failed."""
        self.failures.add()
        denied = self._deny(FAILED)
        members = {"event": "decision_failed", "decision": denied.id}
        _LOG.exception("a decision failed and was denied", extra=members)
        return denied

    def deny_unavailable(self, error: StoreError) -> Decision:
        """Return a denial for a store that does not answer. The store's circuit breaker logs the failure."""
        self.failures.add()
        _LOG.debug("a decision was denied: %s", error)
        return self._deny(f"the state in the store is unknown: {error.reason}")

    def count_excess(self, decision: Decision, excess: str) -> None:
        """Count and log a denial for too many steps."""
        self.failures.add()
        text = f"a decision was denied: {excess}"
        self._throttle.tell(logging.WARNING, "exceeded", text, event="decision_exceeded", decision=decision.id)

    def _deny(self, why: str) -> Decision:
        return Decision.of(
            Outcome.DENY, Gate.FAILURE, (Reason(Gate.FAILURE, why),),
            package=self._package, revision=self._revision, id=new_id(datetime.now(UTC)),
        )  # fmt: skip
