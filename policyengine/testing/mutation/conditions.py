"""Faults in conditions: a condition is negated, a part is dropped, or an operator or a connective is swapped."""

from __future__ import annotations

from collections.abc import Iterator

from policyengine.kernel.binary_relations import RELATIONS
from policyengine.source import Source, Span
from policyengine.syntax import nodes as ast
from policyengine.testing.mutation.edits import MutationEdit, cut_item, find_word, replace_span
from policyengine.testing.mutation.faults import FaultChange, omit_item

FLIPPED_OPERATORS = {
    "in": "not in", "not in": "in", "+": "-", "-": "+",
    **{row.operator: row.flipped for row in RELATIONS.values() if row.flipped is not None},
}  # fmt: skip
FLIPPED_CONNECTIVES = {"and": "or", "or": "and"}


def condition_faults(node: ast.Node) -> Iterator[FaultChange]:
    match node:
        case ast.Binary(operator) if operator in FLIPPED_OPERATORS:
            flipped = FLIPPED_OPERATORS[operator]
            yield FaultChange.at("flip a comparison", node, replace_span(node.operator_span, flipped), operator=flipped)
        case ast.Presence():
            yield from presence_faults(node)
        case ast.Logic():
            yield from connective_faults(node)
        case ast.Quantifier():
            yield from quantifier_faults(node)
        case ast.ListLiteral(items) if len(items) > 1:
            spans = [item.span for item in items]
            for number in range(len(items)):
                edit = cut_item(spans, number)
                yield FaultChange.at("drop an item of a list", node, edit, items=omit_item(items, number))
    for condition in rule_conditions(node):
        yield from negation_faults(condition)


def presence_faults(node: ast.Presence) -> Iterator[FaultChange]:
    old, new = ("present", "absent") if node.present else ("absent", "present")
    word = find_word(node.span.source, node.operand.span.end, node.span.end, old)
    if word is not None:
        yield FaultChange.at("flip a comparison", node, replace_span(word, new), present=not node.present)


def connective_faults(node: ast.Logic) -> Iterator[FaultChange]:
    """Yield the fault that flips all connectives of a condition at once, because the checker requires parentheses
    around mixed connectives, and the faults that each drop a part.
    """
    gaps = zip(node.items, node.items[1:], strict=False)
    words = [find_word(node.span.source, one.span.end, then.span.start, "and|or") for one, then in gaps]
    if None not in words:
        edits = tuple(replace_span(word, FLIPPED_CONNECTIVES[word.text]) for word in words if word is not None)
        operators = tuple(FLIPPED_CONNECTIVES[word] for word in node.operators)
        new = ast.Logic(operators, node.items, span=node.span)
        yield FaultChange("swap and/or", node, new, edits)
    for number, item in enumerate(node.items):
        kept = omit_item(node.items, number)
        remaining = kept[0] if len(kept) == 1 else ast.Logic(node.operators[1:], kept, span=node.span)  # type: ignore[arg-type]
        yield FaultChange(f"drop a part of {node.operators[0]}", node, remaining, (remove_item(node, number, item),))


def remove_item(node: ast.Logic, number: int, item: ast.Expr) -> MutationEdit:
    """Return the edit that removes an item with the connective after it, or the last item with the connective before
    it.
    """
    items = node.items
    if number + 1 < len(items):
        return MutationEdit(item.span.start, items[number + 1].span.start, "")
    return MutationEdit(items[number - 1].span.end, item.span.end, "")


def quantifier_faults(node: ast.Quantifier) -> Iterator[FaultChange]:
    other = "all" if node.quantifier == "any" else "any"
    word = find_word(node.span.source, node.span.start, node.variable.span.start, node.quantifier)
    if word is not None:
        yield FaultChange.at("swap any/all", node, replace_span(word, other), quantifier=other)


def rule_conditions(node: ast.Node) -> tuple[ast.Expr, ...]:
    """Return the conditions directly in a node: the whole condition of a rule, or the parts joined by `and` or `or`."""
    match node:
        case ast.ConditionClause(_, condition) | ast.Require(condition) | ast.PrincipalCondition(condition):
            return (condition,)
        case ast.May(_, when) | ast.MayDelegate(when=when) | ast.ActsClause(_, when):
            return () if when is None else (when,)
        case ast.RateDecl(when=ast.Node() as when) | ast.BudgetDecl(when=ast.Node() as when):
            return (when,)
        case ast.Raise(when=when) | ast.Clamp(when=when):
            return (when,)
        case ast.EventPattern(where=ast.Node() as where):
            return (where,)
        case ast.DefineDecl(_, condition) | ast.Quantifier(_, _, _, condition):
            return (condition,)
        case ast.Logic(_, items):
            return items
        case _:
            return ()


def negation_faults(condition: ast.Expr) -> Iterator[FaultChange]:
    """Yield the fault that negates a condition, unless flipping its operator has the same meaning or its parts are
    negated instead."""
    match condition:
        case ast.Binary("==" | "!=" | "in" | "not in") | ast.Presence() | ast.Logic() | ast.Literal():
            return
        case ast.Not(operand):
            edit = remove_not(condition.span.source, condition, operand)
            found = None if edit is None else FaultChange("negate a condition", condition, operand, (edit,))
        case _:
            text = f"not ({condition.span.text})"
            negation = ast.Not(condition, span=condition.span)
            found = FaultChange("negate a condition", condition, negation, (replace_span(condition.span, text),))
    if found is not None:
        yield found


def remove_not(source: Source, node: ast.Not, operand: ast.Expr) -> MutationEdit | None:
    word = find_word(source, node.span.start, operand.span.start, "not")
    if word is None:
        return None
    end = (
        word.end
        + len(source.text[word.end : operand.span.start])
        - len(source.text[word.end : operand.span.start].lstrip(" \t"))
    )
    return replace_span(Span(source, word.start, end), "")
