"""Finds the requests whose body the policy reads: only their bodies are read before the decision."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import TypeAlias

from policyengine import kernel as k
from policyengine.engine import Engine
from policyengine.runtime.endpoints import Endpoint, HttpEndpoint, read_endpoint
from policyengine.spec.match_endpoint import match_pattern, place_covers

EndpointPredicate: TypeAlias = Callable[[Endpoint], bool]
GrantBlock: TypeAlias = k.AgentBlock | k.UserBlock | k.AnyoneBlock


def looks_into_bodies(decides: object) -> Callable[[str, str], bool]:
    """Return a predicate of method and path: whether the policy may read the body there. A decision point that is not
    an Engine may read every body.
    """
    if not isinstance(decides, Engine):
        return lambda method, path: True
    covering = list(body_readers(decides.kernel))

    def looks(method: str, path: str) -> bool:
        endpoint = read_endpoint({"request": {"method": method, "path": path}})
        return isinstance(endpoint, HttpEndpoint) and any(covers(endpoint) for covers in covering)

    return looks if covering else lambda method, path: False


def body_readers(kernel: k.Kernel) -> Iterator[EndpointPredicate]:
    """Yield a predicate for each rule that reads the body, even if only in its message or for an approval."""
    for placed in (*kernel.guards, *kernel.limits):
        if reads_body(placed):
            yield lambda endpoint, place=placed.place: place_covers(place, endpoint)  # type: ignore[misc]
    for binder in kernel.binders:
        if reads_body(binder):
            yield lambda endpoint, pattern=binder.pattern: match_pattern(pattern, endpoint, "full") is not None  # type: ignore[misc]
    blocks: tuple[GrantBlock, ...] = (*kernel.agents, *kernel.users, *kernel.anyones)
    for block in blocks:
        yield from body_readers_of_block(block)
    if any(reads_body(watch) for watch in kernel.watches):
        yield lambda endpoint: True


def body_readers_of_block(block: GrantBlock) -> Iterator[EndpointPredicate]:
    for grant in block.grants:
        if reads_body(grant.when):
            patterns = [opening.pattern for opening in grant.openings]
            yield lambda endpoint, these=patterns: any(match_pattern(one, endpoint) is not None for one in these)  # type: ignore[misc]
    rest = [getattr(block, name, None) for name in ("who", "requirements", "delegates")]
    if any(reads_body(part) for part in rest):
        yield lambda endpoint: True


def reads_body(part: object) -> bool:
    """Return whether the part contains a fact of the body at any depth, or an approval bound to the whole body."""
    match part:
        case k.Fact(path) | k.BoundObject(path):
            return path[0] == "body"
        case k.Confirm(bound=None):
            return True
        case tuple() | list() | frozenset():
            return any(reads_body(one) for one in part)
        case _ if is_dataclass(part):
            return any(reads_body(getattr(part, one.name)) for one in fields(part))
        case _:
            return False
