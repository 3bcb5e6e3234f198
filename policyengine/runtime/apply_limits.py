"""Applies the states of rates and budgets to a decision."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from functools import lru_cache
from typing import Any, NamedTuple

from msgspec.structs import replace

from policyengine.runtime.decision import OPERATOR_OBLIGATIONS, Answer, Decision, Gate, Outcome, Reason, Remedy
from policyengine.runtime.limits import STORE_UNANSWERED, BudgetCharge, LimitCharge, LimitState
from policyengine.time_formats import format_duration

MILLISECOND = timedelta(milliseconds=1)


def apply_limits(decision: Decision, limits: Sequence[LimitCharge], standings: Sequence[LimitState]) -> Decision:
    """Return the decision with the states of its limits; a throttle if a limit has no capacity left and the decision is
    not a deny.
    """
    answer = decision.answer
    stood = tuple(zip(limits, standings, strict=True))
    for state in standings:
        if not state[0] and answer.outcome is not Outcome.DENY:
            answer = throttle_answer(answer, [one for one in stood if not one[1][0]])
            break
    return Decision(answer, decision.asker, decision.stamp, stood)


# Throttled callers retry within the same millisecond, so their answer is created and encoded once.
_throttle_cache: dict[tuple[Any, ...], tuple[Answer, Answer]] = {}
MAX_CACHED_THROTTLES = 1_024


def throttle_answer(answer: Answer, full: Sequence[tuple[LimitCharge, LimitState]]) -> Answer:
    """Return the throttle that replaces `answer` when these limits have no capacity left."""
    parts = tuple([throttle_parts(*one) for one in full])
    key = (id(answer), parts)
    known = _throttle_cache.get(key)
    if known is not None:  # the entry keeps its answer alive, so the id still belongs to it
        return known[1]
    if len(_throttle_cache) >= MAX_CACHED_THROTTLES:
        _throttle_cache.clear()
    told = [ThrottleReason(*one) for one in parts]
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
    """The parts of a throttle reason. `wait` is in milliseconds; None if waiting does not help."""

    gate: Gate
    name: str
    at: str
    words: str
    wait: int | None


def throttle_parts(limited: LimitCharge, state: LimitState) -> tuple[Gate, str, str, str, int | None]:
    """Return the members of a ThrottleReason, which is created only for a new answer."""
    wait = state[4]
    gate = Gate.BUDGET if type(limited.charge) is BudgetCharge else Gate.RATE
    return gate, limited.name, limited.at, limited.words_at(state), None if wait is None else -(-wait // 1_000)


def format_throttle_reason(told: ThrottleReason) -> Reason:
    again = (
        "the request is larger than the limit" if told.wait is None else f"again in {format_milliseconds(told.wait)}"
    )
    return Reason(told.gate, f"{told.words}: {again}", told.name, told.at, Outcome.THROTTLE)


def wait_remedies(told: ThrottleReason) -> tuple[Remedy, ...]:
    return () if told.wait is None else (Remedy("wait", told.name, within=format_milliseconds(told.wait)),)


@lru_cache(maxsize=4_096)  # several limits may have the same wait
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
    """Return a deny at gate `failure` for a store that did not answer, with one reason for each limit that fails
    closed.

    `approved` means that the decision would spend an approval, which may have been used already. `remembered` means
    that the history must record the decision, or that the decision depends on the history.
    """
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
        reasons.append(Reason(Gate.FAILURE, f"the request cannot be recorded: {why}", "history"))
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
