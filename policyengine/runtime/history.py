"""What is remembered of requests, as plain data: events by watch and key, and how they came out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, NamedTuple, Protocol, TypeAlias
from typing import Literal as Word

from policyengine.runtime.values import ABSENT, Cause, Unknown, Value
from policyengine.typesystem import EntityRef

WindowKey: TypeAlias = tuple[str, str]  # the name of a watch, and a key as one text
ReportStatus: TypeAlias = Word["first", "again"]

MAX_EVENTS_PER_KEY = 10_000  # that are kept of one key; then the oldest go
MAX_FACT_BYTES = 256  # bytes of one fact; what is longer is unknown later
NOT_READ = "this part of the history was not read"
ALWAYS = -1  # `complete_after` of a history that lacks nothing


class PastEvent(NamedTuple):
    """One request that is remembered. `serial` rises from one commit of a store to the next, whatever its clock says;
    `facts` are in the order of the record. `status` is None, and `output` empty, until the outcome is reported."""

    at: int  # microseconds since 1970
    serial: int
    decision: str
    facts: tuple[Value, ...]
    status: int | None = None
    output: tuple[object, ...] = ()


class History(Protocol):
    """All events of one watch and key after `complete_after` (microseconds), oldest first; older ones may be missing.

    The version changes whenever the events do. `now` is when they were read, by the clock of whoever keeps them, which
    never runs back: windows end then, and no event is later.
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
        """The events whose fact at that place is the wanted one, or is unknown: of no others it is true."""
        ...


class HistoryList(NamedTuple):
    """A history as a plain list."""

    events: Sequence[PastEvent]
    complete_after: int
    now: int
    version: int = 0

    def among(self, place: int, wanted: str | EntityRef) -> Sequence[PastEvent]:
        return [one for one in self.events if one.facts[place] == wanted or isinstance(one.facts[place], Unknown)]


class UnreadHistories(dict[WindowKey, History]):
    """Histories of which none was read, and why."""

    def __init__(self, reason: str) -> None:
        super().__init__()
        self.reason = reason


def unread_reason(histories: Mapping[WindowKey, History]) -> str:
    """Why a history that is not among these was not read."""
    return histories.reason if isinstance(histories, UnreadHistories) else NOT_READ


class HistoryRecord(NamedTuple):
    """A request to be remembered: for how long (`within`, microseconds), and whether only the `latest` of its key is.

    `outputs` are the paths below the reported output that are to be kept, each as one element of `PastEvent.output`.
    """

    watch: str
    key: str
    facts: tuple[Value, ...]
    outputs: tuple[tuple[str, ...], ...]
    within: int
    latest: bool
    awaits: bool = False  # some condition asks how it came out


def bounded_value(known: Value, fact: str) -> Value:
    """The value, where it is small enough to be kept."""
    small = (
        len(encode_values((known,)).encode("utf-8", "surrogatepass")) <= MAX_FACT_BYTES + 2
    )  # without the list around it
    return known if small else Unknown.of(fact, f"longer than {MAX_FACT_BYTES} bytes, and so not remembered")


class OutcomeReport(NamedTuple):
    """How a request came out, as the gateway says: the status of its answer, and what of the answer it passes on."""

    status: int | None
    output: Mapping[str, object]


def merge_reports(*reported: ReportStatus | None) -> ReportStatus | None:
    """What several that were told of the same report make of it together."""
    return "first" if "first" in reported else "again" if "again" in reported else None


def reported_values(output: Mapping[str, object], paths: Sequence[tuple[str, ...]]) -> tuple[object, ...]:
    """What is kept of a reported output: raw, as it is of no type yet."""
    return tuple(bounded_value(_output_at(output, path), ".".join(("past", "output", *path))) for path in paths)  # type: ignore[arg-type]


def _output_at(raw: object, path: tuple[str, ...]) -> object:
    for name in path:
        raw = raw.get(name, ABSENT) if isinstance(raw, Mapping) else ABSENT
    return Unknown.missing(".".join(("past", "output", *path))) if raw is ABSENT or raw is None else raw


# ── As text, for stores that keep nothing else ────────────────────────────────────────────────


def encode_values(facts: tuple[Value, ...], *, ascii: bool = False) -> str:
    """JSON from which `decode_values` makes the same values; in `ascii` also those that are no UTF-8."""
    return json.dumps([_to_json_value(one) for one in facts], separators=(",", ":"), ensure_ascii=ascii)


def decode_values(text: str) -> tuple[Value, ...]:
    return tuple(_from_json_value(one) for one in json.loads(text))


def values_from_json(plain: Sequence[Any]) -> tuple[Value, ...]:
    """The values of what `encode_values` wrote, once it is read."""
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
        case Unknown(causes):
            found = sorted((cause.fact, cause.why, cause.absent) for cause in causes)
            return {"unknown": [list(one) for one in found]}
        case _:
            return {"unknown": [["", f"{type(value).__name__} is not remembered", False]]}


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
