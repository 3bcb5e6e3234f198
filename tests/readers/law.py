"""The law under test: every framework that accepts a body reads the same members from it as we do."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from policyengine.http.body_facts import FORM, body_members
from policyengine.http.query_fields import query_fields
from policyengine.runtime.paths import find_override
from policyengine.runtime.values import Invalid
from tests.readers.bodies import Heads
from tests.readers.readers import REFUSED, Running
from tests.readers.spellings import VOCABULARY

IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
METHOD = re.compile(r"[ \t\n]*_method[ \t\n]*", re.IGNORECASE)
ABSENT = object()
# Ways that tell of the vocabulary only, and ways that read a form.
DECLARED = frozenset({"model", "fields", "struct", "struct-whole", "form-value", "parameters"})
OF_FORMS = frozenset({"form", "last", "fields", "params", "any-form", "form-value"})
EITHER = frozenset({"usual", "simple", "merged"})  # as the head says


def body_differences(reader: Running, heads: Heads, content: bytes) -> Iterator[str]:
    """Return the differences for every way in which the framework reads a body."""
    types, codings = ([value for name, value in heads if name == one] for one in ("Content-Type", "Content-Encoding"))
    ours = body_members(types, codings, content)
    if not isinstance(ours, Invalid) and find_override({}, {}, ours):
        return  # which is denied
    for way in reader.framework.bodies:
        theirs = reader.body(way, heads, content)
        if theirs is REFUSED:
            continue
        if way != "any-form" or len(content.split()) == 1:  # no reader treats a text of several words as a form
            yield from overrides(way, theirs)
        if not isinstance(ours, Invalid):
            yield from differences(ours, theirs, way=way, form=FORM.fullmatch(types[0]) is not None)


def query_differences(reader: Running, query: str) -> Iterator[str]:
    ours = query_fields(query)
    if isinstance(ours, Invalid) or find_override({}, ours, {}):
        return
    for way in reader.framework.queries:
        theirs = reader.query(way, query)
        if theirs is not REFUSED:
            yield from overrides(way, theirs)
            yield from differences(ours, theirs, way=way, form=None)


def overrides(way: str, theirs: dict[str, Any]) -> Iterator[str]:
    """Return the method overrides that we do not detect, in the spelling of frameworks that take the method from a
    field."""
    found = (name for name, value in theirs.items() if METHOD.fullmatch(name) and value is not None)
    yield from (f"{way}: an override, {name!r}" for name in found)


def differences(ours: Mapping[str, Any], theirs: dict[str, Any], *, way: str, form: bool | None) -> Iterator[str]:
    """Return the differences. `form`: whether we read a form; None: a query. A reader of the other kind sees members
    only by accident, and then must see no others than we do."""
    alike = form is None or way in EITHER or form is (way in OF_FORMS)
    if not theirs and not alike:
        return
    names = VOCABULARY if way in DECLARED else {*ours, *theirs}
    for name in names:
        mine, other = looked_up(ours, name), theirs.get(name, ABSENT)
        if not askable(name, form) or (not alike and other is ABSENT):
            continue
        if not same(mine, other):
            yield f"{way}: {name!r} is {mine!r} to us, {other!r} to it"


def askable(name: str, form: bool | None) -> bool:
    """Return whether a policy can read it: members of a body are identifiers, parameters of a query are any text."""
    return name.isprintable() if form is None else IDENTIFIER.fullmatch(name) is not None


def looked_up(ours: Mapping[str, Any], name: str) -> Any:
    """Return the value as a policy reads it: in another case it is neither present nor absent."""
    if name in ours:
        return ours[name]
    folded = name.casefold()
    return Invalid("in another case") if any(one.casefold() == folded for one in ours) else ABSENT


def same(mine: Any, other: Any) -> bool:
    match mine, other:
        case Invalid(), _:
            return True
        case (None, object()) | (object(), None) if mine is ABSENT or other is ABSENT:
            return True  # `null` is absence
        case bool() | str() | None, _:
            return type(mine) is type(other) and mine == other
        case int() | Decimal(), (str(text),):
            return same_number(mine, text)
        case tuple(), list():
            return len(mine) == len(other) and all(map(same, mine, other))
        case Mapping(), dict():
            return all(same(looked_up(mine, name), other.get(name, ABSENT)) for name in {*mine, *other})
        case (tuple(), dict()) | (Mapping(), list()):  # to PHP both are arrays
            return same(as_members(mine), as_members(other))
        case _:
            return mine is other


def same_number(mine: int | Decimal, text: str) -> bool:
    """Compare numbers; a double is the decimal of its shortest form."""
    try:
        return Decimal(text) == mine or Decimal(repr(float(text))) == mine
    except (InvalidOperation, ValueError):
        return False


def as_members(value: Any) -> Any:
    return value if isinstance(value, Mapping) else {str(place): one for place, one in enumerate(value)}
