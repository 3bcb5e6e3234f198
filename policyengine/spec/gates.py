"""The walk of the specification: what is seen of a request at each gate. Nothing is skipped for speed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import pairwise
from typing import assert_never

from policyengine import kernel as k
from policyengine.runtime.credential_errors import refusal_of
from policyengine.runtime.endpoints import MalformedEndpoint
from policyengine.runtime.patterns import Glob
from policyengine.runtime.request import Request
from policyengine.runtime.snapshot import Snapshot
from policyengine.runtime.values import Missing, Unknown, Value
from policyengine.spec import limits as spending
from policyengine.spec import tasks
from policyengine.spec import trace as w
from policyengine.spec.approvals import approval_facts, approval_of
from policyengine.spec.evaluate import is_element, value
from policyengine.spec.facts import NOT_RECORDED, Facts, facts_of_hop, has_agent, hops_of, presenter_of, records_chains
from policyengine.spec.kleene import conjunction, disjunction, is_absent, lift
from policyengine.spec.match import match_pattern, place_covers
from policyengine.spec.work import hop_steps, who_steps
from policyengine.typesystem import Scalar


def walk(facts: Facts, snapshot: Snapshot) -> w.Walk:
    kernel, request = facts.kernel, facts.request
    if isinstance(request.endpoint, MalformedEndpoint):
        return w.Walk(request.endpoint.why)
    presenter, by_agent, letter = presenter_of(facts), has_agent(request), facts.by_the_letter
    anyone = tuple(_block(block, letter, presenter, True, carried=True) for block in kernel.anyones)
    refused = _refused(request)
    blocks = () if refused is not None else kernel.agents if by_agent else kernel.users
    doors = tuple(_block(block, letter, presenter, True) for block in blocks)
    served = by_agent and refused is None and not is_absent(facts.read(("user", "id")))
    users = tuple(_block(block, letter, presenter, True, carried=True) for block in kernel.users) if served else None
    opening = [block for block in doors if block.opens] or [block for block in doors if block.stands]
    waived = any(seen.block.package in kernel.unrestricted for seen in opening)
    hops, known, limits = _chain(letter, presenter)
    guards = _guards(facts, snapshot)
    task, advisory = _task(facts), kernel.advisory
    limiting = cache(partial(spending.limited, facts)) if kernel.limits else tuple
    return w.Walk(
        None, anyone, doors, users, waived, known, hops, limits, task, advisory, guards, refused, limiting
    )  # fmt: skip


def _refused(request: Request) -> str | None:
    """By which code the credential was refused, if it was: it then proves nobody, whatever else is said."""
    raw = request.fact("credential", "refused")
    return None if isinstance(raw, Missing) else refusal_of(raw)


def _block(
    block: w.Block, facts: Facts, agent: w.Agent, presents: bool, carried: bool = False, applies: Value | None = None
) -> w.BlockSeen:
    """A block's requirements guard that block's doors; `credential` and `attested` bind the presenter alone. `applies`:
    whether it is about the agent, where that is known before."""
    requirements = () if isinstance(block, k.AnyoneBlock) else block.requirements
    asked = [r for r in requirements if presents or isinstance(r, k.IssuedBy | k.ActsAlone | k.ActsFor | k.Valid)]
    facts.work.rule = block
    applies = _applies(block, facts, agent) if applies is None else applies
    with facts.work.only_if(_concerns(block, applies, facts)):
        seen = tuple(w.RequirementSeen(r, _holds(r, facts, agent, presents)) for r in asked)
        grants = tuple(_grant(grant, facts, agent, carried) for grant in block.grants)
    return w.BlockSeen(block, applies, seen, grants)


def _concerns(block: w.Block, applies: Value, facts: Facts) -> bool:
    """Whether what a block asks can matter: not if it is about somebody else, nor, where nobody knows whom it is about,
    at an endpoint that it says nothing of."""
    return _covers(block, facts) if isinstance(applies, Unknown) else applies is True


def _covers(block: w.Block, facts: Facts) -> bool:
    patterns = [opening.pattern for grant in block.grants for opening in grant.openings]
    if isinstance(block, k.AgentBlock):
        patterns += [pattern for delegate in block.delegates for pattern in delegate.patterns]
    return any(match_pattern(pattern, facts.request.endpoint) is not None for pattern in patterns)


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
            return lift(lambda _, groups: is_element(groups, group, facts), agent.id, agent.groups)
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
    held = facts.work.set_of(agent.scopes).keys if isinstance(agent.scopes, tuple) else ()
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
    speakers = tuple(Speaker.of(block, facts) for block in facts.kernel.agents) if agents else ()
    hops = tuple(_hop(one, then, speakers, facts) for one, then in pairwise((*agents, presenter)))
    limits = [seen for limits in facts.kernel.delegation for seen in _limits(limits, agents, presenter)]
    if not recorded:
        limits = [replace(seen, holds=Unknown.of("chain.depth", NOT_RECORDED)) for seen in limits]
    return hops, True, tuple(limits)


@dataclass(frozen=True, slots=True)
class Speaker:
    """A block that may speak for hops: whether it covers the endpoint, and the steps that each hop takes of it. `other`
    is what is seen of it where it is about another name."""

    block: k.AgentBlock
    covers: bool
    who_steps: int
    steps: int
    other: w.BlockSeen

    @staticmethod
    def of(block: k.AgentBlock, facts: Facts) -> Speaker:
        other = w.BlockSeen(block, False, (), ())
        return Speaker(block, _covers(block, facts), who_steps(block), hop_steps(block), other)

    def may_be_about(self, agent: w.Agent) -> bool:
        """False for what is about another name, which is all that is asked of it."""
        who = self.block.who
        return not isinstance(who, k.Called) or isinstance(agent.id, Unknown) or who.name == agent.id


def _hop(agent: w.Agent, then: w.Agent, speakers: Iterable[Speaker], facts: Facts) -> w.HopSeen:
    """As in a loop: what is read for each hop anew counts."""
    facts = replace(facts_of_hop(facts, agent), looping=True)
    seen = [_at_hop(one, agent, then, facts) if one.may_be_about(agent) else one.other for one in speakers]
    return w.HopSeen(agent, then, tuple(seen))


def _at_hop(speaker: Speaker, agent: w.Agent, then: w.Agent, facts: Facts) -> w.BlockSeen:
    """A block that is about somebody else, or may be and says nothing of the endpoint, is asked for nothing more."""
    facts.work.rule = block = speaker.block
    evaluated = isinstance(block.who, k.Where) and not isinstance(agent.id, Unknown)
    lacking = facts.work.lacks(speaker.who_steps) if evaluated else None
    applies = lacking or _applies(block, facts, agent)
    if lacking is None and (applies is True or (isinstance(applies, Unknown) and speaker.covers)):
        lacking = facts.work.lacks(speaker.steps)
        if lacking is None:
            seen = _block(block, facts, agent, False, applies=applies)
            return replace(seen, delegates=_delegates(block, agent, then, facts))
    return w.BlockSeen(block, lacking or applies, (), ())


def _delegates(block: k.AgentBlock, agent: w.Agent, then: w.Agent, facts: Facts) -> tuple[w.DelegateSeen, ...]:
    def one(delegate: k.Delegate) -> w.DelegateSeen:
        covers = any(match_pattern(pattern, facts.request.endpoint) is not None for pattern in delegate.patterns)
        lasts = True if delegate.lifetime is None else lift(lambda age: age <= delegate.lifetime, agent.age)
        condition = True if delegate.when is None else value(delegate.when, facts)
        return w.DelegateSeen(delegate, covers, _is(then, delegate.to, facts), lasts, condition)

    return tuple(one(delegate) for delegate in block.delegates)


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


def _task(facts: Facts) -> tuple[w.TaskBoundSeen, ...]:
    if "task" not in facts.request.facts:
        return ()
    facts.work.rule = None
    bounds = tasks.bounds_of(facts.request.endpoint, facts.bound, facts.kernel.entities)
    return tuple(w.TaskBoundSeen(one, value(one.outside, facts)) for one in bounds)


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
        facts.work.rule = guard
        return w.GuardSeen(guard, True, tuple(seen(guard, *numbered) for numbered in enumerate(guard.effects)))

    covers = {id(guard) for guard in covering}
    return tuple(of(one) if id(one) in covers else w.GuardSeen(one, False, ()) for one in facts.kernel.guards)
