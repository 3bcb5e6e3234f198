"""History conditions: plain scans of the fetched events.

Each event counts, does not count, or may count. All logic is Kleene's: an event that may count leaves the result
unknown, and so does a period that was not recorded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import TypeAlias

from policyengine import kernel as k
from policyengine.clock import epoch_microseconds
from policyengine.runtime import arithmetic
from policyengine.runtime.format_values import canonical_json
from policyengine.runtime.history import History, PastEvent, unread_reason
from policyengine.runtime.value_keys import value_key as hash_key
from policyengine.runtime.values import NO_VALUES, Cause, Unknown, Value, coerce
from policyengine.spec.facts import Facts, has_agent, presenter_of
from policyengine.spec.kleene import conjunction, describe, disjunction, is_absent, lift, negate
from policyengine.spec.limit_keys import count_key
from policyengine.spec.rate_units import to_microseconds
from policyengine.typesystem import EntityRef, Scalar, Type, UnresolvedType

Evaluator: TypeAlias = Callable[[k.Expr, Facts], Value]
TOO_SHORT = "the recorded history does not reach back that far"
NOT_REPORTED = "the outcome is not reported yet"
MAX_KEY_LENGTH = 200  # a longer key is replaced by its digest
NOT_COMPARED = Unknown.of("past", "for values that do not come from this request")
NOBODY = "neither an agent nor a user"


def evaluate_history_condition(node: k.HistoryCondition, facts: Facts, value: Evaluator) -> Value:
    found = events_in_window(node, facts, value)
    if isinstance(found, Unknown):
        return found
    counting, gap = found
    return disjunction([*(counts for _, counts in counting), *gap])


def evaluate_aggregate(node: k.Aggregate, facts: Facts, value: Evaluator) -> Value:
    found = events_in_window(node, facts, value)
    if isinstance(found, Unknown):
        return found
    counting, gap = found
    some = [(event, counts) for event, counts in counting if counts is not False]
    unsure = [counts for _, counts in some if isinstance(counts, Unknown)]
    fields = [event_field(node, event, facts, value) for event, _ in some]
    return lift(lambda *known: fold_fields(node, known[: len(fields)]), *fields, *unsure, *gap)


def fold_fields(node: k.Aggregate, fields: tuple[Value, ...]) -> Value:
    if node.function == "count":
        return len(fields)
    if node.function == "distinct":
        return len({hash_key(one) for one in fields})
    total: Value = 0
    for field_value in fields:
        total = lift(lambda a, b: arithmetic.add(a, b, describe_history(node)), total, field_value)
    return total


def event_field(node: k.Aggregate, event: PastEvent, facts: Facts, value: Evaluator) -> Value:
    return True if node.field is None else value(node.field, facts.at_event(node.event, event))


# ── Which events count ────────────────────────────────────────────────────────────────────────

WindowEvents: TypeAlias = tuple[list[tuple[PastEvent, Value]], list[Unknown]]


def events_in_window(node: k.HistoryCondition | k.Aggregate, facts: Facts, value: Evaluator) -> WindowEvents | Unknown:
    """Return the events of the window, latest first, each with whether it counts, and the unknowns that gaps in the
    history cause.
    """
    main = fetched_history(node, node.event, facts, value)
    since = None if node.since is None else fetched_history(node, node.since, facts, value)
    if isinstance(main, Unknown) or isinstance(since, Unknown):
        return main if isinstance(main, Unknown) else since  # type: ignore[return-value]  # one of them is
    start, events = events_since(main, node.event, node.within, facts, value)
    found = [(event, event_matches(node.event, event, facts, value)) for event in reversed(events)]
    if since is not None:
        found = list(after_last_since(found, since, node, facts, value))
    gap = [Unknown.of(describe_history(node), TOO_SHORT)] if main.complete_after > start else []
    return found, gap


def events_since(
    history: History, event: k.EventPattern, span: timedelta, facts: Facts, value: Evaluator
) -> tuple[int, list[PastEvent]]:
    """Return the start of the window and its events. The window is half-open and uses the clock of the store. A
    question about an earlier time (`at`) sets the end of the window, so later events are excluded.
    """
    asked = None if facts.request.options.at is None else epoch_microseconds(facts.now)
    start = (history.now if asked is None else asked) - to_microseconds(span)
    found = candidate_events(history, event, facts, value)
    return start, [one for one in found if one.at > start and (asked is None or one.at <= asked)]


def candidate_events(history: History, event: k.EventPattern, facts: Facts, value: Evaluator) -> Sequence[PastEvent]:
    """Return the candidate events. An equality with a known text excludes most events early."""
    for part in conjuncts(event.where):
        match part:
            case k.Relation("==", k.PastFact(fact), other) | k.Relation("==", other, k.PastFact(fact)) if (
                fact in event.facts
            ):
                wanted = NOT_COMPARED if reads_past(other) else value(other, facts)
                if isinstance(wanted, str | EntityRef):
                    return history.among(event.facts.index(fact), wanted)
    return history.events


def conjuncts(where: k.Expr | None) -> Iterator[k.Expr]:
    if isinstance(where, k.And):
        for item in where.items:
            yield from conjuncts(item)
    elif where is not None:
        yield where


def reads_past(node: k.Expr) -> bool:
    return any(isinstance(one, k.PastFact | k.Variable) for one in k.walk(node))


def after_last_since(
    found: list[tuple[PastEvent, Value]],
    since: History,
    node: k.HistoryCondition | k.Aggregate,
    facts: Facts,
    value: Evaluator,
) -> Iterator[tuple[PastEvent, Value]]:
    """Yield the events. An event counts only if no `since` event happened at the same time or later."""
    assert node.since is not None
    resets = list(reversed(events_since(since, node.since, node.within, facts, value)[1]))
    later: list[Value] = []
    for event, counts in found:
        while resets and resets[0].serial >= event.serial:
            later.append(event_matches(node.since, resets.pop(0), facts, value))
        lost = [Unknown.of(describe_history(node), TOO_SHORT)] if event.at <= since.complete_after else []
        yield event, conjunction([counts, negate(disjunction([*later, *lost]))])


def event_matches(event: k.EventPattern, happening: PastEvent, facts: Facts, value: Evaluator) -> Value:
    if event.where is None:
        return True
    return value(event.where, facts.at_event(event, happening))


def fetched_history(node: k.Expr, event: k.EventPattern, facts: Facts, value: Evaluator) -> History | Unknown:
    key = history_key(event, facts, value)
    if event.where is not None and facts.seen is not None:
        note_reads(event.where, facts, value)
    if isinstance(key, Unknown):
        return key
    return facts.history.get((event.watch, key)) or Unknown.of(describe_history(node), unread_reason(facts.history))


def note_reads(where: k.Expr, facts: Facts, value: Evaluator) -> None:
    """Evaluate the facts of this request that the condition reads, so that approvals are bound to them."""
    for node in k.walk(where):
        if isinstance(node, k.Fact | k.Attribute) and not any(isinstance(part, k.Variable) for part in k.walk(node)):
            value(node, facts)


# ── Keys of histories ─────────────────────────────────────────────────────────────────────────────


def history_key(event: k.EventPattern, facts: Facts, value: Evaluator) -> str | Unknown:
    """Return the key as text; Unknown if a part is unknown. The default key is the agent and the user, one of which may
    be absent.
    """
    if event.keys is not None:
        return join_key([count_key(key, value(key, facts)) for key in event.keys])
    presenter, user = presenter_of(facts), facts.read(("user", "id"))
    agent: Value = presenter.id if has_agent(facts.request) else Unknown.missing("agent.id")
    if is_absent(agent) and is_absent(user):
        return Unknown.of("agent.id", NOBODY)
    return join_key(["" if is_absent(one) else one for one in (presenter.issuer, agent, user)])


def join_key(parts: list[Value]) -> str | Unknown:
    unknown = [one for one in parts if isinstance(one, Unknown)]
    if unknown:
        return Unknown.merge(*unknown)
    text = json.dumps([canonical_json(one) for one in parts])
    return text if len(text) <= MAX_KEY_LENGTH else hashlib.sha256(text.encode()).hexdigest()


# ── Facts of an earlier request ───────────────────────────────────────────────────────────────


def evaluate_past(node: k.PastFact, facts: Facts) -> Value:
    name = describe(node)
    if facts.past is None:
        return Unknown.of(name, "no earlier request is matched here")
    event, happening = facts.past
    match node.fact:
        case k.Fact(("past", "status")):
            return not_reported(name) if happening.status is None else happening.status
        case k.Fact(("past", "output", *rest)):
            place = event.outputs.index(tuple(rest))
            reported = place < len(happening.output)
            return output_value(happening.output[place], node.type, name) if reported else not_reported(name)
        case fact:
            found = happening.facts[event.facts.index(fact)]
            return as_past_fact(found, name)


def not_reported(name: str) -> Unknown:
    """Return the value of an outcome that is not reported yet. It is absent, so `is absent` and `else` apply to it."""
    return Unknown(frozenset({Cause(name, NOT_REPORTED, absent=True)}))


def output_value(raw: object, type_: Type, name: str) -> Value:
    """Return a reported output as a value. An output without a type is only tested for presence: every reported value
    is present, even if it was too long to keep, except null and an empty id.
    """
    if isinstance(type_, UnresolvedType):
        reported = not isinstance(raw, (str, *NO_VALUES)) or not is_absent(coerce(raw, Scalar.STRING, name))
        return True if reported else Unknown.missing(name)
    return coerce(raw, type_, name)


def as_past_fact(found: Value, name: str) -> Value:
    """Return a past fact; an unknown fact gets the name of the current fact, and an absent fact stays absent."""
    if not isinstance(found, Unknown):
        return found
    return Unknown(frozenset(Cause(name, cause.why, cause.absent, cause.entity) for cause in found.causes))


def describe_history(node: k.Expr) -> str:
    return " ".join(node.span.text.split())
