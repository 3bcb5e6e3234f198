"""The walker, which takes one question through the gates with the rules of its endpoint.

It follows the specification gate by gate (`spec/gates.py`), but visits only rules that can affect the result, and stops
when the result is settled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from policyengine import kernel as k
from policyengine.evaluator.blocks import LACKS_PROOF, LACKS_SCOPE, OPENS, STANDS, Block
from policyengine.evaluator.fact_reader import records_chains
from policyengine.evaluator.nodes import is_absent
from policyengine.evaluator.principals import PrincipalRules
from policyengine.evaluator.program import EndpointRules
from policyengine.evaluator.rules import Effect, TaskRule
from policyengine.evaluator.state import MAYBE, NO, UNREAD, YES, ChainMember, State
from policyengine.runtime.credential_errors import parse_refusal_code
from policyengine.runtime.fact_access import fact_at
from policyengine.runtime.values import PENDING, MissingValue, Unknown
from policyengine.spec.facts import NOT_RECORDED
from policyengine.spec.issuer_users import mask_foreign_user

Doubts = tuple[Unknown, ...]
NO_DOUBTS: Final[Doubts] = ()


@dataclass(slots=True)
class ChainStop:
    """A fault of the chain: `kind` is "unknown" (the chain is unknown), "own" (`hop` has no grant of its own),
    "delegation" (`hop` may not delegate to `then`) or "limit" (a limit of `limits` is exceeded, described by `words`).
    """

    kind: str
    doubts: Doubts
    hop: ChainMember | None = None
    then: ChainMember | None = None
    words: str = ""
    limits: k.DelegationLimits | None = None


@dataclass(slots=True)
class ActingEffect:
    """A line of a guard whose condition is true or unknown, with the unknowns."""

    effect: Effect
    doubts: Doubts


class Passage:
    """The result of a question at the gates. If no grant opens the endpoint, `closed` holds the unknowns, and `lacking`
    the bits that say whether a scope or a proof would help; `user_closed` holds the unknowns of the user's gate.
    `refused` is the code of a refused credential.
    """

    refused: str | None = None
    identified: bool = False
    open_to_anyone: bool = False
    closed: Doubts | None = None
    lacking: int = 0
    user_closed: Doubts | None = None
    chain: tuple[ChainStop, ...] = ()
    task: tuple[tuple[TaskRule, Doubts], ...] = ()
    acting: tuple[ActingEffect, ...] = ()

    @property
    def is_open(self) -> bool:
        """Whether no gate before the guards stops the question."""
        if not self.identified or self.closed is not None or self.user_closed is not None:
            return False
        return not self.chain and not self.task


def take_doubts(st: State) -> Doubts:
    """Return all unknowns on the stack, and empty the stack."""
    if not st.doubts:
        return NO_DOUBTS
    found = tuple(st.doubts)
    st.doubts.clear()
    return found


def walk(st: State, exact: State, approved: State) -> Passage:
    """Take the question through the gates and return the result. Grants read facts from the state `exact`, guards from
    `approved`."""
    rules, found = st.rules, Passage()
    found.refused = refusal_code(st)
    found.open_to_anyone = bool(rules.anyones) and opens_to_anyone(exact, rules.anyones)
    if found.open_to_anyone:
        found.identified = True
    elif pass_grants(exact, rules, found):
        if exact.hops != () or exact.program.delegation:
            pass_chain(exact, found)
        if rules.tasks and "task" in st.facts:
            pass_task(st, exact, rules, found)
    if rules.effects:
        pass_guards(approved, rules, found)
    return found


def refusal_code(st: State) -> str | None:
    """Return the code of a refused credential; None if it was not refused."""
    credential = st.facts.get("credential")
    if credential is None or (type(credential) is dict and "refused" not in credential):
        return None
    raw = fact_at(st.facts, ("credential", "refused"))
    return None if isinstance(raw, MissingValue) else parse_refusal_code(raw)


# ── Grants ────────────────────────────────────────────────────────────────────────────────────


def opens_to_anyone(st: State, blocks: tuple[Block, ...]) -> bool:
    for block in blocks:
        if block.enter(st, True) & OPENS:
            st.doubts.clear()
            return True
    st.doubts.clear()
    return False


def pass_grants(st: State, rules: EndpointRules, found: Passage) -> bool:
    """Test the grants of the presenter and, if an agent acts for a user, the grants of the user, and set the results in
    `found`. Return whether a block accepts the presenter.
    """
    program = st.program
    if found.refused is not None:
        return False
    side: PrincipalRules = rules.agents if st.by_agent else rules.users
    bits = side.enter(st, st.name, False)
    found.identified = bits & STANDS != 0 or is_accepted_anywhere(st)
    if not found.identified:
        st.doubts.clear()
        return False
    waived = False
    if bits & OPENS:
        st.doubts.clear()
    else:
        if bits & LACKS_SCOPE:
            scopes = st.scopes_held()
            st.doubts += [one for one in (scopes if type(scopes) is tuple else (scopes,)) if type(one) is Unknown]
        found.closed, found.lacking = take_doubts(st), bits & (LACKS_SCOPE | LACKS_PROOF)
    if program.kernel.unrestricted:
        waived = any(one in program.kernel.unrestricted for one in opening_packages(st, side))
    if st.by_agent and not waived and not is_absent(st.user):
        pass_user(st, rules, found)
    return True


def is_accepted_anywhere(st: State) -> bool:
    """Return whether any block of the policy accepts the presenter, wherever its grants are."""
    mark = len(st.doubts)
    everyone: PrincipalRules = st.program.everyone if st.by_agent else st.program.everyuser
    bits = 0
    if type(st.name) is not Unknown:
        for block in everyone.applying(st, st.name):
            bits |= block.enter(st, True)
            if bits & STANDS:
                break
    del st.doubts[mark:]
    return bits & STANDS != 0


def opening_packages(st: State, side: PrincipalRules) -> list[str]:
    """Return the packages of the blocks that open the endpoint or, if no block opens it, of the blocks that accept the
    presenter.
    """
    mark = len(st.doubts)
    opening = [one.package for one in side.applying(st, st.name) if one.enter(st, False) & OPENS]
    if not opening:
        everyone: PrincipalRules = st.program.everyone if st.by_agent else st.program.everyuser
        opening = [one.package for one in everyone.applying(st, st.name) if one.enter(st, True) & STANDS]
    del st.doubts[mark:]
    return opening


def pass_user(st: State, rules: EndpointRules, found: Passage) -> None:
    if type(st.user) is not Unknown and rules.users.enter(st, st.user, True) & OPENS:
        st.doubts.clear()
        return
    if type(st.user) is Unknown:
        rules.users.enter(st, st.user, True)
        st.doubts.append(st.user)
    found.user_closed = take_doubts(st)


# ── The chain ─────────────────────────────────────────────────────────────────────────────────


def pass_chain(st: State, found: Passage) -> None:
    """Add the faults of the chain to `found`: every hop needs a grant of its own and must delegate to the next."""
    if not st.by_agent:
        if type(st.hops) is Unknown or st.hops:
            why = st.hops if type(st.hops) is Unknown else Unknown.of("chain.hops", "no agent received a delegation")
            found.chain = (ChainStop("unknown", (why,)),)
        return
    recorded, hops = records_chains(st.trust), st.hops
    if type(hops) is Unknown or (hops and not recorded):
        why = hops if type(hops) is Unknown else Unknown.of("chain.hops", NOT_RECORDED)
        found.chain = (ChainStop("unknown", (why,)),)
        return
    if hops:
        presenter = ChainMember(st.name, st.issuer, UNREAD, st.groups_known(), None, "", st.now)
        own = state_of_hops(st)
        for hop, then in zip(hops, (*hops[1:], presenter), strict=True):
            enter_hop(own, hop)
            pass_hop(own, hop, then, found)
    for limits in st.program.delegation:
        pass_limits(st, limits, recorded, found)


def pass_hop(own: State, hop: ChainMember, then: ChainMember, found: Passage) -> None:
    rules = own.rules
    if not rules.agents.enter(own, hop.id, False) & OPENS:
        scopes = hop.scopes
        own.doubts += [one for one in (scopes if type(scopes) is tuple else (scopes,)) if type(one) is Unknown]
        found.chain += (ChainStop("own", tuple(own.doubts), hop),)
    own.doubts.clear()
    if not rules.delegators.hands_on(own, hop.id, then):
        found.chain += (ChainStop("delegation", tuple(own.doubts), hop, then),)
    own.doubts.clear()


def state_of_hop(st: State, hop: ChainMember) -> State:
    """Return the state in which a hop is the presenter. Proofs of the real presenter do not apply to the hop."""
    own = state_of_hops(st)
    enter_hop(own, hop)
    return own


def state_of_hops(st: State) -> State:
    """Return a state that `enter_hop` sets to each hop in turn."""
    own = st.branch()
    own.values = st.values.copy()
    own.presenter = st
    facts: dict[str, object] = dict(st.facts)
    facts.pop("attestation", None)
    facts["agent"], facts["credential"] = {}, {}
    own.facts = facts
    return own


def enter_hop(own: State, hop: ChainMember) -> None:
    """Make a hop the presenter of the state."""
    st, program = own.presenter, own.program
    assert st is not None
    if st.claims is None:
        if program.masks_users:
            own.values = st.values.copy()
        values = own.values
        for slot in program.hop_slots:
            if slot < len(values):
                values[slot] = UNREAD
    else:  # any fact that names the presenter may have claimed attributes
        own.values = program.blank.copy()
        own.claims = {key: raw for key, raw in st.claims.items() if key[0].type != "agent" or raw is PENDING}
    facts: Any = own.facts
    agent, credential = facts["agent"], facts["credential"]
    agent["id"], agent["groups"], agent["issuer"] = hop.id, hop.groups, hop.issuer
    credential["issuer"], credential["scopes"] = hop.issuer, hop.scopes
    own.hop = hop
    own.name, own.issuer, own.scopes, own.groups = hop.id, hop.issuer, hop.scopes, hop.groups
    own.trust = program.issuers.get(hop.issuer) if type(hop.issuer) is str else None
    if program.masks_users:
        own.masked, own.user = st.masked, st.user
        masked = mask_foreign_user(program.kernel.issuers, (hop.issuer,), st.user) if type(hop.issuer) is str else {}
        if masked:
            own.masked = masked["user", "id"]
            own.user = program.user_id.get(own)


def pass_limits(st: State, limits: k.DelegationLimits, recorded: bool, found: Passage) -> None:
    """Add the limits of a `delegation` block that the chain may exceed to `found`: its depth, the age of its hops,
    cycles.
    """
    hops: tuple[ChainMember, ...] = st.hops
    for words, holds in delegation_limits(st, limits, hops):
        value = holds if recorded else Unknown.of("chain.depth", NOT_RECORDED)
        if value is not True:
            doubts = (value,) if type(value) is Unknown else NO_DOUBTS
            found.chain += (ChainStop("limit", doubts, words=words, limits=limits),)


def delegation_limits(
    st: State, limits: k.DelegationLimits, hops: tuple[ChainMember, ...]
) -> list[tuple[str, bool | Unknown]]:
    found: list[tuple[str, bool | Unknown]] = []
    if limits.depth is not None:
        found.append((f"depth <= {limits.depth}", len(hops) <= limits.depth))
    if limits.lifetime is not None:
        expired = any(type(hop.age) is not Unknown and hop.age > limits.lifetime for hop in hops)
        unknown = [hop.age for hop in hops if type(hop.age) is Unknown]
        found.append(("lifetime", False if expired else Unknown.merge(*unknown) if unknown else True))
    if limits.no_cycles:
        members = [*((hop.issuer, hop.id) for hop in hops), (st.issuer, st.name)]
        unknown = [one for member in members for one in member if type(one) is Unknown]
        distinct = len(set(members)) == len(members)
        found.append(("no cycles", Unknown.merge(*unknown) if unknown and hops else distinct))
    return found


# ── Task and guards ───────────────────────────────────────────────────────────────────────────


def pass_task(st: State, exact: State, rules: EndpointRules, found: Passage) -> None:
    """Add to `found` the bounds of the task that the request may exceed, unless a package that opens the endpoint has
    `tasks advisory`, which leaves these bounds to guards.
    """
    for rule in rules.tasks:
        if rule.outside.test(st) != NO:
            found.task += ((rule, take_doubts(st)),)
    st.doubts.clear()
    advisory = st.program.kernel.advisory
    if found.task and advisory:
        side = rules.agents if st.by_agent else rules.users
        if any(package in advisory for package in opening_packages(exact, side)):
            found.task = ()


def pass_guards(st: State, rules: EndpointRules, found: Passage) -> None:
    """Add the effects whose condition is true or unknown to `found`."""
    for effect in rules.effects:
        condition = effect.condition
        result = YES if condition is None else condition.test(st)
        if result != NO:
            found.acting += (ActingEffect(effect, take_doubts(st) if result == MAYBE else NO_DOUBTS),)
        if st.doubts:
            st.doubts.clear()
