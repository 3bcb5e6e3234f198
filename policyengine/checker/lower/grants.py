"""Doors to kernel: agent, user and anyone blocks, what they require and what they open; limits on delegation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import assert_never

from policyengine import kernel as k
from policyengine.checker.lower.context import (
    MENTIONS_NOT_FOR_GRANTS,
    NO_ENDPOINT_FACTS,
    NOT_FOR_GRANTS,
    LoweringContext,
    block_head_span,
    facts_read,
    first_item,
    rule_text,
)
from policyengine.checker.patterns.overlap import PatternIndex
from policyengine.checker.types.schema import EVERYWHERE
from policyengine.diagnostics.model import suggest
from policyengine.source import Span
from policyengine.syntax import nodes as ast
from policyengine.typesystem import Scalar
from policyengine.vocabulary import CREDENTIAL_KIND, CREDENTIAL_ROOTS

# What a condition about who asks may read; nothing of the endpoint exists there, and a hop presents no credential.
AGENT_ROOTS = frozenset({"agent", "time", "context"})
SERVED_USER_ROOTS = AGENT_ROOTS | {"user"}
USER_ROOTS = SERVED_USER_ROOTS | {*CREDENTIAL_ROOTS, "request"}
NOT_FOR_GRANTS_MESSAGES = {
    "E415": ("behaviour never opens a door", "use it in a guard: `deny when …`, `confirm … when …`"),
    "E416": ("an approval never opens a door", "ask for it in a guard: `confirm by …`"),
}


# ── What `may` opens ──────────────────────────────────────────────────────────────────────────


def lower_grants(items: Sequence[ast.Node], package: str, draft: LoweringContext) -> tuple[k.Grant, ...]:
    found = (lower_grant(item, package, draft) for item in items if isinstance(item, ast.May))
    return tuple(one for one in found if one is not None)


def lower_grant(may: ast.May, package: str, draft: LoweringContext) -> k.Grant | None:
    """One `may`; None when something in it was reported."""
    opened = [lower_targets(target, package, draft) for target in may.targets]
    merged = merge_targets(opening for some in opened for opening in some or ())
    place = k.Place(tuple(dict.fromkeys(opening.pattern for opening in merged)), span=may.span)
    when = lower_grant_condition(may.when, place, package, draft)
    if None in opened or not merged or (may.when is not None and when is None):
        return None
    return k.Grant(merged, when, span=may.span)


def lower_targets(target: ast.Target, package: str, draft: LoweringContext) -> list[k.GrantTarget] | None:
    if not isinstance(target, ast.Name):
        pattern = draft.places.pattern(target, package, opening=True)
        return [k.GrantTarget(pattern, (), span=target.span)] if pattern else None
    scope = draft.program.find(package, "scope", target)
    if scope is None:
        return None
    return [
        k.GrantTarget(pattern, draft.places.carriers(owner), span=target.span)
        for owner, pattern in draft.places.of_scope(scope, opening=True)
    ]


def merge_targets(every: Iterable[k.GrantTarget]) -> tuple[k.GrantTarget, ...]:
    """One opening for a pattern that several scopes carry; what needs no scope stays apart."""
    found: dict[tuple[k.Pattern, bool], k.GrantTarget] = {}
    for opening in every:
        known = found.setdefault((opening.pattern, bool(opening.carriers)), opening)
        if known is not opening:
            carriers = tuple(sorted({*known.carriers, *opening.carriers}))
            found[opening.pattern, bool(carriers)] = k.GrantTarget(opening.pattern, carriers, span=known.span)
    return tuple(found.values())


def lower_grant_condition(
    written: ast.Expr | None, place: k.Place, package: str, draft: LoweringContext
) -> k.Expr | None:
    if written is None:
        return None
    suspect = (
        draft.keyless or MENTIONS_NOT_FOR_GRANTS.search(written.span.text) is not None
    )  # few are: only these are gone through
    for node in ast.walk(written) if suspect else ():
        if isinstance(node, ast.Reference):
            report_not_for_grants(node.name.partition(".")[0], node.span, draft)
    here = draft.places.here(place) if place.patterns else EVERYWHERE  # no pattern: all of them were reported
    found = draft.condition(written, package, here)
    for fact, span in facts_read(found) if found and suspect else ():
        report_not_for_grants(fact.path[0], span, draft)
    return found


def report_not_for_grants(root: str, span: Span, draft: LoweringContext) -> None:
    code = NOT_FOR_GRANTS.get(root)
    if code:
        message, hint = NOT_FOR_GRANTS_MESSAGES[code]
        draft.report(code, message, span, hint)


# ── Agents ────────────────────────────────────────────────────────────────────────────────────


def lower_agent_blocks(draft: LoweringContext, issuers: Mapping[str, k.Issuer]) -> tuple[k.AgentBlock, ...]:
    return draft.rules(ast.AgentDecl, lambda declared, package: lower_agent_block(declared, package, draft, issuers))


def lower_agent_block(
    declared: ast.AgentDecl, package: str, draft: LoweringContext, issuers: Mapping[str, k.Issuer]
) -> k.AgentBlock:
    check_required_words(declared, draft)
    found = tuple(lower_requirements(declared.items, package, draft))
    opened = lower_grants(declared.items, package, draft)
    check_scopeless(opened, found, issuers, draft)
    return k.AgentBlock(
        *lower_agent_head(declared.head, package, draft),
        found,
        opened,
        tuple(lower_delegations(declared.items, package, draft)),
        span=block_head_span(declared, declared.head),
    )


def lower_agent_head(
    head: ast.PrincipalName | ast.InGroup | ast.PrincipalCondition, package: str, draft: LoweringContext
) -> tuple[str, str, k.ExactName | k.NamePattern | k.InGroup | k.PrincipalCondition]:
    """The block's label, its package, and whom it is about."""
    match head:
        case ast.PrincipalName(name):
            return f'agent "{name.value}"', package, lower_agent_name(name, draft)
        case ast.InGroup(group):
            return f'agent group "{group.value}"', package, k.InGroup(check_name_not_empty(group, draft))
        case ast.PrincipalCondition(condition):
            found = lower_principal_condition(condition, AGENT_ROOTS, "agent", package, draft) or never_condition(
                condition
            )
            return f"agent where {rule_text(condition.span)}", package, k.PrincipalCondition(found)
        case _:
            assert_never(head)


def lower_agent_name(name: ast.Text, draft: LoweringContext) -> k.ExactName | k.NamePattern:
    """An agent by its name, in which `*` is any run of characters."""
    written = check_name_not_empty(name, draft)
    return k.NamePattern(written) if "*" in written else k.ExactName(written)


def check_name_not_empty(name: ast.Text, draft: LoweringContext) -> str:
    if not name.value:
        draft.report("E417", "an empty name is nobody's", name.span, "write the name")
    return name.value


def never_condition(written: ast.Expr) -> k.Constant:
    """Stands for a condition that was reported: no kernel with one is ever used, and this one opens nothing."""
    return k.Constant(False, Scalar.BOOL, span=written.span)


def lower_principal_condition(
    written: ast.Expr, roots: frozenset[str], whom: str, package: str, draft: LoweringContext
) -> k.Expr | None:
    """A condition about who asks, which stands where no endpoint is known."""
    found = draft.condition(written, package, NO_ENDPOINT_FACTS)
    for fact, span in facts_read(found) if found else ():
        if fact.path[0] not in roots:
            hint = "only who asks is known here: ask for the rest in `may … when`"
            draft.report("E414", f"this is about the {whom}, and `{fact.path[0]}` is not", span, hint)
            return None
    return found


def check_required_words(declared: ast.AgentDecl, draft: LoweringContext) -> None:
    head = block_head_span(declared, declared.head)
    if first_item(declared.items, ast.IssuedBy) is None:
        draft.report("E401", "this block does not say whose agents it means", head, "add `issued by ISSUER`")
    acts = [item for item in declared.items if isinstance(item, ast.ActsClause)]
    if not acts:
        hint = "add `acts alone`, `acts for any user` or `acts for users where …`"
        draft.report("E402", "this block does not say for whom the agent acts", head, hint)
    draft.once([("for whom the agent acts", item.span) for item in acts], "E403", "an agent acts in one way: keep one")
    draft.once(single_use_items(declared.items), "E405", "keep one; `issued by` and `attested by` take a list")


def single_use_items(items: Iterable[ast.Node]) -> Iterator[tuple[str, Span]]:
    for item in items:
        match item:
            case ast.IssuedBy():
                yield "`issued by`", item.span
            case ast.AttestedBy():
                yield "`attested by`", item.span
            case ast.ValidityPeriod():
                yield "`valid`", item.span
            case ast.CredentialDecl(inner):
                yield from single_use_items(inner)
            case ast.CredentialKinds():
                yield "`kind`", item.span
            case ast.CredentialLimit(name):
                yield f"`{name}`", item.span
            case ast.ProofOfPossession():
                yield "`bound`", item.span
            case _:
                pass


def lower_requirements(items: Sequence[ast.Node], package: str, draft: LoweringContext) -> Iterator[k.Requirement]:
    for item in items:
        match item:
            case ast.IssuedBy(issuers):
                names = [draft.program.find(package, "issuer", name) for name in issuers]
                yield k.IssuedBy(tuple(dict.fromkeys(s.name for s in names if s)), span=item.span)
            case ast.ActsClause(mode, condition):
                check_user_blocks(item, package, draft)
                yield lower_acts(item, mode, condition, package, draft)
            case ast.CredentialDecl(inner):
                yield from lower_credential(inner, draft)
            case ast.AttestedBy(attesters):
                names = [draft.program.find(package, "attester", name) for name in attesters]
                yield k.AttestedBy(tuple(dict.fromkeys(s.name for s in names if s)), span=item.span)
            case ast.ValidityPeriod():
                yield lower_validity(item, draft)
            case _:
                pass


def lower_acts(
    item: ast.ActsClause, mode: str, condition: ast.Expr | None, package: str, draft: LoweringContext
) -> k.ActsAlone | k.ActsFor:
    if mode == "alone":
        return k.ActsAlone(span=item.span)
    found = (
        lower_principal_condition(condition, SERVED_USER_ROOTS, "user", package, draft) or never_condition(condition)
        if condition
        else None
    )
    return k.ActsFor(found, span=item.span)


def check_user_blocks(item: ast.ActsClause, package: str, draft: LoweringContext) -> None:
    """Who lends an agent authority needs some: without a user's door nothing could ever be lent."""
    if item.mode == "alone" or any(draft.declared(ast.UserDecl)):
        return
    agents = (agent for owner, agent in draft.declared(ast.AgentDecl) if owner == package)
    every = (one for agent in agents for one in agent.items if isinstance(one, ast.ActsClause) and one.mode != "alone")
    if next(every, None) is not item:
        return  # one mistake is told once
    if not any(owner == package for owner, _ in draft.declared(ast.UnrestrictedUsers)):
        hint = "add `user any { may … }`, or `users unrestricted` if the agent's own doors are to decide"
        draft.report("E404", "this agent acts for users, and no `user` block says what they may do", item.span, hint)


def lower_credential(items: Sequence[ast.Node], draft: LoweringContext) -> Iterator[k.Requirement]:
    for item in items:
        match item:
            case ast.CredentialKinds(kinds):
                yield k.CredentialKinds(tuple(lower_credential_kinds(kinds, draft)), span=item.span)
            case ast.CredentialLimit(name, written):
                limit = draft.duration(written, "E409")
                if limit is not None:
                    kind = k.CredentialLifetime if name == "lifetime" else k.CredentialAge
                    yield kind(limit, span=item.span)
            case ast.ProofOfPossession():
                yield k.ProofOfPossession(span=item.span)
            case _:
                pass


def lower_credential_kinds(kinds: ast.ListLiteral, draft: LoweringContext) -> Iterator[str]:
    if not kinds.items:
        draft.report("E406", "no credential is of no kind", kinds.span, "write the kinds: `kind in [jwt, mtls]`")
    for item in kinds.items:
        word = item.name if isinstance(item, ast.Reference) and not item.keys else rule_text(item.span)
        word = item.value if isinstance(item, ast.Text) else word
        if word in CREDENTIAL_KIND.values:
            yield word
        else:
            meant = suggest(word, CREDENTIAL_KIND.values)
            hint = f"did you mean `{meant}`?" if meant else f"kinds are {', '.join(CREDENTIAL_KIND.values)}"
            draft.report("E406", f"`{word}` is no kind of credential", item.span, hint)


def lower_validity(item: ast.ValidityPeriod, draft: LoweringContext) -> k.ValidityPeriod:
    start = draft.moment(item.start) if item.start else None
    end = draft.moment(item.end) if item.end else None
    if start is not None and end is not None and start >= end:
        draft.report("E407", "this ends before it begins", item.span, "write the earlier date first")
    return k.ValidityPeriod(start, end, span=item.span)


def check_scopeless(
    opened: tuple[k.Grant, ...],
    found: tuple[k.Requirement, ...],
    issuers: Mapping[str, k.Issuer],
    draft: LoweringContext,
) -> None:
    """A credential carries scopes; what is in no scope it can only carry where its issuer uses none."""
    names = [name for requirement in found if isinstance(requirement, k.IssuedBy) for name in requirement.issuers]
    if not names or any(name not in issuers or issuers[name].scopes_none for name in names):
        return
    for opening in (opening for one in opened for opening in one.openings if not opening.carriers):
        message = f"no credential can carry `{rule_text(opening.span)}`: it is in no scope"
        hint = "name it in a scope, or write `scopes none` in the issuer if its credentials carry none"
        draft.report("E408", message, opening.span, hint)


# ── Delegation ────────────────────────────────────────────────────────────────────────────────


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
    """What an agent hands on it must itself be let do: by its block, or by another one that may be about it."""
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
                message = f"{block.label} hands on what it may not do itself"
                hint = f"add `may {', '.join(delegate.scopes)}` to the block: authority only narrows along a chain"
                draft.report("W421", message, delegate.span, hint)


def index_blocks(blocks: Iterable[k.AgentBlock | k.UserBlock | k.AnyoneBlock]) -> PatternIndex[bool]:
    """Every pattern that the blocks open."""
    index: PatternIndex[bool] = PatternIndex()
    patterns = {opening.pattern for block in blocks for one in block.grants for opening in one.openings}
    for pattern in patterns:
        index.add(pattern, True)
    return index


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


# ── Users and anyone ──────────────────────────────────────────────────────────────────────────


def lower_user_blocks(draft: LoweringContext) -> tuple[k.UserBlock, ...]:
    return draft.rules(ast.UserDecl, lambda declared, package: lower_user_block(declared, package, draft))


def lower_user_block(declared: ast.UserDecl, package: str, draft: LoweringContext) -> k.UserBlock:
    draft.once(single_use_items(declared.items), "E405", "keep one")
    validity = tuple(lower_validity(item, draft) for item in declared.items if isinstance(item, ast.ValidityPeriod))
    head = lower_user_head(declared.head, package, draft)
    return k.UserBlock(
        *head, validity, lower_grants(declared.items, package, draft), span=block_head_span(declared, declared.head)
    )


def lower_user_head(
    head: ast.PrincipalName | ast.PrincipalCondition | ast.AnyUser, package: str, draft: LoweringContext
) -> tuple[str, str, k.ExactName | k.AnyUser | k.PrincipalCondition]:
    match head:
        case ast.PrincipalName(name):
            if "*" in name.value:
                hint = f'write `user where user.id like "{name.value}"`'
                draft.report("E418", "a user is called by the whole name", name.span, hint)
            return f'user "{name.value}"', package, k.ExactName(check_name_not_empty(name, draft))
        case ast.AnyUser():
            return "user any", package, k.AnyUser()
        case ast.PrincipalCondition(condition):
            found = lower_principal_condition(condition, USER_ROOTS, "user", package, draft) or never_condition(
                condition
            )
            return f"user where {rule_text(condition.span)}", package, k.PrincipalCondition(found)
        case _:
            assert_never(head)


def lower_anyone_blocks(draft: LoweringContext) -> tuple[k.AnyoneBlock, ...]:
    return draft.rules(ast.AnyoneDecl, lambda declared, package: lower_anyone_block(declared, package, draft))


def lower_anyone_block(declared: ast.AnyoneDecl, package: str, draft: LoweringContext) -> k.AnyoneBlock:
    return k.AnyoneBlock("anyone", package, lower_grants(declared.items, package, draft), span=declared.span)
