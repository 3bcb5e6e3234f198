"""Drafts from solver states: turns the states of facts in one world into values, rows and a time."""

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
from policyengine.solver.value_partition import AbstractValue, SpecialValue, texts_between
from policyengine.solver.witness.editor import DraftEditor
from policyengine.solver.witness.finder import WitnessFinder
from policyengine.solver.witness.pools import underlying_leaf
from policyengine.solver.witness.relations import compare
from policyengine.solver.witness.texts import TextQuestion, constant_question, sample_text
from policyengine.solver.witness.times import fitting_time
from policyengine.solver.witness.values import MONDAY, default_value, relation_holds, rounded_state, state_value
from policyengine.typesystem import EnumType, ListType, RecordType, Scalar, SetType, Type
from policyengine.vocabulary import LEARNED_FACTS

States: TypeAlias = Mapping[Subject, AbstractValue]
Quantified: TypeAlias = tuple[k.Quantifier, bool]

MAX_COMBINATIONS = 2_000
OTHER_TEXTS = ("A", "0", "-", "!")  # the most natural first; a later text sorts before more constants
WRONG_TYPE: Mapping[str, object] = {"of": "another type"}
ORDERED_SCALARS = frozenset((Scalar.INT, Scalar.NUMBER, Scalar.DURATION, Scalar.TIME, Scalar.STRING))
# Parts are filled before the operands that are computed from them.
FILL_ORDER: tuple[type, ...] = (
    k.Fact, k.Attribute, k.Member, k.Variable, k.Call, k.Arithmetic,
    k.Relation,  # relations of an element and a collection
    k.Quantifier, FactPair,
)  # fmt: skip
OTHER_RANK = FILL_ORDER.index(k.Quantifier)


@dataclass(slots=True)
class StateFiller:
    """Fills a draft. `absence` are the facts that conditions test for absence, `constants` those with which facts are
    compared. With `ordered`, texts are in the order of their states, and less natural; `disordered` says that a text is
    not in that order.
    """

    editor: DraftEditor
    absence: frozenset[Subject] = frozenset()
    constants: Mapping[Subject, Sequence[AbstractValue]] = field(default_factory=dict)
    ordered: bool = False
    disordered: bool = False

    def fill(self, states: States) -> None:
        """Fill facts first, then memberships and quantifiers, then pairs of facts, equal ones first. Conditions on one
        operand are solved together at the end."""
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
        """Give values to operands that have neither a state nor a value."""
        for operand in operands:
            if operand not in states:
                self.editor.settle(operand)

    def meet(self, conditions: Sequence[k.Expr], states: States) -> bool:
        """Fill facts without a state so that all the conditions are true. Return whether such values were found; False
        without conditions.
        """
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
            return  # solved together with other subjects
        elif isinstance(subject, k.HasRow):
            WitnessFinder(self.editor).make(subject, True)  # a row that must not exist is removed at the end of `fill`
        elif isinstance(state, bool):
            WitnessFinder(self.editor).make(subject, state)
        else:
            self.editor.put(subject, self._value(subject, state))

    def _spoil(self, subject: k.Expr) -> None:
        """Make a fact unknown: it stays absent, unless conditions distinguish absence from other unknowns. Learned
        facts are never absent.
        """
        learned = isinstance(subject, k.Fact) and subject.path in LEARNED_FACTS
        if (learned or subject in self.absence) and isinstance(subject, k.Fact | k.Attribute | k.Member):
            self.editor.put(subject, WRONG_TYPE if not isinstance(subject.type, RecordType) else 7)

    def _value(self, subject: k.Expr, state: AbstractValue) -> Any:
        """Return a value for the state; a natural value if conditions do not distinguish it from others."""
        constants = self.constants.get(subject, ())
        if state is SpecialValue.OTHER:
            leaf = underlying_leaf(subject)
            return self.editor.pools.values(leaf)[0] if leaf is subject else default_value(subject.type)
        if isinstance(state, Fraction):
            return state_value(rounded_state(state, constants, subject.type), subject.type)
        if isinstance(state, str) and state not in constants:
            return self._other_text(state, constants)
        return state

    def _other_text(self, state: str, constants: Sequence[AbstractValue]) -> str:
        """Return a text that is not a constant and, if required, between the same constants as the state."""
        above = state.rstrip(chr(0))
        natural = f"{above}-other" if above else "other"
        texts = (natural, *(above + text for text in OTHER_TEXTS)) if self.ordered else (natural,)
        cells = sorted(texts_between(constants), reverse=True)
        found = next((text for text in texts if next(one for one in cells if one <= text) == state), None)
        self.disordered = self.disordered or found is None
        return natural if found is None else found

    def _order(self, pair: FactPair, state: AbstractValue) -> None:
        """Give two facts the required order, unless they already have it, preferably by changing the fact without a
        value.
        """
        row = k.RELATIONS[order_operator(state, pair.left.type)]
        left, right = self.editor.value(pair.left), self.editor.value(pair.right)
        if left is not None and right is not None and relation_holds(row, left, right, pair.left.type):
            return
        compare(self.editor, row, pair.left, pair.right, True)

    # ── Several conditions on one operand ───────────────────────────────────────────────────

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
        """Fill the elements of a collection: one for each true `any` or false `all`, which must also satisfy the
        quantifiers over all elements."""
        by_one = [one for one in several if one[1] != (one[0].word == "all")]
        every = [one for one in several if one not in by_one]
        domain = several[0][0].domain
        held = self.editor.value(domain)
        elements = [self._find_element([one, *every]) for one in by_one]
        more = len(held) - len(elements) if isinstance(held, tuple) else 0
        if more > 0:  # a required size
            elements += [self._find_element(every or several)] * more
        self.editor.put(domain, tuple(elements))

    def _find_element(self, asked: Sequence[Quantified]) -> Any:
        """Return an element for which all these conditions have the required result."""
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
    """Return states of facts for which all conditions have the required result, and the facts' constants; None if no
    such states are found.
    """
    space = FactSpace()
    formulas = [(to_formula(condition, space), state) for condition, state in wanted]
    choices = [subject_states(number, space) for number in range(len(space.subjects))]
    for world in islice(product(*choices), MAX_COMBINATIONS):
        if all(evaluate_formula(formula, world) is state for formula, state in formulas):
            constants = {one: tuple(space.constants[number]) for number, one in enumerate(space.subjects)}
            return dict(zip(space.subjects, world, strict=True)), constants
    return None


def rename_variable(quantifier: k.Quantifier, name: str) -> k.Expr:
    """Return the quantifier's condition with its variable renamed."""

    def renamed(part: k.Expr) -> k.Expr | None:
        if isinstance(part, k.Variable) and part.name == quantifier.variable != name:
            return k.Variable(name, part.type, span=part.span)
        return None

    return rewrite(quantifier.condition, renamed)


def order_operator(state: AbstractValue, type_: Type) -> str:
    """Return the operator for the state of a pair; values without an order are only equal or different."""
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
    """Return whether two facts must differ. Pairs that must be equal are filled first."""
    return isinstance(subject, FactPair) and state != 0


def forbidden_items(states: States) -> dict[k.Expr, list[Any]]:
    """Return for each collection the constants that it must not contain."""
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
