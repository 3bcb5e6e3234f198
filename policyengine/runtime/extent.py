"""How large a value is, as work is counted: elements of its largest collection, or a text in steps."""

from __future__ import annotations

from collections.abc import Mapping, Set
from datetime import datetime, timedelta
from decimal import Decimal
from types import NoneType
from typing import Any

from policyengine.kinds import EntityRef
from policyengine.runtime.values import Invalid, Missing

CHARACTERS = 64  # of a text, which take about as long as a step
MANY = 2_000  # parts of a question, which take a while to read
DEEPEST = 40
HUGE = 2**31  # of what nobody knows how large it is
SMALL = frozenset({NoneType, bool, int, float, Decimal, datetime, timedelta, Invalid, Missing})


def extent(value: object, depth: int = 0) -> int:
    """The most elements of a collection anywhere in it, or the most steps of a text, whichever is more."""
    kind = type(value)
    if kind in SMALL:
        return 0
    if kind is EntityRef:
        return len(value.id) // CHARACTERS  # type: ignore[attr-defined]  # it is one
    if kind is str:
        return len(value) // CHARACTERS  # type: ignore[arg-type]  # it is a text
    if depth > DEEPEST:
        return HUGE
    if isinstance(value, Mapping):
        return max(names_steps(value), max((extent(one, depth + 1) for one in value.values()), default=0))
    if isinstance(value, list | tuple | Set):
        return max(len(value), max((extent(one, depth + 1) for one in value), default=0))
    return HUGE


def names_steps(members: Mapping[Any, object]) -> int:
    """The steps that looking for a member takes which may be there in another case."""
    return sum(4 + len(name) for name in members if isinstance(name, str)) // CHARACTERS


def is_large(value: object) -> bool:
    """Whether it has so many parts, or so long texts, that reading it takes a while."""
    parts, pending = 0, [value]
    while pending:
        one = pending.pop()
        parts += 1
        if isinstance(one, str):
            parts += len(one) // CHARACTERS
        elif isinstance(one, Mapping):
            parts += len(one)
            pending += one.values() if len(one) <= MANY else ()
        elif isinstance(one, list | tuple | Set):
            parts += len(one)
            pending += one if len(one) <= MANY else ()
        if parts > MANY:
            return True
    return False
