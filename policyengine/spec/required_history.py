"""Records for the history conditions of a policy: which requests to record, and which of their facts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass, replace

from policyengine import kernel as k
from policyengine.runtime.endpoints import MalformedEndpoint
from policyengine.runtime.history import HistoryRecord, WindowKey, bounded_value
from policyengine.runtime.values import Unknown
from policyengine.spec.evaluate import evaluate
from policyengine.spec.facts import Facts, hop_facts, hops_of
from policyengine.spec.history import history_key
from policyengine.spec.kleene import describe
from policyengine.spec.match_endpoint import place_covers
from policyengine.spec.rate_units import to_microseconds


def with_retention(kernel: k.Kernel) -> k.Kernel:
    """Return the kernel with its watches, which are the events to record."""
    found: dict[str, k.EventRetention] = {}
    rules = (kernel.agents, kernel.users, kernel.anyones, kernel.guards, kernel.limits)
    for node in history_conditions(rules):
        for event in event_patterns(node):
            known = found.get(event.watch)
            longest = node.within if known is None else max(known.within, node.within)
            found[event.watch] = k.EventRetention(event, longest, span=event.span)
    return replace(kernel, watches=tuple(found[name] for name in sorted(found)))


def history_conditions(part: object) -> Iterator[k.HistoryCondition | k.Aggregate]:
    """Yield every history condition in a part of the kernel."""
    if isinstance(part, tuple):
        for item in part:
            yield from history_conditions(item)
    elif isinstance(part, k.HistoryCondition | k.Aggregate):
        yield part
    elif is_dataclass(part):
        for field in fields(part):
            if field.name not in ("span", "type"):
                yield from history_conditions(getattr(part, field.name))


def event_patterns(node: k.HistoryCondition | k.Aggregate) -> tuple[k.EventPattern, ...]:
    return (node.event,) if node.since is None else (node.event, node.since)


def history_windows(nodes: Iterable[k.HistoryCondition | k.Aggregate], facts: Facts) -> frozenset[WindowKey]:
    """Return the windows that these conditions read for the presenter and for each hop. A condition with an unknown key
    reads no window.
    """
    events = {event.watch: event for node in nodes for event in event_patterns(node)}
    hops = hops_of(facts)
    readers = [facts, *(() if isinstance(hops, Unknown) else (hop_facts(facts, hop) for hop in hops))]
    keys = [(name, history_key(event, one, evaluate)) for one in readers for name, event in events.items()]
    return frozenset((name, key) for name, key in keys if not isinstance(key, Unknown))


def make_records(facts: Facts, *, denied: bool) -> tuple[HistoryRecord, ...]:
    """Return the records of a request that was allowed, or `denied`. A request without agent and user has no
    records.
    """
    endpoint = facts.request.endpoint
    if isinstance(endpoint, MalformedEndpoint):
        return ()
    watching = [one for one in facts.kernel.watches if one.event.denied == denied]
    found = (make_record(one, facts) for one in watching if place_covers(one.event.place, endpoint))
    return tuple(one for one in found if one is not None)


def make_record(watch: k.EventRetention, facts: Facts) -> HistoryRecord | None:
    event, key = watch.event, history_key(watch.event, facts, evaluate)
    if isinstance(key, Unknown):
        return None
    read = tuple(bounded_value(evaluate(fact, facts), describe(fact)) for fact in event.facts)
    return HistoryRecord(
        event.watch, key, read, event.outputs, to_microseconds(watch.within), event.latest, awaits_outcome(event)
    )


def awaits_outcome(event: k.EventPattern) -> bool:
    """Return whether a condition or a sum reads the outcome of the event."""
    read = k.walk(event.where) if event.where is not None else ()
    outcome = any(isinstance(one, k.PastFact) and one.fact not in event.facts for one in read)
    return outcome or event.status or bool(event.outputs)
