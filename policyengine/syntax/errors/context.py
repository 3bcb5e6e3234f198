"""The context of a syntax error, which the explanations read."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from policyengine.diagnostics.model import Diagnostic, RelatedLocation
from policyengine.source import Source, Span
from policyengine.syntax.errors.recovery import ErrorPosition, ParserTables

UNEXPECTED_TEXT = re.compile(
    r'"(?:[^"\\\n]|\\.)*"|[^\W\d][\w.]*|\d[\w.]*|&&|\|\||==|!=|<=|>=|=>|->|\.\.|//|/\*|/[^\s,{}|]*|.', re.DOTALL
)
METHODS = frozenset("GET HEAD POST PUT PATCH DELETE OPTIONS ANY CONNECT TRACE".split())


@dataclass(frozen=True, slots=True)
class ErrorContext:
    """A syntax error in context: the unexpected text, the text before it, and the offsets of the open brackets."""

    source: Source
    stop: ErrorPosition
    known: ParserTables
    found: str
    opened: tuple[int, ...]

    @property
    def at(self) -> int:
        return self.stop.offset

    @property
    def accepted(self) -> frozenset[str]:
        return self.stop.accepted

    @property
    def previous(self) -> str:
        return self.stop.previous.text if self.stop.previous is not None else ""

    @property
    def adjoins(self) -> bool:
        """Whether the unexpected text directly follows the previous token, without a space."""
        return self.stop.previous is not None and self.stop.previous.end == self.at

    @property
    def at_line_start(self) -> bool:
        return not self.source.text[self.source.text.rfind("\n", 0, self.at) + 1 : self.at].strip()

    @property
    def at_margin(self) -> bool:
        return self.at == 0 or self.source.text[self.at - 1] == "\n"

    @property
    def is_word(self) -> bool:
        return self.found[:1].isalpha() or self.found[:1] == "_"

    def span(self) -> Span:
        before = self.stop.previous
        if not self.found and before is not None:
            return Span(self.source, before.end, before.end)
        return Span(self.source, self.at, self.at + len(self.found))

    def report(self, code: str, message: str, hint: str | None = None, *related: RelatedLocation) -> Diagnostic:
        return Diagnostic(code, message, self.span(), hint, related)


Explainer: TypeAlias = Callable[[ErrorContext], Diagnostic | None]


def shorten_text(text: str) -> str:
    shown = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
    return shown if len(shown) <= 40 else shown[:39] + "…"
