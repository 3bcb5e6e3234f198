"""Faults in rates and budgets: a limit is removed, has another pace or window, or loses a key."""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal
from typing import TypeAlias

from policyengine.syntax import nodes as ast
from policyengine.testing.mutation.constants import MOVE_BOUND, adjacent_durations, adjacent_numbers
from policyengine.testing.mutation.edits import MutationEdit, cut_range, cut_span, find_word, replace_span
from policyengine.testing.mutation.faults import FaultChange, omit_item
from policyengine.testing.mutation.places import drop_each
from policyengine.testing.mutation.rules import DROP_CONDITION
from policyengine.time_formats import format_duration, parse_duration

HALVE_WINDOW = "halve a window"
LimitDecl: TypeAlias = ast.RateDecl | ast.BudgetDecl

# Parts of a rate or budget that can be dropped. A test cannot make a store fail.
DROP_OPERATORS: dict[type[ast.Node], str] = {
    ast.Raise: "drop a raise",
    ast.Clamp: "drop a clamp",
    ast.RateFloor: "drop a floor",
    ast.CountingDenials: "drop counting denials",
    ast.Cost: "drop a cost",
    ast.ConcurrencyLimit: "drop at once",
    ast.RateLimit: "drop a limit",
    ast.BudgetLimit: "drop a limit",
}


def limit_faults(node: ast.Node) -> Iterator[FaultChange]:
    match node:
        case ast.RateDecl() | ast.BudgetDecl():
            yield from item_faults(node)
            yield from drop_each("drop a key", node, "per", node.per)
            yield from key_faults(node)
            yield from drop_condition(node)
        case ast.RateLimit(rate):
            yield from pace_faults(node, "rate", rate)
            if node.burst is not None:
                gone = cut_range(node.span.source, node.span.start + len(rate), node.burst.span.end)
                yield FaultChange.at("drop a burst", node, gone, burst=None)
        case ast.Raise(factor, at_most):
            yield from factor_faults(node, factor)
            yield from pace_faults(node, "at_most", at_most)
        case ast.RateFloor(rate):
            yield from pace_faults(node, "rate", rate)
        case ast.Clamp(rate):
            yield from pace_faults(node, "rate", rate)
            yield from drop_duration(node)
        case ast.BudgetLimit():
            half = half_window(node.within.text)
            if half is not None:
                yield FaultChange.at(HALVE_WINDOW, node.within, replace_span(node.within.span, half), text=half)


def item_faults(node: LimitDecl) -> Iterator[FaultChange]:
    """Yield the faults that each drop an item, but never the last pace, concurrency or quota."""
    for number, item in enumerate(node.items):
        kept = omit_item(node.items, number)
        if type(item) in DROP_OPERATORS and any(
            isinstance(one, ast.RateLimit | ast.ConcurrencyLimit | ast.BudgetLimit) for one in kept
        ):
            yield FaultChange.at(DROP_OPERATORS[type(item)], node, cut_span(item.span), items=kept)


def key_faults(node: LimitDecl) -> Iterator[FaultChange]:
    """Yield the faults that count by another key: the user instead of the agent, the agent instead of any other key."""
    written = {" ".join(key.span.text.split()) for key in node.per}
    for number, key in enumerate(node.per):
        other = "user.id" if key.span.text == "agent.id" else "agent.id"
        if other not in written:
            keys = (*node.per[:number], ast.Reference(other, span=key.span), *node.per[number + 1 :])
            yield FaultChange.at("change a key", node, replace_span(key.span, other), per=keys)


def drop_condition(node: LimitDecl) -> Iterator[FaultChange]:
    if node.when is None:
        return
    before = node.place.span.end if node.place is not None else node.per[-1].span.end
    word = find_word(node.span.source, before, node.when.span.start, "when")
    if word is not None:
        yield FaultChange.at(
            DROP_CONDITION, node, cut_range(node.span.source, word.start, node.when.span.end), when=None
        )


def drop_duration(node: ast.Clamp) -> Iterator[FaultChange]:
    if node.duration is not None:
        word = find_word(node.span.source, node.span.start, node.duration.span.start, "for")
        if word is not None:
            gone = cut_range(node.span.source, word.start, node.duration.span.end)
            yield FaultChange.at("drop a limit of time", node, gone, duration=None)


# ── Paces ─────────────────────────────────────────────────────────────────────────────────────


def pace_faults(
    node: ast.RateLimit | ast.Raise | ast.Clamp | ast.RateFloor, member: str, rate: str
) -> Iterator[FaultChange]:
    """Yield the faults that change the pace `100/1m`: another count, another window; only the window if a fact gives
    the count."""
    found = find_word(node.span.source, node.span.start, node.span.end, re.escape(rate))
    if found is None:
        return
    count, _, within = rate.rpartition("/")
    counts = adjacent_numbers(count) if count[0].isdigit() else []
    moved = [f"{one}/{within}" for one in counts if Decimal(one.replace("_", ""))]
    moved += [f"{count}/{one}" for one in adjacent_durations(within)]
    half = half_window(within)
    faults = [(MOVE_BOUND, one) for one in moved] + ([(HALVE_WINDOW, f"{count}/{half}")] if half is not None else [])
    for operator, text in faults:
        yield FaultChange.at(operator, node, replace_span(found, text), **{member: text})


def factor_faults(node: ast.Raise, factor: str) -> Iterator[FaultChange]:
    found = find_word(node.span.source, node.span.start, node.span.end, re.escape(factor))
    for text in adjacent_numbers(factor[1:]) if found is not None else ():
        if Decimal(text) > 1:
            assert found is not None
            yield FaultChange.at(MOVE_BOUND, node, MutationEdit(found.start + 1, found.end, text), factor=f"x{text}")


def half_window(window: str) -> str | None:
    """Return half of the window in a single unit; None if there is no such unit."""
    length = parse_duration(window)
    text = format_duration(length / 2) if length else ""
    if re.fullmatch(r"\d+[a-z]+", text):
        return text
    whole = round(length.total_seconds() * 500) if length else 0
    return f"{whole // 1000}s" if whole and whole % 1000 == 0 else f"{whole}ms" if whole else None
