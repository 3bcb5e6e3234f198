"""Collects the symbols of a package's declarations, and reports names that hide other names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from policyengine.checker.names.package_imports import read_imports
from policyengine.checker.names.symbols import (
    NAMESPACES,
    Declared,
    Package,
    PackageImport,
    Symbol,
    SymbolKind,
    article,
    check_usable,
)
from policyengine.checker.reporter import Reporter
from policyengine.diagnostics.model import RelatedLocation
from policyengine.source import Span
from policyengine.syntax import nodes as ast
from policyengine.vocabulary import FACT_ROOT_NAMES

DECLARED: Mapping[type[object], SymbolKind] = {
    ast.EnumDecl: "enum",
    ast.EntityDecl: "entity",
    ast.LetDecl: "let",
    ast.DefineDecl: "define",
    ast.ScopeDecl: "scope",
    ast.IssuerDecl: "issuer",
    ast.AttesterDecl: "attester",
    ast.FixtureDecl: "fixture",
}


def declarations(module: ast.Module) -> Iterator[tuple[ast.Declaration, bool]]:
    """Yield each declaration, and whether it is exported."""
    for item in module.declarations:
        yield (item.declaration, True) if isinstance(item, ast.Export) else (item, False)


def read_package(name: str, modules: Sequence[ast.Module], known: Iterable[str], report: Reporter) -> Package:
    imports = read_imports(name, modules, known, report)
    symbols: dict[tuple[str, str], Symbol] = {}
    for module in modules:
        for declaration, exported in declarations(module):
            kind = DECLARED.get(type(declaration))
            if kind is not None:
                assert isinstance(declaration, Declared)
                declare(Symbol(kind, declaration.name.text, name, declaration, exported), symbols, report)
    values = enum_values(symbols.values())
    for symbol in symbols.values():
        check_name(symbol, values, imports, report)
    return Package(name, tuple(modules), symbols, imports)


def declare(symbol: Symbol, symbols: dict[tuple[str, str], Symbol], report: Reporter) -> None:
    first = symbols.setdefault((NAMESPACES[symbol.kind], symbol.name), symbol)
    if first is not symbol:
        message = f"`{symbol.name}` is declared twice"
        if first.kind != symbol.kind:
            message = f"`{symbol.name}` is declared as {article(first.kind)} and as {article(symbol.kind)}"
        where = [RelatedLocation("first declared here", first.span)]
        report.report("E210", message, symbol.span, "give one of them another name", where)


def enum_values(symbols: Iterable[Symbol]) -> dict[str, tuple[Symbol, Span]]:
    """Return the values of all enums, each with the first enum that declares it."""
    values: dict[str, tuple[Symbol, Span]] = {}
    for symbol in symbols:
        if isinstance(symbol.declaration, ast.EnumDecl):
            for value in symbol.declaration.values:
                values.setdefault(value.text, (symbol, value.span))
    return values


def check_name(
    symbol: Symbol, values: Mapping[str, tuple[Symbol, Span]], imports: Mapping[str, PackageImport], report: Reporter
) -> None:
    """Check that a declared name is usable and does not hide another name."""
    match symbol.declaration:
        case ast.LetDecl() | ast.DefineDecl():
            check_value_name(symbol.declaration.name, symbol.kind, values, report)
        case ast.EnumDecl():
            check_enum_values(symbol.declaration.values, report)
        case _:
            pass
    name, first = symbol.declaration.name, symbol.name.partition(".")[0]
    check_usable(name, symbol.kind, report)
    if symbol.kind != "scope" and "." in symbol.name:
        undotted = symbol.name.replace(".", "_")
        report.report(
            "E215", f"the name of {article(symbol.kind)} cannot contain dots", name.span, f"write `{undotted}`"
        )
    elif first in imports and "." in symbol.name:
        message = f"`{symbol.name}` looks like a name of the imported package `{imports[first].package}`"
        where = [RelatedLocation("imported here", imports[first].span)]
        report.report("E211", message, name.span, "give the scope or the import another name", where)


def check_value_name(name: ast.Name, kind: str, values: Mapping[str, tuple[Symbol, Span]], report: Reporter) -> None:
    """Check that the name of a definition does not hide a built-in fact or an enum value."""
    hint = "choose another name"
    if name.text in FACT_ROOT_NAMES:
        report.report("E211", f"the {kind} `{name.text}` hides the built-in facts of that name", name.span, hint)
    elif name.text in values:
        enum, span = values[name.text]
        message = f"the {kind} `{name.text}` hides a value of the enum `{enum.name}`"
        report.report("E211", message, name.span, hint, [RelatedLocation("declared here", span)])


def check_enum_values(values: tuple[ast.Name, ...], report: Reporter) -> None:
    seen: dict[str, ast.Name] = {}
    for value in values:
        first = seen.setdefault(value.text, value)
        if first is not value:
            where = [RelatedLocation("first written here", first.span)]
            report.report("E210", f"the value `{value.text}` is written twice", value.span, "remove one", where)
        elif not check_usable(value, "enum value", report):
            continue
        elif value.text in FACT_ROOT_NAMES:
            message = f"the value `{value.text}` hides the built-in facts of that name"
            report.report("E211", message, value.span, "choose another name")
        elif "." in value.text:
            report.report(
                "E215", "the value of an enum cannot contain dots", value.span, f"write `{dotless(value.text)}`"
            )


def dotless(text: str) -> str:
    return text.replace(".", "_")
