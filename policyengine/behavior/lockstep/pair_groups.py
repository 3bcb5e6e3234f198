"""Forms groups from pairs: connected parts in which each member moves with most of the other members."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from heapq import heapify, heappop, heappush
from typing import TypeAlias

from policyengine.behavior.lockstep.bounds import LEAST_MEMBERS, LEAST_PARTNERS, MAX_PEELS

PairGraph: TypeAlias = Mapping[int, set[int]]


def dense_groups(pairs: Iterable[tuple[int, int]]) -> list[tuple[int, ...]]:
    """Return the groups of the callers in `pairs`. A caller that moves with two groups belongs to one of them and does
    not merge the two."""
    graph = closed_graph(pairs)
    found = []
    for part in connected_parts(graph, graph):
        pending, peels = [part], 0
        while pending and peels < MAX_PEELS:
            callers, peels = pending.pop(), peels + 1
            group = densest(graph, callers)
            if len(group) >= LEAST_MEMBERS:
                found.append(tuple(sorted(group)))
                pending += connected_parts(graph, callers - group)
    return sorted(found)


def closed_graph(pairs: Iterable[tuple[int, int]]) -> dict[int, set[int]]:
    """Return the graph of the pairs that have a partner in common: only such pairs can be in a group of three."""
    graph: dict[int, set[int]] = {}
    for first, second in pairs:
        graph.setdefault(first, set()).add(second)
        graph.setdefault(second, set()).add(first)
    return {
        caller: {other for other in partners if not partners.isdisjoint(graph[other])}
        for caller, partners in graph.items()
    }


def connected_parts(graph: PairGraph, callers: Iterable[int]) -> Iterator[set[int]]:
    """Yield the connected parts of some callers that have enough members."""
    left = set(callers)
    for caller in sorted(left):
        if caller in left:
            part, edge = {caller}, [caller]
            left.discard(caller)
            while edge:
                near = graph[edge.pop()] & left
                left -= near
                part |= near
                edge += near
            if len(part) >= LEAST_MEMBERS:
                yield part


def densest(graph: PairGraph, callers: set[int]) -> set[int]:
    """Return the callers that remain when those with the fewest partners are removed, one after the other, until each
    of the rest moves with enough of the others."""
    members = set(callers)
    counts = {caller: len(graph[caller] & members) for caller in members}
    queue = [(count, -caller) for caller, count in counts.items()]
    heapify(queue)
    while len(members) >= LEAST_MEMBERS:
        count, negative = heappop(queue)
        if -negative not in members or counts[-negative] != count:
            continue
        if count >= LEAST_PARTNERS * (len(members) - 1):
            break
        members.discard(-negative)
        for partner in graph[-negative] & members:
            counts[partner] -= 1
            heappush(queue, (counts[partner], -partner))
    return members


def partner_counts(graph: PairGraph, members: Sequence[int]) -> dict[int, int]:
    """Return, for each caller outside the group, the number of members with which it moves."""
    counts: dict[int, int] = {}
    inside = set(members)
    for member in members:
        for partner in graph.get(member, ()):
            if partner not in inside:
                counts[partner] = counts.get(partner, 0) + 1
    return counts
