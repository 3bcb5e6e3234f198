"""How messages of the checker name types and pieces of a policy: in the words that policies use."""

from __future__ import annotations

from collections.abc import Iterable
from typing import assert_never

from policyengine.source import Span
from policyengine.typesystem import Enum, List, Record, Ref, Scalar, Set, Type, Unresolved

LONGEST_QUOTE = 60


def a(type_: Type) -> str:
    """A type in a sentence: `a string`, `a value of plan`, `a reference to user`, `a set<string>`."""
    match type_:
        case Scalar.INT | Scalar.IP:
            return f"an {type_}"
        case Scalar():
            return f"a {type_}"
        case Enum(name):
            return f"a value of {name}"
        case Ref():
            return f"a reference to {type_}"
        case Set(Record()) | List(Record()):
            return "a list of records"
        case Set() | List():
            return f"a {type_}"
        case Record():
            return "a record"
        case Unresolved():
            return "of unknown type"
        case _:
            assert_never(type_)


def quote(span: Span) -> str:
    """What is written there, on one line, in backticks."""
    text = " ".join(span.text.split())
    return f"`{text if len(text) <= LONGEST_QUOTE else text[: LONGEST_QUOTE - 1] + '…'}`"


def listed(words: Iterable[str], last: str = "and") -> str:
    """`a`, `b` and `c`."""
    quoted = [f"`{word}`" for word in words]
    return "".join(quoted) if len(quoted) < 2 else f"{', '.join(quoted[:-1])} {last} {quoted[-1]}"
