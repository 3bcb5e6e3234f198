"""Guards to kernel: what they deny, what they ask a person, what they oblige to."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import assert_never

from policyengine import kernel as k
from policyengine.checker.lower.bound_clause import bound_clause
from policyengine.checker.lower.context import Draft, facts_read, positive_duration, words
from policyengine.checker.lower.expressions import lower_condition, lower_value
from policyengine.checker.lower.messages import lower_message
from policyengine.checker.names.scope import Context
from policyengine.checker.patterns.overlap import PatternIndex, covers
from policyengine.checker.type_names import a
from policyengine.diagnostics.model import Related, suggest
from policyengine.source import Span
from policyengine.syntax import nodes as ast
from policyengine.typesystem import Enum, List, Ref, Scalar, Set, Type, Unresolved
from policyengine.vocabulary import AUDIT_LEVELS, ROOTS

HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
PERSON = "user"  # an approver is one


def guards(draft: Draft) -> tuple[k.Guard, ...]:
    check_names(draft)
    return draft.rules(ast.GuardDecl, lambda declared, package: guard(declared, package, draft))


def check_names(draft: Draft) -> None:
    """Tests and reasons name a rule: two of one package cannot share a name."""
    first: dict[tuple[str, str], Span] = {}
    for kind in (ast.GuardDecl, ast.RateDecl, ast.BudgetDecl):
        for package, declared in draft.declared(kind):
            name: ast.Text = declared.name  # type: ignore[attr-defined]  # all three have one
            where = first.setdefault((package, name.value), name.span)
            if not name.value.strip():
                draft.report("E514", "a rule needs a name", name.span, "say what the rule is for")
            elif where is not name.span:
                hint = "give one of them another name"
                related = [Related("first used here", where)]
                draft.report("E501", f"two rules are called `{name.value}`", name.span, hint, related)


def guard(declared: ast.GuardDecl, package: str, draft: Draft) -> k.Guard | None:
    name = declared.name
    head = Span(name.span.source, declared.span.start, name.span.end)
    place = draft.places.place(declared.place, package) if declared.place else k.Place(None, span=head)
    if place is None:
        return None
    context = draft.context(package, draft.places.here(place))
    effects = tuple(one for item in declared.items if (one := effect(item, context)) is not None)
    check_clusters(effects, context)
    return k.Guard(name.value, package, place, effects, span=head)


def check_clusters(effects: Iterable[k.Effect], context: Context) -> None:
    """Whoever shares a cluster with others must not be denied for it: it only says whose count a rate goes by."""
    for condition in (one.condition for one in effects if one.condition is not None):
        for part in k.walk(condition):
            if isinstance(part, k.Fact) and part.path[0] == "cluster":
                message = f"`{'.'.join(part.path)}` counts in rates and budgets alone"
                context.report("E515", message, part.span, 'write a rate: `rate "…" per cluster.id { … }`')


def check_reach(draft: Draft, opened: PatternIndex[bool]) -> None:
    """A guard or limit where no door opens is for nothing: more often a misspelled path than a wish."""
    for kind, done in ((ast.GuardDecl, "guarded"), (ast.RateDecl, "limited"), (ast.BudgetDecl, "limited")):
        for package, declared in draft.declared(kind):
            check_place(declared.place, done, package, draft, opened)  # type: ignore[attr-defined]  # all have one


def check_place(place: ast.Place | None, done: str, package: str, draft: Draft, opened: PatternIndex[bool]) -> None:
    outside = draft.places.patterns(place.excepts, package) if place else None
    for target in place.targets if place and outside is not None else ():
        patterns = draft.places.target(target, package) or ()
        kept = [pattern for pattern in patterns if not any(covers(hole, pattern) for hole in outside or ())]
        if kept and not any(any(opened.overlapping(k.with_folding(pattern, "full"))) for pattern in kept):
            message = f"no door opens anything at `{words(target.span)}`"
            draft.report("W521", message, target.span, f"check how it is spelled; nothing has to be {done} here")


# ── Items ─────────────────────────────────────────────────────────────────────────────────────


def effect(item: ast.GuardItem, context: Context) -> k.Effect | None:
    """One item; None when its condition was reported."""
    said = lower_message(item.message, context)
    match item:
        case ast.Deny(written):
            condition = acts_when(written, context)
            return None if condition is None else k.Deny(condition.value, said, words(item.span), span=item.span)
        case ast.Require(required):
            condition = required_as_deny(required, context)
            return None if condition is None else k.Deny(condition.value, said, words(item.span), span=item.span)
        case ast.Confirm():
            return confirm(item, said, context)
        case ast.Obligation(kind, _, written):
            condition, arguments = acts_when(written, context), tuple(obligation_arguments(item, context))
            if condition is None:
                return None
            return k.Oblige(condition.value, kind, arguments, said, words(item.span), span=item.span)
        case _:
            assert_never(item)


@dataclass(frozen=True, slots=True)
class When:
    """When an item acts; `value` None is always."""

    value: k.Expr | None


def acts_when(written: ast.Condition | None, context: Context) -> When | None:
    """`unless c` acts as `when not c`; None when the condition was reported."""
    if written is None:
        return When(None)
    if written.word == "unless":
        return required_as_deny(written.condition, context)
    found = lower_condition(written.condition, context)
    return When(found) if found is not None else None


def required_as_deny(written: ast.Expr, context: Context) -> When | None:
    found = lower_condition(written, context)
    return When(k.Not(found, span=written.span)) if found is not None else None


def confirm(item: ast.Confirm, said: k.Message | None, context: Context) -> k.Confirm | None:
    condition, who = acts_when(item.condition, context), approvers(item.approver, context)
    within = positive_duration(item.within, "E507", context.report) if item.within else None
    if condition is None or who is None or (item.within and within is None):
        return None
    for fact, span in facts_read(condition.value) if condition.value is not None else ():
        if fact.path[0] == "approval":
            hint = "the approval lifts the confirm by itself: remove it from the condition"
            context.report("E512", "a confirm cannot depend on an approval", span, hint)
    bound = bound_clause(item.bound, condition.value, said, context)
    return k.Confirm(condition.value, who, within, bound, said, words(item.span), span=item.span)


# ── Who approves ──────────────────────────────────────────────────────────────────────────────


def approvers(written: ast.Approver, context: Context) -> k.Approvers | None:
    match written:
        case ast.Quorum(count, of):
            number = quorum(count, context)
            who = one_of(of, context)
            return k.Approvers(who, number, approver_words(written)) if who and number else None
        case _:
            who = one_of(written, context)
            return k.Approvers(who, 1, approver_words(written)) if who else None


def approver_words(written: ast.Approver) -> str:
    """As remedies and messages say it: `role finance`, `2 of team "legal"`."""
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
            return words(entity.span)
        case _:
            assert_never(written)


def quorum(count: ast.Literal, context: Context) -> int | None:
    digits = count.text.replace("_", "")
    if digits.isdigit() and len(digits) <= 4 and int(digits) >= 2:
        return int(digits)
    context.report("E506", f"`{count.text}` is no number of persons", count.span, "write a whole number, `2` or more")
    return None


def one_of(
    written: ast.ByUser | ast.ByRole | ast.ByFact | ast.ByEntity, context: Context
) -> k.RoleOf | k.UserServed | k.MemberOf | None:
    match written:
        case ast.ByUser():
            return k.UserServed()
        case ast.ByRole(role):
            return k.RoleOf(role.text) if has_roles(role, context) else None
        case ast.ByFact(fact) if is_word(fact, context):
            hint = f"write `by role {fact.text}`, or name a fact that holds them: `by resource.approvers`"
            context.report("E202", f"unknown name `{fact.text}`", fact.span, hint)
            return None
        case ast.ByFact(fact):
            found = lower_value(ast.Reference(fact.text, span=fact.span), context)
            return k.MemberOf(found) if found is not None and holds_persons(found, context) else None
        case ast.ByEntity(entity):
            found = lower_value(entity, context)
            return k.MemberOf(found) if found is not None and holds_persons(found, context) else None
        case _:
            assert_never(written)


def is_word(name: ast.Name, context: Context) -> bool:
    """Neither a fact nor what a `let` names: a role whose word is missing."""
    named = context.program.visible(context.package, "let", "define")
    return "." not in name.text and name.text not in (*ROOTS, *named)


def has_roles(role: ast.Name, context: Context) -> bool:
    roles = context.schema.entities[PERSON].field("roles")
    match roles.type if roles else None:
        case Set(Scalar.STRING) | Set(Unresolved()):
            return True
        case Set(Enum(name, values)):
            if role.text in values:
                return True
            meant = suggest(role.text, values)
            hint = f"did you mean `{meant}`?" if meant else f"roles are {', '.join(values)}"
            context.report("E504", f"`{role.text}` is no value of `{name}`", role.span, hint)
        case _:
            hint = "declare it: `entity user { roles: set<string> }`"
            context.report("E504", "nothing says which roles a user has", role.span, hint)
    return False


def holds_persons(found: k.Expr, context: Context) -> bool:
    """An approver is the entity, or is in it: so it must be a user, or something that users can be in."""
    entities = referred(found.type)
    if entities is None:
        message = f"`{words(found.span)}` is {a(found.type)}: that approves nothing"
        context.report("E505", message, found.span, "name a user, a group of users, or a set of them")
        return False
    if entities and entities.isdisjoint(holding(PERSON, context)):
        message = f"users are never in {' or '.join(f'`{name}`' for name in sorted(entities))}"
        hint = f"declare what users are in: `entity user {{ … }} in {min(entities)}`"
        context.report("E505", message, found.span, hint)
        return False
    return True


def referred(type_: Type) -> frozenset[str] | None:
    match type_:
        case Ref(entities):
            return entities
        case Set(element) | List(element):
            return referred(element) if isinstance(element, Ref | Unresolved) else None
        case Unresolved():
            return frozenset()
        case _:
            return None


def holding(entity: str, context: Context) -> set[str]:
    """The entity itself, and all that it can be in at any depth."""
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


def obligation_arguments(item: ast.Obligation, context: Context) -> Iterator[str]:
    match item.kind:
        case "audit":
            yield from (level.text for level in names(item) if is_level(level, context))
        case "redact":
            yield from (path.text for path in names(item) if is_redactable(path, context))
        case "notify":
            yield from (whom.value for whom in texts(item) if is_filled(whom, context))
        case "header":
            name, value = texts(item)
            check_header(name, value, context)
            yield from (part.value for part in texts(item))
        case "step_up":
            yield from (level.text for level in names(item))
        case "warn":
            pass
        case _:
            assert_never(item.kind)


def names(item: ast.Obligation) -> list[ast.Name]:
    return [argument for argument in item.arguments if isinstance(argument, ast.Name)]


def texts(item: ast.Obligation) -> list[ast.Text]:
    return [argument for argument in item.arguments if isinstance(argument, ast.Text)]


def is_level(level: ast.Name, context: Context) -> bool:
    if level.text in AUDIT_LEVELS:
        return True
    meant = suggest(level.text, AUDIT_LEVELS)
    hint = f"did you mean `{meant}`?" if meant else f"levels are {', '.join(AUDIT_LEVELS)}"
    context.report("E508", f"`{level.text}` is no level of audit", level.span, hint)
    return False


def is_redactable(path: ast.Name, context: Context) -> bool:
    if path.text.partition(".")[0] not in ("body", "args"):
        hint = "only declared facts that begin with `body.` or `args.` are"
        context.report("E509", f"`{path.text}` cannot be redacted", path.span, hint)
        return False
    return lower_value(ast.Reference(path.text, span=path.span), context) is not None


def is_filled(whom: ast.Text, context: Context) -> bool:
    if not whom.value.strip():
        context.report("E511", "nobody is notified", whom.span, 'name who is: `notify "security"`')
    return bool(whom.value.strip())


def check_header(name: ast.Text, value: ast.Text, context: Context) -> None:
    if not HEADER_NAME.fullmatch(name.value):
        hint = "a name has letters, digits and dashes"
        context.report("E510", f"`{name.value}` is no name of a header", name.span, hint)
    if any(unicodedata.category(char) in ("Cc", "Zl", "Zp") for char in value.value):
        context.report("E510", "the value of a header holds no control characters", value.span, "write it on one line")
