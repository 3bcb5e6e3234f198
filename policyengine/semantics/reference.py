"""The executable specification: `(kernel, request, snapshot, now) → (decision, effects)`, plain and obviously right.

It reads top to bottom: what is seen at each gate, and what follows from that. Beside it, `meaning.py` says what an
expression means, `facts.py` where facts come from, `walk.py` what acts when. Nothing is skipped for speed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache, partial
from itertools import islice, pairwise
from typing import assert_never

from msgspec.structs import replace as reworded

from policyengine.kinds import Scalar
from policyengine.runtime.decision import (
    Decision,
    Effects,
    Gate,
    Obligation,
    OpenedApproval,
    Outcome,
    Principal,
    Reason,
    Remedy,
    UnknownFact,
)
from policyengine.runtime.endpoints import MalformedEndpoint
from policyengine.runtime.history import Record
from policyengine.runtime.limits import Limited, Take
from policyengine.runtime.patterns import Glob
from policyengine.runtime.refusals import refusal_of, words_of
from policyengine.runtime.request import Request
from policyengine.runtime.show import duration, shown
from policyengine.runtime.snapshot import Snapshot
from policyengine.runtime.values import Cause, Missing, Unknown, Value
from policyengine.semantics import kernel as k
from policyengine.semantics import remembering, spending
from policyengine.semantics import walk as w
from policyengine.semantics.approvals import approval_facts, approval_of
from policyengine.semantics.facts import (
    NOT_RECORDED,
    Facts,
    facts_of_hop,
    has_agent,
    hops_of,
    presenter_of,
    records_chains,
)
from policyengine.semantics.kleene import conjunction, disjunction, elements, is_absent, lift
from policyengine.semantics.matching import match_pattern, place_covers
from policyengine.semantics.meaning import contains, facts_of, message, value
from policyengine.semantics.saying import (
    FOR_THE_GATEWAY,
    FOR_THE_OPERATOR,
    NO_BLOCK,
    NO_SCOPE,
    NO_USER_BLOCK,
    NOTHING_OPENS,
    PROOFS,
)

STRENGTH = tuple(Outcome)  # deny beats throttle beats confirm beats allow


def decide(kernel: k.Kernel, request: Request, snapshot: Snapshot, now: datetime) -> tuple[Decision, Effects]:
    """What a policy says to a request, and what spending that decision does: what its limits then say is for the store
    to tell, which answers all of them in one step (`runtime/settling.py`)."""
    facts = facts_of(kernel, request, snapshot, now)
    return conclude(facts, walk(facts, snapshot))


# ── The walk: what is seen at each gate ───────────────────────────────────────────────────────


def walk(facts: Facts, snapshot: Snapshot) -> w.Walk:
    kernel, request = facts.kernel, facts.request
    if isinstance(request.endpoint, MalformedEndpoint):
        return w.Walk(request.endpoint.why)
    presenter, by_agent = presenter_of(facts), has_agent(request)
    anyone = tuple(_block(block, facts, presenter, True, carried=True) for block in kernel.anyones)
    refused = _refused(request)
    blocks = () if refused is not None else kernel.agents if by_agent else kernel.users
    doors = tuple(_block(block, facts, presenter, True) for block in blocks)
    served = by_agent and refused is None and not is_absent(facts.read(("user", "id")))
    users = tuple(_block(block, facts, presenter, True, carried=True) for block in kernel.users) if served else None
    opening = [block for block in doors if block.opens] or [block for block in doors if block.stands]
    waived = any(seen.block.package in kernel.unrestricted for seen in opening)
    hops, known, limits = _chain(facts, presenter)
    guards = _guards(facts, snapshot)
    limiting = cache(partial(spending.limited, facts)) if kernel.limits else tuple
    return w.Walk(None, anyone, doors, users, waived, known, hops, limits, guards, refused, limiting)


def _refused(request: Request) -> str | None:
    """By which code the credential was refused, if it was: it then proves nobody, whatever else is said."""
    raw = request.fact("credential", "refused")
    return None if isinstance(raw, Missing) else refusal_of(raw)


def _block(block: w.Block, facts: Facts, agent: w.Agent, presents: bool, carried: bool = False) -> w.BlockSeen:
    """A block's requirements guard that block's doors; `credential` and `attested` bind the presenter alone."""
    requirements = () if isinstance(block, k.AnyoneBlock) else block.requirements
    asked = [r for r in requirements if presents or isinstance(r, k.IssuedBy | k.ActsAlone | k.ActsFor | k.Valid)]
    seen = tuple(w.RequirementSeen(r, _holds(r, facts, agent, presents)) for r in asked)
    grants = tuple(_grant(grant, facts, agent, carried) for grant in block.grants)
    return w.BlockSeen(block, _applies(block, facts, agent), seen, grants)


def _applies(block: w.Block, facts: Facts, agent: w.Agent) -> Value:
    if isinstance(block, k.AnyoneBlock):
        return True
    user = facts.read(("user", "id"))
    match block.who:
        case k.Where(condition):
            return lift(lambda _: value(condition, facts), agent.id if isinstance(block, k.AgentBlock) else user)
        case k.Everybody():
            return lift(lambda _: True, user)
        case k.Called(wanted) if isinstance(block, k.UserBlock):
            return lift(lambda known: known == wanted, user)
        case who:
            return _is(agent, who, facts)


def _is(agent: w.Agent, who: k.Called | k.CalledLike | k.InGroup, facts: Facts) -> Value:
    match who:
        case k.Called(wanted):
            return lift(lambda name: name == wanted, agent.id)
        case k.CalledLike(glob):
            return lift(lambda name: Glob(glob).matches(name), agent.id)
        case k.InGroup(group):
            return lift(lambda _, groups: contains(groups, group, False, facts), agent.id, agent.groups)
        case _:
            assert_never(who)


def _holds(requirement: k.Requirement, facts: Facts, agent: w.Agent, presents: bool) -> Value:
    match requirement:
        case k.IssuedBy(issuers):
            return lift(lambda issuer: issuer in issuers, agent.issuer)
        case k.ActsAlone():
            user, subject = facts.read(("user", "id")), facts.read(("credential", "subject"))
            own = True if not presents or is_absent(subject) else lift(lambda a, b: a == b, subject, agent.id)
            return conjunction([is_absent(user), own]) if is_absent(user) or isinstance(user, str) else user
        case k.ActsFor(condition):
            user, subject = facts.read(("user", "id")), facts.read(("credential", "subject"))
            acts = lift(lambda _: True if condition is None else value(condition, facts), user)
            named = lift(lambda one, *others: one in others, subject, agent.id, user)
            return conjunction([acts, True if not presents or is_absent(subject) else named])
        case k.Valid(start, end):
            return (start is None or start <= facts.now) and (end is None or facts.now < end)
        case k.CredentialKind(kinds_):
            return lift(lambda kind: kind in kinds_, facts.read(("credential", "kind")))
        case k.CredentialLifetime(limit):
            return lift(lambda lasts: lasts <= limit, facts.read(("credential", "lifetime"), Scalar.DURATION))
        case k.CredentialAge(limit):
            return lift(lambda age: age <= limit, facts.read(("credential", "age"), Scalar.DURATION))
        case k.CredentialBound():
            return facts.read(("credential", "bound"), Scalar.BOOL)
        case k.AttestedBy(attesters):
            verified, by = facts.read(("attestation", "verified"), Scalar.BOOL), facts.read(("attestation", "by"))
            trusted = [attests(facts.kernel.attesters[name], by, facts) for name in attesters]
            return conjunction([verified, disjunction(trusted)])
        case _:
            assert_never(requirement)


def attests(attester: k.Attester, by: Value, facts: Facts) -> Value:
    """Whether the attestation is this attester's word, fresh, for a model and an environment it names."""
    model, digest = facts.read(("attestation", "model")), facts.read(("attestation", "model_hash"))
    tests = [lift(lambda name: name == attester.name, by)]
    if attester.age is not None:
        age = facts.read(("attestation", "age"), Scalar.DURATION)
        tests.append(lift(lambda known: known <= attester.age, age))
    if attester.models:
        hashes = [True if h is None else lift(lambda d, h=h: d == h, digest) for _, h in attester.models]
        names = [lift(lambda m, name=name: m == name, model) for name, _ in attester.models]
        tests.append(disjunction(conjunction(pair) for pair in zip(names, hashes, strict=True)))
    if attester.environments:
        where = facts.read(("attestation", "environment"))
        tests.append(lift(lambda known: known in attester.environments, where))
    return conjunction(tests)


def _grant(grant: k.Grant, facts: Facts, agent: w.Agent, carried: bool) -> w.GrantSeen:
    """A `may`, through a scope that the credential carries unless its issuer says `scopes none`.

    One that does not cover the endpoint is not asked for its condition.
    """
    endpoint, issuer = facts.request.endpoint, facts.kernel.issuers.get(str(agent.issuer))
    covering = [opening for opening in grant.openings if match_pattern(opening.pattern, endpoint) is not None]
    held = agent.scopes if isinstance(agent.scopes, tuple) else ()
    named = any(scope in held for opening in covering for scope in opening.carriers)
    carries = carried or (issuer is not None and (issuer.scopes_none or named))
    condition = True if grant.when is None or not covering else value(grant.when, facts)
    return w.GrantSeen(grant, bool(covering), carries, condition)


def _chain(facts: Facts, presenter: w.Agent) -> tuple[tuple[w.HopSeen, ...], Value, tuple[w.LimitSeen, ...]]:
    """Authority only narrows along a chain: every hop opens the endpoint itself and names the next."""
    agents, by_agent = hops_of(facts), has_agent(facts.request)
    recorded = by_agent and records_chains(facts, presenter)
    if isinstance(agents, Unknown) or (agents and not recorded):
        why = NOT_RECORDED if by_agent else "no agent was handed this"
        return (), agents if isinstance(agents, Unknown) else Unknown.of("chain.hops", why), ()
    if not by_agent:
        return (), True, ()
    hops = tuple(_hop(one, then, facts) for one, then in pairwise((*agents, presenter)))
    limits = [seen for limits in facts.kernel.delegation for seen in _limits(limits, agents, presenter)]
    if not recorded:
        limits = [replace(seen, holds=Unknown.of("chain.depth", NOT_RECORDED)) for seen in limits]
    return hops, True, tuple(limits)


def _hop(agent: w.Agent, then: w.Agent, facts: Facts) -> w.HopSeen:
    facts = facts_of_hop(facts, agent)
    blocks = [_block(block, facts, agent, False) for block in facts.kernel.agents]
    return w.HopSeen(
        agent, then, tuple(replace(seen, delegates=_delegates(seen, agent, then, facts)) for seen in blocks)
    )


def _delegates(seen: w.BlockSeen, agent: w.Agent, then: w.Agent, facts: Facts) -> tuple[w.DelegateSeen, ...]:
    def one(delegate: k.Delegate) -> w.DelegateSeen:
        covers = any(match_pattern(pattern, facts.request.endpoint) is not None for pattern in delegate.patterns)
        lasts = True if delegate.lifetime is None else lift(lambda age: age <= delegate.lifetime, agent.age)
        condition = True if delegate.when is None else value(delegate.when, facts)
        return w.DelegateSeen(delegate, covers, _is(then, delegate.to, facts), lasts, condition)

    return tuple(one(delegate) for delegate in seen.block.delegates) if isinstance(seen.block, k.AgentBlock) else ()


def _limits(limits: k.DelegationLimits, hops: tuple[w.Agent, ...], presenter: w.Agent) -> Iterable[w.LimitSeen]:
    if limits.depth is not None:
        yield w.LimitSeen(f"depth <= {limits.depth}", limits, len(hops) <= limits.depth)
    if limits.lifetime is not None:
        lasting = conjunction(lift(lambda age: age <= limits.lifetime, hop.age) for hop in hops)
        yield w.LimitSeen("lifetime", limits, lasting)
    if limits.no_cycles:
        members = [(hop.issuer, hop.id) for hop in (*hops, presenter)]
        unknown = [one for member in members for one in member if isinstance(one, Unknown)]
        distinct_members = len(set(members)) == len(members)
        yield w.LimitSeen("no cycles", limits, Unknown.merge(*unknown) if unknown and hops else distinct_members)


# ── Guards and approvals ──────────────────────────────────────────────────────────────────────


def _guards(facts: Facts, snapshot: Snapshot) -> tuple[w.GuardSeen, ...]:
    endpoint = facts.request.endpoint
    covering = [guard for guard in facts.kernel.guards if place_covers(guard.place, endpoint)]
    approvals = {
        (id(guard), id(effect)): approval_of(guard, index, effect, facts, snapshot)
        for guard in covering if facts.request.approvals
        for index, effect in enumerate(guard.effects)
        if isinstance(effect, k.Confirm)
    }  # fmt: skip
    approved = facts.bind(approval_facts(approvals.values(), facts.now))

    def seen(guard: k.Guard, index: int, effect: k.Effect) -> w.EffectSeen:
        condition = True if effect.condition is None else value(effect.condition, approved)
        approval = approvals.get((id(guard), id(effect)))
        if approval is None and isinstance(effect, k.Confirm) and condition is not False:
            approval = approval_of(guard, index, effect, facts, snapshot)
        return w.EffectSeen(effect, condition, approval)

    def of(guard: k.Guard) -> w.GuardSeen:
        return w.GuardSeen(guard, True, tuple(seen(guard, *numbered) for numbered in enumerate(guard.effects)))

    covers = {id(guard) for guard in covering}
    return tuple(of(one) if id(one) in covers else w.GuardSeen(one, False, ()) for one in facts.kernel.guards)


# ── What follows: the strongest outcome stands, and nothing said means deny ───────────────────


@dataclass(frozen=True, slots=True)
class Stop:
    """One thing in the way: its reason, the unknown facts that had a part in it, and what would remove it (asked once,
    where it stands)."""

    reason: Reason
    causes: frozenset[Cause] = frozenset()
    remedies: Iterable[Remedy] = ()

    @property
    def named(self) -> Reason:
        """The reason, which names the facts that were unknown."""
        unknown = "; ".join(sorted(f"`{cause.fact}` is unknown: {cause.why}" for cause in self.causes))
        return reworded(self.reason, message=f"{self.reason.message} ({unknown})") if unknown else self.reason


def conclude(facts: Facts, seen: w.Walk) -> tuple[Decision, Effects]:
    """The decision that a walk comes to, and its effects."""
    stops = tuple(_stops(facts, seen))
    outcome = min((stop.reason.outcome for stop in stops), key=STRENGTH.index, default=Outcome.ALLOW)
    if outcome is Outcome.ALLOW and (unmet := tuple(_unmet(facts, seen))):
        stops, outcome = unmet, Outcome.DENY
    if outcome is not Outcome.DENY and (uncounted := tuple(_uncounted(seen))):
        stops, outcome = (*uncounted, *stops), Outcome.DENY
    stops = tuple(sorted(stops, key=lambda stop: STRENGTH.index(stop.reason.outcome)))
    duties = [duty for duty in _duties(seen) if outcome is Outcome.ALLOW or duty.duty.kind in FOR_THE_OPERATOR]
    causes = frozenset().union(*(stop.causes for stop in stops), _causes(*(duty.condition for duty in duties)))
    if not seen.malformed and not seen.identified:
        causes = frozenset()
    decision = Decision.of(
        outcome=outcome,
        gate=stops[0].reason.gate if stops else None,
        reasons=tuple(stop.named for stop in stops),
        remedies=tuple(dict.fromkeys(r for stop in stops if stop.reason.outcome is outcome for r in stop.remedies)),
        obligations=tuple(_obligation(facts, duty) for duty in duties),
        unknown=tuple(UnknownFact(cause.fact, cause.why) for cause in sorted(causes, key=lambda c: (c.fact, c.why))),
        principal=_principal(facts) if seen.refused is None else None,
        package=facts.kernel.package,
        revision=facts.kernel.revision,
    )
    return decision, _effects(facts, seen, outcome)


def _stops(facts: Facts, seen: w.Walk) -> Iterator[Stop]:
    """Every reason against the request, gate by gate. Without a block that stands the caller learns `identity` only."""
    if seen.malformed is not None:
        yield Stop(Reason(Gate.MALFORMED_PATH, f"the path is not canonical: {seen.malformed}"))
        return
    if not seen.identified:
        yield Stop(Reason(Gate.IDENTITY, unidentified(seen), code=seen.refused))
        return
    if not seen.door_open:
        yield _closed_door(facts, seen)
    if not seen.user_allowed:
        causes = _causes(facts.read(("user", "id")), *w.doubts(seen.user or ()))
        yield Stop(Reason(Gate.USER, NO_USER_BLOCK), causes)
    if not seen.chain_sound:
        yield from _broken_chain(seen)
    for guard in seen.guards:
        for one in guard.effects:
            if one.acts and isinstance(one.effect, k.Deny):
                yield _denied(facts, guard.guard, one, one.effect)
            elif one.acts and isinstance(one.effect, k.Confirm):
                yield _unconfirmed(facts, guard.guard, one, one.effect)


def unidentified(seen: w.Walk) -> str:
    return NO_BLOCK if seen.refused is None else f"the credential was refused: {words_of(seen.refused)}"


def _closed_door(facts: Facts, seen: w.Walk) -> Stop:
    """Nothing opened the endpoint: say whether a scope, a better credential or an attestation would have."""
    endpoint = facts.request.endpoint
    standing = [grant for block in seen.presenter if block.stands for grant in block.grants if grant.covers]
    uncarried = [grant.grant for grant in standing if grant.condition is True and not grant.carried]
    openings = [o for grant in uncarried for o in grant.openings if match_pattern(o.pattern, endpoint) is not None]
    scopes = dict.fromkeys(scope for opening in openings for scope in opening.carriers)
    remedies = [Remedy("scope", scopes=tuple(scopes))] if scopes else []
    for block in seen.presenter:
        missing = [asked.requirement for asked in block.requirements if asked.holds is not True]
        about_proof = all(not isinstance(one, k.IssuedBy | k.ActsAlone | k.ActsFor | k.Valid) for one in missing)
        if block.applies is True and about_proof and any(grant.opens for grant in block.grants):
            remedies += [Remedy(_proof(one), need=one.span.text) for one in missing]
    message = NO_SCOPE if uncarried else NOTHING_OPENS
    held = elements(presenter_of(facts).scopes) if uncarried else ()
    return Stop(Reason(Gate.DEFAULT, message), _causes(*w.doubts(seen.presenter), *held), tuple(remedies))


def _proof(requirement: k.Requirement) -> str:
    return "attestation" if isinstance(requirement, k.AttestedBy) else "credential"


def _broken_chain(seen: w.Walk) -> Iterator[Stop]:
    if seen.chain_known is not True:
        yield Stop(Reason(Gate.CHAIN, "who handed the work on is not known"), _causes(seen.chain_known))
    for hop in seen.hops:
        if not hop.opens:
            causes = _causes(*w.doubts(hop.blocks), *elements(hop.agent.scopes))
            yield Stop(Reason(Gate.CHAIN, f"agent {shown(hop.agent.id)} may not do this itself"), causes)
        if not hop.hands_on:
            words = f"agent {shown(hop.agent.id)} does not hand this on to agent {shown(hop.next.id)}"
            yield Stop(Reason(Gate.CHAIN, words), _causes(*w.doubts(hop.blocks, handing_on=True)))
    for limit in seen.limits:
        if limit.holds is not True:
            words = f"the limit of delegation `{limit.words}` does not hold"
            yield Stop(Reason(Gate.CHAIN, words, at=limit.limits.span.at), _causes(limit.holds))


def _denied(facts: Facts, guard: k.Guard, seen: w.EffectSeen, deny: k.Deny) -> Stop:
    reason = Reason(Gate.GUARD, _words(facts, deny), guard.name, deny.span.at)
    helping = () if deny.condition is None else _proofs(deny.condition, guard, facts)
    return Stop(reason, _causes(seen.condition), islice(helping, 1))


def _proofs(condition: k.Expr, guard: k.Guard, facts: Facts) -> Iterator[Remedy]:
    """What would end the deny, were it proved."""
    reads = {node.path for node in k.walk(condition) if isinstance(node, k.Fact)}
    for kind, need, fact, better in PROOFS:
        if fact in reads and value(condition, facts.bind({fact: better})) is False:
            yield Remedy(kind, guard.name, need=need)


def _unconfirmed(facts: Facts, guard: k.Guard, seen: w.EffectSeen, confirm: k.Confirm) -> Stop:
    reason = Reason(Gate.GUARD, _words(facts, confirm), guard.name, confirm.span.at, Outcome.CONFIRM)
    return Stop(reason, _causes(seen.condition), _approvals_of(guard, seen, confirm))


def _approvals_of(guard: k.Guard, seen: w.EffectSeen, confirm: k.Confirm) -> Iterator[Remedy]:
    within = None if confirm.within is None else duration(confirm.within)
    binding = seen.approval.binding if seen.approval else None
    yield Remedy("approval", guard.name, by=confirm.approvers.words, within=within, binding=binding)


def _words(facts: Facts, effect: k.Deny | k.Confirm) -> str:
    """The rule's message for the caller, or the rule itself."""
    return f"`{effect.words}`" if effect.message is None else message(effect.message, facts, to_caller=True)


@dataclass(frozen=True, slots=True)
class Duty:
    guard: k.Guard
    duty: k.Oblige
    condition: Value


def _duties(seen: w.Walk) -> Iterator[Duty]:
    """The obligations that apply."""
    for guard in seen.guards:
        for one in guard.effects:
            if one.acts and isinstance(one.effect, k.Oblige):
                yield Duty(guard.guard, one.effect, one.condition)


def _obligation(facts: Facts, duty: Duty) -> Obligation:
    words = None if duty.duty.message is None else message(duty.duty.message, facts, to_caller=True)
    return Obligation(duty.duty.kind, duty.duty.arguments, duty.guard.name, duty.duty.span.at, words)


def _unmet(facts: Facts, seen: w.Walk) -> Iterator[Stop]:
    """A gateway that says which obligations it can meet is denied what it cannot."""
    supported = facts.request.options.obligations_supported
    for one in _duties(seen) if supported is not None else ():
        if one.duty.kind in FOR_THE_GATEWAY and one.duty.kind not in (supported or ()):
            words = f"the gateway cannot meet the obligation `{one.duty.kind}`"
            yield Stop(Reason(Gate.GUARD, words, one.guard.name, one.duty.span.at))


def _uncounted(seen: w.Walk) -> Iterator[Stop]:
    """A rate or budget that cannot tell whose count a request is, or how much it takes, lets nothing through."""
    for one in seen.limited:
        if one.acts and (unknown := spending.doubts(one)):
            gate = Gate.BUDGET if isinstance(one.limit, k.Budget) else Gate.RATE
            words = "it is not known what this takes, or by whose count"
            yield Stop(Reason(gate, words, one.limit.name, one.limit.span.at), _causes(*unknown))


def _charges(facts: Facts, seen: w.Walk, outcome: Outcome) -> tuple[Limited, ...]:
    """What an allow, or a confirm, asks of the limits; what is denied is charged by rates that count denials."""
    denied = outcome is Outcome.DENY
    if not seen.identified or (denied and not any(map(_counts_denials, facts.kernel.limits))):
        return ()
    asked = [one for one in seen.limited if not denied or _counts_denials(one.limit)]
    acting = [one for one in asked if one.acts and not spending.doubts(one)]
    every = (charge for one in acting for charge in spending.charges(one))
    return tuple(one for one in every if not denied or isinstance(one.charge, Take))


def _counts_denials(limit: k.Limit) -> bool:
    return isinstance(limit, k.Rate) and limit.counting_denials


def _effects(facts: Facts, seen: w.Walk, outcome: Outcome) -> Effects:
    """An allow spends the approvals it needed and takes of the limits; so does a confirm, which opens what it lacks."""
    found = _approvals(facts, seen, outcome)
    if not facts.kernel.limits and not facts.kernel.watches:
        return found
    limits, denied = _charges(facts, seen, outcome), outcome is Outcome.DENY
    remembered = _remembered(facts, seen, outcome)
    return replace(found, limits=limits, denied=denied and bool(limits or remembered), records=remembered)


def _remembered(facts: Facts, seen: w.Walk, outcome: Outcome) -> tuple[Record, ...]:
    """What is allowed enters history, once it is spent; so does what is denied after it is known who asks."""
    if not facts.kernel.watches or outcome not in (Outcome.ALLOW, Outcome.DENY) or not seen.identified:
        return ()
    granted = [one.approval for guard in seen.guards for one in guard.effects if one.approval is not None]
    known = facts.bind(approval_facts(granted, facts.now))
    return remembering.records(known, denied=outcome is Outcome.DENY)


def _approvals(facts: Facts, seen: w.Walk, outcome: Outcome) -> Effects:
    confirms = [
        (guard.guard, one.effect, one.approval)
        for guard in seen.guards
        for one in guard.effects
        if isinstance(one.effect, k.Confirm) and one.approval is not None
        if one.triggered or one.approval.granted  # `approval.granted` may rest on it
    ]
    if outcome is Outcome.ALLOW:
        return Effects(spends=tuple(dict.fromkeys(a.id for _, _, seen_ in confirms for a in seen_.counted)))
    if outcome is not Outcome.CONFIRM:
        return Effects()
    return Effects(opens=tuple(
        OpenedApproval(
            guard.name, approval.binding, confirm.approvers.words, confirm.approvers.count,
            None if confirm.within is None else confirm.within.total_seconds(),
            message(confirm.message or (confirm.words,), facts, to_caller=False),
        )
        for guard, confirm, approval in confirms
        if not approval.granted
    ))  # fmt: skip


def _principal(facts: Facts) -> Principal:
    presenter, hops = presenter_of(facts), hops_of(facts)
    before = [] if isinstance(hops, Unknown) else [hop.id for hop in hops]
    user = _name(facts.read(("user", "id")))
    agent = _name(presenter.id) if has_agent(facts.request) else None
    names = [name for name in (user, *map(_name, before), agent) if name is not None]
    return Principal(agent, _name(presenter.issuer), user, tuple(names), cluster=agent)


def _name(one: Value) -> str | None:
    return one if isinstance(one, str) else None


def _causes(*values: Value) -> frozenset[Cause]:
    return frozenset().union(*(one.causes for one in values if isinstance(one, Unknown)))
