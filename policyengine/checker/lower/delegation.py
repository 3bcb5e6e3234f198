"""Lowering of delegation: which scopes agents may delegate, to whom, and within which limits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from policyengine import kernel as k
from policyengine.checker.lower.context import LoweringContext, check_name_not_empty, lower_agent_name
from policyengine.checker.lower.grants import index_blocks, lower_grant_condition
from policyengine.syntax import nodes as ast


def lower_delegations(items: Sequence[ast.Node], package: str, draft: LoweringContext) -> Iterator[k.DelegationGrant]:
    for item in items:
        if not isinstance(item, ast.MayDelegate):
            continue
        scopes = [scope for name in item.scopes if (scope := draft.program.find(package, "scope", name))]
        patterns = [pattern for scope in scopes for _, pattern in draft.places.of_scope(scope, opening=True)]
        place = k.Place(tuple(dict.fromkeys(patterns)), span=item.span)
        lifetime = draft.duration(item.lifetime, "E409") if item.lifetime else None
        when = lower_grant_condition(item.when, place, package, draft)
        names = tuple(scope.name for scope in scopes)
        yield k.DelegationGrant(
            names, place.patterns or (), lower_receiver(item.to, draft), lifetime, when, span=item.span
        )


def lower_receiver(to: ast.AgentRef, draft: LoweringContext) -> k.ExactName | k.NamePattern | k.InGroup:
    if isinstance(to, ast.PrincipalName):
        return lower_agent_name(to.name, draft)
    return k.InGroup(check_name_not_empty(to.group, draft))


def check_delegates(blocks: Sequence[k.AgentBlock], draft: LoweringContext) -> None:
    """Report delegations of patterns that are granted neither by the agent's own block nor by another block that may
    match the agent.
    """
    if not any(block.delegates for block in blocks):
        return
    by_name: dict[str, list[k.AgentBlock]] = {}
    for block in blocks:
        if isinstance(block.who, k.ExactName):
            by_name.setdefault(block.who.name, []).append(block)
    opened_by_all = index_blocks(blocks)
    opened_to_several = index_blocks(block for block in blocks if not isinstance(block.who, k.ExactName))
    for block in blocks:
        own = [opened_by_all]
        if isinstance(block.who, k.ExactName):
            own = [opened_to_several, index_blocks(by_name[block.who.name] if block.delegates else ())]
        for delegate in block.delegates:
            if delegate.patterns and not any(any(index.overlapping(p)) for index in own for p in delegate.patterns):
                message = f"{block.label} delegates a scope without a grant of its own"
                hint = f"add `may {', '.join(delegate.scopes)}` to the block: authority only narrows along a chain"
                draft.report("W421", message, delegate.span, hint)


def lower_delegation_limits(draft: LoweringContext) -> tuple[k.DelegationLimits, ...]:
    return tuple(lower_delegation(declared, draft) for _, declared in draft.declared(ast.DelegationDecl))


def lower_delegation(declared: ast.DelegationDecl, draft: LoweringContext) -> k.DelegationLimits:
    draft.once([(f"`{limit.name}`", limit.span) for limit in declared.limits], "E405", "keep the stricter one")
    depth = lifetime = None
    for limit in declared.limits:
        if limit.name == "depth" and limit.limit is not None:
            depth = draft.whole(limit.limit, 1, "E410", "the depth of a chain")
        elif limit.name == "lifetime" and limit.limit is not None:
            lifetime = draft.duration(limit.limit, "E409")
    no_cycles = any(limit.name == "no cycles" for limit in declared.limits)
    return k.DelegationLimits(depth, lifetime, no_cycles, span=declared.span)
