"""Finds the cases that can detect a mutant, without evaluating facts again."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import replace
from typing import TypeAlias

from policyengine import kernel as k
from policyengine.runtime.endpoints import Endpoint, MalformedEndpoint
from policyengine.spec.match_endpoint import match_pattern, place_covers
from policyengine.spec.trace import Block
from policyengine.testing.mutation.baseline import BaselineCase
from policyengine.testing.mutation.lowering_cache import KernelRule, Mutant

# Members of the kernel whose change leaves all facts unchanged; `binders` must be checked at each endpoint.
FACTLESS_MEMBERS = frozenset({"attesters", "delegation", "watches", "profiles"})


# For one mutant: whether a block, identified by its id, grants differently at an endpoint, or whether bindings differ
# there.
Memo: TypeAlias = dict[tuple[int, Endpoint], bool]
BINDERS = 0


def can_affect(mutant: Mutant, question: BaselineCase, memo: Memo) -> bool:
    """Return whether a mutant can affect a case. `memo` belongs to the mutant: many cases share an endpoint."""
    if isinstance(question.request.endpoint, MalformedEndpoint):
        return False
    return any(
        RULE_CHANGE_CHECKS[name](getattr(mutant.base, name)[number], rule, number, question, memo)
        for (name, number), rule in mutant.rules.items()
        if (name, number) in question.rules or (name, number) in mutant.moved
    ) or any(member_change_affects(name, value, mutant.base, question, memo) for name, value in mutant.whole.items())


def keeps_facts(mutant: Mutant, question: BaselineCase, memo: Memo) -> bool:
    """Return whether all facts of the case are the same without the fault."""
    for name in mutant.whole.keys() - FACTLESS_MEMBERS:
        match name:
            case "binders" if not binds_differently(mutant.whole["binders"], question, memo):
                continue
            case "issuers" if differs_only_in_scopes(mutant.base.issuers, mutant.whole["issuers"]):
                continue
            case _:
                return False
    return True


# ── Rules ─────────────────────────────────────────────────────────────────────────────────────


def agent_change_affects(
    old: KernelRule, new: KernelRule | None, number: int, question: BaselineCase, memo: Memo
) -> bool:
    """Return whether the change affects the case: through grants if only these differ, through delegations if there are
    hops, otherwise always.
    """
    assert isinstance(old, k.AgentBlock)
    if not isinstance(new, k.AgentBlock) or old.who != new.who:
        return question.by_agent
    if ("agents", number) not in question.rules:
        return False
    endpoint = question.request.endpoint
    handed = question.has_hops and delegation_conditions(old, endpoint) != delegation_conditions(new, endpoint)
    return old.requirements != new.requirements or handed or opens_differently(old, new, endpoint, memo)


def user_change_affects(
    old: KernelRule, new: KernelRule | None, number: int, question: BaselineCase, memo: Memo
) -> bool:
    assert isinstance(old, k.UserBlock)
    if not isinstance(new, k.UserBlock) or old.who != new.who:
        return True
    if ("users", number) not in question.rules:
        return False
    endpoint = question.request.endpoint
    return old.requirements != new.requirements or opens_differently(old, new, endpoint, memo)


def anyone_change_affects(
    old: KernelRule, new: KernelRule | None, number: int, question: BaselineCase, memo: Memo
) -> bool:
    assert isinstance(old, k.AnyoneBlock)
    assert isinstance(new, k.AnyoneBlock)  # the block exists, but may lack grants here
    endpoint = question.request.endpoint
    return opens_differently(old, new, endpoint, memo)


def guard_change_affects(
    old: KernelRule, new: KernelRule | None, number: int, question: BaselineCase, memo: Memo
) -> bool:
    assert isinstance(old, k.Guard)
    before = ("guards", number) in question.rules
    if not isinstance(new, k.Guard):
        return before
    after = before if old.place == new.place else place_covers(new.place, question.request.endpoint)
    return before != after if old.effects == new.effects else before or after


def limit_change_affects(
    old: KernelRule, new: KernelRule | None, number: int, question: BaselineCase, memo: Memo
) -> bool:
    assert isinstance(old, k.Limit)
    before = ("limits", number) in question.rules
    if not isinstance(new, k.Limit):
        return before
    after = before if old.place == new.place else place_covers(new.place, question.request.endpoint)
    return before != after if old == replace(new, place=old.place) else before or after


RULE_CHANGE_CHECKS: dict[str, Callable[[KernelRule, KernelRule | None, int, BaselineCase, Memo], bool]] = {
    "agents": agent_change_affects,
    "users": user_change_affects,
    "anyones": anyone_change_affects,
    "guards": guard_change_affects,
    "limits": limit_change_affects,
}


def opens_differently(old: Block, new: Block, endpoint: Endpoint, memo: Memo) -> bool:
    key = (id(old), endpoint)
    if key not in memo:
        memo[key] = old.grants != new.grants and opening_conditions(old, endpoint) != opening_conditions(new, endpoint)
    return memo[key]


def opening_conditions(block: Block, endpoint: Endpoint) -> list[Hashable]:
    """Return the conditions of all grants of a block at an endpoint."""
    return [
        (opening.carriers, grant.when)
        for grant in block.grants
        for opening in grant.openings
        if match_pattern(opening.pattern, endpoint) is not None
    ]


def delegation_conditions(block: k.AgentBlock, endpoint: Endpoint) -> list[Hashable]:
    return [(one.to, one.lifetime, one.when) for one in block.delegates if any_pattern_matches(one.patterns, endpoint)]


def any_pattern_matches(patterns: Iterable[k.Pattern], endpoint: Endpoint) -> bool:
    return any(match_pattern(pattern, endpoint) is not None for pattern in patterns)


# ── The rest of a policy ──────────────────────────────────────────────────────────────────────


def member_change_affects(name: str, new: object, base: k.Kernel, question: BaselineCase, memo: Memo) -> bool:
    match name:
        case "issuers":
            return issuer_change_affects(base.issuers, new, question)
        case "attesters":
            return bool(blocks_trusting(question, base, changed_names(base.attesters, new)))
        case "binders":
            return binds_differently(new, question, memo)
        case "delegation" | "profiles":
            return question.by_agent
        case "watches":
            return False  # recorded events matter only to rules that read them, and these are checked, too
        case _:
            return True


def binds_differently(new: object, question: BaselineCase, memo: Memo) -> bool:
    assert isinstance(new, tuple)
    endpoint = question.request.endpoint
    key = (BINDERS, endpoint)
    if key not in memo:
        memo[key] = bindings_at(new, endpoint) != bindings_at(question.binders, endpoint)
    return memo[key]


def bindings_at(binders: Iterable[k.Binder], endpoint: Endpoint) -> set[Hashable]:
    """Return the bindings for grants, which match case-sensitively, and for guards and limits."""
    found = (
        (match_pattern(one.pattern, endpoint, folding), folding, one) for one in binders for folding in (None, "full")
    )
    return {
        (folding, tuple(given.items()), one.resource, one.facts) for given, folding, one in found if given is not None
    }


def issuer_change_affects(old: Mapping[str, k.Issuer], new: object, question: BaselineCase) -> bool:
    """Return whether a changed issuer affects the case. A changed claim matters only if the credential has
    the claim.
    """
    assert isinstance(new, Mapping)
    names = question.issuers & changed_names(old, new)
    made = question.request.fact("credential", "claims")
    return any(
        replace(old[name], claims=()) != replace(new[name], claims=())
        or any(claim in made for claim, _ in {*old[name].claims} ^ {*new[name].claims} if isinstance(made, Mapping))
        for name in names
    )


def differs_only_in_scopes(old: Mapping[str, k.Issuer], new: object) -> bool:
    """Return whether the issuers differ only in whether they use scopes."""
    assert isinstance(new, Mapping)
    return all(
        replace(issuer, scopes_none=False) == replace(new[name], scopes_none=False) for name, issuer in old.items()
    )


def changed_names(old: object, new: object) -> set[str]:
    assert isinstance(old, Mapping)
    assert isinstance(new, Mapping)
    return {name for name in {*old, *new} if old.get(name) != new.get(name)}


def blocks_trusting(question: BaselineCase, base: k.Kernel, attesters: set[str]) -> list[int]:
    """Return the numbers of the agent blocks that concern the request and require one of the attesters."""
    about = [number for name, number in question.rules if name == "agents"]
    return [number for number in about if not attesters.isdisjoint(required_attesters(base.agents[number]))]


def required_attesters(block: k.AgentBlock) -> Iterable[str]:
    return (name for one in block.requirements if isinstance(one, k.AttestedBy) for name in one.attesters)
