"""Compatibility of types."""

from __future__ import annotations

from policyengine.typesystem import ListType, RecordType, RefType, Scalar, SetType, Type, UnresolvedType

NUMBERS = (Scalar.INT, Scalar.NUMBER)
ADDRESSES = (Scalar.IP, Scalar.CIDR)


def are_comparable(left: Type, right: Type) -> bool:
    """Return whether values of both types can be equal. An unresolved type is comparable with every type, because its
    error is already reported.
    """
    match left, right:
        case (UnresolvedType(), _) | (_, UnresolvedType()):
            return True
        case Scalar(), Scalar():
            return left == right or (left in NUMBERS and right in NUMBERS)
        case RefType(), RefType():
            return bool(left.entities & right.entities)
        case (SetType(one), SetType(other)) | (ListType(one), ListType(other)):
            return are_comparable(one, other)
        case (RecordType(), _) | (_, RecordType()):
            return False
        case _:
            return left == right


def is_assignable(actual: Type, expected: Type) -> bool:
    """Return whether a value of the type `actual` may stand where the type `expected` is required. Sets and lists may
    stand for each other; an unresolved type fits everywhere, because its error is already reported.
    """
    match actual, expected:
        case (UnresolvedType(), _) | (_, UnresolvedType()):
            return True
        case Scalar.INT, Scalar.NUMBER:
            return True
        case RefType(), RefType():
            return actual.entities <= expected.entities
        case (SetType(one) | ListType(one), SetType(other)) | (ListType(one), ListType(other)):
            return is_assignable(one, other)
        case _:
            return actual == expected
