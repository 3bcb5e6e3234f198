"""Lowering of expressions: AST to typed kernel expressions, with names resolved and operand types checked."""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from policyengine import kernel as k
from policyengine.checker.lower.history import lower_history, lower_past, lower_tested
from policyengine.checker.names.definitions import (
    MAX_DEPTH,
    definition_body,
    definition_key,
    leading_definition,
    measure,
    report_size,
)
from policyengine.checker.names.members import head_span, navigate, strip_parentheses
from policyengine.checker.names.program import Program, report_private
from policyengine.checker.names.resolve import lower_enum_word, lower_fact, lower_lone_word, report_unknown_name
from policyengine.checker.names.scope import ExpressionContext
from policyengine.checker.names.symbols import Symbol, article, check_usable
from policyengine.checker.reporter import Reporter
from policyengine.checker.type_names import describe_type, quote_source
from policyengine.checker.types.calls import expected_arguments, lower_call
from policyengine.checker.types.compatibility import NUMBERS, is_assignable
from policyengine.checker.types.constants import entity_constant, lower_id, lower_literal, lower_text, lower_window
from policyengine.checker.types.expected_types import expected_left, expected_right, needs_expected_type
from policyengine.checker.types.hints import one_sided_hint
from policyengine.checker.types.lists import build_collection, expected_element
from policyengine.checker.types.operators import OperatorApplication, lower_operation
from policyengine.checker.types.presence import lower_else, lower_has_row, lower_presence
from policyengine.checker.types.schema import EVERYWHERE, UNRESOLVED, AvailableFacts, Schema
from policyengine.diagnostics.model import RelatedLocation
from policyengine.source import Span
from policyengine.syntax import nodes as ast
from policyengine.typesystem import EnumType, ListType, RefType, Scalar, SetType, Type, UnresolvedType
from policyengine.vocabulary import FACT_ROOT_NAMES

__all__ = [
    "AvailableFacts",
    "ExpressionContext",
    "check_definitions",
    "lower_condition",
    "lower_value",
]


def lower_condition(expression: ast.Expr, context: ExpressionContext) -> k.Expr | None:
    """Lower a condition. Returns None if an error was reported."""
    return lower_boolean(expression, context) if check_expression_size(expression, context) else None


def lower_value(expression: ast.Expr, context: ExpressionContext, expected: Type | None = None) -> k.Expr | None:
    """Lower a value and check its type if one is expected. Returns None if an error was reported."""
    if not check_expression_size(expression, context):
        return None
    found = lower_expression(expression, context, expected)
    if found is None or expected is None or is_assignable(found.type, expected):
        return found
    message = f"this must be {describe_type(expected)}, but {quote_source(found.span)} is {describe_type(found.type)}"
    hint = one_sided_hint(found, found.type, found, expected) if isinstance(expected, Scalar | EnumType) else None
    context.report("E251", message, found.span, hint)
    return None


def check_definitions(program: Program, schema: Schema) -> None:
    """Check every `let` and `define` on its own, whether used or not, and report the errors that it has in every
    context.
    """
    for package, name in schema.measures:  # innermost first, so that an error is reported where it occurs
        symbol = program.packages[package].symbols["value", name]
        context = ExpressionContext(program, schema, package, EVERYWHERE, {}, Reporter())
        lower_body(symbol, context, None)
        program.report.found.update(context.report.found)
        if any(finding.is_error for finding in context.report.diagnostics):
            program.broken.add(definition_key(symbol))


def check_expression_size(expression: ast.Expr, context: ExpressionContext) -> bool:
    span = expression.span
    if span.end - span.start <= MAX_DEPTH and not context.schema.measures:
        # Each part takes at least one character of source, so only expanded definitions can exceed the limit.
        return True
    found = measure(expression, context.package, context.program, context.schema.measures)
    if found.too_much:
        report_size(found, expression, "", context.report)
    return not found.too_much


def lower_boolean(expression: ast.Expr, context: ExpressionContext) -> k.Expr | None:
    found = lower_expression(expression, context, Scalar.BOOL)
    if found is None or found.type in (Scalar.BOOL, UNRESOLVED):
        return found
    message = f"{quote_source(found.span)} is {describe_type(found.type)}, not a condition"
    context.report("E228", message, found.span, condition_hint(found))
    return None


def condition_hint(found: k.Expr) -> str:
    text = " ".join(found.span.text.split())
    match found.type:
        case SetType() | ListType():
            return f"test what it contains: `{text} has …`"
        case RefType():
            return f"compare it: `{text} == …`, or test membership: `{text} in …`"
        case _:
            return f"compare it: `{text} == …`"


def lower_expression(expression: ast.Expr, context: ExpressionContext, expected: Type | None = None) -> k.Expr | None:
    """Lower an expression. `expected` gives a type to words and empty lists; the caller checks that the type fits.
    Return None if an error was reported.
    """
    match expression:
        case ast.Literal():
            return lower_literal(expression, context.report)
        case ast.Text():
            return lower_text(expression, context.report)
        case ast.Reference():
            return lower_reference(strip_parentheses(expression), context, expected)
        case ast.ListLiteral():
            return lower_list(expression, context, expected)
        case ast.EntityLiteral():
            return lower_entity(expression, context)
        case ast.Call():
            types = expected_arguments(expression)
            given = [
                lower_expression(one, context, type_) for one, type_ in zip(expression.arguments, types, strict=True)
            ]
            return lower_call(expression, tuple(given), context)
        case ast.Not(operand):
            inner = lower_boolean(operand, context)
            return inner and k.Not(inner, span=expression.span)
        case ast.UnaryMinus():
            return lower_negative(expression, context)
        case ast.Logic():
            return lower_logic(expression, context)
        case ast.Binary():
            return lower_binary(expression, context)
        case ast.Presence(operand):
            return lower_presence(expression, lower_tested(operand, context, lower_expression), context)
        case ast.HasRow(operand):
            return lower_has_row(expression, lower_expression(operand, context), context)
        case ast.Else():
            return lower_default(expression, context, expected)
        case ast.Quantifier():
            return lower_quantified(expression, context)
        case ast.WithinWindow():
            return lower_within_window(expression, context)
        case ast.HistoryCondition() | ast.Aggregate():
            return lower_history(expression, context, lower_boolean, lower_expression)
        case _:
            assert_never(expression)


def lower_default(expression: ast.Else, context: ExpressionContext, expected: Type | None) -> k.Default | None:
    """Lower `x else d`. If nothing else gives x a type, as for a member of an outcome, d does. Return None if an error
    was reported.
    """
    operand, fallback = expression.operand, expression.fallback
    if expected is None and needs_expected_type(operand, context) and not needs_expected_type(fallback, context):
        default = lower_expression(fallback, context)
        known = lower_expression(operand, context, UNRESOLVED if default is None else default.type)
    else:
        known = lower_expression(operand, context, expected)
        default = lower_expression(fallback, context, UNRESOLVED if known is None else known.type)
    return lower_else(expression, known, default, context)


# ── Logic ─────────────────────────────────────────────────────────────────────────────────────


def lower_logic(expression: ast.Logic, context: ExpressionContext) -> k.Expr | None:
    items = [lower_boolean(item, context) for item in expression.items]
    if len(set(expression.operators)) > 1:
        report_mixed_logic(expression, context)
        return None
    known = tuple(item for item in items if item is not None)
    if len(known) < len(items):
        return None
    return (k.And if expression.operators[0] == "and" else k.Or)(known, span=expression.span)


def report_mixed_logic(expression: ast.Logic, context: ExpressionContext) -> None:
    """Report the first operator that differs from the operator before it."""
    first = expression.operators[0]
    index = next(i for i, operator in enumerate(expression.operators) if operator != first)
    span = operator_span(expression.items[index], expression.items[index + 1], expression.operators[index])
    hint = "write `(a and b) or c`, or `a and (b or c)`"
    context.report("E227", "`and` and `or` are mixed without parentheses", span, hint)


def operator_span(left: ast.Expr, right: ast.Expr, word: str) -> Span:
    """Return the span of the operator between its operands, skipping comments."""
    source, start, end = left.span.source, left.span.end, right.span.start
    lines = source.text[start:end].split("\n")
    code = "\n".join(line.partition("#")[0].ljust(len(line)) for line in lines)
    found = max(code.find(word), 0)
    return Span(source, start + found, start + found + len(word))


def lower_quantified(expression: ast.Quantifier, context: ExpressionContext) -> k.Quantifier | None:
    name = expression.variable
    domain = lower_expression(expression.domain, context)
    element: Type = UNRESOLVED
    match domain and domain.type:
        case SetType(inner) | ListType(inner):
            element = inner
        case _:
            domain = check_domain(expression, domain, context)
    fresh = check_variable_name(name, context)
    inside = replace(context, variables={**context.variables, name.text: element})
    test = lower_boolean(expression.condition, inside)
    if domain is None or test is None or not fresh:
        return None
    return k.Quantifier(expression.quantifier, name.text, domain, test, span=expression.span)


def check_domain(expression: ast.Quantifier, domain: k.Expr | None, context: ExpressionContext) -> k.Expr | None:
    """Return the domain. Report a domain that is neither a set nor a list, and return None for it."""
    if domain is None or isinstance(domain.type, UnresolvedType):
        return domain
    found = f"{quote_source(domain.span)} is {describe_type(domain.type)}"
    message = f"`{expression.quantifier}` needs a set or a list, but {found}"
    context.report("E252", message, domain.span, "name a set or a list after `in`")
    return None


def check_variable_name(name: ast.Name, context: ExpressionContext) -> bool:
    """Return whether a variable may have this name. Report a name with dots, a keyword, or a name that hides another
    name.
    """
    reference = ast.Reference(name.text, span=name.span)
    if "." in name.text:
        context.report("E215", "the name of a variable cannot contain dots", name.span, "write one word: `any x in …`")
        return False
    if not check_usable(name, "variable", context.report):
        return False
    if name.text in FACT_ROOT_NAMES:
        hidden = "the built-in facts of that name"
    elif name.text in context.variables:
        hidden = "the variable around it"
    elif leading_definition(reference, context.package, context.program) is not None:
        hidden = "a definition of that name"
    else:
        return True
    context.report("E211", f"the variable `{name.text}` hides {hidden}", name.span, "choose another name")
    return False


# ── Operators ─────────────────────────────────────────────────────────────────────────────────


def lower_binary(expression: ast.Binary, context: ExpressionContext) -> k.Expr | None:
    """Lower a binary operation. The side that has a type on its own is lowered first, because its type determines the
    meaning of words on the other side. Return None if an error was reported.
    """
    if needs_expected_type(expression.left, context) and not needs_expected_type(expression.right, context):
        right = lower_expression(expression.right, context)
        left = lower_expression(expression.left, context, expected_left(expression.operator, right))
    else:
        left = lower_expression(expression.left, context)
        right = lower_expression(expression.right, context, expected_right(expression.operator, left))
    if left is None or right is None:
        return None
    return lower_operation(OperatorApplication(expression, left, right, context.schema, context.report))


def lower_negative(expression: ast.UnaryMinus, context: ExpressionContext) -> k.Expr | None:
    operand = lower_expression(expression.operand, context)
    if operand is None:
        return None
    type_ = operand.type
    if type_ not in (*NUMBERS, Scalar.DURATION, UNRESOLVED):
        context.report(
            "E226", f"`-` cannot take {describe_type(type_)}", expression.span, "it takes a number or a duration"
        )
        return None
    if isinstance(operand, k.Constant) and type_ in NUMBERS:
        return k.Constant(-operand.value, type_, span=expression.span)  # type: ignore[operator]  # its type says so
    return k.UnaryMinus(operand, type_, span=expression.span)


def lower_within_window(expression: ast.WithinWindow, context: ExpressionContext) -> k.InWindow | None:
    instant, window = lower_expression(expression.operand, context), lower_window(expression.window, context.report)
    if instant is not None and instant.type not in (Scalar.TIME, UNRESOLVED):
        message = (
            f"{quote_source(instant.span)} is {describe_type(instant.type)}, but only times can be in a time window"
        )
        context.report("E225", message, instant.span, "write `time within …`")
        return None
    return None if instant is None or window is None else k.InWindow(instant, window, span=expression.span)


# ── Lists and entities ────────────────────────────────────────────────────────────────────────


def lower_list(expression: ast.ListLiteral, context: ExpressionContext, expected: Type | None) -> k.Expr | None:
    wanted = expected_element(expected)
    return build_collection(
        expression, [lower_expression(item, context, wanted) for item in expression.items], expected, context.report
    )


def lower_entity(expression: ast.EntityLiteral, context: ExpressionContext) -> k.Constant | None:
    symbol = context.program.find(context.package, "entity", expression.type, context.report)
    id_ = lower_id(expression.id, context.report)
    return None if symbol is None or id_ is None else entity_constant(symbol.name, id_, expression.span)


# ── Names ─────────────────────────────────────────────────────────────────────────────────────


def lower_reference(reference: ast.Reference, context: ExpressionContext, expected: Type | None) -> k.Expr | None:
    first = reference.name.partition(".")[0]
    if first in context.variables:
        return lower_variable(reference, first, context)
    word = lower_enum_word(reference, expected) if isinstance(expected, EnumType) else None
    if word is not None:
        return word
    if first == "past":
        return lower_past(reference, context, expected, lower_expression)
    if first in FACT_ROOT_NAMES:
        return lower_fact(reference, context)
    named = leading_definition(reference, context.package, context.program)
    if named is not None:
        return lower_named(reference, *named, context, expected)
    if isinstance(expected, UnresolvedType) and "." not in reference.name:
        return k.Constant(reference.name, UNRESOLVED, span=reference.span)  # the other side already has an error
    lone = None if isinstance(expected, EnumType) or reference.keys else lower_lone_word(reference, context)
    if lone is None:
        report_unknown_name(reference, expected, context)
    return lone


def lower_variable(reference: ast.Reference, name: str, context: ExpressionContext) -> k.Expr | None:
    if reference.keys:
        context.report("E244", f"`{reference.name}` takes no name in brackets", reference.span, "members follow a dot")
        return None
    variable = k.Variable(name, context.variables[name], span=head_span(reference, 1))
    return navigate(variable, reference, 1, context)


def lower_named(
    reference: ast.Reference, symbol: Symbol, length: int, context: ExpressionContext, expected: Type | None
) -> k.Expr | None:
    """Lower the value of a `let` or `define` at the place of its use. Return None if an error was reported."""
    if not context.program.is_visible(context.package, symbol):
        report_private(symbol, reference.name, reference.span, context.report)
        return None
    if definition_key(symbol) not in context.schema.measures or definition_key(symbol) in context.program.broken:
        return None  # circular, too large or invalid on its own; the error is already reported
    if reference.keys:
        context.report("E244", f"`{reference.name}` takes no name in brackets", reference.span, "remove the brackets")
        return None
    if context.constant and symbol.kind == "define":
        message = f"a `let` is a constant, but `{reference.name}` is a condition"
        context.report("E247", message, reference.span, "write `define` for a condition on facts")
        return None
    inner = replace(context, report=Reporter())
    found = lower_body(symbol, inner, expected)
    forward_errors(inner.report, symbol, reference, context)
    return found and place_definition(found, symbol, reference, length, context)


def lower_body(symbol: Symbol, context: ExpressionContext, expected: Type | None) -> k.Expr | None:
    """Lower the body of a definition: names are resolved in the definition's own package, facts at the place where it
    is used. Return None if an error was reported.
    """
    body = definition_body(symbol)
    inside = replace(context, package=symbol.package, variables={}, past=None, constant=symbol.kind == "let")
    if body is None:
        return None
    return lower_boolean(body, inside) if symbol.kind == "define" else lower_expression(body, inside, expected)


def place_definition(
    found: k.Expr, symbol: Symbol, reference: ast.Reference, length: int, context: ExpressionContext
) -> k.Expr | None:
    whole = length == reference.name.count(".") + 1
    # The span includes the parentheses.
    span, name = reference.span if whole else head_span(reference, length), symbol.name
    if symbol.kind == "define":
        full = name if symbol.package == context.package else f"{symbol.package}.{name}"
        found = k.DefinitionRef(full, found, Scalar.BOOL, span=span)
    found = replace(found, span=span)
    if whole:
        return found
    if isinstance(found, k.Constant | k.Fact | k.Attribute | k.Member | k.Variable):
        return navigate(found, reference, length, context)
    message = f"`{span.text}` is {article(symbol.kind)} and has no members"
    context.report("E203", message, reference.span, f"write `{span.text}` alone")
    return None


def forward_errors(inner: Reporter, symbol: Symbol, reference: ast.Reference, context: ExpressionContext) -> None:
    """Report errors that arise from using a definition here. Errors of the definition itself are reported at its
    declaration."""
    for finding in inner.diagnostics:
        if finding.is_error and finding not in context.program.report.found:
            message = f"`{reference.name}` cannot be used here: {finding.message.rpartition('used here: ')[2]}"
            where = [RelatedLocation("written here", finding.span), *finding.related]
            context.report(finding.code, message, reference.span, finding.hint, where)
