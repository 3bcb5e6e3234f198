"""Concludes a decision from a trace: the strongest outcome wins, and no grant means deny."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from msgspec.structs import replace

from policyengine import kernel as k
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
from policyengine.runtime.history import HistoryRecord
from policyengine.runtime.limits import LimitCharge, RateCharge
from policyengine.runtime.values import Cause, Unknown, Value
from policyengine.spec import limits as spending
from policyengine.spec import required_history
from policyengine.spec import trace as w
from policyengine.spec.approval_digest import describe_bound
from policyengine.spec.approvals import approval_facts, approver_set
from policyengine.spec.evaluate import evaluate, render_message
from policyengine.spec.facts import Facts, group_size, has_agent, hops_of, own_cluster, presenter_of
from policyengine.spec.kleene import elements
from policyengine.spec.match_endpoint import match_pattern
from policyengine.spec.reason_texts import (
    FOR_THE_GATEWAY,
    NO_BLOCK,
    NO_SCOPE,
    NO_USER_BLOCK,
    NOT_COUNTABLE,
    NOTHING_OPENS,
    NOTHING_TO_APPROVE,
    OPERATOR_OBLIGATIONS,
    PROOFS,
    UNKNOWN_CHAIN,
    approvable_facts,
    broken_delegation_limit,
    refused_credential,
    undelegated_hop,
    ungranted_hop,
    unsupported_obligation,
)
from policyengine.spec.work_exceeded import deny_excess, describe_excess
from policyengine.time_formats import format_duration
from policyengine.vocabulary import CLUSTER_ID, CLUSTER_SIZE

STRENGTH = tuple(Outcome)  # deny beats throttle beats confirm beats allow


@dataclass(frozen=True, slots=True)
class Obstacle:
    """One reason against the request, the unknown facts that contributed to it, and its remedies (computed once)."""

    reason: Reason
    causes: frozenset[Cause] = frozenset()
    remedies: Iterable[Remedy] = ()

    @property
    def named(self) -> Reason:
        """The reason, with the unknown facts in its message."""
        unknown = "; ".join(sorted(f"`{cause.fact}` is unknown: {cause.why}" for cause in self.causes))
        return replace(self.reason, message=f"{self.reason.message} ({unknown})") if unknown else self.reason


def conclude(facts: Facts, seen: w.DecisionTrace) -> tuple[Decision, Effects]:
    """Return the decision for a trace, and its effects."""
    if seen.excess is not None:
        return deny_excess(facts.kernel, _known_principal(facts, seen)), Effects(excess=describe_excess(seen.excess))
    stops = tuple(_obstacles(facts, seen))
    outcome = min((stop.reason.outcome for stop in stops), key=STRENGTH.index, default=Outcome.ALLOW)
    if outcome is Outcome.ALLOW and (unmet := tuple(_unsupported_obligations(facts, seen))):
        stops, outcome = unmet, Outcome.DENY
    if outcome is not Outcome.DENY and (uncounted := tuple(_uncountable_limits(seen))):
        stops, outcome = (*uncounted, *stops), Outcome.DENY
    stops = tuple(sorted(stops, key=lambda stop: STRENGTH.index(stop.reason.outcome)))
    duties = [
        duty for duty in _due_obligations(seen) if outcome is Outcome.ALLOW or duty.duty.kind in OPERATOR_OBLIGATIONS
    ]
    causes = frozenset().union(*(stop.causes for stop in stops), _unknown_causes(*(duty.condition for duty in duties)))
    if not seen.malformed and not seen.identified:
        causes = frozenset()
    decision = Decision.of(
        outcome=outcome,
        gate=stops[0].reason.gate if stops else None,
        reasons=tuple(stop.named for stop in stops),
        remedies=tuple(dict.fromkeys(r for stop in stops if stop.reason.outcome is outcome for r in stop.remedies)),
        obligations=tuple(_obligation(facts, duty) for duty in duties),
        unknown=tuple(UnknownFact(cause.fact, cause.why) for cause in sorted(causes, key=lambda c: (c.fact, c.why))),
        principal=_known_principal(facts, seen),
        package=facts.kernel.package,
        revision=facts.kernel.revision,
    )
    return decision, _effects(facts, seen, outcome)


def _obstacles(facts: Facts, seen: w.DecisionTrace) -> Iterator[Obstacle]:
    """Yield every reason against the request, gate by gate. If no block accepts the caller, yield only the reason of
    gate `identity`.
    """
    if seen.malformed is not None:
        yield Obstacle(Reason(Gate.MALFORMED_PATH, seen.malformed))
        return
    if seen.halted is not None:
        yield Obstacle(Reason(Gate.HALTED, seen.halted))
        return
    if not seen.identified:
        yield Obstacle(Reason(Gate.IDENTITY, identity_message(seen), code=seen.refused))
        return
    if not seen.door_open:
        yield _no_grant(facts, seen)
    if not seen.user_allowed:
        causes = _unknown_causes(facts.read(("user", "id")), *w.unknown_inputs(seen.user or ()))
        yield Obstacle(Reason(Gate.USER, NO_USER_BLOCK), causes)
    if not seen.chain_sound:
        yield from _chain_obstacles(seen)
    for outside in seen.outside_task:
        need = Remedy("task", need=outside.bound.need)
        yield Obstacle(Reason(Gate.TASK, outside.bound.message), _unknown_causes(outside.outside), (need,))
    for guard in seen.guards:
        for effect in guard.effects:
            if effect.acts and isinstance(effect.effect, k.Deny):
                yield _deny_obstacle(facts, guard.guard, effect, effect.effect)
            elif effect.acts and isinstance(effect.effect, k.Confirm):
                yield _confirm_obstacle(facts, guard.guard, effect, effect.effect)


def identity_message(seen: w.DecisionTrace) -> str:
    return NO_BLOCK if seen.refused is None else refused_credential(seen.refused)


def _no_grant(facts: Facts, seen: w.DecisionTrace) -> Obstacle:
    """Return the reason if no grant opens the endpoint, with the scope, credential or attestation that would help."""
    endpoint = facts.request.endpoint
    standing = [grant for block in seen.presenter if block.stands for grant in block.grants if grant.covers]
    uncarried = [grant.grant for grant in standing if grant.condition is True and not grant.carried]
    openings = [o for grant in uncarried for o in grant.openings if match_pattern(o.pattern, endpoint) is not None]
    scopes = dict.fromkeys(scope for opening in openings for scope in opening.carriers)
    remedies = [Remedy("scope", scopes=tuple(scopes))] if scopes else []
    for block in seen.presenter:
        missing = [asked.requirement for asked in block.requirements if asked.holds is not True]
        about_proof = all(
            not isinstance(one, k.IssuedBy | k.ActsAlone | k.ActsFor | k.ValidityPeriod) for one in missing
        )
        if block.applies is True and about_proof and any(grant.opens for grant in block.grants):
            remedies += [Remedy(_proof_kind(one), need=one.span.text) for one in missing]
    message = NO_SCOPE if uncarried else NOTHING_OPENS
    held = elements(presenter_of(facts).scopes) if uncarried else ()
    return Obstacle(
        Reason(Gate.DEFAULT, message), _unknown_causes(*w.unknown_inputs(seen.presenter), *held), tuple(remedies)
    )


def _proof_kind(requirement: k.Requirement) -> str:
    return "attestation" if isinstance(requirement, k.AttestedBy) else "credential"


def _chain_obstacles(seen: w.DecisionTrace) -> Iterator[Obstacle]:
    if seen.chain_known is not True:
        yield Obstacle(Reason(Gate.CHAIN, UNKNOWN_CHAIN), _unknown_causes(seen.chain_known))
    for hop in seen.hops:
        if not hop.opens:
            causes = _unknown_causes(*w.unknown_inputs(hop.blocks), *elements(hop.agent.scopes))
            yield Obstacle(Reason(Gate.CHAIN, ungranted_hop(hop.agent.id)), causes)
        if not hop.hands_on:
            words = undelegated_hop(hop.agent.id, hop.next.id)
            yield Obstacle(Reason(Gate.CHAIN, words), _unknown_causes(*w.unknown_inputs(hop.blocks, handing_on=True)))
    for limit in seen.limits:
        if limit.holds is not True:
            words = broken_delegation_limit(limit.words)
            yield Obstacle(Reason(Gate.CHAIN, words, at=limit.limits.span.at), _unknown_causes(limit.holds))


def _deny_obstacle(facts: Facts, guard: k.Guard, seen: w.EffectTrace, deny: k.Deny) -> Obstacle:
    reason = Reason(Gate.GUARD, _rule_message(facts, deny), guard.name, deny.span.at)
    helping = () if deny.condition is None else _proof_remedies(deny.condition, guard, facts)
    return Obstacle(reason, _unknown_causes(seen.condition), islice(helping, 1))


def _proof_remedies(condition: k.Expr, guard: k.Guard, facts: Facts) -> Iterator[Remedy]:
    """Yield the proofs that would remove the deny."""
    reads = {node.path for node in k.walk(condition) if isinstance(node, k.Fact)}
    for kind, need, fact, better in PROOFS:
        if fact in reads and evaluate(condition, facts.bind({fact: better})) is False:
            yield Remedy(kind, guard.name, need=need)


def _confirm_obstacle(facts: Facts, guard: k.Guard, seen: w.EffectTrace, confirm: k.Confirm) -> Obstacle:
    """Return the reason of a confirm. A request with unknown bound facts cannot be approved, so its reason
    is a deny.
    """
    if seen.approval is not None and seen.approval.unseen:
        reason = Reason(Gate.GUARD, NOTHING_TO_APPROVE, guard.name, confirm.span.at)
        return Obstacle(reason, seen.approval.unseen, _missing_fact_remedies(guard, seen.approval.unseen))
    reason = Reason(Gate.GUARD, _rule_message(facts, confirm), guard.name, confirm.span.at, Outcome.CONFIRM)
    return Obstacle(reason, _unknown_causes(seen.condition), _approval_remedies(facts, guard, seen, confirm))


def _missing_fact_remedies(guard: k.Guard, unseen: frozenset[Cause]) -> Iterator[Remedy]:
    names = ", ".join(sorted(f"`{cause.fact}`" for cause in unseen))
    yield Remedy("facts", guard.name, need=approvable_facts(names))


def _approval_remedies(facts: Facts, guard: k.Guard, seen: w.EffectTrace, confirm: k.Confirm) -> Iterator[Remedy]:
    within = format_duration(confirm.lasts)
    binding = seen.approval.binding if seen.approval else None
    bound = describe_bound(confirm, facts.request.endpoint)
    yield Remedy(
        "approval", guard.name, by=confirm.approvers.words, within=within, binding=binding, bound=bound,
        issuers=confirm.approvers.issuers or None,
    )  # fmt: skip


def _rule_message(facts: Facts, effect: k.Deny | k.Confirm) -> str:
    """Return the rule's message for the caller; the rule itself if it has no message."""
    return f"`{effect.words}`" if effect.message is None else render_message(effect.message, facts, to_caller=True)


@dataclass(frozen=True, slots=True)
class DueObligation:
    guard: k.Guard
    duty: k.ObligationEffect
    condition: Value


def _due_obligations(seen: w.DecisionTrace) -> Iterator[DueObligation]:
    """Yield the obligations that apply."""
    for guard in seen.guards:
        for duty in guard.effects:
            if duty.acts and isinstance(duty.effect, k.ObligationEffect):
                yield DueObligation(guard.guard, duty.effect, duty.condition)


def _obligation(facts: Facts, duty: DueObligation) -> Obligation:
    words = None if duty.duty.message is None else render_message(duty.duty.message, facts, to_caller=True)
    return Obligation(duty.duty.kind, duty.duty.arguments, duty.guard.name, duty.duty.span.at, words)


def _unsupported_obligations(facts: Facts, seen: w.DecisionTrace) -> Iterator[Obstacle]:
    """Yield a reason for each obligation that the gateway cannot meet, if it states which obligations it can meet."""
    supported = facts.request.options.obligations_supported
    for limit in _due_obligations(seen) if supported is not None else ():
        if limit.duty.kind in FOR_THE_GATEWAY and limit.duty.kind not in (supported or ()):
            words = unsupported_obligation(limit.duty.kind)
            yield Obstacle(Reason(Gate.GUARD, words, limit.guard.name, limit.duty.span.at))


def _uncountable_limits(seen: w.DecisionTrace) -> Iterator[Obstacle]:
    """Yield a reason for each limit whose key or cost is unknown; such a limit lets no request pass."""
    for effect in seen.limited:
        if effect.acts and (unknown := spending.unknown_limit_inputs(effect)):
            gate = Gate.BUDGET if isinstance(effect.limit, k.Budget) else Gate.RATE
            words = NOT_COUNTABLE
            yield Obstacle(Reason(gate, words, effect.limit.name, effect.limit.span.at), _unknown_causes(*unknown))


def _charges(facts: Facts, seen: w.DecisionTrace, outcome: Outcome) -> tuple[LimitCharge, ...]:
    """Return the charges of an allow or a confirm; a deny is charged only to rates that count denials."""
    denied = outcome is Outcome.DENY
    if not seen.identified or (denied and not any(map(_counts_denials, facts.kernel.limits))):
        return ()
    asked = [one for one in seen.limited if not denied or _counts_denials(one.limit)]
    acting = [one for one in asked if one.acts and not spending.unknown_limit_inputs(one)]
    every = (charge for one in acting for charge in spending.limit_charges(one))
    return tuple(one for one in every if not denied or isinstance(one.charge, RateCharge))


def _counts_denials(limit: k.Limit) -> bool:
    return isinstance(limit, k.Rate) and limit.counting_denials


def _effects(facts: Facts, seen: w.DecisionTrace, outcome: Outcome) -> Effects:
    """Return the effects: an allow spends its approvals and charges the limits. A confirm opens the missing approvals
    and charges the rates, which the later allow does not charge again.
    """
    found = _approval_effects(facts, seen, outcome)
    if not facts.kernel.limits and not facts.kernel.watches:
        return found
    limits, denied = _charges(facts, seen, outcome), outcome is Outcome.DENY
    remembered = _new_records(facts, seen, outcome)
    confirms = (
        () if denied or not any(isinstance(one.charge, RateCharge) for one in limits) else _approval_digests(seen)
    )
    denied = denied and bool(limits or remembered)
    return replace(found, limits=limits, denied=denied, records=remembered, confirms=confirms)


def _approval_digests(seen: w.DecisionTrace) -> tuple[str, ...]:
    """Return the bindings of all confirms that apply. They are the same for the request and for its repeat with an
    approval.
    """
    effects = (one for guard in seen.guards for one in guard.effects if isinstance(one.effect, k.Confirm))
    return tuple(sorted({one.approval.binding for one in effects if one.triggered and one.approval is not None}))


def _new_records(facts: Facts, seen: w.DecisionTrace, outcome: Outcome) -> tuple[HistoryRecord, ...]:
    """Return the records for the history: the records of an allow, which are stored when it is committed, or the
    records of a deny, if the caller is identified.
    """
    if not facts.kernel.watches or outcome not in (Outcome.ALLOW, Outcome.DENY) or not seen.identified:
        return ()
    granted = [one.approval for guard in seen.guards for one in guard.effects if one.approval is not None]
    known = facts.bind(approval_facts(granted, facts.now))
    return required_history.make_records(known, denied=outcome is Outcome.DENY)


def _approval_effects(facts: Facts, seen: w.DecisionTrace, outcome: Outcome) -> Effects:
    confirms = [
        (guard.guard, one.effect, one.approval)
        for guard in seen.guards
        for one in guard.effects
        if isinstance(one.effect, k.Confirm) and one.approval is not None
        if one.triggered or one.approval.granted  # `approval.granted` may depend on such an approval
    ]
    if outcome is Outcome.ALLOW:
        return Effects(spends=tuple(dict.fromkeys(a.id for _, _, seen_ in confirms for a in seen_.counted)))
    if outcome is not Outcome.CONFIRM:
        return Effects()
    return Effects(opens=tuple(
        OpenedApproval(
            guard.name, approval.binding, confirm.approvers.words, confirm.approvers.count,
            confirm.lasts.total_seconds(),
            render_message(confirm.message or (confirm.words,), facts, to_caller=False),
            approver_set(confirm.approvers, facts),
        )
        for guard, confirm, approval in confirms
        if not approval.granted
    ))  # fmt: skip


def _known_principal(facts: Facts, seen: w.DecisionTrace) -> Principal | None:
    """Return the principal; None if the credential was refused."""
    return _principal(facts) if seen.refused is None else None


def _principal(facts: Facts) -> Principal:
    presenter, hops = presenter_of(facts), hops_of(facts)
    before = [] if isinstance(hops, Unknown) else [hop.id for hop in hops]
    user = _known_name(facts.read(("user", "id")))
    agent = _known_name(presenter.id) if has_agent(facts.request) else None
    names = [name for name in (user, *map(_known_name, before), agent) if name is not None]
    cluster, size = _cluster(facts, presenter, agent)
    return Principal(agent, _known_name(presenter.issuer), user, tuple(names), cluster, size)


def _cluster(facts: Facts, presenter: w.ChainAgent, agent: str | None) -> tuple[str | None, int]:
    """Return the group of the caller, and its size; the agent itself if it is in no group."""
    group = facts.bound[CLUSTER_ID]
    if group == own_cluster(presenter, has_agent(facts.request)):
        return agent, 1
    return (group if isinstance(group, str) else None), group_size(facts.bound[CLUSTER_SIZE])


def _known_name(one: Value) -> str | None:
    return one if isinstance(one, str) else None


def _unknown_causes(*values: Value) -> frozenset[Cause]:
    return frozenset().union(*(one.causes for one in values if isinstance(one, Unknown)))
