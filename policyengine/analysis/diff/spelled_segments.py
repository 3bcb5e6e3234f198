"""The facts that follow from a path segment that can be spelled in only some ways: their joint states, each with a
spelling.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import product
from math import prod

from policyengine import kernel as k
from policyengine import typesystem
from policyengine.analysis.diff.correlated_conditions import MAX_JOINT_STATES, CorrelatedConditions, JointState
from policyengine.analysis.diff.segment_spellings import SegmentSpellings
from policyengine.analysis.diff.specialize import (
    EMPTY_FACTS,
    RESOURCE,
    SEGMENT,
    FactPath,
    captured_path,
    make_fact,
)
from policyengine.runtime.values import Unknown, Value
from policyengine.solver.formulas import FactPair, FactSpace, Subject
from policyengine.solver.satisfiability import known_states
from policyengine.solver.value_partition import AbstractValue, SpecialValue, texts_between, to_abstract_value
from policyengine.spec.evaluate import evaluate
from policyengine.spec.facts import Facts
from policyengine.spec.match_endpoint import match_segment
from policyengine.typesystem import EntityRef, Scalar

ORDERED_OR_EQUAL = (Scalar, typesystem.EnumType, typesystem.RefType)
PURE_NODES = (
    k.Fact, k.Constant, k.Call, k.Arithmetic, k.UnaryMinus, k.Collection, k.Default, k.DefinitionRef, k.IsPresent,
    k.Not, k.And, k.Or,
)  # fmt: skip
TEXT_OPERANDS = frozenset({k.Operands.VALUES, k.Operands.PATTERN, k.Operands.STRINGS})


def spelled_segments(space: FactSpace, spelled: Mapping[int, SegmentSpellings]) -> Iterator[CorrelatedConditions]:
    """Yield the facts about each segment that is a spelling of a literal."""
    about: dict[int, list[int]] = {}
    for number, subject in enumerate(space.subjects):
        segment = segment_of(subject)
        if segment is not None and segment in spelled:
            about.setdefault(segment, []).append(number)
    for segment, members in about.items():
        states = spelling_states(space, members, spelled[segment])
        if states is not None:
            yield CorrelatedConditions(
                make_fact((SEGMENT, str(segment), "", "")), tuple(members), tuple(states), tuple(states.values())
            )


def spelling_states(
    space: FactSpace, members: Sequence[int], spelled: SegmentSpellings
) -> dict[JointState, object] | None:
    """Return the joint states of the facts, each with a spelling for which they hold.

    If there are too many spellings to try, spellings that no condition names are assumed to have every combination of
    states. Return None if there are too many combinations.
    """
    subjects, constants = [space.subjects[one] for one in members], [space.constants[one] for one in members]
    named = sorted({text for several in constants for text in map(named_text, several) if text is not None})
    texts, every = spelled.known(named)
    paths = sorted({path for subject in subjects for path in fact_paths(subject)})
    found: dict[JointState, object] = {}
    for text in texts:
        facts = EMPTY_FACTS.bind({path: captured_value(path, text) for path in paths}).looked_at_anew
        states = (state_of(subject, facts, known) for subject, known in zip(subjects, constants, strict=True))
        found.setdefault(tuple(states), text)
    if every:
        return found
    choices = [other_states(subject, known) for subject, known in zip(subjects, constants, strict=True)]
    if prod(map(len, choices)) > MAX_JOINT_STATES:
        return None
    for combination in product(*choices):
        found.setdefault(combination, None)
    return found


def segment_of(subject: Subject) -> int | None:
    """Return the only segment from which a fact follows; None if the fact also depends on something else."""
    parts = [subject.left, subject.right] if isinstance(subject, FactPair) else [subject]
    if isinstance(subject, FactPair) and not all(isinstance(one.type, ORDERED_OR_EQUAL) for one in parts):
        return None
    nodes = [node for part in parts for node in k.walk(part)]
    segments = {segment_number(node.path) for node in nodes if isinstance(node, k.Fact)}
    return next(iter(segments)) if len(segments) == 1 and all(map(follows_from_operands, nodes)) else None


def follows_from_operands(node: k.Node) -> bool:
    """Return whether the value of an expression follows from its operands, without rows, history and the time."""
    match node:
        case k.Attribute(_, name):
            return name == "id"
        case k.Relation():
            return node.row.operands in TEXT_OPERANDS or node.operator == "has"
        case _:
            return isinstance(node, PURE_NODES)


def segment_number(path: FactPath) -> int | None:
    """Return the segment that a fact captures, or that names its resource; None if the fact has no segment."""
    captured = captured_path(path)
    return None if captured is None else int(captured[1])


def fact_paths(subject: Subject) -> Iterator[FactPath]:
    parts = [subject.left, subject.right] if isinstance(subject, FactPair) else [subject]
    yield from (node.path for part in parts for node in k.walk(part) if isinstance(node, k.Fact))


def captured_value(path: FactPath, text: str) -> object:
    """Return the value of a capture, or of the resource that it names, for a text of the segment."""
    captured = captured_path(path)
    assert captured is not None
    _, _, prefix, suffix, *_ = captured
    found = match_segment(k.Segment(prefix, True, suffix), text, "full")
    return EntityRef(path[1], found) if path[0] == RESOURCE and isinstance(found, str) else found


def state_of(subject: Subject, facts: Facts, constants: set[AbstractValue]) -> AbstractValue:
    if isinstance(subject, FactPair):
        pair = evaluate(subject.left, facts), evaluate(subject.right, facts)
        left, right = (abstract(one, part.type) for one, part in zip(pair, (subject.left, subject.right), strict=True))
        if SpecialValue.BROKEN in (left, right):
            return SpecialValue.BROKEN
        less = isinstance(left, str | Fraction) and isinstance(right, type(left)) and left < right  # type: ignore[operator]
        return Fraction(0 if left == right else -1 if less else 1)
    value = abstract(evaluate(subject, facts), subject.type)
    if isinstance(value, str):
        return max(one for one in texts_between(constants) if one <= value)
    return value if value in constants or isinstance(value, bool | Fraction | SpecialValue) else SpecialValue.OTHER


def abstract(value: Value, type_: typesystem.Type) -> AbstractValue:
    if isinstance(value, Unknown):
        return SpecialValue.BROKEN
    found = to_abstract_value(value, type_)
    return SpecialValue.OTHER if found is None else found


def other_states(subject: Subject, constants: set[AbstractValue]) -> tuple[AbstractValue, ...]:
    """Return the states of a fact for spellings that no condition names."""
    states = known_states(subject, constants)
    if is_whole_segment(subject):
        return tuple(one for one in states if one not in constants)
    return (*states, SpecialValue.BROKEN)


def is_whole_segment(subject: Subject) -> bool:
    """Return whether the fact is the text of the segment, or the resource that this text names."""
    fact = subject.base if isinstance(subject, k.Attribute) else subject
    captured = captured_path(fact.path) if isinstance(fact, k.Fact) else None
    return captured is not None and captured[2:] == ("", "")


def named_text(value: AbstractValue) -> str | None:
    return value.id if isinstance(value, EntityRef) else value if isinstance(value, str) else None
