"""Hints for operands that do not fit their operator."""

from __future__ import annotations

import re

from policyengine import kernel as k
from policyengine.checker.type_names import describe_type, quote_source
from policyengine.checker.types.compatibility import NUMBERS, are_comparable
from policyengine.source import Span
from policyengine.typesystem import EnumType, ListType, RecordType, RefType, Scalar, SetType, Type
from policyengine.vocabulary import BUILT_IN_FACTS, STRING_MAPS

HYPHENATED = re.compile(r"(request\.headers|request\.query|body|args|context)\.(\w+(?:-\w+)+)", re.ASCII)


def bracket_hint(span: Span) -> str | None:
    """Return a hint for a word of `request.headers.x-id`, which parses as a subtraction: write the name in brackets.
    Return None for other words.
    """
    line, column = span.source.line(span.line), span.column - 1
    for reference in HYPHENATED.finditer(line):
        if reference.start() < column < reference.end():
            return f'write `{reference[1]}["{reference[2]}"]`'
    return None


def order_hint(type_: Type) -> str:
    match type_:
        case EnumType():
            return f"use `==`, or `in [{', '.join(type_.values[:2])}]`"
        case SetType() | ListType():
            return "compare the number of elements: `size(…)`"
        case Scalar.IP | Scalar.CIDR:
            return "use `within` and a network"
        case _:
            return "use `==`"


def one_sided_hint(mine: k.Expr, type_: Type, other: k.Expr, wanted: Type) -> str | None:
    """Return a hint that makes `mine` comparable with `other`; None if no hint applies."""
    match type_, wanted:
        case RefType(), Scalar.STRING:
            return f"compare the id: `{mine.span.text}.id`"
        case RefType(), RefType():
            return "no entity has both types: compare attributes of the same type"
        case Scalar.STRING, EnumType() if isinstance(mine, k.Constant) and mine.value in wanted.values:
            return f"write `{mine.value}` without quotes"
        case EnumType(), Scalar.STRING if isinstance(mine, k.Constant):
            return f'write a string in quotes: `"{mine.value}"`'
        case Scalar.STRING, (Scalar.INT | Scalar.NUMBER | Scalar.IP | Scalar.CIDR | Scalar.TIME | Scalar.DURATION):
            if isinstance(mine, k.Constant):
                return f"write {describe_type(wanted)} without quotes"
            quoted = f': write `"{other.span.text}"`' if isinstance(other, k.Constant) and other.type == wanted else ""
            return declaration_hint(mine, wanted) or f"{quote_source(mine.span)} is always a string{quoted}"
        case ((Scalar.INT | Scalar.NUMBER), Scalar.DURATION):
            if isinstance(mine, k.Constant):
                return f"write a unit: `{mine.span.text}m`"
            declared = declaration_hint(mine, wanted)
            return f"{declared}, or compare it with a number" if declared else "compare it with a number"
        case Scalar.DURATION, Scalar.TIME:
            return f"for a point in time, write `time - {mine.span.text}`"
        case Scalar.IP, Scalar.CIDR:
            return f"write `{mine.span.text} within {other.span.text}`"
        case ((RecordType() | ListType(RecordType())), _):
            return "records are compared member by member"
        case ((SetType() | ListType()), (SetType() | ListType())):
            return "a set equals only sets with elements of the same type"
        case ((SetType() | ListType()), _):
            return f"write `{other.span.text} in {mine.span.text}`"
        case Scalar.BOOL, _:
            return f"{quote_source(mine.span)} is a condition by itself"
        case _:
            return None


def declaration_hint(mine: k.Expr, wanted: Type) -> str | None:
    """Return the hint to declare the fact with another type; None for expressions whose type no policy declares."""
    return f"declare {quote_source(mine.span)} as {describe_type(wanted)}" if is_declared(mine) else None


def is_declared(expression: k.Expr) -> bool:
    """Return whether the policy declares the type of the expression."""
    match expression:
        case k.PastFact(fact=fact):
            return is_declared(fact)
        case k.Attribute(name=name):
            return name != "id"
        case k.Fact(path=path):
            if path in BUILT_IN_FACTS:
                return BUILT_IN_FACTS[path].declarable
            return path[0] != "params" and path[:2] not in (*STRING_MAPS, ("past", "status"))
        case k.Member(base=base):
            return is_declared(base)
        case _:
            return False


def sets_hint(part: k.Expr, type_: Type, whole: k.Expr, element: Type) -> str | None:
    """Return a hint for a collection where one element is expected: test for any of its elements, or for all. Return
    None for other operands.
    """
    if not isinstance(type_, SetType | ListType) or not are_comparable(type_.element, element):
        return None
    return (
        f"write `{part.span.text} overlaps {whole.span.text}` for any of them, "
        f"`{part.span.text} subset of {whole.span.text}` for all"
    )


def plural(type_: Type) -> str:
    return "references to " + str(type_) if isinstance(type_, RefType) else f"of type {type_}"


def in_hint(item: str, whole: str, left: Type, right: Type) -> str:
    match left, right:
        case Scalar.STRING, Scalar.STRING:
            return f"use `==`, or `contains({whole}, {item})` for a part of a string, or declare a set"
        case Scalar.IP, Scalar.CIDR:
            return f"write `{item} within {whole}`"
        case _, RefType():
            return "only an entity can be in an entity"
        case RefType(), _:
            return f"the right side must be an entity or a set of entities; for ids write `{item}.id`"
        case _:
            return "the right side must be a set, a list or an entity"


def arithmetic_hint(operator: str, left: Type, right: Type) -> str:
    types = {left, right}
    match operator:
        case "+" if Scalar.STRING in types:
            return "strings cannot be joined; compare each separately"
        case "-" if types == {Scalar.TIME}:
            return "compare the times, or use an age such as `credential.age`"
        case "*" if Scalar.DURATION in types and Scalar.NUMBER in types:
            return "a duration can be multiplied only by a whole number"
        case "+" | "-" if Scalar.DURATION in types and types & set(NUMBERS):
            return "write a unit: `15m`"
        case _:
            return "use numbers, durations, or a time and a duration"
