"""Symbols of declared names, and the packages that declare them: the first step from AST to kernel."""

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

# Symbols of kinds in one namespace cannot share a name.
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
MAIN_PACKAGE = "main"  # the package of files without a `package` line
BUILT_IN_ENTITIES = ("user", "agent", "tool")  # usable without an import, because facts have the same names
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
    """All files of one package, its declarations by namespace and name, and its imports by alias."""

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
    """Return whether the name is neither a keyword where it would be used nor, for a type, the name of a built-in type.
    Report such a name.
    """
    if NAMESPACES.get(what) == "type" and name.text in TYPE_WORDS:
        report("E212", f"`{name.text}` is already a type", name.span, "choose another name")
        return False
    if name.text in RESERVED_WORDS.get(what, ()):
        message = f"`{name.text}` cannot be {article(what)}: it is a keyword where the name would be used"
        report("E212", message, name.span, "choose another name")
        return False
    return True


def article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeio' else 'a'} {noun}"
