"""What rules speak of: types and facts, scopes, issuers and attesters, other protocols' words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal as Word
from typing import TypeAlias

from policyengine.syntax.nodes.base import Literal, Name, Node, Text
from policyengine.syntax.nodes.endpoints import Endpoint, Place
from policyengine.syntax.nodes.expressions import Expr, ListLiteral


@dataclass(frozen=True, slots=True)
class NamedType(Node):
    """`int`, `set<user or team>?`."""

    name: Name
    parameters: tuple[TypeExpr, ...] = ()
    optional: bool = False


@dataclass(frozen=True, slots=True)
class RecordType(Node):
    fields: tuple[FieldDecl, ...]
    optional: bool = False


TypeExpr: TypeAlias = NamedType | RecordType


@dataclass(frozen=True, slots=True)
class FieldDecl(Node):
    name: Name
    type: TypeExpr
    inherited: bool = False


@dataclass(frozen=True, slots=True)
class EnumDecl(Node):
    name: Name
    values: tuple[Name, ...]


@dataclass(frozen=True, slots=True)
class EntityDecl(Node):
    name: Name
    fields: tuple[FieldDecl, ...] = ()
    parents: tuple[Name, ...] = ()


@dataclass(frozen=True, slots=True)
class FactsDecl(Node):
    place: Place | None
    fields: tuple[FieldDecl, ...]


@dataclass(frozen=True, slots=True)
class LetDecl(Node):
    name: Name
    value: Expr


@dataclass(frozen=True, slots=True)
class DefineDecl(Node):
    name: Name
    condition: Expr


# ── Scopes ──────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Binding(Node):
    """`resource = invoice(args.id)` after `with`."""

    fact: Name
    value: Expr


@dataclass(frozen=True, slots=True)
class Include(Node):
    scopes: tuple[Name, ...]


@dataclass(frozen=True, slots=True)
class ScopeEndpoint(Node):
    endpoint: Endpoint
    bindings: tuple[Binding, ...] = ()


@dataclass(frozen=True, slots=True)
class ScopeDecl(Node):
    name: Name
    alias: Text | None
    items: tuple[Include | ScopeEndpoint, ...]


# ── Trust anchors ───────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Setting(Node):
    """A word and its value inside an issuer or attester: `url "…"`, `age <= 1h`, `records chains`, `scopes none`."""

    name: Word["url", "audience", "keys", "records chains", "scopes none", "age"]
    value: Text | Literal | None = None


@dataclass(frozen=True, slots=True)
class ClaimMap(Node):
    """`tenant -> user.tenant`."""

    claim: str
    fact: Name


@dataclass(frozen=True, slots=True)
class Claims(Node):
    maps: tuple[ClaimMap, ...]


@dataclass(frozen=True, slots=True)
class AttestedModel(Node):
    name: Text
    hash: Literal | None = None


@dataclass(frozen=True, slots=True)
class AttestedEnvironment(Node):
    values: ListLiteral


@dataclass(frozen=True, slots=True)
class IssuerDecl(Node):
    name: Name
    items: tuple[Setting | Claims, ...]


@dataclass(frozen=True, slots=True)
class AttesterDecl(Node):
    name: Name
    items: tuple[Setting | AttestedModel | AttestedEnvironment, ...]


# ── Other protocols ─────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class MapEntity(Node):
    """`subject "user" => user`, `resource "todo" => todo`."""

    role: Word["subject", "resource"]
    foreign: Text
    entity: Name


@dataclass(frozen=True, slots=True)
class MapAction(Node):
    """`action "can_read" on "todo" => GET /todos/{resource.id}`."""

    action: Text
    on: Text | None
    endpoint: Endpoint
    bindings: tuple[Binding, ...] = ()


@dataclass(frozen=True, slots=True)
class MapFact(Node):
    fact: Name
    source: Name


@dataclass(frozen=True, slots=True)
class MapDecl(Node):
    protocol: Name
    items: tuple[MapEntity | MapAction | MapFact, ...]
