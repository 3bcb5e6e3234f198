"""Delegation chains for generated requests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from policyengine import kernel as k
from policyengine.analysis.diff.callers import CallerKind
from policyengine.analysis.diff.endpoint_classes import EndpointClass
from policyengine.analysis.diff.rule_units import RuleUnit, carriers_of
from policyengine.analysis.diff.specialize import CallerAssumption
from policyengine.runtime.globs import Glob

MAX_CHAINS = 24
MAX_CHAIN_LENGTH = 4  # agents before the caller
SHORT_AGE = timedelta(minutes=1)

HopData = dict[str, Any]


@dataclass(frozen=True, slots=True)
class DelegatorSummary:
    """The possible delegators of a caller: whether there are none, and whether both policies have the same rules for
    all of them.
    """

    none: bool
    same: bool

    @classmethod
    def of(
        cls, caller: CallerKind, old: Sequence[RuleUnit], new: Sequence[RuleUnit], settled: bool
    ) -> DelegatorSummary:
        none = not any(unit.kind == "delegate" and delegates_to(unit, caller.settled.agent) for unit in (*old, *new))
        return cls(none, settled and sorted(chain_rule_texts(old)) == sorted(chain_rule_texts(new)))


def chain_rule_texts(units: Sequence[RuleUnit]) -> Iterator[str]:
    """Yield the rules on which chains depend: delegations, and all grants of the delegators."""
    handing = [unit.block for unit in units if unit.kind == "delegate"]
    for unit in units:
        if unit.kind == "delegate" or (
            unit.kind == "agent" and any(may_be_same_agent(unit.block, one) for one in handing)
        ):
            yield unit.text


def may_be_same_agent(block: object, other: object) -> bool:
    """Return whether two blocks may cover the same agent."""
    assert isinstance(block, k.AgentBlock)
    assert isinstance(other, k.AgentBlock)
    match block.who, other.who:
        case (k.ExactName(name), k.ExactName(another)):
            return name == another
        case (k.ExactName(name), k.NamePattern(glob)) | (k.NamePattern(glob), k.ExactName(name)):
            return Glob(glob).matches(name)
        case _:
            return True


def sample_hops(
    at: EndpointClass,
    settled: CallerAssumption,
    units: Sequence[RuleUnit],
    limits: Sequence[k.DelegationLimits],
    now: datetime,
) -> Iterator[list[HopData]]:
    """Yield chains of agents that delegate to each other and finally to the caller; without such agents, chains of
    one agent that does not delegate to the caller.
    """
    handing = list(dict.fromkeys(unit for unit in units if unit.kind == "delegate"))
    lifetimes = [one.lifetime for one in limits if one.lifetime is not None]
    made = 0
    for chain in delegate_chains(handing, at, settled.agent):
        for age in hop_ages(chain, lifetimes):
            hops = [make_hop(unit, at, now - age) for unit in chain]
            if made < MAX_CHAINS:
                made += 1
                yield hops
    if not made:
        yield from ([make_hop(unit, at, now - SHORT_AGE)] for unit in handing[:1])
        yield [{"agent": "some-agent", "issuer": "nobody", "scopes": [], "issued_at": now - SHORT_AGE}]


def delegate_chains(handing: Sequence[RuleUnit], at: EndpointClass, agent: object) -> Iterator[list[RuleUnit]]:
    """Yield chains of delegations, the shortest first. They may contain the same agent more than once."""
    pending: list[list[RuleUnit]] = [[unit] for unit in handing if delegates_to(unit, agent)]
    while pending:
        yield from pending
        longer = [
            [unit, *chain] for chain in pending if len(chain) < MAX_CHAIN_LENGTH
            for unit in handing if delegates_to(unit, delegator_name(chain[0]))
        ]  # fmt: skip
        pending = longer[:MAX_CHAINS]


def delegates_to(unit: RuleUnit, agent: object) -> bool:
    delegate = unit.part
    if not isinstance(delegate, k.DelegationGrant) or not isinstance(agent, str):
        return False
    match delegate.to:
        case k.ExactName(name):
            return name == agent
        case k.NamePattern(glob):
            return Glob(glob).matches(agent)
        case _:
            return True


def hop_ages(chain: Sequence[RuleUnit], lifetimes: Sequence[timedelta]) -> list[timedelta]:
    """Return ages of hops: short, at each bound, and above it."""
    own = [unit.part.lifetime for unit in chain if isinstance(unit.part, k.DelegationGrant)]
    bounds = dict.fromkeys(one for one in (*own, *lifetimes) if one is not None)
    return [SHORT_AGE, *(age for bound in bounds for age in (bound, bound + SHORT_AGE))]


def delegator_name(unit: RuleUnit) -> str:
    assert isinstance(unit.block, k.AgentBlock)
    match unit.block.who:
        case k.ExactName(name):
            return name
        case k.NamePattern(glob):
            return glob.replace("*", "x")
        case _:
            return "some-agent"


def make_hop(unit: RuleUnit, at: EndpointClass, issued_at: datetime) -> HopData:
    block = unit.block
    assert isinstance(block, k.AgentBlock)
    issuers = [issuer for one in block.requirements if isinstance(one, k.IssuedBy) for issuer in one.issuers]
    scopes = sorted({name for grant in block.grants for name in carriers_of(grant, at) or ()})
    hop: HopData = {"agent": delegator_name(unit), "issuer": issuers[0] if issuers else "nobody"}
    groups = {"groups": [block.who.group]} if isinstance(block.who, k.InGroup) else {}
    return {**hop, "scopes": scopes, "issued_at": issued_at, **groups}
