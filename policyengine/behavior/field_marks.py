"""Marks of the fields of a payload: the kind of a value, its size, and its kinds of characters, as keyed tags.

A mark says little about a value (`has a quote`, `8 to 15 characters`), so that no value can be recovered. Of fields
with secret names, only the kind is marked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import Any, Final, TypeAlias

from policyengine.audit.redaction import SECRET_NAMES
from policyengine.behavior.shape import (
    LIST,
    MAX_DEPTH,
    MAX_FIELD_CHARACTERS,
    NULL,
    NUMBER,
    OBJECT,
    SCALARS,
    TEXT,
    UNREADABLE,
)
from policyengine.runtime.values import Invalid, MissingValue

MAX_MARKED_FIELDS: Final = 64  # of a payload; further fields have no marks
MAX_MARKED_VALUES: Final = 512  # members and elements of a payload
MAX_CHARACTERS: Final = 16_384  # of a text
CHARACTER_GROUPS: Final = (
    "abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "0123456789", " ", ".", "/", "\\", "-_", ",", ":", "@",
    "'", '"`', "<>", "&", "=", "()", "[]{}", ";|", "$%", "!?", "#*+~^",
)  # fmt: skip
CONTROL: Final = len(CHARACTER_GROUPS)
FOREIGN_LETTER: Final = CONTROL + 1  # a letter outside of ASCII
OTHER: Final = CONTROL + 2
GROUPS: Final = {character: group for group, text in enumerate(CHARACTER_GROUPS) for character in text}

Tag: TypeAlias = Callable[[str], int]
Marks: TypeAlias = Mapping[int, tuple[int, ...]]  # the tags of the marks of each field, by the tag of the field


def payload_marks(tag: Tag, endpoint: str, facts: Mapping[str, object]) -> Marks:
    """Return the marks of the fields of a payload at an endpoint. `tag` returns the keyed hash of a text."""
    return {
        field_tag(tag, endpoint, path): tuple(sorted({tag(f"\0mark\0{endpoint}\0{path}\0{mark}") for mark in marks}))
        for path, marks in payload_fields(facts).items()
    }


def field_tag(tag: Tag, endpoint: str, path: str) -> int:
    """Return the tag of a field at an endpoint."""
    return tag(f"\0field\0{endpoint}\0{path}")


def payload_fields(facts: Mapping[str, object]) -> Mapping[str, set[str]]:
    """Return the fields of a payload by their paths, with their marks as texts."""
    reader = MarkReader()
    request: Any = facts.get("request")
    query = request.get("query") if isinstance(request, dict) else None
    for root, members in (("args", facts.get("args")), ("body", facts.get("body")), ("request.query", query)):
        if isinstance(members, dict):
            reader.read_members(root, members, 0, False)
    return reader.fields


class MarkReader:
    """Collects the marks of each field of a payload, by its path. The elements of a list are one field."""

    __slots__ = ("fields", "left")

    def __init__(self) -> None:
        self.fields: dict[str, set[str]] = {}
        self.left = MAX_MARKED_VALUES

    def read(self, path: str, value: Any, depth: int, secret: bool) -> None:
        """Add the marks of a value, and of its members or elements."""
        self.left -= 1
        if self.left < 0 or value.__class__ is MissingValue:
            return
        marks = self.fields.get(path)
        if marks is None:
            if len(self.fields) >= MAX_MARKED_FIELDS:
                return
            marks = self.fields[path] = set()
        marks.update(value_marks(value, secret))
        if depth < MAX_DEPTH:
            if isinstance(value, dict):
                self.read_members(path, value, depth, secret)
            elif isinstance(value, tuple | list):
                for element in value[: self.left + 1]:
                    self.read(f"{path}\2", element, depth + 1, secret)

    def read_members(self, path: str, members: Mapping[str, object], depth: int, secret: bool) -> None:
        for name, value in members.items():
            if self.left < 0:
                return
            hidden = secret or name.lower() in SECRET_NAMES
            self.read(f"{path}\0{name[:MAX_FIELD_CHARACTERS]!r}", value, depth + 1, hidden)


def value_marks(value: Any, secret: bool) -> Iterator[str]:
    """Yield the marks of a value; of a secret value, only its kind."""
    kind = kind_of(value)
    yield kind
    if secret:
        return
    if kind == TEXT:
        yield from text_marks(str(value))
    elif kind == NUMBER:
        yield from number_marks(Decimal(value))
    elif kind in (LIST, OBJECT):
        yield f"size {len(value).bit_length()}"


def kind_of(value: object) -> str:
    if value is None:
        return NULL
    if isinstance(value, dict):
        return OBJECT
    if isinstance(value, list | tuple):
        return LIST
    return UNREADABLE if isinstance(value, Invalid) else SCALARS.get(value.__class__, TEXT)


def text_marks(text: str) -> Iterator[str]:
    """Yield the length of a text on a logarithmic scale, the groups of its characters, and the groups of its first and
    its last character."""
    text = text[:MAX_CHARACTERS]
    yield f"size {len(text).bit_length()}"
    for group in {group_of(character) for character in set(text)}:
        yield f"has {group}"
    if text:
        yield f"first {group_of(text[0])}"
        yield f"last {group_of(text[-1])}"


def group_of(character: str) -> int:
    """Return the group of a character."""
    known = GROUPS.get(character)
    if known is not None:
        return known
    if character < " " or character == "\x7f":
        return CONTROL
    return FOREIGN_LETTER if character.isalpha() else OTHER


def number_marks(number: Decimal) -> Iterator[str]:
    """Yield the magnitude of a number with its sign, and whether it is an integer."""
    if not number.is_finite():
        yield "not finite"
        return
    yield f"size {number.adjusted() if number else 'zero'}{' negative' if number < 0 else ''}"
    yield "integer" if number.as_integer_ratio()[1] == 1 else "fraction"
