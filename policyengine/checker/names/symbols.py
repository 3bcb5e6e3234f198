"""Declared names as data: symbols, and the packages that declare them; the first step from AST to kernel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal as Word
from typing import TypeAlias

from policyengine.checker.reporter import Reporter
from policyengine.source import Source, Span
from policyengine.syntax import nodes as ast
from policyengine.syntax.reserved_words import RESERVED_WORDS
from policyengine.typesystem import Scalar

SymbolKind: TypeAlias = Word["enum", "entity", "let", "define", "scope", "issuer", "attester", "fixture"]
Declared: TypeAlias = (
    ast.EnumDecl
    | ast.EntityDecl
    | ast.LetDecl
    | ast.DefineDecl
    | ast.ScopeDecl
    | ast.IssuerDecl
    | ast.AttesterDecl
    | ast.FixtureDecl
)

# Names of these kinds stand in the same places, so one name cannot be both.
NAMESPACES: Mapping[str, str] = {
    "enum": "type",
    "entity": "type",
    "let": "value",
    "define": "value",
    "scope": "scope",
    "issuer": "issuer",
    "attester": "attester",
    "fixture": "fixture",
}
TYPE_WORDS = frozenset(scalar.value for scalar in Scalar) | {"set", "list"}
MAIN_PACKAGE = "main"  # the package of a file that names none
BUILT_IN_ENTITIES = ("user", "agent", "tool")  # their names are everybody's: facts of the same name speak of them
NO_SPAN = Span(Source("built in", ""), 0, 0)


@dataclass(frozen=True, slots=True)
class Symbol:
    """One declared name."""

    kind: SymbolKind
    name: str
    package: str
    declaration: Declared
    exported: bool

    @property
    def span(self) -> Span:
        return self.declaration.name.span


@dataclass(frozen=True, slots=True)
class PackageImport:
    package: str
    alias: str
    span: Span


@dataclass(frozen=True, slots=True)
class Package:
    """All files of one package: what they declare, by space and name, and what they import, by alias."""

    name: str
    modules: tuple[ast.Module, ...]
    symbols: Mapping[tuple[str, str], Symbol]
    imports: Mapping[str, PackageImport]

    def names(self, kind: SymbolKind, exported: bool = False) -> Iterator[str]:
        return (s.name for s in self.symbols.values() if s.kind == kind and (s.exported or not exported))


IMPLICIT_USER = Symbol(
    "entity", "user", MAIN_PACKAGE, ast.EntityDecl(ast.Name("user", span=NO_SPAN), span=NO_SPAN), exported=True
)


def package_of(module: ast.Module) -> str:
    return module.package.text if module.package else MAIN_PACKAGE


def check_usable(name: ast.Name, what: str, report: Reporter) -> bool:
    """Some words mean something else wherever the name would be used."""
    usable = name.text not in RESERVED_WORDS.get(what, ())
    if NAMESPACES.get(what) == "type" and name.text in TYPE_WORDS:
        report("E212", f"`{name.text}` is a type already", name.span, "choose another name")
    elif not usable:
        message = f"`{name.text}` cannot be {article(what)}: it is a word of the language where that would be used"
        report("E212", message, name.span, "choose another name")
    return usable


def article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeio' else 'a'} {noun}"
