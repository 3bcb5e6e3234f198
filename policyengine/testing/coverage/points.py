"""Coverage points. A point is one aspect of a policy that a test can show, such as a condition that is false. Its
meaning identifies it, not its line.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from policyengine.solver.formulas import Truth
from policyengine.source import Span

MAX_QUOTE_LENGTH = 80
TRUTHS: Final[tuple[Truth, ...]] = (True, False, None)
TRUTH_NAMES: Final[dict[Truth, str]] = {True: "true", False: "false", None: "unknown"}


class PointKind(StrEnum):
    RULES = "rules"
    CONDITIONS = "conditions"
    GUARDS = "guards"
    LIMITS = "limits"
    REQUIREMENTS = "requirements"
    ENDPOINTS = "endpoints"


@dataclass(frozen=True, slots=True)
class Point:
    """One aspect that a test can show: `part` is its subject, and `seen` is what a test must show about it. Points with
    the same meaning are equal, wherever they are written. `words` is the message for a point that no test showed.
    """

    kind: PointKind
    part: str
    seen: str
    span: Span = field(compare=False, repr=False)
    words: str = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class UnreachablePoint:
    """An aspect of a part that no test can show; coverage ignores it."""

    span: Span
    seen: str
    words: str


def digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def quote_span(span: Span) -> str:
    """Return the text of a span on one line, in backticks, truncated if it is long."""
    text = " ".join(span.text.split())
    return f"`{text}`" if len(text) <= MAX_QUOTE_LENGTH else f"`{text[: MAX_QUOTE_LENGTH - 1]}…`"


def sort_points(points: list[Point]) -> tuple[Point, ...]:
    """Return the points in source order without duplicates."""
    ordered = sorted(points, key=lambda point: (point.span.source.name, point.span.start, -point.span.end, point.kind))
    return tuple(dict.fromkeys(ordered))
