"""The history records of a decided request, and the windows of the history that a decision needs."""

from __future__ import annotations

from collections.abc import Iterable

from policyengine.evaluator.history_nodes import EventRules
from policyengine.evaluator.principals import PrincipalRules
from policyengine.evaluator.state import ChainMember, State
from policyengine.evaluator.walker import state_of_hop
from policyengine.runtime.history import HistoryRecord, WindowKey, bounded_value
from policyengine.runtime.values import Unknown


def make_records(st: State, *, denied: bool) -> tuple[HistoryRecord, ...]:
    """Return the history records of a request; `denied` says whether it was denied."""
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


NO_WINDOWS: frozenset[WindowKey] = frozenset()


def needed_windows(st: State) -> frozenset[WindowKey]:
    """Return the windows of the history that the relevant rules read. A window with an unknown key is left out."""
    if not st.rules.windows and not st.program.blocks_read_history:
        return NO_WINDOWS
    found: set[WindowKey] = set()
    add_windows(st, st.rules.windows, found)
    if not st.program.blocks_read_history:
        return frozenset(found)
    for block in st.rules.anyones:
        add_windows(st, block.events, found)
    if st.by_agent:
        add_principal(st, st.rules.agents, st.program.everyone, st.name, found)
        hops: tuple[ChainMember, ...] = () if type(st.hops) is Unknown else st.hops
        for hop in hops:
            own = state_of_hop(st, hop)
            add_principal(own, st.rules.agents, st.rules.delegators, hop.id, found)
    add_principal(st, st.rules.users, st.program.everyuser, st.user, found)
    return frozenset(found)


def add_principal(
    st: State, rules: PrincipalRules, everyone: PrincipalRules, name: object, found: set[WindowKey]
) -> None:
    for block in (*rules.possible(st, name), *everyone.applying(st, name)):
        add_windows(st, block.events, found)


def add_windows(st: State, events: Iterable[EventRules], found: set[WindowKey]) -> None:
    for event in events:
        key = event.key(st)
        if not isinstance(key, Unknown):
            found.add((event.watch, key))
