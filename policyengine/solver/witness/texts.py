"""Generates strings for which all tests of one operand (patterns, prefixes and so on) have the required results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, islice, product

from policyengine import kernel as k

MAX_TEXTS_TRIED = 2_000
MAX_SAMPLES = 20  # maximum strings for one question
SAMPLE_TEXTS = ("something-else", "x", "", "a", "abc", "A", "1", "42", "12345", "a1", "user@example.com", "other", "!")
TEXT_FUNCTIONS: dict[str, Callable[[str, str], bool]] = {
    "starts_with": str.startswith,
    "ends_with": str.endswith,
    "contains": str.__contains__,
}


@dataclass(frozen=True, slots=True)
class TextQuestion:
    """A question about a string: the name of a relation or function, and the string on its right side."""

    name: str
    right: str

    def holds(self, text: str) -> bool:
        test = TEXT_FUNCTIONS.get(self.name)
        return k.RELATIONS[self.name].holds(text, self.right) if test is None else test(text, self.right)

    def samples(self) -> Iterator[str]:
        if self.name not in TEXT_FUNCTIONS:
            yield from k.RELATIONS[self.name].samples(self.right)

    def shapes(self) -> Iterator[Sequence[str]]:
        """Yield shapes of such a string: its beginning, middle and end."""
        if self.name not in TEXT_FUNCTIONS:
            yield from k.RELATIONS[self.name].shapes(self.right)
            return
        start, end = (self.right if self.name == name else "" for name in ("starts_with", "ends_with"))
        yield start, self.right, end


def text_sides(node: object) -> tuple[str, k.Expr, k.Expr] | None:
    """Return the name of a question about a string and its two sides, or None for any other node."""
    match node:
        case k.Relation(operator, left, right) if node.row.operands.are_texts:
            return operator, left, right
        case k.Call(function, (left, right)) if function in TEXT_FUNCTIONS:
            return function, left, right
        case _:
            return None


def constant_question(node: object) -> tuple[k.Expr, TextQuestion] | None:
    """Return the operand and the question about it if the right side is a constant; otherwise None."""
    match text_sides(node):
        case (name, operand, k.Constant(str() as right)):
            return operand, TextQuestion(name, right)
        case _:
            return None


def sample_text(asked: Sequence[tuple[TextQuestion, bool]], known: Sequence[str] = ()) -> str | None:
    """Return a known string that fits, or a string composed of pieces from all questions; None if none is found."""
    return next(fitting_texts(asked, known), None)


@lru_cache(maxsize=1_024)
def sample_texts(question: TextQuestion, wanted: bool) -> tuple[str, ...]:
    """Return a few strings for which a question has the answer `wanted`."""
    return tuple(dict.fromkeys(islice(fitting_texts([(question, wanted)]), MAX_SAMPLES)))


def fitting_texts(asked: Sequence[tuple[TextQuestion, bool]], known: Sequence[str] = ()) -> Iterator[str]:
    samples = (text for question, _ in asked for text in question.samples())
    every = islice(chain(known, samples, SAMPLE_TEXTS, joined_texts([one for one, _ in asked])), MAX_TEXTS_TRIED)
    return (text for text in every if all(question.holds(text) is wanted for question, wanted in asked))


# ── Parts of strings ────────────────────────────────────────────────────────────


def joined_texts(questions: Sequence[TextQuestion]) -> Iterator[str]:
    """Yield strings made of a beginning, a middle and an end, each from one of the questions."""
    shapes = [shape for question in questions for shape in question.shapes()]
    starts = longest_first(shape[0] for shape in shapes)
    ends = longest_first(shape[-1] for shape in shapes)
    pieces = longest_first(piece for shape in shapes for piece in shape)
    between = ["x", "", *pieces, *(f"x{one}x" for one in pieces), *(f"{one}x" for one in pieces)]
    between += [f"{one}{other}" for one, other in product(pieces, pieces) if one and other and one != other]
    yield from ("".join(parts) for parts in product(starts, dict.fromkeys(between), ends))


def longest_first(texts: Iterator[str]) -> list[str]:
    return sorted({*texts, ""}, key=lambda text: (-len(text), text))
