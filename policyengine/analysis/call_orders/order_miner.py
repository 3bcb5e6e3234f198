"""Finds orders of calls that runs follow, by splitting the runs into sequences, alternatives and loops.

The miner is deterministic: equal runs result in equal orders, whatever their order in the log. It proposes several
orders, from those of the most frequent runs to the most general one; `order_replay` measures which of them the runs
follow.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from typing import Final, TypeAlias

MAX_VARIANTS: Final = 4  # maximum different runs that are written out as alternatives
MAX_DEPTH: Final = 12
MAX_SYMBOLS: Final = 64  # maximum different endpoints of an order; orders of a policy have at most 32 steps
RARE: Final = (0.3, 0.2, 0.1, 0.05, 0.02, 0.01)  # shares below which a transition between two endpoints is left out
OUTSIDE: Final = ""  # stands before the first and after the last call of a run

Run: TypeAlias = tuple[str, ...]
Runs: TypeAlias = Mapping[Run, int]


@dataclass(frozen=True, slots=True)
class MinedStep:
    """A step of a mined order: calls to one endpoint."""

    endpoint: str
    optional: bool = False
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class MinedGroup:
    """A group of a mined order: one of several sequences of steps."""

    alternatives: tuple[MinedOrder, ...]
    optional: bool = False
    repeated: bool = False


MinedItem: TypeAlias = MinedStep | MinedGroup
MinedOrder: TypeAlias = tuple[MinedItem, ...]


def order_words(order: MinedOrder) -> str:
    """Return an order in the syntax of policies."""
    return " -> ".join(map(item_words, order))


def item_words(item: MinedItem) -> str:
    words = (
        item.endpoint
        if isinstance(item, MinedStep)
        else f"({' | '.join(order_words(one) for one in item.alternatives)})"
    )
    return f"{words}{' optional' * item.optional}{' repeated' * item.repeated}"


def steps_of(order: Iterable[MinedItem]) -> Iterator[MinedStep]:
    """Yield the steps of an order, including those of groups."""
    for item in order:
        if isinstance(item, MinedStep):
            yield item
        else:
            for alternative in item.alternatives:
                yield from steps_of(alternative)


def propose_orders(runs: Runs, support: float) -> list[MinedOrder]:
    """Return different orders that many of the runs follow. An endpoint that is missing in a run is `""`."""
    usable = {run: count for run, count in runs.items() if run and OUTSIDE not in run}
    selections = [frequent_runs(usable, support * sum(runs.values())), usable]
    selections += [without_rare_transitions(usable, share) for share in RARE]
    found: dict[MinedOrder, None] = {}
    for selected in selections:
        if selected and len({symbol for run in selected for symbol in run}) <= MAX_SYMBOLS:
            miner = OrderMiner(selected)
            found |= dict.fromkeys(order for order in (miner.alternatives(), miner.order()) if order)
    return list(found)


def frequent_runs(runs: Runs, wanted: float) -> Runs:
    """Return the most frequent runs, as many as are needed to reach the number `wanted`. Runs that differ only in
    repetitions are counted together."""
    groups: dict[Run, list[Run]] = defaultdict(list)
    for run in runs:
        groups[without_repetitions(run)].append(run)
    weights = {short: sum(runs[run] for run in group) for short, group in groups.items()}
    found: dict[Run, int] = {}
    total = 0
    for short in sorted(weights, key=lambda run: (-weights[run], len(run), run)):
        if total >= wanted:
            break
        found.update((run, runs[run]) for run in groups[short])
        total += weights[short]
    return found


def without_repetitions(run: Run) -> Run:
    return tuple(symbol for symbol, _ in groupby(run))


def without_rare_transitions(runs: Runs, share: float) -> Runs:
    """Return the runs without transitions that are less frequent than this share of the most frequent transition from
    the same endpoint, or to the same endpoint."""
    counts: Counter[tuple[str, str]] = Counter()
    for run, count in runs.items():
        for pair in pairwise((OUTSIDE, *run, OUTSIDE)):
            counts[pair] += count
    leaving: Counter[str] = Counter()
    entering: Counter[str] = Counter()
    for (left, right), count in counts.items():
        leaving[left], entering[right] = max(leaving[left], count), max(entering[right], count)
    rare = {
        (left, right)
        for (left, right), count in counts.items()
        if count < share * leaving[left] and count < share * entering[right]
    }
    rare |= {pair for pair, count in counts.items() if count < share * share * leaving[pair[0]]}
    return {run: count for run, count in runs.items() if rare.isdisjoint(pairwise((OUTSIDE, *run, OUTSIDE)))}


class OrderMiner:
    """Mines the order of some runs. A step is `repeated` wherever it stands if its endpoint follows itself in a run."""

    def __init__(self, runs: Runs) -> None:
        self._repeated = {left for run in runs for left, right in pairwise(run) if left == right}
        merged: Counter[Run] = Counter()
        for run, count in runs.items():
            merged[without_repetitions(run)] += count
        self._runs = dict(sorted(merged.items()))

    def order(self) -> MinedOrder:
        """Return an order that all runs follow."""
        return self._mine(set(self._runs), 0)

    def alternatives(self) -> MinedOrder:
        """Return an order with each different run as an alternative; an empty order if there are more than MAX_VARIANTS
        different runs."""
        return self._written_out(list(self._runs)) if len(self._runs) <= MAX_VARIANTS else ()

    def _mine(self, runs: Collection[Run], depth: int) -> MinedOrder:
        present = sorted({run for run in runs if run})
        found = self._cut(present, depth) if present else ()
        return make_optional(found) if found and len(present) < len(set(runs)) else found

    def _cut(self, runs: Sequence[Run], depth: int) -> MinedOrder:
        symbols = sorted({symbol for run in runs for symbol in run})
        if len(symbols) == 1:
            return (self._step(symbols[0], repeated=any(len(run) > 1 for run in runs)),)
        if depth >= MAX_DEPTH:
            return self._any_order(symbols)
        graph = FollowsGraph(runs)
        parts = graph.unconnected()
        if len(parts) > 1:
            return (self._choice([self._mine(project(runs, part, whole=True), depth + 1) for part in parts]),)
        parts = graph.in_sequence()
        if len(parts) > 1:
            return tuple(item for part in parts for item in self._mine(project(runs, part), depth + 1))
        return self._loop(runs, graph, depth) or self._written_out(runs) or self._any_order(symbols)

    def _loop(self, runs: Sequence[Run], graph: FollowsGraph, depth: int) -> MinedOrder:
        """Return the loop that the runs repeat, or an empty order."""
        bodies = {body for run in runs for body in split_at(run, graph.ends, graph.starts)}
        if bodies != set(runs):
            return make_repeated(self._mine(bodies, depth + 1))
        if len(graph.starts) == 1 and graph.starts == graph.ends:
            (hinge,) = graph.starts
            pieces = {piece for run in runs for piece in pieces_between(run, hinge)}
            step = self._step(hinge)
            if pieces:
                again = MinedGroup(((*self._mine(pieces, depth + 1), step),), optional=True, repeated=True)
                return step, again
        return ()

    def _written_out(self, runs: Sequence[Run]) -> MinedOrder:
        """Return the runs as alternatives between their common beginning and end; empty for too many runs."""
        if len(runs) > MAX_VARIANTS:
            return ()
        first = common_beginning(runs)
        rest = [run[len(first) :] for run in runs]
        last = common_beginning([run[::-1] for run in rest])[::-1]
        middles = sorted({run[: len(run) - len(last)] for run in rest})
        choice = [tuple(map(self._step, middle)) for middle in middles if middle]
        items: MinedOrder = ()
        if choice:
            items = choice[0] if len(choice) == 1 else (self._choice(choice),)
            items = make_optional(items) if len(choice) < len(middles) else items
        return *map(self._step, first), *items, *map(self._step, last)

    def _any_order(self, symbols: Iterable[str]) -> MinedOrder:
        return (MinedGroup(tuple((MinedStep(symbol),) for symbol in symbols), repeated=True),)

    def _choice(self, alternatives: Iterable[MinedOrder]) -> MinedGroup:
        return MinedGroup(tuple(sorted(dict.fromkeys(alternatives), key=order_words)))

    def _step(self, symbol: str, repeated: bool = False) -> MinedStep:
        return MinedStep(symbol, repeated=repeated or symbol in self._repeated)


def make_optional(order: MinedOrder) -> MinedOrder:
    return (replace(order[0], optional=True),) if len(order) == 1 else (MinedGroup((order,), optional=True),)


def make_repeated(order: MinedOrder) -> MinedOrder:
    if len(order) > 1:
        return (MinedGroup((order,), repeated=True),)
    only = order[0]
    if isinstance(only, MinedGroup):  # steps that are alone need not be repeated themselves
        alternatives = (
            (replace(one[0], repeated=False),) if len(one) == 1 and isinstance(one[0], MinedStep) else one
            for one in only.alternatives
        )
        only = replace(only, alternatives=tuple(alternatives))
    return (replace(only, repeated=True),)


def project(runs: Iterable[Run], part: Collection[str], *, whole: bool = False) -> set[Run]:
    """Return the parts of the runs with these endpoints; with `whole`, without the runs that have none of them."""
    found = {tuple(symbol for symbol in run if symbol in part) for run in runs}
    return found - {()} if whole else found


def split_at(run: Run, ends: Collection[str], starts: Collection[str]) -> Iterator[Run]:
    """Yield the parts of a run, which is split between each call in `ends` and a call in `starts` that follows it."""
    begin = 0
    for place, (left, right) in enumerate(pairwise(run), 1):
        if left in ends and right in starts:
            yield run[begin:place]
            begin = place
    yield run[begin:]


def pieces_between(run: Run, hinge: str) -> Iterator[Run]:
    """Yield the parts of a run between two calls of an endpoint, with which the run begins and ends."""
    piece: list[str] = []
    for symbol in run[1:]:
        if symbol == hinge:
            yield tuple(piece)
            piece = []
        else:
            piece.append(symbol)


def common_beginning(runs: Sequence[Run]) -> Run:
    shortest = min(runs, key=len)
    for place, symbol in enumerate(shortest):
        if any(run[place] != symbol for run in runs):
            return shortest[:place]
    return shortest


class FollowsGraph:
    """The pairs of endpoints that directly follow each other in some runs, and the endpoints with which these runs
    start and end."""

    def __init__(self, runs: Iterable[Run]) -> None:
        self.starts = {run[0] for run in runs}
        self.ends = {run[-1] for run in runs}
        self._symbols = sorted({symbol for run in runs for symbol in run})
        self._next: dict[str, set[str]] = {symbol: set() for symbol in self._symbols}
        for run in runs:
            for left, right in pairwise(run):
                self._next[left].add(right)

    def unconnected(self) -> list[set[str]]:
        """Return the endpoints, divided into parts such that no run has calls of two parts."""
        near = {symbol: set(followers) for symbol, followers in self._next.items()}
        for symbol, followers in self._next.items():
            for other in followers:
                near[other].add(symbol)
        return merge_parts(self._symbols, lambda left, right: right in near[left])

    def in_sequence(self) -> list[set[str]]:
        """Return the parts that follow each other: from each part, only later parts can be reached."""
        reach = {symbol: self._reachable(symbol) for symbol in self._symbols}
        parts = merge_parts(self._symbols, lambda left, right: (right in reach[left]) == (left in reach[right]))
        return sorted(parts, key=lambda part: -len(set[str]().union(*(reach[symbol] for symbol in part)) - part))

    def _reachable(self, symbol: str) -> set[str]:
        found: set[str] = set()
        waiting = [symbol]
        while waiting:
            new = self._next[waiting.pop()] - found
            found |= new
            waiting.extend(sorted(new))
        return found


def merge_parts(symbols: Iterable[str], belongs: Callable[[str, str], bool]) -> list[set[str]]:
    """Return the smallest parts such that two endpoints that belong together are in one part."""
    parts: list[set[str]] = []
    for symbol in symbols:
        joined = {symbol}
        others: list[set[str]] = []
        for part in parts:
            if any(belongs(symbol, other) for other in part):
                joined |= part
            else:
                others.append(part)
        parts = [*others, joined]
    return parts
