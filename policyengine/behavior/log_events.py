"""Reads behavior events from decision logs, including the lines of engines that learned nothing."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from decimal import Decimal
from enum import Enum
from heapq import merge
from pathlib import Path
from typing import Any, Final, NamedTuple

from policyengine.audit.event_records import OutcomeRecord
from policyengine.audit.files import Report
from policyengine.audit.reader import DecisionRecord, LogEntry, read_log
from policyengine.behavior.events import BehaviorEvent, Caller, event_time
from policyengine.behavior.fold_log import logged_event
from policyengine.behavior.reader import (
    FAILED_STATUS,
    OUTCOMES,
    UNIDENTIFIED,
    BehaviorReader,
    IdentifiedCaller,
    text_at,
)
from policyengine.behavior.reportable import MAX_REPORTABLE
from policyengine.behavior.shape import NO_SHAPE
from policyengine.clock import epoch_nanoseconds
from policyengine.runtime.decision import Outcome
from policyengine.runtime.request import Request
from policyengine.runtime.structure_checks import RequestError

PAYLOAD_FACTS: Final = ("body", "args", "request.query")
RUN_PATH: Final = ("task", "id")  # the name of a run if the profile declares no key of runs


class FailureReport(NamedTuple):
    """A report that an allowed request of a caller failed."""

    caller: Caller
    at: int


class RunEvent(NamedTuple):
    """An event with the name of its run, which is empty if the event has no run."""

    event: BehaviorEvent
    run: str


class EventGap(Enum):
    """Why nothing is learned from a decision: its caller is not identified, or only policies could determine the
    class."""

    UNIDENTIFIED = 0
    UNKNOWN = 1


class LogEventReader:
    """Reads the events of log entries, each decision and each report of a failure once.

    With `names`, events have the names of their runs. `decisions` counts decisions, `unidentified` decisions without an
    identified caller, and `unknown` decisions whose class only policies could determine.
    """

    def __init__(self, reader: BehaviorReader | None, *, names: bool = False) -> None:
        self._decisions = DecisionReader(reader, names=names)
        # The ids of decisions, because each repetition of an idempotency key has its own line, and the callers of
        # allowed decisions whose failure may be reported; oldest first.
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._callers: OrderedDict[str, Caller] = OrderedDict()
        self.decisions = self.unidentified = self.unknown = 0

    def read(self, entry: LogEntry) -> RunEvent | FailureReport | None:
        """Return the event of an entry; None if nothing is learned from it."""
        if isinstance(entry, OutcomeRecord):
            caller = self._callers.pop(entry.decision, None)
            failed = entry.status is not None and entry.status >= FAILED_STATUS
            return FailureReport(caller, milliseconds(entry)) if caller is not None and failed else None
        if not isinstance(entry, DecisionRecord) or entry.call != "decide":
            return None
        if entry.id in self._seen:
            return None
        if len(self._seen) >= MAX_REPORTABLE:
            self._seen.popitem(last=False)
        self._seen[entry.id] = None
        self.decisions += 1
        found = self._decisions.read(entry)
        if not isinstance(found, RunEvent):
            self.unidentified += found is EventGap.UNIDENTIFIED
            self.unknown += found is EventGap.UNKNOWN
            return None
        if entry.outcome is Outcome.ALLOW:
            if len(self._callers) >= MAX_REPORTABLE:
                self._callers.popitem(last=False)
            self._callers[entry.id] = found.event.caller
        return found


class DecisionReader:
    """Reads the event of a logged decision. With policies (`reader`), the policies determine the caller, the class, the
    run and a missing endpoint from the logged request; without policies, these come from the `behavior` member of the
    line. With `names`, events have the names of their runs."""

    def __init__(self, reader: BehaviorReader | None, *, names: bool = False) -> None:
        self._reader, self._names = reader, names

    def read(self, record: DecisionRecord) -> RunEvent | EventGap | None:
        """Return the event of a decision; None if the decision consumed nothing."""
        logged = record.behavior
        if record.decision.get("gate") in UNIDENTIFIED or (logged is not None and not logged.event):
            return EventGap.UNIDENTIFIED
        reader, name = self._reader, ""
        request = question_of(record) if reader is not None or self._names else None
        if logged is None and request is not None and not request.options.consume:
            return None
        event = None if logged is None else logged_event(record, logged)
        found = None if reader is None or request is None else reader.identify(request.facts)
        if reader is not None and request is not None and found is not None:
            event = self._policy_event(reader, record, request, event, found)
        if self._names and request is not None:
            key = None if found is None else found.profile.run_key
            name = task_of(request) if key is None else text_at(request.facts, key) or ""
        if event is None:
            return EventGap.UNKNOWN if reader is None else EventGap.UNIDENTIFIED
        return RunEvent(event, name or (f"{event.run:08x}" if event.run else ""))

    def _policy_event(
        self,
        reader: BehaviorReader,
        record: DecisionRecord,
        request: Request,
        logged: BehaviorEvent | None,
        found: IdentifiedCaller,
    ) -> BehaviorEvent:
        caller, group = found.caller, found.group
        tags, endpoint = reader.tags_of(request.endpoint, request.facts, found.profile), record.endpoint
        run, shape = tags.run, NO_SHAPE if has_redacted_payload(record) else tags.shape
        if logged is not None:
            run, shape = run or logged.run, (logged.shape or shape) if reader.reads_payloads else NO_SHAPE
            caller = caller._replace(version=caller.version or logged.caller.version)
        clamped = record_was_clamped(record) if logged is None else logged.clamped
        released = logged is not None and logged.released
        pattern = reader.pattern_of(request.endpoint) if endpoint is None else endpoint
        return BehaviorEvent(
            milliseconds(record), caller, group, pattern, run, OUTCOMES[record.outcome], clamped, released, shape,
            tags.letter,
        )  # fmt: skip


def milliseconds(entry: LogEntry) -> int:
    return event_time(epoch_nanoseconds(entry.time))


def question_of(record: DecisionRecord) -> Request | None:
    """Return the request of a decision; None if the request is malformed."""
    try:
        return record.question
    except RequestError:
        return None


def has_redacted_payload(record: DecisionRecord) -> bool:
    """Return whether a part of the payload is redacted, so that its structure is not known."""
    return any(one.fact.startswith(PAYLOAD_FACTS) for one in record.redacted)


def task_of(request: Request) -> str:
    task: Any = request.facts.get(RUN_PATH[0])
    name = task.get(RUN_PATH[1]) if isinstance(task, dict) else None
    return name if isinstance(name, str) else ""


def record_was_clamped(record: DecisionRecord) -> bool:
    """Return whether a clamp reduced a rate of the request."""
    factors = [rate.get("factor") for rate in record.decision.get("rates", ())]
    return any(isinstance(factor, int | float | Decimal) and factor < 1 for factor in factors)


def read_logs(logs: Iterable[Path], tell: Report) -> Iterator[LogEntry]:
    """Yield the entries of several logs in the order of their times. Raises OSError."""
    return merge(*(read_log(log, tell) for log in logs), key=lambda entry: entry.time)
