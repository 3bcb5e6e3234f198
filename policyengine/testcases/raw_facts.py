"""Values of tests as raw facts, like those of a request or an entity store. Wrong types are allowed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import assert_never

from policyengine.checker.reporter import Reporter
from policyengine.checker.type_names import join_words
from policyengine.checker.types.constants import lower_id, lower_literal
from policyengine.diagnostics.model import RelatedLocation
from policyengine.diagnostics.suggest import did_you_mean
from policyengine.source import Span
from policyengine.syntax import nodes as ast
from policyengine.testcases.fact_catalogue import CatalogueFact, FactCatalogue, FactPath, NameKind
from policyengine.typesystem import EntityRef, EnumType, ListType, RecordType, SetType, Type

ABSENT = "absent"  # JSON null


@dataclass(frozen=True, slots=True)
class ValueContext:
    """The context of a value: names are resolved in `package`, and `variables` are those of a matrix cell."""

    catalogue: FactCatalogue
    package: str
    variables: Mapping[str, object] = field(default_factory=dict)

    @property
    def report(self) -> Reporter:
        return self.catalogue.program.report


def raw_value(value: ast.Value, reading: ValueContext, fact: CatalogueFact | None = None) -> object:
    """Return the raw value; None for `absent`, and if a mistake was reported. The type only determines which bare words
    are valid.
    """
    known = fact or CatalogueFact()
    match value:
        case ast.Literal():
            constant = lower_literal(value, reading.report)
            return constant.value if constant else None
        case ast.NegativeNumber(number):
            constant = lower_literal(number, reading.report)
            return -constant.value if constant else None  # type: ignore[operator]  # the grammar has a number here
        case ast.Text(text):
            return text
        case ast.EntityLiteral():
            return entity_ref(value, reading)
        case ast.WordValue():
            return word_value(value, reading, known.type, known.names)
        case ast.ValueList(items):
            element = known.type.element if isinstance(known.type, SetType | ListType) else None
            return tuple(raw_value(item, reading, CatalogueFact(element)) for item in items)
        case ast.RecordLiteral():
            return record_value(value, reading, known.type)
        case _:
            assert_never(value)


def entity_ref(literal: ast.EntityLiteral, reading: ValueContext) -> EntityRef | None:
    symbol = reading.catalogue.program.find(reading.package, "entity", literal.type)
    id_ = lower_id(literal.id, reading.report)
    return EntityRef(symbol.name, id_) if symbol and id_ is not None else None


def word_value(value: ast.WordValue, reading: ValueContext, type_: Type | None, names: NameKind | None) -> object:
    """Return the value of a bare word: a variable, `absent`, an issuer or attester, or an enum value."""
    text = value.text
    if text in reading.variables:
        return reading.variables[text]
    if text == ABSENT:
        return None
    if names is not None:
        symbol = reading.catalogue.program.find(reading.package, names, ast.Name(text, span=value.span))
        return symbol.name if symbol else None
    words = type_.values if isinstance(type_, EnumType) else tuple(reading.catalogue.words_in(reading.package))
    if text in words:
        return text
    hint = did_you_mean(text, [*words, *reading.variables, ABSENT]) or f'write a string in quotes: `"{text}"`'
    what = f"not a value of {type_}" if isinstance(type_, EnumType) else "not a known word here"
    reading.report("E603", f"`{text}` is {what}", value.span, hint)
    return None


def record_value(value: ast.RecordLiteral, reading: ValueContext, type_: Type | None = None) -> dict[str, object]:
    """Return an object. If its type is a record, its members must be declared."""
    found: dict[str, object] = {}
    check_members_unique(value, reading.report)
    for pair in value.pairs:
        inner, path = type_, key_path(pair)
        for name in path:
            declared = inner.field(name) if isinstance(inner, RecordType) else None
            if isinstance(inner, RecordType) and declared is None:
                report_member(name, inner, pair, reading.report)
            inner = declared.type if declared else None
        put_nested(found, path, raw_value(pair.value, reading, CatalogueFact(inner)))
    return found


def put_nested(tree: dict[str, object], path: FactPath, value: object) -> None:
    for name in path[:-1]:
        below = tree.setdefault(name, {})
        tree = below if isinstance(below, dict) else tree
    tree[path[-1]] = value


def report_member(name: str, type_: RecordType, pair: ast.RecordEntry, report: Reporter) -> None:
    known = [declared.name for declared in type_.fields]
    hint = did_you_mean(name, known) or f"the record has the members {join_words(known)}"
    report("E602", f"the record has no member `{name}`", pair.key.span, hint)


def key_path(pair: ast.RecordEntry) -> FactPath:
    """Return the path of a key: `card.number`, `args["content-type"]`, `"x-id"`."""
    if isinstance(pair.key, ast.Text):
        return (pair.key.value,)
    return reference_path(pair.key)


def reference_path(reference: ast.Reference) -> FactPath:
    return (*reference.name.split("."), *(key.value for key in reference.keys))


def check_members_unique(value: ast.RecordLiteral, report: Reporter) -> None:
    """Report each member that is written twice."""
    seen: dict[FactPath, Span] = {}
    for pair in value.pairs:
        path = key_path(pair)
        first = seen.setdefault(path, pair.key.span)
        if first is not pair.key.span:
            report_twice(".".join(path), pair.key.span, first, report)


def report_twice(what: str, span: Span, first: Span, report: Reporter) -> None:
    report(
        "E607", f"`{what}` is given twice", span, "remove one of the two", [RelatedLocation("first given here", first)]
    )
