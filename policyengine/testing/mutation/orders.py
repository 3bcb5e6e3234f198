"""Faults in declared orders of calls: a step is missing, optional or repeated, or an alternative is missing."""

from __future__ import annotations

from collections.abc import Iterator

from policyengine.syntax import nodes as ast
from policyengine.testing.mutation.edits import MutationEdit, cut_item, insert_text
from policyengine.testing.mutation.faults import FaultChange, omit_item

REPEAT_OPERATORS = {"optional": "make a step optional", "repeated": "repeat a step"}


def order_faults(profile: ast.ProfileDecl) -> Iterator[FaultChange]:
    """Yield the faults in the order of a profile; its other items say how behavior is learned, which tests of single
    requests cannot show."""
    for item in profile.items:
        for node in (item, *ast.walk(item)) if isinstance(item, ast.ProfileSteps) else ():
            match node:
                case ast.StepSequence(steps) if len(steps) > 1:
                    for number in range(len(steps)):
                        gone = cut_item([step.span for step in steps], number)
                        yield FaultChange.at("drop a step", node, gone, steps=omit_item(steps, number))
                case ast.ProfileStep() | ast.ProfileStepGroup():
                    yield from step_faults(node)


def step_faults(step: ast.ProfileStep | ast.ProfileStepGroup) -> Iterator[FaultChange]:
    stated = {repeat.word for repeat in step.repeats}
    for number, repeat in enumerate(step.repeats):
        start = len(repeat.span.source.text[: repeat.span.start].rstrip(" \t"))
        rest = omit_item(step.repeats, number)
        yield FaultChange.at(f"drop {repeat.word}", step, MutationEdit(start, repeat.span.end, ""), repeats=rest)
    for word, operator in REPEAT_OPERATORS.items():
        if word not in stated:
            added = (*step.repeats, ast.StepRepeat(word, span=step.span))  # type: ignore[arg-type]  # one of the words
            yield FaultChange.at(operator, step, insert_text(step.span.end, f" {word}"), repeats=added)
    if isinstance(step, ast.ProfileStepGroup) and len(step.alternatives) > 1:
        for number in range(len(step.alternatives)):
            gone = cut_item([one.span for one in step.alternatives], number)
            rest = omit_item(step.alternatives, number)
            yield FaultChange.at("drop an alternative", step, gone, alternatives=rest)
