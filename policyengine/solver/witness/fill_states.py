"""Drafts filled by states: what a solver says facts are in one of its worlds becomes values, rows and a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice, product
from typing import Any, TypeAlias

from policyengine import kernel as k
from policyengine.kernel.expressions import rewrite
from policyengine.runtime.calendar_windows import Window
from policyengine.solver.formulas import FactPair, FactSpace, Subject, to_formula
from policyengine.solver.satisfiability import evaluate_formula, subject_states
from policyengine.solver.value_partition import AbstractValue, SpecialValue
from policyengine.solver.witness.editor import DraftEditor
from policyengine.solver.witness.finder import WitnessFinder
from policyengine.solver.witness.pools import underlying_leaf
from policyengine.solver.witness.relations import compare
from policyengine.solver.witness.texts import TextQuestion, constant_question, sample_text
from policyengine.solver.witness.times import fitting_time
from policyengine.solver.witness.values import MONDAY, default_value, relation_holds, rounded_state, state_value
from policyengine.typesystem import EnumType, ListType, RecordType, Scalar, SetType, Type

States: TypeAlias = Mapping[Subject, AbstractValue]
Quantified: TypeAlias = tuple[k.Quantifier, bool]

MAX_COMBINATIONS = 2_000
WRONG_TYPE: Mapping[str, object] = {"of": "another type"}
ORDERED_SCALARS = frozenset((Scalar.INT, Scalar.NUMBER, Scalar.DURATION, Scalar.TIME, Scalar.STRING))
# What others are made of comes first.
FILL_ORDER: tuple[type, ...] = (
    k.Fact, k.Attribute, k.Member, k.Variable, k.Call, k.Arithmetic,
    k.Relation,  # of an element and a collection
    k.Quantifier, FactPair,
)  # fmt: skip
OTHER_RANK = FILL_ORDER.index(k.Quantifier)


@dataclass(slots=True)
class StateFiller:
    """Fills a draft. `absence` are the facts of which conditions ask whether they are absent, `constants` those that
    facts are compared with."""

    editor: DraftEditor
    absence: frozenset[Subject] = frozenset()
    constants: Mapping[Subject, Sequence[AbstractValue]] = field(default_factory=dict)

    def fill(self, states: States) -> None:
        """Facts first, then what is asked of entities and collections, then what compares two facts: equal ones first.
        What several conditions ask of one operand is settled together, at the end."""
        before, self.editor.forbidden = self.editor.forbidden, forbidden_items(states)
        for subject, state in sorted(states.items(), key=lambda item: (fill_rank(item[0]), must_differ(*item))):
            self._fill_one(subject, state)
        for quantifiers in quantifiers_by_domain(states):
            self._fill_quantifiers(quantifiers)
        self._fill_texts(states)
        self._fill_windows(states)
        for subject, state in states.items():
            if isinstance(subject, k.HasRow) and state is False:
                WitnessFinder(self.editor).make(subject, False)
        self.editor.forbidden = before

    def complete(self, operands: Iterable[k.Expr], states: States) -> None:
        """Settle operands that have no state and no value."""
        for operand in operands:
            if operand not in states:
                self.editor.settle(operand)

    def meet(self, conditions: Sequence[k.Expr], states: States) -> bool:
        """Fill facts that have no state so that all the conditions hold; return whether there are such."""
        world = find_world([(condition, True) for condition in conditions])
        if world is None or not conditions:
            return False
        found, constants = world
        self.constants = {**constants, **self.constants}
        self.fill({subject: state for subject, state in found.items() if subject not in states})
        return True

    # ── One subject ───────────────────────────────────────────────────────────────────────────

    def _fill_one(self, subject: Subject, state: AbstractValue) -> None:
        if isinstance(subject, FactPair):
            self._order(subject, state)
        elif state is SpecialValue.ABSENT:
            self.editor.remove(subject)
        elif state is SpecialValue.BROKEN:
            self._spoil(subject)
        elif isinstance(subject, k.Quantifier | k.InWindow) or constant_question(subject):
            return  # settled together with others
        elif isinstance(subject, k.HasRow):
            WitnessFinder(self.editor).make(subject, True)  # until the end, also where there is to be none
        elif isinstance(state, bool):
            WitnessFinder(self.editor).make(subject, state)
        else:
            self.editor.put(subject, self._value(subject, state))

    def _spoil(self, subject: k.Expr) -> None:
        """What is unknown is absent, unless conditions tell that from other unknowns."""
        if subject in self.absence and isinstance(subject, k.Fact | k.Attribute | k.Member):
            self.editor.put(subject, WRONG_TYPE if not isinstance(subject.type, RecordType) else 7)

    def _value(self, subject: k.Expr, state: AbstractValue) -> Any:
        """The state as a value: one that a person would choose, where conditions do not tell it from others."""
        constants = self.constants.get(subject, ())
        if state is SpecialValue.OTHER:
            leaf = underlying_leaf(subject)
            return self.editor.pools.values(leaf)[0] if leaf is subject else default_value(subject.type)
        if isinstance(state, Fraction):
            return state_value(rounded_state(state, constants, subject.type), subject.type)
        if isinstance(state, str) and state not in constants:
            return "other" if state == "" else f"{state.rstrip(chr(0))}-other"
        return state

    def _order(self, pair: FactPair, state: AbstractValue) -> None:
        """Two facts in the wanted order, unless they are so already: the one that has no value yet is chosen."""
        row = k.RELATIONS[order_operator(state, pair.left.type)]
        left, right = self.editor.value(pair.left), self.editor.value(pair.right)
        if left is not None and right is not None and relation_holds(row, left, right, pair.left.type):
            return
        compare(self.editor, row, pair.left, pair.right, True)

    # ── Several questions about one operand ───────────────────────────────────────────────────

    def _fill_texts(self, states: States) -> None:
        asked: dict[k.Expr, list[tuple[TextQuestion, bool]]] = {}
        for subject, state in states.items():
            question = constant_question(subject)
            if question is not None and isinstance(state, bool):
                asked.setdefault(question[0], []).append((question[1], state))
        for operand, questions in asked.items():
            known = self.editor.value(operand)
            text = sample_text(questions, [known] if isinstance(known, str) else [])
            if text is not None and text != known:
                self.editor.put(operand, text)

    def _fill_windows(self, states: States) -> None:
        asked: dict[k.Expr, list[tuple[Window, bool]]] = {}
        for subject, state in states.items():
            if isinstance(subject, k.InWindow) and isinstance(state, bool):
                asked.setdefault(subject.instant, []).append((subject.window, state))
        for instant, wanted in asked.items():
            moment = fitting_time(self.editor.value(instant) or MONDAY, wanted)
            if moment is not None:
                self.editor.put(instant, moment)

    def _fill_quantifiers(self, several: Sequence[Quantified]) -> None:
        """`any` is true, and `all` false, by one element, for which what is said of all of them is so, too."""
        by_one = [one for one in several if one[1] != (one[0].word == "all")]
        every = [one for one in several if one not in by_one]
        domain = several[0][0].domain
        held = self.editor.value(domain)
        elements = [self._find_element([one, *every]) for one in by_one]
        more = len(held) - len(elements) if isinstance(held, tuple) else 0
        if more > 0:  # its size was asked for
            elements += [self._find_element(every or several)] * more
        self.editor.put(domain, tuple(elements))

    def _find_element(self, asked: Sequence[Quantified]) -> Any:
        """An element for which all these conditions come out as wanted."""
        quantifier, variables = asked[0][0], self.editor.draft.variables
        world = find_world([(rename_variable(one, quantifier.variable), wanted) for one, wanted in asked])
        variables.pop(quantifier.variable, None)
        if world is not None:
            before = self.constants
            self.constants = {**before, **world[1]}
            self.fill(world[0])
            self.constants = before
        element, type_ = variables.pop(quantifier.variable, None), quantifier.domain.type
        if element is None and isinstance(type_, SetType | ListType):
            return default_value(type_.element)
        return element


def find_world(
    wanted: Iterable[tuple[k.Expr, bool]],
) -> tuple[States, Mapping[Subject, Sequence[AbstractValue]]] | None:
    """States of facts in which all the conditions come out as wanted, and the constants of those facts."""
    space = FactSpace()
    formulas = [(to_formula(condition, space), state) for condition, state in wanted]
    choices = [subject_states(number, space) for number in range(len(space.subjects))]
    for world in islice(product(*choices), MAX_COMBINATIONS):
        if all(evaluate_formula(formula, world) is state for formula, state in formulas):
            constants = {one: tuple(space.constants[number]) for number, one in enumerate(space.subjects)}
            return dict(zip(space.subjects, world, strict=True)), constants
    return None


def rename_variable(quantifier: k.Quantifier, name: str) -> k.Expr:
    """The condition about an element, which it calls by that name."""

    def renamed(part: k.Expr) -> k.Expr | None:
        if isinstance(part, k.Variable) and part.name == quantifier.variable != name:
            return k.Variable(name, part.type, span=part.span)
        return None

    return rewrite(quantifier.condition, renamed)


def order_operator(state: AbstractValue, type_: Type) -> str:
    """The operator that the state of a pair stands for; values without an order only are equal or not."""
    if not isinstance(state, Fraction) or state == 0:
        return "=="
    if not isinstance(type_, EnumType) and type_ not in ORDERED_SCALARS:
        return "!="
    return "<" if state < 0 else ">"


# ── The order of a fill ───────────────────────────────────────────────────────────────────────


def fill_rank(subject: Subject) -> int:
    if isinstance(subject, k.Relation) and subject.row.operands is not k.Operands.ELEMENT:
        return OTHER_RANK
    return next((rank for rank, kind in enumerate(FILL_ORDER) if isinstance(subject, kind)), OTHER_RANK)


def must_differ(subject: Subject, state: AbstractValue) -> bool:
    """Whether two facts are to differ: those that are to be equal are made so first."""
    return isinstance(subject, FactPair) and state != 0


def forbidden_items(states: States) -> dict[k.Expr, list[Any]]:
    """By collection the constants that it is not to hold."""
    forbidden: dict[k.Expr, list[Any]] = {}
    for subject, state in states.items():
        if state is not False:
            continue
        match subject:
            case k.Relation("has" | "holds", collection, k.Constant(item)):
                forbidden.setdefault(collection, []).append(item)
            case k.Relation("overlaps", collection, k.Constant(tuple() as items)) | k.Relation(
                "overlaps", k.Constant(tuple() as items), collection
            ):
                forbidden.setdefault(collection, []).extend(items)
            case _:
                pass
    return forbidden


def quantifiers_by_domain(states: States) -> Iterator[list[Quantified]]:
    by_domain: dict[k.Expr, list[Quantified]] = {}
    for subject, state in states.items():
        if isinstance(subject, k.Quantifier) and isinstance(state, bool):
            by_domain.setdefault(subject.domain, []).append((subject, state))
    yield from by_domain.values()
