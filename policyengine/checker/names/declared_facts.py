"""Declared facts at a place: which declarations apply there, and whether they agree."""

from __future__ import annotations

from dataclasses import replace

from policyengine import kernel as k
from policyengine.checker.names.scope import ExpressionContext
from policyengine.checker.patterns.overlap import place_covers, place_overlaps
from policyengine.checker.type_names import describe_type, join_words
from policyengine.checker.types.fact_conflicts import DeclaredFact, FactPlaces
from policyengine.checker.types.schema import UNRESOLVED
from policyengine.diagnostics.model import RelatedLocation
from policyengine.source import Span


def declared_fact(all_places: FactPlaces, span: Span, context: ExpressionContext) -> k.Fact | None:
    """Return the fact as declared where the rule applies. `span` is its place in the rule. Return None if an error was
    reported.
    """
    declared = all_places.facts if context.here.everywhere else all_places.near(context.here.place)
    if not exists_everywhere(declared, context):
        report_fact_elsewhere(all_places.facts, span, context)
        return None
    if len(declared) == 1:  # the usual case: no other declaration can differ
        return k.Fact(declared[0].path, declared[0].type, declared[0].optional, span=span)
    here = [fact for fact in declared if exists_somewhere(fact, context)]
    types = {fact.type for fact in here}
    if len(types) > 1:
        if context.here.everywhere:
            return k.Fact(declared[0].path, UNRESOLVED, True, span=span)
        one, other = describe_type(here[0].type), differing_aspect(here)
        message = f"`{declared[0].name}` is {one} at one endpoint of this rule and {other} at another"
        where = [RelatedLocation("declared here", fact.span) for fact in here]
        context.report("E217", message, span, "write one rule for each", where)
        return None
    return k.Fact(declared[0].path, here[0].type, any(fact.optional for fact in here), span=span)


def differing_aspect(facts: list[DeclaredFact]) -> str:
    return next(describe_type(fact.type) for fact in facts if fact.type != facts[0].type)


def exists_somewhere(fact: DeclaredFact, context: ExpressionContext) -> bool:
    place = context.here.place
    if context.here.everywhere or fact.place is None or place is None or place.patterns is None:
        return True
    return any(place_overlaps(fact.place, pattern) for pattern in place.patterns)


def exists_everywhere(declared: tuple[DeclaredFact, ...], context: ExpressionContext) -> bool:
    """Return whether one of the declarations covers every endpoint of the rule."""
    place = context.here.place
    if context.here.everywhere:
        return True
    if place is None:  # a condition on the caller knows only the context that the gateway adds to every request
        return declared[0].path[0] == "context" and any(fact.place is None for fact in declared)
    if any(fact.place is None or place_covers(fact.place, place) for fact in declared):
        return True
    pieces = [replace(place, patterns=(pattern,)) for pattern in place.patterns or ()]
    given = [fact.place for fact in declared if fact.place is not None]
    return bool(pieces) and all(any(place_covers(one, piece) for one in given) for piece in pieces)


def report_fact_elsewhere(declared: tuple[DeclaredFact, ...], span: Span, context: ExpressionContext) -> None:
    name = declared[0].name
    where = [RelatedLocation("declared here", fact.span) for fact in declared]
    if context.here.place is None:
        message = f"`{name}` belongs to a request, but this condition is about the caller"
        context.report("E241", message, span, "move it to a `may … when` or to a guard", where)
        return
    places = [" ".join(fact.place.span.text.split()).removeprefix("on ") for fact in declared if fact.place]
    only = join_words(dict.fromkeys(places))
    if context.here.binds:
        message = f"`{name}` exists only on {only}, but this `with` is at another endpoint"
        context.report("E241", message, span, "declare the fact for the endpoint of this `with`, too", where)
        return
    message = f"`{name}` exists only on {only}, but this rule applies elsewhere too"
    context.report("E241", message, span, f"narrow the rule to {only}, or declare the fact for its place", where)
