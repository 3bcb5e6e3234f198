"""Faults in rates and budgets: one that is missing, another pace, another window, one key less."""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal
from typing import TypeAlias

from policyengine.runtime.format_values import duration
from policyengine.runtime.literals import parse_duration
from policyengine.syntax import nodes as ast
from policyengine.testing.mutation.bounds import MOVE, durations_beside, numbers_beside
from policyengine.testing.mutation.edits import Edit, cut, cut_span, put, word_in
from policyengine.testing.mutation.faults import Change, without
from policyengine.testing.mutation.places import fewer
from policyengine.testing.mutation.rules import NO_CONDITION

HALVED = "halve a window"
Limit: TypeAlias = ast.RateDecl | ast.BudgetDecl

# What a rate can be without. Its `floor` is for clusters, and no test can make a store fail.
DROPPED: dict[type[ast.Node], str] = {
    ast.Raise: "drop a raise",
    ast.Clamp: "drop a clamp",
    ast.CountingDenials: "drop counting denials",
    ast.Cost: "drop a cost",
    ast.AtOnce: "drop at once",
    ast.RateLimit: "drop a limit",
    ast.BudgetLimit: "drop a limit",
}


def limit_faults(node: ast.Node) -> Iterator[Change]:
    match node:
        case ast.RateDecl() | ast.BudgetDecl():
            yield from fewer_items(node)
            yield from fewer("drop a key", node, "per", node.per)
            yield from other_keys(node)
            yield from without_condition(node)
        case ast.RateLimit(rate):
            yield from paces(node, "rate", rate)
            if node.burst is not None:
                gone = cut(node.span.source, node.span.start + len(rate), node.burst.span.end)
                yield Change.at("drop a burst", node, gone, burst=None)
        case ast.Raise(factor, at_most):
            yield from factors(node, factor)
            yield from paces(node, "at_most", at_most)
        case ast.Clamp(rate):
            yield from paces(node, "rate", rate)
            yield from no_lasting(node)
        case ast.BudgetLimit():
            half = halved(node.within.text)
            if half is not None:
                yield Change.at(HALVED, node.within, put(node.within.span, half), text=half)


def fewer_items(node: Limit) -> Iterator[Change]:
    """Something to count must stay."""
    for number, item in enumerate(node.items):
        kept = without(node.items, number)
        if type(item) in DROPPED and any(isinstance(one, ast.RateLimit | ast.AtOnce | ast.BudgetLimit) for one in kept):
            yield Change.at(DROPPED[type(item)], node, cut_span(item.span), items=kept)


def other_keys(node: Limit) -> Iterator[Change]:
    """Counted for another: the user in place of the agent, the agent in place of anything else."""
    written = {" ".join(key.span.text.split()) for key in node.per}
    for number, key in enumerate(node.per):
        other = "user.id" if key.span.text == "agent.id" else "agent.id"
        if other not in written:
            keys = (*node.per[:number], ast.Reference(other, span=key.span), *node.per[number + 1 :])
            yield Change.at("change a key", node, put(key.span, other), per=keys)


def without_condition(node: Limit) -> Iterator[Change]:
    if node.when is None:
        return
    before = node.place.span.end if node.place is not None else node.per[-1].span.end
    word = word_in(node.span.source, before, node.when.span.start, "when")
    if word is not None:
        yield Change.at(NO_CONDITION, node, cut(node.span.source, word.start, node.when.span.end), when=None)


def no_lasting(node: ast.Clamp) -> Iterator[Change]:
    if node.duration is not None:
        word = word_in(node.span.source, node.span.start, node.duration.span.start, "for")
        if word is not None:
            gone = cut(node.span.source, word.start, node.duration.span.end)
            yield Change.at("drop a limit of time", node, gone, duration=None)


# ── Paces ─────────────────────────────────────────────────────────────────────────────────────


def paces(node: ast.RateLimit | ast.Raise | ast.Clamp, member: str, rate: str) -> Iterator[Change]:
    """`100/1m`: another count, another window; of what a fact says only the window."""
    found = word_in(node.span.source, node.span.start, node.span.end, re.escape(rate))
    if found is None:
        return
    count, _, within = rate.rpartition("/")
    counts = numbers_beside(count) if count[0].isdigit() else []
    moved = [f"{one}/{within}" for one in counts if Decimal(one.replace("_", ""))]
    moved += [f"{count}/{one}" for one in durations_beside(within)]
    half = halved(within)
    faults = [(MOVE, one) for one in moved] + ([(HALVED, f"{count}/{half}")] if half is not None else [])
    for operator, text in faults:
        yield Change.at(operator, node, put(found, text), **{member: text})


def factors(node: ast.Raise, factor: str) -> Iterator[Change]:
    found = word_in(node.span.source, node.span.start, node.span.end, re.escape(factor))
    for text in numbers_beside(factor[1:]) if found is not None else ():
        if Decimal(text) > 1:
            assert found is not None
            yield Change.at(MOVE, node, Edit(found.start + 1, found.end, text), factor=f"x{text}")


def halved(window: str) -> str | None:
    """In one unit, as a pace has it."""
    length = parse_duration(window)
    text = duration(length / 2) if length else ""
    if re.fullmatch(r"\d+[a-z]+", text):
        return text
    whole = round(length.total_seconds() * 500) if length else 0
    return f"{whole // 1000}s" if whole and whole % 1000 == 0 else f"{whole}ms" if whole else None
