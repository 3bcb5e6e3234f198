"""Lowering of guard messages: text with facts in braces, each marked with who may see it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from policyengine import kernel as k
from policyengine.checker.lower.expressions import lower_value
from policyengine.checker.names.scope import ExpressionContext
from policyengine.source import Span
from policyengine.syntax import nodes as ast
from policyengine.vocabulary import SECRET_HEADERS

PIECE = re.compile(r"\{\{|\}\}|\{(?P<fact>[^{}]*)\}|(?P<lone>[{}])")
FACT = re.compile(r'(?P<name>[a-z_]\w*(?:\.[A-Za-z_]\w*)*)(?P<keys>(?:\["[^"\]]*"\])*)', re.ASCII)
KEY = re.compile(r'\["([^"\]]*)"\]')
# The caller already knows the facts of the request. All other facts are shown only to the approver and the audit log.
CALLER_ROOTS = frozenset({"args", "body", "params", "request", "tool", "context"})
ID_ROOTS = frozenset({"agent", "resource", "user"})


def lower_message(text: ast.Text | None, context: ExpressionContext) -> k.Message | None:
    """Lower a message such as `refund of {body.amount}`; `{{` and `}}` are literal braces. Returns None if there is no
    message. Errors are reported."""
    if text is None:
        return None
    if not text.value.strip():
        context.report("E502", "the message is empty", text.span, "write what the reader should know, or remove it")
    parts: list[str | k.MessageFact] = []
    plain = 0
    for piece in PIECE.finditer(text.value):
        parts.append(text.value[plain : piece.start()])
        plain = piece.end()
        if piece["lone"]:
            hint = "write a fact in braces, `{body.amount}`, and a literal brace twice"
            context.report("E502", f"a single `{piece['lone']}`", placeholder_span(text, piece), hint)
        elif piece["fact"] is None:
            parts.append(piece[0][0])
        else:
            shown = lower_placeholder(piece["fact"], placeholder_span(text, piece), context)
            parts += [shown] if shown else []
    parts.append(text.value[plain:])
    return tuple(merge_texts(parts))


def merge_texts(parts: list[str | k.MessageFact]) -> Iterator[str | k.MessageFact]:
    """Yield the parts, with neighboring strings joined and empty strings removed."""
    text = ""
    for part in parts:
        if isinstance(part, str):
            text += part
            continue
        if text:
            yield text
        text = ""
        yield part
    if text:
        yield text


def placeholder_span(text: ast.Text, found: re.Match[str]) -> Span:
    """Return the span of the placeholder, or the span of the whole string if escapes before the placeholder change the
    offsets.
    """
    start = text.span.start + 1 + found.start()
    span = Span(text.span.source, start, start + len(found[0]))
    return span if span.text == found[0] else text.span


def lower_placeholder(written: str, span: Span, context: ExpressionContext) -> k.MessageFact | None:
    match = FACT.fullmatch(written.strip())
    if match is None:
        hint = "braces may contain only the name of a fact: `{body.amount}`"
        context.report("E502", f"`{{{written}}}` does not name a fact", span, hint)
        return None
    name = placeholder_name_span(span, written.strip())
    keys = tuple(ast.Text(key, span=name) for key in KEY.findall(match["keys"]))
    found = lower_value(ast.Reference(match["name"], keys, span=name), context)
    if found is None:
        return None
    if is_secret(found):
        hint = "remove it: a reader of the message could use it"
        context.report("E503", f"a message must not show `{written.strip()}`", span, hint)
        return None
    return k.MessageFact(found, came_with_request(found), span=span)


def placeholder_name_span(span: Span, written: str) -> Span:
    """Return the span of the name inside the braces."""
    at = span.text.find(written)
    return Span(span.source, span.start + at, span.start + at + len(written)) if at >= 0 else span


def is_secret(expression: k.Expr) -> bool:
    return any(
        isinstance(node, k.Fact)
        and (
            node.path[0] == "credential"
            or node.path == ("request", "headers")
            or (node.path[:2] == ("request", "headers") and node.path[-1] in SECRET_HEADERS)
        )
        for node in k.walk(expression)
    )


def came_with_request(expression: k.Expr) -> bool:
    match expression:
        case k.Fact(path):
            return path[0] in CALLER_ROOTS or (path[0] in ID_ROOTS and path[1:] in ((), ("id",)))
        case k.Attribute(base, "id") | k.Member(base):
            return came_with_request(base)
        case _:
            return False
