"""Names after a dot: attributes of entities and members of records."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TypeAlias

from policyengine import kernel as k
from policyengine.checker.names.scope import ExpressionContext
from policyengine.checker.type_names import describe_type, join_words
from policyengine.checker.types.schema import UNRESOLVED
from policyengine.diagnostics.suggest import suggest
from policyengine.source import Span
from policyengine.syntax import nodes as ast
from policyengine.typesystem import FieldType, RecordType, RefType, Scalar, Type, UnresolvedType

Navigable: TypeAlias = k.Fact | k.Attribute | k.Member | k.Variable | k.Constant


def strip_parentheses(reference: ast.Reference) -> ast.Reference:
    """Return the reference without the parentheses around it."""
    whole = reference.span
    left, right = whole.text.lstrip("( \t\r\n"), whole.text.rstrip(") \t\r\n")
    start, end = whole.end - len(left), whole.start + len(right)
    return (
        replace(reference, span=Span(whole.source, start, end))
        if (start, end) != (whole.start, whole.end)
        else reference
    )


def head_span(reference: ast.Reference, length: int) -> Span:
    """Return the span of the first `length` parts of a dotted name."""
    whole, size = reference.span, len(".".join(reference.name.split(".")[:length]))
    return whole if whole.end - whole.start == size else Span(whole.source, whole.start, whole.start + size)


def navigate(base: Navigable, reference: ast.Reference, length: int, context: ExpressionContext) -> k.Expr | None:
    """Resolve a dotted name; `base` is the value of its first `length` parts. Return None if an error was reported."""
    found: Navigable | None = base
    for index, name in enumerate(reference.name.split(".")[length:], length):
        if found is None:
            return None
        found = navigate_step(found, name, head_span(reference, index + 1), context)
    return found


def navigate_step(base: Navigable, name: str, span: Span, context: ExpressionContext) -> Navigable | None:
    match base.type:
        case RefType():
            return navigate_attribute(base, base.type, name, span, context)
        case RecordType():
            field = base.type.field(name)
            if field is not None:
                return k.Member(base, name, field.type, field.optional, span=span)
            report_no_member(span, name, [one.name for one in base.type.fields], "member", context)
        case UnresolvedType():
            return k.Member(base, name, UNRESOLVED, True, span=span)
        case _:
            message = f"`{base.span.text}` is {describe_type(base.type)} and has no members"
            context.report("E203", message, span, f"remove `.{name}`")
    return None


def navigate_attribute(
    base: Navigable, type_: RefType, name: str, span: Span, context: ExpressionContext
) -> Navigable | None:
    """Resolve an attribute, which every entity type of the base must declare. Return None if an error was reported."""
    if name == "id":
        return k.Attribute(base, name, Scalar.STRING, span=span)
    entities = [context.schema.entities[one] for one in sorted(type_.entities) if one in context.schema.entities]
    fields = {entity.name: entity.field(name) for entity in entities}
    having = [field for field in fields.values() if field is not None]
    lacking = [entity for entity, field in fields.items() if field is None]
    lenient = base.span.text == "resource" and context.here.everywhere
    if not having and lenient:
        hint = f"declare it: `entity invoice {{ {name}: … }}`"
        context.report("E203", f"no entity has an attribute `{name}`", span, hint)
        return None
    if not having:
        known = {field.name for entity in entities for field in entity.fields} | {"id"}
        report_no_member(span, name, known, "attribute", context, type_)
        return None
    if lacking and not lenient:
        message = f"`{lacking[0]}` has no attribute `{name}`, but `{base.span.text}` may be of this type"
        context.report(
            "E203", message, span, f"`{base.span.text}` is {describe_type(type_)}: declare `{name}` for each"
        )
        return None
    type_of_all, optional, inherited = common_type(having, name, span, lenient, context)
    levels = context.schema.levels[name] if inherited else ()
    return k.Attribute(base, name, type_of_all, optional, levels, span=span)


def common_type(
    fields: list[FieldType], name: str, span: Span, lenient: bool, context: ExpressionContext
) -> tuple[Type, bool, bool]:
    """Return the type, and whether the attribute is optional and inherited; report if entities differ."""
    first = fields[0]
    for other in fields[1:]:
        if (other.type, other.inherited) != (first.type, first.inherited):
            if not lenient:
                one, another = describe_type(first.type), describe_type(other.type)
                message = f"`{name}` is {one} for one entity and {another} for another"
                context.report("E203", message, span, "declare the same type for each")
            return UNRESOLVED, True, False
    return first.type, any(field.optional for field in fields), first.inherited


def report_no_member(
    span: Span, name: str, known: Iterable[str], what: str, context: ExpressionContext, type_: RefType | None = None
) -> None:
    names = sorted(known)
    meant = suggest(name, names)
    owner = f"`{type_}`" if type_ is not None else f"`{span.text.rpartition('.')[0]}`"
    hint = f"did you mean `{meant}`?" if meant else f"it has {join_words(names[:6])}" if names else None
    context.report("E203", f"{owner} has no {what} `{name}`", span, hint)
