"""List literals: all elements have one type, and a list of constants is a constant."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_network

from policyengine import kernel as k
from policyengine.checker.reporter import Reporter
from policyengine.checker.type_names import describe_type, quote_source
from policyengine.checker.types.compatibility import NUMBERS, are_comparable
from policyengine.checker.types.schema import UNRESOLVED
from policyengine.runtime.values import Value
from policyengine.syntax import nodes as ast
from policyengine.typesystem import ListType, RefType, Scalar, SetType, Type, UnresolvedType


def expected_element(expected: Type | None) -> Type | None:
    """Return the expected type of each element; None if the expected type has no elements."""
    match expected:
        case SetType(element) | ListType(element):
            return element
        case UnresolvedType():
            return UNRESOLVED
        case _:
            return None


def build_collection(
    written: ast.ListLiteral, items: Sequence[k.Expr | None], expected: Type | None, report: Reporter
) -> k.Expr | None:
    """Build a list of lowered items, or a set if one is expected. Return None if an error was reported."""
    known, wanted = [item for item in items if item is not None], expected_element(expected)
    if not items and wanted is None:
        report("E249", "the type of this empty list is unknown", written.span, "compare it with a set or a list")
        return None
    element = common_type(known, wanted, report) if len(known) == len(items) else None
    if element is None:
        return None
    type_ = SetType(element) if isinstance(expected, SetType) else ListType(element)
    constants = [item for item in known if isinstance(item, k.Constant)]
    if len(constants) < len(known):
        return k.Collection(tuple(known), type_, span=written.span)
    values = [as_network(item) if element == Scalar.CIDR else item.value for item in constants]
    return k.Constant(
        tuple(dict.fromkeys(values)) if isinstance(type_, SetType) else tuple(values), type_, span=written.span
    )


def as_network(constant: k.Constant) -> Value:
    """Return the value as a network: in a list of networks, an address is a network that contains only this address."""
    value = constant.value
    return ip_network(value) if isinstance(value, IPv4Address | IPv6Address) else value


def common_type(items: Sequence[k.Expr], wanted: Type | None, report: Reporter) -> Type | None:
    """Return the type of all elements. If an element differs, report it and return None."""
    if not items:
        return wanted or UNRESOLVED
    common = items[0].type
    for item in items[1:]:
        joined = join_types(common, item.type)
        if joined is None:
            found, before = describe_type(item.type), describe_type(common)
            message = f"{quote_source(item.span)} is {found}, but the element before it is {before}"
            report("E249", message, item.span, "all elements of a list must have the same type")
            return None
        common = joined
    return common


def join_types(one: Type, other: Type) -> Type | None:
    """Return the narrowest type that contains both; None if no type does."""
    match one, other:
        case (UnresolvedType(), _) | (_, UnresolvedType()):
            return UNRESOLVED
        case RefType(), RefType():
            return RefType(one.entities | other.entities)
        case Scalar(), Scalar() if one in NUMBERS and other in NUMBERS:
            return one if one == other else Scalar.NUMBER
        case (Scalar.IP, Scalar.CIDR) | (Scalar.CIDR, Scalar.IP):
            return Scalar.CIDR
        case _:
            return one if are_comparable(one, other) else None
