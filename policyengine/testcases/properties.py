"""`forall request where … => …` to what is claimed of every request: the condition, and the outcome without details."""

from __future__ import annotations

from policyengine import kernel as k
from policyengine.checker.lower.expressions import lower_condition
from policyengine.checker.type_names import quote
from policyengine.syntax import nodes as ast
from policyengine.testcases.all_facts import anywhere, is_captured
from policyengine.testcases.expectations import expected
from policyengine.testcases.scenario import Expected
from policyengine.testcases.values import Reading
from policyengine.typesystem import Unresolved


def condition(where: ast.Expr, reading: Reading) -> k.Expr | None:
    """The condition; None where something was reported. It is about every request, so it may read any fact."""
    context = anywhere(reading, where.span)
    found = lower_condition(where, context)
    facts = [part for part in k.walk(found) if isinstance(part, k.Fact | k.Attribute)] if found is not None else []
    if not all(is_captured(part, context) for part in facts):
        return None
    for part in facts:
        if isinstance(part.type, Unresolved):  # no value would ever be of its type
            message = f"{quote(part.span)} has one type here and another there, and this condition is about all"
            reading.report("E217", message, part.span, "declare it alike everywhere, or ask another fact")
            return None
    return found


def claimed(item: ast.Forall, reading: Reading) -> Expected | None:
    """The outcome, and by which rule or gate; None where something was reported."""
    details = item.expected.details
    if details is None:
        return expected(item.expected, reading)
    message = "`with` speaks of one decision, and `forall` of very many"
    reading.report("E619", message, details.span, "remove it, or write a request of its own: `GET /a => … with { … }`")
    return None
