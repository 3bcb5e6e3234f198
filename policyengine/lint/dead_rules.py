"""Conditions that never affect a decision, and rules that never matter, found in the lowered kernel. A rule that can
never have its effect is an error; a redundant rule is a warning. `DECIDED_EXAMPLES` lists examples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import TypeVar

from policyengine import kernel as k
from policyengine.checker.patterns.overlap import covers, place_covers
from policyengine.diagnostics.model import Diagnostic, RelatedLocation
from policyengine.explain.effect_words import effect_word, is_requirement
from policyengine.solver.cache import SatisfiabilityCache
from policyengine.solver.formulas import Truth
from policyengine.solver.satisfiability import (
    ACTS_ON_TRUE,
    ACTS_UNLESS_FALSE,
    DECIDED_EXAMPLES,
    UNKNOWN,
    implies,
    negate_truth,
    possible_truths,
)

__all__ = ["DECIDED_EXAMPLES", "UNKNOWN", "dead_rule_findings", "implies", "possible_truths"]

# Every pair of rules in a group is compared, so larger groups are skipped without a finding.
MAX_COMPARED_RULES = 200
STILL_DONE_ON_DENY = ("audit", "notify")

Written = TypeVar("Written", bound=k.Node)
Block = k.AgentBlock | k.UserBlock | k.AnyoneBlock


def dead_rule_findings(kernel: k.Kernel) -> Iterator[Diagnostic]:
    written = in_source_order(kernel)
    for check in CHECKS:
        yield from check(written)


def dead_rule_errors(kernel: k.Kernel) -> Iterator[Diagnostic]:
    """Yield the errors among the findings. This is cheaper than computing the warnings too."""
    for check in (dead_grant_conditions, dead_guard_conditions):
        yield from (found for found in check(in_source_order(kernel)) if found.is_error)


def in_source_order(kernel: k.Kernel) -> k.Kernel:
    """Return the kernel with its rules in source order, so that of two equal rules the later rule is reported."""
    return replace(
        kernel,
        agents=sort_by_place(kernel.agents),
        users=sort_by_place(kernel.users),
        anyones=sort_by_place(kernel.anyones),
        guards=sort_by_place(kernel.guards),
    )


def sort_by_place(parts: Iterable[Written]) -> tuple[Written, ...]:
    return tuple(sorted(parts, key=lambda part: (part.span.source.name, part.span.start)))


def all_blocks(kernel: k.Kernel) -> tuple[Block, ...]:
    return (*kernel.agents, *kernel.users, *kernel.anyones)


# ── Conditions of grants: they act when true ───────────────────────────────────────────────────


def dead_grant_conditions(kernel: k.Kernel) -> Iterator[Diagnostic]:
    answers = SatisfiabilityCache()
    for block in all_blocks(kernel):
        for condition, never in block_conditions(block):
            yield from check_grant_condition(condition, never, answers)


def block_conditions(block: Block) -> Iterator[tuple[k.Expr, str]]:
    """Yield each condition of a block, with the consequence if the condition is never true."""
    if not isinstance(block, k.AnyoneBlock) and isinstance(block.who, k.PrincipalCondition):
        yield block.who.condition, "this block applies to no caller"
    if isinstance(block, k.AgentBlock):
        for requirement in block.requirements:
            if isinstance(requirement, k.ActsFor) and requirement.condition is not None:
                yield requirement.condition, "this agent acts for no user"
        yield from ((d.when, "this `may delegate` delegates nothing") for d in block.delegates if d.when is not None)
    yield from ((grant.when, "this `may` grants nothing") for grant in block.grants if grant.when is not None)


def check_grant_condition(condition: k.Expr, never: str, answers: SatisfiabilityCache) -> Iterator[Diagnostic]:
    truths = answers.possible(condition)
    if True not in truths:
        message = f"{never}: its condition is {describe_always(truths)}"
        yield Diagnostic("E701", message, condition.span, contradicting_parts(condition))
    elif truths == {True}:
        yield Diagnostic("W701", "this condition is always true", condition.span, "remove it")
    else:
        yield from parts_that_decide_nothing(condition, truths, answers)


# ── Conditions of guards: they act unless false ───────────────────────────────────────────────


def dead_guard_conditions(kernel: k.Kernel) -> Iterator[Diagnostic]:
    answers = SatisfiabilityCache()
    for guard in kernel.guards:
        for effect in guard.effects:
            if effect.condition is not None:
                yield from check_guard_condition(effect, effect.condition, answers)


def check_guard_condition(effect: k.Effect, condition: k.Expr, answers: SatisfiabilityCache) -> Iterator[Diagnostic]:
    """Yield the findings for the condition of a guard's effect. `require c` is lowered to `deny when not c`, but
    messages describe the condition as written.
    """
    truths = answers.possible(condition)
    word = effect_word(effect)
    demanded = is_requirement(effect, condition)
    written = describe_always(frozenset(negate_truth(value) for value in truths) if demanded else truths)
    if truths == {False}:
        message = f"this `{word}` never acts: its condition is {written}"
        yield Diagnostic("E702", message, condition.span, None if demanded else contradicting_parts(condition))
    elif False not in truths and word == "require":
        message = f"this `require` denies everything here: its condition is {written}"
        yield Diagnostic("E703", message, condition.span, contradicting_parts(required_condition(condition)))
    elif False not in truths:
        message = f"this `{word}` always acts: its condition is {written}"
        yield Diagnostic("W703", message, condition.span, f"write `{word}` without a condition if that is meant")
    elif True not in truths:
        message = f"this `{word}` acts only on unknown facts: its condition is {written}"
        yield Diagnostic("W702", message, condition.span, None if demanded else contradicting_parts(condition))
    else:
        yield from parts_that_decide_nothing(condition, truths, answers)


def required_condition(condition: k.Expr) -> k.Expr:
    return condition.operand if isinstance(condition, k.Not) else k.Not(condition, span=condition.span)


# ── Words about conditions ────────────────────────────────────────────────────────────────────


def describe_always(truths: frozenset[Truth]) -> str:
    match (True in truths, False in truths, UNKNOWN in truths):
        case True, False, False:
            return "always true"
        case False, True, False:
            return "always false"
        case False, False, _:
            return "always unknown"
        case False, True, True:
            return "never true"
        case _:
            return "never false"


def contradicting_parts(condition: k.Expr) -> str | None:
    """Return a hint that names two contradicting parts of a condition; None if no two parts contradict each other."""
    parts = conjuncts(condition)
    if len(parts) > MAX_COMPARED_RULES // 10:
        return None
    alone = [part for part in parts if len(parts) > 1 and True not in possible_truths(part)]
    if alone:
        return f"`{quote_expression(alone[0])}` is never true"
    for i, part in enumerate(parts):
        for other in parts[i + 1 :]:
            if True not in possible_truths(k.And((part, other), span=condition.span)):
                return f"`{quote_expression(part)}` and `{quote_expression(other)}` are never true together"
    return None


def conjuncts(expr: k.Expr) -> list[k.Expr]:
    match expr:
        case k.DefinitionRef():
            return conjuncts(expr.expression)
        case k.And():
            return [part for item in expr.items for part in conjuncts(item)]
        case _:
            return [expr]


def quote_expression(expr: k.Expr) -> str:
    return " ".join(expr.span.text.split())


def parts_that_decide_nothing(
    expr: k.Expr, truths: frozenset[Truth], answers: SatisfiabilityCache, what: str = "condition"
) -> Iterator[Diagnostic]:
    """Yield a W704 for each outermost part that is never true or never false."""
    if isinstance(expr, k.DefinitionRef):  # a definition is reported once, where it is written
        yield from parts_that_decide_nothing(expr.expression, truths, answers, what)
    elif True not in truths or False not in truths:
        message = f"this {what} is {describe_always(truths)}"
        yield Diagnostic("W704", message, expr.span, contradicting_parts(expr) if True not in truths else None)
    else:
        for part in logic_parts(expr):
            yield from parts_that_decide_nothing(part, answers.possible(part), answers, "part of a condition")


def logic_parts(expr: k.Expr) -> tuple[k.Expr, ...]:
    match expr:
        case k.Not():
            return (expr.operand,)
        case k.And() | k.Or():
            return expr.items
        case k.Quantifier():
            return (expr.condition,)
        case _:
            return ()


# ── Grants that can never matter ──────────────────────────────────────────────────────────────


def covered_grants(kernel: k.Kernel) -> Iterator[Diagnostic]:
    for block in all_blocks(kernel):
        if len(block.grants) <= MAX_COMPARED_RULES:
            yield from covered_among(block.grants)


def covered_among(grants: Sequence[k.Grant]) -> Iterator[Diagnostic]:
    for i, grant in enumerate(grants):
        for j, wider in enumerate(grants):
            if i != j and grant_covers(wider, grant) and (j < i or not grant_covers(grant, wider)):
                related = (RelatedLocation("this `may` grants all of these endpoints", wider.span),)
                message = "this `may` is redundant: another `may` of the block grants everything that it grants"
                yield Diagnostic("W711", message, grant.span, "remove it", related)
                break


def grant_covers(wider: k.Grant, narrower: k.Grant) -> bool:
    """Return whether the wider grant opens an endpoint for every request for which the narrower grant opens it."""
    if not all(any(target_covers(a, b) for a in wider.openings) for b in narrower.openings):
        return False
    return wider.when is None or (narrower.when is not None and implies(narrower.when, wider.when, ACTS_ON_TRUE))


def target_covers(wider: k.GrantTarget, narrower: k.GrantTarget) -> bool:
    return set(narrower.carriers) <= set(wider.carriers) and covers(wider.pattern, narrower.pattern)


def closed_grants(kernel: k.Kernel) -> Iterator[Diagnostic]:
    """Yield a W713 for each grant all of whose endpoints are at places where a guard denies everything."""
    closers = closing_guards(kernel.guards)
    if not closers:
        return

    @cache
    def closer(pattern: k.Pattern) -> k.Guard | None:
        return closing_guard_at(k.Place((pattern,), span=pattern.span), closers)

    for grant in (grant for block in all_blocks(kernel) for grant in block.grants):
        by = [closer(opening.pattern) for opening in grant.openings]
        if by and all(by) and by[0] is not None:
            message = f"this `may` grants nothing: guard `{by[0].name}` denies everything there"
            related = (RelatedLocation("this guard denies everything", by[0].span),)
            yield Diagnostic("W713", message, grant.span, "remove the `may` or the guard", related)


def closing_guards(guards: Iterable[k.Guard]) -> list[k.Guard]:
    """Return the guards that deny without a condition; none if there are more than `MAX_COMPARED_RULES`."""
    found = [g for g in guards if any(isinstance(e, k.Deny) and e.condition is None for e in g.effects)]
    return found if len(found) <= MAX_COMPARED_RULES else []


def closing_guard_at(place: k.Place, closers: Iterable[k.Guard]) -> k.Guard | None:
    return next((guard for guard in closers if place_covers(guard.place, place)), None)


# ── Guards that can never matter ──────────────────────────────────────────────────────────────


def shadowed_effects(kernel: k.Kernel) -> Iterator[Diagnostic]:
    for guard in kernel.guards:
        if len(guard.effects) <= MAX_COMPARED_RULES:
            yield from shadowed_among(guard.effects)


def shadowed_among(effects: Sequence[k.Effect]) -> Iterator[Diagnostic]:
    for i, effect in enumerate(effects):
        if effect.condition is not None and possible_truths(effect.condition) == {False}:
            continue  # never applies, which is already reported
        by = next((other for j, other in enumerate(effects) if is_shadowed_by(other, effect, j < i)), None)
        if by is not None:
            message = f"this `{effect_word(effect)}` changes nothing: `{effect_word(by)}` already acts whenever it does"
            related = (RelatedLocation("this rule of the same guard", by.span),)
            yield Diagnostic("W712", message, effect.span, "remove it, or narrow the other one", related)


def is_shadowed_by(other: k.Effect, effect: k.Effect, earlier: bool) -> bool:
    """Return whether an effect adds nothing to another effect of its guard. Only an earlier deny shadows a deny: if the
    narrower deny comes first, it gives its own reason.
    """
    match other, effect:
        case k.Deny(), k.Deny():
            return earlier and acts_whenever(other, effect)
        case k.Deny(), k.Confirm():
            return acts_whenever(other, effect)
        case k.Deny(), k.ObligationEffect(kind=kind):
            return kind not in STILL_DONE_ON_DENY and acts_whenever(other, effect)
        case k.ObligationEffect(), k.ObligationEffect():
            return earlier and is_same_obligation(other, effect) and acts_whenever(other, effect)
        case _:
            return earlier and other == effect


def is_same_obligation(a: k.ObligationEffect, b: k.ObligationEffect) -> bool:
    return (a.kind, a.arguments, a.message) == (b.kind, b.arguments, b.message)


def acts_whenever(other: k.Effect, effect: k.Effect) -> bool:
    if other.condition is None:
        return True
    return effect.condition is not None and implies(effect.condition, other.condition, ACTS_UNLESS_FALSE)


def closed_guards(kernel: k.Kernel) -> Iterator[Diagnostic]:
    """Yield a W712 for each guard at places where another guard of its package denies everything."""
    closers = closing_guards(kernel.guards)
    positions = {id(guard): i for i, guard in enumerate(kernel.guards)}
    for i, guard in enumerate(kernel.guards):
        by = next((c for c in closers if is_closed_by(guard, c, positions[id(c)] < i)), None)
        if by is not None:
            message = f"guard `{guard.name}` changes nothing: guard `{by.name}` denies everything there"
            related = (RelatedLocation("this guard denies everything", by.span),)
            yield Diagnostic("W712", message, guard.span, "remove one of the two guards", related)


def is_closed_by(guard: k.Guard, closer: k.Guard, earlier: bool) -> bool:
    if guard is closer or guard.package != closer.package or not changes_outcomes(guard):
        return False
    return place_covers(closer.place, guard.place) and (earlier or not place_covers(guard.place, closer.place))


def changes_outcomes(guard: k.Guard) -> bool:
    """Return whether a guard can change a decision. A guard with only reporting obligations never does, because it also
    reports denied requests.
    """
    return bool(guard.effects) and not any(
        isinstance(effect, k.ObligationEffect) and effect.kind in STILL_DONE_ON_DENY for effect in guard.effects
    )


# ── The same twice ────────────────────────────────────────────────────────────────────────────


def duplicate_rules(kernel: k.Kernel) -> Iterator[Diagnostic]:
    first_blocks: dict[Block, Block] = {}
    for block in all_blocks(kernel):
        first = first_blocks.setdefault(block, block)
        if first is not block:
            related = (RelatedLocation("first written here", first.span),)
            yield Diagnostic("W714", f"`{block.label}` repeats an earlier block", block.span, "remove it", related)
    first_guards: dict[tuple[object, ...], k.Guard] = {}
    for guard in kernel.guards:
        same = first_guards.setdefault((guard.package, guard.place, guard.effects), guard)
        if same is not guard and guard.effects:
            message = f"guard `{guard.name}` is a copy of guard `{same.name}`"
            related = (RelatedLocation("first written here", same.span),)
            yield Diagnostic("W714", message, guard.span, "remove it", related)


CHECKS: tuple[Callable[[k.Kernel], Iterator[Diagnostic]], ...] = (
    dead_grant_conditions,
    dead_guard_conditions,
    covered_grants,
    closed_grants,
    shadowed_effects,
    closed_guards,
    duplicate_rules,
)
