"""Lowering of agent, user and anyone blocks: the principals that they match, and their requirements."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import assert_never

from policyengine import kernel as k
from policyengine.checker.lower.context import (
    NO_ENDPOINT_FACTS,
    LoweringContext,
    block_head_span,
    check_name_not_empty,
    facts_read,
    first_item,
    lower_agent_name,
    rule_text,
)
from policyengine.checker.lower.delegation import lower_delegations
from policyengine.checker.lower.grants import lower_grants, report_past_behavior
from policyengine.diagnostics.suggest import did_you_mean
from policyengine.source import Span
from policyengine.syntax import nodes as ast
from policyengine.typesystem import Scalar
from policyengine.vocabulary import CREDENTIAL_KIND, CREDENTIAL_ROOTS

# Facts that a condition on the caller may read: such a condition knows no endpoint, and hops present no credentials.
AGENT_ROOTS = frozenset({"agent", "time", "context"})
SERVED_USER_ROOTS = AGENT_ROOTS | {"user"}
USER_ROOTS = SERVED_USER_ROOTS | {*CREDENTIAL_ROOTS, "request"}


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
    """Return the block's label, its package, and which agents it matches."""
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


def never_condition(written: ast.Expr) -> k.Constant:
    """Return a placeholder for a condition with a reported error. The placeholder grants nothing, and a kernel with
    errors is never used.
    """
    return k.Constant(False, Scalar.BOOL, span=written.span)


def lower_principal_condition(
    written: ast.Expr, roots: frozenset[str], whom: str, package: str, draft: LoweringContext
) -> k.Expr | None:
    """Lower a condition on the caller, for which no endpoint is known. Return None if an error was reported."""
    found = draft.condition(written, package, NO_ENDPOINT_FACTS)
    for fact, span in facts_read(found) if found else ():
        if fact.path[0] not in roots:
            hint = "only the caller is known here: move other conditions to `may … when`"
            draft.report("E414", f"this condition is about the {whom}, but `{fact.path[0]}` is not", span, hint)
            return None
    if found is not None:
        report_past_behavior(found, draft)
    return found


def check_required_words(declared: ast.AgentDecl, draft: LoweringContext) -> None:
    head = block_head_span(declared, declared.head)
    if first_item(declared.items, ast.IssuedBy) is None:
        draft.report("E401", "this block does not name the issuers of its agents", head, "add `issued by ISSUER`")
    acts = [item for item in declared.items if isinstance(item, ast.ActsClause)]
    if not acts:
        hint = "add `acts alone`, `acts for any user` or `acts for users where …`"
        draft.report("E402", "this block does not say for whom the agent acts", head, hint)
    draft.once(
        [("for whom the agent acts", item.span) for item in acts],
        "E403",
        "keep only one: a block says once for whom its agents act",
    )
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
    """Report agents that act for users if no package has a user block and the agent's package does not have `users
    unrestricted`, because such an agent would have no authority to borrow.
    """
    if item.mode == "alone" or any(draft.declared(ast.UserDecl)):
        return
    agents = (agent for owner, agent in draft.declared(ast.AgentDecl) if owner == package)
    every = (one for agent in agents for one in agent.items if isinstance(one, ast.ActsClause) and one.mode != "alone")
    if next(every, None) is not item:
        return  # report each mistake once
    if not any(owner == package for owner, _ in draft.declared(ast.UnrestrictedUsers)):
        hint = "add `user any { may … }`, or `users unrestricted` if the agent's own grants alone should decide"
        draft.report("E404", "this agent acts for users, but no `user` block grants them anything", item.span, hint)


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
        draft.report(
            "E406", "the list of credential kinds is empty", kinds.span, "write the kinds: `kind in [jwt, mtls]`"
        )
    for item in kinds.items:
        word = item.name if isinstance(item, ast.Reference) and not item.keys else rule_text(item.span)
        word = item.value if isinstance(item, ast.Text) else word
        if word in CREDENTIAL_KIND.values:
            yield word
        else:
            hint = did_you_mean(word, CREDENTIAL_KIND.values) or f"the kinds are {', '.join(CREDENTIAL_KIND.values)}"
            draft.report("E406", f"`{word}` is not a kind of credential", item.span, hint)


def lower_validity(item: ast.ValidityPeriod, draft: LoweringContext) -> k.ValidityPeriod:
    start = draft.moment(item.start) if item.start else None
    end = draft.moment(item.end) if item.end else None
    if start is not None and end is not None and start >= end:
        draft.report("E407", "this period ends before it begins", item.span, "write the earlier date first")
    return k.ValidityPeriod(start, end, span=item.span)


def check_scopeless(
    opened: tuple[k.Grant, ...],
    found: tuple[k.Requirement, ...],
    issuers: Mapping[str, k.Issuer],
    draft: LoweringContext,
) -> None:
    """Report grants that name no scope, unless an issuer of the block uses no scopes, because credentials can carry
    only scopes.
    """
    names = [name for requirement in found if isinstance(requirement, k.IssuedBy) for name in requirement.issuers]
    if not names or any(name not in issuers or issuers[name].scopes_none for name in names):
        return
    for opening in (opening for one in opened for opening in one.openings if not opening.carriers):
        message = f"no credential can carry `{rule_text(opening.span)}`: it names no scope"
        hint = "use `may SCOPE` with a scope that contains it, or `scopes none` in the issuer if its tokens have none"
        draft.report("E408", message, opening.span, hint)


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
                draft.report("E418", "a `user` block needs the whole name", name.span, hint)
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
