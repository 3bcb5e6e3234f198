"""Expected types: the type that one side of an operator requires of the other, which determines the type of words and
empty lists.
"""

from __future__ import annotations

from policyengine import kernel as k
from policyengine.checker.names.scope import ExpressionContext
from policyengine.checker.types.schema import UNRESOLVED
from policyengine.syntax import nodes as ast
from policyengine.typesystem import ListType, Scalar, SetType, Type
from policyengine.vocabulary import FACT_ROOT_NAMES


def needs_expected_type(expression: ast.Expr, context: ExpressionContext) -> bool:
    """Return whether the meaning of an expression depends on the other side of its operator, as for a word, a list or a
    `let`.
    """
    match expression:
        case ast.Reference(name, keys):
            first = name.partition(".")[0]
            if first == "past":
                return name.startswith("past.output.")
            return not keys and first not in FACT_ROOT_NAMES and first not in context.variables
        case ast.ListLiteral():
            return True
        case ast.Else(operand, fallback):
            return needs_expected_type(operand, context) and needs_expected_type(fallback, context)
        case _:
            return False


def expected_right(operator: str, left: k.Expr | None) -> Type:
    type_ = UNRESOLVED if left is None else left.type
    match operator:
        case "in" | "not in":
            return SetType(type_)
        case "has":
            return type_.element if isinstance(type_, SetType | ListType) else UNRESOLVED if left is None else type_
        case "within" if left is not None:
            return ListType(Scalar.CIDR)
        case _:
            return type_


def expected_left(operator: str, right: k.Expr | None) -> Type:
    type_ = UNRESOLVED if right is None else right.type
    match operator:
        case "in" | "not in":
            return type_.element if isinstance(type_, SetType | ListType) else type_
        case "has":
            return SetType(type_)
        case _:
            return type_
