"""Lowering of rates and budgets."""

from __future__ import annotations

import re
from datetime import timedelta
from decimal import Decimal
from typing import assert_never

from policyengine import kernel as k
from policyengine.checker.lower.context import LoweringContext, rule_text
from policyengine.checker.lower.expressions import lower_condition, lower_value
from policyengine.checker.names.scope import ExpressionContext
from policyengine.checker.types.schema import EVERYWHERE
from policyengine.kernel.learned_facts import learned_facts
from policyengine.runtime.limits import MAX_UNITS, MICRO
from policyengine.source import Span
from policyengine.spec.rate_units import is_countable
from policyengine.syntax import nodes as ast
from policyengine.time_formats import parse_duration
from policyengine.typesystem import Scalar, Type
from policyengine.vocabulary import CLUSTER_ID

RATE = re.compile(r"(?P<count>[0-9][0-9_]*|[a-z][\w.]*)/(?P<within>[0-9]+(?:ms|s|m|h|d))")
DEFAULT_LEASE = timedelta(minutes=10)  # the lease if `at most N at once` sets none
NOT_COUNTABLE = "this cannot be counted exactly"


def lower_limits(draft: LoweringContext) -> tuple[k.Limit, ...]:
    return (
        *draft.rules(ast.RateDecl, lambda declared, package: lower_rate(declared, package, draft)),
        *draft.rules(ast.BudgetDecl, lambda declared, package: lower_budget(declared, package, draft)),
    )


def lower_limit_place(declared: ast.RateDecl | ast.BudgetDecl, package: str, draft: LoweringContext) -> k.Place | None:
    return (
        draft.places.place(declared.place, package) if declared.place else k.Place(None, span=limit_head_span(declared))
    )


def limit_head_span(declared: ast.RateDecl | ast.BudgetDecl) -> Span:
    return Span(declared.name.span.source, declared.span.start, declared.name.span.end)


def limit_context(place: k.Place | None, package: str, draft: LoweringContext) -> ExpressionContext:
    return draft.context(package, draft.places.here(place) if place else EVERYWHERE)


def lower_limit_keys(declared: ast.RateDecl | ast.BudgetDecl, context: ExpressionContext) -> tuple[k.Expr, ...]:
    found = (lower_counted(key, context, but=CLUSTER_ID) for key in declared.per)
    return tuple(key for key in found if key is not None)


def lower_counted(
    written: ast.Expr, context: ExpressionContext, expected: Type | None = None, but: tuple[str, ...] = ()
) -> k.Expr | None:
    """Lower a key, an amount or a bound of a limit. Report a learned fact in it other than `but`, because behavior
    could then raise the limit without bound; in a `raise`, `at most` bounds the effect of learned facts. Return None if
    an error was reported.
    """
    found = lower_value(written, context, expected)
    learned = next((fact for fact in learned_facts(found) if fact.path != but), None) if found is not None else None
    if learned is not None:
        hint = "use it in a condition: `clamp 2/1m when behavior.burst`"
        message = f"the learned fact `{'.'.join(learned.path)}` cannot be a key, an amount or a bound of a limit"
        context.report("E914", message, written.span, hint)
        return None
    return found


def lower_store_failure(declared: ast.RateDecl | ast.BudgetDecl, context: ExpressionContext) -> k.StoreFailureMode:
    said = [item for item in declared.items if isinstance(item, ast.StoreFailure)]
    for other in said[1:]:
        context.report("E910", "`on store failure` is stated twice", other.span, "keep one")
    return said[0].word if said else "deny"


# ── Rates ─────────────────────────────────────────────────────────────────────────────────────


def lower_rate(declared: ast.RateDecl, package: str, draft: LoweringContext) -> k.Rate | None:
    place = lower_limit_place(declared, package, draft)
    context = limit_context(place, package, draft)
    paces = [item for item in declared.items if isinstance(item, ast.RateLimit)]
    pace = lower_rate_limit(paces[0], context) if paces else None
    for extra in paces[1:]:
        context.report("E910", "a rate can have only one limit", extra.span, "write another rate for another limit")
    at_once = lower_concurrency_limit(
        [item for item in declared.items if isinstance(item, ast.ConcurrencyLimit)], context
    )
    if not paces and at_once is None:
        hint = "write the number and the period: `100/1m`, or `at most 5 at once`"
        context.report("E910", "this rate has no limit", declared.name.span, hint)
    cost = lower_cost([item for item in declared.items if isinstance(item, ast.Cost)], bool(paces), context)
    moves = tuple(
        lower_rate_adjustment(item, pace, bool(paces), context)
        for item in declared.items
        if isinstance(item, RATE_ADJUSTMENTS)
    )
    when = None if declared.when is None else lower_condition(declared.when, context)
    if place is None:
        return None
    found = k.Rate(
        declared.name.value,
        package,
        place,
        lower_limit_keys(declared, context),
        when,
        pace,
        cost,
        tuple(one for one in moves if isinstance(one, k.Raise)),
        tuple(one for one in moves if isinstance(one, k.Clamp)),
        next((one for one in moves if isinstance(one, k.Pace)), None),
        any(isinstance(item, ast.CountingDenials) for item in declared.items),
        at_once,
        lower_store_failure(declared, context),
        span=limit_head_span(declared),
    )
    if pace is not None and not is_countable(found):
        hint = "use a rounder number or a shorter window"
        context.report("E910", NOT_COUNTABLE, paces[0].span, hint)
    return found


RATE_ADJUSTMENTS = (ast.RateFloor, ast.Raise, ast.Clamp)


def lower_rate_limit(item: ast.RateLimit, context: ExpressionContext) -> k.Pace | k.PaceByFact | None:
    burst = None if item.burst is None else lower_request_count(item.burst, context)
    if item.rate[0].isdigit():
        found = lower_pace(item.rate, item.span, context)
        return found if found is None or burst is None else k.Pace(found.count, found.within, burst)
    name, _, window = item.rate.rpartition("/")
    span = Span(item.span.source, item.span.start, item.span.start + len(name))
    count = lower_counted(ast.Reference(name, span=span), context, Scalar.NUMBER)
    within = parse_pace_window(window, item.rate, item.span, context)
    return None if count is None or within is None else k.PaceByFact(count, within, burst)


def lower_pace(text: str, span: Span, context: ExpressionContext) -> k.Pace | None:
    match = RATE.fullmatch(text)
    count = int(match["count"].replace("_", "")[:18]) if match else 0
    within = parse_pace_window(match["within"], text, span, context) if match and count else None
    if not count:
        report_bad_pace(text, span, context)
    return None if within is None else k.Pace(count, within, count)


def parse_pace_window(window: str, text: str, span: Span, context: ExpressionContext) -> timedelta | None:
    within = parse_duration(window)
    if not within:
        report_bad_pace(text, span, context)
    return within or None


def report_bad_pace(text: str, span: Span, context: ExpressionContext) -> None:
    context.report(
        "E910", f"`{text}` is not a valid rate", span, "write a number and a period, both above zero: `100/1m`"
    )


def lower_request_count(literal: ast.Literal, context: ExpressionContext) -> int | None:
    digits = literal.text.replace("_", "")
    if digits.isdigit() and int(digits[:18]) > 0:
        return int(digits[:18])
    context.report("E910", f"`{literal.text}` is not a valid number of requests", literal.span, "write `1` or more")
    return None


def lower_concurrency_limit(items: list[ast.ConcurrencyLimit], context: ExpressionContext) -> k.ConcurrencyLimit | None:
    for other in items[1:]:
        context.report("E910", "`at most` is stated twice", other.span, "keep one")
    if not items:
        return None
    lease = DEFAULT_LEASE if items[0].lease is None else parse_duration(items[0].lease.text)
    most = lower_request_count(items[0].count, context)
    if not lease:
        context.report("E910", "a lease of zero has no effect", items[0].span, "write how long: `10m`")
    return k.ConcurrencyLimit(most, lease, span=items[0].span) if most and lease else None


def lower_cost(items: list[ast.Cost], paced: bool, context: ExpressionContext) -> k.Expr | None:
    for item in items[1:] if paced else items:
        message = "`cost` is stated twice" if paced else "`cost` needs a rate, but this rule has none"
        context.report("E910", message, item.span, "keep one" if paced else "write the number and the period: `100/1m`")
    if not items:
        return None
    return lower_counted(ast.Reference(items[0].fact.text, span=items[0].fact.span), context, Scalar.NUMBER)


def lower_rate_adjustment(
    item: ast.RateFloor | ast.Raise | ast.Clamp,
    base: k.Pace | k.PaceByFact | None,
    paced: bool,
    context: ExpressionContext,
) -> k.Pace | k.Raise | k.Clamp | None:
    if not paced:
        context.report(
            "E910", "no rate precedes this line, so it adjusts nothing", item.span, "write the rate first: `100/1m`"
        )
    known = base if isinstance(base, k.Pace) else None
    match item:
        case ast.RateFloor(text):
            return lower_slower_pace(text, item.span, known, "floor", context)
        case ast.Raise():
            return lower_raise(item, known, context)
        case ast.Clamp(text, duration, when):
            slower, condition = (
                lower_slower_pace(text, item.span, known, "clamp", context),
                lower_condition(when, context),
            )
            lasts = None if duration is None else lower_clamp_duration(duration, context)
            return None if slower is None or condition is None else k.Clamp(slower, lasts, condition, span=item.span)
        case _:
            assert_never(item)


def lower_clamp_duration(literal: ast.Literal, context: ExpressionContext) -> timedelta | None:
    lasts = parse_duration(literal.text)
    if not lasts:
        context.report("E910", "a clamp with a duration of zero has no effect", literal.span, "write how long: `10m`")
    return lasts or None


def lower_slower_pace(
    text: str, span: Span, base: k.Pace | None, word: str, context: ExpressionContext
) -> k.Pace | None:
    found = lower_pace(text, span, context)
    if found and base and found.faster_than(base):
        context.report("E910", f"`{word}` is faster than the rate itself", span, "only `raise … at most` may exceed it")
    return found


def lower_raise(item: ast.Raise, base: k.Pace | None, context: ExpressionContext) -> k.Raise | None:
    factor = Decimal(item.factor[1:])
    if factor <= 1:
        context.report("E910", f"`{item.factor}` does not raise the rate", item.span, "write a factor above one: `x2`")
    most, condition = lower_pace(item.at_most, item.span, context), lower_condition(item.when, context)
    if most and base and base.faster_than(most):
        context.report("E910", "`at most` is slower than the rate itself", item.span, "only `clamp` may lower it")
    return (
        None
        if most is None or condition is None
        else k.Raise(factor.as_integer_ratio(), most, condition, span=item.span)
    )


# ── Budgets ───────────────────────────────────────────────────────────────────────────────────


def lower_budget(declared: ast.BudgetDecl, package: str, draft: LoweringContext) -> k.Budget | None:
    place = lower_limit_place(declared, package, draft)
    context = limit_context(place, package, draft)
    items = [item for item in declared.items if isinstance(item, ast.BudgetLimit)]
    if not items:
        hint = "write the amount and the period: `count <= 5 within 1h`"
        context.report("E910", "this budget has no limit", declared.name.span, hint)
    quotas = tuple(lower_budget_limit(item, context) for item in items)
    when = None if declared.when is None else lower_condition(declared.when, context)
    if place is None:
        return None
    return k.Budget(
        declared.name.value,
        package,
        place,
        lower_limit_keys(declared, context),
        when,
        tuple(one for one in quotas if one is not None),
        lower_store_failure(declared, context),
        span=limit_head_span(declared),
    )


def lower_budget_limit(item: ast.BudgetLimit, context: ExpressionContext) -> k.BudgetLimit | None:
    fact = None
    if item.fact is not None:
        summed = Scalar.NUMBER if item.function == "sum" else None
        fact = lower_counted(ast.Reference(item.fact.text, span=item.fact.span), context, summed)
    written = ast.Reference(item.bound.text, span=item.bound.span) if isinstance(item.bound, ast.Name) else item.bound
    bound = lower_counted(written, context, Scalar.NUMBER)
    within = parse_duration(item.within.text)
    if not within:
        context.report(
            "E910", "a budget with a period of zero limits nothing", item.within.span, "write how long: `24h`"
        )
    if isinstance(bound, k.Constant) and isinstance(bound.value, int | Decimal) and bound.value * MICRO > MAX_UNITS:
        context.report("E910", NOT_COUNTABLE, bound.span, "use a smaller number")
    if bound is None or not within or (item.fact is not None and fact is None):
        return None
    return k.BudgetLimit(item.function, fact, bound, within, rule_text(item.span), span=item.span)
