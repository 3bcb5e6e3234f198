"""Texts for which all that is asked about one operand comes out as wanted: what they are like, begin with or hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, product
from typing import TypeAlias

from policyengine import kernel as k
from policyengine.solver.symbolic import Subject
from policyengine.solver.value_partition import AbstractValue

TextQuestions: TypeAlias = Sequence[tuple[k.Expr, bool]]

MAX_TEXTS_TRIED = 2_000
TEXT_FUNCTIONS = ("starts_with", "ends_with", "contains")
SAMPLE_TEXTS = ("something-else", "x", "", "a", "abc", "A", "1", "42", "12345", "a1", "user@example.com", "other", "!")


def questions_by_operand(wanted: Mapping[Subject, AbstractValue]) -> dict[k.Expr, list[tuple[k.Expr, bool]]]:
    found: dict[k.Expr, list[tuple[k.Expr, bool]]] = {}
    for subject, state in wanted.items():
        operand = text_operand(subject) if isinstance(state, bool) else None
        if operand is not None:
            assert not isinstance(subject, tuple)
            found.setdefault(operand, []).append((subject, state))  # type: ignore[arg-type]  # no pair has an operand
    return found


def text_operand(subject: Subject) -> k.Expr | None:
    match subject:
        case k.Relation(_, operand, k.Constant(str())) if subject.row.operands.are_texts:
            return operand
        case k.Call(function, (operand, k.Constant(str()))) if function in TEXT_FUNCTIONS:
            return operand
        case _:
            return None


def sample_text(asked: TextQuestions, known: Sequence[str]) -> str | None:
    """The known one where it fits; else one made of the pieces of all that is asked."""
    made = (*known, *(text for one, _ in asked for text in texts_from(one)), *SAMPLE_TEXTS)
    every = (text for several in (made, joined_texts(asked)) for text in several)
    return next((one for one in islice(every, MAX_TEXTS_TRIED) if all(satisfies(one, *each) for each in asked)), None)


def satisfies(text: str, asked: k.Expr, wanted: bool) -> bool:
    match asked:
        case k.Relation(_, _, k.Constant(str() as other)):
            return asked.row.holds(text, other) is wanted
        case k.Call("starts_with", (_, k.Constant(str() as part))):
            return text.startswith(part) is wanted
        case k.Call("ends_with", (_, k.Constant(str() as part))):
            return text.endswith(part) is wanted
        case k.Call("contains", (_, k.Constant(str() as part))):
            return (part in text) is wanted
        case _:
            return False


# ── What texts are put together of ────────────────────────────────────────────────────────────


def joined_texts(asked: TextQuestions) -> Iterator[str]:
    """A beginning, something between and an end, each as one of the questions has it."""
    shapes = [shape for one, _ in asked for shape in text_shapes(one)]
    starts = longest_first(shape[0] for shape in shapes)
    ends = longest_first(shape[-1] for shape in shapes)
    pieces = longest_first(piece for shape in shapes for piece in shape)
    between = ["x", "", *pieces, *(f"x{one}x" for one in pieces), *(f"{one}x" for one in pieces)]
    between += [f"{one}{other}" for one, other in product(pieces, pieces) if one and other and one != other]
    yield from ("".join(parts) for parts in product(starts, dict.fromkeys(between), ends))


def text_shapes(asked: k.Expr) -> Iterator[list[str]]:
    match asked:
        case k.Relation(_, _, k.Constant(str() as text)):
            yield from map(list, asked.row.shapes(text))
        case k.Call(function, (_, k.Constant(str() as part))):
            yield ["" if function != "starts_with" else part, part, "" if function != "ends_with" else part]
        case _:
            yield from (["", text, ""] for text in texts_from(asked))


def longest_first(texts: Iterator[str]) -> list[str]:
    return sorted({*texts, ""}, key=lambda text: (-len(text), text))


def texts_from(asked: k.Expr) -> Iterator[str]:
    match asked:
        case k.Relation(_, _, k.Constant(str() as text)):
            yield from asked.row.samples(text)
        case _:
            return
