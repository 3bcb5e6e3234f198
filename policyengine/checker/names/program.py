"""Resolves names across all packages that are loaded together."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from policyengine.checker.names.declarations import DECLARED, declarations, read_package
from policyengine.checker.names.package_imports import global_entities
from policyengine.checker.names.symbols import (
    BUILT_IN_ENTITIES,
    IMPLICIT_USER,
    NAMESPACES,
    Package,
    PackageImport,
    Symbol,
    SymbolKind,
    package_of,
)
from policyengine.checker.reporter import Reporter
from policyengine.diagnostics.model import Diagnostic, RelatedLocation
from policyengine.diagnostics.suggest import suggest
from policyengine.source import Source, Span
from policyengine.syntax import nodes as ast

MAX_NAMES_LISTED = 3  # maximum names in a hint
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
UNKNOWN_NAMES = frozenset({"E202", "E205", "E207"})


@dataclass(frozen=True, slots=True)
class Program:
    """All packages that are loaded together. `used` collects the imports through which names were found."""

    packages: Mapping[str, Package]
    report: Reporter
    entities: Mapping[str, Symbol]
    used: set[tuple[str, str]] = field(default_factory=set, compare=False)
    broken: set[tuple[str, str]] = field(default_factory=set, compare=False)  # definitions with reported errors
    remembers: set[str] = field(default_factory=set, compare=False)  # packages that use history
    learns: set[str] = field(default_factory=set, compare=False)  # packages that read learned facts

    @classmethod
    def of(cls, modules: Sequence[ast.Module], report: Reporter) -> Program:
        """Build the program from modules in any order, and report errors in names and imports."""
        grouped: dict[str, list[ast.Module]] = {}
        for module in modules:
            grouped.setdefault(package_of(module), []).append(module)
        packages = {name: read_package(name, files, grouped.keys(), report) for name, files in grouped.items()}
        return cls(packages, report, global_entities(packages.values(), report))

    def declarations(self) -> Iterator[tuple[str, ast.Declaration]]:
        """Yield every declaration, with the name of its package."""
        modules = ((package.name, module) for package in self.packages.values() for module in package.modules)
        return ((package, declared) for package, module in modules for declared, _ in declarations(module))

    def lookup(self, package: str, kind: SymbolKind, text: str) -> Symbol | None:
        """Return the symbol to which the name refers in the package, even if the symbol is private to another package;
        None if there is none.
        """
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
        """Return a built-in entity. `user` needs no declaration; `agent` and `tool` are entities only if the policy
        declares them. Return None for an entity that is not declared.
        """
        found = self.entities.get(name)
        if found is None:
            return IMPLICIT_USER if name == "user" else None
        for imported in self.packages[package].imports.values():
            if imported.package == found.package:
                self.used.add((package, imported.alias))
        return found

    def find(self, package: str, kind: SymbolKind, name: ast.Name, report: Reporter | None = None) -> Symbol | None:
        """Return the symbol to which the name refers in the package. Unknown and private names are reported. Return
        None for an unknown or private name.
        """
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
            return  # the import has an error of its own
        code = "E205" if kind in ("enum", "entity") else "E207"
        meant = tell.nearest(name.text, lambda: self.visible(package, kind))
        elsewhere = None if meant else self.exporter(package, kind, name.text) or self.attester(package, kind, name)
        hint = f"did you mean `{meant}`?" if meant else elsewhere or self.unknown_alias(package, name.text)
        hint = hint or self.issuers_there_are(package, kind) + f"declare it: `{EXAMPLES[kind]}`"
        tell.report(code, f"unknown {kind} `{name.text}`", name.span, hint)

    def attester(self, package: str, kind: SymbolKind, name: ast.Name) -> str | None:
        """Return a hint if an attester has the name of an unknown issuer, otherwise None."""
        if kind != "issuer" or self.lookup(package, "attester", name.text) is None:
            return None
        return f"`{name.text}` is an attester, which vouches for models; name an issuer, which vouches for people"

    def issuers_there_are(self, package: str, kind: SymbolKind) -> str:
        """Return a hint such as `there is `acme`; or ` if few issuers are declared, otherwise an empty string."""
        names = self.visible(package, kind) if kind == "issuer" else []
        return f"there is {', '.join(f'`{one}`' for one in names)}; or " if 0 < len(names) <= MAX_NAMES_LISTED else ""

    def visible(self, package: str, *kinds: SymbolKind) -> list[str]:
        """Return every name of the kinds that the package may use, as the package would write it."""
        here = self.packages[package]
        names = [name for kind in kinds for name in here.names(kind)]
        for alias, imported in here.imports.items():
            other = self.packages.get(imported.package)
            names += [f"{alias}.{name}" for kind in kinds for name in (other.names(kind, True) if other else ())]
        return names + (["user"] if "entity" in kinds and "user" not in names else [])

    def exporter(self, package: str, kind: SymbolKind, text: str) -> str | None:
        """Return a hint about another package that exports the name; None if no package exports it."""
        for other in self.packages.values():
            if other.name != package and text in other.names(kind, exported=True):
                alias = next((a for a, i in self.packages[package].imports.items() if i.package == other.name), None)
                return f"write `{alias}.{text}`" if alias else f"package `{other.name}` exports this name"
        return None

    def unknown_alias(self, package: str, text: str) -> str | None:
        alias, dot, _ = text.partition(".")
        if not dot:
            return None
        imported = self.packages[package].imports.get(alias)
        return f"package `{imported.package}` has no such name" if imported else None


def report_private(found: Symbol, text: str, span: Span, tell: Reporter) -> None:
    message = f"`{text}` is private to package `{found.package}`"
    hint = f"write `export {found.kind} {found.name}` there"
    if found.kind == "fixture":
        hint = "fixtures are private to their package: declare one here"
    tell.report("E208", message, span, hint, [RelatedLocation("declared here", found.span)])


def report_unused_imports(program: Program) -> None:
    """Report unused imports, after all other checks. An import of a package with rules takes effect even if no rule
    uses a name from it.
    """
    for package in program.packages.values():
        for alias, imported in package.imports.items():
            other = program.packages.get(imported.package)
            if other and other is not package and (package.name, alias) not in program.used and has_only_names(other):
                message = f"no name of package `{imported.package}` is used"
                program.report.report("W209", message, imported.span, "remove the import")


def has_only_names(package: Package) -> bool:
    return all(type(d) in DECLARED for module in package.modules for d, _ in declarations(module))


# ── Misspelled packages ────────────────────────────────────────────────────────────────────────


def merge_misspelled_packages(
    found: Iterable[Diagnostic], program: Program, following: Collection[str]
) -> list[Diagnostic]:
    """Return the findings. If a package lacks names that a similarly named package declares, replace its findings with
    codes in `following` by one finding.
    """
    kept = list(found)
    for package in program.packages.values():
        meant = namesake(package, program)
        inside = {module.span.source for module in package.modules}
        lacking = [] if meant is None else missing_names(kept, inside, meant)
        if meant is not None and lacking:
            follows = {*following, *UNKNOWN_NAMES}
            kept = [one for one in kept if one.span.source not in inside or one.code not in follows]
            kept.append(misspelled_package(package, meant, lacking))
    return kept


def namesake(package: Package, program: Program) -> Package | None:
    """Return another package with a similar name, if neither imports the other; None if no name is similar."""
    tied = {one.package for one in package.imports.values()}
    tied |= {one.name for one in program.packages.values() if package.name in imported_by(one)}
    others = {name for name in program.packages if name != package.name} - tied
    written = any(module.package is not None for module in package.modules)
    meant = suggest(package.name, others) if written and others else None
    return None if meant is None else program.packages[meant]


def imported_by(package: Package) -> set[str]:
    return {one.package for one in package.imports.values()}


def missing_names(found: Iterable[Diagnostic], inside: Collection[Source], meant: Package) -> list[str]:
    """Return the names that are unknown in these sources and declared in the other package."""
    declared = {name for _, name in meant.symbols}
    unknown = (one.span.text for one in found if one.code in UNKNOWN_NAMES and one.span.source in inside)
    return [name for name in dict.fromkeys(unknown) if name in declared]


def misspelled_package(package: Package, meant: Package, lacking: list[str]) -> Diagnostic:
    named = next(module.package for module in package.modules if module.package is not None)
    words = ", ".join(f"`{name}`" for name in islice(lacking, MAX_NAMES_LISTED)) + (
        " …" if len(lacking) > MAX_NAMES_LISTED else ""
    )
    message = f"package `{package.name}` declares no {words}, but `{meant.name}` does: did you mean `{meant.name}`?"
    hint = f"write `package {meant.name}`; a separate package needs `import {meant.name}` to use its exports"
    other = next((module.package for module in meant.modules if module.package is not None), None)
    related = () if other is None else (RelatedLocation("the other package", other.span),)
    return Diagnostic("E257", message, named.span, hint, related)
