"""`forall request where … => …` to what is claimed of every request: the condition, and the outcome without details."""

from __future__ import annotations

from policyengine import kernel as k
from policyengine.checker.lower.expressions import lower_condition
from policyengine.checker.type_names import quote_source
from policyengine.syntax import nodes as ast
from policyengine.testcases.all_facts import all_facts_context, check_capture
from policyengine.testcases.expectations import read_expectation
from policyengine.testcases.raw_values import ValueContext
from policyengine.testcases.scenario import ExpectedOutcome
from policyengine.typesystem import UnresolvedType


def read_condition(where: ast.Expr, reading: ValueContext) -> k.Expr | None:
    """The condition; None where something was reported. It is about every request, so it may read any fact."""
    context = all_facts_context(reading, where.span)
    found = lower_condition(where, context)
    facts = [part for part in k.walk(found) if isinstance(part, k.Fact | k.Attribute)] if found is not None else []
    if not all(check_capture(part, context) for part in facts):
        return None
    for part in facts:
        if isinstance(part.type, UnresolvedType):  # no value would ever be of its type
            message = f"{quote_source(part.span)} has one type here and another there, and this condition is about all"
            reading.report("E217", message, part.span, "declare it alike everywhere, or ask another fact")
            return None
    return found


def read_claim(item: ast.Forall, reading: ValueContext) -> ExpectedOutcome | None:
    """The outcome, and by which rule or gate; None where something was reported."""
    details = item.expected.details
    if details is None:
        return read_expectation(item.expected, reading)
    message = "`with` speaks of one decision, and `forall` of very many"
    reading.report("E619", message, details.span, "remove it, or write a request of its own: `GET /a => … with { … }`")
    return None
