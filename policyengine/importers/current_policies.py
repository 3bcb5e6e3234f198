"""The policies that an author has, read before anything is added to them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from policyengine.check import compiled
from policyengine.diagnostics.model import Diagnostic
from policyengine.importers.problems import ImportProblem
from policyengine.policy_files import load_sources
from policyengine.source import Source
from policyengine.syntax import nodes as ast
from policyengine.syntax.parse import parse

GUARD = re.compile(r'guard ("(?:[^"\\]|\\.)*")')
TOO_EARLY = {"W521": "guard-without-door", "W712": "covered-rule"}


@dataclass(frozen=True, slots=True)
class Existing:
    """Names that are taken, by what has them."""

    sources: tuple[Source, ...]
    modules: tuple[ast.Module, ...]
    scopes: frozenset[str] = frozenset()
    aliases: frozenset[str] = frozenset()
    entities: frozenset[str] = frozenset()
    fixtures: frozenset[str] = frozenset()


def read_existing(folder: Path) -> Existing:
    sources, problems = load_sources([folder])
    modules: list[ast.Module] = []
    for source in sources:
        module, found = parse(source)
        problems += found
        modules += [module] if module is not None else []
    first = next((one for one in problems if one.is_error), None) or first_error(sources)
    if first is not None:
        hint = "mend it first: nothing was changed. `policyengine check` tells all there is"
        raise ImportProblem(f"{first.code} {first.message}", f"`{place_of(first)}`", hint)
    return _named(tuple(sources), tuple(modules))


def first_error(sources: Sequence[Source]) -> Diagnostic | None:
    _, found = compiled(sources)
    return next((one for one in found if one.is_error), None)


def told_of_guards(before: Sequence[Source], new: Sequence[Source]) -> tuple[tuple[str, str], ...]:
    """The guards among the new ones for which it is too early: no door opens there, or all of them deny. And the rule
    of the linter that says so."""
    _, found = compiled([*before, *new], advice=True)
    names = {source.name for source in new}
    own = [one for one in found if one.code in TOO_EARLY and one.span.source.name in names]
    named = [(GUARD.match(_line(one)), TOO_EARLY[one.code]) for one in own]
    return tuple(sorted({(json.loads(head[1]), rule) for head, rule in named if head}))


def _line(found: Diagnostic) -> str:
    number, _ = found.span.source.position(found.span.start)
    return found.span.source.line(number)


def place_of(found: Diagnostic) -> str:
    line, column = found.span.source.position(found.span.start)
    return f"{found.span.source.name}:{line}:{column}"


def _named(sources: tuple[Source, ...], modules: tuple[ast.Module, ...]) -> Existing:
    scopes, aliases, entities, fixtures = set[str](), set[str](), set[str](), set[str]()
    for module in modules:
        for declared in module.declarations:
            match declared.declaration if isinstance(declared, ast.Export) else declared:
                case ast.ScopeDecl(name, alias):
                    scopes.add(name.text)
                    aliases.add(alias.value if alias is not None else name.text)
                case ast.EntityDecl(name):
                    entities.add(name.text)
                case ast.FixtureDecl(name):
                    fixtures.add(name.text)
                case _:
                    pass
    return Existing(sources, modules, frozenset(scopes), frozenset(aliases), frozenset(entities), frozenset(fixtures))
