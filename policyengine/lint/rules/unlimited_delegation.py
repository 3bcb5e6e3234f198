"""Unlimited delegation: chains of any depth, and delegations that never expire."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from policyengine import kernel as k
from policyengine.diagnostics.model import Diagnostic


def no_depth(kernel: k.Kernel) -> Iterator[Diagnostic]:
    """Yield at most one W459, because one limit applies to all chains."""
    if any(limits.depth is not None for limits in kernel.delegation):
        return
    for delegate in islice((one for agent in kernel.agents for one in agent.delegates), 1):
        hint = "add `delegation { depth <= 3   lifetime <= 1h   no cycles }`"
        yield Diagnostic("W459", "no limit on the number of agents in a delegation chain", delegate.span, hint)


def open_delegations(kernel: k.Kernel) -> Iterator[Diagnostic]:
    if any(limits.lifetime is not None for limits in kernel.delegation):
        return
    for delegate in (one for agent in kernel.agents for one in agent.delegates):
        if delegate.lifetime is None:
            hint = "add `for 30m`, or a limit for all chains: `delegation { lifetime <= 1h }`"
            yield Diagnostic("W460", "this delegation never expires", delegate.span, hint)
