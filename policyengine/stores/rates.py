"""Plain rates of many decisions as one call to Redis, and what the levels that it answers mean."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Any

from msgspec import msgpack

from policyengine.runtime.decision import Effects
from policyengine.runtime.limits import LARGEST, Limited, Settled, Standing, Take
from policyengine.stores.step import KINDS
from policyengine.stores.wires import Script

RATES = Script.of("rates.lua")
MOST = 2 * LARGEST  # more than any limit: no amount needs to be told from it
AT_ONCE = 128  # decisions in one call: nobody else is answered meanwhile
KEY = b"policyengine:state:"


def plain(effects: Effects) -> bool:
    """Whether a decision asks for rates alone, at the pace of everybody, and is charged if they admit it."""
    if effects.spends or effects.opens or effects.denied or effects.records or effects.relied:
        return False
    for one in effects.limits:
        charge = one.charge
        if type(charge) is not Take or not charge.steady or charge.clamps or charge.counts:
            return False
    return True


def call(many: Sequence[Sequence[Limited]], now: int | bool) -> bytes:
    """Of the limits of each decision; they are `plain`."""
    keys: dict[bytes, int] = {}
    paces: dict[tuple[int, int, int, int], int] = {}
    asked: list[list[int]] = []
    for limits in many:
        row: list[int] = []
        for one in limits:
            charge: Any = one.charge
            units = charge.token
            pace = min(charge.cost * units, MOST), charge.flow.most * units, charge.flow.drain, charge.tick
            key = key_of(charge)
            row.append(keys.setdefault(key, len(keys) + 1))
            row.append(paces.setdefault(pace, len(paces) + 1))
        asked.append(row)
    words = b"".join([b"$51\r\n%b\r\n" % key for key in keys])
    argument = msgpack.encode((now, list(paces), asked))
    return b"*%d\r\n$7\r\nEVALSHA\r\n$40\r\n%b\r\n$%d\r\n%d\r\n%b$%d\r\n%b\r\n" % (
        len(keys) + 4, RATES.sha.encode(), len(str(len(keys))), len(keys), words, len(argument), argument
    )  # fmt: skip


def key_of(charge: Take) -> bytes:
    """As `digest` of step.py names it; most of it is the same for all callers."""
    found = begun(charge.rule, charge.token, charge.tick).copy()
    for part in charge.key:
        found.update(f"{len(part)}:{part}".encode("utf-8", "surrogatepass"))
    return b"%b%b" % (KEY, found.hexdigest().encode())


@lru_cache(maxsize=4_096)
def begun(rule: str, token: int, tick: int) -> Any:
    parts = KINDS[Take], rule, str(token), str(tick)
    text = "".join(f"{len(part)}:{part}" for part in parts)
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16)


def settled(many: Iterable[Sequence[Limited]], answer: bytes) -> list[Settled]:
    """By the levels that there were before each."""
    now, *levels = msgpack.decode(answer)
    found, place = [], 0
    for limits in many:
        until = place + len(limits)
        found.append(Settled(standings(limits, levels[place:until]), now))
        place = until
    return found


def standings(limits: Sequence[Limited], levels: Sequence[int]) -> tuple[Standing, ...]:
    """As `take` and `untouched` of runtime/limits.py say it."""
    passes = [fits(one.charge, level) for one, level in zip(limits, levels, strict=True)]
    taken = all(passes)
    return tuple([
        standing(one.charge, level, passed, taken)
        for one, level, passed in zip(limits, levels, passes, strict=True)
    ])  # fmt: skip


def fits(charge: Any, level: int) -> bool:
    return bool(level + charge.cost * charge.token <= charge.flow.most * charge.token)


def standing(charge: Any, level: int, passed: bool, taken: bool) -> Standing:
    most, drain = charge.flow
    full, after = most * charge.token, level + charge.cost * charge.token
    left = after if taken else level
    retry = 0 if passed else -(-(after - full) // drain) * charge.tick if charge.cost <= most else None
    return Standing(passed, most, max(0, full - left) // charge.token, -(-left // drain) * charge.tick, retry)
