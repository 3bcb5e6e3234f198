"""Faults in conditions on the history: another window, other owners, or a qualifier removed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from policyengine.source import Source
from policyengine.syntax import nodes as ast
from policyengine.testing.mutation.edits import MutationEdit, find_word, insert_text, replace_span
from policyengine.testing.mutation.faults import FaultChange
from policyengine.testing.mutation.limits import HALVE_WINDOW, half_window
from policyengine.testing.mutation.places import drop_each
from policyengine.testing.mutation.rules import DROP_CONDITION

CHANGE_OWNER, NO_KEY, DENIED, NO_SINCE, COUNTED, NO_DEFAULT = (
    "change whose history", "drop a key", "toggle denied", "drop a since", "count instead", "drop a default",
)  # fmt: skip


def history_faults(node: ast.Node) -> Iterator[FaultChange]:
    match node:
        case ast.HistoryQuery():
            yield from history_window_faults(node)
            yield from history_key_faults(node)
            yield from event_faults(node, node.event, "event")
            if node.since is not None:
                yield FaultChange.at(
                    NO_SINCE, node, MutationEdit(node.within.span.end, node.since.span.end, ""), since=None
                )
                yield from event_faults(node, node.since, "since")
        case ast.Aggregate("sum" | "distinct"):
            counting = insert_before(node, "count of ")
            yield FaultChange.at(COUNTED, node, counting, function="count", field=None)
            if isinstance(node.field, ast.Else):
                yield default_fault(node, node.field)


def default_fault(node: ast.Aggregate, field: ast.Else) -> FaultChange:
    """Return the fault that drops the last default of the fact, inside the parentheses."""
    without = replace(field.operand, span=field.span)
    edit = MutationEdit(field.operand.span.end, field.fallback.span.end, "")
    return FaultChange.at(NO_DEFAULT, node, edit, field=without)


def insert_before(node: ast.Aggregate, text: str) -> MutationEdit:
    return MutationEdit(node.span.start, node.history.span.start, text)


def history_window_faults(node: ast.HistoryQuery) -> Iterator[FaultChange]:
    """Yield the fault that halves the window. Faults of durations already change it by one unit."""
    half = half_window(node.within.text)
    if half is not None:
        yield FaultChange.at(HALVE_WINDOW, node.within, replace_span(node.within.span, half), text=half)


def history_key_faults(node: ast.HistoryQuery) -> Iterator[FaultChange]:
    """Yield the faults that drop keys; without any key, the history is that of the agent and the user."""
    yield from drop_each(NO_KEY, node, "per", node.per)
    if node.per:
        before = node.within.span.end if node.since is None else node.since.span.end
        yield FaultChange.at(NO_KEY, node, MutationEdit(before, node.span.end, ""), per=())


def event_faults(node: ast.HistoryQuery, event: ast.EventPattern, member: str) -> Iterator[FaultChange]:
    source = event.span.source
    if event.where is not None:
        word = find_word(source, event.target.span.end, event.where.span.start, "where")
        if word is not None:
            yield FaultChange.at(
                DROP_CONDITION, event, remove_phrase(source, word.start, event.where.span.end), where=None
            )
    yield from owner_faults(node, event, source)
    yield from denied_faults(event, source)


def owner_faults(node: ast.HistoryQuery, event: ast.EventPattern, source: Source) -> Iterator[FaultChange]:
    """Yield the faults that replace `by another user` with `by any user` and that remove the phrase. With `per`, the
    removal is left out, because it has the same meaning."""
    end = event.span.end if event.where is None else event.where.span.start
    by = find_word(source, event.target.span.end, end, "by") if event.by_user is not None else None
    user = find_word(source, by.end, end, "user") if by is not None else None
    if by is None or user is None:
        return
    if not node.per:
        yield FaultChange.at(CHANGE_OWNER, event, remove_phrase(source, by.start, user.end), by_user=None)
    if event.by_user == "another":
        yield FaultChange.at(CHANGE_OWNER, event, MutationEdit(by.start, user.end, "by any user"), by_user="any")


def remove_phrase(source: Source, start: int, end: int) -> MutationEdit:
    """Return the edit that removes a phrase with the space before it."""
    return MutationEdit(len(source.text[:start].rstrip(" \t")), end, "")


def denied_faults(event: ast.EventPattern, source: Source) -> Iterator[FaultChange]:
    if event.denied:
        word = find_word(source, event.span.start, event.target.span.start, "denied")
        if word is not None:
            yield FaultChange.at(DENIED, event, MutationEdit(word.start, event.target.span.start, ""), denied=False)
    elif source.text[event.span.start] == "(":
        yield FaultChange.at(DENIED, event, insert_text(event.target.span.start, "denied "), denied=True)
    else:
        text = f"(denied {event.target.span.text})"
        yield FaultChange.at(DENIED, event, replace_span(event.span, text), denied=True)
