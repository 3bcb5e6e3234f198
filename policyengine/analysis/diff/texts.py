"""Texts for which all that is asked about one operand comes out as wanted: what they are like, begin with or hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, product
from typing import Any, TypeAlias

from policyengine import kernel as k
from policyengine.runtime.patterns import Glob, compile_regex
from policyengine.runtime.regex_linearity import parser
from policyengine.solver.symbolic import Subject
from policyengine.solver.value_partition import Plain

Questions: TypeAlias = Sequence[tuple[k.Expr, bool]]

MOST_TEXTS = 2_000
SHAPES = ("starts_with", "ends_with", "contains")
USUAL = ("something-else", "x", "", "a", "abc", "A", "1", "42", "12345", "a1", "user@example.com", "other", "!")


def by_operand(wanted: Mapping[Subject, Plain]) -> dict[k.Expr, list[tuple[k.Expr, bool]]]:
    found: dict[k.Expr, list[tuple[k.Expr, bool]]] = {}
    for subject, state in wanted.items():
        operand = operand_of(subject) if isinstance(state, bool) else None
        if operand is not None:
            assert not isinstance(subject, tuple)
            found.setdefault(operand, []).append((subject, state))  # type: ignore[arg-type]  # no pair has an operand
    return found


def operand_of(subject: Subject) -> k.Expr | None:
    match subject:
        case k.Like(operand) | k.Matches(operand):
            return operand
        case k.Apply(function, (operand, k.Constant(str()))) if function in SHAPES:
            return operand
        case _:
            return None


def text_for(asked: Questions, known: Sequence[str]) -> str | None:
    """The known one where it fits; else one made of the pieces of all that is asked."""
    made = (*known, *(text for one, _ in asked for text in drawn_for(one)), *USUAL)
    every = (text for several in (made, joined(asked)) for text in several)
    return next((one for one in islice(every, MOST_TEXTS) if all(fits(one, *each) for each in asked)), None)


def fits(text: str, asked: k.Expr, wanted: bool) -> bool:
    match asked:
        case k.Like(_, pattern):
            return Glob(pattern).matches(text) is wanted
        case k.Matches(_, pattern):
            return compile_regex(pattern).matches(text) is wanted
        case k.Apply("starts_with", (_, k.Constant(str() as part))):
            return text.startswith(part) is wanted
        case k.Apply("ends_with", (_, k.Constant(str() as part))):
            return text.endswith(part) is wanted
        case k.Apply("contains", (_, k.Constant(str() as part))):
            return (part in text) is wanted
        case _:
            return False


# ── What texts are put together of ────────────────────────────────────────────────────────────


def joined(asked: Questions) -> Iterator[str]:
    """A beginning, something between and an end, each as one of the questions has it."""
    shapes = [shape for one, _ in asked for shape in shapes_of(one)]
    starts = longest_first(shape[0] for shape in shapes)
    ends = longest_first(shape[-1] for shape in shapes)
    pieces = longest_first(piece for shape in shapes for piece in shape)
    between = ["x", "", *pieces, *(f"x{one}x" for one in pieces), *(f"{one}x" for one in pieces)]
    between += [f"{one}{other}" for one, other in product(pieces, pieces) if one and other and one != other]
    yield from ("".join(parts) for parts in product(starts, dict.fromkeys(between), ends))


def shapes_of(asked: k.Expr) -> Iterator[list[str]]:
    match asked:
        case k.Like(_, pattern):
            yield pattern.split("*")
        case k.Apply(function, (_, k.Constant(str() as part))):
            yield ["" if function != "starts_with" else part, part, "" if function != "ends_with" else part]
        case _:
            yield from (["", text, ""] for text in drawn_for(asked))


def longest_first(texts: Iterator[str]) -> list[str]:
    return sorted({*texts, ""}, key=lambda text: (-len(text), text))


def drawn_for(asked: k.Expr) -> Iterator[str]:
    match asked:
        case k.Like(_, pattern):
            yield pattern.replace("*", "x")
        case k.Matches(_, pattern):
            yield from dict.fromkeys(drawn(pattern))
        case _:
            return


def drawn(pattern: str) -> Iterator[str]:
    """Texts by the pattern's own letters: each class by its first character or its last, each repeat as short as may be
    or a little longer, each branch in turn."""
    try:
        parsed = parser.parse(pattern)
        for last, more, branch in product((False, True), (0, 1), (0, 1, 2)):
            yield "".join(pieces(parsed, last, more, branch))
    except Exception:  # a pattern that only re2 understands
        return


def pieces(parsed: Any, last: bool, more: int, branch: int) -> Iterator[str]:
    for operation, argument in parsed:
        match str(operation):
            case "LITERAL":
                yield chr(argument)
            case "ANY" | "NOT_LITERAL":
                yield "x" if argument is None or argument != ord("x") else "y"
            case "IN":
                yield in_class(argument, last)
            case "MAX_REPEAT" | "MIN_REPEAT":
                least, most, inner = argument
                yield "".join(pieces(inner, last, more, branch)) * min(least + more, int(most))
            case "SUBPATTERN":
                yield from pieces(argument[-1], last, more, branch)
            case "BRANCH":
                yield from pieces(argument[1][branch % len(argument[1])], last, more, branch)


def in_class(items: Any, last: bool) -> str:
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
