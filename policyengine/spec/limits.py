"""What a request takes of rates and budgets: the last gate of the executable specification.

It asks rather than decides: what is left stands in a store, which answers all charges of a request in one step.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from math import ceil

from policyengine import kernel as k
from policyengine.runtime.format_values import canonical, duration
from policyengine.runtime.limits import LARGEST, MICRO, Add, Clamped, Flow, Hold, Limited, Take
from policyengine.runtime.values import Unknown, Value
from policyengine.spec import trace as w
from policyengine.spec.count_keys import key_value
from policyengine.spec.evaluate import value
from policyengine.spec.facts import Facts
from policyengine.spec.match import place_covers
from policyengine.spec.rate_units import micros, unit
from policyengine.typesystem import EntityRef


def limited(facts: Facts) -> tuple[w.LimitedSeen, ...]:
    """Every rate and budget; one whose place does not cover the endpoint reads nothing."""

    def seen(one: k.Limit) -> w.LimitedSeen:
        if not place_covers(one.place, facts.request.endpoint):
            return w.LimitedSeen(one, False)
        facts.work.rule = one
        condition: Value = True if one.when is None else value(one.when, facts)
        keys = tuple(key_value(key, value(key, facts)) for key in one.keys)
        if isinstance(one, k.Budget):
            quotas = tuple(
                (value(quota.bound, facts), 1 if quota.fact is None else summand(quota, value(quota.fact, facts)))
                for quota in one.quotas
            )
            return w.LimitedSeen(one, True, condition, keys, quotas=quotas)
        cost = 1 if one.cost is None else natural(value(one.cost, facts), one.cost, 0)
        pace = one.pace
        count = natural(value(pace.count, facts), pace.count, 1) if isinstance(pace, k.PaceByFact) else 1
        moves = tuple(
            value(when, facts) for when in (*(up.when for up in one.raises), *(down.when for down in one.clamps))
        )
        return w.LimitedSeen(one, True, condition, keys, cost, count, moves)

    return tuple(seen(one) for one in facts.kernel.limits)


def natural(found: Value, expression: k.Expr, least: int) -> Value:
    """A number of requests; what is no whole one is rounded against the caller."""
    if isinstance(found, Unknown):
        return found
    assert isinstance(found, int | Decimal)
    whole = ceil(found) if least == 0 else int(found)
    return whole if whole >= least else Unknown.of(_words(expression), f"less than {least}")


def summand(quota: k.Quota, found: Value) -> Value:
    """What the request adds: it must be known, and not below zero."""
    if quota.function == "sum" and isinstance(found, int | Decimal) and found < 0:
        assert quota.fact is not None
        return Unknown.of(_words(quota.fact), "below zero")
    return found


def _words(expression: k.Expr) -> str:
    return " ".join(expression.span.text.split())


def doubts(seen: w.LimitedSeen) -> tuple[Unknown, ...]:
    """What must be known for it to count at all."""
    needed = (*seen.keys, seen.cost, seen.count, *(one for pair in seen.quotas for one in pair))
    return tuple(one for one in needed if isinstance(one, Unknown))


def charges(seen: w.LimitedSeen) -> Iterator[Limited]:
    """What it asks of the store. Nothing of it is unknown."""
    one, key = seen.limit, tuple(map(key_text, seen.keys))
    name = f"{one.package}/{one.name}"
    if isinstance(one, k.Budget):
        for number, (quota, (bound, amount)) in enumerate(zip(one.quotas, seen.quotas, strict=True), 1):
            rule = f"{name}#{number}"
            yield Limited(_add(rule, key, one, quota, bound, amount), one.name, quota.span.at, quota.words)
        return
    if one.pace is not None:
        yield Limited(_take(name, key, one, seen), one.name, one.span.at, pace_words(one.pace))
    if one.at_once is not None:
        held = Hold(f"{name}#at once", key, one.at_once.most, micros(one.at_once.lease), one.failing)
        yield Limited(held, one.name, one.at_once.span.at, " ".join(one.at_once.span.text.split()))


def key_text(known: Value) -> str:
    if isinstance(known, str):
        return known
    return str(known) if isinstance(known, EntityRef) else json.dumps(canonical(known), sort_keys=True)


def _take(rule: str, key: tuple[str, ...], rate: k.Rate, seen: w.LimitedSeen) -> Take:
    """All in units of the rate: the pace with the smallest raise that is true, and every clamp."""
    assert rate.pace is not None
    of, pace = unit(rate), rate.pace
    assert isinstance(seen.cost, int)
    assert isinstance(seen.count, int)
    count = seen.count if isinstance(pace, k.PaceByFact) else pace.count
    burst = count if pace.burst is None else pace.burst
    count, burst = min(count, of.most), min(burst, of.most)
    base = of.flow(count, micros(pace.within), burst)
    raised = [
        raised_to(base, one, of.flow(one.at_most.count, micros(one.at_most.within), one.at_most.burst))
        for one, holds in zip(rate.raises, seen.moves, strict=False)
        if holds is True
    ]
    flow = min(raised, key=lambda one: (one.drain, one.most), default=base)
    clamps = tuple(
        Clamped(
            of.flow(one.pace.count, micros(one.pace.within), one.pace.burst),
            holds is not False,
            micros(one.lasts) // of.tick if holds is True and one.lasts is not None else 0,
        )
        for one, holds in zip(rate.clamps, seen.moves[len(rate.raises) :], strict=True)
    )
    cost = min(seen.cost, of.most)
    steady = isinstance(pace, k.Pace) and not rate.raises and not rate.clamps
    return Take(rule, key, cost, flow, of.token, of.tick, clamps, rate.counting_denials, steady, rate.failing)


def raised_to(base: Flow, one: k.Raise, most: Flow) -> Flow:
    """So many times as fast, and as many at once, but not more than the raise allows, nor less than the rate itself."""
    times, by = one.factor
    drain, burst = min(base.drain * times // by, most.drain), min(base.most * times // by, most.most)
    return Flow(max(base.most, burst), max(base.drain, drain))


def _add(rule: str, key: tuple[str, ...], budget: k.Budget, quota: k.Quota, bound: Value, amount: Value) -> Add:
    assert isinstance(bound, int | Decimal)
    # What a fact says may be beyond what every store counts exactly, as no policy may say it: then that is the bound.
    within, most = micros(quota.within), min(int(Fraction(bound) * MICRO), LARGEST)
    if quota.function == "distinct":
        return Add(rule, key, most, within, value=key_text(amount), failing=budget.failing)
    assert isinstance(amount, int | Decimal)
    whole = min(ceil(Fraction(amount) * MICRO), LARGEST + 1)
    return Add(rule, key, most, within, whole, failing=budget.failing)


def pace_words(pace: k.Pace | k.PaceByFact) -> str:
    """The rate as the policy says it."""

    count = str(pace.count) if isinstance(pace, k.Pace) else " ".join(pace.count.span.text.split())
    burst = "" if pace.burst is None or pace.burst == pace.count else f" burst {pace.burst}"
    return f"{count}/{duration(pace.within)}{burst}"
