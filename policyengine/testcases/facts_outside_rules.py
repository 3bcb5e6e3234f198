"""The context for facts outside rules: a test may read every fact that exists in at least one request."""

from __future__ import annotations

from dataclasses import replace

from policyengine import kernel as k
from policyengine.checker.names.scope import ExpressionContext
from policyengine.source import Span
from policyengine.testcases.raw_facts import ValueContext
from policyengine.typesystem import UnresolvedType


def all_facts_context(reading: ValueContext, span: Span) -> ExpressionContext:
    """Return a context with every fact. A capture has the type on which all paths agree."""
    catalogue = reading.catalogue
    here = replace(catalogue.schema.places.here(k.Place(None, span=span)), resource=None, everywhere=True)
    return ExpressionContext(catalogue.program, catalogue.schema, reading.package, here, {}, reading.report)


def check_capture(part: k.Expr, context: ExpressionContext) -> bool:
    """Report a capture that no path has. Return whether the part is valid."""
    found = not (isinstance(part, k.Fact) and part.path[0] == "params" and isinstance(part.type, UnresolvedType))
    if not found:
        known = ", ".join(f"`params.{one}`" for one in sorted(context.here.params)[:6])
        hint = f"the captures are {known}" if known else "no path of these policies has a capture"
        context.report("E243", f"no path captures `{part.span.text.partition('.')[2]}`", part.span, hint)
    return found
