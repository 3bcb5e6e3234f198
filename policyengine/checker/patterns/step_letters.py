"""The letters that requests can have in an order of calls: which steps one request can match at the same time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from policyengine import kernel as k
from policyengine.checker.patterns.overlap import by_method, covered, overlaps
from policyengine.kernel.sequence_automaton import (
    LEFT,
    MAX_LETTERS,
    START,
    Order,
    OrderSizeError,
    SequenceAutomaton,
    bits,
    build_automaton,
    distinct_steps,
)


def order_automaton(order: Order) -> SequenceAutomaton:
    """Return the automaton of an order. Raises OrderSizeError."""
    return build_automaton(order, possible_letters([step.patterns for step in distinct_steps(order)]))


def same_order(one: Order, other: Order) -> bool:
    """Return whether exactly the same runs follow both orders. Return False also if the comparison is too large."""
    if not (one and other):
        return not (one or other)
    steps = [frozenset(step.patterns) for step in distinct_steps((*one, *other))]
    try:
        letters = possible_letters([tuple(patterns) for patterns in steps])
        automata = order_automaton(one), order_automaton(other)
    except OrderSizeError:
        return False
    places = [[steps.index(frozenset(step.patterns)) for step in distinct_steps(order)] for order in (one, other)]
    reached, pending = {(START, START)}, [(START, START)]
    while pending:
        states = pending.pop()
        for letter in letters:
            found = tuple(
                automaton.next(state, mask_of(n for n, place in enumerate(own) if letter >> place & 1))
                for automaton, state, own in zip(automata, states, places, strict=True)
            )
            if (found[0] == LEFT) != (found[1] == LEFT):
                return False
            if found[0] != LEFT and found not in reached:
                reached.add((found[0], found[1]))
                pending.append((found[0], found[1]))
    return True


def possible_letters(steps: Sequence[tuple[k.Pattern, ...]]) -> frozenset[int]:
    """Return all letters that a request can have, and perhaps others. Any two steps of a letter overlap, and a letter
    with a step also has all steps that cover it. Raises OrderSizeError."""
    numbers = range(len(steps))
    near = [mask_of(j for j in numbers if i != j and steps_overlap(steps[i], steps[j])) for i in numbers]
    over = [mask_of(j for j in bits(near[i]) if step_covers(steps[j], steps[i])) for i in numbers]
    found = {0}
    # Steps that cover others come first, so that letters without them are never built.
    for number in sorted(numbers, key=lambda one: over[one].bit_count()):
        known = over[number] & mask_of(one for one in numbers if over[one].bit_count() < over[number].bit_count())
        found |= {letter | 1 << number for letter in found if letter & ~near[number] == 0 and known & ~letter == 0}
        if len(found) > MAX_LETTERS:
            raise OrderSizeError(f"steps that overlap in more than {MAX_LETTERS} ways")
    return frozenset(letter for letter in found if all(over[number] & ~letter == 0 for number in bits(letter)))


def mask_of(numbers: Iterator[int]) -> int:
    return sum(1 << number for number in numbers)


def steps_overlap(one: tuple[k.Pattern, ...], other: tuple[k.Pattern, ...]) -> bool:
    return any(overlaps(a, b) for a in one for b in other)


def step_covers(outer: tuple[k.Pattern, ...], inner: tuple[k.Pattern, ...]) -> bool:
    """Return whether one of the patterns of `outer` matches each endpoint of `inner`. It is never wrongly true."""
    return all(covered(piece, outer) for pattern in inner for piece in by_method(pattern))
