"""The keys, the argument and the answer of the script that commits a decision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, assert_never

from msgspec import msgpack

from policyengine.runtime.behavior import BehaviorCharge
from policyengine.runtime.decision import Effects
from policyengine.runtime.history import HistoryRecord, WindowKey
from policyengine.runtime.idempotent_decision import draft_charges
from policyengine.runtime.limits import (
    MICRO,
    BudgetCharge,
    Charge,
    ChargeResult,
    ConcurrencyCharge,
    LimitState,
    RateCharge,
)
from policyengine.stores.behavior import REPORTABLE_SECONDS
from policyengine.stores.history_rows import encode_record_facts, history_key, watch_key
from policyengine.stores.redis.behavior import charge_members, encode_reportable
from policyengine.stores.redis.connection import RedisScript
from policyengine.stores.redis.rates import MAX_AMOUNT
from policyengine.stores.transition import approval_lifetime, charge_digest, digest_parts, receipt_name

PREFIX = "policyengine"
RATE, BUDGET, HOLD = 1, 2, 3
STEP = RedisScript.of("past.lua", "behavior.lua", "step.lua")


class RedisKeys(NamedTuple):
    """The keys of histories that are stored together."""

    prefix: str = PREFIX

    @property
    def begun(self) -> str:
        return f"{self.prefix}:begun"

    @property
    def changes(self) -> str:
        return f"{self.prefix}:changes"

    @property
    def clock(self) -> str:
        """The key of the latest time, so that time never runs backwards even if the server's clock does."""
        return f"{self.prefix}:clock"

    def line(self, key: WindowKey) -> str:
        return f"{self.prefix}:line:{history_key(key)}"

    def awaited(self, decision: str) -> str:
        return f"{self.prefix}:awaited:{digest_parts(decision)}"


DEFAULT_KEYS = RedisKeys()


def effect_keys(effects: Effects) -> list[str]:
    return [
        *(state_key(one.charge) for one in effects.limits),
        *map(approval_key, effects.spends),
        *(receipts_key(one.charge) for one in effects.limits if effects.confirms),
    ]


def state_key(charge: Charge) -> str:
    return f"{PREFIX}:state:{charge_digest(charge)}"


def approval_key(approval: str) -> str:
    return f"{PREFIX}:spent:{digest_parts(approval)}"


def receipts_key(charge: Charge) -> str:
    """Return the key of receipts, in the slot of the state, so that a Cluster changes both in one step."""
    return f"{PREFIX}:receipts:{{{state_key(charge)}}}"


def encode_step(effects: Effects, decision: str, now: int | None, *, peek: bool, clocked: bool) -> bytes:
    """Encode the argument for `step.lua`."""
    charges = [encode_charge(one.charge) for one in effects.limits]
    name = receipt_name(effects.confirms) or False
    opens = approval_lifetime(effects.opens) if effects.opens else False
    given = False if now is None else now
    versions = [version for _, version in effects.relied]
    records = [encode_record(one) for one in effects.records]
    how = given, decision, peek, effects.denied, clocked
    step = *how, charges, len(effects.spends), name, opens, versions, records
    behavior = shared_behavior(effects, peek=peek)
    return msgpack.encode(step if behavior is None else (*step, encode_behavior(behavior, decision)))


def encode_behavior(charge: BehaviorCharge, decision: str) -> tuple[object, ...]:
    reportable = encode_reportable(charge, decision) if charge.allowed else False
    return charge_members(charge), reportable, REPORTABLE_SECONDS


def shared_behavior(effects: Effects, *, peek: bool) -> BehaviorCharge | None:
    """Return the charge of the event that the step adds to a caller in this store, or None if it adds no event."""
    behavior = effects.behavior
    return behavior if isinstance(behavior, BehaviorCharge) and not peek else None


def encode_record(record: HistoryRecord) -> tuple[object, ...]:
    outputs = record.outputs if record.awaits else False
    return watch_key(record.watch), record.within, record.latest, encode_record_facts(record), outputs


def record_key(record: HistoryRecord) -> WindowKey:
    return record.watch, record.key


def encode_charge(charge: Charge) -> tuple[object, ...]:
    match charge:
        case RateCharge():
            need, cost = min(charge.cost * charge.token, MAX_AMOUNT), min(charge.cost, MAX_AMOUNT)
            clamps = [(one.flow.most, one.flow.drain, one.acts, one.lasts) for one in charge.clamps]
            most, drain = charge.flow
            counted = charge.counts, charge.latching
            return RATE, need, cost, charge.token, most, drain, charge.tick, *counted, clamps
        case BudgetCharge():
            value = False if charge.value is None else charge.value
            return BUDGET, charge.bound, charge.within, min(charge.amount, MAX_AMOUNT), value
        case ConcurrencyCharge():
            return HOLD, charge.most, charge.lease
        case _:
            assert_never(charge)


def decode_charge_result(charges: Sequence[Charge], answer: bytes) -> ChargeResult:
    now, admitted, found = msgpack.decode(answer)
    stands = [
        decode_limit_state(charge, passed, numbers if admitted or not passed else untouched)
        for charge, (passed, numbers, untouched, _) in zip(charges, found, strict=True)
    ]
    return ChargeResult(tuple(stands), now)


def decode_draft_result(draft: bytes, answer: bytes) -> ChargeResult:
    """Decode the stored answer for a decision whose draft was kept."""
    return decode_charge_result(draft_charges(draft), answer)


def decode_limit_state(charge: Charge, admitted: bool, numbers: Sequence[int]) -> LimitState:
    match charge:
        case RateCharge():
            most, left, reset, retry, drain = numbers
            pace = drain / charge.flow.drain
            return LimitState(admitted, most, left, reset * charge.tick, to_microseconds(retry, charge.tick), pace)
        case BudgetCharge():
            total, reset, retry, _, _ = numbers
            left = max(0, charge.bound - total) // MICRO
            return LimitState(admitted, charge.bound // MICRO, left, reset, to_microseconds(retry))
        case ConcurrencyCharge():
            left, reset, retry, _, _ = numbers
            return LimitState(admitted, charge.most, left, reset, retry)
        case _:
            assert_never(charge)


def to_microseconds(many: int, tick: int = 1) -> int | None:
    return None if many < 0 else many * tick
