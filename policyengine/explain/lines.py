"""What a walk is shown in: lines, each with its parts, and conditions with the value of each part."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import groupby
from typing import Any

from policyengine import kernel as k
from policyengine.control_characters import one_line
from policyengine.explain.history import found
from policyengine.runtime.format_values import quoted, shown
from policyengine.runtime.values import Cause, Unknown, Value
from policyengine.spec.evaluate import value
from policyengine.spec.facts import Facts
from policyengine.spec.kleene import describe, elements, merged
from policyengine.vocabulary import SECRET_HEADERS


class Mark(StrEnum):
    """How a line came out; SKIPPED: it does not concern this request."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"
    SKIPPED = "skipped"


SIGNS = {Mark.YES: "✓", Mark.NO: "✗", Mark.UNKNOWN: "?", Mark.SKIPPED: "·"}
LISTED = 3  # parts in a row that do not concern the request, before they are only counted


@dataclass(frozen=True, slots=True)
class Line:
    """One thing considered, and what it is made of. `note` says what came of it, `at` where it is written."""

    mark: Mark
    text: str
    note: str | None = None
    at: str | None = None
    parts: tuple[Line, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        found: dict[str, Any] = {"mark": str(self.mark), "text": self.text}
        found |= {"note": self.note} if self.note else {}
        found |= {"at": self.at} if self.at else {}
        return found | ({"parts": [part.to_dict() for part in self.parts]} if self.parts else {})

    def render(self, depth: int = 0) -> Iterator[str]:
        note = f" — {self.note}" if self.note else ""
        at = f"  ({self.at})" if self.at else ""
        yield one_line(f"{'  ' * depth}{SIGNS[self.mark]} {self.text}{note}{at}")
        for part in self.parts:
            yield from part.render(depth + 1)

    def brief(self) -> Line:
        """The same, where many parts in a row do not concern the request: they are counted, not listed."""
        parts: list[Line] = []
        for why, run in groupby(self.parts, lambda part: part.note if part.mark is Mark.SKIPPED else None):
            found = [part.brief() for part in run]
            many = why is not None and len(found) > LISTED
            parts += [Line(Mark.SKIPPED, f"{len(found):,} others", why)] if many else found
        return replace(self, parts=tuple(parts))


# ── Conditions ─────────────────────────────────────────────────────────────────────────────────


def expression_line(node: k.Expr, facts: Facts) -> Line:
    """A condition with its value; logic shows its parts, anything else the facts it reads."""
    match node:
        case k.Named(name, expression):
            return Line(mark_of(value(node, facts)), name, parts=(expression_line(expression, facts),))
        case k.And(items) | k.Or(items):
            parts = tuple(expression_line(item, facts) for item in items)
        case k.Happened():
            return history_line(node, node, facts)
        case k.Not(k.Happened() as operand) if text_of(node).startswith("no "):
            return history_line(node, operand, facts)
        case k.Not(operand) if text_of(operand) != text_of(node):  # `is absent` and `not in` have no part of their own
            parts = (expression_line(operand, facts),)
        case _:
            parts = tuple(fact_line(name, known) for name, known in _facts_in(node, facts))
    return Line(mark_of(value(node, facts)), text_of(node), parts=parts)


def history_line(node: k.Expr, happened: k.Happened, facts: Facts) -> Line:
    """`after …` or `no …` with what was found, and what of this request it was looked for by."""
    own = {describe(one): value(one, facts) for one in _outermost_facts(happened)}
    result = value(node, facts)
    parts = tuple(fact_line(name, known) for name, known in own.items())
    return Line(mark_of(result), text_of(node), note_of(result) or found(happened, facts), parts=parts)


def _facts_in(node: k.Expr, facts: Facts) -> Iterator[tuple[str, Value]]:
    """Each fact the expression reads and its value, once, in the order of the text; not what a quantifier binds."""
    names: dict[str, Value] = {}
    for part in _outermost_facts(node):
        secret = isinstance(part, k.Fact) and part.path[-1] in SECRET_HEADERS
        names.setdefault(text_of(part), "(secret)" if secret else value(part, facts))
    yield from names.items()


def _outermost_facts(node: k.Expr) -> Iterator[k.Expr]:
    pending: list[k.Expr] = [node]
    while pending:
        current = pending.pop()
        is_fact = isinstance(current, k.Fact | k.Attribute | k.Member | k.Aggregate)
        if is_fact and not any(isinstance(part, k.Variable) for part in k.walk(current)):
            yield current
        else:
            pending += reversed(list(k.parts(current)))


def fact_line(name: str, known: Value) -> Line:
    if isinstance(known, Unknown):
        return Line(Mark.UNKNOWN, name, note_of(known))
    unknown = merged(elements(known))
    mark = Mark.UNKNOWN if unknown.causes else Mark.YES
    return Line(mark, f"{name} = {shown(known)}", note_of(unknown) or None)


def mark_of(result: Value) -> Mark:
    if isinstance(result, Unknown):
        return Mark.UNKNOWN
    return Mark.YES if result is True else Mark.NO


def note_of(result: Value) -> str | None:
    if not isinstance(result, Unknown):
        return None
    return "; ".join(sorted(f"`{cause.fact}` is {_why(cause)}" for cause in result.causes))


def _why(cause: Cause) -> str:
    whose = "" if cause.entity is None else f", `{cause.entity.type} {quoted(cause.entity.id)}`"
    return cause.why if cause.why in ("absent", "pending") else f"unknown: {cause.why}{whose}"


def text_of(part: k.Part) -> str:
    return " ".join(part.span.text.split())
