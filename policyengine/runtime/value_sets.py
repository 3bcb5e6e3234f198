"""Sets of values in which one is looked up by its hash, and which mean what comparing each with each means.

Values are equal only within a family: numbers with numbers, addresses with addresses. A hash decides where all elements
and what is looked up are of one family; lists and objects, which have no hash, are compared one by one.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass

from policyengine.runtime.arithmetic import family
from policyengine.runtime.value_keys import key_of
from policyengine.runtime.values import Known, Unknown, Value


@dataclass(frozen=True, slots=True)
class ValueSet:
    """The elements of a set or list: `keys` of the known ones, the `unknown` ones as one. `family` is that of all known
    ones, None where there are none; without it (`uniform` is False) they have no keys."""

    keys: frozenset[Hashable]
    unknown: Unknown | None
    family: type[object] | None
    uniform: bool

    @staticmethod
    def of(elements: Iterable[Value]) -> ValueSet:
        unknown = [one for one in elements if isinstance(one, Unknown)]
        known = [one for one in elements if not isinstance(one, Unknown)]
        rest = Unknown.merge(*unknown) if unknown else None
        families = {*map(family, known)} if len({*map(type, known)}) > 1 else {*map(family, known[:1])}
        if len(families) > 1 or any(isinstance(one, tuple | Mapping) for one in known):
            return ValueSet(frozenset(), rest, None, False)
        return ValueSet(frozenset(map(key_of, known)), rest, next(iter(families), None), True)

    def decides(self, other: type[object] | None) -> bool:
        """Whether keys alone tell which values of a family are in it."""
        return self.uniform and (other is None or self.family is None or self.family is other)

    def has(self, value: Known) -> bool | Unknown:
        """Whether a value, for the family of which this set decides, is in it; not known where an unknown element may
        be the one."""
        return key_of(value) in self.keys or self.unknown or False

    def overlaps(self, other: ValueSet) -> bool | Unknown:
        """Whether an element of one is in the other; both decide for each other."""
        if not self.keys.isdisjoint(other.keys):
            return True
        if self.empty or other.empty:
            return False
        return merged(self.unknown, other.unknown) or False

    def within(self, other: ValueSet) -> bool | Unknown:
        """Whether every element is in the other; both decide for each other."""
        if self.empty:
            return True
        missing = not self.keys <= other.keys
        if other.empty or (missing and other.unknown is None):
            return False
        doubted = other.unknown if missing or self.unknown else None
        return merged(self.unknown, doubted) or True

    @property
    def empty(self) -> bool:
        return not self.keys and self.unknown is None


def merged(*unknowns: Unknown | None) -> Unknown | None:
    found = [one for one in unknowns if one is not None]
    return Unknown.merge(*found) if found else None
