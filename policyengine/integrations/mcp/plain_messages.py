"""Recognizes messages that every parser reads in the same way, without parsing the text a second time with hooks. The
check is one-sided: an ambiguous message is never plain, and some unambiguous messages are not plain either. Nothing
here depends on an SDK.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from msgspec import DecodeError
from msgspec.json import decode

PARAMS_MEMBERS: Final = (  # members that policies read, and those that continue a request
    "name", "arguments", "uri", "ref", "notifications", "taskId", "inputResponses", "requestState", "_meta",
)  # fmt: skip
INNER_MEMBERS: Final = ("type", "resourceSubscriptions", "taskIds")
MEMBERS_BY_FOLDED_NAME: Final = {name.casefold(): name for name in (*PARAMS_MEMBERS, *INNER_MEMBERS)}
# Each name in the text ends with a quote before a colon. A text that begins with a colon, or has an escaped quote
# before one, counts as well: then more names are counted than there are.
NAME_IN_TEXT: Final = re.compile(r'"\s*:')
NAME_IN_BYTES: Final = re.compile(rb'"\s*:')
MAX_PLAIN_INT: Final = 10**15  # doubles represent smaller whole numbers exactly
MAX_PLAIN_DEPTH: Final = 16
MAX_SHAPES, MAX_SHAPE_NAMES, MAX_NAME_LENGTH = 1_000, 32, 64
_plain_shapes: set[tuple[str, ...]] = set()  # names of objects that were checked


class AmbiguousPartError(Exception):
    """The error for a part of a message that is not plain."""


def is_plain_message(params: Mapping[str, Any], raw: bytes | str) -> bool:
    """Return whether the text is a message with exactly these parameters, which every parser reads in the same way."""
    if isinstance(raw, str):
        if "\\u" in raw:  # parsers differ in halves of surrogate pairs and in NUL; all read other escapes alike
            return False
        names = len(NAME_IN_TEXT.findall(raw))
    else:
        if b"\\u" in raw:
            return False
        names = len(NAME_IN_BYTES.findall(raw))
    try:
        tree = decode(raw)
        # A repeated name is in the text twice, and in the tree once.
        return type(tree) is dict and tree.get("params") == params and count_plain_names(tree) == names
    except (AmbiguousPartError, DecodeError, RecursionError, UnicodeError):
        return False


def read_plain_message(line: bytes) -> dict[str, Any] | None:
    """Return the message in a line that every parser reads in the same way; None if it is not certainly one."""
    if b"\\u" in line:
        return None
    try:
        tree = decode(line)
        is_plain = type(tree) is dict and count_plain_names(tree) == len(NAME_IN_BYTES.findall(line))
    except (AmbiguousPartError, DecodeError, RecursionError, UnicodeError):
        return None
    return tree if is_plain else None


def count_plain_names(tree: dict[str, Any], depth: int = 0) -> int:
    """Return the number of names in the objects of a tree. Raises AmbiguousPartError."""
    if depth > MAX_PLAIN_DEPTH:
        raise AmbiguousPartError
    shape = tuple(tree)
    if shape not in _plain_shapes:
        check_shape(shape)
    return len(shape) + count_names_inside(tree.values(), depth)


def count_names_inside(values: Any, depth: int) -> int:
    names = 0
    for value in values:
        kind = type(value)
        if kind is str or kind is bool or value is None:
            continue
        if kind is dict:
            names += count_plain_names(value, depth + 1)
        elif kind is list:
            if depth > MAX_PLAIN_DEPTH:
                raise AmbiguousPartError
            names += count_names_inside(value, depth + 1)
        elif kind is not int or not -MAX_PLAIN_INT < value < MAX_PLAIN_INT:
            raise AmbiguousPartError
    return names


def check_shape(shape: tuple[str, ...]) -> None:
    """Check the names of one object, and remember them. Raises AmbiguousPartError for names that some parser may read
    as another name."""
    folded = {name.casefold() for name in shape}
    if len(folded) < len(shape) or "__proto__" in folded or "constructor" in folded:
        raise AmbiguousPartError
    if any(MEMBERS_BY_FOLDED_NAME.get(name.casefold(), name) != name for name in shape):
        raise AmbiguousPartError
    if (
        len(_plain_shapes) < MAX_SHAPES
        and len(shape) <= MAX_SHAPE_NAMES
        and max(map(len, shape), default=0) <= MAX_NAME_LENGTH
    ):
        _plain_shapes.add(shape)
