"""Which of true, false and unknown a condition can be, over all values of all facts: what logic.py stands on.

The facts that a condition compares with constants fall into cells: below, at, between and above its constants, absent,
broken. Within a cell nothing the condition asks can change, so one value of each stands for all. Every combination of
cells (a world) is tried; facts that share no part of the condition are tried apart. What is not understood may be
anything, and what would take too many worlds is taken apart: an answer may hold too much, never too little.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from fractions import Fraction
from functools import reduce
from itertools import product
from math import prod
from typing import Final, TypeVar, assert_never

from policyengine import kernel as k
from policyengine.solver.symbolic import (  # fmt: skip
    All,
    Fixed,
    Formula,
    Given,
    Leaf,
    Negation,
    Numbered,
    Otherwise,
    Pair,
    Some,
    Space,
    Subject,
    Term,
    Truth,
    World,
    numbers_in,
    read,
)
from policyengine.solver.value_partition import Plain, State, states_of_type, whole_numbers

Item = TypeVar("Item")

UNKNOWN: Final = None
ANYTHING: Final[frozenset[Truth]] = frozenset({True, False, UNKNOWN})
ACTS_ON_TRUE: Final[frozenset[Truth]] = frozenset({True})  # doors
ACTS_UNLESS_FALSE: Final[frozenset[Truth]] = frozenset({True, UNKNOWN})  # guards
MOST_WORK = 20_000  # worlds × leaves of one question; beyond it nothing is claimed
MOST_APART = 20  # parts about common facts, tried one by one
MOST_PREMISES = 100  # compared with one conclusion

# "None of these is ever unknown": the engine itself provides them.
NEVER_UNKNOWN = frozenset({("time",), ("approval", "granted")})

# Everything listed here is decided; the tests run each example, and the documentation prints this table.
DECIDED: tuple[tuple[str, str], ...] = (
    ("no number fits", "body.amount > 10 and body.amount < 5"),
    ("no whole number fits", "body.count > 1 and body.count < 2"),
    ("every number fits", "body.amount >= 1 or body.amount < 1"),
    ("no duration fits", "credential.lifetime > 1h and credential.lifetime < 5m"),
    ("no time fits", "time > 2030-01-01 and time < 2029-01-01"),
    ("no text fits", 'body.note == "a" and body.note == "b"'),
    ("every text fits", 'body.note != "a" or body.note != "b"'),
    ("no value of an enum fits", "body.plan > team and body.plan < enterprise"),
    ("every value of an enum is named", "body.plan == free or body.plan == team or body.plan == enterprise"),
    ("lists without a common value", 'body.note in ["a", "b"] and body.note in ["c"]'),
    ("a value outside a list that holds it", 'body.note == "a" and body.note not in ["a", "b"]'),
    ("a condition and its opposite", "body.urgent and not body.urgent"),
    ("either a condition or its opposite", "body.urgent or not body.urgent"),
    ("two facts equal and not", "body.note == context.note and body.note != context.note"),
    ("two facts in an impossible order", "body.amount < body.count and body.count <= body.amount"),
    ("a fact compared with itself", "body.amount < body.amount"),
    ("present and absent", "body.note is present and body.note is absent"),
    ("a value where there is none", 'body.note is absent and body.note == "a"'),
    ("a default that decides", "body.note is absent and (body.note else \"a\") == \"b\""),
    ("a size below zero", "size(body.note) < 0"),
    ("constants alone", "1 > 2"),
)  # fmt: skip


def possible(condition: k.Expr) -> frozenset[Truth]:
    """Every value the condition can have is in here; what is in here may yet be impossible."""
    space = Space()
    return _possible(read(condition, space), space)


def subjects_of(condition: k.Expr) -> frozenset[Subject]:
    """The facts that decide the condition: conditions without a common one are independent."""
    space = Space()
    return frozenset(space.subjects[number] for number in mentioned(read(condition, space)))


def implies(premise: k.Expr, conclusion: k.Expr, acting: frozenset[Truth]) -> bool:
    """Whether the conclusion acts whenever the premise does. False means only that it was not shown."""
    space = Space()
    left, right = read(premise, space), read(conclusion, space)
    return all(_all_imply(disjuncts(left), part, acting, space) for part in conjuncts(right))


# ── The states of facts ───────────────────────────────────────────────────────────────────────


def states_of(number: int, space: Space) -> tuple[Plain, ...]:
    """Found once: a quantifier's take a question of their own, and quantifiers nest."""
    if number not in space.states:
        subject = space.subjects[number]
        known = known_states(subject, space.constants[number])
        space.states[number] = (*known, *without_value(subject, number in space.absence))
    return space.states[number]


def without_value(subject: Subject, absence: bool) -> tuple[Plain, ...]:
    """Absence differs from other unknowns only where a condition asks for it."""
    if isinstance(subject, k.Fact) and subject.path in NEVER_UNKNOWN:
        return ()
    return (State.BROKEN, State.ABSENT) if absence else (State.BROKEN,)


def known_states(subject: Subject, constants: set[Plain]) -> tuple[Plain, ...]:
    """One value of every cell."""
    match subject:
        case Pair(left, right):
            return (Fraction(0),) if left == right else (Fraction(-1), Fraction(0), Fraction(1))
        case k.Quantifier():
            return quantified_states(subject)
        case k.Apply(function="size") | k.Aggregate(function="count" | "distinct"):
            return tuple(sorted({Fraction(0)} | {n for n in whole_numbers(constants) if n >= 0}))
        case _:
            return states_of_type(subject.type, constants)


def quantified_states(quantifier: k.Quantifier) -> tuple[Plain, ...]:
    """Over nothing `any` is false and `all` is true; the other answer needs an element that gives it."""
    inner = possible(quantifier.condition)
    empty = quantifier.word == "all"
    return (empty, not empty) if (not empty) in inner else (empty,)


# ── Trying the worlds ─────────────────────────────────────────────────────────────────────────


def truth(formula: Formula, world: World) -> Truth:
    match formula:
        case Fixed(value):
            return value
        case Negation(inner):
            return negated(truth(inner, world))
        case All(items):
            return conjunction(truth(item, world) for item in items)
        case Some(items):
            return negated(conjunction(negated(truth(item, world)) for item in items))
        case Leaf(term, word, constants):
            return answer(value_of(term, world), word, constants)
        case _:
            assert_never(formula)


def negated(value: Truth) -> Truth:
    return UNKNOWN if value is UNKNOWN else not value


def conjunction(values: Iterable[Truth]) -> Truth:
    result: Truth = True
    for value in values:
        if value is False:
            return False
        result = UNKNOWN if value is UNKNOWN else result
    return result


def value_of(term: Term, world: World) -> Plain:
    match term:
        case Given(value):
            return value
        case Numbered(number):
            return world[number]
        case Otherwise(first, fallback):
            value = value_of(first, world)
            return value_of(fallback, world) if value is State.ABSENT else value
        case _:
            assert_never(term)


def answer(value: Plain, word: str, constants: tuple[Plain, ...]) -> Truth:
    if word == "present":
        return UNKNOWN if value is State.BROKEN else value is not State.ABSENT
    if value is State.BROKEN or value is State.ABSENT:
        return UNKNOWN
    match word:
        case "is":
            return value is True
        case "in" | "==":
            return value in constants
        case "!=":
            return value not in constants
        case _:
            return ordered(word, value, constants[0])


def ordered(operator: str, left: Plain, right: Plain) -> bool:
    match left, right:
        case (Fraction(), Fraction()) | (str(), str()):
            below, equal = left < right, left == right  # type: ignore[operator]  # both are of one kind
        case _:
            raise AssertionError("read() lets only numbers and texts be ordered")
    return {"<": below, "<=": below or equal, ">": not below and not equal, ">=": not below}[operator]


def outcomes(formulas: tuple[Formula, ...], space: Space) -> frozenset[tuple[Truth, ...]] | None:
    """What the formulas can be together; None when it would take too long to find out."""
    concerned = sorted({number for formula in formulas for number in mentioned(formula)})
    choices = [states_of(number, space) for number in concerned]
    if prod(len(c) for c in choices) * sum(leaves(f) for f in formulas) > MOST_WORK:
        return None
    world: list[Plain] = [State.BROKEN] * len(space.subjects)
    found = set()
    for combination in product(*choices):
        for number, state in zip(concerned, combination, strict=True):
            world[number] = state
        found.add(tuple(truth(formula, world) for formula in formulas))
        if len(found) == 3 ** len(formulas):
            break
    return frozenset(found)


def _possible(formula: Formula, space: Space) -> frozenset[Truth]:
    match formula:
        case Fixed(value):
            return frozenset({value})
        case Negation(inner):
            return opposites(_possible(inner, space))
        case All(items):
            return all_of(items, space)
        case Some(items):
            return opposites(all_of(tuple(Negation(item) for item in items), space))
        case Leaf():
            found = outcomes((formula,), space)
            return ANYTHING if found is None else frozenset(value for (value,) in found)
        case _:
            assert_never(formula)


def opposites(values: frozenset[Truth]) -> frozenset[Truth]:
    return frozenset(negated(value) for value in values)


def all_of(items: tuple[Formula, ...], space: Space) -> frozenset[Truth]:
    """Groups that share no fact are independent, so their possibilities combine freely."""
    result: frozenset[Truth] = frozenset({True})
    for group in groups(items, mentioned):
        result = both(result, all_of_group(group, space))
    return result


def all_of_group(group: tuple[Formula, ...], space: Space) -> frozenset[Truth]:
    """Tried together; if that takes too long each apart, which may only find more; or not at all."""
    if len(group) == 1:
        return _possible(group[0], space)
    together = outcomes((All(group),), space)
    if together is not None:
        return frozenset(value for (value,) in together)
    if len(group) > MOST_APART:
        return ANYTHING
    return reduce(both, (_possible(item, space) for item in group))


def both(left: frozenset[Truth], right: frozenset[Truth]) -> frozenset[Truth]:
    return frozenset(conjunction(pair) for pair in product(left, right))


def groups(items: Iterable[Item], about: Callable[[Item], Iterable[Hashable]]) -> list[tuple[Item, ...]]:
    """The items that share facts with each other, directly or through others."""
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


def mentioned(formula: Formula) -> Iterator[int]:
    for part in flat(formula):
        yield from numbers_in(part.term)


def leaves(formula: Formula) -> int:
    return 1 + sum(1 for _ in flat(formula))


def flat(formula: Formula) -> Iterator[Leaf]:
    """The leaves of a formula."""
    pending = [formula]
    while pending:
        match pending.pop():
            case Leaf() as found:
                yield found
            case Negation(inner):
                pending.append(inner)
            case All(items) | Some(items):
                pending.extend(items)
            case Fixed():
                pass


# ── Implication ───────────────────────────────────────────────────────────────────────────────


def _all_imply(premises: Sequence[Formula], conclusion: Formula, acting: frozenset[Truth], space: Space) -> bool:
    return all(_implies(conjuncts(premise), conclusion, acting, space) for premise in premises)


def _implies(premises: Sequence[Formula], conclusion: Formula, acting: frozenset[Truth], space: Space) -> bool:
    """When all premises together act, those do that speak of the conclusion's facts; only these are tried."""
    if conclusion in premises:
        return True
    if len(premises) > MOST_PREMISES:
        return False
    about = set(mentioned(conclusion))
    relevant = All(tuple(premise for premise in premises if about & set(mentioned(premise))))
    together = outcomes((relevant, conclusion), space)
    return together is not None and not any(a in acting and b not in acting for a, b in together)


def conjuncts(formula: Formula) -> list[Formula]:
    match formula:
        case All(items):
            return [part for item in items for part in conjuncts(item)]
        case Negation(Negation(inner)):
            return conjuncts(inner)
        case Negation(Some(items)):
            return [part for item in items for part in conjuncts(Negation(item))]
        case _:
            return [formula]


def disjuncts(formula: Formula) -> list[Formula]:
    match formula:
        case Some(items):
            return [part for item in items for part in disjuncts(item)]
        case Negation(Negation(inner)):
            return disjuncts(inner)
        case Negation(All(items)):
            return [part for item in items for part in disjuncts(Negation(item))]
        case _:
            return [formula]
