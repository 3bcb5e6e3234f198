"""What a condition asks, as a formula over numbered facts: the kernel's conditions, read for possibilities.py."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias, assert_never

from policyengine import kernel as k
from policyengine import typesystem
from policyengine.solver.value_partition import Plain, fits, plain

Truth: TypeAlias = bool | None


@dataclass(frozen=True, slots=True)
class Pair:
    """Two facts compared with each other; its state is their order: -1, 0 or 1."""

    left: k.Expr
    right: k.Expr


Subject: TypeAlias = k.Expr | Pair


@dataclass(frozen=True, slots=True)
class Given:
    value: Plain


@dataclass(frozen=True, slots=True)
class Numbered:
    number: int


@dataclass(frozen=True, slots=True)
class Otherwise:
    """`x else d`."""

    term: Term
    fallback: Term


Term: TypeAlias = Given | Numbered | Otherwise


@dataclass(frozen=True, slots=True)
class Fixed:
    truth: Truth


@dataclass(frozen=True, slots=True)
class Leaf:
    """A question about one term: `is` (a bool), `present`, `in` (one of), or a comparison with a constant."""

    term: Term
    word: str
    constants: tuple[Plain, ...] = ()


@dataclass(frozen=True, slots=True)
class Negation:
    of: Formula


@dataclass(frozen=True, slots=True)
class All:
    items: tuple[Formula, ...]


@dataclass(frozen=True, slots=True)
class Some:
    items: tuple[Formula, ...]


Formula: TypeAlias = Fixed | Leaf | Negation | All | Some
World: TypeAlias = Sequence[Plain]


class Space:
    """The facts that conditions talk about: numbered, each with the constants it meets and whether absence matters."""

    def __init__(self) -> None:
        self.numbers: dict[Subject, int] = {}
        self.subjects: list[Subject] = []
        self.constants: list[set[Plain]] = []
        self.absence: set[int] = set()
        self.states: dict[int, tuple[Plain, ...]] = {}

    def number(self, subject: Subject) -> int:
        if subject not in self.numbers:
            self.numbers[subject] = len(self.subjects)
            self.subjects.append(subject)
            self.constants.append(set())
        return self.numbers[subject]


# ── Reading a condition ───────────────────────────────────────────────────────────────────────


def read(expr: k.Expr, space: Space) -> Formula:
    match expr:
        case k.Constant(value=bool() as value):
            return Fixed(value)
        case k.Named():
            return read(expr.expression, space)
        case k.Not():
            return Negation(read(expr.operand, space))
        case k.And():
            return All(tuple(read(item, space) for item in expr.items))
        case k.Or():
            return Some(tuple(read(item, space) for item in expr.items))
        case k.Compare():
            return read_comparison(expr, space)
        case k.Contains(collection=k.Constant(value=tuple()) as choices) if not expr.deep or not is_reference(
            expr.item
        ):
            return read_membership(expr, choices, space)
        case k.Present():
            number = space.number(expr.operand)
            space.absence.add(number)
            return Leaf(Numbered(number), "present")
        case _:
            return Leaf(read_term(expr, space), "is")


def read_term(expr: k.Expr, space: Space) -> Term:
    match expr:
        case k.Named():
            return read_term(expr.expression, space)
        case k.Constant() if (value := plain(expr.value, expr.type)) is not None:
            return Given(value)
        case k.Negative(operand=k.Constant() as operand) if isinstance(
            value := plain(operand.value, operand.type), Fraction
        ):
            return Given(-value)
        case k.Default():
            term = read_term(expr.operand, space)
            space.absence.update(numbers_in(term))
            return Otherwise(term, read_term(expr.fallback, space))
        case _:
            return Numbered(space.number(expr))


def read_comparison(expr: k.Compare, space: Space) -> Formula:
    left, right = without_name(expr.left), without_name(expr.right)
    for side, other in ((left, right), (right, left)):
        if isinstance(side, k.Constant) and isinstance(side.value, bool):
            return same_or_not(read(other, space), side.value == (expr.operator == "=="))
    scratch = Space()  # a side that turns out to be half of a pair has no place among the facts
    a, b = read_term(left, scratch), read_term(right, scratch)
    operator: str = expr.operator
    if isinstance(a, Given):
        a, b, left, right, operator = b, a, right, left, MIRRORED[operator]
    if isinstance(b, Given) and fits(b.value, left.type, operator):
        return leaf(read_term(left, space), operator, (b.value,), space)
    return read_pair(operator, left, right, space)


def read_pair(operator: str, left: k.Expr, right: k.Expr, space: Space) -> Leaf:
    """One order of the two sides stands for both, so that `a < b` and `b > a` are one question."""
    if repr(left) > repr(right):
        left, right, operator = right, left, MIRRORED[operator]
    return Leaf(Numbered(space.number(Pair(left, right))), operator, (Fraction(0),))


def read_membership(expr: k.Contains, choices: k.Constant, space: Space) -> Formula:
    assert isinstance(choices.value, tuple)
    element = choices.type.element if isinstance(choices.type, typesystem.Set | typesystem.List) else choices.type
    values = tuple(plain(value, element) for value in choices.value)
    known = tuple(value for value in values if value is not None)
    if len(known) == len(values) and all(fits(value, expr.item.type, "==") for value in known):
        return leaf(read_term(expr.item, space), "in", known, space)
    return Leaf(Numbered(space.number(expr)), "is")


def leaf(term: Term, word: str, constants: tuple[Plain, ...], space: Space) -> Leaf:
    for number in numbers_in(term):
        space.constants[number].update(constants)
    return Leaf(term, word, constants)


def same_or_not(formula: Formula, same: bool) -> Formula:
    return formula if same else Negation(formula)


MIRRORED: dict[str, str] = {"==": "==", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}


def without_name(expr: k.Expr) -> k.Expr:
    while isinstance(expr, k.Named):
        expr = expr.expression
    return expr


def is_reference(expr: k.Expr) -> bool:
    return isinstance(expr.type, typesystem.Ref)


def numbers_in(term: Term) -> Iterator[int]:
    match term:
        case Given():
            return
        case Numbered(number):
            yield number
        case Otherwise(first, fallback):
            yield from numbers_in(first)
            yield from numbers_in(fallback)
        case _:
            assert_never(term)
