"""Faults in conditions: turned round, taken out, joined otherwise."""

from __future__ import annotations

from collections.abc import Iterator

from policyengine.source import Source, Span
from policyengine.syntax import nodes as ast
from policyengine.testing.mutation.edits import Edit, cut_item, put, word_in
from policyengine.testing.mutation.faults import Change, without

FLIPPED = {
    "<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "==", "in": "not in", "not in": "in",
    "below": "in", "overlaps": "subset of", "subset of": "overlaps", "+": "-", "-": "+",
}  # fmt: skip
OTHERWISE = {"and": "or", "or": "and"}


def condition_faults(node: ast.Node) -> Iterator[Change]:
    match node:
        case ast.Binary(operator) if operator in FLIPPED:
            flipped = FLIPPED[operator]
            yield Change.at("flip a comparison", node, put(node.operator_span, flipped), operator=flipped)
        case ast.Presence():
            yield from presence(node)
        case ast.Logic():
            yield from logic(node)
        case ast.Quantified():
            yield from quantifier(node)
        case ast.ListLiteral(items) if len(items) > 1:
            spans = [item.span for item in items]
            for number in range(len(items)):
                edit = cut_item(spans, number)
                yield Change.at("drop an item of a list", node, edit, items=without(items, number))
    for condition in conditions_of(node):
        yield from negated(condition)


def presence(node: ast.Presence) -> Iterator[Change]:
    old, new = ("present", "absent") if node.present else ("absent", "present")
    word = word_in(node.span.source, node.operand.span.end, node.span.end, old)
    if word is not None:
        yield Change.at("flip a comparison", node, put(word, new), present=not node.present)


def logic(node: ast.Logic) -> Iterator[Change]:
    """One connective is in all places the same: the checker asks for parentheses where they differ."""
    gaps = zip(node.items, node.items[1:], strict=False)
    words = [word_in(node.span.source, one.span.end, then.span.start, "and|or") for one, then in gaps]
    if None not in words:
        edits = tuple(put(word, OTHERWISE[word.text]) for word in words if word is not None)
        operators = tuple(OTHERWISE[word] for word in node.operators)
        new = ast.Logic(operators, node.items, span=node.span)
        yield Change("swap and/or", node, new, edits)
    for number, item in enumerate(node.items):
        kept = without(node.items, number)
        remaining = kept[0] if len(kept) == 1 else ast.Logic(node.operators[1:], kept, span=node.span)  # type: ignore[arg-type]
        yield Change(f"drop a part of {node.operators[0]}", node, remaining, (without_item(node, number, item),))


def without_item(node: ast.Logic, number: int, item: ast.Expr) -> Edit:
    """The item goes with the connective after it, the last one with the one before it."""
    items = node.items
    if number + 1 < len(items):
        return Edit(item.span.start, items[number + 1].span.start, "")
    return Edit(items[number - 1].span.end, item.span.end, "")


def quantifier(node: ast.Quantified) -> Iterator[Change]:
    other = "all" if node.quantifier == "any" else "any"
    word = word_in(node.span.source, node.span.start, node.variable.span.start, node.quantifier)
    if word is not None:
        yield Change.at("swap any/all", node, put(word, other), quantifier=other)


def conditions_of(node: ast.Node) -> tuple[ast.Expr, ...]:
    """What a rule asks: its whole condition, and each part of it that `and` or `or` joins."""
    match node:
        case ast.Condition(_, condition) | ast.Require(condition) | ast.Matching(condition):
            return (condition,)
        case ast.May(_, when) | ast.MayDelegate(when=when) | ast.Acts(_, when):
            return () if when is None else (when,)
        case ast.RateDecl(when=ast.Node() as when) | ast.BudgetDecl(when=ast.Node() as when):
            return (when,)
        case ast.Raise(when=when) | ast.Clamp(when=when):
            return (when,)
        case ast.Event(where=ast.Node() as where):
            return (where,)
        case ast.DefineDecl(_, condition) | ast.Quantified(_, _, _, condition):
            return (condition,)
        case ast.Logic(_, items):
            return items
        case _:
            return ()


def negated(condition: ast.Expr) -> Iterator[Change]:
    """Not where a flip says the same already, and not around what is joined: its parts are turned round instead."""
    match condition:
        case ast.Binary("==" | "!=" | "in" | "not in") | ast.Presence() | ast.Logic() | ast.Literal():
            return
        case ast.Not(operand):
            edit = without_not(condition.span.source, condition, operand)
            found = None if edit is None else Change("negate a condition", condition, operand, (edit,))
        case _:
            text = f"not ({condition.span.text})"
            negation = ast.Not(condition, span=condition.span)
            found = Change("negate a condition", condition, negation, (put(condition.span, text),))
    if found is not None:
        yield found


def without_not(source: Source, node: ast.Not, operand: ast.Expr) -> Edit | None:
    word = word_in(source, node.span.start, operand.span.start, "not")
    if word is None:
        return None
    end = (
        word.end
        + len(source.text[word.end : operand.span.start])
        - len(source.text[word.end : operand.span.start].lstrip(" \t"))
    )
    return put(Span(source, word.start, end), "")
