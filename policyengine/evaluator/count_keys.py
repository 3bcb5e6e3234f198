"""Nodes for the keys of counters and histories: all spellings of a value that a caller may choose map to one key."""

from __future__ import annotations

from typing import Any

from policyengine import kernel as k
from policyengine.evaluator.nodes import Node
from policyengine.evaluator.state import State
from policyengine.runtime.letter_case import fold_case
from policyengine.spec.limit_keys import host_network, is_address
from policyengine.spec.path_texts import is_path_text


class PathKey(Node):
    """A text of the path in folded case."""

    __slots__ = ("node",)

    def __init__(self, node: Node) -> None:
        self.node = node

    def get(self, st: State) -> Any:
        value = self.node.get(st)
        return fold_case(value) if isinstance(value, str) else value


class AddressKey(Node):
    """The network of an IPv6 address; other addresses are unchanged."""

    __slots__ = ("node",)

    def __init__(self, node: Node) -> None:
        self.node = node

    def get(self, st: State) -> Any:
        return host_network(self.node.get(st))


def count_key_node(expression: k.Expr, node: Node) -> Node:
    """Return the node for a part of a key, whose value `node` returns."""
    if is_path_text(expression):
        return PathKey(node)
    return AddressKey(node) if is_address(expression) else node
