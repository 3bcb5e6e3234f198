"""May this be handed on? The specification is asked, about the token that would be issued, endpoint by endpoint.

What a request will bring (its body, what it is about, the time, an attestation) is pending: a condition that rests on
nothing else may still hold, and is decided with each request. What is known now has to hold now.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from typing import Any, TypeAlias, TypeVar, assert_never

from policyengine import kernel as k
from policyengine.entities.lookup import Looking
from policyengine.entities.store import Directory
from policyengine.identity.issue.errors import Unissued
from policyengine.runtime.endpoints import ActionEndpoint, Endpoint, HttpEndpoint, ToolEndpoint
from policyengine.runtime.history import NOT_READ
from policyengine.runtime.request import Request
from policyengine.runtime.snapshot import Snapshot
from policyengine.runtime.values import PENDING, Unknown, Value
from policyengine.spec import trace as w
from policyengine.spec.evaluate import facts_of
from policyengine.spec.facts import Path
from policyengine.spec.match import match_pattern
from policyengine.spec.reference import walk

ANYTHING = "\ue000"  # stands for what a pattern leaves open: nobody writes it in one
MOST_ENDPOINTS = 1_000  # that one request for a token is about
MOST_BLOCKS = 100_000  # of which is known what is about an endpoint
LATER = frozenset({"pending", NOT_READ})
OF_REQUESTS = ("action", "args", "attestation", "body", "context", "request", "resource", "tool")
FOREVER, SHORTEST = timedelta.max, timedelta(seconds=1)


AnyBlock = TypeVar("AnyBlock", k.AgentBlock, k.UserBlock)


@dataclass(frozen=True, slots=True)
class HandedOn:
    """For how long at most, from now; None: the policy does not say."""

    lasts: timedelta | None


Answer: TypeAlias = HandedOn | Unissued


@dataclass(frozen=True)
class Handing:
    kernel: k.Kernel
    directory: Directory

    def asked(self, roots: Mapping[str, object], scopes: Sequence[str], now: int) -> dict[str, Answer]:
        """Of each scope whether a token with these facts (`agent`, `user`, `chain`, `credential`) may be issued. One
        waits no longer for rows of the directory than a decision does, however many endpoints are asked about."""
        walked = partial(self._walked, self._about(roots), roots, self.directory.looking(), now)
        found: dict[str, Answer] = {}
        room = MOST_ENDPOINTS
        for scope in scopes:
            endpoints = self.endpoints.get(scope, ())
            room -= len(endpoints)
            found[scope] = scope_of(map(walked, endpoints)) if endpoints and room >= 0 else Unissued.SCOPE
        return found

    @cached_property
    def endpoints(self) -> Mapping[str, tuple[Endpoint, ...]]:
        """What a scope of credentials carries, by its name there: a sample of each pattern."""
        found: dict[str, dict[Endpoint, None]] = {}
        blocks: tuple[w.Block, ...] = (*self.kernel.agents, *self.kernel.users, *self.kernel.anyones)
        for grant in (grant for block in blocks for grant in block.grants):
            for opening in grant.openings:
                for scope in opening.carriers:
                    found.setdefault(scope, {}).update(dict.fromkeys(samples(opening.pattern)))
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
        """Only the blocks that somebody in the chain could be, and nothing that is decided with each request."""
        names = set(names_in(roots))

        def could_be(block: k.AgentBlock | k.UserBlock) -> bool:
            return not isinstance(block.who, k.Called) or block.who.name in names

        agents = tuple(block for block in self.kernel.agents if could_be(block))
        users = tuple(block for block in self.kernel.users if could_be(block))
        return replace(
            self.kernel, agents=agents, users=users, anyones=(), guards=(), limits=(), watches=(), binders=()
        )

    def _at(self, about: k.Kernel, endpoint: Endpoint) -> k.Kernel:
        """With what is about the endpoint: what does not cover it opens nothing and hands nothing on, and a policy of
        many endpoints is asked about many of them."""
        return replace(
            about,
            agents=tuple(self._block_at(block, endpoint) for block in about.agents),
            users=tuple(self._block_at(block, endpoint) for block in about.users),
        )

    def _block_at(self, block: AnyBlock, endpoint: Endpoint) -> AnyBlock:
        key = id(block), endpoint
        found = self._blocks.get(key)
        if found is None:
            if len(self._blocks) >= MOST_BLOCKS:
                self._blocks.clear()
            found = self._blocks[key] = block_at(block, endpoint)
        return found

    @cached_property
    def _blocks(self) -> dict[tuple[int, Endpoint], Any]:
        """By a block of the kernel, which stays, and an endpoint."""
        return {}

    def _walked(
        self, about: k.Kernel, roots: Mapping[str, object], looking: Looking | None, now: int, endpoint: Endpoint
    ) -> w.Walk:
        request = Request(endpoint, {**dict.fromkeys(OF_REQUESTS, PENDING), **roots})
        about, moment = self._at(about, endpoint), datetime.fromtimestamp(now, UTC)
        while True:
            snapshot = Snapshot(self.directory if looking is None else looking)
            seen = walk(facts_of(about, request, snapshot, moment).bind(self._pending), snapshot)
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


# ── What the specification saw ────────────────────────────────────────────────────────────────


def scope_of(walks: Iterable[w.Walk]) -> Answer:
    """Of all endpoints of a scope: each has to be handed on."""
    lasts = FOREVER
    for seen in walks:
        answer = handed_on(seen)
        if isinstance(answer, Unissued):
            return answer
        lasts = min(lasts, FOREVER if answer.lasts is None else answer.lasts)
    return HandedOn(None if lasts == FOREVER else lasts)


def handed_on(seen: w.Walk) -> Answer:
    opening = [block for block in seen.presenter if opens(block)]
    if not opening:
        return Unissued.ACTOR_BLOCK
    if seen.user is not None and not seen.user_waived and not any(map(opens, seen.user)):
        return Unissued.USER_DOOR
    if seen.chain_known is not True:
        return Unissued.DELEGATION
    ends = [max(map(lifetime_of, opening))]
    for hop in seen.hops:
        handing = [one for block in hop.blocks if stands(block) for one in block.delegates if hands_on(one)]
        if not handing or not any(map(opens, hop.blocks)):
            return Unissued.DELEGATION
        ends.append(max(left(one.delegate.lifetime, hop.agent.age) for one in handing))
    if not all(limit.holds is True for limit in seen.limits):
        return Unissued.DELEGATION_LIMIT
    ends += [left(one.limits.lifetime, hop.agent.age) for one in seen.limits for hop in seen.hops]
    if min(ends) < SHORTEST:
        return Unissued.DELEGATION
    return HandedOn(None if min(ends) == FOREVER else min(ends))


def may_hold(value: Value) -> bool:
    """It holds, or does not hold yet for want of what only a request will say."""
    return value is True or (isinstance(value, Unknown) and all(cause.why in LATER for cause in value.causes))


def stands(block: w.BlockSeen) -> bool:
    return may_hold(block.applies) and all(may_hold(one.holds) for one in block.requirements)


def opens(block: w.BlockSeen) -> bool:
    return stands(block) and any(one.covers and one.carried and may_hold(one.condition) for one in block.grants)


def hands_on(seen: w.DelegateSeen) -> bool:
    return seen.covers and seen.names_next is True and seen.lasts is True and may_hold(seen.condition)


def lifetime_of(block: w.BlockSeen) -> timedelta:
    """How long a credential of the presenter may last, by this block."""
    asked = (one.requirement for one in block.requirements)
    return min((one.limit for one in asked if isinstance(one, k.CredentialLifetime)), default=FOREVER)


def left(limit: timedelta | None, age: Value) -> timedelta:
    if limit is None:
        return FOREVER
    return limit - age if isinstance(age, timedelta) else timedelta(0)


def names_in(roots: Mapping[str, object]) -> Iterator[object]:
    for root in ("agent", "user"):
        told = roots.get(root)
        yield told.get("id") if isinstance(told, Mapping) else None
    chain = roots.get("chain")
    hops = chain.get("hops") if isinstance(chain, Mapping) else None
    yield from (one.get("agent") for one in hops or () if isinstance(one, Mapping))


# ── Endpoints ─────────────────────────────────────────────────────────────────────────────────


def samples(pattern: k.Pattern) -> Iterable[Endpoint]:
    """Endpoints that a pattern matches, and no narrower one does."""
    match pattern:
        case k.HttpPattern(methods, segments, rest):
            base = tuple(f"{one.prefix}{ANYTHING}{one.suffix}" if one.wild else one.prefix for one in segments)
            paths = (base, (*base, ANYTHING, ANYTHING)) if rest else (base,)
            return [
                HttpEndpoint(method, "/" + "/".join(path), path) for method in methods or ("GET",) for path in paths
            ]
        case k.ToolPattern(glob):
            server, slash, name = glob.replace("*", ANYTHING).rpartition("/")
            return [ToolEndpoint(server if slash else None, name)]
        case k.ActionPattern(verb, type_):
            return [ActionEndpoint(verb, type_)]
        case _:
            assert_never(pattern)
