"""The halt that covers a request, as the specification finds it."""

from __future__ import annotations

from functools import partial

from policyengine import kernel as k
from policyengine.runtime.endpoints import Endpoint
from policyengine.runtime.halts import Halt, HaltSet, find_halt
from policyengine.runtime.request import Request
from policyengine.spec.match_endpoint import match_pattern


def halt_of(kernel: k.Kernel, request: Request, halts: HaltSet | None) -> Halt | None:
    """Return the halt that covers the request; None if no halt does."""
    if halts is None:
        return None
    return find_halt(halts, request, issuer_urls(kernel), partial(opening_packages, kernel, request.endpoint))


def issuer_urls(kernel: k.Kernel) -> dict[str, str | None]:
    return {name: issuer.url for name, issuer in kernel.issuers.items()}


def opening_packages(kernel: k.Kernel, endpoint: Endpoint) -> set[str]:
    """Return the packages with a block that opens the endpoint for at least one caller."""
    blocks: tuple[k.AgentBlock | k.UserBlock | k.AnyoneBlock, ...] = (*kernel.agents, *kernel.users, *kernel.anyones)
    return {
        block.package
        for block in blocks
        for grant in block.grants
        if any(match_pattern(opening.pattern, endpoint) is not None for opening in grant.openings)
    }
