"""Rates of a store in this process, charged several at once: by a function compiled for their number, or one by one.

Most requests are charged to such rates and to nothing else, so the function is written out: straight lines of our own
words, with nothing of a policy in them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any, TypeAlias

from policyengine.runtime.limits import CountKey, LimitState, SteadyRate

# A key, or one for each meter where there are several, and the time in nanoseconds → the levels then; None where one
# of the rates has no room, and nothing was taken.
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
# What is empty by now is the same until the next tick of the rate. No level that is kept is zero.
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
    """The names of what is remembered from one call to the next."""
    return ", ".join(f"next{number}, empty{number}" for number in range(meters))


def compile_charger(
    meters: Sequence[SteadyRate],
    states: Sequence[dict[Any, Any]],
    lock: Lock,
    clock: list[int],
    moved: Callable[[int], int],
    room: Callable[[Sequence[dict[Any, Any]]], bool],
) -> SteadyRateCharger:
    """Takes of the rates of these meters, whose `states` are by key the level that will be zero, in units of its time.

    `clock` holds the latest time (nanoseconds), and `moved` says what it is where it is earlier now; `room` makes room
    for so many new keys at a time, or cannot.
    """
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
    """How rates stand at a time (nanoseconds), each by whose count it is: one is taken of all, or nothing of any.

    A compiled charger is faster where all of them have room, and only says that one has not. Callers who are refused
    come again and again, so this costs no more than a charge that is admitted.

    `room` makes room for a new key in each. Whoever calls holds the lock of the store.
    """
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
