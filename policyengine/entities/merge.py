"""Merges rows from several sources into one entity store. If two sources contain the same entity, an error
names both.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, field
from time import monotonic_ns
from typing import NamedTuple, TypeAlias

from policyengine.entities.errors import EntitiesError
from policyengine.entities.lookup import EntityLookups, RowSource
from policyengine.entities.store import EntityStore, MembershipBoundError
from policyengine.runtime.entities import EntityData
from policyengine.runtime.structure_checks import quote_input
from policyengine.typesystem import EntityRef


class RowOrigin(NamedTuple):
    """The source of rows: a file or database, and the list in it."""

    file: str
    of: str = ""  # "entities": rows are items of that list; "": rows are lines

    def said(self, number: int) -> str:
        return f"`{self.file}` at `{self.of}[{number}]`" if self.of else f"`{self.file}:{number}`"

    def error(self, number: int, message: str, hint: str | None, code: str, column: str | None = None) -> EntitiesError:
        if self.of:
            return EntitiesError(self.file, f"{self.of}[{number}]", message, hint, code=code, column=column)
        return EntitiesError(self.file, "", message, hint, code=code, row=number, column=column)


NumberedRows: TypeAlias = Generator[tuple[int, EntityData], None, None]


@dataclass(slots=True)
class RowCollector:
    """The rows, lookups and notes collected from all sources so far. Create it before the first source is read."""

    rows: dict[EntityRef, EntityData] = field(default_factory=dict)
    where: list[tuple[RowOrigin, int]] = field(default_factory=list)  # the index of the origin's first row in `rows`
    numbers: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    lookups: list[RowSource] = field(default_factory=list)
    since: int = field(default_factory=monotonic_ns)

    def add(self, place: RowOrigin, rows: NumberedRows) -> None:
        self.where.append((place, len(self.numbers)))
        known, numbers = self.rows, self.numbers
        with closing(rows):
            for number, row in rows:
                if row.ref in known:
                    raise self._twice(place, number, row.ref)
                known[row.ref] = row
                numbers.append(number)

    def looked_up(self, source: RowSource) -> None:
        """Add a row source. Raises EntitiesError if another source already looks up one of its types."""
        for other in self.lookups:
            for name in sorted(other.types & source.types):
                message = f"`{name}` is already looked up in `{other.shown}`"
                raise EntitiesError(source.shown, "", message, "remove it from one of them", code="E184")
        self.lookups.append(source)

    def directory(self) -> EntityStore:
        looked_up = {name: source for source in self.lookups for name in source.types}
        if looked_up:
            for index, ref in enumerate(self.rows):
                if ref.type in looked_up:
                    place, number = self._place(index)
                    message = f"{quote_input(str(ref))}: `{ref.type}` is looked up in `{looked_up[ref.type].shown}`"
                    raise place.error(number, message, "remove it from one of them", "E184")
        lookups = EntityLookups(self.lookups) if self.lookups else None
        try:
            return EntityStore(self.rows.values(), lookups=lookups, notes=self.notes, read_since=self.since)
        except MembershipBoundError as error:
            place, number = self._place(list(self.rows).index(error.ref))
            raise place.error(number, error.message, error.hint, error.code) from None

    def _twice(self, place: RowOrigin, number: int, ref: EntityRef) -> EntitiesError:
        index = next(index for index, known in enumerate(self.rows) if known == ref)
        before = self._place(index)
        hint = f"keep one row of each entity: {before[0].said(before[1])} already has one"
        return place.error(number, f"{quote_input(str(ref))} is given twice", hint, "E184")

    def _place(self, index: int) -> tuple[RowOrigin, int]:
        place = next(place for place, begins in reversed(self.where) if begins <= index)
        return place, self.numbers[index]
