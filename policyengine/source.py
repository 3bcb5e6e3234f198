"""The text a policy is written in, and places in it: the first station of the pipeline."""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass, field

from msgspec import Struct


@dataclass(frozen=True, slots=True)
class Source:
    """One policy file: `name` is what the checker calls it, `text` its whole content.

    `label` is what decisions call it: its path below the policy root, which says nothing about the machine.
    """

    name: str
    text: str = field(repr=False)
    label: str = field(default="", repr=False, compare=False)
    _line_starts: list[int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_line_starts", [0, *(found.end() for found in re.finditer("\n", self.text))])

    def position(self, offset: int) -> tuple[int, int]:
        """The 1-based (line, column) of a character offset; a column counts characters."""
        line = bisect_right(self._line_starts, offset)
        return line, offset - self._line_starts[line - 1] + 1

    def line(self, number: int) -> str:
        """The text of a 1-based line without its line break; empty past the end."""
        if not 1 <= number <= len(self._line_starts):
            return ""
        start = self._line_starts[number - 1]
        end = self._line_starts[number] - 1 if number < len(self._line_starts) else len(self.text)
        return self.text[start:end].rstrip("\r")


# A struct, as every node has one: it costs a sixth of a dataclass; and it is in no circle that a collector must find.
class Span(Struct, frozen=True, gc=False):
    """A stretch of a source: character offsets, `end` excluded."""

    source: Source
    start: int
    end: int

    @property
    def line(self) -> int:
        return self.source.position(self.start)[0]

    @property
    def column(self) -> int:
        return self.source.position(self.start)[1]

    @property
    def text(self) -> str:
        return self.source.text[self.start : self.end]

    @property
    def at(self) -> str:
        """`payments.policy:47`: how decisions and reports name a place."""
        return f"{self.source.label or self.source.name}:{self.line}"

    def to(self, other: Span) -> Span:
        """From the start of this one to the end of the other."""
        return Span(self.source, self.start, other.end)


def is_test_file(name: str) -> bool:
    """Files named `payments_test.policy` hold tests of a package; no engine loads them."""
    return name.endswith("_test.policy")
