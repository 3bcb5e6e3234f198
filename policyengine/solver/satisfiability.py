"""Satisfiability: which of true, false and unknown a condition can be, over all values of all facts.

The constants in a condition divide the values of each fact into cells: below, at, between and above them, absent,
broken. Within a cell the condition cannot change, so one value stands for the whole cell. Every combination of cells (a
world) is evaluated; facts that no part of the condition relates are evaluated separately. An expression that the solver
does not understand may have any value, and a condition with too many worlds is split: a result may contain too much,
never too little.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from fractions import Fraction
from functools import reduce
from itertools import product
from math import prod
from typing import Final, TypeVar, assert_never

from policyengine import kernel as k
from policyengine.solver.formulas import (  # fmt: skip
    Atom,
    Conjunction,
    ConstantTerm,
    DefaultTerm,
    Disjunction,
    FactPair,
    FactSpace,
    FactTerm,
    Formula,
    Negation,
    Subject,
    Term,
    Truth,
    TruthConstant,
    World,
    numbers_in,
    to_formula,
)
from policyengine.solver.value_partition import AbstractValue, SpecialValue, values_of_type, whole_numbers
from policyengine.vocabulary import FACTS

Item = TypeVar("Item")

UNKNOWN: Final = None
ANYTHING: Final[frozenset[Truth]] = frozenset({True, False, UNKNOWN})
ACTS_ON_TRUE: Final[frozenset[Truth]] = frozenset({True})  # values with which grants act
ACTS_UNLESS_FALSE: Final[frozenset[Truth]] = frozenset({True, UNKNOWN})  # values with which guards act
MAX_EVALUATIONS = 20_000  # maximum worlds × leaves of one query; larger queries have no definite result
MAX_SEPARATE_PARTS = 20  # maximum parts with facts in common to evaluate one by one
MAX_PREMISES = 100  # maximum premises to compare with one conclusion

# Facts that the engine itself provides, so they are never unknown.
NEVER_UNKNOWN = frozenset(fact.path for fact in FACTS if fact.always_known)

# Conditions that the solver decides. Tests run each example, and the documentation prints this table.
DECIDED_EXAMPLES: tuple[tuple[str, str], ...] = (
    ("no number fits", "body.amount > 10 and body.amount < 5"),
    ("no whole number fits", "body.count > 1 and body.count < 2"),
    ("every number fits", "body.amount >= 1 or body.amount < 1"),
    ("no duration fits", "credential.lifetime > 1h and credential.lifetime < 5m"),
    ("no time fits", "time > 2030-01-01 and time < 2029-01-01"),
    ("no string fits", 'body.note == "a" and body.note == "b"'),
    ("every string fits", 'body.note != "a" or body.note != "b"'),
    ("no value of an enum fits", "body.plan > team and body.plan < enterprise"),
    ("every value of an enum is named", "body.plan == free or body.plan == team or body.plan == enterprise"),
    ("lists without a common value", 'body.note in ["a", "b"] and body.note in ["c"]'),
    ("a value that must not be in a list that contains it", 'body.note == "a" and body.note not in ["a", "b"]'),
    ("a condition and its opposite", "body.urgent and not body.urgent"),
    ("a condition or its opposite", "body.urgent or not body.urgent"),
    ("two facts that are equal and unequal", "body.note == context.note and body.note != context.note"),
    ("two facts in an impossible order", "body.amount < body.count and body.count <= body.amount"),
    ("a fact compared with itself", "body.amount < body.amount"),
    ("a fact that is present and absent", "body.note is present and body.note is absent"),
    ("an absent fact with a value", 'body.note is absent and body.note == "a"'),
    ("a default value that decides", "body.note is absent and (body.note else \"a\") == \"b\""),
    ("a size below zero", "size(body.note) < 0"),
    ("only constants", "1 > 2"),
)  # fmt: skip


def possible_truths(condition: k.Expr) -> frozenset[Truth]:
    """Return all truth values that the condition can have, possibly with some that it cannot."""
    space = FactSpace()
    return _formula_truths(to_formula(condition, space), space)


def subjects_of(condition: k.Expr) -> frozenset[Subject]:
    """Return the facts on which the condition depends. Conditions without a common fact are independent."""
    space = FactSpace()
    return frozenset(space.subjects[number] for number in mentioned_numbers(to_formula(condition, space)))


def implies(premise: k.Expr, conclusion: k.Expr, acting: frozenset[Truth]) -> bool:
    """Return whether the conclusion acts whenever the premise acts. False means only that this was not proved."""
    space = FactSpace()
    left, right = to_formula(premise, space), to_formula(conclusion, space)
    return all(_all_imply(disjuncts(left), part, acting, space) for part in conjuncts(right))


# ── The states of facts ───────────────────────────────────────────────────────────────────────


def subject_states(number: int, space: FactSpace) -> tuple[AbstractValue, ...]:
    """Return the states of a fact. The states are cached, because those of a quantifier need a separate query, and
    quantifiers nest.
    """
    if number not in space.states:
        subject = space.subjects[number]
        known = known_states(subject, space.constants[number])
        space.states[number] = (*known, *unknown_states(subject, number in space.absence))
    return space.states[number]


def unknown_states(subject: Subject, absence: bool) -> tuple[AbstractValue, ...]:
    """Return the states without a value. Absence is a separate state only if a condition tests for it."""
    if isinstance(subject, k.Fact) and subject.path in NEVER_UNKNOWN:
        return ()
    return (SpecialValue.BROKEN, SpecialValue.ABSENT) if absence else (SpecialValue.BROKEN,)


def known_states(subject: Subject, constants: set[AbstractValue]) -> tuple[AbstractValue, ...]:
    """Return one value of every cell."""
    match subject:
        case FactPair(left, right):
            return (Fraction(0),) if left == right else (Fraction(-1), Fraction(0), Fraction(1))
        case k.Quantifier():
            return quantifier_states(subject)
        case k.Call(function="size") | k.Aggregate(function="count" | "distinct"):
            return tuple(sorted({Fraction(0)} | {n for n in whole_numbers(constants) if n >= 0}))
        case _:
            return values_of_type(subject.type, constants)


def quantifier_states(quantifier: k.Quantifier) -> tuple[AbstractValue, ...]:
    """Return the possible results. Over an empty collection `any` is false and `all` is true; the other result needs an
    element that yields it."""
    inner = possible_truths(quantifier.condition)
    empty = quantifier.word == "all"
    return (empty, not empty) if (not empty) in inner else (empty,)


# ── Trying the worlds ─────────────────────────────────────────────────────────────────────────


def evaluate_formula(formula: Formula, world: World) -> Truth:
    match formula:
        case TruthConstant(value):
            return value
        case Negation(inner):
            return negate_truth(evaluate_formula(inner, world))
        case Conjunction(items):
            return conjunction(evaluate_formula(item, world) for item in items)
        case Disjunction(items):
            return negate_truth(conjunction(negate_truth(evaluate_formula(item, world)) for item in items))
        case Atom(term, word, constants):
            return evaluate_atom(evaluate_term(term, world), word, constants)
        case _:
            assert_never(formula)


def negate_truth(value: Truth) -> Truth:
    return UNKNOWN if value is UNKNOWN else not value


def conjunction(values: Iterable[Truth]) -> Truth:
    result: Truth = True
    for value in values:
        if value is False:
            return False
        result = UNKNOWN if value is UNKNOWN else result
    return result


def evaluate_term(term: Term, world: World) -> AbstractValue:
    match term:
        case ConstantTerm(value):
            return value
        case FactTerm(number):
            return world[number]
        case DefaultTerm(first, fallback):
            value = evaluate_term(first, world)
            return evaluate_term(fallback, world) if value is SpecialValue.ABSENT else value
        case _:
            assert_never(term)


def evaluate_atom(value: AbstractValue, word: str, constants: tuple[AbstractValue, ...]) -> Truth:
    if word == "present":
        return UNKNOWN if value is SpecialValue.BROKEN else value is not SpecialValue.ABSENT
    if value is SpecialValue.BROKEN or value is SpecialValue.ABSENT:
        return UNKNOWN
    match word:
        case "is":
            return value is True
        case "in" | "==":
            return value in constants
        case "!=":
            return value not in constants
        case _:
            return compare_ordered(word, value, constants[0])


def compare_ordered(operator: str, left: AbstractValue, right: AbstractValue) -> bool:
    match left, right:
        case (Fraction(), Fraction()) | (str(), str()):
            below, equal = left < right, left == right  # type: ignore[operator]  # both are of one kind
        case _:
            raise AssertionError("read() lets only numbers and texts be ordered")
    return {"<": below, "<=": below or equal, ">": not below and not equal, ">=": not below}[operator]


def joint_outcomes(formulas: tuple[Formula, ...], space: FactSpace) -> frozenset[tuple[Truth, ...]] | None:
    """Return the combinations of truth values that the formulas can have together, or None if this needs too many
    evaluations.
    """
    concerned = sorted({number for formula in formulas for number in mentioned_numbers(formula)})
    choices = [subject_states(number, space) for number in concerned]
    if prod(len(c) for c in choices) * sum(formula_size(f) for f in formulas) > MAX_EVALUATIONS:
        return None
    world: list[AbstractValue] = [SpecialValue.BROKEN] * len(space.subjects)
    found = set()
    for combination in product(*choices):
        for number, state in zip(concerned, combination, strict=True):
            world[number] = state
        found.add(tuple(evaluate_formula(formula, world) for formula in formulas))
        if len(found) == 3 ** len(formulas):
            break
    return frozenset(found)


def _formula_truths(formula: Formula, space: FactSpace) -> frozenset[Truth]:
    match formula:
        case TruthConstant(value):
            return frozenset({value})
        case Negation(inner):
            return negate_truths(_formula_truths(inner, space))
        case Conjunction(items):
            return conjunction_truths(items, space)
        case Disjunction(items):
            return negate_truths(conjunction_truths(tuple(Negation(item) for item in items), space))
        case Atom():
            found = joint_outcomes((formula,), space)
            return ANYTHING if found is None else frozenset(value for (value,) in found)
        case _:
            assert_never(formula)


def negate_truths(values: frozenset[Truth]) -> frozenset[Truth]:
    return frozenset(negate_truth(value) for value in values)


def conjunction_truths(items: tuple[Formula, ...], space: FactSpace) -> frozenset[Truth]:
    """Return the possible results of a conjunction. Groups that share no fact are independent, so their values combine
    freely.
    """
    result: frozenset[Truth] = frozenset({True})
    for group in group_by_subject(items, mentioned_numbers):
        result = combine_truths(result, group_truths(group, space))
    return result


def group_truths(group: tuple[Formula, ...], space: FactSpace) -> frozenset[Truth]:
    """Return the possible results of formulas that share facts. If evaluating them together is too expensive, evaluate
    each separately, which can only add values; if that is too expensive as well, return all values.
    """
    if len(group) == 1:
        return _formula_truths(group[0], space)
    together = joint_outcomes((Conjunction(group),), space)
    if together is not None:
        return frozenset(value for (value,) in together)
    if len(group) > MAX_SEPARATE_PARTS:
        return ANYTHING
    return reduce(combine_truths, (_formula_truths(item, space) for item in group))


def combine_truths(left: frozenset[Truth], right: frozenset[Truth]) -> frozenset[Truth]:
    return frozenset(conjunction(pair) for pair in product(left, right))


def group_by_subject(items: Iterable[Item], about: Callable[[Item], Iterable[Hashable]]) -> list[tuple[Item, ...]]:
    """Return groups of items that share facts, directly or through others."""
    owners: dict[Hashable, list[Item]] = {}
    together: dict[int, list[Item]] = {}
    for item in items:
        numbers = set(about(item))
        met = {id(owners[number]): owners[number] for number in numbers if number in owners}
        largest = max(met.values(), key=len, default=[])
        for other in met.values():
            if other is not largest:
                largest.extend(other)
                numbers.update(*(about(member) for member in other))
                del together[id(other)]
        largest.append(item)
        together[id(largest)] = largest
        owners.update(dict.fromkeys(numbers, largest))
    return [tuple(members) for members in together.values()]


def mentioned_numbers(formula: Formula) -> Iterator[int]:
    for part in atoms_in(formula):
        yield from numbers_in(part.term)


def formula_size(formula: Formula) -> int:
    return 1 + sum(1 for _ in atoms_in(formula))


def atoms_in(formula: Formula) -> Iterator[Atom]:
    """Yield the leaves of a formula."""
    pending = [formula]
    while pending:
        match pending.pop():
            case Atom() as found:
                yield found
            case Negation(inner):
                pending.append(inner)
            case Conjunction(items) | Disjunction(items):
                pending.extend(items)
            case TruthConstant():
                pass


# ── Implication ───────────────────────────────────────────────────────────────────────────────


def _all_imply(premises: Sequence[Formula], conclusion: Formula, acting: frozenset[Truth], space: FactSpace) -> bool:
    return all(_implies(conjuncts(premise), conclusion, acting, space) for premise in premises)


def _implies(premises: Sequence[Formula], conclusion: Formula, acting: frozenset[Truth], space: FactSpace) -> bool:
    """Return whether the premises imply the conclusion, considering only premises that share facts with it."""
    if conclusion in premises:
        return True
    if len(premises) > MAX_PREMISES:
        return False
    about = set(mentioned_numbers(conclusion))
    relevant = Conjunction(tuple(premise for premise in premises if about & set(mentioned_numbers(premise))))
    together = joint_outcomes((relevant, conclusion), space)
    return together is not None and not any(a in acting and b not in acting for a, b in together)


def conjuncts(formula: Formula) -> list[Formula]:
    match formula:
        case Conjunction(items):
            return [part for item in items for part in conjuncts(item)]
        case Negation(Negation(inner)):
            return conjuncts(inner)
        case Negation(Disjunction(items)):
            return [part for item in items for part in conjuncts(Negation(item))]
        case _:
            return [formula]


def disjuncts(formula: Formula) -> list[Formula]:
    match formula:
        case Disjunction(items):
            return [part for item in items for part in disjuncts(item)]
        case Negation(Negation(inner)):
            return disjuncts(inner)
        case Negation(Conjunction(items)):
            return [part for item in items for part in disjuncts(Negation(item))]
        case _:
            return [formula]
