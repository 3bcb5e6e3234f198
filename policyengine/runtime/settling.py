"""What becomes of a decision once it is known how its limits stand."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from functools import lru_cache

from msgspec.structs import replace

from policyengine.runtime.decision import FOR_THE_OPERATOR, Decision, Gate, Outcome, Reason, Remedy
from policyengine.runtime.limits import Add, Limited, Standing, Stood
from policyengine.runtime.show import duration

MILLISECOND = timedelta(milliseconds=1)
UNANSWERED = "the store did not answer"


def settled(decision: Decision, limits: Sequence[Limited], standings: Sequence[Standing]) -> Decision:
    """The decision with the state of its limits; a throttle, where one of them does not admit it."""
    answer = decision.answer
    stood = tuple(map(Stood, limits, standings))
    full = [(one, how) for one, how in zip(limits, standings, strict=True) if not how.admitted]
    if not full or answer.outcome is Outcome.DENY:
        return replace(decision, standings=stood)
    reasons = tuple(reason(one, how) for one, how in full)
    throttled = replace(
        answer,
        outcome=Outcome.THROTTLE,
        gate=reasons[0].gate,
        reasons=(*reasons, *answer.reasons),
        remedies=tuple(wait for one, how in full for wait in waits(one, how)),
        obligations=tuple(duty for duty in answer.obligations if duty.kind in FOR_THE_OPERATOR),
        written={},
    )
    return replace(decision, answer=throttled, standings=stood)


def unanswered(decision: Decision, limits: Sequence[Limited], *, approved: bool, remembered: bool = False) -> Decision:
    """A deny, where the store did not answer: at gate `failure`, for each rule that says so. `approved`: it would have
    spent an approval, which nobody can tell from one that was used. `remembered`: history is to know of it, or it rests
    on what history knew."""
    answer = decision.answer
    if answer.outcome is Outcome.DENY:
        return decision
    reasons = [
        Reason(Gate.FAILURE, f"`{one.words}`: {UNANSWERED}", one.name, one.at)
        for one in limits
        if one.charge.failing == "deny"
    ]
    if approved:
        reasons.append(Reason(Gate.FAILURE, f"the approval cannot be spent: {UNANSWERED}", "approval"))
    if remembered:
        reasons.append(Reason(Gate.FAILURE, f"the request cannot be remembered: {UNANSWERED}", "history"))
    denied = replace(
        answer,
        outcome=Outcome.DENY,
        gate=Gate.FAILURE,
        reasons=(*reasons, *answer.reasons),
        remedies=(),
        obligations=tuple(duty for duty in answer.obligations if duty.kind in FOR_THE_OPERATOR),
        written={},
    )
    return replace(decision, answer=denied)


def reason(limited: Limited, standing: Standing) -> Reason:
    gate = Gate.BUDGET if isinstance(limited.charge, Add) else Gate.RATE
    again = "more than that is never let through" if standing.retry is None else f"again in {pause(standing.retry)}"
    return Reason(gate, f"`{limited.words}`: {again}", limited.name, limited.at, Outcome.THROTTLE)


def waits(limited: Limited, standing: Standing) -> tuple[Remedy, ...]:
    return () if standing.retry is None else (Remedy("wait", limited.name, within=pause(standing.retry)),)


def pause(microseconds: int) -> str:
    """How long, in whole milliseconds, never too short."""
    return lasting(-(-microseconds // 1_000))


@lru_cache(maxsize=4_096)  # who is throttled asks again and again, within the same wait
def lasting(milliseconds: int) -> str:
    return duration(milliseconds * MILLISECOND)
