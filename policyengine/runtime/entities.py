"""Entity rows as data, and their parsing from a raw tree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from policyengine.runtime.structure_checks import (
    RequestError,
    check_members,
    get_flag,
    get_id,
    get_object,
    iterate_items,
    quote_input,
)
from policyengine.typesystem import EntityRef

MEMBERSHIP_WORDS = frozenset({"parents", "parent", "member_of", "memberOf", "groups"})
IN_HINT = "write the entities that contain this entity under `in`"
ROW_MEMBERS = ("type", "id", "attributes", "in", "partial")
REFERENCE_MEMBERS = ("type", "id")


@dataclass(frozen=True, slots=True)
class EntityData:
    """One entity row. Attributes are raw; they become values when a policy that declares them reads them. If `partial`,
    attributes and parents that the row lacks are unknown.
    """

    ref: EntityRef
    attributes: Mapping[str, object]
    parents: tuple[EntityRef, ...] = ()
    partial: bool = False


def read_entity_rows(raw: object, member: str) -> tuple[EntityData, ...]:
    """Parse `[{"type": "user", "id": "alice", "attributes": {…}, "in": [{"type": "team", "id": "x"}]}]`.

    Raises RequestError, also if an entity is given twice.
    """
    rows: dict[EntityRef, EntityData] = {}
    for place, item in iterate_items(raw, member):
        row = read_entity_row(item, place)
        if row.ref in rows:
            raise RequestError(place, f"{quote_input(str(row.ref))} is given twice", "keep one row of each entity")
        rows[row.ref] = row
    return tuple(rows.values())


def read_entity_row(raw: object, member: str) -> EntityData:
    given = get_object(raw, member) or {}
    for name in MEMBERSHIP_WORDS.intersection(given):
        full = f"{member}.{name}" if member else name
        raise RequestError(full, f"unknown member `{quote_input(full)}`", IN_HINT)
    check_members(given, ROW_MEMBERS, member, "put facts about an entity under `attributes`")
    attributes = get_object(given.get("attributes"), f"{member}.attributes") or {}
    parents = tuple(read_reference(item, place) for place, item in iterate_items(given.get("in"), f"{member}.in"))
    partial = get_flag(given.get("partial"), f"{member}.partial", default=False)
    return EntityData(read_entity_id(given, member), attributes, parents, partial)


def read_reference(raw: object, member: str) -> EntityRef:
    if isinstance(raw, str):
        hint = f'write `{{"type": "team", "id": "{quote_input(raw)}"}}`'
        raise RequestError(member, f"`{member}` must be an object, got string", hint)
    given = get_object(raw, member) or {}
    check_members(given, REFERENCE_MEMBERS, member)
    return read_entity_id(given, member)


def read_entity_id(given: Mapping[str, object], member: str) -> EntityRef:
    return EntityRef(get_id(given.get("type"), f"{member}.type"), get_id(given.get("id"), f"{member}.id"))
