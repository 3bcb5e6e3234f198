"""Finds correlated conditions on one fact: a time in two windows, an address in two networks, a text like two patterns.
Their joint states are computed once, so that no impossible combination is tried.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import product
from typing import TypeAlias
from zoneinfo import ZoneInfo

from policyengine import kernel as k
from policyengine.runtime import calendar_windows
from policyengine.runtime.values import Unknown
from policyengine.solver.formulas import FactSpace, Subject
from policyengine.solver.satisfiability import NEVER_UNKNOWN
from policyengine.solver.value_partition import AbstractValue, SpecialValue, texts_between, values_of_type
from policyengine.solver.witness.addresses import boundary_addresses
from policyengine.solver.witness.texts import constant_question
from policyengine.solver.witness.times import wall_times, window_minutes
from policyengine.solver.witness.values import MONDAY
from policyengine.spec.evaluate import in_networks
from policyengine.typesystem import Scalar

CorrelatedNode: TypeAlias = k.InWindow | k.Relation
JointState: TypeAlias = tuple[AbstractValue, ...]
ValuedState: TypeAlias = tuple[JointState, object]  # a joint state, and a value of the operand for it, if known

MAX_JOINT_STATES = 512
UNKNOWN = SpecialValue.BROKEN


@dataclass(frozen=True, slots=True)
class CorrelatedConditions:
    """Conditions on one operand. `members` are the indexes of their facts in a space, `states` their joint states; the
    first index represents all members. `values` are operand values for each state, if known.
    """

    operand: k.Expr
    members: tuple[int, ...]
    states: tuple[JointState, ...]
    values: tuple[object, ...]


def find_correlated(space: FactSpace, known: AbstractSet[int] = frozenset()) -> Iterator[CorrelatedConditions]:
    """Yield the conditions on each operand, together with the operand itself if it is a fact of the space. Leave out
    the known facts, and operands with too many joint states.
    """
    about: dict[k.Expr, list[int]] = {}
    for number, subject in enumerate(space.subjects):
        operand = None if number in known else operand_of(subject)
        if operand is not None:
            about.setdefault(operand, []).append(number)
    for operand, numbers in about.items():
        own = None if (found := space.numbers.get(operand)) in known else found
        asked: list[CorrelatedNode] = [
            one for number in numbers if isinstance(one := space.subjects[number], CorrelatedNode)
        ]
        together = joint_states(operand, asked, space.constants[own] if own is not None else set(), own is not None)
        states: dict[JointState, object] = {}
        for state, value in (
            *together,
            *((one, None) for one in states_without_value(operand, len(asked), own, space)),
        ):
            states.setdefault(state, value)
        if len(states) <= MAX_JOINT_STATES:
            members = (*numbers, *([own] if own is not None else []))
            yield CorrelatedConditions(operand, members, tuple(states), tuple(states.values()))


def operand_of(subject: Subject) -> k.Expr | None:
    match subject:
        case k.Relation("within", address, k.Constant()):
            return address
        case k.InWindow(instant):
            return instant
        case k.Relation(_, operand, k.Constant(str())) if subject.row.operands.are_texts:
            return operand
        case _:
            return None


def states_without_value(operand: k.Expr, members: int, own: int | None, space: FactSpace) -> Iterator[JointState]:
    if isinstance(operand, k.Fact) and (operand.path in NEVER_UNKNOWN or is_known_segment(operand.path)):
        return
    yield (UNKNOWN,) * (members + (own is not None))
    if own is not None and own in space.absence:
        yield (*((UNKNOWN,) * members), SpecialValue.ABSENT)


def is_known_segment(path: tuple[str, ...]) -> bool:
    return path[0] == "segment" and path[-1] != "split"


def joint_states(
    operand: k.Expr, asked: Sequence[CorrelatedNode], constants: set[AbstractValue], own: bool
) -> Iterator[ValuedState]:
    """Yield the joint states of the conditions for every value of the operand; the state of the operand itself comes
    last.
    """
    if (networks := related(asked, k.Operands.NETWORKS)) and len(networks) == len(asked) and operand.type is Scalar.IP:
        yield from address_states(networks, constants, own)
    elif all(isinstance(one, k.InWindow) for one in asked) and not own and (zone := common_zone(asked)):
        yield from ((one, None) for one in time_states([one for one in asked if isinstance(one, k.InWindow)], zone))
    elif all(isinstance(one, k.Relation) and one.row.operands.are_texts for one in asked):
        yield from text_states(asked, constants, own)
    elif own and (zone := common_zone(asked)):
        walls = dict.fromkeys(time_states([one for one in asked if isinstance(one, k.InWindow)], zone))
        cells = values_of_type(operand.type, constants)
        for wall, cell in product(walls, cells):
            yield (*wall, cell), None
    else:
        states: list[tuple[AbstractValue, ...]] = [(True, False)] * len(asked)
        if own:
            states.append(values_of_type(operand.type, constants))
        yield from ((state, None) for state in product(*states))


def related(asked: Sequence[CorrelatedNode], operands: k.Operands) -> list[k.Relation]:
    return [one for one in asked if isinstance(one, k.Relation) and one.row.operands is operands]


def address_states(asked: Sequence[k.Relation], constants: set[AbstractValue], own: bool) -> Iterator[ValuedState]:
    """Yield states of network conditions: the first and last address of each range and their neighbors represent all
    addresses.
    """
    networks = [one.right.value for one in asked if isinstance(one.right, k.Constant)]
    every = [one for held in networks for one in (held if isinstance(held, tuple) else (held,))]
    for address in boundary_addresses((*every, *constants)):
        found = [in_networks(address, one) for one in networks]
        if not any(isinstance(one, Unknown) for one in found):
            state: AbstractValue = address if address in constants else SpecialValue.OTHER
            yield (*(one is True for one in found), *([state] if own else [])), address


def common_zone(asked: Sequence[CorrelatedNode]) -> str | None:
    """Return the time zone of all windows; None if their time zones differ."""
    kinds = (calendar_windows.Daily, calendar_windows.Weekly, calendar_windows.WholeDays)
    zones = {
        one.window.zone.key if isinstance(one.window, kinds) else None for one in asked if isinstance(one, k.InWindow)
    }
    return next(iter(zones)) if len(zones) == 1 else None


def time_states(asked: Sequence[k.InWindow], zone: str) -> Iterator[JointState]:
    """Yield states of windows: windows begin and end at minutes of the week, which represent all times."""
    for moment in wall_times(MONDAY, window_minutes([one.window for one in asked]), ZoneInfo(zone)):
        yield tuple(calendar_windows.contains(one.window, moment) for one in asked)


def text_states(asked: Sequence[CorrelatedNode], constants: set[AbstractValue], own: bool) -> Iterator[ValuedState]:
    """Yield states of text conditions. The states are exact for named texts; for other texts every combination counts
    as possible.
    """
    texts = [one for one in constants if isinstance(one, str)]
    questions = [found[1] for one in asked if (found := constant_question(one)) is not None]
    for text in texts:
        yield (*(question.holds(text) for question in questions), *([text] if own else [])), text
    for combination in product((True, False), repeat=len(asked)):
        if own:
            others = sorted(text for text in texts_between(constants) if text not in texts)
            for other in others:
                yield (*combination, other), None
        else:
            yield combination, None


def states_by_member(family: CorrelatedConditions) -> Mapping[int, tuple[AbstractValue, ...]]:
    """Return for each member its state in each joint state."""
    return {number: tuple(state[place] for state in family.states) for place, number in enumerate(family.members)}
