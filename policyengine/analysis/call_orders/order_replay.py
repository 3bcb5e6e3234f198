"""Compiles mined orders to the automaton that decisions use, and replays the runs of a class with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from random import Random
from typing import Final

from policyengine import kernel as k
from policyengine.analysis.call_orders.order_miner import MinedGroup, MinedItem, MinedOrder, MinedStep, order_words
from policyengine.analysis.call_orders.order_miner import steps_of as mined_steps
from policyengine.analysis.call_orders.run_collector import EndpointTable, Principal, RunTable, RunVariant
from policyengine.analysis.call_orders.run_rules import RunRule
from policyengine.behavior.reader import letter_at
from policyengine.checker.names.program import Program
from policyengine.checker.patterns.places import PlaceResolver
from policyengine.checker.patterns.step_letters import order_automaton
from policyengine.kernel.sequence_automaton import LEFT, START, Order, OrderSizeError, SequenceAutomaton, distinct_steps
from policyengine.runtime.format_values import quote_string
from policyengine.source import Source, Span
from policyengine.syntax import nodes as ast
from policyengine.syntax.parse import parse

MAX_SHUFFLED: Final = 200  # different runs whose calls are put in another order
SHUFFLES: Final = 5  # other orders of each of them
MAX_NAME: Final = 200
TOOL: Final = "TOOL "
NOWHERE: Final = Span(Source("suggested", ""), 0, 0)


class StepReader:
    """Reads names of endpoints as steps of an order in one package of a program."""

    def __init__(self, program: Program, package: str) -> None:
        self._places, self._package = PlaceResolver(program), package
        self._known: dict[str, k.CallStep | None] = {}

    def read(self, name: str) -> k.CallStep | None:
        """Return the step for calls to an endpoint; None if a policy cannot name the endpoint. The text of its span is
        the step as a policy contains it."""
        if name not in self._known:
            quoted = f"{TOOL}{quote_string(name.removeprefix(TOOL))}" if name.startswith(TOOL) else name
            self._known[name] = self._read(name) or (None if quoted == name else self._read(quoted))
        return self._known[name]

    def _read(self, words: str) -> k.CallStep | None:
        if not words.isprintable() or len(words) > MAX_NAME:
            return None
        text = f'language 1\nprofile "suggested" for agent "*" {{ expect {words} }}\n'
        module, problems = parse(Source("suggested", text))
        if module is None or problems or len(module.declarations) != 1:
            return None
        match module.declarations[0]:
            case ast.ProfileDecl(items=(ast.ProfileSteps(ast.StepSequence(steps=(ast.ProfileStep() as step,))),)):
                if isinstance(step.target, ast.Name) or step.span.text != words or step.repeats:
                    return None
                patterns = self._places.target(step.target, self._package)
                return k.CallStep(tuple(patterns), span=step.span) if patterns else None
            case _:
                return None


@dataclass(frozen=True, slots=True)
class ReplayedOrder:
    """An order, and the runs that follow it. `letters` has the letter of each endpoint. `accepted` is the number of
    runs that never leave the order, and `complete` is the number of these that also reach its end. Of the `shuffled`
    runs with the same calls in another order, `rejected` leave it. `followers` are the agents at least half of whose
    runs follow the order."""

    order: MinedOrder
    words: str
    automaton: SequenceAutomaton
    letters: tuple[int, ...]
    accepted: int
    complete: int
    shuffled: int
    rejected: int
    followers: frozenset[Principal]
    exceptions: tuple[tuple[tuple[int, ...], RunVariant, int], ...]  # calls, runs, number of calls that follow

    @property
    def selectivity(self) -> float:
        """The share of shuffled runs that leave the order; 0 without shuffled runs."""
        return self.rejected / self.shuffled if self.shuffled else 0.0


@dataclass(slots=True)
class OrderReplayer:
    """Replays the runs of one class under one rule."""

    endpoints: EndpointTable
    reader: StepReader
    table: RunTable
    _shuffled: list[tuple[tuple[int, ...], int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._shuffled = list(self._shuffle())

    def replay(self, order: MinedOrder) -> ReplayedOrder | None:
        """Replay all runs and return the result; None if the order is too large for a policy."""
        lowered = tuple(self._lower(item) for item in order)
        written: Order = tuple(item for item in lowered if item is not None)
        if len(written) < len(lowered):
            return None
        try:
            automaton = order_automaton(written)
        except OrderSizeError:
            return None
        steps = distinct_steps(written)
        letters = tuple(0 if sample is None else letter_at(sample, steps) for sample in self.endpoints.samples)
        accepted = complete = 0
        agents: Counter[Principal] = Counter()
        exceptions = []
        for calls, variant in self.table.variants.items():
            passed, state = follow(automaton, letters, calls)
            if passed < len(calls):
                exceptions.append((calls, variant, passed))
                continue
            accepted += variant.runs
            complete += variant.runs * (state in automaton.ends)
            agents.update(variant.agents)
        rejected = sum(weight for calls, weight in self._shuffled if follow(automaton, letters, calls)[0] < len(calls))
        exceptions.sort(key=lambda one: (-one[1].runs, len(one[0]), self.names(one[0])))
        followers = frozenset(who for who, runs in agents.items() if 2 * runs >= self.table.agents[who])
        return ReplayedOrder(
            order, self._words(order), automaton, letters, accepted, complete,
            sum(weight for _, weight in self._shuffled), rejected, followers, tuple(exceptions),
        )  # fmt: skip

    def names(self, calls: Iterable[int]) -> tuple[str, ...]:
        return tuple(self.endpoints.names[number] for number in calls)

    def named_runs(self) -> Counter[tuple[str, ...]]:
        """Return the runs by the names of their endpoints; `""` for an endpoint that a policy cannot name."""
        found: Counter[tuple[str, ...]] = Counter()
        for calls, variant in self.table.variants.items():
            found[tuple(name if name and self.reader.read(name) else "" for name in self.names(calls))] += variant.runs
        return found

    def _lower(self, item: MinedItem) -> k.CallStep | k.StepGroup | None:
        if isinstance(item, MinedStep):
            step = self.reader.read(item.endpoint)
            return step and k.CallStep(step.patterns, item.optional, item.repeated, span=step.span)
        parts = [[self._lower(one) for one in alternative] for alternative in item.alternatives]
        alternatives = tuple(tuple(one for one in part if one is not None) for part in parts)
        if any(len(one) < len(part) for one, part in zip(alternatives, parts, strict=True)):
            return None
        return k.StepGroup(alternatives, item.optional, item.repeated, span=NOWHERE)

    def _words(self, order: MinedOrder) -> str:
        spelled = {step.endpoint: self.reader.read(step.endpoint) for step in mined_steps(order)}
        return order_words(
            tuple(rename(item, {name: step.span.text for name, step in spelled.items() if step}) for item in order)
        )

    def _shuffle(self) -> Iterator[tuple[tuple[int, ...], int]]:
        """Yield the calls of the most frequent runs in other orders, which no run has, each with the number of runs of
        its calls."""
        random = Random(0)
        variants = sorted(self.table.variants.items(), key=lambda one: (-one[1].runs, len(one[0]), self.names(one[0])))
        known = {short_names(self.names(calls)) for calls in self.table.variants}
        for calls, variant in variants[:MAX_SHUFFLED]:
            for _ in range(SHUFFLES):
                other = random.sample(calls, len(calls))
                if short_names(self.names(other)) not in known:
                    yield tuple(other), variant.runs


def rename(item: MinedItem, names: dict[str, str]) -> MinedItem:
    if isinstance(item, MinedStep):
        return MinedStep(names[item.endpoint], item.optional, item.repeated)
    alternatives = tuple(tuple(rename(one, names) for one in alternative) for alternative in item.alternatives)
    return MinedGroup(alternatives, item.optional, item.repeated)


def short_names(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(name for name, _ in groupby(names))


def follow(automaton: SequenceAutomaton, letters: Sequence[int], calls: Iterable[int]) -> tuple[int, int]:
    """Return the number of calls that follow the order, and the state after them."""
    state, passed = START, 0
    for number in calls:
        after = automaton.next(state, letters[number])
        if after == LEFT:
            break
        state, passed = after, passed + 1
    return passed, state


class OrderCounter(RunTable):
    """Counts the runs that follow an order, and keeps none of them."""

    def __init__(self, rule: RunRule, order: ReplayedOrder) -> None:
        super().__init__(rule)
        self._order = order
        self._followed: Counter[Principal] = Counter()
        self.accepted = self.complete = 0

    def count(self, who: Principal, calls: tuple[int, ...], example: str) -> None:
        passed, state = follow(self._order.automaton, self._order.letters, calls)
        if passed == len(calls):
            self.accepted += 1
            self.complete += state in self._order.automaton.ends
            if who in self.agents:
                self._followed[who] += 1

    @property
    def followers(self) -> frozenset[Principal]:
        """The agents at least half of whose runs follow the order."""
        return frozenset(who for who, runs in self._followed.items() if 2 * runs >= self.agents[who])
