"""Declarations that are never used, found by name in all modules. Exported declarations are not reported."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set

from policyengine.checker.names.symbols import BUILT_IN_ENTITIES, package_of
from policyengine.diagnostics.model import Diagnostic
from policyengine.syntax import nodes as ast

Key = tuple[str, str]  # package, name

NAME_IN_BRACES = re.compile(r"\{(?:[a-z_]\w*:[ \t]*)?([a-z_][\w.]*)")

VOCABULARY: Mapping[type[ast.Node], str] = {
    ast.EnumDecl: "enum",
    ast.EntityDecl: "entity",
    ast.LetDecl: "let",
    ast.DefineDecl: "define",
}
UNUSED_DECLARATION = "W260"
CONCERNED = (ast.EnumDecl, ast.EntityDecl, ast.LetDecl, ast.DefineDecl, ast.ScopeDecl, ast.FixtureDecl)


def unused_declarations(modules: Sequence[ast.Module]) -> Iterator[Diagnostic]:
    everywhere, places_of_facts = Counter[Key](), Counter[Key]()
    declared: list[tuple[ast.Declaration | ast.Export, str, set[Key]]] = []
    concerned = frozenset(d.name.text for m in modules for d in m.declarations if isinstance(d, CONCERNED))
    for module in modules:
        for declaration in module.declarations:
            names = mentioned_declarations(declaration, module, concerned)
            everywhere.update(names)
            if isinstance(declaration, ast.FactsDecl):
                places_of_facts.update(names)
            declared.append((declaration, package_of(module), names))
    for declaration, package, own in declared:
        yield from check_unused(declaration, package, own, everywhere, places_of_facts)


def check_unused(
    declaration: ast.Declaration | ast.Export,
    package: str,
    own: set[Key],
    everywhere: Counter[Key],
    facts: Counter[Key],
) -> Iterator[Diagnostic]:
    """Yield a finding if no other declaration uses this declaration, or if only `facts` use a scope. `own` holds the
    names that the declaration itself uses; `everywhere` and `facts` count the uses in all declarations and in `facts`.
    """

    def uses(name: ast.Name) -> int:
        key = package, name.text
        return everywhere[key] - (key in own)

    match declaration:
        case ast.ScopeDecl(name) if uses(name) == facts[package, name.text]:
            hint = f"grant the scope with `may {name.text}`, or remove it"
            yield Diagnostic("W351", f"no block grants scope `{name.text}`", name.span, hint)
        case ast.FixtureDecl(name) if uses(name) == 0:
            hint = "use it in a test, or remove it"
            yield Diagnostic("W650", f"fixture `{name.text}` is never used", name.span, hint)
        case ast.EnumDecl(name) | ast.EntityDecl(name) | ast.LetDecl(name) | ast.DefineDecl(name) if uses(name) == 0:
            word = VOCABULARY[type(declaration)]
            if not (word == "entity" and name.text in BUILT_IN_ENTITIES):
                yield Diagnostic(UNUSED_DECLARATION, f"{word} `{name.text}` is never used", name.span, "remove it")
        case _:
            pass


def mentioned_declarations(
    declaration: ast.Declaration | ast.Export, module: ast.Module, concerned: Set[str]
) -> set[Key]:
    """Return the names among `concerned` that a declaration may mention; it may return too many, but never too few."""
    here, imported = package_of(module), [(import_alias(entry), entry.package.text) for entry in module.imports]
    found = set[Key]()
    for name in set(names_in(declaration)):
        found.update((here, prefix) for prefix in prefixes(name) if prefix in concerned)
        for alias, package in imported:
            if name.startswith(f"{alias}."):
                found.update((package, prefix) for prefix in prefixes(name.removeprefix(f"{alias}.")))
    return found


def import_alias(entry: ast.Import) -> str:
    return entry.alias.text if entry.alias else entry.package.text.rpartition(".")[2]


def prefixes(name: str) -> Iterator[str]:
    """Yield a name and its prefixes: `a.b.c` may be the member `c` of `a.b`, or of an entity that `a` names."""
    while name:
        yield name
        name = name.rpartition(".")[0]


def names_in(declaration: ast.Node) -> Iterator[str]:
    silent = set[int]()
    for node in ast.walk(declaration):
        if silent and id(node) in silent:
            continue
        if type(node) in INTRODUCING:
            silent.update(id(name) for name in introduced_names(node))
        match node:
            case ast.Name(text) | ast.WordValue(text):
                yield text
            case ast.Reference(name):
                yield name
            case ast.HttpPattern(path=text) | ast.Text(text) if "{" in text:  # captures in paths, facts in messages
                yield from NAME_IN_BRACES.findall(text)
            case _:
                pass


INTRODUCING: frozenset[type[ast.Node]] = frozenset(
    (*CONCERNED, ast.IssuerDecl, ast.AttesterDecl, ast.FieldDecl, ast.Quantifier, ast.RecordEntry)
)


def introduced_names(node: ast.Node) -> tuple[ast.Node, ...]:
    """Return the names that a node introduces; they do not mention a declaration."""
    match node:
        case ast.EnumDecl(name, values):
            return (name, *values)
        case (
            ast.EntityDecl(name) | ast.LetDecl(name) | ast.DefineDecl(name) | ast.ScopeDecl(name) | ast.IssuerDecl(name)
            | ast.AttesterDecl(name) | ast.FixtureDecl(name) | ast.FieldDecl(name)
        ):  # fmt: skip
            return (name,)
        case ast.Quantifier(variable=variable):
            return (variable,)
        case ast.RecordEntry(key):
            return (key,)
        case _:
            return ()
