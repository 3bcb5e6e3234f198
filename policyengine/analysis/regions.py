"""One region: both policies' answers to one kind of caller, as functions of the same facts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import assert_never

from policyengine import kinds
from policyengine.analysis.diagrams import Diagram, Diagrams
from policyengine.analysis.families import Family, families, states_by_member
from policyengine.analysis.rewriting import DEPTH, ISSUER, RESOURCE, SEGMENT, SOUND, Settled, fact
from policyengine.analysis.sides import Said
from policyengine.semantics import kernel as k
from policyengine.semantics.cells import Plain, State
from policyengine.semantics.formulas import (
    All,
    Fixed,
    Formula,
    Leaf,
    Negation,
    Pair,
    Some,
    Space,
    Subject,
    Truth,
    numbers_in,
    read,
    type_of,
)
from policyengine.semantics.possibilities import answer, negated, states_of, value_of

ON_TRUE: frozenset[Truth] = frozenset({True})
UNLESS_FALSE: frozenset[Truth] = frozenset({True, None})
DENY: frozenset[tuple[str, ...]] = frozenset({("deny",)})
# Where they are still facts, the caller is nobody, or nobody with a name: names that are known have become constants.
WHO = (("agent",), ("user",), ("agent", "id"), ("user", "id"))
WITHOUT_VALUE = (State.ABSENT, State.BROKEN)
STRICT = (
    k.Contains, k.Below, k.InNetwork, k.InWindow, k.Like, k.Matches, k.Overlaps, k.Subset, k.Compare, k.Arithmetic,
    k.Negative, k.Apply, k.HasRow, Pair,
)  # fmt: skip
NO_HOPS = Fraction(0)


@dataclass(frozen=True, slots=True)
class Derived:
    """What a fact is, by the states of others."""

    sources: tuple[int, ...]
    of: Callable[..., Plain]


def by_place(states: Sequence[Plain]) -> Callable[..., Plain]:
    return lambda place: states[int(place)]


def depth_by_issuer(recorded: Sequence[str]) -> Callable[..., Plain]:
    """Nobody handed the work on: known only where the issuer records chains."""
    return lambda issuer: NO_HOPS if issuer in recorded else State.BROKEN


def operands_of(subject: Subject) -> tuple[k.Expr, ...]:
    """What must have a value so that this has one."""
    match subject:
        case Pair(left, right):
            return left, right
        case k.Attribute(base, name) if name != "id" and not may_be_claimed(base):
            return base, k.HasRow(base, span=base.span)
        case k.Attribute(base) | k.Member(base):
            return (base,)
        case _ if isinstance(subject, STRICT):
            return tuple(k.parts(subject))
        case _:
            return ()


def may_be_claimed(holder: k.Expr) -> bool:
    """Whether a credential may say what no row does: of an agent or a user."""
    type_ = type_of(holder)
    return not isinstance(type_, kinds.Ref) or not type_.entities.isdisjoint(("agent", "user"))


class Comparison:
    """Both policies' answers to one kind of caller, as functions of the same facts. Raises TooLarge."""

    def __init__(self, settled: Settled, old: Said, new: Said, issuers: Iterable[str], *, sound: bool | None) -> None:
        """`sound`: whether chains can be sound at all (None: they can)."""
        self.settled, self.sound = settled, sound
        self.space = Space()
        self._issuer = self.space.number(fact(ISSUER))
        self.space.constants[self._issuer].update(issuers)
        formulas = [self._read(said) for said in (old, new)]
        self._states: dict[int, tuple[Plain, ...]] = {}
        self.derived: dict[int, Derived] = {}
        self.families: list[Family] = []
        self._derive()
        self.diagrams = Diagrams(self.states)
        self.old, self.new = (self._answer(*one) for one in formulas)

    def _derive(self) -> None:
        """What other facts decide: depths by the issuer, families together, comparisons by what they compare."""
        for family in families(self.space):
            if not any(self.missing(self.space.subjects[number]) for number in family.members):
                self.families.append(family)
                first = family.members[0]
                self._states[first] = tuple(Fraction(place) for place in range(len(family.states)))
                for number, states in states_by_member(family).items():
                    self.derived[number] = Derived((first,), by_place(states))
        for number, subject in enumerate(self.space.subjects):
            if isinstance(subject, k.Fact) and subject.path[0] == DEPTH:
                self.derived[number] = Derived((self._issuer,), depth_by_issuer(subject.path[1:]))
            elif number not in self.derived and (asked := self._operands(subject)):
                self.derived[number] = Derived((number, *asked), self._strictly(number, subject, asked))

    def _operands(self, subject: Subject) -> tuple[int, ...]:
        """The facts without which this one has no value, as far as they are asked for themselves."""
        parts = operands_of(subject)
        numbers = (self.space.numbers[part] for part in parts if part in self.space.numbers)
        return tuple(number for number in numbers if number not in self.derived)

    def _strictly(self, number: int, subject: Subject, asked: tuple[int, ...]) -> Callable[..., Plain]:
        every = self.states(number)
        parts = [part for part in operands_of(subject) if not isinstance(part, k.Constant)]
        total = isinstance(subject, Pair) and len(asked) == len(parts)

        rows = [place for place, one in enumerate(asked) if isinstance(self.space.subjects[one], k.HasRow)]
        attribute = isinstance(subject, k.Attribute)

        def of(own: Plain, *operands: Plain) -> Plain:
            if attribute and any(operands[place] is False for place in rows):
                return State.BROKEN  # without a row it is not even absent
            if any(one in WITHOUT_VALUE for one in operands):
                return own if own in WITHOUT_VALUE else State.BROKEN
            return every[0] if total and own in WITHOUT_VALUE else own

        return of

    def state(self, number: int, path: Mapping[int, int]) -> Plain | None:
        """The state of a fact on a path; None where the path tells nothing of it."""
        derived = self.derived.get(number)
        sources = (number,) if derived is None else derived.sources
        if not any(source in path for source in sources):
            return None
        states = [self.states(source)[path.get(source, 0)] for source in sources]
        return states[0] if derived is None else derived.of(*states)

    def _read(
        self, said: Said
    ) -> tuple[Formula, Formula, dict[tuple[str, ...], Formula], dict[tuple[str, ...], Formula]]:
        opens, denies = read(said.opens, self.space), read(said.denies, self.space)
        confirms, duties = (
            {key: read(one, self.space) for key, one in several.items()} for several in (said.confirms, said.duties)
        )
        return opens, denies, confirms, duties

    def _answer(
        self, opens: Formula, denies: Formula, confirms: dict[tuple[str, ...], Formula],
        duties: dict[tuple[str, ...], Formula],
    ) -> Diagram:  # fmt: skip
        made = self.diagrams
        passes = made.choose(self.when(denies, UNLESS_FALSE), made.no, self.when(opens, ON_TRUE))
        stops = self._set(confirms)
        asked = made.some(self.when(one, UNLESS_FALSE) for one in confirms.values())
        return made.choose(passes, made.choose(asked, stops, self._set(duties)), made.end(DENY))

    def _set(self, several: dict[tuple[str, ...], Formula]) -> Diagram:
        found: Diagram = self.diagrams.end(frozenset())
        for key, one in several.items():
            held, nothing = self.diagrams.end(frozenset({key})), self.diagrams.end(frozenset())
            found = self.diagrams.joined(found, self.diagrams.choose(self.when(one, UNLESS_FALSE), held, nothing))
        return found

    # ── Formulas to diagrams ──────────────────────────────────────────────────────────────────

    def when(self, formula: Formula, wanted: frozenset[Truth]) -> Diagram:
        """Whether the formula has one of the wanted values, which are true or false, or either of them or unknown."""
        made = self.diagrams
        match formula:
            case Fixed(value):
                return made.yes if value in wanted else made.no
            case Negation(inner):
                return self.when(inner, frozenset(map(negated, wanted)))
            case All(items):
                return (made.every if True in wanted else made.some)(self.when(item, wanted) for item in items)
            case Some(items):
                return (made.some if True in wanted else made.every)(self.when(item, wanted) for item in items)
            case Leaf():
                return self.leaf(formula, wanted)
            case _:
                assert_never(formula)

    def leaf(self, leaf: Leaf, wanted: frozenset[Truth]) -> Diagram:
        numbers = sorted(set(numbers_in(leaf.term)))
        asked = sorted({source for one in numbers for source in self.sources(one)})
        world: list[Plain] = [State.BROKEN] * len(self.space.subjects)

        def below(path: dict[int, int]) -> Diagram:
            if len(path) == len(asked):
                for number in numbers:
                    world[number] = self.told(number, path)
                found = answer(value_of(leaf.term, world), leaf.word, leaf.constants)
                return self.diagrams.yes if found in wanted else self.diagrams.no
            fact = asked[len(path)]
            return self.diagrams.ask(fact, [below({**path, fact: place}) for place in range(len(self.states(fact)))])

        return below({})

    def values(self, path: Mapping[int, int]) -> Iterator[tuple[k.Expr, object]]:
        """Values of operands for which all that families ask comes out as the path says."""
        for family in self.families:
            place = path.get(family.members[0])
            if place is not None and family.values[place] is not None:
                yield family.operand, family.values[place]

    def sources(self, number: int) -> tuple[int, ...]:
        derived = self.derived.get(number)
        return (number,) if derived is None else derived.sources

    def told(self, number: int, path: Mapping[int, int]) -> Plain:
        """The state of a fact of which the path tells."""
        state = self.state(number, path)
        assert state is not None
        return state

    # ── The states that facts can have here ───────────────────────────────────────────────────

    def states(self, number: int) -> Sequence[Plain]:
        if number not in self._states:
            subject, every = self.space.subjects[number], states_of(number, self.space)
            self._states[number] = tuple(one for one in every if self.possible(subject, one)) or (every[-1],)
        return self._states[number]

    def possible(self, subject: Subject, state: Plain) -> bool:
        without = state in WITHOUT_VALUE
        if is_root(subject, SOUND[0], SOUND[1]):
            return not without and (self.sound is not False or state is False)
        if is_root(subject, SEGMENT) or is_segment_resource(subject):
            return not without and state != ""
        if (
            isinstance(subject, k.Fact)
            and subject.path in WHO
            and self.space.numbers[subject] not in self.space.absence
        ):
            return without
        if isinstance(subject, k.Fact) and subject.path in WHO:
            return state is getattr(self.settled, subject.path[0])
        if self.missing(subject):
            return without
        return not (without and isinstance(subject, k.InWindow) and is_root(subject.instant, "time"))

    def missing(self, subject: Subject) -> bool:
        """Surely without a value: it is, or asks about, somebody who is not there."""
        match subject:
            case k.Fact(path) if path[0] == "agent" and self.settled.agent is State.ABSENT:
                return True
            case k.Fact(path):
                return path in WHO or path in (("approval", "by"), ("approval", "age"))
            case k.Attribute(base) | k.Member(base):
                return self.missing(base)
            case Pair(left, right):
                return self.missing(left) or self.missing(right)
            case _ if isinstance(subject, STRICT):
                return any(self.missing(part) for part in k.parts(subject))
            case _:
                return False


def is_root(subject: Subject, *path: str) -> bool:
    return isinstance(subject, k.Fact) and subject.path[: len(path)] == path


def is_segment_resource(subject: Subject) -> bool:
    return isinstance(subject, k.Fact) and subject.path[0] == RESOURCE and len(subject.path) > 2
