"""Globs by the text they begin and end with, so that those that may meet another one are found among many."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Item = TypeVar("Item")


@dataclass(slots=True)
class _ByText(Generic[Item]):
    """Items by a text; finds those whose text begins another one, or is begun by it."""

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
    """Items by glob, where `*` is any run of characters. `near` leaves out most of those that cannot meet a glob."""

    beginning: _ByText[Item] = field(default_factory=_ByText)
    ending: _ByText[Item] = field(default_factory=_ByText)  # of those that begin with `*`; their ends, reversed

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
    """Reversed."""
    return glob[::-1].partition("*")[0]
