"""Formats types and source text for the checker's messages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import assert_never

from policyengine.source import Span
from policyengine.typesystem import EnumType, ListType, RecordType, RefType, Scalar, SetType, Type, UnresolvedType

MAX_QUOTE_LENGTH = 60


def describe_type(type_: Type) -> str:
    """Return a type with its article: `a string`, `a value of plan`, `a reference to user`, `a set<string>`."""
    match type_:
        case Scalar.INT | Scalar.IP:
            return f"an {type_}"
        case Scalar():
            return f"a {type_}"
        case EnumType(name):
            return f"a value of {name}"
        case RefType():
            return f"a reference to {type_}"
        case SetType(RecordType()) | ListType(RecordType()):
            return "a list of records"
        case SetType() | ListType():
            return f"a {type_}"
        case RecordType():
            return "a record"
        case UnresolvedType():
            return "of unknown type"
        case _:
            assert_never(type_)


def quote_source(span: Span) -> str:
    """Return the source text of the span on one line, shortened, in backticks."""
    text = " ".join(span.text.split())
    return f"`{text if len(text) <= MAX_QUOTE_LENGTH else text[: MAX_QUOTE_LENGTH - 1] + '…'}`"


def join_words(words: Iterable[str], last: str = "and") -> str:
    """Return the words in backticks, joined as in `a`, `b` and `c`."""
    quoted = [f"`{word}`" for word in words]
    return "".join(quoted) if len(quoted) < 2 else f"{', '.join(quoted[:-1])} {last} {quoted[-1]}"
