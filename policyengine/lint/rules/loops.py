"""Loops that exceed the step limit of a decision when the collections of a request have their maximum size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from policyengine import kernel as k
from policyengine.diagnostics.model import Diagnostic
from policyengine.runtime.value_size import CHARACTERS_PER_STEP
from policyengine.runtime.values import MAX_ELEMENTS, MAX_STRING_LENGTH
from policyengine.solver.worst_case import ANY_SIZE, Steps, evaluate_steps, expressions, largest_size, steps_of
from policyengine.spec.work import MAX_STEPS, is_collection, parts_evaluated_once

USE_SET_OPERATION = "compare sets with `overlaps` or `subset of`, or search a set with `in`"
MOVE_OUT_OF_LOOP = "move the parts that do not depend on the element out of the loop"
MAX_TEXT_STEPS = (MAX_STRING_LENGTH // CHARACTERS_PER_STEP,)
SHORT_TEXT = (1,)  # small, because the texts of all elements together fit into one request
DIRECTORY_SET_SIZE = (100,)  # elements of a set from the entity store; larger sets are rare


@dataclass(frozen=True, slots=True)
class RequestSizes:
    """Sizes for the worst case, in which everything in a request has its maximum size."""

    above: int = 0
    names: Steps = SHORT_TEXT

    def attribute(self, node: k.Attribute) -> Steps:
        return DIRECTORY_SET_SIZE if is_collection(node) else SHORT_TEXT

    def other(self, node: k.Expr) -> Steps:
        if is_collection(node):
            return ANY_SIZE
        return MAX_TEXT_STEPS if isinstance(node, k.Fact) else SHORT_TEXT


def costly_loops(kernel: k.Kernel) -> Iterator[Diagnostic]:
    rules = (kernel.agents, kernel.users, kernel.anyones, kernel.guards, kernel.limits)
    for root in expressions(rules):
        for node in outermost_loops(root):
            steps = steps_of(node, RequestSizes())
            worst = evaluate_steps(steps, MAX_ELEMENTS)
            if worst > MAX_STEPS:
                yield costly_loop_finding(node, worst, largest_size(steps, MAX_STEPS), has_nested_loop(node))


def outermost_loops(node: k.Expr) -> Iterator[k.Expr]:
    if is_loop(node):
        yield node
        return
    for part in parts_evaluated_once(node):
        yield from outermost_loops(part)


def is_loop(node: k.Expr) -> bool:
    if isinstance(node, k.Relation):
        return node.row.operands is k.Operands.COLLECTIONS
    return isinstance(node, k.Quantifier)


def has_nested_loop(node: k.Expr) -> bool:
    return isinstance(node, k.Quantifier) and any(is_loop(one) for one in k.walk(node.condition))


def costly_loop_finding(node: k.Expr, worst: int, most: int, inner: bool) -> Diagnostic:
    what = "a loop inside a loop" if inner else "this loop"
    message = f"{what}: with {MAX_ELEMENTS:,} elements it takes {worst:,} steps; a decision may take {MAX_STEPS:,}"
    denied = f"with more than {most:,} elements each a request is denied" if most > 0 else "every request is denied"
    return Diagnostic("W715", message, node.span, f"{denied}: {USE_SET_OPERATION if inner else MOVE_OUT_OF_LOOP}")
