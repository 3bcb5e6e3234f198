"""`is present` and `is absent` of facts that a gateway may not forward, in which case both are unknown."""

from __future__ import annotations

from collections.abc import Iterator

from policyengine import kernel as k
from policyengine.diagnostics.model import Diagnostic
from policyengine.kernel.expressions import rewrite
from policyengine.lint.dead_limit_conditions import conditions_of_limits
from policyengine.lint.dead_rules import all_blocks
from policyengine.lint.presence_checks import is_over_http, opens_http, presence_checks, reaches_http
from policyengine.lint.rules.caller_chosen_defaults import wanted_parts
from policyengine.solver.satisfiability import possible_truths
from policyengine.typesystem import Scalar

HINT = "compare the fact's value where it must be present, or forward it and list it in `[gateway]` (docs/gateways.md)"


def unseen_absences(kernel: k.Kernel) -> Iterator[Diagnostic]:
    """Yield a W559 for each rule on HTTP requests that lets a request pass when a fact is known to be absent."""
    if not opens_http(kernel):
        return
    for condition, wanted, then in conditions_over_http(kernel):
        for part, wanted_here in wanted_parts(condition, wanted):
            yield from unseen_absence_findings(part, wanted_here, then)


def conditions_over_http(kernel: k.Kernel) -> Iterator[tuple[k.Expr, bool, str]]:
    """Yield each condition, the value that lets a request pass, and the consequence if the condition is unknown."""
    for grant in (grant for block in all_blocks(kernel) for grant in block.grants):
        if grant.when is not None and is_over_http(grant):
            yield grant.when, True, "this `may` grants nothing"
    for guard in kernel.guards:
        if reaches_http(guard.place):
            conditions = (one.condition for one in guard.effects if isinstance(one, k.Deny | k.Confirm))
            yield from ((one, False, f"`{guard.name}` acts") for one in conditions if one is not None)
    for limit, condition, loosens in conditions_of_limits(kernel):
        if reaches_http(limit.place):
            yield condition, loosens, f"`{limit.name}` {'is not raised' if loosens else 'acts'}"


def unseen_absence_findings(part: k.Expr, wanted: bool, then: str) -> Iterator[Diagnostic]:
    asked = [one for one in k.walk(part) if isinstance(one, k.IsPresent) and may_be_unseen(one)]
    if asked and possible_truths(with_facts_absent(part)) == {wanted}:
        fact = " ".join(asked[0].operand.span.text.split())
        message = f"a gateway may omit `{fact}`: whether the fact is present is then unknown, and {then}"
        yield Diagnostic("W559", message, asked[0].span, HINT)


def with_facts_absent(expr: k.Expr) -> k.Expr:
    """Return the expression as it is for a request without these facts."""

    def absent(part: k.Expr) -> k.Expr | None:
        if isinstance(part, k.IsPresent) and may_be_unseen(part):
            return k.Constant(False, Scalar.BOOL, span=part.span)
        return None

    return rewrite(expr, absent)


def may_be_unseen(part: k.IsPresent) -> bool:
    return any(path[0] == "body" or path[:2] == ("request", "headers") for path, _ in presence_checks(part))
