"""History in conditions: everything inside is checked, though what happened before cannot decide anything yet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

from policyengine.diagnostics import suggest
from policyengine.kinds import Scalar
from policyengine.runtime.literals import parse_duration
from policyengine.semantics import kernel as k
from policyengine.semantics.constants import lower_duration
from policyengine.semantics.context import Context
from policyengine.semantics.members import head
from policyengine.semantics.schema import EVERYWHERE, UNRESOLVED
from policyengine.source import Span
from policyengine.syntax import nodes as ast
from policyengine.vocabulary import ROOTS

Lower: TypeAlias = Callable[[ast.Expr, Context], k.Expr | None]


def check_history(node: ast.Happened | ast.Aggregate, context: Context, condition: Lower, value: Lower) -> None:
    """Reports what is wrong inside, then that the whole is not enforced."""
    history = node.history
    inside = check_event(history.event, context, condition)
    if history.since is not None:
        check_event(history.since, context, condition)
    for key in history.per:
        value(ast.Reference(key.text, span=key.span), context)
    if isinstance(node, ast.Aggregate) and node.field is not None:
        value(ast.Reference(node.field.text, span=node.field.span), inside)
    check_window(history.within, context)
    word = node.span.text.split(maxsplit=1)[0]
    span = Span(node.span.source, node.span.start, node.span.start + len(word))
    context.report(
        "E901",
        f"`{word}` is not enforced yet: the engine keeps no history",
        span,
        "remove it, or say it without the past",
    )


def check_window(within: ast.Literal, context: Context) -> None:
    window = lower_duration(within, context.report)
    if window is not None and window.value == parse_duration("0s"):
        context.report("E238", "a window of no length holds nothing", within.span, "write how far back: `within 1h`")


def check_event(event: ast.Event, context: Context, condition: Lower) -> Context:
    """The context in which `past` speaks of the event."""
    past = context.schema.places.facts_here((event.target,), context.package)
    inside = replace(context, past=past or EVERYWHERE)
    if event.where is not None:
        condition(event.where, inside)
    return inside


def lower_past(reference: ast.Reference, context: Context, value: Lower) -> k.Expr | None:
    """`past.params.id`: the fact as it was at the earlier request, and how that one came out."""
    if context.past is None:
        message = f"`{reference.name}` speaks of an earlier request, and there is none here"
        hint = "`past` stands in the `where` of a history: `after (POST /review where past.status < 400) within 1h`"
        context.report("E246", message, reference.span, hint)
        return None
    match reference.name.split("."):
        case ["past"]:
            context.report(
                "E250",
                "`past` is an earlier request, not a value",
                reference.span,
                "name one of its facts: `past.status`",
            )
            return None
        case ["past", "status"]:
            return k.Fact(("past", "status"), Scalar.INT, span=reference.span)
        case ["past", "output", _, *_]:
            return k.Fact(tuple(reference.name.split(".")), UNRESOLVED, True, span=reference.span)
        case [_, root, *_] if root not in ROOTS:
            meant = suggest(root, ROOTS)
            hint = (
                f"did you mean `past.{meant}`?"
                if meant
                else "name a fact of that request: `past.user.id`, or `past.status`"
            )
            context.report("E201", f"unknown fact `{reference.name}`", reference.span, hint)
            return None
        case _:
            after = len(head(reference, 1).text) + 1
            rest = Span(reference.span.source, reference.span.start + after, reference.span.end)
            inner = ast.Reference(reference.name[after:], reference.keys, span=rest)
            return value(inner, replace(context, here=context.past, past=None))
