"""Diagnostics as data, and their rendering for people and machines."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from policyengine.control_characters import one_line
from policyengine.source import Span


class Severity(StrEnum):
    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class RelatedLocation:
    """Another place that is relevant to a diagnostic, such as `first declared here`."""

    message: str
    span: Span


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One error or warning. `code` is stable and documented (`policyengine explain-code E201`): E… is an error, W… a
    warning."""

    code: str
    message: str
    span: Span
    hint: str | None = None
    related: tuple[RelatedLocation, ...] = field(default=())

    @property
    def severity(self) -> Severity:
        """The severity, which follows from the first letter of the code."""
        return Severity.ERROR if self.code.startswith("E") else Severity.WARNING

    @property
    def is_error(self) -> bool:
        """Whether the policy cannot be loaded until this is fixed."""
        return self.severity is Severity.ERROR

    def render(self) -> str:
        """Return the diagnostic as plain text: location, code, message, the underlined source line, related places and
        the hint."""
        lines = [one_line(f"{format_location(self.span)}: {self.code} {self.message}"), *source_excerpt(self.span)]
        for other in self.related:
            lines += [one_line(f"{format_location(other.span)}: note: {other.message}"), *source_excerpt(other.span)]
        if self.hint:
            lines.append(one_line(f"  hint: {self.hint}"))
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return the diagnostic as JSON-compatible data. Lines and columns are counted from 1; an end is the position
        after the last character.
        """
        return {
            "code": self.code,
            "severity": str(self.severity),
            "message": self.message,
            "hint": self.hint,
            **location_data(self.span),
            "related": [{"message": other.message, **location_data(other.span)} for other in self.related],
        }


class BoundExceededError(Exception):
    """The error for a check that would exceed a work limit; `diagnostic` describes the place."""

    def __init__(self, diagnostic: Diagnostic) -> None:
        super().__init__(diagnostic.message)
        self.diagnostic = diagnostic


class PolicyError(Exception):
    """The error for a policy that cannot be loaded. `diagnostics` holds all errors and warnings, in source order."""

    def __init__(self, diagnostics: Iterable[Diagnostic]) -> None:
        self.diagnostics = sort_diagnostics(diagnostics)
        super().__init__(render_all(self.diagnostics))


def sort_diagnostics(diagnostics: Iterable[Diagnostic]) -> tuple[Diagnostic, ...]:
    """Return the diagnostics without duplicates, ordered by file, position, code and message."""
    unique = dict.fromkeys(diagnostics)
    return tuple(sorted(unique, key=lambda d: (d.span.source.name, d.span.start, d.span.end, d.code, d.message)))


def render_all(diagnostics: Iterable[Diagnostic]) -> str:
    return "\n\n".join(diagnostic.render() for diagnostic in diagnostics)


def format_location(span: Span) -> str:
    return f"{span.source.name}:{span.line}:{span.column}"


def location_data(span: Span) -> dict[str, Any]:
    end_line, end_column = span.source.position(span.end)
    return {
        "file": span.source.name,
        "line": span.line,
        "column": span.column,
        "end_line": end_line,
        "end_column": end_column,
    }


def source_excerpt(span: Span) -> list[str]:
    """Return the first line of the span and a line of carets under it. Unprintable characters become spaces; at most
    160 columns are shown."""
    if not span.source.text:
        return []  # the file could not be read
    line = span.source.line(span.line)
    width = max(1, min(span.end - span.start, len(line) - span.column + 1))
    first = max(0, span.column - 100)
    shown = "".join(char if char.isprintable() else " " for char in line[first : first + 160])
    indent = " " * (span.column - 1 - first)
    return [f"  {shown}", f"  {indent}{'^' * min(width, max(1, 160 - len(indent)))}"]
