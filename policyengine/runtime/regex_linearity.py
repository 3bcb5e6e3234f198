"""Proves that Python's backtracking `re` matches a pattern in linear time; without a proof, the result is False.

At every choice (repeat or continue; this alternative or that) the possible next characters must not overlap. Then a
wrong choice fails at its first character, and backtracking costs a constant for each character. Two exceptions also
keep that bound: alternatives of literal words that are not prefixes of each other (`PUT|POST`), and a short rest
without unbounded repeats, which may be tried wherever the part before it could end (`.*@acme`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from typing import Any, TypeAlias

# The parser of `re` has no public name, and type checkers disagree on whether it exists.
op: Any = import_module("re._constants")
parser: Any = import_module("re._parser")
Ranges: TypeAlias = tuple[tuple[int, int], ...]  # code points, both ends included
Word: TypeAlias = tuple[Ranges, ...]

LAST_CHARACTER = 0x10FFFF
MAX_POSITIONS = 1_000
MAX_SUFFIX_POSITIONS = 64
MAX_ALTERNATIVES = 200
DIGITS: Ranges = ((48, 57),)
SPACES: Ranges = ((9, 13), (32, 32))
WORDS: Ranges = ((48, 57), (65, 90), (95, 95), (97, 122))


@dataclass(frozen=True, slots=True)
class PatternShape:
    """The properties of a part of a pattern.

    - `first`: the characters that it can begin with
    - `tail`: the characters that may continue it after a complete match
    - `positions`: its length with all counted repeats expanded
    - `word`: its characters one by one, if it has no choice
    - `bounded`: whether no match is longer than `positions`
    """

    nullable: bool
    first: Ranges
    tail: Ranges
    positions: int
    bounded: bool = True
    word: Word | None = None


EMPTY = PatternShape(nullable=True, first=(), tail=(), positions=0, word=())


class NotLinearError(Exception):
    """The error for a proof that failed. The pattern may still be linear."""


@lru_cache(maxsize=1_024)
def is_provably_linear(pattern: str) -> bool:
    """Return whether `re.compile(pattern, re.ASCII).fullmatch` takes linear time. Raises re.error."""
    tree = parser.parse(pattern, re.ASCII)
    try:
        if tree.state.flags != re.ASCII:
            raise NotLinearError
        prove_sequence_linear([shape_of(item) for item in strip_anchors(list(tree))])
    except NotLinearError:
        return False
    return True


def strip_anchors(items: list[Any]) -> list[Any]:
    """Return the items without `^` at the start and `$` at the end, which add nothing to a match of the whole text."""
    if items and items[0] == (op.AT, op.AT_BEGINNING):
        items = items[1:]
    if items and items[-1] == (op.AT, op.AT_END):
        items = items[:-1]
    return items


def prove_sequence_linear(shapes: Sequence[PatternShape]) -> None:
    """Prove that there is one deterministic path through all parts, or through the first parts and, wherever these may
    end, through a short rest. Raises NotLinearError.
    """
    if sum(shape.positions for shape in shapes) > MAX_POSITIONS:
        raise NotLinearError
    fronts = (split for split in range(len(shapes), -1, -1) if is_short(shapes[split:]))
    if not any(is_determined(shapes[:split]) and is_determined(shapes[split:]) for split in fronts):
        raise NotLinearError


def is_short(shapes: Sequence[PatternShape]) -> bool:
    return all(shape.bounded for shape in shapes) and sum(shape.positions for shape in shapes) <= MAX_SUFFIX_POSITIONS


def is_determined(shapes: Sequence[PatternShape]) -> bool:
    try:
        shape_of_sequence(shapes)
    except NotLinearError:
        return False
    return True


def shape_of_items(items: Any) -> PatternShape:
    return shape_of_sequence([shape_of(item) for item in items])


def shape_of_sequence(shapes: Sequence[PatternShape]) -> PatternShape:
    result = EMPTY
    for shape in shapes:
        result = shape_of_pair(result, shape)
    return result


def shape_of_pair(left: PatternShape, right: PatternShape) -> PatternShape:
    """Return the shape of a sequence. The possible continuations of the left part must not overlap the start of the
    right part. Raises NotLinearError.
    """
    require_disjoint(left.tail, right.first)
    if left.nullable:
        require_disjoint(left.first, right.first)
    return PatternShape(
        nullable=left.nullable and right.nullable,
        first=union(left.first, right.first) if left.nullable else left.first,
        tail=union(right.tail, left.tail, right.first) if right.nullable else right.tail,
        positions=left.positions + right.positions,
        bounded=left.bounded and right.bounded,
        word=None if left.word is None or right.word is None else left.word + right.word,
    )


def shape_of(item: Any) -> PatternShape:
    code, argument = item
    match code:
        case op.LITERAL:
            return shape_of_character(((argument, argument),))
        case op.NOT_LITERAL:
            return shape_of_character(complement(((argument, argument),)))
        case op.ANY:
            return shape_of_character(complement(((10, 10),)))
        case op.IN:
            return shape_of_character(class_ranges(argument))
        case op.BRANCH:
            return shape_of_alternatives([shape_of_items(branch) for branch in argument[1]])
        case op.SUBPATTERN if argument[1:3] == (0, 0):
            return shape_of_items(argument[3])
        case op.MAX_REPEAT | op.MIN_REPEAT:
            least, most, body = argument
            return shape_of_repetition(shape_of_items(body), least, None if most is op.MAXREPEAT else most)
        case _:
            raise NotLinearError


def shape_of_character(ranges: Ranges) -> PatternShape:
    return PatternShape(nullable=False, first=ranges, tail=(), positions=1, word=(ranges,))


def shape_of_alternatives(shapes: Sequence[PatternShape]) -> PatternShape:
    """Return the shape of alternatives with disjoint first characters, or of words that are not prefixes of each other.
    Raises NotLinearError.
    """
    if len(shapes) > MAX_ALTERNATIVES or sum(shape.nullable for shape in shapes) > 1:
        raise NotLinearError
    for index, left in enumerate(shapes):
        for right in shapes[index + 1 :]:
            if overlap(left.first, right.first) and not are_distinguishable(left.word, right.word):
                raise NotLinearError
    return PatternShape(
        nullable=any(shape.nullable for shape in shapes),
        first=union(*(shape.first for shape in shapes)),
        tail=union(*(shape.tail for shape in shapes)),
        positions=sum(shape.positions for shape in shapes),
        bounded=all(shape.bounded for shape in shapes),
    )


def are_distinguishable(left: Word | None, right: Word | None) -> bool:
    if left is None or right is None:
        return False
    return any(not overlap(a, b) for a, b in zip(left, right, strict=False))


def shape_of_repetition(body: PatternShape, least: int, most: int | None) -> PatternShape:
    """Return the shape of a repeat. A round must not be empty, and its start must not overlap a continuation of the
    previous round. Raises NotLinearError.
    """
    if body.nullable:
        raise NotLinearError
    if most != 1:
        require_disjoint(body.tail, body.first)
    positions = body.positions * max(least if most is None else most, 1)
    if positions > MAX_POSITIONS:
        raise NotLinearError
    return PatternShape(
        nullable=least == 0,
        first=body.first,
        tail=body.tail if most == least else union(body.tail, body.first),
        positions=positions,
        bounded=body.bounded and most is not None,
        word=body.word * least if body.word is not None and most == least else None,
    )


# ── Sets of characters ────────────────────────────────────────────────────────────────────────


def class_ranges(items: Sequence[Any]) -> Ranges:
    negated = items[0] == (op.NEGATE, None)
    parts = [part_ranges(code, argument) for code, argument in items[1 if negated else 0 :]]
    ranges = union(*parts)
    return complement(ranges) if negated else ranges


def part_ranges(code: Any, argument: Any) -> Ranges:
    match code, argument:
        case op.LITERAL, _:
            return ((argument, argument),)
        case op.RANGE, (low, high):
            return ((low, high),)
        case op.CATEGORY, op.CATEGORY_DIGIT:
            return DIGITS
        case op.CATEGORY, op.CATEGORY_NOT_DIGIT:
            return complement(DIGITS)
        case op.CATEGORY, op.CATEGORY_SPACE:
            return SPACES
        case op.CATEGORY, op.CATEGORY_NOT_SPACE:
            return complement(SPACES)
        case op.CATEGORY, op.CATEGORY_WORD:
            return WORDS
        case op.CATEGORY, op.CATEGORY_NOT_WORD:
            return complement(WORDS)
        case _:
            raise NotLinearError


def require_disjoint(left: Ranges, right: Ranges) -> None:
    if overlap(left, right):
        raise NotLinearError


def overlap(left: Ranges, right: Ranges) -> bool:
    return any(low <= last and first <= high for low, high in left for first, last in right)


def union(*sets: Ranges) -> Ranges:
    """Return the union, sorted and merged, so that every set has one representation and stays small."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted(part for ranges in sets for part in ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return tuple(merged)


def complement(ranges: Ranges) -> Ranges:
    result = []
    start = 0
    for low, high in union(ranges):
        if start < low:
            result.append((start, low - 1))
        start = high + 1
    return (*result, (start, LAST_CHARACTER)) if start <= LAST_CHARACTER else tuple(result)
