"""What a decision rested on of what happened before, as a line of the log holds it: the events that may have counted.

A history is written under the name of its watch alone: whose it is, the request says. What its condition surely passes
over is left out, so that a line holds what mattered to it and no more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

import msgspec

from policyengine import kernel as k
from policyengine.audit.redaction import Redaction
from policyengine.runtime.history import Happening, History, Listed, WindowKey, packed, restored
from policyengine.runtime.values import Invalid, Unknown, Value
from policyengine.spec.evaluate import value
from policyengine.spec.facts import Facts
from policyengine.spec.history import key_of, matches, within
from policyengine.spec.history_records import events_of
from policyengine.spec.kleene import describe
from policyengine.typesystem import EntityRef

MOST = 1_000  # events of one history on a line


class Past(NamedTuple):
    """A history as it was looked at. `events` is None where there were too many to be written down."""

    events: Sequence[Happening] | None
    complete_after: int
    now: int
    version: int = 0

    def among(self, place: int, wanted: str | EntityRef) -> Sequence[Happening]:
        return Listed(self.events or (), self.complete_after, self.now).among(place, wanted)


# ── To a line ─────────────────────────────────────────────────────────────────────────────────


def told(asked: Iterable[k.Happened | k.Aggregate], facts: Facts, redaction: Redaction) -> list[dict[str, Any]]:
    """The histories that the conditions look at, without their secrets."""
    found: list[dict[str, Any]] = []
    for event, span in longest(asked):
        key = key_of(event, facts, value)
        history = None if isinstance(key, Unknown) else facts.history.get((event.watch, key))
        if history is not None:
            past = looked_at(history, event, span, facts)
            events = None if past.events is None else [as_data(one, event, redaction) for one in past.events]
            looked = " ".join(event.span.text.split())
            times = {"complete_after": past.complete_after, "now": past.now}
            found.append({"watch": event.watch, "event": looked, **times, "events": events})
    return found


def longest(asked: Iterable[k.Happened | k.Aggregate]) -> Iterator[tuple[k.Event, timedelta]]:
    """Each event once, and how far back anybody looks for it."""
    spans: dict[str, tuple[k.Event, timedelta]] = {}
    for node in asked:
        for event in events_of(node):
            known = spans.get(event.watch)
            spans[event.watch] = event, node.within if known is None else max(known[1], node.within)
    yield from spans.values()


def looked_at(history: History, event: k.Event, span: timedelta, facts: Facts) -> Past:
    start, events = within(history, event, span, facts, value)
    sure = not rests_on_approvals(event)
    some = [one for one in events if not (sure and matches(event, one, facts, value) is False)]
    return Past(None if len(some) > MOST else some, max(history.complete_after, start), history.now)


def rests_on_approvals(event: k.Event) -> bool:
    """Which approvals count is known in a guard only."""
    read = k.walk(event.where) if event.where is not None else ()
    return any(isinstance(one, k.Fact) and one.path[0] == "approval" for one in read)


def as_data(one: Happening, event: k.Event, redaction: Redaction) -> dict[str, Any]:
    facts = tuple(masked(known, fact, redaction) for known, fact in zip(one.facts, event.facts, strict=True))
    paths = (("output", *path) for path in event.outputs)
    output = tuple(unless_hidden(raw, path, redaction) for raw, path in zip(one.output, paths, strict=False))
    return {"at": one.at, "serial": one.serial, "decision": one.decision, "facts": raw(facts), "status": one.status,
            "output": raw(output)}  # fmt: skip


def masked(known: Value, fact: k.Expr, redaction: Redaction) -> Value:
    path = fact.path if isinstance(fact, k.Fact) else tuple(describe(fact).split("."))
    return known if isinstance(known, Unknown) else unless_hidden(known, path, redaction)


def unless_hidden(known: Any, path: tuple[str, ...], redaction: Redaction) -> Any:
    shown = redaction.value(known, path)
    return Unknown.of(".".join(path), "redacted") if isinstance(shown, Invalid) else shown


def raw(values: tuple[Any, ...]) -> msgspec.Raw:
    return msgspec.Raw(packed(values).encode("utf-8", "replace"))


# ── From a line ───────────────────────────────────────────────────────────────────────────────


def read(tree: Iterable[Mapping[str, Any]]) -> dict[str, Past]:
    """By watch. Raises LookupError, TypeError, ValueError."""
    return {
        one["watch"]: Past(
            None if one["events"] is None else [happening(event) for event in one["events"]],
            one["complete_after"],
            one["now"],
        )
        for one in tree
    }


def happening(one: Mapping[str, Any]) -> Happening:
    status = one["status"]
    return Happening(one["at"], one["serial"], one["decision"], restored(one["facts"]), status, restored(one["output"]))


class Pasts(dict[WindowKey, History]):
    """The histories of a record for one policy. `lacking` tells whether it asked for one that is not there."""

    def __init__(self, recorded: Mapping[str, Past], facts: Facts) -> None:
        self.recorded, self.lacking = recorded, False
        for watch in facts.kernel.watches:
            past, key = recorded.get(watch.event.watch), key_of(watch.event, facts, value)
            if past is not None and past.events is not None and not isinstance(key, Unknown):
                self[watch.event.watch, key] = past  # type: ignore[assignment]  # its events are there

    def get(self, key: WindowKey, default: Any = None) -> Any:
        past = self.recorded.get(key[0])
        self.lacking |= past is None or past.events is None
        return super().get(key, default)
