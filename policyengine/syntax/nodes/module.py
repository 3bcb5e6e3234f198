"""One file: its declarations, imports and comments."""

from __future__ import annotations

from dataclasses import field
from typing import TypeAlias

from policyengine.syntax.nodes.base import Literal, Name, Node, node
from policyengine.syntax.nodes.endpoints import PathsIgnoreCase
from policyengine.syntax.nodes.grants import (
    AgentDecl,
    AnyoneDecl,
    DelegationDecl,
    TasksAdvisory,
    UnrestrictedUsers,
    UserDecl,
)
from policyengine.syntax.nodes.guards import GuardDecl
from policyengine.syntax.nodes.limits import BudgetDecl, InvariantDecl, ProfileDecl, RateDecl
from policyengine.syntax.nodes.tests import FixtureDecl, TestDecl
from policyengine.syntax.nodes.vocabulary import (
    AttesterDecl,
    DefineDecl,
    EntityDecl,
    EnumDecl,
    FactsDecl,
    IssuerDecl,
    LetDecl,
    MapDecl,
    ScopeDecl,
)

Declaration: TypeAlias = (
    EnumDecl
    | EntityDecl
    | FactsDecl
    | LetDecl
    | DefineDecl
    | ScopeDecl
    | IssuerDecl
    | AttesterDecl
    | AgentDecl
    | UserDecl
    | AnyoneDecl
    | PathsIgnoreCase
    | UnrestrictedUsers
    | TasksAdvisory
    | DelegationDecl
    | GuardDecl
    | RateDecl
    | BudgetDecl
    | ProfileDecl
    | InvariantDecl
    | FixtureDecl
    | TestDecl
    | MapDecl
)


@node()
class Export(Node):
    declaration: Declaration


@node()
class Import(Node):
    package: Name
    alias: Name | None


@node()
class Comment(Node):
    """`# …` as written, from the hash to the end of the line."""

    text: str


@node()
class Module(Node):
    """One file. Comments are separate, because they belong to positions, not to nodes."""

    language: Literal | None
    package: Name | None
    imports: tuple[Import, ...]
    declarations: tuple[Declaration | Export, ...]
    comments: tuple[Comment, ...] = field(compare=False, default=())
