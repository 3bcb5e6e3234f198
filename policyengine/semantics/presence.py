"""Absence: `is present`, `is absent` and `else`, which speak of facts only."""

from __future__ import annotations

from policyengine.semantics import kernel as k
from policyengine.semantics.context import Context
from policyengine.semantics.fitting import fits, type_of
from policyengine.semantics.references import BUILT_IN
from policyengine.semantics.wording import a, quote
from policyengine.syntax import nodes as ast
from policyengine.vocabulary import ENTITY_ROOTS, STRING_MAPS, Origin

HINT = "only a fact, an attribute or a member of a record can be absent"


def lower_presence(expression: ast.Presence, operand: k.Expr | None, context: Context) -> k.Expr | None:
    if operand is None:
        return None
    word = "present" if expression.present else "absent"
    if not isinstance(operand, k.Fact | k.Attribute | k.Member | k.Past):
        context.report("E229", f"{quote(operand.span)} is never absent: it is no fact", operand.span, HINT)
        return None
    if not may_be_absent(operand):
        message = f"`{operand.span.text}` is always present by declaration, so `is {word}` says nothing"
        hint = (
            f"remove `is {word}`" if isinstance(operand, k.Fact) and operand.path in BUILT_IN else "add `?` to its type"
        )
        context.report("W201", message, expression.span, hint)
    found = k.Present(operand, span=expression.span)
    return found if expression.present else k.Not(found, span=expression.span)


def may_be_absent(operand: k.Expr) -> bool:
    """By its declaration, or by that of something on the way to it."""
    match operand:
        case k.Fact(path, _, optional):
            built_in = BUILT_IN.get(path)
            bound = path[0] == "params" or (path[:1] == path and path[0] in ENTITY_ROOTS)
            said = built_in is not None and built_in.origin is not Origin.ENGINE
            return optional or bound or said or path[:2] in STRING_MAPS
        case k.Past(fact):
            return may_be_absent(fact) or (isinstance(fact, k.Fact) and fact.path[0] == "past")
        case k.Attribute(base, _, _, optional) | k.Member(base, _, _, optional):
            return optional or (isinstance(base, k.Attribute | k.Member) and may_be_absent(base)) or is_optional(base)
        case _:
            return False


def is_optional(base: k.Expr) -> bool:
    return isinstance(base, k.Fact) and base.optional and base.path[0] not in ENTITY_ROOTS


def lower_else(
    expression: ast.Else, operand: k.Expr | None, fallback: k.Expr | None, context: Context
) -> k.Default | None:
    if operand is None or fallback is None:
        return None
    if not isinstance(operand, k.Fact | k.Attribute | k.Member | k.Past | k.Default):
        context.report("E229", f"{quote(operand.span)} is never absent: it is no fact", operand.span, HINT)
        return None
    type_, other = type_of(operand), type_of(fallback)
    if not fits(other, type_) and not fits(type_, other):
        message = f"{quote(operand.span)} is {a(type_)}, and `else` gives {a(other)}"
        context.report("E230", message, fallback.span, f"after `else` stands {a(type_)}")
        return None
    return k.Default(operand, fallback, type_ if fits(other, type_) else other, span=expression.span)
