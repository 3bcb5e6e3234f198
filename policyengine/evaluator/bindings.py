"""Values that the patterns of an endpoint bind: captures, the resource, and the facts that `with` binds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from policyengine.evaluator.nodes import BoundValue, Node
from policyengine.evaluator.state import State
from policyengine.typesystem import EntityRef


class CaptureValue(BoundValue):
    """The text of a wildcard, which `match` returns for the segment."""

    __slots__ = ("index", "match")

    def __init__(self, index: int, match: Callable[[str], Any]) -> None:
        self.index = index
        self.match = match

    def raw(self, st: State) -> Any:
        return self.match(st.segments[self.index])


class ResourceValue(BoundValue):
    """The entity that a capture names."""

    __slots__ = ("capture", "type")

    def __init__(self, type: str, capture: CaptureValue) -> None:
        self.type = type
        self.capture = capture

    def raw(self, st: State) -> Any:
        text = self.capture.raw(st)
        return EntityRef(self.type, text) if isinstance(text, str) else text


class ExpressionValue(BoundValue):
    """The value of an expression that `with` binds; `source` is the expression in the kernel."""

    __slots__ = ("node", "source")

    def __init__(self, node: Node, source: Any) -> None:
        self.node = node
        self.source = source

    def raw(self, st: State) -> Any:
        return self.node.get(st)


class AgreedValue(BoundValue):
    """Bindings of one path by several patterns, which must all be equal."""

    __slots__ = ("conflict", "several")

    def __init__(self, several: list[BoundValue], conflict: object) -> None:
        self.several = several
        self.conflict = conflict

    def raw(self, st: State) -> Any:
        found = [one.raw(st) for one in self.several]
        return self.conflict if any(one != found[0] for one in found) else found[0]


class ConstantValue(BoundValue):
    """A path that is bound only in another letter case."""

    __slots__ = ("value",)

    def __init__(self, value: object) -> None:
        self.value = value

    def raw(self, st: State) -> Any:
        return self.value
