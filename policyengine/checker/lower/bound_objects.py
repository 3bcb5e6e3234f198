"""Lowering of `bound to (…)` in confirms: the parts of a request to which an approval is bound, and the parts that may
change after it was granted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from policyengine import kernel as k
from policyengine.checker.lower.context import facts_read
from policyengine.checker.lower.expressions import lower_value
from policyengine.checker.names.scope import ExpressionContext
from policyengine.checker.type_names import join_words
from policyengine.kernel.fingerprint import canonical_text
from policyengine.runtime.format_values import format_fact_path
from policyengine.runtime.pending_facts import fact_path
from policyengine.spec.approval_digest import VOLATILE
from policyengine.syntax import nodes as ast

RESOURCE = ("resource",)
BINDABLE_OBJECTS = (("body",), ("args",), ("context",), ("request", "query"), ("request", "headers"))
OBJECT_NAMES = join_words(map(format_fact_path, BINDABLE_OBJECTS), "or")


@dataclass(frozen=True, slots=True)
class ClauseItem:
    """An item of the clause: an object with its exclusions, a fact, or the resource. The resource sets neither field,
    because every approval is bound to it."""

    written: ast.BoundItem
    path: tuple[str, ...]
    object: k.BoundObject | None = None
    fact: k.Expr | None = None


def lower_bound_clause(
    written: ast.BoundTo | None, condition: k.Expr | None, said: k.Message | None, context: ExpressionContext
) -> k.BoundTo | None:
    """Lower the clause and report its mistakes. Return None if there is no clause."""
    if written is None:
        return None
    items = [item for one in written.items if (item := lower_clause_item(one, context)) is not None]
    check_duplicate_bound_items(items, context)
    check_exclusions(items, list(paths_read_by(condition, said)), context)
    objects = sorted((one.object for one in items if one.object is not None), key=lambda one: one.path)
    facts = sorted((one.fact for one in items if one.fact is not None), key=canonical_text)
    return k.BoundTo(tuple(objects), tuple(facts))


def lower_clause_item(item: ast.BoundItem, context: ExpressionContext) -> ClauseItem | None:
    path = reference_path(item.of)
    if path in BINDABLE_OBJECTS:
        return ClauseItem(item, path, k.BoundObject(path, tuple(sorted(map(reference_path, item.excepts)))))
    if item.excepts:
        context.report(
            "E517",
            f"no part of `{format_fact_path(path)}` can be excluded",
            item.of.span,
            f"`except` is valid only after {OBJECT_NAMES}",
        )
        return None
    if path == RESOURCE:
        return ClauseItem(item, path)
    found = lower_value(item.of, context)
    return None if found is None or not is_bindable(found, item, context) else ClauseItem(item, path, fact=found)


def is_bindable(found: k.Expr, item: ast.BoundItem, context: ExpressionContext) -> bool:
    written = format_fact_path(reference_path(item.of))
    if not isinstance(found, k.Fact | k.Attribute | k.Member):
        context.report("E516", f"`{written}` is not a fact", item.of.span, f"name a fact, or {OBJECT_NAMES}")
        return False
    if any(fact.path in VOLATILE for fact, _ in facts_read(found)):
        hint = "remove it: `within 15m` says how long an approval lasts"
        context.report("E516", f"`{written}` changes by itself", item.of.span, hint)
        return False
    return True


def reference_path(reference: ast.Reference) -> tuple[str, ...]:
    return fact_path((*reference.name.split("."), *(key.value for key in reference.keys)))


def paths_read_by(condition: k.Expr | None, said: k.Message | None) -> Iterator[tuple[str, ...]]:
    """Yield the paths of the facts that the rule and its message read."""
    shown = [part.expression for part in said or () if isinstance(part, k.MessageFact)]
    for expression in (condition, *shown):
        if expression is not None:
            yield from (fact.path for fact, _ in facts_read(expression))


# ── Contradictions ───────────────────────────────────────────────────────────────────


def check_duplicate_bound_items(items: Sequence[ClauseItem], context: ExpressionContext) -> None:
    for number, one in enumerate(items):
        for other in items[:number]:
            if one.path == other.path:
                hint = "write it once"
                context.report("E516", f"`{format_fact_path(one.path)}` is bound twice", one.written.span, hint)
        holder = next((other for other in items if other.object and is_path_below(one.path, other.path)), None)
        if holder is not None:
            part, whole = format_fact_path(one.path), format_fact_path(holder.path)
            message = f"`{part}` is part of `{whole}`, which is bound as a whole"
            context.report(
                "E516", message, one.written.span, f"keep only one of them; `{part}` alone binds the approval to less"
            )


def check_exclusions(items: Sequence[ClauseItem], read: Sequence[tuple[str, ...]], context: ExpressionContext) -> None:
    """Report exclusions that are not part of the object, exclusions that are repeated, and exclusions of facts that the
    rule reads, to which an approval is always bound.
    """
    for item in items:
        seen: set[tuple[str, ...]] = set()
        for written in item.written.excepts:
            path = reference_path(written)
            name, holder = format_fact_path(path), format_fact_path(item.path)
            if not is_path_below(path, item.path):
                hint = f"name a member of `{holder}`: `{holder}.request_id`"
                context.report("E517", f"`{name}` is not a part of `{holder}`", written.span, hint)
            elif any(is_nested_path(path, other) for other in seen):
                context.report("E517", f"`{name}` is excluded twice", written.span, "write it once")
            elif found := next((one for one in read if is_nested_path(one, path)), None):
                hint = "facts that the rule and its message read are always bound: read or exclude fewer facts"
                context.report(
                    "E517",
                    f"`{name}` cannot be excluded, because the rule or its message reads `{format_fact_path(found)}`",
                    written.span,
                    hint,
                )
            seen.add(path)


def is_nested_path(path: tuple[str, ...], other: tuple[str, ...]) -> bool:
    return path == other or is_path_below(path, other) or is_path_below(other, path)


def is_path_below(path: tuple[str, ...], other: tuple[str, ...]) -> bool:
    return len(path) > len(other) and path[: len(other)] == other
