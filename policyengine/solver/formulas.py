"""Kernel conditions as formulas over numbered facts, the input of `satisfiability.py`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias, assert_never

from policyengine import kernel as k
from policyengine import typesystem
from policyengine.solver.value_partition import AbstractValue, is_comparable_constant, to_abstract_value

Truth: TypeAlias = bool | None


@dataclass(frozen=True, slots=True)
class FactPair:
    """Two facts that are compared with each other. The state of the pair is their order: -1, 0 or 1."""

    left: k.Expr
    right: k.Expr


Subject: TypeAlias = k.Expr | FactPair


@dataclass(frozen=True, slots=True)
class ConstantTerm:
    value: AbstractValue


@dataclass(frozen=True, slots=True)
class FactTerm:
    number: int


@dataclass(frozen=True, slots=True)
class DefaultTerm:
    """`x else d`."""

    term: Term
    fallback: Term


Term: TypeAlias = ConstantTerm | FactTerm | DefaultTerm


@dataclass(frozen=True, slots=True)
class TruthConstant:
    truth: Truth


@dataclass(frozen=True, slots=True)
class Atom:
    """A test of one term: `is` (a bool), `present`, `in` (one of several), or a comparison with a constant."""

    term: Term
    word: str
    constants: tuple[AbstractValue, ...] = ()


@dataclass(frozen=True, slots=True)
class Negation:
    of: Formula


@dataclass(frozen=True, slots=True)
class Conjunction:
    items: tuple[Formula, ...]


@dataclass(frozen=True, slots=True)
class Disjunction:
    items: tuple[Formula, ...]


Formula: TypeAlias = TruthConstant | Atom | Negation | Conjunction | Disjunction
World: TypeAlias = Sequence[AbstractValue]


class FactSpace:
    """The facts of some conditions, numbered, each with the constants with which it is compared and whether its absence
    matters.
    """

    def __init__(self) -> None:
        self.numbers: dict[Subject, int] = {}
        self.subjects: list[Subject] = []
        self.constants: list[set[AbstractValue]] = []
        self.absence: set[int] = set()
        self.states: dict[int, tuple[AbstractValue, ...]] = {}

    def number(self, subject: Subject) -> int:
        if subject not in self.numbers:
            self.numbers[subject] = len(self.subjects)
            self.subjects.append(subject)
            self.constants.append(set())
        return self.numbers[subject]


# ── Reading a condition ───────────────────────────────────────────────────────────────────────


def to_formula(expr: k.Expr, space: FactSpace) -> Formula:
    match expr:
        case k.Constant(value=bool() as value):
            return TruthConstant(value)
        case k.DefinitionRef():
            return to_formula(expr.expression, space)
        case k.Not():
            return Negation(to_formula(expr.operand, space))
        case k.And():
            return Conjunction(tuple(to_formula(item, space) for item in expr.items))
        case k.Or():
            return Disjunction(tuple(to_formula(item, space) for item in expr.items))
        case k.Relation(operator) if operator in MIRRORED:
            return comparison_formula(expr, space)
        case k.Relation("has" | "holds", k.Constant(value=tuple()) as choices, item) if (
            expr.operator == "has" or not is_reference(item)
        ):
            return membership_formula(expr, choices, space)
        case k.IsPresent():
            number = space.number(expr.operand)
            space.absence.add(number)
            return Atom(FactTerm(number), "present")
        case _:
            return Atom(to_term(expr, space), "is")


def to_term(expr: k.Expr, space: FactSpace) -> Term:
    match expr:
        case k.DefinitionRef():
            return to_term(expr.expression, space)
        case k.Constant() if (value := to_abstract_value(expr.value, expr.type)) is not None:
            return ConstantTerm(value)
        case k.UnaryMinus(operand=k.Constant() as operand) if isinstance(
            value := to_abstract_value(operand.value, operand.type), Fraction
        ):
            return ConstantTerm(-value)
        case k.Default():
            term = to_term(expr.operand, space)
            space.absence.update(numbers_in(term))
            return DefaultTerm(term, to_term(expr.fallback, space))
        case _:
            return FactTerm(space.number(expr))


def comparison_formula(expr: k.Relation, space: FactSpace) -> Formula:
    left, right = unwrap_definition(expr.left), unwrap_definition(expr.right)
    for side, other in ((left, right), (right, left)):
        if isinstance(side, k.Constant) and isinstance(side.value, bool):
            return negate_unless(to_formula(other, space), side.value == (expr.operator == "=="))
    scratch = FactSpace()  # a fact that becomes half of a pair must not be registered
    a, b = to_term(left, scratch), to_term(right, scratch)
    operator: str = expr.operator
    if isinstance(a, ConstantTerm):
        a, b, left, right, operator = b, a, right, left, MIRRORED[operator]
    if isinstance(b, ConstantTerm) and is_comparable_constant(b.value, left.type, operator):
        return make_atom(to_term(left, space), operator, (b.value,), space)
    return pair_atom(operator, left, right, space)


def pair_atom(operator: str, left: k.Expr, right: k.Expr, space: FactSpace) -> Atom:
    """Return an atom with the two sides in canonical order, so that `a < b` and `b > a` are equal."""
    if repr(left) > repr(right):
        left, right, operator = right, left, MIRRORED[operator]
    return Atom(FactTerm(space.number(FactPair(left, right))), operator, (Fraction(0),))


def membership_formula(expr: k.Relation, choices: k.Constant, space: FactSpace) -> Formula:
    assert isinstance(choices.value, tuple)
    element = (
        choices.type.element if isinstance(choices.type, typesystem.SetType | typesystem.ListType) else choices.type
    )
    values = tuple(to_abstract_value(value, element) for value in choices.value)
    known = tuple(value for value in values if value is not None)
    if len(known) == len(values) and all(is_comparable_constant(value, expr.right.type, "==") for value in known):
        return make_atom(to_term(expr.right, space), "in", known, space)
    return Atom(FactTerm(space.number(expr)), "is")


def make_atom(term: Term, word: str, constants: tuple[AbstractValue, ...], space: FactSpace) -> Atom:
    for number in numbers_in(term):
        space.constants[number].update(constants)
    return Atom(term, word, constants)


def negate_unless(formula: Formula, same: bool) -> Formula:
    return formula if same else Negation(formula)


MIRRORED: dict[str, str] = {"==": "==", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}


def unwrap_definition(expr: k.Expr) -> k.Expr:
    while isinstance(expr, k.DefinitionRef):
        expr = expr.expression
    return expr


def is_reference(expr: k.Expr) -> bool:
    return isinstance(expr.type, typesystem.RefType)


def numbers_in(term: Term) -> Iterator[int]:
    match term:
        case ConstantTerm():
            return
        case FactTerm(number):
            yield number
        case DefaultTerm(first, fallback):
            yield from numbers_in(first)
            yield from numbers_in(fallback)
        case _:
            assert_never(term)
