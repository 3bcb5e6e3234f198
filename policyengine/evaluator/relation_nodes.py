"""Nodes of binary relations, by the types of their operands; `kernel/binary_relations.py` defines the meaning of each
operator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from policyengine.evaluator.conditions import Condition, test_has
from policyengine.evaluator.entity_nodes import in_any
from policyengine.evaluator.nodes import Node, merge
from policyengine.evaluator.state import MAYBE, NO, YES, State
from policyengine.kernel.resource_relations import RESOURCE_ID
from policyengine.runtime import arithmetic
from policyengine.runtime.fact_access import fact_at
from policyengine.runtime.pending_texts import compare_pending, pending_glob
from policyengine.runtime.value_sets import ValueSet, family_of
from policyengine.runtime.values import Unknown
from policyengine.typesystem import EntityRef


def test_value(st: State, value: Any) -> int:
    """Return the result of a test whose value is True, False or Unknown."""
    if value is True:
        return YES
    if value is False:
        return NO
    st.doubts.append(value)
    return MAYBE


class Binary(Condition):
    """A relation of two nodes; unknown if a node is unknown."""

    __slots__ = ("left", "right")

    def __init__(self, left: Node, right: Node) -> None:
        self.left = left
        self.right = right

    def test(self, st: State) -> int:
        left, right = self.left.get(st), self.right.get(st)
        if type(left) is Unknown or type(right) is Unknown:
            st.doubts.append(merge([left, right]))
            return MAYBE
        return test_value(st, self.holds(st, left, right))

    def holds(self, st: State, left: Any, right: Any) -> Any:
        """Return whether the relation holds for two known values."""
        raise NotImplementedError


class SameValue(Binary):
    """`==` and `!=` of any two values."""

    __slots__ = ("fact", "negated", "ordered")

    def __init__(self, left: Node, right: Node, negated: bool, ordered: bool, fact: str) -> None:
        super().__init__(left, right)
        self.negated = negated
        self.ordered = ordered
        self.fact = fact

    def holds(self, st: State, left: Any, right: Any) -> Any:
        same = arithmetic.equal(left, right, ordered=self.ordered, fact=self.fact)
        return not same if self.negated and type(same) is bool else same


class SameText(Binary):
    """`==` and `!=` of two strings, or of two references."""

    __slots__ = ("negated",)

    def __init__(self, left: Node, right: Node, negated: bool) -> None:
        super().__init__(left, right)
        self.negated = negated

    def holds(self, st: State, left: Any, right: Any) -> Any:
        return (left == right) is not self.negated


class OrderRelation(Binary):
    """`<`, `<=`, `>`, `>=`; values of an ordered enum compare by their position in `ranks`."""

    __slots__ = ("compare", "ranks")

    def __init__(self, left: Node, right: Node, compare: Callable[[Any, Any], bool], ranks: tuple[str, ...]) -> None:
        super().__init__(left, right)
        self.compare = compare
        self.ranks = ranks

    def holds(self, st: State, left: Any, right: Any) -> Any:
        if self.ranks:
            return self.compare(self.ranks.index(left), self.ranks.index(right))
        return self.compare(left, right)


MIN_HASHED = 16  # minimum elements for hashing; a shorter collection is compared element by element


class HasText(Condition):
    """Whether a set or list of strings has a constant element."""

    __slots__ = ("node", "value")

    def __init__(self, node: Node, value: str) -> None:
        self.node = node
        self.value = value

    def test(self, st: State) -> int:
        value = self.node.get(st)
        if type(value) is Unknown:
            st.doubts.append(value)
            return MAYBE
        if len(value) < MIN_HASHED:
            return test_has(st, value, self.value)
        return test_value(st, element_of(st, value, self.value))


class HasElement(Binary):
    """`collection has item`. With `holds`, an entity may also be a member of an element. `texts` means that all
    elements are strings.
    """

    __slots__ = ("fact", "holding", "texts")

    def __init__(self, collection: Node, item: Node, holding: bool, texts: bool, fact: str) -> None:
        super().__init__(collection, item)
        self.holding = holding
        self.texts = texts
        self.fact = fact

    def test(self, st: State) -> int:
        items, item = self.left.get(st), self.right.get(st)
        if type(items) is Unknown or type(item) is Unknown:
            st.doubts.append(merge([items, item]))
            return MAYBE
        if self.texts and len(items) < MIN_HASHED:
            return test_has(st, items, item)
        return test_value(st, self.holds(st, items, item))

    def holds(self, st: State, left: Any, right: Any) -> Any:
        if self.holding and isinstance(right, EntityRef):
            return in_any(st, left, right, self.fact)
        return element_of(st, left, right)


class CompareSets(Binary):
    """`overlaps` and `subset of`."""

    __slots__ = ("overlapping",)

    def __init__(self, left: Node, right: Node, overlapping: bool) -> None:
        super().__init__(left, right)
        self.overlapping = overlapping

    def holds(self, st: State, left: Any, right: Any) -> Any:
        one, other = set_of(st, left), set_of(st, right)
        if other.decides(one.family):
            return one.overlaps(other) if self.overlapping else one.within(other)
        return fold((equals_any(right, item) for item in left), settling=self.overlapping)


def set_of(st: State, elements: tuple[Any, ...]) -> ValueSet:
    """Return the elements as a set, created once in a decision for each tuple."""
    if st.sets is None:
        st.sets = {}
    known = st.sets.get(id(elements))
    if known is None:
        known = st.sets[id(elements)] = elements, ValueSet.of(elements)
    return known[1]


def element_of(st: State, collection: tuple[Any, ...], item: Any) -> Any:
    """Return whether the item is an element. Uses hashes if the values have them."""
    elements = set_of(st, collection)
    if elements.decides(family_of(item)):
        return elements.has(item)
    return equals_any(collection, item)


def equals_any(collection: Iterable[Any], item: Any) -> Any:
    return fold((equal_or_unknown(one, item) for one in collection), settling=True)


def equal_or_unknown(left: Any, right: Any) -> Any:
    if type(left) is Unknown or type(right) is Unknown:
        return merge([left, right])
    return arithmetic.equal(left, right)


class PendingIdTest(Condition):
    """A relation of `resource.id` and a constant, whose result may be the same for every value that a pending ID can
    have.
    """

    __slots__ = ("constant", "operator", "relation")

    def __init__(self, relation: Condition, operator: str, constant: object) -> None:
        self.relation = relation
        self.operator = operator
        self.constant = constant

    def test(self, st: State) -> int:
        mark = len(st.doubts)
        result = self.relation.test(st)
        if result != MAYBE or not st.rules.is_action:
            return result
        glob = pending_glob(fact_at(st.facts, RESOURCE_ID))
        settled = None if glob is None else compare_pending(self.operator, glob, self.constant)
        if settled is None:
            return MAYBE
        del st.doubts[mark:]
        return YES if settled else NO


def fold(values: Iterable[Any], *, settling: bool) -> Any:
    """Return Kleene's `or` of the values if `settling` is True, otherwise Kleene's `and`."""
    unknown: list[Any] = []
    for value in values:
        if value is settling:
            return settling
        if type(value) is Unknown:
            unknown.append(value)
    return merge(unknown) if unknown else not settling


def in_networks(address: Any, networks: Any) -> Any:
    """Return whether the address is in the network, or in one of several networks."""
    several = networks if isinstance(networks, tuple) else (networks,)
    return fold((in_network(address, one) for one in several), settling=True)


def in_network(address: Any, network: Any) -> Any:
    if type(network) is Unknown:
        return network
    return address in network if hasattr(network, "prefixlen") else address == network
