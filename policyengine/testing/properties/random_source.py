"""Where chance comes from while a request is drawn: one number after another, which hypothesis chooses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

# Hypothesis now and then draws a number that stands in some module that happens to be loaded, but none below 100. With
# fewer choices than that at a time, the same seed draws the same requests in every process.
MAX_CHOICES = 64


@dataclass(frozen=True, slots=True)
class RandomSource:
    """`below(n)` gives a number from 0 to n - 1; the first of several things is what is likeliest to do."""

    below: Callable[[int], int]

    def of(self, things: Sequence[T]) -> T:
        """One of the things; there is at least one."""
        if len(things) <= MAX_CHOICES:
            return things[self.below(len(things))]
        size = -(-len(things) // MAX_CHOICES)
        parts = [things[start : start + size] for start in range(0, len(things), size)]
        return self.of(parts[self.below(len(parts))])

    def chance(self, one_in: int) -> bool:
        """True once in so many times."""
        return self.below(one_in) == one_in - 1
