"""Checks strings that are compared with `request.host`: values that no host can have are errors."""

from __future__ import annotations

from collections.abc import Iterator

from policyengine import kernel as k
from policyengine.checker.reporter import Reporter
from policyengine.runtime.host_names import parse_host
from policyengine.source import Span

HOST = ("request", "host")
HOST_COMPARISON = "hosts are compared without port, final dot and case"


def check_hosts(found: k.Expr | None, report: Reporter) -> bool:
    """Return whether every string that the operation compares with the host is valid. Nested operations were checked
    before."""
    sound = True
    for text, span in texts_beside_host(found):
        mistake = (
            host_part_mistake(text)
            if isinstance(found, k.Call)
            else host_mistake(text, pattern=isinstance(found, k.Relation) and found.operator == "like")
        )
        if mistake is not None:
            report("E255", f"`request.host` is never {mistake[0]}", span, mistake[1])
            sound = False
    return sound


def texts_beside_host(found: k.Expr | None) -> Iterator[tuple[str, Span]]:
    match found:
        case k.Relation("==" | "!=", left, right):
            yield from (
                pair for one, other in ((left, right), (right, left)) if is_host(one) for pair in constant_texts(other)
            )
        case k.Relation("has" | "holds", collection, item) if is_host(item):
            yield from constant_texts(collection)
        case k.Relation("like", operand, k.Constant(str() as pattern)) if is_host(operand):
            yield pattern, found.span
        case k.Call("starts_with" | "ends_with" | "contains", (operand, part)) if is_host(operand):
            yield from constant_texts(part)
        case k.Not(operand):
            yield from texts_beside_host(operand)
        case _:
            pass


def is_host(expression: k.Expr) -> bool:
    match expression:
        case k.Fact(path):
            return path == HOST
        case k.PastFact(inner) | k.Default(inner) | k.DefinitionRef(_, inner):
            return is_host(inner)
        case _:
            return False


def constant_texts(expression: k.Expr) -> Iterator[tuple[str, Span]]:
    match expression:
        case k.Constant(str() as text):
            yield text, expression.span
        case k.Constant(tuple() as several):
            yield from ((one, expression.span) for one in several if isinstance(one, str))
        case k.Collection(items):
            yield from (pair for item in items for pair in constant_texts(item))
        case _:
            pass


def host_mistake(text: str, *, pattern: bool) -> tuple[str, str] | None:
    """Return a description of the mistake in a host, and a hint. In a pattern, `*` matches anything. Return None if
    there is no mistake.
    """
    if pattern and "*" in text:
        return host_pattern_mistake(text)
    found = parse_host(text)
    if not isinstance(found, str):
        hint = "write the name alone, as `api.example`; an international name in its encoded form: `xn--…`"
        return f"`{text}`, which is not a plain host" if text else "an empty string", hint
    return None if found == text else (f"`{text}`: {HOST_COMPARISON}", f"write `{found}`")


def host_part_mistake(text: str) -> tuple[str, str] | None:
    """Return a description of the mistake in a string with which a host may begin or end, such as `.example` or
    `2001:db8:`, and a hint. Return None if there is no mistake.
    """
    name, colon, port = text.rpartition(":")
    bare = (name if colon and ":" not in name and port.isdigit() else text).lower()
    if not bare.isascii() or any(char in "/@%,; []" for char in bare):
        return f"like `{text}`, which no plain host contains", "write a part of a name: `.example`"
    return (
        None
        if bare == text
        else (f"like `{text}`: {HOST_COMPARISON}", f"write `{bare}`" if bare else "compare the whole host")
    )


def host_pattern_mistake(text: str) -> tuple[str, str] | None:
    name, colon, port = text.rpartition(":")
    has_port = bool(colon) and ":" not in name and all(char.isdigit() or char == "*" for char in port)
    bare = (name if has_port else text).rstrip(".").lower()
    if not bare.isascii() or any(char in "/@%,; " for char in bare):
        return f"like `{text}`, which is not a plain host", "write `*` and parts of a name: `*.example`"
    return None if bare == text else (f"like `{text}`: {HOST_COMPARISON}", f"write `{bare}`")
