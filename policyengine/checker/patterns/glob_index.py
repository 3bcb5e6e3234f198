"""An index of globs by their literal prefixes and suffixes, which finds possible overlaps among many globs."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Item = TypeVar("Item")


@dataclass(slots=True)
class _ByText(Generic[Item]):
    """Items indexed by string; finds the items whose string is a prefix of another string, or begins with
    that string.
    """

    items: dict[str, list[tuple[str, Item]]] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)

    def add(self, text: str, glob: str, item: Item) -> None:
        if text not in self.items:
            insort(self.order, text)
        self.items.setdefault(text, []).append((glob, item))

    def near(self, text: str) -> Iterator[tuple[str, Item]]:
        for end in range(len(text)):
            yield from self.items.get(text[:end], ())
        for place in range(bisect_left(self.order, text), len(self.order)):
            if not self.order[place].startswith(text):
                break
            yield from self.items[self.order[place]]


@dataclass(slots=True)
class GlobIndex(Generic[Item]):
    """Items indexed by glob, where `*` matches any run of characters. `near` skips most items that cannot overlap a
    glob.
    """

    beginning: _ByText[Item] = field(default_factory=_ByText)
    # Items by the reversed suffixes of globs that begin with `*`.
    ending: _ByText[Item] = field(default_factory=_ByText)

    def add(self, glob: str, item: Item) -> None:
        if glob.startswith("*"):
            self.ending.add(end_of(glob), glob, item)
        else:
            self.beginning.add(beginning_of(glob), glob, item)

    def near(self, glob: str) -> Iterator[tuple[str, Item]]:
        yield from self.beginning.near(beginning_of(glob))
        yield from self.ending.near(end_of(glob))


def beginning_of(glob: str) -> str:
    return glob.partition("*")[0]


def end_of(glob: str) -> str:
    """Return the literal text after the last `*` of a glob, reversed."""
    return glob[::-1].partition("*")[0]
