"""Expressions of the AST to typed expressions of the kernel: every name resolved, every operand of a type that fits."""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from policyengine import kernel as k
from policyengine.checker.lower.history import lower_history, lower_past
from policyengine.checker.names.definitions import DEEPEST, body_of, key_of, measure, named_by, report_size
from policyengine.checker.names.members import bare, head, navigate
from policyengine.checker.names.resolve import enum_word, lone_word, lower_fact, report_unknown_name
from policyengine.checker.names.scope import Context
from policyengine.checker.names.symbols import Program, Reporter, Symbol, article, check_usable, report_private
from policyengine.checker.type_names import a, quote
from policyengine.checker.types.calls import expected_arguments, lower_call
from policyengine.checker.types.compatibility import NUMBERS, fits
from policyengine.checker.types.constants import entity_constant, lower_id, lower_literal, lower_text, lower_window
from policyengine.checker.types.hints import one_sided_hint
from policyengine.checker.types.lists import collect, wanted_element
from policyengine.checker.types.operators import Operation, lower_operation
from policyengine.checker.types.presence import lower_else, lower_has_row, lower_presence
from policyengine.checker.types.schema import EVERYWHERE, UNRESOLVED, FactsHere, Schema
from policyengine.diagnostics.model import Related
from policyengine.source import Span
from policyengine.syntax import nodes as ast
from policyengine.typesystem import Enum, List, Ref, Scalar, Set, Type, Unresolved
from policyengine.vocabulary import ROOTS

__all__ = [
    "Context",
    "FactsHere",
    "check_definitions",
    "lower_condition",
    "lower_value",
]


def lower_condition(expression: ast.Expr, context: Context) -> k.Expr | None:
    """The condition; None when an error was reported."""
    return condition(expression, context) if is_bounded(expression, context) else None


def lower_value(expression: ast.Expr, context: Context, expected: Type | None = None) -> k.Expr | None:
    """The value, of the expected type if one is named; None when an error was reported."""
    if not is_bounded(expression, context):
        return None
    found = lower(expression, context, expected)
    if found is None or expected is None or fits(found.type, expected):
        return found
    message = f"this must be {a(expected)}, and {quote(found.span)} is {a(found.type)}"
    hint = one_sided_hint(found, found.type, found, expected) if isinstance(expected, Scalar | Enum) else None
    context.report("E251", message, found.span, hint)
    return None


def check_definitions(program: Program, schema: Schema) -> None:
    """Every `let` and `define` by itself, used or not: what is wrong with it wherever it stands."""
    for package, name in schema.measures:  # innermost first, so that a mistake is told where it is
        symbol = program.packages[package].symbols["value", name]
        context = Context(program, schema, package, EVERYWHERE, {}, Reporter())
        lower_body(symbol, context, None)
        program.report.found.update(context.report.found)
        if any(finding.is_error for finding in context.report.diagnostics):
            program.broken.add(key_of(symbol))


def is_bounded(expression: ast.Expr, context: Context) -> bool:
    span = expression.span
    if span.end - span.start <= DEEPEST and not context.schema.measures:
        return True  # each part takes a character: where no name stands for more, so few are no cause to count
    found = measure(expression, context.package, context.program, context.schema.measures)
    if found.too_much:
        report_size(found, expression, "", context.report)
    return not found.too_much


def condition(expression: ast.Expr, context: Context) -> k.Expr | None:
    found = lower(expression, context, Scalar.BOOL)
    if found is None or found.type in (Scalar.BOOL, UNRESOLVED):
        return found
    message = f"{quote(found.span)} is {a(found.type)}, not a condition"
    context.report("E228", message, found.span, condition_hint(found))
    return None


def condition_hint(found: k.Expr) -> str:
    text = " ".join(found.span.text.split())
    match found.type:
        case Set() | List():
            return f"ask what it has: `{text} has …`"
        case Ref():
            return f"compare it: `{text} == …`, or ask where it is: `{text} in …`"
        case _:
            return f"compare it: `{text} == …`"


def lower(expression: ast.Expr, context: Context, expected: Type | None = None) -> k.Expr | None:
    """`expected` gives meaning to words and empty lists; whether the type really fits, the caller checks."""
    match expression:
        case ast.Literal():
            return lower_literal(expression, context.report)
        case ast.Text():
            return lower_text(expression, context.report)
        case ast.Reference():
            return lower_reference(bare(expression), context, expected)
        case ast.ListLiteral():
            return lower_list(expression, context, expected)
        case ast.EntityLiteral():
            return lower_entity(expression, context)
        case ast.Call():
            types = expected_arguments(expression)
            given = [lower(one, context, type_) for one, type_ in zip(expression.arguments, types, strict=True)]
            return lower_call(expression, tuple(given), context)
        case ast.Not(operand):
            inner = condition(operand, context)
            return inner and k.Not(inner, span=expression.span)
        case ast.Negative():
            return lower_negative(expression, context)
        case ast.Logic():
            return lower_logic(expression, context)
        case ast.Binary():
            return lower_binary(expression, context)
        case ast.Presence(operand):
            return lower_presence(expression, lower(operand, context), context)
        case ast.HasRow(operand):
            return lower_has_row(expression, lower(operand, context), context)
        case ast.Else(operand, fallback):
            known = lower(operand, context, expected)
            default = lower(fallback, context, UNRESOLVED if known is None else known.type)
            return lower_else(expression, known, default, context)
        case ast.Quantified():
            return lower_quantified(expression, context)
        case ast.WithinWindow():
            return lower_within_window(expression, context)
        case ast.Happened() | ast.Aggregate():
            return lower_history(expression, context, condition, lower)
        case _:
            assert_never(expression)


# ── Logic ─────────────────────────────────────────────────────────────────────────────────────


def lower_logic(expression: ast.Logic, context: Context) -> k.Expr | None:
    items = [condition(item, context) for item in expression.items]
    if len(set(expression.operators)) > 1:
        report_mixed(expression, context)
        return None
    known = tuple(item for item in items if item is not None)
    if len(known) < len(items):
        return None
    return (k.And if expression.operators[0] == "and" else k.Or)(known, span=expression.span)


def report_mixed(expression: ast.Logic, context: Context) -> None:
    """At the first operator that is not the one before it."""
    first = expression.operators[0]
    index = next(i for i, operator in enumerate(expression.operators) if operator != first)
    span = operator_between(expression.items[index], expression.items[index + 1], expression.operators[index])
    hint = "write `(a and b) or c`, or `a and (b or c)`"
    context.report("E227", "`and` and `or` are mixed without parentheses", span, hint)


def operator_between(left: ast.Expr, right: ast.Expr, word: str) -> Span:
    """Where the word stands; comments may stand there too."""
    source, start, end = left.span.source, left.span.end, right.span.start
    lines = source.text[start:end].split("\n")
    code = "\n".join(line.partition("#")[0].ljust(len(line)) for line in lines)
    found = max(code.find(word), 0)
    return Span(source, start + found, start + found + len(word))


def lower_quantified(expression: ast.Quantified, context: Context) -> k.Quantifier | None:
    name = expression.variable
    domain = lower(expression.domain, context)
    element: Type = UNRESOLVED
    match domain and domain.type:
        case Set(inner) | List(inner):
            element = inner
        case _:
            domain = check_domain(expression, domain, context)
    fresh = is_fresh(name, context)
    inside = replace(context, variables={**context.variables, name.text: element})
    test = condition(expression.condition, inside)
    if domain is None or test is None or not fresh:
        return None
    return k.Quantifier(expression.quantifier, name.text, domain, test, span=expression.span)


def check_domain(expression: ast.Quantified, domain: k.Expr | None, context: Context) -> k.Expr | None:
    """What is neither set nor list."""
    if domain is None or isinstance(domain.type, Unresolved):
        return domain
    message = f"`{expression.quantifier}` goes through a set or a list, and {quote(domain.span)} is {a(domain.type)}"
    context.report("E252", message, domain.span, "name a set or a list after `in`")
    return None


def is_fresh(name: ast.Name, context: Context) -> bool:
    """A variable hides nothing."""
    reference = ast.Reference(name.text, span=name.span)
    if "." in name.text:
        context.report("E215", "the name of a variable has no dots", name.span, "write one word: `any x in …`")
        return False
    if not check_usable(name, "variable", context.report):
        return False
    if name.text in ROOTS:
        hidden = "the built-in facts of that name"
    elif name.text in context.variables:
        hidden = "the variable around it"
    elif named_by(reference, context.package, context.program) is not None:
        hidden = "a definition of that name"
    else:
        return True
    context.report("E211", f"the variable `{name.text}` hides {hidden}", name.span, "choose another name")
    return False


# ── Operators ─────────────────────────────────────────────────────────────────────────────────


def lower_binary(expression: ast.Binary, context: Context) -> k.Expr | None:
    """The side that says its type by itself goes first, so that words on the other side have a meaning."""
    if waits(expression.left, context) and not waits(expression.right, context):
        right = lower(expression.right, context)
        left = lower(expression.left, context, expected_left(expression.operator, right))
    else:
        left = lower(expression.left, context)
        right = lower(expression.right, context, expected_right(expression.operator, left))
    if left is None or right is None:
        return None
    return lower_operation(Operation(expression, left, right, context.schema, context.report))


def waits(expression: ast.Expr, context: Context) -> bool:
    """A word, a list or a `let` means what the other side expects of it."""
    match expression:
        case ast.Reference(name, keys):
            first = name.partition(".")[0]
            if first == "past":
                return name.startswith("past.output.")
            return not keys and first not in ROOTS and first not in context.variables
        case ast.ListLiteral():
            return True
        case _:
            return False


def expected_right(operator: ast.BinaryOperator, left: k.Expr | None) -> Type:
    type_ = UNRESOLVED if left is None else left.type
    match operator:
        case "in" | "not in":
            return Set(type_)
        case "has":
            return type_.element if isinstance(type_, Set | List) else UNRESOLVED if left is None else type_
        case "within" if left is not None:
            return List(Scalar.CIDR)
        case _:
            return type_


def expected_left(operator: ast.BinaryOperator, right: k.Expr | None) -> Type:
    type_ = UNRESOLVED if right is None else right.type
    match operator:
        case "in" | "not in":
            return type_.element if isinstance(type_, Set | List) else type_
        case "has":
            return Set(type_)
        case _:
            return type_


def lower_negative(expression: ast.Negative, context: Context) -> k.Expr | None:
    operand = lower(expression.operand, context)
    if operand is None:
        return None
    type_ = operand.type
    if type_ not in (*NUMBERS, Scalar.DURATION, UNRESOLVED):
        context.report("E226", f"`-` cannot take {a(type_)}", expression.span, "it takes a number or a duration")
        return None
    if isinstance(operand, k.Constant) and type_ in NUMBERS:
        return k.Constant(-operand.value, type_, span=expression.span)  # type: ignore[operator]  # its type says so
    return k.Negative(operand, type_, span=expression.span)


def lower_within_window(expression: ast.WithinWindow, context: Context) -> k.InWindow | None:
    instant, window = lower(expression.operand, context), lower_window(expression.window, context.report)
    if instant is not None and instant.type not in (Scalar.TIME, UNRESOLVED):
        message = f"{quote(instant.span)} is {a(instant.type)}, and only a time is within a window of time"
        context.report("E225", message, instant.span, "write `time within …`")
        return None
    return None if instant is None or window is None else k.InWindow(instant, window, span=expression.span)


# ── Lists and entities ────────────────────────────────────────────────────────────────────────


def lower_list(expression: ast.ListLiteral, context: Context, expected: Type | None) -> k.Expr | None:
    wanted = wanted_element(expected)
    return collect(expression, [lower(item, context, wanted) for item in expression.items], expected, context.report)


def lower_entity(expression: ast.EntityLiteral, context: Context) -> k.Constant | None:
    symbol = context.program.find(context.package, "entity", expression.type, context.report)
    id_ = lower_id(expression.id, context.report)
    return None if symbol is None or id_ is None else entity_constant(symbol.name, id_, expression.span)


# ── Names ─────────────────────────────────────────────────────────────────────────────────────


def lower_reference(reference: ast.Reference, context: Context, expected: Type | None) -> k.Expr | None:
    first = reference.name.partition(".")[0]
    if first in context.variables:
        return lower_variable(reference, first, context)
    word = enum_word(reference, expected) if isinstance(expected, Enum) else None
    if word is not None:
        return word
    if first == "past":
        return lower_past(reference, context, expected, lower)
    if first in ROOTS:
        return lower_fact(reference, context)
    named = named_by(reference, context.package, context.program)
    if named is not None:
        return lower_named(reference, *named, context, expected)
    if isinstance(expected, Unresolved) and "." not in reference.name:
        return k.Constant(reference.name, UNRESOLVED, span=reference.span)  # the other side has its error already
    lone = None if isinstance(expected, Enum) or reference.keys else lone_word(reference, context)
    if lone is None:
        report_unknown_name(reference, expected, context)
    return lone


def lower_variable(reference: ast.Reference, name: str, context: Context) -> k.Expr | None:
    if reference.keys:
        context.report("E244", f"`{reference.name}` takes no name in brackets", reference.span, "members follow a dot")
        return None
    variable = k.Variable(name, context.variables[name], span=head(reference, 1))
    return navigate(variable, reference, 1, context)


def lower_named(
    reference: ast.Reference, symbol: Symbol, length: int, context: Context, expected: Type | None
) -> k.Expr | None:
    """What a `let` or a `define` stands for, as if it were written here."""
    if not context.program.is_visible(context.package, symbol):
        report_private(symbol, reference.name, reference.span, context.report)
        return None
    if key_of(symbol) not in context.schema.measures or key_of(symbol) in context.program.broken:
        return None  # circular, too large or wrong by itself, and told as such
    if reference.keys:
        context.report("E244", f"`{reference.name}` takes no name in brackets", reference.span, "remove the brackets")
        return None
    if context.constant and symbol.kind == "define":
        message = f"a `let` is a constant, and `{reference.name}` is a condition"
        context.report("E247", message, reference.span, "write `define` for a condition on facts")
        return None
    inner = replace(context, report=Reporter())
    found = lower_body(symbol, inner, expected)
    forward(inner.report, symbol, reference, context)
    return found and placed(found, symbol, reference, length, context)


def lower_body(symbol: Symbol, context: Context, expected: Type | None) -> k.Expr | None:
    """In the names of its own package; the facts are those of the place where it is used."""
    body = body_of(symbol)
    inside = replace(context, package=symbol.package, variables={}, past=None, constant=symbol.kind == "let")
    if body is None:
        return None
    return condition(body, inside) if symbol.kind == "define" else lower(body, inside, expected)


def placed(found: k.Expr, symbol: Symbol, reference: ast.Reference, length: int, context: Context) -> k.Expr | None:
    whole = length == reference.name.count(".") + 1
    span, name = reference.span if whole else head(reference, length), symbol.name  # whole: with its parentheses
    if symbol.kind == "define":
        full = name if symbol.package == context.package else f"{symbol.package}.{name}"
        found = k.Named(full, found, Scalar.BOOL, span=span)
    found = replace(found, span=span)
    if whole:
        return found
    if isinstance(found, k.Constant | k.Fact | k.Attribute | k.Member | k.Variable):
        return navigate(found, reference, length, context)
    message = f"`{span.text}` is {article(symbol.kind)} and has no members"
    context.report("E203", message, reference.span, f"write `{span.text}` alone")
    return None


def forward(inner: Reporter, symbol: Symbol, reference: ast.Reference, context: Context) -> None:
    """What is wrong with a definition by itself is told there; what is wrong with using it here is told here."""
    for finding in inner.diagnostics:
        if finding.is_error and finding not in context.program.report.found:
            message = f"`{reference.name}` cannot be used here: {finding.message.rpartition('used here: ')[2]}"
            where = [Related("written here", finding.span), *finding.related]
            context.report(finding.code, message, reference.span, finding.hint, where)
