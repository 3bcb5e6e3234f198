"""Charges steady rates of many decisions in one call to Redis, and interprets the levels in its answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Any, NamedTuple

from msgspec import msgpack

from policyengine.runtime.decision import Effects
from policyengine.runtime.limits import (
    MAX_UNITS,
    BucketParameters,
    ChargeResult,
    CountKey,
    LimitCharge,
    LimitState,
    RateCharge,
)
from policyengine.stores.redis.connection import RedisScript
from policyengine.stores.transition import CHARGE_KINDS

RATES = RedisScript.of("rates.lua")
MAX_AMOUNT = 2 * MAX_UNITS  # above every limit, so that larger amounts need not be distinguished
MAX_DECISIONS_PER_CALL = 128  # maximum decisions in one call, because a call blocks the server
COMMAND_HEAD = b"*%%d\r\n$7\r\nEVALSHA\r\n$40\r\n%b\r\n$%%d\r\n%%d\r\n%%b$%%d\r\n%%b\r\n" % RATES.sha.encode()


def has_only_steady_rates(effects: Effects) -> bool:
    """Return whether the only effects of a decision are charges to steady rates at their usual pace."""
    if effects.spends or effects.opens or effects.denied or effects.records or effects.relied or effects.behavior:
        return False
    for limit in effects.limits:
        charge = limit.charge
        if type(charge) is not RateCharge or not charge.steady or charge.clamps or charge.counts:
            return False
    return True


class RateProfile(NamedTuple):
    """The common part of all charges with one pace; `begun` is the state of the digest after the common prefix of their
    keys.
    """

    begun: Any
    need: int
    full: int
    most: int
    drain: int
    token: int
    tick: int
    passable: bool

    @property
    def asked(self) -> tuple[int, int, int, int]:
        return min(self.need, MAX_AMOUNT), self.full, self.drain, self.tick

    def key(self, key: CountKey) -> bytes:
        """Return the same bytes as `charge_digest` of `stores/transition.py`."""
        found = self.begun.copy()
        for part in key:
            found.update(f"{len(part)}:{part}".encode("utf-8", "surrogatepass"))
        return b"$51\r\npolicyengine:state:%b\r\n" % found.hexdigest().encode()

    def standing(self, level: int, passed: bool, taken: bool) -> LimitState:
        """Return the same state as `charge_rate` and `uncharged_state` of runtime/limits.py."""
        after = level + self.need
        left = after if taken else level
        reset = -(-left // self.drain) * self.tick
        retry = 0 if passed else -(-(after - self.full) // self.drain) * self.tick if self.passable else None
        return LimitState(passed, self.most, max(0, self.full - left) // self.token, reset, retry)


@lru_cache(maxsize=4_096)
def rate_script_arguments(rule: str, cost: int, flow: BucketParameters, token: int, tick: int) -> RateProfile:
    parts = CHARGE_KINDS[RateCharge], rule, str(token), str(tick)
    text = "".join(f"{len(part)}:{part}" for part in parts)
    begun = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16)
    return RateProfile(begun, cost * token, flow.most * token, flow.most, flow.drain, token, tick, cost <= flow.most)


class RateBatch:
    """One script call for many decisions that charge only steady rates."""

    __slots__ = ("_many", "words")

    def __init__(self, many: Iterable[Sequence[LimitCharge]], now: int | bool) -> None:
        self._many: list[list[RateProfile]] = []
        keys: dict[bytes, int] = {}
        paces: dict[RateProfile, int] = {}
        asked: list[list[int]] = []
        for limits in many:
            mine, row = [], []
            for limit in limits:
                charge: Any = limit.charge
                pace = rate_script_arguments(charge.rule, charge.cost, charge.flow, charge.token, charge.tick)
                mine.append(pace)
                row.append(keys.setdefault(pace.key(charge.key), len(keys) + 1))
                row.append(paces.setdefault(pace, len(paces) + 1))
            self._many.append(mine)
            asked.append(row)
        argument = msgpack.encode((now, [pace.asked for pace in paces], asked))
        self.words = COMMAND_HEAD % (
            len(keys) + 4,
            len(str(len(keys))),
            len(keys),
            b"".join(keys),
            len(argument),
            argument,
        )

    def __len__(self) -> int:
        return len(self._many)

    def settled(self, answer: bytes) -> list[ChargeResult]:
        """Return the result of each decision, computed from the levels before the decision."""
        now, *levels = msgpack.decode(answer)
        found, place = [], 0
        for paces in self._many:
            until = place + len(paces)
            found.append(ChargeResult(limit_states(paces, levels[place:until]), now))
            place = until
        return found


def limit_states(paces: Sequence[RateProfile], levels: Sequence[int]) -> tuple[LimitState, ...]:
    if len(paces) == 1:
        (pace,), (level,) = paces, levels
        passed = level + pace.need <= pace.full
        return (pace.standing(level, passed, passed),)
    passes = [level + pace.need <= pace.full for pace, level in zip(paces, levels, strict=True)]
    taken = all(passes)
    rows = zip(paces, levels, passes, strict=True)
    return tuple([pace.standing(level, passed, taken) for pace, level, passed in rows])
