"""Confusable names: pairs that differ only in case, in separators, or in `0` for `O` or `1` for `l`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from policyengine.diagnostics.model import Diagnostic, RelatedLocation
from policyengine.lint.policy_mistakes import declarations_in
from policyengine.source import Span
from policyengine.syntax import nodes as ast

CONFUSABLE_CHARACTERS = str.maketrans({"I": "l", "1": "l", "|": "l", "0": "o", "_": "-", ".": "-", " ": "-", "/": "-"})
NamedPlace = tuple[str, str, Span]  # kind, name, place


def confusable_names(modules: Sequence[ast.Module]) -> Iterator[Diagnostic]:
    yield from confusable_among(name for declaration in declarations_in(modules) for name in names_of(declaration))
    for declaration in declarations_in(modules):
        if isinstance(declaration, ast.EnumDecl | ast.EntityDecl | ast.FactsDecl):
            yield from confusable_among(inner_names(declaration))


def confusable_among(names: Iterable[NamedPlace]) -> Iterator[Diagnostic]:
    """Yield a W264 for each name that looks like another, earlier name of its kind."""
    first: dict[tuple[str, str], tuple[str, Span]] = {}
    for what, name, span in names:
        earlier, there = first.setdefault((what, skeleton(name)), (name, span))
        if earlier != name:
            message = f"the {what} `{name}` looks like `{earlier}`"
            hint = "rename one of them so that readers cannot confuse the two"
            yield Diagnostic("W264", message, span, hint, (RelatedLocation("the other one", there),))


def skeleton(name: str) -> str:
    return name.translate(CONFUSABLE_CHARACTERS).lower()


def names_of(declaration: ast.Declaration) -> Iterator[NamedPlace]:
    match declaration:
        case ast.EnumDecl(name) | ast.EntityDecl(name):
            yield "type", name.text, name.span
        case ast.LetDecl(name) | ast.DefineDecl(name):
            yield "name", name.text, name.span
        case ast.ScopeDecl(name, alias):
            yield "scope", name.text, name.span
            if alias is not None:
                yield "scope of credentials", alias.value, alias.span
        case ast.IssuerDecl(name):
            yield "issuer", name.text, name.span
        case ast.AttesterDecl(name):
            yield "attester", name.text, name.span
        case ast.FixtureDecl(name):
            yield "fixture", name.text, name.span
        case ast.AgentDecl(head=ast.PrincipalName(called)):
            yield "agent", called.value, called.span
        case ast.AgentDecl(head=ast.InGroup(group)):
            yield "group of agents", group.value, group.span
        case ast.UserDecl(head=ast.PrincipalName(called)):
            yield "user", called.value, called.span
        case ast.GuardDecl(called):
            yield "guard", called.value, called.span
        case _:
            pass


def inner_names(declaration: ast.EnumDecl | ast.EntityDecl | ast.FactsDecl) -> Iterator[NamedPlace]:
    match declaration:
        case ast.EnumDecl(values=values):
            yield from (("value", value.text, value.span) for value in values)
        case ast.EntityDecl(fields=fields):
            yield from (("attribute", one.name.text, one.name.span) for one in fields)
        case ast.FactsDecl(fields=fields):
            yield from (("fact", one.name.text, one.name.span) for one in fields)
