"""The abstract syntax tree: what was written, nothing resolved. A span never takes part in comparison."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Literal as Word
from typing import TypeAlias

from policyengine.source import Span


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Name(Node):
    """A dotted name as written: `user`, `invoices.read`, `body.amount`."""

    text: str


@dataclass(frozen=True, slots=True)
class Text(Node):
    """A string, its escapes resolved."""

    value: str


# ── Expressions ───────────────────────────────────────────────────────────────────────────────

LiteralKind: TypeAlias = Word["number", "duration", "date", "clock", "ip", "hash", "bool"]


@dataclass(frozen=True, slots=True)
class Literal(Node):
    """A literal other than a string, as written (`10_000`, `15m`, `10.0.0.0/8`); the checker reads its value."""

    kind: LiteralKind
    text: str


@dataclass(frozen=True, slots=True)
class Reference(Node):
    """A name in an expression, with bracketed keys: `user.id`, `request.headers["x-id"]`, `free`."""

    name: str
    keys: tuple[Text, ...] = ()


@dataclass(frozen=True, slots=True)
class ListLiteral(Node):
    items: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class EntityLiteral(Node):
    """`team "legal"`."""

    type: Name
    id: Text


@dataclass(frozen=True, slots=True)
class Call(Node):
    function: Name
    arguments: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Not(Node):
    operand: Expr


@dataclass(frozen=True, slots=True)
class Negative(Node):
    operand: Expr


@dataclass(frozen=True, slots=True)
class Logic(Node):
    """`a and b and c`. When `operators` mixes both words the checker asks for parentheses."""

    operators: tuple[str, ...]
    items: tuple[Expr, ...]


BinaryOperator: TypeAlias = Word[
    "==", "!=", "<", "<=", ">", ">=", "in", "not in", "below", "has", "within", "like", "matches", "overlaps",
    "subset of", "+", "-", "*",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Binary(Node):
    """Two operands; `operator_span` underlines the operator itself."""

    operator: BinaryOperator
    left: Expr
    right: Expr
    operator_span: Span = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Presence(Node):
    """`x is present`, `x is absent`."""

    operand: Expr
    present: bool


@dataclass(frozen=True, slots=True)
class Else(Node):
    operand: Expr
    fallback: Expr


@dataclass(frozen=True, slots=True)
class Quantified(Node):
    """`any x in s: c`, `all x in s: c`."""

    quantifier: Word["any", "all"]
    variable: Name
    domain: Expr
    condition: Expr


@dataclass(frozen=True, slots=True)
class WithinWindow(Node):
    """`time within WINDOW`."""

    operand: Expr
    window: Window


# Windows of time; the zone is mandatory.


@dataclass(frozen=True, slots=True)
class DailyWindow(Node):
    """`mon..fri 08:00..18:00 "Zone"`; without days every day; one day has `last_day` None."""

    first_day: Name | None
    last_day: Name | None
    start: Literal
    end: Literal
    zone: Text


@dataclass(frozen=True, slots=True)
class WholeDaysWindow(Node):
    """`sat..sun "Zone"`."""

    first_day: Name
    last_day: Name
    zone: Text


@dataclass(frozen=True, slots=True)
class WeeklyWindow(Node):
    """`fri 16:00..mon 08:00 "Zone"`: one span across days."""

    first_day: Name
    start: Literal
    last_day: Name
    end: Literal
    zone: Text


@dataclass(frozen=True, slots=True)
class AbsoluteWindow(Node):
    """`2026-12-24..2027-01-02 "Zone"`."""

    start: Literal
    end: Literal
    zone: Text


Window: TypeAlias = DailyWindow | WholeDaysWindow | WeeklyWindow | AbsoluteWindow


# History.


@dataclass(frozen=True, slots=True)
class Event(Node):
    """What to look for in the past: a target with its qualifiers."""

    target: Target
    denied: bool = False
    by_user: Word["another", "any"] | None = None
    where: Expr | None = None


@dataclass(frozen=True, slots=True)
class History(Node):
    """`EV within D [since EV] [per (keys)]`."""

    event: Event
    within: Literal
    since: Event | None = None
    per: tuple[Name, ...] = ()


@dataclass(frozen=True, slots=True)
class Happened(Node):
    """`after …`; `no …` when `negated`."""

    history: History
    negated: bool


@dataclass(frozen=True, slots=True)
class Aggregate(Node):
    """`count of …`, `sum past.f of …`, `distinct past.f of …`."""

    function: Word["count", "sum", "distinct"]
    field: Name | None
    history: History


Expr: TypeAlias = (
    Literal
    | Text
    | Reference
    | ListLiteral
    | EntityLiteral
    | Call
    | Not
    | Negative
    | Logic
    | Binary
    | Presence
    | Else
    | Quantified
    | WithinWindow
    | Happened
    | Aggregate
)

# ── Endpoints, targets, places ────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Http(Node):
    """`GET|POST /v1/{id: invoice}`; no `methods` is a bare path after `on`: every method."""

    methods: tuple[str, ...]
    path: str
    path_span: Span = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Tool(Node):
    pattern: str


@dataclass(frozen=True, slots=True)
class Action(Node):
    """`ACTION view invoice`."""

    verb: Name
    type: Name


@dataclass(frozen=True, slots=True)
class Reserved(Node):
    """`INPUT`, `OUTPUT`, `RESULT`: words kept for later."""

    word: str


Endpoint: TypeAlias = Http | Tool | Action | Reserved
Target: TypeAlias = Endpoint | Name  # a Name is a scope


@dataclass(frozen=True, slots=True)
class Place(Node):
    """`on A, B except C`."""

    targets: tuple[Target, ...]
    excepts: tuple[Target, ...] = ()


@dataclass(frozen=True, slots=True)
class Binding(Node):
    """`resource = invoice(args.id)` after `with`."""

    fact: Name
    value: Expr


# ── Vocabulary ────────────────────────────────────────────────────────────────────────────────


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


# ── Scopes ────────────────────────────────────────────────────────────────────────────────────


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


# ── Trust anchors ─────────────────────────────────────────────────────────────────────────────


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


# ── Doors ─────────────────────────────────────────────────────────────────────────────────────


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


# ── Guards ────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Condition(Node):
    """`when c`, `unless c`."""

    word: Word["when", "unless"]
    condition: Expr


@dataclass(frozen=True, slots=True)
class Deny(Node):
    condition: Condition | None = None
    message: Text | None = None


@dataclass(frozen=True, slots=True)
class Require(Node):
    condition: Expr
    message: Text | None = None


@dataclass(frozen=True, slots=True)
class ByUser(Node):
    """`confirm by user`: the person served."""


@dataclass(frozen=True, slots=True)
class ByRole(Node):
    role: Name


@dataclass(frozen=True, slots=True)
class ByFact(Node):
    """`confirm by resource.approvers`."""

    fact: Name


@dataclass(frozen=True, slots=True)
class ByEntity(Node):
    """`confirm by team "x"`."""

    entity: EntityLiteral


@dataclass(frozen=True, slots=True)
class Quorum(Node):
    """`confirm by 2 of team "x"`."""

    count: Literal
    of: ByRole | ByFact | ByEntity


Approver: TypeAlias = ByUser | ByRole | ByFact | ByEntity | Quorum


@dataclass(frozen=True, slots=True)
class Confirm(Node):
    approver: Approver
    within: Literal | None = None
    condition: Condition | None = None
    message: Text | None = None


@dataclass(frozen=True, slots=True)
class Obligation(Node):
    """`audit LEVEL`, `redact PATHS`, `notify "who"`, `warn`, `step_up LEVEL`, `header "N" "V"`."""

    kind: Word["audit", "redact", "notify", "warn", "step_up", "header"]
    arguments: tuple[Name | Text, ...] = ()
    condition: Condition | None = None
    message: Text | None = None


GuardItem: TypeAlias = Deny | Require | Confirm | Obligation


@dataclass(frozen=True, slots=True)
class GuardDecl(Node):
    name: Text
    place: Place | None
    items: tuple[GuardItem, ...]


# ── Rates, budgets, profiles, invariants: parsed and checked, enforced later ──────────────────


@dataclass(frozen=True, slots=True)
class RateLimit(Node):
    """`100/1m burst 20`."""

    rate: str
    burst: Literal | None = None


@dataclass(frozen=True, slots=True)
class RateFloor(Node):
    rate: str


@dataclass(frozen=True, slots=True)
class CountingDenials(Node):
    pass


@dataclass(frozen=True, slots=True)
class Raise(Node):
    factor: str
    at_most: str
    when: Expr


@dataclass(frozen=True, slots=True)
class Clamp(Node):
    rate: str
    duration: Literal | None
    when: Expr


@dataclass(frozen=True, slots=True)
class RateDecl(Node):
    name: Text
    per: tuple[Name, ...]
    place: Place | None
    when: Expr | None
    items: tuple[RateLimit | RateFloor | CountingDenials | Raise | Clamp, ...]


@dataclass(frozen=True, slots=True)
class BudgetLimit(Node):
    """`sum body.amount <= 5_000 within 24h`, `count <= 5 within 1h` (then without a fact)."""

    function: Word["sum", "count", "distinct"]
    fact: Name | None
    bound: Literal | Name
    within: Literal


@dataclass(frozen=True, slots=True)
class BudgetDecl(Node):
    name: Text
    per: tuple[Name, ...]
    place: Place | None
    when: Expr | None
    items: tuple[BudgetLimit, ...]


@dataclass(frozen=True, slots=True)
class ProfileStep(Node):
    target: Target
    repeat: Word["optional", "repeated"] | None = None


@dataclass(frozen=True, slots=True)
class ProfileDecl(Node):
    name: Text
    agent: AgentRef
    steps: tuple[ProfileStep, ...]


OutcomeWord: TypeAlias = Word["allow", "deny", "throttle", "confirm"]


@dataclass(frozen=True, slots=True)
class Claim(Node):
    """`never allow refunds.create when …`."""

    modality: Word["never", "always"]
    outcome: OutcomeWord
    targets: tuple[Target, ...]
    when: Expr | None = None


@dataclass(frozen=True, slots=True)
class InvariantDecl(Node):
    name: Text
    claims: tuple[Claim, ...]


# ── Fixtures and tests ────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class RecordLiteral(Node):
    pairs: tuple[Pair, ...]


@dataclass(frozen=True, slots=True)
class Pair(Node):
    """`body.amount: 90`, `args["content-type"]: "x"`, `"x-a": "b"` (a Text key)."""

    key: Reference | Text
    value: Value


@dataclass(frozen=True, slots=True)
class ValueList(Node):
    items: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class WordValue(Node):
    """A bare word as a value: an enum value, `absent`, a matrix variable."""

    text: str


@dataclass(frozen=True, slots=True)
class NegativeNumber(Node):
    number: Literal


Value: TypeAlias = Literal | Text | EntityLiteral | RecordLiteral | ValueList | WordValue | NegativeNumber


@dataclass(frozen=True, slots=True)
class Use(Node):
    fixtures: tuple[Name, ...]


@dataclass(frozen=True, slots=True)
class EntityRow(Node):
    """`user "alice" { roles: ["clerk"] } in team "legal"`."""

    entity: EntityLiteral
    attributes: RecordLiteral | None
    parents: tuple[EntityLiteral, ...] = ()


@dataclass(frozen=True, slots=True)
class GivenEntities(Node):
    rows: tuple[EntityRow, ...]


@dataclass(frozen=True, slots=True)
class GivenAgent(Node):
    """`given agent "x" from acme for user "alice" { … }`."""

    name: Text
    issuer: Name | None
    user: Text | None
    attributes: RecordLiteral | None


@dataclass(frozen=True, slots=True)
class GivenFact(Node):
    """`given credential { … }`, `given user.roles ["clerk"]`, `given time 2026-…`."""

    fact: Reference
    value: Value


Setup: TypeAlias = Use | GivenEntities | GivenAgent | GivenFact


@dataclass(frozen=True, slots=True)
class RawHttp(Node):
    """`GET "/a//b"`: a path that no path token can spell."""

    methods: tuple[str, ...]
    path: Text


@dataclass(frozen=True, slots=True)
class ActionOn(Node):
    """`ACTION view invoice "42"`."""

    verb: Name
    type: Name
    id: Text


TestRequest: TypeAlias = Http | Tool | Action | Reserved | RawHttp | ActionOn


@dataclass(frozen=True, slots=True)
class Repeat(Node):
    count: Literal
    within: Literal


@dataclass(frozen=True, slots=True)
class After(Node):
    duration: Literal


@dataclass(frozen=True, slots=True)
class At(Node):
    date: Literal


Moment: TypeAlias = Repeat | After | At


@dataclass(frozen=True, slots=True)
class ByRule(Node):
    name: Text


@dataclass(frozen=True, slots=True)
class ByGate(Node):
    gate: Name


@dataclass(frozen=True, slots=True)
class Expected(Node):
    """`deny by "x"`, `not allow`, `first throttle at 21 by "x"`."""

    outcome: OutcomeWord
    reason: ByRule | ByGate | None = None
    negated: bool = False
    first_at: Literal | None = None


@dataclass(frozen=True, slots=True)
class Shot(Node):
    """One request and what it must come to."""

    moments: tuple[Moment, ...]
    request: TestRequest
    facts: RecordLiteral | None
    expected: Expected


@dataclass(frozen=True, slots=True)
class Column(Node):
    """A column of a table or an axis of a matrix: a fact or variable, or `request`."""

    fact: Reference | None


Cell: TypeAlias = Value | TestRequest | Expected


@dataclass(frozen=True, slots=True)
class Row(Node):
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Table(Node):
    """`cases { | a | b | => | … }`."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Axis(Node):
    column: Column
    choices: tuple[Value | TestRequest, ...]


@dataclass(frozen=True, slots=True)
class Matrix(Node):
    """`cases for x in […], request in […] { … otherwise deny }`."""

    axes: tuple[Axis, ...]
    setup: tuple[Setup, ...]
    shots: tuple[Shot, ...]
    rows: tuple[Row, ...]
    otherwise: Expected | None


@dataclass(frozen=True, slots=True)
class Forall(Node):
    where: Expr | None
    expected: Expected


@dataclass(frozen=True, slots=True)
class Skip(Node):
    reason: Text


TestItem: TypeAlias = Setup | Shot | Table | Matrix | Forall | Skip


@dataclass(frozen=True, slots=True)
class FixtureDecl(Node):
    name: Name
    setup: tuple[Setup, ...]


@dataclass(frozen=True, slots=True)
class TestDecl(Node):
    name: Text
    items: tuple[TestItem, ...]


# ── Other protocols ───────────────────────────────────────────────────────────────────────────


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


# ── A file ────────────────────────────────────────────────────────────────────────────────────

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
    | UsersUnrestricted
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


@dataclass(frozen=True, slots=True)
class Export(Node):
    declaration: Declaration


@dataclass(frozen=True, slots=True)
class Import(Node):
    package: Name
    alias: Name | None


@dataclass(frozen=True, slots=True)
class Comment(Node):
    """`# …` as written, from the hash to the end of the line."""

    text: str


@dataclass(frozen=True, slots=True)
class Module(Node):
    """One file. Comments stand apart: they belong to places, not to nodes."""

    language: Literal | None
    package: Name | None
    imports: tuple[Import, ...]
    declarations: tuple[Declaration | Export, ...]
    comments: tuple[Comment, ...] = field(compare=False, default=())


def children(node: Node) -> Iterator[Node]:
    """The nodes directly inside a node, in the order of its fields."""
    for item in fields(node):
        value = getattr(node, item.name)
        if isinstance(value, Node):
            yield value
        elif isinstance(value, tuple):
            yield from (part for part in value if isinstance(part, Node))


def walk(node: Node) -> Iterator[Node]:
    """The node and everything inside it, outermost first; without recursion, so that no text can exhaust the stack."""
    pending = [node]
    while pending:
        current = pending.pop()
        yield current
        pending.extend(reversed(list(children(current))))
