"""Loops that take more steps than a decision has, where a request brings as many elements as it may."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from policyengine import kernel as k
from policyengine.diagnostics.model import Diagnostic
from policyengine.runtime.extent import CHARACTERS
from policyengine.runtime.values import LONGEST_STRING, MOST_ELEMENTS
from policyengine.solver.worst_case import ANY_SIZE, Steps, at, expressions, is_collection, largest_size, steps_of
from policyengine.spec.work import MOST_STEPS, direct_parts

AT_ONCE = "compare sets by `overlaps` or `subset of`, or look up by `in`"
SHORTER = "move what does not ask about the element out of the loop"
LONGEST_TEXT = (LONGEST_STRING // CHARACTERS,)
SHORT_TEXT = (1,)  # those of all elements together are no longer than a request
OF_THE_DIRECTORY = (100,)  # elements of a set that no request chooses: more are rare


@dataclass(frozen=True, slots=True)
class Requested:
    """Whatever a request brings is as large as it may be."""

    above: int = 0
    names: Steps = SHORT_TEXT

    def attribute(self, node: k.Attribute) -> Steps:
        return OF_THE_DIRECTORY if is_collection(node) else SHORT_TEXT

    def other(self, node: k.Expr) -> Steps:
        if is_collection(node):
            return ANY_SIZE
        return LONGEST_TEXT if isinstance(node, k.Fact) else SHORT_TEXT


def costly_loops(kernel: k.Kernel) -> Iterator[Diagnostic]:
    rules = (kernel.agents, kernel.users, kernel.anyones, kernel.guards, kernel.limits)
    for root in expressions(rules):
        for node in outermost_loops(root):
            steps = steps_of(node, Requested())
            worst = at(steps, MOST_ELEMENTS)
            if worst > MOST_STEPS:
                yield told(node, worst, largest_size(steps, MOST_STEPS), nested(node))


def outermost_loops(node: k.Expr) -> Iterator[k.Quantifier | k.Overlaps | k.Subset]:
    if isinstance(node, k.Quantifier | k.Overlaps | k.Subset):
        yield node
        return
    for part in direct_parts(node):
        yield from outermost_loops(part)


def nested(node: k.Expr) -> bool:
    return isinstance(node, k.Quantifier) and any(
        isinstance(one, k.Quantifier | k.Overlaps | k.Subset) for one in k.walk(node.condition)
    )


def told(node: k.Expr, worst: int, most: int, inner: bool) -> Diagnostic:
    what = "a loop inside of a loop" if inner else "this loop"
    message = f"{what}: with {MOST_ELEMENTS:,} elements it takes {worst:,} steps, and a decision has {MOST_STEPS:,}"
    denied = f"with more than {most:,} elements each a request is denied" if most > 0 else "every request is denied"
    return Diagnostic("W715", message, node.span, f"{denied}: {AT_ONCE if inner else SHORTER}")
