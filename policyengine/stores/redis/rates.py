"""Plain rates of many decisions as one call to Redis, and what the levels that it answers mean."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Any, NamedTuple

from msgspec import msgpack

from policyengine.runtime.decision import Effects
from policyengine.runtime.limits import LARGEST, Flow, Key, Limited, Settled, Standing, Take
from policyengine.stores.redis.connection import Script
from policyengine.stores.transition import KINDS

RATES = Script.of("rates.lua")
MOST = 2 * LARGEST  # more than any limit: no amount needs to be told from it
AT_ONCE = 128  # decisions in one call: nobody else is answered meanwhile
HEAD = b"*%%d\r\n$7\r\nEVALSHA\r\n$40\r\n%b\r\n$%%d\r\n%%d\r\n%%b$%%d\r\n%%b\r\n" % RATES.sha.encode()


def plain(effects: Effects) -> bool:
    """Whether a decision asks for rates alone, at the pace of everybody, and is charged if they admit it."""
    if effects.spends or effects.opens or effects.denied or effects.records or effects.relied:
        return False
    for one in effects.limits:
        charge = one.charge
        if type(charge) is not Take or not charge.steady or charge.clamps or charge.counts:
            return False
    return True


class Pace(NamedTuple):
    """What all charges of one pace have in common; `begun` is the beginning of the digest that their keys have."""

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
        return min(self.need, MOST), self.full, self.drain, self.tick

    def key(self, key: Key) -> bytes:
        """As `digest` of step.py names it."""
        found = self.begun.copy()
        for part in key:
            found.update(f"{len(part)}:{part}".encode("utf-8", "surrogatepass"))
        return b"$51\r\npolicyengine:state:%b\r\n" % found.hexdigest().encode()

    def standing(self, level: int, passed: bool, taken: bool) -> Standing:
        """As `take` and `untouched` of runtime/limits.py say it."""
        after = level + self.need
        left = after if taken else level
        reset = -(-left // self.drain) * self.tick
        retry = 0 if passed else -(-(after - self.full) // self.drain) * self.tick if self.passable else None
        return Standing(passed, self.most, max(0, self.full - left) // self.token, reset, retry)


@lru_cache(maxsize=4_096)
def pace_of(rule: str, cost: int, flow: Flow, token: int, tick: int) -> Pace:
    parts = KINDS[Take], rule, str(token), str(tick)
    text = "".join(f"{len(part)}:{part}" for part in parts)
    begun = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16)
    return Pace(begun, cost * token, flow.most * token, flow.most, flow.drain, token, tick, cost <= flow.most)


class Call:
    """One script for many decisions, by the limits of each: they are `plain`."""

    __slots__ = ("_many", "words")

    def __init__(self, many: Iterable[Sequence[Limited]], now: int | bool) -> None:
        self._many: list[list[Pace]] = []
        keys: dict[bytes, int] = {}
        paces: dict[Pace, int] = {}
        asked: list[list[int]] = []
        for limits in many:
            mine, row = [], []
            for one in limits:
                charge: Any = one.charge
                pace = pace_of(charge.rule, charge.cost, charge.flow, charge.token, charge.tick)
                mine.append(pace)
                row.append(keys.setdefault(pace.key(charge.key), len(keys) + 1))
                row.append(paces.setdefault(pace, len(paces) + 1))
            self._many.append(mine)
            asked.append(row)
        argument = msgpack.encode((now, [pace.asked for pace in paces], asked))
        self.words = HEAD % (len(keys) + 4, len(str(len(keys))), len(keys), b"".join(keys), len(argument), argument)

    def __len__(self) -> int:
        return len(self._many)

    def settled(self, answer: bytes) -> list[Settled]:
        """By the levels that there were before each."""
        now, *levels = msgpack.decode(answer)
        found, place = [], 0
        for paces in self._many:
            until = place + len(paces)
            found.append(Settled(standings(paces, levels[place:until]), now))
            place = until
        return found


def standings(paces: Sequence[Pace], levels: Sequence[int]) -> tuple[Standing, ...]:
    if len(paces) == 1:
        (pace,), (level,) = paces, levels
        passed = level + pace.need <= pace.full
        return (pace.standing(level, passed, passed),)
    passes = [level + pace.need <= pace.full for pace, level in zip(paces, levels, strict=True)]
    taken = all(passes)
    rows = zip(paces, levels, passes, strict=True)
    return tuple([pace.standing(level, passed, taken) for pace, level, passed in rows])
