"""Check that the checker could have produced a decoded condition on history: the store keeps the facts it reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any

from policyengine import kernel as k
from policyengine.checker.lower.history import STATUS, counted_parts, event_digest
from policyengine.checker.types.compatibility import NUMBERS
from policyengine.compiler.bundle.tables import DecodeContext
from policyengine.compiler.bundle.verify_expressions import check_condition, require
from policyengine.typesystem import Scalar, UnresolvedType


def check_past(past: k.PastFact, _: DecodeContext) -> None:
    require(past.type == past.fact.type, "an earlier fact of another type")


def check_event(event: k.EventPattern, _: DecodeContext) -> None:
    """Check that the name of an event is the digest of its content, so that no event can be mistaken for another.
    Raises BundleDataError.
    """
    check_condition(event.where)
    parts = [] if event.where is None else list(k.walk(event.where))
    read = [node.fact for node in parts if isinstance(node, k.PastFact)]
    tested = [node.operand for node in parts if isinstance(node, k.IsPresent)]
    plain = [fact for fact in read if not (isinstance(fact, k.Fact) and fact.path[0] == "past")]
    require(event.place.patterns is not None and event.watch == event_digest(event), "an event with another name")
    require(set(plain) <= set(event.facts), "an earlier fact that is not recorded")
    require(all(is_recorded(fact, event) for fact in read), "an outcome that is not recorded")
    require(count_untyped(parts) == count_untyped(tested), "an outcome without a type")


def count_untyped(nodes: Iterable[k.Expr]) -> int:
    """Return how many of the nodes are past facts without a type, which only presence tests may read."""
    return sum(isinstance(node, k.PastFact) and node.type == UnresolvedType() for node in nodes)


def is_recorded(fact: k.Expr, event: k.EventPattern) -> bool:
    """Return whether a fact of a past request is recorded: `past.output.x` must be among the recorded outputs; other
    facts need no record.
    """
    output = isinstance(fact, k.Fact) and fact.path[:2] == ("past", "output")
    return not output or fact.path[2:] in event.outputs  # type: ignore[union-attr]  # it is a fact


def check_happened(node: k.HistoryCondition, _: DecodeContext) -> None:
    require(node.within > timedelta(0), "a history with an empty window")


def check_aggregate(node: k.Aggregate, _: DecodeContext) -> None:
    require(node.within > timedelta(0), "a history with an empty window")
    require((node.field is None) == (node.function == "count"), "a `count` of a fact, or a sum without a fact")
    result = node.field.type if node.field is not None and node.function == "sum" else Scalar.INT
    require(node.type == result and result in NUMBERS, "a sum of values that are not numbers")
    parts = () if node.field is None else tuple(counted_parts(node.field))
    require(all(isinstance(part, k.PastFact | k.Constant) for part in parts), "a sum of values that are not recorded")
    require(not count_untyped(parts), "an outcome without a type")
    for fact in (part.fact for part in parts if isinstance(part, k.PastFact)):
        told = isinstance(fact, k.Fact) and fact.path[0] == "past"
        require(told or fact in node.event.facts, "an earlier fact that is not recorded")
        require(is_recorded(fact, node.event), "an outcome that is not recorded")
        status = isinstance(fact, k.Fact) and fact.path == STATUS
        require(node.event.status or not status, "an outcome that is not recorded")


def check_watch(watch: k.EventRetention, _: DecodeContext) -> None:
    require(watch.within > timedelta(0), "a history with an empty window")


HISTORY_TERMS: Mapping[type, Callable[[Any, DecodeContext], None]] = {
    k.PastFact: check_past,
    k.EventPattern: check_event,
    k.HistoryCondition: check_happened,
    k.Aggregate: check_aggregate,
    k.EventRetention: check_watch,
}
