"""What opens: agent, user and anyone blocks, and the limits of delegation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal as Word
from typing import TypeAlias

from policyengine.syntax.nodes.base import Literal, Name, Node, Text
from policyengine.syntax.nodes.endpoints import Target
from policyengine.syntax.nodes.expressions import Expr, ListLiteral


@dataclass(frozen=True, slots=True)
class Called(Node):
    """The head of a block: `agent "x"`, `user "x"`."""

    name: Text


@dataclass(frozen=True, slots=True)
class InGroup(Node):
    """The head of a block: `agent group "x"`."""

    group: Text


@dataclass(frozen=True, slots=True)
class Matching(Node):
    """The head of a block: `agent where …`, `user where …`."""

    condition: Expr


@dataclass(frozen=True, slots=True)
class Anybody(Node):
    """The head of a block: `user any`."""


AgentRef: TypeAlias = Called | InGroup


@dataclass(frozen=True, slots=True)
class IssuedBy(Node):
    issuers: tuple[Name, ...]


@dataclass(frozen=True, slots=True)
class Acts(Node):
    """`acts alone`, `acts for any user`, `acts for users where …` (then with a condition)."""

    mode: Word["alone", "any", "where"]
    condition: Expr | None = None


@dataclass(frozen=True, slots=True)
class CredentialKinds(Node):
    kinds: ListLiteral


@dataclass(frozen=True, slots=True)
class CredentialLimit(Node):
    """`lifetime <= 15m`, `age <= 5m`."""

    name: Word["lifetime", "age"]
    limit: Literal


@dataclass(frozen=True, slots=True)
class CredentialBound(Node):
    """`bound`: the credential proves possession of a key."""


@dataclass(frozen=True, slots=True)
class CredentialDecl(Node):
    items: tuple[CredentialKinds | CredentialLimit | CredentialBound, ...]


@dataclass(frozen=True, slots=True)
class AttestedBy(Node):
    attesters: tuple[Name, ...]


@dataclass(frozen=True, slots=True)
class May(Node):
    targets: tuple[Target, ...]
    when: Expr | None = None


@dataclass(frozen=True, slots=True)
class MayDelegate(Node):
    scopes: tuple[Name, ...]
    to: AgentRef
    lifetime: Literal | None = None
    when: Expr | None = None


@dataclass(frozen=True, slots=True)
class Valid(Node):
    start: Literal | None
    end: Literal | None


@dataclass(frozen=True, slots=True)
class AgentDecl(Node):
    head: Called | InGroup | Matching
    items: tuple[IssuedBy | Acts | CredentialDecl | AttestedBy | May | MayDelegate | Valid, ...]


@dataclass(frozen=True, slots=True)
class UserDecl(Node):
    head: Called | Matching | Anybody
    items: tuple[May | Valid, ...]


@dataclass(frozen=True, slots=True)
class AnyoneDecl(Node):
    items: tuple[May, ...]


@dataclass(frozen=True, slots=True)
class UsersUnrestricted(Node):
    pass


@dataclass(frozen=True, slots=True)
class DelegationLimit(Node):
    """`depth <= 3`, `lifetime <= 1h`, `no cycles` (then without a limit)."""

    name: Word["depth", "lifetime", "no cycles"]
    limit: Literal | None = None


@dataclass(frozen=True, slots=True)
class DelegationDecl(Node):
    limits: tuple[DelegationLimit, ...]
