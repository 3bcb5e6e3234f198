"""Faults in what a condition asks of the past: another window, another's requests, one qualifier less."""

from __future__ import annotations

from collections.abc import Iterator

from policyengine.source import Source
from policyengine.syntax import nodes as ast
from policyengine.testing.mutation.edits import Edit, insert, put, word_in
from policyengine.testing.mutation.faults import Change
from policyengine.testing.mutation.limits import HALVED, halved
from policyengine.testing.mutation.places import fewer
from policyengine.testing.mutation.rules import NO_CONDITION

WHOSE, NO_KEY, DENIED, NO_SINCE, COUNTED = (
    "change whose history", "drop a key", "toggle denied", "drop a since", "count instead",
)  # fmt: skip


def history_faults(node: ast.Node) -> Iterator[Change]:
    match node:
        case ast.History():
            yield from windows(node)
            yield from keys(node)
            yield from events(node, node.event, "event")
            if node.since is not None:
                yield Change.at(NO_SINCE, node, Edit(node.within.span.end, node.since.span.end, ""), since=None)
                yield from events(node, node.since, "since")
        case ast.Aggregate("sum" | "distinct"):
            counting = put_before(node, "count of ")
            yield Change.at(COUNTED, node, counting, function="count", field=None)


def put_before(node: ast.Aggregate, text: str) -> Edit:
    return Edit(node.span.start, node.history.span.start, text)


def windows(node: ast.History) -> Iterator[Change]:
    """A unit more and less is a fault of every duration."""
    half = halved(node.within.text)
    if half is not None:
        yield Change.at(HALVED, node.within, put(node.within.span, half), text=half)


def keys(node: ast.History) -> Iterator[Change]:
    """Without any key it is the history of the agent and the user."""
    yield from fewer(NO_KEY, node, "per", node.per)
    if node.per:
        before = node.within.span.end if node.since is None else node.since.span.end
        yield Change.at(NO_KEY, node, Edit(before, node.span.end, ""), per=())


def events(node: ast.History, event: ast.Event, member: str) -> Iterator[Change]:
    source = event.span.source
    if event.where is not None:
        word = word_in(source, event.target.span.end, event.where.span.start, "where")
        if word is not None:
            yield Change.at(NO_CONDITION, event, gone(source, word.start, event.where.span.end), where=None)
    yield from whose(node, event, source)
    yield from denied(event, source)


def whose(node: ast.History, event: ast.Event, source: Source) -> Iterator[Change]:
    """`by any user` for `by another user`, and neither: which is the same where a `per` says whose it is."""
    end = event.span.end if event.where is None else event.where.span.start
    by = word_in(source, event.target.span.end, end, "by") if event.by_user is not None else None
    user = word_in(source, by.end, end, "user") if by is not None else None
    if by is None or user is None:
        return
    if not node.per:
        yield Change.at(WHOSE, event, gone(source, by.start, user.end), by_user=None)
    if event.by_user == "another":
        yield Change.at(WHOSE, event, Edit(by.start, user.end, "by any user"), by_user="any")


def gone(source: Source, start: int, end: int) -> Edit:
    """Without the space before it: inside parentheses none stays behind."""
    return Edit(len(source.text[:start].rstrip(" \t")), end, "")


def denied(event: ast.Event, source: Source) -> Iterator[Change]:
    if event.denied:
        word = word_in(source, event.span.start, event.target.span.start, "denied")
        if word is not None:
            yield Change.at(DENIED, event, Edit(word.start, event.target.span.start, ""), denied=False)
    elif source.text[event.span.start] == "(":
        yield Change.at(DENIED, event, insert(event.target.span.start, "denied "), denied=True)
    else:
        text = f"(denied {event.target.span.text})"
        yield Change.at(DENIED, event, put(event.span, text), denied=True)
