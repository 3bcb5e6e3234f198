"""What must be remembered for the conditions of a policy: which requests, and what of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass, replace

from policyengine import kernel as k
from policyengine.runtime.endpoints import MalformedEndpoint
from policyengine.runtime.history import Record, WindowKey, kept
from policyengine.runtime.values import Unknown
from policyengine.spec.evaluate import value
from policyengine.spec.facts import Facts
from policyengine.spec.history import key_of
from policyengine.spec.kleene import describe
from policyengine.spec.match import place_covers
from policyengine.spec.rate_units import micros


def remembering(kernel: k.Kernel) -> k.Kernel:
    """The kernel with its watches."""
    found: dict[str, k.Watch] = {}
    rules = (kernel.agents, kernel.users, kernel.anyones, kernel.guards, kernel.limits)
    for node in histories(rules):
        for event in events_of(node):
            known = found.get(event.watch)
            longest = node.within if known is None else max(known.within, node.within)
            found[event.watch] = k.Watch(event, longest, span=event.span)
    return replace(kernel, watches=tuple(found[name] for name in sorted(found)))


def histories(part: object) -> Iterator[k.Happened | k.Aggregate]:
    """Every history condition in a part of the kernel."""
    if isinstance(part, tuple):
        for one in part:
            yield from histories(one)
    elif isinstance(part, k.Happened | k.Aggregate):
        yield part
    elif is_dataclass(part):
        for field in fields(part):
            if field.name not in ("span", "type"):
                yield from histories(getattr(part, field.name))


def events_of(node: k.Happened | k.Aggregate) -> tuple[k.Event, ...]:
    return (node.event,) if node.since is None else (node.event, node.since)


def windows(nodes: Iterable[k.Happened | k.Aggregate], facts: Facts) -> frozenset[WindowKey]:
    """What these conditions look at; a key that is unknown looks at nothing."""
    events = {event.watch: event for node in nodes for event in events_of(node)}
    keys = ((watch, key_of(event, facts, value)) for watch, event in events.items())
    return frozenset((watch, key) for watch, key in keys if not isinstance(key, Unknown))


def records(facts: Facts, *, denied: bool) -> tuple[Record, ...]:
    """What is remembered of a request that was allowed, or `denied`, once that is done. One that is nobody's is not."""
    endpoint = facts.request.endpoint
    if isinstance(endpoint, MalformedEndpoint):
        return ()
    watching = [one for one in facts.kernel.watches if one.event.denied == denied]
    found = (record(one, facts) for one in watching if place_covers(one.event.place, endpoint))
    return tuple(one for one in found if one is not None)


def record(watch: k.Watch, facts: Facts) -> Record | None:
    event, key = watch.event, key_of(watch.event, facts, value)
    if isinstance(key, Unknown):
        return None
    read = tuple(kept(value(fact, facts), describe(fact)) for fact in event.facts)
    return Record(event.watch, key, read, event.outputs, micros(watch.within), event.latest, awaits(event))


def awaits(event: k.Event) -> bool:
    """Whether its condition asks how the request came out."""
    read = k.walk(event.where) if event.where is not None else ()
    outcome = any(isinstance(one, k.Past) and one.fact not in event.facts for one in read)
    return outcome or bool(event.outputs)
