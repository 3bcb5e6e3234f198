"""Represents both policies' answers for a region as functions of the same facts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from fractions import Fraction
from functools import cached_property
from typing import assert_never

from policyengine import kernel as k
from policyengine.analysis.diff.answer_order import CONFIRM, OBLIGE, AnswerKey, without_reasons
from policyengine.analysis.diff.correlated_conditions import CorrelatedConditions, find_correlated, states_by_member
from policyengine.analysis.diff.decision_diagrams import Diagram, DiagramBuilder, DiagramTooLargeError, StatePath
from policyengine.analysis.diff.policy_view import AnswerConditions
from policyengine.analysis.diff.region_facts import (
    APPROVAL_KEY,
    DENY_KEY,
    ON_TRUE,
    PRINCIPAL_PATHS,
    STRICT_NODES,
    UNLESS_FALSE,
    WITHOUT_VALUE,
    DerivedFact,
    confirm_conditions,
    depth_by_issuer,
    differing_keys,
    has_path_prefix,
    is_segment_resource,
    may_be_split,
    required_operands,
    state_at_place,
    values_on_path,
)
from policyengine.analysis.diff.rule_units import Key
from policyengine.analysis.diff.segment_spellings import SegmentSpellings
from policyengine.analysis.diff.specialize import DEPTH, ISSUER, SEGMENT, SOUND, UNSURE, CallerAssumption, make_fact
from policyengine.analysis.diff.spelled_segments import spelled_segments
from policyengine.runtime.decision import OPERATOR_OBLIGATIONS
from policyengine.solver.formulas import (
    Atom,
    Conjunction,
    Disjunction,
    FactPair,
    FactSpace,
    Formula,
    Negation,
    Subject,
    Truth,
    TruthConstant,
    numbers_in,
    to_formula,
)
from policyengine.solver.satisfiability import (
    evaluate_atom,
    evaluate_term,
    group_by_subject,
    mentioned_numbers,
    negate_truth,
    subject_states,
)
from policyengine.solver.value_partition import AbstractValue, SpecialValue


class RegionComparison:
    """Both policies' answers to one kind of caller, as functions of the same facts. Raises DiagramTooLargeError.

    The leaves contain the parts of an answer that can differ: a deny, whether an approval is required, and the
    approvals and obligations that only one policy requires. If both policies have a deny that reads facts that nothing
    else reads, `aside` holds the states in which it does not apply: the deny causes no difference, and requests only
    have to avoid it.
    """

    def __init__(
        self,
        settled: CallerAssumption,
        old: AnswerConditions,
        new: AnswerConditions,
        issuers: Iterable[str],
        *,
        sound: bool | None,
        apart: bool = False,
        spelled: Mapping[int, SegmentSpellings] | None = None,
    ) -> None:
        """Build the diagrams. `sound` says whether chains can be valid (None: they can). `apart` leaves common rules
        `beside`: the answers are then those of changed rules only, and each path must be `completed`. `spelled` are the
        segments that can only be spellings of a literal.
        """
        self.settled, self.sound, self.spelled = settled, sound, spelled or {}
        self.space = FactSpace()
        self._issuer = self.space.number(make_fact(ISSUER))
        self.space.constants[self._issuer].update(issuers)
        self.told = frozenset(key for one, other in ((old, new), (new, old)) for key in differing_keys(one, other))
        self._formulas: dict[k.Expr, Formula] = {}
        for said in (old, new):
            self._read(said)
        self._states: dict[int, tuple[AbstractValue, ...]] = {}
        self.derived: dict[int, DerivedFact] = {}
        self.families: list[CorrelatedConditions] = []
        self.segments: list[CorrelatedConditions] = []
        self._derive()
        self.diagrams = DiagramBuilder(self.states)
        self._when: dict[tuple[k.Expr, frozenset[Truth]], Diagram] = {}
        self.settled_on: StatePath = {}
        self._facts: dict[int, frozenset[int]] = {}
        common = self._common(old, new)
        every = {*old.denies, *new.denies, *confirm_conditions(old), *confirm_conditions(new)}
        self.aside: dict[int, int] = {}
        self.beside: tuple[k.Expr, ...] = tuple(common) if apart else ()
        self.opens = old.opens if apart and old.opens == new.opens else None
        near = every - common if apart else self._near(every - common, common)
        self.old, self.new = self._answer(old, near), self._answer(new, near)
        self.shut = self.opens is not None and self._fulfilled([self.opens]) is None

    def _read(self, said: AnswerConditions) -> None:
        others = (one for kept in (said.confirms, said.duties) for several in kept.values() for one in several)
        for condition in (said.opens, *said.denies, *others):
            if condition not in self._formulas:
                self._formulas[condition] = to_formula(condition, self.space)

    # ── Rules that make no difference ──────────────────────────────────────────────────────────────

    def _common(self, old: AnswerConditions, new: AnswerConditions) -> set[k.Expr]:
        """Return the conditions of denies and confirms that both policies have and on which nothing else depends."""
        common = set(old.denies) & set(new.denies)
        common |= {one for key, several in old.confirms.items() if key not in self.told for one in several}
        common -= set(old.denies) ^ set(new.denies)
        told = [
            several.get(key, ()) for key in self.told for said in (old, new) for several in (said.confirms, said.duties)
        ]
        return common.difference(*told)

    def _near(self, changed: set[k.Expr], common: set[k.Expr]) -> set[k.Expr]:
        """Return the conditions that share facts with changed conditions. For the others, put states in which none of
        them applies into `aside`.
        """
        main = {number for one in self._formulas if one not in common for number in self.facts_in(one)}
        near = set(changed)
        for several in self.together(common, frozenset()):
            avoided = None if any(main & self.facts_in(one) for one in several) else self._avoided(several)
            if avoided is None:
                near |= set(several)
            else:
                self.aside |= avoided
        return near

    def together(self, conditions: Iterable[k.Expr], known: frozenset[int]) -> list[tuple[k.Expr, ...]]:
        """Group conditions that share facts other than the known facts."""
        ordered = sorted(conditions, key=lambda one: sorted(self.facts_in(one)))
        return group_by_subject(ordered, lambda one: self.facts_in(one) - known)

    def completed(self, path: StatePath) -> StatePath | None:
        """Return the path with states of all other facts in which grants apply and no other rule does; None if there
        are no such states. If several answers remain, any answer with another approval is equally good.
        """
        whole = {**self.aside, **path}
        if not self.beside and self.opens is None:
            return whole
        before = self.diagrams, self._when, self.settled_on
        self.diagrams, self._when, self.settled_on = DiagramBuilder(self._narrowed(path)), {}, path
        try:
            wanted, known = [*self.beside, *([] if self.opens is None else [self.opens])], frozenset(path)
            settled = [one for one in wanted if self.facts_in(one) <= known]
            if settled and self._fulfilled(settled) is None:
                return None
            for several in self.together((one for one in wanted if not self.facts_in(one) <= known), known):
                found = self._fulfilled(several)
                if found is None:
                    return None
                whole |= {fact: place for fact, place in found.items() if fact not in path}
            return whole
        except DiagramTooLargeError:
            return None
        finally:
            self.diagrams, self._when, self.settled_on = before

    def _narrowed(self, path: StatePath) -> Callable[[int], Sequence[AbstractValue]]:
        return lambda number: (self.states(number)[path[number]],) if number in path else self.states(number)

    def _fulfilled(self, conditions: Sequence[k.Expr]) -> StatePath | None:
        made = self.diagrams
        acting = made.some(self.acts(one) for one in conditions if one is not self.opens)
        opens = [self.when(self._formulas[one], ON_TRUE) for one in conditions if one is self.opens]
        passes = made.choose(acting, made.no, made.every(opens))
        return made.path_to(passes, True)

    def _avoided(self, conditions: Sequence[k.Expr]) -> StatePath | None:
        """Return states in which none of the conditions applies, or None if some condition applies in every state."""
        acting = self.diagrams.some(self.acts(one) for one in conditions)
        return self.diagrams.path_to(acting, False)

    def facts_in(self, condition: k.Expr) -> frozenset[int]:
        """Return the facts that determine a condition, each by its representative index."""
        known = self._facts.get(id(condition))
        if known is None:
            numbers = set(mentioned_numbers(self._formulas[condition]))
            known = self._facts[id(condition)] = frozenset(source for one in numbers for source in self.sources(one))
        return known

    # ── Answers ───────────────────────────────────────────────────────────────────────────────

    def _answer(self, said: AnswerConditions, near: AbstractSet[k.Expr]) -> Diagram:
        made = self.diagrams
        denied = made.some(self.acts(one) for one in said.denies if one in near)
        opens = made.yes if self.opens is not None else self.when(self._formulas[said.opens], ON_TRUE)
        passes = made.choose(denied, made.no, opens)
        duties = {key: made.some(map(self.acts, said.duties.get(key, ()))) for key in self.told if key[0] == OBLIGE}
        noted = [self._held(key, one) for key, one in sorted(duties.items()) if key[1] in OPERATOR_OBLIGATIONS]
        denying = made.sum([made.end(DENY_KEY), *noted])
        asked = made.some(self.acts(one) for one in confirm_conditions(said) if one in near)
        approvals = [
            self._held(key, self.acts(one))
            for key in sorted(self.told) if key[0] == CONFIRM
            for one in said.confirms.get(key, ())
        ]  # fmt: skip
        held = [self._held(key, one) for key, one in sorted(duties.items())]
        return made.choose(passes, made.sum([self._held(APPROVAL_KEY, asked), *approvals, *held]), denying)

    def _held(self, key: Key, acts: Diagram) -> Diagram:
        return self.diagrams.choose(acts, self.diagrams.end((key,)), self.diagrams.end(()))

    def acts(self, condition: k.Expr) -> Diagram:
        """Return the diagram of the states in which a guard with the condition applies, because the condition is not
        false.
        """
        found = self._when.get((condition, UNLESS_FALSE))
        if found is None:
            found = self._when[condition, UNLESS_FALSE] = self.when(self._formulas[condition], UNLESS_FALSE)
        return found

    @property
    def notes(self) -> bool:
        """Whether obligations to operators can differ, which apply even to a deny."""
        return any(key[0] == OBLIGE and key[1] in OPERATOR_OBLIGATIONS for key in self.told)

    def end_of(self, answer: AnswerKey) -> AnswerKey:
        """Return the part of a whole answer that the leaves distinguish."""
        answer = without_reasons(answer)
        kept = [key for key in answer if key in self.told or (key,) == DENY_KEY]
        return tuple(sorted([*kept, *([APPROVAL_KEY] if any(key[0] == CONFIRM for key in answer) else [])]))

    def _derive(self) -> None:
        """Find derived facts: depths by issuer, correlated conditions by operand, and comparisons by their operands."""
        self.segments = list(spelled_segments(self.space, self.spelled))
        for family in self.segments:
            self._derive_family(family)
        for family in find_correlated(self.space, frozenset(self.derived)):
            if not any(self.missing(self.space.subjects[number]) for number in family.members):
                self.families.append(family)
                self._derive_family(family)
        for number, subject in enumerate(self.space.subjects):
            if isinstance(subject, k.Fact) and subject.path[0] == DEPTH:
                self.derived[number] = DerivedFact((self._issuer,), depth_by_issuer(subject.path[1:]))
            elif number not in self.derived and (asked := self._operands(subject)):
                self.derived[number] = DerivedFact((number, *asked), self._strictly(number, subject, asked))

    def _derive_family(self, family: CorrelatedConditions) -> None:
        first = family.members[0]
        self._states[first] = tuple(Fraction(place) for place in range(len(family.states)))
        for number, states in states_by_member(family).items():
            self.derived[number] = DerivedFact((first,), state_at_place(states))

    def _operands(self, subject: Subject) -> tuple[int, ...]:
        """Return the facts in the space without which this fact has no value."""
        parts = required_operands(subject)
        numbers = (self.space.numbers[part] for part in parts if part in self.space.numbers)
        return tuple(number for number in numbers if number not in self.derived)

    def _strictly(self, number: int, subject: Subject, asked: tuple[int, ...]) -> Callable[..., AbstractValue]:
        every = self.states(number)
        parts = [part for part in required_operands(subject) if not isinstance(part, k.Constant)]
        total = isinstance(subject, FactPair) and len(asked) == len(parts)

        rows = [place for place, one in enumerate(asked) if isinstance(self.space.subjects[one], k.HasRow)]
        attribute = isinstance(subject, k.Attribute)

        def of(own: AbstractValue, *operands: AbstractValue) -> AbstractValue:
            if attribute and any(operands[place] is False for place in rows):
                return SpecialValue.BROKEN  # without a row the attribute is unknown rather than absent
            if any(one in WITHOUT_VALUE for one in operands):
                return own if own in WITHOUT_VALUE else SpecialValue.BROKEN
            return every[0] if total and own in WITHOUT_VALUE else own

        return of

    def state(self, number: int, path: Mapping[int, int]) -> AbstractValue | None:
        """Return the state of a fact on a path, or None if the path does not determine it."""
        derived = self.derived.get(number)
        sources = (number,) if derived is None else derived.sources
        if not any(source in path for source in sources):
            return None
        states = [self.states(source)[path.get(source, 0)] for source in sources]
        return states[0] if derived is None else derived.of(*states)

    # ── Formulas to diagrams ──────────────────────────────────────────────────────────────────

    def when(self, formula: Formula, wanted: frozenset[Truth]) -> Diagram:
        """Return the diagram of the states in which the formula has one of the wanted values: true or false, each with
        or without unknown.
        """
        made = self.diagrams
        match formula:
            case TruthConstant(value):
                return made.yes if value in wanted else made.no
            case Negation(inner):
                return self.when(inner, frozenset(map(negate_truth, wanted)))
            case Conjunction(items):
                return (made.every if True in wanted else made.some)(self.when(item, wanted) for item in items)
            case Disjunction(items):
                return (made.some if True in wanted else made.every)(self.when(item, wanted) for item in items)
            case Atom():
                return self.leaf(formula, wanted)
            case _:
                assert_never(formula)

    def leaf(self, leaf: Atom, wanted: frozenset[Truth]) -> Diagram:
        numbers = sorted(set(numbers_in(leaf.term)))
        asked = sorted({source for one in numbers for source in self.sources(one)})
        if numbers == asked and len(asked) == 1 and asked[0] not in self.derived:
            return self.about_one(leaf, numbers[0], wanted)
        world: list[AbstractValue] = [SpecialValue.BROKEN] * len(self.space.subjects)

        def below(path: dict[int, int]) -> Diagram:
            if len(path) == len(asked):
                for number in numbers:
                    world[number] = self.state_on(number, path)
                found = evaluate_atom(evaluate_term(leaf.term, world), leaf.word, leaf.constants)
                return self.diagrams.yes if found in wanted else self.diagrams.no
            fact = asked[len(path)]
            return self.diagrams.ask(fact, [below({**path, fact: place}) for place in self.places(fact)])

        return below({})

    def places(self, number: int) -> Sequence[int]:
        """Return the indexes of the states to try: all, or the settled one."""
        settled = self.settled_on.get(number)
        return range(len(self.states(number))) if settled is None else (settled,)

    def about_one(self, leaf: Atom, number: int, wanted: frozenset[Truth]) -> Diagram:
        yes, no = self.diagrams.yes, self.diagrams.no
        world: list[AbstractValue] = [SpecialValue.BROKEN] * (number + 1)
        branches: list[Diagram] = []
        for place in self.places(number):
            world[number] = self.states(number)[place]
            found = evaluate_atom(evaluate_term(leaf.term, world), leaf.word, leaf.constants)
            branches.append(yes if found in wanted else no)
        return self.diagrams.ask(number, branches)

    def values(self, path: Mapping[int, int]) -> Iterator[tuple[k.Expr, object]]:
        """Yield values of operands for which the correlated conditions are as on the path."""
        yield from values_on_path(self.families, path)

    def segment_texts(self, path: Mapping[int, int]) -> Iterator[tuple[k.Expr, object]]:
        """Yield the spellings of segments for which conditions are as on the path."""
        yield from values_on_path(self.segments, path)

    @cached_property
    def about_segments(self) -> frozenset[Subject]:
        """The facts that follow from the spelling of a segment."""
        return frozenset(self.space.subjects[number] for family in self.segments for number in family.members)

    def sources(self, number: int) -> tuple[int, ...]:
        derived = self.derived.get(number)
        return (number,) if derived is None else derived.sources

    def state_on(self, number: int, path: Mapping[int, int]) -> AbstractValue:
        """Return the state of a fact; the path must determine it."""
        state = self.state(number, path)
        assert state is not None
        return state

    # ── The states that facts can have here ───────────────────────────────────────────────────

    def states(self, number: int) -> Sequence[AbstractValue]:
        if number not in self._states:
            subject, every = self.space.subjects[number], subject_states(number, self.space)
            states = tuple(one for one in every if self.possible(subject, one)) or (every[-1],)
            # States that a request can show come first.
            self._states[number] = states[::-1] if has_path_prefix(subject, UNSURE) else states
        return self._states[number]

    def possible(self, subject: Subject, state: AbstractValue) -> bool:
        without = state in WITHOUT_VALUE
        if has_path_prefix(subject, SOUND[0], SOUND[1]):
            return not without and (self.sound is not False or state is False)
        if has_path_prefix(subject, SEGMENT) or is_segment_resource(subject):
            if without:
                return state is SpecialValue.BROKEN and may_be_split(subject)
            return state != "" or "" not in self.space.constants[self.space.numbers[subject]]  # captures are not empty
        if (
            isinstance(subject, k.Fact)
            and subject.path in PRINCIPAL_PATHS
            and self.space.numbers[subject] not in self.space.absence
        ):
            return without
        if isinstance(subject, k.Fact) and subject.path in PRINCIPAL_PATHS:
            return state is getattr(self.settled, subject.path[0])
        if self.missing(subject):
            return without
        return not (without and isinstance(subject, k.InWindow) and has_path_prefix(subject.instant, "time"))

    def missing(self, subject: Subject) -> bool:
        """Return whether a subject certainly has no value, because its principal or an approval is absent."""
        match subject:
            case k.Fact(path) if path[0] == "agent" and self.settled.agent is SpecialValue.ABSENT:
                return True
            case k.Fact(path):
                return path in PRINCIPAL_PATHS or path in (("approval", "by"), ("approval", "age"))
            case k.Attribute(base) | k.Member(base):
                return self.missing(base)
            case FactPair(left, right):
                return self.missing(left) or self.missing(right)
            case _ if isinstance(subject, STRICT_NODES):
                return any(self.missing(part) for part in k.children(subject))
            case _:
                return False
