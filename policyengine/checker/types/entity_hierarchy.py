"""The declared entity hierarchy: which entity types can be in which others."""

from __future__ import annotations

from itertools import product

from policyengine.checker.names.program import Program
from policyengine.checker.type_names import describe_type
from policyengine.checker.types.compatibility import is_assignable
from policyengine.checker.types.schema import Schema
from policyengine.diagnostics.model import RelatedLocation
from policyengine.source import Span
from policyengine.syntax import nodes as ast
from policyengine.typesystem import RefType


def can_be_in(item: RefType, holder: RefType, schema: Schema, strict: bool = False) -> bool:
    """Return whether an entity of one type can be in an entity of the other type, at any depth. Unless `strict`, each
    entity is also in itself.
    """
    if not strict and item.entities & holder.entities:
        return True
    return any(ancestor_types(name, schema) & holder.entities for name in item.entities)


def is_direct_parent(holder: RefType, item: RefType, schema: Schema) -> bool:
    return any(parent_types(name, schema) & holder.entities for name in item.entities)


def parent_types(name: str, schema: Schema) -> frozenset[str]:
    entity = schema.entities.get(name)
    return frozenset(entity.parents) if entity else frozenset()


def ancestor_types(name: str, schema: Schema) -> frozenset[str]:
    """Return every type that an entity of this type can be in, at any depth."""
    found: set[str] = set()
    pending = [name]
    while pending:
        new = parent_types(pending.pop(), schema) - found
        found |= new
        pending += new
    return frozenset(found)


def check_inherited(program: Program, schema: Schema) -> None:
    """Check that an inherited set and the sets from which it inherits have the same type; otherwise its elements would
    always be unknown.
    """
    for entity in schema.entities.values():
        inherited = [one for one in entity.fields if one.inherited]
        for field, name in product(inherited, sorted(ancestor_types(entity.name, schema) - {entity.name})):
            other = schema.entities[name].field(field.name)
            if other is not None and not is_assignable(other.type, field.type):
                types = f"{describe_type(other.type)} and not {describe_type(field.type)}"
                message = f"`{field.name}` is inherited from `{name}`, where it is {types}"
                where = [RelatedLocation("declared there", attribute_span(program, name, field.name))]
                span = attribute_span(program, entity.name, field.name)
                program.report("E217", message, span, "give both the same type, or rename one of them", where)


def attribute_span(program: Program, entity: str, attribute: str) -> Span:
    declared = program.entities[entity].declaration
    assert isinstance(declared, ast.EntityDecl)
    return next(field.name.span for field in declared.fields if field.name.text == attribute)
