"""The kernel: the meaning of a policy, with every name resolved and every expression typed.

Every refusal is a deny: `require c` and `deny unless c` become `deny when not c`. A guard acts when its condition is
true or unknown, a grant (`may`, `acts`, `delegate`, `where`) only when its condition is true.

The kernel's parts are in `expressions.py`, `endpoints.py`, `limits.py`, `profiles.py`, `agent_names.py`,
`authzen_maps.py` and `approval_bindings.py`. This module re-exports all of them: use
`from policyengine import kernel as k`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal as Word
from typing import TypeAlias

from policyengine.kernel.agent_names import ExactName as ExactName
from policyengine.kernel.agent_names import InGroup as InGroup
from policyengine.kernel.agent_names import NamePattern as NamePattern
from policyengine.kernel.approval_bindings import BoundObject as BoundObject
from policyengine.kernel.approval_bindings import BoundTo as BoundTo
from policyengine.kernel.authzen_maps import MapAction as MapAction
from policyengine.kernel.authzen_maps import MapEndpoint as MapEndpoint
from policyengine.kernel.authzen_maps import MapFact as MapFact
from policyengine.kernel.authzen_maps import MapHttp as MapHttp
from policyengine.kernel.authzen_maps import MapItem as MapItem
from policyengine.kernel.authzen_maps import MapPath as MapPath
from policyengine.kernel.authzen_maps import MapResource as MapResource
from policyengine.kernel.authzen_maps import MapSegment as MapSegment
from policyengine.kernel.authzen_maps import MapSubject as MapSubject
from policyengine.kernel.authzen_maps import MapTool as MapTool
from policyengine.kernel.authzen_maps import MapVerb as MapVerb
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
from policyengine.kernel.profiles import CallStep as CallStep
from policyengine.kernel.profiles import Profile as Profile
from policyengine.kernel.profiles import StepGroup as StepGroup
from policyengine.kernel.profiles import applicable_profile as applicable_profile
from policyengine.typesystem import FieldType as FieldType

# ── Endpoints ─────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Binder(Node):
    """A pattern and the facts that it binds for a request that matches it: captures, the resource, facts of `with`.
    `resource` is the entity type and name of the last typed capture; `facts` are paths and the expressions bound to
    them (including `("resource",)`).
    """

    pattern: Pattern
    resource: tuple[str, str] | None = None
    facts: tuple[tuple[tuple[str, ...], Expr], ...] = ()


# ── Blocks and grants ───────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class AnyUser:
    pass


@dataclass(frozen=True, slots=True)
class PrincipalCondition:
    condition: Expr


@dataclass(frozen=True, slots=True)
class GrantTarget(Node):
    """A pattern of a grant. `carriers` are the credential scopes that carry the pattern; empty for an endpoint without
    a scope.
    """

    pattern: Pattern
    carriers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Grant(Node):
    """One `may`."""

    openings: tuple[GrantTarget, ...]
    when: Expr | None


@dataclass(frozen=True, slots=True)
class DelegationGrant(Node):
    """One `may delegate`: the patterns that it delegates (the patterns of `scopes`), to whom, and for how long after
    the hop was issued.
    """

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
    """`acts for users where …`; for `acts for any user` the condition is None."""

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
    """The period from `start` (inclusive) to `end` (exclusive)."""

    start: datetime | None
    end: datetime | None


# Requirements on every hop of a chain.
HopRequirement: TypeAlias = IssuedBy | ActsAlone | ActsFor | ValidityPeriod
# Requirements on the presenter, which include those on every hop.
Requirement: TypeAlias = (
    HopRequirement | CredentialKinds | CredentialLifetime | CredentialAge | ProofOfPossession | AttestedBy
)


@dataclass(frozen=True, slots=True)
class AgentBlock(Node):
    """An agent block. `label` is its head as messages show it: `agent "x"`, `agent group "ops"`, `agent where …`."""

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
    """A fact in a message. Approvers always see the fact; callers see it only if it came with the request."""

    expression: Expr
    to_caller: bool


Message: TypeAlias = tuple[str | MessageFact, ...]


@dataclass(frozen=True, slots=True)
class RoleHolder:
    """Approvers with the role."""

    role: str


@dataclass(frozen=True, slots=True)
class ServedUser:
    pass


@dataclass(frozen=True, slots=True)
class MemberOf:
    """Approvers that are the entity, or that are in the entity or in one of a set of entities."""

    expression: Expr


@dataclass(frozen=True, slots=True)
class Approvers:
    """`count` different people, each of whom matches `of`; `words` is the phrase in messages and remedies. Only users
    that one of the `issuers` may name can approve; `issuers` is empty if the policy names no issuers.
    """

    of: RoleHolder | ServedUser | MemberOf
    count: int
    words: str
    issuers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Deny(Node):
    """A denial. If `condition` is None, it always acts. `words` is the rule as written, which serves as the reason if
    there is no message.
    """

    condition: Expr | None
    message: Message | None
    words: str


DEFAULT_APPROVAL_TIME = timedelta(days=1)  # for a confirm without `within`


@dataclass(frozen=True, slots=True)
class Confirm(Node):
    condition: Expr | None
    approvers: Approvers
    within: timedelta | None
    bound: BoundTo | None
    message: Message | None
    words: str

    @property
    def lasts(self) -> timedelta:
        """How long an approval counts, from the time when it was granted."""
        return DEFAULT_APPROVAL_TIME if self.within is None else self.within


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


# ── Trust anchors, entities and the kernel ──────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Issuer(Node):
    """A trusted issuer. `claims` maps claims of credentials to facts: `tenant` → `("user", "tenant")`. `users_like`
    restricts the users that it may name; empty means all users.
    """

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
    """A trusted attester. `models` are names with an optional hash; empty means any model."""

    name: str
    url: str | None
    age: timedelta | None
    models: tuple[tuple[str, str | None], ...]
    environments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EntityType(Node):
    """A declared entity type. `parents` are the types that its entities can be in."""

    name: str
    fields: tuple[FieldType, ...]
    parents: tuple[str, ...]

    def field(self, name: str) -> FieldType | None:
        return next((f for f in self.fields if f.name == name), None)


@dataclass(frozen=True, slots=True)
class EventRetention(Node):
    """Events that the store keeps because a condition reads them; `within` is the longest period of any condition."""

    event: EventPattern
    within: timedelta


@dataclass(frozen=True, slots=True)
class Kernel:
    """The kernel of all loaded packages.

    `package` is the package of the first module; `unrestricted` and `advisory` are the packages with `users
    unrestricted` and `tasks advisory`; `reads_behavior` says whether a rule reads a learned fact.
    """

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
    profiles: tuple[Profile, ...] = ()
    reads_behavior: bool = False
    revision: str = ""
