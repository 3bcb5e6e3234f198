"""Doors to kernel: agent, user and anyone blocks, what they require and what they open; limits on delegation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import assert_never

from policyengine import kernel as k
from policyengine.checker.lower.context import KEYLESS, NO_KEY, NO_PLACE, Draft, facts_read, first_of, head_of, words
from policyengine.checker.patterns.overlap import PatternIndex
from policyengine.checker.types.schema import EVERYWHERE
from policyengine.diagnostics.model import suggest
from policyengine.source import Span
from policyengine.syntax import nodes as ast
from policyengine.typesystem import Scalar
from policyengine.vocabulary import CREDENTIAL_KIND

# What a condition about who asks may read; nothing of the endpoint exists there, and a hop presents no credential.
ABOUT_AGENTS = frozenset({"agent", "time", "context"})
ABOUT_USERS_SERVED = ABOUT_AGENTS | {"user"}
ABOUT_USERS = ABOUT_USERS_SERVED | {"credential", "attestation", "task", "request", "chain"}
NO_KEY_MESSAGES = {
    "E415": ("behaviour never opens a door", "use it in a guard: `deny when …`, `confirm … when …`"),
    "E416": ("an approval never opens a door", "ask for it in a guard: `confirm by …`"),
}


# ── What `may` opens ──────────────────────────────────────────────────────────────────────────


def grants(items: Sequence[ast.Node], package: str, draft: Draft) -> tuple[k.Grant, ...]:
    found = (grant(item, package, draft) for item in items if isinstance(item, ast.May))
    return tuple(one for one in found if one is not None)


def grant(may: ast.May, package: str, draft: Draft) -> k.Grant | None:
    """One `may`; None when something in it was reported."""
    opened = [openings(target, package, draft) for target in may.targets]
    merged = merge(opening for some in opened for opening in some or ())
    place = k.Place(tuple(dict.fromkeys(opening.pattern for opening in merged)), span=may.span)
    when = condition_of_may(may.when, place, package, draft)
    if None in opened or not merged or (may.when is not None and when is None):
        return None
    return k.Grant(merged, when, span=may.span)


def openings(target: ast.Target, package: str, draft: Draft) -> list[k.Opening] | None:
    if not isinstance(target, ast.Name):
        pattern = draft.places.pattern(target, package, opening=True)
        return [k.Opening(pattern, (), span=target.span)] if pattern else None
    scope = draft.program.find(package, "scope", target)
    if scope is None:
        return None
    return [
        k.Opening(pattern, draft.places.carriers(owner), span=target.span)
        for owner, pattern in draft.places.of_scope(scope, opening=True)
    ]


def merge(every: Iterable[k.Opening]) -> tuple[k.Opening, ...]:
    """One opening for a pattern that several scopes carry; what needs no scope stays apart."""
    found: dict[tuple[k.Pattern, bool], k.Opening] = {}
    for opening in every:
        known = found.setdefault((opening.pattern, bool(opening.carriers)), opening)
        if known is not opening:
            carriers = tuple(sorted({*known.carriers, *opening.carriers}))
            found[opening.pattern, bool(carriers)] = k.Opening(opening.pattern, carriers, span=known.span)
    return tuple(found.values())


def condition_of_may(written: ast.Expr | None, place: k.Place, package: str, draft: Draft) -> k.Expr | None:
    if written is None:
        return None
    suspect = draft.keyless or KEYLESS.search(written.span.text) is not None  # few are: only these are gone through
    for node in ast.walk(written) if suspect else ():
        if isinstance(node, ast.Reference):
            refuse_key(node.name.partition(".")[0], node.span, draft)
    here = draft.places.here(place) if place.patterns else EVERYWHERE  # no pattern: all of them were reported
    found = draft.condition(written, package, here)
    for fact, span in facts_read(found) if found and suspect else ():
        refuse_key(fact.path[0], span, draft)
    return found


def refuse_key(root: str, span: Span, draft: Draft) -> None:
    code = NO_KEY.get(root)
    if code:
        message, hint = NO_KEY_MESSAGES[code]
        draft.report(code, message, span, hint)


# ── Agents ────────────────────────────────────────────────────────────────────────────────────


def agent_blocks(draft: Draft, issuers: Mapping[str, k.Issuer]) -> tuple[k.AgentBlock, ...]:
    return draft.rules(ast.AgentDecl, lambda declared, package: agent_block(declared, package, draft, issuers))


def agent_block(declared: ast.AgentDecl, package: str, draft: Draft, issuers: Mapping[str, k.Issuer]) -> k.AgentBlock:
    check_required_words(declared, draft)
    found = tuple(requirements(declared.items, package, draft))
    opened = grants(declared.items, package, draft)
    check_scopeless(opened, found, issuers, draft)
    return k.AgentBlock(
        *agent_head(declared.head, package, draft),
        found,
        opened,
        tuple(delegates(declared.items, package, draft)),
        span=head_of(declared, declared.head),
    )


def agent_head(
    head: ast.Called | ast.InGroup | ast.Matching, package: str, draft: Draft
) -> tuple[str, str, k.Called | k.CalledLike | k.InGroup | k.Where]:
    """The block's label, its package, and whom it is about."""
    match head:
        case ast.Called(name):
            return f'agent "{name.value}"', package, agent_called(name, draft)
        case ast.InGroup(group):
            return f'agent group "{group.value}"', package, k.InGroup(not_empty(group, draft))
        case ast.Matching(condition):
            found = about(condition, ABOUT_AGENTS, "agent", package, draft) or never(condition)
            return f"agent where {words(condition.span)}", package, k.Where(found)
        case _:
            assert_never(head)


def agent_called(name: ast.Text, draft: Draft) -> k.Called | k.CalledLike:
    """An agent by its name, in which `*` is any run of characters."""
    written = not_empty(name, draft)
    return k.CalledLike(written) if "*" in written else k.Called(written)


def not_empty(name: ast.Text, draft: Draft) -> str:
    if not name.value:
        draft.report("E417", "an empty name is nobody's", name.span, "write the name")
    return name.value


def never(written: ast.Expr) -> k.Constant:
    """Stands for a condition that was reported: no kernel with one is ever used, and this one opens nothing."""
    return k.Constant(False, Scalar.BOOL, span=written.span)


def about(written: ast.Expr, roots: frozenset[str], whom: str, package: str, draft: Draft) -> k.Expr | None:
    """A condition about who asks, which stands where no endpoint is known."""
    found = draft.condition(written, package, NO_PLACE)
    for fact, span in facts_read(found) if found else ():
        if fact.path[0] not in roots:
            hint = "only who asks is known here: ask for the rest in `may … when`"
            draft.report("E414", f"this is about the {whom}, and `{fact.path[0]}` is not", span, hint)
            return None
    return found


def check_required_words(declared: ast.AgentDecl, draft: Draft) -> None:
    head = head_of(declared, declared.head)
    if first_of(declared.items, ast.IssuedBy) is None:
        draft.report("E401", "this block does not say whose agents it means", head, "add `issued by ISSUER`")
    acts = [item for item in declared.items if isinstance(item, ast.Acts)]
    if not acts:
        hint = "add `acts alone`, `acts for any user` or `acts for users where …`"
        draft.report("E402", "this block does not say for whom the agent acts", head, hint)
    draft.once([("for whom the agent acts", item.span) for item in acts], "E403", "an agent acts in one way: keep one")
    draft.once(said_once(declared.items), "E405", "keep one; `issued by` and `attested by` take a list")


def said_once(items: Iterable[ast.Node]) -> Iterator[tuple[str, Span]]:
    for item in items:
        match item:
            case ast.IssuedBy():
                yield "`issued by`", item.span
            case ast.AttestedBy():
                yield "`attested by`", item.span
            case ast.Valid():
                yield "`valid`", item.span
            case ast.CredentialDecl(inner):
                yield from said_once(inner)
            case ast.CredentialKinds():
                yield "`kind`", item.span
            case ast.CredentialLimit(name):
                yield f"`{name}`", item.span
            case ast.CredentialBound():
                yield "`bound`", item.span
            case _:
                pass


def requirements(items: Sequence[ast.Node], package: str, draft: Draft) -> Iterator[k.Requirement]:
    for item in items:
        match item:
            case ast.IssuedBy(issuers):
                names = [draft.program.find(package, "issuer", name) for name in issuers]
                yield k.IssuedBy(tuple(dict.fromkeys(s.name for s in names if s)), span=item.span)
            case ast.Acts(mode, condition):
                check_user_blocks(item, package, draft)
                yield acts(item, mode, condition, package, draft)
            case ast.CredentialDecl(inner):
                yield from credential(inner, draft)
            case ast.AttestedBy(attesters):
                names = [draft.program.find(package, "attester", name) for name in attesters]
                yield k.AttestedBy(tuple(dict.fromkeys(s.name for s in names if s)), span=item.span)
            case ast.Valid():
                yield valid(item, draft)
            case _:
                pass


def acts(item: ast.Acts, mode: str, condition: ast.Expr | None, package: str, draft: Draft) -> k.ActsAlone | k.ActsFor:
    if mode == "alone":
        return k.ActsAlone(span=item.span)
    found = about(condition, ABOUT_USERS_SERVED, "user", package, draft) or never(condition) if condition else None
    return k.ActsFor(found, span=item.span)


def check_user_blocks(item: ast.Acts, package: str, draft: Draft) -> None:
    """Who lends an agent authority needs some: without a user's door nothing could ever be lent."""
    if item.mode == "alone" or any(draft.declared(ast.UserDecl)):
        return
    agents = (agent for owner, agent in draft.declared(ast.AgentDecl) if owner == package)
    every = (one for agent in agents for one in agent.items if isinstance(one, ast.Acts) and one.mode != "alone")
    if next(every, None) is not item:
        return  # one mistake is told once
    if not any(owner == package for owner, _ in draft.declared(ast.UsersUnrestricted)):
        hint = "add `user any { may … }`, or `users unrestricted` if the agent's own doors are to decide"
        draft.report("E404", "this agent acts for users, and no `user` block says what they may do", item.span, hint)


def credential(items: Sequence[ast.Node], draft: Draft) -> Iterator[k.Requirement]:
    for item in items:
        match item:
            case ast.CredentialKinds(kinds):
                yield k.CredentialKind(tuple(credential_kinds(kinds, draft)), span=item.span)
            case ast.CredentialLimit(name, written):
                limit = draft.duration(written, "E409")
                if limit is not None:
                    kind = k.CredentialLifetime if name == "lifetime" else k.CredentialAge
                    yield kind(limit, span=item.span)
            case ast.CredentialBound():
                yield k.CredentialBound(span=item.span)
            case _:
                pass


def credential_kinds(kinds: ast.ListLiteral, draft: Draft) -> Iterator[str]:
    if not kinds.items:
        draft.report("E406", "no credential is of no kind", kinds.span, "write the kinds: `kind in [jwt, mtls]`")
    for item in kinds.items:
        word = item.name if isinstance(item, ast.Reference) and not item.keys else words(item.span)
        word = item.value if isinstance(item, ast.Text) else word
        if word in CREDENTIAL_KIND.values:
            yield word
        else:
            meant = suggest(word, CREDENTIAL_KIND.values)
            hint = f"did you mean `{meant}`?" if meant else f"kinds are {', '.join(CREDENTIAL_KIND.values)}"
            draft.report("E406", f"`{word}` is no kind of credential", item.span, hint)


def valid(item: ast.Valid, draft: Draft) -> k.Valid:
    start = draft.moment(item.start) if item.start else None
    end = draft.moment(item.end) if item.end else None
    if start is not None and end is not None and start >= end:
        draft.report("E407", "this ends before it begins", item.span, "write the earlier date first")
    return k.Valid(start, end, span=item.span)


def check_scopeless(
    opened: tuple[k.Grant, ...],
    found: tuple[k.Requirement, ...],
    issuers: Mapping[str, k.Issuer],
    draft: Draft,
) -> None:
    """A credential carries scopes; what is in no scope it can only carry where its issuer uses none."""
    names = [name for requirement in found if isinstance(requirement, k.IssuedBy) for name in requirement.issuers]
    if not names or any(name not in issuers or issuers[name].scopes_none for name in names):
        return
    for opening in (opening for one in opened for opening in one.openings if not opening.carriers):
        message = f"no credential can carry `{words(opening.span)}`: it is in no scope"
        hint = "name it in a scope, or write `scopes none` in the issuer if its credentials carry none"
        draft.report("E408", message, opening.span, hint)


# ── Delegation ────────────────────────────────────────────────────────────────────────────────


def delegates(items: Sequence[ast.Node], package: str, draft: Draft) -> Iterator[k.Delegate]:
    for item in items:
        if not isinstance(item, ast.MayDelegate):
            continue
        scopes = [scope for name in item.scopes if (scope := draft.program.find(package, "scope", name))]
        patterns = [pattern for scope in scopes for _, pattern in draft.places.of_scope(scope, opening=True)]
        place = k.Place(tuple(dict.fromkeys(patterns)), span=item.span)
        lifetime = draft.duration(item.lifetime, "E409") if item.lifetime else None
        when = condition_of_may(item.when, place, package, draft)
        names = tuple(scope.name for scope in scopes)
        yield k.Delegate(names, place.patterns or (), receiver(item.to, draft), lifetime, when, span=item.span)


def receiver(to: ast.AgentRef, draft: Draft) -> k.Called | k.CalledLike | k.InGroup:
    if isinstance(to, ast.Called):
        return agent_called(to.name, draft)
    return k.InGroup(not_empty(to.group, draft))


def check_delegates(blocks: Sequence[k.AgentBlock], draft: Draft) -> None:
    """What an agent hands on it must itself be let do: by its block, or by another one that may be about it."""
    if not any(block.delegates for block in blocks):
        return
    by_name: dict[str, list[k.AgentBlock]] = {}
    for block in blocks:
        if isinstance(block.who, k.Called):
            by_name.setdefault(block.who.name, []).append(block)
    opened_by_all = index_of(blocks)
    opened_to_several = index_of(block for block in blocks if not isinstance(block.who, k.Called))
    for block in blocks:
        own = [opened_by_all]
        if isinstance(block.who, k.Called):
            own = [opened_to_several, index_of(by_name[block.who.name] if block.delegates else ())]
        for delegate in block.delegates:
            if delegate.patterns and not any(any(index.overlapping(p)) for index in own for p in delegate.patterns):
                message = f"{block.label} hands on what it may not do itself"
                hint = f"add `may {', '.join(delegate.scopes)}` to the block: authority only narrows along a chain"
                draft.report("W421", message, delegate.span, hint)


def index_of(blocks: Iterable[k.AgentBlock | k.UserBlock | k.AnyoneBlock]) -> PatternIndex[bool]:
    """Every pattern that the blocks open."""
    index: PatternIndex[bool] = PatternIndex()
    patterns = {opening.pattern for block in blocks for one in block.grants for opening in one.openings}
    for pattern in patterns:
        index.add(pattern, True)
    return index


def delegation_limits(draft: Draft) -> tuple[k.DelegationLimits, ...]:
    return tuple(limits(declared, draft) for _, declared in draft.declared(ast.DelegationDecl))


def limits(declared: ast.DelegationDecl, draft: Draft) -> k.DelegationLimits:
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


def user_blocks(draft: Draft) -> tuple[k.UserBlock, ...]:
    return draft.rules(ast.UserDecl, lambda declared, package: user_block(declared, package, draft))


def user_block(declared: ast.UserDecl, package: str, draft: Draft) -> k.UserBlock:
    draft.once(said_once(declared.items), "E405", "keep one")
    validity = tuple(valid(item, draft) for item in declared.items if isinstance(item, ast.Valid))
    head = user_head(declared.head, package, draft)
    return k.UserBlock(*head, validity, grants(declared.items, package, draft), span=head_of(declared, declared.head))


def user_head(
    head: ast.Called | ast.Matching | ast.Anybody, package: str, draft: Draft
) -> tuple[str, str, k.Called | k.Everybody | k.Where]:
    match head:
        case ast.Called(name):
            if "*" in name.value:
                hint = f'write `user where user.id like "{name.value}"`'
                draft.report("E418", "a user is called by the whole name", name.span, hint)
            return f'user "{name.value}"', package, k.Called(not_empty(name, draft))
        case ast.Anybody():
            return "user any", package, k.Everybody()
        case ast.Matching(condition):
            found = about(condition, ABOUT_USERS, "user", package, draft) or never(condition)
            return f"user where {words(condition.span)}", package, k.Where(found)
        case _:
            assert_never(head)


def anyone_blocks(draft: Draft) -> tuple[k.AnyoneBlock, ...]:
    return draft.rules(ast.AnyoneDecl, lambda declared, package: anyone_block(declared, package, draft))


def anyone_block(declared: ast.AnyoneDecl, package: str, draft: Draft) -> k.AnyoneBlock:
    return k.AnyoneBlock("anyone", package, grants(declared.items, package, draft), span=declared.span)
