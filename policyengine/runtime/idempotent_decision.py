"""A decision as it is kept for whoever asks again by the same key: all that the store does not find out itself."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import NamedTuple, assert_never

from msgspec import MsgspecError, Struct, msgpack

from policyengine.runtime.apply_limits import settled
from policyengine.runtime.decision import (
    Answer,
    Decision,
    Effects,
    Gate,
    Obligation,
    Outcome,
    Principal,
    Reason,
    Remedy,
    UnknownFact,
)
from policyengine.runtime.limits import Add, Charge, Flow, Hold, Limited, Settled, Take
from policyengine.runtime.values import Invalid

LARGEST_KEPT = 2**63 - 1


class Line(Struct, frozen=True, array_like=True):
    """A limit, without whom it counts: what its state is told by, of a rate drain, token and tick, of a budget bound
    and window, of places how many and their lease."""

    kind: str
    name: str
    at: str
    words: str
    numbers: tuple[int, ...]


class Draft(Struct, frozen=True, array_like=True):
    """`moment` is the clock that it was decided by, in nanoseconds; `spent` are approvals that others had used then,
    `spends` those that it uses; `past` is what a log says of the history that it rests on, and `proved` the facts that
    credentials proved: nobody can prove them by the same proof again."""

    moment: int
    spent: tuple[str, ...]
    spends: tuple[str, ...]
    past: bytes
    id: str
    principal: Principal
    outcome: Outcome
    gate: Gate | None
    reasons: tuple[Reason, ...]
    remedies: tuple[Remedy, ...]
    obligations: tuple[Obligation, ...]
    unknown: tuple[UnknownFact, ...]
    package: str
    revision: str
    limits: tuple[Line, ...]
    proved: bytes = b""


class Accounted(NamedTuple):
    """A decision, and whether it was made before, `again` told by its key."""

    decision: Decision
    again: bool


_decoder = msgpack.Decoder(Draft)


def drafted(
    decision: Decision, effects: Effects, spent: frozenset[str], past: bytes, moment: int, proved: bytes = b""
) -> bytes:
    answer = decision.answer
    return msgpack.encode(
        Draft(
            moment, tuple(sorted(spent)), effects.spends, past, decision.id, decision.principal, answer.outcome,
            answer.gate, answer.reasons, answer.remedies, answer.obligations, answer.unknown, answer.package,
            answer.revision, tuple(map(line_of, effects.limits)), proved,
        )
    )  # fmt: skip


def draft_of(draft: bytes) -> Draft:
    """Raises ValueError."""
    return _decoder.decode(draft)


def told(draft: Draft, found: Settled) -> Decision:
    """The decision as it was told. Raises ValueError."""
    said = (draft.reasons, draft.remedies, draft.obligations, draft.unknown, draft.package, draft.revision)
    decision = Decision(Answer(draft.outcome, draft.gate, *said), draft.principal, draft.id)
    return settled(decision, tuple(map(limit_of, draft.limits)), found.standings)


def charges_of(draft: bytes) -> tuple[Charge, ...]:
    """The charges of a draft, as far as their states are told by them. Raises ValueError."""
    return tuple(limit_of(line).charge for line in draft_of(draft).limits)


def line_of(limit: Limited) -> Line:
    kind, numbers = numbers_of(limit.charge)
    return Line(kind, limit.name, limit.at, limit.words, tuple(min(one, LARGEST_KEPT) for one in numbers))


def numbers_of(charge: Charge) -> tuple[str, tuple[int, ...]]:
    match charge:
        case Take():
            return "rate", (charge.flow.drain, charge.token, charge.tick)
        case Add():
            return "budget", (charge.bound, charge.within)
        case Hold():
            return "at once", (charge.most, charge.lease)
        case _:
            assert_never(charge)


def limit_of(line: Line) -> Limited:
    return Limited(charge_of(line), line.name, line.at, line.words)


def charge_of(line: Line) -> Charge:
    match line.kind, line.numbers:
        case "rate", (drain, token, tick):
            return Take("", (), 0, Flow(0, drain), token, tick)
        case "budget", (bound, within):
            return Add("", (), bound, within)
        case "at once", (most, lease):
            return Hold("", (), most, lease)
        case _:
            raise ValueError("it is no draft of a decision")


# ── What was proved ───────────────────────────────────────────────────────────────────────────

NUMBER, INTEGER, INVALID = 1, 2, 3


def facts_kept(facts: Mapping[str, object]) -> bytes:
    """None where one of them cannot be kept: then a record of who asks again says nothing of what was proved."""
    try:
        return msgpack.encode(packed(facts))
    except (MsgspecError, TypeError, ValueError, OverflowError):
        return b""


def facts_of(kept: bytes) -> dict[str, object]:
    """Raises ValueError."""
    found = unpacked(msgpack.decode(kept, ext_hook=leaf)) if kept else {}
    if not isinstance(found, dict):
        raise ValueError("these are no facts")
    return found


def packed(value: object) -> object:
    match value:
        case Mapping():
            return {name: packed(one) for name, one in value.items()}
        case list() | tuple():
            return [packed(one) for one in value]
        case Decimal():
            return msgpack.Ext(NUMBER, str(value).encode())
        case bool():
            return value
        case int() if not -LARGEST_KEPT <= value <= LARGEST_KEPT:
            return msgpack.Ext(INTEGER, str(value).encode())
        case Invalid(why):
            return msgpack.Ext(INVALID, why.encode())
        case _:
            return value


def unpacked(value: object) -> object:
    match value:
        case dict():
            return {name: unpacked(one) for name, one in value.items()}
        case list():
            return tuple(map(unpacked, value))
        case _:
            return value


def leaf(code: int, data: memoryview) -> object:
    text = bytes(data).decode()
    return Decimal(text) if code == NUMBER else int(text) if code == INTEGER else Invalid(text)
