"""Directory rows as data: what is known of one entity, and how rows are read from a raw tree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from policyengine.runtime.structure_checks import RequestError, flag_at, id_at, items_at, object_at, only, quoted
from policyengine.typesystem import EntityRef

ROW = ("type", "id", "attributes", "in", "partial")
REFERENCE = ("type", "id")


@dataclass(frozen=True, slots=True)
class EntityData:
    """One row. The attributes are raw; they become values when a policy that declares them reads them.

    `partial`: it says a part of what is so: attributes it lacks, and what it is not in, are unknown.
    """

    ref: EntityRef
    attributes: Mapping[str, object]
    parents: tuple[EntityRef, ...] = ()
    partial: bool = False


def entity_rows(raw: object, member: str) -> tuple[EntityData, ...]:
    """`[{"type": "user", "id": "alice", "attributes": {…}, "in": [{"type": "team", "id": "x"}]}]`, each entity once."""
    rows: dict[EntityRef, EntityData] = {}
    for place, item in items_at(raw, member):
        row = entity_row(item, place)
        if row.ref in rows:
            raise RequestError(place, f"{quoted(str(row.ref))} is given twice", "keep one row of each entity")
        rows[row.ref] = row
    return tuple(rows.values())


def entity_row(raw: object, member: str) -> EntityData:
    given = object_at(raw, member) or {}
    only(given, ROW, member, "what is known of an entity stands under `attributes`")
    attributes = object_at(given.get("attributes"), f"{member}.attributes") or {}
    parents = tuple(reference(item, place) for place, item in items_at(given.get("in"), f"{member}.in"))
    partial = flag_at(given.get("partial"), f"{member}.partial", default=False)
    return EntityData(identified(given, member), attributes, parents, partial)


def reference(raw: object, member: str) -> EntityRef:
    if isinstance(raw, str):
        hint = f'write `{{"type": "team", "id": "{quoted(raw)}"}}`'
        raise RequestError(member, f"`{member}` must be an object, got string", hint)
    given = object_at(raw, member) or {}
    only(given, REFERENCE, member)
    return identified(given, member)


def identified(given: Mapping[str, object], member: str) -> EntityRef:
    return EntityRef(id_at(given.get("type"), f"{member}.type"), id_at(given.get("id"), f"{member}.id"))
