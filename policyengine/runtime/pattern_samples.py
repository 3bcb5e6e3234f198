"""Sample texts that a pattern matches, for tests, properties and witnesses."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

from policyengine.runtime.regex_linearity import parser


def pattern_texts(pattern: str) -> Iterator[str]:
    """Yield texts that a pattern may match: classes by their first or last character, repeats minimal or a little
    longer, and each branch in turn."""
    try:
        parsed = parser.parse(pattern)
        for last, more, branch in product((False, True), (0, 1), (0, 1, 2)):
            yield "".join(pattern_pieces(parsed, last, more, branch))
    except Exception:  # only re2 supports this pattern
        return


def pattern_pieces(parsed: Any, last: bool, more: int, branch: int) -> Iterator[str]:
    for operation, argument in parsed:
        match str(operation):
            case "LITERAL":
                yield chr(argument)
            case "ANY" | "NOT_LITERAL":
                yield "x" if argument is None or argument != ord("x") else "y"
            case "IN":
                yield sample_of_character_class(argument, last)
            case "MAX_REPEAT" | "MIN_REPEAT":
                least, most, inner = argument
                yield "".join(pattern_pieces(inner, last, more, branch)) * min(least + more, int(most))
            case "SUBPATTERN":
                yield from pattern_pieces(argument[-1], last, more, branch)
            case "BRANCH":
                yield from pattern_pieces(argument[1][branch % len(argument[1])], last, more, branch)


def sample_of_character_class(items: Any, last: bool) -> str:
    classes = {"CATEGORY_DIGIT": "1", "CATEGORY_WORD": "a", "CATEGORY_SPACE": " "}
    operation, argument = items[-1 if last else 0]
    match str(operation):
        case "LITERAL":
            return chr(argument)
        case "RANGE":
            return chr(argument[1 if last else 0])
        case "CATEGORY":
            return classes.get(str(argument), "!")
        case _:
            return "~"
