"""The stored form of a decision for repeats of its idempotency key: all parts that the store does not add itself."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple, assert_never

from msgspec import MsgspecError, Struct, msgpack

from policyengine.runtime.apply_limits import apply_limits
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
from policyengine.runtime.limits import (
    BucketParameters,
    BudgetCharge,
    Charge,
    ChargeResult,
    ClampedPace,
    ConcurrencyCharge,
    LimitCharge,
    RateCharge,
)
from policyengine.runtime.request import Approval
from policyengine.runtime.values import Invalid

MAX_INT64 = 2**63 - 1


class LimitRecord(Struct, frozen=True, array_like=True):
    """A limit without its key. `numbers` are drain, token, tick and size of a rate, bound and window of a budget, or
    size and lease of a concurrency limit; `clamps` are drain, size and text of each clamp of a rate."""

    kind: str
    name: str
    at: str
    words: str
    numbers: tuple[int, ...]
    clamps: tuple[tuple[int, int, str], ...] = ()


class GrantRecord(Struct, frozen=True, array_like=True):
    """An approval that a person gave for the request."""

    id: str
    by: str
    granted_at: datetime | None
    binding: str | None
    issuer: str | None = None


class DecisionDraft(Struct, frozen=True, array_like=True):
    """A stored decision.

    `moment` is the time of the decision in nanoseconds. `spent` are approvals that were used before, `spends` the
    approvals that it uses. `past` is the log entry of the history that it used. `proved` holds the facts proved by
    credentials, because a proof cannot be used again, and `granted` the approvals that people gave.
    """

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
    limits: tuple[LimitRecord, ...]
    proved: bytes = b""
    granted: tuple[GrantRecord, ...] = ()

    @property
    def approvals(self) -> tuple[Approval, ...]:
        """The approvals that people gave for the request."""
        return tuple(Approval(one.id, one.by, one.granted_at, one.binding, issuer=one.issuer) for one in self.granted)


class IdempotentDecision(NamedTuple):
    """A decision; `again` is True if it repeats an earlier decision with the same key."""

    decision: Decision
    again: bool


_decoder = msgpack.Decoder(DecisionDraft)


def encode_draft(
    decision: Decision,
    effects: Effects,
    spent: frozenset[str],
    past: bytes,
    moment: int,
    proved: bytes = b"",
    granted: tuple[Approval, ...] = (),
) -> bytes:
    answer = decision.answer
    return msgpack.encode(
        DecisionDraft(
            moment, tuple(sorted(spent)), effects.spends, past, decision.id, decision.principal, answer.outcome,
            answer.gate, answer.reasons, answer.remedies, answer.obligations, answer.unknown, answer.package,
            answer.revision, tuple(map(to_limit_record, effects.limits)), proved,
            tuple([GrantRecord(one.id, one.by, one.granted_at, one.binding, one.issuer) for one in granted]),
        )
    )  # fmt: skip


def decode_draft(draft: bytes) -> DecisionDraft:
    """Decode a draft. Raises ValueError."""
    return _decoder.decode(draft)


def restore_decision(draft: DecisionDraft, found: ChargeResult) -> Decision:
    """Return the decision as it was returned before. Raises ValueError."""
    said = (draft.reasons, draft.remedies, draft.obligations, draft.unknown, draft.package, draft.revision)
    decision = Decision(Answer(draft.outcome, draft.gate, *said), draft.principal, draft.id)
    return apply_limits(decision, tuple(map(from_limit_record, draft.limits)), found.standings)


def draft_charges(draft: bytes) -> tuple[Charge, ...]:
    """Return the charges of a draft. They contain only what is needed to read the states of the limits from the answer
    of a store: no rule, key or amount. Raises ValueError.
    """
    return tuple(from_limit_record(line).charge for line in decode_draft(draft).limits)


def to_limit_record(limit: LimitCharge) -> LimitRecord:
    kind, numbers = charge_numbers(limit.charge)
    clamps = tuple((to_int64(one.flow.drain), to_int64(one.flow.most), one.words) for one in limit.clamps)
    return LimitRecord(kind, limit.name, limit.at, limit.words, tuple(map(to_int64, numbers)), clamps)


def to_int64(number: int) -> int:
    return min(number, MAX_INT64)


def charge_numbers(charge: Charge) -> tuple[str, tuple[int, ...]]:
    match charge:
        case RateCharge():
            return "rate", (charge.flow.drain, charge.token, charge.tick, charge.flow.most)
        case BudgetCharge():
            return "budget", (charge.bound, charge.within)
        case ConcurrencyCharge():
            return "at once", (charge.most, charge.lease)
        case _:
            assert_never(charge)


def from_limit_record(line: LimitRecord) -> LimitCharge:
    clamps = tuple(ClampedPace(BucketParameters(most, drain), words) for drain, most, words in line.clamps)
    return LimitCharge(restore_charge(line), line.name, line.at, line.words, clamps)


def restore_charge(line: LimitRecord) -> Charge:
    match line.kind, line.numbers:
        case "rate", (drain, token, tick, most):
            return RateCharge("", (), 0, BucketParameters(most, drain), token, tick)
        case "budget", (bound, within):
            return BudgetCharge("", (), bound, within)
        case "at once", (most, lease):
            return ConcurrencyCharge("", (), most, lease)
        case _:
            raise ValueError("the data is not a draft of a decision")


# ── Proved facts ───────────────────────────────────────────────────────────────────────────

EXT_NUMBER, EXT_INTEGER, EXT_INVALID = 1, 2, 3


def encode_facts(facts: Mapping[str, object]) -> bytes:
    """Return the encoded facts; empty if a fact cannot be encoded, in which case the record of a repeat shows no proved
    facts.
    """
    try:
        return msgpack.encode(pack_fact(facts))
    except (MsgspecError, TypeError, ValueError, OverflowError):
        return b""


def decode_facts(kept: bytes) -> dict[str, object]:
    """Decode proved facts. Raises ValueError."""
    found = unpack_fact(msgpack.decode(kept, ext_hook=unpack_extension)) if kept else {}
    if not isinstance(found, dict):
        raise ValueError("the data is not an object of facts")
    return found


def pack_fact(value: object) -> object:
    match value:
        case Mapping():
            return {name: pack_fact(one) for name, one in value.items()}
        case list() | tuple():
            return [pack_fact(one) for one in value]
        case Decimal():
            return msgpack.Ext(EXT_NUMBER, str(value).encode())
        case bool():
            return value
        case int() if not -MAX_INT64 <= value <= MAX_INT64:
            return msgpack.Ext(EXT_INTEGER, str(value).encode())
        case Invalid(why):
            return msgpack.Ext(EXT_INVALID, why.encode())
        case _:
            return value


def unpack_fact(value: object) -> object:
    match value:
        case dict():
            return {name: unpack_fact(one) for name, one in value.items()}
        case list():
            return tuple(map(unpack_fact, value))
        case _:
            return value


def unpack_extension(code: int, data: memoryview) -> object:
    text = bytes(data).decode()
    return Decimal(text) if code == EXT_NUMBER else int(text) if code == EXT_INTEGER else Invalid(text)
