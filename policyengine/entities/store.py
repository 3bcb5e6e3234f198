"""Entities by reference: their attributes, and their memberships at any depth, from closures that are computed once
when the entities are loaded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from time import monotonic_ns
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, TypeVar

from policyengine.entities.errors import EntitiesError
from policyengine.runtime.entities import EntityData
from policyengine.runtime.snapshot import NO_ROW, PARTIAL_ROW
from policyengine.runtime.structure_checks import quote_input
from policyengine.runtime.value_size import measure_extent
from policyengine.runtime.values import ABSENT, MAX_ELEMENTS, Invalid
from policyengine.typesystem import EntityRef

if TYPE_CHECKING:
    from policyengine.entities.lookup import EntityLookups, LookupEntityStore

Answer = TypeVar("Answer")
MIN_LOST_ROWS = 10  # a reload may always remove fewer rows of a type than this number
# Maximum memberships of all entities at any depth; entities with the same parents count once.
MAX_MEMBERSHIPS = 5_000_000
NOT_LOOKED_UP = Invalid("it was not looked up")


@dataclass(frozen=True, slots=True)
class UnknownRow:
    """The result for a row whose existence is unknown."""


MEMBERSHIP_HINT = (
    "each pair of an entity and an entity that it is in, directly or through others, is one "
    "membership: avoid long chains"
)
NO_ANSWER = UnknownRow()
RowResult: TypeAlias = EntityData | UnknownRow | None


@dataclass(frozen=True, slots=True)
class Ancestors:
    """All entities that contain an entity at any depth, except the entity itself. `complete` is false if the row of the
    entity or of an ancestor is missing or partial. `answered` is false if the source of a row did not answer; then
    `complete` is false as well.
    """

    refs: tuple[EntityRef, ...]
    complete: bool
    answered: bool = True


class ReadTime(NamedTuple):
    """The times at which the first and the last row were read, in nanoseconds of a clock that all processes of a system
    share.
    """

    begin: int
    end: int


class MembershipBoundError(EntitiesError):
    """The error for more memberships than MAX_MEMBERSHIPS; `ref` is the first entity beyond the bound."""

    def __init__(self, ref: EntityRef) -> None:
        message = f"{quote_input(str(ref))} brings the total to more than {MAX_MEMBERSHIPS:,} memberships"
        super().__init__("entities", "", message, MEMBERSHIP_HINT, code="E188")
        self.ref = ref


NOTHING_KNOWN = Ancestors((), False)
NOBODY_ANSWERED = Ancestors((), False, False)


def get_attribute(row: EntityData, name: str) -> object:
    """Return the raw attribute of a row. An attribute that a partial row lacks is unknown, as if there were no row."""
    value = row.attributes.get(name)
    if value is not None:
        return value
    return PARTIAL_ROW if row.partial else ABSENT


def collect_ancestors(parents: Iterable[EntityRef], row: Callable[[EntityRef], RowResult]) -> Ancestors:
    """Return these parents and all entities that contain them, nearest first. A cycle of memberships is
    followed once.
    """
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
    """Return the ancestors of a row from those of its parents. No entity is its own ancestor, even in a cycle."""
    if row.ref not in above.refs and not row.partial:
        return above
    refs = tuple(one for one in above.refs if one != row.ref)
    return Ancestors(refs, above.complete and not row.partial, above.answered)


class EntityStore:
    """An immutable set of entity rows; `with_rows` returns another set.

    `lookups` finds rows of some types when a decision needs them (`looking`); without it, their rows are unknown.
    `notes` are remarks for people about these rows, from the modules that read them. A store that is not `loaded` has
    no source, so it never answers that a row does not exist. `read_since` is the time when reading the rows began, by
    default now (`ReadTime`).
    """

    def __init__(
        self,
        rows: Iterable[EntityData] = (),
        *,
        lookups: EntityLookups | None = None,
        notes: Sequence[str] = (),
        loaded: bool = True,
        read_since: int | None = None,
    ) -> None:
        begin = monotonic_ns() if read_since is None else read_since
        self._rows: dict[EntityRef, EntityData] = {row.ref: row for row in rows}
        self.lookups: EntityLookups | None = lookups
        self.notes, self.loaded = tuple(notes), loaded
        self._ancestors = self._closures()
        self._largest: dict[str, int] = {}
        self.read_time = ReadTime(begin, monotonic_ns())

    def _closures(self) -> dict[EntityRef, Ancestors]:
        """Compute the ancestors of all entities. Entities with the same parents share one closure. Raises
        MembershipBoundError."""
        shared: dict[tuple[EntityRef, ...], Ancestors] = {}
        found: dict[EntityRef, Ancestors] = {}
        left, deepest = MAX_MEMBERSHIPS, 0
        for ref, row in self._rows.items():
            above = shared.get(row.parents)
            if above is None:
                above = shared[row.parents] = collect_ancestors(row.parents, self._rows.get)
                left -= len(above.refs)
                if left < 0:
                    raise MembershipBoundError(ref)
            found[ref] = above = with_parents(row, above)
            deepest = max(deepest, len(above.refs))
        self._deepest = deepest
        return found

    def largest(self, name: str) -> int:
        """Return the largest size of an attribute over all rows, computed at the first call."""
        if self.lookups is not None:
            return MAX_ELEMENTS
        if name not in self._largest:
            rows = self._rows.values()
            found = (measure_extent(row.ref if name == "id" else row.attributes.get(name)) for row in rows)
            self._largest[name] = max(found, default=0)
        return self._largest[name]

    @property
    def deepest(self) -> int:
        """The largest number of ancestors of an entity."""
        return MAX_ELEMENTS if self.lookups is not None else self._deepest

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[EntityData]:
        return iter(self._rows.values())

    def __contains__(self, ref: EntityRef) -> bool:
        return ref in self._rows

    def row(self, ref: EntityRef) -> EntityData | None:
        """Return the row of an entity, or None if it is missing or unknown."""
        found = self.found_of(ref)
        return found if isinstance(found, EntityData) else None

    def found_of(self, ref: EntityRef) -> RowResult:
        """Return the row of an entity, None if the entity has no row, or UnknownRow if the source of the row did not
        answer."""
        return self._rows.get(ref)

    def same_as(self, other: EntityStore) -> bool:
        """Return whether both stores have the same rows and the same lookups."""
        same = (self.lookups, self.loaded) == (other.lookups, other.loaded)
        return same and {row.ref: row for row in self} == {row.ref: row for row in other}

    def is_older_than(self, other: EntityStore) -> bool:
        """Return whether all of these rows were read before the first row of the other store. If neither store is
        older, both were read at overlapping times, and each may have the older row of an entity.
        """
        return self.read_time.end < other.read_time.begin

    def with_rows(self, rows: Iterable[EntityData]) -> EntityStore:
        """Return this store with the rows of one request. If both have a row of an entity, the row of this store is
        used."""
        rows = tuple(rows)
        return RequestEntityStore(self, rows) if rows else self

    def looking(self) -> LookupEntityStore | None:
        """Return a store for one decision that can look up rows, or None if no type is looked up."""
        return None if self.lookups is None else self.lookups.beside(self)

    def read_all(self, read: Callable[[EntityStore], Answer]) -> Answer:
        """Return what `read` returns for a store that has all rows that it reads. If rows must be looked up, it is
        called again after each lookup."""
        looking = self.looking()
        if looking is None:
            return read(self)
        answer = read(looking)
        while looking.lacking:
            looking.fetch()
            answer = read(looking)
        return answer

    def has_row(self, ref: EntityRef) -> bool | None:
        """Return whether there is a complete row; None if that is unknown."""
        match self.found_of(ref):
            case EntityData(partial=partial):
                return None if partial else True
            case None:
                return False if self.loaded and not self._is_looked_up(ref) else None
            case UnknownRow():
                return None

    def attribute(self, ref: EntityRef, name: str) -> object:
        """Return the raw attribute: ABSENT if the row lacks it, NO_ROW if there is no row."""
        row = self._rows.get(ref)
        if row is not None:
            return get_attribute(row, name)
        return NOT_LOOKED_UP if self._is_looked_up(ref) else NO_ROW

    def _is_looked_up(self, ref: EntityRef) -> bool:
        """Return whether the row of this entity can be found only by a lookup (`looking`)."""
        return self.lookups is not None and ref.type in self.lookups.types

    def parents(self, ref: EntityRef) -> Ancestors:
        """Return the direct parents of an entity."""
        match self.found_of(ref):
            case EntityData() as row:
                return Ancestors(row.parents, not row.partial)
            case None:
                return NOTHING_KNOWN
            case UnknownRow():
                return NOBODY_ANSWERED

    def ancestors(self, ref: EntityRef) -> Ancestors:
        """Return the ancestors of an entity at any depth."""
        return self._ancestors.get(ref, NOTHING_KNOWN)


def describe_lost_types(before: EntityStore, after: EntityStore) -> list[str]:
    """Describe, for each type, the rows that a reload would remove, if it would remove all rows of the type, or so many
    rows that the file was probably truncated.
    """
    looked_up = frozenset() if after.lookups is None else frozenset(after.lookups.types)
    counts, left = (Counter(row.ref.type for row in one) for one in (before, after))
    gone = {name: count - left[name] for name, count in counts.items() if name not in looked_up}
    return [
        f"{lost:,} of {counts[name]:,} rows of `{name}`" if left[name] else f"every row of `{name}`"
        for name, lost in sorted(gone.items())
        if lost > 0 and (not left[name] or (lost >= MIN_LOST_ROWS and lost > left[name]))
    ]


class RequestEntityStore(EntityStore):
    """An entity store with the rows of one request, which are used only for entities that the store does not have."""

    def __init__(self, below: EntityStore, rows: Iterable[EntityData]) -> None:
        self._below = below
        self._rows = {row.ref: row for row in rows if row.ref not in below}
        self._climbed: dict[EntityRef, Ancestors] = {}
        self.lookups, self.notes, self.loaded = below.lookups, below.notes, below.loaded
        self.read_time = below.read_time

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
