"""The charges of a request to the rates and budgets of its endpoint."""

from __future__ import annotations

from typing import Any, Final

from policyengine import kernel as k
from policyengine.evaluator.fact_reader import own_cluster, owner
from policyengine.evaluator.rules import LimitRule
from policyengine.evaluator.state import State
from policyengine.runtime.limits import LimitCharge, RateCharge
from policyengine.runtime.values import Unknown
from policyengine.spec import limits as spec_limits
from policyengine.spec.limits import budget_amount, key_text, request_count
from policyengine.spec.trace import LimitTrace

MAX_PREPARED: Final = 64  # kept charges of a limit


class LimitInputs:
    """The inputs of a limit that applies to a request: its key and, if its charge is prepared, the values of its raises
    and clamps (None for an unknown one), otherwise its trace. `unknown` are the unknown inputs; with any of them, the
    limit cannot count the request. `size` is the size of the caller's group, and `own` the caller, if the limit has a
    floor.
    """

    __slots__ = ("keys", "moves", "own", "rule", "size", "trace", "unknown")

    def __init__(
        self,
        rule: LimitRule,
        keys: tuple[Any, ...],
        moves: tuple[object, ...],
        trace: LimitTrace | None,
        unknown: tuple[Unknown, ...],
        size: Any = 1,
        own: Any = "",
    ) -> None:
        self.size = size
        self.own = own
        self.rule = rule
        self.keys = keys
        self.moves = moves
        self.trace = trace
        self.unknown = unknown


def is_preparable(limit: k.Limit) -> bool:
    """Return whether the charge of a limit follows from its key and from which raises and clamps act: the limit is a
    rate with a constant pace and a cost of one."""
    return isinstance(limit, k.Rate) and isinstance(limit.pace, k.Pace) and limit.cost is None and limit.at_once is None


def prepared_charge(rule: LimitRule, moves: tuple[Any, ...], size: Any = 1) -> LimitCharge:
    """Return the charge without its key."""
    prepared = rule.prepared
    assert prepared is not None
    known = (*moves, size) if rule.size is not None else moves
    found = prepared.get(known)
    if found is None:
        (found,) = spec_limits.limit_charges(LimitTrace(rule.limit, True, moves=moves, size=size))
        if len(prepared) >= MAX_PREPARED:
            prepared.clear()
        prepared[known] = found
    return found


def read_limits(st: State) -> list[LimitInputs]:
    """Return the limits of the endpoint whose condition is true or unknown, with their inputs."""
    found = []
    for rule in st.rules.limits:
        if rule.condition is None or rule.condition.get(st) is not False:
            found.append(read_limit(st, rule))
    return found


def read_limit(st: State, rule: LimitRule) -> LimitInputs:
    keys = tuple([node.get(st) for node in rule.keys])
    if rule.prepared is not None:
        moves = tuple([truth_of(move.get(st)) for move in rule.moves]) if rule.moves else ()
        if rule.size is None:
            return LimitInputs(rule, keys, moves, None, tuple([key for key in keys if type(key) is Unknown]))
        size, own = rule.size.get(st), own_cluster(owner(st))
        unknown = tuple([one for one in (*keys, size, own) if type(one) is Unknown])
        return LimitInputs(rule, keys, moves, None, unknown, size, own)
    trace = trace_limit(st, rule, keys)
    return LimitInputs(rule, keys, (), trace, spec_limits.unknown_limit_inputs(trace))


def truth_of(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def trace_limit(st: State, rule: LimitRule, keys: tuple[Any, ...]) -> LimitTrace:
    limit = rule.limit
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
    moves = tuple([move.get(st) for move in rule.moves])
    if rule.size is None:
        return LimitTrace(limit, True, True, keys, cost, count, moves)
    own: Any = own_cluster(owner(st))
    return LimitTrace(limit, True, True, keys, cost, count, moves, size=rule.size.get(st), own=own)


def limit_charges(one: LimitInputs) -> list[LimitCharge]:
    """Return the charges for the store. All inputs must be known."""
    if one.rule.prepared is None:
        assert one.trace is not None
        return list(spec_limits.limit_charges(one.trace))
    found = prepared_charge(one.rule, one.moves, one.size)
    prepared, name, at, words, paces, own = found
    assert isinstance(prepared, RateCharge)
    key = tuple([part if type(part) is str else key_text(part) for part in one.keys])
    if one.rule.size is not None and not spec_limits.is_alone(one.size):
        return [keyed_charge(found, key, one.own)]
    rule, _, cost, flow, token, tick, clamps, counts, steady, failing = prepared
    charge = RateCharge(rule, key, cost, flow, token, tick, clamps, counts, steady, failing)
    return [LimitCharge(charge, name, at, words, paces, own)]


def keyed_charge(prepared: LimitCharge, key: tuple[str, ...], own: str) -> LimitCharge:
    """Return the prepared charge of a member of a group, with the key of the group and the member's own key."""
    charge = prepared.charge
    if prepared.own is None:
        return prepared._replace(charge=charge._replace(key=(*key, own)))
    single = prepared.own._replace(charge=prepared.own.charge._replace(key=(*key, own)))
    return prepared._replace(charge=charge._replace(key=key), own=single)
