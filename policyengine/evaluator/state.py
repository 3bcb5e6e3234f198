"""The state of one decision: the facts read so far, the stack of unknowns, the principals, and the data of the
stores.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from policyengine.clock import EPOCH
from policyengine.runtime.history import History, PastEvent, WindowKey
from policyengine.runtime.snapshot import Entities, LearnedFacts
from policyengine.runtime.value_sets import ValueSet
from policyengine.runtime.values import Unknown, coerce
from policyengine.typesystem import EntityRef, Scalar

if TYPE_CHECKING:
    from policyengine.evaluator.nodes import BoundValue
    from policyengine.evaluator.program import EndpointRules, PolicyProgram, TrustAnchor
    from policyengine.evaluator.reads import ReadRecorder
    from policyengine.runtime.request import Request

# The three results of a condition.
NO: Final = 0
YES: Final = 1
MAYBE: Final = 2


class Unread:
    """The type of UNREAD, the mark of a fact that no rule has read yet."""


UNREAD: Final = Unread()


class ChainMember:
    """An agent of the chain: issuer and name, and the scopes, groups and age of its credential. The age is computed on
    first access, because few rules read it.
    """

    __slots__ = ("_age", "groups", "id", "issued_at", "issuer", "name", "now", "scopes")

    def __init__(
        self, id: Any, issuer: Any, scopes: Any, groups: Any, issued_at: Any, name: str, now: datetime
    ) -> None:
        self.id = id
        self.issuer = issuer
        self.scopes = scopes
        self.groups = groups
        self.issued_at = issued_at
        self.name = name
        self.now = now
        self._age: Any = UNREAD

    @property
    def age(self) -> Any:
        if self._age is UNREAD:
            issued: Any = coerce(self.issued_at, Scalar.TIME, f"{self.name}.issued_at")
            if type(issued) is Unknown:
                self._age = issued
            elif issued <= self.now:
                self._age = self.now - issued
            else:
                self._age = Unknown.of(f"{self.name}.age", "issued in the future")
        return self._age


class ApprovalFacts:
    """The facts `approval.*`; `by` and `age` are ABSENT without a granted approval."""

    __slots__ = ("age", "by", "granted")

    def __init__(self, granted: bool, by: object, age: object) -> None:
        self.granted = granted
        self.by = by
        self.age = age


class State:
    """One decision in progress.

    - `values` holds the facts by slot, UNREAD until a rule reads them
    - `doubts` is a stack of unknowns: a condition that is MAYBE leaves its causes there
    - `facts` are the raw facts by root (in the state of a hop, the facts of the hop); `masked` replaces an untrusted
      user id
    - `kept` caches attributes of the entity store by attribute slot; None if this decision uses other entities
    - `claims` are attributes that override the entity store
    - `hops` are the agents before the presenter, or Unknown; in the state of a hop, `hop` is set and
      `presenter` is the state of the presenter
    - `behavior` are the learned facts of the caller by name; None if nothing is learned
    - `caller_key` is a user with the key of the histories of this principal and that user
    - `recorder` collects the facts that an approval is bound to
    - `past` is the event on which a condition about the past is tested
    - `moment` is the time in nanoseconds since 1970; `now` is that time as a datetime
    """

    approval: ApprovalFacts | None = None
    behavior: LearnedFacts | None = None
    bindings: dict[tuple[str, ...], BoundValue] | None
    by_agent: bool = False
    caller_key: tuple[Any, str | Unknown] | None = None
    claims: dict[tuple[EntityRef, str], object] | None = None
    facts: Mapping[str, object]
    groups: Any = UNREAD
    hop: ChainMember | None = None
    hops: Any = ()
    issuer: Any = None
    masked: object = None
    name: Any = None
    instant: datetime | None = None
    past: PastEvent | None = None
    presenter: State | None = None
    recorder: ReadRecorder | None = None
    scopes: Any = UNREAD
    segments: tuple[str, ...] = ()
    sets: dict[int, tuple[object, ValueSet]] | None = None
    tool: object = None
    trust: TrustAnchor | None = None
    user: Any = None

    def __init__(
        self,
        program: PolicyProgram,
        rules: EndpointRules,
        request: Request,
        moment: int,
        entities: Entities,
        history: Mapping[WindowKey, History],
        kept: dict[int, dict[EntityRef, Any]] | None,
    ) -> None:
        self.program = program
        self.rules = rules
        self.request = request
        self.moment = moment
        self.entities = entities
        self.history = history
        self.kept = kept
        self.facts = request.facts
        self.bindings = rules.bindings
        self.values: list[Any] = program.blank.copy()
        self.doubts: list[Unknown] = []
        self.variables: list[Any] = []

    @property
    def now(self) -> datetime:
        """The time, converted on first access."""
        if self.instant is None:
            self.instant = EPOCH + timedelta(microseconds=self.moment // 1_000)
        return self.instant

    def grow(self, index: int) -> Unread:
        """Add unread slots for rules that were created after the decision began, up to `index`, and return UNREAD."""
        self.values += [UNREAD] * (index + 1 - len(self.values))
        return UNREAD

    def scopes_held(self) -> Any:
        """Return the scopes of the credential, read on first access."""
        if self.scopes is UNREAD:
            self.scopes = self.program.scopes.get(self)
        return self.scopes

    def groups_known(self) -> Any:
        """Return the groups of the agent, read on first access."""
        if self.groups is UNREAD:
            self.groups = self.program.agent_groups.get(self)
        return self.groups

    def branch(self) -> State:
        """Return a new state of the same request and principal, in which no fact has been read."""
        other = State(self.program, self.rules, self.request, self.moment, self.entities, self.history, self.kept)
        other.instant = self.instant
        other.facts, other.segments, other.masked = self.facts, self.segments, self.masked
        other.tool, other.behavior = self.tool, self.behavior
        other.bindings, other.claims, other.approval = self.bindings, self.claims, self.approval
        other.by_agent, other.name, other.issuer, other.trust = self.by_agent, self.name, self.issuer, self.trust
        other.user, other.scopes, other.groups, other.hops = self.user, self.scopes, self.groups, self.hops
        return other
