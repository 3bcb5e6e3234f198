"""Decisions whose records are written to the log in one call. None of them may be answered before that."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from policyengine.runtime.current_caller import current_caller
from policyengine.runtime.decision import Answer, Decision

if TYPE_CHECKING:
    from policyengine.audit.recent_decisions import DecisionSubject
    from policyengine.engine.recorder import DecisionRecorder


class PendingRecord(Struct, gc=False):  # short-lived, and never part of a reference cycle
    """A decision whose record waits for its group to be written. If it cannot be written, a denial replaces `decision`.
    `count` counts the answered decision, which began at `began`; `answer` is the answer that waits for the record.
    """

    recorder: DecisionRecorder
    decision: Decision
    line: bytes
    subject: DecisionSubject | None  # None if no outcome of the decision may be reported
    caller: str
    count: Callable[[Answer, int], None] | None = None
    began: int = 0
    answer: Any = None


class RecordGroup:
    """The records of decisions of engines with one log, which are written in one call."""

    def __init__(self) -> None:
        self.pending: list[PendingRecord] = []

    def add(self, recorder: DecisionRecorder, decision: Decision, line: bytes, subject: DecisionSubject | None) -> None:
        """Add the encoded record of a decision."""
        self.pending.append(PendingRecord(recorder, decision, line, subject, current_caller()))

    def find(self, decision: Decision) -> PendingRecord | None:
        """Return the record of the decision that was just made; None if it does not wait."""
        last = self.pending[-1] if self.pending else None
        return last if last is not None and last.decision is decision else None

    def write(self) -> list[PendingRecord]:
        """Write the records, and return them with the decisions to answer."""
        pending, self.pending = self.pending, []
        if not pending:
            return pending
        log = pending[0].recorder.log
        assert log is not None
        written = log.write_decisions([record.line for record in pending])
        if written < len(pending) and not log.lets_pass:
            for record in pending[written:]:
                record.decision, record.subject = record.recorder.deny_unrecorded(), None
        for record in pending:
            if record.subject is not None:
                log.recent.add(record.subject, record.caller)
            if record.count is not None:
                record.count(record.decision.answer, record.began)
        return pending


def count_when_written(
    records: RecordGroup | None, decision: Decision, count: Callable[[Answer, int], None], began: int
) -> None:
    """Count the decision that was just made: now, or once its record is written."""
    record = None if records is None else records.find(decision)
    if record is None:
        count(decision.answer, began)
    else:
        record.count, record.began = count, began


def seal_written(records: list[PendingRecord]) -> None:
    """Let the log seal the written records if a seal is due. Call this after the answers were sent, because sealing may
    take several milliseconds.
    """
    if records and (log := records[0].recorder.log) is not None:
        log.wrote(sum([len(record.line) for record in records]))


def write_records(records: RecordGroup, answers: list[Any]) -> None:
    """Write the records of a batch in one call, and replace the answers whose decisions could not be recorded."""
    decisions = [record.decision for record in records.pending]
    written = records.write()
    replaced = {
        id(decision): record.decision
        for decision, record in zip(decisions, written, strict=True)
        if record.decision is not decision
    }
    if replaced:
        answers[:] = [replaced.get(id(answer), answer) for answer in answers]
    seal_written(written)
