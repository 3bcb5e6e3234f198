"""The history of requests as plain data: events with their outcomes, by watch and key."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from operator import itemgetter
from typing import Any, NamedTuple, Protocol, TypeAlias
from typing import Literal as Word

from policyengine.runtime.values import ABSENT, Cause, Unknown, Value
from policyengine.typesystem import EntityRef

WindowKey: TypeAlias = tuple[str, str]  # name of a watch (a pattern of events), key as text
# `unrecorded` is a first report that took effect, but could not be written to the decision log.
ReportStatus: TypeAlias = Word["first", "again", "unrecorded"]

MAX_EVENTS_PER_KEY = 10_000  # maximum events kept for one key; the oldest are dropped
MAX_FACT_BYTES = 256  # maximum bytes of a recorded fact; a longer fact is recorded as unknown
NOT_READ = "this part of the history was not read"
ALWAYS = -1  # `complete_after` of a complete history
EVENT_TIME = itemgetter(0)


class PastEvent(NamedTuple):
    """One past request. `serial` increases with each commit of a store, independent of its clock. `facts` are in the
    order of the record. `status` is None and `output` is empty until the outcome is reported."""

    at: int  # microseconds since 1970
    serial: int
    decision: str
    facts: tuple[Value, ...]
    status: int | None = None
    output: tuple[object, ...] = ()


class History(Protocol):
    """The events of one watch and key.

    All events after `complete_after` (microseconds) are present, oldest first; older events may be missing. `version`
    changes with the events. `now` is the time of reading by the store's clock, which never goes back: windows end at
    `now`, and no event is later.
    """

    @property
    def events(self) -> Sequence[PastEvent]: ...

    @property
    def complete_after(self) -> int: ...

    @property
    def version(self) -> int: ...

    @property
    def now(self) -> int: ...

    def among(self, place: int, wanted: str | EntityRef) -> Sequence[PastEvent]:
        """Return the events whose fact at index `place` is `wanted` or unknown; all others differ from it."""
        ...

    def count_between(self, start: int, until: int | None) -> int:
        """Return the number of events after `start`, and not after `until` if it is given (microseconds)."""
        ...


def events_between(events: Sequence[PastEvent], start: int, until: int | None) -> Sequence[PastEvent]:
    """Return the events after `start` and not after `until` (microseconds); `events` are oldest first."""
    end = len(events) if until is None else bisect_right(events, until, key=EVENT_TIME)
    return events[bisect_right(events, start, 0, end, key=EVENT_TIME) : end]


def count_events(
    events: Sequence[tuple[Any, ...]], start: int, until: int | None, first: int = 0, end: int | None = None
) -> int:
    """Return the number of events after `start` and not after `until`, among those from index `first` to `end`. The
    events are oldest first; each begins with its time. All times are in microseconds.
    """
    end = len(events) if end is None else end
    last = end if until is None else bisect_right(events, until, first, end, key=EVENT_TIME)
    return max(0, last - bisect_right(events, start, first, end, key=EVENT_TIME))


class HistoryList(NamedTuple):
    """A history as a plain list."""

    events: Sequence[PastEvent]
    complete_after: int
    now: int
    version: int = 0

    def among(self, place: int, wanted: str | EntityRef) -> Sequence[PastEvent]:
        return [one for one in self.events if one.facts[place] == wanted or isinstance(one.facts[place], Unknown)]

    def count_between(self, start: int, until: int | None) -> int:
        return count_events(self.events, start, until)


class UnreadHistories(dict[WindowKey, History]):
    """A mapping without any history, and the reason why none was read."""

    def __init__(self, reason: str) -> None:
        super().__init__()
        self.reason = reason


def unread_reason(histories: Mapping[WindowKey, History]) -> str:
    """Return why a history that is missing from the mapping was not read."""
    return histories.reason if isinstance(histories, UnreadHistories) else NOT_READ


class HistoryRecord(NamedTuple):
    """A request to record, for `within` microseconds. If `latest`, it replaces the earlier record of its key. `outputs`
    are paths in the reported output; the value at each is kept as one element of `PastEvent.output`.
    """

    watch: str
    key: str
    facts: tuple[Value, ...]
    outputs: tuple[tuple[str, ...], ...]
    within: int
    latest: bool
    awaits: bool = False  # whether a condition reads the outcome


def bounded_value(known: Value, fact: str) -> Value:
    """Return the value if it is small enough to keep; otherwise an Unknown."""
    # Without the brackets of the list.
    small = len(encode_values((known,)).encode("utf-8", "surrogatepass")) <= MAX_FACT_BYTES + 2
    return known if small else Unknown.of(fact, f"longer than {MAX_FACT_BYTES} bytes, so it is not recorded")


class OutcomeReport(NamedTuple):
    """The outcome of a request as reported by the gateway: the status of the response, the output to record, the
    duration of the request in milliseconds, the size of the response in bytes, and numbers such as tokens.
    """

    status: int | None
    output: Mapping[str, object]
    latency_ms: Decimal | float | None = None
    size: int | None = None
    usage: Mapping[str, object] | None = None


def merge_reports(*reported: ReportStatus | None) -> ReportStatus | None:
    """Return the common result of stores that received the same report; None if none of them accepted it."""
    return "first" if "first" in reported else "again" if "again" in reported else None


def reported_values(output: Mapping[str, object], paths: Sequence[tuple[str, ...]]) -> tuple[object, ...]:
    """Return the reported values to keep, in raw form, because they have no type yet."""
    return tuple(bounded_value(_output_at(output, path), ".".join(("past", "output", *path))) for path in paths)  # type: ignore[arg-type]


def _output_at(raw: object, path: tuple[str, ...]) -> object:
    for name in path:
        raw = raw.get(name, ABSENT) if isinstance(raw, Mapping) else ABSENT
    return Unknown.missing(".".join(("past", "output", *path))) if raw is ABSENT or raw is None else raw


# ── Text form, for stores that keep only text ────────────────────────────────────────────────


def encode_values(facts: tuple[Value, ...], *, ascii: bool = False) -> str:
    """Return JSON that `decode_values` reads back as the same values. With `ascii`, the JSON can also represent texts
    that are not valid UTF-8.
    """
    return json.dumps([_to_json_value(one) for one in facts], separators=(",", ":"), ensure_ascii=ascii)


def decode_values(text: str) -> tuple[Value, ...]:
    return tuple(_from_json_value(one) for one in json.loads(text))


def values_from_json(plain: Sequence[Any]) -> tuple[Value, ...]:
    """Return the values of decoded JSON that `encode_values` wrote."""
    return tuple(_from_json_value(one) for one in plain)


TEXT_PARSERS: dict[str, type[Any] | Any] = {
    "number": Decimal,
    "time": datetime.fromisoformat,
    "ip": ip_address,
    "cidr": ip_network,
}


def _to_json_value(value: object) -> object:
    match value:
        case None | bool() | int() | str():
            return value
        case Decimal():
            return {"number": str(value)}
        case timedelta():
            return {"duration": value // timedelta(microseconds=1)}
        case datetime():
            return {"time": value.isoformat()}
        case IPv4Address() | IPv6Address():
            return {"ip": str(value)}
        case IPv4Network() | IPv6Network():
            return {"cidr": str(value)}
        case EntityRef():
            return {"entity": [value.type, value.id]}
        case tuple() | list():
            return [_to_json_value(one) for one in value]
        case Mapping():
            return {"object": {str(name): _to_json_value(one) for name, one in value.items()}}
        case Unknown():
            found = sorted((cause.fact, cause.why, cause.absent) for cause in value.causes)
            return {"unknown": [list(one) for one in found]}
        case _:
            return {"unknown": [["", f"values of type {type(value).__name__} are not recorded", False]]}


def _from_json_value(raw: Any) -> Any:
    if isinstance(raw, list | tuple):
        return tuple(_from_json_value(one) for one in raw)
    if not isinstance(raw, dict):
        return raw
    ((kind, inner),) = raw.items()
    match kind:
        case "duration":
            return timedelta(microseconds=inner)
        case "entity":
            return EntityRef(*inner)
        case "object":
            return {name: _from_json_value(one) for name, one in inner.items()}
        case "unknown":
            return Unknown(frozenset(Cause(*one) for one in inner))
        case _:
            return TEXT_PARSERS[kind](inner)
