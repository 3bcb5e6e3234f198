"""Binary relations: one row for each operator, with its operands, its meaning and sample values.

The checker, the specification, the solver, tests, `diff` and the documentation look up the meaning of a `Relation`
here, and rarely name an operator themselves.
"""

from __future__ import annotations

import operator as op
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Any

from policyengine.runtime.globs import Glob
from policyengine.runtime.pattern_samples import pattern_texts
from policyengine.runtime.patterns import compile_regex

Shape = tuple[str, ...]


class Operands(Enum):
    """The types of operands that a relation takes."""

    VALUES = "two values of one type"
    ELEMENT = "a set or list and a value"
    ENTITIES = "two entities"
    NETWORKS = "an address, and one or more networks"
    PATTERN = "a string and a literal pattern"
    STRINGS = "two strings"
    COLLECTIONS = "two sets or lists with elements of one type"

    @property
    def are_texts(self) -> bool:
        return self in (Operands.PATTERN, Operands.STRINGS)


def no_check(pattern: str) -> None:
    """Accept every string."""


@dataclass(frozen=True, slots=True)
class RelationRow:
    """One operator of the kernel. `x in s` becomes `s holds x` for an entity, otherwise `s has x`.

    `holds` is its meaning for known values; the relation is unknown if either side is unknown. `samples` returns
    strings for the left side for which the relation may hold, given the right side; `shape` returns the beginning,
    middle and end of such a string. `check_pattern` raises PatternError for an invalid pattern. `flipped` is the
    operator that a typical mistake would use instead.
    """

    operator: str
    operands: Operands
    doc: str
    example: str
    holds: Callable[[Any, Any], bool]
    samples: Callable[[str], Iterable[str]] = lambda _: ()
    shape: Callable[[str], Shape] | None = None
    check_pattern: Callable[[str], object] = no_check
    flipped: str | None = None
    word: str | None = None  # the operator as policies write it, if different

    def shapes(self, right: str) -> list[Shape]:
        """Return the shapes of strings for which the relation may hold."""
        return [self.shape(right)] if self.shape is not None else [("", text, "") for text in self.samples(right)]


@lru_cache(maxsize=1_024)
def glob(pattern: str) -> Glob:
    return Glob(pattern)


def is_like(text: str, pattern: str) -> bool:
    return glob(pattern).matches(text)


def is_within(address: Any, networks: Any) -> bool:
    every = networks if isinstance(networks, tuple) else (networks,)
    return any(address in one if hasattr(one, "prefixlen") else address == one for one in every)


def matches(text: str, pattern: str) -> bool:
    return compile_regex(pattern).matches(text)


def has(collection: Sequence[object], item: object) -> bool:
    return item in collection


def overlap(left: Sequence[object], right: Sequence[object]) -> bool:
    return any(item in right for item in left)


def is_subset(left: Sequence[object], right: Sequence[object]) -> bool:
    return all(item in right for item in left)


RELATIONS: dict[str, RelationRow] = {
    row.operator: row
    for row in (
        RelationRow("==", Operands.VALUES, "they are equal", "user.tenant == resource.tenant", op.eq, flipped="!="),
        RelationRow("!=", Operands.VALUES, "they differ", 'user.tenant != "acme"', op.ne, flipped="=="),
        RelationRow("<", Operands.VALUES, "the left side is smaller", "body.amount < 500", op.lt, flipped="<="),
        RelationRow(
            "<=", Operands.VALUES, "the left side is smaller or equal", "body.amount <= 500", op.le, flipped="<"
        ),
        RelationRow(">", Operands.VALUES, "the left side is larger", "body.amount > 500", op.gt, flipped=">="),
        RelationRow(">=", Operands.VALUES, "the left side is larger or equal", "user.plan >= team", op.ge, flipped=">"),
        RelationRow(
            "has", Operands.ELEMENT, "the value is an element; `x in s` means the same, except for entities",
            'user.roles has "clerk"', has,
        ),
        RelationRow(
            "holds", Operands.ELEMENT, "the entity is an element, or in an element at any depth",
            "user in resource.approvers", has, word="in",
        ),
        RelationRow(
            "in", Operands.ENTITIES, "the first is the second, or in the second at any depth", 'user in team "legal"',
            op.eq,
        ),
        RelationRow(
            "below", Operands.ENTITIES, "the first is in the second at any depth, and is not the second itself",
            'user below team "legal"', op.ne, flipped="in",
        ),
        RelationRow(
            "child of", Operands.ENTITIES, "the second is directly in the first", 'team "legal" has user', op.ne,
            word="has",
        ),
        RelationRow(
            "within", Operands.NETWORKS, "the address is in the network, or in one network of the set or list",
            "request.ip within 10.0.0.0/8", is_within,
        ),
        RelationRow(
            "like", Operands.PATTERN, "the whole string matches the pattern: `*` is any run of characters",
            'user.email like "*@acme.example"', is_like,
            samples=lambda pattern: (pattern.replace("*", "x"), pattern.replace("*", "")),
            shape=lambda pattern: tuple(pattern.split("*")),
        ),
        RelationRow(
            "matches", Operands.PATTERN,
            r"the whole string matches; `\d`, `\w`, `\s` are ASCII. A pattern must provably run in linear time, "
            "or the extra `re2` must be installed",
            'body.code matches "[A-Z]{2}[0-9]+"', matches,
            samples=lambda pattern: dict.fromkeys(pattern_texts(pattern)), check_pattern=compile_regex,
        ),
        RelationRow(
            "overlaps", Operands.COLLECTIONS, "both sides share an element",
            'user.roles overlaps ["clerk", "finance"]', overlap, flipped="subset of",
        ),
        RelationRow(
            "subset of", Operands.COLLECTIONS, "every element of the left side is on the right",
            'args.tags subset of ["draft", "public"]', is_subset, flipped="overlaps",
        ),
    )
}  # fmt: skip
