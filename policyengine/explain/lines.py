"""Lines of an explanation, each with its parts, and conditions with the value of each part."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum
from itertools import groupby
from typing import Any

from policyengine import kernel as k
from policyengine.clock import epoch_microseconds
from policyengine.control_characters import one_line
from policyengine.explain.call_order import SEQUENCE, order_note
from policyengine.runtime.format_values import format_value, quote_string
from policyengine.runtime.values import Cause, Unknown, Value
from policyengine.spec.evaluate import evaluate
from policyengine.spec.facts import Facts
from policyengine.spec.history import events_in_window
from policyengine.spec.kleene import describe, elements, merge_unknowns
from policyengine.time_formats import format_duration
from policyengine.vocabulary import SECRET_HEADERS


class Mark(StrEnum):
    """The result of a line; SKIPPED means that the line does not concern this request."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"
    SKIPPED = "skipped"


MARK_SIGNS = {Mark.YES: "✓", Mark.NO: "✗", Mark.UNKNOWN: "?", Mark.SKIPPED: "·"}
# Maximum consecutive parts that do not concern the request; a longer run is replaced by its number of parts.
MAX_SKIPPED_LINES = 3


@dataclass(frozen=True, slots=True)
class ExplanationLine:
    """One considered item and its parts. `note` describes the result, `at` is its position in the source."""

    mark: Mark
    text: str
    note: str | None = None
    at: str | None = None
    parts: tuple[ExplanationLine, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        found: dict[str, Any] = {"mark": str(self.mark), "text": self.text}
        found |= {"note": self.note} if self.note else {}
        found |= {"at": self.at} if self.at else {}
        return found | ({"parts": [part.to_dict() for part in self.parts]} if self.parts else {})

    def render(self, depth: int = 0) -> Iterator[str]:
        note = f" — {self.note}" if self.note else ""
        at = f"  ({self.at})" if self.at else ""
        yield one_line(f"{'  ' * depth}{MARK_SIGNS[self.mark]} {self.text}{note}{at}")
        for part in self.parts:
            yield from part.render(depth + 1)

    def brief(self) -> ExplanationLine:
        """Return the line with long runs of skipped parts replaced by their number."""
        parts: list[ExplanationLine] = []
        for why, run in groupby(self.parts, lambda part: part.note if part.mark is Mark.SKIPPED else None):
            found = [part.brief() for part in run]
            many = why is not None and len(found) > MAX_SKIPPED_LINES
            parts += [ExplanationLine(Mark.SKIPPED, f"{len(found):,} others", why)] if many else found
        return replace(self, parts=tuple(parts))


# ── Conditions ─────────────────────────────────────────────────────────────────────────────────


def expression_line(node: k.Expr, facts: Facts) -> ExplanationLine:
    """Return a line for a condition and its value. Logic shows its operands, other expressions their facts."""
    match node:
        case k.DefinitionRef(name, expression):
            return ExplanationLine(mark_of(evaluate(node, facts)), name, parts=(expression_line(expression, facts),))
        case k.And(items) | k.Or(items):
            parts = tuple(expression_line(item, facts) for item in items)
        case k.HistoryCondition():
            return history_line(node, node, facts)
        case k.Not(k.HistoryCondition() as operand) if source_text(node).startswith("no "):
            return history_line(node, operand, facts)
        # `is absent` and `not in` show no separate operand.
        case k.Not(operand) if source_text(operand) != source_text(node):
            parts = (expression_line(operand, facts),)
        case _:
            parts = tuple(_facts_in(node, facts))
    return ExplanationLine(mark_of(evaluate(node, facts)), source_text(node), parts=parts)


def history_line(node: k.Expr, happened: k.HistoryCondition, facts: Facts) -> ExplanationLine:
    """Return a line for `after …` or `no …`: the events found, and the facts of this request that select them."""
    own = {describe(one): evaluate(one, facts) for one in _outermost_facts(happened)}
    result = evaluate(node, facts)
    parts = tuple(fact_line(name, known) for name, known in own.items())
    return ExplanationLine(
        mark_of(result), source_text(node), note_of(result) or describe_last_events(happened, facts), parts=parts
    )


def _facts_in(node: k.Expr, facts: Facts) -> Iterator[ExplanationLine]:
    """Yield a line for each fact that the expression reads, once and in source order. Quantifier variables are left
    out."""
    lines: dict[str, ExplanationLine] = {}
    for part in _outermost_facts(node):
        name, path = source_text(part), part.path if isinstance(part, k.Fact) else ()
        if name not in lines:
            known = "(secret)" if path[-1:] and path[-1] in SECRET_HEADERS else evaluate(part, facts)
            line = fact_line(name, known)
            lines[name] = replace(line, note=order_note(facts)) if path == SEQUENCE and known is False else line
    yield from lines.values()


def _outermost_facts(node: k.Expr) -> Iterator[k.Expr]:
    pending: list[k.Expr] = [node]
    while pending:
        current = pending.pop()
        is_fact = isinstance(current, k.Fact | k.Attribute | k.Member | k.Aggregate)
        if is_fact and not any(isinstance(part, k.Variable) for part in k.walk(current)):
            yield current
        else:
            pending += reversed(list(k.children(current)))


def fact_line(name: str, known: Value) -> ExplanationLine:
    if isinstance(known, Unknown):
        return ExplanationLine(Mark.UNKNOWN, name, note_of(known))
    unknown = merge_unknowns(elements(known))
    mark = Mark.UNKNOWN if unknown.causes else Mark.YES
    return ExplanationLine(mark, f"{name} = {format_value(known)}", note_of(unknown) or None)


def mark_of(result: Value) -> Mark:
    if isinstance(result, Unknown):
        return Mark.UNKNOWN
    return Mark.YES if result is True else Mark.NO


def note_of(result: Value) -> str | None:
    if not isinstance(result, Unknown):
        return None
    return "; ".join(sorted(f"`{cause.fact}` is {_cause_text(cause)}" for cause in result.causes))


def _cause_text(cause: Cause) -> str:
    whose = "" if cause.entity is None else f", `{cause.entity.type} {quote_string(cause.entity.id)}`"
    return cause.why if cause.why in ("absent", "pending") else f"unknown: {cause.why}{whose}"


def source_text(part: k.Node) -> str:
    return " ".join(part.span.text.split())


# ── Histories ──────────────────────────────────────────────────────────────────────────────────


def describe_last_events(node: k.HistoryCondition, facts: Facts) -> str | None:
    """Return `none`, or `the last one 5m ago; 1 may count`; None if the history is unknown. Earlier events are not
    described, because the store may have dropped them.
    """
    known = events_in_window(node, facts, evaluate)
    if isinstance(known, Unknown):
        return None
    events, _ = known
    sure = [event.at for event, counts in events if counts is True]
    unsure = sum(isinstance(counts, Unknown) for _, counts in events)
    words = f"the last one {format_ago(sure[0], facts)}" if sure else "none"
    return f"{words}; {unsure} may count" if unsure else words


def format_ago(at: int, facts: Facts) -> str:
    passed = max(0, epoch_microseconds(facts.now) - at)
    return "just now" if passed < 1_000 else f"{format_duration(timedelta(microseconds=passed))} ago"
