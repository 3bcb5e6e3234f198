"""Imports between packages, and entities, which all packages share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from policyengine.checker.names.symbols import MAIN_PACKAGE, Package, PackageImport, Symbol
from policyengine.checker.reporter import Reporter
from policyengine.diagnostics.model import RelatedLocation
from policyengine.diagnostics.suggest import suggest
from policyengine.source import Span
from policyengine.syntax import nodes as ast
from policyengine.vocabulary import FACT_ROOT_NAMES


def read_imports(
    package: str, modules: Sequence[ast.Module], known: Iterable[str], report: Reporter
) -> dict[str, PackageImport]:
    imports: dict[str, PackageImport] = {}
    loaded = set(known)
    for module in modules:
        for written in module.imports:
            name = written.package.text
            alias = written.alias or written.package
            imported = PackageImport(name, alias.text.rpartition(".")[2], written.span)
            if name not in loaded or name == package:
                report_bad_import(package, name, loaded, written.package.span, report)
            add_import(imported, alias.span, imports, report)
    return imports


def report_bad_import(package: str, name: str, loaded: set[str], span: Span, report: Reporter) -> None:
    if name == package:
        report.report("E209", f"package `{name}` imports itself", span, "its own names need no import")
        return
    meant = suggest(name, loaded - {package, MAIN_PACKAGE})
    file = name.replace(".", "/") + ".policy"
    hint = f"did you mean `{meant}`?" if meant else f"it must be in `{file}`, relative to the policy root"
    report.report("E209", f"unknown package `{name}`", span, hint)


def add_import(imported: PackageImport, span: Span, imports: dict[str, PackageImport], report: Reporter) -> None:
    first = imports.setdefault(imported.alias, imported)
    if imported.alias in FACT_ROOT_NAMES:
        message = f"the import `{imported.alias}` hides the built-in facts of that name"
        report.report("E211", message, span, f"write `import {imported.package} as other_name`")
    elif first.package != imported.package:
        message = f"`{imported.alias}` already refers to the package `{first.package}`"
        where = [RelatedLocation("imported here", first.span)]
        report.report("E210", message, span, f"write `import {imported.package} as other_name`", where)


def global_entities(packages: Iterable[Package], report: Reporter) -> dict[str, Symbol]:
    """Return all entities by name. There is one entity store, so two packages cannot declare the same entity."""
    entities: dict[str, Symbol] = {}
    for package in sorted(packages, key=lambda p: p.name):
        for symbol in package.symbols.values():
            first = entities.setdefault(symbol.name, symbol) if symbol.kind == "entity" else symbol
            if first is not symbol:
                message = f"the entity `{symbol.name}` is already declared by package `{first.package}`"
                hint = f"export it there, and import `{first.package}` here"
                report.report("E214", message, symbol.span, hint, [RelatedLocation("declared here", first.span)])
    return entities
