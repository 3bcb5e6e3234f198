"""Grants: agent, user and anyone blocks, and the limits of delegation."""

from __future__ import annotations

from typing import Literal as Word
from typing import TypeAlias

from policyengine.syntax.nodes.base import Literal, Name, Node, Text, node
from policyengine.syntax.nodes.endpoints import Target
from policyengine.syntax.nodes.expressions import Expr, ListLiteral


@node()
class PrincipalName(Node):
    """The head of a block: `agent "x"`, `user "x"`."""

    name: Text


@node()
class InGroup(Node):
    """The head of a block: `agent group "x"`."""

    group: Text


@node()
class PrincipalCondition(Node):
    """The head of a block: `agent where …`, `user where …`."""

    condition: Expr


@node()
class AnyUser(Node):
    """The head of a block: `user any`."""


AgentRef: TypeAlias = PrincipalName | InGroup


@node()
class IssuedBy(Node):
    issuers: tuple[Name, ...]


@node()
class ActsClause(Node):
    """`acts alone`, `acts for any user`, `acts for users where …` (with a condition)."""

    mode: Word["alone", "any", "where"]
    condition: Expr | None = None


@node()
class CredentialKinds(Node):
    kinds: ListLiteral


@node()
class CredentialLimit(Node):
    """`lifetime <= 15m`, `age <= 5m`."""

    name: Word["lifetime", "age"]
    limit: Literal


@node()
class ProofOfPossession(Node):
    """`bound`: the caller must prove possession of the credential's key."""


@node()
class CredentialDecl(Node):
    items: tuple[CredentialKinds | CredentialLimit | ProofOfPossession, ...]


@node()
class AttestedBy(Node):
    attesters: tuple[Name, ...]


@node()
class May(Node):
    targets: tuple[Target, ...]
    when: Expr | None = None


@node()
class MayDelegate(Node):
    scopes: tuple[Name, ...]
    to: AgentRef
    lifetime: Literal | None = None
    when: Expr | None = None


@node()
class ValidityPeriod(Node):
    start: Literal | None
    end: Literal | None


@node()
class AgentDecl(Node):
    head: PrincipalName | InGroup | PrincipalCondition
    items: tuple[IssuedBy | ActsClause | CredentialDecl | AttestedBy | May | MayDelegate | ValidityPeriod, ...]


@node()
class UserDecl(Node):
    head: PrincipalName | PrincipalCondition | AnyUser
    items: tuple[May | ValidityPeriod, ...]


@node()
class AnyoneDecl(Node):
    items: tuple[May, ...]


@node()
class UnrestrictedUsers(Node):
    pass


@node()
class TasksAdvisory(Node):
    pass


@node()
class DelegationLimit(Node):
    """`depth <= 3`, `lifetime <= 1h`, `no cycles` (without a limit)."""

    name: Word["depth", "lifetime", "no cycles"]
    limit: Literal | None = None


@node()
class DelegationDecl(Node):
    limits: tuple[DelegationLimit, ...]
