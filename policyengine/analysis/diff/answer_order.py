"""Keys of decisions, and whether one decision allows more or less than another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import TypeAlias, TypeVar

from policyengine.analysis.diff.approval_binding import binds_no_less
from policyengine.runtime.decision import Decision, Outcome
from policyengine.spec.approval_digest import ACTION_OBJECTS, HTTP_OBJECTS, TOOL_OBJECTS, describe_object
from policyengine.time_formats import parse_duration

# The key of a decision: its outcome, each approval that a confirm requires, and its obligations. A confirm has the
# obligations of the allow that follows it; approvals are counted, because each approval is one person's answer to one
# rule.
AnswerKey: TypeAlias = tuple[tuple[str, ...], ...]
Item = TypeVar("Item")
REASON, OBLIGE, CONFIRM = "reason", "oblige", "confirm"
DEFAULT_BINDINGS = frozenset(tuple(map(describe_object, one)) for one in (TOOL_OBJECTS, ACTION_OBJECTS, HTTP_OBJECTS))
MAX_NAMED_RULES = 5  # maximum rules named for a region without proof
OUTCOMES_STRICTEST_FIRST = (Outcome.DENY, Outcome.THROTTLE, Outcome.CONFIRM, Outcome.ALLOW)


class Direction(StrEnum):
    """The direction of a change: `widening` grants access or drops an obligation, `narrowing` does the reverse;
    `changed` may be either, as with other approvers; `reasons` is the same answer with other reasons or messages.
    """

    WIDENING = "widening"
    CHANGED = "changed"
    NARROWING = "narrowing"
    REASONS = "reasons"


def answer_of(decision: Decision, duties: Iterable[tuple[str, ...]] = ()) -> AnswerKey:
    """Return the key of a decision, without names and messages of rules and without remedies. `duties` are obligations
    that an allow would add to the decision.
    """
    carried = {(OBLIGE, one.kind, *one.arguments) for one in decision.obligations}.union(duties)
    approvals = [one for one in decision.remedies if one.kind == "approval"]
    asked = [(CONFIRM, one.by or "", one.within or "any time", *(one.bound or ())) for one in approvals]
    stopped = [(str(decision.outcome),)] if decision.outcome in (Outcome.DENY, Outcome.THROTTLE) else []
    return tuple(sorted((*stopped, *(() if stopped else asked), *carried)))


def full_answer_of(decision: Decision, duties: Iterable[tuple[str, ...]] = ()) -> AnswerKey:
    """Return the key with all reasons, remedies and obligations, without source positions and digests."""
    reasons = ((REASON, str(one.gate), one.rule or "", one.message, str(one.outcome)) for one in decision.reasons)
    remedies = (
        (REASON, one.kind, one.rule or "", one.by or "", one.within or "", one.need or "", *(one.scopes or ()))
        for one in decision.remedies
    )
    told = ((REASON, one.kind, *one.arguments, one.rule, one.message or "") for one in decision.obligations)
    return (*answer_of(decision, duties), *sorted({*reasons, *remedies, *told}))


def without_reasons(answer: AnswerKey) -> AnswerKey:
    return tuple(key for key in answer if key[0] != REASON)


def outcome_of(answer: AnswerKey) -> Outcome:
    kinds = {key[0] for key in answer}
    return next((one for one in OUTCOMES_STRICTEST_FIRST if str(one) in kinds), Outcome.ALLOW)


def details_of(answer: AnswerKey) -> tuple[str, ...]:
    """Return the approvals and the obligations of an answer as text."""

    def words(key: tuple[str, ...]) -> str:
        if key[0] == CONFIRM:
            bound = f" bound to ({', '.join(key[3:])})" if key[3:] not in DEFAULT_BINDINGS else ""
            return f"{key[1]}{'' if key[2] == 'any time' else f' within {key[2]}'}{bound}"
        return " ".join(key[1:])

    return tuple(sorted(words(key) for key in without_reasons(answer) if len(key) > 1))


def format_answer(outcome: Outcome, details: tuple[str, ...]) -> str:
    return f"{outcome} ({'; '.join(details)})" if details else str(outcome)


def answer_direction(old: AnswerKey, new: AnswerKey) -> Direction:
    """Return the direction of a change. A weaker outcome widens access, and so does a dropped obligation or
    confirmation, or an approval that lasts longer or is bound to less.
    """
    old, new = without_reasons(old), without_reasons(new)
    before, after = OUTCOMES_STRICTEST_FIRST.index(outcome_of(old)), OUTCOMES_STRICTEST_FIRST.index(outcome_of(new))
    if old == new:
        return Direction.REASONS
    if before != after:
        return Direction.WIDENING if after > before else Direction.NARROWING
    if covers_answer(new, old):
        return Direction.NARROWING
    return (
        Direction.WIDENING if covers_answer(old, new) or outcome_of(old) is not Outcome.CONFIRM else Direction.CHANGED
    )


def covers_answer(answer: AnswerKey, other: AnswerKey) -> bool:
    """Return whether `answer` has each obligation of `other`, and for each approval of `other` one that is at least as
    strict.
    """
    duties, others = ({key for key in one if key[0] != CONFIRM} for one in (answer, other))
    asked, wanted = ([key for key in one if key[0] == CONFIRM] for one in (answer, other))
    return others <= duties and all_approvals_met(wanted, asked)


def all_approvals_met(wanted: Sequence[tuple[str, ...]], asked: Sequence[tuple[str, ...]]) -> bool:
    """Return whether each wanted approval can be matched with a different approval in `asked`."""
    owner: dict[int, int] = {}

    def met(number: int, tried: set[int]) -> bool:
        for place, one in enumerate(asked):
            if place not in tried and is_no_laxer(one, wanted[number]):
                tried.add(place)
                if place not in owner or met(owner[place], tried):
                    owner[place] = number
                    return True
        return False

    return all(met(number, set()) for number in range(len(wanted)))


def is_no_laxer(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Return whether both approvals require the same approvers, and `one` lasts no longer and is bound to no less than
    `other`.
    """
    return one[:2] == other[:2] and lasts_no_longer(one[2], other[2]) and binds_no_less(one[3:], other[3:])


def lasts_no_longer(one: str, other: str) -> bool:
    if one == other or other == "any time":
        return True
    lasts, longer = parse_duration(one), parse_duration(other)
    return lasts is not None and longer is not None and lasts <= longer
