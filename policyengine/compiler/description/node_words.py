"""Describes how the nodes of a program test conditions: the slots that they read, and the kind of test."""

from __future__ import annotations

from collections.abc import Iterator

from policyengine.evaluator import entity_nodes as e
from policyengine.evaluator import history_nodes as h
from policyengine.evaluator import nodes as n
from policyengine.evaluator import relation_nodes as r
from policyengine.evaluator.conditions import (
    All,
    AnyOf,
    Connective,
    Equal,
    Not,
    OneOf,
    OrderTest,
    Present,
    QuantifierTest,
    Truth,
)
from policyengine.evaluator.requirements import ActsAloneTest, ActsForTest, IssuedByTest, ValidityTest

TEST_WORDS: dict[type[n.Node], str] = {
    Truth: "truth test",
    Equal: "equality test",
    OrderTest: "order test",
    OneOf: "string set test",
    Present: "presence test",
    All: "all of",
    AnyOf: "any of",
    Not: "not",
    QuantifierTest: "loop",
    r.SameText: "equality test",
    r.SameValue: "equality test",
    r.OrderRelation: "order test",
    r.HasText: "element test",
    r.HasElement: "element test",
    r.CompareSets: "set test",
    e.HasRowTest: "row test",
    e.MemberOfEntity: "hierarchy test",
    h.HistoryTest: "history test",
    IssuedByTest: "issuer test",
    ActsAloneTest: "subject test",
    ActsForTest: "user test",
    ValidityTest: "time test",
}


def describe_test(node: n.Node) -> str:
    """Return how a condition is tested: `slot 12, order test`. The condition of a limit may be a plain value."""
    if isinstance(node, r.PendingIdTest):
        return describe_test(node.relation)
    slots = list(dict.fromkeys(slots_of(node)))
    read = [] if not slots else [f"slot{'s' if len(slots) > 1 else ''} {', '.join(map(str, slots))}"]
    if any(isinstance(part, h.AggregateValue) for part in parts_of(node)):
        read.append("history")
    if isinstance(node, Truth) and isinstance(node.node, n.FunctionValue):
        return ", ".join([*read, "function test"])
    return ", ".join([*read, TEST_WORDS.get(type(node), "value")])


def slots_of(node: n.Node) -> Iterator[int]:
    """Yield the slots that a node reads. An attribute has no slot if its entity differs within a decision."""
    match node:
        case n.FactNode(index=index):
            yield index
        case e.EntityAttribute(index=index) if index >= 0:
            yield index
        case _:
            for part in parts_of(node):
                yield from slots_of(part)


def parts_of(node: n.Node) -> tuple[n.Node, ...]:
    """Return the nodes inside a node, except conditions that have their own description: those of loops, of `acts for
    users where`, and of patterns of past requests.
    """
    match node:
        case Connective(items=items) | n.CollectionValue(items=items) | n.FunctionValue(items=items):
            return items
        case r.PendingIdTest(relation=inner):
            return (inner,)
        case Not(operand=inner) | n.RecordedFact(node=inner) | e.EntityAttribute(base=inner):
            return (inner,)
        case Truth(node=inner) | Equal(node=inner) | OrderTest(node=inner) | OneOf(node=inner):
            return (inner,)
        case Present(node=inner) | r.HasText(node=inner) | e.HasRowTest(node=inner):
            return (inner,)
        case n.DefaultValue(operand=left, fallback=right) | r.Binary(left=left, right=right):
            return (left, right)
        case e.MemberOfEntity(item=left, ancestor=right):
            return (left, right)
        case QuantifierTest(domain=inner) | ActsAloneTest(subject=inner) | ActsForTest(subject=inner):
            return (inner,)
        case _:
            return ()
