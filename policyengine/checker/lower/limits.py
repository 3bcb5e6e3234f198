"""Rates and budgets to kernel: how fast, how much, by whose count."""

from __future__ import annotations

import re
from datetime import timedelta
from decimal import Decimal
from typing import assert_never

from policyengine import kernel as k
from policyengine.checker.lower.context import Draft, words
from policyengine.checker.lower.expressions import lower_condition, lower_value
from policyengine.checker.names.scope import Context
from policyengine.checker.types.schema import EVERYWHERE
from policyengine.runtime.limits import LARGEST, MICRO
from policyengine.runtime.literals import parse_duration
from policyengine.source import Span
from policyengine.spec.rate_units import is_countable
from policyengine.syntax import nodes as ast
from policyengine.typesystem import Scalar

RATE = re.compile(r"(?P<count>[0-9][0-9_]*|[a-z][\w.]*)/(?P<within>[0-9]+(?:ms|s|m|h|d))")
LEASE = timedelta(minutes=10)  # where `at most N at once` says no other
TOO_FINE = "this cannot be counted exactly"


def limits(draft: Draft) -> tuple[k.Limit, ...]:
    return (
        *draft.rules(ast.RateDecl, lambda declared, package: rate(declared, package, draft)),
        *draft.rules(ast.BudgetDecl, lambda declared, package: budget(declared, package, draft)),
    )


def place_of(declared: ast.RateDecl | ast.BudgetDecl, package: str, draft: Draft) -> k.Place | None:
    return draft.places.place(declared.place, package) if declared.place else k.Place(None, span=head_of(declared))


def head_of(declared: ast.RateDecl | ast.BudgetDecl) -> Span:
    return Span(declared.name.span.source, declared.span.start, declared.name.span.end)


def context_of(place: k.Place | None, package: str, draft: Draft) -> Context:
    return draft.context(package, draft.places.here(place) if place else EVERYWHERE)


def keys_of(declared: ast.RateDecl | ast.BudgetDecl, context: Context) -> tuple[k.Expr, ...]:
    found = (lower_value(key, context) for key in declared.per)
    return tuple(key for key in found if key is not None)


def failing_of(declared: ast.RateDecl | ast.BudgetDecl, context: Context) -> k.Failing:
    said = [item for item in declared.items if isinstance(item, ast.StoreFailure)]
    for other in said[1:]:
        context.report("E910", "what holds without the store is said twice", other.span, "keep one")
    return said[0].word if said else "deny"


# ── Rates ─────────────────────────────────────────────────────────────────────────────────────


def rate(declared: ast.RateDecl, package: str, draft: Draft) -> k.Rate | None:
    place = place_of(declared, package, draft)
    context = context_of(place, package, draft)
    paces = [item for item in declared.items if isinstance(item, ast.RateLimit)]
    pace = limit(paces[0], context) if paces else None
    for extra in paces[1:]:
        context.report("E910", "a rate has one limit", extra.span, "write another rate for another limit")
    at_once = once([item for item in declared.items if isinstance(item, ast.AtOnce)], context)
    if not paces and at_once is None:
        hint = "write how many in how long: `100/1m`, or `at most 5 at once`"
        context.report("E910", "this rate has no limit", declared.name.span, hint)
    cost = cost_of([item for item in declared.items if isinstance(item, ast.Cost)], bool(paces), context)
    moves = tuple(move(item, pace, bool(paces), context) for item in declared.items if isinstance(item, MOVES))
    when = None if declared.when is None else lower_condition(declared.when, context)
    if place is None:
        return None
    found = k.Rate(
        declared.name.value,
        package,
        place,
        keys_of(declared, context),
        when,
        pace,
        cost,
        tuple(one for one in moves if isinstance(one, k.Raise)),
        tuple(one for one in moves if isinstance(one, k.Clamp)),
        next((one for one in moves if isinstance(one, k.Pace)), None),
        any(isinstance(item, ast.CountingDenials) for item in declared.items),
        at_once,
        failing_of(declared, context),
        span=head_of(declared),
    )
    if pace is not None and not is_countable(found):
        hint = "take a rounder number, or a shorter window"
        context.report("E910", TOO_FINE, paces[0].span, hint)
    return found


MOVES = (ast.RateFloor, ast.Raise, ast.Clamp)


def limit(item: ast.RateLimit, context: Context) -> k.Pace | k.PaceByFact | None:
    burst = None if item.burst is None else whole(item.burst, context)
    if item.rate[0].isdigit():
        found = pace(item.rate, item.span, context)
        return found if found is None or burst is None else k.Pace(found.count, found.within, burst)
    name, _, window = item.rate.rpartition("/")
    span = Span(item.span.source, item.span.start, item.span.start + len(name))
    count = lower_value(ast.Reference(name, span=span), context, Scalar.NUMBER)
    within = window_of(window, item.rate, item.span, context)
    return None if count is None or within is None else k.PaceByFact(count, within, burst)


def pace(text: str, span: Span, context: Context) -> k.Pace | None:
    match = RATE.fullmatch(text)
    count = int(match["count"].replace("_", "")[:18]) if match else 0
    within = window_of(match["within"], text, span, context) if match and count else None
    if not count:
        no_pace(text, span, context)
    return None if within is None else k.Pace(count, within, count)


def window_of(window: str, text: str, span: Span, context: Context) -> timedelta | None:
    within = parse_duration(window)
    if not within:
        no_pace(text, span, context)
    return within or None


def no_pace(text: str, span: Span, context: Context) -> None:
    context.report("E910", f"`{text}` is no pace", span, "write how many in how long, neither of them zero: `100/1m`")


def whole(literal: ast.Literal, context: Context) -> int | None:
    digits = literal.text.replace("_", "")
    if digits.isdigit() and int(digits[:18]) > 0:
        return int(digits[:18])
    context.report("E910", f"`{literal.text}` is no number of requests", literal.span, "write `1` or more")
    return None


def once(items: list[ast.AtOnce], context: Context) -> k.AtOnce | None:
    for other in items[1:]:
        context.report("E910", "how many at once is said twice", other.span, "keep one")
    if not items:
        return None
    lease = LEASE if items[0].lease is None else parse_duration(items[0].lease.text)
    most = whole(items[0].count, context)
    if not lease:
        context.report(
            "E910", "a place that is held for no time limits nothing", items[0].span, "write how long: `10m`"
        )
    return k.AtOnce(most, lease, span=items[0].span) if most and lease else None


def cost_of(items: list[ast.Cost], paced: bool, context: Context) -> k.Expr | None:
    for item in items[1:] if paced else items:
        message = "`cost` is said twice" if paced else "`cost` is taken of a pace, and there is none"
        context.report("E910", message, item.span, "keep one" if paced else "write how many in how long: `100/1m`")
    if not items:
        return None
    return lower_value(ast.Reference(items[0].fact.text, span=items[0].fact.span), context, Scalar.NUMBER)


def move(
    item: ast.RateFloor | ast.Raise | ast.Clamp, base: k.Pace | k.PaceByFact | None, paced: bool, context: Context
) -> k.Pace | k.Raise | k.Clamp | None:
    if not paced:
        context.report("E910", "there is no pace that this could move", item.span, "write it first: `100/1m`")
    known = base if isinstance(base, k.Pace) else None
    match item:
        case ast.RateFloor(text):
            return below(text, item.span, known, "floor", context)
        case ast.Raise():
            return raised(item, known, context)
        case ast.Clamp(text, duration, when):
            slower, condition = below(text, item.span, known, "clamp", context), lower_condition(when, context)
            lasts = None if duration is None else draft_duration(duration, context)
            return None if slower is None or condition is None else k.Clamp(slower, lasts, condition, span=item.span)
        case _:
            assert_never(item)


def draft_duration(literal: ast.Literal, context: Context) -> timedelta | None:
    lasts = parse_duration(literal.text)
    if not lasts:
        context.report("E910", "a clamp for no time is none", literal.span, "write how long: `10m`")
    return lasts or None


def below(text: str, span: Span, base: k.Pace | None, word: str, context: Context) -> k.Pace | None:
    found = pace(text, span, context)
    if found and base and found.faster_than(base):
        context.report("E910", f"`{word}` is faster than the rate itself", span, "only `raise … at most` goes above it")
    return found


def raised(item: ast.Raise, base: k.Pace | None, context: Context) -> k.Raise | None:
    factor = Decimal(item.factor[1:])
    if factor <= 1:
        context.report("E910", f"`{item.factor}` raises nothing", item.span, "write a factor above one: `x2`")
    most, condition = pace(item.at_most, item.span, context), lower_condition(item.when, context)
    if most and base and base.faster_than(most):
        context.report("E910", "`at most` is slower than the rate itself", item.span, "only `clamp` goes below it")
    return (
        None
        if most is None or condition is None
        else k.Raise(factor.as_integer_ratio(), most, condition, span=item.span)
    )


# ── Budgets ───────────────────────────────────────────────────────────────────────────────────


def budget(declared: ast.BudgetDecl, package: str, draft: Draft) -> k.Budget | None:
    place = place_of(declared, package, draft)
    context = context_of(place, package, draft)
    items = [item for item in declared.items if isinstance(item, ast.BudgetLimit)]
    if not items:
        hint = "write how much in how long: `count <= 5 within 1h`"
        context.report("E910", "this budget has no limit", declared.name.span, hint)
    quotas = tuple(quota(item, context) for item in items)
    when = None if declared.when is None else lower_condition(declared.when, context)
    if place is None:
        return None
    return k.Budget(
        declared.name.value,
        package,
        place,
        keys_of(declared, context),
        when,
        tuple(one for one in quotas if one is not None),
        failing_of(declared, context),
        span=head_of(declared),
    )


def quota(item: ast.BudgetLimit, context: Context) -> k.Quota | None:
    fact = None
    if item.fact is not None:
        summed = Scalar.NUMBER if item.function == "sum" else None
        fact = lower_value(ast.Reference(item.fact.text, span=item.fact.span), context, summed)
    written = ast.Reference(item.bound.text, span=item.bound.span) if isinstance(item.bound, ast.Name) else item.bound
    bound = lower_value(written, context, Scalar.NUMBER)
    within = parse_duration(item.within.text)
    if not within:
        context.report("E910", "a budget of no time limits nothing", item.within.span, "write how long: `24h`")
    if isinstance(bound, k.Constant) and isinstance(bound.value, int | Decimal) and bound.value * MICRO > LARGEST:
        context.report("E910", TOO_FINE, bound.span, "take a smaller number")
    if bound is None or not within or (item.fact is not None and fact is None):
        return None
    return k.Quota(item.function, fact, bound, within, words(item.span), span=item.span)
