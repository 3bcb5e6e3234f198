"""Which types go together."""

from __future__ import annotations

from policyengine.typesystem import List, Record, Ref, Scalar, Set, Type, Unresolved

NUMBERS = (Scalar.INT, Scalar.NUMBER)
ADDRESSES = (Scalar.IP, Scalar.CIDR)


def comparable(left: Type, right: Type) -> bool:
    """Values of both types can be equal."""
    match left, right:
        case (Unresolved(), _) | (_, Unresolved()):
            return True
        case Scalar(), Scalar():
            return left == right or (left in NUMBERS and right in NUMBERS)
        case Ref(), Ref():
            return bool(left.entities & right.entities)
        case (Set(one), Set(other)) | (List(one), List(other)):
            return comparable(one, other)
        case (Record(), _) | (_, Record()):
            return False
        case _:
            return left == right


def fits(actual: Type, expected: Type) -> bool:
    """Every value of the first type is one of the second."""
    match actual, expected:
        case (Unresolved(), _) | (_, Unresolved()):
            return True
        case Scalar.INT, Scalar.NUMBER:
            return True
        case Ref(), Ref():
            return actual.entities <= expected.entities
        case (Set(one) | List(one), Set(other)) | (List(one), List(other)):
            return fits(one, other)
        case _:
            return actual == expected
