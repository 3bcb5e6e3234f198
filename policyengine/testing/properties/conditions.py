"""The conditions of a policy and of a claim, and the endpoints to which a claim can apply."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice

from policyengine import kernel as k
from policyengine.entities.store import EntityStore
from policyengine.runtime.paths import CanonicalPath, canonical_path
from policyengine.runtime.request import Request
from policyengine.runtime.snapshot import Snapshot
from policyengine.solver.witness.pools import compared_constants
from policyengine.spec.evaluate import build_facts, evaluate
from policyengine.testcases import Property
from policyengine.testing.properties.endpoints import (
    METHODS_TO_TRY,
    ConcreteEndpoint,
    ConcreteHttp,
    EndpointContext,
    policy_blocks,
)

ANY_TIME = datetime(2026, 1, 1, tzinfo=UTC)


def policy_conditions(kernel: k.Kernel) -> Iterator[k.Expr]:
    for block in policy_blocks(kernel):
        if not isinstance(block, k.AnyoneBlock):
            yield from [block.who.condition] if isinstance(block.who, k.PrincipalCondition) else []
            yield from (one.condition for one in block.requirements if isinstance(one, k.ActsFor) and one.condition)
        yield from (grant.when for grant in block.grants if grant.when is not None)
        delegates = block.delegates if isinstance(block, k.AgentBlock) else ()
        yield from (delegate.when for delegate in delegates if delegate.when is not None)
    for guard in kernel.guards:
        yield from (effect.condition for effect in guard.effects if effect.condition is not None)


def relevant_endpoints(
    sites: Sequence[EndpointContext], prop: Property, kernel: k.Kernel
) -> tuple[EndpointContext, ...]:
    """Return the endpoints to which a claim can apply, judged by its conditions on endpoints; all endpoints if none
    matches.
    """
    claims = [] if prop.where is None else list(conjuncts(prop.where))
    every = dict.fromkeys((*named_endpoints(claims), *(site.spot for site in sites)))
    known = {site.spot: site for site in sites}
    here = (known.get(spot) or EndpointContext(spot, kernel) for spot in every)
    return tuple(site for site in here if all(can_hold(claim, site) for claim in claims)) or tuple(sites)


def named_endpoints(claims: Sequence[k.Expr]) -> Iterator[ConcreteEndpoint]:
    """Yield the endpoints that a claim names, and one example for a pattern."""
    for node in (inner for claim in claims for inner in k.walk(claim)):
        for leaf, held in compared_constants(node):
            if isinstance(leaf, k.Fact) and leaf.path == ("request", "path") and isinstance(held, str):
                yield from endpoints_at_path(held)
        match node:
            case k.Relation(_, k.Fact(("request", "path")), k.Constant(str() as text)):
                for sample in islice(node.row.samples(text), 1):
                    yield from endpoints_at_path(sample)


def endpoints_at_path(text: str) -> Iterator[ConcreteEndpoint]:
    found = canonical_path(text)
    if isinstance(found, CanonicalPath) and found.path == text:
        yield from (ConcreteHttp(method, found.segments) for method in METHODS_TO_TRY)


def conjuncts(node: k.Expr) -> Iterator[k.Expr]:
    """Yield the conjuncts of a condition."""
    match node:
        case k.And(items):
            for item in items:
                yield from conjuncts(item)
        case k.DefinitionRef(_, inner) | k.Not(k.Not(inner)):
            yield from conjuncts(inner)
        case k.Not(k.Or(items)):
            for item in items:
                yield from conjuncts(k.Not(item, span=item.span))
        case _:
            yield node


def can_hold(claim: k.Expr, site: EndpointContext) -> bool:
    read = [node for node in k.walk(claim) if isinstance(node, k.Fact)]
    if read and all(is_of_endpoint(fact) for fact in read):
        request = Request.from_mapping(site.spot.members)
        facts = build_facts(site.kernel, request, Snapshot(EntityStore()), ANY_TIME)
        return evaluate(claim, facts) is True
    return all(is_available(node, site) for node in k.walk(claim)) or mentions_absence(claim)


def is_of_endpoint(fact: k.Fact) -> bool:
    match fact.path:
        case ("tool",) | ("tool", "name" | "server") | ("request", "method" | "path"):
            return True
        case _:
            return False


def is_available(node: k.Expr, site: EndpointContext) -> bool:
    """Return whether a part of the claim can be known at the endpoint: its resource is bound, and its captures are in
    the path.
    """
    match node:
        case k.Fact(("resource",)):
            return site.resource_type is not None
        case k.Fact(("params", name)):
            return any(
                segment.capture == name
                for binder in site.binders
                if isinstance(binder.pattern, k.HttpPattern)
                for segment in binder.pattern.segments
            )
        case k.Fact(("chain", "depth" | "hops")):
            return bool(site.hops)
        case k.Attribute(k.Fact(("resource",)), name) if name != "id":
            declared = site.kernel.entities.get(site.resource_type or "")
            return declared is not None and declared.field(name) is not None
        case _:
            return True


def mentions_absence(claim: k.Expr) -> bool:
    return any(isinstance(node, k.IsPresent | k.Default) for node in k.walk(claim))
