"""Operators: their operand and result types, one function for each family, with hints for mistakes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal as Word
from typing import TypeAlias, assert_never

from policyengine import kernel as k
from policyengine.checker.reporter import Reporter
from policyengine.checker.type_names import describe_type, quote_source
from policyengine.checker.types.compatibility import ADDRESSES, are_comparable
from policyengine.checker.types.entity_hierarchy import can_be_in, is_direct_parent
from policyengine.checker.types.hints import arithmetic_hint, in_hint, one_sided_hint, order_hint, plural, sets_hint
from policyengine.checker.types.host_comparison import check_hosts
from policyengine.checker.types.schema import UNRESOLVED, Schema
from policyengine.runtime.patterns import PatternError
from policyengine.syntax import nodes as ast
from policyengine.typesystem import EnumType, ListType, RefType, Scalar, SetType, Type, UnresolvedType

Calculation: TypeAlias = Word["+", "-", "*"]
ONE_TYPE = "both sides must have the same type"


@dataclass(frozen=True, slots=True)
class OperatorApplication:
    """One use of an operator, with its operands lowered."""

    node: ast.Binary
    left: k.Expr
    right: k.Expr
    schema: Schema
    report: Reporter

    @property
    def types(self) -> tuple[Type, Type]:
        return self.left.type, self.right.type

    @property
    def unresolved(self) -> bool:
        return any(isinstance(type_, UnresolvedType) for type_ in self.types)

    def refuse(self, code: str, message: str, hint: str | None) -> None:
        self.report(code, message, self.node.span, hint)


def lower_operation(operation: OperatorApplication) -> k.Expr | None:
    found = lower_by_operator(operation)
    return found if check_hosts(found, operation.report) else None


def lower_by_operator(operation: OperatorApplication) -> k.Expr | None:
    lower = OPERATORS.get(operation.node.operator)
    return lower_relation(operation, k.RELATIONS[operation.node.operator]) if lower is None else lower(operation)


# ── == != < <= > >= ───────────────────────────────────────────────────────────────────────────


def lower_comparison(operation: OperatorApplication) -> k.Relation | None:
    node, (left, right) = operation.node, operation.types
    if not are_comparable(left, right):
        message = f"`{node.operator}` cannot compare {describe_type(left)} with {describe_type(right)}"
        operation.refuse("E220", message, comparison_hint(operation))
        return None
    if node.operator in ("==", "!="):
        return k.Relation(node.operator, operation.left, operation.right, span=node.span)
    unordered = next((t for t in (left, right) if not is_ordered(t)), None)
    if unordered is not None:
        message = f"`{node.operator}` needs an order, but {describe_type(unordered)} has no order"
        operation.refuse("E221", message, "use `==`" if isinstance(unordered, RefType) else order_hint(unordered))
        return None
    return k.Relation(node.operator, operation.left, operation.right, span=node.span)


def is_ordered(type_: Type) -> bool:
    match type_:
        case Scalar():
            return type_ not in (Scalar.BOOL, *ADDRESSES)
        case EnumType():
            return type_.ordered
        case _:
            return isinstance(type_, UnresolvedType)


def comparison_hint(operation: OperatorApplication) -> str:
    for mine, other in ((operation.left, operation.right), (operation.right, operation.left)):
        hint = one_sided_hint(mine, mine.type, other, other.type)
        if hint is not None:
            return hint
    return ONE_TYPE


# ── in, not in, below, has ────────────────────────────────────────────────────────────────────


def lower_in(operation: OperatorApplication) -> k.Expr | None:
    found = lower_membership(operation)
    negated = operation.node.operator == "not in"
    return k.Not(found, span=operation.node.span) if found is not None and negated else found


def lower_membership(operation: OperatorApplication) -> k.Expr | None:
    left, right = operation.types
    match left, right:
        case _, (SetType() | ListType()):
            return lower_element_membership(operation, left, right.element, deep=isinstance(left, RefType))
        case RefType(), RefType():
            if not can_be_in(left, right, operation.schema):
                report_unrelated_entities(operation, left, right)
                return None
            return k.Relation("in", operation.left, operation.right, span=operation.node.span)
        case _ if isinstance(right, UnresolvedType):
            return k.Relation("has", operation.right, operation.left, span=operation.node.span)
        case _:
            word = operation.node.operator
            operation.refuse(
                "E222",
                f"`{word}` cannot look for {describe_type(left)} in {describe_type(right)}",
                in_hint(operation.left.span.text, operation.right.span.text, left, right),
            )
            return None


def lower_element_membership(
    operation: OperatorApplication, item: Type, element: Type, deep: bool
) -> k.Relation | None:
    """Lower a membership test in a set or a list. Return None if an error was reported."""
    if isinstance(item, RefType) and isinstance(element, RefType):
        if not can_be_in(item, element, operation.schema):
            report_unrelated_entities(operation, item, element)
            return None
    elif not are_comparable(item, element):
        sought, there = describe_type(item), describe_type(element)
        message = f"`{operation.node.operator}` cannot look for {sought} among elements of another type: {there}"
        hint = sets_hint(operation.left, item, operation.right, element)
        hint = hint or one_sided_hint(operation.left, item, operation.right, element)
        if item == Scalar.IP and element == Scalar.CIDR:
            hint = f"write `{operation.left.span.text} within {operation.right.span.text}`"
        if isinstance(item, EnumType) and element == Scalar.STRING and isinstance(operation.right, k.Constant):
            hint = f"values of {item} are written without quotes"
        operation.refuse(
            "E222", message, hint or f"the elements of {quote_source(operation.right.span)} are {plural(element)}"
        )
        return None
    return k.Relation("holds" if deep else "has", operation.right, operation.left, span=operation.node.span)


def report_unrelated_entities(operation: OperatorApplication, item: RefType, holder: RefType) -> None:
    example = f"entity {min(item.entities)} in {min(holder.entities)}"
    operation.refuse(
        "E222",
        f"{describe_type(item)} is never in {describe_type(holder)}",
        f"declare the membership: `{example}`",
    )


def lower_below(operation: OperatorApplication) -> k.Relation | None:
    match operation.types:
        case RefType() as item, RefType() as holder:
            if can_be_in(item, holder, operation.schema, strict=True):
                return k.Relation("below", operation.left, operation.right, span=operation.node.span)
            report_unrelated_entities(operation, item, holder)
        case left, right if operation.unresolved and not is_not_collection(left) and not is_not_collection(right):
            return k.Relation("below", operation.left, operation.right, span=operation.node.span)
        case left, right:
            hint = (
                "use `in` for sets and lists"
                if isinstance(right, SetType | ListType)
                else "both sides must be entities"
            )
            operation.refuse("E222", f"`below` cannot place {describe_type(left)} under {describe_type(right)}", hint)
    return None


def is_not_collection(type_: Type) -> bool:
    return not isinstance(type_, RefType | UnresolvedType)


def lower_has(operation: OperatorApplication) -> k.Expr | None:
    left, right = operation.types
    match left, right:
        case ((SetType() | ListType()), _):
            if are_comparable(left.element, right):
                return k.Relation("has", operation.left, operation.right, span=operation.node.span)
            hint = sets_hint(operation.right, right, operation.left, left.element)
            hint = hint or one_sided_hint(operation.right, right, operation.left, left.element)
            message = f"{describe_type(left)} cannot contain {describe_type(right)}"
            operation.refuse(
                "E222",
                message,
                hint or f"the elements of {quote_source(operation.left.span)} are {plural(left.element)}",
            )
        case RefType(), RefType():
            if is_direct_parent(left, right, operation.schema):
                return k.Relation("child of", operation.right, operation.left, span=operation.node.span)
            report_unrelated_entities(operation, right, left)
        case _ if isinstance(left, UnresolvedType):
            return k.Relation("has", operation.left, operation.right, span=operation.node.span)
        case _:
            whole, part = operation.left.span.text, operation.right.span.text
            texts = (left, right) == (Scalar.STRING, Scalar.STRING)
            turned = isinstance(right, SetType | ListType) and right.element == left
            hint = f"write `{part} has {whole}`" if turned else "the left side must be a set, a list or an entity"
            hint = f"use `==`, or `contains({whole}, {part})`" if texts else hint
            operation.refuse("E222", f"{describe_type(left)} cannot contain {describe_type(right)}", hint)
    return None


# ── within, and the table of relations ────────────────────────────────────────────────


def lower_within(operation: OperatorApplication) -> k.Relation | None:
    left, right = operation.types
    element = right.element if isinstance(right, SetType | ListType) else right
    if left in (Scalar.IP, UNRESOLVED) and element in (*ADDRESSES, UNRESOLVED) and right != Scalar.IP:
        return k.Relation("within", operation.left, operation.right, span=operation.node.span)
    if left == Scalar.TIME:
        hint = 'write `time within mon..fri 08:00..18:00 "Europe/Berlin"`'
    elif right == Scalar.IP:
        hint = f"use `==`, or write a network: `{operation.right.span.text}/32`"
    elif left == Scalar.IP:
        hint = "the right side must be a network or a list of networks: `[10.0.0.0/8]`"
    else:
        hint = "`within` is for addresses in networks and for times in windows"
    operation.refuse("E225", f"{describe_type(left)} cannot be within {describe_type(right)}", hint)
    return None


def lower_relation(operation: OperatorApplication, row: k.RelationRow) -> k.Relation | None:
    """Lower an operator in the table of relations. Check its operands; return None if an error was reported."""
    match row.operands:
        case k.Operands.VALUES:
            sound = lower_comparison(operation) is not None
        case k.Operands.ELEMENT:
            sound = lower_has(operation) is not None
        case k.Operands.ENTITIES:
            sound = lower_below(operation) is not None
        case k.Operands.NETWORKS:
            sound = lower_within(operation) is not None
        case k.Operands.PATTERN:
            sound = is_text(operation, operation.left) and is_pattern(operation, row)
        case k.Operands.STRINGS:
            sides = [is_text(operation, side) for side in (operation.left, operation.right)]  # report both sides
            sound = all(sides)
        case k.Operands.COLLECTIONS:
            sound = are_collections(operation)
        case _:
            assert_never(row.operands)
    return k.Relation(row.operator, operation.left, operation.right, span=operation.node.span) if sound else None


def is_text(operation: OperatorApplication, side: k.Expr) -> bool:
    word, type_ = operation.node.operator, side.type
    if type_ in (Scalar.STRING, UNRESOLVED):
        return True
    hint = f"use `any x in {side.span.text}: x {word} …`" if side is operation.left else f"`{word}` is for strings"
    hint = hint if isinstance(type_, SetType | ListType) else f"`{word}` is for strings"
    operation.refuse("E223", f"{quote_source(side.span)} is {describe_type(type_)}, not a string", hint)
    return False


def is_pattern(operation: OperatorApplication, row: k.RelationRow) -> bool:
    pattern = operation.right
    if pattern.type == UNRESOLVED:
        return False
    if not (isinstance(pattern, k.Constant) and isinstance(pattern.value, str) and pattern.type == Scalar.STRING):
        message = f"the pattern after `{row.operator}` is not a literal string"
        operation.report(
            "E223", message, pattern.span, "write a literal pattern, so that it is known before any request"
        )
        return False
    try:
        row.check_pattern(pattern.value)
    except PatternError as error:
        hint = error.hint or f"patterns must match in linear time; see the documentation of `{row.operator}`"
        operation.report("E239", f"this pattern cannot be used: {error.why}", pattern.span, hint)
        return False
    return True


def are_collections(operation: OperatorApplication) -> bool:
    word, (left, right) = operation.node.operator, operation.types
    for side, type_ in ((operation.left, left), (operation.right, right)):
        if not isinstance(type_, SetType | ListType | UnresolvedType):
            hint = f"put it in brackets: `[{side.span.text}]`"
            operation.report(
                "E224",
                f"`{word}` compares sets, but {quote_source(side.span)} is {describe_type(type_)}",
                side.span,
                hint,
            )
            return False
    if (
        isinstance(left, SetType | ListType)
        and isinstance(right, SetType | ListType)
        and not are_comparable(left.element, right.element)
    ):
        message = f"`{word}` cannot compare {describe_type(left)} with {describe_type(right)}"
        operation.refuse("E224", message, "both sides must have elements of the same type")
        return False
    return True


# ── + - * ─────────────────────────────────────────────────────────────────────────────────────


def lower_arithmetic(operation: OperatorApplication) -> k.Arithmetic | None:
    node, (left, right) = operation.node, operation.types
    result = arithmetic_type(node.operator, left, right)
    if result is None:
        message = f"`{node.operator}` cannot take {describe_type(left)} and {describe_type(right)}"
        operation.refuse("E226", message, arithmetic_hint(node.operator, left, right))
        return None
    return k.Arithmetic(ARITHMETIC[node.operator], operation.left, operation.right, result, span=node.span)


def arithmetic_type(operator: str, left: Type, right: Type) -> Type | None:
    match operator, left, right:
        case (_, UnresolvedType(), _) | (_, _, UnresolvedType()):
            return UNRESOLVED
        case _, Scalar.INT, Scalar.INT:
            return Scalar.INT
        case _, (Scalar.INT | Scalar.NUMBER), (Scalar.INT | Scalar.NUMBER):
            return Scalar.NUMBER
        case (("+" | "-"), Scalar.DURATION, Scalar.DURATION):
            return Scalar.DURATION
        case (("+" | "-"), Scalar.TIME, Scalar.DURATION) | ("+", Scalar.DURATION, Scalar.TIME):
            return Scalar.TIME
        case ("*", Scalar.DURATION, Scalar.INT) | ("*", Scalar.INT, Scalar.DURATION):
            return Scalar.DURATION
        case _:
            return None


ARITHMETIC: Mapping[str, Calculation] = {"+": "+", "-": "-", "*": "*"}
# Operators that are not relations, or that become one of several relations depending on their types.
OPERATORS: Mapping[str, Callable[[OperatorApplication], k.Expr | None]] = {
    "in": lower_in, "not in": lower_in, "has": lower_has, **dict.fromkeys(ARITHMETIC, lower_arithmetic),
}  # fmt: skip
