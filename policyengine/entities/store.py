"""Entities by reference: attributes, and membership at any depth with closures computed once, at load."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

from policyengine.entities.errors import EntitiesError
from policyengine.runtime.entities import EntityData
from policyengine.runtime.snapshot import NO_ROW, PARTIAL_ROW
from policyengine.runtime.structure_checks import quote_input
from policyengine.runtime.value_size import measure_extent
from policyengine.runtime.values import ABSENT, MAX_ELEMENTS, Invalid
from policyengine.typesystem import EntityRef

if TYPE_CHECKING:
    from policyengine.entities.lookup import EntityLookups, LookupEntityStore

MIN_LOST_ROWS = 10  # rows of a type that nobody takes away at once, if more are gone than stay
MAX_MEMBERSHIPS = 5_000_000  # of all entities, through all that they are in; those in the very same count once
NOT_LOOKED_UP = Invalid("it was not looked up")


@dataclass(frozen=True, slots=True)
class UnknownRow:
    """Nobody knows whether there is a row."""


MEMBERSHIP_HINT = "an entity counts with all that it is in, directly or through others: do without long chains"
NO_ANSWER = UnknownRow()
RowResult: TypeAlias = EntityData | UnknownRow | None


@dataclass(frozen=True, slots=True)
class Ancestors:
    """Everything an entity is in, itself excluded. `complete` is false where a row on the way is missing or partial,
    `answered` where nobody said whether there is one; then it is not complete either."""

    refs: tuple[EntityRef, ...]
    complete: bool
    answered: bool = True


class MembershipBoundError(EntitiesError):
    """Entities are in too many others; `ref` is the first that is beyond the bound."""

    def __init__(self, ref: EntityRef) -> None:
        message = f"up to {quote_input(str(ref))} there are more than {MAX_MEMBERSHIPS:,} memberships, all counted"
        super().__init__("entities", "", message, MEMBERSHIP_HINT, code="E188")
        self.ref = ref


NOTHING_KNOWN = Ancestors((), False)
NOBODY_ANSWERED = Ancestors((), False, False)


def get_attribute(row: EntityData, name: str) -> object:
    """The raw attribute; what a partial row does not say is no more known than without a row."""
    value = row.attributes.get(name)
    if value is not None:
        return value
    return PARTIAL_ROW if row.partial else ABSENT


def collect_ancestors(parents: Iterable[EntityRef], row: Callable[[EntityRef], RowResult]) -> Ancestors:
    """These and all that they are in, nearest first; a circle of memberships is walked once."""
    found = dict.fromkeys(parents)
    pending, complete, answered = list(found), True, True
    for ref in pending:  # grows during iteration
        known = row(ref)
        if not isinstance(known, EntityData):
            complete, answered = False, answered and known is None
            continue
        complete = complete and not known.partial
        fresh = [parent for parent in known.parents if parent not in found]
        found.update(dict.fromkeys(fresh))
        pending += dict.fromkeys(fresh)
    return Ancestors(tuple(found), complete, answered)


def with_parents(row: EntityData, above: Ancestors) -> Ancestors:
    """What one is in who is directly in what leads there. Nobody is above itself, also where a circle leads back."""
    if row.ref not in above.refs and not row.partial:
        return above
    refs = tuple(one for one in above.refs if one != row.ref)
    return Ancestors(refs, above.complete and not row.partial, above.answered)


class EntityStore:
    """Rows of entities. It never changes: `with_rows` makes another, which climbs only when it is asked.

    `lookups` gives the rows of some types one by one, when a decision needs them (`looking`); without being asked
    nothing is known of these. `notes` are what readers of these rows found odd about them, for people. One that is not
    `loaded` stands where nobody named a source: it answers nothing, and so never that there is no row.
    """

    def __init__(
        self,
        rows: Iterable[EntityData] = (),
        *,
        lookups: EntityLookups | None = None,
        notes: Sequence[str] = (),
        loaded: bool = True,
    ) -> None:
        self._rows: dict[EntityRef, EntityData] = {row.ref: row for row in rows}
        self.lookups: EntityLookups | None = lookups
        self.notes, self.loaded = tuple(notes), loaded
        self._ancestors = self._closures()
        self._largest: dict[str, int] = {}

    def _closures(self) -> dict[EntityRef, Ancestors]:
        """Who is directly in the same is in the same: all members of a team share one closure."""
        shared: dict[tuple[EntityRef, ...], Ancestors] = {}
        found: dict[EntityRef, Ancestors] = {}
        left = MAX_MEMBERSHIPS
        for ref, row in self._rows.items():
            above = shared.get(row.parents)
            if above is None:
                above = shared[row.parents] = collect_ancestors(row.parents, self._rows.get)
                left -= len(above.refs)
                if left < 0:
                    raise MembershipBoundError(ref)
            found[ref] = with_parents(row, above)
        return found

    def largest(self, name: str) -> int:
        """How large that attribute is in the row where it is largest; found when it is first asked for."""
        if self.lookups is not None:
            return MAX_ELEMENTS
        if name not in self._largest:
            rows = self._rows.values()
            found = (measure_extent(row.ref if name == "id" else row.attributes.get(name)) for row in rows)
            self._largest[name] = max(found, default=0)
        return self._largest[name]

    @cached_property
    def deepest(self) -> int:
        """How many entities one is in at most."""
        closures = {id(above): len(above.refs) for above in self._ancestors.values()}
        return MAX_ELEMENTS if self.lookups is not None else max(closures.values(), default=0)

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[EntityData]:
        return iter(self._rows.values())

    def __contains__(self, ref: EntityRef) -> bool:
        return ref in self._rows

    def row(self, ref: EntityRef) -> EntityData | None:
        """All that is known of an entity; None where nothing is."""
        found = self.found_of(ref)
        return found if isinstance(found, EntityData) else None

    def found_of(self, ref: EntityRef) -> RowResult:
        """The same, and whether anybody answered."""
        return self._rows.get(ref)

    def same_as(self, other: EntityStore) -> bool:
        """Whether both hold the same rows, and look up the same in the same places."""
        same = (self.lookups, self.loaded) == (other.lookups, other.loaded)
        return same and {row.ref: row for row in self} == {row.ref: row for row in other}

    def with_rows(self, rows: Iterable[EntityData]) -> EntityStore:
        """This directory and the rows of one request; where both know an entity, this one's row stands."""
        rows = tuple(rows)
        return RequestEntityStore(self, rows) if rows else self

    def looking(self) -> LookupEntityStore | None:
        """This directory for one decision, which may look up rows; None where there is nothing to look up."""
        return None if self.lookups is None else self.lookups.beside(self)

    def has_row(self, ref: EntityRef) -> bool | None:
        """Whether there is a row that says all; None where nobody answered, or none was asked."""
        match self.found_of(ref):
            case EntityData(partial=partial):
                return None if partial else True
            case None:
                return False if self.loaded and not self._is_looked_up(ref) else None
            case UnknownRow():
                return None

    def attribute(self, ref: EntityRef, name: str) -> object:
        """The raw attribute: ABSENT where a row lacks it, NO_ROW where there is no row."""
        row = self._rows.get(ref)
        if row is not None:
            return get_attribute(row, name)
        return NOT_LOOKED_UP if self._is_looked_up(ref) else NO_ROW

    def _is_looked_up(self, ref: EntityRef) -> bool:
        """Whether its row is one that only `looking` would find."""
        return self.lookups is not None and ref.type in self.lookups.types

    def parents(self, ref: EntityRef) -> Ancestors:
        """What an entity is directly in."""
        match self.found_of(ref):
            case EntityData() as row:
                return Ancestors(row.parents, not row.partial)
            case None:
                return NOTHING_KNOWN
            case UnknownRow():
                return NOBODY_ANSWERED

    def ancestors(self, ref: EntityRef) -> Ancestors:
        """What an entity is in, at any depth."""
        return self._ancestors.get(ref, NOTHING_KNOWN)


def describe_lost_types(before: EntityStore, after: EntityStore) -> list[str]:
    """What of each type is gone, in words: all of its rows, or so many that its file was rather cut off."""
    looked_up = frozenset() if after.lookups is None else frozenset(after.lookups.types)
    counts, left = (Counter(row.ref.type for row in one) for one in (before, after))
    gone = {name: count - left[name] for name, count in counts.items() if name not in looked_up}
    return [
        f"{lost:,} of {counts[name]:,} rows of `{name}`" if left[name] else f"every row of `{name}`"
        for name, lost in sorted(gone.items())
        if lost > 0 and (not left[name] or (lost >= MIN_LOST_ROWS and lost > left[name]))
    ]


class RequestEntityStore(EntityStore):
    """A directory and the rows of one request, of which those count that it does not know itself."""

    def __init__(self, below: EntityStore, rows: Iterable[EntityData]) -> None:
        self._below = below
        self._rows = {row.ref: row for row in rows if row.ref not in below}
        self._climbed: dict[EntityRef, Ancestors] = {}
        self.lookups, self.notes, self.loaded = below.lookups, below.notes, below.loaded

    def __len__(self) -> int:
        return len(self._below) + len(self._rows)

    def __iter__(self) -> Iterator[EntityData]:
        yield from self._rows.values()
        yield from self._below

    def __contains__(self, ref: EntityRef) -> bool:
        return ref in self._rows or ref in self._below

    def found_of(self, ref: EntityRef) -> RowResult:
        return self._rows.get(ref) or self._below.found_of(ref)

    def has_row(self, ref: EntityRef) -> bool | None:
        return super().has_row(ref) if ref in self._rows else self._below.has_row(ref)

    def attribute(self, ref: EntityRef, name: str) -> object:
        return super().attribute(ref, name) if ref in self._rows else self._below.attribute(ref, name)

    def ancestors(self, ref: EntityRef) -> Ancestors:
        if ref not in self._rows:
            found = self._below.ancestors(ref)
            if found.complete:
                return found
        if ref not in self._climbed:
            self._climbed[ref] = self._climb(ref)
        return self._climbed[ref]

    def _climb(self, ref: EntityRef) -> Ancestors:
        match self.found_of(ref):
            case EntityData() as row:
                return with_parents(row, collect_ancestors(row.parents, self.found_of))
            case None:
                return NOTHING_KNOWN
            case UnknownRow():
                return NOBODY_ANSWERED
