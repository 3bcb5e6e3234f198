"""Lowering of guards: denials, confirms and obligations."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import assert_never

from policyengine import kernel as k
from policyengine.checker.lower.bound_objects import lower_bound_clause
from policyengine.checker.lower.context import LoweringContext, facts_read, positive_duration, rule_text
from policyengine.checker.lower.expressions import lower_condition, lower_value
from policyengine.checker.lower.messages import lower_message
from policyengine.checker.names.scope import ExpressionContext
from policyengine.checker.patterns.overlap import PatternIndex, covers
from policyengine.checker.type_names import describe_type
from policyengine.diagnostics.model import RelatedLocation
from policyengine.diagnostics.suggest import did_you_mean
from policyengine.source import Span
from policyengine.syntax import nodes as ast
from policyengine.typesystem import EnumType, ListType, RefType, Scalar, SetType, Type, UnresolvedType
from policyengine.vocabulary import AUDIT_LEVELS, FACT_ROOT_NAMES

HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
USER_ENTITY = "user"  # approvers are entities of this type


def lower_guards(draft: LoweringContext) -> tuple[k.Guard, ...]:
    check_rule_names(draft)
    return draft.rules(ast.GuardDecl, lambda declared, package: lower_guard(declared, package, draft))


def check_rule_names(draft: LoweringContext) -> None:
    """Report rules of one package that share a name, because tests and decisions refer to rules by name."""
    named: list[tuple[str, ast.Text]] = []
    for kind in (ast.GuardDecl, ast.RateDecl, ast.BudgetDecl):
        named += [(package, declared.name) for package, declared in draft.declared(kind)]  # type: ignore[attr-defined]
    report_shared_names(named, "rule", draft)


def report_shared_names(named: Iterable[tuple[str, ast.Text]], what: str, draft: LoweringContext) -> None:
    """Report names that are empty, or used twice in one package."""
    first: dict[tuple[str, str], Span] = {}
    for package, name in named:
        where = first.setdefault((package, name.value), name.span)
        if not name.value.strip():
            draft.report("E514", f"a {what} needs a name", name.span, f"write a name that says what the {what} is for")
        elif where is not name.span:
            hint = "give one of them another name"
            related = [RelatedLocation("first used here", where)]
            draft.report("E501", f"two {what}s are named `{name.value}`", name.span, hint, related)


def lower_guard(declared: ast.GuardDecl, package: str, draft: LoweringContext) -> k.Guard | None:
    name = declared.name
    head = Span(name.span.source, declared.span.start, name.span.end)
    place = draft.places.place(declared.place, package) if declared.place else k.Place(None, span=head)
    if place is None:
        return None
    context = draft.context(package, draft.places.here(place))
    effects = tuple(one for item in declared.items if (one := lower_effect(item, context)) is not None)
    check_cluster_denials(effects, context)
    return k.Guard(name.value, package, place, effects, span=head)


def check_cluster_denials(effects: Iterable[k.Effect], context: ExpressionContext) -> None:
    """Report effects that read `cluster`. Members of a cluster share the count of a rate, but a member must not be
    denied because of another member.
    """
    for condition in (one.condition for one in effects if one.condition is not None):
        for part in k.walk(condition):
            if isinstance(part, k.Fact) and part.path[0] == "cluster":
                message = f"`{'.'.join(part.path)}` is available only in rates and budgets"
                context.report("E515", message, part.span, 'write a rate: `rate "…" per cluster.id { … }`')


def check_guards_reach_grants(draft: LoweringContext, opened: PatternIndex[bool]) -> None:
    """Report guards and limits at places that no grant covers; usually the path is misspelled."""
    for kind, done in ((ast.GuardDecl, "guarded"), (ast.RateDecl, "limited"), (ast.BudgetDecl, "limited")):
        for package, declared in draft.declared(kind):
            check_place(declared.place, done, package, draft, opened)  # type: ignore[attr-defined]  # all three have a place


def check_place(
    place: ast.Place | None, done: str, package: str, draft: LoweringContext, opened: PatternIndex[bool]
) -> None:
    outside = draft.places.patterns(place.excepts, package) if place else None
    for target in place.targets if place and outside is not None else ():
        patterns = draft.places.target(target, package) or ()
        kept = [pattern for pattern in patterns if not any(covers(hole, pattern) for hole in outside or ())]
        if kept and not any(any(opened.overlapping(k.with_folding(pattern, "full"))) for pattern in kept):
            message = f"no grant covers `{rule_text(target.span)}`"
            draft.report("W521", message, target.span, f"check the spelling; nothing needs to be {done} here")


# ── Items ─────────────────────────────────────────────────────────────────────────────────────


def lower_effect(item: ast.GuardItem, context: ExpressionContext) -> k.Effect | None:
    """Lower one item. Returns None if its condition has a reported error."""
    said = lower_message(item.message, context)
    match item:
        case ast.Deny(written):
            condition = lower_when(written, context)
            return None if condition is None else k.Deny(condition.value, said, rule_text(item.span), span=item.span)
        case ast.Require(required):
            condition = lower_requirement(required, context)
            return None if condition is None else k.Deny(condition.value, said, rule_text(item.span), span=item.span)
        case ast.Confirm():
            return lower_confirm(item, said, context)
        case ast.ObligationEffect(kind, _, written):
            condition, arguments = lower_when(written, context), tuple(lower_obligation_arguments(item, context))
            if condition is None:
                return None
            return k.ObligationEffect(condition.value, kind, arguments, said, rule_text(item.span), span=item.span)
        case _:
            assert_never(item)


@dataclass(frozen=True, slots=True)
class EffectCondition:
    """The condition of an item. If `value` is None, the item always applies."""

    value: k.Expr | None


def lower_when(written: ast.ConditionClause | None, context: ExpressionContext) -> EffectCondition | None:
    """Lower the condition; `unless c` means `when not c`. Returns None if an error was reported."""
    if written is None:
        return EffectCondition(None)
    if written.word == "unless":
        return lower_requirement(written.condition, context)
    found = lower_condition(written.condition, context)
    return EffectCondition(found) if found is not None else None


def lower_requirement(written: ast.Expr, context: ExpressionContext) -> EffectCondition | None:
    found = lower_condition(written, context)
    return EffectCondition(k.Not(found, span=written.span)) if found is not None else None


def lower_confirm(item: ast.Confirm, said: k.Message | None, context: ExpressionContext) -> k.Confirm | None:
    condition, who = lower_when(item.condition, context), lower_approvers(item, context)
    within = positive_duration(item.within, "E507", context.report) if item.within else None
    if condition is None or who is None or (item.within and within is None):
        return None
    for fact, span in facts_read(condition.value) if condition.value is not None else ():
        if fact.path[0] == "approval":
            hint = "the approval lifts the confirm by itself: remove it from the condition"
            context.report("E512", "a confirm cannot depend on an approval", span, hint)
    bound = lower_bound_clause(item.bound, condition.value, said, context)
    return k.Confirm(condition.value, who, within, bound, said, rule_text(item.span), span=item.span)


# ── Who approves ──────────────────────────────────────────────────────────────────────────────


def lower_approvers(item: ast.Confirm, context: ExpressionContext) -> k.Approvers | None:
    written, issuers = item.approver, lower_approver_issuers(item.issuers, context)
    number = lower_quorum(written.count, context) if isinstance(written, ast.Quorum) else 1
    who = lower_approver(written.of if isinstance(written, ast.Quorum) else written, context)
    if who is None or number is None or issuers is None:
        return None
    words = approver_words(written)
    return k.Approvers(who, number, f"{words} from {', '.join(issuers)}" if issuers else words, issuers)


def lower_approver_issuers(written: Sequence[ast.Name], context: ExpressionContext) -> tuple[str, ...] | None:
    """Return the issuers after `from`. Returns None if an error was reported."""
    first: dict[str, Span] = {}
    for name in written:
        found = context.program.find(context.package, "issuer", name)
        if found is None:
            return None
        where = first.setdefault(found.name, name.span)
        if where is not name.span:
            related = [RelatedLocation("first named here", where)]
            context.report("E519", f"`{name.text}` is named twice", name.span, "keep one", related)
            return None
    return tuple(first)


def approver_words(written: ast.Approver) -> str:
    """Return the approvers as text for remedies and messages: `role finance`, `2 of team "legal"`."""
    match written:
        case ast.Quorum(count, of):
            return f"{count.text} of {approver_words(of)}"
        case ast.ByUser():
            return "user"
        case ast.ByRole(role):
            return f"role {role.text}"
        case ast.ByFact(fact):
            return fact.text
        case ast.ByEntity(entity):
            return rule_text(entity.span)
        case _:
            assert_never(written)


def lower_quorum(count: ast.Literal, context: ExpressionContext) -> int | None:
    digits = count.text.replace("_", "")
    if digits.isdigit() and len(digits) <= 4 and int(digits) >= 2:
        return int(digits)
    context.report(
        "E506", f"`{count.text}` is not a valid number of people", count.span, "write a whole number, `2` or more"
    )
    return None


def lower_approver(
    written: ast.ByUser | ast.ByRole | ast.ByFact | ast.ByEntity, context: ExpressionContext
) -> k.RoleHolder | k.ServedUser | k.MemberOf | None:
    match written:
        case ast.ByUser():
            return k.ServedUser()
        case ast.ByRole(role):
            return k.RoleHolder(role.text) if has_roles(role, context) else None
        case ast.ByFact(fact) if is_bare_word(fact, context):
            hint = f"write `by role {fact.text}`, or name a fact that holds the approvers: `by resource.approvers`"
            context.report("E202", f"unknown name `{fact.text}`", fact.span, hint)
            return None
        case ast.ByFact(fact):
            found = lower_value(ast.Reference(fact.text, span=fact.span), context)
            return k.MemberOf(found) if found is not None and check_holds_users(found, context) else None
        case ast.ByEntity(entity):
            found = lower_value(entity, context)
            return k.MemberOf(found) if found is not None and check_holds_users(found, context) else None
        case _:
            assert_never(written)


def is_bare_word(name: ast.Name, context: ExpressionContext) -> bool:
    """Return whether the name is neither a fact nor a definition. Such a name is probably a role without the word
    `role`.
    """
    named = context.program.visible(context.package, "let", "define")
    return "." not in name.text and name.text not in (*FACT_ROOT_NAMES, *named)


def has_roles(role: ast.Name, context: ExpressionContext) -> bool:
    roles = context.schema.entities[USER_ENTITY].field("roles")
    match roles.type if roles else None:
        case SetType(Scalar.STRING) | SetType(UnresolvedType()):
            return True
        case SetType(EnumType(name, values)):
            if role.text in values:
                return True
            hint = did_you_mean(role.text, values) or f"roles are {', '.join(values)}"
            context.report("E504", f"`{role.text}` is not a value of `{name}`", role.span, hint)
        case _:
            hint = "declare it: `entity user { roles: set<string> }`"
            context.report("E504", "users have no declared roles", role.span, hint)
    return False


def check_holds_users(found: k.Expr, context: ExpressionContext) -> bool:
    """Return whether the approver is a user or can contain users. Report any other approver."""
    entities = referenced_types(found.type)
    if entities is None:
        message = f"`{rule_text(found.span)}` is {describe_type(found.type)}, which cannot approve"
        context.report("E505", message, found.span, "name a user, a group of users, or a set of them")
        return False
    if entities and entities.isdisjoint(container_types(USER_ENTITY, context)):
        message = f"users are never in {' or '.join(f'`{name}`' for name in sorted(entities))}"
        hint = f"declare which entities users are in: `entity user {{ … }} in {min(entities)}`"
        context.report("E505", message, found.span, hint)
        return False
    return True


def referenced_types(type_: Type) -> frozenset[str] | None:
    match type_:
        case RefType(entities):
            return entities
        case SetType(element) | ListType(element):
            return referenced_types(element) if isinstance(element, RefType | UnresolvedType) else None
        case UnresolvedType():
            return frozenset()
        case _:
            return None


def container_types(entity: str, context: ExpressionContext) -> set[str]:
    """Return the entity type itself and all types whose entities can contain it, at any depth."""
    found: set[str] = set()
    pending = [entity]
    while pending:
        name = pending.pop()
        if name not in found:
            found.add(name)
            known = context.schema.entities.get(name)
            pending += known.parents if known else ()
    return found


# ── Obligations ───────────────────────────────────────────────────────────────────────────────


def lower_obligation_arguments(item: ast.ObligationEffect, context: ExpressionContext) -> Iterator[str]:
    match item.kind:
        case "audit":
            yield from (level.text for level in name_arguments(item) if is_level(level, context))
        case "redact":
            yield from (path.text for path in name_arguments(item) if is_redactable(path, context))
        case "notify":
            yield from (whom.value for whom in text_arguments(item) if check_recipient(whom, context))
        case "header":
            name, value = text_arguments(item)
            check_header(name, value, context)
            yield from (part.value for part in text_arguments(item))
        case "step_up":
            yield from (level.text for level in name_arguments(item))
        case "warn":
            pass
        case _:
            assert_never(item.kind)


def name_arguments(item: ast.ObligationEffect) -> list[ast.Name]:
    return [argument for argument in item.arguments if isinstance(argument, ast.Name)]


def text_arguments(item: ast.ObligationEffect) -> list[ast.Text]:
    return [argument for argument in item.arguments if isinstance(argument, ast.Text)]


def is_level(level: ast.Name, context: ExpressionContext) -> bool:
    if level.text in AUDIT_LEVELS:
        return True
    hint = did_you_mean(level.text, AUDIT_LEVELS) or f"levels are {', '.join(AUDIT_LEVELS)}"
    context.report("E508", f"`{level.text}` is not an audit level", level.span, hint)
    return False


def is_redactable(path: ast.Name, context: ExpressionContext) -> bool:
    if path.text.partition(".")[0] not in ("body", "args"):
        hint = "only declared facts that begin with `body.` or `args.` can be redacted"
        context.report("E509", f"`{path.text}` cannot be redacted", path.span, hint)
        return False
    return lower_value(ast.Reference(path.text, span=path.span), context) is not None


def check_recipient(whom: ast.Text, context: ExpressionContext) -> bool:
    if not whom.value.strip():
        context.report("E511", "the recipient is empty", whom.span, 'name a recipient: `notify "security"`')
    return bool(whom.value.strip())


def check_header(name: ast.Text, value: ast.Text, context: ExpressionContext) -> None:
    if not HEADER_NAME.fullmatch(name.value):
        hint = "a header name may contain only ASCII letters, digits and !#$%&'*+-.^_`|~"
        context.report("E510", f"`{name.value}` is not a valid header name", name.span, hint)
    if any(unicodedata.category(char) in ("Cc", "Zl", "Zp") for char in value.value):
        context.report(
            "E510", "the value of a header cannot contain control characters", value.span, "write it on one line"
        )
