"""Lowering of trust anchors: issuers and attesters, whose names are shared by all packages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from policyengine import kernel as k
from policyengine.checker.lower.context import LoweringContext
from policyengine.checker.types.constants import lower_text
from policyengine.diagnostics.model import RelatedLocation
from policyengine.diagnostics.suggest import suggest
from policyengine.source import Span
from policyengine.syntax import nodes as ast

Anchor = TypeVar("Anchor", k.Issuer, k.Attester)
CLAIM_HOLDERS = ("user", "agent")  # entities whose attributes a credential can set


def lower_issuers(draft: LoweringContext) -> dict[str, k.Issuer]:
    found = [
        (package, lower_issuer(declared, draft), declared.name) for package, declared in draft.declared(ast.IssuerDecl)
    ]
    return index_by_name(found, "issuer", draft)


def lower_attesters(draft: LoweringContext) -> dict[str, k.Attester]:
    found = [(package, lower_attester(d, draft), d.name) for package, d in draft.declared(ast.AttesterDecl)]
    return index_by_name(found, "attester", draft)


def index_by_name(found: list[tuple[str, Anchor, ast.Name]], kind: str, draft: LoweringContext) -> dict[str, Anchor]:
    """Return the anchors by name. Report a name that two packages declare, because requests name anchors without their
    package.
    """
    first: dict[str, tuple[str, ast.Name]] = {}
    for package, anchor, name in found:
        owner, declared = first.setdefault(anchor.name, (package, name))
        if owner != package:
            message = f"the {kind} `{anchor.name}` is already declared by package `{owner}`"
            hint = f"export it there, and import `{owner}` here"
            draft.report("E413", message, name.span, hint, [RelatedLocation("declared here", declared.span)])
    return {anchor.name: anchor for _, anchor, _ in reversed(found)}


def lower_issuer(declared: ast.IssuerDecl, draft: LoweringContext) -> k.Issuer:
    draft.once(option_spans(declared.items), "E405", "keep one")
    given = {item.name: item.value for item in declared.items if isinstance(item, ast.TrustAnchorOption)}
    return k.Issuer(
        declared.name.text,
        lower_option_text(given.get("url"), draft),
        lower_option_text(given.get("audience"), draft),
        lower_option_text(given.get("keys"), draft),
        "records chains" in given,
        "scopes none" in given,
        tuple(lower_claims(declared, draft)),
        tuple(dict.fromkeys(lower_users_like(declared, draft))),
        span=declared.name.span,
    )


def option_spans(items: tuple[ast.Node, ...]) -> Iterator[tuple[str, Span]]:
    yield from ((f"`{item.name}`", item.span) for item in items if isinstance(item, ast.TrustAnchorOption))
    yield from (("`users like`", item.span) for item in items if isinstance(item, ast.UsersLike))
    for item in items:
        for each in item.maps if isinstance(item, ast.ClaimsClause) else ():
            yield f"`{each.fact.text}`", each.span


def lower_option_text(value: ast.Text | ast.Literal | None, draft: LoweringContext) -> str | None:
    if not isinstance(value, ast.Text):
        return None
    if not value.value.strip():
        draft.report("E417", "this is empty", value.span, "write a value, or remove the setting")
        return None
    return value.value


def lower_users_like(declared: ast.IssuerDecl, draft: LoweringContext) -> Iterator[str]:
    for item in declared.items:
        found = (lower_option_text(one, draft) for one in item.patterns) if isinstance(item, ast.UsersLike) else ()
        yield from (one for one in found if one is not None)


def lower_claims(declared: ast.IssuerDecl, draft: LoweringContext) -> Iterator[tuple[str, tuple[str, ...]]]:
    for item in declared.items:
        for each in item.maps if isinstance(item, ast.ClaimsClause) else ():
            path = tuple(each.fact.text.split("."))
            if is_attribute(path, each.fact, draft):
                yield each.claim, path


def is_attribute(path: tuple[str, ...], fact: ast.Name, draft: LoweringContext) -> bool:
    entity = draft.schema.entities.get(path[0]) if path[0] in CLAIM_HOLDERS else None
    if len(path) != 2 or path[0] not in CLAIM_HOLDERS:
        hint = "a claim sets an attribute of the user or the agent: `tenant -> user.tenant`"
        draft.report("E412", f"`{fact.text}` is not an attribute that a claim can set", fact.span, hint)
        return False
    if entity is not None and entity.field(path[1]) is not None:
        return True
    meant = suggest(path[1], [f.name for f in entity.fields]) if entity else None
    hint = f"did you mean `{path[0]}.{meant}`?" if meant else f"declare it: `entity {path[0]} {{ {path[1]}: string? }}`"
    if path[1] == "id":
        hint = "the credential itself identifies the caller, not a claim: remove the line"
    draft.report("E412", f"`{fact.text}` is not a declared attribute", fact.span, hint)
    return False


def lower_attester(declared: ast.AttesterDecl, draft: LoweringContext) -> k.Attester:
    draft.once(option_spans(declared.items), "E405", "keep one")
    url = age = None
    models: list[tuple[str, str | None]] = []
    environments: list[str] = []
    for item in declared.items:
        match item:
            case ast.TrustAnchorOption("url", value):
                url = lower_option_text(value, draft)
            case ast.TrustAnchorOption("age", ast.Literal() as limit):
                age = draft.duration(limit, "E409")
            case ast.AttestedModel(name, digest):
                models.append((lower_option_text(name, draft) or "", digest.text if digest else None))
            case ast.AttestedEnvironment(values):
                environments += lower_environments(values, draft)
            case _:
                pass
    return k.Attester(declared.name.text, url, age, tuple(models), tuple(environments), span=declared.name.span)


def lower_environments(values: ast.ListLiteral, draft: LoweringContext) -> Iterator[str]:
    if not values.items:
        draft.report("E419", "the list of environments is empty", values.span, "name the environments, or remove it")
    for item in values.items:
        constant = lower_text(item, draft.report) if isinstance(item, ast.Text) else None
        if constant is not None:
            yield str(constant.value)
        elif not isinstance(item, ast.Text):
            hint = f'write it in quotes: `"{item.span.text}"`' if isinstance(item, ast.Reference) else None
            draft.report("E419", f"`{item.span.text}` is not the name of an environment", item.span, hint)
