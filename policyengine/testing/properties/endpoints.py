"""The endpoints of generated requests: concrete endpoints for every pattern, with the rules that cover them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

from policyengine import kernel as k
from policyengine.runtime.endpoints import ActionEndpoint, Endpoint, HttpEndpoint, ToolEndpoint
from policyengine.spec.match_endpoint import match_pattern, place_covers
from policyengine.testing.properties.random_source import RandomSource

METHODS_TO_TRY = ("GET", "POST", "DELETE", "PUT", "PATCH")
WILDCARD_TEXT = "x"
FIRST_ID = "1"
Block: TypeAlias = k.AgentBlock | k.UserBlock | k.AnyoneBlock


@dataclass(frozen=True, slots=True)
class ConcreteHttp:
    method: str
    segments: tuple[str, ...]

    @property
    def path(self) -> str:
        return "/" + "/".join(self.segments)

    @property
    def endpoint(self) -> Endpoint:
        return HttpEndpoint(self.method, self.path, self.segments)

    @property
    def members(self) -> Mapping[str, Mapping[str, object]]:
        return {"request": {"method": self.method, "path": self.path}}


@dataclass(frozen=True, slots=True)
class ConcreteTool:
    qualified: str

    @property
    def endpoint(self) -> Endpoint:
        server, slash, name = self.qualified.partition("/")
        return ToolEndpoint(server, name) if slash else ToolEndpoint(None, self.qualified)

    @property
    def members(self) -> Mapping[str, Mapping[str, object]]:
        server, slash, name = self.qualified.partition("/")
        return {"tool": {"server": server, "name": name} if slash else {"name": self.qualified}}


@dataclass(frozen=True, slots=True)
class ConcreteAction:
    verb: str
    type: str
    id: str

    @property
    def endpoint(self) -> Endpoint:
        return ActionEndpoint(self.verb, self.type)

    @property
    def members(self) -> Mapping[str, Mapping[str, object]]:
        return {"action": {"name": self.verb}, "resource": {"type": self.type, "id": self.id}}


ConcreteEndpoint: TypeAlias = ConcreteHttp | ConcreteTool | ConcreteAction


@dataclass(frozen=True, slots=True)
class CoveringGrant:
    """A `may` that covers an endpoint, and the scopes that carry it."""

    block: Block
    grant: k.Grant
    carriers: tuple[str, ...]


@dataclass(frozen=True)
class EndpointContext:
    """One endpoint of a pattern, with all rules that cover it."""

    spot: ConcreteEndpoint
    kernel: k.Kernel

    @cached_property
    def doors(self) -> tuple[CoveringGrant, ...]:
        """The grants that cover this endpoint."""
        return tuple(door for block in policy_blocks(self.kernel) for door in self._doors(block))

    @cached_property
    def for_users(self) -> tuple[CoveringGrant, ...]:
        return tuple(door for door in self.doors if isinstance(door.block, k.UserBlock))

    @cached_property
    def hops(self) -> tuple[tuple[CoveringGrant, k.DelegationGrant], ...]:
        """The grants of agents that may delegate them at this endpoint."""
        return tuple(
            (door, delegate)
            for door in self.doors
            if isinstance(door.block, k.AgentBlock)
            for delegate in door.block.delegates
            if any(self.is_at(pattern) for pattern in delegate.patterns)
        )

    @cached_property
    def guards(self) -> tuple[k.Guard, ...]:
        return tuple(guard for guard in self.kernel.guards if place_covers(guard.place, self.spot.endpoint))

    @cached_property
    def binders(self) -> tuple[k.Binder, ...]:
        return tuple(binder for binder in self.kernel.binders if self.is_at(binder.pattern))

    @cached_property
    def resource_type(self) -> str | None:
        if isinstance(self.spot, ConcreteAction):
            return self.spot.type
        bound = [binder.resource[0] for binder in self.binders if binder.resource is not None]
        made = [node.type for binder in self.binders for path, node in binder.facts
                if path == ("resource",) and isinstance(node, k.Call)]  # fmt: skip
        return next(iter([*bound, *(name for type_ in made for name in getattr(type_, "entities", ()))]), None)

    def is_at(self, pattern: k.Pattern) -> bool:
        return match_pattern(pattern, self.spot.endpoint) is not None

    def _doors(self, block: Block) -> Iterator[CoveringGrant]:
        for grant in block.grants:
            covering = [opening for opening in grant.openings if self.is_at(opening.pattern)]
            if covering:
                yield CoveringGrant(block, grant, tuple(dict.fromkeys(s for one in covering for s in one.carriers)))


def policy_blocks(kernel: k.Kernel) -> Iterator[Block]:
    yield from kernel.agents
    yield from kernel.users
    yield from kernel.anyones


def endpoint_contexts(kernel: k.Kernel) -> tuple[EndpointContext, ...]:
    """Return an endpoint for every pattern and method, in policy order."""
    spots = dict.fromkeys(spot for pattern in policy_patterns(kernel) for spot in concrete_endpoints(pattern))
    return tuple(EndpointContext(spot, kernel) for spot in spots)


def policy_patterns(kernel: k.Kernel) -> Iterator[k.Pattern]:
    for block in policy_blocks(kernel):
        yield from (opening.pattern for grant in block.grants for opening in grant.openings)
        delegates = block.delegates if isinstance(block, k.AgentBlock) else ()
        yield from (pattern for delegate in delegates for pattern in delegate.patterns)
    for guard in kernel.guards:
        yield from (*(guard.place.patterns or ()), *guard.place.excepts)
    yield from (binder.pattern for binder in kernel.binders)


def concrete_endpoints(pattern: k.Pattern) -> Iterator[ConcreteEndpoint]:
    match pattern:
        case k.HttpPattern(methods, segments, rest):
            inside = tuple(s.prefix + FIRST_ID + s.suffix if s.wild else s.prefix for s in segments)
            for method in methods or METHODS_TO_TRY:
                yield ConcreteHttp(method, inside)
                yield from [ConcreteHttp(method, (*inside, WILDCARD_TEXT))] if rest else []
        case k.ToolPattern(glob):
            yield ConcreteTool(glob.replace("*", WILDCARD_TEXT))
        case k.ActionPattern(verb, type_):
            yield ConcreteAction(verb, type_, FIRST_ID)


def neighbouring_endpoint(spot: ConcreteEndpoint, choose: RandomSource) -> ConcreteEndpoint:
    """Return a similar endpoint that a pattern may cover or miss by mistake."""
    match spot:
        case ConcreteHttp(method, segments):
            shorter = ConcreteHttp(method, segments[:-1]) if len(segments) > 1 else spot
            respelled = ConcreteHttp(method, tuple(one.swapcase() if choose.chance(2) else one for one in segments))
            method = choose.of([one for one in METHODS_TO_TRY if one != method])
            return choose.of(
                [
                    ConcreteHttp(method, segments),
                    ConcreteHttp(spot.method, (*segments, WILDCARD_TEXT)),
                    shorter,
                    respelled,
                ]
            )
        case ConcreteTool(name):
            return ConcreteTool(f"{name}_{WILDCARD_TEXT}")
        case ConcreteAction():
            return replace(spot, verb=f"{spot.verb}_{WILDCARD_TEXT}")


def with_capture(spot: ConcreteHttp, binders: Iterable[k.Binder], name: str, text: str) -> ConcreteHttp | None:
    """Return the endpoint with another text for a capture; None if no pattern has the capture, or if a path cannot
    contain the text.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_@-]*", text):
        return None
    for binder in binders:
        for index, segment in enumerate(binder.pattern.segments if isinstance(binder.pattern, k.HttpPattern) else ()):
            if segment.capture == name:
                filled = segment.prefix + text + segment.suffix
                return replace(spot, segments=(*spot.segments[:index], filled, *spot.segments[index + 1 :]))
    return None
