"""Absence: `is present`, `is absent` and `else` apply only to facts, `is known` only to entities."""

from __future__ import annotations

from policyengine import kernel as k
from policyengine.checker.names.scope import ExpressionContext
from policyengine.checker.type_names import describe_type, quote_source
from policyengine.checker.types.compatibility import is_assignable
from policyengine.syntax import nodes as ast
from policyengine.typesystem import RefType, UnresolvedType
from policyengine.vocabulary import BUILT_IN_FACTS as BUILT_IN
from policyengine.vocabulary import ENTITY_ROOTS, STRING_MAPS, FactOrigin

HINT = "only a fact, an attribute or a member of a record can be absent"


def lower_presence(expression: ast.Presence, operand: k.Expr | None, context: ExpressionContext) -> k.Expr | None:
    if operand is None:
        return None
    word = "present" if expression.present else "absent"
    if not isinstance(operand, k.Fact | k.Attribute | k.Member | k.PastFact):
        context.report("E229", f"{quote_source(operand.span)} is never absent: it is not a fact", operand.span, HINT)
        return None
    if not may_be_absent(operand):
        message = f"`{operand.span.text}` is always present by declaration, so `is {word}` has no effect"
        context.report("W201", message, expression.span, presence_hint(operand, word))
    found = k.IsPresent(operand, span=expression.span)
    return found if expression.present else k.Not(found, span=expression.span)


def presence_hint(operand: k.Expr, word: str) -> str:
    """Return a hint. For an attribute, the author may have meant to test for the entity's row."""
    if isinstance(operand, k.Fact):
        return f"remove `is {word}`" if operand.path in BUILT_IN else "add `?` to its type"
    while isinstance(operand, k.Member):
        operand = operand.base
    if not isinstance(operand, k.Attribute):
        return "add `?` to its type"
    if operand.name == "id":
        return f"every entity has an id: `{operand.base.span.text} is known` tests whether there is a row"
    if operand.inherited:
        return (
            "`else []` makes the set empty in rows that lack it; "
            f"`{operand.base.span.text} is known` tests whether there is a row"
        )
    return (
        f"`{operand.base.span.text} is known` tests whether there is a row; if a row may lack the attribute, add `?` "
        "to its type"
    )


def lower_has_row(expression: ast.HasRow, operand: k.Expr | None, context: ExpressionContext) -> k.HasRow | None:
    if operand is None:
        return None
    type_ = operand.type
    if not isinstance(type_, RefType | UnresolvedType):
        may_be_there = isinstance(operand, k.Fact | k.Attribute | k.Member)
        hint = f"write `{operand.span.text} is present`" if may_be_there else None
        message = (
            f"`is known` tests whether an entity has a row, but {quote_source(operand.span)} is {describe_type(type_)}"
        )
        context.report("E254", message, operand.span, hint)
        return None
    return k.HasRow(operand, span=expression.span)


def may_be_absent(operand: k.Expr) -> bool:
    """Return whether the operand, or something that contains it, is declared so that it may be absent."""
    match operand:
        case k.Fact(path, _, optional):
            built_in = BUILT_IN.get(path)
            bound = path[0] == "params" or (path[:1] == path and path[0] in ENTITY_ROOTS)
            said = built_in is not None and built_in.origin is not FactOrigin.ENGINE
            return optional or bound or said or path[:2] in STRING_MAPS
        case k.PastFact(fact):
            return may_be_absent(fact) or (isinstance(fact, k.Fact) and fact.path[0] == "past")
        case k.Attribute(levels=levels) if not all(empty for _, empty in levels):
            return True  # an inherited set is absent if every level lacks it
        case k.Attribute(base, _, _, optional) | k.Member(base, _, _, optional):
            return optional or (isinstance(base, k.Attribute | k.Member) and may_be_absent(base)) or is_optional(base)
        case _:
            return False


def is_optional(base: k.Expr) -> bool:
    return isinstance(base, k.Fact) and base.optional and base.path[0] not in ENTITY_ROOTS


def lower_else(
    expression: ast.Else, operand: k.Expr | None, fallback: k.Expr | None, context: ExpressionContext
) -> k.Default | None:
    if operand is None or fallback is None:
        return None
    if not isinstance(operand, k.Fact | k.Attribute | k.Member | k.PastFact | k.Default):
        context.report("E229", f"{quote_source(operand.span)} is never absent: it is not a fact", operand.span, HINT)
        return None
    type_, other = operand.type, fallback.type
    if not is_assignable(other, type_) and not is_assignable(type_, other):
        message = f"{quote_source(operand.span)} is {describe_type(type_)}, but `else` gives {describe_type(other)}"
        context.report("E230", message, fallback.span, f"the value after `else` must be {describe_type(type_)}")
        return None
    if isinstance(operand, k.Attribute) and operand.inherited:
        message = (
            f"`else` replaces {quote_source(operand.span)} only if it is missing at every level of the inheritance"
        )
        hint = f"`{operand.name}: … inherited else []` makes the set empty in each row that lacks it"
        context.report("W202", message, expression.fallback.span, hint)
    return k.Default(operand, fallback, type_ if is_assignable(other, type_) else other, span=expression.span)
