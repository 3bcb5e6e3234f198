"""Facts of one request: verified credential, then directory, then a trusted gateway, then nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TypeAlias

from policyengine import kinds
from policyengine.kinds import EntityRef, Scalar
from policyengine.runtime.endpoints import ToolEndpoint
from policyengine.runtime.request import Request
from policyengine.runtime.snapshot import Entities
from policyengine.runtime.values import ABSENT, Invalid, Unknown, Value, coerce, distinct
from policyengine.semantics import kernel as k
from policyengine.semantics.kleene import describe, elements, is_absent, lift
from policyengine.semantics.walk import Agent

Path: TypeAlias = tuple[str, ...]
STRINGS = kinds.Set(Scalar.STRING)
NOT_RECORDED = "its issuer does not record chains"


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known about one request. `bound` comes before what the request says; `seen` collects what is read."""

    kernel: k.Kernel
    request: Request
    entities: Entities
    now: datetime
    bound: Mapping[Path, object]
    claims: Mapping[tuple[EntityRef, str], object]
    seen: dict[str, Value] | None = None

    def bind(self, more: Mapping[Path, object]) -> Facts:
        return replace(self, bound={**self.bound, **more})

    def read(self, path: Path, type_: kinds.Type = Scalar.STRING) -> Value:
        return self._saw(".".join(path), coerce(self._raw(path), type_, ".".join(path)))

    def attribute(self, entity: EntityRef, node: k.Attribute) -> Value:
        """An attribute from the credential, else the directory; an inherited set is the union along `in`."""
        name = entity.id if node.name == "id" else self.claims.get((entity, node.name), ABSENT)
        own = self.entities.attribute(entity, node.name) if name is ABSENT else name
        value = coerce(own, node.type, describe(node))
        return self._saw(f"{entity}.{node.name}", self._inherited(entity, node, value) if node.inherited else value)

    def _inherited(self, entity: EntityRef, node: k.Attribute, own: Value) -> Value:
        above = self.entities.ancestors(entity)
        raws = [self.entities.attribute(ref, node.name) for ref in above.refs]
        sets = [own, *(coerce(raw, node.type, describe(node)) for raw in raws)]
        if not above.complete:
            sets.append(Unknown.of(describe(node), "not all of what it is in is in the directory"))
        known = [one for one in sets if not (isinstance(one, Unknown) and one.absent)]
        return distinct(tuple(item for one in known for item in elements(one))) if known else own

    def _raw(self, path: Path) -> object:
        match path:
            case _ if path in self.bound:
                return self.bound[path]
            case ("agent",) | ("user",):
                return self._raw((path[0], "id"))
            case ("tool",) if isinstance(self.request.endpoint, ToolEndpoint):
                return self.request.endpoint.qualified
            case ("params", _):
                return ABSENT
            case _:
                return self.request.fact(*path)

    def _saw(self, name: str, value: Value) -> Value:
        if self.seen is not None:
            self.seen[name] = value
        return value


def ages(request: Request, now: datetime) -> dict[Path, object]:
    """Ages and the credential's lifetime, where the request gives times instead; nothing is issued in the future."""
    found: dict[Path, object] = {}
    for root in ("credential", "attestation", "task"):
        given = coerce(request.fact(root, "age"), Scalar.DURATION, f"{root}.age")
        found[root, "age"] = given if not is_absent(given) else age_since(request.fact(root, "issued_at"), now, root)
        if isinstance(found[root, "age"], timedelta) and found[root, "age"] < timedelta(0):  # type: ignore[operator]
            found[root, "age"] = Invalid("issued in the future")
    lifetime = coerce(request.fact("credential", "lifetime"), Scalar.DURATION, "credential.lifetime")
    if is_absent(lifetime):
        issued = coerce(request.fact("credential", "issued_at"), Scalar.TIME, "credential.issued_at")
        expires = coerce(request.fact("credential", "expires_at"), Scalar.TIME, "credential.expires_at")
        lifetime = lift(lambda start, end: end - start, issued, expires)
    found["credential", "lifetime"] = lifetime
    return found


def age_since(raw: object, now: datetime, root: str) -> Value:
    issued = coerce(raw, Scalar.TIME, f"{root}.issued_at")
    return lift(
        lambda moment: now - moment if moment <= now else Unknown.of(f"{root}.age", "issued in the future"), issued
    )


def claims_of(facts: Facts) -> dict[tuple[EntityRef, str], object]:
    """Attributes of the agent and of the user that the issuer's credential vouches for."""
    issuer = facts.kernel.issuers.get(str(presenter_of(facts).issuer))
    found: dict[tuple[EntityRef, str], object] = {}
    for claim, (root, attribute) in issuer.claims if issuer else ():
        holder, raw = facts.read((root, "id")), facts.request.fact("credential", "claims", claim)
        if isinstance(holder, str) and raw is not ABSENT:
            found[EntityRef(root, holder), attribute] = raw
    return found


def chain_facts(facts: Facts) -> dict[Path, object]:
    """`chain.*`: the root is oneself when alone; the rest is unknown unless the issuer records chains."""
    presenter, hops = presenter_of(facts), hops_of(facts)
    if isinstance(hops, Unknown) or not records_chains(facts, presenter):
        unknown = {("chain", name): Invalid(NOT_RECORDED) for name in ("depth", "agents", "hops")}
        return {**unknown, ("chain", "root"): presenter.id}
    agents = (*(hop.id for hop in hops), presenter.id)
    raw = facts.request.fact("chain", "hops")
    return {
        ("chain", "depth"): len(hops),
        ("chain", "agents"): agents,
        ("chain", "hops"): () if raw is ABSENT else raw,
        ("chain", "root"): agents[0],
    }


def presenter_of(facts: Facts) -> Agent:
    """Who presents the credential: an agent, or a user where no agent asks. Two issuers that differ are none."""
    by_agent, by_credential = facts.read(("agent", "issuer")), facts.read(("credential", "issuer"))
    issuer = by_credential if is_absent(by_agent) else by_agent
    if isinstance(by_agent, str) and isinstance(by_credential, str) and by_agent != by_credential:
        issuer = Unknown.of("agent.issuer", "the credential names another issuer")
    name = facts.read(("agent" if has_agent(facts.request) else "user", "id"))
    scopes, groups = facts.read(("credential", "scopes"), STRINGS), facts.read(("agent", "groups"), STRINGS)
    return Agent(name, issuer, scopes, groups, facts.read(("credential", "age"), Scalar.DURATION))


def hops_of(facts: Facts) -> tuple[Agent, ...] | Unknown:
    """The agents before the presenter, first to last."""
    raw = facts.request.fact("chain", "hops")
    if raw is ABSENT:
        return ()
    if not isinstance(raw, tuple | list) or not all(isinstance(hop, Mapping) for hop in raw):
        return Unknown.of("chain.hops", "not a list of hops")

    def hop(given: Mapping[str, object], name: str) -> Agent:
        def member(key: str, type_: kinds.Type = Scalar.STRING) -> Value:
            return coerce(given.get(key, ABSENT), type_, f"{name}.{key}")

        id_ = coerce(given.get("agent", ABSENT), Scalar.STRING, f"{name}.agent.id")
        age = age_since(given.get("issued_at", ABSENT), facts.now, name)
        return Agent(id_, member("issuer"), member("scopes", STRINGS), member("groups", STRINGS), age)

    return tuple(hop(given, f"chain.hops[{i}]") for i, given in enumerate(raw))


def has_agent(request: Request) -> bool:
    return "agent" in request.facts


def records_chains(facts: Facts, agent: Agent) -> bool:
    issuer = facts.kernel.issuers.get(str(agent.issuer))
    return issuer is not None and issuer.records_chains
