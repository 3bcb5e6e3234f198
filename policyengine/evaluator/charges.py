"""The charges of a request to the rates and budgets of its endpoint."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from policyengine import kernel as k
from policyengine.evaluator.program import LimitRule
from policyengine.evaluator.state import State
from policyengine.runtime.limits import LimitCharge
from policyengine.runtime.values import Unknown
from policyengine.spec import limits as spec_limits
from policyengine.spec.limit_keys import count_key
from policyengine.spec.limits import budget_amount, request_count
from policyengine.spec.trace import LimitTrace


class LimitInputs:
    """The inputs of a limit that acts on a request."""

    __slots__ = ("rule", "trace")

    def __init__(self, rule: LimitRule, trace: LimitTrace) -> None:
        self.rule = rule
        self.trace = trace


def read_limits(st: State) -> list[LimitInputs]:
    """Return the limits of the endpoint whose condition is true or unknown, with their inputs."""
    found = []
    for rule in st.rules.limits:
        if rule.condition is None or rule.condition.get(st) is not False:
            found.append(LimitInputs(rule, read_limit(st, rule)))
    return found


def read_limit(st: State, rule: LimitRule) -> LimitTrace:
    limit = rule.limit
    keys = tuple([count_key(expression, node.get(st)) for expression, node in rule.keys])
    if isinstance(limit, k.Budget):
        quotas = tuple(
            [
                (bound.get(st), 1 if fact is None else budget_amount(quota, fact.get(st)))
                for quota, (bound, fact) in zip(limit.quotas, rule.quotas, strict=True)
            ]
        )
        return LimitTrace(limit, True, True, keys, quotas=quotas)
    cost: Any = 1
    if rule.cost is not None:
        assert limit.cost is not None
        cost = request_count(rule.cost.get(st), limit.cost, 0)
    count: Any = 1
    if rule.count is not None:
        assert isinstance(limit.pace, k.PaceByFact)
        count = request_count(rule.count.get(st), limit.pace.count, 1)
    return LimitTrace(limit, True, True, keys, cost, count, tuple([move.get(st) for move in rule.moves]))


def unknown_inputs(one: LimitInputs) -> tuple[Unknown, ...]:
    """Return the unknowns among the inputs without which the limit cannot count."""
    return spec_limits.unknown_limit_inputs(one.trace)


def limit_charges(one: LimitInputs) -> Iterable[LimitCharge]:
    return spec_limits.limit_charges(one.trace)
