"""The kernel: what a policy means. Every name is resolved and every expression typed, so later stages hold no doubts.

Everything that says no is written as a deny: `require c` and `deny unless c` have become `deny when not c`. A condition
of a guard acts when it is true or unknown; one of a door (`may`, `acts`, `delegate`, `where`) only when it is true.

Its expressions stand in `expressions.py`, its endpoints in `endpoints.py`, its limits in `limits.py`, its maps in
`maps.py`, what approvals are bound to in `approvals.py`, and all of them here once more: all stages say `kernel as k`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal as Word
from typing import TypeAlias

from policyengine.kernel.approvals import BoundObject as BoundObject
from policyengine.kernel.approvals import BoundTo as BoundTo
from policyengine.kernel.base import Node as Node
from policyengine.kernel.binary_relations import RELATIONS as RELATIONS
from policyengine.kernel.binary_relations import Operands as Operands
from policyengine.kernel.binary_relations import RelationRow as RelationRow
from policyengine.kernel.endpoints import FOLDINGS as FOLDINGS
from policyengine.kernel.endpoints import ActionPattern as ActionPattern
from policyengine.kernel.endpoints import Folding as Folding
from policyengine.kernel.endpoints import HttpPattern as HttpPattern
from policyengine.kernel.endpoints import Pattern as Pattern
from policyengine.kernel.endpoints import Place as Place
from policyengine.kernel.endpoints import Segment as Segment
from policyengine.kernel.endpoints import ToolPattern as ToolPattern
from policyengine.kernel.endpoints import with_folding as with_folding
from policyengine.kernel.expressions import Aggregate as Aggregate
from policyengine.kernel.expressions import And as And
from policyengine.kernel.expressions import Arithmetic as Arithmetic
from policyengine.kernel.expressions import Attribute as Attribute
from policyengine.kernel.expressions import Call as Call
from policyengine.kernel.expressions import Collection as Collection
from policyengine.kernel.expressions import Constant as Constant
from policyengine.kernel.expressions import Default as Default
from policyengine.kernel.expressions import DefinitionRef as DefinitionRef
from policyengine.kernel.expressions import EventPattern as EventPattern
from policyengine.kernel.expressions import Expr as Expr
from policyengine.kernel.expressions import Fact as Fact
from policyengine.kernel.expressions import HasRow as HasRow
from policyengine.kernel.expressions import HistoryCondition as HistoryCondition
from policyengine.kernel.expressions import InWindow as InWindow
from policyengine.kernel.expressions import IsPresent as IsPresent
from policyengine.kernel.expressions import Member as Member
from policyengine.kernel.expressions import Not as Not
from policyengine.kernel.expressions import Or as Or
from policyengine.kernel.expressions import PastFact as PastFact
from policyengine.kernel.expressions import Quantifier as Quantifier
from policyengine.kernel.expressions import Relation as Relation
from policyengine.kernel.expressions import UnaryMinus as UnaryMinus
from policyengine.kernel.expressions import Variable as Variable
from policyengine.kernel.expressions import children as children
from policyengine.kernel.expressions import walk as walk
from policyengine.kernel.limits import Budget as Budget
from policyengine.kernel.limits import BudgetLimit as BudgetLimit
from policyengine.kernel.limits import Clamp as Clamp
from policyengine.kernel.limits import ConcurrencyLimit as ConcurrencyLimit
from policyengine.kernel.limits import Limit as Limit
from policyengine.kernel.limits import Pace as Pace
from policyengine.kernel.limits import PaceByFact as PaceByFact
from policyengine.kernel.limits import Raise as Raise
from policyengine.kernel.limits import Rate as Rate
from policyengine.kernel.limits import StoreFailureMode as StoreFailureMode
from policyengine.kernel.maps import MapAction as MapAction
from policyengine.kernel.maps import MapEndpoint as MapEndpoint
from policyengine.kernel.maps import MapFact as MapFact
from policyengine.kernel.maps import MapHttp as MapHttp
from policyengine.kernel.maps import MapItem as MapItem
from policyengine.kernel.maps import MapPath as MapPath
from policyengine.kernel.maps import MapResource as MapResource
from policyengine.kernel.maps import MapSegment as MapSegment
from policyengine.kernel.maps import MapSubject as MapSubject
from policyengine.kernel.maps import MapTool as MapTool
from policyengine.kernel.maps import MapVerb as MapVerb
from policyengine.typesystem import FieldType as FieldType

# ── Endpoints ─────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Binder(Node):
    """A pattern that binds something at the endpoints it matches: captures, the resource, facts by `with`.

    `resource` is the entity type and capture of the last typed capture; `facts` are paths and what they are bound to
    (`("resource",)` included).
    """

    pattern: Pattern
    resource: tuple[str, str] | None = None
    facts: tuple[tuple[tuple[str, ...], Expr], ...] = ()


# ── Doors ─────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class ExactName:
    name: str


@dataclass(frozen=True, slots=True)
class NamePattern:
    """Agents whose name fits a glob: `agent "report-*"`."""

    glob: str


@dataclass(frozen=True, slots=True)
class InGroup:
    group: str


@dataclass(frozen=True, slots=True)
class AnyUser:
    pass


@dataclass(frozen=True, slots=True)
class PrincipalCondition:
    condition: Expr


@dataclass(frozen=True, slots=True)
class GrantTarget(Node):
    """One pattern a grant opens, and the credential scopes that carry it; none for an endpoint without a scope."""

    pattern: Pattern
    carriers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Grant(Node):
    """One `may`."""

    openings: tuple[GrantTarget, ...]
    when: Expr | None


@dataclass(frozen=True, slots=True)
class DelegationGrant(Node):
    """One `may delegate`: what it hands on (`patterns`, by `scopes`), to whom, for how long after the hop's issue."""

    scopes: tuple[str, ...]
    patterns: tuple[Pattern, ...]
    to: ExactName | NamePattern | InGroup
    lifetime: timedelta | None
    when: Expr | None


@dataclass(frozen=True, slots=True)
class IssuedBy(Node):
    issuers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ActsAlone(Node):
    pass


@dataclass(frozen=True, slots=True)
class ActsFor(Node):
    """`acts for any user` has no condition."""

    condition: Expr | None


@dataclass(frozen=True, slots=True)
class CredentialKinds(Node):
    kinds: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CredentialLifetime(Node):
    limit: timedelta


@dataclass(frozen=True, slots=True)
class CredentialAge(Node):
    limit: timedelta


@dataclass(frozen=True, slots=True)
class ProofOfPossession(Node):
    pass


@dataclass(frozen=True, slots=True)
class AttestedBy(Node):
    attesters: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ValidityPeriod(Node):
    """From `start` (included) to `end` (excluded)."""

    start: datetime | None
    end: datetime | None


# These bind every hop of a chain …
HopRequirement: TypeAlias = IssuedBy | ActsAlone | ActsFor | ValidityPeriod
# … and these the presenter only.
Requirement: TypeAlias = (
    HopRequirement | CredentialKinds | CredentialLifetime | CredentialAge | ProofOfPossession | AttestedBy
)


@dataclass(frozen=True, slots=True)
class AgentBlock(Node):
    """`label` is the block as messages name it: `agent "x"`, `agent group "ops"`, `agent where …`."""

    label: str
    package: str
    who: ExactName | NamePattern | InGroup | PrincipalCondition
    requirements: tuple[Requirement, ...]
    grants: tuple[Grant, ...]
    delegates: tuple[DelegationGrant, ...]


@dataclass(frozen=True, slots=True)
class UserBlock(Node):
    label: str
    package: str
    who: ExactName | AnyUser | PrincipalCondition
    requirements: tuple[ValidityPeriod, ...]
    grants: tuple[Grant, ...]


@dataclass(frozen=True, slots=True)
class AnyoneBlock(Node):
    label: str
    package: str
    grants: tuple[Grant, ...]


@dataclass(frozen=True, slots=True)
class DelegationLimits(Node):
    depth: int | None
    lifetime: timedelta | None
    no_cycles: bool


# ── Guards ────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class MessageFact(Node):
    """A fact inside a message. The caller sees it only if it came with the request; the approver sees it always."""

    expression: Expr
    to_caller: bool


Message: TypeAlias = tuple[str | MessageFact, ...]


@dataclass(frozen=True, slots=True)
class RoleHolder:
    """Who has the role."""

    role: str


@dataclass(frozen=True, slots=True)
class ServedUser:
    pass


@dataclass(frozen=True, slots=True)
class MemberOf:
    """Who is the entity, or is in it, or in any of a set of them."""

    expression: Expr


@dataclass(frozen=True, slots=True)
class Approvers:
    """`count` different persons, each of them `of`; `words` is the phrase as messages and remedies give it."""

    of: RoleHolder | ServedUser | MemberOf
    count: int
    words: str


@dataclass(frozen=True, slots=True)
class Deny(Node):
    """`condition` None is always. `words` is the rule as written, for the reason when there is no message."""

    condition: Expr | None
    message: Message | None
    words: str


@dataclass(frozen=True, slots=True)
class Confirm(Node):
    condition: Expr | None
    approvers: Approvers
    within: timedelta | None
    bound: BoundTo | None
    message: Message | None
    words: str


@dataclass(frozen=True, slots=True)
class ObligationEffect(Node):
    condition: Expr | None
    kind: Word["audit", "redact", "notify", "warn", "step_up", "header"]
    arguments: tuple[str, ...]
    message: Message | None
    words: str


Effect: TypeAlias = Deny | Confirm | ObligationEffect


@dataclass(frozen=True, slots=True)
class Guard(Node):
    name: str
    package: str
    place: Place
    effects: tuple[Effect, ...]


# ── The whole ─────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Issuer(Node):
    """`claims` says which claim of a credential is which fact: `tenant` → `("user", "tenant")`; `users_like` for whom
    it speaks, where that is not everybody."""

    name: str
    url: str | None
    audience: str | None
    keys: str | None
    records_chains: bool
    scopes_none: bool
    claims: tuple[tuple[str, tuple[str, ...]], ...]
    users_like: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Attester(Node):
    """`models` are names with their hash, if one is named; empty means any."""

    name: str
    url: str | None
    age: timedelta | None
    models: tuple[tuple[str, str | None], ...]
    environments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EntityType(Node):
    """`parents` are the types it can be in."""

    name: str
    fields: tuple[FieldType, ...]
    parents: tuple[str, ...]

    def field(self, name: str) -> FieldType | None:
        return next((f for f in self.fields if f.name == name), None)


@dataclass(frozen=True, slots=True)
class EventRetention(Node):
    """Requests that are remembered, as some condition asks for them; `within` is the longest that any looks back."""

    event: EventPattern
    within: timedelta


@dataclass(frozen=True, slots=True)
class Kernel:
    """Everything loaded, as one value: `package` is the first one asked for; `unrestricted` and `advisory` are those
    that say so of users and of tasks."""

    package: str
    packages: tuple[str, ...]
    entities: Mapping[str, EntityType]
    issuers: Mapping[str, Issuer]
    attesters: Mapping[str, Attester]
    binders: tuple[Binder, ...]
    agents: tuple[AgentBlock, ...]
    users: tuple[UserBlock, ...]
    anyones: tuple[AnyoneBlock, ...]
    unrestricted: tuple[str, ...]
    delegation: tuple[DelegationLimits, ...]
    guards: tuple[Guard, ...]
    advisory: tuple[str, ...] = ()
    limits: tuple[Limit, ...] = ()
    watches: tuple[EventRetention, ...] = ()
    maps: tuple[MapItem, ...] = ()
    revision: str = ""
