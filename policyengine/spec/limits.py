"""The charges of a request to rates and budgets: the last gate of the executable specification.

This gate creates charges but does not decide, because the state is in a store, which answers all charges of a request
in one step.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from math import ceil

from policyengine import kernel as k
from policyengine.runtime.format_values import canonical_json
from policyengine.runtime.limits import (
    MAX_UNITS,
    MICRO,
    BucketParameters,
    BudgetCharge,
    ClampCharge,
    ClampedPace,
    ConcurrencyCharge,
    LimitCharge,
    RateCharge,
)
from policyengine.runtime.values import Unknown, Value
from policyengine.spec import trace as w
from policyengine.spec.evaluate import evaluate
from policyengine.spec.facts import Facts, has_agent, own_cluster, presenter_of
from policyengine.spec.limit_keys import count_key
from policyengine.spec.match_endpoint import place_covers
from policyengine.spec.rate_units import floors_of, to_microseconds, unit_of_rate
from policyengine.time_formats import format_duration
from policyengine.typesystem import EntityRef, Scalar
from policyengine.vocabulary import CLUSTER_SIZE


def trace_limits(facts: Facts) -> tuple[w.LimitTrace, ...]:
    """Trace every rate and budget. If the place of a limit does not cover the endpoint, none of its expressions is
    evaluated.
    """

    def seen(one: k.Limit) -> w.LimitTrace:
        if not place_covers(one.place, facts.request.endpoint):
            return w.LimitTrace(one, False)
        condition: Value = True if one.when is None else evaluate(one.when, facts)
        keys = tuple(count_key(key, evaluate(key, facts)) for key in one.keys)
        if isinstance(one, k.Budget):
            quotas = tuple(
                (
                    evaluate(quota.bound, facts),
                    1 if quota.fact is None else budget_amount(quota, evaluate(quota.fact, facts)),
                )
                for quota in one.quotas
            )
            return w.LimitTrace(one, True, condition, keys, quotas=quotas)
        cost = 1 if one.cost is None else request_count(evaluate(one.cost, facts), one.cost, 0)
        pace = one.pace
        count = request_count(evaluate(pace.count, facts), pace.count, 1) if isinstance(pace, k.PaceByFact) else 1
        moves = tuple(
            evaluate(when, facts) for when in (*(up.when for up in one.raises), *(down.when for down in one.clamps))
        )
        size, own = group_inputs(facts) if floors_of(one) else (1, "")
        return w.LimitTrace(one, True, condition, keys, cost, count, moves, size=size, own=own)

    return tuple(seen(one) for one in facts.kernel.limits)


def group_inputs(facts: Facts) -> tuple[Value, Value]:
    """Return the size of the caller's group, and the key of the caller in its group."""
    return facts.read(CLUSTER_SIZE, Scalar.INT), own_cluster(presenter_of(facts), has_agent(facts.request))


def request_count(found: Value, expression: k.Expr, least: int) -> Value:
    """Return a number of requests. A fraction is rounded against the caller; a number below `least` is unknown."""
    if isinstance(found, Unknown):
        return found
    assert isinstance(found, int | Decimal)
    whole = ceil(found) if least == 0 else int(found)
    return whole if whole >= least else Unknown.of(_words(expression), f"less than {least}")


def budget_amount(quota: k.BudgetLimit, found: Value) -> Value:
    """Return the amount that the request adds to the budget; unknown for a negative amount of a sum."""
    if quota.function == "sum" and isinstance(found, int | Decimal) and found < 0:
        assert quota.fact is not None
        return Unknown.of(_words(quota.fact), "below zero")
    return found


def _words(expression: k.Expr) -> str:
    return " ".join(expression.span.text.split())


def unknown_limit_inputs(seen: w.LimitTrace) -> tuple[Unknown, ...]:
    """Return the unknown inputs of the limit; with any of them, the limit cannot count the request."""
    needed = (*seen.keys, seen.cost, seen.count, *(one for pair in seen.quotas for one in pair), seen.size, seen.own)
    return tuple(one for one in needed if isinstance(one, Unknown))


def limit_charges(seen: w.LimitTrace) -> Iterator[LimitCharge]:
    """Yield the charges for the store. All inputs must be known."""
    one, key = seen.limit, tuple(map(key_text, seen.keys))
    name = f"{one.package}/{one.name}"
    if isinstance(one, k.Budget):
        for number, (quota, (bound, amount)) in enumerate(zip(one.quotas, seen.quotas, strict=True), 1):
            rule = f"{name}#{number}"
            yield LimitCharge(
                _budget_charge(rule, key, one, quota, bound, amount), one.name, quota.span.at, quota.words
            )
        return
    if one.pace is not None:
        charge = _rate_charge(name, key, one, seen)
        clamps = tuple(
            ClampedPace(clamp.flow, format_pace(down.pace))
            for clamp, down in zip(charge.clamps, one.clamps, strict=True)
        )
        whole = LimitCharge(charge, one.name, one.span.at, format_pace(one.pace), clamps)
        yield whole if is_alone(seen.size) else divide_charge(whole, one, seen)
    if one.at_once is not None:
        held = ConcurrencyCharge(
            f"{name}#at once", key, one.at_once.most, to_microseconds(one.at_once.lease), one.failing
        )
        yield LimitCharge(held, one.name, one.at_once.span.at, " ".join(one.at_once.span.text.split()))


def key_text(known: Value) -> str:
    if isinstance(known, str):
        return known
    return str(known) if isinstance(known, EntityRef) else json.dumps(canonical_json(known), sort_keys=True)


def _rate_charge(rule: str, key: tuple[str, ...], rate: k.Rate, seen: w.LimitTrace) -> RateCharge:
    """Return the charge in units of the rate: with the pace of the smallest true raise, and with every clamp."""
    assert rate.pace is not None
    of, pace = unit_of_rate(rate), rate.pace
    assert isinstance(seen.cost, int)
    assert isinstance(seen.count, int)
    count = seen.count if isinstance(pace, k.PaceByFact) else pace.count
    burst = count if pace.burst is None else pace.burst
    count, burst = min(count, of.most), min(burst, of.most)
    base = of.flow(count, to_microseconds(pace.within), burst)
    raised = [
        raise_flow(base, one, of.flow(one.at_most.count, to_microseconds(one.at_most.within), one.at_most.burst))
        for one, holds in zip(rate.raises, seen.moves, strict=False)
        if holds is True
    ]
    flow = min(raised, key=lambda one: (one.drain, one.most), default=base)
    clamps = tuple(
        ClampCharge(
            of.flow(one.pace.count, to_microseconds(one.pace.within), one.pace.burst),
            holds is not False,
            to_microseconds(one.lasts) // of.tick if holds is True and one.lasts is not None else 0,
        )
        for one, holds in zip(rate.clamps, seen.moves[len(rate.raises) :], strict=True)
    )
    cost = min(seen.cost, of.most)
    steady = isinstance(pace, k.Pace) and not rate.raises and not rate.clamps
    return RateCharge(rule, key, cost, flow, of.token, of.tick, clamps, rate.counting_denials, steady, rate.failing)


def is_alone(size: object) -> bool:
    """Return whether a caller does not share the limit with a group of this size."""
    return not isinstance(size, int | Decimal) or size <= 1


def divide_charge(whole: LimitCharge, rate: k.Rate, seen: w.LimitTrace) -> LimitCharge:
    """Return the charge of a member of a group: its own part, with the pace of the floor, and what remains of the rate
    for all members. If the floors of all members leave nothing, each member has only its own part.

    Only requests of the member itself count for its own part, so no other caller takes the floor away. The clamps of
    the rate apply to both parts.
    """
    charge = whole.charge
    assert isinstance(charge, RateCharge)
    assert rate.floor is not None
    assert isinstance(seen.size, int | Decimal)
    assert isinstance(seen.own, str)
    of, size = unit_of_rate(rate), int(seen.size)
    least = of.flow(rate.floor.count, to_microseconds(rate.floor.within), rate.floor.burst)
    part = BucketParameters(min(least.most, charge.flow.most), min(least.drain, charge.flow.drain))
    own = charge._replace(rule=f"{charge.rule}#floor", key=(*charge.key, seen.own), flow=part, steady=False)
    single = whole._replace(charge=own, words=f"floor {format_pace(rate.floor)}")
    left = charge.flow.drain - size * part.drain
    if left <= 0:
        return single
    rest = BucketParameters(max(charge.flow.most - size * part.most, 1), left)
    words = f"{whole.words} shared by {size} callers"
    return whole._replace(charge=charge._replace(flow=rest, steady=False), words=words, own=single)


def raise_flow(base: BucketParameters, one: k.Raise, most: BucketParameters) -> BucketParameters:
    """Return the raised flow and burst, which are at most those of `most` and at least those of the rate."""
    times, by = one.factor
    drain, burst = min(base.drain * times // by, most.drain), min(base.most * times // by, most.most)
    return BucketParameters(max(base.most, burst), max(base.drain, drain))


def _budget_charge(
    rule: str, key: tuple[str, ...], budget: k.Budget, quota: k.BudgetLimit, bound: Value, amount: Value
) -> BudgetCharge:
    assert isinstance(bound, int | Decimal)
    # A fact may exceed the numbers that stores count exactly, so the bound is capped. Constants in policies cannot
    # exceed them.
    within, most = to_microseconds(quota.within), min(int(Fraction(bound) * MICRO), MAX_UNITS)
    if quota.function == "distinct":
        return BudgetCharge(rule, key, most, within, value=key_text(amount), failing=budget.failing)
    assert isinstance(amount, int | Decimal)
    whole = min(ceil(Fraction(amount) * MICRO), MAX_UNITS + 1)
    return BudgetCharge(rule, key, most, within, whole, failing=budget.failing)


def format_pace(pace: k.Pace | k.PaceByFact) -> str:
    """Return the pace as the policy writes it."""

    count = str(pace.count) if isinstance(pace, k.Pace) else " ".join(pace.count.span.text.split())
    burst = "" if pace.burst is None or pace.burst == pace.count else f" burst {pace.burst}"
    return f"{count}/{format_duration(pace.within)}{burst}"
