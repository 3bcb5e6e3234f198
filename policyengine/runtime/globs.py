"""Globs, for names of agents and tools and for `like`. `make compiled` compiles this module."""

from __future__ import annotations


class Glob:
    """A glob: `*` matches any number of characters, including none; all other characters match themselves."""

    __slots__ = ("_head", "_last", "_middle", "pattern")

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        head, *rest = pattern.split("*")
        self._head = head
        self._middle = rest[:-1]
        self._last = rest[-1] if rest else None

    def matches(self, text: str) -> bool:
        """Return whether the glob matches a whole text."""
        head, last = self._head, self._last
        if last is None:
            return text == head
        end = len(text) - len(last)
        if end < len(head) or not text.startswith(head) or not text.endswith(last):
            return False
        place = len(head)
        for part in self._middle:  # the leftmost match leaves the most text for the rest
            found = text.find(part, place, end)
            if found < 0:
                return False
            place = found + len(part)
        return True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Glob) and self.pattern == other.pattern

    def __hash__(self) -> int:
        return hash(self.pattern)
