"""Sums over outcomes without a default: one request without a report makes the result unknown."""

from __future__ import annotations

from collections.abc import Iterator

from policyengine import kernel as k
from policyengine.diagnostics.model import Diagnostic
from policyengine.spec.history import conjuncts
from policyengine.spec.required_history import history_conditions


def sums_of_lost_reports(kernel: k.Kernel) -> Iterator[Diagnostic]:
    """Yield a W564 for each `sum` or `distinct` over an outcome without a default."""
    for node in history_conditions((kernel.agents, kernel.users, kernel.anyones, kernel.guards, kernel.limits)):
        if isinstance(node, k.Aggregate) and is_outcome(node.field) and not is_tested(node):
            assert node.field is not None
            fact = node.field.span.text
            message = f"one request without a report of `{fact}` makes this {NAMES[node.function]} unknown"
            yield Diagnostic("W564", message, node.field.span, HINTS[node.function].format(fact))


NAMES = {"sum": "sum", "distinct": "number"}
HINTS = {
    "sum": "write `sum ({} else 4_000)`, with the largest value that a request can have",
    "distinct": "write `distinct ({} else …)`, with a value that stands for the requests without a report",
}


def is_outcome(field: k.Expr | None) -> bool:
    """Return whether the field is a past status or output, without a default."""
    return isinstance(field, k.PastFact) and isinstance(field.fact, k.Fact) and field.fact.path[0] == "past"


def is_tested(node: k.Aggregate) -> bool:
    """Return whether the event counts only if the outcome is present."""
    assert isinstance(node.field, k.PastFact)
    assert isinstance(node.field.fact, k.Fact)
    tested = [part.operand for part in conjuncts(node.event.where) if isinstance(part, k.IsPresent)]
    facts = [one.fact for one in tested if isinstance(one, k.PastFact)]
    return any(isinstance(fact, k.Fact) and fact.path == node.field.fact.path for fact in facts)
