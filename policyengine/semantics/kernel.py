"""The kernel: what a policy means. Every name is resolved and every expression typed, so later stages hold no doubts.

Everything that says no is written as a deny: `require c` and `deny unless c` have become `deny when not c`. A condition
of a guard acts when it is true or unknown; one of a door (`may`, `acts`, `delegate`, `where`) only when it is true.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from typing import Literal as Word
from typing import TypeAlias

from policyengine.kinds import Field as FieldType
from policyengine.kinds import Type
from policyengine.runtime.values import Value
from policyengine.runtime.windows import Window
from policyengine.source import Span


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    span: Span = field(compare=False, repr=False)


# ── Expressions ───────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Constant(Part):
    value: Value
    type: Type


@dataclass(frozen=True, slots=True)
class Fact(Part):
    """A fact by its path: `("body", "amount")`, `("user",)` for the user itself, `("request", "headers", "txn")`."""

    path: tuple[str, ...]
    type: Type
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Attribute(Part):
    """An attribute of an entity: `resource.owner.tenant`. `id` of any reference is an attribute too."""

    base: Expr
    name: str
    type: Type
    optional: bool = False
    inherited: bool = False


@dataclass(frozen=True, slots=True)
class Member(Part):
    """A member of a record."""

    base: Expr
    name: str
    type: Type
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Variable(Part):
    """The variable of a quantifier around it."""

    name: str
    type: Type


@dataclass(frozen=True, slots=True)
class Collection(Part):
    """`[a, user.id]`: a list whose items are not all constant."""

    items: tuple[Expr, ...]
    type: Type


@dataclass(frozen=True, slots=True)
class Named(Part):
    """A `define` used by its name: transparent to meaning, there for explanations."""

    name: str
    expression: Expr
    type: Type


@dataclass(frozen=True, slots=True)
class Not(Part):
    operand: Expr


@dataclass(frozen=True, slots=True)
class And(Part):
    items: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Or(Part):
    items: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Compare(Part):
    """Both sides have one type (int counts as number). Enums compare by rank: their type holds the order."""

    operator: Word["==", "!=", "<", "<=", ">", ">="]
    left: Expr
    right: Expr


@dataclass(frozen=True, slots=True)
class Contains(Part):
    """`item in collection` (`deep`: entities are in what holds them at any depth), `collection has item` (direct)."""

    collection: Expr
    item: Expr
    deep: bool


@dataclass(frozen=True, slots=True)
class Below(Part):
    """One entity in another, at any depth: `in` (reflexive), `below` (`strict`), `group has member` (`direct`)."""

    item: Expr
    ancestor: Expr
    strict: bool = False
    direct: bool = False


@dataclass(frozen=True, slots=True)
class InNetwork(Part):
    """An address within a network, or within any of a set or list of networks and addresses."""

    address: Expr
    networks: Expr


@dataclass(frozen=True, slots=True)
class InWindow(Part):
    instant: Expr
    window: Window


@dataclass(frozen=True, slots=True)
class Like(Part):
    operand: Expr
    pattern: str


@dataclass(frozen=True, slots=True)
class Matches(Part):
    operand: Expr
    pattern: str


@dataclass(frozen=True, slots=True)
class Overlaps(Part):
    left: Expr
    right: Expr


@dataclass(frozen=True, slots=True)
class Subset(Part):
    left: Expr
    right: Expr


@dataclass(frozen=True, slots=True)
class Present(Part):
    """`x is present`; `x is absent` is its Not."""

    operand: Fact | Attribute | Member


@dataclass(frozen=True, slots=True)
class Default(Part):
    """`x else d`: d when x is absent."""

    operand: Fact | Attribute | Member | Default
    fallback: Expr
    type: Type


@dataclass(frozen=True, slots=True)
class Arithmetic(Part):
    operator: Word["+", "-", "*"]
    left: Expr
    right: Expr
    type: Type


@dataclass(frozen=True, slots=True)
class Negative(Part):
    operand: Expr
    type: Type


@dataclass(frozen=True, slots=True)
class Quantifier(Part):
    word: Word["any", "all"]
    variable: str
    domain: Expr
    condition: Expr


@dataclass(frozen=True, slots=True)
class Apply(Part):
    """A function of the vocabulary, by name; where the type is a reference, the entity whose id is the argument."""

    function: str
    arguments: tuple[Expr, ...]
    type: Type


Expr: TypeAlias = (
    Constant
    | Fact
    | Attribute
    | Member
    | Variable
    | Collection
    | Named
    | Not
    | And
    | Or
    | Compare
    | Contains
    | Below
    | InNetwork
    | InWindow
    | Like
    | Matches
    | Overlaps
    | Subset
    | Present
    | Default
    | Arithmetic
    | Negative
    | Quantifier
    | Apply
)

# ── Endpoints and places ──────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment of a path pattern: `prefix` + anything not empty + `suffix`; a plain literal has `wild` False."""

    prefix: str
    wild: bool = False
    suffix: str = ""
    capture: str | None = None
    entity: str | None = None


@dataclass(frozen=True, slots=True)
class HttpPattern(Part):
    """`methods` None is every method; `rest` is a last `**`: zero or more segments."""

    methods: tuple[str, ...] | None
    segments: tuple[Segment, ...]
    rest: bool = False


@dataclass(frozen=True, slots=True)
class ToolPattern(Part):
    """`server/name`, where `*` is any run of characters."""

    glob: str


@dataclass(frozen=True, slots=True)
class ActionPattern(Part):
    verb: str
    type: str


Pattern: TypeAlias = HttpPattern | ToolPattern | ActionPattern


@dataclass(frozen=True, slots=True)
class Place(Part):
    """Where a rule applies: any of `patterns` (None: everywhere, tools and actions too) but none of `excepts`."""

    patterns: tuple[Pattern, ...] | None
    excepts: tuple[Pattern, ...] = ()


@dataclass(frozen=True, slots=True)
class Binder(Part):
    """A pattern that binds something at the endpoints it matches: captures, the resource, facts by `with`.

    `resource` is the entity type and capture of the last typed capture; `facts` are paths and what they are bound to
    (`("resource",)` included).
    """

    pattern: Pattern
    resource: tuple[str, str] | None = None
    facts: tuple[tuple[tuple[str, ...], Expr], ...] = ()


# ── Doors ─────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Called:
    name: str


@dataclass(frozen=True, slots=True)
class CalledLike:
    """Agents whose name fits a glob: `agent "report-*"`."""

    glob: str


@dataclass(frozen=True, slots=True)
class InGroup:
    group: str


@dataclass(frozen=True, slots=True)
class Everybody:
    pass


@dataclass(frozen=True, slots=True)
class Where:
    condition: Expr


@dataclass(frozen=True, slots=True)
class Opening(Part):
    """One pattern a grant opens, and the credential scopes that carry it; none for an endpoint without a scope."""

    pattern: Pattern
    carriers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Grant(Part):
    """One `may`."""

    openings: tuple[Opening, ...]
    when: Expr | None


@dataclass(frozen=True, slots=True)
class Delegate(Part):
    """One `may delegate`: what it hands on (`patterns`, by `scopes`), to whom, for how long after the hop's issue."""

    scopes: tuple[str, ...]
    patterns: tuple[Pattern, ...]
    to: Called | CalledLike | InGroup
    lifetime: timedelta | None
    when: Expr | None


@dataclass(frozen=True, slots=True)
class IssuedBy(Part):
    issuers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ActsAlone(Part):
    pass


@dataclass(frozen=True, slots=True)
class ActsFor(Part):
    """`acts for any user` has no condition."""

    condition: Expr | None


@dataclass(frozen=True, slots=True)
class CredentialKind(Part):
    kinds: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CredentialLifetime(Part):
    limit: timedelta


@dataclass(frozen=True, slots=True)
class CredentialAge(Part):
    limit: timedelta


@dataclass(frozen=True, slots=True)
class CredentialBound(Part):
    pass


@dataclass(frozen=True, slots=True)
class AttestedBy(Part):
    attesters: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Valid(Part):
    """From `start` (included) to `end` (excluded)."""

    start: datetime | None
    end: datetime | None


# These bind every hop of a chain …
HopRequirement: TypeAlias = IssuedBy | ActsAlone | ActsFor | Valid
# … and these the presenter only.
Requirement: TypeAlias = (
    HopRequirement | CredentialKind | CredentialLifetime | CredentialAge | CredentialBound | AttestedBy
)


@dataclass(frozen=True, slots=True)
class AgentBlock(Part):
    """`label` is the block as messages name it: `agent "x"`, `agent group "ops"`, `agent where …`."""

    label: str
    package: str
    who: Called | CalledLike | InGroup | Where
    requirements: tuple[Requirement, ...]
    grants: tuple[Grant, ...]
    delegates: tuple[Delegate, ...]


@dataclass(frozen=True, slots=True)
class UserBlock(Part):
    label: str
    package: str
    who: Called | Everybody | Where
    requirements: tuple[Valid, ...]
    grants: tuple[Grant, ...]


@dataclass(frozen=True, slots=True)
class AnyoneBlock(Part):
    label: str
    package: str
    grants: tuple[Grant, ...]


@dataclass(frozen=True, slots=True)
class DelegationLimits(Part):
    depth: int | None
    lifetime: timedelta | None
    no_cycles: bool


# ── Guards ────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Shown(Part):
    """A fact inside a message. The caller sees it only if it came with the request; the approver sees it always."""

    expression: Expr
    to_caller: bool


Message: TypeAlias = tuple[str | Shown, ...]


@dataclass(frozen=True, slots=True)
class RoleOf:
    """Who has the role."""

    role: str


@dataclass(frozen=True, slots=True)
class UserServed:
    pass


@dataclass(frozen=True, slots=True)
class MemberOf:
    """Who is the entity, or is in it, or in any of a set of them."""

    expression: Expr


@dataclass(frozen=True, slots=True)
class Approvers:
    """`count` different persons, each of them `of`; `words` is the phrase as messages and remedies give it."""

    of: RoleOf | UserServed | MemberOf
    count: int
    words: str


@dataclass(frozen=True, slots=True)
class Deny(Part):
    """`condition` None is always. `words` is the rule as written, for the reason when there is no message."""

    condition: Expr | None
    message: Message | None
    words: str


@dataclass(frozen=True, slots=True)
class Confirm(Part):
    condition: Expr | None
    approvers: Approvers
    within: timedelta | None
    message: Message | None
    words: str


@dataclass(frozen=True, slots=True)
class Oblige(Part):
    condition: Expr | None
    kind: Word["audit", "redact", "notify", "warn", "step_up", "header"]
    arguments: tuple[str, ...]
    message: Message | None
    words: str


Effect: TypeAlias = Deny | Confirm | Oblige


@dataclass(frozen=True, slots=True)
class Guard(Part):
    name: str
    package: str
    place: Place
    effects: tuple[Effect, ...]


# ── The whole ─────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Issuer(Part):
    """`claims` says which claim of a credential is which fact: `tenant` → `("user", "tenant")`."""

    name: str
    url: str | None
    audience: str | None
    keys: str | None
    records_chains: bool
    scopes_none: bool
    claims: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True, slots=True)
class Attester(Part):
    """`models` are names with their hash, if one is named; empty means any."""

    name: str
    url: str | None
    age: timedelta | None
    models: tuple[tuple[str, str | None], ...]
    environments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Entity(Part):
    """`parents` are the types it can be in."""

    name: str
    fields: tuple[FieldType, ...]
    parents: tuple[str, ...]

    def field(self, name: str) -> FieldType | None:
        return next((f for f in self.fields if f.name == name), None)


@dataclass(frozen=True, slots=True)
class Kernel:
    """Everything loaded, as one value: `package` is the first one asked for, `unrestricted` those that say so."""

    package: str
    packages: tuple[str, ...]
    entities: Mapping[str, Entity]
    issuers: Mapping[str, Issuer]
    attesters: Mapping[str, Attester]
    binders: tuple[Binder, ...]
    agents: tuple[AgentBlock, ...]
    users: tuple[UserBlock, ...]
    anyones: tuple[AnyoneBlock, ...]
    unrestricted: tuple[str, ...]
    delegation: tuple[DelegationLimits, ...]
    guards: tuple[Guard, ...]
    revision: str = ""


def parts(expression: Expr) -> Iterator[Expr]:
    """The expressions directly inside an expression."""
    for item in fields(expression):
        value = getattr(expression, item.name)
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, Part):
                yield part  # type: ignore[misc]  # what is inside an expression is one


def walk(expression: Expr) -> Iterator[Expr]:
    """The expression and everything inside it, outermost first."""
    pending = [expression]
    while pending:
        current = pending.pop()
        yield current
        pending.extend(reversed(list(parts(current))))
