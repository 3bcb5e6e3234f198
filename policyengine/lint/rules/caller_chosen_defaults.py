"""`else`, `is present` and `is absent` of facts that the caller sends: omitting the fact decides the result."""

from __future__ import annotations

from collections.abc import Iterator

from policyengine import kernel as k
from policyengine.diagnostics.model import Diagnostic
from policyengine.kernel.expressions import rewrite
from policyengine.lint.dead_limit_conditions import conditions_of_limits
from policyengine.lint.dead_rules import all_blocks, block_conditions
from policyengine.solver.satisfiability import possible_truths

FROM_THE_CALLER = frozenset({"body", "args", "context", "request"})
WITHOUT = (
    "remove this part: an absent fact is then unknown, "
    "and an unknown fact neither grants access nor keeps a rule from acting"
)
HINT = (
    "remove `else`: an absent fact is then unknown, "
    "and an unknown fact neither grants access nor keeps a rule from acting"
)


def defaults_that_decide(kernel: k.Kernel) -> Iterator[Diagnostic]:
    for block in all_blocks(kernel):
        for condition, _ in block_conditions(block):
            yield from decided_by_default(condition, True, "makes this grant apply")
    for guard in kernel.guards:
        for effect in guard.effects:
            if effect.condition is not None:
                yield from decided_by_default(effect.condition, False, f"keeps `{guard.name}` from acting")
    for limit, condition, loosens in conditions_of_limits(kernel):
        does = f"raises `{limit.name}`" if loosens else f"keeps `{limit.name}` from acting"
        yield from decided_by_default(condition, loosens, does)


def decided_by_default(condition: k.Expr, wanted: bool, does: str) -> Iterator[Diagnostic]:
    """Yield a W554 for each part of a condition that becomes `wanted` when the caller omits a fact."""
    for part, wanted_here in wanted_parts(condition, wanted):
        yield from default_findings(part, wanted_here, does)
    for whole, wanted_here in joined_parts(condition, wanted):
        yield from absence_findings(whole, wanted_here, does)


def wanted_parts(condition: k.Expr, wanted: bool) -> Iterator[tuple[k.Expr, bool]]:
    """Yield the leaves of a condition, each with the value that makes the whole condition `wanted`."""
    pending = [(condition, wanted)]
    while pending:
        expr, wanted_here = pending.pop()
        match expr:
            case k.Not(operand):
                pending.append((operand, not wanted_here))
            case k.DefinitionRef(expression=inner):
                pending.append((inner, wanted_here))
            case k.And(items) | k.Or(items):
                pending.extend((item, wanted_here) for item in reversed(items))
            case k.Quantifier(condition=inner):
                pending.append((inner, wanted_here))
            case _:
                yield expr, wanted_here


def joined_parts(condition: k.Expr, wanted: bool) -> Iterator[tuple[k.And | k.Or, bool]]:
    """Yield each connective that one of its items decides: an `and` that must be false, or an `or` that
    must be true.
    """
    pending = [(condition, wanted)]
    while pending:
        expr, wanted_here = pending.pop()
        match expr:
            case k.Not(operand):
                pending.append((operand, not wanted_here))
            case k.DefinitionRef(expression=inner) | k.Quantifier(condition=inner):
                pending.append((inner, wanted_here))
            case k.And(items) | k.Or(items):
                pending.extend((item, wanted_here) for item in reversed(items))
                if isinstance(expr, k.Or) is wanted_here:
                    yield expr, wanted_here
            case _:
                pass


def absence_findings(whole: k.And | k.Or, wanted: bool, does: str) -> Iterator[Diagnostic]:
    """Yield a finding for each part that an omitted fact decides: `x is present and x > 10` and `x is absent or x <=
    10` check `x` only if the caller sends it.
    """
    for item in whole.items:
        asked, is_absent = without_negations(item)
        if not isinstance(asked, k.IsPresent) or is_absent is not wanted:
            continue
        others = [one for one in whole.items if one is not item]
        if is_caller_fact(asked.operand) and any(part == asked.operand for one in others for part in k.walk(one)):
            fact = " ".join(asked.operand.span.text.split())
            yield Diagnostic("W554", f"omitting `{fact}` {does}", item.span, WITHOUT)


def without_negations(item: k.Expr) -> tuple[k.Expr, bool]:
    """Return the item without its negations, and whether it is negated. `not (x is absent)` becomes `x is present`."""
    opposite = False
    while isinstance(item, k.Not | k.DefinitionRef):
        opposite = opposite is not isinstance(item, k.Not)
        item = item.operand if isinstance(item, k.Not) else item.expression
    return item, opposite


def default_findings(part: k.Expr, wanted: bool, does: str) -> Iterator[Diagnostic]:
    defaults = [one for one in k.walk(part) if isinstance(one, k.Default) and comes_from_the_caller(one)]
    if defaults and possible_truths(with_defaults(part)) == {wanted}:
        fact = " ".join(innermost_operand(defaults[0]).span.text.split())
        yield Diagnostic("W554", f"omitting `{fact}` {does}", defaults[0].span, HINT)


def with_defaults(expr: k.Expr) -> k.Expr:
    """Return the expression as it is for a caller who omits every fact with a default."""

    def chosen(part: k.Expr) -> k.Expr | None:
        if isinstance(part, k.Default) and comes_from_the_caller(part):
            return with_defaults(part.fallback)
        return None

    return rewrite(expr, chosen)


def comes_from_the_caller(default: k.Default) -> bool:
    return is_caller_fact(innermost_operand(default))


def is_caller_fact(fact: k.Expr) -> bool:
    while isinstance(fact, k.Attribute | k.Member):
        fact = fact.base
    return isinstance(fact, k.Fact) and fact.path[0] in FROM_THE_CALLER


def innermost_operand(default: k.Default) -> k.Expr:
    """Return `a` of `a else b else c`."""
    operand: k.Expr = default
    while isinstance(operand, k.Default):
        operand = operand.operand
    return operand
