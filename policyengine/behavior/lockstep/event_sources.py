"""Reads the events in which groups are searched for, from decision logs and from plain events."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from policyengine.audit.reader import LogEntry
from policyengine.behavior.events import BehaviorEvent
from policyengine.behavior.log_events import LogEventReader, RunEvent
from policyengine.behavior.plain_event_reader import PlainEventReader
from policyengine.behavior.plain_events import PlainEvent


def events_of_log(entries: Iterable[LogEntry], reader: LogEventReader) -> Iterator[BehaviorEvent]:
    """Yield the events of the decisions in a log."""
    for entry in entries:
        read = reader.read(entry)
        if isinstance(read, RunEvent):
            yield read.event


def events_of_file(events: Iterable[PlainEvent], reader: PlainEventReader) -> Iterator[BehaviorEvent]:
    """Yield the events of a file of plain events."""
    return map(reader.read, events)
