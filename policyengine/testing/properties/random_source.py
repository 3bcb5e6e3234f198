"""The random choices of a generated request: numbers that hypothesis chooses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

# Hypothesis sometimes draws constants from loaded modules, but never constants below 100. With fewer options per
# choice, the same seed generates the same requests in every process.
MAX_CHOICES = 64


@dataclass(frozen=True, slots=True)
class RandomSource:
    """A source of choices. `below(n)` returns a number from 0 to n - 1; the first of several options should be the most
    promising option.
    """

    below: Callable[[int], int]

    def of(self, things: Sequence[T]) -> T:
        """Return one of the options. There must be at least one."""
        if len(things) <= MAX_CHOICES:
            return things[self.below(len(things))]
        size = -(-len(things) // MAX_CHOICES)
        parts = [things[start : start + size] for start in range(0, len(things), size)]
        return self.of(parts[self.below(len(parts))])

    def chance(self, one_in: int) -> bool:
        """Return True in one of `one_in` cases."""
        return self.below(one_in) == one_in - 1
