"""Traces a request through every gate of the specification. No gate is skipped for speed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import pairwise
from typing import TypeAlias, assert_never

from policyengine import kernel as k
from policyengine.runtime.credential_errors import parse_refusal_code
from policyengine.runtime.endpoints import MalformedEndpoint
from policyengine.runtime.globs import Glob
from policyengine.runtime.request import Request
from policyengine.runtime.snapshot import Snapshot
from policyengine.runtime.values import MissingValue, Unknown, Value
from policyengine.spec import limits as spending
from policyengine.spec import tasks
from policyengine.spec import trace as w
from policyengine.spec.approvals import approval_facts, trace_approval
from policyengine.spec.evaluate import evaluate, is_element
from policyengine.spec.facts import NOT_RECORDED, Facts, has_agent, hop_facts, hops_of, presenter_of, records_chains
from policyengine.spec.halts import halt_of
from policyengine.spec.kleene import conjunction, disjunction, is_absent, lift
from policyengine.spec.match_endpoint import match_pattern, place_covers
from policyengine.spec.step_count import count_steps, matters
from policyengine.spec.step_facts import SpecifiedRequest
from policyengine.spec.work import takes_steps
from policyengine.typesystem import Scalar

ConditionReader: TypeAlias = Callable[[k.Expr, Facts], Value]
NOT_CONCERNED = Unknown.of("the rule", "it applies to other callers")


def trace_request(facts: Facts, snapshot: Snapshot) -> w.DecisionTrace:
    """Trace a request. Its steps are counted before any rule is evaluated; if there are too many, no rule is
    evaluated."""
    kernel, request = facts.kernel, facts.request
    if isinstance(request.endpoint, MalformedEndpoint):
        return w.DecisionTrace(request.endpoint.why)
    if (halt := halt_of(kernel, request, snapshot.halts)) is not None:
        return w.DecisionTrace(None, halted=halt.message)
    counted = count_steps(SpecifiedRequest.of(facts, snapshot))
    if counted.exceeded:
        return w.DecisionTrace(None, refused=_refusal_code(request), excess=counted)
    presenter, by_agent, letter = presenter_of(facts), has_agent(request), facts.by_the_letter
    anyone = tuple(_trace_block(block, letter, presenter, True, carried=True) for block in kernel.anyones)
    refused = _refusal_code(request)
    blocks = () if refused is not None else kernel.agents if by_agent else kernel.users
    doors = tuple(_trace_block(block, letter, presenter, True) for block in blocks)
    served = by_agent and refused is None and not is_absent(facts.read(("user", "id")))
    users = (
        tuple(_trace_block(block, letter, presenter, True, carried=True) for block in kernel.users) if served else None
    )
    opening = [block for block in doors if block.opens] or [block for block in doors if block.stands]
    waived = any(seen.block.package in kernel.unrestricted for seen in opening)
    hops, known, limits = _trace_chain(letter, presenter)
    guards = _trace_guards(facts, snapshot)
    task, advisory = _trace_task(facts), kernel.advisory
    limiting = cache(partial(spending.trace_limits, facts)) if kernel.limits else tuple
    return w.DecisionTrace(
        None, anyone, doors, users, waived, known, hops, limits, task, advisory, guards, refused, limiting
    )  # fmt: skip


def _refusal_code(request: Request) -> str | None:
    """Return the code of a refused credential, which proves nothing; None if the credential was not refused."""
    raw = request.fact("credential", "refused")
    return None if isinstance(raw, MissingValue) else parse_refusal_code(raw)


def _trace_block(
    block: w.Block,
    facts: Facts,
    agent: w.ChainAgent,
    presents: bool,
    carried: bool = False,
    applies: Value | None = None,
) -> w.BlockTrace:
    """Trace a block. Its requirements guard only its own grants; `credential` and `attested` apply only to the
    presenter. `applies`, if given, says whether the block matches the agent.
    """
    requirements = () if isinstance(block, k.AnyoneBlock) else block.requirements
    asked = [
        r for r in requirements if presents or isinstance(r, k.IssuedBy | k.ActsAlone | k.ActsFor | k.ValidityPeriod)
    ]
    applies = _applies_to(block, facts, agent) if applies is None else applies
    read = evaluate if matters(block, applies, facts.request.endpoint) else evaluate_for_others
    seen = tuple(w.RequirementTrace(r, _requirement_holds(r, facts, agent, presents, read)) for r in asked)
    grants = tuple(_trace_grant(grant, facts, agent, carried, read) for grant in block.grants)
    return w.BlockTrace(block, applies, seen, grants)


def evaluate_for_others(condition: k.Expr, facts: Facts) -> Value:
    """Return the value of a condition in a block for other callers; unknown if evaluating it takes steps, because these
    steps are not counted.
    """
    return NOT_CONCERNED if takes_steps(condition, False) else evaluate(condition, facts)


def _applies_to(block: w.Block, facts: Facts, agent: w.ChainAgent) -> Value:
    if isinstance(block, k.AnyoneBlock):
        return True
    user = facts.read(("user", "id"))
    match block.who:
        case k.PrincipalCondition(condition):
            return lift(lambda _: evaluate(condition, facts), agent.id if isinstance(block, k.AgentBlock) else user)
        case k.AnyUser():
            return lift(lambda _: True, user)
        case k.ExactName(wanted) if isinstance(block, k.UserBlock):
            return lift(lambda known: known == wanted, user)
        case who:
            return _matches_agent(agent, who, facts)


def _matches_agent(agent: w.ChainAgent, who: k.ExactName | k.NamePattern | k.InGroup, facts: Facts) -> Value:
    match who:
        case k.ExactName(wanted):
            return lift(lambda name: name == wanted, agent.id)
        case k.NamePattern(glob):
            return lift(lambda name: Glob(glob).matches(name), agent.id)
        case k.InGroup(group):
            return lift(lambda _, groups: is_element(groups, group, facts), agent.id, agent.groups)
        case _:
            assert_never(who)


def _requirement_holds(
    requirement: k.Requirement, facts: Facts, agent: w.ChainAgent, presents: bool, read: ConditionReader
) -> Value:
    match requirement:
        case k.IssuedBy(issuers):
            return lift(lambda issuer: issuer in issuers, agent.issuer)
        case k.ActsAlone():
            user, subject = facts.read(("user", "id")), facts.read(("credential", "subject"))
            own = True if not presents or is_absent(subject) else lift(lambda a, b: a == b, subject, agent.id)
            return conjunction([is_absent(user), own]) if is_absent(user) or isinstance(user, str) else user
        case k.ActsFor(condition):
            user, subject = facts.read(("user", "id")), facts.read(("credential", "subject"))
            acts = lift(lambda _: True if condition is None else read(condition, facts), user)
            named = lift(lambda one, *others: one in others, subject, agent.id, user)
            return conjunction([acts, True if not presents or is_absent(subject) else named])
        case k.ValidityPeriod(start, end):
            return (start is None or start <= facts.now) and (end is None or facts.now < end)
        case k.CredentialKinds(kinds_):
            return lift(lambda kind: kind in kinds_, facts.read(("credential", "kind")))
        case k.CredentialLifetime(limit):
            return lift(lambda lasts: lasts <= limit, facts.read(("credential", "lifetime"), Scalar.DURATION))
        case k.CredentialAge(limit):
            return lift(lambda age: age <= limit, facts.read(("credential", "age"), Scalar.DURATION))
        case k.ProofOfPossession():
            return facts.read(("credential", "bound"), Scalar.BOOL)
        case k.AttestedBy(attesters):
            verified, by = facts.read(("attestation", "verified"), Scalar.BOOL), facts.read(("attestation", "by"))
            trusted = [is_attested_by(facts.kernel.attesters[name], by, facts) for name in attesters]
            return conjunction([verified, disjunction(trusted)])
        case _:
            assert_never(requirement)


def is_attested_by(attester: k.Attester, by: Value, facts: Facts) -> Value:
    """Return whether the attestation is from this attester, fresh, and for a model and an environment that it names."""
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


def _trace_grant(
    grant: k.Grant, facts: Facts, agent: w.ChainAgent, carried: bool, read: ConditionReader
) -> w.GrantTrace:
    """Trace a `may`: the credential must carry its scope, unless its issuer says `scopes none`.

    The condition of a grant that does not cover the endpoint is not evaluated.
    """
    endpoint, issuer = facts.request.endpoint, facts.kernel.issuers.get(str(agent.issuer))
    covering = [opening for opening in grant.openings if match_pattern(opening.pattern, endpoint) is not None]
    held = facts.set_of(agent.scopes).keys if isinstance(agent.scopes, tuple) else ()
    named = any(scope in held for opening in covering for scope in opening.carriers)
    carries = carried or (issuer is not None and (issuer.scopes_none or named))
    condition = True if grant.when is None or not covering else read(grant.when, facts)
    return w.GrantTrace(grant, bool(covering), carries, condition)


def _trace_chain(
    facts: Facts, presenter: w.ChainAgent
) -> tuple[tuple[w.HopTrace, ...], Value, tuple[w.DelegationLimitTrace, ...]]:
    """Trace the chain. Authority only narrows: every hop needs a grant of its own and must delegate to the next."""
    agents, by_agent = hops_of(facts), has_agent(facts.request)
    recorded = by_agent and records_chains(facts, presenter)
    if isinstance(agents, Unknown) or (agents and not recorded):
        why = NOT_RECORDED if by_agent else "no agent received a delegation"
        return (), agents if isinstance(agents, Unknown) else Unknown.of("chain.hops", why), ()
    if not by_agent:
        return (), True, ()
    speakers = tuple(HopBlock.of(block) for block in facts.kernel.agents) if agents else ()
    hops = tuple(_trace_hop(one, then, speakers, facts) for one, then in pairwise((*agents, presenter)))
    limits = [
        seen for limits in facts.kernel.delegation for seen in _trace_delegation_limits(limits, agents, presenter)
    ]
    if not recorded:
        limits = [replace(seen, holds=Unknown.of("chain.depth", NOT_RECORDED)) for seen in limits]
    return hops, True, tuple(limits)


@dataclass(frozen=True, slots=True)
class HopBlock:
    """A block that may match hops. `other` is its trace for a hop with another name."""

    block: k.AgentBlock
    other: w.BlockTrace

    @staticmethod
    def of(block: k.AgentBlock) -> HopBlock:
        return HopBlock(block, w.BlockTrace(block, False, (), ()))

    def may_be_about(self, agent: w.ChainAgent) -> bool:
        """Return whether the block may match the agent; False only for an exact name that differs."""
        who = self.block.who
        return not isinstance(who, k.ExactName) or isinstance(agent.id, Unknown) or who.name == agent.id


def _trace_hop(agent: w.ChainAgent, then: w.ChainAgent, speakers: Iterable[HopBlock], facts: Facts) -> w.HopTrace:
    facts = hop_facts(facts, agent)
    seen = [
        _trace_hop_block(one.block, agent, then, facts) if one.may_be_about(agent) else one.other for one in speakers
    ]
    return w.HopTrace(agent, then, tuple(seen))


def _trace_hop_block(block: k.AgentBlock, agent: w.ChainAgent, then: w.ChainAgent, facts: Facts) -> w.BlockTrace:
    """Trace a block for a hop. If the block does not match, or if it may match but does not cover the endpoint, its
    other parts are not evaluated.
    """
    applies = _applies_to(block, facts, agent)
    if not matters(block, applies, facts.request.endpoint):
        return w.BlockTrace(block, applies, (), ())
    seen = _trace_block(block, facts, agent, False, applies=applies)
    return replace(seen, delegates=_trace_delegations(block, agent, then, facts))


def _trace_delegations(
    block: k.AgentBlock, agent: w.ChainAgent, then: w.ChainAgent, facts: Facts
) -> tuple[w.DelegationTrace, ...]:
    def one(delegate: k.DelegationGrant) -> w.DelegationTrace:
        covers = any(match_pattern(pattern, facts.request.endpoint) is not None for pattern in delegate.patterns)
        lasts = True if delegate.lifetime is None else lift(lambda age: age <= delegate.lifetime, agent.age)
        condition = True if delegate.when is None else evaluate(delegate.when, facts)
        return w.DelegationTrace(delegate, covers, _matches_agent(then, delegate.to, facts), lasts, condition)

    return tuple(one(delegate) for delegate in block.delegates)


def _trace_delegation_limits(
    limits: k.DelegationLimits, hops: tuple[w.ChainAgent, ...], presenter: w.ChainAgent
) -> Iterable[w.DelegationLimitTrace]:
    if limits.depth is not None:
        yield w.DelegationLimitTrace(f"depth <= {limits.depth}", limits, len(hops) <= limits.depth)
    if limits.lifetime is not None:
        lasting = conjunction(lift(lambda age: age <= limits.lifetime, hop.age) for hop in hops)
        yield w.DelegationLimitTrace("lifetime", limits, lasting)
    if limits.no_cycles:
        members = [(hop.issuer, hop.id) for hop in (*hops, presenter)]
        unknown = [one for member in members for one in member if isinstance(one, Unknown)]
        distinct_members = len(set(members)) == len(members)
        yield w.DelegationLimitTrace(
            "no cycles", limits, Unknown.merge(*unknown) if unknown and hops else distinct_members
        )


def _trace_task(facts: Facts) -> tuple[w.TaskTrace, ...]:
    if "task" not in facts.request.facts:
        return ()
    bounds = tasks.endpoint_task_constraints(facts.request.endpoint, facts.bound, facts.kernel.entities)
    return tuple(w.TaskTrace(one, evaluate(one.outside, facts)) for one in bounds)


# ── Guards and approvals ──────────────────────────────────────────────────────────────────────


def _trace_guards(facts: Facts, snapshot: Snapshot) -> tuple[w.GuardTrace, ...]:
    endpoint = facts.request.endpoint
    covering = [guard for guard in facts.kernel.guards if place_covers(guard.place, endpoint)]
    approvals = {
        (id(guard), id(effect)): trace_approval(guard, index, effect, facts, snapshot)
        for guard in covering if facts.request.approvals
        for index, effect in enumerate(guard.effects)
        if isinstance(effect, k.Confirm)
    }  # fmt: skip
    approved = facts.bind(approval_facts(approvals.values(), facts.now))

    def seen(guard: k.Guard, index: int, effect: k.Effect) -> w.EffectTrace:
        condition = True if effect.condition is None else evaluate(effect.condition, approved)
        approval = approvals.get((id(guard), id(effect)))
        if approval is None and isinstance(effect, k.Confirm) and condition is not False:
            approval = trace_approval(guard, index, effect, facts, snapshot)
        return w.EffectTrace(effect, condition, approval)

    def of(guard: k.Guard) -> w.GuardTrace:
        return w.GuardTrace(guard, True, tuple(seen(guard, *numbered) for numbered in enumerate(guard.effects)))

    covers = {id(guard) for guard in covering}
    return tuple(of(one) if id(one) in covers else w.GuardTrace(one, False, ()) for one in facts.kernel.guards)
