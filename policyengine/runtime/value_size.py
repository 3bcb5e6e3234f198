"""The size of a value for counting steps: the elements of its largest collection, or the steps for its longest text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from datetime import datetime, timedelta
from decimal import Decimal
from types import NoneType
from typing import Any

from policyengine.runtime.values import Invalid, MissingValue, PartialObject
from policyengine.typesystem import EntityRef

CHARACTERS_PER_STEP = 64  # comparing this many characters takes about one step
LARGE_EXTENT = 2_000  # a question with more parts takes noticeable time to read
MAX_DEPTH = 40
UNKNOWN_EXTENT = 2**31  # for values of unknown size
OWN = frozenset({list, tuple, set, frozenset})
CONSTANT_SIZE_TYPES = frozenset({NoneType, bool, int, float, Decimal, datetime, timedelta, Invalid, MissingValue})


def measure_extent(value: object, depth: int = 0) -> int:
    """Return the maximum of the number of elements of the largest collection inside the value and the steps of its
    longest text.
    """
    kind = type(value)
    if kind is str:
        return len(value) // CHARACTERS_PER_STEP  # type: ignore[arg-type]  # it is a text
    if kind in CONSTANT_SIZE_TYPES:
        return 0
    if kind is EntityRef:
        return len(value.id) // CHARACTERS_PER_STEP  # type: ignore[attr-defined]  # it is one
    if depth > MAX_DEPTH:
        return UNKNOWN_EXTENT
    if kind is tuple or kind is list:
        return max(len(value), largest_extent(value, depth + 1))  # type: ignore[arg-type]
    if kind is dict or issubclass(kind, Mapping):
        return max(name_lookup_steps(value), largest_extent(value.values(), depth + 1))  # type: ignore[arg-type, attr-defined]
    if issubclass(kind, list | tuple | Set):
        return max(len(value), largest_extent(value, depth + 1))  # type: ignore[arg-type]
    return UNKNOWN_EXTENT


def largest_extent(values: Iterable[object], depth: int) -> int:
    largest = 0
    for value in values:
        kind = type(value)
        if kind is str:
            extent = len(value) // CHARACTERS_PER_STEP  # type: ignore[arg-type]  # it is a text
        elif kind is int or kind is bool or value is None:
            continue
        else:
            extent = measure_extent(value, depth)
        if extent > largest:
            largest = extent
    return largest


def name_lookup_steps(members: Mapping[Any, object]) -> int:
    """Return the steps to find a member that may be present in another letter case."""
    characters = 0
    for name in members:
        if type(name) is str or isinstance(name, str):
            characters += 4 + len(name)
    return characters // CHARACTERS_PER_STEP


def is_large(value: object) -> bool:
    """Return whether reading the value takes noticeable time: many parts, long texts, or a collection of another class
    than Python's own. A collection of another class is not inspected, because that could take any amount of time.
    """
    parts = 1
    pending: list[Iterable[object]] = [(value,)]
    while pending:
        for part in pending.pop():
            kind = type(part)
            if kind is str:
                parts += len(part) // CHARACTERS_PER_STEP  # type: ignore[arg-type]  # it is a text
            elif kind is dict or kind is PartialObject:
                parts += 2 * len(part)  # type: ignore[arg-type]
                if parts > LARGE_EXTENT:
                    return True
                pending.append(part.values())  # type: ignore[attr-defined]
            elif kind in OWN:
                parts += 2 * len(part)  # type: ignore[arg-type]
                if parts > LARGE_EXTENT:
                    return True
                pending.append(part)  # type: ignore[arg-type]
            elif kind not in CONSTANT_SIZE_TYPES and issubclass(kind, str | Mapping | list | tuple | Set):
                return True
    return parts > LARGE_EXTENT
