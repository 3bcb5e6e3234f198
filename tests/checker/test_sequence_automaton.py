"""The automaton of an order of calls: equal to a simulation by partial derivatives, minimal, and bounded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyengine import kernel as k
from policyengine.checker.patterns.step_letters import order_automaton, possible_letters
from policyengine.kernel.sequence_automaton import (
    LEFT,
    MAX_STATES,
    START,
    Order,
    OrderSizeError,
    distinct_steps,
)
from policyengine.runtime.endpoints import ActionEndpoint, Endpoint, HttpEndpoint, ToolEndpoint
from policyengine.source import Source, Span
from policyengine.spec.match_endpoint import match_pattern

NOWHERE = Span(Source("", ""), 0, 0)
ANYTHING = k.Segment("", wild=True)


def path(*segments: k.Segment | str, methods: tuple[str, ...] | None = ("GET",), rest: bool = False) -> k.HttpPattern:
    parts = tuple(k.Segment(one) if isinstance(one, str) else one for one in segments)
    return k.HttpPattern(methods, parts, rest, span=NOWHERE)


PATTERNS: tuple[tuple[k.Pattern, ...], ...] = (
    (path("a"),),
    (path("a", rest=True),),
    (path("a", ANYTHING),),
    (path("a", "b", methods=("GET", "POST")),),
    (path(rest=True, methods=None),),
    (path("b"), k.ToolPattern("mail/*", span=NOWHERE)),
    (k.ToolPattern("*", span=NOWHERE),),
    (k.ActionPattern("view", "doc", span=NOWHERE),),
)
ENDPOINTS: tuple[Endpoint, ...] = (
    *(
        HttpEndpoint(method, "/" + "/".join(parts), parts)
        for method in ("GET", "POST")
        for parts in (("a",), ("a", "b"), ("a", "c"), ("b",), ("c",))
    ),
    ToolEndpoint("mail", "send"),
    ToolEndpoint(None, "run"),
    ActionEndpoint("view", "doc"),
    ActionEndpoint("edit", "doc"),
)
Residuals = frozenset[Order]


def step(number: int, *, optional: bool = False, repeated: bool = False) -> k.CallStep:
    return k.CallStep(PATTERNS[number], optional, repeated, span=NOWHERE)


def group(*alternatives: Order, optional: bool = False, repeated: bool = False) -> k.StepGroup:
    return k.StepGroup(alternatives, optional, repeated, span=NOWHERE)


FLAGS = st.booleans()
STEPS = st.builds(
    lambda number, optional, repeated: step(number, optional=optional, repeated=repeated),
    st.integers(0, len(PATTERNS) - 1), FLAGS, FLAGS,
)  # fmt: skip


def groups_of(inner: st.SearchStrategy[k.CallStep | k.StepGroup]) -> st.SearchStrategy[k.StepGroup]:
    alternatives = st.lists(st.lists(inner, min_size=1, max_size=2).map(tuple), min_size=1, max_size=2).map(tuple)
    return st.builds(
        lambda parts, optional, repeated: k.StepGroup(parts, optional, repeated, span=NOWHERE),
        alternatives, FLAGS, FLAGS,
    )  # fmt: skip


ITEMS: st.SearchStrategy[k.CallStep | k.StepGroup] = st.recursive(STEPS, groups_of, max_leaves=6)
ORDERS = st.lists(ITEMS, min_size=1, max_size=4).map(tuple)


# ── The simulation: what remains of an order after a call ─────────────────────────────────────


def may_be_empty(order: Order) -> bool:
    return all(
        item.optional or (isinstance(item, k.StepGroup) and any(map(may_be_empty, item.alternatives))) for item in order
    )


def residuals(order: Order, endpoint: Endpoint) -> Iterator[Order]:
    """Yield what may remain of an order after a call."""
    if not order:
        return
    item, rest = order[0], order[1:]
    onward: Order = rest
    if item.repeated:
        again = (
            k.CallStep(item.patterns, True, True, span=NOWHERE)
            if isinstance(item, k.CallStep)
            else k.StepGroup(item.alternatives, True, True, span=NOWHERE)
        )
        onward = (again, *rest)
    if isinstance(item, k.CallStep):
        if any(match_pattern(pattern, endpoint) is not None for pattern in item.patterns):
            yield onward
    else:
        for alternative in item.alternatives:
            yield from ((*found, *onward) for found in residuals(alternative, endpoint))
    if may_be_empty((item,)):
        yield from residuals(rest, endpoint)


def after(states: Residuals, endpoint: Endpoint) -> Residuals:
    return frozenset(found for order in states for found in residuals(order, endpoint))


def letter(order: Order, endpoint: Endpoint) -> int:
    return sum(
        1 << number
        for number, one in enumerate(distinct_steps(order))
        if any(match_pattern(pattern, endpoint) is not None for pattern in one.patterns)
    )


@given(ORDERS, st.lists(st.sampled_from(ENDPOINTS), max_size=12))
def test_an_automaton_follows_an_order_like_its_residuals(order: Order, calls: list[Endpoint]) -> None:
    automaton = order_automaton(order)
    state, states = START, frozenset([order])
    for endpoint in calls:
        state, states = automaton.next(state, letter(order, endpoint)), after(states, endpoint)
        assert (state != LEFT) == bool(states)
        if state == LEFT:
            break
        assert (state in automaton.ends) == any(map(may_be_empty, states))
        assert automaton.expected(state) or not any(after(states, one) for one in ENDPOINTS)


@given(ORDERS)
def test_each_letter_of_a_request_is_a_possible_letter(order: Order) -> None:
    letters = possible_letters([one.patterns for one in distinct_steps(order)])
    assert {letter(order, endpoint) for endpoint in ENDPOINTS} <= letters


@given(ORDERS)
def test_no_two_states_of_an_automaton_have_the_same_future(order: Order) -> None:
    automaton = order_automaton(order)
    numbers = range(len(automaton.rows))
    letters = {one for row in automaton.rows for one in row}
    different = {(a, b) for a, b in product(numbers, numbers) if (a in automaton.ends) != (b in automaton.ends)}
    while True:
        more = {
            (a, b)
            for a, b in product(numbers, numbers)
            for one in letters
            if (a, b) not in different and differs(automaton.next(a, one), automaton.next(b, one), different)
        }
        if not more:
            break
        different |= more
    assert different == {(a, b) for a, b in product(numbers, numbers) if a != b}


def differs(a: int, b: int, different: set[tuple[int, int]]) -> bool:
    return a != b and (LEFT in (a, b) or (a, b) in different)


@given(ORDERS, ORDERS)
def test_equal_orders_have_equal_automata(order: Order, other: Order) -> None:
    automaton, again = order_automaton(order), order_automaton(other)
    if order == other:
        assert (automaton.rows, automaton.digest) == (again.rows, again.digest)
    assert 1 <= automaton.digest <= 65_535


def test_a_digest_depends_on_the_endpoints_of_steps() -> None:
    digests = {order_automaton((step(number), step(7))).digest for number in range(7)}
    assert len(digests) == 7


def test_steps_are_named_by_their_numbers() -> None:
    order = (step(0), group((step(5),), (step(7), step(0)), repeated=True), step(7, optional=True))
    automaton = order_automaton(order)
    assert len(automaton.steps) == 3
    assert automaton.exits[START] == (0,)
    assert automaton.entries[START] == ()
    state = automaton.next(START, 1)
    assert (automaton.entries[state], automaton.exits[state]) == ((0,), (1, 2))


# ── Bounds ────────────────────────────────────────────────────────────────────────────────────


def far(number: int) -> k.CallStep:
    return k.CallStep((path(f"s{number}"),), span=NOWHERE)


def test_an_order_has_at_most_32_steps() -> None:
    assert len(order_automaton(tuple(map(far, range(32)))).rows) == 33
    with pytest.raises(OrderSizeError, match="33 steps, and at most 32 are possible"):
        order_automaton(tuple(map(far, range(33))))


def test_the_states_of_an_automaton_are_bounded() -> None:
    """The nth call before the last is of one kind: a deterministic automaton must remember n calls."""
    either = group((step(0),), (step(5),), optional=True, repeated=True)

    def order(count: int) -> Order:
        return (either, step(0), *[group((step(0),), (step(5),)) for _ in range(count)])

    assert len(order_automaton(order(6)).rows) <= MAX_STATES
    with pytest.raises(OrderSizeError, match=f"more than {MAX_STATES} states"):
        order_automaton(order(8))


def test_the_letters_of_an_order_are_bounded() -> None:
    """Methods of paths with wild parts overlap in every combination."""

    def crossing(number: int) -> k.CallStep:
        segments = tuple(k.Segment("x") if place == number else ANYTHING for place in range(12))
        return k.CallStep((path(*segments),), span=NOWHERE)

    assert len(order_automaton(tuple(map(crossing, range(8)))).rows) == 9
    with pytest.raises(OrderSizeError, match="steps that overlap in more than 256 ways"):
        order_automaton(tuple(map(crossing, range(9))))


def test_steps_that_cover_each_other_have_few_letters() -> None:
    nested = [(path(*["x"] * depth, rest=True),) for depth in range(20)]
    assert len(possible_letters(nested)) == 21


def all_states(rows: Iterable[dict[int, int]]) -> set[int]:
    return {to for row in rows for to in row.values()}


@given(ORDERS)
def test_every_state_is_reached(order: Order) -> None:
    automaton = order_automaton(order)
    assert all_states(automaton.rows) | {START} == set(range(len(automaton.rows)))
