"""An order that counts the work of finding its first key."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any


class CountedOrder(OrderedDict[Any, Any]):
    """An order that counts what is done with it, and each key that is visited."""

    count = 0

    def __iter__(self) -> Iterator[Any]:
        for key in super().__iter__():
            self.count += 1
            yield key

    def __setitem__(self, key: Any, value: Any) -> None:
        self.count += 1
        super().__setitem__(key, value)

    def __delitem__(self, key: Any) -> None:
        self.count += 1
        super().__delitem__(key)

    def move_to_end(self, key: Any, last: bool = True) -> None:
        self.count += 1
        super().move_to_end(key, last)

    def pop(self, key: Any, *default: Any) -> Any:
        self.count += 1
        return super().pop(key, *default)

    def popitem(self, last: bool = True) -> tuple[Any, Any]:
        self.count += 1
        return super().popitem(last)
