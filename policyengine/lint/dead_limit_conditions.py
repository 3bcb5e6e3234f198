"""Dead conditions of rates and budgets: the checks of `dead_rules` for limits."""

from __future__ import annotations

from collections.abc import Iterator

from policyengine import kernel as k
from policyengine.diagnostics.model import Diagnostic
from policyengine.lint.dead_rules import check_grant_condition, contradicting_parts, describe_always, sort_by_place
from policyengine.lint.dead_rules import parts_that_decide_nothing as idle_parts
from policyengine.solver.cache import SatisfiabilityCache
from policyengine.solver.satisfiability import UNKNOWN


def dead_limit_findings(kernel: k.Kernel) -> Iterator[Diagnostic]:
    answers = SatisfiabilityCache()
    for limit in sort_by_place(kernel.limits):
        word = "budget" if isinstance(limit, k.Budget) else "rate"
        if limit.when is not None:
            yield from dead_condition_findings(word, limit.when, answers)
        if isinstance(limit, k.Rate):
            for up in limit.raises:
                yield from check_grant_condition(up.when, "this `raise` never acts", answers)
            for down in limit.clamps:
                yield from dead_condition_findings("clamp", down.when, answers)


def dead_limit_errors(kernel: k.Kernel) -> Iterator[Diagnostic]:
    yield from (found for found in dead_limit_findings(kernel) if found.is_error)


def dead_condition_findings(word: str, condition: k.Expr, answers: SatisfiabilityCache) -> Iterator[Diagnostic]:
    """Yield the findings for the condition of a limit or clamp, which acts when its condition is true or unknown."""
    truths = answers.possible(condition)
    if truths == {False}:
        message = f"this `{word}` never acts: its condition is {describe_always(truths)}"
        yield Diagnostic("E702", message, condition.span, contradicting_parts(condition))
    elif False not in truths:
        message = f"this `{word}` always acts: its condition is {describe_always(truths)}"
        yield Diagnostic("W703", message, condition.span, f"write `{word}` without a condition if that is meant")
    elif True not in truths and UNKNOWN in truths:
        message = f"this `{word}` acts only on unknown facts: its condition is {describe_always(truths)}"
        yield Diagnostic("W702", message, condition.span, contradicting_parts(condition))
    else:
        yield from idle_parts(condition, truths, answers)


def conditions_of_limits(kernel: k.Kernel) -> Iterator[tuple[k.Limit, k.Expr, bool]]:
    """Yield each condition of a limit, and whether a true condition lets more requests pass: True for a raise only."""
    for limit in kernel.limits:
        if limit.when is not None:
            yield limit, limit.when, False
        if isinstance(limit, k.Rate):
            yield from ((limit, one.when, True) for one in limit.raises)
            yield from ((limit, one.when, False) for one in limit.clamps)
