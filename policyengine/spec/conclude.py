"""What follows from a walk: the strongest outcome stands, and nothing said means deny."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

from msgspec.structs import replace as reworded

from policyengine import kernel as k
from policyengine.runtime.credential_errors import words_of
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
from policyengine.runtime.format_values import duration, shown
from policyengine.runtime.history import Record
from policyengine.runtime.limits import Limited, Take
from policyengine.runtime.values import Cause, Unknown, Value
from policyengine.spec import history_records
from policyengine.spec import limits as spending
from policyengine.spec import trace as w
from policyengine.spec.approval_digest import bound_words
from policyengine.spec.approvals import approval_facts
from policyengine.spec.evaluate import message, value
from policyengine.spec.facts import Facts, has_agent, hops_of, presenter_of
from policyengine.spec.kleene import elements
from policyengine.spec.match import match_pattern
from policyengine.spec.reason_texts import (
    FOR_THE_GATEWAY,
    FOR_THE_OPERATOR,
    NO_BLOCK,
    NO_SCOPE,
    NO_USER_BLOCK,
    NOTHING_OPENS,
    NOTHING_TO_APPROVE,
    PROOFS,
)
from policyengine.spec.work_exceeded import excess

STRENGTH = tuple(Outcome)  # deny beats throttle beats confirm beats allow


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
    """The decision that a walk comes to, and its effects; a deny where either takes more steps than there are."""
    found = None if facts.work.exceeded else _concluded(facts, seen)
    if found is not None and not facts.work.exceeded:
        return found
    return excess(facts, _who(facts, seen), identified=seen.identified)


def _concluded(facts: Facts, seen: w.Walk) -> tuple[Decision, Effects]:
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
        principal=_who(facts, seen),
        package=facts.kernel.package,
        revision=facts.kernel.revision,
    )
    return decision, _effects(facts, seen, outcome)


def _stops(facts: Facts, seen: w.Walk) -> Iterator[Stop]:
    """Every reason against the request, gate by gate. Without a block that stands the caller learns `identity` only."""
    if seen.malformed is not None:
        yield Stop(Reason(Gate.MALFORMED_PATH, seen.malformed))
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
    for outside in seen.outside_task:
        need = Remedy("task", need=outside.bound.need)
        yield Stop(Reason(Gate.TASK, outside.bound.message), _causes(outside.outside), (need,))
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
    facts.work.rule = guard
    reads = {node.path for node in k.walk(condition) if isinstance(node, k.Fact)}
    for kind, need, fact, better in PROOFS:
        if fact in reads and value(condition, facts.bind({fact: better})) is False:
            yield Remedy(kind, guard.name, need=need)


def _unconfirmed(facts: Facts, guard: k.Guard, seen: w.EffectSeen, confirm: k.Confirm) -> Stop:
    """Nobody is asked to approve what is not known."""
    if seen.approval is not None and seen.approval.unseen:
        reason = Reason(Gate.GUARD, NOTHING_TO_APPROVE, guard.name, confirm.span.at)
        return Stop(reason, seen.approval.unseen, _facts_to_approve(guard, seen.approval.unseen))
    reason = Reason(Gate.GUARD, _words(facts, confirm), guard.name, confirm.span.at, Outcome.CONFIRM)
    return Stop(reason, _causes(seen.condition), _approvals_of(facts, guard, seen, confirm))


def _facts_to_approve(guard: k.Guard, unseen: frozenset[Cause]) -> Iterator[Remedy]:
    names = ", ".join(sorted(f"`{cause.fact}`" for cause in unseen))
    yield Remedy("facts", guard.name, need=f"{names}, or a rule that leaves it out: `bound to (…)`")


def _approvals_of(facts: Facts, guard: k.Guard, seen: w.EffectSeen, confirm: k.Confirm) -> Iterator[Remedy]:
    within = None if confirm.within is None else duration(confirm.within)
    binding = seen.approval.binding if seen.approval else None
    bound = bound_words(confirm, facts.request.endpoint)
    yield Remedy("approval", guard.name, by=confirm.approvers.words, within=within, binding=binding, bound=bound)


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
    """An allow spends the approvals it needed and takes of the limits; a confirm opens those that it lacks and takes of
    rates, which the allow then does not."""
    found = _approvals(facts, seen, outcome)
    if not facts.kernel.limits and not facts.kernel.watches:
        return found
    limits, denied = _charges(facts, seen, outcome), outcome is Outcome.DENY
    remembered = _remembered(facts, seen, outcome)
    confirms = () if denied or not any(isinstance(one.charge, Take) for one in limits) else _confirms(seen)
    denied = denied and bool(limits or remembered)
    return replace(found, limits=limits, denied=denied, records=remembered, confirms=confirms)


def _confirms(seen: w.Walk) -> tuple[str, ...]:
    """The bindings of all confirms that apply: the same when it is asked for and when the approval is brought."""
    effects = (one for guard in seen.guards for one in guard.effects if isinstance(one.effect, k.Confirm))
    return tuple(sorted({one.approval.binding for one in effects if one.triggered and one.approval is not None}))


def _remembered(facts: Facts, seen: w.Walk, outcome: Outcome) -> tuple[Record, ...]:
    """What is allowed enters history, once it is spent; so does what is denied after it is known who asks."""
    if not facts.kernel.watches or outcome not in (Outcome.ALLOW, Outcome.DENY) or not seen.identified:
        return ()
    granted = [one.approval for guard in seen.guards for one in guard.effects if one.approval is not None]
    known = facts.bind(approval_facts(granted, facts.now))
    return history_records.records(known, denied=outcome is Outcome.DENY)


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


def _who(facts: Facts, seen: w.Walk) -> Principal | None:
    """Nobody, by a credential that was refused."""
    return _principal(facts) if seen.refused is None else None


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
