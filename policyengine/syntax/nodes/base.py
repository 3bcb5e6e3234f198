"""The base of all AST nodes: span, shared leaf nodes, and tree traversal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Literal as Word
from typing import TypeAlias, TypeVar, dataclass_transform

from policyengine.source import Span

Kind = TypeVar("Kind")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def node(*, kw_only: bool = False) -> Callable[[type[Kind]], type[Kind]]:
    """Declare a node class, which type checkers treat as frozen.

    It is not frozen at run time, because creating frozen dataclasses takes three times as long and a large policy has
    hundreds of thousands of nodes. Node defines the shared methods once, because generating them for each class would
    slow down every start.
    """
    return dataclass(slots=True, eq=False, repr=False, kw_only=kw_only)


@node(kw_only=True)
class Node:
    """An AST node. Nodes with the same contents are equal, wherever they are in the source."""

    span: Span = field(compare=False, repr=False)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and field_values(self) == field_values(other)

    def __hash__(self) -> int:
        return hash((type(self), field_values(self)))

    def __repr__(self) -> str:
        shown = ", ".join(f"{item.name}={getattr(self, item.name)!r}" for item in fields(self) if item.repr)
        return f"{type(self).__name__}({shown})"


def field_values(node: Node) -> tuple[object, ...]:
    return tuple(getattr(node, item.name) for item in fields(node) if item.compare)


@node()
class Name(Node):
    """A dotted name as written: `user`, `invoices.read`, `body.amount`."""

    text: str


@node()
class Text(Node):
    """A string with its escapes decoded."""

    value: str


LiteralKind: TypeAlias = Word["number", "duration", "date", "clock", "ip", "hash", "bool"]


@node()
class Literal(Node):
    """A literal other than a string, as written (`10_000`, `15m`, `10.0.0.0/8`); the checker parses its value."""

    kind: LiteralKind
    text: str


LEAF_ANNOTATIONS = frozenset({"Span", "str", "bool", "tuple[str, ...]"})  # annotations of fields that hold no nodes


@cache
def child_fields(kind: type[Node]) -> tuple[str, ...]:
    """Return the fields that may hold nodes. Cached, because a large policy has hundreds of thousands of nodes."""
    return tuple(item.name for item in fields(kind) if item.type not in LEAF_ANNOTATIONS)


def children(node: Node) -> Iterator[Node]:
    """Yield the direct children of a node, in the order of its fields."""
    for name in child_fields(type(node)):  # type: ignore[arg-type]  # mypy checks the hashes of instances
        value = getattr(node, name)
        if isinstance(value, Node):
            yield value
        elif isinstance(value, tuple):
            yield from (part for part in value if isinstance(part, Node))


def walk(node: Node) -> Iterator[Node]:
    """Yield the node and all its descendants, parents first. The loop is iterative, so that deep nesting cannot exhaust
    the stack.
    """
    pending = [node]
    while pending:
        current = pending.pop()
        yield current
        for name in reversed(child_fields(type(current))):  # type: ignore[arg-type]
            value = getattr(current, name)
            if isinstance(value, Node):
                pending.append(value)
            elif isinstance(value, tuple):
                pending += [part for part in reversed(value) if isinstance(part, Node)]
