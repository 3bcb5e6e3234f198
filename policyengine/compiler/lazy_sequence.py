"""Sequences of rules that are decoded when first needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from threading import Lock
from typing import TypeVar, overload

Item = TypeVar("Item")


class LazySequence(Sequence[Item]):
    """A sequence of items that are decoded at first use and kept. Threads may share the sequence: all get the same
    item.

    `read_head` decodes only the head of an item. `may_read_history` is False only if no item contains a condition on
    the history.
    """

    __slots__ = ("_items", "_lock", "_read", "_read_head", "may_read_history")

    def __init__(
        self,
        data: list[bytes],
        read: Callable[[int, bytes], Item],
        read_head: Callable[[int, bytes], Item] | None = None,
        may_read_history: bool = True,
    ) -> None:
        self._items: list[bytes | Item] = [*data]
        self._read, self._read_head, self._lock = read, read_head or read, Lock()
        self.may_read_history = may_read_history

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Item, ...]: ...
    def __getitem__(self, index: int | slice) -> Item | tuple[Item, ...]:
        if isinstance(index, slice):
            return tuple(self[position] for position in range(*index.indices(len(self))))
        item = self._items[index]
        return self._decode(range(len(self))[index]) if isinstance(item, bytes) else item

    def __iter__(self) -> Iterator[Item]:
        return (self[index] for index in range(len(self)))

    def __eq__(self, other: object) -> bool:
        return tuple(self) == tuple(other) if isinstance(other, LazySequence | tuple) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return repr(tuple(self))

    def _decode(self, index: int) -> Item:
        with self._lock:
            item = self._items[index]
            if isinstance(item, bytes):
                item = self._items[index] = self._read(index, item)
            return item

    def head(self, index: int) -> Item:
        """Return the item, or the head of an item that is not decoded yet; the head is not kept."""
        item = self._items[index]
        return self._read_head(index, item) if isinstance(item, bytes) else item


def head_at(items: Sequence[Item], index: int) -> Item:
    """Return an item for a caller that needs only its head."""
    return items.head(index) if isinstance(items, LazySequence) else items[index]
