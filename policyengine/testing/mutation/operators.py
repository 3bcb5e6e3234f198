"""Enumerates all faults of a policy in source order, without lowering them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from policyengine.checker.names.program import Program
from policyengine.syntax import nodes as ast
from policyengine.testing.mutation.conditions import condition_faults
from policyengine.testing.mutation.constants import (
    enum_faults,
    enum_neighbours,
    literal_faults,
    text_faults,
    window_faults,
)
from policyengine.testing.mutation.edits import ChangedLines
from policyengine.testing.mutation.faults import Fault, FaultChange, number_duplicates
from policyengine.testing.mutation.history import history_faults
from policyengine.testing.mutation.limits import limit_faults
from policyengine.testing.mutation.orders import order_faults
from policyengine.testing.mutation.places import place_faults
from policyengine.testing.mutation.rules import ReplacementNames, declaration_faults, rule_faults

# Declarations that affect decisions. Types, facts and tests are not mutated.
MUTABLE_DECLARATIONS = (
    ast.LetDecl, ast.DefineDecl, ast.ScopeDecl, ast.IssuerDecl, ast.AttesterDecl, ast.AgentDecl, ast.UserDecl,
    ast.AnyoneDecl, ast.PathsIgnoreCase, ast.UnrestrictedUsers, ast.TasksAdvisory, ast.DelegationDecl, ast.GuardDecl,
    ast.RateDecl, ast.BudgetDecl, ast.ProfileDecl,
)  # fmt: skip


def find_faults(program: Program) -> tuple[Fault, ...]:
    """Return every fault, with unique names."""
    vocabulary = FaultVocabulary.of(program)
    found = [
        (package, declaration, change, ChangedLines.of(declaration.span.source, change.edits))
        for package, declaration in program.declarations()
        if isinstance(declaration, MUTABLE_DECLARATIONS)
        for change in declaration_changes(declaration, vocabulary)
    ]
    found.sort(key=lambda one: (one[1].span.source.name, min(edit.start for edit in one[2].edits)))
    names = number_duplicates(
        f"{change.operator} in {declaration_head(where)}: {lines.telling}" for _, where, change, lines in found
    )
    return tuple(
        Fault(change.operator, name, package, declaration, change, lines)
        for name, (package, declaration, change, lines) in zip(names, found, strict=True)
    )


@dataclass(frozen=True, slots=True)
class FaultVocabulary:
    """The names of a policy that a fault may use in place of others."""

    known: ReplacementNames
    enums: dict[str, list[str]]
    reads_order: bool  # whether a rule reads whether calls follow the declared order

    @classmethod
    def of(cls, program: Program) -> FaultVocabulary:
        declared = [declaration for _, declaration in program.declarations()]
        guards = [one for one in declared if isinstance(one, ast.GuardDecl)]
        roles = [node.role.text for guard in guards for node in ast.walk(guard) if isinstance(node, ast.ByRole)]
        known = ReplacementNames(
            tuple(one.name.text for one in declared if isinstance(one, ast.IssuerDecl)),
            tuple(one.name.text for one in declared if isinstance(one, ast.AttesterDecl)),
            tuple(dict.fromkeys(roles)),
            including_scopes([one for one in declared if isinstance(one, ast.ScopeDecl)]),
        )
        values = [[value.text for value in one.values] for one in declared if isinstance(one, ast.EnumDecl)]
        rules = (one for one in declared if not isinstance(one, ast.TestDecl | ast.FixtureDecl))
        return cls(known, enum_neighbours(values), any("behavior.sequence" in one.span.text for one in rules))


def including_scopes(scopes: Sequence[ast.ScopeDecl]) -> dict[str, tuple[str, ...]]:
    """Return for each scope the scopes that include it."""
    found: dict[str, tuple[str, ...]] = {}
    for scope in scopes:
        for name in (name for item in scope.items if isinstance(item, ast.Include) for name in item.scopes):
            found[name.text] = (*found.get(name.text, ()), scope.name.text)
    return found


def declaration_changes(declaration: ast.Declaration, vocabulary: FaultVocabulary) -> Iterator[FaultChange]:
    if isinstance(declaration, ast.ProfileDecl):
        yield from order_faults(declaration) if vocabulary.reads_order else ()
        return
    yield from declaration_faults(declaration)
    for node in ast.walk(declaration):
        yield from rule_faults(node, vocabulary.known)
        yield from place_faults(node)
        yield from limit_faults(node)
        yield from history_faults(node)
        yield from condition_faults(node)
        yield from literal_faults(node)
        yield from text_faults(node)
        yield from enum_faults(node, vocabulary.enums)
        yield from window_faults(node)


def declaration_head(declaration: ast.Declaration) -> str:
    """Return the head of a declaration, as in the names of faults: `guard "large refunds"`, `agent "planner"`, `scope
    refunds.create`."""
    match declaration:
        case ast.GuardDecl(name=name):
            return f'guard "{name.value}"'
        case ast.ProfileDecl(name=name):
            return f'profile "{name.value}"'
        case ast.RateDecl(name=name) | ast.BudgetDecl(name=name):
            return f'{declaration.span.text.split()[0]} "{name.value}"'
        case ast.AgentDecl(head=head) | ast.UserDecl(head=head):
            word = "agent" if isinstance(declaration, ast.AgentDecl) else "user"
            return f"{word} {' '.join(head.span.text.split())}"
        case ast.ScopeDecl(name=name) | ast.IssuerDecl(name=name) | ast.AttesterDecl(name=name):
            return f"{declaration.span.text.split()[0]} {name.text}"
        case ast.LetDecl(name=name) | ast.DefineDecl(name=name):
            return f"{declaration.span.text.split()[0]} {name.text}"
        case _:
            return declaration.span.text.split("{")[0].strip()
