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


class EarlierMember(NamedTuple):
    """The earlier group in which a caller shares limits, and the time from which there was evidence."""

    group: str
    confirmed: int


def form_groups(
    pairs: Sequence[LockstepPair], ready: Sequence[int], earlier: Mapping[int, EarlierMember]
) -> tuple[GroupMembers, ...]:
    """Return the groups of the pairs, at most MAX_GROUPS.

    Callers share limits because of pairs for which there was evidence before either of the two callers was ready (the
    time in `ready`). No other pair affects which callers share limits: a caller that is known cannot be pulled into a
    group, and cannot join two groups. Other callers are reported with the group that they move with, or in groups that
    are only reported.
    """
    edges = [(pair.first, pair.second) for pair in pairs]
    pools = dense_groups(
        (pair.first, pair.second)
        for pair in pairs
        if evidence_time(pair, earlier) < min(ready[pair.first], ready[pair.second])
    )
    groups = attach_others(pools, edges)
    placed = {caller for group in groups for caller in group.pooled + group.reported}
    rest = dense_groups(edge for edge in edges if placed.isdisjoint(edge))
    groups += [GroupMembers((), group) for group in rest]
    return tuple(groups[:MAX_GROUPS])


def evidence_time(pair: LockstepPair, earlier: Mapping[int, EarlierMember]) -> int:
    """Return the time from which there was evidence of a pair. For two members of the same earlier group, the evidence
    of their membership counts, too."""
    first, second = earlier.get(pair.first), earlier.get(pair.second)
    if first is None or second is None or first.group != second.group:
        return pair.confirmed
    return min(pair.confirmed, max(first.confirmed, second.confirmed))


def attach_others(pools: Sequence[tuple[int, ...]], edges: Iterable[tuple[int, int]]) -> list[GroupMembers]:
    """Return the pools, each with the callers outside all pools that move with most of its members."""
    graph = closed_graph(edges)
    pooled = {caller for pool in pools for caller in pool}
    best: dict[int, tuple[int, int]] = {}
    for place, pool in enumerate(pools):
        for caller, count in partner_counts(graph, pool).items():
            if caller not in pooled and count >= LEAST_PARTNERS * len(pool):
                best[caller] = max(best.get(caller, (0, 0)), (count, -place))
    attached: dict[int, list[int]] = {}
    for caller, (_, place) in sorted(best.items()):
        attached.setdefault(-place, []).append(caller)
    return [GroupMembers(pool, tuple(attached.get(place, ()))) for place, pool in enumerate(pools)]
