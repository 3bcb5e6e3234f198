"""What there is to see: a point is one thing that tests can show of a policy, named by meaning and not by its line."""

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
    """`part` is what it is about and `seen` what must be seen of it: together they are one thing a test can show.

    Two points are equal when they mean the same, wherever it is written; `words` say that it was not seen.
    """

    kind: PointKind
    part: str
    seen: str
    span: Span = field(compare=False, repr=False)
    words: str = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class UnreachablePoint:
    """What no test could ever show of a part, and so is not counted."""

    span: Span
    seen: str
    words: str


def digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def quote_span(span: Span) -> str:
    """The text of a span on one line, in backticks, cut where it is long."""
    text = " ".join(span.text.split())
    return f"`{text}`" if len(text) <= MAX_QUOTE_LENGTH else f"`{text[: MAX_QUOTE_LENGTH - 1]}…`"


def sort_points(points: list[Point]) -> tuple[Point, ...]:
    """Each point once, where it is first written."""
    ordered = sorted(points, key=lambda point: (point.span.source.name, point.span.start, -point.span.end, point.kind))
    return tuple(dict.fromkeys(ordered))
