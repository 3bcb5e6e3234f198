"""What becomes of a decision once it is known how its limits stand."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from functools import lru_cache
from typing import Any, NamedTuple

from msgspec.structs import replace

from policyengine.runtime.decision import FOR_THE_OPERATOR, Answer, Decision, Gate, Outcome, Reason, Remedy
from policyengine.runtime.format_values import duration
from policyengine.runtime.limits import UNANSWERED, Add, Limited, Standing, Stood

MILLISECOND = timedelta(milliseconds=1)


def settled(decision: Decision, limits: Sequence[Limited], standings: Sequence[Standing]) -> Decision:
    """The decision with the state of its limits; a throttle, where one of them does not admit it."""
    answer = decision.answer
    stood = tuple(map(Stood, limits, standings))
    full = [one for one in zip(limits, standings, strict=True) if not one[1][0]]
    if full and answer.outcome is not Outcome.DENY:
        answer = throttled(answer, full)
    return Decision(answer, decision.asker, decision.stamp, stood)


# Who is throttled asks again and again, within the same millisecond, too: what is said then is made and written once.
_said: dict[tuple[Any, ...], tuple[Answer, Answer]] = {}
MOST_SAID = 1_024


def throttled(answer: Answer, full: Sequence[tuple[Limited, Standing]]) -> Answer:
    """What the answer comes to where these limits have no room."""
    told = tuple([told_of(*one) for one in full])
    key = (id(answer), told)
    known = _said.get(key)
    if known is not None:  # of that very answer: it is kept as long as its number is
        return known[1]
    if len(_said) >= MOST_SAID:
        _said.clear()
    made = Answer(
        Outcome.THROTTLE,
        told[0].gate,
        (*map(reason, told), *answer.reasons),
        tuple(wait for one in told for wait in waits(one)),
        tuple(duty for duty in answer.obligations if duty.kind in FOR_THE_OPERATOR),
        answer.unknown,
        answer.package,
        answer.revision,
    )
    _said[key] = answer, made
    return made


class Told(NamedTuple):
    """All that is said of a limit without room; `wait` in milliseconds, None where waiting is of no use."""

    gate: Gate
    name: str
    at: str
    words: str
    wait: int | None


def told_of(limited: Limited, standing: Standing) -> Told:
    charge, name, at, words = limited
    wait = standing[4]
    gate = Gate.BUDGET if isinstance(charge, Add) else Gate.RATE
    return Told(gate, name, at, words, None if wait is None else -(-wait // 1_000))


def reason(told: Told) -> Reason:
    again = "more than that is never let through" if told.wait is None else f"again in {lasting(told.wait)}"
    return Reason(told.gate, f"`{told.words}`: {again}", told.name, told.at, Outcome.THROTTLE)


def waits(told: Told) -> tuple[Remedy, ...]:
    return () if told.wait is None else (Remedy("wait", told.name, within=lasting(told.wait)),)


@lru_cache(maxsize=4_096)  # one millisecond is told of by several rules
def lasting(milliseconds: int) -> str:
    return duration(milliseconds * MILLISECOND)


def unanswered(
    decision: Decision,
    limits: Sequence[Limited],
    *,
    approved: bool,
    remembered: bool = False,
    why: str = UNANSWERED,
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
        obligations=tuple(duty for duty in answer.obligations if duty.kind in FOR_THE_OPERATOR),
        written={},
    )
    return replace(decision, answer=denied)
