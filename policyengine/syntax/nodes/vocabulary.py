"""Declarations to which rules refer by name: types, facts, scopes, issuers, attesters, and maps of other protocols."""

from __future__ import annotations

from typing import Literal as Word
from typing import TypeAlias

from policyengine.syntax.nodes.base import Literal, Name, Node, Text, node
from policyengine.syntax.nodes.endpoints import Endpoint, Place
from policyengine.syntax.nodes.expressions import Expr, ListLiteral


@node()
class NamedTypeExpr(Node):
    """`int`, `set<user or team>?`."""

    name: Name
    parameters: tuple[TypeExpr, ...] = ()
    optional: bool = False


@node()
class RecordTypeExpr(Node):
    fields: tuple[FieldDecl, ...]
    optional: bool = False


TypeExpr: TypeAlias = NamedTypeExpr | RecordTypeExpr


@node()
class FieldDecl(Node):
    name: Name
    type: TypeExpr
    inherited: bool = False
    else_empty: bool = False  # `inherited else []`


@node()
class EnumDecl(Node):
    name: Name
    values: tuple[Name, ...]


@node()
class EntityDecl(Node):
    name: Name
    fields: tuple[FieldDecl, ...] = ()
    parents: tuple[Name, ...] = ()


@node()
class FactsDecl(Node):
    place: Place | None
    fields: tuple[FieldDecl, ...]


@node()
class LetDecl(Node):
    name: Name
    value: Expr


@node()
class DefineDecl(Node):
    name: Name
    condition: Expr


# ── Scopes ──────────────────────────────────────────────────────────────────────────────────────


@node()
class FactAssignment(Node):
    """`resource = invoice(args.id)` after `with`."""

    fact: Name
    value: Expr


@node()
class Include(Node):
    scopes: tuple[Name, ...]


@node()
class ScopeEndpoint(Node):
    endpoint: Endpoint
    bindings: tuple[FactAssignment, ...] = ()


@node()
class ScopeDecl(Node):
    name: Name
    alias: Text | None
    items: tuple[Include | ScopeEndpoint, ...]


# ── Trust anchors ───────────────────────────────────────────────────────────────────────────────


@node()
class TrustAnchorOption(Node):
    """A keyword with its value in an issuer or attester: `url "…"`, `age <= 1h`, `records chains`, `scopes none`."""

    name: Word["url", "audience", "keys", "records chains", "scopes none", "age"]
    value: Text | Literal | None = None


@node()
class ClaimMap(Node):
    """`tenant -> user.tenant`."""

    claim: str
    fact: Name


@node()
class ClaimsClause(Node):
    maps: tuple[ClaimMap, ...]


@node()
class UsersLike(Node):
    """`users like "*@partner.example"`: the users that an issuer may name."""

    patterns: tuple[Text, ...]


@node()
class AttestedModel(Node):
    name: Text
    hash: Literal | None = None


@node()
class AttestedEnvironment(Node):
    values: ListLiteral


@node()
class IssuerDecl(Node):
    name: Name
    items: tuple[TrustAnchorOption | UsersLike | ClaimsClause, ...]


@node()
class AttesterDecl(Node):
    name: Name
    items: tuple[TrustAnchorOption | AttestedModel | AttestedEnvironment, ...]


# ── Other protocols ─────────────────────────────────────────────────────────────────────────────


@node()
class MapEntity(Node):
    """`subject "user" => user from acme`, `resource "todo" => todo`; only subjects have an issuer."""

    role: Word["subject", "resource"]
    foreign: Text
    entity: Name
    issuer: Name | None = None


@node()
class MapAction(Node):
    """`action "can_read" on "todo" => GET /todos/{resource.id}`."""

    action: Text
    on: Text | None
    endpoint: Endpoint
    bindings: tuple[FactAssignment, ...] = ()


@node()
class MapFact(Node):
    """`fact user.roles = subject.properties.roles`."""

    fact: Name
    source: Name


@node()
class MapDecl(Node):
    protocol: Name
    items: tuple[MapEntity | MapAction | MapFact, ...]
