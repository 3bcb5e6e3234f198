"""Relations between `resource.id` and a constant, which can have a result although the ID is pending."""

from __future__ import annotations

from policyengine.kernel.expressions import Attribute, Constant, Expr, Fact, Relation

RESOURCE_ID = ("resource", "id")


def compared_constant(node: Relation) -> object:
    """Return the constant with which the relation compares `resource.id`; None for every other relation."""
    match node:
        case Relation("like" | "==" | "!=", left, Constant(value)) if is_resource_id(left):
            return value
        case Relation("==" | "!=", Constant(value), right) | Relation("has", Constant(value), right) if is_resource_id(
            right
        ):
            return value
        case _:
            return None


def is_resource_id(node: Expr) -> bool:
    return isinstance(node, Attribute) and node.name == "id" and isinstance(node.base, Fact) and is_resource(node.base)


def is_resource(fact: Fact) -> bool:
    return fact.path == RESOURCE_ID[:1]
