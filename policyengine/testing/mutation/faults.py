"""One small fault in a policy, as a change of its syntax tree and of its text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from policyengine.source import Source
from policyengine.syntax import nodes as ast
from policyengine.testing.mutation.edits import ChangedLines, MutationEdit, apply_edits


@dataclass(frozen=True, slots=True)
class FaultChange:
    """A replacement of `old` by `new` in a declaration; with `new` None, a removal of the declaration."""

    operator: str
    old: ast.Node
    new: ast.Node | None
    edits: tuple[MutationEdit, ...]

    @classmethod
    def at(cls, operator: str, old: ast.Node, edit: MutationEdit, /, **members: Any) -> FaultChange:
        """Return a change that replaces these members of the node `old`."""
        return cls(operator, old, replace(old, **members), (edit,))


@dataclass(frozen=True, slots=True)
class Fault:
    """A change in a declaration. Its `name` is unique in the policy and contains no line number."""

    operator: str
    name: str
    package: str
    declaration: ast.Declaration
    change: FaultChange
    lines: ChangedLines

    @property
    def source(self) -> Source:
        return self.declaration.span.source

    @property
    def line(self) -> int:
        """The first changed line, from 1."""
        return self.source.position(self.start)[0]

    @property
    def text(self) -> str:
        """The text of the whole file with the fault."""
        return apply_edits(self.source.text, self.change.edits)

    @property
    def before(self) -> str:
        return self.source.text[self.start : self.end]

    @property
    def after(self) -> str:
        moved = [MutationEdit(e.start - self.start, e.end - self.start, e.text) for e in self.change.edits]
        return apply_edits(self.before, moved)

    @property
    def start(self) -> int:
        return min(edit.start for edit in self.change.edits)

    @property
    def end(self) -> int:
        return max(edit.end for edit in self.change.edits)

    @property
    def mutated(self) -> ast.Declaration | None:
        """The declaration with the fault; None if the fault removes it."""
        if self.change.new is None:
            return None
        found: ast.Declaration = replace_node(self.declaration, self.change.old, self.change.new)
        return found


def replace_node(node: Any, old: ast.Node, new: ast.Node) -> Any:
    """Replace a node of a tree by identity, not by equality."""
    if node is old:
        return new
    if isinstance(node, tuple):
        parts = tuple(replace_node(part, old, new) for part in node)
        return parts if any(a is not b for a, b in zip(parts, node, strict=True)) else node
    if not isinstance(node, ast.Node) or not is_within(old, node):
        return node
    members = {item.name: replace_node(getattr(node, item.name), old, new) for item in fields(node)}
    changed = {name: value for name, value in members.items() if value is not getattr(node, name)}
    return replace(node, **changed) if changed else node


def is_within(inner: ast.Node, outer: ast.Node) -> bool:
    return outer.span.start <= inner.span.start and inner.span.end <= outer.span.end


def omit_item(items: Sequence[ast.Node], number: int) -> tuple[ast.Node, ...]:
    return tuple(item for i, item in enumerate(items) if i != number)


def replace_item(items: Sequence[ast.Node], number: int, item: ast.Node) -> tuple[ast.Node, ...]:
    return tuple(item if i == number else one for i, one in enumerate(items))


def number_duplicates(names: Iterator[str]) -> Iterator[str]:
    """Make names unique: the second one ends in `[2]`."""
    seen: dict[str, int] = {}
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        yield name if seen[name] == 1 else f"{name} [{seen[name]}]"
