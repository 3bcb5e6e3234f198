"""Policy sources and spans in them, the input of the pipeline."""

from __future__ import annotations

import re
from array import array
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
    _known_starts: list[array[int]] = field(init=False, repr=False, compare=False, default_factory=list)

    @property
    def _line_starts(self) -> array[int]:
        """The offset of each line, computed when first needed."""
        if not self._known_starts:
            self._known_starts.append(array("I", [0, *(found.end() for found in re.finditer("\n", self.text))]))
        return self._known_starts[0]

    def position(self, offset: int) -> tuple[int, int]:
        """Return the 1-based (line, column) of a character offset; columns count characters."""
        starts = self._line_starts
        line = bisect_right(starts, offset)
        return line, offset - starts[line - 1] + 1

    def line(self, number: int) -> str:
        """Return the text of a 1-based line without its line break, or an empty string for a number after the last
        line.
        """
        starts = self._line_starts
        if not 1 <= number <= len(starts):
            return ""
        start = starts[number - 1]
        end = starts[number] - 1 if number < len(starts) else len(self.text)
        return self.text[start:end].rstrip("\r")


# A struct, because every node has a span: creating a struct costs a sixth of creating a dataclass, and a span is never
# part of a reference cycle.
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
        """Return the span from the start of this span to the end of the other span."""
        return Span(self.source, self.start, other.end)


def is_test_file(name: str) -> bool:
    """Return whether a file name ends in `_test.policy`. Such files contain tests; engines do not load them."""
    return name.endswith("_test.policy")
