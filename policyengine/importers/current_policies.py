"""The existing policies of the author, read before an import adds to them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from policyengine.check import compile_sources
from policyengine.diagnostics.model import Diagnostic
from policyengine.importers.errors import ApiImportError
from policyengine.policy_files import load_sources
from policyengine.source import Source
from policyengine.syntax import nodes as ast
from policyengine.syntax.parse import parse

GUARD_HEAD = re.compile(r'guard ("(?:[^"\\]|\\.)*")')
PREMATURE_RULES = {"W521": "guard-without-door", "W712": "covered-rule"}


@dataclass(frozen=True, slots=True)
class TakenNames:
    """The existing policies and the names that they use, by kind."""

    sources: tuple[Source, ...]
    modules: tuple[ast.Module, ...]
    scopes: frozenset[str] = frozenset()
    aliases: frozenset[str] = frozenset()
    entities: frozenset[str] = frozenset()
    fixtures: frozenset[str] = frozenset()


def read_current_policies(folder: Path) -> TakenNames:
    sources, problems = load_sources([folder])
    modules: list[ast.Module] = []
    for source in sources:
        module, found = parse(source)
        problems += found
        modules += [module] if module is not None else []
    first = next((one for one in problems if one.is_error), None) or first_error(sources)
    if first is not None:
        hint = "fix this error first; nothing was changed. `policyengine check` lists all errors"
        raise ApiImportError(f"{first.code} {first.message}", f"`{location_of(first)}`", hint)
    return _collect_names(tuple(sources), tuple(modules))


def first_error(sources: Sequence[Source]) -> Diagnostic | None:
    _, found = compile_sources(sources)
    return next((one for one in found if one.is_error), None)


def premature_guards(before: Sequence[Source], new: Sequence[Source]) -> tuple[tuple[str, str], ...]:
    """Return the new guards that are premature, because no grant opens their place or because everything at their place
    is denied. Each guard is returned with the lint rule that reports it.
    """
    _, found = compile_sources([*before, *new], advice=True)
    names = {source.name for source in new}
    own = [one for one in found if one.code in PREMATURE_RULES and one.span.source.name in names]
    named = [(GUARD_HEAD.match(_source_line(one)), PREMATURE_RULES[one.code]) for one in own]
    return tuple(sorted({(json.loads(head[1]), rule) for head, rule in named if head}))


def _source_line(found: Diagnostic) -> str:
    number, _ = found.span.source.position(found.span.start)
    return found.span.source.line(number)


def location_of(found: Diagnostic) -> str:
    line, column = found.span.source.position(found.span.start)
    return f"{found.span.source.name}:{line}:{column}"


def _collect_names(sources: tuple[Source, ...], modules: tuple[ast.Module, ...]) -> TakenNames:
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
    return TakenNames(sources, modules, frozenset(scopes), frozenset(aliases), frozenset(entities), frozenset(fixtures))
