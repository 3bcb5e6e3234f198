"""Explains rates and budgets, the last gate: the key, the pace and the remaining capacity of each limit."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from itertools import zip_longest

from policyengine import kernel as k
from policyengine.explain.lines import ExplanationLine, Mark, expression_line, fact_line, mark_of, note_of, source_text
from policyengine.runtime.decision import Decision, Gate, Outcome, RateState
from policyengine.runtime.format_values import format_value
from policyengine.runtime.limits import LimitCharge, RateCharge
from policyengine.runtime.values import Unknown, Value
from policyengine.spec import trace as w
from policyengine.spec.facts import Facts
from policyengine.spec.limits import format_pace, is_alone, limit_charges, unknown_limit_inputs
from policyengine.time_formats import format_duration

UNTIL_APPROVED = "not charged before the approval"


def limits_line(decision: Decision, facts: Facts, seen: w.DecisionTrace) -> ExplanationLine:
    """Return the line for all limits. Their state comes from the decision, so explaining reads and spends nothing."""
    left = iter(decision.rates)
    lines = tuple(_limit(one, _states(one, decision, seen, left), decision, facts) for one in seen.limited)
    stops = any(line.mark in (Mark.NO, Mark.UNKNOWN) for line in lines)
    return ExplanationLine(mark_of(not stops), "rates and budgets", parts=lines)


States = tuple[tuple[LimitCharge, RateState | None], ...]


def _states(seen: w.LimitTrace, decision: Decision, walk: w.DecisionTrace, left: Iterator[RateState]) -> States:
    """Return the charges of the limit, each with its state; a decision has the states in the order of the charges."""
    if not seen.acts or unknown_limit_inputs(seen) or not walk.identified:
        return ()
    denied = decision.outcome is Outcome.DENY
    told = tuple(
        one for one in limit_charges(seen) if not denied or (isinstance(one.charge, RateCharge) and one.charge.counts)
    )
    states = ((one, next(left, None)) for one in told)
    return tuple((charged_part(one, state), state) for one, state in states)


def charged_part(limit: LimitCharge, state: RateState | None) -> LimitCharge:
    """Return the part of a limit that a member of a group was charged, by the state of the limit in the decision."""
    own = limit.own
    if own is None or state is None or not isinstance(own.charge, RateCharge):
        return limit
    return own if state.limit == own.charge.flow.most else limit


def _limit(seen: w.LimitTrace, states: States, decision: Decision, facts: Facts) -> ExplanationLine:
    limit = seen.limit
    word = "budget" if isinstance(limit, k.Budget) else "rate"
    name, at = f"{word} {format_value(limit.name)}", limit.span.at
    if not seen.covers:
        return ExplanationLine(Mark.SKIPPED, name, "not about this endpoint", at)
    condition = () if limit.when is None else (expression_line(limit.when, facts),)
    if not seen.acts:
        return ExplanationLine(Mark.SKIPPED, name, "does not apply", at, condition)
    keys = tuple(_fact(key, known) for key, known in zip(limit.keys, seen.keys, strict=True))
    parts = (*condition, *keys, *(_budget(limit, seen) if isinstance(limit, k.Budget) else _rate(limit, seen, facts)))
    stand = _charge_lines(limit, states, decision, is_member=not is_alone(seen.size))
    if unknown_limit_inputs(seen):
        note = "stops: its cost or its key is unknown"
        return ExplanationLine(Mark.UNKNOWN, name, note, at, (*parts, *stand))
    full = any(_is_full(one, decision) for one, _ in states)
    return ExplanationLine(mark_of(not full), name, _note(limit, states, seen), at, (*parts, *stand))


def _note(limit: k.Limit, states: States, seen: w.LimitTrace) -> str | None:
    unknown = "applies, because a fact is unknown" if seen.condition is not True else None
    words = [
        unknown,
        None if limit.keys else "one counter for all",
        None if states else "does not count denied requests",
    ]
    return "; ".join(one for one in words if one) or None


def _fact(expression: k.Expr, known: Value) -> ExplanationLine:
    return fact_line(source_text(expression), known)


# ── Inputs of a limit ─────────────────────────────────────────────────────────────────────────────


def _rate(rate: k.Rate, seen: w.LimitTrace, facts: Facts) -> Iterator[ExplanationLine]:
    if isinstance(rate.pace, k.PaceByFact):
        yield _fact(rate.pace.count, seen.count)
    if rate.cost is not None:
        line = _fact(rate.cost, seen.cost)
        yield ExplanationLine(line.mark, f"cost {line.text}", line.note)
    if seen.size != 1:
        yield fact_line("cluster.size", seen.size)
    raises, clamps = seen.moves[: len(rate.raises)], seen.moves[len(rate.raises) :]
    for up, holds in zip(rate.raises, raises, strict=True):
        mark, note = (Mark.YES, "acts") if holds is True else (Mark.SKIPPED, _idle_reason(holds))
        yield ExplanationLine(mark, _adjustment_head(up), note, up.span.at, (expression_line(up.when, facts),))
    for down, holds in zip(rate.clamps, clamps, strict=True):
        note = "does not act now" if holds is False else "acts" if holds is True else f"acts, because {note_of(holds)}"
        mark = Mark.SKIPPED if holds is False else Mark.NO
        yield ExplanationLine(mark, _adjustment_head(down), note, down.span.at, (expression_line(down.when, facts),))


def _idle_reason(holds: Value) -> str:
    return f"does not act, because {note_of(holds)}" if isinstance(holds, Unknown) else "does not act"


def _adjustment_head(move: k.Raise | k.Clamp) -> str:
    """Return the text before the condition: `raise x3 at most 300/1m`."""
    return source_text(move).partition(" when ")[0]


def _budget(budget: k.Budget, seen: w.LimitTrace) -> Iterator[ExplanationLine]:
    for quota, (bound, amount) in zip(budget.quotas, seen.quotas, strict=True):
        if quota.fact is not None:
            yield _fact(quota.fact, amount)
        if not isinstance(quota.bound, k.Constant):
            yield _fact(quota.bound, bound)


# ── State of a limit ─────────────────────────────────────────────────────────────────────────────


def _charge_lines(limit: k.Limit, states: States, decision: Decision, is_member: bool) -> Iterator[ExplanationLine]:
    """Yield a line for each charge: `100/1m burst 20: 19 of 20 left`. The remaining capacity is known only if the
    decision contains it. For a member of a group, the text is that of the part that was charged.
    """
    for (text, at), state in zip_longest(_charge_labels(limit), states):
        one, how = state or (None, None)
        words = one.words if one is not None and is_member and isinstance(one.charge, RateCharge) else text
        full = one is not None and _is_full(one, decision)
        waits = decision.outcome is Outcome.CONFIRM and one is not None and not isinstance(one.charge, RateCharge)
        left = None if how is None else f"{_left(how)}; {UNTIL_APPROVED}" if waits else _left(how)
        yield ExplanationLine(mark_of(not full), words, left, at)


def _charge_labels(limit: k.Limit) -> Iterator[tuple[str, str]]:
    """Yield the text and place of each charge, in the order of the charges."""
    if isinstance(limit, k.Budget):
        yield from ((quota.words, quota.span.at) for quota in limit.quotas)
        return
    if limit.pace is not None:
        yield format_pace(limit.pace), limit.span.at
    if limit.at_once is not None:
        yield source_text(limit.at_once), limit.at_once.span.at


def _left(how: RateState) -> str:
    words = f"{how.remaining} of {how.limit} left"
    if how.reset_ms:
        words += f", full again in {format_duration(timedelta(milliseconds=how.reset_ms))}"
    return words if how.factor == 1 else f"{words}, at {how.factor:.3g} times the pace"


def _is_full(one: LimitCharge, decision: Decision) -> bool:
    return any(
        reason.gate in (Gate.RATE, Gate.BUDGET)
        and reason.outcome is Outcome.THROTTLE
        and (reason.rule, reason.at) == (one.name, one.at)
        and f"`{one.words}`" in reason.message
        for reason in decision.reasons
    )
