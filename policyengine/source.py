"""Policy sources and spans in them, the input of the pipeline."""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass, field

from msgspec import Struct


@dataclass(frozen=True, slots=True)
class Source:
    """One policy file: `name` appears in the checker's messages, `text` is the whole content.

    `label` appears in decisions: the path relative to the policy root, which reveals nothing about the machine.
    """

    name: str
    text: str = field(repr=False)
    label: str = field(default="", repr=False, compare=False)
    _line_starts: list[int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_line_starts", [0, *(found.end() for found in re.finditer("\n", self.text))])

    def position(self, offset: int) -> tuple[int, int]:
        """Return the 1-based (line, column) of a character offset; columns count characters."""
        line = bisect_right(self._line_starts, offset)
        return line, offset - self._line_starts[line - 1] + 1

    def line(self, number: int) -> str:
        """Return the text of a 1-based line without its line break, or an empty string for a number after the last
        line.
        """
        if not 1 <= number <= len(self._line_starts):
            return ""
        start = self._line_starts[number - 1]
        end = self._line_starts[number] - 1 if number < len(self._line_starts) else len(self.text)
        return self.text[start:end].rstrip("\r")


# A struct, because every node has a span: a struct costs a sixth of a dataclass, and is never part of a reference
# cycle.
class Span(Struct, frozen=True, gc=False):
    """A range of a source in character offsets; `end` is exclusive."""

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
        """The place as decisions and reports show it: `payments.policy:47`."""
        return f"{self.source.label or self.source.name}:{self.line}"

    def to(self, other: Span) -> Span:
        """Return the span from the start of this one to the end of the other."""
        return Span(self.source, self.start, other.end)


def is_test_file(name: str) -> bool:
    """Return whether a file name ends in `_test.policy`. Such files contain tests; engines do not load them."""
    return name.endswith("_test.policy")
