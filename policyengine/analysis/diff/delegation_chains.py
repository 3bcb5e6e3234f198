"""Chains for questions: agents that may have handed the work on to a caller."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from policyengine import kernel as k
from policyengine.analysis.diff.callers import Caller
from policyengine.analysis.diff.endpoint_classes import Class
from policyengine.analysis.diff.specialize import Settled
from policyengine.analysis.diff.units import Unit, carriers_of
from policyengine.runtime.patterns import Glob

MOST_CHAINS = 24
LONGEST_CHAIN = 4  # of agents before the caller
SHORTLY = timedelta(minutes=1)

Hop = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Handing:
    """Who hands work on to a caller there: nobody (`none`), and whether both policies say the same of all who might."""

    none: bool
    same: bool

    @classmethod
    def of(cls, caller: Caller, old: Sequence[Unit], new: Sequence[Unit], settled: bool) -> Handing:
        none = not any(unit.kind == "delegate" and names(unit, caller.settled.agent) for unit in (*old, *new))
        return cls(none, settled and sorted(links(old)) == sorted(links(new)))


def links(units: Sequence[Unit]) -> Iterator[str]:
    """What chains rest on: who may hand it on, and all doors of those, whichever block they stand in."""
    handing = [unit.block for unit in units if unit.kind == "delegate"]
    for unit in units:
        if unit.kind == "delegate" or (unit.kind == "agent" and any(may_be_one(unit.block, one) for one in handing)):
            yield unit.text


def may_be_one(block: object, other: object) -> bool:
    """Whether two blocks may be about the same agent."""
    assert isinstance(block, k.AgentBlock)
    assert isinstance(other, k.AgentBlock)
    match block.who, other.who:
        case (k.Called(name), k.Called(another)):
            return name == another
        case (k.Called(name), k.CalledLike(glob)) | (k.CalledLike(glob), k.Called(name)):
            return Glob(glob).matches(name)
        case _:
            return True


def hops_for(
    at: Class, settled: Settled, units: Sequence[Unit], limits: Sequence[k.DelegationLimits], now: datetime
) -> Iterator[list[Hop]]:
    """Chains of agents of which each hands on to the next, the last one to the caller; of others at least one agent."""
    handing = list(dict.fromkeys(unit for unit in units if unit.kind == "delegate"))
    lifetimes = [one.lifetime for one in limits if one.lifetime is not None]
    made = 0
    for chain in chains(handing, at, settled.agent):
        for age in ages(chain, lifetimes):
            hops = [hop_of(unit, at, now - age) for unit in chain]
            if made < MOST_CHAINS:
                made += 1
                yield hops
    if not made:
        yield from ([hop_of(unit, at, now - SHORTLY)] for unit in handing[:1])
        yield [{"agent": "some-agent", "issuer": "nobody", "scopes": [], "issued_at": now - SHORTLY}]


def chains(handing: Sequence[Unit], at: Class, agent: object) -> Iterator[list[Unit]]:
    """The shortest first; whoever hands on in a circle stands there more than once."""
    pending: list[list[Unit]] = [[unit] for unit in handing if names(unit, agent)]
    while pending:
        yield from pending
        longer = [
            [unit, *chain] for chain in pending if len(chain) < LONGEST_CHAIN
            for unit in handing if names(unit, name_of(chain[0]))
        ]  # fmt: skip
        pending = longer[:MOST_CHAINS]


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


def ages(chain: Sequence[Unit], lifetimes: Sequence[timedelta]) -> list[timedelta]:
    """Shortly, and as old as any bound allows, and older."""
    own = [unit.part.lifetime for unit in chain if isinstance(unit.part, k.Delegate)]
    bounds = dict.fromkeys(one for one in (*own, *lifetimes) if one is not None)
    return [SHORTLY, *(age for bound in bounds for age in (bound, bound + SHORTLY))]


def name_of(unit: Unit) -> str:
    assert isinstance(unit.block, k.AgentBlock)
    match unit.block.who:
        case k.Called(name):
            return name
        case k.CalledLike(glob):
            return glob.replace("*", "x")
        case _:
            return "some-agent"


def hop_of(unit: Unit, at: Class, issued_at: datetime) -> Hop:
    block = unit.block
    assert isinstance(block, k.AgentBlock)
    issuers = [issuer for one in block.requirements if isinstance(one, k.IssuedBy) for issuer in one.issuers]
    scopes = sorted({name for grant in block.grants for name in carriers_of(grant, at) or ()})
    hop: Hop = {"agent": name_of(unit), "issuer": issuers[0] if issuers else "nobody"}
    groups = {"groups": [block.who.group]} if isinstance(block.who, k.InGroup) else {}
    return {**hop, "scopes": scopes, "issued_at": issued_at, **groups}
