"""Reports of outcomes: record them in the decision log, and pass them to the store, which history and limits read."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from policyengine.kernel import Kernel
from policyengine.runtime.current_caller import SEPARATOR, outcome_key
from policyengine.runtime.history import OutcomeReport, ReportStatus, merge_reports
from policyengine.stores.base import Store

if TYPE_CHECKING:
    from policyengine.audit.log import DecisionLog
    from policyengine.behavior.reader import BehaviorReader


class OutcomeNotRecordedError(Exception):
    """The error for an outcome that could not be written to the decision log. The report had no effect, and can be sent
    again."""


class OutcomeReporter:
    """Records the outcomes that callers report to one engine. `now` returns microseconds since 1970."""

    def __init__(self, kernel: Kernel, store: Store, log: DecisionLog | None, now: Callable[[], int]) -> None:
        self._declared = tuple({path for watch in kernel.watches for path in watch.event.outputs})
        self._store, self._log, self._now = store, log, now
        self.behavior: BehaviorReader | None = None  # set by the engine, if the policies read learned facts

    def report(self, decision: str, report: OutcomeReport, *, refund: bool) -> ReportStatus | None:
        """Record an outcome once. Returns None if the decision is unknown, or belongs to another caller.

        A recorded outcome takes effect, unless the store fails; then a repeated report completes it. An outcome that
        cannot be recorded has no effect, unless the log permits it. Raises StoreError and OutcomeNotRecordedError.
        """
        if SEPARATOR in decision:  # the key could belong to a decision of another caller
            return None
        if self._log is None:
            return self._settle(decision, report, refund)
        from policyengine.audit.recent_decisions import ReportTurn

        turn = self._log.recent.take_turn(decision)
        if turn is ReportTurn.FIRST:
            return self._record_and_settle(self._log, decision, report, refund)
        settled = self._settle(decision, report, refund)
        if turn is ReportTurn.AGAIN:
            return settled or "again"
        # The decision was made by another server with the same store, or too long ago: only the store knows it.
        return "unrecorded" if settled == "first" and not self._note(self._log, decision, report) else settled

    def _record_and_settle(
        self, log: DecisionLog, decision: str, report: OutcomeReport, refund: bool
    ) -> ReportStatus | None:
        recorded = self._note(log, decision, report)
        if not recorded:
            log.recent.give_back(decision)
            if not log.lets_pass:
                raise OutcomeNotRecordedError("the outcome could not be recorded")
        self._settle(decision, report, refund)
        return "first" if recorded else "unrecorded"

    def _settle(self, decision: str, report: OutcomeReport, refund: bool) -> ReportStatus | None:
        """Pass the report to the store; return None if nothing there awaits the outcome. Raises StoreError."""
        key, now = outcome_key(decision), self._now()
        is_learned = self.behavior is not None and self.behavior.report(decision, report.status)
        history = merge_reports("first" if is_learned else None, self._store.report(key, report, now))
        # Finish the decision even if the history already has the report, because an interrupted report is sent again.
        return merge_reports(history, self._store.finish(key, now, refund=refund))

    def _note(self, log: DecisionLog, decision: str, report: OutcomeReport) -> bool:
        """Write the outcome to the log. Return whether it was written."""
        from policyengine.audit.outcomes import build_outcome

        outcome, subject = build_outcome(decision, report, self._declared), log.recent.subject(decision)
        if subject is not None:
            outcome["subject"] = log.redact_subject(subject)
        return log.note_outcome(outcome, self._now() * 1_000)
