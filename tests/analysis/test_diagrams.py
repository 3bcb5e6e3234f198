"""Diagrams are canonical: equal functions are one object, and what differs is found."""

from __future__ import annotations

from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from policyengine.analysis.diff.decision_diagrams import Diagram, DiagramBuilder

FACTS = 3
STATES = 3
literals = st.tuples(st.just("is"), st.integers(0, FACTS - 1), st.integers(0, STATES - 1))
formulas = st.recursive(
    literals,
    lambda inner: st.tuples(st.sampled_from(["and", "or"]), inner, inner) | st.tuples(st.just("not"), inner),
    max_leaves=8,
)


def built(made: DiagramBuilder, formula: tuple) -> Diagram:
    match formula:
        case ("is", fact, state):
            return made.ask(fact, (made.yes if place == state else made.no for place in range(STATES)))
        case ("not", inner):
            return made.choose(built(made, inner), made.no, made.yes)
        case ("and", one, other):
            return made.every([built(made, one), built(made, other)])
        case (_, one, other):
            return made.some([built(made, one), built(made, other)])


def value(formula: tuple, world: tuple[int, ...]) -> bool:
    match formula:
        case ("is", fact, state):
            return world[fact] == state
        case ("not", inner):
            return not value(inner, world)
        case ("and", one, other):
            return value(one, world) and value(other, world)
        case (_, one, other):
            return value(one, world) or value(other, world)


@given(formulas, formulas)
def test_two_diagrams_are_identical_exactly_when_their_functions_are_equal(one: tuple, other: tuple) -> None:
    made = DiagramBuilder(lambda fact: tuple(range(STATES)))
    worlds = list(product(range(STATES), repeat=FACTS))
    same = all(value(one, world) == value(other, world) for world in worlds)
    assert (built(made, one) is built(made, other)) is same


@given(formulas, formulas)
def test_every_path_of_a_difference_has_the_reported_values(one: tuple, other: tuple) -> None:
    made = DiagramBuilder(lambda fact: tuple(range(STATES)))
    old, new = built(made, one), built(made, other)
    for ends in made.differences(old, new):
        for path in made.paths(old, new, ends):
            world = tuple(path.get(fact, 0) for fact in range(FACTS))
            assert (value(one, world), value(other, world)) == ends
            assert (made.value(old, path), made.value(new, path)) == ends
