"""Decision diagrams: functions of the states of facts. Equal functions are the same object.

A diagram branches on facts in the order of their indexes and ends in a value. As far as the states of facts can express
them, two policies are equal if and only if their diagrams are the same object.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeAlias

from policyengine.solver.value_partition import AbstractValue

MAX_DIAGRAM_NODES = 20_000  # maximum nodes of one comparison; larger comparisons prove nothing


class DiagramTooLargeError(Exception):
    """The error for a comparison whose diagrams exceed their bound."""


@dataclass(frozen=True, slots=True, eq=False)
class DiagramLeaf:
    """A leaf of a diagram; leaves with equal values are the same object."""

    number: int
    value: object


@dataclass(frozen=True, slots=True, eq=False)
class DiagramBranch:
    """A fact to branch on, and the diagram for each of its states."""

    number: int
    fact: int
    branches: tuple[Diagram, ...]


Diagram: TypeAlias = DiagramLeaf | DiagramBranch
StatePath: TypeAlias = dict[int, int]  # fact index → index of its state on a path


class DiagramBuilder:
    """Builds the diagrams of one comparison; `states` are the states of each fact, by index."""

    def __init__(self, states: Callable[[int], Sequence[AbstractValue]]) -> None:
        self.states = states
        self._ends: dict[object, DiagramLeaf] = {}
        self._asks: dict[tuple[int, ...], DiagramBranch] = {}
        self._chosen: dict[tuple[int, int, int], Diagram] = {}
        self._joined: dict[tuple[int, int], Diagram] = {}
        self._pairs: dict[tuple[int, int], frozenset[tuple[object, object]]] = {}
        self._made = 0
        self.yes, self.no = self.end(True), self.end(False)

    def end(self, value: object) -> DiagramLeaf:
        found = self._ends.get(value)
        if found is None:
            found = self._ends[value] = DiagramLeaf(self._next(), value)
        return found

    def ask(self, fact: int, branches: Iterable[Diagram]) -> Diagram:
        below = tuple(branches)
        if all(one is below[0] for one in below):
            return below[0]
        key = (fact, *(one.number for one in below))
        found = self._asks.get(key)
        if found is None:
            found = self._asks[key] = DiagramBranch(self._next(), fact, below)
        return found

    def _next(self) -> int:
        self._made += 1
        if self._made > MAX_DIAGRAM_NODES:
            raise DiagramTooLargeError
        return self._made

    # ── Combining diagrams ─────────────────────────────────────────────────────────────

    def choose(self, test: Diagram, then: Diagram, other: Diagram) -> Diagram:
        """Return the diagram of `then` where the test is true, and of `other` elsewhere."""
        if test is self.yes or then is other:
            return then
        if test is self.no:
            return other
        key = (test.number, then.number, other.number)
        found = self._chosen.get(key)
        if found is None:
            fact = min(one.fact for one in (test, then, other) if isinstance(one, DiagramBranch))
            triples = zip(*(self.split(one, fact) for one in (test, then, other)), strict=True)
            found = self._chosen[key] = self.ask(fact, (self.choose(*triple) for triple in triples))
        return found

    def split(self, diagram: Diagram, fact: int) -> Sequence[Diagram]:
        """Return the diagram for each state of a fact. The diagram must branch on this fact first, or not at all."""
        if isinstance(diagram, DiagramBranch) and diagram.fact == fact:
            return diagram.branches
        return (diagram,) * len(self.states(fact))

    def every(self, items: Iterable[Diagram]) -> Diagram:
        return self.folded(items, self.yes, lambda one, other: self.choose(one, other, self.no))

    def some(self, items: Iterable[Diagram]) -> Diagram:
        return self.folded(items, self.no, lambda one, other: self.choose(one, self.yes, other))

    def sum(self, items: Iterable[Diagram]) -> Diagram:
        """Return the union of the leaves of all diagrams; each leaf is a sorted tuple."""
        return self.folded(items, self.end(()), self.joined)

    def folded(self, items: Iterable[Diagram], empty: Diagram, put: Callable[[Diagram, Diagram], Diagram]) -> Diagram:
        """Combine diagrams in pairs, so that intermediate diagrams stay small."""
        left = list(items)
        while len(left) > 1:
            pairs = [put(*pair) for pair in zip(left[::2], left[1::2], strict=False)]
            left = [*pairs, *left[len(pairs) * 2 :]]
        return left[0] if left else empty

    def joined(self, one: Diagram, other: Diagram) -> Diagram:
        if isinstance(one, DiagramLeaf) and isinstance(other, DiagramLeaf):
            values = [item for each in (one, other) if isinstance(each.value, tuple) for item in each.value]
            return self.end(tuple(sorted(values)))
        nothing = self.end(())
        if one is nothing or other is nothing:
            return other if one is nothing else one
        key = (one.number, other.number) if one.number < other.number else (other.number, one.number)
        found = self._joined.get(key)
        if found is None:
            fact = min(each.fact for each in (one, other) if isinstance(each, DiagramBranch))
            pairs = zip(self.split(one, fact), self.split(other, fact), strict=True)
            found = self._joined[key] = self.ask(fact, (self.joined(*pair) for pair in pairs))
        return found

    # ── Reading diagrams ─────────────────────────────────────────────────────────────────────

    def value(self, diagram: Diagram, path: Mapping[int, int]) -> object:
        """Return the leaf value on a path; facts that the path omits are in their first state."""
        while isinstance(diagram, DiagramBranch):
            diagram = diagram.branches[path.get(diagram.fact, 0)]
        return diagram.value

    def differences(self, old: Diagram, new: Diagram) -> dict[tuple[object, object], None]:
        """Return the pairs of leaves where the two diagrams differ."""
        return dict.fromkeys(sorted(self._apart(old, new), key=repr))

    def _apart(self, one: Diagram, other: Diagram) -> frozenset[tuple[object, object]]:
        if one is other:
            return frozenset()
        key = (one.number, other.number)
        found = self._pairs.get(key)
        if found is None:
            found = frozenset(pair for _, below in self._below(one, other) for pair in self._apart(*below))
            if isinstance(one, DiagramLeaf) and isinstance(other, DiagramLeaf):
                found = frozenset({(one.value, other.value)})
            self._pairs[key] = found
        return found

    def _below(self, one: Diagram, other: Diagram) -> Iterator[tuple[int, tuple[Diagram, Diagram]]]:
        asked = [each.fact for each in (one, other) if isinstance(each, DiagramBranch)]
        if asked:
            fact = min(asked)
            yield from enumerate(zip(self.split(one, fact), self.split(other, fact), strict=True))

    def paths(self, old: Diagram, new: Diagram, ends: tuple[object, object]) -> Iterator[StatePath]:
        """Yield the paths to a pair of leaves. Paths with the first states of facts come first."""
        path: StatePath = {}

        def walk(one: Diagram, other: Diagram) -> Iterator[StatePath]:
            if ends not in self._apart(one, other):
                return
            if isinstance(one, DiagramLeaf) and isinstance(other, DiagramLeaf):
                yield dict(path)
                return
            fact = min(each.fact for each in (one, other) if isinstance(each, DiagramBranch))
            for state, pair in self._below(one, other):
                path[fact] = state
                yield from walk(*pair)
            del path[fact]

        yield from walk(old, new)

    def path_to(self, diagram: Diagram, value: object) -> StatePath | None:
        """Return a path to a leaf with this value, or None if there is no such leaf."""
        dead: set[int] = set()

        def seek(one: Diagram) -> StatePath | None:
            if isinstance(one, DiagramLeaf):
                return {} if one.value == value else None
            for place, below in enumerate(one.branches):
                if below.number not in dead and (found := seek(below)) is not None:
                    return {one.fact: place, **found}
            dead.add(one.number)
            return None

        return seek(diagram)

    def some_path(self, old: Diagram, new: Diagram, ends: tuple[object, object], random: Random) -> StatePath:
        """Return a random path to a difference."""
        path: StatePath = {}
        while not (isinstance(old, DiagramLeaf) and isinstance(new, DiagramLeaf)):
            fact = min(each.fact for each in (old, new) if isinstance(each, DiagramBranch))
            ways = [one for one in self._below(old, new) if ends in self._apart(*one[1])]
            path[fact], (old, new) = random.choice(ways)
        return path
