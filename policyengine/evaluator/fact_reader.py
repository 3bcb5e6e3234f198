"""Facts that the engine computes for one request: the presenter, the chain, ages and claims."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from policyengine import typesystem
from policyengine.evaluator.nodes import is_absent, merge, quick_strings
from policyengine.evaluator.state import ChainMember, State
from policyengine.runtime.fact_access import fact_at
from policyengine.runtime.pending_facts import pending_entity_members
from policyengine.runtime.values import ABSENT, PENDING, Invalid, Unknown, coerce
from policyengine.spec.facts import MAX_HOPS, NO_AGE, NOT_RECORDED, STRINGS, age_since, name_own_cluster
from policyengine.spec.issuer_users import mask_foreign_user
from policyengine.typesystem import EntityRef, Scalar
from policyengine.vocabulary import CLUSTER_ID, LEARNED_FACTS

if TYPE_CHECKING:
    from policyengine.evaluator.program import TrustAnchor

HOPS = typesystem.ListType(typesystem.RecordType(()))
OTHER_ISSUER = Unknown.of("agent.issuer", "the credential names another issuer")


def read_presenter(st: State) -> None:
    """Set the presenter of the credential, its issuer, and the user for whom it acts."""
    program, facts = st.program, st.facts
    st.by_agent = "agent" in facts
    by_agent = program.agent_issuer.get(st) if st.by_agent else ABSENT
    credential = facts.get("credential")
    by_credential = ABSENT if credential is None else program.credential_issuer.get(st)
    if program.masks_users:
        mask_user(st, (by_agent, by_credential))
    st.user = program.user_id.get(st)
    st.name = program.agent_id.get(st) if st.by_agent else st.user
    st.issuer = issuer_of(st, by_agent, by_credential, credential)
    st.trust = program.issuers.get(st.issuer) if type(st.issuer) is str else None


def issuer_of(st: State, by_agent: Any, by_credential: Any, credential: object) -> Any:
    """Return the issuer; unknown if the agent and the credential name different issuers, or if the credential is not
    valid now.
    """
    agent_absent, credential_absent = is_absent(by_agent), is_absent(by_credential)
    issuer = st.program.credential_issuer.missing if agent_absent and credential_absent else by_agent
    if agent_absent and not credential_absent:
        issuer = by_credential
    elif not agent_absent and not credential_absent:
        if type(by_agent) is Unknown or type(by_credential) is Unknown:
            issuer = merge([by_agent, by_credential])
        elif by_agent != by_credential:
            issuer = OTHER_ISSUER
    if credential is None:
        return issuer
    if type(credential) is dict and "issued_at" not in credential and "expires_at" not in credential:
        return issuer
    begun = validity(st, "issued_at", "in the future", lambda at: at <= st.now)
    valid = validity(st, "expires_at", "in the past", lambda at: st.now < at)
    unknown = [one for one in (issuer, begun, valid) if type(one) is Unknown]
    return merge(unknown) if unknown else issuer


def validity(st: State, name: str, why: str, holds: Callable[[datetime], bool]) -> Any:
    fact = f"credential.{name}"
    moment = coerce(fact_at(st.facts, ("credential", name)), Scalar.TIME, fact)
    if isinstance(moment, Unknown):
        return True if moment.absent else moment
    assert isinstance(moment, datetime)
    return holds(moment) or Unknown.of(fact, why)


def mask_user(st: State, issuers: tuple[Any, ...]) -> None:
    """Make the user unknown if a named issuer may not name that user."""
    masked = mask_foreign_user(st.program.kernel.issuers, issuers, st.program.user_id.get(st))
    if masked:
        st.masked = masked["user", "id"]
        for slot in st.program.user_slots:
            st.values[slot] = st.program.blank[slot]


def read_claims(st: State) -> None:
    """Read the attributes of the agent and the user from the claims of the credential, and mark pending attributes."""
    found: dict[tuple[EntityRef, str], object] = {}
    trust = st.trust
    if trust is not None:
        for claim, root, attribute in trust.claims:
            holder, raw = (
                (st.user if root == "user" else st.program.agent_id.get(st)),
                fact_at(st.facts, ("credential", "claims", claim)),
            )
            if isinstance(holder, str) and raw is not ABSENT:
                found[EntityRef(root, holder), attribute] = raw
    if st.request.pending:
        found |= pending_attributes(st)
    st.claims = found or None


def pending_attributes(st: State) -> dict[tuple[EntityRef, str], object]:
    """Return the attributes of entities that the caller reports as pending."""
    found: dict[tuple[EntityRef, str], object] = {}
    for root, member in pending_entity_members(st.request.pending):
        holder = st.program.holders[root].get(st)
        if isinstance(holder, EntityRef):
            found[holder, member] = PENDING
    return found


# ── The chain ─────────────────────────────────────────────────────────────────────────────────


def read_hops(st: State) -> None:
    """Set the agents before the presenter, from first to last; Unknown if they cannot be read."""
    raw = fact_at(st.facts, ("chain", "hops"))
    st.hops = () if raw is ABSENT else hops_of(st, raw)


def hops_of(st: State, raw: object) -> tuple[ChainMember, ...] | Unknown:
    given: Any = raw if is_list_of_objects(raw) else coerce(raw, HOPS, "chain.hops")
    if type(given) is Unknown:
        return () if given.absent else given
    if len(given) > MAX_HOPS:
        return Unknown.of("chain.hops", f"more than {MAX_HOPS} hops")
    unknown = [one for one in given if type(one) is Unknown]
    if unknown:
        return merge(unknown)
    return tuple([hop_of(one, number, st.now) for number, one in enumerate(given)])


def is_list_of_objects(raw: Any) -> bool:
    if type(raw) is not tuple or len(raw) > MAX_HOPS:
        return False
    for hop in raw:  # noqa: SIM110  # a generator takes longer
        if type(hop) is not dict:
            return False
    return True


def hop_of(given: Mapping[str, object], number: int, now: datetime) -> ChainMember:
    name = HOP_NAMES[number]
    return ChainMember(
        text_of(given.get("agent"), f"{name}.agent.id"),
        text_of(given.get("issuer"), f"{name}.issuer"),
        texts_of(given.get("scopes"), f"{name}.scopes"),
        texts_of(given.get("groups"), f"{name}.groups"),
        given.get("issued_at"),
        name,
        now,
    )


HOP_NAMES = tuple(f"chain.hops[{number}]" for number in range(MAX_HOPS))


def text_of(raw: Any, fact: str) -> Any:
    if type(raw) is str and raw.isascii() and 0 < len(raw) <= MAX_QUICK_NAME:
        return raw
    return coerce(raw, Scalar.STRING, fact)


MAX_QUICK_NAME = 1_000


def texts_of(raw: Any, fact: str) -> Any:
    known = quick_strings(raw)
    return coerce(raw, STRINGS, fact) if known is None else known


def records_chains(trust: TrustAnchor | None) -> bool:
    return trust is not None and trust.records_chains


def owner(st: State) -> State:
    """Return the state of the presenter; only that state has the chain."""
    return st if st.presenter is None else st.presenter


def chain_depth(st: State) -> object:
    own = owner(st)
    return len(own.hops) if is_recorded(own) else Invalid(NOT_RECORDED)


def chain_agents(st: State) -> object:
    own = owner(st)
    return (*(hop.id for hop in own.hops), own.name) if is_recorded(own) else Invalid(NOT_RECORDED)


def chain_hops(st: State) -> object:
    own = owner(st)
    if not is_recorded(own):
        return Invalid(NOT_RECORDED)
    raw = fact_at(own.facts, ("chain", "hops"))
    return () if raw is ABSENT else raw


def chain_root(st: State) -> object:
    own = owner(st)
    return own.hops[0].id if is_recorded(own) and own.hops else own.name


def is_recorded(st: State) -> bool:
    return type(st.hops) is not Unknown and records_chains(st.trust)


# ── Time ──────────────────────────────────────────────────────────────────────────────────────


def moment_of(st: State) -> object:
    return st.now


def age_of(root: str) -> Callable[[State], object]:
    """Return the function of `credential.age`, `attestation.age` or `task.age`."""

    def age(st: State) -> object:
        if st.hop is not None and root != "task":
            return st.hop.age if root == "credential" else ABSENT
        if root not in st.facts:
            return NO_AGE[root]
        given = coerce(fact_at(st.facts, (root, "age")), Scalar.DURATION, f"{root}.age")
        if is_absent(given):
            given = age_since(fact_at(st.facts, (root, "issued_at")), st.now, root)
        return Invalid("issued in the future") if isinstance(given, timedelta) and given < timedelta(0) else given

    return age


def credential_lifetime(st: State) -> object:
    if st.hop is not None:
        return ABSENT
    lifetime: Any = coerce(fact_at(st.facts, ("credential", "lifetime")), Scalar.DURATION, "credential.lifetime")
    if is_absent(lifetime):
        issued: Any = coerce(fact_at(st.facts, ("credential", "issued_at")), Scalar.TIME, "credential.issued_at")
        expires: Any = coerce(fact_at(st.facts, ("credential", "expires_at")), Scalar.TIME, "credential.expires_at")
        unknown = [one for one in (issued, expires) if type(one) is Unknown]
        lifetime = merge(unknown) if unknown else expires - issued
    if isinstance(lifetime, timedelta) and lifetime < timedelta(0):
        return Unknown.of("credential.lifetime", "the credential expires before it is issued")
    return lifetime


def cluster_id(st: State) -> object:
    """Return the learned group of the caller; the caller itself if it is in no group."""
    if st.behavior is not None and "cluster.id" in st.behavior:
        return st.behavior["cluster.id"]
    return own_cluster(owner(st))


def own_cluster(st: State) -> object:
    """Return the `cluster.id` of a presenter that is in no group."""
    issuer, name = st.issuer, st.name
    if is_absent(issuer):
        issuer = ""
    if type(issuer) is Unknown or type(name) is Unknown:
        return merge([issuer, name])
    return name_own_cluster(issuer, name, st.by_agent)


def approval_granted(st: State) -> object:
    return st.approval is not None and st.approval.granted


def approval_by(st: State) -> object:
    return ABSENT if st.approval is None else st.approval.by


def approval_age(st: State) -> object:
    return ABSENT if st.approval is None else st.approval.age


DERIVED: dict[tuple[str, ...], Callable[[State], object]] = {
    ("time",): moment_of,
    ("credential", "age"): age_of("credential"),
    ("attestation", "age"): age_of("attestation"),
    ("task", "age"): age_of("task"),
    ("credential", "lifetime"): credential_lifetime,
    ("chain", "depth"): chain_depth,
    ("chain", "agents"): chain_agents,
    ("chain", "hops"): chain_hops,
    ("chain", "root"): chain_root,
    ("cluster", "id"): cluster_id,
    ("approval", "granted"): approval_granted,
    ("approval", "by"): approval_by,
    ("approval", "age"): approval_age,
}
# Computed facts that are known before the chain and approvals, which expressions of `with` may read.
BEFORE_CHAIN = frozenset(
    {
        ("time",), ("credential", "age"), ("attestation", "age"), ("task", "age"), ("credential", "lifetime"),
        *LEARNED_FACTS,
    }
    - {CLUSTER_ID}
)  # fmt: skip
