"""Sets of values with hash look-up, equivalent to comparing each element with each.

Values are comparable only within a family: numbers with numbers, addresses with addresses, lists of numbers with lists
of numbers. Hashes decide if all elements and the wanted value are of one family; objects, and lists with unknown
elements, have no hash and are compared one by one.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from policyengine.runtime.arithmetic import value_family
from policyengine.runtime.value_keys import value_key
from policyengine.runtime.values import Known, Unknown, Value

# The nesting depth of lists, and the family of the innermost elements: None if the lists are empty.
Family: TypeAlias = tuple[int, type[object] | None]
EMPTY_FAMILY: Family = (0, None)


@dataclass(frozen=True, slots=True)
class ValueSet:
    """The elements of a set or list: the `keys` of the known elements, and the `unknown` elements merged. `family` is
    the family of all known elements; None if they have no keys.
    """

    keys: frozenset[Hashable]
    unknown: Unknown | None
    family: Family | None

    @staticmethod
    def of(elements: Iterable[Value]) -> ValueSet:
        unknown = [one for one in elements if isinstance(one, Unknown)]
        known = [one for one in elements if not isinstance(one, Unknown)]
        rest = Unknown.merge(*unknown) if unknown else None
        common = family_of_all(known)
        return ValueSet(frozenset() if common is None else frozenset(map(value_key, known)), rest, common)

    def decides(self, other: Family | None) -> bool:
        """Return whether keys are sufficient to compare the elements with values of this family."""
        return common_family(self.family, other) is not None

    def has(self, value: Known) -> bool | Unknown:
        """Return whether a value is in the set; Unknown if an unknown element may equal it. Call it only
        if `decides` is true for the family of the value."""
        return value_key(value) in self.keys or self.unknown or False

    def overlaps(self, other: ValueSet) -> bool | Unknown:
        """Return whether the sets have a common element; Unknown if only unknown elements may be common. Call it only
        if `decides` is true for each set and the family of the other set.
        """
        if not self.keys.isdisjoint(other.keys):
            return True
        if self.empty or other.empty:
            return False
        return merge_unknowns(self.unknown, other.unknown) or False

    def within(self, other: ValueSet) -> bool | Unknown:
        """Return whether every element is in the other set; Unknown if that depends on unknown elements. Call it only
        if `decides` is true for each set and the family of the other set.
        """
        if self.empty:
            return True
        missing = not self.keys <= other.keys
        if other.empty or (missing and other.unknown is None):
            return False
        doubted = other.unknown if missing or self.unknown else None
        return merge_unknowns(self.unknown, doubted) or True

    @property
    def empty(self) -> bool:
        return not self.keys and self.unknown is None


def merge_unknowns(*unknowns: Unknown | None) -> Unknown | None:
    found = [one for one in unknowns if one is not None]
    return Unknown.merge(*found) if found else None


def family_of(value: Value) -> Family | None:
    """Return the family of a value; None if it has no key: an object, an unknown, or a list that contains one of these
    or mixes families.
    """
    if isinstance(value, tuple):
        inner = family_of_all(value)
        return inner and (inner[0] + 1, inner[1])
    return None if isinstance(value, Unknown | Mapping) else (0, value_family(value))


def family_of_all(values: Collection[Value]) -> Family | None:
    by_type = {type(one): one for one in values}
    found: Family | None = EMPTY_FAMILY
    for value in values if tuple in by_type else by_type.values():
        found = common_family(found, family_of(value))
        if found is None:
            break
    return found


def common_family(one: Family | None, other: Family | None) -> Family | None:
    """Return the common family if all values of both are comparable; otherwise None. Empty lists are comparable with
    any list.
    """
    if one is None or other is None or one == other:
        return one if other is not None else None
    (levels, leaf), (others, other_leaf) = one, other
    if leaf is None and levels <= others:
        return other
    return one if other_leaf is None and others <= levels else None
