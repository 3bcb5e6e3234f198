"""Encodes the histories that a decision used, as members of a log line: the events that may have counted.

A history is identified only by its watch, because the request contains the values of its keys. Events that the
condition certainly ignores are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

import msgspec

from policyengine import kernel as k
from policyengine.audit.redaction import Redaction
from policyengine.runtime.history import (
    History,
    HistoryList,
    PastEvent,
    WindowKey,
    count_events,
    encode_values,
    values_from_json,
)
from policyengine.runtime.values import Invalid, Unknown, Value
from policyengine.spec.evaluate import evaluate
from policyengine.spec.facts import Facts
from policyengine.spec.history import event_matches, events_since, history_key
from policyengine.spec.kleene import describe
from policyengine.spec.required_history import event_patterns
from policyengine.typesystem import EntityRef

MAX_EVENTS = 1_000  # maximum number of events of one history in a line


class LoggedHistory(NamedTuple):
    """A history as the decision read it. `events` is None if there were more than MAX_EVENTS."""

    events: Sequence[PastEvent] | None
    complete_after: int
    now: int
    version: int = 0

    def among(self, place: int, wanted: str | EntityRef) -> Sequence[PastEvent]:
        return HistoryList(self.events or (), self.complete_after, self.now).among(place, wanted)

    def count_between(self, start: int, until: int | None) -> int:
        return count_events(self.events or (), start, until)


# ── Encoding ──────────────────────────────────────────────────────────────────────────────────


def encode_histories(
    asked: Iterable[k.HistoryCondition | k.Aggregate], facts: Facts, redaction: Redaction
) -> list[dict[str, Any]]:
    """Return the redacted histories that the conditions read."""
    found: list[dict[str, Any]] = []
    for event, span in longest_spans(asked):
        key = history_key(event, facts, evaluate)
        history = None if isinstance(key, Unknown) else facts.history.get((event.watch, key))
        if history is not None:
            past = select_events(history, event, span, facts)
            events = None if past.events is None else [encode_event(one, event, redaction) for one in past.events]
            looked = " ".join(event.span.text.split())
            times = {"complete_after": past.complete_after, "now": past.now}
            found.append({"watch": event.watch, "event": looked, **times, "events": events})
    return found


def longest_spans(asked: Iterable[k.HistoryCondition | k.Aggregate]) -> Iterator[tuple[k.EventPattern, timedelta]]:
    """Yield each event pattern once, with the longest span for which a condition reads it."""
    spans: dict[str, tuple[k.EventPattern, timedelta]] = {}
    for node in asked:
        for event in event_patterns(node):
            known = spans.get(event.watch)
            spans[event.watch] = event, node.within if known is None else max(known[1], node.within)
    yield from spans.values()


def select_events(history: History, event: k.EventPattern, span: timedelta, facts: Facts) -> LoggedHistory:
    start, events = events_since(history, event, span, facts, evaluate)
    sure = not rests_on_approvals(event)
    some = [one for one in events if not (sure and event_matches(event, one, facts, evaluate) is False)]
    return LoggedHistory(None if len(some) > MAX_EVENTS else some, max(history.complete_after, start), history.now)


def rests_on_approvals(event: k.EventPattern) -> bool:
    """Return whether the event depends on approvals, which only a guard can resolve."""
    read = k.walk(event.where) if event.where is not None else ()
    return any(isinstance(one, k.Fact) and one.path[0] == "approval" for one in read)


def encode_event(one: PastEvent, event: k.EventPattern, redaction: Redaction) -> dict[str, Any]:
    facts = tuple(mask_value(known, fact, redaction) for known, fact in zip(one.facts, event.facts, strict=True))
    output = tuple(mask_output(raw, path, redaction) for raw, path in zip(one.output, event.outputs, strict=False))
    return {
        "at": one.at,
        "serial": one.serial,
        "decision": one.decision,
        "facts": encode_raw_values(facts),
        "status": one.status,
        "output": encode_raw_values(output),
    }


def mask_value(known: Value, fact: k.Expr, redaction: Redaction) -> Value:
    path = fact.path if isinstance(fact, k.Fact) else tuple(describe(fact).split("."))
    return known if isinstance(known, Unknown) else redact_value(known, path, redaction)


def mask_output(raw: Any, path: tuple[str, ...], redaction: Redaction) -> Any:
    """Return a reported output without its secrets. An absent output stays absent, so that a replay reads the same
    history."""
    return raw if isinstance(raw, Unknown) else redact_value(raw, ("output", *path), redaction)


def redact_value(known: Any, path: tuple[str, ...], redaction: Redaction) -> Any:
    shown = redaction.value(known, path)
    return Unknown.of(".".join(path), "redacted") if isinstance(shown, Invalid) else shown


def encode_raw_values(values: tuple[Any, ...]) -> msgspec.Raw:
    return msgspec.Raw(encode_values(values).encode("utf-8", "replace"))


# ── Decoding ──────────────────────────────────────────────────────────────────────────────────


def decode_histories(tree: Iterable[Mapping[str, Any]]) -> dict[str, LoggedHistory]:
    """Return the histories by watch. Raises LookupError, TypeError, ValueError."""
    return {
        one["watch"]: LoggedHistory(
            None if one["events"] is None else [decode_event(event) for event in one["events"]],
            one["complete_after"],
            one["now"],
        )
        for one in tree
    }


def decode_event(one: Mapping[str, Any]) -> PastEvent:
    status = one["status"]
    return PastEvent(
        one["at"],
        one["serial"],
        one["decision"],
        values_from_json(one["facts"]),
        status,
        values_from_json(one["output"]),
    )


class LoggedHistories(dict[WindowKey, History]):
    """The histories of a record, for a replay with one policy. `lacking` is whether the policy read a history that the
    record lacks.
    """

    def __init__(self, recorded: Mapping[str, LoggedHistory], facts: Facts) -> None:
        self.recorded, self.lacking = recorded, False
        for watch in facts.kernel.watches:
            past, key = recorded.get(watch.event.watch), history_key(watch.event, facts, evaluate)
            if past is not None and past.events is not None and not isinstance(key, Unknown):
                self[watch.event.watch, key] = past  # type: ignore[assignment]  # its events are there

    def get(self, key: WindowKey, default: Any = None) -> Any:
        past = self.recorded.get(key[0])
        self.lacking |= past is None or past.events is None
        return super().get(key, default)
