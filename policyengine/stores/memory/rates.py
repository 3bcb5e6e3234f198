"""Charges several rates of a memory store together, with a function compiled for their number, or one after the other.
Most requests charge only such rates, so the function is generated as straight-line code; its source contains no text of
a policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any, TypeAlias

from policyengine.runtime.limits import CountKey, LimitState, SteadyRate

# Takes a key, or one key for each meter if there are several, and the time in nanoseconds. Returns the levels after the
# charge, or None if a rate has no room and nothing was charged.
SteadyRateLevels: TypeAlias = tuple[tuple[SteadyRate, int], ...] | None
SteadyRateCharger: TypeAlias = Callable[[Any, int], SteadyRateLevels]

HEAD_TEMPLATE = """def take({keys}, moment):
    nonlocal {kept}
    {unpacked}
    acquire()
    try:
        if moment < clock[0]: moment = moved(moment)
        else: clock[0] = moment
"""
# An empty level stays the same until the next tick of the rate. No stored level is zero.
LEVEL_TEMPLATE = """        if moment >= next{0}:
            next{0} = moment // tick{0}
            empty{0} = next{0} * drain{0}
            next{0} = (next{0} + 1) * tick{0}
        was{0} = get{0}(key{0}, 0)
        after{0} = token{0} + (was{0} if was{0} > empty{0} else empty{0})
        level{0} = after{0} - empty{0}
        if level{0} > full{0}: return None
"""
ROOM_TEMPLATE = """        if {new} and not room([{grown}]): return None
"""
UPDATE_TEMPLATE = """        states{0}[key{0}] = after{0}
"""
END_TEMPLATE = """    finally:
        release()
    return ({stood})
"""
RateLevels = dict[CountKey | str, Any]


def render_charger(meters: int) -> str:
    numbers = range(meters)
    new = " or ".join(f"not was{number}" for number in numbers)
    grown = ", ".join(f"*(() if was{number} else (states{number},))" for number in numbers)
    stood = "".join(f"(meter{number}, level{number}), " for number in numbers)
    keys = ", ".join(f"key{number}" for number in numbers)
    head = {"keys": "key0", "unpacked": ""} if meters == 1 else {"keys": "keys", "unpacked": f"{keys} = keys"}
    return "".join((
        HEAD_TEMPLATE.format(**head, kept=state_variables(meters)),
        *(LEVEL_TEMPLATE.format(number) for number in numbers),
        ROOM_TEMPLATE.format(new=f"({new})", grown=grown),
        *(UPDATE_TEMPLATE.format(number) for number in numbers),
        END_TEMPLATE.format(stood=stood),
    ))  # fmt: skip


def state_variables(meters: int) -> str:
    """Return the names of the variables that keep their values between calls."""
    return ", ".join(f"next{number}, empty{number}" for number in range(meters))


def compile_charger(
    meters: Sequence[SteadyRate],
    states: Sequence[dict[Any, Any]],
    lock: Lock,
    clock: list[int],
    moved: Callable[[int], int],
    room: Callable[[Sequence[dict[Any, Any]]], bool],
) -> SteadyRateCharger:
    """Return a function that charges the rates of these meters. `states` map keys to the level at which the rate is
    empty, in units of its time. `clock` contains the latest time (nanoseconds); `moved` returns the time to use if a
    given time is earlier. `room` makes room for one new key in each given state, and returns whether it succeeded."""
    space: dict[str, Any] = {
        "acquire": lock.acquire, "release": lock.release, "clock": clock, "moved": moved, "room": room,
    }  # fmt: skip
    for number, (meter, of) in enumerate(zip(meters, states, strict=True)):
        space |= {
            f"meter{number}": meter, f"states{number}": of, f"get{number}": of.get, f"tick{number}": meter.tick * 1_000,
            f"drain{number}": meter.drain, f"token{number}": meter.token, f"full{number}": meter.full,
        }  # fmt: skip
    names, zeros = ", ".join(space), ", ".join("0" for _ in range(2 * len(meters)))
    text = f"def make({names}):\n    {state_variables(len(meters))} = {zeros}\n" + "".join(
        f"    {line}\n" for line in render_charger(len(meters)).splitlines()
    )
    made: dict[str, Any] = {}
    exec(compile(f"{text}    return take\n", f"<policyengine taking of {len(meters)}>", "exec"), made)
    take: SteadyRateCharger = made["make"](**space)
    return take


def charge_steady_rates(
    charges: Sequence[tuple[SteadyRate, CountKey | str]],
    states: Callable[[SteadyRate], RateLevels],
    room: Callable[[Sequence[RateLevels]], object],
    moment: int,
) -> tuple[LimitState, ...]:
    """Charge several rates at a time (nanoseconds), each for its key: either one token of every rate, or none at all;
    return their states. A compiled charger is faster while all rates have room, but does not return states on refusal.
    Refused callers often try again, so a refusal costs no more than a charge. `room` makes room for a new key in each
    rate. The caller holds the lock of the store."""
    levels: list[tuple[SteadyRate, RateLevels, CountKey | str, int, int]] = []
    admitted, grown = True, []
    for meter, key in charges:
        of = states(meter)
        was, empty = of.get(key), moment // (meter.tick * 1_000) * meter.drain
        if was is None:
            grown.append(of)
        level = was - empty if was is not None and was > empty else 0
        admitted = admitted and level + meter.token <= meter.full
        levels.append((meter, of, key, level, empty))
    if not admitted:
        return tuple([meter.standing(level, level + meter.token <= meter.full) for meter, _, _, level, _ in levels])
    if grown:
        room(grown)
    for meter, of, key, level, empty in levels:
        of[key] = empty + level + meter.token
    return tuple([meter.standing(level + meter.token, True) for meter, _, _, level, _ in levels])
