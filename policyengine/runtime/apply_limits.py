"""What becomes of a decision once it is known how its limits stand."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from functools import lru_cache
from typing import Any, NamedTuple

from msgspec.structs import replace

from policyengine.runtime.decision import OPERATOR_OBLIGATIONS, Answer, Decision, Gate, Outcome, Reason, Remedy
from policyengine.runtime.format_values import format_duration
from policyengine.runtime.limits import STORE_UNANSWERED, BudgetCharge, LimitCharge, LimitResult, LimitState

MILLISECOND = timedelta(milliseconds=1)


def apply_limits(decision: Decision, limits: Sequence[LimitCharge], standings: Sequence[LimitState]) -> Decision:
    """The decision with the state of its limits; a throttle, where one of them does not admit it."""
    answer = decision.answer
    stood = tuple(map(LimitResult, limits, standings))
    full = [one for one in zip(limits, standings, strict=True) if not one[1][0]]
    if full and answer.outcome is not Outcome.DENY:
        answer = throttle_answer(answer, full)
    return Decision(answer, decision.asker, decision.stamp, stood)


# Who is throttled asks again and again, within the same millisecond, too: what is said then is made and written once.
_throttle_cache: dict[tuple[Any, ...], tuple[Answer, Answer]] = {}
MAX_CACHED_THROTTLES = 1_024


def throttle_answer(answer: Answer, full: Sequence[tuple[LimitCharge, LimitState]]) -> Answer:
    """What the answer comes to where these limits have no room."""
    told = tuple([throttle_reason(*one) for one in full])
    key = (id(answer), told)
    known = _throttle_cache.get(key)
    if known is not None:  # of that very answer: it is kept as long as its number is
        return known[1]
    if len(_throttle_cache) >= MAX_CACHED_THROTTLES:
        _throttle_cache.clear()
    made = Answer(
        Outcome.THROTTLE,
        told[0].gate,
        (*map(format_throttle_reason, told), *answer.reasons),
        tuple(wait for one in told for wait in wait_remedies(one)),
        tuple(duty for duty in answer.obligations if duty.kind in OPERATOR_OBLIGATIONS),
        answer.unknown,
        answer.package,
        answer.revision,
    )
    _throttle_cache[key] = answer, made
    return made


class ThrottleReason(NamedTuple):
    """All that is said of a limit without room; `wait` in milliseconds, None where waiting is of no use."""

    gate: Gate
    name: str
    at: str
    words: str
    wait: int | None


def throttle_reason(limited: LimitCharge, standing: LimitState) -> ThrottleReason:
    charge, name, at, words = limited
    wait = standing[4]
    gate = Gate.BUDGET if isinstance(charge, BudgetCharge) else Gate.RATE
    return ThrottleReason(gate, name, at, words, None if wait is None else -(-wait // 1_000))


def format_throttle_reason(told: ThrottleReason) -> Reason:
    again = "more than that is never let through" if told.wait is None else f"again in {format_milliseconds(told.wait)}"
    return Reason(told.gate, f"`{told.words}`: {again}", told.name, told.at, Outcome.THROTTLE)


def wait_remedies(told: ThrottleReason) -> tuple[Remedy, ...]:
    return () if told.wait is None else (Remedy("wait", told.name, within=format_milliseconds(told.wait)),)


@lru_cache(maxsize=4_096)  # one millisecond is told of by several rules
def format_milliseconds(milliseconds: int) -> str:
    return format_duration(milliseconds * MILLISECOND)


def deny_unanswered(
    decision: Decision,
    limits: Sequence[LimitCharge],
    *,
    approved: bool,
    remembered: bool = False,
    why: str = STORE_UNANSWERED,
) -> Decision:
    """A deny, where the store did not answer: at gate `failure`, for each rule that says so. `approved`: it would have
    spent an approval, which nobody can tell from one that was used. `remembered`: history is to know of it, or it rests
    on what history knew."""
    answer = decision.answer
    if answer.outcome is Outcome.DENY:
        return decision
    reasons = [
        Reason(Gate.FAILURE, f"`{one.words}`: {why}", one.name, one.at)
        for one in limits
        if one.charge.failing == "deny"
    ]
    if approved:
        reasons.append(Reason(Gate.FAILURE, f"the approval cannot be spent: {why}", "approval"))
    if remembered:
        reasons.append(Reason(Gate.FAILURE, f"the request cannot be remembered: {why}", "history"))
    denied = replace(
        answer,
        outcome=Outcome.DENY,
        gate=Gate.FAILURE,
        reasons=(*reasons, *answer.reasons),
        remedies=(),
        obligations=tuple(duty for duty in answer.obligations if duty.kind in OPERATOR_OBLIGATIONS),
        written={},
    )
    return replace(decision, answer=denied)
