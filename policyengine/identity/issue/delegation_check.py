"""Decides whether authority may be delegated: evaluates the specification at each endpoint for the new token.

Facts that only a later request brings (body, resource, time, attestation) are pending: a condition that depends only on
such facts may hold, and each request decides it. A condition on facts that are already known must hold now.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from typing import Any, TypeAlias, TypeVar, assert_never

from policyengine import kernel as k
from policyengine.entities.lookup import LookupEntityStore
from policyengine.entities.store import EntityStore
from policyengine.identity.issue.errors import IssuanceRefusal
from policyengine.identity.verified import PRINCIPAL_ROOTS
from policyengine.runtime.endpoints import ActionEndpoint, Endpoint, HttpEndpoint, ToolEndpoint
from policyengine.runtime.history import NOT_READ
from policyengine.runtime.request import Request
from policyengine.runtime.snapshot import Snapshot
from policyengine.runtime.values import PENDING, Unknown, Value
from policyengine.spec import trace as w
from policyengine.spec.evaluate import build_facts
from policyengine.spec.facts import Path
from policyengine.spec.match_endpoint import match_pattern
from policyengine.spec.reference import trace_request
from policyengine.vocabulary import ROOTS

ANY_NAME = "\ue000"  # a private-use character, which no pattern contains, for the open part of a pattern
MAX_ENDPOINTS = 1_000  # maximum number of endpoints per token request
MAX_CACHED_BLOCKS = 100_000  # maximum number of cached pairs of a block and an endpoint
KNOWN_LATER = frozenset({"pending", NOT_READ})
# Facts that are unknown when a token is issued: all except the facts that the token itself states.
REQUEST_ROOTS = tuple(root for root in ROOTS if root not in (*PRINCIPAL_ROOTS, "task"))
FOREVER, SHORTEST = timedelta.max, timedelta(seconds=1)


AnyBlock = TypeVar("AnyBlock", k.AgentBlock, k.UserBlock)


@dataclass(frozen=True, slots=True)
class DelegationAllowance:
    """The permission to issue a token, with the longest time for which the token may be valid; None if the policy sets
    no limit."""

    lasts: timedelta | None


DelegationResult: TypeAlias = DelegationAllowance | IssuanceRefusal


@dataclass(frozen=True)
class DelegationCheck:
    kernel: k.Kernel
    directory: EntityStore

    def asked(self, roots: Mapping[str, object], scopes: Sequence[str], now: int) -> dict[str, DelegationResult]:
        """Return for each scope whether a token with these facts (`agent`, `user`, `chain`, `credential`) may be
        issued. The whole call waits for rows of the entity store no longer than one decision does, for any number of
        endpoints.
        """
        walked = partial(self._trace_endpoint, self._about(roots), roots, self.directory.looking(), now)
        found: dict[str, DelegationResult] = {}
        room = MAX_ENDPOINTS
        for scope in scopes:
            endpoints = self.endpoints.get(scope, ())
            room -= len(endpoints)
            found[scope] = check_scope(map(walked, endpoints)) if endpoints and room >= 0 else IssuanceRefusal.SCOPE
        return found

    @cached_property
    def endpoints(self) -> Mapping[str, tuple[Endpoint, ...]]:
        """Sample endpoints that each credential scope covers: one or two for each pattern and method."""
        found: dict[str, dict[Endpoint, None]] = {}
        blocks: tuple[w.Block, ...] = (*self.kernel.agents, *self.kernel.users, *self.kernel.anyones)
        for grant in (grant for block in blocks for grant in block.grants):
            for opening in grant.openings:
                for scope in opening.carriers:
                    found.setdefault(scope, {}).update(dict.fromkeys(sample_endpoints(opening.pattern)))
        return {scope: tuple(endpoints) for scope, endpoints in found.items()}

    @cached_property
    def _pending(self) -> dict[Path, object]:
        bound: dict[Path, object] = {("time",): PENDING, ("resource",): PENDING}
        for binder in self.kernel.binders:
            bound |= {path: PENDING for path, _ in binder.facts}
            if isinstance(binder.pattern, k.HttpPattern):
                bound |= {("params", one.capture): PENDING for one in binder.pattern.segments if one.capture}
        return bound

    def _about(self, roots: Mapping[str, object]) -> k.Kernel:
        """Return only the blocks that may match an agent or user of the chain, without rules that are decided per
        request."""
        names = set(iterate_names(roots))

        def could_be(block: k.AgentBlock | k.UserBlock) -> bool:
            return not isinstance(block.who, k.ExactName) or block.who.name in names

        agents = tuple(block for block in self.kernel.agents if could_be(block))
        users = tuple(block for block in self.kernel.users if could_be(block))
        return replace(
            self.kernel, agents=agents, users=users, anyones=(), guards=(), limits=(), watches=(), binders=()
        )

    def _at(self, about: k.Kernel, endpoint: Endpoint) -> k.Kernel:
        """Return only the grants and delegations that cover the endpoint. This only saves time: other rules would have
        no effect, but a scope may cover many endpoints.
        """
        return replace(
            about,
            agents=tuple(self._block_at(block, endpoint) for block in about.agents),
            users=tuple(self._block_at(block, endpoint) for block in about.users),
        )

    def _block_at(self, block: AnyBlock, endpoint: Endpoint) -> AnyBlock:
        key = id(block), endpoint
        found = self._blocks.get(key)
        if found is None:
            if len(self._blocks) >= MAX_CACHED_BLOCKS:
                self._blocks.clear()
            found = self._blocks[key] = block_at(block, endpoint)
        return found

    @cached_property
    def _blocks(self) -> dict[tuple[int, Endpoint], Any]:
        """A cache by block identity and endpoint; the blocks live as long as the kernel."""
        return {}

    def _trace_endpoint(
        self,
        about: k.Kernel,
        roots: Mapping[str, object],
        looking: LookupEntityStore | None,
        now: int,
        endpoint: Endpoint,
    ) -> w.DecisionTrace:
        request = Request(endpoint, {**dict.fromkeys(REQUEST_ROOTS, PENDING), **roots})
        about, moment = self._at(about, endpoint), datetime.fromtimestamp(now, UTC)
        while True:
            snapshot = Snapshot(self.directory if looking is None else looking)
            seen = trace_request(build_facts(about, request, snapshot, moment).bind(self._pending), snapshot)
            if looking is None or not looking.lacking:
                return seen
            looking.fetch()


def block_at(block: AnyBlock, endpoint: Endpoint) -> AnyBlock:
    def about(pattern: k.Pattern) -> bool:
        return match_pattern(pattern, endpoint) is not None

    grants = [
        replace(one, openings=tuple(each for each in one.openings if about(each.pattern))) for one in block.grants
    ]
    found = replace(block, grants=tuple(one for one in grants if one.openings))
    if not isinstance(found, k.AgentBlock):
        return found
    hands = [replace(one, patterns=tuple(filter(about, one.patterns))) for one in found.delegates]
    return replace(found, delegates=tuple(one for one in hands if one.patterns))


# ── Reading the trace ─────────────────────────────────────────────────────────────────────────


def check_scope(walks: Iterable[w.DecisionTrace]) -> DelegationResult:
    """Combine the results of all endpoints of a scope: each must be delegated."""
    lasts = FOREVER
    for seen in walks:
        answer = check_endpoint(seen)
        if isinstance(answer, IssuanceRefusal):
            return answer
        lasts = min(lasts, FOREVER if answer.lasts is None else answer.lasts)
    return DelegationAllowance(None if lasts == FOREVER else lasts)


def check_endpoint(seen: w.DecisionTrace) -> DelegationResult:
    opening = [block for block in seen.presenter if block_grants(block)]
    if not opening:
        return IssuanceRefusal.ACTOR_BLOCK
    if seen.user is not None and not seen.user_waived and not any(map(block_grants, seen.user)):
        return IssuanceRefusal.USER_DOOR
    if seen.chain_known is not True:
        return IssuanceRefusal.DELEGATION
    ends = [max(map(block_lifetime, opening))]
    for hop in seen.hops:
        handing = [
            one for block in hop.blocks if block_stands(block) for one in block.delegates if allows_delegation(one)
        ]
        if not handing or not any(map(block_grants, hop.blocks)):
            return IssuanceRefusal.DELEGATION
        ends.append(max(remaining_lifetime(one.delegate.lifetime, hop.agent.age) for one in handing))
    if not all(limit.holds is True for limit in seen.limits):
        return IssuanceRefusal.DELEGATION_LIMIT
    ends += [remaining_lifetime(one.limits.lifetime, hop.agent.age) for one in seen.limits for hop in seen.hops]
    if min(ends) < SHORTEST:
        return IssuanceRefusal.DELEGATION
    return DelegationAllowance(None if min(ends) == FOREVER else min(ends))


def may_hold(value: Value) -> bool:
    """Return whether the value is true, or is unknown only because a later request decides it."""
    return value is True or (isinstance(value, Unknown) and all(cause.why in KNOWN_LATER for cause in value.causes))


def block_stands(block: w.BlockTrace) -> bool:
    return may_hold(block.applies) and all(may_hold(one.holds) for one in block.requirements)


def block_grants(block: w.BlockTrace) -> bool:
    return block_stands(block) and any(one.covers and one.carried and may_hold(one.condition) for one in block.grants)


def allows_delegation(seen: w.DelegationTrace) -> bool:
    return seen.covers and seen.names_next is True and seen.lasts is True and may_hold(seen.condition)


def block_lifetime(block: w.BlockTrace) -> timedelta:
    """Return the maximum lifetime that this block sets for a credential of the presenter."""
    asked = (one.requirement for one in block.requirements)
    return min((one.limit for one in asked if isinstance(one, k.CredentialLifetime)), default=FOREVER)


def remaining_lifetime(limit: timedelta | None, age: Value) -> timedelta:
    if limit is None:
        return FOREVER
    return limit - age if isinstance(age, timedelta) else timedelta(0)


def iterate_names(roots: Mapping[str, object]) -> Iterator[object]:
    for root in ("agent", "user"):
        told = roots.get(root)
        yield told.get("id") if isinstance(told, Mapping) else None
    chain = roots.get("chain")
    hops = chain.get("hops") if isinstance(chain, Mapping) else None
    yield from (one.get("agent") for one in hops or () if isinstance(one, Mapping))


# ── Endpoints ─────────────────────────────────────────────────────────────────────────────────


def sample_endpoints(pattern: k.Pattern) -> Iterable[Endpoint]:
    """Return endpoints that the pattern matches and that no narrower pattern matches."""
    match pattern:
        case k.HttpPattern(methods, segments, rest):
            base = tuple(f"{one.prefix}{ANY_NAME}{one.suffix}" if one.wild else one.prefix for one in segments)
            paths = (base, (*base, ANY_NAME, ANY_NAME)) if rest else (base,)
            return [
                HttpEndpoint(method, "/" + "/".join(path), path) for method in methods or ("GET",) for path in paths
            ]
        case k.ToolPattern(glob):
            server, slash, name = glob.replace("*", ANY_NAME).rpartition("/")
            return [ToolEndpoint(server if slash else None, name)]
        case k.ActionPattern(verb, type_):
            return [ActionEndpoint(verb, type_)]
        case _:
            assert_never(pattern)
