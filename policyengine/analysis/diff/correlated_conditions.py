"""Questions about one fact that hang together: a time within two windows, an address in two networks, a text like two
patterns. What they can be together is found once, so that no impossible combination is ever tried.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from itertools import product
from typing import TypeAlias
from zoneinfo import ZoneInfo

from policyengine import kernel as k
from policyengine.runtime import windows
from policyengine.runtime.patterns import Glob, compile_regex
from policyengine.runtime.values import Unknown
from policyengine.solver.satisfiability import NEVER_UNKNOWN
from policyengine.solver.symbolic import Space, Subject
from policyengine.solver.value_partition import Plain, State, states_of_type, texts_between
from policyengine.spec.evaluate import in_networks
from policyengine.typesystem import Scalar

Member: TypeAlias = k.InNetwork | k.InWindow | k.Like | k.Matches
Together: TypeAlias = tuple[Plain, ...]
Valued: TypeAlias = tuple[Together, object]  # and a value of the operand for which they are that, if one is known

MOST_TOGETHER = 512
UNKNOWN = State.BROKEN


@dataclass(frozen=True, slots=True)
class Family:
    """`members` are numbers of facts in a space, `states` what they are together; the first number asks for all.

    `values` are for each state a value of the operand that all of them are asked about, where one is known.
    """

    operand: k.Expr
    members: tuple[int, ...]
    states: tuple[Together, ...]
    values: tuple[object, ...]


def families(space: Space) -> Iterator[Family]:
    """Questions about one operand, of which there are several, or one beside the operand itself."""
    about: dict[k.Expr, list[int]] = {}
    for number, subject in enumerate(space.subjects):
        operand = operand_of(subject)
        if operand is not None:
            about.setdefault(operand, []).append(number)
    for operand, numbers in about.items():
        own = space.numbers.get(operand)
        asked: list[Member] = [one for number in numbers if isinstance(one := space.subjects[number], Member)]
        together = known_together(operand, asked, space.constants[own] if own is not None else set(), own is not None)
        states: dict[Together, object] = {}
        for state, value in (*together, *((one, None) for one in without_value(operand, len(asked), own, space))):
            states.setdefault(state, value)
        if len(states) <= MOST_TOGETHER:
            members = (*numbers, *([own] if own is not None else []))
            yield Family(operand, members, tuple(states), tuple(states.values()))


def operand_of(subject: Subject) -> k.Expr | None:
    match subject:
        case k.InNetwork(address, k.Constant()):
            return address
        case k.InWindow(instant):
            return instant
        case k.Like(operand) | k.Matches(operand):
            return operand
        case _:
            return None


def without_value(operand: k.Expr, members: int, own: int | None, space: Space) -> Iterator[Together]:
    if isinstance(operand, k.Fact) and (operand.path in NEVER_UNKNOWN or operand.path[0] == "segment"):
        return
    yield (UNKNOWN,) * (members + (own is not None))
    if own is not None and own in space.absence:
        yield (*((UNKNOWN,) * members), State.ABSENT)


def known_together(operand: k.Expr, asked: Sequence[Member], constants: set[Plain], own: bool) -> Iterator[Valued]:
    """What the questions are together, for every value of the operand; last the state of the operand itself."""
    if all(isinstance(one, k.InNetwork) for one in asked) and operand.type is Scalar.IP:
        yield from of_addresses([one for one in asked if isinstance(one, k.InNetwork)], constants, own)
    elif all(isinstance(one, k.InWindow) for one in asked) and not own and (zone := same_zone(asked)):
        yield from ((one, None) for one in of_times([one for one in asked if isinstance(one, k.InWindow)], zone))
    elif all(isinstance(one, k.Like | k.Matches) for one in asked):
        yield from of_texts(asked, constants, own)
    elif own and (zone := same_zone(asked)):
        walls = dict.fromkeys(of_times([one for one in asked if isinstance(one, k.InWindow)], zone))
        cells = states_of_type(operand.type, constants)
        for wall, cell in product(walls, cells):
            yield (*wall, cell), None
    else:
        states: list[tuple[Plain, ...]] = [(True, False)] * len(asked)
        if own:
            states.append(states_of_type(operand.type, constants))
        yield from ((state, None) for state in product(*states))


def of_addresses(asked: Sequence[k.InNetwork], constants: set[Plain], own: bool) -> Iterator[Valued]:
    """Networks are stretches of addresses: the first of each, the last, and those beside them stand for all."""
    for address in addresses([one.networks.value for one in asked if isinstance(one.networks, k.Constant)], constants):
        found = [in_networks(address, one.networks.value) for one in asked if isinstance(one.networks, k.Constant)]
        if not any(isinstance(one, Unknown) for one in found):
            state: Plain = address if address in constants else State.OTHER
            yield (*(one is True for one in found), *([state] if own else [])), address


def addresses(networks: Sequence[object], constants: set[Plain]) -> Iterator[IPv4Address | IPv6Address]:
    yield from (ip_address("203.0.113.9"), ip_address("2001:db8::9"))
    known = [one for held in networks for one in (held if isinstance(held, tuple) else (held,))]
    for one in (*known, *constants):
        if isinstance(one, IPv4Network | IPv6Network):
            yield from (
                one[0],
                one[1 if one.num_addresses > 1 else 0],
                *beside(one[0], -1),
                *beside(one[-1], 1),
                one[-1],
            )
        elif isinstance(one, IPv4Address | IPv6Address):
            yield from (one, *beside(one, -1), *beside(one, 1))


def beside(address: IPv4Address | IPv6Address, step: int) -> list[IPv4Address | IPv6Address]:
    try:
        return [address + step]
    except ValueError:  # there is no address beyond
        return []


def same_zone(asked: Sequence[Member]) -> str | None:
    """The zone whose clock on the wall decides all of the windows, if there is one and nothing else decides."""
    kinds = (windows.Daily, windows.Weekly, windows.WholeDays)
    zones = {
        one.window.zone.key if isinstance(one.window, kinds) else None for one in asked if isinstance(one, k.InWindow)
    }
    return next(iter(zones)) if len(zones) == 1 else None


def of_times(asked: Sequence[k.InWindow], zone: str) -> Iterator[Together]:
    """Windows begin and end at minutes of the wall's week: each at which one does stands for those after it."""
    minutes = sorted({0, *(minute % 1440 for one in asked for minute in edges(one.window))})
    start = datetime(2026, 1, 5, tzinfo=ZoneInfo(zone))
    for day, minute in product(range(7), minutes):
        moment = start + timedelta(days=day, minutes=minute)  # by the clock on the wall
        yield tuple(windows.contains(one.window, moment.astimezone(UTC)) for one in asked)


def edges(window: windows.Window) -> tuple[int, ...]:
    match window:
        case windows.Daily() | windows.Weekly():
            return window.start_minute, window.end_minute
        case _:
            return ()


def of_texts(asked: Sequence[Member], constants: set[Plain], own: bool) -> Iterator[Valued]:
    """A text that is named fits patterns or does not; of all others every combination is taken to be possible."""
    texts = [one for one in constants if isinstance(one, str)]
    for text in texts:
        yield (*(fits(text, one) for one in asked), *([text] if own else [])), text
    for combination in product((True, False), repeat=len(asked)):
        if own:
            others = sorted(text for text in texts_between(constants) if text not in texts)
            for other in others:
                yield (*combination, other), None
        else:
            yield combination, None


def fits(text: str, asked: Member) -> bool:
    match asked:
        case k.Like(_, pattern):
            return Glob(pattern).matches(text)
        case k.Matches(_, pattern):
            return compile_regex(pattern).matches(text)
        case _:
            return False


def states_by_member(family: Family) -> Mapping[int, tuple[Plain, ...]]:
    """For each member its state in each state of the family."""
    return {number: tuple(state[place] for state in family.states) for place, number in enumerate(family.members)}
