"""Faults in doors, guards and trust anchors: a line that is missing, a requirement that asks less, another approver."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from policyengine.source import Span
from policyengine.syntax import nodes as ast
from policyengine.testing.mutation.edits import Edit, cut_item, cut_span, insert, put
from policyengine.testing.mutation.faults import Change, without
from policyengine.testing.mutation.places import fewer

GONE, LESS, MORE = "drop a requirement", "widen a requirement", "narrow a requirement"
NO_CONDITION, NO_LIMIT, APPROVER = "drop a condition", "drop a limit of time", "change who approves"
BOUND = "change what is approved"


@dataclass(frozen=True, slots=True)
class Known:
    """What a fault may name instead: issuers, attesters and the roles of approvers that the policy speaks of, and of
    each scope those that include it."""

    issuers: tuple[str, ...]
    attesters: tuple[str, ...]
    roles: tuple[str, ...]
    wider: Mapping[str, tuple[str, ...]]


def rule_faults(node: ast.Node, known: Known) -> Iterator[Change]:
    match node:
        case ast.AgentDecl() | ast.UserDecl() | ast.AnyoneDecl():
            yield from fewer_lines(node)
        case ast.CredentialDecl(items):
            yield from fewer_of_credential(node, items)
        case ast.IssuedBy(issuers):
            yield from fewer(MORE, node, "issuers", issuers)
            yield from one_more(node, "issuers", issuers, known.issuers)
        case ast.AttestedBy(attesters):
            yield from fewer(MORE, node, "attesters", attesters)
            yield from one_more(node, "attesters", attesters, known.attesters)
        case ast.Acts():
            yield from acts(node)
        case ast.May():
            if node.when is not None:
                yield Change.at(NO_CONDITION, node, Edit(node.targets[-1].span.end, node.when.span.end, ""), when=None)
            yield from wider_scopes(node, known.wider)
        case ast.MayDelegate():
            yield from delegate(node)
        case ast.DelegationDecl(limits):
            for number, limit in enumerate(limits):
                yield Change.at(
                    "drop a limit of delegation", node, cut_span(limit.span), limits=without(limits, number)
                )
        case ast.GuardDecl() | ast.Deny() | ast.Confirm() | ast.Obligation() | ast.Quorum() | ast.ByRole():
            yield from guard_faults(node, known)
        case ast.IssuerDecl() | ast.AttesterDecl() | ast.AttestedModel():
            yield from anchor_faults(node)
    yield from heads(node)


def whole_faults(declaration: ast.Declaration) -> Iterator[Change]:
    """Declarations that can be missing as a whole; a block without its doors is found line by line."""
    match declaration:
        case ast.GuardDecl():
            yield Change("drop a guard", declaration, None, (cut_span(declaration.span),))
        case ast.RateDecl() | ast.BudgetDecl():
            word = "rate" if isinstance(declaration, ast.RateDecl) else "budget"
            yield Change(f"drop a {word}", declaration, None, (cut_span(declaration.span),))
        case ast.UsersUnrestricted() | ast.PathsIgnoreCase() | ast.TasksAdvisory():
            yield Change("drop a line", declaration, None, (cut_span(declaration.span),))


# ── Doors ─────────────────────────────────────────────────────────────────────────────────────


def fewer_lines(node: ast.AgentDecl | ast.UserDecl | ast.AnyoneDecl) -> Iterator[Change]:
    """Without `issued by` and `acts` a block does not check: those are widened instead."""
    for number, item in enumerate(node.items):
        match item:
            case ast.May():
                operator = "drop a may"
            case ast.MayDelegate():
                operator = "drop a may delegate"
            case ast.AttestedBy() | ast.Valid():
                operator = GONE
            case _:
                continue
        yield Change.at(operator, node, cut_span(item.span), items=without(node.items, number))


def fewer_of_credential(node: ast.CredentialDecl, items: tuple[ast.Node, ...]) -> Iterator[Change]:
    spans = [item.span for item in items]
    for number in range(len(items)):
        yield Change.at(GONE, node, cut_item(spans, number), items=without(items, number))


def one_more(node: ast.Node, member: str, names: tuple[ast.Name, ...], known: tuple[str, ...]) -> Iterator[Change]:
    other = next((name for name in known if name not in {one.text for one in names}), None)
    if other is not None:
        end = names[-1].span.end
        more = (*names, ast.Name(other, span=names[-1].span))
        yield Change.at(LESS, node, insert(end, f", {other}"), **{member: more})


def acts(node: ast.Acts) -> Iterator[Change]:
    if node.mode != "any":
        yield Change.at(LESS, node, put(node.span, "acts for any user"), mode="any", condition=None)
    else:
        yield Change.at(MORE, node, put(node.span, "acts alone"), mode="alone")


def wider_scopes(node: ast.May, wider: Mapping[str, tuple[str, ...]]) -> Iterator[Change]:
    """For each scope one that includes it, if there is any that is not granted already."""
    granted = {one.text for one in node.targets if isinstance(one, ast.Name)}
    for scope in (one for one in node.targets if isinstance(one, ast.Name)):
        other = next((name for name in wider.get(scope.text, ()) if name not in granted), None)
        if other is not None:
            yield Change.at("widen a may", scope, put(scope.span, other), text=other)


def heads(node: ast.Node) -> Iterator[Change]:
    """`user where …` becomes `user any`, `agent where …` every agent."""
    match node:
        case ast.UserDecl(head=ast.Matching() as head):
            yield Change(NO_CONDITION, head, ast.Anybody(span=head.span), (put(head.span, "any"),))
        case ast.AgentDecl(head=ast.Called(name=name)) if (glob := wider_glob(name.value)) is not None:
            yield Change.at("widen a name", name, put(name.span, json.dumps(glob, ensure_ascii=False)), value=glob)
        case ast.AgentDecl(head=ast.Matching() as head):
            everybody = ast.Called(ast.Text("*", span=head.span), span=head.span)
            yield Change(NO_CONDITION, head, everybody, (put(head.span, '"*"'),))


def wider_glob(name: str) -> str | None:
    """`buyer*` for `buyer-*`: without the character before the first `*`, or behind it where none is before."""
    before, star, behind = name.partition("*")
    if not star or not before + behind:
        return None
    return f"{before[:-1]}*{behind}" if before else f"*{behind[1:]}"


def delegate(node: ast.MayDelegate) -> Iterator[Change]:
    last = node.to if node.lifetime is None else node.lifetime
    if node.when is not None:
        yield Change.at(NO_CONDITION, node, Edit(last.span.end, node.when.span.end, ""), when=None)
    if node.lifetime is not None:
        gone = Edit(node.to.span.end, node.lifetime.span.end, "")
        yield Change.at(NO_LIMIT, node, gone, lifetime=None)
    if not (isinstance(node.to, ast.Called) and node.to.name.value == "*"):
        everybody = ast.Called(ast.Text("*", span=node.to.span), span=node.to.span)
        yield Change.at("widen a may delegate", node, put(node.to.span, 'agent "*"'), to=everybody)


# ── Guards ────────────────────────────────────────────────────────────────────────────────────


def guard_faults(node: ast.Node, known: Known) -> Iterator[Change]:
    match node:
        case ast.GuardDecl(items=items):
            for number, item in enumerate(items):
                operator = "drop an obligation" if isinstance(item, ast.Obligation) else "drop a line of a guard"
                yield Change.at(operator, node, cut_span(item.span), items=without(items, number))
        case ast.Deny(condition=ast.Condition() as condition) | ast.Obligation(condition=ast.Condition() as condition):
            yield Change.at(NO_CONDITION, node, cut_span(condition.span), condition=None)
        case ast.Confirm(approver, within, bound, condition):
            if bound is not None:
                yield Change.at(BOUND, node, cut_span(bound.span), bound=None)
                yield from bound_faults(bound)
            if condition is not None:
                yield Change.at(NO_CONDITION, node, cut_span(condition.span), condition=None)
            if within is not None:
                yield Change.at(NO_LIMIT, node, Edit(approver.span.end, within.span.end, ""), within=None)
            if not isinstance(approver, ast.ByUser):
                user = ast.ByUser(span=approver.span)
                yield Change.at(APPROVER, node, put(approver.span, "user"), approver=user)
        case ast.Quorum(of=of):
            yield Change(APPROVER, node, of, (put(node.span, of.span.text),))
        case ast.ByRole(role):
            other = next((name for name in known.roles if name != role.text), f"{role.text}_other")
            yield Change.at(APPROVER, role, put(role.span, other), text=other)


def bound_faults(bound: ast.BoundTo) -> Iterator[Change]:
    """An approval of one request passes another, or no longer does."""
    spans = [item.span for item in bound.items]
    for number, item in enumerate(bound.items):
        if len(spans) > 1:
            yield Change.at(BOUND, bound, cut_item(spans, number), items=without(bound.items, number))
        if item.excepts:
            yield Change.at(BOUND, item, Edit(item.of.span.end, item.span.end, ""), excepts=())


# ── Trust anchors ─────────────────────────────────────────────────────────────────────────────


def anchor_faults(node: ast.Node) -> Iterator[Change]:
    match node:
        case ast.IssuerDecl():
            yield from issuer(node)
        case ast.AttesterDecl(items=items):
            for number, item in enumerate(items):
                decides = not (isinstance(item, ast.Setting) and item.name != "age")
                if decides:
                    yield Change.at(LESS, node, cut_span(item.span), items=without(items, number))
        case ast.AttestedModel(name, hash=ast.Literal() as digest):
            yield Change.at(LESS, node, Edit(name.span.end, digest.span.end, ""), hash=None)


def issuer(node: ast.IssuerDecl) -> Iterator[Change]:
    """`records chains`, `scopes none` and `users like` are there or not; claims are what a credential vouches for. No
    decision rests on `url` and `audience`: by them tokens are verified before anything is asked."""
    said = {item.name: number for number, item in enumerate(node.items) if isinstance(item, ast.Setting)}
    closing = Span(node.span.source, node.span.end - 1, node.span.end)
    for word in ("records chains", "scopes none"):
        if word in said:
            gone = cut_span(node.items[said[word]].span)
            yield Change.at(f"toggle {word}", node, gone, items=without(node.items, said[word]))
        else:
            more = ast.Setting(word, span=closing)
            yield Change.at(f"toggle {word}", node, insert(closing.start, f"{word} "), items=(*node.items, more))
    for number, item in enumerate(node.items):
        if isinstance(item, ast.UsersLike):
            yield Change.at(LESS, node, cut_span(item.span), items=without(node.items, number))
    for item in node.items:
        for number, claim in enumerate(item.maps if isinstance(item, ast.Claims) else ()):
            kept = without(item.maps, number)  # type: ignore[union-attr]  # only claims have maps
            yield Change.at("drop a claim", item, cut_span(claim.span), maps=kept)
