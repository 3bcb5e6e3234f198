"""Resolves names in expressions: built-in and declared facts, attributes of entities, members of records,
enum values.
"""

from __future__ import annotations

import re
import unicodedata

from policyengine import kernel as k
from policyengine.checker.names.declared_facts import declared_fact
from policyengine.checker.names.members import head_span, navigate
from policyengine.checker.names.program import report_private
from policyengine.checker.names.scope import ExpressionContext
from policyengine.checker.names.symbols import IMPLICIT_USER, Symbol
from policyengine.checker.type_names import join_words
from policyengine.checker.types.fact_conflicts import Path
from policyengine.checker.types.hints import bracket_hint
from policyengine.checker.types.schema import FACT_ROOTS, RESERVED_ATTRIBUTES, UNRESOLVED
from policyengine.diagnostics.suggest import did_you_mean, suggest
from policyengine.source import Span
from policyengine.syntax import nodes as ast
from policyengine.typesystem import EnumType, RefType, Scalar, SetType, Type
from policyengine.vocabulary import BUILT_IN_FACTS as BUILT_IN
from policyengine.vocabulary import (
    ENTITIES,
    ENTITY_ROOTS,
    FACT_ROOT_NAMES,
    FACTS,
    LEARNED_FACTS,
    STRING_MAPS,
    BuiltInFact,
)

PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
HEADER = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+")


def lower_fact(reference: ast.Reference, context: ExpressionContext) -> k.Expr | None:
    """Lower a reference that begins with a root of facts. Return None if an error was reported."""
    if context.constant:
        message = f"a `let` is a constant, but `{reference.name}` is a fact"
        context.report("E247", message, reference.span, "write `define` for a condition on facts")
        return None
    if reference.keys:
        return lower_bracketed(reference, context)
    path = tuple(reference.name.split("."))
    if path[0] in FACT_ROOTS:
        return lower_declared(reference, path, context)
    if path[0] == "params":
        return lower_capture(reference, path, context)
    if path[0] in ENTITY_ROOTS:
        return lower_entity_fact(reference, path, context)
    return lower_built_in(reference, path, context)


# ── Built-in facts ────────────────────────────────────────────────────────────────────────────


def lower_built_in(reference: ast.Reference, path: Path, context: ExpressionContext) -> k.Expr | None:
    for length in (1, 2):
        fact = BUILT_IN.get(path[:length])
        if fact is not None and len(path) >= length:
            return navigate_built_in(fact, reference, path, context)
    if path[:2] in STRING_MAPS:
        return lower_string_map(reference, path, context)
    if len(path) == 1:
        report_group(reference, context)
        return None
    of_the_request = path[0] == "request" and path[1] in (*FACT_ROOTS, "params")
    hint = f"remove `request.`: `{'.'.join(path[1:])}`" if of_the_request else None
    report_unknown_fact(reference, head_span(reference, 2), context, hint)
    return None


def navigate_built_in(
    fact: BuiltInFact, reference: ast.Reference, path: Path, context: ExpressionContext
) -> k.Expr | None:
    if fact.path in LEARNED_FACTS:
        context.program.learns.add(context.package)
    length = len(fact.path)
    type_ = SetType(RefType(frozenset(context.schema.entities))) if fact.type == ENTITIES else fact.type
    found = k.Fact(fact.path, type_, fact.optional, span=head_span(reference, length))
    return navigate(found, reference, length, context)


def lower_string_map(reference: ast.Reference, path: Path, context: ExpressionContext) -> k.Fact | None:
    """Lower `request.headers.accept`, the form without brackets for plain names. Return None after an error."""
    match path:
        case ("request", "headers" | "query"):
            example = "x-id" if path[1] == "headers" else "page"
            hint = f'write `{reference.name}["{example}"]`'
            context.report("E250", f"`{reference.name}` has many values: name a single one", reference.span, hint)
            return None
        case ("request", "headers" | "query", name):
            return lower_header(path, name, reference, context)
        case _:
            context.report("E203", f"`{'.'.join(path[:3])}` is a string and has no members", reference.span)
            return None


def lower_header(path: Path, name: str, reference: ast.Reference, context: ExpressionContext) -> k.Fact | None:
    """Lower a header or a query parameter; `path` begins with the map that contains it. Return None if an error was
    reported.
    """
    if path[1] == "headers" and name != name.lower():
        hint = f'write `request.headers["{name.lower()}"]`' if name.lower() != "host" else "write `request.host`"
        context.report("E245", f"the header `{name}` is not in lower case", reference.span, hint)
        return None
    if path[1] == "headers" and not HEADER.fullmatch(name):
        context.report(
            "E244",
            f"`{name}` cannot be the name of a header",
            reference.span,
            "a header name may contain only ASCII letters, digits and !#$%&'*+-.^_`|~",
        )
        return None
    if path[1] == "headers" and name == "host":
        message = "the header `host` may have a port and any case, so it cannot be compared"
        context.report("E256", message, reference.span, "write `request.host`")
        return None
    return k.Fact((*path[:2], name), Scalar.STRING, True, span=reference.span)


def report_group(reference: ast.Reference, context: ExpressionContext) -> None:
    root = reference.name
    members = sorted({fact.path[1] for fact in FACTS if fact.path[0] == root and len(fact.path) > 1})
    if members:
        hint = f"name one: {join_words([f'{root}.{member}' for member in members[:4]], 'or')}"
    elif root in FACT_ROOTS:
        hint = f"name a member: `{root}.amount`"
    else:
        hint = "name a capture of the path: `params.id`"
    context.report("E250", f"`{root}` is a group of facts, not a value", reference.span, hint)


def report_unknown_fact(
    reference: ast.Reference, span: Span, context: ExpressionContext, hint: str | None = None
) -> None:
    meant = (
        suggest_standard_name(span.text)
        or suggest_in_group(span.text, context)
        or suggest_in_other_group(span.text, context)
    )
    hint = f"did you mean `{meant}`?" if meant else hint
    context.report("E201", f"unknown fact `{span.text}`", span, hint or members_hint(span.text.split(".")[0], context))


def known_facts(context: ExpressionContext) -> set[str]:
    """Return the full names of all facts, including attributes of the entities at their roots."""
    names = {fact.name for fact in FACTS} | {fact.name for fact in context.schema.facts}
    for root in ENTITY_ROOTS:
        entity = context.schema.entities.get(root)
        names |= {f"{root}.{field.name}" for field in entity.fields} if entity else set()
    return names


def suggest_standard_name(text: str) -> str | None:
    """Suggest `agent.id` for `agent.name` and other common names of the same fact. Return None for other names."""
    root, _, member = text.partition(".")
    return f"{root}.id" if root in ("agent", "user") and member in ("name", "uid", "sub") else None


def suggest_in_group(text: str, context: ExpressionContext) -> str | None:
    """Suggest a similar member of the same root. Return None if no member is similar."""
    root, _, member = text.partition(".")
    meant = context.report.nearest(
        member, lambda: [name.partition(".")[2] for name in known_facts(context) if name.startswith(f"{root}.")]
    )
    return f"{root}.{meant}" if meant else None


def suggest_in_other_group(text: str, context: ExpressionContext) -> str | None:
    """Suggest another root, such as `credential.kind` for `user.kind`, if exactly one fact has this member name. Return
    None otherwise. For `args`, `body` and `context`, whose members may have any name, only declared facts are searched;
    also for `tool`, because the arguments of a tool are in `args`.
    """
    root, _, member = text.partition(".")
    names = {fact.name for fact in context.schema.facts} if root in (*FACT_ROOTS, "tool") else known_facts(context)
    same = sorted(name for name in names if name.partition(".")[2] == member)
    return same[0] if len(same) == 1 else None


def undeclared_member_hint(root: str, path: Path) -> str:
    """Return a hint for an attribute of `user`, `agent` or `tool` that no entity declares."""
    if root != "tool":
        return f"or declare `entity {root} {{ {path[1]}: … }}`"
    if path[1] in ("args", "arguments"):
        return "the arguments of a call are `args`, without `tool.`"
    argument = f"args.{path[1]}"
    return f"for an argument of the call, declare `facts on TOOL … {{ {argument}: string }}` and write `{argument}`"


def members_hint(root: str, context: ExpressionContext) -> str | None:
    names = sorted(name for name in known_facts(context) if name.partition(".")[0] == root and "." in name)
    return f"known names include {join_words(names[:6])}" if names else None


# ── Declared facts: body, args, context ───────────────────────────────────────────────────────


def lower_declared(reference: ast.Reference, path: Path, context: ExpressionContext) -> k.Expr | None:
    if len(path) == 1:
        report_group(reference, context)
        return None
    for length in range(len(path), 1, -1):
        declared = context.schema.by_path.get(path[:length])
        if declared:
            fact = declared_fact(declared, head_span(reference, length), context)
            return fact and navigate(fact, reference, length, context)
    root, name = path[0], ".".join(path[1:])
    longer = [fact.name for fact in context.schema.facts if fact.name.startswith(f"{reference.name}.")]
    if longer:
        message, hint = (
            f"`{reference.name}` is a group of facts, not a value",
            f"name one: {join_words(longer[:4], 'or')}",
        )
        context.report("E250", message, reference.span, hint)
        return None
    report_unknown_fact(reference, reference.span, context, f"declare it: `facts on … {{ {root}.{name}: string }}`")
    return None


# ── Brackets ──────────────────────────────────────────────────────────────────────────────────


def lower_bracketed(reference: ast.Reference, context: ExpressionContext) -> k.Expr | None:
    """Lower `request.headers["x-id"]` or `args["content-type"]`, whose member names are not valid names of the
    language. Return None if an error was reported.
    """
    for key in reference.keys:
        if not key.value or not unicodedata.is_normalized("NFC", key.value):
            context.report("E244", "a name in brackets must be non-empty and in Unicode NFC", key.span)
            return None
    path, keys = tuple(reference.name.split(".")), tuple(key.value for key in reference.keys)
    if path in STRING_MAPS and len(keys) == 1:
        return lower_header(path, keys[0], reference, context)
    if len(path) == 1 and path[0] in FACT_ROOTS:
        return lower_foreign(reference, (*path, *keys), context)
    message = f"`{reference.name}` takes no name in brackets"
    hint = "brackets follow `request.headers`, `request.query`, `body`, `args` and `context`"
    if all(PLAIN_NAME.fullmatch(key) for key in keys) and path not in STRING_MAPS:
        hint = f"write `{'.'.join((*path, *keys))}`"
    context.report("E244", message, reference.span, hint)
    return None


def lower_foreign(reference: ast.Reference, path: Path, context: ExpressionContext) -> k.Expr | None:
    """Lower a declared fact written with brackets, or a fact that cannot be declared, which is an optional string.
    Return None if an error was reported.
    """
    declared = context.schema.by_path.get(path)
    if declared:
        return declared_fact(declared, reference.span, context)
    if not all(PLAIN_NAME.fullmatch(name) for name in path):
        return k.Fact(path, Scalar.STRING, True, span=reference.span)
    plain = ".".join(path)
    hint = f"declare it: `facts on … {{ {plain}: string }}`"
    context.report("E201", f"unknown fact `{plain}`", reference.span, hint)
    return None


# ── Captures and entities ─────────────────────────────────────────────────────────────────────


def lower_capture(reference: ast.Reference, path: Path, context: ExpressionContext) -> k.Expr | None:
    if len(path) == 1:
        report_group(reference, context)
        return None
    name, span = path[1], head_span(reference, 2)
    type_ = context.here.params.get(name, UNRESOLVED if context.here.everywhere else None)
    if type_ is None:
        known = [f"params.{one}" for one in sorted(context.here.params)]
        meant = suggest(name, context.here.params)
        hint = (
            f"did you mean `params.{meant}`?" if meant else f"the captures are {join_words(known)}" if known else None
        )
        message = f"the path of this rule captures no `{name}`"
        context.report("E243", message, span, hint or f"write `{{{name}}}` in the path of the rule")
        return None
    return navigate(k.Fact(path[:2], type_, span=span), reference, 2, context)


def lower_entity_fact(reference: ast.Reference, path: Path, context: ExpressionContext) -> k.Expr | None:
    """Lower a fact of `user`, `agent`, `tool` or `resource`: built-in facts come from the request, declared attributes
    from the entity. Return None if an error was reported.
    """
    root = path[0]
    if root == "resource":
        return lower_resource(reference, context)
    symbol = context.program.entities.get(root) or (IMPLICIT_USER if root == "user" else None)
    fact = BUILT_IN.get(path[:2])
    entity = context.schema.entities.get(root)
    declared = entity is not None and len(path) > 1 and entity.field(path[1]) is not None
    if fact is not None and (path[1] in RESERVED_ATTRIBUTES.get(root, ("id",)) or not declared):
        return navigate_built_in(fact, reference, path, context)
    if symbol is None or entity is None:
        if len(path) == 1:
            hint = f"declare `entity {root}`, or name one of its facts: `{root}.{'id' if root == 'agent' else 'name'}`"
            context.report("E250", f"`{root}` is not declared as an entity", reference.span, hint)
            return None
        report_unknown_fact(reference, head_span(reference, 2), context, undeclared_member_hint(root, path))
        return None
    if len(path) > 1 and not declared:
        report_unknown_fact(
            reference, head_span(reference, 2), context, f"declare it: `entity {root} {{ {path[1]}: … }}`"
        )
        return None
    if not check_attribute_visible(symbol, reference, context):
        return None
    base = k.Fact((root,), RefType(frozenset({root})), True, span=head_span(reference, 1))
    return navigate(base, reference, 1, context)


def check_attribute_visible(symbol: Symbol, reference: ast.Reference, context: ExpressionContext) -> bool:
    """Return whether the package may use the attributes of an entity, which are private unless the entity is exported.
    Report a private entity.
    """
    context.program.lookup(context.package, "entity", symbol.name)  # this marks the import as used
    if symbol.name == reference.name or context.program.is_visible(context.package, symbol):
        return True
    report_private(symbol, symbol.name, reference.span, context.report)
    return False


def lower_resource(reference: ast.Reference, context: ExpressionContext) -> k.Expr | None:
    here = context.here
    every = RefType(frozenset(context.schema.entities))
    type_ = every if here.everywhere and here.resource is None else here.resource
    if type_ is None:
        message = "nothing binds `resource` here"
        hint = "give a path capture a type, `{id: invoice}`, or bind `resource` with `with resource = invoice(…)`"
        context.report("E242", message, head_span(reference, 1), hint)
        return None
    return navigate(k.Fact(("resource",), type_, span=head_span(reference, 1)), reference, 1, context)


# ── Words ─────────────────────────────────────────────────────────────────────────────────────


def lower_enum_word(reference: ast.Reference, enum: EnumType) -> k.Constant | None:
    """Return the word as a value of the enum, or None if the enum has no such value."""
    if reference.keys or reference.name not in enum.values:
        return None
    return k.Constant(reference.name, enum, span=reference.span)


FOREIGN_NULLS = frozenset({"null", "nil", "none", "undefined"})  # words for absent values in other languages


def lower_lone_word(reference: ast.Reference, context: ExpressionContext) -> k.Constant | None:
    """Lower a word where no enum is expected. It must be a value of exactly one enum. Report a word of several enums;
    return None for a word of no enum.
    """
    enums = [one for one in context.schema.enums_in(context.program, context.package) if reference.name in one.values]
    if len(enums) > 1 and context.constant and context.here.everywhere:
        # In a `let`, the place where it is used decides which enum is meant.
        return k.Constant(reference.name, UNRESOLVED, span=reference.span)
    if len(enums) > 1:
        message = f"`{reference.name}` is a value of {join_words(one.name for one in enums)}"
        context.report("E206", message, reference.span, "compare it with a fact whose type determines the enum")
        return k.Constant(reference.name, UNRESOLVED, span=reference.span)
    return k.Constant(reference.name, enums[0], span=reference.span) if enums else None


def report_unknown_name(reference: ast.Reference, expected: Type | None, context: ExpressionContext) -> None:
    name, first = reference.name, reference.name.partition(".")[0]
    if isinstance(expected, EnumType) and "." not in name:
        hint = did_you_mean(name, expected.values) or f"values are {join_words(expected.values)}"
        context.report("E206", f"`{name}` is not a value of {expected}", reference.span, hint)
        return
    values = [*context.program.visible(context.package, "let", "define"), *context.variables]
    if context.program.lookup(context.package, "enum", first) is not None:
        word = name.rpartition(".")[2]
        context.report("E202", f"`{name}` is not a value", reference.span, f"write only the value: `{word}`")
        return
    if "." in name and first not in context.program.packages[context.package].imports:
        meant = context.report.nearest(name, lambda: known_facts(context)) or suggest(first, FACT_ROOT_NAMES)
        hint = f"did you mean `{meant}`?" if meant else f"facts must begin with {join_words(sorted(FACT_ROOT_NAMES))}"
        context.report("E201", f"unknown fact `{name}`", reference.span, hint)
        return
    words = [word for enum in context.schema.enums_in(context.program, context.package) for word in enum.values]
    meant = context.report.nearest(name, lambda: values) or context.report.nearest(
        name, lambda: [*words, *FACT_ROOT_NAMES]
    )
    hint = f"did you mean `{meant}`?" if meant else f'write `"{name}"` for a string, or declare `let {name} = …`'
    if name in context.here.params:
        hint = f"write `params.{name}` for the segment that `{{{name}}}` captures"
    hint = bracket_hint(reference.span) or hint
    if name in FOREIGN_NULLS:
        hint = "test whether a fact is present: `x is present`, `x is absent`"
    context.report("E202", f"unknown name `{name}`", reference.span, hint)
