"""The stored form of histories in stores outside this process: lines of events under digests, with facts and outcomes
as JSON.

A *line* contains the events of one watch and key. It is kept for a short time after its last event has left the window,
because the clocks of some engines are slightly behind.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

from policyengine.runtime.history import (
    HistoryList,
    HistoryRecord,
    OutcomeReport,
    PastEvent,
    WindowKey,
    count_events,
    decode_values,
    encode_values,
    reported_values,
)
from policyengine.stores.transition import digest_parts
from policyengine.typesystem import EntityRef

SLACK_MICROSECONDS = 60_000_000
NEVER = 2**62  # `complete_after` of a watch that has not begun, which records nothing
# A line, the number of an event in the line, and the outputs that the event records.
AwaitedEvent: TypeAlias = tuple[str, int, tuple[tuple[str, ...], ...]]


class EventRow(NamedTuple):
    """One stored event; `reported` is empty until its outcome is reported."""

    at: int
    serial: int
    decision: str
    facts: str
    reported: str

    @property
    def happening(self) -> PastEvent:
        facts = decode_values(self.facts)
        if not self.reported:
            return PastEvent(self.at, self.serial, self.decision, facts)
        status, *output = decode_values(self.reported)
        return PastEvent(self.at, self.serial, self.decision, facts, status, tuple(output))  # type: ignore[arg-type]


class StoredHistory:
    """A history as it was read; its events are decoded when first used."""

    def __init__(self, rows: Sequence[EventRow], complete_after: int, now: int, version: int) -> None:
        self._rows, self.complete_after, self.now, self.version = rows, complete_after, now, version

    @cached_property
    def events(self) -> Sequence[PastEvent]:
        return [row.happening for row in self._rows]

    def among(self, place: int, wanted: str | EntityRef) -> Sequence[PastEvent]:
        return HistoryList(self.events, self.complete_after, self.now).among(place, wanted)

    def count_between(self, start: int, until: int | None) -> int:
        return count_events(self._rows, start, until)


def history_key(key: WindowKey) -> str:
    return digest_parts("history", *key)


def watch_key(watch: str) -> str:
    return digest_parts("watch", watch)


def encode_record_facts(record: HistoryRecord) -> str:
    return encode_values(record.facts, ascii=True)


def encode_report(report: OutcomeReport, outputs: Sequence[Sequence[str]]) -> str:
    output: Any = reported_values(report.output, [tuple(path) for path in outputs])
    status: Any = report.status
    return encode_values((status, *output), ascii=True)


def outcome_deadline(records: Sequence[HistoryRecord], now: int) -> int:
    """Return the time, in microseconds, at which the store stops waiting for an outcome; 0 if no record awaits an
    outcome.
    """
    return max((now + one.within for one in records if one.awaits), default=0)
