"""What is read and checked but not enforced yet: rates, budgets, profiles, invariants, maps. Each use is an error."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import assert_never

from policyengine.kinds import Scalar
from policyengine.runtime.literals import parse_duration
from policyengine.semantics import kernel as k
from policyengine.semantics.context import Context
from policyengine.semantics.draft import Draft
from policyengine.semantics.expressions import lower_condition, lower_value
from policyengine.semantics.schema import EVERYWHERE
from policyengine.source import Span
from policyengine.syntax import nodes as ast

RATE = re.compile(r"([0-9][0-9_]*)/([0-9]+(?:ms|s|m|h|d))")
REMOVE = "remove it: a policy that only seems to limit something would be worse than none"


@dataclass(frozen=True, slots=True)
class Pace:
    """So many in so long."""

    count: int
    within: timedelta

    def faster_than(self, other: Pace) -> bool:
        return self.count * other.within > other.count * self.within


def check_later(draft: Draft) -> None:
    for package, rate in draft.declared(ast.RateDecl):
        refuse("E903", "rate", rate, rate.name.span, draft)
        check_rate(rate, context_of(rate, package, draft))
    for package, budget in draft.declared(ast.BudgetDecl):
        refuse("E904", "budget", budget, budget.name.span, draft)
        check_budget(budget, context_of(budget, package, draft))
    for package, profile in draft.declared(ast.ProfileDecl):
        refuse("E905", "profile", profile, profile.name.span, draft)
        draft.places.patterns([step.target for step in profile.steps], package)
    for package, invariant in draft.declared(ast.InvariantDecl):
        refuse("E906", "invariant", invariant, invariant.name.span, draft)
        check_invariant(invariant, package, draft)
    for package, mapped in draft.declared(ast.MapDecl):
        refuse("E907", "map", mapped, mapped.protocol.span, draft)
        check_map(mapped, package, draft)


def refuse(code: str, word: str, declared: ast.Node, name: Span, draft: Draft) -> None:
    span = Span(name.source, declared.span.start, name.end)
    draft.report(code, f"`{word}` is not enforced yet", span, REMOVE)


def context_of(declared: ast.RateDecl | ast.BudgetDecl, package: str, draft: Draft) -> Context:
    place = draft.places.place(declared.place, package) if declared.place else k.Place(None, span=declared.span)
    context = draft.context(package, draft.places.here(place) if place else EVERYWHERE)
    for key in declared.per:
        lower_value(ast.Reference(key.text, span=key.span), context)
    if declared.when is not None:
        lower_condition(declared.when, context)
    return context


# ── Rates ─────────────────────────────────────────────────────────────────────────────────────


def check_rate(rate: ast.RateDecl, context: Context) -> None:
    limits = [item for item in rate.items if isinstance(item, ast.RateLimit)]
    base = pace(limits[0].rate, limits[0].span, context) if limits else None
    if not limits:
        context.report("E910", "this rate has no limit", rate.name.span, "write how many in how long: `100/1m`")
    for extra in limits[1:]:
        context.report("E910", "a rate has one limit", extra.span, "write another rate for another limit")
    for item in rate.items:
        match item:
            case ast.RateLimit(_, burst):
                if burst is not None:
                    whole(burst, context)
            case ast.RateFloor(text):
                check_below(text, item.span, base, "floor", context)
            case ast.CountingDenials():
                pass
            case ast.Raise():
                check_raise(item, base, context)
            case ast.Clamp(text, _, when):
                check_below(text, item.span, base, "clamp", context)
                lower_condition(when, context)
            case _:
                assert_never(item)


def pace(text: str, span: Span, context: Context) -> Pace | None:
    match = RATE.fullmatch(text)
    within = parse_duration(match[2]) if match else None
    count = int(match[1].replace("_", "")[:18]) if match else 0
    if not within or not count:
        hint = "write how many in how long, neither of them zero: `100/1m`"
        context.report("E910", f"`{text}` is no pace", span, hint)
        return None
    return Pace(count, within)


def check_below(text: str, span: Span, base: Pace | None, word: str, context: Context) -> None:
    found = pace(text, span, context)
    if found and base and found.faster_than(base):
        context.report("E910", f"`{word}` is faster than the rate itself", span, "only `raise … at most` goes above it")


def check_raise(item: ast.Raise, base: Pace | None, context: Context) -> None:
    if Decimal(item.factor[1:]) <= 1:
        context.report("E910", f"`{item.factor}` raises nothing", item.span, "write a factor above one: `x2`")
    most = pace(item.at_most, item.span, context)
    if most and base and base.faster_than(most):
        context.report("E910", "`at most` is slower than the rate itself", item.span, "only `clamp` goes below it")
    lower_condition(item.when, context)


def whole(literal: ast.Literal, context: Context) -> None:
    if not literal.text.replace("_", "").isdigit() or int(literal.text.replace("_", "")[:18]) < 1:
        context.report("E910", f"`{literal.text}` is no number of requests", literal.span, "write `1` or more")


# ── Budgets, invariants, maps ─────────────────────────────────────────────────────────────────


def check_budget(budget: ast.BudgetDecl, context: Context) -> None:
    for item in budget.items:
        summed = Scalar.NUMBER if item.function == "sum" else None
        if item.fact is not None:
            lower_value(ast.Reference(item.fact.text, span=item.fact.span), context, summed)
        bound = item.bound
        written = ast.Reference(bound.text, span=bound.span) if isinstance(bound, ast.Name) else bound
        lower_value(written, context, Scalar.NUMBER)
        if parse_duration(item.within.text) == timedelta(0):
            context.report("E910", "a budget of no time limits nothing", item.within.span, "write how long: `24h`")


def check_invariant(invariant: ast.InvariantDecl, package: str, draft: Draft) -> None:
    for claim in invariant.claims:
        here = draft.places.facts_here(claim.targets, package)
        if claim.when is not None:
            draft.condition(claim.when, package, here or EVERYWHERE)


def check_map(mapped: ast.MapDecl, package: str, draft: Draft) -> None:
    """Endpoints of a map may hold facts of the other protocol in braces; they are read when maps are."""
    for item in mapped.items:
        if isinstance(item, ast.MapEntity):
            draft.program.find(package, "entity", item.entity)
