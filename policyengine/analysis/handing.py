"""Chains for questions: agents that may have handed the work on to a caller."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from policyengine.analysis.endpoints import Class
from policyengine.analysis.rewriting import Settled
from policyengine.analysis.sides import Unit, carriers_of
from policyengine.runtime.patterns import Glob
from policyengine.semantics import kernel as k

MOST_HOPS = 12
SHORTLY = timedelta(minutes=1)

Hop = dict[str, Any]


def hops_for(at: Class, settled: Settled, units: Sequence[Unit], now: datetime) -> Iterator[list[Hop]]:
    """Chains of one agent, and of two where one hands on to another; first those that hand on to the caller."""
    handing = [unit for unit in units if unit.kind == "delegate"]
    to_caller = [unit for unit in handing if names(unit, settled.agent)]
    made = 0
    for unit in dict.fromkeys([*to_caller, *handing]):
        for age in ages(unit):
            hop = hop_of(unit, at, now - age)
            if hop is not None and made < MOST_HOPS:
                made += 1
                yield [hop]
                before = next((hop_of(one, at, now - age) for one in handing if names(one, hop["agent"])), None)
                if before is not None:
                    yield [before, hop]
    if not made:
        yield [{"agent": "some-agent", "issuer": "nobody", "scopes": [], "issued_at": now - SHORTLY}]


def names(unit: Unit, agent: object) -> bool:
    delegate = unit.part
    if not isinstance(delegate, k.Delegate) or not isinstance(agent, str):
        return False
    match delegate.to:
        case k.Called(name):
            return name == agent
        case k.CalledLike(glob):
            return Glob(glob).matches(agent)
        case _:
            return True


def ages(unit: Unit) -> Iterator[timedelta]:
    yield SHORTLY
    if isinstance(unit.part, k.Delegate) and unit.part.lifetime is not None:
        yield from (unit.part.lifetime, unit.part.lifetime + SHORTLY)


def hop_of(unit: Unit, at: Class, issued_at: datetime) -> Hop | None:
    block = unit.block
    if not isinstance(block, k.AgentBlock):
        return None
    issuers = [issuer for one in block.requirements if isinstance(one, k.IssuedBy) for issuer in one.issuers]
    scopes = sorted({name for grant in block.grants for name in carriers_of(grant, at) or ()})
    hop: Hop = {"issuer": issuers[0] if issuers else "nobody", "scopes": scopes, "issued_at": issued_at}
    match block.who:
        case k.Called(name):
            return {**hop, "agent": name}
        case k.CalledLike(glob):
            return {**hop, "agent": glob.replace("*", "x")}
        case k.InGroup(group):
            return {**hop, "agent": "some-agent", "groups": [group]}
        case _:
            return {**hop, "agent": "some-agent"}
