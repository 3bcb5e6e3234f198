"""What a history condition means: plain scans of the events that were fetched, each of which counts, does not, or may.

Everything is Kleene's: an event that may count leaves the answer unknown, and so does a past that was not recorded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import TypeAlias

from policyengine import kernel as k
from policyengine.runtime import arithmetic
from policyengine.runtime.format_values import canonical
from policyengine.runtime.history import Happening, History, unread
from policyengine.runtime.value_keys import key_of as hash_key
from policyengine.runtime.values import Unknown, Value, coerce
from policyengine.spec.count_keys import key_value
from policyengine.spec.facts import Facts, has_agent, presenter_of
from policyengine.spec.kleene import conjunction, describe, disjunction, is_absent, lift, negation
from policyengine.spec.rate_units import micros, microseconds
from policyengine.spec.work import event_weight
from policyengine.typesystem import EntityRef

Meaning: TypeAlias = Callable[[k.Expr, Facts], Value]
TOO_SHORT = "the recorded history does not reach back so far"
NOT_REPORTED = "its outcome is not reported yet"
LONGEST_KEY = 200  # a longer one is kept as its digest
UNSURE = Unknown.of("past", "not of this request")
NOBODY = "neither an agent nor a user"


def happened(node: k.Happened, facts: Facts, value: Meaning) -> Value:
    found = window(node, facts, value)
    if isinstance(found, Unknown):
        return found
    counting, gap = found
    return disjunction([*(counts for _, counts in counting), *gap])


def aggregate(node: k.Aggregate, facts: Facts, value: Meaning) -> Value:
    found = window(node, facts, value)
    if isinstance(found, Unknown):
        return found
    counting, gap = found
    some = [(event, counts) for event, counts in counting if counts is not False]
    unsure = [counts for _, counts in some if isinstance(counts, Unknown)]
    fields = [field_of(node, event, facts) for event, _ in some]
    return lift(lambda *known: folded(node, known[: len(fields)]), *fields, *unsure, *gap)


def folded(node: k.Aggregate, fields: tuple[Value, ...]) -> Value:
    if node.function == "count":
        return len(fields)
    if node.function == "distinct":
        return len({hash_key(one) for one in fields})
    total: Value = 0
    for one in fields:
        total = lift(lambda a, b: arithmetic.add(a, b, words(node)), total, one)
    return total


def field_of(node: k.Aggregate, event: Happening, facts: Facts) -> Value:
    return True if node.field is None else past(node.field, facts.at_event(node.event, event))


# ── Which events count ────────────────────────────────────────────────────────────────────────

Counting: TypeAlias = tuple[list[tuple[Happening, Value]], list[Unknown]]


def window(node: k.Happened | k.Aggregate, facts: Facts, value: Meaning) -> Counting | Unknown:
    """The events of the window, latest first, each with whether it counts; and what may be missing among them."""
    main = fetched(node, node.event, facts, value)
    since = None if node.since is None else fetched(node, node.since, facts, value)
    if isinstance(main, Unknown) or isinstance(since, Unknown):
        return main if isinstance(main, Unknown) else since  # type: ignore[return-value]  # one of them is
    start, events = within(main, node.event, node.within, facts, value)
    lacking = facts.work.lacks(steps_of(node, events, since)) if facts.looping else None
    if lacking is not None:
        return lacking
    found = [(event, matches(node.event, event, facts, value)) for event in reversed(events)]
    if since is not None:
        found = list(after_last(found, since, node, facts, value))
    gap = [Unknown.of(words(node), TOO_SHORT)] if main.complete_after > start else []
    return found, gap


def steps_of(node: k.Happened | k.Aggregate, events: list[Happening], since: History | None) -> int:
    """What looking through all these events takes inside of a loop."""
    resets = 0 if since is None or node.since is None else len(since.events) * event_weight(node.since)
    return len(events) * event_weight(node.event) + resets


def within(
    history: History, event: k.Event, span: timedelta, facts: Facts, value: Meaning
) -> tuple[int, list[Happening]]:
    """From when on, and the events since then: half-open, by the clock of the store that holds them, whatever ours
    says. Only who asks about an earlier time names it, and does not see what came later."""
    asked = None if facts.request.options.at is None else microseconds(facts.now)
    start = (history.now if asked is None else asked) - micros(span)
    found = may_match(history, event, facts, value)
    return start, [one for one in found if one.at > start and (asked is None or one.at <= asked)]


def may_match(history: History, event: k.Event, facts: Facts, value: Meaning) -> Sequence[Happening]:
    """All events, but for those of which one text that the condition compares surely differs: they are many."""
    for part in conjuncts(event.where):
        match part:
            case k.Compare("==", k.Past(fact), other) | k.Compare("==", other, k.Past(fact)) if fact in event.facts:
                wanted = UNSURE if reads_past(other) else value(other, facts)
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
    return any(isinstance(one, k.Past | k.Variable) for one in k.walk(node))


def after_last(
    found: list[tuple[Happening, Value]], since: History, node: k.Happened | k.Aggregate, facts: Facts, value: Meaning
) -> Iterator[tuple[Happening, Value]]:
    """An event counts where no `since` happened with it or after it."""
    assert node.since is not None
    resets = list(reversed(within(since, node.since, node.within, facts, value)[1]))
    later: list[Value] = []
    for event, counts in found:
        while resets and resets[0].serial >= event.serial:
            later.append(matches(node.since, resets.pop(0), facts, value))
        lost = [Unknown.of(words(node), TOO_SHORT)] if event.at <= since.complete_after else []
        yield event, conjunction([counts, negation(disjunction([*later, *lost]))])


def matches(event: k.Event, happening: Happening, facts: Facts, value: Meaning) -> Value:
    if event.where is None:
        return True
    return value(event.where, facts.at_event(event, happening))


def fetched(node: k.Expr, event: k.Event, facts: Facts, value: Meaning) -> History | Unknown:
    key = key_of(event, facts, value)
    if event.where is not None and facts.seen is not None:
        read(event.where, facts, value)
    if isinstance(key, Unknown):
        return key
    return facts.history.get((event.watch, key)) or Unknown.of(words(node), unread(facts.history))


def read(where: k.Expr, facts: Facts, value: Meaning) -> None:
    """What the condition reads of this request: an approval is bound to it, whatever happened before."""
    for one in k.walk(where):
        if isinstance(one, k.Fact | k.Attribute) and not any(isinstance(part, k.Variable) for part in k.walk(one)):
            value(one, facts)


# ── Whose history ─────────────────────────────────────────────────────────────────────────────


def key_of(event: k.Event, facts: Facts, value: Meaning) -> str | Unknown:
    """The key as one text: of the agent and the user, where no other is said, of which one may be absent."""
    if event.keys is not None:
        return joined([key_value(key, value(key, facts)) for key in event.keys])
    presenter, user = presenter_of(facts), facts.read(("user", "id"))
    agent: Value = presenter.id if has_agent(facts.request) else Unknown.missing("agent.id")
    if is_absent(agent) and is_absent(user):
        return Unknown.of("agent.id", NOBODY)
    return joined(["" if is_absent(one) else one for one in (presenter.issuer, agent, user)])


def joined(parts: list[Value]) -> str | Unknown:
    unknown = [one for one in parts if isinstance(one, Unknown)]
    if unknown:
        return Unknown.merge(*unknown)
    text = json.dumps([canonical(one) for one in parts])
    return text if len(text) <= LONGEST_KEY else hashlib.sha256(text.encode()).hexdigest()


# ── Facts of an earlier request ───────────────────────────────────────────────────────────────


def past(node: k.Past, facts: Facts) -> Value:
    name = describe(node)
    if facts.past is None:
        return Unknown.of(name, "there is no earlier request here")
    event, happening = facts.past
    match node.fact:
        case k.Fact(("past", "status")):
            return Unknown.of(name, NOT_REPORTED) if happening.status is None else happening.status
        case k.Fact(("past", "output", *rest)):
            place = event.outputs.index(tuple(rest))
            reported = place < len(happening.output)
            return coerce(happening.output[place], node.type, name) if reported else Unknown.of(name, NOT_REPORTED)
        case fact:
            found = happening.facts[event.facts.index(fact)]
            return renamed(found, name)


def renamed(found: Value, name: str) -> Value:
    """An unknown fact of then is called what it is called now; an absent one stays absent."""
    if not isinstance(found, Unknown):
        return found
    return Unknown(frozenset(replace(cause, fact=name) for cause in found.causes))


def words(node: k.Expr) -> str:
    return " ".join(node.span.text.split())
