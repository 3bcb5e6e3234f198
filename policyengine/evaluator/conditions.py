"""Conditions of the program; their result is NO, YES or MAYBE.

`test` leaves the unknowns that made a condition MAYBE on the stack of the state; `All`, `AnyOf` and `QuantifierTest`
truncate the stack if another part settles the result. So unknowns need no extra objects.
"""

from __future__ import annotations

from typing import Any

from policyengine.evaluator.nodes import Node, merge
from policyengine.evaluator.state import MAYBE, NO, YES, State
from policyengine.runtime.values import Unknown

LESS, AT_MOST, MORE, AT_LEAST = range(4)


class Condition(Node):
    """A condition with three possible results."""

    __slots__ = ()

    def test(self, st: State) -> int:
        raise NotImplementedError

    def get(self, st: State) -> Any:
        mark = len(st.doubts)
        result = self.test(st)
        if result == MAYBE:
            causes = merge(st.doubts[mark:])
            del st.doubts[mark:]
            return causes
        return result == YES


class Truth(Condition):
    """A value of type bool as a condition."""

    __slots__ = ("node",)

    def __init__(self, node: Node) -> None:
        self.node = node

    def test(self, st: State) -> int:
        value = self.node.get(st)
        if value is True:
            return YES
        if value is False:
            return NO
        st.doubts.append(value)
        return MAYBE

    def get(self, st: State) -> Any:
        return self.node.get(st)


class Equal(Condition):
    """The equality of a fact and a constant of one class: string, enum, int or bool."""

    __slots__ = ("node", "otherwise", "same", "value")

    def __init__(self, node: Node, value: Any, negated: bool) -> None:
        self.node = node
        self.value = value
        self.same = NO if negated else YES
        self.otherwise = YES if negated else NO

    def test(self, st: State) -> int:
        value = self.node.get(st)
        if type(value) is Unknown:
            st.doubts.append(value)
            return MAYBE
        return self.same if value == self.value else self.otherwise


class OrderTest(Condition):
    """The comparison by order of a number or duration with a constant."""

    __slots__ = ("how", "node", "value")

    def __init__(self, node: Node, value: Any, how: int) -> None:
        self.node = node
        self.value = value
        self.how = how

    def test(self, st: State) -> int:
        value = self.node.get(st)
        if type(value) is Unknown:
            st.doubts.append(value)
            return MAYBE
        how = self.how
        if how == 0:
            return YES if value < self.value else NO
        if how == 1:
            return YES if value <= self.value else NO
        if how == 2:
            return YES if value > self.value else NO
        return YES if value >= self.value else NO


class OneOf(Condition):
    """Whether a string is one of several constants."""

    __slots__ = ("node", "values")

    def __init__(self, node: Node, values: frozenset[str]) -> None:
        self.node = node
        self.values = values

    def test(self, st: State) -> int:
        value = self.node.get(st)
        if type(value) is Unknown:
            st.doubts.append(value)
            return MAYBE
        return YES if value in self.values else NO


def test_has(st: State, items: Any, wanted: str) -> int:
    """Test whether strings, some of which may be unknown, include this string."""
    if wanted in items:
        return YES
    found = NO
    for item in items:
        if type(item) is Unknown:
            st.doubts.append(item)
            found = MAYBE
    return found


class Not(Condition):
    """The negation of a condition."""

    __slots__ = ("operand",)

    def __init__(self, operand: Condition) -> None:
        self.operand = operand

    def test(self, st: State) -> int:
        result = self.operand.test(st)
        if result == MAYBE:
            return MAYBE
        return NO if result == YES else YES


class Connective(Condition):
    """Kleene's `and` or `or`: a part with the result `settling` decides; without one, an unknown part makes the
    condition MAYBE. `strict` tests every part, so that all facts to which an approval is bound are recorded.
    """

    __slots__ = ("items", "neutral", "settling", "strict")

    def __init__(self, items: tuple[Condition, ...], settling: int, strict: bool) -> None:
        self.items = items
        self.settling = settling
        self.neutral = NO if settling == YES else YES
        self.strict = strict

    def test(self, st: State) -> int:
        mark, settling = len(st.doubts), self.settling
        found = self.neutral
        for item in self.items:
            result = item.test(st)
            if result == settling:
                found = settling
                if not self.strict:
                    break
            elif result == MAYBE and found != settling:
                found = MAYBE
        if found == settling and len(st.doubts) > mark:
            del st.doubts[mark:]
        return found


class All(Connective):
    """Kleene's `and`."""

    __slots__ = ()

    def __init__(self, items: tuple[Condition, ...], strict: bool = False) -> None:
        super().__init__(items, NO, strict)


class AnyOf(Connective):
    """Kleene's `or`."""

    __slots__ = ()

    def __init__(self, items: tuple[Condition, ...], strict: bool = False) -> None:
        super().__init__(items, YES, strict)


class Present(Condition):
    """`x is present`."""

    __slots__ = ("node",)

    def __init__(self, node: Node) -> None:
        self.node = node

    def test(self, st: State) -> int:
        value = self.node.get(st)
        if type(value) is not Unknown:
            return YES
        if value.absent:
            return NO
        st.doubts.append(value)
        return MAYBE


class QuantifierTest(Condition):
    """`any x in s: …` combines its elements like `or`, `all` like `and`; the condition is MAYBE for an
    unknown element.
    """

    __slots__ = ("condition", "depth", "domain", "settling", "strict")

    def __init__(self, word: str, depth: int, domain: Node, condition: Condition, strict: bool) -> None:
        self.settling = YES if word == "any" else NO
        self.depth = depth
        self.domain = domain
        self.condition = condition
        self.strict = strict

    def test(self, st: State) -> int:
        items = self.domain.get(st)
        if type(items) is Unknown:
            st.doubts.append(items)
            return MAYBE
        mark, settling = len(st.doubts), self.settling
        found = NO if settling == YES else YES
        depth, variables = self.depth, st.variables
        if len(variables) <= depth:
            variables += [None] * (depth + 1 - len(variables))
        for item in items:
            if type(item) is Unknown:
                st.doubts.append(item)
                result = MAYBE
            else:
                variables[depth] = item
                result = self.condition.test(st)
            if result == settling:
                found = settling
                if not self.strict:
                    break
            elif result == MAYBE and found != settling:
                found = MAYBE
        if found == settling and len(st.doubts) > mark:
            del st.doubts[mark:]
        return found
