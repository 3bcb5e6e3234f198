"""Entities by reference: attributes, and membership at any depth with closures computed once, at load."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from policyengine.kinds import EntityRef
from policyengine.runtime.entities import EntityData
from policyengine.runtime.values import ABSENT


@dataclass(frozen=True, slots=True)
class Ancestors:
    """Everything an entity is in, itself excluded. `complete` is false where a row on the way is missing or partial."""

    refs: tuple[EntityRef, ...]
    complete: bool


class Directory:
    """Rows of entities. It never changes: `with_rows` makes another, which climbs only when it is asked."""

    def __init__(self, rows: Iterable[EntityData] = (), *, for_one_request: bool = False) -> None:
        self._rows: dict[EntityRef, EntityData] = {row.ref: row for row in rows}
        self._ancestors = {} if for_one_request else {ref: self._climb(ref) for ref in self._rows}

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[EntityData]:
        return iter(self._rows.values())

    def __contains__(self, ref: EntityRef) -> bool:
        return ref in self._rows

    def row(self, ref: EntityRef) -> EntityData | None:
        """All that is known of an entity; None where nothing is."""
        return self._rows.get(ref)

    def with_rows(self, rows: Iterable[EntityData]) -> Directory:
        """This directory and the rows of one request; where both know an entity, this one's row stands."""
        rows = tuple(rows)
        return Directory([*rows, *self._rows.values()], for_one_request=True) if rows else self

    def attribute(self, ref: EntityRef, name: str) -> object:
        """The raw attribute, or ABSENT."""
        row = self._rows.get(ref)
        value = ABSENT if row is None else row.attributes.get(name, ABSENT)
        return ABSENT if value is None else value

    def parents(self, ref: EntityRef) -> Ancestors:
        """What an entity is directly in."""
        row = self._rows.get(ref)
        return Ancestors((), False) if row is None else Ancestors(row.parents, not row.partial)

    def ancestors(self, ref: EntityRef) -> Ancestors:
        return self._ancestors.get(ref) or self._climb(ref)

    def _climb(self, ref: EntityRef) -> Ancestors:
        """All ancestors, nearest first; a circle of memberships is walked once."""
        found: dict[EntityRef, None] = {}
        complete, pending = True, [ref]
        while pending:
            row = self._rows.get(pending.pop(0))
            complete = complete and row is not None and not row.partial
            fresh = [parent for parent in (row.parents if row else ()) if parent not in found]
            found.update(dict.fromkeys(fresh))
            pending += fresh
        found.pop(ref, None)
        return Ancestors(tuple(found), complete)
