"""What a condition can be is never claimed too narrowly: held against trying all values, with an evaluator apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from itertools import product
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyengine import kernel as k
from policyengine.lint import dead_rules
from policyengine.lint.dead_rules import UNKNOWN, implies, possible_truths
from policyengine.runtime import values
from policyengine.solver import satisfiability
from policyengine.solver.cache import SatisfiabilityCache
from policyengine.source import Source, Span
from policyengine.spec.evaluate import evaluate
from policyengine.spec.facts import Facts
from policyengine.typesystem import EnumType, Scalar, SetType, Type
from tests.depth import examples, scaled

HERE = Span(Source("t", ""), 0, 0)
ABSENT, BROKEN = "<absent>", "<broken>"
PLAN = EnumType("plan", ("free", "team", "enterprise"))

AMOUNT = k.Fact(("body", "amount"), Scalar.NUMBER, span=HERE)
COUNT = k.Fact(("body", "count"), Scalar.INT, span=HERE)
OTHER = k.Fact(("context", "count"), Scalar.INT, span=HERE)
NOTE = k.Fact(("body", "note"), Scalar.STRING, optional=True, span=HERE)
PATTERN = k.Constant("a*", Scalar.STRING, span=HERE)
TIER = k.Fact(("body", "plan"), PLAN, span=HERE)
URGENT = k.Fact(("body", "urgent"), Scalar.BOOL, optional=True, span=HERE)
GRANTED = k.Fact(("approval", "granted"), Scalar.BOOL, span=HERE)


@dataclass(frozen=True)
class Field:
    """A fact, constants to compare it with, and values that tell all of these apart."""

    fact: k.Fact
    constants: tuple[Any, ...]
    values: tuple[Any, ...]


FIELDS = (
    Field(AMOUNT, (1, Decimal("1.5"), 2), tuple(Decimal(v) for v in ("0", "1", "1.2", "1.5", "1.7", "2", "3"))),
    Field(COUNT, (1, 2, 4), (0, 1, 2, 3, 4, 5)),
    Field(OTHER, (1, 2), (0, 1, 2, 3)),
    Field(NOTE, ("a", "b"), ("", "a", "a\0", "aa", "b", "c")),
    Field(TIER, PLAN.values, PLAN.values),
    Field(URGENT, (True, False), (True, False)),
    Field(GRANTED, (True, False), (True, False)),
)


def constant(value: Any, type: Type) -> k.Constant:
    return k.Constant(value, type, span=HERE)


# ── An evaluator that knows nothing of the one under test ─────────────────────────────────────


def look(expr: k.Expr, world: Mapping[k.Expr, Any]) -> Any:
    match expr:
        case k.Constant(value):
            return value
        case k.Default(operand, fallback):
            found = look(operand, world)
            return look(fallback, world) if found == ABSENT else found
        case _:
            return world[expr]


ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}


def rank(value: Any) -> Any:
    return PLAN.values.index(value) if value in PLAN.values else value


def kleene(expr: k.Expr, world: Mapping[k.Expr, Any]) -> bool | None:
    match expr:
        case k.Not(operand):
            inner = kleene(operand, world)
            return None if inner is None else not inner
        case k.And(items):
            found = {kleene(item, world) for item in items}
            return False if False in found else None if None in found else True
        case k.Or(items):
            found = {kleene(item, world) for item in items}
            return True if True in found else None if None in found else False
        case k.DefinitionRef(expression=inner):
            return kleene(inner, world)
        case k.IsPresent(operand):
            found = look(operand, world)
            return None if found == BROKEN else found != ABSENT
        case k.Relation("==" | "!=" | "<" | "<=" | ">" | ">=" as operator, left, right):
            a, b = look(left, world), look(right, world)
            return None if {a, b} & {ABSENT, BROKEN} else ORDER[operator](rank(a), rank(b))
        case k.Relation("has" | "holds", collection, item):
            a = look(item, world)
            return None if a in (ABSENT, BROKEN) else a in look(collection, world)
        case _:
            found = look(expr, world)
            return None if found in (ABSENT, BROKEN) else found


def worlds(fields: tuple[Field, ...]) -> Iterator[dict[k.Expr, Any]]:
    states = [f.values if f.fact == GRANTED else (*f.values, ABSENT, BROKEN) for f in fields]
    for chosen in product(*states):
        yield dict(zip((f.fact for f in fields), chosen, strict=True))


# ── Conditions at random ──────────────────────────────────────────────────────────────────────


def questions(field: Field) -> st.SearchStrategy[k.Expr]:
    fact, constants = field.fact, st.sampled_from(field.constants)
    term: st.SearchStrategy[k.Expr] = st.one_of(
        st.just(fact), constants.map(lambda c: k.Default(fact, constant(c, fact.type), fact.type, span=HERE))
    )
    same = st.sampled_from(("==", "!="))
    operators = same if fact.type == Scalar.BOOL else st.sampled_from(tuple(ORDER))
    compare = st.builds(
        lambda o, a, c, swap: k.Relation(o, c, a, span=HERE) if swap else k.Relation(o, a, c, span=HERE),
        operators, term, constants.map(lambda c: constant(c, fact.type)), st.booleans(),
    )  # fmt: skip
    listed = st.lists(constants, max_size=2).map(lambda cs: constant(tuple(cs), SetType(fact.type)))
    member = st.builds(lambda a, cs: k.Relation("has", cs, a, span=HERE), term, listed)
    plain = [st.just(fact)] if fact.type == Scalar.BOOL else []
    return st.one_of(compare, member, st.just(k.IsPresent(fact, span=HERE)), *plain)


def pairs(fields: tuple[Field, ...]) -> list[st.SearchStrategy[k.Expr]]:
    whole = [f.fact for f in fields if f.fact.type == Scalar.INT]
    sides = st.sampled_from(whole) if whole else st.nothing()
    return [st.builds(lambda o, a, b: k.Relation(o, a, b, span=HERE), st.sampled_from(tuple(ORDER)), sides, sides)]


@st.composite
def conditions(draw: st.DrawFn, count: int = 1) -> tuple[tuple[Field, ...], list[k.Expr]]:
    fields = tuple(draw(st.lists(st.sampled_from(FIELDS), min_size=1, max_size=3, unique=True)))
    leaf = st.one_of(*(questions(f) for f in fields), *pairs(fields))
    several = lambda inner: st.lists(inner, min_size=2, max_size=3).map(tuple)  # noqa: E731
    tree = st.recursive(
        leaf,
        lambda inner: st.one_of(
            inner.map(lambda e: k.Not(e, span=HERE)),
            inner.map(lambda e: k.DefinitionRef("named", e, Scalar.BOOL, span=HERE)),
            several(inner).map(lambda es: k.And(es, span=HERE)),
            several(inner).map(lambda es: k.Or(es, span=HERE)),
        ),
        max_leaves=6,
    )
    return fields, [draw(tree) for _ in range(count)]


def test_a_negated_constant_is_compared_by_its_value() -> None:
    def minus(number: int) -> k.UnaryMinus:
        return k.UnaryMinus(constant(number, Scalar.INT), Scalar.INT, span=HERE)

    above, below = k.Relation(">", COUNT, minus(1), span=HERE), k.Relation("<", COUNT, minus(2), span=HERE)
    assert True not in possible_truths(k.And((above, below), span=HERE))
    above, below = k.Relation(">", COUNT, minus(2), span=HERE), k.Relation("<", COUNT, minus(0), span=HERE)
    assert True in possible_truths(k.And((above, below), span=HERE))


@scaled
@settings(max_examples=examples(10, 140))
@given(conditions())
def test_possible_truths_include_every_value_that_occurs(case: tuple[tuple[Field, ...], list[k.Expr]]) -> None:
    fields, (condition,) = case
    assert {kleene(condition, world) for world in worlds(fields)} <= possible_truths(condition)


@scaled
@settings(max_examples=examples(10, 140))
@given(conditions(count=3))
def test_the_satisfiability_cache_agrees_with_uncached_results(case: tuple[tuple[Field, ...], list[k.Expr]]) -> None:
    _, written = case
    answers = SatisfiabilityCache()
    every = [
        *written,
        k.And(tuple(written), span=HERE),
        *(part for one in written for part in dead_rules.logic_parts(one)),
    ]
    assert [answers.possible(one) for one in every] == [possible_truths(one) for one in every]


@scaled
@settings(max_examples=examples(12, 160))
@given(conditions())
def test_possible_truths_include_every_value_also_at_the_evaluation_limit(
    case: tuple[tuple[Field, ...], list[k.Expr]],
) -> None:
    fields, (condition,) = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(satisfiability, "MAX_EVALUATIONS", 12)
        found = possible_truths(condition)
    assert {kleene(condition, world) for world in worlds(fields)} <= found


@scaled
@settings(max_examples=examples(12, 160))
@given(conditions())
def test_possible_truths_are_exact_unless_two_facts_are_compared(
    case: tuple[tuple[Field, ...], list[k.Expr]],
) -> None:
    fields, (condition,) = case
    if not any(
        isinstance(p, k.Relation) and isinstance(p.left, k.Fact) and isinstance(p.right, k.Fact)
        for p in k.walk(condition)
    ):
        assert possible_truths(condition) == {kleene(condition, world) for world in worlds(fields)}


@scaled
@settings(max_examples=examples(10, 140))
@given(conditions(count=2), st.sampled_from([frozenset({True}), frozenset({True, UNKNOWN})]))
def test_a_proved_implication_holds_in_every_world(
    case: tuple[tuple[Field, ...], list[k.Expr]], acting: frozenset[bool | None]
) -> None:
    fields, (premise, conclusion) = case
    if implies(premise, conclusion, acting):
        for world in worlds(fields):
            assert kleene(premise, world) not in acting or kleene(conclusion, world) in acting


def facts_in(world: Mapping[k.Expr, Any]) -> Facts:
    """The world as the specification sees it; nothing but the facts bound here is asked for."""
    missing = {ABSENT: values.ABSENT, BROKEN: values.Invalid("broken")}
    bound = {fact.path: missing.get(v, v) for fact, v in world.items() if isinstance(fact, k.Fact)}
    nothing: Any = None
    return Facts(nothing, nothing, nothing, datetime(2026, 1, 1, tzinfo=UTC), bound, {})


@scaled
@settings(max_examples=examples(12, 160))
@given(conditions(), st.randoms(use_true_random=False))
def test_the_specification_returns_only_possible_truths(
    case: tuple[tuple[Field, ...], list[k.Expr]], random: Random
) -> None:
    fields, (condition,) = case
    everywhere = list(worlds(fields))
    for world in random.sample(everywhere, min(20, len(everywhere))):
        answer = evaluate(condition, facts_in(world))
        assert (UNKNOWN if isinstance(answer, values.Unknown) else answer) in possible_truths(condition)


# ── Cases ─────────────────────────────────────────────────────────────────────────────────────


def compare(fact: k.Expr, operator: Any, value: Any) -> k.Relation:
    return k.Relation(operator, fact, constant(value, fact.type), span=HERE)


def both(*items: k.Expr) -> k.And:
    return k.And(items, span=HERE)


def either(*items: k.Expr) -> k.Or:
    return k.Or(items, span=HERE)


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        pytest.param(compare(AMOUNT, ">", 1), {True, False, UNKNOWN}, id="an ordinary question"),
        pytest.param(both(compare(AMOUNT, ">", 2), compare(AMOUNT, "<", 1)), {False, UNKNOWN}, id="contradiction"),
        pytest.param(both(compare(AMOUNT, ">", 1), compare(AMOUNT, "<", 2)), {True, False, UNKNOWN}, id="between"),
        pytest.param(both(compare(COUNT, ">", 1), compare(COUNT, "<", 2)), {False, UNKNOWN}, id="no int between"),
        pytest.param(either(compare(AMOUNT, ">=", 1), compare(AMOUNT, "<", 1)), {True, UNKNOWN}, id="never false"),
        pytest.param(either(compare(TIER, "<", "team"), compare(TIER, ">=", "team")), {True, UNKNOWN}, id="ranks"),
        pytest.param(compare(TIER, ">", "enterprise"), {False, UNKNOWN}, id="above the highest"),
        pytest.param(either(GRANTED, k.Not(GRANTED, span=HERE)), {True}, id="a fact that is never unknown"),
        pytest.param(both(URGENT, k.Not(URGENT, span=HERE)), {False, UNKNOWN}, id="a condition and its opposite"),
        pytest.param(k.Relation("==", NOTE, NOTE, span=HERE), {True, UNKNOWN}, id="a fact and itself"),
        pytest.param(
            both(k.Relation("<", COUNT, OTHER, span=HERE), k.Relation("<=", OTHER, COUNT, span=HERE)),
            {False, UNKNOWN},
            id="an order both ways",
        ),
        pytest.param(
            both(k.IsPresent(NOTE, span=HERE), k.Not(k.IsPresent(NOTE, span=HERE), span=HERE)),
            {False, UNKNOWN},
            id="present and absent",
        ),
        pytest.param(
            both(k.Not(k.IsPresent(NOTE, span=HERE), span=HERE), compare(NOTE, "==", "a")),
            {False, UNKNOWN},
            id="absent with a value",
        ),
        pytest.param(constant(True, Scalar.BOOL), {True}, id="true"),
        pytest.param(k.Relation("<", constant(2, Scalar.INT), constant(1, Scalar.INT), span=HERE), {False}, id="2 < 1"),
        pytest.param(
            k.Relation("<", k.Call("size", (NOTE,), Scalar.INT, span=HERE), constant(0, Scalar.INT), span=HERE),
            {False, UNKNOWN},
            id="a size below zero",
        ),
        pytest.param(
            k.Quantifier("any", "x", NOTE, compare(AMOUNT, "==", 1), span=HERE), {True, False, UNKNOWN}, id="any"
        ),
        pytest.param(
            k.Quantifier("all", "x", NOTE, constant(True, Scalar.BOOL), span=HERE), {True, UNKNOWN}, id="all of true"
        ),
        pytest.param(k.Relation("like", NOTE, PATTERN, span=HERE), {True, False, UNKNOWN}, id="what is not understood"),
    ],
)  # fmt: skip
def test_possible_truths_of_example_conditions(condition: k.Expr, expected: set[bool | None]) -> None:
    assert possible_truths(condition) == expected


def test_independent_facts_are_tried_separately() -> None:
    facts = [k.Fact(("body", f"n{i}"), Scalar.NUMBER, span=HERE) for i in range(60)]
    impossible = both(compare(facts[0], ">", 2), compare(facts[0], "<", 1))
    assert possible_truths(both(*(compare(fact, ">", 1) for fact in facts), impossible)) == {False, UNKNOWN}


def test_a_condition_beyond_the_evaluation_limit_has_all_truths() -> None:
    chain = [either(URGENT, *(compare(k.Fact(("body", f"n{i}"), Scalar.NUMBER, span=HERE), ">", 1) for i in range(40)))]
    never = both(*chain, *(k.Not(URGENT, span=HERE) for _ in range(1)), compare(AMOUNT, ">", 1))
    assert possible_truths(never) == {True, False, UNKNOWN}


def test_deeply_nested_quantifiers_are_analysed() -> None:
    condition: k.Expr = URGENT
    for depth in range(60):
        other = k.Quantifier("all", "y", NOTE, compare(AMOUNT, ">", depth), span=HERE)
        condition = both(k.Quantifier("any", f"x{depth}", NOTE, condition, span=HERE), either(other, URGENT))
    assert possible_truths(condition) == {True, False, UNKNOWN}


@pytest.mark.parametrize(
    ("premise", "conclusion", "shown"),
    [
        (compare(AMOUNT, ">", 2), compare(AMOUNT, ">", 1), True),
        (compare(AMOUNT, ">", 1), compare(AMOUNT, ">", 2), False),
        (both(compare(AMOUNT, ">", 2), URGENT), either(compare(AMOUNT, ">", 1), TIER), True),
        (URGENT, GRANTED, False),
        (k.Relation("like", NOTE, PATTERN, span=HERE), k.Relation("like", NOTE, PATTERN, span=HERE), True),
        (compare(AMOUNT, ">", 2), k.IsPresent(AMOUNT, span=HERE), True),
    ],
)
def test_implications_between_example_conditions(premise: k.Expr, conclusion: k.Expr, shown: bool) -> None:
    assert implies(premise, conclusion, frozenset({True})) is shown


def test_an_unknown_premise_that_acts_needs_a_conclusion_that_is_not_false() -> None:
    assert not implies(compare(NOTE, "==", "a"), k.IsPresent(NOTE, span=HERE), frozenset({True, UNKNOWN}))
