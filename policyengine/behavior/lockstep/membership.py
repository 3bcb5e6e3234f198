"""Decides who shares limits: only newcomers, and only with newcomers that move with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from policyengine.behavior.lockstep.bounds import LEAST_PARTNERS, MAX_GROUPS
from policyengine.behavior.lockstep.pair import LockstepPair
from policyengine.behavior.lockstep.pair_groups import closed_graph, dense_groups, partner_counts


class GroupMembers(NamedTuple):
    """The numbers of callers of a group: newcomers that share limits, and callers that are only reported."""

    pooled: tuple[int, ...]
    reported: tuple[int, ...]


def form_groups(
    pairs: Sequence[LockstepPair], ready: Sequence[int], confirmed: Mapping[int, int]
) -> tuple[GroupMembers, ...]:
    """Return the groups of the pairs, at most MAX_GROUPS.

    A caller is a resident if it was ready (the time in `ready`) before there was evidence that it moves with others
    (the time in `confirmed`). Groups are formed of newcomers alone, so that residents cannot decide who shares limits
    with whom. Each resident is reported with the group it moves with; the rest forms groups that are only reported.
    """
    residents = {caller for caller, at in confirmed.items() if ready[caller] <= at}
    edges = [(pair.first, pair.second) for pair in pairs]
    pools = dense_groups(edge for edge in edges if residents.isdisjoint(edge))
    groups = attach_residents(pools, edges, residents)
    placed = {caller for group in groups for caller in group.pooled + group.reported}
    rest = dense_groups(edge for edge in edges if placed.isdisjoint(edge))
    groups += [GroupMembers((), group) for group in rest]
    return tuple(groups[:MAX_GROUPS])


def confirmed_times(pairs: Iterable[LockstepPair], earlier: Mapping[int, int]) -> dict[int, int]:
    """Return the time from which on there was evidence about each caller. `earlier` contains the callers that already
    shared limits, with the times since when there was evidence."""
    confirmed: dict[int, int] = {}
    for pair in pairs:
        for caller in (pair.first, pair.second):
            known = confirmed.get(caller, earlier.get(caller, pair.confirmed))
            confirmed[caller] = min(known, pair.confirmed)
    return confirmed


def attach_residents(
    pools: Sequence[tuple[int, ...]], edges: Iterable[tuple[int, int]], residents: set[int]
) -> list[GroupMembers]:
    """Return the pools, each with the residents that move with most of its members."""
    graph = closed_graph(edges)
    best: dict[int, tuple[int, int]] = {}
    for place, pool in enumerate(pools):
        for caller, count in partner_counts(graph, pool).items():
            if caller in residents and count >= LEAST_PARTNERS * len(pool):
                best[caller] = max(best.get(caller, (0, 0)), (count, -place))
    attached: dict[int, list[int]] = {}
    for caller, (_, place) in sorted(best.items()):
        attached.setdefault(-place, []).append(caller)
    return [GroupMembers(pool, tuple(attached.get(place, ()))) for place, pool in enumerate(pools)]
