"""Facts of one request, by source: first the verified credential, then the entity store, then a trusted gateway."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import lru_cache
from typing import TypeAlias

from msgspec import Struct

from policyengine import kernel as k
from policyengine import typesystem
from policyengine.runtime.endpoints import ActionEndpoint, ToolEndpoint
from policyengine.runtime.fact_access import get_member
from policyengine.runtime.format_values import format_fact_path
from policyengine.runtime.history import History, PastEvent, WindowKey
from policyengine.runtime.pending_facts import PENDING_WILDCARD, parse_pending_path
from policyengine.runtime.request import Request
from policyengine.runtime.snapshot import NO_ROW, NOT_ANSWERED, PARTIAL_ROW, Entities
from policyengine.runtime.value_sets import ValueSet
from policyengine.runtime.values import ABSENT, PENDING, Invalid, Unknown, Value, coerce
from policyengine.spec.inherited_sets import InheritanceLevel, unite_levels
from policyengine.spec.issuer_users import mask_foreign_user
from policyengine.spec.kleene import describe, elements, is_absent, lift
from policyengine.spec.trace import ChainAgent
from policyengine.typesystem import EntityRef, Scalar
from policyengine.vocabulary import CREDENTIAL_ROOTS, ENTITY_ROOTS, FACTS

Path: TypeAlias = tuple[str, ...]
RESOURCE: Path = ("resource",)
STRINGS = typesystem.SetType(Scalar.STRING)
NOT_RECORDED = "the caller has no issuer that records chains"
ROW_NOT_KNOWN = "whether the entity has a row is unknown"
REQUEST_ROOTS = frozenset({"request", *CREDENTIAL_ROOTS})
MAX_GROUP = 2**31
MAX_HOPS = 32  # maximum hops, because each hop is checked against every agent block that may match it


class ReadFact(Struct, frozen=True, eq=False):
    """A fact that was read: its raw form and its value. `unordered` marks a set."""

    given: object
    value: Value
    unordered: bool = False


@dataclass(frozen=True, slots=True)
class Facts:
    """The facts of one request.

    - `bound` are bindings, which override the request
    - `claims` are attributes that override the entity store: attributes from the claims of the credential, and pending
      attributes
    - `seen` collects the facts that are read
    - `who` is the presenter and the hops, once known
    - `history` holds the fetched histories; `past` is the event that `PastFact` reads
    - `known` caches values, because several rules read most of them
    - `loose` holds the paths that patterns bind only without regard to case, as guards read them, and their exact
      bindings; None if there are none
    - `sets` caches collections as sets, by identity
    """

    kernel: k.Kernel
    request: Request
    entities: Entities
    now: datetime
    bound: Mapping[Path, object]
    claims: Mapping[tuple[EntityRef, str], object]
    seen: dict[Path, ReadFact] | None = None
    who: tuple[ChainAgent, tuple[ChainAgent, ...] | Unknown] | None = None
    history: Mapping[WindowKey, History] = field(default_factory=dict)
    past: tuple[k.EventPattern, PastEvent] | None = None
    loose: tuple[frozenset[Path], Mapping[Path, object]] | None = None
    sets: dict[int, tuple[object, ValueSet]] = field(default_factory=dict, repr=False, compare=False)
    known: dict[Path | tuple[EntityRef, str] | tuple[EntityRef, str, str], tuple[typesystem.Type, Value]] = field(
        init=False, default_factory=dict, repr=False, compare=False
    )

    def bind(
        self,
        more: Mapping[Path, object],
        *,
        claims: Mapping[tuple[EntityRef, str], object] | None = None,
        who: tuple[ChainAgent, tuple[ChainAgent, ...] | Unknown] | None = None,
    ) -> Facts:
        """Return the facts with more bindings, and with `claims` or `who` if given."""
        bound, claims = {**self.bound, **more}, self.claims if claims is None else claims
        made = (self.kernel, self.request, self.entities, self.now, bound, claims, self.seen, who or self.who)
        return Facts(*made, self.history, self.past, self.loose, self.sets)

    def in_loop(self) -> tuple[Facts, dict[Path, object]]:
        """Return the facts for the condition of a loop, and the mapping in which the caller sets the loop variable for
        each element.
        """
        bound = dict(self.bound)
        inside = replace(self, bound=bound)
        object.__setattr__(inside, "known", self.known)
        return inside, bound

    def at_event(self, event: k.EventPattern, happening: PastEvent) -> Facts:
        """Return the facts for the condition of a history at one event. An approval is not bound to past facts."""
        inside = replace(self, past=(event, happening), seen=None)
        if self.seen is None:
            object.__setattr__(inside, "known", self.known)
        return inside

    @property
    def looked_at_anew(self) -> Facts:
        """A copy of the facts with its own empty caches."""
        return replace(self, sets={})

    def set_of(self, elements: tuple[Value, ...]) -> ValueSet:
        """Return the elements as a set, cached for each tuple."""
        known = self.sets.get(id(elements))
        if known is None:
            known = self.sets[id(elements)] = elements, ValueSet.of(elements)
        return known[1]

    @property
    def by_the_letter(self) -> Facts:
        """The facts as grants read them: only exact bindings of paths, because a path in another case must not grant
        access.
        """
        if self.loose is None:
            return self
        loosely, strictly = self.loose
        if RESOURCE in loosely and RESOURCE not in strictly:
            strictly = {**strictly, RESOURCE: Invalid("the path is bound in another case")}
        kept = {path: value for path, value in self.bound.items() if path not in loosely}
        return replace(self, bound={**kept, **strictly}, loose=None)

    def read(self, path: Path, type_: typesystem.Type = Scalar.STRING) -> Value:
        before = self.known.get(path)
        if before is not None and (before[0] is type_ or before[0] == type_):
            return before[1]
        raw = self.raw(path)
        found = coerce(raw, type_, name_of(path))
        if path == RESOURCE and self.binds_resource:
            found = unknown_if_absent(found)
        self.known[path] = type_, found
        return found if self.seen is None else self._saw(path, raw, found, type_)

    @property
    def binds_resource(self) -> bool:
        """Whether the request has a resource, even if it is unknown which one."""
        return RESOURCE in self.bound or isinstance(self.request.endpoint, ActionEndpoint)

    def attribute(self, entity: EntityRef, node: k.Attribute) -> Value:
        """Return an attribute from the credential or else the entity store. An inherited set is the union over the
        entity and its ancestors.
        """
        # The causes of the unknown value name the fact as this expression reads it.
        key, own_key = (
            (entity, node.name),
            (entity, node.name, describe(node)),
        )
        before = self.known.get(own_key)
        if before is not None and (before[0] is node.type or before[0] == node.type):
            return before[1]
        raw, value = self._inherited(entity, node) if node.inherited else self._own(entity, node)
        self.known[own_key] = node.type, value
        recorded = self.known.get(key)
        if recorded is not None and (recorded[0] is node.type or recorded[0] == node.type):
            return value
        self.known[key] = node.type, value
        return self._saw((str(entity), node.name), raw, value, node.type)

    def has_row(self, entity: EntityRef, fact: str) -> Value:
        """Return whether the entity store or a trusted row has the entity. Claims about the entity do not count as a
        row.
        """
        found = self.entities.has_row(entity)
        value = Unknown.of(fact, ROW_NOT_KNOWN, entity) if found is None else found
        return self._saw((str(entity), "is", "known"), ABSENT, value)

    def membership(self, item: EntityRef, ancestor: EntityRef, found: Value) -> Value:
        """Record a membership as a fact that was read, and return it."""
        return self._saw((str(item), "in", str(ancestor)), ABSENT, found)

    def _own(self, entity: EntityRef, node: k.Attribute) -> tuple[object, Value]:
        """Return the attribute of this entity alone, as a raw value and as a typed value."""
        raw = entity.id if node.name == "id" else self.claims.get((entity, node.name), ABSENT)
        raw = self.entities.attribute(entity, node.name) if raw is ABSENT else raw
        if raw is NO_ROW or raw is PARTIAL_ROW:
            return raw, Unknown.of(describe(node), raw.why, entity)
        return raw, coerce(raw, node.type, describe(node))

    def _inherited(self, entity: EntityRef, node: k.Attribute) -> tuple[object, Value]:
        """Return the union of an inherited set over all levels that declare it. A level declared with `else []` is
        empty if its row lacks the attribute."""
        above, fact, declared = self.entities.ancestors(entity), describe(node), dict(node.levels)
        raws: list[object] = []
        levels: list[InheritanceLevel] = []
        for ref in (entity, *above.refs):
            if ref.type in declared:
                raw, held = self._own(ref, node)
                raws.append(raw)
                levels.append(InheritanceLevel(ref, () if raw is ABSENT and declared[ref.type] else held))
        why = "the entity store does not have all ancestors of the entity" if above.answered else NOT_ANSWERED
        gaps = [] if above.complete else [Unknown.of(fact, why)]
        return tuple(raws), unite_levels(levels, gaps, fact)

    def raw(self, path: Path) -> object:
        if path in self.bound:
            return self.bound[path]
        if len(path) == 2 and path[0] in REQUEST_ROOTS:  # the common case
            return self.request.fact(*path)
        match path:
            case ("agent",) | ("user",):
                return self.raw((path[0], "id"))
            case ("tool",) if isinstance(self.request.endpoint, ToolEndpoint):
                return self.request.endpoint.qualified
            case ("params", *_):
                return ABSENT
            case ("resource", *_) if not isinstance(self.request.endpoint, ActionEndpoint):
                return ABSENT  # only a request for an action names its own resource
            case ("body" | "args" | "context", _, _, *_):
                outer = self.raw(path[:-1])  # a pattern may have bound the object
                return outer if isinstance(outer, Unknown) else get_member(outer, path[-1])
            case _:
                return self.request.fact(*path)

    def _saw(self, key: Path, raw: object, value: Value, type_: typesystem.Type = Scalar.STRING) -> Value:
        """Record a fact that was read, because approvals are bound to such facts, and return its value."""
        if self.seen is not None:
            self.seen[key] = ReadFact(raw, value, isinstance(type_, typesystem.SetType))
        return value


def unknown_if_absent(found: Value) -> Value:
    """Return the value. An absent value becomes an unknown one that may be present, so that `else` and `is absent` do
    not apply to it.
    """
    if not isinstance(found, Unknown) or not found.absent:
        return found
    return Unknown(frozenset(cause.as_present() for cause in found.causes))


@lru_cache(maxsize=4_096)
def name_of(path: Path) -> str:
    """Return the name of a fact in reasons."""
    return format_fact_path(path)


NO_AGE = {root: Unknown.missing(f"{root}.issued_at") for root in ("credential", "attestation", "task")}


def credential_ages(request: Request, now: datetime) -> dict[Path, object]:
    """Return the ages and the credential's lifetime, computed from times if necessary. Issue times in the future are
    invalid.
    """
    found: dict[Path, object] = {}
    for root in ("credential", "attestation", "task"):
        if root not in request.facts:
            found[root, "age"] = NO_AGE[root]
            continue
        given = coerce(request.fact(root, "age"), Scalar.DURATION, f"{root}.age")
        found[root, "age"] = given if not is_absent(given) else age_since(request.fact(root, "issued_at"), now, root)
        if isinstance(found[root, "age"], timedelta) and found[root, "age"] < timedelta(0):  # type: ignore[operator]
            found[root, "age"] = Invalid("issued in the future")
    lifetime = coerce(request.fact("credential", "lifetime"), Scalar.DURATION, "credential.lifetime")
    if is_absent(lifetime):
        issued = coerce(request.fact("credential", "issued_at"), Scalar.TIME, "credential.issued_at")
        expires = coerce(request.fact("credential", "expires_at"), Scalar.TIME, "credential.expires_at")
        lifetime = lift(lambda start, end: end - start, issued, expires)
    if isinstance(lifetime, timedelta) and lifetime < timedelta(0):
        lifetime = Unknown.of("credential.lifetime", "the credential expires before it is issued")
    found["credential", "lifetime"] = lifetime
    return found


def age_since(raw: object, now: datetime, root: str) -> Value:
    issued = coerce(raw, Scalar.TIME, f"{root}.issued_at")
    return lift(
        lambda moment: now - moment if moment <= now else Unknown.of(f"{root}.age", "issued in the future"), issued
    )


def claimed_attributes(facts: Facts) -> dict[tuple[EntityRef, str], object]:
    """Return the attributes of agent and user from the claims of the credential, as the policy maps the claims of its
    issuer.
    """
    issuer = facts.kernel.issuers.get(str(presenter_of(facts).issuer))
    found: dict[tuple[EntityRef, str], object] = {}
    for claim, (root, attribute) in issuer.claims if issuer else ():
        holder, raw = facts.read((root, "id")), facts.request.fact("credential", "claims", claim)
        if isinstance(holder, str) and raw is not ABSENT:
            found[EntityRef(root, holder), attribute] = raw
    return found


def pending_attributes(facts: Facts) -> dict[tuple[EntityRef, str], object]:
    """Return the attributes that the caller reports as pending, like `user.roles`, which no tree of facts contains."""
    found: dict[tuple[EntityRef, str], object] = {}
    for name in facts.request.pending:
        root, *steps = parse_pending_path(name.removesuffix(PENDING_WILDCARD), "pending")
        if root in ENTITY_ROOTS and steps:
            types = facts.kernel.entities if root == "resource" else (root,)
            holder = facts.read((root,), typesystem.RefType(frozenset(types)))
            found |= {(holder, steps[0]): PENDING} if isinstance(holder, EntityRef) else {}
    return found


def chain_facts(facts: Facts) -> dict[Path, object]:
    """Return the facts `chain.*`. Without hops, the root of the chain is the presenter; other facts are unknown unless
    the issuer records chains.
    """
    presenter, hops = presenter_of(facts), hops_of(facts)
    if isinstance(hops, Unknown) or not records_chains(facts, presenter):
        unknown: dict[Path, object] = {("chain", name): Invalid(NOT_RECORDED) for name in ("depth", "agents", "hops")}
        return {**unknown, ("chain", "root"): presenter.id}
    agents = (*(hop.id for hop in hops), presenter.id)
    raw = facts.request.fact("chain", "hops")
    return {
        ("chain", "depth"): len(hops),
        ("chain", "agents"): agents,
        ("chain", "hops"): () if raw is ABSENT else raw,
        ("chain", "root"): agents[0],
    }


def presenter_of(facts: Facts) -> ChainAgent:
    """Return the presenter of the credential: an agent, or a user if there is no agent. The issuer is unknown if the
    agent and the credential name different issuers, or if the credential is not valid now.
    """
    if facts.who is not None:
        return facts.who[0]
    by_agent, by_credential = facts.read(("agent", "issuer")), facts.read(("credential", "issuer"))
    issuer = by_credential if is_absent(by_agent) else by_agent
    if not is_absent(by_agent) and not is_absent(by_credential):
        other = Unknown.of("agent.issuer", "the credential names another issuer")
        issuer = lift(lambda one, two: one if one == two else other, by_agent, by_credential)
    issuer = lift(lambda one, *_: one, issuer, *credential_validity(facts))
    name = facts.read(("agent" if has_agent(facts.request) else "user", "id"))
    scopes, groups = facts.read(("credential", "scopes"), STRINGS), facts.read(("agent", "groups"), STRINGS)
    return ChainAgent(name, issuer, scopes, groups, facts.read(("credential", "age"), Scalar.DURATION))


def own_cluster(presenter: ChainAgent, by_agent: bool) -> Value:
    """Return the `cluster.id` of a presenter that is in no group. It contains the issuer, so that callers of two
    issuers with the same name do not share limits.
    """
    issuer = "" if is_absent(presenter.issuer) else presenter.issuer
    return lift(lambda one, name: name_own_cluster(one, name, by_agent), issuer, presenter.id)


def name_own_cluster(issuer: str, name: str, by_agent: bool) -> str:
    """Return the `cluster.id` of an agent (`acme/bot`) or of a user without an agent (`acme:alice`). No agent, user or
    group has the id of another, because ids of groups contain neither `/` nor `:`.
    """
    if "/" in issuer or ":" in issuer:  # only in policies without issuers
        issuer = issuer.replace("%", "%25").replace("/", "%2F").replace(":", "%3A")
    return f"{issuer}/{name}" if by_agent else f"{issuer}:{name}"


def group_size(raw: object) -> int:
    """Return the size of a group in the answer to a request; 1 if it is unknown."""
    return raw if isinstance(raw, int) and not isinstance(raw, bool) and 0 < raw < MAX_GROUP else 1


def credential_validity(facts: Facts) -> tuple[Value, Value]:
    """Return whether the credential is valid now, according to its own times if it has any."""

    def told(name: str, why: str, holds: Callable[[datetime], bool]) -> Value:
        fact = f"credential.{name}"
        moment = coerce(facts.request.fact("credential", name), Scalar.TIME, fact)
        return True if is_absent(moment) else lift(lambda at: holds(at) or Unknown.of(fact, why), moment)

    begun = told("issued_at", "in the future", lambda at: at <= facts.now)
    return begun, told("expires_at", "in the past", lambda at: facts.now < at)


def hops_of(facts: Facts) -> tuple[ChainAgent, ...] | Unknown:
    """Return the agents before the presenter, from first to last; Unknown if `chain.hops` is not a valid list or has
    more than MAX_HOPS hops.
    """
    if facts.who is not None:
        return facts.who[1]
    given = coerce(facts.request.fact("chain", "hops"), typesystem.ListType(typesystem.RecordType(())), "chain.hops")
    if is_absent(given):
        return ()
    if len(elements(given)) > MAX_HOPS:
        return Unknown.of("chain.hops", f"more than {MAX_HOPS} hops")
    if unusable := [one for one in elements(given) if isinstance(one, Unknown)]:
        return Unknown.merge(*unusable)

    def hop(given: Mapping[str, object], name: str) -> ChainAgent:
        def member(key: str, type_: typesystem.Type = Scalar.STRING) -> Value:
            return coerce(given.get(key, ABSENT), type_, f"{name}.{key}")

        id_ = coerce(given.get("agent", ABSENT), Scalar.STRING, f"{name}.agent.id")
        age = age_since(given.get("issued_at", ABSENT), facts.now, name)
        return ChainAgent(id_, member("issuer"), member("scopes", STRINGS), member("groups", STRINGS), age)

    return tuple(hop(one, f"chain.hops[{i}]") for i, one in enumerate(elements(given)))  # type: ignore[arg-type]


ABSENT_PRESENTER_FACTS: dict[Path, object] = {
    fact.path: ABSENT for fact in FACTS if fact.path[0] in ("agent", "credential", "attestation")
}


def hop_facts(facts: Facts, hop: ChainAgent) -> Facts:
    """Return the facts of a hop; proofs of the presenter do not apply to it."""
    own: dict[Path, object] = {("agent", "id"): hop.id, ("agent", "groups"): hop.groups}
    own |= {("agent", "issuer"): hop.issuer, ("credential", "issuer"): hop.issuer}
    own |= {("credential", "scopes"): hop.scopes, ("credential", "age"): hop.age}
    own |= mask_foreign_user(facts.kernel.issuers, (hop.issuer,), facts.read(("user", "id")))
    claims = {key: raw for key, raw in facts.claims.items() if key[0].type != "agent" or raw is PENDING}
    return replace(facts.bind({**ABSENT_PRESENTER_FACTS, **own}), claims=claims)


def has_agent(request: Request) -> bool:
    return "agent" in request.facts


def records_chains(facts: Facts, agent: ChainAgent) -> bool:
    issuer = facts.kernel.issuers.get(str(agent.issuer))
    return issuer is not None and issuer.records_chains
