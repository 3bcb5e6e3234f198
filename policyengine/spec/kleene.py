"""Kleene's three values: True, False, and Unknown with its causes. An unknown fact never opens an endpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from policyengine import kernel as k
from policyengine.runtime.format_values import format_fact_path
from policyengine.runtime.values import Unknown, Value


def is_absent(one: object) -> bool:
    """Return whether the value is absent rather than unusable. `else` and `is absent` apply only to absent values."""
    return isinstance(one, Unknown) and one.absent


def lift(function: Callable[..., Value], *values: Value) -> Value:
    """Apply a function to known values; the result is unknown if a value is unknown."""
    for value in values:
        if isinstance(value, Unknown):
            return merge_unknowns(values)
    return function(*values)


def conjunction(values: Iterable[Value]) -> Value:
    """Return Kleene's `and`: false if a value is false, otherwise unknown if a value is unknown, otherwise true."""
    values = tuple(values)
    return False if False in values else lift(lambda *_: True, *values)


def disjunction(values: Iterable[Value]) -> Value:
    """Return Kleene's `or`: true if a value is true, otherwise unknown if a value is unknown, otherwise false."""
    values = tuple(values)
    return True if True in values else lift(lambda *_: False, *values)


def negate(one: Value) -> Value:
    return one if isinstance(one, Unknown) else not one


def merge_unknowns(values: Iterable[Value]) -> Unknown:
    """Merge the unknowns among the values."""
    return Unknown.merge(*(one for one in values if isinstance(one, Unknown)))


def elements(collection: Value) -> tuple[Value, ...]:
    """Return the elements of a set or list; an unknown collection has one unknown element."""
    return collection if isinstance(collection, tuple) else (collection,)


def describe(node: k.Expr) -> str:
    """Return the name of a fact as policies write it: `resource.owner.tenant`, `request.headers["x-id"]`."""
    match node:
        case k.Fact(path):
            return format_fact_path(path)
        case k.Attribute(base, name) | k.Member(base, name):
            return f"{describe(base)}.{name}"
        case k.Variable(name):
            return name
        case k.PastFact(fact):
            return name if (name := describe(fact)).startswith("past.") else f"past.{name}"
        case _:
            return node.span.text
