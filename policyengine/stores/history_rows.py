"""History as stores beside this process keep it: lines of events under digests, with facts and outcomes as JSON.

A *line* holds the events of one watch and key. It is kept for a while after its last event left the window, so that
whoever's clock is a little behind finds what it asks for.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

from policyengine.runtime.history import Happening, Listed, Record, Report, WindowKey, packed, told, unpacked
from policyengine.stores.transition import digest_of
from policyengine.typesystem import EntityRef

SLACK = 60_000_000  # microseconds
NEVER = 2**62  # nothing is recorded of a watch that nobody began
Awaiting: TypeAlias = tuple[str, int, tuple[tuple[str, ...], ...]]  # a line, a number in it, and what it wants to know


class Row(NamedTuple):
    """An event as it is kept; what was `reported` of it is empty until it is."""

    at: int
    serial: int
    decision: str
    facts: str
    reported: str

    @property
    def happening(self) -> Happening:
        facts = unpacked(self.facts)
        if not self.reported:
            return Happening(self.at, self.serial, self.decision, facts)
        status, *output = unpacked(self.reported)
        return Happening(self.at, self.serial, self.decision, facts, status, tuple(output))  # type: ignore[arg-type]


class Recorded:
    """A history as it was read, whose events are made when somebody looks at them."""

    def __init__(self, rows: Sequence[Row], complete_after: int, now: int, version: int) -> None:
        self._rows, self.complete_after, self.now, self.version = rows, complete_after, now, version

    @cached_property
    def events(self) -> Sequence[Happening]:
        return [row.happening for row in self._rows]

    def among(self, place: int, wanted: str | EntityRef) -> Sequence[Happening]:
        return Listed(self.events, self.complete_after, self.now).among(place, wanted)


def line_of(key: WindowKey) -> str:
    return digest_of("history", *key)


def watch_of(watch: str) -> str:
    return digest_of("watch", watch)


def facts_of(record: Record) -> str:
    return packed(record.facts, ascii=True)


def told_of(report: Report, outputs: Sequence[Sequence[str]]) -> str:
    output: Any = told(report.output, [tuple(path) for path in outputs])
    status: Any = report.status
    return packed((status, *output), ascii=True)


def awaited_until(records: Sequence[Record], now: int) -> int:
    """Until when an outcome is waited for; 0 where it is not."""
    return max((now + one.within for one in records if one.awaits), default=0)
