"""Which entities can be in which, by their declarations alone."""

from __future__ import annotations

from policyengine.kinds import Ref
from policyengine.semantics.schema import Schema


def can_be_in(item: Ref, holder: Ref, schema: Schema, strict: bool = False) -> bool:
    """Some entity of the one kind can be in one of the other at some depth; unless `strict` each is in itself."""
    if not strict and item.entities & holder.entities:
        return True
    return any(above(name, schema) & holder.entities for name in item.entities)


def is_direct_parent(holder: Ref, item: Ref, schema: Schema) -> bool:
    return any(parents(name, schema) & holder.entities for name in item.entities)


def parents(name: str, schema: Schema) -> frozenset[str]:
    entity = schema.entities.get(name)
    return frozenset(entity.parents) if entity else frozenset()


def above(name: str, schema: Schema) -> frozenset[str]:
    """Everything that such an entity can be in, at any depth."""
    found: set[str] = set()
    pending = [name]
    while pending:
        new = parents(pending.pop(), schema) - found
        found |= new
        pending += new
    return frozenset(found)
