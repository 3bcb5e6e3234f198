"""Drafts of requests: reads and writes the operands of conditions."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Any, Protocol

from policyengine import kernel as k
from policyengine.runtime.functions import call_function
from policyengine.runtime.values import Unknown
from policyengine.solver.witness.values import compute, sample_elements, typed_value
from policyengine.typesystem import EntityRef, RefType, Scalar, Type

MAX_SIZE = 1_000  # maximum elements or characters for a required size
# Templates of arguments for a required result, by function.
ARGUMENT_TEXTS: Mapping[str, str] = {"domain": "x@{}", "host": "https://{}/"}


class Draft(Protocol):
    """Facts, entity rows and a clock. Writes return whether the draft accepted the value; reads return None if there is
    no value.

    `variables` are the current elements of enclosing quantifiers.
    """

    @property
    def variables(self) -> dict[str, Any]: ...

    def read_fact(self, path: tuple[str, ...], type_: Type) -> Any: ...

    def write_fact(self, path: tuple[str, ...], value: Any) -> bool: ...

    def remove_fact(self, path: tuple[str, ...]) -> bool: ...

    def read_attribute(self, holder: EntityRef, name: str, type_: Type) -> Any: ...

    def write_attribute(self, holder: EntityRef, name: str, value: Any) -> bool: ...

    def remove_attribute(self, holder: EntityRef, name: str) -> bool: ...

    def add_row(self, ref: EntityRef) -> None: ...

    def remove_row(self, ref: EntityRef) -> None: ...

    def has_row(self, ref: EntityRef) -> bool: ...

    def add_parent(self, child: EntityRef, parent: EntityRef) -> None: ...

    def remove_parent(self, child: EntityRef, parent: EntityRef) -> None: ...


# ── Reading ───────────────────────────────────────────────────────────────────────────────────


def read(draft: Draft, node: k.Expr) -> Any:
    """Return the value of an operand, or None if it has no value or is too complex."""
    match node:
        case k.Constant(value):
            return value
        case k.Variable(name):
            return draft.variables.get(name)
        case k.DefinitionRef(_, inner):
            return read(draft, inner)
        case k.Default(operand, fallback):
            value = read(draft, operand)
            return read(draft, fallback) if value is None else value
        case k.Fact(path, type_):
            return draft.read_fact(path, type_)
        case k.Attribute(base, name, type_):
            return read_attribute(draft, read(draft, base), name, type_)
        case k.Member(base, name, type_):
            record = read(draft, base)
            return typed_value(record.get(name), type_) if isinstance(record, Mapping) else None
        case k.Collection(items):
            return tuple(read(draft, item) for item in items)
        case k.UnaryMinus(operand):
            value = read(draft, operand)
            return -value if isinstance(value, int | Decimal | timedelta) else None
        case k.Arithmetic(operator, left, right):
            return compute(operator, read(draft, left), read(draft, right))
        case k.Call():
            return read_call(draft, node)
        case _:
            return None


def read_attribute(draft: Draft, holder: object, name: str, type_: Type) -> Any:
    if not isinstance(holder, EntityRef):
        return None
    return holder.id if name == "id" else draft.read_attribute(holder, name, type_)


def read_call(draft: Draft, call: k.Call) -> Any:
    arguments = tuple(read(draft, argument) for argument in call.arguments)
    if any(argument is None for argument in arguments):
        return None
    if isinstance(call.type, RefType):
        return typed_value(arguments[0], call.type)
    value = call_function(call.function, arguments)
    return None if isinstance(value, Unknown) else value


# ── Writing ───────────────────────────────────────────────────────────────────────────────────


def write(draft: Draft, node: k.Expr, value: Any) -> bool:
    """Set the fact that an operand is based on so that the operand has this value. Return whether the draft accepted
    it."""
    match node:
        case k.DefinitionRef(_, inner) | k.Default(inner):
            return write(draft, inner, value)
        case k.Variable(name):
            draft.variables[name] = value
            return True
        case k.Fact(path):
            return draft.write_fact(path, value)
        case k.Attribute():
            return write_attribute(draft, node, value)
        case k.Member(base, name):
            record = read(draft, base)
            return write(draft, base, {**(record if isinstance(record, Mapping) else {}), name: value})
        case k.UnaryMinus(operand):
            return isinstance(value, int | Decimal | timedelta) and write(draft, operand, -value)
        case k.Arithmetic():
            return write_term(draft, node, value)
        case k.Call(_, (argument, *_)):
            return write_argument(draft, node, argument, value)
        case _:
            return False


def write_attribute(draft: Draft, node: k.Attribute, value: Any) -> bool:
    if node.name != "id":
        holder = read(draft, node.base)
        return isinstance(holder, EntityRef) and draft.write_attribute(holder, node.name, value)
    type_ = node.base.type
    if not isinstance(type_, RefType) or not isinstance(value, str):
        return False
    return write(draft, node.base, EntityRef(min(type_.entities), value))


def write_term(draft: Draft, term: k.Arithmetic, value: Any) -> bool:
    """Set one side of a sum, difference or product: the side without a value, otherwise the left side. Return whether
    the draft accepted it.
    """
    left, right = read(draft, term.left), read(draft, term.right)
    if left is None and right is None:
        right = neutral_operand(term)
        if right is None or not write(draft, term.right, right):
            return False
    sides = [(term.left, right), (term.right, left)]
    for side, other in sides if left is None or right is not None else reversed(sides):
        wanted = None if other is None else solve_term(term, side, other, value)
        if wanted is not None and write(draft, side, wanted):
            return True
    return False


def neutral_operand(term: k.Arithmetic) -> object:
    """Return the value of the right side with which the term equals its left side; None for a type without such a
    value.
    """
    match term.right.type:
        case Scalar.DURATION:
            return timedelta(0)
        case Scalar.INT | Scalar.NUMBER:
            return 1 if term.operator == "*" else 0
        case _:
            return None


def solve_term(term: k.Arithmetic, side: k.Expr, other: Any, value: Any) -> Any:
    """Return the value of one side with which the term has the required value; None if no value fits."""
    match term.operator:
        case "+":
            return compute("-", value, other)
        case "-":
            return compute("-", other, value) if side is term.right else compute("+", value, other)
        case _:
            return divide(value, other, whole=side.type is Scalar.INT)


def divide(value: Any, by: Any, whole: bool) -> int | Decimal | timedelta | None:
    try:
        if isinstance(value, timedelta):
            return None if isinstance(by, timedelta) else value / int(by)
        quotient = Decimal(value) / Decimal(by)
    except (TypeError, ValueError, ArithmeticError):
        return None
    if quotient == quotient.to_integral_value():
        return int(quotient)
    return None if whole else quotient


def write_argument(draft: Draft, call: k.Call, argument: k.Expr, value: Any) -> bool:
    if isinstance(value, EntityRef):
        return write(draft, argument, value.id)
    match call.function:
        case "size" if isinstance(value, int):
            size = max(0, min(value, MAX_SIZE))
            is_text = argument.type is Scalar.STRING
            return write(draft, argument, "x" * size if is_text else sample_elements(argument.type, size))
        case ("domain" | "host") as function if isinstance(value, str):
            return write(draft, argument, ARGUMENT_TEXTS[function].format(value))
        case "bucket" | "starts_with" | "ends_with" | "contains" | "size":
            return False
        case _:
            return write(draft, argument, value)


def is_fixed(operand: k.Expr) -> bool:
    """Return whether the operand is a constant or the clock, so that only the other side can change."""
    return isinstance(operand, k.Constant) or (isinstance(operand, k.Fact) and operand.path == ("time",))
