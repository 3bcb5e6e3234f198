"""Chooses, for each class of callers, the rule that separates the most regular runs, and the order that they follow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby, islice
from typing import Any, Final

from policyengine.analysis.call_orders.order_miner import MinedItem, MinedStep, propose_orders, steps_of
from policyengine.analysis.call_orders.order_replay import OrderCounter, OrderReplayer, ReplayedOrder, StepReader
from policyengine.analysis.call_orders.run_collector import ClassRuns, EndpointTable, Principal, RunTable
from policyengine.analysis.call_orders.run_rules import RunRule
from policyengine.kernel.sequence_automaton import MAX_STEPS

LEAST_RUNS: Final = 10
LEAST_AGENTS: Final = 2
LEAST_SELECTIVITY: Final = 0.75  # the share of runs with the same calls in another order that must leave the order
SAME: Final = 20  # selectivities and irregularities that differ by less than 1/20 are equal
MAX_RULES: Final = 3  # the rules with the most regular runs for which orders are mined
MAX_EXCEPTIONS: Final = 5
MAX_AGENTS_NAMED: Final = 3
MAX_CALLS_SHOWN: Final = 8


class NoOrderError(Exception):
    """The reason why no order is suggested for a class."""


@dataclass(frozen=True, slots=True)
class RunException:
    """Runs with equal calls that leave the order after `follows` calls. `calls` are the first endpoints of each run,
    with the number of calls in a row. A number of MAX_REPEATS means at least that many.
    """

    runs: int
    calls: tuple[tuple[str, int], ...]
    length: int
    follows: int
    agents: tuple[str, ...]
    agents_in_all: int
    examples: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "runs": self.runs, "calls": [{"endpoint": name, "times": times} for name, times in self.calls],
            "length": self.length, "follows": self.follows,
            "agents": list(self.agents), "agents_in_all": self.agents_in_all, "examples": list(self.examples),
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class SampleRuns:
    """Two runs for tests, as endpoints: one follows the order, the last call of the other does not."""

    agent: Principal
    accepted: tuple[int, ...]
    rejected: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class OrderSuggestion:
    """An order for a class, and the number of runs of the class that follow the order."""

    group: str
    rule: RunRule
    words: str
    steps: int
    runs: int
    accepted: int
    complete: int
    agents: int
    followers: int
    selectivity: float
    exceptions: tuple[RunException, ...]
    samples: SampleRuns
    names: tuple[str, ...]  # agents that follow the order
    order: ReplayedOrder
    is_sampled: bool  # whether there are runs that were not replayed

    @property
    def support(self) -> float:
        return self.accepted / self.runs

    def to_dict(self) -> dict[str, Any]:
        return {
            "class": self.group, "expect": self.words, "run": self.rule.words() or None, "steps": self.steps,
            "runs": self.runs, "accepted": self.accepted, "complete": self.complete,
            "support": round(self.support, 4), "agents": self.agents, "followers": self.followers,
            "other_orders_rejected": round(self.selectivity, 4),
            "exceptions": [one.to_dict() for one in self.exceptions],
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class MissingOrder:
    """A class without a suggestion, and the reason."""

    group: str
    calls: int
    why: str

    def to_dict(self) -> dict[str, Any]:
        return {"class": self.group, "calls": self.calls, "why": self.why}


@dataclass(frozen=True, slots=True)
class OrderFinder:
    """Finds an order that at least the share `support` of the runs of a class follow."""

    endpoints: EndpointTable
    reader: StepReader
    support: float

    def find(self, group: str, runs: ClassRuns) -> OrderSuggestion | MissingOrder:
        try:
            return self._find(group, runs)
        except NoOrderError as reason:
            return MissingOrder(group, runs.calls, str(reason))

    def _find(self, group: str, runs: ClassRuns) -> OrderSuggestion:
        tables = list(runs.tables())
        usable = [table for table in tables if table.runs >= LEAST_RUNS and len(table.agents) >= LEAST_AGENTS]
        if not usable:
            raise NoOrderError(why_unusable(tables))
        ranked = sorted(usable, key=lambda table: int(table.irregularity() * SAME))  # a stable sort
        reasons: list[str] = []
        for table in ranked[:MAX_RULES]:
            try:
                return self._suggest(group, table)
            except NoOrderError as reason:
                reasons.append(str(reason))
        raise NoOrderError(reasons[0])

    def recount(self, suggestion: OrderSuggestion, runs: OrderCounter) -> OrderSuggestion | MissingOrder:
        """Return a suggestion with the numbers of all runs, if enough of them follow the order."""
        runs.finish()
        if runs.accepted < self.support * runs.runs or len(runs.followers) < LEAST_AGENTS:
            why = f"the best order is followed by {100 * runs.accepted / runs.runs:.1f} % of the {runs.runs:,} runs"
            return MissingOrder(suggestion.group, suggestion.runs, why)
        return replace(
            suggestion, runs=runs.runs, accepted=runs.accepted, complete=runs.complete, agents=len(runs.agents),
            followers=len(runs.followers), is_sampled=False,
        )  # fmt: skip

    def _suggest(self, group: str, table: RunTable) -> OrderSuggestion:
        """Return the best order of a table. Raises NoOrderError."""
        replayer = OrderReplayer(self.endpoints, self.reader, table)
        best = self._best(replayer)
        if len(best.followers) < LEAST_AGENTS:
            raise NoOrderError("the order that enough runs follow is that of one agent, which is no habit of the class")
        return OrderSuggestion(
            group, table.rule, best.words, sum(1 for _ in steps_of(best.order)), table.runs - table.dropped,
            best.accepted, best.complete, len(table.agents), len(best.followers), best.selectivity,
            tuple(run_exceptions(replayer, best)), sample_runs(replayer, best),
            tuple(sorted(name for _, name in best.followers)), best, table.dropped > 0,
        )  # fmt: skip

    def _best(self, replayer: OrderReplayer) -> ReplayedOrder:
        """Return the best order that enough of the replayed runs follow. Raises NoOrderError."""
        runs, share = replayer.table.runs - replayer.table.dropped, f"{self.support * 100:g} %"
        replayed = [replayer.replay(order) for order in propose_orders(replayer.named_runs(), self.support)]
        small = [one for one in replayed if one is not None]
        enough = [one for one in small if one.accepted >= self.support * runs]
        if not enough:
            most = max((one.accepted for one in small), default=0)
            best = f"; the best order has {100 * most / runs:.1f} %" if most else ""
            raise NoOrderError(
                f"no order of at most {MAX_STEPS} steps is followed by {share} of the {runs:,} runs{best}"
            )
        selective = [one for one in enough if one.selectivity >= LEAST_SELECTIVITY]
        if not selective:
            raise NoOrderError(
                f"each order that {share} of the {runs:,} runs follow also accepts most runs with the same calls in "
                "another order"
            )
        return min(selective, key=lambda one: rank(one, self.support * runs))


def rank(found: ReplayedOrder, wanted: float) -> tuple[int, int, int, float, str]:
    """Return the sort key of an order: the most selective, smallest and strictest orders come first, and of these the
    orders whose end enough runs reach."""
    steps = sum(1 for _ in steps_of(found.order))
    freedom = sum(map(freedom_of, found.order)) - found.order[-1].optional  # a run may also end before its last step
    return -int(found.selectivity * SAME), steps, freedom, -min(found.complete, wanted), found.words


def freedom_of(item: MinedItem) -> int:
    """Return the number of choices that an item leaves: what is `optional` or `repeated`, and further alternatives."""
    if isinstance(item, MinedStep):
        return item.optional + item.repeated
    inner = sum(freedom_of(one) for order in item.alternatives for one in order)
    return item.optional + item.repeated + len(item.alternatives) - 1 + inner


def why_unusable(tables: list[RunTable]) -> str:
    most = max(tables, key=lambda table: table.runs)
    if len(most.agents) < LEAST_AGENTS:
        return "all runs are of one agent, and a habit of one agent is not a habit of the class"
    return f"there are only {most.runs:,} runs, and {LEAST_RUNS} are needed"


def run_exceptions(replayer: OrderReplayer, best: ReplayedOrder) -> Iterator[RunException]:
    """Yield the most frequent runs that leave the order."""
    for calls, variant, follows in best.exceptions[:MAX_EXCEPTIONS]:
        agents = sorted(variant.agents.items(), key=lambda one: (-one[1], one[0]))
        yield RunException(
            variant.runs, tuple(islice(with_repetitions(replayer.names(calls)), MAX_CALLS_SHOWN)), len(calls), follows,
            tuple(name for (_, name), _ in agents[:MAX_AGENTS_NAMED]), len(agents), tuple(variant.examples),
        )  # fmt: skip


def with_repetitions(names: Iterable[str]) -> Iterator[tuple[str, int]]:
    for name, group in groupby(names):
        yield name, sum(1 for _ in group)


def sample_runs(replayer: OrderReplayer, best: ReplayedOrder) -> SampleRuns:
    """Return the most frequent run that reaches the end of the order, and its shortest beginning with a call that does
    not follow."""
    letters, automaton = best.letters, best.automaton
    excluded = {calls for calls, _, _ in best.exceptions}
    variants = [one for one in replayer.table.variants.items() if one[0] not in excluded and one[1].agents]
    calls, variant = min(variants, key=lambda one: (-one[1].runs, len(one[0]), replayer.names(one[0])))
    agent = min(variant.agents, key=lambda who: (-variant.agents[who], who))
    numbers = sorted(set(calls), key=calls.index)
    for length in range(len(calls) + 1):
        state = 0
        for number in calls[:length]:
            state = automaton.next(state, letters[number])
        for number in reversed(numbers):
            if letters[number] not in automaton.rows[state]:
                return SampleRuns(agent, calls, (*calls[:length], number))
    return SampleRuns(agent, calls, ())
