"""The structure of a payload as one tag: which fields it has, and the kinds of their values.

The payload of a request is its body, its arguments and its query. No value and no name of a field is kept or can be
recovered from the tag, which is a keyed hash. The upper half of a tag is that of the endpoint, so that the structures
of an endpoint can be counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, Final

from policyengine.runtime.values import Invalid, MissingValue, PartialObject

NO_SHAPE: Final = 0  # of a payload that is unknown, or that was not read
MAX_DEPTH: Final = 16  # of objects and lists
MAX_VISITS: Final = 256  # visited fields and elements of a payload
MAX_ELEMENTS: Final = 1_024  # elements of a list
MAX_FIELD_CHARACTERS: Final = 128  # of the name of a field
HALF: Final = 16  # bits of a tag for the endpoint, and for the structure
OBJECT, LIST, TEXT, NUMBER, BOOLEAN, NULL, UNREADABLE = "o", "l", "t", "n", "b", "z", "x"
SCALARS: Final[dict[type, str]] = {str: TEXT, int: NUMBER, Decimal: NUMBER, float: NUMBER, bool: BOOLEAN}
LARGE: Final = "\0large"  # in place of all fields of a payload that exceeds a limit
COMPLETE, EXCESSIVE, UNKNOWN = 0, 1, 2


class StructureReader:
    """Collects the fields of a payload: the path of each field, and the kind of its value. The elements of a list are
    one field with all of their kinds. `state` is EXCESSIVE if the payload exceeds a limit, and UNKNOWN if a part of it
    is not known; reading then ends."""

    __slots__ = ("fields", "left", "state")

    def __init__(self) -> None:
        self.fields: set[str] = set()
        self.left = MAX_VISITS
        self.state = COMPLETE

    def read(self, path: str, value: object, depth: int) -> None:
        """Add a field, and its members or elements."""
        kind: type = value.__class__
        letter = SCALARS.get(kind)
        if letter is not None:
            self.fields.add(path + letter)
        elif value is None:
            self.fields.add(path + NULL)
        elif kind is dict:
            self.fields.add(path + OBJECT)
            self.read_members(path, value, depth)
        elif kind is tuple or kind is list:
            self.fields.add(path + LIST)
            self.read_elements(path, value, depth)
        elif kind is MissingValue or kind is PartialObject:
            self.state = UNKNOWN
        else:  # an address, a time or a reference is a text in JSON
            self.fields.add(path + (UNREADABLE if kind is Invalid else TEXT))

    def read_members(self, path: str, members: Any, depth: int) -> None:
        self.left -= len(members)
        if depth >= MAX_DEPTH or self.left < 0:
            self.state = EXCESSIVE
            return
        for name, value in members.items():
            if len(name) > MAX_FIELD_CHARACTERS:
                self.state = EXCESSIVE
            self.read(f"{path}\0{name if name.isprintable() else repr(name)}\1", value, depth + 1)
            if self.state:
                return

    def read_elements(self, path: str, elements: Any, depth: int) -> None:
        if depth >= MAX_DEPTH or len(elements) > MAX_ELEMENTS:
            self.state = EXCESSIVE
            return
        path += "\2"
        kinds = set(map(type, elements))
        if kinds <= SCALARS.keys():
            for kind in kinds:
                self.fields.add(path + SCALARS[kind])
            return
        self.left -= len(elements)
        if self.left < 0:
            self.state = EXCESSIVE
            return
        for element in elements:
            self.read(path, element, depth + 1)
            if self.state:
                return


def structure_of(facts: Mapping[str, object]) -> str:
    """Return a text that is equal for payloads of equal structure; empty if the payload is missing or not known
    completely."""
    request: Any = facts.get("request")
    query = request.get("query") if isinstance(request, dict) else None
    if query is None and request.__class__ is PartialObject:
        return ""
    reader = StructureReader()
    for root, members in (("args", facts.get("args")), ("body", facts.get("body")), ("query", query)):
        if members is not None:
            if members.__class__ is not dict:
                return ""
            reader.fields.add(root + OBJECT)
            reader.read_members(root, members, 0)
            if reader.state == UNKNOWN:
                return ""
    return LARGE if reader.state else "\3".join(sorted(reader.fields))


def structure_tag(tag: Callable[[str], int], endpoint: str, facts: Mapping[str, object]) -> int:
    """Return the tag of the structure of a payload at an endpoint; NO_SHAPE if it is not known. `tag` returns the keyed
    hash of a text."""
    structure = structure_of(facts)
    if not structure:
        return NO_SHAPE
    return endpoint_part(tag(endpoint)) | (tag(f"\0shape\0{endpoint}\0{structure}") >> HALF or 1)


def endpoint_part(tag: int) -> int:
    """Return the part of a tag that all structures of an endpoint share, from the tag of the endpoint or of one of its
    structures."""
    return tag >> HALF << HALF
