"""What the history records of a decided request, and which windows of it a decision needs."""

from __future__ import annotations

from policyengine.evaluator.state import State
from policyengine.runtime.history import HistoryRecord, WindowKey, bounded_value
from policyengine.runtime.values import Unknown


def make_records(st: State, *, denied: bool) -> tuple[HistoryRecord, ...]:
    """Return the records of a request that was allowed, or `denied`."""
    found: list[HistoryRecord] = []
    for rule in st.rules.records:
        pattern = rule.event.pattern
        if pattern.denied != denied:
            continue
        key = rule.event.key(st)
        if isinstance(key, Unknown):
            continue
        facts = tuple([bounded_value(node.get(st), name) for node, name in rule.facts])
        found.append(
            HistoryRecord(pattern.watch, key, facts, pattern.outputs, rule.within, pattern.latest, rule.awaits)
        )
    return tuple(found)


def needed_windows(st: State) -> frozenset[WindowKey]:
    """Return the windows of the history that the rules of the endpoint look at; none for an unknown key."""
    keys = [(event.watch, event.key(st)) for event in st.rules.windows]
    return frozenset([(watch, key) for watch, key in keys if not isinstance(key, Unknown)])
