"""Who is called what: the declared names of every package; the first step from AST to kernel."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal as Word
from typing import TypeAlias

from policyengine.checker.reporter import Reporter as Reporter
from policyengine.diagnostics.model import RelatedLocation, suggest
from policyengine.source import Source, Span
from policyengine.syntax import nodes as ast
from policyengine.syntax.reserved_words import RESERVED_WORDS
from policyengine.typesystem import Scalar
from policyengine.vocabulary import FACT_ROOT_NAMES

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


@dataclass(frozen=True, slots=True)
class Program:
    """All packages that are loaded together; `used` remembers through which imports names were found."""

    packages: Mapping[str, Package]
    report: Reporter
    entities: Mapping[str, Symbol]
    used: set[tuple[str, str]] = field(default_factory=set, compare=False)
    broken: set[tuple[str, str]] = field(default_factory=set, compare=False)  # definitions told to be wrong
    remembers: set[str] = field(default_factory=set, compare=False)  # packages that ask for history

    @classmethod
    def of(cls, modules: Sequence[ast.Module], report: Reporter) -> Program:
        """The program that the modules are, whatever their order; mistakes in names and imports are reported."""
        grouped: dict[str, list[ast.Module]] = {}
        for module in modules:
            grouped.setdefault(package_of(module), []).append(module)
        packages = {name: read_package(name, files, grouped.keys(), report) for name, files in grouped.items()}
        return cls(packages, report, global_entities(packages.values(), report))

    def declarations(self) -> Iterator[tuple[str, ast.Declaration]]:
        """Every declaration, with the name of its package."""
        modules = ((package.name, module) for package in self.packages.values() for module in package.modules)
        return ((package, declared) for package, module in modules for declared, _ in declarations(module))

    def lookup(self, package: str, kind: SymbolKind, text: str) -> Symbol | None:
        """What the name means in the package, private names of others included; None when it means nothing."""
        here = self.packages[package]
        own = here.symbols.get((NAMESPACES[kind], text))
        if own is not None:
            return own if own.kind == kind else None
        alias, _, rest = text.partition(".")
        if rest and alias in here.imports:
            return self.lookup_imported(here, here.imports[alias], kind, rest)
        if kind == "entity" and text in BUILT_IN_ENTITIES:
            return self.built_in_entity(package, text)
        return None

    def lookup_imported(self, here: Package, imported: PackageImport, kind: SymbolKind, name: str) -> Symbol | None:
        other = self.packages.get(imported.package)
        found = other.symbols.get((NAMESPACES[kind], name)) if other else None
        if found is None or found.kind != kind:
            return None
        self.used.add((here.name, imported.alias))
        return found

    def built_in_entity(self, package: str, name: str) -> Symbol | None:
        """`user` exists without a declaration; `agent` and `tool` are entities only where they are declared as such."""
        found = self.entities.get(name)
        if found is None:
            return IMPLICIT_USER if name == "user" else None
        for imported in self.packages[package].imports.values():
            if imported.package == found.package:
                self.used.add((package, imported.alias))
        return found

    def find(self, package: str, kind: SymbolKind, name: ast.Name, report: Reporter | None = None) -> Symbol | None:
        """What the name means in the package; what means nothing, or is not ours to use, is reported."""
        tell = report or self.report
        found = self.lookup(package, kind, name.text)
        if found is None:
            self.report_unknown(package, kind, name, tell)
        elif not self.is_visible(package, found):
            report_private(found, name.text, name.span, tell)
        else:
            return found
        return None

    def is_visible(self, package: str, symbol: Symbol) -> bool:
        return symbol.exported or symbol.package == package

    def report_unknown(self, package: str, kind: SymbolKind, name: ast.Name, tell: Reporter) -> None:
        imported = self.packages[package].imports.get(name.text.partition(".")[0])
        if imported is not None and imported.package not in self.packages:
            return  # the import is reported
        code = "E205" if kind in ("enum", "entity") else "E207"
        meant = tell.nearest(name.text, lambda: self.visible(package, kind))
        elsewhere = None if meant else self.exporter(package, kind, name.text)
        hint = f"did you mean `{meant}`?" if meant else elsewhere or self.unknown_alias(package, name.text)
        hint = hint or self.issuers_there_are(package, kind) + f"declare it: `{EXAMPLES[kind]}`"
        tell.report(code, f"unknown {kind} `{name.text}`", name.span, hint)

    def issuers_there_are(self, package: str, kind: SymbolKind) -> str:
        """`there is `acme`; or `, for whoever renamed one; the empty text where many or none are there."""
        names = self.visible(package, kind) if kind == "issuer" else []
        return f"there is {', '.join(f'`{one}`' for one in names)}; or " if 0 < len(names) <= MAX_NAMES_LISTED else ""

    def visible(self, package: str, *kinds: SymbolKind) -> list[str]:
        """Every name of the kinds that the package may use, as it would write it."""
        here = self.packages[package]
        names = [name for kind in kinds for name in here.names(kind)]
        for alias, imported in here.imports.items():
            other = self.packages.get(imported.package)
            names += [f"{alias}.{name}" for kind in kinds for name in (other.names(kind, True) if other else ())]
        return names + (["user"] if "entity" in kinds and "user" not in names else [])

    def exporter(self, package: str, kind: SymbolKind, text: str) -> str | None:
        """Where else the name could come from."""
        for other in self.packages.values():
            if other.name != package and text in other.names(kind, exported=True):
                alias = next((a for a, i in self.packages[package].imports.items() if i.package == other.name), None)
                return f"write `{alias}.{text}`" if alias else f"`import {other.name}` exports one of that name"
        return None

    def unknown_alias(self, package: str, text: str) -> str | None:
        alias, dot, _ = text.partition(".")
        if not dot:
            return None
        imported = self.packages[package].imports.get(alias)
        return f"package `{imported.package}` has no such name" if imported else None


IMPLICIT_USER = Symbol(
    "entity", "user", MAIN_PACKAGE, ast.EntityDecl(ast.Name("user", span=NO_SPAN), span=NO_SPAN), exported=True
)
MAX_NAMES_LISTED = 3  # names that a hint lists
EXAMPLES: Mapping[SymbolKind, str] = {
    "enum": "enum plan = free < team",
    "entity": "entity invoice { owner: user }",
    "let": "let internal = [10.0.0.0/8]",
    "define": "define same_tenant = user.tenant == resource.tenant",
    "scope": "scope invoices.read { GET /invoices }",
    "issuer": 'issuer acme { url "https://login.acme.example" }',
    "attester": 'attester lab { url "https://attest.acme.example" }',
    "fixture": 'fixture base { given agent "bot" from acme }',
}


def package_of(module: ast.Module) -> str:
    return module.package.text if module.package else MAIN_PACKAGE


def report_private(found: Symbol, text: str, span: Span, tell: Reporter) -> None:
    message = f"`{text}` is private to package `{found.package}`"
    hint = f"write `export {found.kind} {found.name}` there"
    if found.kind == "fixture":
        hint = "a fixture serves its own package only: write one here"
    tell.report("E208", message, span, hint, [RelatedLocation("declared here", found.span)])


# ── One package ───────────────────────────────────────────────────────────────────────────────


def declarations(module: ast.Module) -> Iterator[tuple[ast.Declaration, bool]]:
    """Each declaration, and whether it is exported."""
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
    """The values of all enums, each with the enum that has it first."""
    values: dict[str, tuple[Symbol, Span]] = {}
    for symbol in symbols:
        if isinstance(symbol.declaration, ast.EnumDecl):
            for value in symbol.declaration.values:
                values.setdefault(value.text, (symbol, value.span))
    return values


def check_name(
    symbol: Symbol, values: Mapping[str, tuple[Symbol, Span]], imports: Mapping[str, PackageImport], report: Reporter
) -> None:
    """A name must be one that can be used, and only for what it says."""
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
        report.report("E215", f"the name of {article(symbol.kind)} has no dots", name.span, f"write `{undotted}`")
    elif first in imports and "." in symbol.name:
        message = f"`{symbol.name}` reads like a name of the imported package `{imports[first].package}`"
        where = [RelatedLocation("imported here", imports[first].span)]
        report.report("E211", message, name.span, "give the scope or the import another name", where)


def check_usable(name: ast.Name, what: str, report: Reporter) -> bool:
    """Some words mean something else wherever the name would be used."""
    usable = name.text not in RESERVED_WORDS.get(what, ())
    if NAMESPACES.get(what) == "type" and name.text in TYPE_WORDS:
        report("E212", f"`{name.text}` is a type already", name.span, "choose another name")
    elif not usable:
        message = f"`{name.text}` cannot be {article(what)}: it is a word of the language where that would be used"
        report("E212", message, name.span, "choose another name")
    return usable


def check_value_name(name: ast.Name, kind: str, values: Mapping[str, tuple[Symbol, Span]], report: Reporter) -> None:
    """A new name for a value must not make another one unreachable."""
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
            report.report("E215", "the value of an enum has no dots", value.span, f"write `{dotless(value.text)}`")


def dotless(text: str) -> str:
    return text.replace(".", "_")


def article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeio' else 'a'} {noun}"


# ── Between packages ──────────────────────────────────────────────────────────────────────────


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
    hint = f"did you mean `{meant}`?" if meant else f"it is looked for in `{file}`, from the policy root"
    report.report("E209", f"unknown package `{name}`", span, hint)


def add_import(imported: PackageImport, span: Span, imports: dict[str, PackageImport], report: Reporter) -> None:
    first = imports.setdefault(imported.alias, imported)
    if imported.alias in FACT_ROOT_NAMES:
        message = f"the import `{imported.alias}` hides the built-in facts of that name"
        report.report("E211", message, span, f"write `import {imported.package} as other_name`")
    elif first.package != imported.package:
        message = f"`{imported.alias}` already stands for the package `{first.package}`"
        where = [RelatedLocation("imported here", first.span)]
        report.report("E210", message, span, f"write `import {imported.package} as other_name`", where)


def global_entities(packages: Iterable[Package], report: Reporter) -> dict[str, Symbol]:
    """Entities by name: the directory knows one set of them, so no two packages declare the same one."""
    entities: dict[str, Symbol] = {}
    for package in sorted(packages, key=lambda p: p.name):
        for symbol in package.symbols.values():
            first = entities.setdefault(symbol.name, symbol) if symbol.kind == "entity" else symbol
            if first is not symbol:
                message = f"the entity `{symbol.name}` is already declared by package `{first.package}`"
                hint = f"export it there, and import `{first.package}` here"
                report.report("E214", message, symbol.span, hint, [RelatedLocation("declared here", first.span)])
    return entities


def report_unused_imports(program: Program) -> None:
    """After all checking: imports of packages that only offer names, none of which was used.

    An import that brings guards, doors or limits has its effect without any name.
    """
    for package in program.packages.values():
        for alias, imported in package.imports.items():
            other = program.packages.get(imported.package)
            if other and other is not package and (package.name, alias) not in program.used and has_only_names(other):
                message = f"nothing of package `{imported.package}` is used"
                program.report.report("W209", message, imported.span, "remove the import")


def has_only_names(package: Package) -> bool:
    return all(type(d) in DECLARED for module in package.modules for d, _ in declarations(module))
