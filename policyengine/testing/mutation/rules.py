"""Faults in grants, guards and trust anchors: a removed line, a changed requirement, or another approval."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from policyengine.source import Span
from policyengine.syntax import nodes as ast
from policyengine.testing.mutation.edits import MutationEdit, cut_item, cut_span, insert_text, replace_span
from policyengine.testing.mutation.faults import FaultChange, omit_item
from policyengine.testing.mutation.places import drop_each

DROP_REQUIREMENT, WIDEN_REQUIREMENT, NARROW_REQUIREMENT = (
    "drop a requirement",
    "widen a requirement",
    "narrow a requirement",
)
DROP_CONDITION, DROP_TIME_LIMIT, CHANGE_APPROVER = "drop a condition", "drop a limit of time", "change who approves"
CHANGE_BINDING = "change what is approved"


@dataclass(frozen=True, slots=True)
class ReplacementNames:
    """Names that a fault may use instead: issuers, attesters, roles of approvers, and for each scope the scopes that
    include it.
    """

    issuers: tuple[str, ...]
    attesters: tuple[str, ...]
    roles: tuple[str, ...]
    wider: Mapping[str, tuple[str, ...]]


def rule_faults(node: ast.Node, known: ReplacementNames) -> Iterator[FaultChange]:
    match node:
        case ast.AgentDecl() | ast.UserDecl() | ast.AnyoneDecl():
            yield from block_line_faults(node)
        case ast.CredentialDecl(items):
            yield from credential_faults(node, items)
        case ast.IssuedBy(issuers):
            yield from drop_each(NARROW_REQUIREMENT, node, "issuers", issuers)
            yield from added_name_fault(node, "issuers", issuers, known.issuers)
        case ast.AttestedBy(attesters):
            yield from drop_each(NARROW_REQUIREMENT, node, "attesters", attesters)
            yield from added_name_fault(node, "attesters", attesters, known.attesters)
        case ast.ActsClause():
            yield from acts_faults(node)
        case ast.May():
            if node.when is not None:
                yield FaultChange.at(
                    DROP_CONDITION, node, MutationEdit(node.targets[-1].span.end, node.when.span.end, ""), when=None
                )
            yield from scope_faults(node, known.wider)
        case ast.MayDelegate():
            yield from delegate_faults(node)
        case ast.DelegationDecl(limits):
            for number, limit in enumerate(limits):
                yield FaultChange.at(
                    "drop a limit of delegation", node, cut_span(limit.span), limits=omit_item(limits, number)
                )
        case ast.GuardDecl() | ast.Deny() | ast.Confirm() | ast.ObligationEffect() | ast.Quorum() | ast.ByRole():
            yield from guard_faults(node, known)
        case ast.IssuerDecl() | ast.AttesterDecl() | ast.AttestedModel():
            yield from anchor_faults(node)
    yield from head_faults(node)


def declaration_faults(declaration: ast.Declaration) -> Iterator[FaultChange]:
    """Yield the faults that drop whole declarations; blocks are mutated line by line."""
    match declaration:
        case ast.GuardDecl():
            yield FaultChange("drop a guard", declaration, None, (cut_span(declaration.span),))
        case ast.RateDecl() | ast.BudgetDecl():
            word = "rate" if isinstance(declaration, ast.RateDecl) else "budget"
            yield FaultChange(f"drop a {word}", declaration, None, (cut_span(declaration.span),))
        case ast.UnrestrictedUsers() | ast.PathsIgnoreCase() | ast.TasksAdvisory():
            yield FaultChange("drop a line", declaration, None, (cut_span(declaration.span),))


# ── Doors ─────────────────────────────────────────────────────────────────────────────────────


def block_line_faults(node: ast.AgentDecl | ast.UserDecl | ast.AnyoneDecl) -> Iterator[FaultChange]:
    """Yield the faults that drop lines of a block, except `issued by` and `acts`, which are required and are widened
    instead."""
    for number, item in enumerate(node.items):
        match item:
            case ast.May():
                operator = "drop a may"
            case ast.MayDelegate():
                operator = "drop a may delegate"
            case ast.AttestedBy() | ast.ValidityPeriod():
                operator = DROP_REQUIREMENT
            case _:
                continue
        yield FaultChange.at(operator, node, cut_span(item.span), items=omit_item(node.items, number))


def credential_faults(node: ast.CredentialDecl, items: tuple[ast.Node, ...]) -> Iterator[FaultChange]:
    spans = [item.span for item in items]
    for number in range(len(items)):
        yield FaultChange.at(DROP_REQUIREMENT, node, cut_item(spans, number), items=omit_item(items, number))


def added_name_fault(
    node: ast.Node, member: str, names: tuple[ast.Name, ...], known: tuple[str, ...]
) -> Iterator[FaultChange]:
    other = next((name for name in known if name not in {one.text for one in names}), None)
    if other is not None:
        end = names[-1].span.end
        more = (*names, ast.Name(other, span=names[-1].span))
        yield FaultChange.at(WIDEN_REQUIREMENT, node, insert_text(end, f", {other}"), **{member: more})


def acts_faults(node: ast.ActsClause) -> Iterator[FaultChange]:
    if node.mode != "any":
        yield FaultChange.at(
            WIDEN_REQUIREMENT, node, replace_span(node.span, "acts for any user"), mode="any", condition=None
        )
    else:
        yield FaultChange.at(NARROW_REQUIREMENT, node, replace_span(node.span, "acts alone"), mode="alone")


def scope_faults(node: ast.May, wider: Mapping[str, tuple[str, ...]]) -> Iterator[FaultChange]:
    """Yield the faults that replace a scope with a scope that includes it and is not already granted."""
    granted = {one.text for one in node.targets if isinstance(one, ast.Name)}
    for scope in (one for one in node.targets if isinstance(one, ast.Name)):
        other = next((name for name in wider.get(scope.text, ()) if name not in granted), None)
        if other is not None:
            yield FaultChange.at("widen a may", scope, replace_span(scope.span, other), text=other)


def head_faults(node: ast.Node) -> Iterator[FaultChange]:
    """Yield the faults that widen `user where …` to `user any`, `agent where …` to every agent, and the glob of an
    agent by one character."""
    match node:
        case ast.UserDecl(head=ast.PrincipalCondition() as head):
            yield FaultChange(DROP_CONDITION, head, ast.AnyUser(span=head.span), (replace_span(head.span, "any"),))
        case ast.AgentDecl(head=ast.PrincipalName(name=name)) if (glob := wider_glob(name.value)) is not None:
            yield FaultChange.at(
                "widen a name", name, replace_span(name.span, json.dumps(glob, ensure_ascii=False)), value=glob
            )
        case ast.AgentDecl(head=ast.PrincipalCondition() as head):
            everybody = ast.PrincipalName(ast.Text("*", span=head.span), span=head.span)
            yield FaultChange(DROP_CONDITION, head, everybody, (replace_span(head.span, '"*"'),))


def wider_glob(name: str) -> str | None:
    """Return a wider glob, such as `buyer*` for `buyer-*`: without the character before the first `*` or, if the glob
    begins with `*`, without the character after it. Return None if nothing can be left out.
    """
    before, star, behind = name.partition("*")
    if not star or not before + behind:
        return None
    return f"{before[:-1]}*{behind}" if before else f"*{behind[1:]}"


def delegate_faults(node: ast.MayDelegate) -> Iterator[FaultChange]:
    last = node.to if node.lifetime is None else node.lifetime
    if node.when is not None:
        yield FaultChange.at(DROP_CONDITION, node, MutationEdit(last.span.end, node.when.span.end, ""), when=None)
    if node.lifetime is not None:
        gone = MutationEdit(node.to.span.end, node.lifetime.span.end, "")
        yield FaultChange.at(DROP_TIME_LIMIT, node, gone, lifetime=None)
    if not (isinstance(node.to, ast.PrincipalName) and node.to.name.value == "*"):
        everybody = ast.PrincipalName(ast.Text("*", span=node.to.span), span=node.to.span)
        yield FaultChange.at("widen a may delegate", node, replace_span(node.to.span, 'agent "*"'), to=everybody)


# ── Guards ────────────────────────────────────────────────────────────────────────────────────


def guard_faults(node: ast.Node, known: ReplacementNames) -> Iterator[FaultChange]:
    match node:
        case ast.GuardDecl(items=items):
            for number, item in enumerate(items):
                operator = "drop an obligation" if isinstance(item, ast.ObligationEffect) else "drop a line of a guard"
                yield FaultChange.at(operator, node, cut_span(item.span), items=omit_item(items, number))
        case (
            ast.Deny(condition=ast.ConditionClause() as condition)
            | ast.ObligationEffect(condition=ast.ConditionClause() as condition)
        ):
            yield FaultChange.at(DROP_CONDITION, node, cut_span(condition.span), condition=None)
        case ast.Confirm(approver, issuers, within, bound, condition):
            yield from approver_issuer_faults(node, known.issuers)
            if bound is not None:
                yield FaultChange.at(CHANGE_BINDING, node, cut_span(bound.span), bound=None)
                yield from bound_faults(bound)
            if condition is not None:
                yield FaultChange.at(DROP_CONDITION, node, cut_span(condition.span), condition=None)
            if within is not None:
                before = issuers[-1] if issuers else approver
                gone = MutationEdit(before.span.end, within.span.end, "")
                yield FaultChange.at(DROP_TIME_LIMIT, node, gone, within=None)
            if not isinstance(approver, ast.ByUser):
                user = ast.ByUser(span=approver.span)
                yield FaultChange.at(CHANGE_APPROVER, node, replace_span(approver.span, "user"), approver=user)
        case ast.Quorum(of=of):
            yield FaultChange(CHANGE_APPROVER, node, of, (replace_span(node.span, of.span.text),))
        case ast.ByRole(role):
            other = next((name for name in known.roles if name != role.text), f"{role.text}_other")
            yield FaultChange.at(CHANGE_APPROVER, role, replace_span(role.span, other), text=other)


def approver_issuer_faults(node: ast.Confirm, known: tuple[str, ...]) -> Iterator[FaultChange]:
    """Yield the faults that change the issuers after `from`: they drop all issuers, drop one, or name another."""
    if not node.issuers:
        return
    end = node.issuers[-1].span.end
    yield FaultChange.at(CHANGE_APPROVER, node, MutationEdit(node.approver.span.end, end, ""), issuers=())
    yield from drop_each(CHANGE_APPROVER, node, "issuers", node.issuers)
    other = next((name for name in known if name not in {one.text for one in node.issuers}), None)
    if other is not None:
        span = Span(node.span.source, node.issuers[0].span.start, end)
        yield FaultChange.at(CHANGE_APPROVER, node, replace_span(span, other), issuers=(ast.Name(other, span=span),))


def bound_faults(bound: ast.BoundTo) -> Iterator[FaultChange]:
    """Yield the faults that change what an approval is bound to."""
    spans = [item.span for item in bound.items]
    for number, item in enumerate(bound.items):
        if len(spans) > 1:
            yield FaultChange.at(CHANGE_BINDING, bound, cut_item(spans, number), items=omit_item(bound.items, number))
        if item.excepts:
            yield FaultChange.at(CHANGE_BINDING, item, MutationEdit(item.of.span.end, item.span.end, ""), excepts=())


# ── Trust anchors ─────────────────────────────────────────────────────────────────────────────


def anchor_faults(node: ast.Node) -> Iterator[FaultChange]:
    match node:
        case ast.IssuerDecl():
            yield from issuer_faults(node)
        case ast.AttesterDecl(items=items):
            for number, item in enumerate(items):
                decides = not (isinstance(item, ast.TrustAnchorOption) and item.name != "age")
                if decides:
                    yield FaultChange.at(WIDEN_REQUIREMENT, node, cut_span(item.span), items=omit_item(items, number))
        case ast.AttestedModel(name, hash=ast.Literal() as digest):
            yield FaultChange.at(WIDEN_REQUIREMENT, node, MutationEdit(name.span.end, digest.span.end, ""), hash=None)


def issuer_faults(node: ast.IssuerDecl) -> Iterator[FaultChange]:
    """Yield the faults that toggle `records chains` and `scopes none`, or drop `users like` or claims. `url` and
    `audience` do not affect decisions, because tokens are verified before the decision.
    """
    said = {item.name: number for number, item in enumerate(node.items) if isinstance(item, ast.TrustAnchorOption)}
    closing = Span(node.span.source, node.span.end - 1, node.span.end)
    for word in ("records chains", "scopes none"):
        if word in said:
            gone = cut_span(node.items[said[word]].span)
            yield FaultChange.at(f"toggle {word}", node, gone, items=omit_item(node.items, said[word]))
        else:
            more = ast.TrustAnchorOption(word, span=closing)
            yield FaultChange.at(
                f"toggle {word}", node, insert_text(closing.start, f"{word} "), items=(*node.items, more)
            )
    for number, item in enumerate(node.items):
        if isinstance(item, ast.UsersLike):
            yield FaultChange.at(WIDEN_REQUIREMENT, node, cut_span(item.span), items=omit_item(node.items, number))
    for item in node.items:
        for number, claim in enumerate(item.maps if isinstance(item, ast.ClaimsClause) else ()):
            kept = omit_item(item.maps, number)  # type: ignore[union-attr]  # only claims have maps
            yield FaultChange.at("drop a claim", item, cut_span(claim.span), maps=kept)
