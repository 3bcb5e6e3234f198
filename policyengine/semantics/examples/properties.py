"""`forall request where … => …` to what is claimed of every request: the condition, and the outcome without details."""

from __future__ import annotations

from dataclasses import replace

from policyengine.kinds import Unresolved
from policyengine.semantics import kernel as k
from policyengine.semantics.context import Context
from policyengine.semantics.examples.catalogue import Catalogue
from policyengine.semantics.examples.expectations import expected
from policyengine.semantics.examples.values import Reading
from policyengine.semantics.examples.world import Expected
from policyengine.semantics.expressions import lower_condition
from policyengine.semantics.schema import FactsHere
from policyengine.syntax import nodes as ast


def condition(where: ast.Expr, reading: Reading) -> k.Expr | None:
    """The condition; None where something was reported. It is about every request, so it may read any fact."""
    catalogue, report = reading.catalogue, reading.report
    here = anywhere(catalogue, where)
    found = lower_condition(where, Context(catalogue.program, catalogue.schema, reading.package, here, {}, report))
    for part in k.walk(found) if found is not None else ():
        if isinstance(part, k.Fact | k.Attribute) and isinstance(part.type, Unresolved):
            report_unresolved(part, here, reading)
            return None
    return found


def anywhere(catalogue: Catalogue, where: ast.Expr) -> FactsHere:
    """Every fact that exists somewhere; captures with the type that all paths agree on."""
    return replace(catalogue.schema.places.here(k.Place(None, span=where.span)), resource=None, everywhere=True)


def report_unresolved(part: k.Fact | k.Attribute, here: FactsHere, reading: Reading) -> None:
    name = " ".join(part.span.text.split())
    if isinstance(part, k.Fact) and part.path[0] == "params":
        known = ", ".join(f"`params.{one}`" for one in sorted(here.params)[:6])
        hint = f"captured are {known}" if known else "no path of these policies captures anything"
        reading.report("E243", f"no path captures `{part.path[1]}`", part.span, hint)
        return
    message = f"`{name}` has one type here and another there, and this condition is about every request"
    reading.report("E217", message, part.span, "declare it alike everywhere, or ask another fact")


def claimed(item: ast.Forall, reading: Reading) -> Expected | None:
    """The outcome, and by which rule or gate; None where something was reported."""
    details = item.expected.details
    if details is None:
        return expected(item.expected, reading)
    message = "`with` speaks of one decision, and `forall` of very many"
    reading.report("E619", message, details.span, "remove it, or write a request of its own: `GET /a => … with { … }`")
    return None
